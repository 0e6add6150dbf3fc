# SPDX-License-Identifier: BSD-2-Clause
"""Polynomial evaluators: the hardware equals the integer functions for every code."""

import numpy as np
import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.sim import Simulator

from golden import fit, functions
from rtl.config import named
from rtl.isa import LANE_LAYOUT_ROWS, PolyRow
from rtl.poly import PolyLane, PolyLanes, PolyScalar

CONFIG = named("tiny")
LANES = CONFIG.lanes
X = np.arange(-(1 << 17), 1 << 17)
EXP_ROW = LANE_LAYOUT_ROWS["exp"][0]


class Scalars(Component):
    """Sixteen scalar evaluators, so that one simulated cycle takes sixteen codes."""

    def __init__(self, rows):
        self.rows = rows
        super().__init__({
            "row": In(data.ArrayLayout(range(rows), LANES)),
            "t": In(data.ArrayLayout(12, LANES)),
            "y": Out(data.ArrayLayout(signed(28), LANES)),
            "write_en": In(1),
            "write_row": In(range(rows)),
            "write_data": In(PolyRow),
        })

    def elaborate(self, platform):
        m = Module()
        for i in range(LANES):
            m.submodules[f"poly_{i}"] = poly = PolyScalar(rows=self.rows)
            m.d.comb += [poly.row.eq(self.row[i]), poly.t.eq(self.t[i]), self.y[i].eq(poly.y),
                         poly.write_en.eq(self.write_en), poly.write_row.eq(self.write_row),
                         poly.write_data.eq(self.write_data)]
        return m


def _joined(values, bits):
    """Return one number that holds a row of numbers, as an ArrayLayout does."""
    total = 0
    for value in reversed(values):
        total = total << bits | value & (1 << bits) - 1
    return total


def _split(total, bits):
    sign = 1 << (bits - 1)
    values = ((total >> (i * bits)) & (1 << bits) - 1 for i in range(LANES))
    return [(value ^ sign) - sign for value in values]


async def _write(ctx, dut, table, first=0):
    ctx.set(dut.write_en, 1)
    for i, row in enumerate(table.tolist()):
        ctx.set(dut.write_row, first + i)
        ctx.set(dut.write_data, dict(zip(("c0", "c1", "c2"), row, strict=True)))
        await ctx.tick()
    ctx.set(dut.write_en, 0)


