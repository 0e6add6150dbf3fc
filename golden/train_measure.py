# SPDX-License-Identifier: BSD-2-Clause
"""What a network in training says of images, and which of their patches it keeps."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from golden.train_data import Batch
from golden.trainable import TrainableViT
from golden.trainable_pruning import TrainablePrunedViT

__all__ = ["Answers", "measure"]


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network says of images.

    Members
    -------
    right
        Whether the class is the right one [images].
    keeps
        Which patches each selector leaves [images, selectors, patches].
    """

    right: NDArray[np.bool_]
    keeps: NDArray[np.bool_]


@torch.no_grad()
def measure(network: TrainableViT, batches: Iterable[Batch]) -> Answers:
    """Return what ``network`` says of one batch or more, as it runs: without noise."""
    right: list[Tensor] = []
    keeps: list[Tensor] = []
    for batch in batches:
        kept: tuple[Tensor, ...] = ()
        if isinstance(network, TrainablePrunedViT):
            output = network(batch.images, scores=batch.scores)
            logits, kept = output.logits, output.keeps
        else:
            logits = network(batch.images, batch.places)
        right.append(logits.argmax(-1) == batch.labels)
        shape = len(logits), 0, network.model.grid ** 2
        keeps.append(torch.stack(kept, 1) > 0 if kept else logits.new_empty(shape).bool())
    return Answers(*(torch.cat(parts).cpu().numpy() for parts in (right, keeps)))
