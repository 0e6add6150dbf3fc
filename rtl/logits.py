# SPDX-License-Identifier: BSD-2-Clause
"""The end of a run: logits to memory, and the top class."""

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
    """Holds the logits, and on END writes them as int32, padded with zeros to 16 bytes, followed by
    16 bytes: top class, its logit, and two zero words. The first of equal logits is the top class.

    One word is written per cycle at most. ``done`` is high when the last beat has been handed over;
    ``error`` is set instead when the output exceeds its window, or that is not aligned to 4 KiB.

    Resources: a memory of one word per column tile of classes, distributed up to 64 deep, else
    block; a shift register of ``columns`` logits.

    Members
    -------
    write_en, write_addr, write_data : In, one column tile of logits
    read_addr : In; read_data : Out, one cycle later, for logits that are added to
    start : In, pulse; classes : In; output_addr, output_bytes : In
    request, data : Out(streams), to the write master
    done, error, top_class : Out
    """

    def __init__(self, config: Config):
        self.config = config
        self.addr_bits = max(1, ceil_log2(config.class_tiles))
        tile = data.ArrayLayout(signed(isa.ACC_BITS), config.columns)
        super().__init__({
            "write_en": In(1), "write_addr": In(self.addr_bits), "write_data": In(tile),
            "read_addr": In(self.addr_bits), "read_data": Out(tile),
            "start": In(1), "classes": In(16), "output_addr": In(64), "output_bytes": In(32),
            "request": Out(stream.Signature(request_layout(64))),
            "data": Out(stream.Signature(write_layout(config.port_bits))),
            "done": Out(1), "error": Out(isa.Error), "top_class": Out(32),
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
        padded = Signal(16)
        total = Signal(17)   # words, the last four included
        index = Signal(17)
        tile = Signal(self.addr_bits)
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
            padded.eq((self.classes + 3) & ~3),
            total.eq(padded + 4),
            logit.eq(lanes[:isa.ACC_BITS]),
            self.request.p.address.eq(self.output_addr),
            self.request.p.beats.eq(total >> ceil_log2(words)),
            self.data.p.data.eq(beat),
            self.data.p.strobe.eq(~0),
        ]

        with m.FSM():
            with m.State("Idle"):
                m.d.sync += [index.eq(0), tile.eq(0), lane.eq(0), filled.eq(0)]
                with m.If(self.start):
                    with m.If(((total << 2) > self.output_bytes) | (self.output_addr[:12] != 0)):
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
                with m.If(index < self.classes):
                    m.d.comb += word.eq(logit)
                with m.Elif(index == padded):
                    m.d.comb += word.eq(self.top_class)
                with m.Elif(index == padded + 1):
                    m.d.comb += word.eq(top_logit)
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
                    with m.If((index < self.classes) & ((index == 0) | (logit > top_logit))):
                        m.d.sync += [top_logit.eq(logit), self.top_class.eq(index)]
                    with m.If(index == total):
                        m.next = "Done"
                    with m.Elif((lane == config.columns - 1) & (index + 1 < self.classes)):
                        m.next = "Tile"
            with m.State("Done"):
                m.d.comb += self.done.eq(1)
            with m.State("Failed"):
                pass
        return m
