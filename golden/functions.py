# SPDX-License-Identifier: BSD-2-Clause
"""Layers, GELU, softmax and LayerNorm in integers, on whole arrays: docs/arithmetic.md."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.fixed import Int, round_shift, saturate
from golden.layers import Linear, Norm
from rtl.isa import (
    ACC_BITS,
    EXP_FRAC,
    LANE_FRAC,
    LANE_LAYOUT_ROWS,
    LANE_T,
    LANE_X_BITS,
    MANTISSA_BITS,
    MEAN_FRAC,
    SCALAR_FRAC,
    SCALAR_T,
    SUM_BITS,
    VAR_BITS,
)

__all__ = ["apply", "exp_int", "exponential", "gelu_int", "gelu_raw", "inverse", "matmul",
           "norm_rows", "norm_scale", "normalised", "poly", "power", "reciprocal", "requantise"]

#: Bits of the fraction of a normalised mantissa.
_FRACTION_BITS = 16
#: Bits of the sum of a row, and of the sum of its squares, that LayerNorm takes.
_NORM_SUM_BITS = 26
_NORM_SUMSQ_BITS = 40
#: Bits of the mean.
_MEAN_BITS = 24
#: Largest shift of a scale.
_MAX_SHIFT = 47
#: Largest ``-p`` of the softmax: exponentials of 16 and more are zero anyway.
_EXP_LIMIT = (1 << 17) - 1
#: Whole powers of two that leave nothing of an exponential of 8 bits.
_EXP_ZERO = 8


def matmul(a: NDArray[np.integer], b: NDArray[np.integer]) -> Int:
    """Return the matrix product of integers whose sums stay below 2**53."""
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)


def requantise(value: Int, m: Int | int, s: Int | int) -> Int:
    """Return ``sat(round_shift(value * m, s), 27)``."""
    return saturate(round_shift(value * m, s), ACC_BITS)


def apply(layer: Linear, x: Int) -> Int:
    """Return the requantised outputs of a layer, before they are limited to those of its kind."""
    return requantise(matmul(x, layer.weight.T) + layer.bias, layer.m, layer.s)


def poly(table: Int, row: ArrayLike, t: ArrayLike, shift: int) -> Int:
    """Return ``c0 + t * (c1 + t * c2)`` with ``shift`` fraction bits in t, rounded after each t."""
    row, t = np.asarray(row, np.int64), np.asarray(t, np.int64)
    h = table[row, 1] + round_shift(table[row, 2] * t, shift)
    return table[row, 0] + round_shift(h * t, shift)


def gelu_raw(table: Int, x: ArrayLike) -> Int:
    """Return the lane polynomial of x (signed 18 bits), ``LANE_FRAC`` fraction bits too many."""
    x = _within("x", x, -(1 << (LANE_X_BITS - 1)), (1 << (LANE_X_BITS - 1)) - 1)
    segments = LANE_LAYOUT_ROWS["gelu"][1]
    position = x + (segments // 2 << LANE_T)
    row = position >> LANE_T
    low, high = row < 0, row >= segments
    row = np.where(low, LANE_LAYOUT_ROWS["gelu_low"][0], row)
    row = np.where(high, LANE_LAYOUT_ROWS["gelu_high"][0], row)
    return poly(table, row, np.where(low | high, x, position % (1 << LANE_T)), LANE_T)


def gelu_int(table: Int, x: ArrayLike) -> Int:
    """Return GELU, or what else is in the table ``[34, 3]``, of x: int8."""
    return saturate(round_shift(gelu_raw(table, x), LANE_FRAC), 8)


def exp_int(table: Int, f: ArrayLike) -> Int:
    """Return ``255 * 2**-f`` of the fraction f (13 bits) with 8 fraction bits: 0..65407.

    The limit is the greatest value that still rounds to 255.
    """
    f = _within("f", f, 0, (1 << EXP_FRAC) - 1)
    return np.clip(poly(table, f >> LANE_T, f % (1 << LANE_T), LANE_T), 0, (255 << 8) + 127)


def power(table: Int, score: Int, top: Int, exp_m: int, exp_s: int) -> tuple[Int, Int]:
    """Return ``(e16, z)`` of scores less ``top``, the maximum of their row: ``e16 * 2**-z``."""
    p = round_shift(((score << MEAN_FRAC) - (top << MEAN_FRAC)) * exp_m, exp_s)
    # Only columns beyond the tokens, which are not used, may hold more than the maximum.
    u = np.clip(-p, 0, _EXP_LIMIT)
    return exp_int(table, u % (1 << EXP_FRAC)), u >> EXP_FRAC


def exponential(table: Int, score: Int, top: Int, exp_m: int, exp_s: int) -> Int:
    """Return the exponential of scores less ``top``, the maximum of their row: 0..255."""
    e16, z = power(table, score, top, exp_m, exp_s)
    return np.where(z > _EXP_ZERO, 0, round_shift(e16, 8 + np.minimum(z, _EXP_ZERO)))


def normalised(x: Int, mean: Int, m: Int, s: Int) -> Int:
    """Return the output of LayerNorm, int8, of residual ``x`` with the statistics of its row."""
    return saturate(round_shift(((x << MEAN_FRAC) - mean) * m, s), 8)


def inverse(table: Int, total: ArrayLike) -> tuple[Int, Int]:
    """Return ``(r, n)`` of sums of 18 bits: ``1 / total`` is ``r * 2**(n - 34)``."""
    total = _within("row sum", total, 1, (1 << SUM_BITS) - 1)
    n = SUM_BITS - _bit_length(total)
    f = (total << n) - (1 << (SUM_BITS - 1)) >> (SUM_BITS - 1 - _FRACTION_BITS)
    return _mantissa(poly(table, f >> SCALAR_T, f % (1 << SCALAR_T), SCALAR_T)), n


def reciprocal(table: Int, total: ArrayLike, scale_m: int, scale_s: int) -> tuple[Int, Int]:
    """Return the scale ``(m, s)`` of rows whose exponentials have the sum ``total``."""
    _within("scale_s", scale_s, SUM_BITS, _MAX_SHIFT)
    r, n = inverse(table, total)
    return _scaled(r, scale_m), scale_s - n


def norm_scale(table: Int, total: ArrayLike, squares: ArrayLike, channels: int, mean_m: int,
               mean_s: int, scale_m: int, scale_s: int, epsilon: int) -> tuple[Int, Int, Int]:
    """Return ``(mean, m, s)`` of LayerNorm of rows with the sums ``total`` and ``squares``."""
    total = _within("sum", total, -(1 << (_NORM_SUM_BITS - 1)), (1 << (_NORM_SUM_BITS - 1)) - 1)
    squares = _within("sum of squares", squares, 0, (1 << _NORM_SUMSQ_BITS) - 1)
    _within("scale_s", scale_s, VAR_BITS // 2, _MAX_SHIFT)
    mean = saturate(round_shift(total * mean_m, mean_s), _MEAN_BITS)
    variance = _within("scaled variance", channels * squares - total * total + epsilon,
                       1, (1 << (VAR_BITS - 1)) - 1)
    n = VAR_BITS - _bit_length(variance) & ~1
    a = variance << n
    b = a >> (VAR_BITS - 1)
    f = (a >> (VAR_BITS - 2 + b - _FRACTION_BITS)) % (1 << _FRACTION_BITS)
    row = (b << (_FRACTION_BITS - SCALAR_T)) + (f >> SCALAR_T)
    m = _scaled(_mantissa(poly(table, row, f % (1 << SCALAR_T), SCALAR_T)), scale_m)
    return mean, m, scale_s - n // 2


def norm_rows(table: Int, rows: Int, norm: Norm) -> tuple[Int, Int, Int, Int, Int]:
    """Return sum, sum of squares, mean, m and s of each row, for LayerNorm."""
    total, squares = rows.sum(axis=1), np.square(rows).sum(axis=1)
    return (total, squares, *norm_scale(table, total, squares, norm.channels, norm.mean.m,
                                        norm.mean.s, norm.scale.m, norm.scale.s, norm.epsilon))


def _mantissa(y: Int) -> Int:
    """Return the output ``y`` of a scalar polynomial as a mantissa."""
    return np.minimum(round_shift(y, SCALAR_FRAC), (1 << MANTISSA_BITS) - 1)


def _scaled(r: Int, scale_m: int) -> Int:
    """Return the mantissa ``r * scale_m``."""
    return np.minimum(round_shift(r * scale_m, MANTISSA_BITS), (1 << MANTISSA_BITS) - 1)


def _bit_length(value: Int) -> Int:
    """Return the number of bits of each value, below 2**53: exact, as these are exact floats."""
    return np.frexp(value.astype(np.float64))[1].astype(np.int64)


def _within(name: str, value: ArrayLike, low: int, high: int) -> Int:
    """Return the value as int64; it must be within the limits of its hardware field."""
    value = np.asarray(value, np.int64)
    if np.any((value < low) | (value > high)):
        bad = value[(value < low) | (value > high)].flat[0]
        raise ValueError(f"{name} is {bad}, must be between {low} and {high}")
    return value
