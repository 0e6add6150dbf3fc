# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.pruning: settings, lists of tokens against naive loops, and multiplications."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from golden.model import MODELS, FloatViT, ModelConfig, ModelError, parameter_shapes
from golden.pruning import (
    PrunedViT,
    PruningConfig,
    PruningError,
    cumulative_rates,
    segment_macs,
    segment_tokens,
)
from golden.selector import ThresholdSelector, selector_macs, selector_shapes

TINY = replace(MODELS["tiny_test"], name="tiny", depth=4)
DISTILLED = replace(MODELS["small_test"], name="small", depth=4)
ONE_PATCH = replace(TINY, name="one_patch", image_size=16)
BLOCKS = (1, 2, 3)


def random_twin(model: ModelConfig, seed: int = 0) -> FloatViT:
    generator = torch.Generator().manual_seed(seed)
    return FloatViT(model, {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        * (shape[1] ** -0.5 if len(shape) == 2 else 0.3)
        for name, shape in parameter_shapes(model).items()})


def random_image(model: ModelConfig, seed: int = 1) -> torch.Tensor:
    return torch.randn(3, model.image_size, model.image_size, dtype=torch.float64,
                       generator=torch.Generator().manual_seed(seed))


def random_selectors(model: ModelConfig, count: int = 3,
                     bias: float | None = None) -> list[dict[str, torch.Tensor]]:
    """Return selectors; with ``bias`` that is the difference of the logits of all patches."""
    generator = torch.Generator().manual_seed(5)
    states = [{name: torch.randn(shape, generator=generator, dtype=torch.float64)
               * (2 * shape[1] ** -0.5 if len(shape) == 2 else 0.3)
               for name, shape in selector_shapes(model).items()} for _ in range(count)]
    for state in states if bias is not None else ():
        state["score3.weight"].zero_()
        state["score3.bias"] = torch.tensor([bias, 0.0], dtype=torch.float64)
    return states


def pruned(model: ModelConfig, **settings: object) -> PrunedViT:
    """Return a network; its threshold selectors keep about half of what the dense one computes."""
    pruning, twin = PruningConfig(**{"blocks": BLOCKS, **settings}), random_twin(model)
    if pruning.selector != "threshold":
        return PrunedViT(twin, pruning)
    states, stages = random_selectors(model), twin.forward_stages(random_image(model))
    for state, block in zip(states, BLOCKS, strict=True):
        features = ThresholdSelector(model, state).features(
            stages[f"block{block - 1}.residual2"][model.special_tokens:])
        logits = features @ state["score3.weight"].T
        state["score3.bias"] = torch.stack([(logits[..., 1] - logits[..., 0]).median() + 0.1,
                                            torch.zeros((), dtype=torch.float64)])
    return PrunedViT(twin, pruning, states)


def naive_package(rows: list[list[float]], weights: list[float]) -> list[float]:
    return [sum(w * row[c] for w, row in zip(weights, rows, strict=True)) / sum(weights)
            for c in range(len(rows[0]))]


def naive_keep(stages: dict, vit: PrunedViT, index: int, block: int,
               patches: int) -> tuple[list[float], list[bool]]:
    """Return score and keep of each patch, from the stages that come before."""
    first = vit.model.special_tokens
    if vit.pruning.selector == "threshold":
        s, a = (stages[f"selector{index}.{name}"].tolist()
                for name in ("head_scores", "importance"))
        sums = [(sum(x * y for x, y in zip(s[t], a[t], strict=True)), sum(a[t]))
                for t in range(patches)]
        x = stages[f"block{block - 1}.residual2"][first:]
        selection = ThresholdSelector(vit.model, vit.selectors[index].state)(x, patches)
        assert selection.keep.tolist() == [both >= total / 2 for both, total in sums]
        torch.testing.assert_close(stages[f"selector{index}.score"], selection.score)
        return [both / total for both, total in sums], [both >= total / 2 for both, total in sums]
    attention = [[math.exp(v) for v in head[0]] for head in
                 (stages[f"block{block - 1}.scores"]).tolist()]
    scores = [sum(head[first + t] / sum(head) for head in attention) / len(attention)
              for t in range(patches)]
    count = vit.pruning.keep_counts(vit.model.grid ** 2)[index]
    order = sorted(range(patches), key=lambda t: (-scores[t], t))
    return scores, [t in order[:count] for t in range(patches)]


