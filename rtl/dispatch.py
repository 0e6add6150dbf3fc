# SPDX-License-Identifier: BSD-2-Clause
"""The head of the sequencer: fetches instructions, checks them, and hands them to their units."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from rtl import isa
from rtl.axi import BEATS_BITS, request_layout
from rtl.config import PASS_SLOTS, Config

__all__ = ["Activity", "Dispatcher"]

_ADDR_BITS = 64


class Activity(enum.Enum, shape=2):
    """What the dispatcher is doing, for the stall counters."""

    PROGRAM = 0
    LOAD = 1
    DRAIN = 2


class Dispatcher(wiring.Component):
    """Runs one program: BEGIN, then instructions in order, until END or the first error.

    The program is one contiguous read from the model base. TABLE and SELECT wait until at most so
    many passes are under way as they say: a program must not rewrite a table that one of them uses,
    nor begin a selector, which empties the list of dropped rows, under a pass over them.
    LOAD, PRUNE and END wait for all passes, PRUNE for the selector, too. A PASS is queued when one
    of ``PASS_SLOTS`` descriptors is free.

    Members
    -------
    start : In, pulse
    model_addr, model_bytes : In, arguments of the run
    program_request : Out(stream); program : In(stream of beats)
    weight_request : Out(stream), one per port
    table_en, table, table_row, table_data : Out, one table row a cycle
    descriptors : Out, the pass descriptors; ``queued`` : Out, modulo 256; ``retired`` : In
    tokens : Out; tokens_start : Out, pulse when tokens is set; tokens_busy : In
    load_start : Out, pulse; load : Out, the instruction; load_done : In; load_error : In
    select_start : Out, pulse; select : Out, the instruction; selector_busy : In
    prune : Out, pulse; tokens_after : In, tokens that the selector leaves
    end_start : Out, pulse; classes : Out, with it and after; end_done : In; end_error : In
    done, error, error_index : Out
    activity : Out
    """

    def __init__(self, config: Config):
        self.config = config
        request = stream.Signature(request_layout(_ADDR_BITS))
        super().__init__({
            "start": In(1), "model_addr": In(_ADDR_BITS), "model_bytes": In(32),
            "program_request": Out(request), "program": In(stream.Signature(config.port_bits)),
            "weight_request": Out(request).array(config.ports),
            "table_en": Out(1), "table": Out(isa.Table), "table_row": Out(16),
            "table_data": Out(64),
            "descriptors": Out(data.ArrayLayout(isa.pass_layout, PASS_SLOTS)),
            "queued": Out(8), "retired": In(8),
            "tokens": Out(16), "tokens_start": Out(1), "tokens_busy": In(1),
            "load_start": Out(1), "load": Out(isa.load_layout), "load_done": In(1),
            "load_error": In(isa.Error),
            "select_start": Out(1), "select": Out(isa.select_layout), "selector_busy": In(1),
            "prune": Out(1), "tokens_after": In(16),
            "end_start": Out(1), "classes": Out(16), "end_done": In(1),
            "end_error": In(isa.Error),
            "done": Out(1), "error": Out(isa.Error), "error_index": Out(32),
            "activity": Out(Activity),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        word, word_valid, take = self._assemble(m)
        begin = data.View(isa.begin_layout, word)
        table = data.View(isa.table_layout, word)
        load = data.View(isa.load_layout, word)
        step = data.View(isa.pass_layout, word)
        select = data.View(isa.select_layout, word)
        end = data.View(isa.end_layout, word)

        beat_bytes = config.port_bits // 8
        beats_each = isa.INSTRUCTION_BYTES // beat_bytes
        instructions = Signal(32)
        port = Signal(range(config.ports + 1))
        weight_addr = Signal(_ADDR_BITS)
        weight_stride = Signal(32)
        weight_beats = Signal(BEATS_BITS)
        weight_end = Signal(40)
        unaligned = Signal()
        row = Signal(range(isa.TABLE_ROWS))
        # Passes so far, as many as a dependency can go back.
        passes = Signal(isa.pass_layout["row_dependency"].shape)
        selectors = Signal(range(isa.SELECTORS + 1))
        selected = Signal()  # there was a SELECT, and no PRUNE since
        dropped = Signal()   # there is a list of what was dropped
        under_way = Signal(8)
        m.d.comb += [
            under_way.eq(self.queued - self.retired),
            # Every weight stream begins at a beat; a single port has no stride.
            unaligned.eq((weight_addr | (weight_stride if config.ports > 1 else 0))
                         [:exact_log2(beat_bytes)] != 0),
            self.load.eq(load),
            self.select.eq(select),
            self.classes.eq(end.classes),
            self.table.eq(table.table),
            self.table_row.eq(table.first + row),
            self.table_data.eq(table.rows.as_value().word_select(row, 64)),
            self.program_request.p.address.eq(self.model_addr),
            self.program_request.p.beats.eq(beats_each),
        ]
        for request in self.weight_request:
            m.d.comb += [
                request.p.address.eq(weight_addr),
                request.p.beats.eq(weight_beats),
            ]

        def fail(code: isa.Error | Value) -> None:
            m.d.sync += self.error.eq(code)
            m.next = "Failed"

        def following() -> None:
            m.d.comb += take.eq(1)
            m.d.sync += self.error_index.eq(self.error_index + 1)
            m.next = "Next"

        with m.FSM():
            with m.State("Idle"):
                with m.If(self.start):
                    m.next = "First"
            with m.State("First"):
                with m.If((self.model_addr[:12] != 0)
                          | (self.model_bytes < isa.INSTRUCTION_BYTES)):
                    fail(isa.Error.BAD_ADDRESS)
                with m.Else():
                    m.d.comb += self.program_request.valid.eq(1)
                    with m.If(self.program_request.ready):
                        m.next = "Begin"
            with m.State("Begin"):
                m.d.sync += [
                    weight_addr.eq(self.model_addr + begin.weight_offset),
                    weight_stride.eq(begin.weight_stride),
                    weight_beats.eq(begin.weight_beats),
                    instructions.eq(begin.instructions),
                    weight_end.eq(begin.weight_offset + begin.weight_beats * beat_bytes
                                  + begin.weight_stride * (config.ports - 1)),
                ]
                with m.If(word_valid):
                    with m.If((begin.opcode != isa.Opcode.BEGIN) | (begin.magic != isa.MAGIC)):
                        fail(isa.Error.BAD_MAGIC)
                    with m.Elif(begin.version != isa.ISA_VERSION):
                        fail(isa.Error.BAD_VERSION)
                    with m.Elif((begin.tokens == 0) | (begin.tokens > config.max_tokens)
                                | (begin.instructions < 2)
                                | (begin.instructions >> (BEATS_BITS - exact_log2(beats_each)) != 0)
                                | (begin.weight_beats >> BEATS_BITS != 0)):
                        fail(isa.Error.BAD_FIELD)
                    with m.Else():
                        m.d.comb += self.tokens_start.eq(1)
                        m.d.sync += self.tokens.eq(begin.tokens)
                        m.next = "Window"
            with m.State("Window"):
                with m.If((weight_end > self.model_bytes) | unaligned
                          | (instructions > self.model_bytes[6:])):
                    fail(isa.Error.BAD_ADDRESS)
                with m.Else():
                    m.next = "Weights"
            with m.State("Weights"):
                with m.Switch(port):
                    for p, request in enumerate(self.weight_request):
                        with m.Case(p):
                            m.d.comb += request.valid.eq(1)
                            with m.If(request.ready):
                                m.d.sync += [
                                    port.eq(port + 1),
                                    weight_addr.eq(weight_addr + weight_stride),
                                ]
                    with m.Default():
                        m.next = "Rest"
            with m.State("Rest"):
                m.d.comb += [
                    self.program_request.valid.eq(1),
                    self.program_request.p.address.eq(self.model_addr + isa.INSTRUCTION_BYTES),
                    self.program_request.p.beats.eq((instructions - 1) * beats_each),
                ]
                with m.If(self.program_request.ready):
                    following()

            with m.State("Next"):
                with m.If(self.error_index == instructions):
                    # The program ran out without END.
                    fail(isa.Error.BAD_OPCODE)
                with m.Elif(word_valid):
                    with m.Switch(step.opcode):
                        with m.Case(isa.Opcode.TABLE):
                            with m.If(self._bad_table(table)):
                                fail(isa.Error.BAD_FIELD)
                            with m.Elif(under_way <= table.under_way):
                                m.d.sync += row.eq(0)
                                m.next = "Table"
                        with m.Case(isa.Opcode.LOAD):
                            with m.If((under_way == 0) & ~self.tokens_busy):
                                m.d.comb += self.load_start.eq(1)
                                m.next = "Load"
                        with m.Case(isa.Opcode.PASS):
                            with m.If(self._bad_pass(m, step, passes, dropped)):
                                fail(isa.Error.BAD_FIELD)
                            with m.Elif((under_way < PASS_SLOTS) & ~self.tokens_busy):
                                with m.Switch(self.queued[:exact_log2(PASS_SLOTS)]):
                                    for i in range(PASS_SLOTS):
                                        with m.Case(i):
                                            m.d.sync += self.descriptors[i].eq(step)
                                m.d.sync += self.queued.eq(self.queued + 1)
                                with m.If(~passes.all()):
                                    m.d.sync += passes.eq(passes + 1)
                                following()
                        if config.pruning:
                            with m.Case(isa.Opcode.SELECT):
                                with m.If((select.special == 0) | (select.special >= self.tokens)
                                          | selected | (selectors == isa.SELECTORS)):
                                    fail(isa.Error.BAD_FIELD)
                                with m.Elif((under_way <= select.under_way) & ~self.tokens_busy):
                                    m.d.comb += self.select_start.eq(1)
                                    m.d.sync += [selected.eq(1), dropped.eq(0),
                                                 selectors.eq(selectors + 1)]
                                    following()
                            with m.Case(isa.Opcode.PRUNE):
                                with m.If(~selected):
                                    fail(isa.Error.BAD_FIELD)
                                with m.Elif((under_way == 0) & ~self.selector_busy):
                                    m.d.comb += self.prune.eq(1)
                                    m.d.sync += [selected.eq(0), dropped.eq(1),
                                                 self.tokens.eq(self.tokens_after)]
                                    following()
                        with m.Case(isa.Opcode.END):
                            with m.If((end.classes == 0) | (end.classes > config.max_classes)):
                                fail(isa.Error.BAD_FIELD)
                            with m.Elif(under_way == 0):
                                m.d.comb += self.end_start.eq(1)
                                m.next = "End"
                        with m.Default():
                            fail(isa.Error.BAD_OPCODE)
                with m.If(word_valid & (step.opcode == isa.Opcode.END)):
                    m.d.comb += self.activity.eq(Activity.DRAIN)
            with m.State("Table"):
                m.d.comb += self.table_en.eq(1)
                m.d.sync += row.eq(row + 1)
                with m.If(row + 1 == table.count):
                    following()
            with m.State("Load"):
                m.d.comb += self.activity.eq(Activity.LOAD)
                with m.If(self.load_error != isa.Error.NONE):
                    fail(self.load_error)
                with m.Elif(self.load_done):
                    following()
            with m.State("End"):
                m.d.comb += self.activity.eq(Activity.DRAIN)
                with m.If(self.end_error != isa.Error.NONE):
                    fail(self.end_error)
                with m.Elif(self.end_done):
                    m.next = "Done"
            with m.State("Done"):
                m.d.comb += [self.done.eq(1), self.activity.eq(Activity.DRAIN)]
            with m.State("Failed"):
                m.d.comb += self.activity.eq(Activity.DRAIN)
        return m

    def _assemble(self, m: Module) -> tuple[Signal, Signal, Signal]:
        """Collect beats into an instruction; return it, its valid bit, and what takes it."""
        width = self.config.port_bits
        count = 8 * isa.INSTRUCTION_BYTES // width
        word = Signal(8 * isa.INSTRUCTION_BYTES, reset_less=True)
        beats = Signal(range(count + 1))
        valid, take = Signal(name="word_valid"), Signal(name="word_take")
        m.d.comb += [valid.eq(beats == count), self.program.ready.eq(~valid)]
        with m.If(self.program.valid & ~valid):
            m.d.sync += [word.eq(Cat(word[width:], self.program.payload)), beats.eq(beats + 1)]
        with m.If(take):
            m.d.sync += beats.eq(0)
        return word, valid, take

    def _bad_table(self, table: data.View) -> Value:
        depth = Mux(table.table == isa.Table.LANE, isa.LANE_ROWS,
                    Mux(table.table == isa.Table.RECIPROCAL, isa.RECIPROCAL_ROWS,
                        Mux(table.table == isa.Table.RSQRT, isa.RSQRT_ROWS,
                            self.config.list_depth)))
        return ((table.count == 0) | (table.count > isa.TABLE_ROWS)
                | (table.first + table.count > depth))

    def _bad_pass(self, m: Module, step: data.View, passes: Signal, dropped: Signal) -> Value:
        """Return whether a field would make the pass hang, leave a buffer, or read one twice."""
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
        reads_residual = step.source == isa.Source.RESIDUAL
        writes_residual = step.destination == isa.Destination.RESIDUAL
        selector = step.destination == isa.Destination.SELECTOR
        return ((counted & (step.row_count == 0))
                | ((step.rows_from == isa.Rows.DROPPED) & ~dropped)
                | (selector & (not config.pruning))
                | (rows_end > config.max_tokens)
                # The residual buffer has one read port.
                | (reads_residual & writes_residual)
                | (~step.columns_from_tokens & (step.column_tiles == 0))
                | (~step.k_from_tokens & (step.k_tiles == 0))
                | (step.row_dependency > passes) | (step.operand_dependency > passes)
                | (step.scale_source.as_value() == 3)
                | (step.destination.as_value() == 7)
                | (step.source_base >= source_depth)
                | (step.destination_base >= destination_depth))
