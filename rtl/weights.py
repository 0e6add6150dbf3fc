# SPDX-License-Identifier: BSD-2-Clause
"""The weight stream: beats of all ports joined into words of array rows, and their FIFO."""

from amaranth.hdl import Cat, Module, Signal, Value, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from rtl.config import Config
from rtl.fifo import Fifo

__all__ = ["WeightStream"]


class WeightStream(wiring.Component):
    """Joins one beat stream per port into one stream of words of ``load_rows`` array rows.

    Port p carries bytes ``p * columns / ports`` and on of every row of ``columns`` bytes, so no
    crossbar is needed; a word is complete when each port has delivered its part of all its rows.
    Rows that do not fill a word stay: parameters and tiles are whole words.

    Streams: beats and words in order. A beat of every port goes in and a word goes out in every
    cycle, where both are there.

    Resources: memory of ``weight_tiles`` array tiles, of the kind that ``Fifo`` chooses.

    Members
    -------
    i : In(stream of port_bits), one per port
    o : Out(stream of 8 * columns * load_rows), the first row in the lowest bits
    level, behind : Out, words in the FIFO; those behind the one that is offered
    """

    def __init__(self, config: Config):
        self.config = config
        self.depth = config.weight_depth // config.load_rows
        self.row_beats = config.columns // config.bus_bytes
        self.beats = self.row_beats * config.load_rows
        super().__init__({
            "i": In(stream.Signature(config.port_bits)).array(config.ports),
            "o": Out(stream.Signature(unsigned(8 * config.columns * config.load_rows))),
            "level": Out(range(self.depth + 1)), "behind": Out(range(self.depth)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # One word of the depth is in the output register.
        m.submodules.fifo = fifo = Fifo(len(self.o.payload), depth=self.depth - 1)

        segments: list[Value] = []
        complete: list[Value] = []
        bits = self.config.port_bits
        take = Signal()
        for p, port in enumerate(self.i):
            if self.beats == 1:
                segments.append(port.payload)
                complete.append(port.valid)
                m.d.comb += port.ready.eq(take)
                continue
            segment = Signal(self.beats * bits, name=f"segment{p}", reset_less=True)
            count = Signal(range(self.beats + 1), name=f"count{p}")
            full = Signal(name=f"full{p}")
            m.d.comb += [full.eq(count == self.beats), port.ready.eq(~full | take)]
            with m.If(port.valid & port.ready):
                m.d.sync += [
                    segment.eq(Cat(segment[bits:], port.payload)),
                    count.eq(count + 1),
                ]
            with m.If(take):
                m.d.sync += count.eq(port.valid)
            segments.append(segment)
            complete.append(full)

        m.d.comb += [
            take.eq(Cat(complete).all() & fifo.i.ready),
            fifo.i.valid.eq(Cat(complete).all()),
            fifo.i.payload.eq(Cat(segment.word_select(row, bits * self.row_beats)
                                  for row in range(self.config.load_rows)
                                  for segment in segments)),
            self.level.eq(fifo.level),
            self.behind.eq(fifo.behind),
        ]
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        return m
