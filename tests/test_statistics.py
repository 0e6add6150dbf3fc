# SPDX-License-Identifier: BSD-2-Clause
"""Statistics: sums of enabled blocks over column tiles, and the mean and scale that are read."""

from dataclasses import replace

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
FOUR = replace(WIDE, columns=64)
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
    schedule = tiles(rng, rows=rows, tiles=count, max_rows=config.residual_rows)
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


def _mixed(config, rng):
    """Return rows of packages, of pairs and of the residual in turn, with gaps, and what each is.

    Packages are of one row or of many.
    """
    kinds, inputs = [], {name: [] for name in (
        "valid", "row", "first", "last", "pairs", "package", "part", "share", "first_row",
        "last_row", "norm_slot", "enable", "data")}

    def enter(kind, x, **given):
        # What is not given, and what enters in gaps, is random.
        for gap in (*[True] * int(rng.choice((0, 0, 1, 3))), False):
            kinds.append(None if gap else kind)
            values = {name: rng.integers(2) for name in inputs}
            values |= {"row": rng.integers(config.residual_rows), "share": rng.integers(1 << 17),
                       "norm_slot": rng.integers(4),
                       "enable": rng.integers(1 << config.column_blocks),
                       "data": rng.integers(-32768, 32768, config.columns)}
            if not gap:
                values |= {"data": x, **given}
            values |= {name: kinds[-1] == name for name in ("valid", "pairs", "package")}
            for name, value in values.items():
                inputs[name].append(value)

    for turn in range(40):
        count = int(rng.choice((1, 2, 3, 12)))
        cut = np.sort(rng.integers(0, (1 << 16) + 1, count - 1))
        shares = np.diff(np.concatenate([[0], cut, [1 << 16]]))
        lowest, highest = ((-32768, -32767), (32767, 32768), (-32768, 32768))[turn % 3]
        part = int(rng.integers(config.package_parts))
        for k in range(count):
            enter("package", rng.integers(lowest, highest, config.columns), share=shares[k],
                  first_row=k == 0, last_row=k == count - 1, part=part)
        for _ in range(int(rng.integers(3))):
            heads = int(rng.integers(1, config.columns // 2 + 1))
            x = np.zeros(config.columns, np.int64)
            x[:heads] = rng.integers(0, 128, heads)
            x[config.columns // 2:][:heads] = rng.integers(0, 128, heads)
            enter("pairs", x)
        for _ in range(int(rng.integers(3))):
            enter("valid", rng.integers(-32768, 32768, config.columns), first=1, last=1)
    return kinds, {name: np.array(values, np.int64) for name, values in inputs.items()}


@pytest.mark.parametrize("config", [TINY, WIDE, FOUR], ids=["16x16", "16x32", "16x64"])
def test_packages_and_pairs(config):
    kinds, inputs = _mixed(config, np.random.default_rng(9))
    cycles = len(kinds)
    x, half = inputs["data"], config.columns // 2
    at = {kind: np.flatnonzero([k == kind for k in kinds]) for kind in set(kinds)}
    parameters = _parameters(config.columns)
    dut = Statistics(config)
    pairs, traces = dut.pair_latency, dut.latency - 1
    got = run(dut, {**inputs, **{name: [v] * cycles for name, v in parameters.items()}},
              {"package_valid": dut.PACKAGE_LATENCY, "package_data": dut.PACKAGE_LATENCY,
               "pair_valid": pairs, "pair_row": pairs, "pair_weighted": pairs,
               "pair_importance": pairs, **dict.fromkeys(TRACES, traces)},
              tables=table_writes(TABLE))

    ends, expected, total = [], [], None
    for i in at["package"]:
        first = inputs["part"][i] * config.package_lanes
        total = (0 if inputs["first_row"][i] else total) + inputs["share"][i] * x[
            i, first:first + config.package_lanes]
        if inputs["last_row"][i]:
            ends.append(i)
            expected.append((total + (1 << 15)) >> 16)
    assert np.max(expected) == 32767
    assert np.min(expected) == -32768
    assert_equal("package_valid", ends, np.flatnonzero(got["package_valid"]))
    assert_equal("package_data", expected, got["package_data"][ends])

    a, s = x[at["pairs"], :half], x[at["pairs"], half:]
    assert_equal("pair_valid", at["pairs"], np.flatnonzero(got["pair_valid"]))
    assert_equal("pair_row", inputs["row"][at["pairs"]], got["pair_row"][at["pairs"]])
    assert_equal("pair_weighted", (a * s).sum(1), got["pair_weighted"][at["pairs"]])
    assert_equal("pair_importance", a.sum(1), got["pair_importance"][at["pairs"]])

    masked = np.where(np.repeat(
        (inputs["enable"][:, None] >> np.arange(config.column_blocks)) & 1, 16, 1), x, 0)
    assert_equal("norm_valid", at["valid"], np.flatnonzero(got["norm_valid"]))
    assert_equal("norm_sum", masked.sum(1)[at["valid"]], got["norm_sum"][at["valid"]])
    assert_equal("norm_sumsq", (masked ** 2).sum(1)[at["valid"]],
                 got["norm_sumsq"][at["valid"]])


def test_norm_slots():
    """Every slot of every row holds what was written to it last."""
    rng = np.random.default_rng(4)
    rows = TINY.residual_rows
    order = rng.permutation(4 * rows)
    slot, row = order // rows, order % rows
    x = rng.integers(-1000, 1000, (4 * rows, 16))
    parameters = _parameters(16)
    mean, m, s = norm_scale(TABLE, x.sum(1), (x ** 2).sum(1), **parameters)
    dut = Statistics(TINY)
    wait = dut.latency
    writes = {"data": x, "valid": 1, "row": row, "norm_slot": slot, "enable": 1, "first": 1,
              "last": 1, **parameters}
    # Written once, then read once: what is read in the meantime is of no interest.
    inputs = {name: np.concatenate([v, np.zeros((wait + 4 * rows, *v.shape[1:]), np.int64)])
              for name, v in ((n, np.broadcast_to(v, (4 * rows, *np.shape(v)[1:])))
                              for n, v in writes.items())}
    back = np.argsort(order)
    inputs |= {f"read_{name}": np.concatenate([np.zeros(4 * rows + wait, np.int64), v[back]])
               for name, v in (("row", row), ("slot", slot))}
    got = run(dut, inputs, {"read_mean": 1, "read_scale": 1}, tables=table_writes(TABLE))
    assert_equal("read_mean", mean[back], got["read_mean"][-4 * rows:])
    assert_equal("read_scale", (s << 17 | m)[back], got["read_scale"][-4 * rows:])


def test_without_pruning():
    """Nothing of selectors is left, and the scales of rows are where they were."""
    config = replace(TINY, pruning=False)
    dut = Statistics(config)
    assert not {"package", "pairs", "norm_slot", "read_slot"} & set(dut.signature.members)
    rng = np.random.default_rng(8)
    x = rng.integers(-1000, 1000, (20, 16))
    parameters = _parameters(16)
    mean, m, s = norm_scale(TABLE, x.sum(1), (x ** 2).sum(1), **parameters)
    got = run(dut, {"data": x, **{name: [v] * 20 for name, v in (
        *parameters.items(), ("valid", 1), ("enable", 1), ("first", 1), ("last", 1))},
        "row": range(20)}, {"norm_mean": dut.latency - 1, "norm_scale": dut.latency - 1},
        tables=table_writes(TABLE))
    assert_equal("norm_mean", mean, got["norm_mean"])
    assert_equal("norm_scale", s << 17 | m, got["norm_scale"])


@pytest.mark.parametrize("early", [0, 1])
def test_read_back(early):
    """Each row is read ``latency`` cycles after it entered; one cycle early finds the old one."""
    rng = np.random.default_rng(5)
    rows = TINY.residual_rows
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
