# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.noise: noise that is put in at a known place is found there."""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from networks import network

from golden.fixed import saturate
from golden.images import normalise
from golden.integer import matmul, requantise
from golden.noise import THRESHOLD, Noise, Stage
from golden.quantize import sqnr
from golden.synthetic import outlier_channels

NAMES = ["tiny_test", "small_test", "head16", "head64"]


@lru_cache
def noise(name: str) -> Noise:
    net = network(name)
    return Noise(net.twin, net.qvit, net.frame)


def coarse(name: str, layer: str, bits: int = 6) -> Noise:
    """Return the noise of a network with weights of fewer bits in one layer of block 0."""
    net = network(name)
    block = net.qvit.blocks[0]
    linear = getattr(block, layer)
    weight = (linear.weight >> bits << bits).astype(np.int8)
    block = replace(block, **{layer: replace(linear, weight=weight)})
    return Noise(net.twin, replace(net.qvit, blocks=(block, *net.qvit.blocks[1:])), net.frame)


def stage(found: Noise, name: str) -> Stage:
    return next(s for s in found.stages if s.stage == name)


@pytest.mark.parametrize("name", NAMES)
def test_stages(name: str) -> None:
    net, found = network(name), noise(name)
    exact = net.twin.forward_stages(normalise(net.frame))
    assert [s.stage for s in found.stages] == list(found.operators)
    assert {s.stage for s in found.stages} == exact.keys()
    report = sqnr(net.qvit, exact, net.stages)
    for s in found.stages:
        assert s.sqnr == report.get(s.stage, s.sqnr), s
        # What a stage adds by itself is less than all of its noise, within what is by chance.
        assert s.local > s.sqnr - 0.1, s
        assert bool(s.origin) == bool(s.sources) == (s.sqnr < THRESHOLD), s
        if s.origin:
            assert sum(s.sources.values()) == pytest.approx(1)
            assert list(s.sources.values()) == sorted(s.sources.values(), reverse=True)
            assert s.origin in found.operators and 0.3 < s.sum < 3, s
    assert stage(found, "embed.residual").local == stage(found, "embed.residual").sqnr
    assert {o.stage for o in found.outliers} == {s.origin for s in found.stages if s.origin}


@pytest.mark.parametrize("name", NAMES)
def test_layernorm_outputs_are_those_of_the_integer_twin(name: str) -> None:
    net, found = network(name), noise(name)
    for i, block in enumerate(net.qvit.blocks):
        y = found.codes[f"block{i}.norm1"]
        assert y.min() >= -128 and y.max() <= 127
        q = requantise(matmul(y, block.q.weight.T) + block.q.bias, block.q.m, block.q.s)
        assert np.array_equal(saturate(q, 8), net.stages[f"block{i}.q"])


def test_noise_that_a_stage_adds_by_itself() -> None:
    found = coarse("tiny_test", "mlp1")
    hidden = stage(found, "block0.hidden")
    assert hidden.local < THRESHOLD and hidden.origin == "block0.hidden"
    assert next(iter(hidden.sources)) == "hidden" and hidden.sources["hidden"] > 0.9
    before = stage(found, "block0.residual1")
    assert before == stage(noise("tiny_test"), "block0.residual1"), "this is not affected"


def test_noise_is_followed_to_its_origin() -> None:
    by_v, by_k = coarse("small_test", "v"), coarse("small_test", "k")
    for found, origin in ((by_v, "block0.v"), (by_k, "block0.k")):
        attention = stage(found, "block0.attention")
        assert attention.local > THRESHOLD and attention.origin == origin
        assert next(iter(attention.sources)) == "Q K V"
        assert origin in {o.stage for o in found.outliers}
    shares = [next(a.by_scores for a in found.attention if a.stage == "block0.attention")
              for found in (by_v, by_k)]
    assert shares[0] < 0.3 and shares[1] > 0.9, shares


@pytest.mark.parametrize("name", ["tiny_test", "small_test"])
def test_outliers_leave_few_steps_to_the_others(name: str) -> None:
    model = network(name).twin.model
    found = noise(name)
    rows = [o for o in found.outliers if "norm" in o.stage]
    assert rows
    for row in rows:
        assert row.outliers == len(outlier_channels(model, 0)), row
        assert row.signal > 0.5 and row.noise < 0.2, row
        # Rounding to an integer adds 1/12.
        assert row.others_local == pytest.approx(10 * math.log10(12 * row.rms_steps ** 2), abs=1)
        assert row.others_sqnr < row.others_local
        largest = float(found.exact[row.stage].abs().max())
        assert row.range == pytest.approx(largest, rel=1e-3), "LayerNorm has an rms of 1"


def test_attention() -> None:
    found = noise("small_test")
    assert found.attention
    for row in found.attention:
        weight = found.exact[row.stage.replace("attention", "scores")].softmax(-1)
        entropy = -(weight * weight.clamp(min=1e-30).log()).sum(-1).mean(-1)
        # The more a head peaks, the more it makes of errors of its scores.
        assert row.head == int(entropy.argmin()) and row.noise > 0.5, row
        assert row.entropy == pytest.approx(float(entropy[row.head]) / math.log(weight.shape[-1]),
                                            rel=1e-4)
        assert 0.01 < row.score_error < 2 and 0 <= row.moved_noise <= 1, row
