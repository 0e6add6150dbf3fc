# SPDX-License-Identifier: BSD-2-Clause
"""Row sums of the softmax, taken as the exponentials enter the array, and their reciprocals."""

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from rtl.arith import delay
from rtl.config import Config
from rtl.isa import (
    ACT_BITS,
    MANTISSA_BITS,
    RECIPROCAL_ROWS,
    SHIFT_BITS,
    SUM_BITS,
    PolyRow,
    RowScale,
)
from rtl.rowscale import Reciprocal
from rtl.tree import AdderTree, tree_latency

__all__ = ["RowSum"]


class RowSum(Component):
    """``sum = (0 if first else sum of the row so far) + sum(e)``, and its :class:`Reciprocal`.

    No flow control: a row enters every cycle; the same row returns no sooner than 16 cycles after
    (its sum is read and written back within 3). Every row that enters gives a result; that of the
    last K tile is the sum of the whole row. With ``config.pruning`` a selector has the use of the
    reciprocal, whenever no sum of a row is on its way into it.

    Latency: ``latency``: adder tree, running sum, reciprocal; ``Reciprocal.LATENCY`` from a request
    to its scale. Resources: ``rows`` adders of about
    10 bits, ``18 * max_tokens`` bits of distributed memory, and :class:`Reciprocal`.

    Parameters
    ----------
    config
        Configuration; ``rows``, ``max_tokens`` and ``pruning`` are used.

    Members
    -------
    e : In(ArrayLayout(signed(9), rows))
        Exponentials, 0..255.
    valid : In(1)
        A row of exponentials enters.
    row : In(range(max_tokens))
        Which one.
    first : In(1)
        Its first K tile.
    scale_m, scale_s : In
        Scale of the instruction.
    sum : Out(18)
        Sum of the row so far.
    o : Out(RowScale)
        Scale of the row, with ``sum``; or that of a request.
    mantissa, shift : Out
        As of :class:`Reciprocal`, with ``o``.
    request : In(1)
        Asks for the scale of a sum that is no row's.
    request_sum, request_scale_m, request_scale_s : In
        The sum, of 18 bits and not zero, and the scale of the instruction.
    write_en, write_row, write_data : In
        Writes one row of the table of the reciprocal.
    """

    def __init__(self, config: Config) -> None:
        self.rows = config.rows
        self.max_tokens = config.max_tokens
        self.latency = tree_latency(self.rows) + 1 + Reciprocal.LATENCY
        self.pruning = config.pruning
        ports = {
            "e": In(data.ArrayLayout(signed(ACT_BITS), self.rows)),
            "valid": In(1),
            "row": In(range(self.max_tokens)),
            "first": In(1),
            "scale_m": In(MANTISSA_BITS),
            "scale_s": In(SHIFT_BITS),
            "sum": Out(SUM_BITS),
            "o": Out(RowScale),
            "write_en": In(1),
            "write_row": In(range(RECIPROCAL_ROWS)),
            "write_data": In(PolyRow),
        }
        if self.pruning:
            ports |= {
                "mantissa": Out(MANTISSA_BITS),
                "shift": Out(range(SUM_BITS)),
                "request": In(1),
                "request_sum": In(SUM_BITS),
                "request_scale_m": In(MANTISSA_BITS),
                "request_scale_s": In(SHIFT_BITS),
            }
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.tree = tree = AdderTree(inputs=self.rows, shape=unsigned(ACT_BITS - 1))
        for i in range(self.rows):
            m.d.comb += tree.i[i].eq(self.e[i][:ACT_BITS - 1])

        m.submodules.sums = sums = Memory(shape=unsigned(SUM_BITS), depth=self.max_tokens, init=[],
                                          attrs={"ram_style": "distributed"})
        read, write = sums.read_port(), sums.write_port()
        read_row = delay(m, self.row, tree.latency - 1, name="row")
        total = Signal(SUM_BITS, reset_less=True)
        m.d.sync += total.eq(
            tree.o + Mux(delay(m, self.first, tree.latency, name="first"), 0, read.data))
        m.d.comb += [
            read.addr.eq(read_row),
            write.addr.eq(delay(m, read_row, 2, name="row_written")),
            write.data.eq(total),
            write.en.eq(delay(m, self.valid, tree.latency + 1, name="valid", reset=True)),
        ]

        m.submodules.reciprocal = reciprocal = Reciprocal()
        m.d.comb += [
            reciprocal.sum.eq(total),
            reciprocal.scale_m.eq(delay(m, self.scale_m, tree.latency + 1, name="scale_m")),
            reciprocal.scale_s.eq(delay(m, self.scale_s, tree.latency + 1, name="scale_s")),
            reciprocal.write_en.eq(self.write_en),
            reciprocal.write_row.eq(self.write_row),
            reciprocal.write_data.eq(self.write_data),
            self.sum.eq(delay(m, total, Reciprocal.LATENCY, name="total")),
            self.o.eq(reciprocal.o),
        ]
        if self.pruning:
            m.d.comb += [self.mantissa.eq(reciprocal.mantissa), self.shift.eq(reciprocal.shift)]
            with m.If(self.request):
                m.d.comb += [
                    reciprocal.sum.eq(self.request_sum),
                    reciprocal.scale_m.eq(self.request_scale_m),
                    reciprocal.scale_s.eq(self.request_scale_s),
                ]
        return m
