# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.quantize_report against golden.quantize and golden.noise."""

from dataclasses import replace

import numpy as np
import pytest
from networks import network, noise
from pruned_networks import pruned_network

from golden.images import normalise
from golden.integer import run
from golden.noise import Noise
from golden.quantize import sqnr
from golden.quantize_report import layer_report


@pytest.mark.parametrize("name", ["tiny_test", "head16", "head48"])
def test_noise_is_that_of_the_twins(name: str) -> None:
    made = network(name)
    layers = {layer.stage: layer for layer in layer_report(made.twin, made.qvit, [made.frame])}
    exact = made.twin.forward_stages(normalise(made.frame))
    for stage, value in sqnr(made.qvit, exact, made.stages).items():
        assert layers[stage].sqnr == pytest.approx(value, abs=1e-3), stage
    stages = Noise(made.twin, made.qvit, made.frame).stages
    assert [stage.stage for stage in stages] == list(layers)
    for stage in stages:
        assert layers[stage.stage].local == pytest.approx(stage.local, abs=1e-3), stage.stage


def test_harm() -> None:
    """The parts are those of the whole, and a layer with a coarser step hurts more."""
    made = network("tiny_test")
    before = {x.stage: x for x in layer_report(made.twin, made.qvit, [made.frame])}
    assert sum(layer.harm for layer in before.values()) == pytest.approx(1)
    assert min(layer.harm for layer in before.values()) >= 0
    block = made.qvit.blocks[1]
    rough = replace(block.mlp1, weight=(block.mlp1.weight // 32 * 32).astype(np.int8))
    worse = replace(made.qvit, blocks=(made.qvit.blocks[0], replace(block, mlp1=rough)))
    after = {x.stage: x for x in layer_report(made.twin, worse, [made.frame])}
    assert max(after.values(), key=lambda layer: layer.harm).stage == "block1.hidden"
    assert after["block1.hidden"].harm > 5 * before["block1.hidden"].harm
    assert after["block1.hidden"].local < before["block1.hidden"].local - 6
    assert after["block1.q"].local == before["block1.q"].local


def test_saturation() -> None:
    made = network("tiny_test")
    block = made.qvit.blocks[0]
    large = replace(block, k=replace(block.k, s=block.k.s - 2))
    qvit = replace(made.qvit, blocks=(large, *made.qvit.blocks[1:]))
    frames = [made.frame, noise(made.qvit.model, 8)]
    layers = {layer.stage: layer for layer in layer_report(made.twin, qvit, frames)}
    codes = np.concatenate([run(qvit, frame)[2]["block0.k"] for frame in frames])
    assert np.abs(codes).max() == 127
    assert layers["block0.k"].saturated == pytest.approx((np.abs(codes) == 127).mean())
    assert layers["block0.k"].saturated > 0.1
    assert layers["block0.residual1"].saturated == layers["logits"].saturated == 0


def test_selectors_have_no_part_in_it() -> None:
    pruned = pruned_network("head16", "threshold", "merged", (1,), (0.0,))
    dense = replace(pruned.qvit, pruning=None, classifiers=())
    assert (layer_report(pruned.twin, pruned.qvit, [pruned.frame])
            == layer_report(pruned.twin, dense, [pruned.frame]))


def test_no_frame() -> None:
    made = network("tiny_test")
    with pytest.raises(ValueError, match="no frame was given, at least one is needed"):
        layer_report(made.twin, made.qvit, [])
