# SPDX-License-Identifier: BSD-2-Clause
"""The integer twin on batches is the one of single images, to the last bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import NETWORKS, network, noise
from pruned import PRUNED, model_of, pruned

from golden import integer
from golden.integer_batch import BatchViT, Tables, answers
from golden.model import MODELS, FloatViT
from golden.pruning import PruningConfig
from golden.quantize import QuantizedViT, quantize
from golden.scenes import fixed_set
from golden.synthetic import synthetic
from golden.synthetic_selector import composed, synthetic_selectors

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def assert_equal(qvit: QuantizedViT, frames: list[np.ndarray]) -> set[tuple[int, ...]]:
    """Compare all that is said of the frames, and return the numbers of tokens."""
    found = answers(BatchViT(qvit, Tables(qvit, CPU)), np.stack(frames))
    count = 0 if qvit.pruning is None else len(qvit.pruning.active)
    assert found.keeps.shape == (count, len(frames), qvit.model.grid ** 2)
    for i, frame in enumerate(frames):
        logits, top, stages = integer.run(qvit, frame)
        assert found.logits[i].tolist() == logits.tolist(), f"image {i}"
        assert found.top[i] == top
        assert found.tokens[i].tolist() == [qvit.model.tokens, *(
            int(stages[f"selector{s}.tokens"][0]) for s in range(count))]
        for s in range(count):
            kept = np.flatnonzero(found.keeps[s, i])
            assert kept.tolist() == stages[f"selector{s}.kept"].tolist(), f"image {i}, {s}"
    return set(map(tuple, found.tokens.tolist()))


@pytest.mark.parametrize("name", NETWORKS)
def test_dense(name: str) -> None:
    assert_equal(network(name).qvit, [noise(NETWORKS[name], seed) for seed in range(3, 8)])


@pytest.mark.parametrize(("name", "functions"), [
    *((name, "exact") for name in PRUNED), ("topk merged", "heatvit"), ("threshold", "heatvit")])
def test_selectors(name: str, functions: str) -> None:
    model = model_of(PRUNED[name][0])
    frames = [composed(model.image_size, i / 9, 50 + i) for i in range(10)]
    found = assert_equal(pruned(name, functions).qvit, frames)
    if name.startswith("threshold") and functions == "exact" and model.grid > 2:
        assert len(found) > 1, "all images keep as many patches"


@pytest.mark.parametrize("selector", ["none", "topk", "threshold"])
def test_scenes(selector: str) -> None:
    """Fifty scenes, in a network of the same sizes but for its depth."""
    model, blocks = replace(MODELS["scenes"], depth=3), (1, 2)
    rates = (0.7, 0.4) if selector == "topk" else None
    pruning = PruningConfig(selector=selector, blocks=blocks, rates=rates, package="merged")
    twin, scenes = FloatViT(model, synthetic(model, 0)), fixed_set("test", 50)
    frames = [scenes.rgb(i) for i in range(50)]
    selectors = synthetic_selectors(twin, blocks, 0) if selector == "threshold" else []
    qvit = quantize(twin, frames[:4], weights="synthetic", selectors=selectors,
                    pruning=pruning if pruning.active else None)
    tokens = assert_equal(qvit, frames)
    assert (len(tokens) > 10) == (selector == "threshold")


def test_size_of_frames() -> None:
    qvit = network("tiny_test").qvit
    with pytest.raises(ValueError, match=r"^frames are \(8, 8, 3\), must be \(48, 48, 3\)$"):
        answers(BatchViT(qvit, Tables(qvit, CPU)), np.zeros((1, 8, 8, 3), np.uint8))
