# SPDX-License-Identifier: BSD-2-Clause
"""Steps are chosen by calibration, or are given: then the network is the same without frames."""

import math

import numpy as np
import pytest
from networks import network, noise
from pruned import PRUNED, pruned

from golden.calibrate import calibrate
from golden.packed import save
from golden.pruning import PrunedViT, PruningConfig
from golden.quantize import QuantizedViT, quantize


def packed(qvit: QuantizedViT, path) -> bytes:
    save(path, qvit)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["topk", "threshold merged"])
def test_given_steps_make_the_same_network(name: str, tmp_path) -> None:
    net = pruned(name)
    again = quantize(net.vit.twin, [], weights="synthetic", steps=net.qvit.steps,
                     pruning=PRUNED[name][1], selectors=[s.state for s in net.vit.selectors])
    assert packed(again, tmp_path / "again.hv") == packed(net.qvit, tmp_path / "first.hv")


def test_steps_are_those_of_the_frames() -> None:
    net = network("tiny_test")
    frames = [noise(net.twin.model, seed) for seed in (1, 2)]
    vit = PrunedViT(net.twin, PruningConfig(selector="none"))
    assert calibrate(vit, frames) == net.qvit.steps
    clipped = calibrate(vit, frames, percentile=90.0)
    assert clipped["block0.q"] < net.qvit.steps["block0.q"]
    assert clipped["embed.residual"] == net.qvit.steps["embed.residual"]


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_steps_must_be_positive(value: float) -> None:
    net = network("tiny_test")
    steps = {**net.qvit.steps, "block1.q": value}
    with pytest.raises(ValueError, match=rf"^the step of block1.q is {value}, must be a positive"):
        quantize(net.twin, [], weights="synthetic", steps=steps)


def test_missing_step() -> None:
    net = network("tiny_test")
    with pytest.raises(ValueError, match=r"^the step of selector0.score is None, must be a posi"):
        quantize(net.twin, [], weights="synthetic", steps=net.qvit.steps, pruning=PruningConfig(
            selector="topk", blocks=(1,), counts=(2,)))


def test_no_frame() -> None:
    net = network("tiny_test")
    with pytest.raises(ValueError, match="no calibration frame was given, at least one is needed"):
        calibrate(PrunedViT(net.twin, PruningConfig(selector="none")), np.empty((0, 48, 48, 3)))
