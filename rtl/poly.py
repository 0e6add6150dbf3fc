# SPDX-License-Identifier: BSD-2-Clause
"""Piecewise polynomials: the lanes that GELU and exp share, and the scalar evaluator."""

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from rtl.arith import delay
from rtl.config import Config
from rtl.isa import LANE_LAYOUT_ROWS, LANE_ROWS, LANE_T, LANE_X_BITS, SCALAR_T, PolyRow

__all__ = ["Horner", "PolyLane", "PolyLanes", "PolyScalar"]

#: Bits of ``c1 + c2 * t``: c2 is 0 wherever t leaves 0..1.
H_BITS = 22
#: Bits of the output of a lane: ``c0 + h * t``.
LANE_Y_BITS = 32
#: Bits of the output of a scalar evaluator.
SCALAR_Y_BITS = 28

_SLOPES = data.StructLayout({"c1": PolyRow["c1"].shape, "c2": PolyRow["c2"].shape})


class Horner(Component):
    """One polynomial: ``h = c1 + round_shift(c2 * t)``, ``y = c0 + round_shift(h * t)``.

    Both steps are a multiplier whose product is added to ``{c, 1/2}``: the rounding costs nothing,
    and each step is one DSP with operands (A, B), product (M), addend (C) and sum (P) registered.
    c0 has a memory of its own, read when it is needed: delaying the row takes fewer bits than
    delaying c0.

    There is no flow control; an input enters in every cycle. A row must not be written while
    inputs of the last ``LATENCY`` cycles use it; it serves the inputs of all later cycles.
    Resources: 2 DSPs, ``62 * rows`` bits of distributed memory.

    Parameters
    ----------
    rows
        Rows of the table.
    t
        Shape of ``t``.
    shift
        Fraction bits of ``t``.
    width
        Bits of ``y``.

    Members
    -------
    row, t : In
        Row of the table, and the position in its segment.
    y : Out(signed(width))
        Value of the polynomial, ``LATENCY`` cycles later.
    write_en, write_row, write_data : In
        Writes one row of the table.
    """

    #: Coefficients, M, P, h, M, P.
    LATENCY = 6

    def __init__(self, *, rows: int, t: Shape, shift: int, width: int) -> None:
        self.rows = rows
        self.shift = shift
        super().__init__({
            "row": In(range(rows)),
            "t": In(t),
            "y": Out(signed(width)),
            "write_en": In(1),
            "write_row": In(range(rows)),
            "write_data": In(PolyRow),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        attrs = {"ram_style": "distributed"}
        m.submodules.slopes = slopes = Memory(shape=_SLOPES, depth=self.rows, init=[], attrs=attrs)
        m.submodules.values = values = Memory(shape=PolyRow["c0"].shape, depth=self.rows, init=[],
                                              attrs=attrs)
        write_slopes, write_values = slopes.write_port(), values.write_port()
        read_slopes, read_values = slopes.read_port(), values.read_port()
        for write in (write_slopes, write_values):
            m.d.comb += [write.en.eq(self.write_en), write.addr.eq(self.write_row)]
        m.d.comb += [
            write_slopes.data.c1.eq(self.write_data.c1),
            write_slopes.data.c2.eq(self.write_data.c2),
            write_values.data.eq(self.write_data.c0),
        ]

        half = Const(1 << (self.shift - 1), self.shift)
        c2, c1 = read_slopes.data.c2, delay(m, read_slopes.data.c1, 1, name="c1")
        m1 = Signal(signed(len(c2) + len(self.t) + 1), reset_less=True)
        p1 = Signal(signed(len(m1) + 1), reset_less=True)
        h = Signal(signed(H_BITS), reset_less=True)
        m2 = Signal(signed(len(h) + len(self.t) + 1), reset_less=True)
        p2 = Signal(signed(len(m2) + 1), reset_less=True)
        t1 = delay(m, self.t, 1, name="t_first")
        t4 = delay(m, t1, 3, name="t_second")
        m.d.comb += [
            read_slopes.addr.eq(self.row),
            read_values.addr.eq(delay(m, self.row, 4, name="row")),
        ]
        m.d.sync += [
            m1.eq(c2 * t1),
            p1.eq(m1 + Cat(half, c1).as_signed()),
            h.eq(p1 >> self.shift),
            m2.eq(h * t4),
            p2.eq(m2 + Cat(half, read_values.data).as_signed()),
        ]
        m.d.comb += self.y.eq(p2 >> self.shift)
        return m


class PolyScalar(Horner):
    """One function of a normalised mantissa (reciprocal, reciprocal square root) a cycle.

    Contract, latency and members are those of Horner: ``t`` is unsigned with 12 fraction bits,
    ``y`` has 28 bits.

    Parameters
    ----------
    rows
        Rows of the table.
    """

    def __init__(self, *, rows: int) -> None:
        super().__init__(rows=rows, t=unsigned(SCALAR_T), shift=SCALAR_T, width=SCALAR_Y_BITS)


class PolyLane(Component):
    """One lane: a function of x with two straight tails, or ``2**-f``.

    For ``-2**14 <= x < 2**14`` the row is ``(x + 2**14) >> 10`` and ``t = x mod 2**10``; below and
    above it is row 32 and 33 with ``t = x``. With ``exp`` the row is ``40 + x[10:13]``.

    Contract and members are those of PolyLanes, for one lane.
    Latency: 1 (row and t) and that of Horner. Resources: those of Horner.
    """

    LATENCY = 1 + Horner.LATENCY

    x: In(signed(LANE_X_BITS))
    exp: In(1)
    y: Out(signed(LANE_Y_BITS))
    write_en: In(1)
    write_row: In(range(LANE_ROWS))
    write_data: In(PolyRow)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.horner = horner = Horner(rows=LANE_ROWS, t=signed(LANE_X_BITS), shift=LANE_T,
                                              width=LANE_Y_BITS)
        first, low, high, exp = (LANE_LAYOUT_ROWS[name][0]
                                 for name in ("gelu", "gelu_low", "gelu_high", "exp"))
        # Row numbers are such that a row is put together from bits, not added up.
        assert first == 0
        assert exp % LANE_LAYOUT_ROWS["exp"][1] == 0
        segment_bits = (LANE_LAYOUT_ROWS["gelu"][1] - 1).bit_length()
        exp_bits = (LANE_LAYOUT_ROWS["exp"][1] - 1).bit_length()

        sign = self.x[-1]
        top = self.x[LANE_T + segment_bits - 1:]
        tail = Signal()
        row = Signal.like(horner.row, reset_less=True)
        t = Signal.like(horner.t, reset_less=True)
        m.d.comb += tail.eq(~self.exp & (top != sign.replicate(len(top))))
        m.d.sync += t.eq(Mux(tail, self.x, self.x[:LANE_T]))
        with m.If(self.exp):
            m.d.sync += row.eq(exp | self.x[LANE_T:LANE_T + exp_bits])
        with m.Elif(tail):
            m.d.sync += row.eq(Mux(sign, low, high))
        with m.Else():
            m.d.sync += row.eq(Cat(self.x[LANE_T:LANE_T + segment_bits - 1], ~sign))
        m.d.comb += [
            horner.row.eq(row),
            horner.t.eq(t),
            self.y.eq(horner.y),
            horner.write_en.eq(self.write_en),
            horner.write_row.eq(self.write_row),
            horner.write_data.eq(self.write_data),
        ]
        return m


class PolyLanes(Component):
    """The shared evaluator: GELU of the epilogue or exp of the prologue, in every lane.

    There is no flow control; inputs enter in every cycle, and ``exp`` belongs to those of its
    cycle. A row must not be written while inputs of the last ``LATENCY`` cycles use it; it serves
    the inputs of all later cycles. All lanes hold the same table.
    Latency: ``LATENCY``. Resources: 2 DSPs and 4 kbit of distributed memory a lane.

    Parameters
    ----------
    config
        Configuration; ``config.lanes`` lanes.

    Members
    -------
    x : In(ArrayLayout(signed(18), lanes))
        Arguments: 12 fraction bits, or with ``exp`` 13 bits that are all fraction.
    exp : In(1)
        The arguments are those of ``2**-f``.
    y : Out(ArrayLayout(signed(32), lanes))
        Values, before they are limited and rounded.
    write_en, write_row, write_data : In
        Writes one row of the table.
    """

    LATENCY = PolyLane.LATENCY

    def __init__(self, config: Config) -> None:
        self.lanes = config.lanes
        super().__init__({
            "x": In(data.ArrayLayout(signed(LANE_X_BITS), self.lanes)),
            "exp": In(1),
            "y": Out(data.ArrayLayout(signed(LANE_Y_BITS), self.lanes)),
            "write_en": In(1),
            "write_row": In(range(LANE_ROWS)),
            "write_data": In(PolyRow),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The write port reaches every lane: a register of its own lets it be spread out.
        write_en = delay(m, self.write_en, 1, name="write_en", reset=True)
        write_row = delay(m, self.write_row, 1, name="write_row")
        write_data = delay(m, self.write_data, 1, name="write_data")
        for i in range(self.lanes):
            m.submodules[f"lane_{i}"] = lane = PolyLane()
            m.d.comb += [
                lane.x.eq(self.x[i]),
                lane.exp.eq(self.exp),
                self.y[i].eq(lane.y),
                lane.write_en.eq(write_en),
                lane.write_row.eq(write_row),
                lane.write_data.eq(write_data),
            ]
        return m
