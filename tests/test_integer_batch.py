# SPDX-License-Identifier: BSD-2-Clause
"""The integer twin on batches is the one of single images, to the last bit."""

import numpy as np
import pytest
import torch
from networks import NETWORKS, network, noise
from pruned import PRUNED, model_of, pruned

from golden import integer
from golden.integer_batch import BatchViT, Tables, answers
from golden.quantize import QuantizedViT
from golden.synthetic_selector import composed

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors as small as these only become slower with more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


@pytest.mark.parametrize("functions", ["exact", "heatvit"])
@pytest.mark.parametrize("name", PRUNED)
def test_selectors(name: str, functions: str) -> None:
    model = model_of(PRUNED[name][0])
    frames = [composed(model.image_size, i / 9, 50 + i) for i in range(10)]
    found = assert_equal(pruned(name, functions).qvit, frames)
    if name.startswith("threshold") and functions == "exact" and model.grid > 2:
        assert len(found) > 1, "all images keep as many patches"


def test_size_of_frames() -> None:
    qvit = network("tiny_test").qvit
    with pytest.raises(ValueError, match=r"^frames are \(8, 8, 3\), must be \(48, 48, 3\)$"):
        answers(BatchViT(qvit, Tables(qvit, CPU)), np.zeros((1, 8, 8, 3), np.uint8))
