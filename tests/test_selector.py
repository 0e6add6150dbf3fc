# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.selector against loops over single numbers, and at the edges of the rules."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden.model import MODELS, ModelConfig, ModelError
from golden.nonlinear import FUNCTIONS
from golden.selector import (
    ThresholdSelector,
    class_attention,
    combined_score,
    keep_count,
    keep_threshold,
    keep_top,
    package_token,
    selector_macs,
    selector_shapes,
)

ODD = ModelConfig(name="odd", image_size=40, patch=8, channels=1, width=48, depth=3, heads=3,
                  hidden=80, classes=7)
ONE_HEAD = ModelConfig(name="one_head", image_size=16, patch=16, width=32, depth=2, heads=1,
                       hidden=64, classes=5)


def random_selector(model: ModelConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64)
            * (1.5 * shape[1] ** -0.5 if len(shape) == 2 else 0.5)
            for name, shape in selector_shapes(model).items()}


def balanced(model: ModelConfig, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a selector that keeps about half of ``tokens``."""
    state = random_selector(model)
    logits = ThresholdSelector(model, state).features(tokens) @ state["score3.weight"].T
    state["score3.bias"] = torch.stack([(logits[..., 1] - logits[..., 0]).median() + 0.1,
                                        torch.zeros((), dtype=torch.float64)])
    return state


def random_tokens(model: ModelConfig, count: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, model.width, generator=generator, dtype=torch.float64)


def gelu(x: float) -> float:
    return x / 2 * (1 + math.erf(x / 2 ** 0.5))


def naive_layer(state: dict, name: str, x: list[float]) -> list[float]:
    weight, bias = state[f"{name}.weight"].tolist(), state[f"{name}.bias"].tolist()
    return [b + sum(w * v for w, v in zip(row, x, strict=True))
            for row, b in zip(weight, bias, strict=True)]


def naive_threshold(model: ModelConfig, state: dict, tokens: list[list[float]],
                    patches: int) -> tuple[list[float], list[bool]]:
    """Return score and keep of every patch, number by number."""
    d = model.width // model.heads
    gamma, beta = state["norm.weight"].tolist(), state["norm.bias"].tolist()
    embedded = []
    for token in tokens:
        heads = []
        for h in range(model.heads):
            part = token[h * d:(h + 1) * d]
            mean = sum(part) / d
            deviation = math.sqrt(sum((v - mean) ** 2 for v in part) / d + model.eps)
            normal = [(v - mean) / deviation * g + b
                      for v, g, b in zip(part, gamma, beta, strict=True)]
            heads.append([gelu(v) for v in naive_layer(state, "embed", normal)])
        embedded.append(heads)
    scores, keep = [], []
    for t in range(patches):
        pooled = [sum(tokens[t][h * d:(h + 1) * d]) / d for h in range(model.heads)]
        hidden = [gelu(v) for v in naive_layer(state, "importance1", pooled)]
        a = [1 / (1 + math.exp(-v)) for v in naive_layer(state, "importance2", hidden)]
        s = []
        for h in range(model.heads):
            average = [sum(embedded[u][h][c] for u in range(len(tokens))) / len(tokens)
                       for c in range(d // 2, d)]
            x = embedded[t][h][:d // 2] + average
            for name in ("score1", "score2"):
                x = [gelu(v) for v in naive_layer(state, name, x)]
            stay, go = naive_layer(state, "score3", x)
            s.append(math.exp(stay) / (math.exp(stay) + math.exp(go)))
        both = sum(a[h] * s[h] for h in range(model.heads))
        scores.append(both / sum(a))
        keep.append(both >= 0.5 * sum(a))
    return scores, keep


@pytest.mark.parametrize(("model", "count", "patches"), [
    (ODD, 25, 25), (ODD, 12, 10), (MODELS["tiny_test"], 9, 9), (ONE_HEAD, 1, 1),
    (ONE_HEAD, 2, 1), (ONE_HEAD, 3, 0)], ids=lambda value: getattr(value, "name", str(value)))
def test_threshold_is_the_naive_one(model: ModelConfig, count: int, patches: int) -> None:
    tokens = random_tokens(model, count)
    state = balanced(model, tokens)
    selection = ThresholdSelector(model, state)(tokens, patches)
    scores, keep = naive_threshold(model, state, tokens.tolist(), patches)
    torch.testing.assert_close(selection.score, torch.tensor(scores, dtype=torch.float64))
    assert selection.keep.tolist() == keep
    if patches > 9:
        assert 0 < sum(keep) < patches, "random weights that decide nothing"


def test_package_tokens_count_in_the_mean_only() -> None:
    selector, tokens = ThresholdSelector(ODD, random_selector(ODD)), random_tokens(ODD, 6)
    with_package, without = selector(tokens, 5), selector(tokens[:5], 5)
    assert with_package.score.shape == with_package.keep.shape == (5,)
    assert not torch.allclose(with_package.score, without.score)


def test_stages() -> None:
    stages: dict[str, torch.Tensor] = {}
    tokens = random_tokens(ODD, 6)
    selection = ThresholdSelector(ODD, random_selector(ODD))(tokens, 5, stages.__setitem__)
    shapes = {name: tuple(value.shape) for name, value in stages.items()}
    assert shapes == {"norm": (6, 48), "local": (6, 24), "global": (6, 24), "mean": (24,),
                      "score1": (6, 24), "score2": (6, 12), "importance1": (6, 1),
                      "head_scores": (6, 3), "importance": (6, 3)}
    torch.testing.assert_close(stages["mean"], stages["global"].mean(0))
    s, a = stages["head_scores"][:5], stages["importance"][:5]
    torch.testing.assert_close(selection.score, (s * a).sum(1) / a.sum(1))


def test_column_0_keeps() -> None:
    state = random_selector(ODD)
    state["score3.weight"] = torch.zeros_like(state["score3.weight"])
    for bias, kept in (([1.0, 0.0], True), ([0.0, 1.0], False), ([40.0, -40.0], True),
                       ([-40.0, 40.0], False)):
        state["score3.bias"] = torch.tensor(bias, dtype=torch.float64)
        keep = ThresholdSelector(ODD, state)(random_tokens(ODD, 7), 7).keep
        assert keep.tolist() == [kept] * 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_score_of_one_half_stays(dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in random_selector(ODD).items()}
    for name in ("score3.weight", "score3.bias"):
        state[name] = torch.zeros_like(state[name])
    tokens = random_tokens(ODD, 7).to(dtype)
    assert ThresholdSelector(ODD, state)(tokens, 7).keep.tolist() == [True] * 7
    a = torch.tensor([[0.25, 0.5]], dtype=dtype)
    assert keep_threshold(torch.tensor([[0.75, 0.375]], dtype=dtype), a).tolist() == [True]
    assert keep_threshold(torch.tensor([[0.75, 0.3749]], dtype=dtype), a).tolist() == [False]
    assert combined_score(torch.tensor([[0.75, 0.375]], dtype=dtype), a).tolist() == [0.5]


def test_one_kept() -> None:
    state, tokens = random_selector(ODD), random_tokens(ODD, 25)
    bias = state["score3.bias"]
    low, high = -40.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        state["score3.bias"] = bias + torch.tensor([middle, 0.0])
        kept = int(ThresholdSelector(ODD, state)(tokens, 25).keep.sum())
        if kept == 1:
            break
        low, high = (middle, high) if kept < 1 else (low, middle)
    assert kept == 1
    selection = ThresholdSelector(ODD, state)(tokens, 25)
    assert selection.keep.tolist() == naive_threshold(ODD, state, tokens.tolist(), 25)[1]
    assert selection.keep.nonzero().item() == selection.score.argmax()


def naive_top(scores: list[float], count: int) -> list[bool]:
    """Keep a patch when fewer than ``count`` come before it: larger ones, or equal and earlier."""
    return [sum(other > score or (other == score and j < i) for j, other in enumerate(scores))
            < count for i, score in enumerate(scores)]


@given(st.data(), st.lists(st.integers(0, 5), max_size=60))
def test_top_with_many_ties(data: st.DataObject, scores: list[int]) -> None:
    count = data.draw(st.integers(0, len(scores)))
    keep = keep_top(torch.tensor(scores, dtype=torch.float32), count)
    assert keep.tolist() == naive_top(scores, count) and keep.sum() == count


@given(st.data(), st.lists(st.floats(0, 1, width=32), max_size=200))
def test_top_is_the_naive_one(data: st.DataObject, scores: list[float]) -> None:
    count = data.draw(st.integers(0, len(scores) + 3))
    keep = keep_top(torch.tensor(scores, dtype=torch.float32), count)
    assert keep.tolist() == naive_top(scores, count)


@pytest.mark.parametrize("patches", [1, 2, 16, 17, 196, 1024])
@pytest.mark.parametrize("count", [0, 1])
def test_top_of_equal_scores_is_the_first(patches: int, count: int) -> None:
    for kept in (count, patches // 2, patches):
        keep = keep_top(torch.full((patches,), 0.25), kept)
        assert keep.tolist() == [i < kept for i in range(patches)]


def test_class_attention_is_the_naive_one() -> None:
    scores = 3 * torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(0),
                             dtype=torch.float64)
    rows = scores.tolist()
    expected = [sum(math.exp(rows[h][0][t]) / sum(math.exp(v) for v in rows[h][0])
                    for h in range(3)) / 3 for t in range(7)]
    torch.testing.assert_close(class_attention(scores), torch.tensor(expected,
                                                                     dtype=torch.float64))


@pytest.mark.parametrize("count", [1, 2, 50])
def test_package_is_the_naive_one(count: int) -> None:
    tokens = random_tokens(ODD, count)
    weights = torch.rand(count, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    total = sum(weights.tolist())
    expected = [sum(w * x for w, x in zip(weights.tolist(), channel, strict=True)) / total
                for channel in tokens.T.tolist()]
    package, weight = package_token(tokens, weights)
    torch.testing.assert_close(package, torch.tensor(expected, dtype=torch.float64))
    assert weight.item() == pytest.approx(total)


def test_package_of_vanished_weights_is_the_mean() -> None:
    package, weight = package_token(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.zeros(2))
    assert package.tolist() == [2.0, 4.0] and weight == 0


def test_keep_count() -> None:
    assert [keep_count(196, 0.7 ** i) for i in (1, 2, 3)] == [138, 97, 68]
    assert [keep_count(196, 0.5 ** i) for i in (1, 2, 3)] == [98, 49, 25]
    assert keep_count(5, 0.8) == 4, "0.8 is a little more than 4/5 as a float"
    assert keep_count(10, 0.1) == 1
    assert keep_count(196, 1e-9) == 0, "less than 2^-16 is nothing"
    assert keep_count(196, 1 - 1e-9) == 196
    assert keep_count(0, 0.5) == 0


@given(st.integers(0, 1024), st.floats(0, 1, exclude_min=True))
def test_keep_count_is_what_the_hardware_counts(patches: int, rate: float) -> None:
    count = keep_count(patches, rate)
    assert count == (patches * math.floor(rate * 65536) + 65535) >> 16
    assert 0 <= count <= patches and count <= math.ceil(patches * rate)
    assert count == patches or rate < 1
    assert count > patches * rate - 1 - patches / 65536


def test_macs() -> None:
    published = {"deit_tiny": 3.93, "deit_small": 7.87, "deit_base": 15.8}
    for name, value in published.items():
        assert selector_macs(MODELS[name], 196) / 1e6 == pytest.approx(value, abs=0.05), name
    # Embedding and three layers of the score in each head, then the two of the importance.
    assert selector_macs(MODELS["deit_tiny"], 196) == 196 * (
        3 * (64 * 64 + 64 * 32 + 32 * 16 + 16 * 2) + 3 * 1 + 1 * 3)
    assert selector_macs(ONE_HEAD, 2) == 2 * (32 * 32 + 32 * 16 + 16 * 8 + 8 * 2 + 1 + 1)
    assert selector_macs(ODD, 0) == 0


def test_bad_state() -> None:
    state = random_selector(ODD)
    with pytest.raises(ModelError, match="^the state of a selector for odd lacks parameter embed."):
        ThresholdSelector(ODD, {k: v for k, v in state.items() if k != "embed.bias"})
    with pytest.raises(ModelError, match="for odd has an unexpected parameter x$"):
        ThresholdSelector(ODD, state | {"x": torch.zeros(1)})
    message = "the shape of score3.bias of a selector is (3,), must be (2,) in odd"
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        ThresholdSelector(ODD, state | {"score3.bias": torch.zeros(3)})


def test_functions_of_heatvit() -> None:
    """The sigmoid in straight lines is the softmax of two, and scores are not halved."""
    heatvit, stages = FUNCTIONS["heatvit"], {}
    tokens, state = random_tokens(ODD, 6), random_selector(ODD)
    selector = ThresholdSelector(ODD, state, heatvit)
    selector(tokens, 6, stages.__setitem__)
    logits = (stages["score2"].unflatten(1, (3, 4)) @ state["score3.weight"].T
              + state["score3.bias"])
    torch.testing.assert_close(stages["head_scores"],
                               heatvit.sigmoid(logits[..., 0] - logits[..., 1]))
    torch.testing.assert_close(class_attention(torch.zeros(3, 5, 5), heatvit),
                               torch.full((5,), 0.2))
