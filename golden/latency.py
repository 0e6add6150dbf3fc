# SPDX-License-Identifier: BSD-2-Clause
"""The latency-sparsity table: cycles of one block on the accelerator by its number of tokens."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from golden.model import ModelError, model_named
from golden.pruning import PruningConfig

__all__ = ["LatencyError", "LatencyTable"]


class LatencyError(ValueError):
    """A latency table that cannot be read, or that says nothing of what is asked."""


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Cycles of one network on one configuration, as ``python -m sim.latency`` measures them.

    Parameters
    ----------
    model, config
        Names of the network and of the configuration.
    clock_mhz
        Clock of the configuration.
    dense
        Cycles of an image without selectors, all of it.
    selectors
        Cycles that one selector adds, by kind, where all tokens are still there.
    blocks
        Pairs of tokens and the cycles of one block that has them, in increasing tokens.
    """

    model: str
    config: str
    clock_mhz: float
    dense: int
    selectors: dict[str, int]
    blocks: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not self.clock_mhz > 0:
            raise LatencyError(f"clock_mhz is {self.clock_mhz:g}, must be positive")
        for what, cycles in (("dense", self.dense),
                             *((f"selector {kind}", n) for kind, n in self.selectors.items()),
                             *((f"a block of {tokens} tokens", n) for tokens, n in self.blocks)):
            if cycles < 1:
                raise LatencyError(f"{what} takes {cycles} cycles, must take at least 1")
        if not self.blocks:
            raise LatencyError("there are 0 token counts, must be at least 1")
        for (before, _), (tokens, _) in pairwise(((0, 0), *self.blocks)):
            if tokens <= before:
                raise LatencyError(f"{tokens} tokens follow {before}, must be in increasing order")

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """Read the file that ``python -m sim.latency`` writes."""
        try:
            found = json.loads(path.read_text())
        except OSError as error:
            raise LatencyError(f"latency table {path} cannot be read: {error.strerror}") from None
        except ValueError:
            raise LatencyError(f"latency table {path} is no JSON") from None
        try:
            table = cls(
                model=_entry(found, "model", _text, "text"),
                config=_entry(found, "config", _text, "text"),
                clock_mhz=_entry(found, "clock_mhz", _number, "a number"),
                dense=_entry(found, "dense", _count, "a whole number"),
                selectors=_entry(found, "selectors", _counts, "names with whole numbers"),
                blocks=_entry(found, "blocks", _blocks, "a list of pairs of whole numbers, tokens"
                              " and block_cycles"))
            model_named(table.model)
        except (LatencyError, ModelError) as error:
            raise LatencyError(f"latency table {path}: {error}") from None
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain data, which ``load`` reads."""
        return {**asdict(self), "blocks": [{"tokens": tokens, "block_cycles": cycles}
                                           for tokens, cycles in self.blocks]}

    def block(self, tokens: float) -> float:
        """Return the cycles of a block with so many tokens, linear between the measured ones.

        Below the smallest measured number it is the cycles of that.
        """
        measured, cycles = zip(*self.blocks, strict=True)
        if not 0 < tokens <= measured[-1]:
            raise LatencyError(f"the number of tokens is {tokens:g}, must be above 0 and at most"
                               f" {measured[-1]}, the most that were measured")
        return float(np.interp(tokens, measured, cycles))

    def network(self, tokens: Sequence[float], pruning: PruningConfig) -> float:
        """Return the cycles of an image: those of the dense one, less what its blocks save.

        ``tokens`` are those of each segment: of the model, then what each selector leaves.
        """
        starts = (*pruning.active, model_named(self.model).depth)
        if len(tokens) != len(starts):
            raise LatencyError(f"tokens are given for {len(tokens)} segments, must be"
                               f" {len(starts)}")
        if pruning.active and pruning.selector not in self.selectors:
            raise LatencyError(f"selector {pruning.selector} is not in the latency table, must be"
                               f" one of {', '.join(self.selectors)}")
        whole = self.block(model_named(self.model).tokens)
        cycles = float(self.dense)
        for (start, stop), count in zip(pairwise(starts), tokens[1:], strict=True):
            cycles += (self.selectors[pruning.selector]
                       + (stop - start) * (self.block(count) - whole))
        return cycles

    @property
    def milliseconds(self) -> float:
        """Time of the dense network."""
        return self.dense / self.clock_mhz / 1e3


def _entry(found: Any, name: str, convert: Callable[[Any], Any], must: str) -> Any:
    if not isinstance(found, dict) or name not in found:
        raise LatencyError(f"{name} is missing, must be {must}")
    try:
        return convert(found[name])
    except (KeyError, TypeError):
        raise LatencyError(f"{name} is {found[name]!r}, must be {must}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _counts(value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise TypeError
    return {kind: _count(cycles) for kind, cycles in value.items()}


def _blocks(value: Any) -> tuple[tuple[int, int], ...]:
    return tuple((_count(entry["tokens"]), _count(entry["block_cycles"])) for entry in value)
