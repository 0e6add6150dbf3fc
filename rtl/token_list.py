# SPDX-License-Identifier: BSD-2-Clause
"""The token list: at which row of the residual a token is."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl.config import Config

__all__ = ["TokenList"]


class TokenList(wiring.Component):
    """``row = list[position]``, of the tokens that are left or of those that were dropped last.

    Rows stay where they are for the whole of a run; what is pruned is this list of them. There are
    two lists of tokens, so that a selector writes one while passes read the other, and one of
    dropped tokens, which nothing reads while it is written.

    There is no flow control. After ``init`` the list is the identity, when ``busy`` has fallen;
    nothing else may happen before. ``flip`` exchanges the lists, from the next cycle on.

    Latency: ``LATENCY`` cycle of a read; ``config.max_tokens`` cycles of ``init``.

    Resources: the three lists in distributed memory, as the row is multiplied in the next cycle; a
    copy of the first two for the selector, which need not be quick, in block RAM.

    Parameters
    ----------
    config
        ``max_tokens`` is used.

    Members
    -------
    init : In; busy : Out
        Pulse; from the next cycle on high until the list is the identity.
    flip : In
        Pulse: the list that was written is the one that is read.
    position, dropped : In; row : Out
        Position in the list of tokens or of dropped tokens; its row, one cycle later.
    scan_position : In; scan_row : Out
        The same for the selector, always of the tokens.
    write_en, write_dropped, write_position, write_row : In
        Writes the dropped tokens or the list of tokens that is not read.
    """

    LATENCY = 1

    def __init__(self, config: Config) -> None:
        self.max_tokens = config.max_tokens
        index = range(config.max_tokens)
        super().__init__({
            "init": In(1), "busy": Out(1), "flip": In(1),
            "position": In(index), "dropped": In(1), "row": Out(index),
            "scan_position": In(index), "scan_row": Out(index),
            "write_en": In(1), "write_dropped": In(1), "write_position": In(index),
            "write_row": In(index),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The upper two bits of the address: lists 0 and 1 of tokens, and that of dropped tokens.
        depth = (2 << len(self.position)) + self.max_tokens
        m.submodules.lists = lists = Memory(shape=len(self.row), depth=depth, init=[],
                                            attrs={"ram_style": "distributed"})
        m.submodules.copy = copy = Memory(shape=len(self.row), depth=2 << len(self.position),
                                          init=[], attrs={"ram_style": "block"})
        read, scan = lists.read_port(), copy.read_port()
        write, write_copy = lists.write_port(), copy.write_port()
        current = Signal()
        count = Signal(range(self.max_tokens))
        with m.If(self.flip):
            m.d.sync += current.eq(~current)
        with m.If(self.init):
            m.d.sync += [self.busy.eq(1), count.eq(0), current.eq(0)]
        with m.Elif(self.busy):
            m.d.sync += count.eq(count + 1)
            with m.If(count == self.max_tokens - 1):
                m.d.sync += self.busy.eq(0)
        m.d.comb += [
            read.addr.eq(Cat(self.position, current & ~self.dropped, self.dropped)),
            scan.addr.eq(Cat(self.scan_position, current)),
            self.row.eq(read.data),
            self.scan_row.eq(scan.data),
            write.en.eq(self.busy | self.write_en),
            write.addr.eq(Mux(self.busy, count, Cat(self.write_position,
                                                    ~current & ~self.write_dropped,
                                                    self.write_dropped))),
            write.data.eq(Mux(self.busy, count, self.write_row)),
            write_copy.en.eq(write.en & ~write.addr[-1]),
            write_copy.addr.eq(write.addr),
            write_copy.data.eq(write.data),
        ]
        return m
