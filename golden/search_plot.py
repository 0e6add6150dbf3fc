# SPDX-License-Identifier: BSD-2-Clause
"""The plot of a latency-aware search: accuracy over latency of its tries."""

from collections.abc import Sequence
from pathlib import Path

from golden.latency_aware import ACCEPTED, Found, Try
from golden.plots import accuracy_plot

__all__ = ["draw"]


def draw(path: Path, title: str, accuracy: float, wanted: float, tries: Sequence[Try],
         found: Found | None) -> None:
    """Write a PNG, the same bytes for the same values.

    Parameters
    ----------
    path
        The file.
    title
        What stands above.
    accuracy
        Of the network without selectors.
    wanted
        The latency that is wanted, as a part of that of the network without selectors.
    tries
        Those that were trained are drawn, each with what is new in it.
    found
        What was found, if the search ended.
    """
    with accuracy_plot(path, title, "latency, % of the dense network") as axes:
        axes.axvline(100 * wanted, color="black", linewidth=0.8, linestyle=":", label="wanted")
        trained = [(100 * one.latency, 100 * one.accuracy, one) for one in tries
                   if one.accuracy is not None]
        accepted = [(100.0, 100 * accuracy), *((x, y) for x, y, one in trained
                                               if one.verdict == ACCEPTED)]
        rejected = [(x, y) for x, y, one in trained if one.verdict != ACCEPTED]
        axes.plot(*zip(*accepted, strict=True), "o-", label=ACCEPTED)
        if rejected:
            axes.plot(*zip(*rejected, strict=True), "x", color="tab:red", label="rejected")
        axes.plot([100], [100 * accuracy], "k*", markersize=10, label="dense")
        for i, (x, y, one) in enumerate(trained):
            # Above and below in turn: tries that follow are often close to each other.
            axes.annotate(f"{one.block}: {one.rate:g}", (x, y), xytext=(4, (-10, 4)[i % 2]),
                          textcoords="offset points", fontsize=7)
        if found is not None and found.blocks:
            axes.axvline(100 * found.latency, color="tab:green", linewidth=0.8, label="found")
        # From left to right as the search goes.
        axes.invert_xaxis()
