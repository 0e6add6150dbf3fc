# SPDX-License-Identifier: BSD-2-Clause
"""The k-th largest score, found bit by bit: how many scores are not below a threshold?"""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2, exact_log2

from rtl.arith import delay
from rtl.config import Config
from rtl.isa import SCORE_BITS, SEGMENTS
from rtl.tree import AdderTree, tree_latency

__all__ = ["Comparators", "PatchLanes", "ScoreWords", "TopKSearch"]


class ScoreWords(Component):
    """Scores of every segment that come one by one, and are read a word at a time.

    A word is written again with each of its scores: distributed memory that is written lane by
    lane would be nearly twice as large. The last time all of its lanes are up to date, as scores
    come in the order of the positions, from 0.

    Latency: a score is there ``LATENCY`` cycles after it came; a word is read in one cycle.
    Resources: a LUT and 16 flip-flops a lane, and the memory.

    Parameters
    ----------
    config
        Configuration; ``comparators``, the lanes of a word, ``max_tokens`` and ``images``, as many
        segments as have scores, are used.

    Members
    -------
    score_en, score_segment, score_row, score : In
        Score of a position of a segment.
    segment, word : In
        Word that is read.
    scores : Out(ArrayLayout(16, comparators))
        Its scores.
    """

    LATENCY = 2

    def __init__(self, config: Config) -> None:
        self.lanes = config.comparators
        self.max_tokens = config.max_tokens
        self.words = max(2, -(-self.max_tokens // self.lanes))
        self.segment_bits = ceil_log2(config.images)
        self.shape = data.ArrayLayout(unsigned(SCORE_BITS), self.lanes)
        super().__init__({
            "score_en": In(1),
            "score_segment": In(range(SEGMENTS)),
            "score_row": In(range(self.max_tokens)),
            "score": In(SCORE_BITS),
            "segment": In(range(SEGMENTS)),
            "word": In(range(self.words)),
            "scores": Out(self.shape),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.segment_bits
        m.submodules.memory = memory = Memory(shape=self.shape, depth=self.words << bits, init=[],
                                              attrs={"ram_style": "distributed"})
        read, write = memory.read_port(), memory.write_port()
        lane_bits = exact_log2(self.lanes)
        row = Signal(range(max(self.max_tokens, 2 * self.lanes)))
        m.d.comb += row.eq(self.score_row)
        for i in range(self.lanes):
            lane = Signal(SCORE_BITS, name=f"lane_{i}", reset_less=True)
            with m.If(self.score_en & (row[:lane_bits] == i)):
                m.d.sync += lane.eq(self.score)
            m.d.comb += write.data[i].eq(lane)
        m.d.comb += [
            write.addr.eq(delay(m, Cat(self.score_segment[:bits], row[lane_bits:]), 1,
                                name="written")),
            write.en.eq(delay(m, self.score_en, 1, name="score_en", reset=True)),
            read.addr.eq(Cat(self.segment[:bits], self.word)),
            self.scores.eq(read.data),
        ]
        return m


class PatchLanes(Component):
    """Lanes of the first and of the last word of scores that hold scores of patches.

    Latency: one cycle. Resources: a LUT and a flip-flop a lane.

    Parameters
    ----------
    config
        Configuration; ``comparators``, the lanes of a word, and ``max_tokens`` are used.

    Members
    -------
    first, count : In(2), In(16)
        Position of the first patch, at least 1, and number of patches.
    head, tail : Out(comparators)
        Lanes not before the first patch, if they are in the first word; not behind the last one,
        if they are in the last word.
    last_word : Out
        The last word.
    """

    def __init__(self, config: Config) -> None:
        self.lanes = config.comparators
        self.max_tokens = config.max_tokens
        super().__init__({
            "first": In(2),
            "count": In(16),
            "head": Out(self.lanes),
            "tail": Out(self.lanes),
            "last_word": Out(range(max(2, -(-self.max_tokens // self.lanes)))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lane_bits = exact_log2(self.lanes)
        last = Signal(range(max(self.max_tokens, 2 * self.lanes)))
        m.d.comb += last.eq(self.first + self.count - 1)
        m.d.sync += [
            self.last_word.eq(last[lane_bits:]),
            self.head.eq(Cat(self.first <= i for i in range(self.lanes))),
            self.tail.eq(Cat(last[:lane_bits] >= i for i in range(self.lanes))),
        ]
        return m


class Comparators(Component):
    """``below[k] = scores[k] < threshold``, in the same cycle.

    Resources: about 11 LUTs a score.

    Parameters
    ----------
    count
        Scores.

    Members
    -------
    scores, threshold : In
        What is compared.
    below : Out(count)
        Which scores are below.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__({
            "scores": In(data.ArrayLayout(unsigned(SCORE_BITS), count)),
            "threshold": In(SCORE_BITS),
            "below": Out(count),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.below.eq(Cat(self.scores[k] < self.threshold for k in range(self.count)))
        return m


class TopKSearch(Component):
    """``threshold``: the largest T such that ``keep`` patches or more have a score not below T;
    0 if there are fewer than ``keep``, ``2**16 - 1`` if ``keep`` is 0. ``ties = keep - |> T|``:
    so many of the patches whose score is T stay.

    Bisection from the top bit: each candidate is compared with all scores, ``comparators`` of them
    a cycle, and what is not below is counted. The last candidate that fails is T + 1, so that its
    count is that of the scores above T.

    Scores of a segment come in the order of the positions, from 0, and not during a search (the
    last one may come in the cycle before ``start``); ``segment``, ``keep``, ``first`` and ``count``
    do not change during it.
    ``first`` is at least 1: there is a class token. ``threshold`` and ``ties`` stay until the next
    start.

    Latency: ``16 * (words + step_cycles) + 1`` cycles from ``start`` to ``done``, where ``words =
    ceil((first + count) / comparators)``; a score is read in ``READ_LATENCY``.
    Resources: about 20 LUTs and 20 flip-flops a comparator, 9 LUTs a comparator of distributed
    memory (up to 32 words of it), and one block RAM of 18 kbit up to 1024 scores of all segments.

    Parameters
    ----------
    config
        Configuration; ``comparators``, ``max_tokens`` and ``images`` are used.

    Members
    -------
    score_en, score_segment, score_row, score : In
        Writes the score of a position of a segment.
    segment : In
        Segment that is searched, and read.
    start : In(1)
        Begins a search.
    keep : In(16)
        Patches that stay.
    first, count : In(2), In(16)
        Position of the first patch, and number of patches.
    done : Out(1)
        The search has ended.
    threshold, ties : Out(16)
        Its result.
    read_row, read_score : In, Out(16)
        Reads the score of a position.
    """

    READ_LATENCY = 1

    def __init__(self, config: Config) -> None:
        self.config = config
        self.comparators = config.comparators
        #: Cycles of a step beyond one for each word: hits, tree, total, decision.
        self.step_cycles = 1 + tree_latency(self.comparators) + 1 + 1
        super().__init__({
            "score_en": In(1),
            "score_segment": In(range(SEGMENTS)),
            "segment": In(range(SEGMENTS)),
            "score_row": In(range(config.max_tokens)),
            "score": In(SCORE_BITS),
            "start": In(1),
            "keep": In(16),
            "first": In(2),
            "count": In(16),
            "done": Out(1),
            "threshold": Out(SCORE_BITS),
            "ties": Out(16),
            "read_row": In(range(config.max_tokens)),
            "read_score": Out(SCORE_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Scores: as wide as the comparators, and one by one
        m.submodules.words = words = ScoreWords(self.config)
        m.submodules.narrow = narrow = Memory(
            shape=unsigned(SCORE_BITS), depth=self.config.max_tokens << words.segment_bits, init=[],
            attrs={"ram_style": "block"})
        write, read = narrow.write_port(), narrow.read_port()
        m.submodules.lanes = lanes = PatchLanes(self.config)
        m.d.comb += [
            words.score_en.eq(self.score_en),
            words.score_segment.eq(self.score_segment),
            words.score_row.eq(self.score_row),
            words.score.eq(self.score),
            words.segment.eq(self.segment),
            write.addr.eq(Cat(self.score_segment[:words.segment_bits], self.score_row)),
            write.data.eq(self.score),
            write.en.eq(self.score_en),
            read.addr.eq(Cat(self.segment[:words.segment_bits], self.read_row)),
            self.read_score.eq(read.data),
            lanes.first.eq(self.first),
            lanes.count.eq(self.count),
        ]

        # A step: all words against the threshold with one more bit
        sweeping, at_end, decide = Signal(), Signal(), Signal()
        word = Signal.like(words.word, reset_less=True)
        bit = Signal(SCORE_BITS, reset_less=True)
        candidate = Signal(SCORE_BITS, reset_less=True)
        m.submodules.compare = compare = Comparators(self.comparators)
        m.d.comb += [
            at_end.eq(sweeping & (word == lanes.last_word)),
            words.word.eq(word),
            compare.scores.eq(words.scores),
            compare.threshold.eq(candidate),
        ]
        m.d.sync += [
            word.eq(word + 1),
            candidate.eq(self.threshold | bit),
            self.done.eq(decide & bit[0]),
        ]

        # Patches that are not below it
        valid = delay(m, sweeping, 1, name="valid", reset=True)
        in_first = delay(m, word == 0, 1, name="in_first")
        in_last = delay(m, at_end, 1, name="in_last", reset=True)
        m.submodules.tree = tree = AdderTree(inputs=self.comparators, shape=unsigned(1))
        for i in range(self.comparators):
            inside = (lanes.head[i] | ~in_first) & (lanes.tail[i] | ~in_last)
            hit = Signal(name=f"hit_{i}", reset_less=True)
            m.d.sync += hit.eq(~compare.below[i] & inside & valid)
            m.d.comb += tree.i[i].eq(hit)
        total = Signal(range(self.config.max_tokens + 1))
        missing = Signal(16)
        m.d.comb += [
            decide.eq(delay(m, in_last, 1 + tree.latency + 1, name="in_last_late", reset=True)),
            missing.eq(self.keep - total),
        ]
        m.d.sync += total.eq(Mux(decide, 0, total + tree.o))

        with m.If(self.start):
            m.d.sync += [
                sweeping.eq(1), word.eq(0), bit.eq(1 << (SCORE_BITS - 1)),
                self.threshold.eq(0), self.ties.eq(self.keep),
            ]
        with m.Elif(decide):
            m.d.sync += [sweeping.eq(~bit[0]), word.eq(0), bit.eq(bit >> 1)]
            with m.If(total >= self.keep):
                m.d.sync += self.threshold.eq(self.threshold | bit)
            with m.Else():
                m.d.sync += self.ties.eq(missing)
        with m.Elif(at_end):
            m.d.sync += sweeping.eq(0)
        return m
