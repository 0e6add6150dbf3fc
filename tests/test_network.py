# SPDX-License-Identifier: BSD-2-Clause
"""A network as it is run: its program and its answer are those of golden.lower and the twin."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from golden import integer
from golden.images import calibration_frames
from golden.lower import lower
from golden.model import FloatViT, model_named
from golden.network import LoweredNetwork, packed_for, quantized_on_samples
from golden.packed import PackedError, save
from golden.pruning import PruningConfig
from golden.quantize import QuantizedViT, quantize
from golden.synthetic import SEED, synthetic
from golden.synthetic_selector import synthetic_selectors
from rtl.config import named

MODEL = model_named("tiny_test")
PRUNING = PruningConfig(selector="threshold", blocks=(1,))


@pytest.fixture(scope="module")
def qvit() -> QuantizedViT:
    return quantized_on_samples(MODEL, synthetic(MODEL, SEED), "synthetic", PRUNING)


@pytest.mark.parametrize("options", [{}, {"last_block": "cls"}, {"batch": 2}], ids=str)
def test_program_and_answer(options: dict) -> None:
    qvit = quantized_on_samples(MODEL, synthetic(MODEL, SEED), "synthetic",
                                PruningConfig(selector="topk", blocks=(1,), counts=(5,)))
    frame = calibration_frames(MODEL.image_size)[0]
    config = named("tiny")
    network = LoweredNetwork(qvit, config, frame, **options)
    assert network.program.image == lower(qvit, config, **options).image
    last_block = options.get("last_block", "all")
    logits, top_class, stages = integer.run(qvit, frame, last_block=last_block)
    np.testing.assert_array_equal(network.expected[0], logits)
    assert network.expected[1] == top_class
    assert network.tokens[0] == MODEL.tokens and len(network.tokens) == 2
    # One more for the package of what was dropped
    assert network.tokens[1] == MODEL.special_tokens + len(stages["selector0.kept"]) + 1 == 7


def test_selectors_are_synthetic(qvit: QuantizedViT, tmp_path: Path) -> None:
    twin = FloatViT(MODEL, synthetic(MODEL, SEED))
    by_hand = quantize(twin, calibration_frames(MODEL.image_size), weights="synthetic",
                       pruning=PRUNING, selectors=synthetic_selectors(twin, (1,), SEED))
    for one, other in zip((qvit, by_hand), ("one.hv", "other.hv"), strict=True):
        save(tmp_path / other, one)
    assert (tmp_path / "one.hv").read_bytes() == (tmp_path / "other.hv").read_bytes()


def test_packed_for_a_network(qvit: QuantizedViT, tmp_path: Path) -> None:
    path = tmp_path / "model.hv"
    save(path, qvit)
    assert packed_for(path, replace(MODEL, name="another name")).pruning == PRUNING
    with pytest.raises(PackedError, match="model.hv is of tiny_test, must be of deit_tiny"):
        packed_for(path, model_named("deit_tiny"))
