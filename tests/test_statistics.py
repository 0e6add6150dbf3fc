# SPDX-License-Identifier: BSD-2-Clause
"""Statistics: sums of enabled blocks over column tiles, and the mean and scale that are read."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from golden.fit import rsqrt_table
from golden.fixed import mantissa
from golden.functions import norm_scale
from rtl.config import Config, named
from rtl.statistics import Square, Statistics
from tests.pipeline import assert_equal, run, table_writes, tiles

TINY = named("tiny")
WIDE = Config(**{**TINY.to_dict(), "columns": 32, "max_tokens": 198})
TABLE = rsqrt_table()
TRACES = ("norm_valid", "norm_row", "norm_sum", "norm_sumsq", "norm_mean", "norm_scale")


def _parameters(channels):
    mean_m, mean_s = mantissa(256 / channels)
    return {"channels": channels, "mean_m": mean_m, "mean_s": mean_s, "scale_m": 98765,
            "scale_s": 40, "epsilon": 12345}


@pytest.mark.parametrize("config", [TINY, WIDE], ids=["16x16", "16x32"])
@pytest.mark.parametrize("rows, count", [(1, 4), (16, 3), (40, 3)])
def test_rows(config, rows, count):
    rng = np.random.default_rng(rows)
    schedule = tiles(rng, rows=rows, tiles=count, max_rows=config.max_tokens)
    cycles = len(schedule["row"])
    schedule["last"] = np.repeat(np.arange(count) == count - 1, cycles // count)
    x = rng.integers(-32768, 32768, (cycles, config.columns)) >> rng.integers(0, 14, (cycles, 1))
    x[rng.random(cycles) < 0.1] = -32768
    x[rng.random(cycles) < 0.1] = 32767
    enable = rng.integers(0, 1 << config.column_blocks, cycles)
    parameters = _parameters(config.columns * count)
    dut = Statistics(config)
    got = run(dut, {"data": x, "enable": enable, **schedule,
                    **{name: [v] * cycles for name, v in parameters.items()}},
              dict.fromkeys(TRACES, dut.latency - 1), tables=table_writes(TABLE))

    finished = np.flatnonzero(schedule["valid"] & schedule["last"])
    masked = np.where(np.repeat((enable[:, None] >> np.arange(config.column_blocks)) & 1, 16, 1),
                      x, 0)
    sums = {}
    for i in np.flatnonzero(schedule["valid"]):
        row = schedule["row"][i]
        before = (0, 0) if schedule["first"][i] else sums[row]
        sums[row] = (before[0] + masked[i].sum(), before[1] + (masked[i] ** 2).sum())
    row = schedule["row"][finished]
    total, squares = np.array([sums[r] for r in row]).T
    mean, m, s = norm_scale(TABLE, total, squares, **parameters)
    assert finished.size == rows
    assert_equal("norm_valid", np.flatnonzero(got["norm_valid"]), finished)
    for name, expected in (("norm_row", row), ("norm_sum", total), ("norm_sumsq", squares),
                           ("norm_mean", mean), ("norm_scale", s << 17 | m)):
        assert_equal(name, expected, got[name][finished])


@pytest.mark.parametrize("early", [0, 1])
def test_read_back(early):
    """Each row is read ``latency`` cycles after it entered; one cycle early finds the old one."""
    rng = np.random.default_rng(5)
    rows = TINY.max_tokens
    dut = Statistics(TINY)
    x = rng.integers(-1000, 1000, (rows, 16))
    parameters = _parameters(16)
    mean, m, s = norm_scale(TABLE, x.sum(1), (x ** 2).sum(1), **parameters)

    async def bench(ctx):
        for name, value in parameters.items():
            ctx.set(getattr(dut, name), value)
        for entry in table_writes(TABLE):
            for name, value in entry.items():
                ctx.set(getattr(dut, name), value)
            await ctx.tick()
        ctx.set(dut.write_en, 0)
        for port in (dut.enable, dut.first, dut.last):
            ctx.set(port, 1)
        wait = dut.latency - early
        for cycle in range(rows + wait + 1):
            ctx.set(dut.valid, cycle < rows)
            if cycle < rows:
                ctx.set(dut.row, cycle)
                ctx.set(dut.data, [int(v) for v in x[cycle]])
            row = cycle - wait
            if row > 0:
                got = [ctx.get(dut.read_mean), ctx.get(dut.read_scale.m), ctx.get(dut.read_scale.s)]
                expected = [0 if early else int(v[row - 1]) for v in (mean, m, s)]
                assert got == expected, f"row {row - 1}: expected {expected}, got {got}"
            if 0 <= row < rows:
                ctx.set(dut.read_row, row)
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def test_square():
    x = np.array([0, 1, -1, 32767, -32767, -32768, 181, -12345])
    dut = Square()
    assert_equal("o", x * x, run(dut, {"i": x}, {"o": dut.LATENCY})["o"])
