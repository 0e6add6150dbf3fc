# SPDX-License-Identifier: BSD-2-Clause
"""Selector with its token list, segments, and the reciprocal unit that it uses."""

import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from amaranth.hdl import Elaboratable, Module
from amaranth.sim import Simulator

from golden.fit import reciprocal_table
from golden.functions import reciprocal
from rtl.config import Config, named
from rtl.isa import SEGMENTS, SHARE_MARGIN, SelectorKind
from rtl.rowscale import Reciprocal
from rtl.search import TopKSearch
from rtl.segments import SegmentTable
from rtl.selector import Selector
from rtl.token_list import TokenList
from tests.pipeline import assert_equal, table_writes

TINY = named("tiny")
ZCU102 = named("zcu102")
TABLE = reciprocal_table()
ONE = 1 << 16


class Rig(Elaboratable):
    """A selector among what is around it."""

    def __init__(self, config):
        self.config = config
        self.selector = Selector(config)
        self.tokens = TokenList(config)
        self.segments = SegmentTable(config)
        self.reciprocal = Reciprocal()

    def elaborate(self, platform):
        m = Module()
        m.submodules.selector = selector = self.selector
        m.submodules.tokens = tokens = self.tokens
        m.submodules.segments = segments = self.segments
        m.submodules.reciprocal = reciprocal = self.reciprocal
        for name in ("write_en", "write_dropped", "write_position", "write_row"):
            m.d.comb += getattr(tokens, name).eq(getattr(selector, name))
        for name in ("sum", "scale_m", "scale_s"):
            # What is not asked for is not a sum of exponentials that happens to be right.
            wanted = getattr(selector, f"request_{name}")
            other = getattr(reciprocal, name)
            m.d.comb += other.eq(~wanted)
            with m.If(selector.request):
                m.d.comb += other.eq(wanted)
        m.d.comb += [
            segments.start.eq(selector.start),
            segments.append.eq(selector.append),
            segments.segment.eq(selector.image),
            segments.kept.eq(selector.kept),
            segments.dropped.eq(selector.dropped),
            selector.segment.eq(segments.current[selector.select.segment]),
            selector.kept_base.eq(segments.kept_base),
            selector.dropped_base.eq(segments.dropped_base),
            tokens.scan_position.eq(selector.scan_position),
            selector.scan_row.eq(tokens.scan_row),
            selector.reciprocal.eq(reciprocal.o),
        ]
        return m


@dataclass
class Step:
    """A selector of a chain, with its inputs for all positions."""

    kind: SelectorKind
    keep: int = 0
    merged: bool = False
    score: list = field(default_factory=list)
    weighted: list = field(default_factory=list)
    importance: list = field(default_factory=list)


@dataclass
class Model:
    """What a chain of selectors does to the tokens, by the page on arithmetic."""

    residual_rows: int
    special: int
    rows: list
    packages: int = 0
    weight: int = 0
    index: int = 0
    counts: list = field(default_factory=lambda: [0] * 15)

    def __post_init__(self):
        self.map = [15] * self.residual_rows

    def step(self, step):
        tokens = len(self.rows)
        patches = range(self.special, tokens - self.packages)
        if step.kind == SelectorKind.TOPK:
            order = sorted(patches, key=lambda p: (-step.score[p], p))
            stay = set(order[:step.keep])
        else:
            stay = {p for p in patches if step.weighted[p] >= 64 * step.importance[p]}
        gone = [p for p in patches if p not in stay]
        weights = [self._weight(step, p) for p in gone]
        for p in gone:
            self.map[self.rows[p]] = self.index
        keep = [p not in gone for p in range(tokens)]
        if gone and step.merged and self.packages:
            gone.append(tokens - 1)
            weights.append(self.weight)
            keep[-1] = False
        after = [self.rows[p] for p in range(tokens) if keep[p]]
        dropped = [self.rows[p] for p in gone] or [self.rows[-1]]
        shares = [ONE]
        if gone:
            after.append(dropped[0])
            self.weight = sum(weights)
            assert self.weight < 1 << 24, "the test has too large weights"
            c = max(0, self.weight.bit_length() - 18)
            m, s = (int(v) for v in reciprocal(TABLE, self.weight >> c, ONE - SHARE_MARGIN, 18))
            shares = [2 * w * m >> s + c for w in weights]
            assert sum(shares) <= ONE
            shares[0] += ONE - sum(shares)
            self.packages = 1 if step.merged else self.packages + 1
        self.counts[self.index] = len(after) << 16 | len(stay)
        self.index += 1
        expected = {"physical": self.rows, "keep": keep, "list": after, "dropped": dropped,
                    "weight": weights, "share": shares, "appended": [len(after), len(dropped)]}
        self.rows = after
        return expected

    @staticmethod
    def _weight(step, p):
        if step.kind == SelectorKind.TOPK:
            return max(1, step.score[p])
        m, s = (int(v) for v in reciprocal(TABLE, step.importance[p], 1 << 16, 24))
        return max(1, step.weighted[p] * m >> s)