@pytest.mark.parametrize("model", [TINY, DISTILLED, ONE_PATCH], ids=lambda model: model.name)
@pytest.mark.parametrize("package", ["each", "merged"])
@pytest.mark.parametrize("settings", [
    {"selector": "threshold"}, {"selector": "topk", "rates": (0.7, 0.49, 0.343)},
    {"selector": "topk", "rates": (0.5, 0.5, 0.1)}, {"selector": "topk", "rates": (1, 1, 0.01)},
    {"selector": "topk", "counts": (1, 1, 0)}, {"selector": "topk", "counts": (0, 0, 0)},
], ids=str)
def test_lists_are_the_naive_ones(model: ModelConfig, package: str, settings: dict) -> None:
    vit = pruned(model, package=package, **settings)
    image = random_image(model)
    stages = vit.forward_stages(image)
    result = vit.run(image)
    first = model.special_tokens
    places, packages, weights = list(range(model.grid ** 2)), [], []
    for index, (block, step) in enumerate(zip(BLOCKS, result.steps, strict=True)):
        before = stages[f"block{block - 1}.residual2"].tolist()
        special, patches = before[:first], before[first:first + len(places)]
        packages = before[first + len(places):]
        assert len(packages) == len(weights)
        scores, keep = naive_keep(stages, vit, index, block, len(places))
        assert stages[f"selector{index}.score"].tolist() == pytest.approx(scores)
        assert stages[f"selector{index}.keep"].tolist() == keep
        assert step.candidates == tuple(places) and step.tokens_in == len(before)
        dropped = [(row, score) for row, score, k in zip(patches, scores, keep, strict=True)
                   if not k]
        if dropped:
            rows, shares = [row for row, _ in dropped], [score for _, score in dropped]
            if package == "merged" and packages:
                rows, shares = [packages[0], *rows], [weights[0], *shares]
                packages, weights = [], []
            packages = [*packages, naive_package(rows, shares)]
            weights = [*weights, sum(shares)]
            assert stages[f"selector{index}.package"].tolist() == pytest.approx(packages[-1])
        assert step.package == bool(dropped) == (f"selector{index}.package" in stages)
        places = [place for place, k in zip(places, keep, strict=True) if k]
        expected = [*special, *(row for row, k in zip(patches, keep, strict=True) if k), *packages]
        found = stages[f"selector{index}.residual"]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
        assert step.kept == tuple(places) == tuple(stages[f"selector{index}.kept"].tolist())
        assert step.tokens_out == len(expected)
        norm = torch.nn.functional.layer_norm(found, (model.width,), eps=model.eps)
        torch.testing.assert_close(stages[f"block{block}.norm1"], norm)
    if package == "merged":
        assert len(packages) <= 1
    elif model.grid > 1 and vit.pruning.selector == "threshold":
        assert 0 < len(result.steps[0].kept) < model.grid ** 2, "a selector that decides nothing"
    torch.testing.assert_close(result.logits, stages["logits"], rtol=0, atol=0)
    assert len(stages["head.norm"]) == first + len(places) + len(packages)


@pytest.mark.parametrize("model", [TINY, DISTILLED, ONE_PATCH], ids=lambda model: model.name)
@pytest.mark.parametrize("settings", [
    {"selector": "none"}, {"selector": "topk", "rates": (1.0, 1.0, 1.0)}], ids=str)
