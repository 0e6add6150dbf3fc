# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.quantize: ranges, folding, what cannot be represented, and the noise."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import NETWORKS, network, noise

from golden.images import normalise
from golden.integer import run
from golden.model import FloatViT, ModelConfig, State
from golden.quantize import Linear, QuantizedViT, Scale, patch_bytes, quantize, sqnr
from golden.synthetic import synthetic

SMALL = ModelConfig(name="one", image_size=16, patch=8, width=32, depth=1, heads=2, hidden=48,
                    classes=4)


def quantized(model: ModelConfig, state: State, **options: float) -> QuantizedViT:
    return quantize(FloatViT(model, state), [noise(model, 1)], weights="synthetic", **options)


def linears(qvit: QuantizedViT) -> dict[str, Linear]:
    layers = {f"head{i}": head for i, head in enumerate(qvit.heads)} | {"patch": qvit.patch}
    for i, block in enumerate(qvit.blocks):
        for name in ("q", "k", "v", "projection", "mlp1", "mlp2"):
            layers[f"block{i}.{name}"] = getattr(block, name)
    return layers


@pytest.mark.parametrize("name", NETWORKS)
def test_everything_fits_its_field(name: str) -> None:
    qvit = network(name).qvit
    for layer, linear in linears(qvit).items():
        outputs = len(linear.weight)
        assert linear.weight.dtype == np.int8 and linear.weight.min() >= -127, layer
        assert linear.bias.shape == linear.m.shape == linear.s.shape == (outputs,), layer
        assert (linear.m >= 1 << 16).all() and (linear.m < 1 << 17).all(), layer
        assert (linear.s >= 1).all() and (linear.s <= 47).all(), layer
        largest = 255 if layer == "patch" else 128
        reach = np.abs(linear.weight.astype(int)).sum(axis=1) * largest + np.abs(linear.bias)
        assert reach.max() < 1 << 26, layer
        # Each row uses the whole range of its weights, as its step is its own.
        assert (np.abs(linear.weight.astype(int)).max(axis=1) == 127).all(), layer
    scales: list[tuple[str, Scale, int]] = []
    for norm in (*(n for b in qvit.blocks for n in (b.norm1, b.norm2)), qvit.head_norm):
        assert norm.channels == qvit.model.width and 1 <= norm.epsilon < 1 << 32
        scales += [("mean", norm.mean, 1), ("norm", norm.scale, 27)]
    for block in qvit.blocks:
        scales += [("score", block.score, 1), ("exp", block.exp, 1), ("value", block.value, 18)]
    for what, scale, low in scales:
        assert 1 << 16 <= scale.m < 1 << 17 and low <= scale.s <= 47, (what, scale)


def test_patch_layer_takes_raw_bytes() -> None:
    net = network("head64")
    qvit, model = net.qvit, net.qvit.model
    assert patch_bytes(model) == 6 * 32  # a pixel row of 18 bytes in 32
    weight = qvit.patch.weight.reshape(model.width, 6, 32)
    assert not weight[:, :, 18:].any()
    # One patch by hand: pixel row, pixel column, colour.
    x = np.zeros((6, 32))
    x[:, :18] = net.frame[6:12, 12:18].reshape(6, 18)
    scale = qvit.patch.m * 2.0 ** -qvit.patch.s * qvit.steps["embed.residual"]
    got = (qvit.patch.weight @ x.reshape(-1) + qvit.patch.bias) * scale
    exact = net.twin.forward_stages(normalise(net.frame))["embed.residual"]
    row = model.special_tokens + model.grid + 2
    exact = (exact - net.twin.state["pos_embed"][0])[row].numpy()
    assert np.abs(got - exact).max() < 0.02 * np.abs(exact).max()


