# SPDX-License-Identifier: BSD-2-Clause
"""Integer functions: every input code against the real function, and exact models of the scales."""

import math

import numpy as np
import pytest

from golden import fit, functions
from golden.fixed import mantissa, round_shift

X = np.arange(-(1 << 17), 1 << 17)
FRACTION = np.arange(1 << 16)
MAX_M = (1 << 17) - 1


def _check(name, codes, expected, got, limit):
    error = np.abs(got - expected)
    worst = int(error.argmax())
    assert error[worst] <= limit, (f"{name}({codes[worst]}): expected {expected[worst]}, got"
                                   f" {got[worst]}, error {error[worst]:.3g} above {limit:.3g}")


def _equal(name, codes, expected, got):
    wrong = np.flatnonzero(np.asarray(expected) != np.asarray(got))
    assert not len(wrong), (f"{name}({codes[wrong[0]]}): expected {expected[wrong[0]]}, got"
                            f" {got[wrong[0]]}; {len(wrong)} codes differ")


def _gelu(x):
    return x / 2 * (1 + np.array([math.erf(v / math.sqrt(2)) for v in x.tolist()]))


# Every code

@pytest.mark.parametrize("step", [0.01, 0.0317, 0.05, 0.08, 0.25])
def test_gelu_every_code(step):
    table = fit.gelu_table(step)
    real = _gelu(X / 4096)
    codes = real < 127.5 * step  # above, the output is limited
    raw = functions.gelu_raw(table, X)
    _check("gelu", X[codes], real[codes], raw[codes] * step / 1024, 5e-4)
    got = functions.gelu_int(table, X)
    assert got.min() >= -128
    assert got.max() == 127
    assert (got[~codes] == 127).all()
    # Half a step of the output, and what the tail is off by.
    _check("gelu", X[codes], real[codes], got[codes] * step, step / 2 + 5e-4)


@pytest.mark.parametrize("step", np.geomspace(0.005, 0.5, 13).tolist())
def test_gelu_of_any_step(step):
    """The roundings of the integer table stay far below half a step of the output."""
    codes = X[3::17]
    real = np.minimum(_gelu(codes / 4096), 127.5 * step)
    raw = np.minimum(functions.gelu_raw(fit.gelu_table(step), codes) * step / 1024, 127.5 * step)
    _check(f"gelu, step {step}", codes, real, raw, 1.5e-4 + step / 32)


@pytest.mark.parametrize("step", [1 / 127, 1 / 64])
def test_sigmoid_every_code(step):
    real = 1 / (1 + np.exp(-fit.SIGMOID_SCALE * X / 4096))
    raw = functions.gelu_raw(fit.sigmoid_table(step), X)
    _check("sigmoid", X, real, raw * step / 1024, 5e-4)


def test_exp_every_code():
    f = np.arange(1 << 13)
    got = functions.exp_int(fit.exp_table(), f)
    _check("exp", f, np.ones(len(f)), got / (255 * 256 * np.exp2(-f / (1 << 13))), 1e-4)
    assert got.max() <= 65407
    assert round_shift(got[:1], 8) == 255


def test_reciprocal_polynomial_every_code():
    got = functions.poly(fit.reciprocal_table(), FRACTION >> 12, FRACTION & 4095, 12) / 16
    _check("1/m", FRACTION, np.ones(len(FRACTION)), got * (1 + FRACTION / 65536) / 131072, 5e-5)


@pytest.mark.parametrize("b", [0, 1])
def test_rsqrt_polynomial_every_code(b):
    row = 16 * b + (FRACTION >> 12)
    got = functions.poly(fit.rsqrt_table(), row, FRACTION & 4095, 12) / 16
    value = (1 + FRACTION / 65536) * 2 ** b
    _check("rsqrt", FRACTION, np.ones(len(FRACTION)), got * np.sqrt(value) / 131072, 5e-5)


# Exact models, one row at a time, in Python's integers

def _half_up(value, shift):
    return (2 * value + (1 << shift)) // (1 << (shift + 1))


def _scalar(table, row, t, scale_m):
    c0, c1, c2 = (int(c) for c in table[row])
    y = c0 + _half_up((c1 + _half_up(c2 * t, 12)) * t, 12)
    return min(_half_up(min(_half_up(y, 4), MAX_M) * scale_m, 17), MAX_M)


