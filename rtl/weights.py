# SPDX-License-Identifier: BSD-2-Clause
"""The weight stream: beats of all ports joined into array rows, and the FIFO that holds them."""

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from rtl.config import Config
from rtl.fifo import Fifo

__all__ = ["WeightStream"]


class WeightStream(wiring.Component):
    """Joins one beat stream per port into one stream of array rows of ``columns`` bytes.

    Port p carries bytes ``p * columns / ports`` and on of every row, so no crossbar is needed; a
    row is complete when each port has delivered its ``columns / ports`` bytes.

    Streams: beats and rows in order, one row a cycle where the ports are wide enough.

    Resources: block RAM of ``weight_tiles`` array tiles.

    Members
    -------
    i : In(stream of port_bits), one per port
    o : Out(stream of 8 * columns)
    level : Out, rows in the FIFO
    """

    def __init__(self, config: Config):
        self.config = config
        self.depth = config.weight_depth
        self.beats = config.columns // config.bus_bytes
        super().__init__({
            "i": In(stream.Signature(config.port_bits)).array(config.ports),
            "o": Out(stream.Signature(unsigned(8 * config.columns))),
            "level": Out(range(self.depth + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # One row of the depth is in the output register.
        m.submodules.fifo = fifo = Fifo(8 * self.config.columns, depth=self.depth - 1)

        segments, complete = [], []
        take = Signal()
        for p, port in enumerate(self.i):
            if self.beats == 1:
                segments.append(port.payload)
                complete.append(port.valid)
                m.d.comb += port.ready.eq(take)
                continue
            segment = Signal(self.beats * len(port.payload), name=f"segment{p}", reset_less=True)
            count = Signal(range(self.beats + 1), name=f"count{p}")
            full = Signal(name=f"full{p}")
            m.d.comb += [full.eq(count == self.beats), port.ready.eq(~full | take)]
            with m.If(port.valid & port.ready):
                m.d.sync += [
                    segment.eq(Cat(segment[len(port.payload):], port.payload)),
                    count.eq(count + 1),
                ]
            with m.If(take):
                m.d.sync += count.eq(port.valid)
            segments.append(segment)
            complete.append(full)

        m.d.comb += [
            take.eq(Cat(complete).all() & fifo.i.ready),
            fifo.i.valid.eq(Cat(complete).all()),
            fifo.i.payload.eq(Cat(segments)),
            self.level.eq(fifo.level),
        ]
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        return m
