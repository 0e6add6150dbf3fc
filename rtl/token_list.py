# SPDX-License-Identifier: BSD-2-Clause
"""The token list: at which row of the residual a token is."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl.config import Config

__all__ = ["TokenList"]


class TokenList(wiring.Component):
    """``row = list[position]``, of the tokens that are left or of those that were dropped last.

    Rows stay where they are for the whole of a round; what is pruned is this list of them. There
    are two lists of tokens, so that selectors write one while passes read the other, and one of
    dropped tokens, which nothing reads while it is written.

    There is no flow control. With ``image`` the list is ``position + first_row``, from the next
    cycle on; ``flip`` exchanges the lists.

    Latency: ``LATENCY`` cycle of a read.

    Resources: the three lists in distributed memory, as the row is multiplied in the next cycle; a
    copy of the first two for the selector, which need not be quick, in block RAM.

    Parameters
    ----------
    config
        ``pass_rows`` and ``residual_rows`` are used.

    Members
    -------
    image, first_row : In
        Pulse; with it the row of the first token.
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
        self.pass_rows = config.pass_rows
        position, row = range(config.pass_rows), range(config.residual_rows)
        super().__init__({
            "image": In(1), "first_row": In(row), "flip": In(1),
            "position": In(position), "dropped": In(1), "row": Out(row),
            "scan_position": In(position), "scan_row": Out(row),
            "write_en": In(1), "write_dropped": In(1), "write_position": In(position),
            "write_row": In(row),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The upper two bits of the address: lists 0 and 1 of tokens, and that of dropped tokens.
        depth = (2 << len(self.position)) + self.pass_rows
        m.submodules.lists = lists = Memory(shape=len(self.row), depth=depth, init=[],
                                            attrs={"ram_style": "distributed"})
        m.submodules.copy = copy = Memory(shape=len(self.row), depth=2 << len(self.position),
                                          init=[], attrs={"ram_style": "block"})
        read, scan = lists.read_port(), copy.read_port()
        write, write_copy = lists.write_port(), copy.write_port()
        current = Signal()
        # Until the first flip the rows are in order: nothing is read.
        in_order = Signal()
        first_row = Signal.like(self.first_row)
        with m.If(self.flip):
            m.d.sync += [current.eq(~current), in_order.eq(0)]
        with m.If(self.image):
            m.d.sync += [in_order.eq(1), first_row.eq(self.first_row)]

        def chosen(position: Value, stored: Value, dropped: Value, name: str) -> Value:
            ordered = Signal.like(self.row, name=f"{name}_ordered", reset_less=True)
            is_ordered = Signal(name=f"{name}_is_ordered", reset_less=True)
            m.d.sync += [ordered.eq(position + first_row), is_ordered.eq(in_order & ~dropped)]
            return Mux(is_ordered, ordered, stored)

        m.d.comb += [
            read.addr.eq(Cat(self.position, current & ~self.dropped, self.dropped)),
            scan.addr.eq(Cat(self.scan_position, current)),
            self.row.eq(chosen(self.position, read.data, self.dropped, "row")),
            self.scan_row.eq(chosen(self.scan_position, scan.data, Const(0), "scan")),
            write.en.eq(self.write_en),
            write.addr.eq(Cat(self.write_position, ~current & ~self.write_dropped,
                              self.write_dropped)),
            write.data.eq(self.write_row),
            write_copy.en.eq(write.en & ~write.addr[-1]),
            write_copy.addr.eq(write.addr),
            write_copy.data.eq(write.data),
        ]
        return m
