# SPDX-License-Identifier: BSD-2-Clause
"""The pruned network that is trained is the float twin with shorter lists, and its gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from golden.model import MODELS, FloatViT, ModelConfig, parameter_shapes
from golden.pruning import PrunedViT, PruningConfig
from golden.selector import keep_top, package_token, selector_shapes
from golden.synthetic import synthetic
from golden.trainable import TrainableViT, masked_softmax
from golden.trainable_pruning import (
    PrunedOutput,
    TrainablePrunedViT,
    TrainableSelector,
    keep_top_batch,
    package_rows,
    straight_through,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SCENES = replace(MODELS["scenes"], depth=4)
DISTILLED = replace(MODELS["small_test"], name="small", depth=4)
BLOCKS = (1, 2, 3)
#: Packages and functions that are tried; both functions with one kind of package only.
VARIANTS = [("each", "exact"), ("merged", "exact"), ("merged", "heatvit")]
KINDS = [{"selector": "threshold"}, {"selector": "topk", "rates": (0.7, 0.49, 0.3)},
         {"selector": "topk", "counts": (9, 9, 0)}, {"selector": "topk", "counts": (0, 0, 0)}]


def network(model: ModelConfig, functions: str = "exact", **settings: object) -> TrainablePrunedViT:
    """Return a network whose selectors of ``threshold`` keep some patches and drop others."""
    generator = torch.Generator().manual_seed(3)
    made = TrainablePrunedViT(model, PruningConfig(**{"blocks": BLOCKS, **settings}), functions)
    state = {name: torch.randn(value.shape, generator=generator) * 0.5
             for name, value in made.state().items() if name.startswith("selectors")}
    made.load_state_dict({**synthetic(model, 0), **state})
    return made.double()


def images(model: ModelConfig, count: int = 3) -> torch.Tensor:
    shape = (count, model.channels, model.image_size, model.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def lists(made: TrainablePrunedViT, functions: str = "exact") -> PrunedViT:
    """Return the float twin of the same parameters."""
    state = made.state()
    twin = FloatViT(made.model, {name: state[name] for name in parameter_shapes(made.model)},
                    functions)
    return PrunedViT(twin, made.pruning, [
        {name: state[f"selectors.{i}.{name}"] for name in selector_shapes(made.model)}
        for i in range(len(made.selectors))])


def centre(made: TrainablePrunedViT, batch: torch.Tensor) -> None:
    """Shift the decisions of each selector so that it keeps about two patches of three."""
    for i, selector in enumerate(made.selectors):
        for _ in range(10):
            with torch.no_grad():
                keeps = made(batch).keeps
            before = 1.0 if i == 0 else keeps[i - 1].mean()
            with torch.no_grad():
                selector.score3.bias[0] += 3 * (2 / 3 - keeps[i].mean() / before)


@pytest.mark.parametrize(("package", "functions"), VARIANTS)
@pytest.mark.parametrize("settings", KINDS, ids=str)
@pytest.mark.parametrize("model", [SCENES, DISTILLED], ids=lambda model: model.name)
def test_equals_lists_that_become_shorter(model: ModelConfig, settings: dict, package: str,
                                          functions: str) -> None:
    made, batch = network(model, functions, package=package, **settings), images(model)
    centre(made, batch)
    twin, found = lists(made, functions), made(batch)
    for i, image in enumerate(batch):
        expected = twin.run(image)
        for index, step in enumerate(expected.steps):
            kept = found.keeps[index][i].nonzero().flatten().tolist()
            assert kept == list(step.kept), f"image {i}, selector {index}"
        error = (found.logits[i] - expected.logits).abs().max() / expected.logits.abs().max()
        assert error < 1e-9, f"image {i}: {error}"
    if settings["selector"] == "threshold":
        shares = [keep.mean() for keep in found.keeps]
        assert 0.2 < shares[2] < shares[1] < shares[0] < 0.98, "selectors that decide nothing"


def test_equals_lists_in_single_precision() -> None:
    made = network(SCENES)
    batch = images(SCENES).float()
    centre(made, batch.double())
    made = made.float()
    twin = lists(made)
    assert (made(batch).logits - twin(batch)).abs().max() < 1e-4


@pytest.mark.parametrize("package", ["each", "merged"])
@pytest.mark.parametrize("settings", [
    {"selector": "none"}, {"selector": "topk", "rates": (1.0, 1.0, 1.0)},
    {"selector": "threshold"}], ids=str)
def test_all_kept_is_the_dense_network(settings: dict, package: str) -> None:
    made, batch = network(SCENES, package=package, **settings), images(SCENES)
    with torch.no_grad():
        for selector in made.selectors:
            selector.score3.weight.zero_()
            selector.score3.bias.copy_(torch.tensor([1.0, 0.0]))
    dense = TrainableViT(SCENES).double()
    dense.load_state_dict({name: made.state()[name] for name in parameter_shapes(SCENES)})
    found = made(batch)
    torch.testing.assert_close(found.logits, dense(batch), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.features, dense.features(batch)[:, 1:], rtol=0, atol=1e-12)
    assert all(keep.eq(1).all() for keep in found.keeps)


def test_state_is_network_and_selectors() -> None:
    made = network(SCENES)
    expected = {**parameter_shapes(SCENES), **{
        f"selectors.{i}.{name}": shape for i in range(3)
        for name, shape in selector_shapes(SCENES).items()}}
    assert {name: tuple(value.shape) for name, value in made.state_dict().items()} == expected
    assert list(made.state()) == list(expected)
    own = made.selectors[1].norm.bias.data_ptr()
    assert made.state()["selectors.1.norm.bias"].data_ptr() != own


def test_start_keeps_most_patches() -> None:
    made = TrainablePrunedViT(SCENES, PruningConfig(blocks=BLOCKS))
    made.initialise(torch.Generator().manual_seed(0))
    made.initialise_selectors(torch.Generator().manual_seed(0))
    first = made.state()
    assert made(images(SCENES).float()).keeps[0].mean() > 0.9
    made.initialise_selectors(torch.Generator().manual_seed(0))
    assert all(torch.equal(first[name], value) for name, value in made.state().items())


@pytest.mark.parametrize("package", ["each", "merged"])
def test_every_parameter_has_a_gradient(package: str) -> None:
    made, batch = network(SCENES, package=package), images(SCENES)
    centre(made, batch)
    noise = torch.randn(3, 3, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.nn.functional.cross_entropy(made(batch, noise).logits, torch.tensor([0, 1, 2])).backward()
    for name, parameter in made.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("settings", KINDS[1:], ids=str)
def test_network_around_top_k_has_gradients(settings: dict) -> None:
    made, batch = network(SCENES, **settings), images(SCENES)
    found = made(batch)
    assert not any(keep.requires_grad for keep in found.keeps)
    torch.nn.functional.cross_entropy(found.logits, torch.tensor([0, 1, 2])).backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in made.parameters())


def test_noise_is_added_to_the_logit_of_the_score() -> None:
    selector = TrainableSelector(SCENES)
    selector.initialise(torch.Generator().manual_seed(0))
    tokens = torch.randn(2, 66, 64, generator=torch.Generator().manual_seed(1))
    present = torch.ones(2, 66)
    score, keep = selector(tokens, present, 64)
    assert torch.equal(keep.detach(), (score >= 0.5).float()) and keep.shape == (2, 64)
    level = torch.logit(score).detach()
    for shift, expected in ((1e-3, 1.0), (-1e-3, 0.0)):
        noisy = selector(tokens, present, 64, shift - level)[1]
        assert noisy.eq(expected).all(), shift
    shares = [selector(tokens, present, 64, torch.from_numpy(noise).float())[1].mean().item()
              for noise in np.random.default_rng(0).logistic(size=(200, 2, 64))]
    assert sum(shares) / 200 == pytest.approx(score.mean().item(), abs=0.01)


def test_absent_tokens_do_not_count_in_the_mean() -> None:
    selector = TrainableSelector(SCENES)
    selector.initialise(torch.Generator().manual_seed(0))
    tokens = torch.randn(1, 10, 64, generator=torch.Generator().manual_seed(1))
    present = torch.tensor([[1.0] * 6 + [0.0] * 3 + [1.0]])
    torch.testing.assert_close(
        selector(tokens, present, 6)[0],
        selector(tokens[:, [*range(6), 9]], torch.ones(1, 7), 6)[0])


def test_straight_through_has_one_value_and_the_other_gradient() -> None:
    soft = torch.tensor([0.1, 0.7], requires_grad=True)
    found = straight_through(torch.tensor([True, False]), soft)
    assert found.tolist() == [1.0, 0.0]
    (found * torch.tensor([2.0, 3.0])).sum().backward()
    assert soft.grad.tolist() == [2.0, 3.0]


def test_top_k_of_rows() -> None:
    score = torch.tensor([[0.1, 0.3, 0.3, 0.0, 0.3], [0.2, 0.2, 0.2, 0.2, 0.2]])
    left = torch.tensor([[1.0, 1, 0, 1, 1], [0.0, 0, 0, 1, 1]])
    for count in range(4):
        found = keep_top_batch(score, left, count)
        for row, there, keep in zip(score, left.bool(), found, strict=True):
            expected = torch.zeros(5)
            expected[there.nonzero().flatten()[keep_top(row[there], count)]] = 1
            assert keep.tolist() == expected.tolist(), count


def test_given_scores_choose_in_place_of_the_attention() -> None:
    made, batch = network(SCENES, selector="topk", rates=(0.5, 0.25, 0.25)), images(SCENES)
    scores = torch.rand(3, 100, generator=torch.Generator().manual_seed(0)).double()
    # Equal ones: the earlier stay.
    scores[0] = 0
    found = made(batch, scores=scores)
    for i, row in enumerate(scores):
        for keep, count in zip(found.keeps, (50, 25, 25), strict=True):
            assert torch.equal(keep[i].bool(), keep_top(row, count))
    assert not torch.equal(found.keeps[0], made(batch).keeps[0])


def test_given_scores_do_not_weight_the_package() -> None:
    """Where they choose as the attention does, nothing is another."""
    made, batch = network(SCENES, selector="topk", rates=(0.5,), blocks=(2,)), images(SCENES)
    usual = made(batch)
    found = made(batch, scores=5 * usual.keeps[0])
    assert torch.equal(found.logits, usual.logits)


def test_package_of_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 6, 8, generator=generator)
    weights = torch.rand(4, 6, generator=generator)
    weights[2] = 0
    members = torch.tensor([[1.0, 0, 1, 1, 0, 0], [0.0] * 6, [0.0, 1, 1, 0, 0, 0], [1.0] * 6])
    packages, totals = package_rows(rows, weights, members)
    for i in (0, 2, 3):
        there = members[i].bool()
        package, total = package_token(rows[i][there], weights[i][there])
        torch.testing.assert_close(packages[i], package)
        torch.testing.assert_close(totals[i], total)
    assert packages[1].eq(0).all() and totals[1] == 0


@pytest.mark.parametrize("level", [1.0, 1e4])
def test_masked_softmax(level: float) -> None:
    """Also where an absent token is far above all others."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 5, 5, generator=generator, dtype=torch.float64)
    scores[..., 2] += level
    present = torch.tensor([[1.0, 1, 0, 1, 1], [1.0, 0, 0, 0, 0]], dtype=torch.float64,
                           requires_grad=True)
    made = TrainableViT(SCENES)
    found = masked_softmax(scores, present, made.blocks[0].functions)
    for b in range(2):
        for row in range(5):
            there = [i for i in range(5) if present[b, i] or i == row]
            expected = torch.zeros(3, 5, dtype=torch.float64)
            expected[:, there] = scores[b, :, row, there].softmax(-1)
            torch.testing.assert_close(found[b, :, row].detach(), expected)
    found.square().sum().backward()
    assert present.grad.isfinite().all() and present.grad.abs().min() > 0


def test_output_names() -> None:
    found = network(DISTILLED)(images(DISTILLED))
    assert isinstance(found, PrunedOutput)
    assert found.logits.shape == (3, 20) and found.features.shape == (3, 36, 96)
    assert [keep.shape for keep in found.keeps] == [(3, 36)] * 3
