# SPDX-License-Identifier: BSD-2-Clause
"""Loads: raw frames into the patch buffer, and initial rows into the residual buffer."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2, exact_log2

from rtl import isa
from rtl.arith import selected
from rtl.axi import request_layout
from rtl.config import BLOCK, Config
from rtl.fifo import Fifo

__all__ = ["LoadUnit"]


class LoadUnit(wiring.Component):
    """Runs one LOAD: reads a contiguous region and writes it in units of ``block`` bytes.

    FRAME: the region is ``lines`` lines of patches, each of ``patch_rows`` pixel rows of ``count``
    patch rows of ``row_bytes`` bytes. Patch ``line * count + column`` goes to buffer row
    ``first + line * count + column``, pixel row y of it to bytes ``y * pitch`` and on of
    the row, ``pitch`` being ``row_bytes`` rounded up to a multiple of 16; what lies between is
    undefined.
    RESIDUAL: ``count`` rows of ``row_bytes`` bytes of int16.

    Frame i of the run is ``frame_stride * i`` bytes behind the first one. Loads are made beside
    passes: a unit of the residual waits until no pass writes there.

    Streams: data in order, one unit a cycle at most. ``error`` is set, for good, when there are
    more rows, or more bytes in a row, than a buffer holds, and when the region, rounded up to whole
    beats, exceeds its window or does not begin at a beat.

    Resources: a byte shifter over two units, five multipliers of at most 16 x 16 bits.

    Members
    -------
    start : In, pulse with ``load``, while not ``busy``
    images, row_step : In, of BEGIN
    odd, next_round : In, the round is an odd one; pulse: another round begins
    frame_addr, frame_bytes, frame_stride, model_addr, model_bytes : In
    request : Out(stream); data : In(stream of beats)
    patch_en, residual_en : Out, one bit per bank; residual_ready : In
        Units for the residual wait for it.
    write_addr : Out
    write_data : Out, two units: the residual takes both, the patch buffer the last
    busy, error : Out
    urgent : Out, a load that the passes of this round wait for
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "start": In(1), "load": In(isa.load_layout), "images": In(8), "row_step": In(16),
            "odd": In(1), "next_round": In(1),
            "frame_addr": In(64), "frame_bytes": In(32), "frame_stride": In(32),
            "model_addr": In(64), "model_bytes": In(32),
            "request": Out(stream.Signature(request_layout(64))),
            "data": In(stream.Signature(config.port_bits)),
            "patch_en": Out(config.banks), "residual_en": Out(config.banks),
            "residual_ready": In(1),
            "write_addr": Out(16),
            "write_data": Out(data.ArrayLayout(unsigned(8 * config.block), 2)),
            "busy": Out(1), "urgent": Out(1), "error": Out(isa.Error),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        load = Signal(isa.load_layout, reset_less=True)
        beat_bytes = config.port_bits // 8
        beat_bits = exact_log2(beat_bytes)
        is_frame = Signal()
        base = Signal(64)
        window = Signal(32)
        row_limit = Signal(range(max(config.max_patch, 2 * config.max_width) + 1))
        rows = Signal(32)
        first = Signal(17)     # row of the buffer
        row_size = Signal(32)  # bytes of all pixel rows of a patch
        # Both factors are checked before the product is used, so these bits are enough.
        row_bits = bits_for(config.max_tokens)
        total = Signal(row_bits + len(row_limit))
        # Windows have 32 bits: these hold how far the first frame outside of one may begin.
        offset = Signal(36)
        end = Signal(37)
        m.d.comb += [
            is_frame.eq(load.kind == isa.LoadKind.FRAME),
            window.eq(Mux(is_frame, self.frame_bytes, self.model_bytes)),
            base.eq(Mux(is_frame, self.frame_addr, self.model_addr)),
            row_limit.eq(Mux(is_frame, config.max_patch, 2 * config.max_width)),
            self.request.p.address.eq(base + offset),
            self.request.p.beats.eq((total + beat_bytes - 1) >> beat_bits),
            end.eq(offset + (self.request.p.beats << beat_bits)),
        ]

        # Frames: how far that of an image of this round, or of the next one, is from the first
        round_offset = Signal(35)
        image = Signal(range(2 * isa.SEGMENTS))
        distance = Signal(35)
        with m.If(self.next_round):
            m.d.sync += round_offset.eq(round_offset + self._times(self.images[:3],
                                                                   self.frame_stride))
        m.d.comb += image.eq(load.image + Mux(load.ahead, self.images[:3], 0))

        self._residual_waits = Signal()  # what was written last has not yet been taken
        running = Signal()
        last = self._units(m, running, load, first)
        m.d.comb += [
            self.busy.eq(~running & self._residual_waits),
            self.urgent.eq(self.busy & ~load.ahead),
        ]
        with m.FSM():
            with m.State("Idle"):
                with m.If(self.start):
                    m.d.sync += load.eq(self.load)
                    m.next = "Products"
            with m.State("Products"):
                m.d.comb += self.busy.eq(1)
                m.d.sync += [
                    rows.eq(load.count * load.lines),
                    row_size.eq(load.row_bytes * load.patch_rows),
                    first.eq(load.first + Mux(load.alternate & (self.odd ^ load.ahead),
                                              self.row_step, 0)),
                    distance.eq(self._times(image, self.frame_stride)),
                ]
                m.next = "Offset"
            with m.State("Offset"):
                m.d.comb += self.busy.eq(1)
                m.d.sync += offset.eq(load.offset + Mux(is_frame, round_offset, 0))
                m.next = "Fields"
            with m.State("Fields"):
                m.d.comb += self.busy.eq(1)
                m.d.sync += [
                    total.eq(rows[:row_bits] * row_size[:len(row_limit)]),
                    offset.eq(offset + Mux(is_frame, distance, 0)),
                ]
                with m.If((rows == 0) | (rows > config.max_tokens)
                          | (rows + first > Mux(is_frame, config.max_tokens,
                                                config.residual_rows))
                          | (row_size == 0) | (row_size > row_limit)):
                    m.d.sync += self.error.eq(isa.Error.BAD_FIELD)
                    m.next = "Failed"
                with m.Else():
                    m.next = "Window"
            with m.State("Window"):
                m.d.comb += self.busy.eq(1)
                with m.If((end > window) | ((base | offset)[:beat_bits] != 0)):
                    m.d.sync += self.error.eq(isa.Error.BAD_ADDRESS)
                    m.next = "Failed"
                with m.Else():
                    m.next = "Request"
            with m.State("Request"):
                m.d.comb += [self.busy.eq(1), self.request.valid.eq(1)]
                with m.If(self.request.ready):
                    m.d.sync += running.eq(1)
                    m.next = "Run"
            with m.State("Run"):
                m.d.comb += self.busy.eq(1)
                with m.If(last):
                    m.d.sync += running.eq(0)
                    m.next = "Idle"
            with m.State("Failed"):
                m.d.comb += self.busy.eq(1)
        return m

    def _times(self, count: Value, stride: Value) -> Value:
        """Return ``count * stride``, without a multiplier."""
        return sum((Mux(count[bit], stride << bit, 0) for bit in range(1, len(count))),
                   start=Mux(count[0], stride, 0))

    def _units(self, m: Module, running: Signal, load: data.View, first: Signal) -> Signal:
        """Cut the byte stream into units and count them through the loop nest.

        Return a signal that is high when the last unit has been given to its buffer.
        """
        config = self.config
        beat_bytes, width = config.port_bits // 8, config.block
        # So that nothing is asked of the master in the cycle in which it is decided.
        m.submodules.beats = beats = Fifo(config.port_bits, depth=2)
        wiring.connect(m, wiring.flipped(self.data), beats.i)

        last_unit, last_column, last_row, last_line = (Signal(name=n) for n in (
            "last_unit", "last_column", "last_row", "last_line"))
        # Two words, and a unit at any byte of the first: of a row, all but the last are whole.
        size_of_word = max(beat_bytes, width)
        first_word = Signal(8 * size_of_word, reset_less=True)
        has_word = Signal()
        at = Signal(range(size_of_word))
        rest, size = Signal(range(width + 1)), Signal(range(width + 1))  # of the last, the next one
        whole_spans, whole_done, rest_spans, rest_done = (Signal(name=n) for n in (
            "whole_spans", "whole_done", "rest_spans", "rest_done"))
        emit, take = Signal(), Signal()
        # The last unit was written in the cycle before: a unit was, and was the last one.
        ended, emitted, final = Signal(), Signal(), Signal()
        spans, done = Signal(), Signal()
        is_frame, waits = Signal(), Signal()
        next_word, has_next = self._words(m, beats, size_of_word, running, take)
        cut = Signal(8 * width)
        m.d.comb += [
            is_frame.eq(load.kind == isa.LoadKind.FRAME),
            spans.eq(Mux(last_unit, rest_spans, whole_spans)),
            done.eq(Mux(last_unit, rest_done, whole_done)),
            emit.eq(running & ~ended & has_word & (~spans | has_next) & ~waits),
            take.eq(has_next & ((emit & done) | ~has_word)),
            cut.eq(Cat(first_word, next_word) >> (at << 3)),
        ]
        # Whether a unit that begins here ends behind this word, or with it: registers, as is what
        # they will be at the next place, in a table of all places.
        places = range(size_of_word)
        for flag, table in (
                (whole_spans, Cat(Const(k > size_of_word - width) for k in places)),
                (whole_done, Cat(Const(k >= size_of_word - width) for k in places)),
                (rest_spans, Cat(rest > size_of_word - k for k in places)),
                (rest_done, Cat(rest >= size_of_word - k for k in places))):
            now = Signal(size_of_word, name=f"{flag.name}_table", reset_less=True)
            after_rest = Signal(size_of_word, name=f"{flag.name}_after_rest", reset_less=True)
            after_whole = Cat(now[(k + width) % size_of_word] for k in places)
            m.d.sync += [now.eq(table), after_rest.eq(Cat(now, now) >> rest)]
            with m.If(~running):
                m.d.sync += flag.eq(now[0])
            with m.Elif(emit):
                m.d.sync += flag.eq(Mux(last_unit, selected(after_rest, at),
                                        selected(after_whole, at)))
        with m.If(emit):
            m.d.sync += at.eq(at + size)
        with m.If(take):
            m.d.sync += [first_word.eq(next_word), has_word.eq(1)]
        with m.Elif(emit & done):
            m.d.sync += has_word.eq(0)

        # for line: for pixel row: for column: for unit. Flags say which step is the last one.
        lines, pixel_rows, columns = Signal(16), Signal(16), Signal(16)  # this one and those behind
        unit, row_block = Signal(12), Signal(12)
        line_addr, column_addr, line_step = Signal(16), Signal(16), Signal(16)
        one_unit, one_column, one_row = Signal(), Signal(), Signal()  # is all there is
        ends_column, ends_row = Signal(), Signal()
        m.d.comb += [
            ended.eq(emitted & final),
            ends_column.eq(last_unit & last_column),
            ends_row.eq(last_unit & last_column & last_row),
        ]

        unit_bits = exact_log2(width)
        units = Signal(16)         # in a row
        left = Signal(16)          # of this row
        m.d.comb += [
            units.eq((load.row_bytes + width - 1) >> unit_bits),
            size.eq(Mux(last_unit, rest, width)),
        ]

        def begin_row() -> None:
            m.d.sync += [left.eq(units), last_unit.eq(one_unit)]

        # The next pixel row begins at a block of the network.
        following = (unit | (BLOCK // width - 1)) + 1
        m.d.sync += [
            line_step.eq(load.count * load.stride), one_unit.eq(units == 1),
            one_column.eq(load.count == 1), one_row.eq(load.patch_rows == 1),
            rest.eq(Mux(load.row_bytes[:unit_bits] == 0, width, load.row_bytes[:unit_bits])),
            emitted.eq(emit), final.eq(last_unit & last_column & last_row & last_line),
        ]
        with m.If(~running):
            start = first * load.stride
            begin_row()
            m.d.sync += [
                has_word.eq(0), at.eq(0),
                lines.eq(load.lines), pixel_rows.eq(load.patch_rows), columns.eq(load.count),
                unit.eq(0), row_block.eq(0), line_addr.eq(start), column_addr.eq(start),
                last_column.eq(one_column), last_row.eq(one_row), last_line.eq(load.lines == 1),
            ]
        with m.Elif(emit):
            m.d.sync += [
                left.eq(left - 1), unit.eq(unit + 1), last_unit.eq(left == 2),
            ]
            with m.If(last_unit):
                begin_row()
                m.d.sync += [
                    unit.eq(row_block),
                    columns.eq(columns - 1), column_addr.eq(column_addr + load.stride),
                    last_column.eq(columns == 2),
                ]
            with m.If(ends_column):
                m.d.sync += [
                    columns.eq(load.count), column_addr.eq(line_addr),
                    pixel_rows.eq(pixel_rows - 1), unit.eq(following), row_block.eq(following),
                    last_column.eq(one_column), last_row.eq(pixel_rows == 2),
                ]
            with m.If(ends_row):
                m.d.sync += [
                    pixel_rows.eq(load.patch_rows), lines.eq(lines - 1), unit.eq(0),
                    row_block.eq(0), line_addr.eq(line_addr + line_step),
                    column_addr.eq(line_addr + line_step),
                    last_row.eq(one_row), last_line.eq(lines == 2),
                ]

        # Write: a unit is a block of bytes, two units are a block of the residual.
        previous = Signal(8 * width, reset_less=True)
        block = Signal(12)
        bank_bits = ceil_log2(config.banks)
        bank = Signal(config.banks)
        m.d.comb += [
            block.eq(Mux(is_frame, unit, unit >> 1)),
            bank.eq(1 << block[:bank_bits] if bank_bits else 1),
            waits.eq(self._residual_waits & ~is_frame & unit[0]),
        ]
        m.d.sync += self.patch_en.eq(Mux(emit & is_frame, bank, 0))
        with m.If(self.residual_ready):
            m.d.sync += [self.residual_en.eq(0), self._residual_waits.eq(0)]
        with m.If(emit):
            m.d.sync += previous.eq(cut)
            with m.If(is_frame | unit[0]):
                m.d.sync += [
                    self.residual_en.eq(Mux(is_frame, 0, bank)),
                    self._residual_waits.eq(~is_frame),
                    self.write_addr.eq(column_addr + (block >> bank_bits)),
                    self.write_data.eq(Cat(previous, cut)),
                ]
        return ended

    def _words(self, m: Module, beats: Fifo, size: int, running: Signal, take: Signal
               ) -> tuple[Value, Value]:
        """Join beats to words of ``size`` bytes; return the next word and whether it is there.

        The last word of a load may be there in part: it is complete with the last beat.
        """
        count = size // (self.config.port_bits // 8)
        if count == 1:
            m.d.comb += beats.o.ready.eq(take)
            return beats.o.payload, beats.o.valid
        word = Signal(8 * size, reset_less=True)
        filled = Signal(range(count + 1))
        left = Signal.like(self.request.p.beats)
        complete, accept = Signal(), Signal()
        m.d.comb += [
            accept.eq(running & beats.o.valid & (~complete | take)),
            beats.o.ready.eq(accept),
        ]
        with m.If(take):
            m.d.sync += [filled.eq(0), complete.eq(0)]
        with m.If(accept):
            place = Mux(take, 0, filled)
            m.d.sync += [
                word.word_select(place, self.config.port_bits).eq(beats.o.payload),
                filled.eq(place + 1), complete.eq((place == count - 1) | (left == 1)),
                left.eq(left - 1),
            ]
        with m.If(~running):
            m.d.sync += [filled.eq(0), complete.eq(0), left.eq(self.request.p.beats)]
        return word, complete