def test_all_kept_is_the_dense_network(model: ModelConfig, settings: dict) -> None:
    vit, twin, image = pruned(model, **settings), random_twin(model), random_image(model)
    stages, dense = vit.forward_stages(image), twin.forward_stages(image)
    own = {name for name in stages if name.startswith("selector")}
    assert stages.keys() - own == dense.keys()
    for name, value in dense.items():
        torch.testing.assert_close(stages[name], value)
    assert not [name for name in own if name.endswith("package")], "nothing pruned, no package"
    torch.testing.assert_close(vit(image[None]), twin(image[None]))


@pytest.mark.parametrize("package", ["each", "merged"])
@pytest.mark.parametrize(("bias", "kept", "after"), [
    (40.0, 36, 38), (0.0, 36, 38), (-1e-9, 0, 3), (-40.0, 0, 3), (-1e4, 0, 3)])
def test_threshold_at_its_ends(bias: float, kept: int, after: int, package: str) -> None:
    """Equal scores everywhere: all stay from 1/2 on, below it special tokens and a package."""
    vit = PrunedViT(random_twin(DISTILLED), PruningConfig(blocks=BLOCKS, package=package),
                    random_selectors(DISTILLED, bias=bias))
    result = vit.run(random_image(DISTILLED))
    assert [len(step.kept) for step in result.steps] == [kept] * 3
    assert [step.tokens_out for step in result.steps] == [after] * 3
    assert [step.package for step in result.steps] == [not kept, False, False]
    assert result.logits.isfinite().all()


def test_ties_keep_the_earlier_patch() -> None:
    """Without Q and K all tokens have the same attention."""
    twin = random_twin(TINY)
    for name in ("weight", "bias"):
        twin.state[f"blocks.0.attn.qkv.{name}"][:2 * TINY.width] = 0
    vit = PrunedViT(twin, PruningConfig(selector="topk", blocks=(1,), counts=(4,)))
    stages = vit.forward_stages(random_image(TINY))
    assert len(set(stages["selector0.score"].tolist())) == 1
    assert stages["selector0.kept"].tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(stages["selector0.package"],
                               stages["block0.residual2"][5:].mean(0))


def test_images_keep_patches_of_their_own() -> None:
    vit = pruned(DISTILLED)
    images = torch.stack([random_image(DISTILLED, seed) for seed in range(3)])
    logits = vit(images)
    kept = [vit.run(image).steps[0].kept for image in images]
    assert len(set(kept)) == 3, kept
    for row, image in zip(logits, images, strict=True):
        torch.testing.assert_close(row, vit.run(image).logits, rtol=0, atol=0)
    assert vit(images[:0]).shape == (0, DISTILLED.classes)


#: GMAC of the published table, where one package token follows the patches.
PUBLISHED = {
    "deit_tiny": (1.068, 0.910, 0.780, 0.660, 0.575, 0.585),
    "deit_small": (3.944, 3.372, 2.895, 2.442, 2.128, 2.164),
    "deit_base": (15.12, 12.96, 11.13, 9.376, 8.162, 8.298)}
PARTS = (cumulative_rates(0.9, 3), cumulative_rates(0.8, 3), cumulative_rates(0.7, 3),
         (0.617, 0.369, 0.137), (88 / 196, 45 / 196, 32 / 196), cumulative_rates(0.5, 3))


@pytest.mark.parametrize(("package", "kept", "tokens"), [
    ("merged", [8, 4], [10, 10, 6]), ("each", [8, 4], [10, 10, 7]),
    ("merged", [7, 7], [10, 9, 9]), ("each", [7, 7], [10, 9, 9]),
    # A package is there only where a patch is dropped.
    ("each", [9, 9], [10, 10, 10]), ("merged", [9, 4], [10, 10, 6]),
    # Means of images of which some drop nothing.
    ("each", [8.5, 4.5], [10, 10, 7.5]), ("each", [], [10]),
    ("each", [[8, 4], [9, 9]], [[10, 10, 7], [10, 10, 10]])])
