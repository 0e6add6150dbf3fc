# SPDX-License-Identifier: BSD-2-Clause
"""Fits: that they are minimax, their integer tables, and what cannot be fitted."""

import time

import numpy as np
import pytest

from golden import fit
from golden.fixed import round_shift
from rtl.isa import PolyRow

TABLES = {
    "gelu": lambda: fit.gelu_table(0.03),
    "gelu coarse": lambda: fit.gelu_table(0.25),
    "sigmoid": lambda: fit.sigmoid_table(1 / 127),
    "exp": fit.exp_table,
    "reciprocal": fit.reciprocal_table,
    "rsqrt": fit.rsqrt_table,
}
ROWS = {"gelu": 34, "gelu coarse": 34, "sigmoid": 34, "exp": 8, "reciprocal": 16, "rsqrt": 32}


@pytest.mark.parametrize("curve", [
    np.exp,
    lambda u: u ** 3,
    lambda u: np.abs(u - 0.3),
    lambda u: np.sin(9 * u),
    lambda u: np.where(u < 0.5, 0.0, 1.0),
], ids=["exp", "cubic", "kink", "waves", "step"])
def test_remez_error_alternates(curve):
    """The best polynomial is the one whose error reaches its limit 4 times in turn."""
    u = np.arange(1024) / 1024
    y = curve(u)
    c = fit._remez(y)
    error = y - (c[0] + c[1] * u + c[2] * u * u)
    limit = np.abs(error).max()
    extremes = np.sign(error[np.abs(error) > limit * (1 - 1e-6)])
    turns = 1 + int(np.count_nonzero(np.diff(extremes)))
    assert turns >= 4, f"error reaches {limit} with {turns} alternating signs, expected 4"


def test_remez_of_a_parabola_is_the_parabola():
    u = np.arange(1024) / 1024
    c = fit._remez(3 - 2 * u + 5 * u * u)
    assert np.allclose(c, [3, -2, 5], atol=1e-9), f"expected 3, -2, 5, got {c}"


@pytest.mark.parametrize("name", TABLES)
def test_tables(name):
    table = TABLES[name]()
    assert table.shape == (ROWS[name], 3)
    assert table.dtype == np.int64
    for column, bits in enumerate((24, 20, 18)):
        worst = np.abs(table[:, column]).max()
        assert worst < 1 << (bits - 1), f"{name}: c{column} is {worst}, expected {bits} bits"
    if ROWS[name] == 34:
        assert not table[32:, 2].any(), f"{name}: c2 of the tails is {table[32:, 2]}, expected 0"


@pytest.mark.parametrize("name", TABLES)
def test_fits_repeat(name):
    first = TABLES[name]()
    fit._curve.cache_clear()
    assert np.array_equal(first, TABLES[name]())


@pytest.mark.parametrize("step", [0.0317, 0.05, 0.08, 0.3])
def test_gelu_tails_are_zero_and_x(step):
    low, high = fit.gelu_table(step)[32:]
    assert low.tolist() == [0, 0, 0]
    x = np.arange(1 << 14, min(1 << 17, round(127.5 * step * 4096)))
    error = high[0] + round_shift(high[1] * x, 10) - x / 4096 / step * 1024
    # The slope is an integer. Over x of 4..32 half a unit of it is 14 * 2 units at either end.
    assert np.abs(error).max() < 30, f"step {step}: tail is off by {np.abs(error).max()} / 1024"


def test_sigmoid_tails_are_zero_and_one():
    assert fit.sigmoid_table(1 / 128)[32:].tolist() == [[0, 0, 0], [128 << 10, 0, 0]]


@pytest.mark.parametrize("name", TABLES)
def test_pack_is_the_layout(name):
    table = TABLES[name]()
    words = fit.pack(table)
    for i, (row, word) in enumerate(zip(table.tolist(), words, strict=True)):
        assert 0 <= word < 1 << 64
        fields = PolyRow.from_bits(word)
        got = [fields.c0, fields.c1, fields.c2]
        assert got == row, f"{name} row {i}: expected {row}, got {got}"


@pytest.mark.parametrize("step", [0.0, -0.1, float("nan"), float("inf")])
def test_step_must_be_positive(step):
    with pytest.raises(ValueError, match=r"step of the GELU table is .*, must be positive"):
        fit.gelu_table(step)


def test_coefficients_must_fit():
    with pytest.raises(ValueError, match=r"c0 of row \d+ of the GELU table is \d+, "
                                         r"must be between -8388608 and 8388607"):
        fit.gelu_table(1e-4)
    with pytest.raises(ValueError, match=r"c1 of row \d+ of the GELU table is \d+, "
                                         "must be between -524288 and 524287"):
        fit.gelu_table(256 / 524800)


def test_refit_is_fast():
    """Every layer has a table of its own."""
    fit.gelu_table(0.03)
    start = time.perf_counter()
    for step in np.linspace(0.02, 0.1, 20):
        fit.gelu_table(float(step))
    each = (time.perf_counter() - start) / 20
    assert each < 0.05, f"a table takes {each:.3f} s, expected less than 0.05 s"