async def _stream(ctx, dut, inputs, bits, latency):
    """Return the outputs of one row of inputs a cycle; ``inputs`` maps ports to [cycles, lanes]."""
    words = [(port.as_value(), [_joined(row, len(port.as_value()) // LANES)
                                for row in values.tolist()]) for port, values in inputs]
    out = dut.y.as_value()
    cycles = len(words[0][1])
    got = []
    for cycle in range(cycles + latency):
        if cycle < cycles:
            for port, values in words:
                ctx.set(port, values[cycle])
        if cycle >= latency:
            got.append(_split(ctx.get(out), bits))
        await ctx.tick()
    return np.array(got)


def _run(dut, bench):
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def _equal(name, codes, expected, got):
    codes, expected, got = (np.asarray(a).ravel() for a in (codes, expected, got))
    wrong = np.flatnonzero(expected != got)
    assert not len(wrong), (f"{name}({codes[wrong[0]]}): expected {expected[wrong[0]]}, got"
                            f" {got[wrong[0]]}; {len(wrong)} of {len(codes)} codes differ")


def test_latency():
    assert PolyScalar.LATENCY == 6
    assert PolyLane.LATENCY == PolyLanes.LATENCY == 7


@pytest.mark.parametrize("name", ["gelu", "sigmoid"])
def test_lanes_every_code(name):
    table = {"gelu": fit.gelu_table(0.0317), "sigmoid": fit.sigmoid_table(1 / 127)}[name]
    dut = PolyLanes(CONFIG)

    async def bench(ctx):
        await _write(ctx, dut, table)
        codes = X.reshape(-1, LANES)
        got = await _stream(ctx, dut, [(dut.x, codes)], 32, dut.LATENCY)
        _equal(name, codes, functions.gelu_raw(table, codes), got)

    _run(dut, bench)


def test_exp_every_code():
    table = fit.exp_table()
    dut = PolyLanes(CONFIG)

    async def bench(ctx):
        await _write(ctx, dut, table, first=EXP_ROW)
        ctx.set(dut.exp, 1)
        codes = np.arange(1 << 13).reshape(-1, LANES)
        got = await _stream(ctx, dut, [(dut.x, codes)], 32, dut.LATENCY)
        # The fit stays within 0..65535: the limits of exp change nothing.
        _equal("exp", codes, functions.exp_int(table, codes), got)

    _run(dut, bench)


@pytest.mark.parametrize("step", [0.0006, 3.0])
def test_lanes_of_extreme_tables(step):
    """The largest and the smallest coefficients, at the corners of the segments."""
    table = fit.gelu_table(step)
    dut = PolyLanes(CONFIG)
    edges = np.arange(-(1 << 14), (1 << 14) + 1, 1 << 10)
    codes = np.concatenate([edges - 1, edges, edges + 1, edges + 511, X[:7], X[-6:], [0, 1, -1]])
    codes = np.resize(codes, (-(-len(codes) // LANES), LANES))

    async def bench(ctx):
        await _write(ctx, dut, table)
        got = await _stream(ctx, dut, [(dut.x, codes)], 32, dut.LATENCY)
        _equal(f"gelu, step {step}", codes, functions.gelu_raw(table, codes), got)

    _run(dut, bench)


def test_exp_and_gelu_alternate():
    """``exp`` belongs to the inputs of its cycle, whatever goes before and after."""
    gelu, exp = fit.gelu_table(0.05), fit.exp_table()
    rng = np.random.default_rng(3)
    dut = PolyLanes(CONFIG)
    modes = rng.integers(0, 2, 300)
    codes = rng.integers(-(1 << 17), 1 << 17, (300, LANES)) >> rng.integers(0, 8, (300, 1))

    async def bench(ctx):
        await _write(ctx, dut, gelu)
        await _write(ctx, dut, exp, first=EXP_ROW)
        for cycle in range(len(modes) + dut.LATENCY):
            if cycle < len(modes):
                ctx.set(dut.exp, int(modes[cycle]))
                ctx.set(dut.x, codes[cycle].tolist())
            if cycle >= dut.LATENCY:
                row = codes[cycle - dut.LATENCY]
                mode = modes[cycle - dut.LATENCY]
                # exp takes the lowest 13 bits of whatever is there.
                expected = (functions.exp_int(exp, row & (1 << 13) - 1) if mode
                            else functions.gelu_raw(gelu, row))
                got = _split(ctx.get(dut.y.as_value()), 32)
                _equal("exp" if mode else "gelu", row, expected, got)
            await ctx.tick()

    _run(dut, bench)


def test_a_row_serves_the_next_cycle():
    """A row written in a cycle is used by the inputs of the next one, not by others' inputs."""
    dut = PolyLanes(CONFIG)
    old, new = fit.gelu_table(0.05), fit.gelu_table(0.04)
    codes = np.full((1, LANES), 12345)
    row = 12345 + (1 << 14) >> 10

    async def bench(ctx):
        await _write(ctx, dut, old)
        await _write(ctx, dut, new[row:row + 1], first=row)
        got = await _stream(ctx, dut, [(dut.x, codes)], 32, dut.LATENCY)
        _equal("gelu", codes, functions.gelu_raw(new, codes), got)
        got = await _stream(ctx, dut, [(dut.x, codes + 1024)], 32, dut.LATENCY)
        _equal("gelu", codes + 1024, functions.gelu_raw(old, codes + 1024), got)

    _run(dut, bench)


@pytest.mark.parametrize(("name", "table"), [("reciprocal", fit.reciprocal_table()),
                                             ("rsqrt", fit.rsqrt_table())])
def test_scalars_every_code(name, table):
    dut = Scalars(len(table))
    codes = np.arange(len(table) << 12).reshape(-1, LANES)
    row, t = codes >> 12, codes & 4095

    async def bench(ctx):
        await _write(ctx, dut, table)
        got = await _stream(ctx, dut, [(dut.row, row), (dut.t, t)], 28, PolyScalar.LATENCY)
        _equal(name, codes, functions.poly(table, row, t, 12), got)

    _run(dut, bench)
