# SPDX-License-Identifier: BSD-2-Clause
"""A network as it is run: quantised, lowered for a configuration, with a frame and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from golden import integer
from golden.fixed import Int
from golden.images import calibration_frames
from golden.lower import lower
from golden.model import FloatViT, ModelConfig
from golden.packed import PackedError, load
from golden.program import Program, tokens_of
from golden.pruning import PruningConfig
from golden.quantize import QuantizedViT, quantize
from golden.synthetic import SEED
from golden.synthetic_selector import synthetic_selectors
from rtl.config import Config

__all__ = ["LoweredNetwork", "packed_for", "quantized_on_samples"]


@dataclass(frozen=True, eq=False)
class LoweredNetwork:
    """A network for one configuration, and one frame.

    Parameters
    ----------
    qvit
        The network.
    config
        The configuration; a network that does not fit raises ConfigError.
    frame
        Bytes [size, size, 3].
    last_block, batch
        Which rows of the last block are computed, and how many images share weights, as of
        :func:`golden.lower.lower`.
    """

    qvit: QuantizedViT
    config: Config
    frame: NDArray[np.uint8]
    last_block: str = "all"
    batch: int = 1

    @cached_property
    def program(self) -> Program:
        return lower(self.qvit, self.config, last_block=self.last_block, batch=self.batch)

    @cached_property
    def expected(self) -> tuple[Int, int, dict[str, NDArray[np.integer]]]:
        """Logits, top class and named stages of the frame, by the integer twin."""
        return integer.run(self.qvit, self.frame, last_block=self.last_block)

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of the frame at the start, and after each selector."""
        return tokens_of(self.program, self.expected[2])


def packed_for(path: Path, model: ModelConfig) -> QuantizedViT:
    """Return a packed model of ``model``; one of another network raises PackedError, as a broken
    file does. The name and ``eps`` may differ."""
    qvit = load(path)
    if replace(qvit.model, name=model.name, eps=model.eps) != model:
        raise PackedError(f"packed model {path} is of {qvit.model.name}, must be of {model.name}")
    return qvit


def quantized_on_samples(model: ModelConfig, state: Mapping[str, Tensor], weights: str,
                         pruning: PruningConfig | None) -> QuantizedViT:
    """Return a network in integers, its scales from the sample photographs.

    Parameters
    ----------
    model, state
        The network, and its parameters.
    weights
        What they are called.
    pruning
        Its selectors; classifiers of ``threshold`` are synthetic. None for none.
    """
    twin = FloatViT(model, state)
    selectors = (synthetic_selectors(twin, pruning.blocks, SEED)
                 if pruning is not None and pruning.selector == "threshold" else [])
    return quantize(twin, calibration_frames(model.image_size), weights=weights, pruning=pruning,
                    selectors=selectors)
