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
from rtl.fifo import DISTRIBUTED_DEPTH

__all__ = ["LogitUnit"]


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

        words = config.port_bits // 32
        classes = Signal(16)
        left = Signal(8)     # images, this one included
        tokens = Signal.like(self.tokens, reset_less=True)
        offset = Signal(33)  # of the output, from the first one
        padded = Signal(16)
        total = Signal(17)   # words, the last four included
        index = Signal(17)
        first_tile, tile = Signal(self.addr_bits), Signal(self.addr_bits)
        lanes = Signal(width, reset_less=True)
        lane = Signal(range(config.columns))
        beat = Signal(config.port_bits, reset_less=True)
        filled = Signal(range(words + 1))
        top_logit = Signal(signed(isa.ACC_BITS))
        logit = Signal(signed(isa.ACC_BITS))
        word = Signal(signed(32))
        draining = Signal()
        m.d.comb += [
            write.en.eq(self.write_en),
            write.addr.eq(self.write_addr),
            write.data.eq(self.write_data),
            read.addr.eq(Mux(draining, tile, self.read_addr)),
            self.read_data.eq(read.data),
            padded.eq((classes + 3) & ~3),
            total.eq(padded + 4),
            logit.eq(lanes[:isa.ACC_BITS]),
            self.request.p.beats.eq(total >> ceil_log2(words)),
            self.data.p.data.eq(beat),
            self.data.p.strobe.eq(~0),
            self.busy.eq(1),
        ]

        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.busy.eq(0)
                m.d.sync += [classes.eq(self.classes), left.eq(self.images),
                             tokens.eq(self.tokens), first_tile.eq(0)]
                with m.If(self.start):
                    m.next = "Window"
            with m.State("Window"):
                m.d.sync += [index.eq(0), tile.eq(first_tile), lane.eq(0), filled.eq(0),
                             self.request.p.address.eq(self.output_addr + offset)]
                with m.If((offset + (total << 2) > self.output_bytes)
                          | ((self.output_addr | offset)[:12] != 0)):
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
                m.d.sync += [lanes.eq(read.data), lane.eq(0), tile.eq(tile + 1)]
                m.next = "Words"
            with m.State("Words"):
                m.d.comb += draining.eq(1)
                with m.If(index < classes):
                    m.d.comb += word.eq(logit)
                with m.Elif(index == padded):
                    m.d.comb += word.eq(self.top_class)
                with m.Elif(index == padded + 1):
                    m.d.comb += word.eq(top_logit)
                with m.Elif(index == padded + 2):
                    m.d.comb += word.eq(self.cycle)
                with m.Elif(index == padded + 3):
                    m.d.comb += word.eq(tokens[0])
                with m.If(filled == words):
                    m.d.comb += self.data.valid.eq(1)
                with m.If((filled != words) | self.data.ready):
                    m.d.sync += [
                        beat.eq(Cat(beat[32:], word)),
                        filled.eq(Mux(filled == words, 1, filled + 1)),
                        index.eq(index + 1),
                        lane.eq(lane + 1),
                        lanes.eq(lanes >> isa.ACC_BITS),
                    ]
                    with m.If((index < classes) & ((index == 0) | (logit > top_logit))):
                        m.d.sync += [top_logit.eq(logit), self.top_class.eq(index)]
                    with m.If(index == total):
                        m.next = "Written"
                    with m.Elif((lane == config.columns - 1) & (index + 1 < classes)):
                        m.next = "Tile"
            with m.State("Written"):
                with m.If(self.written):
                    m.d.sync += [
                        self.images_done.eq(self.images_done + 1),
                        offset.eq(offset + self.output_stride),
                        first_tile.eq(first_tile + config.class_tiles),
                        tokens.eq(tokens.as_value() >> 16),
                        left.eq(left - 1),
                    ]
                    m.next = "Window"
                    with m.If(left == 1):
                        m.next = "Idle"
            with m.State("Failed"):
                pass
        return m
