# SPDX-License-Identifier: BSD-2-Clause
"""The plot of a run: which part of its cycles the array is busy, and what it waits for else."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sim.timeline import Timeline

__all__ = ["draw"]

#: Windows of time over which the plot has the mean.
_WINDOWS = 400

#: Places in the colour map: first the strong colours, without those that look like busy.
_COLORS = (2, 0, 6, 8, 10, 12, 16, 18, 14, 3, 1, 7, 9, 11, 13, 17, 19, 15)

#: Borders that have a name; more would not be legible.
_NAMED = 40


def draw(path: Path, timelines: Sequence[Timeline]) -> None:
    """Write a PNG, the same bytes for the same runs, of runs that follow each other."""
    program = timelines[0].program
    cycles = sum(run.cycles for run in timelines)
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    axes = figure.subplots()
    edges = [run.windows(_WINDOWS * run.cycles // cycles) for run in timelines]
    shares = [run.shares(at) for run, at in zip(timelines, edges, strict=True)]
    # Time goes on from run to run, without what the host does between.
    widths = np.concatenate([np.diff(at) for at in edges])
    position = np.concatenate([[0], np.cumsum(widths)])
    colors = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
    base = np.zeros(len(widths))
    for i, name in enumerate(shares[0]):
        part = 100 * np.concatenate([share[name] for share in shares])
        total = float(part @ widths) / cycles
        axes.stairs(base + part, position, baseline=base, fill=True, linewidth=0,
                    color="tab:green" if name == "busy" else colors[_COLORS[i % len(_COLORS)]],
                    label=f"{name} {total:.1f} %" if total else None)
        base = base + part
    borders = list(_borders(timelines))
    for at, name in borders:
        axes.axvline(at, color="black", linewidth=0.6, linestyle=":")
        if len(borders) <= _NAMED:
            axes.text(at, 101, f" {name}", fontsize=7, rotation=90, va="bottom", clip_on=False)
    axes.set(xlabel="cycles", ylabel="cycles of the issue stage, %", xlim=(0, cycles),
             ylim=(0, 100))
    figure.suptitle(f"{program.model.name} on {program.config.name}: {cycles:,} cycles")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    # The version of matplotlib is no part of the picture.
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})


def _borders(timelines: Sequence[Timeline]) -> Iterator[tuple[int, str]]:
    """Give where blocks and selectors begin, of several images where these do."""
    several = sum(len(run.images) for run in timelines) > 1
    before = 0
    for run in timelines:
        for name, passes in groupby(run.passes, key=lambda one: run.images[one.image] if several
                                    else one.block):
            yield before + next(passes).begin - run.begin, name
        before += run.cycles
