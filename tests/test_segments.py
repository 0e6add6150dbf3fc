# SPDX-License-Identifier: BSD-2-Clause
"""The table of segments against lists of rows, over random sequences of images and selectors."""

import random
from dataclasses import replace

import pytest
from amaranth.sim import Simulator

from rtl.config import CONFIGS, named
from rtl.isa import SEGMENTS
from rtl.segments import SegmentTable, segment_layout

TINY = named("tiny")
PULSES = ("image", "start", "append", "prune")


class Bench:
    """A table of segments, whose pulses come one at a time."""

    def __init__(self, config=TINY):
        self.config = config
        self.dut = SegmentTable(config)

    async def pulse(self, ctx, name, **values):
        for port, value in values.items():
            ctx.set(getattr(self.dut, port), value)
        ctx.set(getattr(self.dut, name), 1)
        await ctx.tick()
        ctx.set(getattr(self.dut, name), 0)
        # What is not announced counts for nothing.
        rng = random.Random(f"{name}{values}")
        ctx.set(self.dut.image_tokens, rng.randrange(self.config.max_tokens))
        ctx.set(self.dut.first_image, rng.getrandbits(1))
        for port in ("segment", "kept", "dropped"):
            ctx.set(getattr(self.dut, port), rng.randrange(SEGMENTS))

    def segment(self, ctx, table, i):
        value = ctx.get(getattr(self.dut, table)[i])
        if value.count:
            assert value.last == value.start + value.count - 1
        return value.start, value.count

    def run(self, main):
        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        sim.add_testbench(main)
        sim.run()


class Model:
    """The lists themselves: what belongs to which segment, by position."""

    def __init__(self):
        self.current, self.following, self.gone = {}, {}, {}
        self.lists = {"list": 0, "next": 0, "dropped": 0}
        self.fresh = False

    def image(self, first, tokens):
        self.current[0] = (0, tokens)
        self.lists["list"] = tokens
        if first:
            self.lists["next"], self.fresh = 0, True

    def select(self):
        if self.fresh:
            self.lists["dropped"], self.fresh = 0, False

    def append(self, segment, kept, dropped):
        self.following[segment] = self.lists["next"], kept
        self.gone[segment] = self.lists["dropped"], dropped
        self.lists["next"] += kept
        self.lists["dropped"] += dropped

    def prune(self):
        self.current |= self.following
        self.lists["list"], self.lists["next"], self.fresh = self.lists["next"], 0, True


def check(bench, ctx, model, where):
    dut = bench.dut
    for table, expected in (("current", model.current), ("gone", model.gone)):
        for i, segment in expected.items():
            assert bench.segment(ctx, table, i) == segment, f"{where}: {table} {i}"
    got = ctx.get(dut.tokens), ctx.get(dut.kept_base), ctx.get(dut.dropped_base)
    assert got == tuple(model.lists.values()), where


@pytest.mark.parametrize("config", [TINY, CONFIGS["zcu102"], replace(TINY, max_rows=400)],
                         ids=["tiny", "zcu102", "400 rows"])
@pytest.mark.parametrize("images", range(1, SEGMENTS + 1))
def test_rounds_of_images(config, images):
    """Rounds as programs run them: selectors image by image, then of all, segment by segment."""
    rng = random.Random(images)
    bench, model = Bench(config), Model()
    tokens = min(config.max_tokens, config.pass_rows // images)

    async def select(ctx, segment, rows, where):
        kept = rng.randrange(1, rows)
        await bench.pulse(ctx, "start")
        model.select()
        check(bench, ctx, model, f"{where} started")
        for _ in range(rng.randrange(3)):
            await ctx.tick()
        await bench.pulse(ctx, "append", segment=segment, kept=kept, dropped=rows - kept)
        model.append(segment, kept, rows - kept)
        check(bench, ctx, model, f"{where} ended")

    async def main(ctx):
        for r in range(4):
            for i in range(images):
                await bench.pulse(ctx, "image", first_image=i == 0, image_tokens=tokens)
                model.image(i == 0, tokens)
                check(bench, ctx, model, f"round {r}, image {i}")
                await select(ctx, i, tokens, f"round {r}, selector of image {i}")
            for selector in range(3):
                await bench.pulse(ctx, "prune")
                model.prune()
                check(bench, ctx, model, f"round {r}, prune {selector}")
                for i in range(images):
                    rows = model.current[i][1]
                    if rows > 1:
                        await select(ctx, i, rows, f"round {r}, selector {selector} of image {i}")

    bench.run(main)


def test_dropped_rows_stay_until_the_next_selector():
    """Passes over what was dropped come after PRUNE, which begins the next list."""
    bench = Bench()

    async def main(ctx):
        await bench.pulse(ctx, "image", first_image=1, image_tokens=20)
        for i, (kept, dropped) in enumerate([(12, 8), (7, 13)]):
            await bench.pulse(ctx, "start")
            await bench.pulse(ctx, "append", segment=i, kept=kept, dropped=dropped)
        await bench.pulse(ctx, "prune")
        assert bench.segment(ctx, "current", 0) == (0, 12)
        assert bench.segment(ctx, "current", 1) == (12, 7)
        assert ctx.get(bench.dut.tokens) == 19
        for _ in range(5):
            await ctx.tick()
        assert bench.segment(ctx, "gone", 0) == (0, 8)
        assert bench.segment(ctx, "gone", 1) == (8, 13)
        await bench.pulse(ctx, "start")
        assert ctx.get(bench.dut.kept_base) == ctx.get(bench.dut.dropped_base) == 0

    bench.run(main)


def test_a_further_image_leaves_what_selectors_have_left():
    bench = Bench()

    async def main(ctx):
        await bench.pulse(ctx, "image", first_image=1, image_tokens=20)
        await bench.pulse(ctx, "start")
        await bench.pulse(ctx, "append", segment=0, kept=15, dropped=5)
        await bench.pulse(ctx, "image", first_image=0, image_tokens=20)
        assert ctx.get(bench.dut.tokens) == 20
        assert ctx.get(bench.dut.kept_base) == 15
        assert ctx.get(bench.dut.dropped_base) == 5
        await bench.pulse(ctx, "start")
        assert ctx.get(bench.dut.dropped_base) == 5
        # A new round forgets it.
        await bench.pulse(ctx, "image", first_image=1, image_tokens=20)
        assert ctx.get(bench.dut.kept_base) == 0
        await bench.pulse(ctx, "start")
        assert ctx.get(bench.dut.dropped_base) == 0

    bench.run(main)


def test_a_segment_holds_a_full_list():
    config = replace(TINY, max_rows=300)
    shape = segment_layout(config)
    assert (1 << shape["count"].width) > config.pass_rows >= 300
    bench = Bench(config)

    async def main(ctx):
        await bench.pulse(ctx, "image", first_image=1, image_tokens=1)
        await bench.pulse(ctx, "start")
        await bench.pulse(ctx, "append", segment=3, kept=config.pass_rows, dropped=0)
        assert ctx.get(bench.dut.kept_base) == config.pass_rows
        await bench.pulse(ctx, "prune")
        assert bench.segment(ctx, "current", 3) == (0, config.pass_rows)
        assert ctx.get(bench.dut.tokens) == config.pass_rows

    bench.run(main)
