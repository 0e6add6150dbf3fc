# SPDX-License-Identifier: BSD-2-Clause
"""Shares: latency and value of the weights, shares that sum to one, the weight of a package."""

import numpy as np
import pytest
from amaranth.hdl import Elaboratable, Module
from amaranth.sim import Simulator

from golden.fit import reciprocal_table
from golden.functions import reciprocal
from rtl.config import Config, named
from rtl.isa import SEGMENTS, SHARE_MARGIN
from rtl.rowscale import Reciprocal
from rtl.shares import Shares
from tests.pipeline import assert_equal, table_writes

CONFIG = Config(**{**named("tiny").to_dict(), "rows": 32, "max_tokens": 1024})
TABLE = reciprocal_table()
ONE = 1 << 16


class Rig(Elaboratable):
    """The shares, with a reciprocal unit that has other things to do when it is not asked."""

    def __init__(self):
        self.shares = Shares(CONFIG)
        self.reciprocal = Reciprocal()

    def elaborate(self, platform):
        m = Module()
        m.submodules.shares = shares = self.shares
        m.submodules.reciprocal = reciprocal = self.reciprocal
        m.d.comb += [reciprocal.sum.eq(~shares.request_sum), shares.reciprocal.eq(reciprocal.o)]
        with m.If(shares.request):
            m.d.comb += [
                reciprocal.sum.eq(shares.request_sum),
                reciprocal.scale_m.eq(shares.request_scale_m),
                reciprocal.scale_s.eq(shares.request_scale_s),
            ]
        return m


def _weight(row, carried):
    if row.get("package"):
        return carried
    if row["importance"] is None:
        return max(1, row["score"])
    m, s = (int(v) for v in reciprocal(TABLE, row["importance"], 1 << 16, 24))
    return max(1, row["score"] * m >> s)


def _shares(weights):
    total = sum(weights)
    assert total < 1 << 24, "the test has too large weights"
    c = max(0, total.bit_length() - 18)
    m, s = (int(v) for v in reciprocal(TABLE, total >> c, ONE - SHARE_MARGIN, 18))
    shares = [2 * w * m >> s + c for w in weights]
    assert sum(shares) <= ONE, "the shares sum to more than one"
    return [shares[0] + ONE - sum(shares), *shares[1:]]


def _run(selectors, *, gaps=0.0, places=None):
    """Run lists of dropped rows, one after another, and compare weights and shares.

    ``places`` are the image and the first place in the list of each, or ``None``: an image begins.
    """
    places = places or [(0, 0)] * len(selectors)
    rig = Rig()
    dut = rig.shares
    rng = np.random.default_rng(len(selectors))

    async def bench(ctx):
        for entry in table_writes(TABLE):
            for name, value in entry.items():
                ctx.set(getattr(rig.reciprocal, name), value)
            await ctx.tick()
        ctx.set(rig.reciprocal.write_en, 0)
        ctx.set(dut.init, 1)
        await ctx.tick()
        ctx.set(dut.init, 0)
        carried = [0] * SEGMENTS
        held = {}    # shares of the list, by place
        for number, (rows, (image, base)) in enumerate(zip(selectors, places, strict=True)):
            if rows is None:
                ctx.set(dut.init_image, image)
                ctx.set(dut.init, 1)
                await ctx.tick()
                ctx.set(dut.init, 0)
                ctx.set(dut.init_image, SEGMENTS - 1 - image)
                carried[image] = 0
                continue
            ctx.set(dut.image, image)
            ctx.set(dut.base, base)
            ctx.set(dut.quotient, bool(rows) and rows[0]["importance"] is not None)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            pending, entered, weights, shares = list(rows), [], [], {}
            cycle, finished = 0, None
            while ctx.get(dut.busy):
                enters = bool(pending) and rng.random() >= gaps
                ctx.set(dut.dropped, enters)
                row = pending.pop(0) if enters else {}
                ctx.set(dut.package, row.get("package", not enters))
                ctx.set(dut.score, row.get("score", 0xFFFFF))
                ctx.set(dut.importance, row.get("importance") or 0)
                if enters:
                    entered.append(cycle)
                finish = finished is None and not pending
                ctx.set(dut.finish, finish)
                if finish:
                    finished = cycle
                if ctx.get(dut.weight_valid):
                    at = entered[len(weights)] + Shares.WEIGHT_LATENCY
                    assert cycle == at, f"weight {len(weights)} in cycle {cycle}, not {at}"
                    weights.append(ctx.get(dut.weight))
                if ctx.get(dut.share_valid):
                    shares[ctx.get(dut.share_index)] = ctx.get(dut.share_value)
                await ctx.tick()
                cycle += 1
            bound = Shares.finish_cycles(len(rows))
            assert cycle - finished <= bound, f"{cycle - finished} cycles, more than {bound}"
            expected = [_weight(row, carried[image]) for row in rows]
            assert_equal(f"selector {number}, weight", expected, weights)
            if expected:
                carried[image] = sum(expected)
            expected = _shares(expected) if expected else [ONE]
            assert_equal(f"selector {number}, index", range(len(expected)), sorted(shares))
            assert_equal(f"selector {number}, share", expected,
                         [shares[i] for i in range(len(expected))])
            # Those of other images are still there.
            held |= {base + i: share for i, share in enumerate(expected)}
            read = []
            for place in held:
                ctx.set(dut.share_row, place)
                await ctx.tick()
                read.append(ctx.get(dut.share))
            assert_equal(f"selector {number}, share that is read", list(held.values()), read)

    sim = Simulator(rig)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def _plain(scores):
    return [{"score": int(score), "importance": None} for score in scores]


