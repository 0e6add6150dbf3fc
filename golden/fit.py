# SPDX-License-Identifier: BSD-2-Clause
"""Minimax fits of the piecewise polynomials that the hardware evaluates, as integer tables."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from golden.fixed import Int, round_shift
from rtl.isa import (
    EXP_FRAC,
    LANE_FRAC,
    LANE_LAYOUT_ROWS,
    LANE_T,
    LANE_X_BITS,
    MANTISSA_BITS,
    RECIPROCAL_ROWS,
    RSQRT_ROWS,
    SCALAR_FRAC,
    SCALAR_T,
    PolyRow,
)

__all__ = ["LANE_X_FRAC", "SIGMOID_SCALE", "exp_table", "fraction_table", "gelu_table",
           "lane_table", "pack", "reciprocal_table", "rsqrt_table", "sigmoid_table"]

Real = NDArray[np.float64]
Function = Callable[[Real], Real]

#: Fraction bits of the input of a lane.
LANE_X_FRAC = 12
#: Half of the range of x that the segments of a lane cover; the tails start there.
LANE_RANGE = 4.0
#: The sigmoid table takes ``x = z / SIGMOID_SCALE``, so that its segments cover z in [-8, 8).
SIGMOID_SCALE = 2.0

#: Exchanges after which a fit has failed; smooth functions take fewer than ten.
_MAX_EXCHANGES = 100


def _remez(y: Real) -> Real:
    """Return the degree-2 polynomial in ``u = t / len(y)`` of least maximum error to ``y[t]``.

    One point is exchanged at a time: on a finite grid this ends at the best polynomial.
    """
    count = len(y)
    u = np.arange(count) / count
    reference = [0, count // 4, 3 * count // 4, count - 1]
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    noise = 1e-13 * float(np.abs(y).max())
    for _ in range(_MAX_EXCHANGES):
        at = u[reference]
        *c, level = np.linalg.solve(np.stack([at ** 0, at, at * at, signs], axis=1), y[reference])
        error = y - (c[0] + u * (c[1] + u * c[2]))
        new = int(np.abs(error).argmax())
        if abs(error[new]) <= abs(level) * (1 + 1e-9) + noise:
            return np.array(c)
        same = (error[new] > 0) == (error[reference] > 0)
        place = int(np.searchsorted(reference, new))
        if place == 0 and not same[0]:
            reference = [new, *reference[:3]]
        elif place == 4 and not same[3]:
            reference = [*reference[1:], new]
        else:
            place = min(place, 3)
            reference[place if same[place] else place - 1] = new
    raise ArithmeticError(f"no minimax polynomial after {_MAX_EXCHANGES} exchanges")


@lru_cache(maxsize=32)
def _curve(function: Function, low: float, high: float, rows: int, shift: int) -> tuple[Real, Real]:
    """Return samples ``[rows, 2**shift]`` of the function over low..high, and their polynomials.

    Neither depends on the scale of the output, so the tables of all layers share them.
    """
    x = low + (high - low) * np.arange(rows << shift) / (rows << shift)
    samples = function(x).reshape(rows, 1 << shift)
    return samples, np.stack([_remez(row) for row in samples])


def _rounded(function: Function, low: float, high: float, rows: int, shift: int,
             unit: float) -> Int:
    """Return the integer coefficients of ``function / unit`` over ``rows`` equal segments."""
    samples, polynomials = _curve(function, low, high, rows, shift)
    real = polynomials / unit
    c2 = np.rint(real[:, 2])
    # u * u is nearest to u (plus a constant), so that is where the rounding of c2 is made good.
    c1 = np.rint(real[:, 1] + real[:, 2] - c2)
    table = np.stack([np.zeros(rows), c1, c2], axis=1).astype(np.int64)
    # c0 centres the error of what the hardware computes, all roundings included.
    t = np.arange(1 << shift)
    h = table[:, 1:2] + round_shift(table[:, 2:3] * t, shift)
    error = samples / unit - round_shift(h * t, shift)
    table[:, 0] = np.rint((error.max(axis=1) + error.min(axis=1)) / 2)
    return table


def _checked(table: Int, name: str) -> Int:
    """Return the table, whose coefficients must fit their fields."""
    for column, field in enumerate(("c0", "c1", "c2")):
        limit = 1 << (PolyRow[field].width - 1)
        bad = np.flatnonzero((table[:, column] < -limit) | (table[:, column] >= limit))
        if len(bad):
            raise ValueError(f"{field} of row {bad[0]} of the {name} table is"
                             f" {table[bad[0], column]}, must be between {-limit} and {limit - 1}")
    return table


def lane_table(function: Function, step: float, *, low: tuple[float, float],
               high: tuple[float, float], name: str) -> Int:
    """Return the table ``[34, 3]`` of a function of x for the lanes.

    Parameters
    ----------
    function
        Vectorised function of real x, fitted over -4..4. Must be a module-level function: its
        samples are kept for the next call.
    step
        The int8 output stands for multiples of this.
    low, high
        The tails: value at ``x = 0`` and slope of the straight lines below -4 and above 4.
    name
        What error messages call the table.
    """
    if not (step > 0 and math.isfinite(step)):
        raise ValueError(f"step of the {name} table is {step}, must be positive and finite")
    unit = step / (1 << LANE_FRAC)
    rows = LANE_LAYOUT_ROWS["gelu"][1]
    segments = _rounded(function, -LANE_RANGE, LANE_RANGE, rows, LANE_T, unit)
    # The slope of a tail is rounded; c0 centres its error over the x whose output is in range.
    reach = max(LANE_RANGE, min(2.0 ** (LANE_X_BITS - 1 - LANE_X_FRAC), 127.5 * step))
    tails = []
    for sign, (value, slope) in ((-1, low), (1, high)):
        x = sign * np.array([LANE_RANGE, reach])
        c1 = np.rint(slope / unit * 2.0 ** (LANE_T - LANE_X_FRAC))
        error = (value + slope * x) / unit - c1 * x * 2.0 ** (LANE_X_FRAC - LANE_T)
        tails.append([int(np.rint(error.mean())), int(c1), 0])
    return _checked(np.concatenate([segments, np.array(tails, np.int64)]), name)


def _gelu(x: Real) -> Real:
    return x / 2 * (1 + np.array([math.erf(v) for v in (x / math.sqrt(2)).tolist()]))


def _sigmoid(x: Real) -> Real:
    return 1 / (1 + np.exp(-SIGMOID_SCALE * x))


def gelu_table(step: float) -> Int:
    """Return the table ``[34, 3]`` of GELU (the exact one, with erf); tails 0 and x."""
    return lane_table(_gelu, step, low=(0, 0), high=(0, 1), name="GELU")


def sigmoid_table(step: float) -> Int:
    """Return the table ``[34, 3]`` of ``sigmoid(SIGMOID_SCALE * x)``; tails 0 and 1."""
    return lane_table(_sigmoid, step, low=(0, 0), high=(1, 0), name="sigmoid")


def _exp(f: Real) -> Real:
    return 255 * np.exp2(-f)


def _reciprocal(mantissa: Real) -> Real:
    return (1 << MANTISSA_BITS) / mantissa


def _rsqrt(value: Real) -> Real:
    return (1 << MANTISSA_BITS) / np.sqrt(value)


def fraction_table(function: Function) -> Int:
    """Return the table ``[8, 3]`` of a function of f in 0..1 for exponentials, 8 fraction bits.

    It must be a module-level function, as for :func:`lane_table`.
    """
    rows = LANE_LAYOUT_ROWS["exp"][1]
    assert rows << LANE_T == 1 << EXP_FRAC
    return _checked(_rounded(function, 0, 1, rows, LANE_T, 2.0 ** -8), "exp")


def exp_table() -> Int:
    """Return the table ``[8, 3]`` of ``255 * 2**-f``, 8 fraction bits."""
    return fraction_table(_exp)


def reciprocal_table() -> Int:
    """Return the table ``[16, 3]`` of ``2**17 / mantissa``, 4 fraction bits."""
    return _checked(_rounded(_reciprocal, 1, 2, RECIPROCAL_ROWS, SCALAR_T, 2.0 ** -SCALAR_FRAC),
                    "reciprocal")


def rsqrt_table() -> Int:
    """Return the table ``[32, 3]`` of ``2**17 / sqrt(value)``, 4 fraction bits.

    The first half is for values 1..2, the second for values 2..4.
    """
    halves = [_rounded(_rsqrt, low, 2 * low, RSQRT_ROWS // 2, SCALAR_T, 2.0 ** -SCALAR_FRAC)
              for low in (1, 2)]
    return _checked(np.concatenate(halves), "reciprocal square root")


def pack(table: Int) -> list[int]:
    """Return the rows of a table as 64-bit words, laid out as PolyRow."""
    return [PolyRow.const(dict(zip(("c0", "c1", "c2"), row, strict=True))).as_bits()
            for row in table.tolist()]
