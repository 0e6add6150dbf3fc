# SPDX-License-Identifier: BSD-2-Clause
"""What other ways to find the k largest scores would take: tables for docs/selector.md."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2, exact_log2

from platforms.synthesis import Cells, blocks, synthesise_blocks, totals
from platforms.tables import print_or_update
from rtl.arith import delay
from rtl.config import CONFIGS, Config, named
from rtl.emit import emit
from rtl.isa import ACT_BITS, SCORE_BITS, WIDE_BITS
from rtl.rowmax import LOWEST
from rtl.search import Comparators, PatchLanes, ScoreWords, TopKSearch
from rtl.tree import AdderTree, tree_latency

__all__ = ["BitonicSorter", "Exchange", "GatedTree", "MaskedScores", "PlaneSearch", "cells",
           "main", "report"]

#: What the section of a page is called that holds the tables.
_SECTION = "ablation"


class MaskedScores(Component):
    """The registers in front of the tree of the row maximum: a score, or the lowest one where there
    is no token. With ``shared`` they take scores and a threshold of a search instead, in turns.

    Latency: one cycle.

    Parameters
    ----------
    columns
        Scores.
    shared
        Whether the comparators behind them serve a search as well.

    Members
    -------
    data, enable : In
        Scores of a row; which of them are those of tokens.
    compare, scores, threshold : In
        With ``shared``: the search compares; what.
    o : Out
        To the tree.
    """

    def __init__(self, *, columns: int, shared: bool) -> None:
        self.columns = columns
        self.shared = shared
        lanes = data.ArrayLayout(signed(WIDE_BITS), columns)
        super().__init__({
            "data": In(lanes), "enable": In(columns), "compare": In(1),
            "scores": In(data.ArrayLayout(unsigned(SCORE_BITS), columns // 2)),
            "threshold": In(SCORE_BITS), "o": Out(lanes),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for i in range(self.columns):
            score = Signal(signed(WIDE_BITS), name=f"score_{i}", reset_less=True)
            m.d.sync += score.eq(Mux(self.enable[i], self.data[i], LOWEST))
            if self.shared:
                # For the tree, which compares signed numbers, 0 becomes the lowest one.
                other = self.scores[i // 2] if i % 2 else self.threshold
                with m.If(self.compare):
                    m.d.sync += score.eq(other ^ (1 << (SCORE_BITS - 1)))
            m.d.comb += self.o[i].eq(score)
        return m


class Exchange(Component):
    """Two places of :class:`BitonicSorter` and the comparator between them.

    Latency: one cycle.

    Parameters
    ----------
    bits
        Width of a key.

    Members
    -------
    clear, shift, step : In(1)
        Both places become 0; they take ``before`` and the own lower place; they take ``low`` and
        ``high``. The first of these counts.
    exchange, falling : In(1)
        With ``step``: the lesser key goes into the lower place; it goes into the upper one.
    before, low, high : In(bits)
        Keys from other places.
    o_low, o_high : Out(bits)
        The two places.
    """

    def __init__(self, bits: int) -> None:
        super().__init__({
            "clear": In(1), "shift": In(1), "step": In(1), "exchange": In(1), "falling": In(1),
            "before": In(bits), "low": In(bits), "high": In(bits),
            "o_low": Out(bits), "o_high": Out(bits),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        swap = Signal()
        m.d.comb += swap.eq(self.exchange & ((self.low > self.high) ^ self.falling))
        with m.If(self.clear):
            m.d.sync += [self.o_low.eq(0), self.o_high.eq(0)]
        with m.Elif(self.shift):
            m.d.sync += [self.o_low.eq(self.before), self.o_high.eq(self.o_low)]
        with m.Elif(self.step):
            m.d.sync += [self.o_low.eq(Mux(swap, self.high, self.low)),
                         self.o_high.eq(Mux(swap, self.low, self.high))]
        return m


class BitonicSorter(Component):
    """Sorts ``size`` keys by the bitonic network, of which one row of comparators is there: it
    compares neighbours, after every perfect shuffle.

    After ``clear`` keys are shifted in, one a cycle; ``start`` sorts; then the greatest key is at
    ``o``, and each ``shift`` brings the next. A place that no key has reached holds 0.

    Latency: ``latency`` cycles from the one after ``start``. Resources: ``size / 2`` times
    :class:`Exchange`.

    Parameters
    ----------
    size
        Keys, a power of two, at least four.
    bits
        Width of a key.

    Members
    -------
    clear, shift, start : In(1)
        As above.
    i, o : In(bits), Out(bits)
        Key that is shifted in, and out.
    busy : Out(1)
        It sorts.

    Source: Batcher, Sorting networks and their applications (1968); Stone, Parallel processing
    with the perfect shuffle (1971).
    """

    def __init__(self, *, size: int, bits: int) -> None:
        self.size = size
        self.bits = bits
        self.levels = exact_log2(size)
        self.latency = self.levels ** 2
        super().__init__({"clear": In(1), "shift": In(1), "start": In(1), "i": In(bits),
                          "o": Out(bits), "busy": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # A shuffle moves the key in place p to p rotated left. After shuffle t of a stage, where
        # t is 1 to ``levels``, bit b of a place is bit b - t of the one in which the stage began.
        # Stage s compares keys whose places differ in bits s - 1 to 0, and bit s says which way.
        stage, shuffle = Signal(range(1, self.levels + 1)), Signal(range(1, self.levels + 1))
        exchange = Signal()
        way = Signal(range(self.levels + 1))
        falling = Signal(self.levels)
        m.d.comb += [
            exchange.eq(stage + shuffle > self.levels),
            way.eq(stage + shuffle - self.levels),
            falling.eq(Mux(stage == self.levels, 0, 1 << way)),
        ]
        with m.If(self.start):
            m.d.sync += [self.busy.eq(1), stage.eq(1), shuffle.eq(1)]
        with m.Elif(self.busy):
            m.d.sync += shuffle.eq(shuffle + 1)
            with m.If(shuffle == self.levels):
                m.d.sync += [shuffle.eq(1), stage.eq(stage + 1),
                             self.busy.eq(stage != self.levels)]

        places = [Signal(self.bits, name=f"place_{p}") for p in range(self.size)]
        for k in range(self.size // 2):
            m.submodules[f"exchange_{k}"] = pair = Exchange(self.bits)
            m.d.comb += [
                pair.clear.eq(self.clear),
                pair.shift.eq(self.shift),
                pair.step.eq(self.busy),
                pair.exchange.eq(exchange),
                pair.falling.eq((falling & (2 * k)).any()),
                pair.before.eq(places[2 * k - 1] if k else self.i),
                pair.low.eq(places[k]),
                pair.high.eq(places[k + self.size // 2]),
                places[2 * k].eq(pair.o_low),
                places[2 * k + 1].eq(pair.o_high),
            ]
        m.d.comb += self.o.eq(places[-1])
        return m


class PlaneSearch(Component):
    """:class:`TopKSearch` without comparators: each step counts, among the patches whose upper
    bits are those of the threshold, the ones that have the next bit as well.

    Contract and members are those of TopKSearch, without reading back.

    Latency: ``16 * (words + step_cycles) + 1`` cycles from ``start`` to ``done``.
    Resources: a multiplexer and two bits of state a lane.

    Parameters
    ----------
    config
        Configuration; ``comparators`` and ``max_tokens`` are used.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.lanes = config.comparators
        #: Cycles of a step beyond one for each word: bits, tree, total, decision.
        self.step_cycles = 1 + tree_latency(self.lanes) + 1 + 1
        super().__init__({
            "score_en": In(1), "score_row": In(range(config.max_tokens)), "score": In(SCORE_BITS),
            "start": In(1), "keep": In(16), "first": In(2), "count": In(16),
            "done": Out(1), "threshold": Out(SCORE_BITS), "ties": Out(16),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = ScoreWords(self.config)
        m.submodules.lanes = lanes = PatchLanes(self.config)
        # Of each patch: its bits so far are those of the threshold; its last bit
        m.submodules.state = state = Memory(
            shape=data.ArrayLayout(unsigned(2), self.lanes), depth=words.words, init=[],
            attrs={"ram_style": "distributed"})
        read, write = state.read_port(), state.write_port()
        m.submodules.tree = tree = AdderTree(inputs=self.lanes, shape=unsigned(1))

        sweeping, at_end, decide = Signal(), Signal(), Signal()
        word = Signal.like(words.word, reset_less=True)
        place = Signal(range(SCORE_BITS), reset_less=True)
        taken = Signal(reset_less=True)
        m.d.sync += [word.eq(word + 1), self.done.eq(decide & (place == 0))]
        m.d.comb += [
            words.score_en.eq(self.score_en),
            words.score_row.eq(self.score_row),
            words.score.eq(self.score),
            lanes.first.eq(self.first),
            lanes.count.eq(self.count),
            at_end.eq(sweeping & (word == lanes.last_word)),
            words.word.eq(word),
            read.addr.eq(word),
            write.addr.eq(delay(m, word, 2, name="word")),
            write.en.eq(delay(m, sweeping, 2, name="sweeping", reset=True)),
        ]

        top = place == SCORE_BITS - 1
        valid = delay(m, sweeping, 1, name="valid", reset=True)
        in_first = delay(m, word == 0, 1, name="in_first")
        in_last = delay(m, at_end, 1, name="in_last", reset=True)
        for i in range(self.lanes):
            inside = (lanes.head[i] | ~in_first) & (lanes.tail[i] | ~in_last)
            alive = Signal(name=f"alive_{i}", reset_less=True)
            bit = Signal(name=f"bit_{i}", reset_less=True)
            m.d.sync += [
                bit.eq(words.scores[i].bit_select(place, 1)),
                alive.eq(valid & Mux(top, inside, read.data[i][0] & (read.data[i][1] == taken))),
            ]
            m.d.comb += [write.data[i].eq(Cat(alive, bit)), tree.i[i].eq(alive & bit)]

        total = Signal(range(self.config.max_tokens + 1))
        above = Signal.like(total)
        m.d.comb += decide.eq(delay(m, in_last, 1 + tree.latency + 1, name="in_last_late",
                                    reset=True))
        m.d.sync += total.eq(total + tree.o)
        with m.If(self.start):
            m.d.sync += [sweeping.eq(1), word.eq(0), place.eq(SCORE_BITS - 1),
                         self.threshold.eq(0), self.ties.eq(self.keep), total.eq(0), above.eq(0)]
        with m.Elif(decide):
            enough = total >= self.keep
            m.d.sync += [sweeping.eq(place != 0), word.eq(0), place.eq(place - 1), taken.eq(enough),
                         self.threshold.eq(Cat(enough, self.threshold))]
            with m.If(enough):
                m.d.sync += total.eq(above)
            with m.Else():
                m.d.sync += [above.eq(total), self.ties.eq(self.keep - total)]
        with m.Elif(at_end):
            m.d.sync += sweeping.eq(0)
        return m


class GatedTree(Component):
    """The adder tree of the row sum, through which the hits of a search go instead when ``count``.

    Latency: that of the tree. Resources: the tree, and what this is to measure.

    Parameters
    ----------
    inputs
        Exponentials.
    hits
        Hits, of which the first inputs take one each.

    Members
    -------
    count : In(1)
        Hits are summed.
    e, hit : In
        Exponentials, hits.
    o : Out
        Sum.
    """

    def __init__(self, *, inputs: int, hits: int) -> None:
        self.hits = hits
        self.tree = AdderTree(inputs=inputs, shape=unsigned(ACT_BITS - 1))
        super().__init__({
            "count": In(1),
            "e": In(data.ArrayLayout(unsigned(ACT_BITS - 1), inputs)),
            "hit": In(hits),
            "o": Out(self.tree.o.shape()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.tree = tree = self.tree
        for k in range(tree.inputs):
            m.d.comb += tree.i[k].eq(
                Mux(self.count, self.hit[k] if k < self.hits else 0, self.e[k]))
        m.d.comb += self.o.eq(tree.o)
        return m


def cells(component: Component) -> Cells:
    """Return what ``component`` takes, all of its parts included."""
    verilog = emit(component, "unit")
    return totals(blocks(verilog), synthesise_blocks(verilog))["unit"]


def report(config: Config) -> str:
    """Synthesise all ways to search at the size of ``config``, and return the tables."""
    search, planes = TopKSearch(config), PlaneSearch(config)
    bisection, own = cells(search), cells(Comparators(config.comparators))
    masked, shared_masks = (cells(MaskedScores(columns=config.columns, shared=shared))
                            for shared in (False, True))
    shared = shared_masks - masked
    size = 1 << ceil_log2(config.max_tokens)
    sorter = BitonicSorter(size=size, bits=SCORE_BITS + ceil_log2(size))
    words = -(-config.max_tokens // config.comparators)
    ways = [
        (f"bisection, {config.comparators} comparators of its own, as it is",
         _cycles(words, search), bisection),
        ("bisection, comparators of the row maximum", _cycles(words, search, 2),
         bisection - own + shared),
        ("bisection by bit planes, no comparators", _cycles(words, planes), cells(planes)),
        (f"bitonic network of {size} keys, one row of {size // 2} comparators",
         f"{sorter.latency} + k", cells(sorter)),
    ]
    tree = AdderTree(inputs=config.rows, shape=unsigned(ACT_BITS - 1))
    gated = GatedTree(inputs=config.rows, hits=config.comparators)
    counts = [
        ("adder tree of its own",
         cells(AdderTree(inputs=config.comparators, shape=unsigned(1)))),
        ("adder tree of the row sum, what its gates add", cells(gated) - cells(tree)),
        (f"{config.comparators} comparators of its own", own),
        ("comparators of the row maximum, what their gates add", shared),
    ]
    return "\n".join([
        "| k largest of the scores | cycles | LUT | of it memory | FF | CARRY4 |",
        "|---|---:|---:|---:|---:|---:|",
        *(f"| {name} | {cycles} | {_numbers(found)} |" for name, cycles, found in ways), "",
        "| part of it | LUT | of it memory | FF | CARRY4 |",
        "|---|---:|---:|---:|---:|",
        *(f"| {name} | {_numbers(found)} |" for name, found in counts)])


def _cycles(words: int, search: TopKSearch | PlaneSearch, registers: int = 0) -> str:
    """Return the cycles of a search, with so many more ``registers`` in each step."""
    return str(SCORE_BITS * (words + search.step_cycles + registers) + 1)


def _numbers(found: Cells) -> str:
    return " | ".join(f"{n:,}" for n in (found.luts, found.lutram, found.ff, found.carry))


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m platforms.ablation``."""
    parser = argparse.ArgumentParser(prog="python -m platforms.ablation", description=__doc__)
    parser.add_argument("--config", default="zcu102",
                        help=f"configuration: {', '.join(CONFIGS)} (default: %(default)s)")
    parser.add_argument("--update", type=Path, metavar="FILE",
                        help="put the tables into this file instead of printing them")
    options = parser.parse_args(arguments)

    def prepare() -> tuple[str, Callable[[], str]]:
        config = named(options.config)
        return _SECTION, lambda: report(config)

    return print_or_update(options.update, prepare)


if __name__ == "__main__":
    sys.exit(main())