@pytest.mark.parametrize("gaps", [0.0, 0.5])
def test_random(gaps):
    rng = np.random.default_rng(1)
    _run([_plain(rng.integers(0, 1 << rng.integers(1, 17), count)) for count in (5, 1, 40, 197)],
         gaps=gaps)


def test_quotients():
    """All lengths of the importance, with scores from 0 to one half."""
    rng = np.random.default_rng(2)
    rows = []
    for bits in range(1, 13):
        for importance in (1 << bits - 1, (1 << bits) - 1, int(rng.integers(1 << bits)) or 1):
            rows += [{"score": int(score), "importance": importance}
                     for score in (0, 1, rng.integers(64 * importance), 64 * importance - 1)]
    _run([rows, rows[::-1]])


def test_package_takes_its_weight_along():
    package = {"score": 3, "importance": None, "package": 1}
    rng = np.random.default_rng(3)
    _run([_plain(rng.integers(0, 1 << 16, 100)), [],
          [*_plain(rng.integers(0, 1 << 16, 20)), package], [*_plain([0]), package],
          [{"score": 100, "importance": 7}, {**package, "importance": 5}]])


@pytest.mark.parametrize("total", [1, 2, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, (1 << 24) - 1])
def test_sums_of_every_length(total):
    """One row or many, and one that has all the weight among rows that have none."""
    count = max(1, -(-total // 0xFFFF))
    scores = [total // count + (i < total % count) for i in range(count)]
    _run([_plain(scores)])


def test_nothing_dropped():
    _run([[], []])


def test_images_have_packages_of_their_own():
    """Shares are behind those of the images before; a weight is that of the image's package."""
    package = {"score": 3, "importance": None, "package": 1}
    rng = np.random.default_rng(5)

    def rows(count, *, merged=True):
        return [*_plain(rng.integers(0, 1 << 16, count)), *[package] * merged]

    first = [rows(count, merged=False) for count in (30, 7, 1, 90)]
    second = [rows(3), [package], rows(60), []]
    bases = [0, 30, 37, 38], [0, 4, 5, 66]
    # There is no package of an image that has begun anew.
    again = [*second[:2], rows(60, merged=False), second[3]]
    _run([*first, *second, None, *again], places=[
        *enumerate(bases[0]), *enumerate(bases[1]), (2, 0), *enumerate(bases[1])])


def test_last_places_of_the_list():
    rows = CONFIG.pass_rows
    _run([_plain([5, 6, 7]), _plain([9])], places=[(3, rows - 3), (1, rows - 4)])
