# SPDX-License-Identifier: BSD-2-Clause
"""Row scales: the hardware equals the integer functions, one row a cycle."""

from fractions import Fraction

import numpy as np
import pytest
from amaranth.sim import Simulator

from golden import fit, functions
from golden.fixed import mantissa, round_shift
from rtl.rowscale import Normalise, NormScale, Reciprocal

MAX_M = (1 << 17) - 1


def _run(dut, bench):
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def _stream(dut, table, rows, outputs, latency):
    """Return the outputs of rows (dictionaries of ports), which enter one a cycle."""
    got = []

    async def bench(ctx):
        if table is not None:
            ctx.set(dut.write_en, 1)
            for i, row in enumerate(table.tolist()):
                ctx.set(dut.write_row, i)
                ctx.set(dut.write_data, dict(zip(("c0", "c1", "c2"), row, strict=True)))
                await ctx.tick()
            ctx.set(dut.write_en, 0)
        for cycle in range(len(rows) + latency):
            if cycle < len(rows):
                for port, value in rows[cycle].items():
                    ctx.set(getattr(dut, port), value)
            if cycle >= latency:
                got.append(tuple(ctx.get(port) for port in outputs))
            await ctx.tick()

    _run(dut, bench)
    return got


def _equal(name, rows, expected, got):
    assert len(got) == len(rows)
    for i, (row, e, g) in enumerate(zip(rows, expected, got, strict=True)):
        assert e == g, f"{name}, row {i} ({row}): expected {e}, got {g}"


@pytest.mark.parametrize(("width", "steps"), [(18, (16, 8, 4, 2, 1)), (54, (32, 16, 8, 4, 2))])
def test_normalise(width, steps):
    dut = Normalise(width=width, steps=steps)
    assert dut.latency == len(steps)
    rng = np.random.default_rng(4)
    values = [v for bit in range(width) for v in
              (1 << bit, (2 << bit) - 1, 1 << bit | int(rng.integers(0, 1 << bit)))]
    got = _stream(dut, None, [{"i": v} for v in values], (dut.o, dut.n), dut.latency)
    for value, (o, n) in zip(values, got, strict=True):
        expected = (width - value.bit_length()) // steps[-1] * steps[-1]
        assert (o, n) == (value << expected, expected), \
            f"normalise({value}): expected {value << expected, expected}, got {o, n}"


def _reciprocals(rows):
    dut = Reciprocal()
    table = fit.reciprocal_table()
    expected = [tuple(int(v) for v in functions.reciprocal(table, r["sum"], r["scale_m"],
                                                           r["scale_s"])) for r in rows]
    got = _stream(dut, table, rows, (dut.o.m, dut.o.s, dut.mantissa, dut.shift), dut.LATENCY)
    _equal("reciprocal", rows, expected, [(m, s) for m, s, _, _ in got])
    for row, (m, s, r, n) in zip(rows, got, strict=True):
        assert n == row["scale_s"] - s == 18 - row["sum"].bit_length(), f"{row}: n is {n}"
        exact = Fraction(1 << 34, row["sum"] << n)
        assert abs(r - exact) <= 4, f"{row}: r is {r}, must be near {float(exact)}"
        assert m == int(round_shift(r * row["scale_m"], 17)), f"{row}: r is {r}, m is {m}"


def test_reciprocal_corners():
    """Every position of the leading one, and the limits of the scale."""
    assert Reciprocal.LATENCY == 14
    sums = {1, (1 << 18) - 1} | {(1 << bit) + d for bit in range(1, 18) for d in (-1, 0, 1)}
    _reciprocals([{"sum": total, "scale_m": m, "scale_s": s} for total in sorted(sums)
                  for m, s in ((1 << 16, 18), (MAX_M, 47), (MAX_M, 18))])


def test_reciprocal_random():
    """All inputs change with every row."""
    rng = np.random.default_rng(5)
    _reciprocals([{"sum": 1 + int(rng.integers(0, (1 << 18) - 1) >> rng.integers(0, 18)),
                   "scale_m": int(rng.integers(1 << 16, 1 << 17)),
                   "scale_s": int(rng.integers(18, 48))} for _ in range(2000)])


def _norms(rows):
    dut = NormScale()
    table = fit.rsqrt_table()
    expected = [tuple(int(v) for v in functions.norm_scale(
        table, r["sum"], r["sumsq"], r["channels"], r["mean_m"], r["mean_s"], r["scale_m"],
        r["scale_s"], r["epsilon"])) for r in rows]
    _equal("norm", rows, expected,
           _stream(dut, table, rows, (dut.mean, dut.o.m, dut.o.s), dut.LATENCY))


def _norm_row(x, epsilon, scale, mean=None):
    mean_m, mean_s = mean or mantissa(256 / len(x))
    return {"sum": int(x.sum()), "sumsq": int((x * x).sum()), "channels": len(x),
            "mean_m": mean_m, "mean_s": mean_s, "scale_m": scale[0], "scale_s": scale[1],
            "epsilon": epsilon}


def test_norm_corners():
    """The smallest and largest variance, sum, mean and scale, and every leading one."""
    assert NormScale.LATENCY == 20
    top = (1 << 15) - 1
    rows = []
    for channels in (2, 16, 384, 1023):
        ramp = np.arange(channels)
        for x in (0 * ramp, 0 * ramp + top, 0 * ramp - top - 1, ramp % 2 * 2 * top - top,
                  ramp % 2 * (-top - 1), ramp == 1, ramp - channels // 2):
            for epsilon in (1, 2, (1 << 32) - 1):
                for scale in ((1 << 16, 27), (MAX_M, 47)):
                    rows.append(_norm_row(x.astype(np.int64), epsilon, scale))
    # 1024 channels of the lowest code overflow the sum of squares by one; these just do not.
    lowest = np.full(1024, -top - 1)
    lowest[0] = top
    rows.append(_norm_row(lowest, 1, (MAX_M, 40)))
    zero = np.zeros(16, np.int64)
    rows += [_norm_row(zero, (1 << bit) + d, (MAX_M, 40)) for bit in range(1, 32)
             for d in (-1, 0, 1)]
    # V has more bits than epsilon: D * Q with a sum of zero.
    rows += [{**_norm_row(zero, 1, (MAX_M, 40)), "sumsq": (1 << bit) - 1, "channels": 1024}
             for bit in range(1, 41)]
    _norms(rows)


def test_norm_random():
    """All inputs change with every row."""
    rng = np.random.default_rng(6)
    rows = []
    for _ in range(2000):
        x = rng.integers(-(1 << 15), 1 << 15, int(rng.integers(1, 1025))) >> rng.integers(0, 16)
        # Any scale of the mean, so that every shift is taken and the limits of the mean too.
        mean = int(rng.integers(1 << 16, 1 << 17)), int(rng.integers(1, 48))
        rows.append(_norm_row(x, 1 + int(rng.integers(0, (1 << 32) - 1) >> rng.integers(0, 32)),
                              (int(rng.integers(1 << 16, 1 << 17)), int(rng.integers(27, 48))),
                              mean))
    _norms(rows)


def test_scales_do_not_reach_their_limit():
    """The hardware does not limit ``r * scale_m``: the largest of both is within 17 bits."""
    table = fit.rsqrt_table()
    _, m, _ = functions.norm_scale(table, 0, 0, 16, 1 << 16, 12, MAX_M, 40, 1)
    assert m == MAX_M - 1, f"m of V = 1: expected {MAX_M - 1}, got {m}"
