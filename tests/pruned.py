# SPDX-License-Identifier: BSD-2-Clause
"""Named cases of token pruning: what the float and the integer twin make of composed pictures.

For the twins themselves; networks of any other settings, to lower or to pack, are in
``pruned_networks``.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from networks import NETWORKS
from numpy.typing import NDArray

from golden.integer import Stages, run
from golden.model import FloatViT, ModelConfig
from golden.pruning import PrunedViT, PruningConfig
from golden.quantize import QuantizedViT, quantize
from golden.synthetic import synthetic
from golden.synthetic_selector import composed, synthetic_selectors

__all__ = ["PRUNED", "Pruned", "frames", "model_of", "pruned"]

BLOCKS = (1, 2, 3)


def model_of(name: str) -> ModelConfig:
    """Return a network of :mod:`networks`, of four blocks."""
    return replace(NETWORKS[name], name=f"{name}4", depth=4)


def _topk(*counts: int, package: str = "each") -> PruningConfig:
    return PruningConfig(selector="topk", blocks=BLOCKS, counts=counts, package=package)


#: Network and settings: all head sizes, one patch, all and none kept, with and without merging.
PRUNED: dict[str, tuple[str, PruningConfig]] = {
    "topk": ("small_test", PruningConfig(selector="topk", blocks=BLOCKS, rates=(0.7, 0.5, 0.3))),
    "topk merged": ("small_test", _topk(26, 18, 4, package="merged")),
    "topk gap": ("tiny_test", _topk(5, 5, 1)),
    "topk merged gap": ("tiny_test", _topk(5, 5, 1, package="merged")),
    "topk all": ("tiny_test", _topk(9, 9, 9)),
    "topk none": ("tiny_test", _topk(0, 0, 0, package="merged")),
    "topk one patch": ("two_tokens", _topk(1, 1, 0)),
    "threshold": ("small_test", PruningConfig(blocks=BLOCKS)),
    "threshold merged": ("small_test", PruningConfig(blocks=BLOCKS, package="merged")),
    "threshold head16": ("head16", PruningConfig(blocks=BLOCKS, package="merged")),
    "threshold heads16": ("heads16", PruningConfig(blocks=(2,))),
    "threshold head48": ("head48", PruningConfig(blocks=BLOCKS)),
    "threshold head64": ("head64", PruningConfig(blocks=(1, 3))),
    "threshold one patch": ("two_tokens", PruningConfig(blocks=BLOCKS)),
}


@dataclass(frozen=True)
class Pruned:
    """A network with selectors, a frame, and what the integer twin makes of it."""

    vit: PrunedViT
    qvit: QuantizedViT
    frame: NDArray[np.uint8]
    logits: NDArray[np.int64]
    top1: int
    stages: Stages


def frames(model: ModelConfig, count: int = 4, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Return pictures from empty to full."""
    return [composed(model.image_size, i / (count - 1), seed + i) for i in range(count)]


@lru_cache
def pruned(name: str, functions: str = "exact") -> Pruned:
    """Return one of ``PRUNED``, calibrated on four pictures and run on a fifth."""
    network, pruning = PRUNED[name]
    model = model_of(network)
    twin = FloatViT(model, synthetic(model, 0), functions)
    selectors = (synthetic_selectors(twin, pruning.blocks, 0)
                 if pruning.selector == "threshold" else [])
    qvit = quantize(twin, frames(model), weights="synthetic", pruning=pruning, selectors=selectors)
    frame = composed(model.image_size, 0.6, 77)
    return Pruned(PrunedViT(twin, pruning, selectors), qvit, frame, *run(qvit, frame))
