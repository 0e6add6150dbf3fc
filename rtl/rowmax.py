# SPDX-License-Identifier: BSD-2-Clause
"""Row maxima of the scores, taken as the scores leave the epilogue."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from rtl.arith import delay
from rtl.config import Config
from rtl.isa import WIDE_BITS
from rtl.tree import MaxTree, tree_latency

__all__ = ["RowMax"]

LOWEST = -(1 << (WIDE_BITS - 1))


class RowMax(Component):
    """``max = max(lowest if first else max of the row so far, data where enabled)``, for the rows
    of two heads: one is written while the other is read.

    No flow control: a row enters every cycle; the same row returns no sooner than 16 cycles after
    (its maximum is read and written back within 3).

    Latency: ``latency`` cycles until a read sees the maximum: mask, tree, running maximum, write.
    ``max`` comes one cycle earlier. Resources: about 30 LUTs a column, two copies of
    ``16 * 2 * max_tokens`` bits of distributed memory.

    Parameters
    ----------
    config
        Configuration; ``columns`` and ``max_tokens`` are used.

    Members
    -------
    data : In(ArrayLayout(signed(16), columns))
        Scores.
    enable : In(columns)
        Scores that are those of tokens.
    valid : In(1)
        A row of scores enters.
    slot, row : In
        Which head, which row.
    first : In(1)
        Its first column tile.
    read_slot, read_row : In
        Row to be read.
    read_max : Out(signed(16))
        Its maximum, one cycle later.
    max, max_valid : Out
        Maximum so far of a row that entered, for tracing.
    """

    def __init__(self, config: Config) -> None:
        self.columns = config.columns
        self.max_tokens = config.max_tokens
        self.latency = 1 + tree_latency(self.columns) + 2
        super().__init__({
            "data": In(data.ArrayLayout(signed(WIDE_BITS), self.columns)),
            "enable": In(self.columns),
            "valid": In(1),
            "slot": In(1),
            "row": In(range(self.max_tokens)),
            "first": In(1),
            "read_slot": In(1),
            "read_row": In(range(self.max_tokens)),
            "read_max": Out(signed(WIDE_BITS)),
            "max": Out(signed(WIDE_BITS)),
            "max_valid": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.tree = tree = MaxTree(inputs=self.columns, shape=signed(WIDE_BITS))
        for i in range(self.columns):
            score = Signal(signed(WIDE_BITS), name=f"score_{i}", reset_less=True)
            m.d.sync += score.eq(Mux(self.enable[i], self.data[i], LOWEST))
            m.d.comb += tree.i[i].eq(score)

        # The slot is the upper half of the address: the rows of slot 1 begin at a power of two.
        depth = (1 << len(self.row)) + self.max_tokens
        m.submodules.maxima = maxima = Memory(shape=signed(WIDE_BITS), depth=depth, init=[],
                                              attrs={"ram_style": "distributed"})
        running, read, write = maxima.read_port(), maxima.read_port(), maxima.write_port()
        address = delay(m, Cat(self.row, self.slot), tree.latency, name="address")
        first = delay(m, self.first, 1 + tree.latency, name="first")
        total = Signal(signed(WIDE_BITS), reset_less=True)
        m.d.sync += total.eq(Mux(first | (tree.o > running.data), tree.o, running.data))
        m.d.comb += [
            running.addr.eq(address),
            write.addr.eq(delay(m, address, 2, name="address_written")),
            write.data.eq(total),
            write.en.eq(delay(m, self.valid, tree.latency + 2, name="valid", reset=True)),
            read.addr.eq(Cat(self.read_row, self.read_slot)),
            self.read_max.eq(read.data),
            self.max.eq(total),
            self.max_valid.eq(write.en),
        ]
        return m
