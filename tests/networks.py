# SPDX-License-Identifier: BSD-2-Clause
"""Small quantised networks for tests, made once."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from golden.integer import Stages, run
from golden.model import FloatViT, ModelConfig, model_named
from golden.quantize import QuantizedViT, quantize
from golden.synthetic import synthetic

__all__ = ["NETWORKS", "Network", "network", "noise"]


def _model(name: str, image_size: int, patch: int, width: int, heads: int, hidden: int,
           **more: object) -> ModelConfig:
    return ModelConfig(name=name, image_size=image_size, patch=patch, width=width, depth=1,
                       heads=heads, hidden=hidden, classes=7, **more)


#: Every head size and number of special tokens; widths and patch rows that are no round number.
NETWORKS: dict[str, ModelConfig] = {m.name: m for m in (
    model_named("tiny_test"),
    model_named("small_test"),
    _model("head16", 32, 8, 48, 3, 80, distilled=True),
    _model("heads16", 16, 8, 176, 11, 48),
    _model("head32", 56, 14, 160, 5, 112),
    _model("head48", 24, 8, 48, 1, 32),
    _model("head64", 48, 6, 64, 1, 208, distilled=True),
    _model("two_tokens", 16, 16, 32, 2, 64),
)}


@dataclass(frozen=True)
class Network:
    """A network with synthetic weights, a frame, and what the integer twin makes of it."""

    twin: FloatViT
    qvit: QuantizedViT
    frame: NDArray[np.uint8]
    logits: NDArray[np.int64]
    top1: int
    stages: Stages


def noise(model: ModelConfig, seed: int) -> NDArray[np.uint8]:
    """Return a frame of random bytes."""
    shape = (model.image_size, model.image_size, model.channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@lru_cache
def network(name: str) -> Network:
    """Return one of ``NETWORKS``, calibrated on two frames and run on a third."""
    model = NETWORKS[name]
    twin = FloatViT(model, synthetic(model, 0))
    qvit = quantize(twin, [noise(model, 1), noise(model, 2)], weights="synthetic")
    frame = noise(model, 3)
    return Network(twin, qvit, frame, *run(qvit, frame))
