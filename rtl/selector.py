# SPDX-License-Identifier: BSD-2-Clause
"""The token selector: decides which patches stay, writes the new token list, shares the rest."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, enum, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl import isa
from rtl.arith import delay
from rtl.config import Config
from rtl.kept_map import KeptMap
from rtl.registers import WORD_ADDRESS_BITS
from rtl.search import TopKSearch
from rtl.segments import segment_layout
from rtl.shares import Shares
from rtl.token_list import TokenList

__all__ = ["Selector", "SelectorPhase"]


class SelectorPhase(enum.Enum, shape=3):
    """What the selector does in a cycle, for tracing."""

    IDLE = 0
    SCORES = 1   #: waits for the class token's attention
    SEARCH = 2   #: of the threshold
    SCAN = 3     #: over the tokens, or waits for their pairs
    SHARES = 4   #: of the package token


class Selector(wiring.Component):
    """One scan over the tokens: ``keep = S > T, or S = T and one of the first`` or ``A >= 64 B``.

    ``init`` begins an image: no package token yet; the first one of a round also has no selector
    yet. ``start`` begins a selector, while passes go on; ``select`` and the segment are taken with
    it. TOPK waits for the class attention unit and searches its threshold; the scores have been
    stored as they came, by segment and position. THRESHOLD is started before the pass of the
    classes, and the scan follows their pairs, in the order of the positions. It reads one position
    a cycle, and writes the rows that stay to the other bank of the token list and the others to the
    dropped list. Special and package tokens stay, but a package that is merged goes with the
    patches, if one goes. The row of the first that is dropped is that of the package token and
    comes at the end; where none is dropped, the dropped list has the row of the last token, with a
    share of one, and the package pass changes nothing.

    Both lists are appended to, from ``kept_base`` and ``dropped_base`` on. With ``append`` they,
    ``kept``, ``dropped``, shares and counts are there, and ``busy`` falls. ``apply``: the next
    ``start`` is of the next selector.

    Latency: at most ``busy_cycles(tokens, dropped)`` beside search and class attention for TOPK,
    ``busy_cycles(1, dropped)`` from the last pair for THRESHOLD.
    Resources: those of ``Shares``, ``TopKSearch`` and ``KeptMap``, one block RAM of 18 kbit for up
    to 512 ``pass_rows``, about 150 LUTs.

    Parameters
    ----------
    config
        ``max_tokens``, ``pass_rows``, ``residual_rows``, ``images`` and ``comparators`` are used.

    Members
    -------
    init, init_image, start, apply : In; busy : Out
        Pulses, the image that begins; high from the cycle after ``start``.
    select, segment : In
        Instruction, the segment that it is about.
    kept_base, dropped_base : In; append, image, kept, dropped : Out
        As of ``SegmentTable``.
    attention_busy, score_en, score_segment, score_row, score : In
        From ``ClassAttention``.
    pair_valid, pair_row, pair_weighted, pair_importance : In
        A and B of a position.
    request, request_sum, request_scale_m, request_scale_s : Out; reciprocal : In
        Reciprocal unit, of ``RowSum``: ``Reciprocal.LATENCY`` cycles behind.
    scan_position : Out; scan_row : In; write_en, write_dropped, write_position, write_row : Out
        Of ``TokenList``.
    share_row : In; share : Out
        Place in the dropped list; its share, one cycle later.
    readback_at : In; readback : Out
        As of ``KeptMap``, one cycle later.
    scan_valid, scan_physical, scan_keep : Out
        Every position in order, for tracing.
    weight_valid, weight, share_valid, share_index, share_value : Out
        As of ``Shares``, for tracing.
    phase : Out
        For tracing.
    """

    #: Cycles beside the scan and the search: registers, its pipeline, the end of the list.
    _OVERHEAD = 10

    def __init__(self, config: Config) -> None:
        self.config = config
        index, image = range(config.max_tokens), range(isa.SEGMENTS)
        position, row = range(config.pass_rows), range(config.residual_rows)
        segment = segment_layout(config)
        base = segment["start"].shape
        super().__init__({
            "init": In(1), "init_image": In(image), "start": In(1), "apply": In(1), "busy": Out(1),
            "select": In(isa.select_layout), "segment": In(segment),
            "kept_base": In(base), "dropped_base": In(base),
            "append": Out(1), "image": Out(image), "kept": Out(base), "dropped": Out(base),
            "attention_busy": In(1), "score_en": In(1), "score_segment": In(image),
            "score_row": In(index), "score": In(isa.SCORE_BITS),
            "pair_valid": In(1), "pair_row": In(position), "pair_weighted": In(isa.WEIGHTED_BITS),
            "pair_importance": In(isa.IMPORTANCE_BITS),
            "request": Out(1), "request_sum": Out(isa.SUM_BITS),
            "request_scale_m": Out(isa.MANTISSA_BITS), "request_scale_s": Out(isa.SHIFT_BITS),
            "reciprocal": In(isa.RowScale),
            "scan_position": Out(position), "scan_row": In(row),
            "write_en": Out(1), "write_dropped": Out(1), "write_position": Out(position),
            "write_row": Out(row),
            "share_row": In(position), "share": Out(isa.SHARE_BITS),
            "readback_at": In(WORD_ADDRESS_BITS), "readback": Out(32),
            "scan_valid": Out(1), "scan_physical": Out(row), "scan_keep": Out(1),
            "weight_valid": Out(1), "weight": Out(isa.WEIGHT_BITS),
            "share_valid": Out(1), "share_index": Out(index), "share_value": Out(isa.SHARE_BITS),
            "phase": Out(SelectorPhase),
        })

    @classmethod
    def busy_cycles(cls, tokens: int, dropped: int) -> int:
        """Return the most cycles of ``busy``, beside the search and waiting for the attention."""
        return cls._OVERHEAD + tokens + Shares.finish_cycles(dropped)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.search = search = TopKSearch(config)
        m.submodules.shares = shares = Shares(config)
        m.submodules.kept_map = kept_map = KeptMap(config)
        size = range(config.max_tokens + 1)

        # What lasts from one selector to the next; then what is so for one.
        index = Signal(range(isa.SELECTORS + 1))
        packages = Signal(data.ArrayLayout(range(isa.SELECTORS + 1), isa.SEGMENTS))
        select = Signal(isa.select_layout, reset_less=True)
        segment = Signal.like(self.segment, reset_less=True)
        patch_end = Signal(size, reset_less=True)
        patches, ties = Signal(size), Signal(size)
        kept, dropped = self.kept, self.dropped
        by_score = Signal()
        pairs_here = Signal(size)

        position = Signal(range(config.max_tokens))
        scanning, last = Signal(), Signal()
        with m.If(self.pair_valid):
            m.d.sync += pairs_here.eq(pairs_here + 1)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.comb += shares.start.eq(1)
                    m.d.sync += [self.busy.eq(1), select.eq(self.select), position.eq(0),
                                 segment.eq(self.segment),
                                 patch_end.eq(self.segment.count - packages[self.select.image]),
                                 pairs_here.eq(0), kept.eq(0), patches.eq(0), ties.eq(0),
                                 dropped.eq(0)]
                    m.next = "SCORES"
            with m.State("SCORES"):
                m.d.comb += self.phase.eq(SelectorPhase.SCORES)
                with m.If(~by_score):
                    m.next = "SCAN"
                with m.Elif(~self.attention_busy):
                    m.d.comb += search.start.eq(1)
                    m.next = "SEARCH"
            with m.State("SEARCH"):
                m.d.comb += self.phase.eq(SelectorPhase.SEARCH)
                with m.If(search.done):
                    m.next = "SCAN"
            with m.State("SCAN"):
                m.d.comb += self.phase.eq(SelectorPhase.SCAN)
                with m.If(by_score | (position < pairs_here)):
                    m.d.comb += [scanning.eq(1), last.eq(position + 1 == segment.count)]
                    m.d.sync += position.eq(position + 1)
                with m.If(last):
                    m.next = "SHARES"
            with m.State("SHARES"):
                m.d.comb += self.phase.eq(SelectorPhase.SHARES)
                with m.If(~shares.busy):
                    m.d.comb += self.append.eq(1)
                    m.d.sync += self.busy.eq(0)
                    m.next = "IDLE"
        m.d.comb += by_score.eq(select.kind == isa.SelectorKind.TOPK)

        # The scan reads the scores of the search, the pairs, and the rows.
        pairs = Memory(shape=data.StructLayout({"weighted": isa.WEIGHTED_BITS,
                                                "importance": isa.IMPORTANCE_BITS}),
                       depth=config.pass_rows, init=[], attrs={"ram_style": "block"})
        m.submodules.pairs = pairs
        read, write = pairs.read_port(), pairs.write_port()
        m.d.comb += [
            write.en.eq(self.pair_valid),
            write.addr.eq(self.pair_row),
            write.data.weighted.eq(self.pair_weighted),
            write.data.importance.eq(self.pair_importance),
            read.addr.eq(self.scan_position),
            self.scan_position.eq(segment.start + position),
            self.image.eq(select.image),
            search.segment.eq(select.segment),
            search.read_row.eq(position),
            search.keep.eq(select.keep),
            search.first.eq(select.special),
            search.count.eq(patch_end - select.special),
        ]
        # A position a cycle: its score, in the next cycle how that is to the threshold.
        pair = data.View(pairs.shape, delay(m, read.data, search.READ_LATENCY - 1, name="pair"))
        score = Signal(isa.WEIGHTED_BITS, reset_less=True)
        bound = Signal(isa.WEIGHTED_BITS, reset_less=True)
        stays, equal = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [
            score.eq(Mux(by_score, search.read_score, pair.weighted)),
            bound.eq(Mux(by_score, search.threshold, pair.importance << 6)),
            stays.eq(score >= bound),
            equal.eq((score[:isa.SCORE_BITS] == bound[:isa.SCORE_BITS]) & by_score),
        ]
        cycles = search.READ_LATENCY + 2
        patch, package = Signal(), Signal()
        m.d.comb += [package.eq(position >= patch_end),
                     patch.eq((position >= select.special) & ~package)]
        valid = delay(m, scanning, cycles, name="valid", reset=True)
        ended = delay(m, last, cycles, name="ended", reset=True)
        patch = delay(m, patch, cycles, name="patch")
        package = delay(m, package, cycles, name="package")
        row = delay(m, self.scan_row, cycles - TokenList.LATENCY, name="row")

        # Whether it stays. At the end comes the package token, or a dropped row if there is none.
        keep, any_dropped = Signal(), Signal()
        append = delay(m, ended, 1, name="append", reset=True)
        last_row = Signal.like(row, reset_less=True)  # until one is dropped; then, of that one
        row_out, patch_out = Signal.like(row, reset_less=True), Signal(reset_less=True)
        m.d.comb += [
            any_dropped.eq(dropped != 0),
            keep.eq(Mux(append, any_dropped,
                        Mux(patch, stays & (~equal | (ties != search.ties)),
                            ~(package & select.merged & any_dropped)))),
        ]
        m.d.sync += [
            self.scan_valid.eq(valid),
            self.write_en.eq(valid | append),
            self.write_dropped.eq(~keep),
            self.write_position.eq(Mux(keep, self.kept_base + kept,
                                       self.dropped_base + dropped)),
            row_out.eq(Mux(append, last_row, row)),
            patch_out.eq(patch),
            shares.dropped.eq(valid & ~keep),
        ]
        with m.If(~any_dropped):
            m.d.sync += last_row.eq(row)
        with m.If(valid | append):
            with m.If(keep):
                m.d.sync += kept.eq(kept + 1)
            with m.Else():
                m.d.sync += dropped.eq(dropped + 1)
        with m.If(valid & patch & keep):
            m.d.sync += [patches.eq(patches + 1), ties.eq(ties + equal)]
        with m.If(self.apply):
            m.d.sync += index.eq(index + 1)
        with m.If(self.init & (self.init_image == 0)):
            m.d.sync += index.eq(0)
        for i in range(isa.SEGMENTS):
            with m.If(append & any_dropped & (select.image == i)):
                m.d.sync += packages[i].eq(Mux(select.merged, 1, packages[i] + 1))
            with m.If(self.init & (self.init_image == i)):
                m.d.sync += packages[i].eq(0)

        m.d.comb += [
            self.write_row.eq(row_out),
            self.scan_physical.eq(row_out),
            self.scan_keep.eq(~self.write_dropped),
            shares.quotient.eq(~by_score),
            shares.package.eq(delay(m, package, 1, name="package_out")),
            shares.score.eq(delay(m, score, 2, name="score_out")),
            shares.importance.eq(delay(m, pair.importance, 3, name="importance_out")),
            shares.finish.eq(append),
            shares.init.eq(self.init),
            shares.init_image.eq(self.init_image),
            shares.image.eq(select.image),
            shares.base.eq(self.dropped_base),
            kept_map.init.eq(self.init & (self.init_image == 0)),
            kept_map.index.eq(index),
            kept_map.image.eq(select.image),
            kept_map.drop.eq(shares.dropped & patch_out),
            kept_map.drop_row.eq(row_out),
            kept_map.count.eq(delay(m, append, 1, name="append_out", reset=True)),
            kept_map.count_tokens.eq(kept),
            kept_map.count_patches.eq(patches),
            kept_map.at.eq(self.readback_at),
            self.readback.eq(kept_map.word),
        ]
        for name in ("score_en", "score_segment", "score_row", "score"):
            m.d.comb += getattr(search, name).eq(getattr(self, name))
        for name in ("reciprocal", "share_row"):
            m.d.comb += getattr(shares, name).eq(getattr(self, name))
        for name in ("request", "request_sum", "request_scale_m", "request_scale_s", "share",
                     "weight_valid", "weight", "share_valid", "share_index", "share_value"):
            m.d.comb += getattr(self, name).eq(getattr(shares, name))
        return m
