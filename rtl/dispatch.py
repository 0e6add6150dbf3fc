# SPDX-License-Identifier: BSD-2-Clause
"""The head of the sequencer: fetches instructions, checks them, and hands them to their units."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, enum, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from rtl import isa
from rtl.axi import BEATS_BITS, request_layout
from rtl.checks import InstructionCheck
from rtl.config import PASS_SLOTS, Config
from rtl.rounds import RoundRequests

__all__ = ["Activity", "Dispatcher"]

_ADDR_BITS = 64


class Activity(enum.Enum, shape=2):
    """What the dispatcher is doing, for the stall counters."""

    PROGRAM = 0
    LOAD = 1
    DRAIN = 2
    SELECTOR = 3


class Dispatcher(wiring.Component):
    """Runs one program: BEGIN, then instructions in order, until END, and from its loop on again,
    for as many rounds as the run has, or until the first error.

    TABLE, SELECT and LOAD wait until at most so many passes are under way as they say: a program
    must not rewrite a table that one of them uses, nor begin a selector, which empties the list of
    dropped rows, under a pass over them. IMAGE, PRUNE and END wait for all passes, IMAGE and PRUNE
    for the selector, too. A PASS is queued when one of ``PASS_SLOTS`` descriptors is free.

    Loads and the output of logits go on behind what follows. A LOAD waits for the one before, a
    pass over patches for the last LOAD, END and a pass to the logits for the last output. A LOAD
    ``ahead`` is left out in the last round.

    TABLE is executed while the checksum of the program is taken, all others behind it.

    Members
    -------
    start : In, pulse
    model_addr, model_bytes, rounds : In, arguments of the run; no rounds are one
    program_request : Out(stream); program : In(stream of beats)
    check_start : Out, pulse; check_busy, check_wrong : In, as of ``ProgramCheck``
    weight_request : Out(stream), one per port
    table_en, table, table_row, table_data : Out, one table row a cycle
    descriptors : Out, the pass descriptors; ``queued`` : Out, modulo 256; ``retired`` : In
    begin : Out, the fields of BEGIN, but its version and magic number
    odd : Out, in odd rounds; next_round : Out, pulse: the next one begins
    image_start : Out, pulse; image : Out, the instruction
    tokens : In, of the list
    load_start : Out, pulse; load : Out, the instruction; load_busy, load_error : In
    select_start : Out, pulse; select : Out, the instruction; selector_busy : In
    prune : Out, pulse
    end_start : Out, pulse; classes : Out, with it; end_busy, end_error : In
    done, error, error_index : Out
    pass_index, load_index : Out, instruction of the first pass that has not retired, of the LOAD
    activity : Out
    """

    def __init__(self, config: Config):
        self.config = config
        request = stream.Signature(request_layout(_ADDR_BITS))
        super().__init__({
            "start": In(1), "model_addr": In(_ADDR_BITS), "model_bytes": In(32), "rounds": In(32),
            "program_request": Out(request), "program": In(stream.Signature(config.port_bits)),
            "check_start": Out(1), "check_busy": In(1), "check_wrong": In(1),
            "weight_request": Out(request).array(config.ports),
            "table_en": Out(1), "table": Out(isa.Table), "table_row": Out(16),
            "table_data": Out(64),
            "descriptors": Out(data.ArrayLayout(isa.pass_layout, PASS_SLOTS)),
            "queued": Out(8), "retired": In(8),
            "begin": Out(isa.begin_layout), "odd": Out(1), "next_round": Out(1),
            "image_start": Out(1), "image": Out(isa.image_layout), "tokens": In(16),
            "load_start": Out(1), "load": Out(isa.load_layout), "load_busy": In(1),
            "load_error": In(isa.Error),
            "select_start": Out(1), "select": Out(isa.select_layout), "selector_busy": In(1),
            "prune": Out(1),
            "end_start": Out(1), "classes": Out(16), "end_busy": In(1),
            "end_error": In(isa.Error),
            "done": Out(1), "error": Out(isa.Error), "error_index": Out(16),
            "pass_index": Out(16), "load_index": Out(16),
            "activity": Out(Activity),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word, word_valid, take = self._assemble(m)
        table = data.View(isa.table_layout, word)
        step = data.View(isa.pass_layout, word)

        m.submodules.requests = requests = RoundRequests(self.config)
        at_begin, begin_seen, begin_valid = Signal(), Signal(), Signal()
        begin_error = Signal(isa.Error)
        read_begin = Signal()
        left = Signal(32)    # rounds, this one included
        row = Signal(range(isa.TABLE_ROWS))
        # A cycle late: no instruction follows a PASS so soon, and it falls meanwhile.
        under_way = Signal(8)
        # What goes on behind the instructions may fail at any time.
        behind_error, behind_index = Signal(isa.Error), Signal.like(self.error_index)
        # The checks of an instruction are registered: it is looked at a cycle after it is there.
        m.submodules.check = check = InstructionCheck(self.config)
        checked, taken = Signal(), Signal()
        bad_model, ran_out, is_last = Signal(), Signal(), Signal()
        m.d.comb += [
            self.load.eq(word),
            self.select.eq(word),
            self.image.eq(word),
            self.classes.eq(data.View(isa.end_layout, word).classes),
            self.table.eq(table.table),
            self.table_row.eq(table.first + row),
            self.table_data.eq(table.rows.as_value().word_select(row, 64)),
            self.check_start.eq(requests.start),
            check.word.eq(word),
            check.index.eq(self.error_index),
            check.begin.eq(self.begin),
            check.tokens.eq(self.tokens),
            check.take.eq(taken),
        ]
        # Pulses come a cycle late, too, when the word is still there.
        m.d.sync += [pulse.eq(0) for pulse in (self.load_start, self.image_start, self.prune,
                                               self.select_start, self.end_start, self.next_round)]
        m.d.sync += [
            under_way.eq(self.queued - self.retired),
            bad_model.eq((self.model_addr[:12] != 0)
                         | (self.model_bytes < isa.INSTRUCTION_BYTES)),
            ran_out.eq(self.error_index == self.begin.instructions),
            behind_error.eq(Mux(self.load_error != isa.Error.NONE, self.load_error,
                                self.end_error)),
            behind_index.eq(Mux(self.load_error != isa.Error.NONE, self.load_index,
                                self.begin.instructions - 1)),
            is_last.eq(left == 1),
            checked.eq(word_valid & ~take),
        ]
        self._begin(m, word, at_begin, requests, begin_error)

        note_pass = self._pass_indices(m)

        known, may, skips, waits_for = self._verdict(m, word, under_way, is_last)
        kind = {opcode: Signal(name=f"is_{opcode.name.lower()}") for opcode in isa.Opcode}
        m.d.sync += [signal.eq(step.opcode == opcode) for opcode, signal in kind.items()]

        def fail(code: isa.Error | Value) -> None:
            m.d.sync += self.error.eq(code)
            m.next = "Failed"

        def following() -> None:
            m.d.comb += take.eq(1)
            m.d.sync += self.error_index.eq(self.error_index + 1)

        def waits(activity: Any) -> None:
            m.d.comb += self.activity.eq(activity)

        with m.FSM():
            with m.State("Idle"):
                with m.If(self.start):
                    m.next = "First"
            with m.State("First"):
                with m.If(bad_model):
                    fail(isa.Error.BAD_ADDRESS)
                with m.Else():
                    m.d.comb += read_begin.eq(1)
                    with m.If(self.program_request.ready):
                        m.next = "Begin"
            with m.State("Begin"):
                m.d.comb += at_begin.eq(1)
                m.d.sync += [begin_seen.eq(checked), begin_valid.eq(begin_seen)]
                with m.If(begin_valid):
                    with m.If(begin_error != isa.Error.NONE):
                        fail(begin_error)
                    with m.Else():
                        m.d.comb += requests.start.eq(1)
                        m.d.sync += left.eq(requests.rounds)
                        following()
                        m.next = "Next"

            with m.State("Next"):
                with m.If(behind_error != isa.Error.NONE):
                    m.d.sync += self.error_index.eq(behind_index)
                    fail(behind_error)
                with m.Elif(~self.check_busy & self.check_wrong):
                    m.d.sync += self.error_index.eq(0)
                    fail(isa.Error.BAD_CHECKSUM)
                with m.Elif(ran_out & ~self.check_busy):
                    # The program ran out without END.
                    fail(isa.Error.BAD_OPCODE)
                with m.Elif(checked & check.bad & ~self.check_busy):
                    fail(Mux(known, isa.Error.BAD_FIELD, isa.Error.BAD_OPCODE))
                with m.Elif(checked & (~may | check.bad)):
                    m.d.comb += self.activity.eq(waits_for)
                with m.Elif(checked & kind[isa.Opcode.TABLE]):
                    m.d.sync += row.eq(0)
                    m.next = "Table"
                with m.Elif(checked & kind[isa.Opcode.END]):
                    m.d.comb += [self.activity.eq(Activity.DRAIN), taken.eq(1)]
                    m.d.sync += self.end_start.eq(1)
                    with m.If(is_last):
                        m.next = "End"
                    with m.Else():
                        m.d.comb += take.eq(1)
                        m.d.sync += [self.next_round.eq(1), self.odd.eq(~self.odd),
                                     left.eq(left - 1), self.error_index.eq(self.begin.loop)]
                with m.Elif(checked):
                    following()
                    m.d.comb += taken.eq(1)
                    with m.If(kind[isa.Opcode.LOAD] & ~skips):
                        m.d.sync += [self.load_start.eq(1), self.load_index.eq(self.error_index)]
                    with m.If(kind[isa.Opcode.IMAGE]):
                        m.d.sync += self.image_start.eq(1)
                    with m.If(kind[isa.Opcode.PASS]):
                        with m.Switch(self.queued[:exact_log2(PASS_SLOTS)]):
                            for i in range(PASS_SLOTS):
                                with m.Case(i):
                                    m.d.sync += self.descriptors[i].eq(step)
                        m.d.sync += self.queued.eq(self.queued + 1)
                        m.d.comb += note_pass.en.eq(1)
                    if self.config.pruning:
                        m.d.sync += [self.select_start.eq(kind[isa.Opcode.SELECT]),
                                     self.prune.eq(kind[isa.Opcode.PRUNE])]
            with m.State("Table"):
                m.d.comb += self.table_en.eq(1)
                m.d.sync += row.eq(row + 1)
                with m.If(row + 1 == table.count):
                    following()
                    m.next = "Next"
            with m.State("End"):
                waits(Activity.DRAIN)
                with m.If(self.end_busy):
                    m.next = "Output"
            with m.State("Output"):
                waits(Activity.DRAIN)
                with m.If(behind_error != isa.Error.NONE):
                    m.d.sync += self.error_index.eq(behind_index)
                    fail(behind_error)
                with m.Elif(~self.end_busy):
                    with m.If(self.load_busy):
                        waits(Activity.LOAD)
                    with m.Else():
                        m.next = "Done"
            with m.State("Done"):
                m.d.comb += self.done.eq(1)
                waits(Activity.DRAIN)
            with m.State("Failed"):
                waits(Activity.DRAIN)

        with m.If(read_begin):
            m.d.comb += [
                self.program_request.valid.eq(1),
                self.program_request.p.address.eq(self.model_addr),
                self.program_request.p.beats.eq(8 * isa.INSTRUCTION_BYTES
                                                // self.config.port_bits),
            ]
        with m.Else():
            wiring.connect(m, requests.program_request, wiring.flipped(self.program_request))
        for p, request in enumerate(self.weight_request):
            wiring.connect(m, requests.weight_request[p], wiring.flipped(request))
        return m

    def _begin(self, m: Module, word: Signal, sample: Signal, requests: RoundRequests,
               error: Signal) -> None:
        """Register the fields of BEGIN, and two cycles later what is wrong with them."""
        config = self.config
        beat_bytes = config.port_bits // 8
        fields = data.View(isa.begin_layout, word)
        begin = self.begin
        weight_end = Signal(40)
        with m.If(sample):
            m.d.sync += [
                begin.eq(fields),
                requests.weight_addr.eq(self.model_addr + fields.weight_offset),
                weight_end.eq(fields.weight_offset + fields.weight_beats * beat_bytes
                              + fields.weight_stride * (config.ports - 1)),
            ]
        m.d.comb += [
            requests.rounds.eq(Mux(self.rounds == 0, 1, self.rounds)),
            requests.model_addr.eq(self.model_addr),
            requests.instructions.eq(begin.instructions),
            requests.loop.eq(begin.loop),
            requests.weight_stride.eq(begin.weight_stride),
            requests.weight_beats.eq(begin.weight_beats),
        ]
        unaligned = Signal()
        m.d.comb += [
            # Every weight stream begins at a beat; a single port has no stride.
            unaligned.eq((requests.weight_addr | (begin.weight_stride if config.ports > 1 else 0))
                         [:exact_log2(beat_bytes)] != 0),
        ]
        m.d.sync += error.eq(isa.Error.NONE)
        with m.If((begin.opcode != isa.Opcode.BEGIN) | (begin.magic != isa.MAGIC)):
            m.d.sync += error.eq(isa.Error.BAD_MAGIC)
        with m.Elif(begin.version != isa.ISA_VERSION):
            m.d.sync += error.eq(isa.Error.BAD_VERSION)
        with m.Elif((begin.tokens == 0) | (begin.tokens > config.max_tokens)
                    | (begin.instructions < 2) | (begin.loop == 0)
                    | (begin.loop >= begin.instructions)
                    | (begin.images == 0) | (begin.images > config.images)
                    | (begin.instructions >> len(self.error_index) != 0)
                    | (begin.weight_beats >> BEATS_BITS != 0)):
            m.d.sync += error.eq(isa.Error.BAD_FIELD)
        with m.Elif((weight_end > self.model_bytes) | unaligned
                    | (begin.instructions > self.model_bytes[6:])):
            m.d.sync += error.eq(isa.Error.BAD_ADDRESS)

    def _pass_indices(self, m: Module) -> memory.WritePort:
        """Note the instruction of every pass under way, and show that of the first one; return
        the port that notes it."""
        shape = self.error_index.shape()
        m.submodules.indices = indices = memory.Memory(
            shape=shape, depth=PASS_SLOTS, init=[], attrs={"ram_style": "distributed"})
        write, read = indices.write_port(), indices.read_port()
        m.d.comb += [
            write.addr.eq(self.queued),
            write.data.eq(self.error_index),
            read.addr.eq(self.retired),
            self.pass_index.eq(read.data),
        ]
        return write

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

    def _verdict(self, m: Module, word: Signal, under_way: Signal, is_last: Signal
                 ) -> tuple[Signal, Signal, Signal, Signal]:
        """Return, a cycle later, whether the instruction is one at all, may be executed, and is a
        LOAD that is left out; and what it waits for while it may not."""
        table, load = data.View(isa.table_layout, word), data.View(isa.load_layout, word)
        step, select = data.View(isa.pass_layout, word), data.View(isa.select_layout, word)
        known, may, skips = Signal(), Signal(), Signal()
        waits_for = Signal(Activity)
        idle = Signal()
        patches, logits = Signal(), Signal()
        m.d.comb += [
            idle.eq(under_way == 0),
            patches.eq((step.source == isa.Source.PATCH) & self.load_busy),
            logits.eq((step.destination == isa.Destination.LOGIT) & self.end_busy),
        ]
        m.d.sync += [known.eq(1), may.eq(0), waits_for.eq(Activity.PROGRAM),
                     skips.eq(load.ahead & is_last)]
        with m.Switch(step.opcode):
            with m.Case(isa.Opcode.TABLE):
                m.d.sync += may.eq(under_way <= table.under_way)
            with m.Case(isa.Opcode.LOAD):
                m.d.sync += [may.eq(((under_way <= load.under_way) & ~self.load_busy)
                                    | (load.ahead & is_last)),
                             waits_for.eq(Activity.LOAD)]
            with m.Case(isa.Opcode.IMAGE):
                m.d.sync += [may.eq(idle & ~self.selector_busy), waits_for.eq(Activity.SELECTOR)]
            with m.Case(isa.Opcode.PASS):
                m.d.sync += may.eq((under_way < PASS_SLOTS) & ~patches & ~logits)
                with m.If(patches):
                    m.d.sync += waits_for.eq(Activity.LOAD)
                with m.Elif(logits):
                    m.d.sync += waits_for.eq(Activity.DRAIN)
            if self.config.pruning:
                with m.Case(isa.Opcode.SELECT):
                    m.d.sync += [may.eq((under_way <= select.under_way) & ~self.selector_busy),
                                 waits_for.eq(Activity.SELECTOR)]
                with m.Case(isa.Opcode.PRUNE):
                    m.d.sync += [may.eq(idle & ~self.selector_busy),
                                 waits_for.eq(Activity.SELECTOR)]
            with m.Case(isa.Opcode.END):
                m.d.sync += [may.eq(idle & ~self.end_busy), waits_for.eq(Activity.DRAIN)]
            with m.Default():
                m.d.sync += known.eq(0)
        with m.If(self.check_busy):
            m.d.sync += waits_for.eq(Activity.PROGRAM)
            with m.If(step.opcode != isa.Opcode.TABLE):
                m.d.sync += may.eq(0)
        return known, may, skips, waits_for
