# SPDX-License-Identifier: BSD-2-Clause
"""TopKSearch: patches that stay, against a sort, on thousands of score vectors."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from amaranth.sim import Simulator
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from rtl.config import named
from rtl.search import Comparators, TopKSearch
from tests.pipeline import assert_equal

TINY = named("tiny")
WIDE = replace(TINY, columns=64, max_tokens=204)
TOP = (1 << 16) - 1


@dataclass(frozen=True)
class Case:
    """Scores of ``first`` special tokens, then of ``count`` patches, then of packages."""

    scores: tuple[int, ...]
    first: int
    count: int
    keep: int

    @property
    def patches(self):
        return self.scores[self.first:self.first + self.count]


def kept_by_sort(scores, keep):
    """Return the patches that stay: of equal scores the earlier one does."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(order[:keep])


def kept_by_threshold(scores, threshold, ties):
    """Return the patches that stay by what TopKSearch says."""
    kept = []
    for i, score in enumerate(scores):
        if score > threshold or score == threshold and ties > 0:
            kept.append(i)
            ties -= score == threshold
    return kept


def search_all(config, cases, search=TopKSearch):
    """Search in every case; check patches that stay and cycles."""
    dut = search(config)
    step = dut.step_cycles

    async def bench(ctx):
        for number, case in enumerate(cases):
            ctx.set(dut.score_en, 1)
            for i, score in enumerate(case.scores):
                ctx.set(dut.score_row, i)
                ctx.set(dut.score, score)
                await ctx.tick()
            ctx.set(dut.score_en, 0)
            ctx.set(dut.keep, case.keep)
            ctx.set(dut.first, case.first)
            ctx.set(dut.count, case.count)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            words = -(-(case.first + case.count) // config.comparators)
            cycles = 16 * (words + step) + 1
            assert cycles <= 16 * (-(-len(case.scores) // config.comparators) + 14)
            *_, early = await ctx.tick().sample(dut.done).repeat(cycles - 1)
            assert not early and ctx.get(dut.done), f"case {number}: not done in {cycles} cycles"
            threshold, ties = ctx.get(dut.threshold), ctx.get(dut.ties)
            expected = kept_by_sort(case.patches, case.keep)
            got = kept_by_threshold(case.patches, threshold, ties)
            assert expected == got, (
                f"case {number}, {case}: expected {expected}, got {got} of threshold {threshold}"
                f" and {ties} ties")

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


@st.composite
def _cases(draw):
    """Few or many different scores, in any range and at its ends; any keep, a little too many."""
    size = draw(st.integers(1, 198))
    values = draw(st.one_of(
        st.lists(st.one_of(st.sampled_from([0, 1, 2, TOP - 1, TOP, 1 << 15, (1 << 15) - 1]),
                           st.integers(0, TOP)), min_size=1, max_size=4),
        st.just(range(256)),
        st.integers(0, TOP - 255).map(lambda low: range(low, low + 256)),
        st.integers(0, (1 << 16) - 1).map(lambda odd: [(odd * k | k) % (TOP + 1)
                                                      for k in range(0, 256 * 257, 257)])))
    first = draw(st.integers(1, 3))
    packages = draw(st.integers(0, 3))
    picks = draw(st.binary(min_size=first + size + packages, max_size=first + size + packages))
    keep = draw(st.one_of(st.integers(0, size), st.sampled_from([0, 1, size, size + 1, TOP])))
    return Case(tuple(values[pick % len(values)] for pick in picks), first, size, keep)


def cases_of(count):
    """Return ``count`` cases, to be searched in one simulation."""
    found = []

    @settings(max_examples=count, phases=[Phase.generate])
    @given(_cases())
    def draw(case):
        found.append(case)

    draw()
    return found[:count]


@pytest.mark.parametrize("count", [2_000, pytest.param(
    10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_against_a_sort(count):
    cases = cases_of(count)
    assert len(cases) == count
    tied = sum(len(set(case.patches)) < case.count for case in cases)
    assert count // 4 < tied, f"of {count} cases {tied} have ties"
    search_all(WIDE, cases)


@pytest.mark.parametrize("columns, most", [(16, 112), (32, 70), (64, 198), (128, 100), (128, 40)])
def test_every_number_of_tokens(columns, most):
    """Arrays of every width; each case checks that its cycles are within the bound."""
    rng = np.random.default_rng(columns)
    config = replace(TINY, columns=columns, max_tokens=most)
    cases = []
    for tokens in range(1, most + 1):
        first = int(rng.integers(1, min(3, tokens) + 1))
        count = int(rng.integers(0, tokens - first + 1)) if rng.random() < 0.5 else tokens - first
        scores = rng.integers(0, TOP + 1, tokens) >> rng.integers(0, 16)
        cases.append(Case(tuple(scores.tolist()), first, count, int(rng.integers(0, count + 2))))
    search_all(config, cases)


def test_most_tokens():
    """As many as a configuration can have, few comparators: the longest sweep."""
    rng = np.random.default_rng(6)
    config = replace(TINY, columns=32, max_tokens=1024)
    search_all(config, [
        Case(tuple((rng.integers(0, TOP + 1, 1024) >> shift).tolist()), 2, 1021, keep)
        for shift, keep in ((0, 500), (10, 1000), (0, 1021))])


def test_ends():
    """No patches, none to keep, all of them, more; all equal, at the ends of the range."""
    cases = []
    for value in (0, 1, (1 << 15) - 1, 1 << 15, TOP - 1, TOP):
        for count in (0, 1, 20):
            # What surrounds the patches is not to be counted, however large.
            scores = (TOP, TOP, *[value] * count, TOP, 0)
            cases += [Case(scores, 2, count, keep)
                      for keep in {0, 1, count // 2, count, count + 1, TOP}]
    cases += [Case((TOP, 0, TOP, 0, TOP), 1, 4, keep) for keep in range(6)]
    search_all(replace(TINY, max_tokens=24), cases)


def test_result():
    """Threshold and ties as documented, and that they stay."""
    dut = TopKSearch(TINY)
    scores = [900, 5, 7, 7, 9, 7, 2, 1000]
    expected = {0: (TOP, 0), 1: (9, 1), 2: (7, 1), 3: (7, 2), 4: (7, 3), 5: (5, 1), 6: (2, 1),
                7: (0, 1), 100: (0, 94)}

    async def bench(ctx):
        ctx.set(dut.score_en, 1)
        for i, score in enumerate(scores):
            ctx.set(dut.score_row, i)
            ctx.set(dut.score, score)
            await ctx.tick()
        ctx.set(dut.score_en, 0)
        ctx.set(dut.first, 1)
        ctx.set(dut.count, 6)
        for keep, result in expected.items():
            ctx.set(dut.keep, keep)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            await ctx.tick().until(dut.done)
            for _ in range(40):
                assert (ctx.get(dut.threshold), ctx.get(dut.ties)) == result, f"keep {keep}"
                await ctx.tick()
                assert not ctx.get(dut.done)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def test_scores_are_read_one_by_one():
    dut = TopKSearch(TINY)
    scores = np.random.default_rng(3).integers(0, TOP + 1, TINY.max_tokens).tolist()

    async def bench(ctx):
        ctx.set(dut.score_en, 1)
        for i, score in enumerate(scores):
            ctx.set(dut.score_row, i)
            ctx.set(dut.score, score)
            await ctx.tick()
        ctx.set(dut.score_en, 0)
        for i in range(len(scores) + dut.READ_LATENCY):
            ctx.set(dut.read_row, min(i, len(scores) - 1))
            if i >= dut.READ_LATENCY:
                expected, got = scores[i - dut.READ_LATENCY], ctx.get(dut.read_score)
                assert expected == got, f"position {i - dut.READ_LATENCY}: {expected}, got {got}"
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def test_comparators():
    rng = np.random.default_rng(2)
    dut = Comparators(8)

    async def bench(ctx):
        for _ in range(200):
            scores = rng.integers(0, TOP + 1, 8) >> rng.integers(0, 16)
            threshold = int(rng.choice([*scores, 0, TOP]))
            ctx.set(dut.scores, scores.tolist())
            ctx.set(dut.threshold, threshold)
            below = (ctx.get(dut.below) >> np.arange(8)) & 1
            assert_equal("below", (scores < threshold).astype(int), below)

    sim = Simulator(dut)
    sim.add_testbench(bench)
    sim.run()


@pytest.mark.parametrize("images", [1, 2, 3, 4])
def test_segments(images):
    """Scores of one segment after those of another: each is searched, and read, by itself."""
    config = replace(TINY, images=images)
    dut = TopKSearch(config)
    rng = np.random.default_rng(images)
    scores = [rng.integers(0, TOP + 1, config.max_tokens - 7 * i) for i in range(images)]

    async def bench(ctx):
        ctx.set(dut.score_en, 1)
        for i in range(config.max_tokens):
            for segment in range(images):
                if i < len(scores[segment]):
                    ctx.set(dut.score_segment, segment)
                    ctx.set(dut.score_row, i)
                    ctx.set(dut.score, int(scores[segment][i]))
                    await ctx.tick()
        # Word by word, as class attention gives them: lanes hold one segment at a time.
        for segment in range(images):
            ctx.set(dut.score_segment, segment)
            for i, score in enumerate(scores[segment]):
                ctx.set(dut.score_row, i)
                ctx.set(dut.score, int(score))
                await ctx.tick()
        ctx.set(dut.score_en, 0)
        for segment in (*range(images), *reversed(range(images))):
            patches, keep = scores[segment][2:].tolist(), 20 + segment
            ctx.set(dut.segment, segment)
            ctx.set(dut.first, 2)
            ctx.set(dut.count, len(patches))
            ctx.set(dut.keep, keep)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            await ctx.tick().until(dut.done)
            got = kept_by_threshold(patches, ctx.get(dut.threshold), ctx.get(dut.ties))
            assert got == kept_by_sort(patches, keep), f"segment {segment}"
            for i in (0, 1, 50, len(scores[segment]) - 1):
                ctx.set(dut.read_row, i)
                for _ in range(dut.READ_LATENCY):
                    await ctx.tick()
                assert ctx.get(dut.read_score) == scores[segment][i], f"segment {segment}"

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
