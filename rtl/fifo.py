# SPDX-License-Identifier: BSD-2-Clause
"""First-in first-out queue of a stream, in block or distributed memory."""

from amaranth.hdl import Module, ShapeLike, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["DISTRIBUTED_DEPTH", "Fifo"]

#: Deepest queue that is kept in distributed memory.
DISTRIBUTED_DEPTH = 64


class Fifo(wiring.Component):
    """Queue of ``depth`` elements, and one more in its output register.

    Contract: elements leave in the order in which they came. One element enters and one leaves
    in every cycle. A location is never read in the cycle in which it is written.

    Latency: ``LATENCY`` cycles from an element entering an empty queue to ``o.valid``.

    Resources: one simple dual port memory (distributed up to 64 deep, else block), three counters.

    Parameters
    ----------
    shape
        Payload.
    depth
        Elements.

    Members
    -------
    i, o
        Streams of ``shape``.
    level
        Elements held, that in the output register included: as many can leave without a gap once
        ``o.valid`` is high.
    behind
        Those behind the output register.
    """

    LATENCY = 2

    def __init__(self, shape: ShapeLike, *, depth: int) -> None:
        if depth < 2:
            raise ValueError(f"depth is {depth}, must be at least 2")
        self.shape = shape
        self.depth = depth
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)),
                          "level": Out(range(depth + 2)), "behind": Out(range(depth + 1))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        style = "distributed" if self.depth <= DISTRIBUTED_DEPTH else "block"
        m.submodules.ram = ram = memory.Memory(shape=self.shape, depth=self.depth, init=[],
                                               attrs={"ram_style": style})
        write_port = ram.write_port()
        read_port = ram.read_port()

        stored = Signal(range(self.depth + 1))
        # Flags, as comparisons would be in front of every handshake.
        some, full = Signal(), Signal()
        write = Signal()
        read = Signal()
        m.d.comb += [
            self.i.ready.eq(~full),
            write.eq(self.i.valid & self.i.ready),
            read.eq(some & (~self.o.valid | self.o.ready)),
            write_port.en.eq(write),
            write_port.data.eq(self.i.payload),
            read_port.en.eq(read),
            self.o.payload.eq(read_port.data),
            self.level.eq(stored + self.o.valid),
            self.behind.eq(stored),
        ]
        with m.If(write & ~read):
            m.d.sync += [stored.eq(stored + 1), some.eq(1), full.eq(stored == self.depth - 1)]
        with m.If(read & ~write):
            m.d.sync += [stored.eq(stored - 1), some.eq(stored != 1), full.eq(0)]
        for enable, address in ((write, write_port.addr), (read, read_port.addr)):
            pointer = Signal.like(address, name="write_at" if enable is write else "read_at")
            m.d.comb += address.eq(pointer)
            with m.If(enable):
                m.d.sync += pointer.eq(pointer + 1)
                with m.If(pointer == self.depth - 1):
                    m.d.sync += pointer.eq(0)
        with m.If(read):
            m.d.sync += self.o.valid.eq(1)
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
