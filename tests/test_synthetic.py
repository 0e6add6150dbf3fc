# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.synthetic: what its docstring says of the statistics."""

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from golden.images import load_image, normalise
from golden.model import MODELS, FloatViT, parameter_shapes
from golden.synthetic import outlier_channels, synthetic

CASES = [(name, seed) for name in ("tiny_test", "small_test", "deit_tiny")
         for seed in (0, 1)] + [("deit_small_distilled", 0)]


@cache
def twin(name: str, seed: int) -> FloatViT:
    return FloatViT(MODELS[name], synthetic(MODELS[name], seed))


@cache
def stages(name: str, seed: int) -> dict[str, torch.Tensor]:
    image = load_image(None, MODELS[name].image_size)
    return twin(name, seed).forward_stages(normalise(image))


@pytest.mark.parametrize("name", ["tiny_test", "small_test", "deit_tiny_distilled"])
def test_shapes_and_types(name: str) -> None:
    state = synthetic(MODELS[name], 0)
    shapes = parameter_shapes(MODELS[name])
    assert [(key, tuple(value.shape)) for key, value in state.items()] == list(shapes.items())
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert all(value.isfinite().all() for value in state.values())


def test_the_seed_alone_decides() -> None:
    model = MODELS["small_test"]
    first = synthetic(model, 5)
    torch.manual_seed(1)
    np.random.default_rng().random()
    second, other = synthetic(model, 5), synthetic(model, 6)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert not torch.equal(value, other[name]), name
    assert outlier_channels(model, 5) != outlier_channels(model, 6)


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_attention_from_uniform_to_one_hot(name: str, seed: int) -> None:
    model = MODELS[name]
    for i in range(model.depth):
        scores = stages(name, seed)[f"block{i}.scores"]
        weights = scores.double().softmax(-1)
        entropy = -torch.special.xlogy(weights, weights).sum(-1) / math.log(model.tokens)
        heads = entropy.mean(-1)
        found = f"block {i}: entropies / log N of heads {heads.tolist()}"
        assert entropy.max() > 0.97, found
        assert entropy.min() < 0.03, found
        assert heads.max() > 0.9, found
        assert heads.min() < 0.4, found
        if model.heads > 3:
            assert ((heads > 0.3) & (heads < 0.95)).any(), found
        assert scores.abs().max() > 30, f"block {i}: largest score {scores.abs().max()}"


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_residual_outliers(name: str, seed: int) -> None:
    model = MODELS[name]
    outliers = outlier_channels(model, seed)
    assert len(outliers) == max(2, model.width // 64)
    for stage, value in stages(name, seed).items():
        if "residual" in stage:
            rms = value.square().mean(0).sqrt()
            ratios = (rms / rms.median())[outliers]
            found = f"{stage}: outliers {ratios.tolist()} times the median {rms.median()}"
            assert ratios.min() > 5, found
            assert 12 < ratios.max() < 35, found
            others = np.delete(rms.numpy(), outliers)
            assert np.quantile(others, 0.95) < 4 * rms.median(), found
            assert 0.8 < rms.median() < 4, found


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_gelu_inputs_reach_both_tails_and_saturation(name: str, seed: int) -> None:
    model = MODELS[name]
    state = twin(name, seed).state
    for i in range(model.depth):
        norm, layer = f"blocks.{i}.norm2", f"blocks.{i}.mlp.fc1"
        y = stages(name, seed)[f"block{i}.norm2"] * state[f"{norm}.weight"] + state[f"{norm}.bias"]
        x = y @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
        for part, low, high in (((x > 4), 0.01, 0.12), ((x < -4), 0.01, 0.12),
                                ((x < -32), 0.01, 0.02), ((x > 32), 0, 1e-4)):
            part = part.double().mean().item()
            assert low <= part <= high, f"block {i}: {part} of the inputs, not {low}..{high}"


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_logits_are_spread_and_depend_on_the_image(name: str, seed: int, tmp_path: Path) -> None:
    logits = stages(name, seed)["logits"]
    assert 1 < logits.std() < 6, f"standard deviation {logits.std()}"
    path = tmp_path / "flower.png"
    Image.fromarray(load_sample_image("flower.jpg")).save(path)
    other = twin(name, seed)(normalise(load_image(path, MODELS[name].image_size))[None])[0]
    assert (other - logits).std() > 0.4, f"difference {(other - logits).std()}"