def test_gamma_and_beta_are_folded() -> None:
    net = network("tiny_test")
    state, block = net.twin.state, net.qvit.blocks[1]
    y = np.random.default_rng(0).standard_normal(64)
    affine = y * state["blocks.1.norm2.weight"].numpy() + state["blocks.1.norm2.bias"].numpy()
    exact = (state["blocks.1.mlp.fc1.weight"].numpy() @ affine
             + state["blocks.1.mlp.fc1.bias"].numpy())
    # The input of GELU has 12 fraction bits.
    scale = block.mlp1.m * 2.0 ** -block.mlp1.s * 2.0 ** -12
    got = (block.mlp1.weight @ (y / net.qvit.steps["block1.norm2"]) + block.mlp1.bias) * scale
    assert np.abs(got - exact).max() < 0.02 * np.abs(exact).max()


@pytest.mark.parametrize("name", ["tiny_test", "small_test"])
def test_special_tokens_start_as_the_tokens_themselves(name: str) -> None:
    net = network(name)
    state, count = net.twin.state, net.qvit.model.special_tokens
    tokens = torch.cat([state[n][0] for n in ("cls_token", "dist_token")[:count]])
    real = (tokens + state["pos_embed"][0, :count]).double().numpy()
    expected = np.rint(real / net.qvit.steps["embed.residual"])
    got = net.stages["embed.residual"][:count]
    assert np.array_equal(got, expected), np.abs(got - expected).max()
    assert not np.array_equal(net.qvit.initial[:count], expected)  # the bias is taken off first


def test_distilled_heads_are_halved() -> None:
    plain = replace(SMALL, distilled=False)
    distilled = replace(SMALL, distilled=True)
    state = synthetic(distilled, 0)
    state["head_dist.weight"] = state["head.weight"]
    both = quantized(distilled, state)
    kept = {k: v for k, v in state.items() if "dist" not in k}
    kept["pos_embed"] = state["pos_embed"][:, :-1]
    one = quantized(plain, kept)
    real = [q.heads[0].m * 2.0 ** -q.heads[0].s * q.steps["logits"] / q.steps["head.norm"]
            for q in (both, one)]
    assert np.allclose(real[0] * 2, real[1], rtol=1e-4)
    assert len(both.heads) == 2 and np.array_equal(both.heads[0].weight, both.heads[1].weight)


def test_bias_without_weights_gets_a_coarser_step() -> None:
    state = synthetic(SMALL, 0)
    state["blocks.0.mlp.fc1.weight"][5] = 0
    state["blocks.0.mlp.fc1.bias"][5] = 3.0
    state["blocks.0.mlp.fc1.weight"][6] = 1e-9
    state["blocks.0.norm2.bias"][:] = 0
    layer = quantized(SMALL, state).blocks[0].mlp1
    value = layer.bias * layer.m * 2.0 ** -layer.s * 2.0 ** -12
    assert abs(layer.bias[5]) <= 1 << 24 and value[5] == pytest.approx(3.0, rel=1e-4)
    assert layer.s.max() <= 47


def test_percentile_clips() -> None:
    state = synthetic(SMALL, 0)
    whole, part = quantized(SMALL, state), quantized(SMALL, state, percentile=90.0)
    assert part.steps["block0.q"] < 0.8 * whole.steps["block0.q"]
    assert part.steps["block0.residual1"] == whole.steps["block0.residual1"]


def test_dead_network_is_quantised() -> None:
    """Zero weights give tensors without a range."""
    state = {name: torch.zeros_like(value) for name, value in synthetic(SMALL, 0).items()}
    state["pos_embed"] = torch.randn(state["pos_embed"].shape)
    qvit = quantized(SMALL, state)
    assert not any(layer.weight.any() for layer in linears(qvit).values())
    assert all(step > 0 for step in qvit.steps.values())


def broken(name: str, value: float) -> dict[str, torch.Tensor]:
    state = synthetic(SMALL, 0)
    state[name][...] = value
    return state


