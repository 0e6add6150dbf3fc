# SPDX-License-Identifier: BSD-2-Clause
"""What plots of accuracy have in common."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["accuracy_plot"]


@contextmanager
def accuracy_plot(path: Path, title: str, xlabel: str) -> Iterator[Axes]:
    """Give axes to draw accuracies over something on, and write them to a PNG.

    The same lines give the same bytes.
    """
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    yield axes
    axes.set(title=title, xlabel=xlabel, ylabel="top-1, %")
    axes.grid(alpha=0.3)
    axes.legend()
    # The version of matplotlib is no part of the picture.
    figure.savefig(path, dpi=120, metadata={"Software": None})
