# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.panels: which pixels are dimmed, and where the panels are."""

import numpy as np

from golden.model import MODELS
from golden.panels import dim, panels
from golden.pruning import Step

TINY = MODELS["tiny_test"]
FRAME = np.random.default_rng(0).integers(50, 256, (48, 48, 3), np.uint8)


def test_only_pruned_patches_are_dimmed() -> None:
    dimmed = dim(TINY, FRAME, [0, 5])
    for place in range(9):
        row, column = divmod(place, 3)
        rows, columns = slice(16 * row, 16 * row + 16), slice(16 * column, 16 * column + 16)
        before, after = FRAME[rows, columns], dimmed[rows, columns]
        if place in (0, 5):
            assert np.array_equal(before, after), place
        else:
            assert after.max() <= 51 and after.min() >= 10, place
    assert np.array_equal(dim(TINY, FRAME, range(9)), FRAME)
    assert dim(TINY, FRAME, []).max() <= 51


def test_one_panel_for_each_selector() -> None:
    steps = [Step(1, 10, 4, tuple(range(9)), (1, 2), True), Step(2, 4, 3, (1, 2), (2,), True)]
    for shown in ([], steps[:1], steps):
        picture = np.asarray(panels(TINY, FRAME, shown))
        side = 7 * 48
        assert picture.shape == (side + 39, max(1, len(shown)) * (side + 8) + 8, 3)
        views = [dim(TINY, FRAME, step.kept) for step in shown] or [FRAME]
        for i, view in enumerate(views):
            left = 8 + i * (side + 8)
            assert np.array_equal(picture[31:31 + side:7, left:left + side:7], view), i
            assert picture[:31, left:left + side].min() < 100, "a caption"
