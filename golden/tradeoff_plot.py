# SPDX-License-Identifier: BSD-2-Clause
"""The plot of accuracy over multiplications."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from golden.plots import accuracy_plot

__all__ = ["draw"]

#: Marker of each kind of selectors.
_MARKERS = {"threshold": "o", "topk": "s", "random": "x", "oracle": "^"}


def draw(path: Path, title: str, dense: float,
         curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Write a PNG, the same bytes for the same values.

    Parameters
    ----------
    path
        The file.
    title
        What stands above.
    dense
        Accuracy of the network without selectors.
    curves
        For each kind of selectors the multiplications of its points, as a part of those of the
        dense network, and their accuracy.
    """
    with accuracy_plot(path, title, "multiplications, % of the dense network") as axes:
        axes.axhline(100 * dense, color="black", linewidth=0.8, linestyle=":")
        axes.plot([100], [100 * dense], "k*", markersize=10, label="dense")
        for kind, points in curves.items():
            macs, accuracy = zip(*sorted(points), strict=True)
            axes.plot([100 * x for x in macs], [100 * x for x in accuracy], marker=_MARKERS[kind],
                      label=kind)