def test_what_cannot_be_represented() -> None:
    wide = replace(SMALL, hidden=4096)
    state = synthetic(wide, 0)
    state["blocks.0.mlp.fc2.weight"][3] = 0.1
    state["blocks.0.mlp.fc2.bias"][3] = 300
    with pytest.raises(ValueError, match=re.escape(
            "|accumulator| + |bias| of output 3 of block0.residual2 reaches")):
        quantized(wide, state)
    with pytest.raises(ValueError, match=r"stage embed\.residual of the float model is not finite"):
        quantized(SMALL, broken("patch_embed.proj.bias", math.nan))
    with pytest.raises(ValueError, match=r"epsilon of block0\.norm1 is \d+ in steps of the"):
        quantized(replace(SMALL, eps=1e6), synthetic(SMALL, 0))
    with pytest.raises(ValueError, match=r"the shift of the .* scale is -?\d+, must be between"):
        quantized(SMALL, broken("blocks.0.mlp.fc1.weight", 1e9))
    grey = replace(SMALL, channels=1)
    with pytest.raises(ValueError, match="one takes frames of 1 colours, frames have 3"):
        quantized(grey, synthetic(grey, 0))


def test_bad_calibration() -> None:
    twin = FloatViT(SMALL, synthetic(SMALL, 0))
    with pytest.raises(ValueError, match="no calibration frame was given, at least one is needed"):
        quantize(twin, [], weights="synthetic")
    with pytest.raises(ValueError, match="percentile is 20, must be between 50 and 100"):
        quantize(twin, [noise(SMALL, 0)], weights="synthetic", percentile=20)


def test_sqnr_of_known_noise() -> None:
    qvit = replace(network("tiny_test").qvit, steps={"a": 0.5, "b": 2.0, "norm": 1.0})
    exact = {"a": torch.tensor([3.0, -4.0]), "b": torch.tensor([2.0]), "norm": torch.tensor([1.0])}
    stages = {"a": np.array([6, -7]), "b": np.array([1])}
    report = sqnr(qvit, exact, stages)
    assert report == {"a": pytest.approx(10 * math.log10(25 / 0.25)), "b": math.inf}


@pytest.mark.parametrize("name", NETWORKS)
def test_noise_of_every_stage(name: str) -> None:
    net = network(name)
    exact = net.twin.forward_stages(normalise(net.frame))
    report = sqnr(net.qvit, exact, net.stages)
    stages = {f"block{i}.{s}" for i in range(net.qvit.model.depth) for s in (
        "q", "k", "v", "scores", "attention", "residual1", "hidden", "residual2")}
    assert report.keys() == stages | {"embed.residual", "logits"}
    # Outliers through int8 LayerNorm: about 25 dB is all that Q, K, V and hidden can have. In
    # nearly one-hot rows that is enough to take another token.
    for stage, decibel in report.items():
        least = 40 if stage == "embed.residual" else 8 if stage.endswith("attention") else 18
        assert decibel > least, f"{stage}: {decibel:.1f} dB"
    assert report["block0.residual1"] > 35 and report["block0.residual2"] > 35, report


def test_noise_with_the_functions_of_heatvit() -> None:
    net = network("tiny_test")
    twin = FloatViT(net.twin.model, net.twin.state, "heatvit")
    qvit = quantize(twin, [noise(twin.model, 1), noise(twin.model, 2)], weights="synthetic")
    report = sqnr(qvit, twin.forward_stages(normalise(net.frame)), run(qvit, net.frame)[2])
    for stage, decibel in report.items():
        least = 8 if stage.endswith("attention") else 15
        assert decibel > least, f"{stage}: {decibel:.1f} dB"
    # The exact network is another one.
    exact = sqnr(qvit, net.twin.forward_stages(normalise(net.frame)), run(qvit, net.frame)[2])
    assert exact["block0.hidden"] < 10


def test_stages_of_other_shapes_have_no_noise() -> None:
    qvit = replace(network("tiny_test").qvit, steps={"a": 1.0, "b": 1.0})
    exact = {"a": torch.ones(3), "b": torch.ones(2)}
    assert sqnr(qvit, exact, {"a": np.array([1, 2]), "b": np.array([1, 2])}).keys() == {"b"}
