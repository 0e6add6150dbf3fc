# SPDX-License-Identifier: BSD-2-Clause
"""The weight stream: beats of all ports joined into words, in order, and the FIFO behind it."""

import random
from dataclasses import replace

import pytest
from amaranth.sim import Simulator

from rtl.config import CONFIGS, named
from rtl.weights import WeightStream
from tests.stalls import KINDS, stalls

#: Every configuration, and shapes in which a row takes 4, 8 and 16 beats of each port.
SHAPES = {(c.ports, c.port_bits, c.columns, c.load_rows): c for c in CONFIGS.values()}
for shape in ((1, 32, 16, 1), (4, 32, 128, 1), (2, 32, 128, 2), (4, 128, 64, 1), (1, 64, 16, 2)):
    SHAPES[shape] = replace(named("tiny"), **dict(zip(
        ("ports", "port_bits", "columns", "load_rows"), shape, strict=True)))


def _config(shape, tiles=2):
    """A FIFO of a few words is full and empty more often."""
    return replace(SHAPES[shape], rows=16, max_hidden=256, weight_tiles=tiles)


class Bench:
    """Feeds every port at its own pace, takes words, and checks each against what was sent."""

    def __init__(self, config, *, words, seed=0):
        self.dut = WeightStream(config)
        self.config = config
        rng = random.Random(seed)
        self.words = [rng.getrandbits(8 * config.columns * config.load_rows)
                      for _ in range(words)]
        self.sent = [0] * config.ports  # beats
        self.taken = 0
        self.cycles = 0

    def _beat(self, port):
        """Return the next beat of a port: its bytes of a row, lowest first, row after row."""
        config = self.config
        row_beats = self.dut.beats // config.load_rows
        row, beat = divmod(self.sent[port], row_beats)
        word, row = divmod(row, config.load_rows)
        at = 8 * config.columns * row + (port * row_beats + beat) * config.port_bits
        return self.words[word] >> at & ((1 << config.port_bits) - 1)

    async def cycle(self, ctx, *, feed, take):
        """One cycle; ``feed`` says for every port, ``take`` for the output, whether it may move."""
        dut, beats = self.dut, self.dut.beats
        total = len(self.words) * beats
        offered = [may and self.sent[p] < total for p, may in enumerate(feed)]
        for p, port in enumerate(dut.i):
            ctx.set(port.valid, offered[p])
            if offered[p]:
                ctx.set(port.payload, self._beat(p))
        ctx.set(dut.o.ready, take)
        complete = min(sent // beats for sent in self.sent)
        level = ctx.get(dut.level)
        # A word that has just been completed is on its way into the FIFO.
        low = complete - self.taken - (beats > 1)
        assert low <= level <= complete - self.taken, (
            f"cycle {self.cycles}: level {level} with {complete} words sent, {self.taken} taken")
        if ctx.get(dut.o.valid) and take:
            got, expected = ctx.get(dut.o.payload), self.words[self.taken]
            assert got == expected, f"word {self.taken}: expected {expected:#x}, got {got:#x}"
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


def _name(shape):
    ports, bits, columns, rows = shape
    return f"{ports}x{bits}on{rows}x{columns}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=_name)
def test_rows_are_joined_in_order(shape, kind):
    config = _config(shape)
    bench = Bench(config, words=60)
    feeds = [stalls(kind, seed) for seed in range(config.ports)]
    taker = stalls(kind, 99)

    async def main(ctx):
        while bench.taken < len(bench.words):
            assert bench.cycles < 8000, f"word {bench.taken} has not come"
            await bench.cycle(ctx, feed=[not next(f) for f in feeds], take=not next(taker))
        for _ in range(20):
            assert not ctx.get(bench.dut.o.valid), "a word too many"
            await bench.cycle(ctx, feed=[True] * config.ports, take=True)

    bench.run(main)
    if kind == "none":
        # One word in as many cycles as it has beats, and three through register and FIFO.
        assert bench.cycles - 20 <= len(bench.words) * bench.dut.beats + 3


@pytest.mark.parametrize("late", [0, 1])
def test_ports_wait_for_the_slowest(late):
    """A port may be ahead by what it holds of one row, not by more, and nothing is lost."""
    config = _config((2, 128, 32, 1))
    bench = Bench(config, words=20)

    async def main(ctx):
        for _ in range(10):
            await bench.cycle(ctx, feed=[p != late for p in range(2)], take=True)
        assert bench.sent[late] == bench.taken == 0
        assert bench.sent[1 - late] <= 1
        while bench.taken < len(bench.words):
            assert bench.cycles < 100
            await bench.cycle(ctx, feed=[True, True], take=True)

    bench.run(main)


@pytest.mark.parametrize("shape", SHAPES, ids=_name)
def test_full_fifo_holds_its_depth(shape):
    config = _config(shape)
    bench = Bench(config, words=2 * config.weight_depth // config.load_rows)

    async def main(ctx):
        for _ in range(bench.dut.beats * (bench.dut.depth + 4)):
            await bench.cycle(ctx, feed=[True] * config.ports, take=False)
        assert ctx.get(bench.dut.level) == bench.dut.depth
        assert bench.dut.depth * config.load_rows == config.weight_depth
        assert not any(ctx.get(port.ready) for port in bench.dut.i)
        while bench.taken < len(bench.words):
            assert bench.cycles < 5000
            await bench.cycle(ctx, feed=[True] * config.ports, take=True)

    bench.run(main)


@pytest.mark.parametrize("shape", [(1, 64, 16, 1), (4, 128, 64, 2)], ids=_name)
def test_the_level_can_be_taken_without_a_gap(shape):
    """The tile loader counts on it: a word that is there promises ``level`` of them."""
    config = _config(shape)
    bench = Bench(config, words=400)
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
                    assert ctx.get(bench.dut.o.valid), f"a gap before word {i} of {level}"
                    # Later words may come or not.
                    await bench.cycle(ctx, feed=[rng.random() < 0.3] * config.ports, take=True)

    bench.run(main)
    assert tried > 5
