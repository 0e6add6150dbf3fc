# SPDX-License-Identifier: BSD-2-Clause
"""What is wrong with an instruction: its fields, and its place among the others."""

from functools import reduce
from operator import or_

from amaranth.hdl import Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl import isa
from rtl.config import Config

__all__ = ["InstructionCheck"]


class InstructionCheck(wiring.Component):
    """Follows a program, and says of the next instruction whether it is one that can be executed.

    It refuses passes that would never end, or that take what is not there: rows of tables, lists
    and passes behind the last one, bases behind the end of a buffer, dependencies on passes that
    have not been, segments that no image or selector has left, images that the round does not have;
    and combinations of fields that mean nothing. A loop begins with IMAGE or LOAD, IMAGE comes
    before all that needs a list, END last. Weights that are too few, scales
    of columns beside no weights, and selectors without scores it does not see: the watchdog ends
    these runs.

    Latency: one cycle from ``word`` to ``bad``.

    Resources: mostly comparators.

    Members
    -------
    word, index : In, the instruction, and which one it is
    begin : In, the fields of BEGIN
    tokens : In, of the list
    take : In, it is executed, and the next one follows
    bad : Out, it is no instruction, or not one that can be executed
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "word": In(8 * isa.INSTRUCTION_BYTES), "index": In(16), "begin": In(isa.begin_layout),
            "tokens": In(16), "take": In(1), "bad": Out(1),
        })
        # Passes so far, as many as a dependency can go back.
        self._passes = Signal(isa.pass_layout["row_dependency"].shape, name="passes")
        self._imaged = Signal(name="imaged")       # there is a list
        # Segments of the list and, after PRUNE, of what was dropped; of the next list.
        self._segments = Signal(isa.SEGMENTS, name="segments")
        self._following = Signal(isa.SEGMENTS, name="following")
        self._dropped = Signal(name="dropped")     # there is a list of what was dropped
        self._selectors = Signal(range(isa.SELECTORS + 1), name="selectors")

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._follow(m)
        word = self.word
        table, load = data.View(isa.table_layout, word), data.View(isa.load_layout, word)
        image, select = data.View(isa.image_layout, word), data.View(isa.select_layout, word)
        step, end = data.View(isa.pass_layout, word), data.View(isa.end_layout, word)
        bad, begins, is_pass = Signal(), Signal(), Signal()
        bad_else, bad_buffer, bad_step = Signal(), Signal(), Signal()
        at_loop, is_last = Signal(), Signal()
        m.d.comb += [is_pass.eq(step.opcode == isa.Opcode.PASS),
                     self.bad.eq(bad_else | bad_buffer | bad_step)]
        m.d.sync += [
            at_loop.eq(self.index == self.begin.loop),
            is_last.eq(self.index == (self.begin.instructions - 1)[:16]),
            bad_else.eq(bad | (at_loop & ~begins)),
            bad_buffer.eq(is_pass & self._bad_buffer(m, step)),
            bad_step.eq(is_pass & self._bad_step(m, step)),
        ]
        with m.Switch(step.opcode):
            with m.Case(isa.Opcode.TABLE):
                m.d.comb += bad.eq(self._bad_table(table))
            with m.Case(isa.Opcode.LOAD):
                m.d.comb += [begins.eq(1), bad.eq((load.kind == isa.LoadKind.FRAME)
                                                  & (load.image >= self.begin.images))]
            with m.Case(isa.Opcode.IMAGE):
                m.d.comb += [begins.eq(1), bad.eq(
                    (image.image >= self.begin.images)
                    | (image.first_row + self.begin.tokens > self.config.residual_rows))]
            with m.Case(isa.Opcode.PASS):
                m.d.comb += bad.eq(~self._imaged)
            if self.config.pruning:
                with m.Case(isa.Opcode.SELECT):
                    m.d.comb += bad.eq(
                        (select.special == 0) | (select.special >= self.tokens)
                        | (self._selectors == isa.SELECTORS) | ~self._imaged
                        | ~self._segments.bit_select(select.segment, 1)
                        | self._following.bit_select(select.image, 1)
                        | (select.image >= self.begin.images))
                with m.Case(isa.Opcode.PRUNE):
                    m.d.comb += bad.eq((self._following == 0) | ~self._imaged)
            with m.Case(isa.Opcode.END):
                m.d.comb += bad.eq((end.classes == 0) | (end.classes > self.config.max_classes)
                                   | ~self._imaged | ~is_last)
            with m.Default():
                m.d.comb += bad.eq(1)
        return m

    def _follow(self, m: Module) -> None:
        """Keep in mind what the instructions so far have left."""
        image = data.View(isa.image_layout, self.word)
        select = data.View(isa.select_layout, self.word)
        # A cycle late: the word is still there, and the next one comes later.
        took = Signal()
        m.d.sync += took.eq(self.take)
        taken = {opcode: took & (image.opcode == opcode) for opcode in isa.Opcode}
        with m.If(taken[isa.Opcode.IMAGE]):
            m.d.sync += [self._imaged.eq(1), self._segments.eq(1), self._dropped.eq(0)]
            with m.If(image.image == 0):
                m.d.sync += [self._selectors.eq(0), self._following.eq(0)]
        with m.If(taken[isa.Opcode.PASS] & ~self._passes.all()):
            m.d.sync += self._passes.eq(self._passes + 1)
        if self.config.pruning:
            with m.If(taken[isa.Opcode.SELECT]):
                m.d.sync += self._dropped.eq(0)
                for i in range(isa.SEGMENTS):
                    with m.If(select.image == i):
                        m.d.sync += self._following[i].eq(1)
            with m.If(taken[isa.Opcode.PRUNE]):
                m.d.sync += [self._segments.eq(self._following), self._following.eq(0),
                             self._dropped.eq(1), self._selectors.eq(self._selectors + 1)]
        with m.If(taken[isa.Opcode.END]):
            m.d.sync += self._imaged.eq(0)

    def _bad_table(self, table: data.View) -> Value:
        depth = Mux(table.table == isa.Table.LANE, isa.LANE_ROWS,
                    Mux(table.table == isa.Table.RECIPROCAL, isa.RECIPROCAL_ROWS,
                        Mux(table.table == isa.Table.RSQRT, isa.RSQRT_ROWS,
                            self.config.list_depth)))
        return ((table.count == 0) | (table.count > isa.TABLE_ROWS)
                | (table.first + table.count > depth))

    def _bad_buffer(self, m: Module, step: data.View) -> Value:
        """Return whether a pass begins outside a buffer, has no rows there, or reads one twice."""
        config = self.config
        source_depth = Signal(unsigned(17))
        destination_depth = Signal(unsigned(17))
        for depth, cases in (
            (source_depth, {isa.Source.ACT: config.act_depth, isa.Source.PATCH: config.patch_depth,
                            isa.Source.RESIDUAL: config.residual_depth,
                            isa.Source.SCORE: config.score_depth}),
            (destination_depth, {
                isa.Destination.ACT: config.act_depth,
                isa.Destination.RESIDUAL: config.residual_depth,
                isa.Destination.KEY: config.key_depth, isa.Destination.VALUE: config.value_depth,
                isa.Destination.SCORE: config.score_depth,
                isa.Destination.LOGIT: config.class_tiles,
                # Not a buffer: any address is as good as any other.
                isa.Destination.SELECTOR: 1 << 16}),
        ):
            field = step.source if depth is source_depth else step.destination
            with m.Switch(field):
                for kind, limit in cases.items():
                    with m.Case(kind):
                        m.d.comb += depth.eq(limit)
        rows_end = Signal(11)
        counted = step.rows_from == isa.Rows.COUNT
        m.d.comb += rows_end.eq(Mux(counted, step.row_first + step.row_count, 0))
        return ((counted & (step.row_count == 0)) | (rows_end > config.pass_rows)
                # The residual buffer has one read port.
                | ((step.source == isa.Source.RESIDUAL)
                   & (step.destination == isa.Destination.RESIDUAL))
                | (step.source_base >= source_depth)
                | (step.destination_base >= destination_depth))

    def _bad_step(self, m: Module, step: data.View) -> Value:
        """Return whether a pass would hang, or means nothing."""
        prologue, to = step.prologue, step.destination
        writes_residual = to == isa.Destination.RESIDUAL
        is_exp = prologue == isa.Prologue.EXP
        images = Signal(isa.SEGMENTS)
        m.d.sync += images.eq((1 << self.begin.images[:3]) - 1)
        # Only a list, and what was dropped of one, is in segments.
        dropped = step.rows_from == isa.Rows.DROPPED
        segment = ~self._segments.bit_select(step.segment, 1)
        wide = reduce(or_, (to == kind for kind in (
            isa.Destination.RESIDUAL, isa.Destination.SCORE, isa.Destination.LOGIT)))
        return ((dropped & (~self._dropped | segment))
                | (step.of_segment & segment)
                | ((step.rows_from == isa.Rows.EACH) & ((images & ~self._segments) != 0))
                | ((to == isa.Destination.SELECTOR) & (not self.config.pruning))
                | (step.rows_from.as_value() > max(kind.value for kind in isa.Rows))
                | (~step.columns_from_tokens & (step.column_tiles == 0))
                | (~step.k_from_tokens & (step.k_tiles == 0))
                | (step.row_dependency > self._passes) | (step.operand_dependency > self._passes)
                | (step.scale_source.as_value() == 3)
                | (to.as_value() == 7)
                # Units that have no such input or output
                | (is_exp & (step.source != isa.Source.SCORE))
                | ((prologue == isa.Prologue.NORM) & (step.source != isa.Source.RESIDUAL))
                | (~is_exp & (step.class_attention
                              | (step.scale_source == isa.ScaleSource.ROW)))
                | (~writes_residual & (step.statistics | step.package))
                | (step.accumulate & (to != isa.Destination.LOGIT))
                | (step.gelu & wide))
