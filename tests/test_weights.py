# SPDX-License-Identifier: BSD-2-Clause
"""The weight stream: beats of all ports joined into rows, in order, and the FIFO behind it."""

import random
from dataclasses import replace

import pytest
from amaranth.sim import Simulator

from rtl.config import CONFIGS, named
from rtl.weights import WeightStream
from tests.stalls import KINDS, stalls

#: Every configuration, and shapes in which a row takes 4, 8 and 16 beats of each port.
SHAPES = {(c.ports, c.port_bits, c.columns): c for c in CONFIGS.values()}
for ports, bits, columns in ((1, 32, 16), (4, 32, 128), (2, 32, 128)):
    SHAPES[ports, bits, columns] = replace(
        named("tiny"), ports=ports, port_bits=bits, columns=columns)


def _config(shape, tiles=2):
    """A FIFO of a few rows is full and empty more often."""
    return replace(SHAPES[shape], rows=16, max_hidden=256, weight_tiles=tiles)


class Bench:
    """Feeds every port at its own pace, takes rows, and checks each against what was sent."""

    def __init__(self, config, *, rows, seed=0):
        self.dut = WeightStream(config)
        self.config = config
        rng = random.Random(seed)
        self.rows = [rng.getrandbits(8 * config.columns) for _ in range(rows)]
        self.sent = [0] * config.ports  # beats
        self.taken = 0
        self.cycles = 0

    def _beat(self, port):
        """Return the next beat of a port: its bytes of the row, lowest first."""
        row, beat = divmod(self.sent[port], self.dut.beats)
        bits = self.config.port_bits
        at = (port * self.dut.beats + beat) * bits
        return self.rows[row] >> at & ((1 << bits) - 1)

    async def cycle(self, ctx, *, feed, take):
        """One cycle; ``feed`` says for every port, ``take`` for the output, whether it may move."""
        dut, beats = self.dut, self.dut.beats
        total = len(self.rows) * beats
        offered = [may and self.sent[p] < total for p, may in enumerate(feed)]
        for p, port in enumerate(dut.i):
            ctx.set(port.valid, offered[p])
            if offered[p]:
                ctx.set(port.payload, self._beat(p))
        ctx.set(dut.o.ready, take)
        complete = min(sent // beats for sent in self.sent)
        level = ctx.get(dut.level)
        # A row that has just been completed is on its way into the FIFO.
        low = complete - self.taken - (beats > 1)
        assert low <= level <= complete - self.taken, (
            f"cycle {self.cycles}: level {level} with {complete} rows sent, {self.taken} taken")
        if ctx.get(dut.o.valid) and take:
            got, expected = ctx.get(dut.o.payload), self.rows[self.taken]
            assert got == expected, f"row {self.taken}: expected {expected:#x}, got {got:#x}"
            self.taken += 1
        for p, port in enumerate(dut.i):
            self.sent[p] += offered[p] and ctx.get(port.ready)
        self.cycles += 1
        await ctx.tick()

    def run(self, main):
        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        sim.add_testbench(main)
        sim.run()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}on{s[2]}")
def test_rows_are_joined_in_order(shape, kind):
    config = _config(shape)
    bench = Bench(config, rows=60)
    feeds = [stalls(kind, seed) for seed in range(config.ports)]
    taker = stalls(kind, 99)

    async def main(ctx):
        while bench.taken < len(bench.rows):
            assert bench.cycles < 8000, f"row {bench.taken} has not come"
            await bench.cycle(ctx, feed=[not next(f) for f in feeds], take=not next(taker))
        for _ in range(20):
            assert not ctx.get(bench.dut.o.valid), "a row too many"
            await bench.cycle(ctx, feed=[True] * config.ports, take=True)

    bench.run(main)
    if kind == "none":
        # One row in as many cycles as it has beats, and three through register and FIFO.
        assert bench.cycles - 20 <= len(bench.rows) * bench.dut.beats + 3


@pytest.mark.parametrize("late", [0, 1])
def test_ports_wait_for_the_slowest(late):
    """A port may be ahead by what it holds of one row, not by more, and nothing is lost."""
    config = _config((2, 128, 32))
    bench = Bench(config, rows=20)

    async def main(ctx):
        for _ in range(10):
            await bench.cycle(ctx, feed=[p != late for p in range(2)], take=True)
        assert bench.sent[late] == bench.taken == 0
        assert bench.sent[1 - late] <= 1
        while bench.taken < len(bench.rows):
            assert bench.cycles < 100
            await bench.cycle(ctx, feed=[True, True], take=True)

    bench.run(main)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}on{s[2]}")
def test_full_fifo_holds_its_depth(shape):
    config = _config(shape)
    bench = Bench(config, rows=2 * config.weight_depth)

    async def main(ctx):
        for _ in range(bench.dut.beats * (config.weight_depth + 4)):
            await bench.cycle(ctx, feed=[True] * config.ports, take=False)
        assert ctx.get(bench.dut.level) == config.weight_depth == bench.dut.depth
        assert not any(ctx.get(port.ready) for port in bench.dut.i)
        while bench.taken < len(bench.rows):
            assert bench.cycles < 5000
            await bench.cycle(ctx, feed=[True] * config.ports, take=True)

    bench.run(main)


@pytest.mark.parametrize("shape", [(1, 64, 16), (4, 128, 64)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_the_level_can_be_taken_without_a_gap(shape):
    """The tile loader counts on it: a row that is there, and ``level``, promise that many rows."""
    config = _config(shape)
    bench = Bench(config, rows=400)
    rng = random.Random(5)
    tried = 0

    async def main(ctx):
        nonlocal tried
        while bench.taken < 300:
            for _ in range(rng.randrange(1, 40)):
                await bench.cycle(ctx, feed=[rng.random() < 0.7 for _ in range(config.ports)],
                                  take=rng.random() < 0.4)
            if ctx.get(bench.dut.o.valid):
                level = ctx.get(bench.dut.level)
                tried += level > 1
                for i in range(level):
                    assert ctx.get(bench.dut.o.valid), f"a gap before row {i} of {level}"
                    # Later rows may come or not.
                    await bench.cycle(ctx, feed=[rng.random() < 0.3] * config.ports, take=True)

    bench.run(main)
    assert tried > 5
