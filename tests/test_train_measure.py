# SPDX-License-Identifier: BSD-2-Clause
"""Measuring: batches one after another are the same as all images at once."""

import numpy as np
import torch

from golden.model import MODELS
from golden.pruning import PruningConfig
from golden.train_data import Batch, SceneData
from golden.train_measure import measure
from golden.trainable import TrainableViT
from golden.trainable_pruning import TrainablePrunedViT

SCENES = MODELS["scenes"]


def parts(batch):
    """Return a batch of 5 as one of 3 and one of 2."""
    return [Batch(*(None if value is None else value[rows] for value in (
        batch.images, batch.labels, batch.places, batch.scores)))
        for rows in (slice(0, 3), slice(3, 5))]


def test_dense_network():
    network = TrainableViT(SCENES)
    network.initialise(torch.Generator().manual_seed(0))
    batch, = SceneData(SCENES).fixed("validation", 48, 5)
    found = measure(network, parts(batch))
    tops = network(batch.images, batch.places).argmax(-1)
    assert found.right.tolist() == (tops == batch.labels).tolist()
    assert found.keeps.shape == (5, 0, 100)
    right = Batch(batch.images, tops, batch.places)
    assert measure(network, [right]).right.all()


def test_network_with_selectors():
    network = TrainablePrunedViT(SCENES, PruningConfig(selector="topk", blocks=(1, 2),
                                                       rates=(0.5, 0.25)))
    network.initialise(torch.Generator().manual_seed(0))
    batch, = SceneData(SCENES).fixed("validation", 120, 5, "oracle")
    found = measure(network, parts(batch))
    assert found.keeps.shape == (5, 2, 100) and found.keeps.dtype == np.bool_
    assert found.keeps.sum(2).tolist() == 5 * [[50, 25]]
    expected = network(batch.images, scores=batch.scores).keeps
    assert np.array_equal(found.keeps, torch.stack(expected, 1).bool())
    assert found.right.dtype == np.bool_ and found.right.shape == (5,)
