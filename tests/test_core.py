# SPDX-License-Identifier: BSD-2-Clause
"""The timeline of the core, what it counts at the end of it, and what it says it waits for.

Whole programs run on the emitted Verilog, in sim/; this is what can be seen without.
"""

import random
from dataclasses import replace
from itertools import product

import pytest
from amaranth.hdl import Elaboratable, Module, Value
from amaranth.sim import Simulator

from rtl import isa
from rtl.config import CONFIGS, MIN_TILE_CYCLES, PASS_SLOTS, SCALE_SLOTS, named
from rtl.core import Core
from rtl.dispatch import Activity
from rtl.issue import RowIssue
from rtl.pipeline import RowPipeline
from rtl.sequencing import connect_sequencer

#: Cycles from the issue of a row to: prologue, array, accumulators, epilogue, write, retirement.
#: They add up from the latencies of the blocks; a change here is a change of every cycle count.
TIMELINE = {
    "nano": (2, 21, 35, 38, 59, 88),
    "tiny": (2, 21, 35, 38, 59, 88),
    "ulx3s": (2, 21, 35, 38, 59, 88),
    "small": (2, 21, 37, 40, 61, 91),
    "kv260": (2, 21, 41, 44, 65, 95),
    "zcu104": (2, 21, 38, 41, 62, 92),
    "zcu102": (2, 21, 42, 45, 66, 96),
}
#: Arrays so long and narrow that the sums of rows take longer than the products.
NARROW = [replace(named("zcu104"), rows=rows, columns=16, ports=1, port_bits=32)
          for rows in (32, 64, 128)]
ALL = [*CONFIGS.values(), *NARROW]


def _name(config):
    return f"{config.name}-{config.rows}x{config.columns}"


@pytest.mark.parametrize("name", CONFIGS)
def test_timeline(name):
    core = Core(CONFIGS[name])
    assert (core.at_prologue, core.at_array, core.at_accumulator, core.at_epilogue, core.at_write,
            core.at_retire) == TIMELINE[name]


@pytest.mark.parametrize("config", ALL, ids=_name)
def test_everything_comes_before_it_is_needed(config):
    core = Core(config)
    # The reciprocal of the row sum meets its row in the epilogue; nobody waits for nothing.
    wait = core.at_epilogue - core.at_array - core.rowsum.latency
    assert wait == 0 if core.psum_wait else wait >= 0
    # The block of the residual is read before the prologue, and added to far behind.
    assert core.at_epilogue + core.epilogue.OLD_DELAY - core.at_prologue >= 2
    assert core.at_epilogue + core.epilogue.OLD_DELAY < core.at_write
    # A row that counts as retired can be read with all that follows from it.
    for latency in (core.statistics.latency, core.rowmax.latency, core.keys.write_latency):
        assert core.at_retire > core.at_write + latency
    assert core.loader.lead == RowIssue.LATENCY + core.at_array


def test_narrow_arrays_wait_for_the_row_sum():
    assert [Core(config).psum_wait for config in NARROW] == [1, 0, 1]
    assert {name: Core(config).psum_wait for name, config in CONFIGS.items()} == {
        name: 2 if config.columns == 8 else 0 for name, config in CONFIGS.items()}


