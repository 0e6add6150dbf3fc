# SPDX-License-Identifier: BSD-2-Clause
"""The accumulators: one row of sums per token, carried from one K tile to the next."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from rtl.arith import delay
from rtl.array import psum_bits
from rtl.config import GROUP, Config
from rtl.isa import ACC_BITS

__all__ = ["Accumulator", "AccumulatorGroup"]

#: Cycles from a row to its sums: memory, output register of the memory, adder.
LATENCY = 3


class AccumulatorGroup(Component):
    """Eight columns of the accumulators: the module that is repeated, see :class:`Accumulator`.

    Its memory word of ``8 * 27 = 216`` bits is exactly three block RAMs wide.

    Parameters
    ----------
    rows
        Rows of the array, for the width of its sums.
    pass_rows
        Rows of accumulators.
    """

    LATENCY = LATENCY

    def __init__(self, *, rows: int, pass_rows: int) -> None:
        self.pass_rows = pass_rows
        super().__init__({
            "psum": In(data.ArrayLayout(signed(psum_bits(rows)), GROUP)),
            "row": In(range(pass_rows)),
            "valid": In(1),
            "first": In(1),
            "last": In(1),
            "acc": Out(data.ArrayLayout(signed(ACC_BITS), GROUP)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(
            shape=ACC_BITS * GROUP, depth=self.pass_rows, init=[], attrs={"ram_style": "block"})
        read, write = memory.read_port(), memory.write_port()
        m.d.comb += read.addr.eq(self.row)
        stored = data.View(data.ArrayLayout(signed(ACC_BITS), GROUP),
                           delay(m, read.data, 1, name="stored"))

        first = delay(m, self.first, LATENCY - 1, name="first")
        sums: list[Value] = []
        for c in range(GROUP):
            psum = delay(m, self.psum[c], LATENCY - 1, name=f"psum_{c}")
            total = Signal(signed(ACC_BITS), name=f"sum_{c}", reset_less=True)
            m.d.sync += total.eq(psum + Mux(first, 0, stored[c]))
            sums.append(total)
        m.d.comb += [
            self.acc.as_value().eq(Cat(sums)),
            write.data.eq(Cat(sums)),
            write.addr.eq(delay(m, self.row, LATENCY, name="row")),
            write.en.eq(delay(m, self.valid & ~self.last, LATENCY, name="write", reset=True)),
        ]
        return m


class Accumulator(Component):
    """``acc = psum + (0 if first else sum of the row so far)``, exact in 27 bits.

    The sum is kept for the next K tile unless the row is ``last``. No flow control: a row enters
    every cycle; ``row`` comes together with its sums and all control. The sum is written
    ``LATENCY`` cycles after its row is read, so the same row returns no sooner than 4 cycles later;
    the pipeline promises 16.

    Latency: ``LATENCY``. Resources: ``columns`` adders of 27 bits, 3 block RAMs per 8 columns (up
    to 512 tokens), two registers per bit of ``psum`` that wait for the memory.

    Parameters
    ----------
    config
        Configuration; ``rows``, ``columns`` and ``pass_rows`` are used.

    Members
    -------
    psum : In(ArrayLayout(signed(psum_bits(rows)), columns))
        Sums of one K tile.
    row : In(range(pass_rows))
        The row they belong to.
    valid : In(1)
        A row enters.
    first, last : In(1)
        The K tile is the first, the last, of its column tile.
    acc : Out(ArrayLayout(signed(27), columns))
        Sums so far; those of the whole row if it is ``last``.
    """

    LATENCY = LATENCY

    def __init__(self, config: Config) -> None:
        self.rows = config.rows
        self.columns = config.columns
        self.pass_rows = config.pass_rows
        super().__init__({
            "psum": In(data.ArrayLayout(signed(psum_bits(self.rows)), self.columns)),
            "row": In(range(self.pass_rows)),
            "valid": In(1),
            "first": In(1),
            "last": In(1),
            "acc": Out(data.ArrayLayout(signed(ACC_BITS), self.columns)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for g in range(self.columns // GROUP):
            group = AccumulatorGroup(rows=self.rows, pass_rows=self.pass_rows)
            m.submodules[f"group_{g}"] = group
            m.d.comb += [
                group.row.eq(self.row),
                group.valid.eq(self.valid),
                group.first.eq(self.first),
                group.last.eq(self.last),
            ]
            for c in range(GROUP):
                m.d.comb += [
                    group.psum[c].eq(self.psum[g * GROUP + c]),
                    self.acc[g * GROUP + c].eq(group.acc[c]),
                ]
        return m
