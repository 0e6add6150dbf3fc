# SPDX-License-Identifier: BSD-2-Clause
"""The end of a round: logits to memory, and the top class."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl import isa
from rtl.axi import request_layout, write_layout
from rtl.config import Config
from rtl.fifo import DISTRIBUTED_DEPTH, Fifo

__all__ = ["OUTPUT_TOP_BYTES", "LogitUnit", "output_bytes"]

#: Bytes behind the logits in an output: top class, its logit, cycle, tokens.
OUTPUT_TOP_BYTES = 16


def output_bytes(classes: int) -> int:
    """Return the size of an output: the logits, padded to 16 bytes, and what is about them."""
    return -(-4 * classes // OUTPUT_TOP_BYTES) * OUTPUT_TOP_BYTES + OUTPUT_TOP_BYTES


class LogitUnit(wiring.Component):
    """Holds the logits, and on END writes those of every image of the round as int32, padded with
    zeros to 16 bytes, followed by 16 bytes: top class, its logit, the cycle in which that word is
    made, and the tokens that were left. The first of equal logits is the top class.

    The logits of image i begin at word ``i * class_tiles``, its output ``output_stride`` bytes
    behind that of the image before, in this round or the one before. One word is written per cycle
    at most. An image is done when its output is in memory. ``error`` is set, for good, when an
    output exceeds its window, or is not aligned to 4 KiB.

    Resources: a memory of one word per column tile of classes and image, distributed up to 64 deep,
    else block; a shift register of ``columns`` logits.

    Members
    -------
    write_en, write_addr, write_data : In, one column tile of logits
    read_addr : In; read_data : Out, one cycle later, for logits that are added to
    start : In, pulse, while not ``busy``; classes, images, tokens : In, with it
        Logits and images; tokens of every image.
    output_addr, output_bytes, output_stride : In
    cycle : In
    request, data : Out(streams), to the write master; written : In, all of it is in memory
    busy, error : Out
    top_class, images_done : Out
        Of the last image; images so far.
    """

    def __init__(self, config: Config):
        self.config = config
        self.addr_bits = max(1, ceil_log2(config.class_tiles * config.images))
        tile = data.ArrayLayout(signed(isa.ACC_BITS), config.columns)
        super().__init__({
            "write_en": In(1), "write_addr": In(self.addr_bits), "write_data": In(tile),
            "read_addr": In(self.addr_bits), "read_data": Out(tile),
            "start": In(1), "classes": In(16), "images": In(8),
            "tokens": In(data.ArrayLayout(16, isa.SEGMENTS)),
            "output_addr": In(64), "output_bytes": In(32), "output_stride": In(32),
            "cycle": In(32),
            "request": Out(stream.Signature(request_layout(64))),
            "data": Out(stream.Signature(write_layout(config.port_bits))), "written": In(1),
            "busy": Out(1), "error": Out(isa.Error),
            "top_class": Out(32), "images_done": Out(32),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        width = isa.ACC_BITS * config.columns
        # Few words, and wide ones: of a block RAM they would use one row in thirty.
        depth = 1 << self.addr_bits
        style = "distributed" if depth <= DISTRIBUTED_DEPTH else "block"
        m.submodules.logits = memory = Memory(shape=width, depth=depth, init=[],
                                              attrs={"ram_style": style})
        read, write = memory.read_port(), memory.write_port()

        # So that nothing here waits for the master in the cycle in which that decides.
        m.submodules.beats = beats = Fifo(self.data.p.shape(), depth=2)
        wiring.connect(m, beats.o, wiring.flipped(self.data))

        words = config.port_bits // 32
        classes = Signal(16)
        left = Signal(8)     # images, this one included
        tokens = Signal.like(self.tokens, reset_less=True)
        offset = Signal(33)  # of the output, from the first one
        quads = Signal(15)   # words over 4, the last four included
        end = Signal(34)     # of this output, from the first one
        unaligned = Signal()
        index, last_class = Signal(16), Signal(16)
        # What the word is: a logit, one of the last four; and if there are no more.
        is_logit, is_last, ended = Signal(), Signal(), Signal()
        first_tile, tile = Signal(self.addr_bits), Signal(self.addr_bits)
        lanes = Signal(width, reset_less=True)
        lane = Signal(range(config.columns))
        beat = Signal(config.port_bits, reset_less=True)
        filled = Signal(range(words + 1))
        top_logit = Signal(signed(isa.ACC_BITS))
        logit = Signal(signed(isa.ACC_BITS))
        word = Signal(signed(32))
        draining, more, written = Signal(), Signal(), Signal()
        shifting, full = Signal(), Signal()  # words into the beat, which has all of its own
        m.d.comb += [
            write.en.eq(self.write_en),
            write.addr.eq(self.write_addr),
            write.data.eq(self.write_data),
            read.addr.eq(Mux(draining, tile, self.read_addr)),
            self.read_data.eq(read.data),
            more.eq(is_logit & (index != last_class)),
            logit.eq(lanes[:isa.ACC_BITS]),
            self.request.p.beats.eq(quads << 2 >> ceil_log2(words)),
            beats.i.p.data.eq(beat),
            beats.i.p.strobe.eq(~0),
            beats.i.valid.eq(shifting & full),
        ]
        m.d.sync += [
            quads.eq((classes + 7) >> 2), last_class.eq(classes - 1), written.eq(self.written),
            end.eq(offset + (quads << 4)),
            unaligned.eq((self.output_addr | offset)[:12] != 0),
        ]

        with m.FSM():
            with m.State("Idle"):
                m.d.sync += [classes.eq(self.classes), left.eq(self.images),
                             tokens.eq(self.tokens), first_tile.eq(0)]
                with m.If(self.start):
                    m.d.sync += self.busy.eq(1)
                    m.next = "Words of all"
            # Each of these has one sum in front of a register: the clock is that of the datapath.
            with m.State("Words of all"):
                m.next = "End"
            with m.State("End"):
                m.next = "Window"
            with m.State("Window"):
                m.d.sync += [index.eq(0), tile.eq(first_tile), lane.eq(0), filled.eq(0),
                             is_logit.eq(1), is_last.eq(0), ended.eq(0), full.eq(0),
                             self.request.p.address.eq(self.output_addr + offset)]
                with m.If((end > self.output_bytes) | unaligned):
                    m.d.sync += self.error.eq(isa.Error.BAD_ADDRESS)
                    m.next = "Failed"
                with m.Else():
                    m.next = "Request"
            with m.State("Request"):
                m.d.comb += [self.request.valid.eq(1), draining.eq(1)]
                with m.If(self.request.ready):
                    m.next = "Tile"
            with m.State("Tile"):
                m.d.comb += draining.eq(1)
                m.d.sync += [lanes.eq(read.data), lane.eq(0), tile.eq(tile + 1), shifting.eq(1)]
                m.next = "Words"
            with m.State("Words"):
                m.d.comb += draining.eq(1)
                with m.If(is_logit):
                    m.d.comb += word.eq(logit)
                with m.Elif(is_last):
                    with m.Switch(index[:2]):
                        for k, value in enumerate((self.top_class, top_logit, self.cycle,
                                                   tokens[0])):
                            with m.Case(k):
                                m.d.comb += word.eq(value)
                with m.If(~full | beats.i.ready):
                    m.d.sync += [
                        beat.eq(Cat(beat[32:], word)),
                        filled.eq(Mux(full, 1, filled + 1)),
                        full.eq(Mux(full, words == 1, filled == words - 1)),
                        index.eq(index + 1),
                        is_logit.eq(more),
                        lane.eq(lane + 1),
                        lanes.eq(lanes >> isa.ACC_BITS),
                    ]
                    with m.If(is_logit & ((index == 0) | (logit > top_logit))):
                        m.d.sync += [top_logit.eq(logit), self.top_class.eq(index)]
                    with m.If(~more & index[:2].all()):
                        m.d.sync += [is_last.eq(1), ended.eq(is_last)]
                    with m.If(ended):
                        m.d.sync += shifting.eq(0)
                        m.next = "Written"
                    with m.Elif((lane == config.columns - 1) & more):
                        m.d.sync += shifting.eq(0)
                        m.next = "Tile"
            with m.State("Written"):
                with m.If(written):
                    m.d.sync += [
                        self.images_done.eq(self.images_done + 1),
                        offset.eq(offset + self.output_stride),
                        first_tile.eq(first_tile + config.class_tiles),
                        tokens.eq(tokens.as_value() >> 16),
                        left.eq(left - 1),
                    ]
                    m.next = "End"
                    with m.If(left == 1):
                        m.d.sync += self.busy.eq(0)
                        m.next = "Idle"
            with m.State("Failed"):
                pass
        return m