def test_tokens_of_segments(package: str, kept: list, tokens: list) -> None:
    assert TINY.grid ** 2 == 9
    assert segment_tokens(TINY, package, kept).tolist() == tokens


@pytest.mark.parametrize("name", PUBLISHED)
def test_macs_of_the_table(name: str) -> None:
    """It rounds counts to the nearest, and leaves the selectors out."""
    for parts, gmac in zip(PARTS, PUBLISHED[name], strict=True):
        pruning = PruningConfig(selector="topk", counts=tuple(round(196 * p) for p in parts))
        tokens = [197, *(1 + count + 1 for count in pruning.keep_counts(196))]
        found = sum(segment_macs(MODELS[name], pruning, tokens)) / 1e9
        assert found == pytest.approx(gmac, abs=10 ** -(4 - len(str(int(gmac)))) * 0.51), parts


def test_page_has_the_macs() -> None:
    page = Path(__file__).parent.parent / "docs" / "pruning.md"
    table = page.read_text(encoding="utf-8").split("| dense |")[1].split("\n\n")[0].split("\n")[1:]
    assert len(table) == 4
    for line in table:
        keep, patches, *written = (cell.strip() for cell in line.split("|")[1:-1])
        pruning = PruningConfig(selector="topk", rates=cumulative_rates(float(keep), 3))
        counts = pruning.keep_counts(196)
        assert patches == ", ".join(map(str, counts))
        found = [f"{sum(segment_macs(MODELS[name], pruning, tokens)) / 1e9:.3f}"
                 for name in ("deit_tiny", "deit_small")
                 for tokens in ([197, *(1 + k + i for i, k in enumerate(counts, 1))],
                                [197, *(2 + k for k in counts)])]
        assert found == written, keep


@pytest.mark.parametrize("name", ["deit_tiny", "small_test", "deit_base_distilled"])
def test_macs_of_parts(name: str) -> None:
    model = MODELS[name]
    assert segment_macs(model, PruningConfig(selector="none"), [model.tokens]) == [model.macs()]
    topk = PruningConfig(selector="topk", blocks=(1,), rates=(1.0,))
    assert sum(segment_macs(model, topk, [model.tokens] * 2)) == model.macs()
    threshold = PruningConfig(blocks=(1,))
    assert sum(segment_macs(model, threshold, [model.tokens] * 2)) == (
        model.macs() + selector_macs(model, model.grid ** 2))
    one_less = segment_macs(model, topk, [model.tokens, model.tokens - 1])
    n, d = model.tokens - 1, model.width
    assert model.macs() - sum(one_less) == (model.depth - 1) * (
        4 * d * d + 2 * d * model.hidden + 2 * d * ((n + 1) ** 2 - n ** 2))
    with pytest.raises(PruningError, match="^tokens are given for 3 segments, must be 2$"):
        segment_macs(model, topk, [1, 2, 3])


@pytest.mark.parametrize("name", ["deit_tiny", "small_test", "deit_base_distilled"])
def test_macs_of_the_class_token_in_the_last_block(name: str) -> None:
    model = MODELS[name]
    d, rows = model.width, model.special_tokens
    for pruning, tokens in ((PruningConfig(selector="none"), [model.tokens]),
                            (PruningConfig(selector="topk", blocks=(1,), rates=(0.5,)),
                             [model.tokens, 20])):
        n = tokens[-1]
        whole = 4 * n * d * d + 2 * n * n * d + 2 * n * d * model.hidden
        part = 2 * (n + rows) * d * d + 2 * rows * n * d + 2 * rows * d * model.hidden
        saved = sum(segment_macs(model, pruning, tokens)) - sum(
            segment_macs(model, pruning, tokens, "cls"))
        assert saved == whole - part


