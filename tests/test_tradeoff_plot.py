# SPDX-License-Identifier: BSD-2-Clause
"""The plot: a picture, the same bytes for the same values."""

from PIL import Image

from golden.tradeoff_plot import draw

CURVES = {"threshold": [(0.6, 0.9), (0.4, 0.8)], "random": [(0.5, 0.4)]}


def test_same_values_same_bytes(tmp_path):
    files = [tmp_path / f"{name}.png" for name in "abc"]
    draw(files[0], "scenes", 0.97, CURVES)
    # Points are joined in the order of their multiplications.
    draw(files[1], "scenes", 0.97, {**CURVES, "threshold": CURVES["threshold"][::-1]})
    draw(files[2], "scenes", 0.98, CURVES)
    first, second, other = (file.read_bytes() for file in files)
    assert first == second != other
    with Image.open(files[0]) as picture:
        assert picture.size == (900, 540)