async def _pulse(ctx, port):
    ctx.set(port, 1)
    await ctx.tick()
    ctx.set(port, 0)


async def _read(ctx, at, port, segment):
    """Read ``port``, one cycle behind the address ``at``, in the positions of a segment."""
    start, count = segment.start, segment.count
    got = []
    for i in range(start, start + count):
        ctx.set(at, i)
        await ctx.tick()
        got.append(ctx.get(port))
    return got


async def _image(ctx, rig, image, first_row, tokens):
    """Begin an image, as the instruction IMAGE does."""
    ports = (rig.tokens.image, rig.segments.image, rig.selector.init)
    ctx.set(rig.tokens.first_row, first_row)
    ctx.set(rig.segments.image_tokens, tokens)
    ctx.set(rig.segments.first_image, image == 0)
    ctx.set(rig.selector.init_image, image)
    for port in ports:
        ctx.set(port, 1)
    await ctx.tick()
    for port in ports:
        ctx.set(port, 0)
    for _ in range(max(64, rig.config.pass_rows, rig.config.residual_rows // 8)):
        await ctx.tick()


async def _scores(ctx, s, step, segment, indices):
    ctx.set(s.score_segment, segment)
    for p in indices:
        ctx.set(s.score_row, p)
        ctx.set(s.score, step.score[p])
        await _pulse(ctx, s.score_en)
    ctx.set(s.score_segment, SEGMENTS - 1 - segment)


def _pair(ctx, s, step, first, p):
    """Let the pair of a token come in this cycle, or none."""
    ctx.set(s.pair_valid, p is not None)
    if p is not None:
        ctx.set(s.pair_row, first + p)
        ctx.set(s.pair_weighted, step.weighted[p])
        ctx.set(s.pair_importance, step.importance[p])


async def _select(ctx, rig, step, tokens, *, special, patches, late, segment=0, image=0):
    """Run one selector of a segment; return what its taps show."""
    s = rig.selector
    got = {name: [] for name in ("physical", "keep", "weight")}
    shares = {}
    topk = step.kind == SelectorKind.TOPK
    first_late = tokens - late
    first = ctx.get(rig.segments.current[segment]).start
    if topk:
        await _scores(ctx, s, step, segment, range(first_late))
    ctx.set(s.select, {"kind": step.kind, "keep": step.keep, "merged": step.merged,
                       "special": special, "segment": segment, "image": image})
    ctx.set(s.attention_busy, topk and first_late < tokens)
    await _pulse(ctx, s.start)
    ctx.set(s.select, {"kind": 1, "keep": 0xFFFF, "merged": 1, "special": 3, "segment": 3,
                       "image": 3})
    if topk:
        await _scores(ctx, s, step, segment, range(first_late, tokens))
    ctx.set(s.attention_busy, 0)
    packages = tokens - special - patches
    cycles = search_cycles = 0
    # Pairs come at once, or with gaps.
    gaps = random.Random(tokens)
    pairs = iter([] if topk else [p for position in range(tokens) for p in
                                  [None] * (gaps.randrange(3) if late else 0) + [position]])
    if topk:
        search = TopKSearch(rig.config)
        words = -(-(tokens - packages) // search.comparators)
        search_cycles = 16 * (words + search.step_cycles) + 1
    while ctx.get(s.busy):
        if ctx.get(s.scan_valid):
            got["physical"].append(ctx.get(s.scan_physical))
            got["keep"].append(ctx.get(s.scan_keep))
        if ctx.get(s.weight_valid):
            got["weight"].append(ctx.get(s.weight))
        if ctx.get(s.share_valid):
            index = ctx.get(s.share_index)
            assert index not in shares, f"share {index} came twice"
            shares[index] = ctx.get(s.share_value)
        if ctx.get(s.append):
            assert "appended" not in got, "it was appended twice"
            assert ctx.get(s.image) == image
            got["appended"] = [ctx.get(s.kept), ctx.get(s.dropped)]
        pair = next(pairs, -1)
        _pair(ctx, s, step, first, None if pair == -1 else pair)
        # Of THRESHOLD only the cycles after the last pair count.
        cycles = cycles + 1 if pair == -1 else 0
        assert cycles < 20_000, "the selector does not end"
        await ctx.tick()
    count = len(shares)
    assert sorted(shares) == list(range(count)), "a share is missing"
    bound = Selector.busy_cycles(tokens if topk else 1, count)
    assert bound <= (tokens if topk else 1) + count + 80
    assert cycles - search_cycles <= bound, (
        f"{cycles} cycles, {search_cycles} of them of the search, of at most {bound} others")
    got["share"] = [shares[i] for i in range(count)]
    return got


async def _prune(ctx, rig):
    ports = (rig.selector.apply, rig.tokens.flip, rig.segments.prune)
    for port in ports:
        ctx.set(port, 1)
    await ctx.tick()
    for port in ports:
        ctx.set(port, 0)


async def _lists(ctx, rig, segment):
    """Return what the lists hold of a segment, when the new one is in use."""
    kept, gone = (ctx.get(table[segment]) for table in (rig.segments.current, rig.segments.gone))
    got = {"list": await _read(ctx, rig.tokens.position, rig.tokens.row, kept),
           "share, read": await _read(ctx, rig.selector.share_row, rig.selector.share, gone)}
    ctx.set(rig.tokens.dropped, 1)
    got["dropped"] = await _read(ctx, rig.tokens.position, rig.tokens.row, gone)
    ctx.set(rig.tokens.dropped, 0)
    return got


async def _readback(ctx, s):
    """Return the words of all selectors, by image, and the selector of every residual row."""
    rows = s.config.residual_rows
    words = []
    for at in (*range(0x40, 0x40 + 15 * SEGMENTS), *range(0x100, 0x100 + -(-rows // 8))):
        ctx.set(s.readback_at, at)
        await ctx.tick()
        words.append(ctx.get(s.readback))
    counts, words = words[:15 * SEGMENTS], words[15 * SEGMENTS:]
    return ([counts[image::SEGMENTS] for image in range(SEGMENTS)],
            [words[i // 8] >> (i % 8 * 4) & 15 for i in range(rows)])


def simulate(config, main):
    """Simulate ``main(ctx, rig)`` when the tables are written."""
    rig = Rig(config)

    async def bench(ctx):
        for entry in table_writes(TABLE):
            for name, value in entry.items():
                ctx.set(getattr(rig.reciprocal, name), value)
            await ctx.tick()
        ctx.set(rig.reciprocal.write_en, 0)
        await main(ctx, rig)

    sim = Simulator(rig)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def check(config, chains, *, special=1, late=60):
    """Run ``chains`` on one selector: each is a number of tokens and a function for each selector.

    A function makes the Step of the model as it is then.
    """
    async def main(ctx, rig):
        for number, (tokens, steps) in enumerate(chains):
            await _image(ctx, rig, 0, 0, tokens)
            model = Model(config.residual_rows, special, list(range(tokens)))
            for k, make in enumerate(steps):
                step = make(model)
                before = len(model.rows)
                patches = before - special - model.packages
                expected = model.step(step)
                got = await _select(ctx, rig, step, before, special=special,
                                    patches=patches, late=min(late, before))
                await _prune(ctx, rig)
                got |= await _lists(ctx, rig, 0)
                for name, values in (expected | {"share, read": expected["share"]}).items():
                    assert_equal(f"chain {number}, selector {k}, {name}", values, got[name])
            counts, kept_map = await _readback(ctx, rig.selector)
            assert_equal(f"chain {number}, counts", model.counts, counts[0])
            assert not any(map(any, counts[1:])), "counts of images that there are not"
            assert_equal(f"chain {number}, map", model.map, kept_map)

    simulate(config, main)


def check_batch(config, images, rounds, *, tokens, special=1, late=20):
    """Run rounds of several images: the first selector image by image, the others by segments.

    A round is a list of selectors, each a function for each image, as in ``check``.
    """
    async def main(ctx, rig):
        for r, selectors in enumerate(rounds):
            models = [Model(config.residual_rows, special,
                            list(range(b * tokens, (b + 1) * tokens))) for b in range(images)]
            for k, makes in enumerate(selectors):
                expected = []
                for b, (model, make) in enumerate(zip(models, makes, strict=True)):
                    where = f"round {r}, selector {k}, image {b}"
                    if k == 0:
                        await _image(ctx, rig, b, b * tokens, tokens)
                    step = make(model)
                    before = len(model.rows)
                    patches = before - special - model.packages
                    expected.append(model.step(step))
                    got = await _select(ctx, rig, step, before, special=special, patches=patches,
                                        late=min(late, before), segment=b if k else 0, image=b)
                    for name in ("physical", "keep", "weight", "share", "appended"):
                        assert_equal(f"{where}, {name}", expected[-1][name], got[name])
                await _prune(ctx, rig)
                for b, wanted in enumerate(expected):
                    got = await _lists(ctx, rig, b)
                    for name, values in got.items():
                        assert_equal(f"round {r}, selector {k}, image {b}, {name}",
                                     wanted[name.split(",")[0]], values)
                assert ctx.get(rig.segments.tokens) == sum(len(model.rows) for model in models)
            counts, kept_map = await _readback(ctx, rig.selector)
            for b, model in enumerate(models):
                assert_equal(f"round {r}, image {b}, counts", model.counts, counts[b])
            assert_equal(f"round {r}, map", [min(rows) for rows in
                                             zip(*(model.map for model in models), strict=True)],
                         kept_map)

    simulate(config, main)


def topk(keep, scores, *, merged=False):
    """``keep`` is a number of patches, or a part of those that are left; ``scores`` of a count."""
    def make(model):
        patches = len(model.rows) - model.special - model.packages
        k = int(keep * patches) if isinstance(keep, float) else keep
        return Step(SelectorKind.TOPK, keep=k, merged=merged,
                    score=[int(v) for v in scores(len(model.rows))])
    return make


def threshold(pairs, *, merged=False):
    def make(model):
        weighted, importance = pairs(len(model.rows))
        return Step(SelectorKind.THRESHOLD, merged=merged, weighted=[int(v) for v in weighted],
                    importance=[int(v) for v in importance])
    return make


def uniform(seed, high=1 << 16):
    return lambda n: np.random.default_rng(seed + n).integers(0, high, n)


def same(value):
    return lambda n: np.full(n, value)


def around(seed, heads=3):
    """A and B of heads with importance and score 0..127; many of them at the threshold itself."""
    def make(n):
        rng = np.random.default_rng(seed + n)
        a, s = rng.integers(0, 128, (2, n, heads))
        at = rng.random(n) < 0.3
        s[at] = 64
        s[at & (rng.random(n) < 0.5), 0] = 63
        a[rng.random(n) < 0.1] = 0
        return (a * s).sum(1), a.sum(1)
    return make


def pair(weighted, importance):
    return lambda n: (np.full(n, weighted), np.full(n, importance))


@pytest.mark.parametrize("special", [1, 2])
@pytest.mark.parametrize("merged", [False, True], ids=["each", "merged"])
def test_random_chains_of_three(special, merged):
    chains = [(112, [topk(0.7, uniform(10 * i + j), merged=merged) for j in range(3)])
              for i in range(2)]
    chains += [(50 + 7 * i, [threshold(around(10 * i + j), merged=merged) for j in range(3)])
               for i in range(2)]
    check(TINY, chains, special=special)


def test_large():
    check(ZCU102, [(198, [topk(0.7, uniform(j), merged=True) for j in range(3)]),
                   (197, [threshold(around(j, heads=12)) for j in range(2)])], late=1)


@pytest.mark.parametrize("merged", [False, True], ids=["each", "merged"])
def test_all_or_nothing(merged):
    """All kept, all dropped, one kept, and none left to decide on."""
    some = uniform(1)
    check(TINY, [
        (20, [topk(19, some, merged=merged), topk(30, some, merged=merged),
              topk(0xFFFF, same(0), merged=merged), topk(0, some, merged=merged),
              topk(0, some, merged=merged), topk(5, some, merged=merged)]),
        (20, [topk(1, some, merged=merged), topk(1, some, merged=merged),
              topk(0, same(0), merged=merged)]),
        (20, [threshold(pair(64, 1), merged=merged), threshold(pair(63, 1), merged=merged),
              threshold(pair(0, 1), merged=merged)]),
        (17, [threshold(around(1), merged=merged), threshold(pair(1 << 19, 0), merged=merged),
              threshold(pair(0, 0), merged=merged), threshold(around(2), merged=merged)]),
    ])


def test_one_patch():
    check(TINY, [(2, [topk(1, uniform(1)), topk(0, uniform(2)), topk(0, uniform(3))]),
                 (2, [topk(0, same(0))]),
                 (2, [threshold(pair(0, 1))]),
                 (1, [topk(3, uniform(4)), threshold(pair(0, 1))])], late=0)


@pytest.mark.parametrize("score", [0, 1, 0x7FFF, 0xFFFF])
def test_ties(score):
    """Of equal scores the first stay, wherever they are among others."""
    def some(n):
        scores = np.full(n, score)
        scores[3::5] = min(score + 1, 0xFFFF)
        scores[4::7] = max(score - 1, 0)
        return scores
    check(TINY, [(64, [topk(k, same(score)) for k in (40, 40, 1, 0)]),
                 (65, [topk(k, some, merged=True) for k in (50, 20, 12, 3)])])


def test_extreme_weights():
    """Shares of one large weight among the least, and of sums of 1 to 24 bits."""
    def one(n):
        scores = np.zeros(n, np.int64)
        scores[n // 2] = 0xFFFF
        return scores
    check(TINY, [(112, [topk(0, one)]), (112, [topk(0, same(0xFFFF))]), (112, [topk(0, same(0))]),
                 *[(3 + n, [topk(0, uniform(n, 1 << n))]) for n in range(1, 17)]])
    check(ZCU102, [(198, [topk(98, uniform(1, 0x10000)), topk(0, same(0xFFFF), merged=True)]),
                   (198, [topk(0, same(0xFFFF), merged=True)])])


def test_extreme_pairs():
    """The quotient of importances of 1 to 12 bits: from below the unit to next to one half."""
    def largest(n):
        importance = np.minimum(1 << np.arange(n) % 13, 4095)
        return 64 * importance - 1, importance

    def least(n):
        importance = np.minimum(1 << np.arange(n) % 13, 4095)
        return np.minimum(1, importance) * (np.arange(n) % 2), importance

    check(TINY, [(112, [threshold(largest)]), (112, [threshold(least)])])


def test_merged_package_of_great_weight():
    """A package that has taken all but few patches, and what it has become again and again."""
    check(TINY, [(112, [topk(k, uniform(k), merged=True) for k in (4, 4, 3, 1, 1, 0)])])


def test_as_many_selectors_as_there_may_be():
    check(TINY, [(112, [topk(75 - 5 * i, uniform(i)) for i in range(15)]),
                 (112, [(topk(70 - 5 * i, uniform(i), merged=True) if i % 2 else
                        threshold(around(i), merged=True)) for i in range(15)])])


def test_run_begins_anew():
    """A run with fewer selectors, after another one with an odd number of them."""
    check(TINY, [(40, [topk(20, uniform(1), merged=True)]), (30, []),
                 (40, [topk(30, uniform(2), merged=True)])])


def test_small_list():
    """Fewer tokens than a word of the map has nibbles, and the most that there can be."""
    sizes = TINY.to_dict()
    check(Config(**{**sizes, "max_tokens": 5}), [(5, [topk(2, uniform(1)), topk(1, uniform(2))])])
    check(Config(**{**sizes, "rows": 32, "max_tokens": 1024}),
          [(1024, [topk(900, uniform(1, 1 << 12)), threshold(around(2))])], late=0)


@pytest.mark.parametrize("merged", [False, True], ids=["each", "merged"])
@pytest.mark.parametrize("images", [2, 3, 4])
def test_rounds_of_several_images(images, merged):
    """Packages, shares and counts are of an image; the rounds do not know of each other."""
    config = replace(TINY, max_tokens=40, max_rows=160, images=4)
    rounds = [
        [[topk(0.7, uniform(100 * r + 10 * b + k), merged=merged) for b in range(images)]
         for k in range(3 - r)] for r in range(2)]
    rounds.append([[threshold(around(10 * b + k), merged=merged) for b in range(images)]
                   for k in range(2)])
    check_batch(config, images, rounds, tokens=40)


def test_images_that_drop_all_or_nothing():
    """Empty segments of the dropped list, full ones, and one row, beside each other."""
    config = replace(TINY, max_tokens=24, max_rows=96, images=4)
    some = uniform(5)
    check_batch(config, 4, [
        [[topk(0xFFFF, some), topk(0, some), topk(22, some), topk(1, some)],
         [topk(0, some), topk(0, some), topk(0xFFFF, some), topk(0, some)]],
        [[threshold(pair(64, 1)), threshold(pair(0, 1)), threshold(pair(63, 1)),
          threshold(around(3))]] * 2], tokens=24)
