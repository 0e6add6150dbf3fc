# SPDX-License-Identifier: BSD-2-Clause
"""The formulas of docs/arithmetic.md once more, in plain Python integers, element by element."""

from collections.abc import Sequence

from golden.layers import Linear, Norm, Scale

__all__ = ["Row", "Table", "exponent", "gelu", "inverse", "linear", "norm_row", "normal", "poly",
           "rounded", "sat", "scaled"]

Row = Sequence[int]
Table = Sequence[Sequence[int]]


def rounded(x: int, s: int) -> int:
    """Return ``x * 2**-s``, rounded half up."""
    return (x + (1 << (s - 1))) >> s


def sat(x: int, width: int, symmetric: bool = False) -> int:
    """Return x limited to ``width`` bits; ``symmetric`` leaves out the lowest code."""
    high = (1 << (width - 1)) - 1
    return max(-high - (not symmetric), min(high, x))


def poly(table: Table, row: int, t: int, shift: int) -> int:
    """Return the polynomial of a table row, t with ``shift`` fraction bits."""
    c0, c1, c2 = table[row]
    return c0 + rounded((c1 + rounded(c2 * t, shift)) * t, shift)


def linear(layer: Linear, x: Row, j: int) -> int:
    """Return output j of a layer, requantised."""
    acc = sum(w * a for w, a in zip(layer.weight[j].tolist(), x, strict=True))
    return sat(rounded((acc + int(layer.bias[j])) * int(layer.m[j]), int(layer.s[j])), 27)


def exponent(exp: Table, x: int, top: int, scale: Scale) -> tuple[int, int]:
    """Return e16 and z of a score."""
    p = rounded(((x << 8) - (top << 8)) * scale.m, scale.s)
    assert p <= 0
    u = min(-p, 2 ** 17 - 1)
    f = u % 2 ** 13
    return max(0, min(65407, poly(exp, f >> 10, f % 2 ** 10, 10))), u >> 13


def inverse(table: Table, total: int) -> tuple[int, int]:
    """Return r and n of a sum of exponentials."""
    n = next(n for n in range(18) if 2 ** 17 <= total << n)
    f = (total << n) >> 1 & 0xFFFF
    return min(rounded(poly(table, f >> 12, f & 0xFFF, 12), 4), 2 ** 17 - 1), n


def scaled(r: int, scale: Scale) -> int:
    """Return the mantissa of r times a scale."""
    return min(rounded(r * scale.m, 17), 2 ** 17 - 1)


def norm_row(x: Row, norm: Norm, rsqrt: Table) -> tuple[int, ...]:
    """Return sum, sum of squares, mean, m and s of one row."""
    total, squares = sum(x), sum(v * v for v in x)
    mean = sat(rounded(total * norm.mean.m, norm.mean.s), 24)
    variance = len(x) * squares - total * total + norm.epsilon
    n = next(n for n in range(0, 54, 2) if 2 ** 52 <= variance << n)
    a = variance << n
    assert a < 2 ** 54
    b = a >> 53
    f = (a >> 37 if b else a >> 36) & 0xFFFF
    r = min(rounded(poly(rsqrt, 16 * b + (f >> 12), f & 0xFFF, 12), 4), 2 ** 17 - 1)
    return total, squares, mean, scaled(r, norm.scale), norm.scale.s - n // 2


def normal(x: Row, mean: int, m: int, s: int) -> list[int]:
    """Return a row after LayerNorm."""
    return [sat(rounded(((v << 8) - mean) * m, s), 8) for v in x]


def gelu(table: Table, x: int) -> int:
    """Return the lane polynomial of any x, which is limited to 18 bits first."""
    x = sat(x, 18)
    if -2 ** 14 <= x < 2 ** 14:
        y = poly(table, (x + 2 ** 14) >> 10, x % 2 ** 10, 10)
    else:
        y = poly(table, 32 if x < 0 else 33, x, 10)
    return sat(rounded(y, 10), 8)
