# SPDX-License-Identifier: BSD-2-Clause
"""Watchdog: it fires after exactly its time without progress, only in a run, and stays."""

import pytest
from amaranth.sim import Simulator

from rtl.watchdog import Watchdog

CYCLES = 16


class Short(Watchdog):
    """The watchdog with a time that a test can wait for."""

    CYCLES = CYCLES


@pytest.mark.parametrize(("start", "move_at", "end_at", "fires_at"), [
    (True, None, None, CYCLES + 1),
    (True, 5, None, 5 + CYCLES + 2),
    (True, CYCLES - 2, None, 2 * CYCLES),
    (True, None, 3, None),
    (False, None, None, None),
])
def test_watchdog(start, move_at, end_at, fires_at):
    dut = Short()
    fired = []

    async def bench(ctx):
        for cycle in range(4 * CYCLES):
            ctx.set(dut.start, start and cycle == 0)
            ctx.set(dut.moves, cycle == move_at)
            ctx.set(dut.ends, end_at is not None and cycle >= end_at)
            fired.append(ctx.get(dut.hung))
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    first = fired.index(1) if 1 in fired else None
    assert first == fires_at
    assert fires_at is None or all(fired[fires_at:])