@pytest.mark.parametrize("config", ALL, ids=_name)
def test_the_slots_of_scales_are_enough(config):
    """No program can make the loader wait for a slot: with any number of rows fewer column tiles
    are under way, the one that is loaded and the one that waits at the issue stage included.
    Swaps are ``rows`` cycles apart at least, as tests/test_loader.py shows, and so are the rows of
    short tiles."""
    core = Core(config)
    for tokens in range(1, config.max_tokens + 1):
        period = max(config.rows, tokens, MIN_TILE_CYCLES)
        under_way = -(-(tokens - 1 + core.at_retire - core.at_array) // period)
        assert under_way + 2 <= SCALE_SLOTS, f"{tokens} tokens"


# Parts of the core alone: what drives them is set by the bench

class _Part(Elaboratable):
    def __init__(self, core, build):
        self.core, self.build = core, build

    def elaborate(self, platform):
        m = Module()
        self.build(m)
        return m


def _simulate(core, build, bench):
    sim = Simulator(_Part(core, build))
    sim.add_clock(1e-6, if_exists=True)
    sim.add_testbench(bench)
    sim.run()


@pytest.mark.parametrize("seed", range(3))
def test_retirement(seed):
    """Random tiles, with gaps: rows count in the last tile of a pass, passes and column tiles with
    their last row; all of them ``at_retire`` cycles after the issue of the row, and one more."""
    core = Core(named("tiny"))
    rng = random.Random(seed)
    wait = core.at_retire + 1
    events = []  # valid, fields of the row; then what they count
    for number in range(40):
        own = rng.randrange(3) > 0
        rows, columns, ks = rng.randrange(1, 5), rng.randrange(1, 4), rng.randrange(1, 3)
        for c, k, i in product(range(columns), range(ks), range(rows)):
            while rng.random() < 0.2:
                events.append((0, {name: rng.randrange(2) for name in (
                    "last_row", "last_k", "last_column")} | {"slot": rng.randrange(4)}, own))
            events.append((1, {"last_row": i == rows - 1, "last_k": k == ks - 1,
                               "last_column": c == columns - 1, "slot": number % PASS_SLOTS}, own))

    expected = [(0, 0, 0)]
    for valid, f, own in events:
        passes, rows, columns = expected[-1]
        if valid and f["last_k"]:
            if f["last_column"]:
                passes, rows = (passes + 1, 0) if f["last_row"] else (passes, rows + 1)
            columns += f["last_row"] and own
        expected.append((passes, rows, columns))

    def build(m):
        core._retire(m, RowPipeline(m, core.issue.valid, core.issue.row,
                                    core.dispatcher.descriptors, depth=core.at_retire))

    async def bench(ctx):
        for cycle in range(len(events) + wait):
            if cycle < len(events):
                valid, f, _ = events[cycle]
                ctx.set(core.issue.valid, valid)
                ctx.set(core.issue.row.last_row, f["last_row"])
                for name in ("slot", "last_k", "last_column"):
                    ctx.set(core.issue.row.tile[name], f[name])
            else:
                ctx.set(core.issue.valid, 0)
            # The descriptors of a row are those of its pass until the cycle before it retires, in
            # which what they say is chosen.
            late = cycle - core.at_retire + 1
            if 0 <= late < len(events) and events[late][0]:
                _, f, own = events[late]
                ctx.set(core.dispatcher.descriptors[f["slot"]].scale_source,
                        isa.ScaleSource.COLUMN if own else isa.ScaleSource.CONSTANT)
            passes, rows, columns = expected[max(0, cycle - wait + 1)]
            got = (ctx.get(core.issue.retired), ctx.get(core.issue.retired_rows),
                   ctx.get(core.loader.columns_retired))
            assert got == (passes % 256, rows, columns % (2 * SCALE_SLOTS)), f"cycle {cycle}"
            for unit in (core.dispatcher, core.loader):
                assert ctx.get(unit.retired) == passes % 256
            await ctx.tick()

    _simulate(core, build, bench)
    assert expected[-1][0] == 40


def test_one_cause_for_every_cycle():
    """A row first, then what the rows wait for, then what the tile waits for, then the program."""
    core = Core(named("tiny"))
    state, loader, dispatcher = core.issue.state, core.loader, core.dispatcher

    def cause(busy, waits_row, pads, active, stationary, activity):
        stall = isa.Stall
        if busy or waits_row or pads:
            return stall.BUSY if busy else stall.ROW if waits_row else stall.TILE
        if active:
            return {isa.Stationary.WEIGHT: stall.WEIGHT,
                    isa.Stationary.NONE: stall.TILE}.get(stationary, stall.OPERAND)
        return {Activity.PROGRAM: stall.PROGRAM, Activity.LOAD: stall.LOAD,
                Activity.DRAIN: stall.DRAIN, Activity.SELECTOR: stall.SELECTOR}[activity]

    def build(m):
        connect_sequencer(m, core)

    async def bench(ctx):
        for case in product(*[(0, 1)] * 4, isa.Stationary, Activity):
            busy, waits_row, pads, active, stationary, activity = case
            ctx.set(state.busy, busy)
            ctx.set(state.waits_row, waits_row)
            ctx.set(state.pads, pads)
            ctx.set(loader.active, active)
            ctx.set(Value.cast(loader.stationary), stationary.value)
            ctx.set(Value.cast(dispatcher.activity), activity.value)
            await ctx.tick()  # what the dispatcher does is looked at a cycle later
            got = isa.Stall(ctx.get(core.stall))
            assert got == cause(*case), f"{case}: expected {cause(*case)}, got {got}"

    _simulate(core, build, bench)
