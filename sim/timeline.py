# SPDX-License-Identifier: BSD-2-Clause
"""What a run did when: passes, tiles, loads, and what was waited for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.fixed import Int
from golden.program import PassInfo, Program
from rtl.config import Config
from rtl.isa import Stall

__all__ = ["Levels", "PassSpan", "Span", "TileLoad", "Timeline", "names_of"]


def names_of(kind: Any, *without: str) -> dict[int, str]:
    """Return the names of the values of an enumeration, in lower case, ``without`` some."""
    return {member.value: name.lower() for name, member in kind.__members__.items()
            if name.lower() not in without}


@dataclass(frozen=True, kw_only=True)
class Span:
    """What was so from cycle ``begin`` on, and no longer in cycle ``end``."""

    name: str
    begin: int
    end: int

    @property
    def cycles(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, kw_only=True)
class TileLoad(Span):
    """How a tile came into the shadow registers.

    Members
    -------
    parts
        ``swap``: waits until the one before is swapped in; ``weight``, ``operand``: waits for the
        first row; ``load``: from the first row to the last; ``filled``: waits until it is taken.
    waited
        Cycles of ``load`` without a row.
    """

    parts: tuple[Span, ...]
    waited: int


@dataclass(frozen=True, kw_only=True)
class PassSpan(Span):
    """One pass at the issue stage, from its first tile to its last; the name is its stage.

    Members
    -------
    info, image
        What it is, and the number of the image that it works on, or of the round of a batch.
    tiles, loads
        Its tiles in order, named by column and K tile, and how they were loaded.
    written
        From the first row that leaves the epilogue to the last.
    queued, retired
        Cycles in which it became one of the passes under way, and was one no longer.
    """

    info: PassInfo
    image: int
    tiles: tuple[Span, ...]
    loads: tuple[TileLoad, ...]
    written: Span
    queued: int
    retired: int

    @property
    def block(self) -> str:
        """Name of its block or selector."""
        return self.info.stage.split(".")[0]


@dataclass(frozen=True)
class Levels:
    """Values over time: ``values[i]`` from ``cycles[i]`` on."""

    cycles: Int
    values: Int

    def at(self, cycles: Int) -> Int:
        """Return the values in ``cycles``."""
        return self.values[np.searchsorted(self.cycles, cycles, side="right") - 1]

    def sums(self, edges: Int) -> NDArray[np.float64]:
        """Return the sum over the cycles between each two of ``edges``."""
        total = np.concatenate([[0], np.cumsum(self.values[:-1] * np.diff(self.cycles))])
        last = np.searchsorted(self.cycles, edges, side="right") - 1
        return np.diff(total[last] + self.values[last] * (edges - self.cycles[last])).astype(float)

    def spans(self, begin: int, end: int, names: Mapping[int, str]) -> Iterator[Span]:
        """Give what was so between two cycles; values without a name are left out."""
        first = int(np.searchsorted(self.cycles, begin, side="right")) - 1
        last = int(np.searchsorted(self.cycles, end))
        value, since = int(self.values[first]), begin
        for at, now in zip(self.cycles[first + 1:last].tolist(),
                           self.values[first + 1:last].tolist(), strict=True):
            if now == value:
                continue
            if value in names:
                yield Span(name=names[value], begin=since, end=at)
            value, since = now, at
        if value in names:
            yield Span(name=names[value], begin=since, end=end)


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A run, of one image or several, from its start to its end.

    Members
    -------
    program, images
        What ran, and the names of the images; those of a batch are one.
    begin, end
        Cycles of the bench; the run is over in ``end``.
    causes
        What the issue stage did: ``Stall``.
    passes, instructions, loads
        In order. Loads are those of the load unit.
    selectors
        For each selector what it did.
    weights
        Rows in the weight FIFO.
    read, written
        For each port that can, whether it moves a beat.
    """

    program: Program
    images: tuple[str, ...]
    begin: int
    end: int
    causes: Levels
    passes: tuple[PassSpan, ...]
    instructions: tuple[Span, ...]
    loads: tuple[Span, ...]
    selectors: tuple[tuple[Span, ...], ...]
    weights: Levels
    read: tuple[Levels, ...]
    written: tuple[Levels, ...]

    @property
    def config(self) -> Config:
        return self.program.config

    @property
    def cycles(self) -> int:
        return self.end - self.begin

    def windows(self, count: int) -> Int:
        """Return the edges of ``count`` windows of the same length, or of as many as can be."""
        edges = np.linspace(self.begin, self.end, min(max(1, count), self.cycles) + 1)
        return edges.round().astype(np.int64)

    def stalls(self) -> Iterator[Span]:
        """Give what the issue stage waited for, in order."""
        return self.causes.spans(self.begin, self.end, names_of(Stall, "busy"))

    def shares(self, edges: Int) -> dict[str, NDArray[np.float64]]:
        """Return for each cause its part of the cycles between each two of ``edges``."""
        return {name: Levels(self.causes.cycles,
                             (self.causes.values == value).astype(np.int64)).sums(edges)
                / np.diff(edges) for value, name in names_of(Stall).items()}

    def reading(self, edges: Int) -> NDArray[np.float64]:
        """Return which part of what all ports can read they do between each two of ``edges``."""
        return sum(levels.sums(edges) for levels in self.read) / np.diff(edges) / len(self.read)
