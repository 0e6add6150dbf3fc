# SPDX-License-Identifier: BSD-2-Clause
"""The plot of a run: for which part of its cycles the array is busy, and what it waits for else."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sim.timeline import Timeline

__all__ = ["draw"]

#: Windows of time over which the plot has the mean.
_WINDOWS = 400

#: Places in the colour map: first the strong colours, without those that look like busy.
_COLORS = (2, 0, 6, 8, 10, 12, 16, 18, 14, 3, 1, 7, 9, 11, 13, 17, 19, 15)

#: Borders that have a name; more would not be legible.
_NAMED = 40


def draw(path: Path, timelines: Sequence[Timeline]) -> None:
    """Write a PNG, the same bytes for the same runs, of runs that follow each other.

    Above is what the issue stage does, below how much of the memory ports is used and how full the
    weight FIFO is.
    """
    program = timelines[0].program
    cycles = sum(run.cycles for run in timelines)
    edges = [run.windows(_WINDOWS * run.cycles // cycles) for run in timelines]
    # Time goes on from run to run, without what the host does between.
    position = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(at) for at in edges]))])
    figure = Figure(figsize=(12, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    figure.suptitle(f"{program.model.name} on {program.config.name}: {cycles:,} cycles")

    shares = [run.shares(at) for run, at in zip(timelines, edges, strict=True)]
    _stack(above, position, {name: np.concatenate([share[name] for share in shares])
                             for name in shares[0]})
    borders = list(_borders(timelines))
    for at, name in borders:
        above.axvline(at, color="black", linewidth=0.6, linestyle=":")
        if len(borders) <= _NAMED:
            above.text(at, 101, f" {name}", fontsize=7, rotation=90, va="bottom")
    above.set(ylabel="cycles of the issue stage, %", xlim=(0, cycles), ylim=(0, 100))

    for label, parts in (
            ("memory ports, read", [run.reading(at) for run, at in
                                    zip(timelines, edges, strict=True)]),
            ("weight FIFO", [run.weights.at(at[:-1]) / program.config.weight_depth
                             for run, at in zip(timelines, edges, strict=True)])):
        below.stairs(100 * np.concatenate(parts), position, baseline=None, label=label)
    below.set(xlabel="cycles", ylabel="in use, %", ylim=(0, 105))
    below.grid(alpha=0.3)
    below.xaxis.set_major_formatter("{x:,.0f}")
    for axes in (above, below):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    # The version of matplotlib is no part of the picture.
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})


def _stack(axes: Axes, edges: NDArray[np.int64],
           shares: Mapping[str, NDArray[np.float64]]) -> None:
    """Draw the shares of the causes on each other; what there is none of is not in the legend."""
    colors = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
    base = np.zeros(len(edges) - 1)
    for i, (name, share) in enumerate(shares.items()):
        total = 100 * float(share @ np.diff(edges)) / float(edges[-1])
        axes.stairs(base + 100 * share, edges, baseline=base, fill=True, linewidth=0,
                    color="tab:green" if name == "busy" else colors[_COLORS[i % len(_COLORS)]],
                    label=f"{name} {total:.1f} %" if total else None)
        base = base + 100 * share


def _borders(timelines: Sequence[Timeline]) -> Iterator[tuple[int, str]]:
    """Give where blocks and selectors begin, of several images where these do."""
    several = sum(len(run.images) for run in timelines) > 1
    before = 0
    for run in timelines:
        for name, passes in groupby(run.passes, key=lambda one: run.images[one.image] if several
                                    else one.block):
            yield before + next(passes).begin - run.begin, name
        before += run.cycles