def _reciprocal(table, total, scale_m, scale_s):
    n = next(n for n in range(18) if 1 << 17 <= total << n < 1 << 18)
    f = ((total << n) >> 1) % 65536
    return _scalar(table, f // 4096, f % 4096, scale_m), scale_s - n


def _norm(table, total, squares, channels, mean_m, mean_s, scale_m, scale_s, epsilon):
    mean = max(-(1 << 23), min((1 << 23) - 1, _half_up(total * mean_m, mean_s)))
    variance = channels * squares - total ** 2 + epsilon
    n = next(n for n in range(0, 54, 2) if 1 << 52 <= variance << n < 1 << 54)
    b = (variance << n) // (1 << 53)
    f = (variance << n) // (1 << (37 if b else 36)) % 65536
    return mean, _scalar(table, 16 * b + f // 4096, f % 4096, scale_m), scale_s - n // 2


@pytest.mark.parametrize(("scale_m", "scale_s"), [(1 << 16, 18), (MAX_M, 47), (0x1abcd, 34)])
def test_reciprocal_is_the_definition(scale_m, scale_s):
    table = fit.reciprocal_table()
    rng = np.random.default_rng(2)
    powers = 1 << np.arange(18)
    totals = np.concatenate([powers, powers[2:] - 1, powers[2:] + 1, [(1 << 18) - 1],
                             rng.integers(1, 1 << 18, 500)])
    m, s = functions.reciprocal(table, totals, scale_m, scale_s)
    expected = [_reciprocal(table, t, scale_m, scale_s) for t in totals.tolist()]
    _equal("reciprocal m", totals, np.array(expected)[:, 0], m)
    _equal("reciprocal s", totals, np.array(expected)[:, 1], s)
    assert (s >= 1).all()
    real = scale_m * 2.0 ** (17 - scale_s) / totals
    # The polynomial 0.8e-5, half a unit of r 0.8e-5 and of m 1.5e-5, the bit lost of f 0.4e-5.
    _check("reciprocal", totals, np.ones(len(totals)), m * 2.0 ** -s / real, 3.5e-5)


def _rows(channels, rng, count):
    """Return sums and sums of squares of rows of every spread, and of the extremes."""
    x = rng.integers(-(1 << 15), 1 << 15, (count, channels))
    x = (x >> rng.integers(0, 16, (count, 1))) + (x[:, :1] >> rng.integers(2, 16, (count, 1)))
    x = np.clip(x, -(1 << 15), (1 << 15) - 1)
    x[0], x[1], x[2] = 0, (1 << 15) - 1, -(1 << 15) + 1
    x[3] = np.where(np.arange(channels) % 2, (1 << 15) - 1, -(1 << 15) + 1)
    x[4] = np.arange(channels) == 0
    return x.sum(axis=1), (x * x).sum(axis=1)


@pytest.mark.parametrize("channels", [16, 64, 192, 384, 768, 1024])
@pytest.mark.parametrize("epsilon", [1, 12345, (1 << 32) - 1])
def test_norm_scale_is_the_definition(channels, epsilon):
    table = fit.rsqrt_table()
    sums, squares = _rows(channels, np.random.default_rng(channels), 60)
    mean_m, mean_s = mantissa(256 / channels)
    scale_m, scale_s = mantissa(channels * 2.0 ** -34 / (1 / 16))
    args = (channels, mean_m, mean_s, scale_m, scale_s, epsilon)
    mean, m, s = functions.norm_scale(table, sums, squares, *args)
    expected = np.array([_norm(table, a, b, *args)
                         for a, b in zip(sums.tolist(), squares.tolist(), strict=True)])
    for i, (name, got) in enumerate((("mean", mean), ("m", m), ("s", s))):
        _equal(f"norm {name}", sums, expected[:, i], got)
    assert (s >= 1).all()
    variance = (channels * squares.astype(float) - sums.astype(float) ** 2 + epsilon)
    real = channels / 256 / np.sqrt(variance) * 16
    # The polynomial 0.3e-5, half a unit of r 0.8e-5 and of m 1.5e-5, the bits lost of f 0.8e-5.
    _check("norm", sums, np.ones(len(sums)), m * 2.0 ** -s / real, 4e-5)
    _check("mean", sums, 256 * sums / channels, mean, 0.5 + abs(sums / channels).max() * 256 * 8e-6)


def test_norm_scale_of_every_position_of_the_leading_one():
    table = fit.rsqrt_table()
    for bit in range(32):
        epsilon = 1 << bit
        got = tuple(int(v) for v in functions.norm_scale(table, 0, 0, 16, 1 << 16, 12, MAX_M, 40,
                                                         epsilon))
        expected = _norm(table, 0, 0, 16, 1 << 16, 12, MAX_M, 40, epsilon)
        assert got == expected, f"norm, V = 2**{bit}: expected {expected}, got {got}"


def test_mean_saturates():
    table = fit.rsqrt_table()
    for sign in (1, -1):
        total = sign * ((1 << 25) - 1)
        mean, _, _ = functions.norm_scale(table, total, 1 << 39, 1024 * 4, MAX_M, 1, 1 << 16, 40, 1)
        expected = (1 << 23) - 1 if sign > 0 else -(1 << 23)
        assert mean == expected, f"mean of {total}: expected {expected}, got {mean}"


# What is refused

@pytest.mark.parametrize(("call", "message"), [
    (lambda: functions.gelu_int(fit.gelu_table(0.1), [0, 1 << 17]),
     "x is 131072, must be between -131072 and 131071"),
    (lambda: functions.exp_int(fit.exp_table(), -1), "f is -1, must be between 0 and 8191"),
    (lambda: functions.reciprocal(fit.reciprocal_table(), [5, 0], 1 << 16, 40),
     "row sum is 0, must be between 1 and 262143"),
    (lambda: functions.reciprocal(fit.reciprocal_table(), 5, 1 << 16, 17),
     "scale_s is 17, must be between 18 and 47"),
    (lambda: functions.norm_scale(fit.rsqrt_table(), 0, 0, 16, 1 << 16, 12, 1 << 16, 26, 1),
     "scale_s is 26, must be between 27 and 47"),
    (lambda: functions.norm_scale(fit.rsqrt_table(), 0, 0, 16, 1 << 16, 12, 1 << 16, 40, 0),
     "scaled variance is 0, must be between 1"),
    (lambda: functions.norm_scale(fit.rsqrt_table(), 0, 1 << 40, 16, 1 << 16, 12, 1 << 16, 40, 1),
     "sum of squares is 1099511627776, must be between 0 and 1099511627775"),
])
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
