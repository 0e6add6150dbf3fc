# SPDX-License-Identifier: BSD-2-Clause
"""The one rounding rule and the one saturation rule, on integer arrays."""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["Int", "mantissa", "round_shift", "saturate"]

Int = NDArray[np.int64]


def round_shift(value: Int, shift: Int | int) -> Int:
    """Return ``(value + 2**(shift - 1)) >> shift``, half up; ``shift`` is at least one."""
    if np.any(np.asarray(shift) < 1):
        raise ValueError(f"shift is {int(np.min(shift))}, must be at least 1")
    return (value + (np.int64(1) << (np.asarray(shift, np.int64) - 1))) >> shift


def saturate(value: Int, width: int, *, symmetric: bool = False) -> Int:
    """Return ``value`` limited to ``width`` signed bits; ``symmetric`` leaves out the lowest."""
    high = (1 << (width - 1)) - 1
    return np.clip(value, -high if symmetric else -high - 1, high)


def mantissa(scale: float, bits: int = 17) -> tuple[int, int]:
    """Return ``(m, s)``, ``m * 2**-s`` nearest to ``scale`` with ``2**(bits-1) <= m < 2**bits``."""
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale is {scale}, must be positive and finite")
    fraction, exponent = math.frexp(scale)
    m = round(fraction * (1 << bits))
    if m == 1 << bits:
        m, exponent = m >> 1, exponent + 1
    return m, bits - exponent
