# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.quantize_selector: fields, folding, noise of the stages, units of the scores."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from pruned import PRUNED, frames, model_of, pruned

from golden.fixed import round_shift, saturate
from golden.images import normalise
from golden.layers import Linear, Ranges, Scale
from golden.model import MODELS, FloatViT, ModelError
from golden.nonlinear import FUNCTIONS
from golden.pruning import PruningConfig, PruningError
from golden.quantize import quantize
from golden.quantize_selector import QuantizedClassifier, check_weights, score_frac
from golden.synthetic import synthetic
from golden.synthetic_selector import synthetic_selectors

THRESHOLD = [name for name in PRUNED if name.startswith("threshold")]
LAYERS = ("local", "global_", "importance1", "score1", "score2", "importance2", "score3")


def shapes(c: QuantizedClassifier) -> dict[str, tuple[int, ...]]:
    return {name: getattr(c, name).weight.shape for name in LAYERS}


@pytest.mark.parametrize("functions", FUNCTIONS)
@pytest.mark.parametrize("name", THRESHOLD)
def test_everything_fits_its_field(name: str, functions: str) -> None:
    qvit = pruned(name, functions).qvit
    d, heads, width = qvit.model.head_size, qvit.model.heads, qvit.model.width
    middle = max(1, heads // 2)
    assert len(qvit.classifiers) == len(qvit.pruning.active) and qvit.score_frac == 0
    for c in qvit.classifiers:
        assert shapes(c) == {
            "local": (d // 2, d), "global_": (d // 2, d), "importance1": (middle, width),
            "score1": (d // 2, d), "score2": (d // 4, d // 2), "importance2": (heads, middle),
            "score3": (1, d // 4)}
        for layer in LAYERS:
            linear: Linear = getattr(c, layer)
            assert linear.weight.dtype == np.int8 and linear.bias.dtype == np.int64
            reach = np.abs(linear.weight.astype(int)).sum(axis=1) * 128 + np.abs(linear.bias)
            assert reach.max() < 1 << 26, layer
            assert (linear.m < 1 << 17).all() and (linear.s >= 1).all() and (linear.s <= 47).all()
        assert c.mean == Scale(m=1 << 16, s=33)
        assert c.norm.channels == d and 27 <= c.norm.scale.s <= 47
        assert 1 << 16 <= c.importance_scale.m < 1 << 17 and 1 <= c.importance_scale.s <= 47
        assert c.gelu.shape == c.sigmoid.shape == (34, 3)


def test_all_gelu_layers_have_one_step() -> None:
    steps = pruned("threshold").qvit.steps
    for i in range(3):
        assert len({steps[f"selector{i}.{name}"] for name in (
            "local", "global", "mean", "score1", "score2", "importance1")}) == 1
        assert steps[f"selector{i}.classes"] == 1 / 128


@pytest.mark.parametrize("functions", FUNCTIONS)
@pytest.mark.parametrize("name", THRESHOLD)
def test_noise_of_the_stages(name: str, functions: str) -> None:
    """On the residual that the integer twin has, so that only the classifier counts."""
    net = pruned(name, functions)
    qvit, first = net.qvit, net.qvit.model.special_tokens
    for i, block in enumerate(qvit.pruning.active):
        residual = net.stages[f"block{block - 1}.residual2"][first:]
        step = qvit.steps[f"block{block - 1}.residual2"]
        exact: dict[str, torch.Tensor] = {}
        net.vit.selectors[i](torch.from_numpy(residual * step).float(), len(residual),
                             exact.__setitem__)
        heads = qvit.model.heads
        classes = net.stages[f"selector{i}.classes"][first:] / 128
        found = {"importance": classes[:, :heads], "head_scores": classes[:, heads:]}
        for stage in ("local", "global", "mean", "score1", "score2"):
            codes = net.stages[f"selector{i}.{stage}"]
            found[stage] = (codes if stage == "mean" else codes[first:]) * qvit.steps[
                f"selector{i}.{stage}"]
        for stage, value in found.items():
            noise = value - exact[stage].numpy()
            if stage in ("importance", "head_scores"):
                most = 0.05 if stage == "importance" else 0.15
                assert np.abs(noise).max() < most, (stage, np.abs(noise).max())
                assert np.square(noise).mean() < 0.05 ** 2, stage
            elif "one patch" not in name:  # a few numbers, which may all be small
                ratio = 10 * math.log10(float((exact[stage] ** 2).sum()) / np.square(noise).sum())
                assert ratio > 15, f"selector{i}.{stage}: {ratio:.1f} dB"


def test_importance_takes_the_mean_of_a_head() -> None:
    net = pruned("threshold head16")
    c, state = net.qvit.classifiers[0], net.vit.selectors[0].state
    x = net.stages["block0.residual2"]
    real = x * net.qvit.steps["block0.residual2"]
    y = saturate(round_shift((x.astype(np.int64) << 8) * c.importance_scale.m,
                             c.importance_scale.s), 8)
    layer = c.importance1
    got = (y @ layer.weight.T.astype(int) + layer.bias) * layer.m * 2.0 ** -layer.s / 4096
    pooled = real.reshape(len(x), 3, 16).mean(-1)
    exact = pooled @ state["importance1.weight"].numpy().T + state["importance1.bias"].numpy()
    assert np.abs(got - exact).max() < 0.03 * np.abs(exact).max()


def test_one_output_is_the_difference() -> None:
    net = pruned("threshold")
    layer, state = net.qvit.classifiers[1].score3, net.vit.selectors[1].state
    exact = (state["score3.weight"][0] - state["score3.weight"][1]).numpy()
    # The sigmoid takes half its argument, with 12 fraction bits.
    got = (layer.weight * layer.m[:, None] * 2.0 ** -layer.s[:, None]
           / 4096 * 2 / net.qvit.steps["selector1.score2"])[0]
    assert np.abs(got - exact).max() < 0.01 * np.abs(exact).max()


@pytest.mark.parametrize("name", [name for name in PRUNED if name.startswith("topk")])
def test_scores_have_headroom(name: str) -> None:
    qvit = pruned(name).qvit
    assert 12 <= qvit.score_frac <= 24 and qvit.classifiers == ()
    largest = 0.0
    for frame in frames(qvit.model):
        stages = pruned(name).vit.forward_stages(normalise(frame))
        for i in range(3):
            score = stages[f"selector{i}.score"]
            largest = max([largest, *(qvit.model.heads * score).tolist()])
    top = largest * 2 ** qvit.score_frac
    assert top <= 32768 and (top > 16383 or qvit.score_frac == 24), top
    assert qvit.steps["selector0.score"] == 2.0 ** -qvit.score_frac / qvit.model.heads


@pytest.mark.parametrize(("largest", "expected"), [
    (0.0, 24), (2.0 ** -9, 24), (2.0 ** -8, 23), (0.5, 16), (0.51, 15), (6.0, 12), (12.0, 12)])
def test_unit_of_the_scores(largest: float, expected: int) -> None:
    ranges = Ranges(100.0)
    ranges.record("topk.score", np.array([largest]))
    topk = PruningConfig(selector="topk", rates=(0.5, 0.4, 0.3))
    assert score_frac(topk, MODELS["deit_tiny"], ranges) == expected


def test_sum_of_many_scores_fits() -> None:
    """With more than 256 patches these could sum to more than a weight can be."""
    ranges = Ranges(100.0)
    ranges.record("topk.score", np.array([0.001]))
    large = replace(MODELS["deit_base"], image_size=384)
    topk = PruningConfig(selector="topk", rates=(0.5, 0.4, 0.3))
    frac = score_frac(topk, large, ranges)
    assert frac == 17 and 3 * 12 * (1 + 577 / 510) * 2 ** frac < 1 << 24
    check_weights(topk, large)
    with pytest.raises(PruningError, match="^deit_base has 576 patches, must be at most 511 with "):
        check_weights(PruningConfig(), large)


def test_bad_selectors() -> None:
    model = model_of("tiny_test")
    twin = FloatViT(model, synthetic(model, 0))
    states = synthetic_selectors(twin, (1,), 0)
    pruning = PruningConfig(blocks=(1, 2))

    def quantized(**options: object) -> None:
        quantize(twin, frames(model), weights="synthetic", **options)

    with pytest.raises(PruningError, match="^parameters of 1 selectors are given, must be 2 for"):
        quantized(pruning=pruning, selectors=states)
    with pytest.raises(PruningError, match="^parameters of 1 selectors are given, must be 0 for"):
        quantized(selectors=states)
    with pytest.raises(PruningError, match="^a selector is at block 9, must be at block 3 or"):
        quantized(pruning=PruningConfig(blocks=(9,)), selectors=states)
    with pytest.raises(ValueError,
                       match="^functions are 'fast', must be one of exact, heatvit, ibert$"):
        quantized(functions="fast")
    del states[0]["norm.bias"]
    with pytest.raises(ModelError, match=re.escape("lacks parameter norm.bias")):
        quantized(pruning=PruningConfig(blocks=(1,)), selectors=states)


def test_without_a_selector_there_is_no_pruning() -> None:
    model = model_of("tiny_test")
    twin = FloatViT(model, synthetic(model, 0))
    qvit = quantize(twin, frames(model), weights="synthetic",
                    pruning=PruningConfig(selector="none"))
    assert qvit.pruning is None and qvit.classifiers == () and qvit.score_frac == 0


def test_functions_of_heatvit() -> None:
    """Tables, and the factor of the attention in the scale of V."""
    model = model_of("tiny_test")
    twin = FloatViT(model, synthetic(model, 0))
    own = quantize(twin, frames(model), weights="x", functions="heatvit")
    same = quantize(FloatViT(model, twin.state, "heatvit"), frames(model), weights="x")
    assert own.steps == same.steps and np.array_equal(own.exp, FUNCTIONS["heatvit"].exp_table())
    exact = quantize(twin, frames(model), weights="x")
    assert not np.array_equal(own.exp, exact.exp)
    for qvit, factor in ((own, 0.5), (exact, 1.0)):
        value, steps = qvit.blocks[0].value, qvit.steps
        assert value.m * 2.0 ** -value.s == pytest.approx(
            factor * 2.0 ** -17 * steps["block0.v"] / steps["block0.attention"], rel=1e-4)
    # Far below zero GELU_a is x / 4.
    gelu = own.blocks[0].gelu
    assert gelu[32, 1] * own.steps["block0.hidden"] == pytest.approx(64, rel=0.02)
