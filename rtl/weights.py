# SPDX-License-Identifier: BSD-2-Clause
"""The weight stream: beats of all ports joined into array rows, and the FIFO that holds them."""

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from rtl.config import Config

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
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=8 * self.config.columns, depth=self.depth)

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
            take.eq(Cat(complete).all() & fifo.w_rdy),
            fifo.w_en.eq(take),
            fifo.w_data.eq(Cat(segments)),
            self.o.valid.eq(fifo.r_rdy),
            self.o.payload.eq(fifo.r_data),
            fifo.r_en.eq(self.o.ready),
            self.level.eq(fifo.level),
        ]
        return m