@pytest.mark.parametrize(("settings", "message"), [
    ({"selector": "top"}, "selector is 'top', must be one of threshold, topk, none"),
    ({"package": "both"}, "package is 'both', must be one of each, merged"),
    ({"blocks": ()}, "there are 0 blocks with a selector, must be at least 1"),
    ({"blocks": (0, 3)},
     "a selector is at block 0, must be at block 1 or later: block 0 has no block before it"),
    ({"blocks": (3, 3)},
     ("a selector at block 3 comes before one at block 3, must be in increasing order,"
      " one for a block")),
    ({"blocks": (6, 3)},
     ("a selector at block 6 comes before one at block 3, must be in increasing order,"
      " one for a block")),
    ({"rates": (0.7,) * 3}, "keep rates are given for selector threshold, must be for topk only"),
    ({"selector": "none", "counts": (1,) * 3},
     "keep counts are given for selector none, must be for topk only"),
    ({"selector": "topk"},
     "0 of keep rates and keep counts are given for selector topk, must be 1"),
    ({"selector": "topk", "rates": (0.7,) * 3, "counts": (1,) * 3},
     "2 of keep rates and keep counts are given for selector topk, must be 1"),
    ({"selector": "topk", "rates": (0.7, 0.5)},
     "there are 2 keep rates, must be one for each of 3 selectors"),
    ({"selector": "topk", "rates": (0.0,) * 3}, "keep rate is 0.0, must be above 0 and at most 1"),
    ({"selector": "topk", "rates": (1.1,) * 3}, "keep rate is 1.1, must be above 0 and at most 1"),
    ({"selector": "topk", "rates": (math.nan,) * 3},
     "keep rate is nan, must be above 0 and at most 1"),
    ({"selector": "topk", "rates": (0.5, 0.7, 0.3)},
     "keep rate 0.7 follows 0.5, must be at most that, as rates are parts of all patches"),
    ({"selector": "topk", "counts": (3, 2, -1)}, "keep count is -1, must be at least 0"),
])
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(PruningError, match=f"^{re.escape(message)}$"):
        PruningConfig(**settings)


@pytest.mark.parametrize(("settings", "message"), [
    ({"blocks": (3, 12)}, "a selector is at block 12, must be at block 11 or earlier in deit_tiny"),
    ({"selector": "topk", "counts": (197, 2, 1)},
     "keep count at block 3 is 197, must be at most the 196 patches there"),
    ({"selector": "topk", "counts": (100, 90, 91)},
     "keep count at block 9 is 91, must be at most the 90 patches there")])
def test_settings_that_do_not_fit(settings: dict, message: str) -> None:
    with pytest.raises(PruningError, match=f"^{re.escape(message)}$"):
        PruningConfig(**settings).check(MODELS["deit_tiny"])


def test_settings_that_fit() -> None:
    PruningConfig(selector="topk", counts=(196, 196, 0)).check(MODELS["deit_tiny"])
    PruningConfig(blocks=(1, 11)).check(MODELS["deit_tiny"])
    PruningConfig(selector="none").check(MODELS["tiny_test"])
    assert PruningConfig(selector="none").active == ()
    assert cumulative_rates(0.5, 3) == (0.5, 0.25, 0.125)
    rates = PruningConfig(selector="topk", rates=cumulative_rates(0.7, 3))
    assert rates.keep_counts(196) == (138, 97, 68)


def test_bad_selectors_and_image() -> None:
    with pytest.raises(PruningError, match="^parameters of 1 selectors are given, must be 3 for"):
        PrunedViT(random_twin(TINY), PruningConfig(blocks=BLOCKS), random_selectors(TINY, 1))
    with pytest.raises(PruningError, match="^parameters of 3 selectors are given, must be 0 for"):
        PrunedViT(random_twin(TINY), PruningConfig(selector="none"), random_selectors(TINY))
    with pytest.raises(ModelError, match=r"^the shape of an image is \(3, 9, 9\), must be \(3, 48"):
        pruned(TINY).run(torch.zeros(3, 9, 9))
