# SPDX-License-Identifier: BSD-2-Clause
"""Watchdog: it fires after exactly its time without progress, and until something moves."""

import pytest
from amaranth.sim import Simulator

from rtl.watchdog import Watchdog

CYCLES = 64


@pytest.mark.parametrize("timeout", [0, 1, 16, 40])
@pytest.mark.parametrize("moves", [(0,), (0, 5), (0, 1, 2, 3), (0, 15, 31), (0, 44)])
def test_watchdog(timeout, moves):
    dut = Watchdog()

    async def bench(ctx):
        ctx.set(dut.timeout, timeout)
        last = 0
        for cycle in range(CYCLES):
            ctx.set(dut.moves, cycle in moves)
            late = cycle >= last + timeout + Watchdog.LATENCY
            assert ctx.get(dut.hung) == (cycle > 0 and late), cycle
            last = cycle if cycle in moves else last
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def test_all_bits_of_the_timeout_count():
    dut = Watchdog()

    async def bench(ctx):
        ctx.set(dut.timeout, 0xFFFFFFFF)
        ctx.set(dut.moves, 1)
        await ctx.tick()
        ctx.set(dut.moves, 0)
        await ctx.tick().repeat(CYCLES)
        assert not ctx.get(dut.hung)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
