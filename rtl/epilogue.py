# SPDX-License-Identifier: BSD-2-Clause
"""The epilogue: what happens to a row on its way from the accumulators to its destination."""

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl.arith import delay, round_shift, saturate
from rtl.config import SCALE_SLOTS, Config
from rtl.isa import (
    ACC_BITS,
    LANE_FRAC,
    LANE_X_BITS,
    SCALE_BYTES,
    WIDE_BITS,
    ColumnScale,
    Destination,
    RowScale,
    ScaleSource,
)
from rtl.poly import LANE_Y_BITS, PolyLanes
from rtl.rescale import Rescale

__all__ = ["Epilogue", "EpilogueLane"]


class EpilogueLane(wiring.Component):
    """One lane of :class:`Epilogue`, whose documentation says what it computes.

    Holds the bias and scale of its column for ``SCALE_SLOTS`` column tiles, of which
    ``param_bytes`` bytes are written at once.

    Latency: ``LATENCY`` cycles. Resources: one DSP, about 520 LUTs, 60 as memory and
    40 shift registers.

    Members
    -------
    acc, destination, gelu, slot, old, gelu_x, gelu_y, data, param_en, param_slot, param_word, \
param_data
        As of :class:`Epilogue`, for one lane.
    column : In(1)
        The scale is that of the column. Like ``scale`` it is expected one cycle after ``acc``.
    scale : In(RowScale)
        The scale of the row, if not ``column``.
    """

    #: Cycles from ``acc`` to ``gelu_x``.
    GELU_DELAY = 2 + Rescale.LATENCY + 1
    LATENCY = GELU_DELAY + PolyLanes.LATENCY + 4
    OLD_DELAY = LATENCY - 3

    def __init__(self, *, param_bytes: int = 1) -> None:
        self.param_bytes = param_bytes
        super().__init__({
            "acc": In(signed(ACC_BITS)),
            "column": In(1),
            "scale": In(RowScale),
            "destination": In(Destination),
            "gelu": In(1),
            "slot": In(range(SCALE_SLOTS)),
            "old": In(signed(ACC_BITS)),
            "gelu_x": Out(signed(LANE_X_BITS)),
            "gelu_y": In(signed(LANE_Y_BITS)),
            "data": Out(signed(ACC_BITS)),
            "param_en": In(1),
            "param_slot": In(range(SCALE_SLOTS)),
            "param_word": In(range(SCALE_BYTES // param_bytes)),
            "param_data": In(unsigned(8 * param_bytes)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        v = self._requantise(m)

        # GELU: to the shared evaluator and back
        limited = Signal(signed(LANE_X_BITS), reset_less=True)
        whole = Signal(signed(ACC_BITS), reset_less=True)
        rounded = Signal(signed(LANE_Y_BITS - LANE_FRAC + 1), reset_less=True)
        gelu_y = Signal(signed(LANE_Y_BITS))
        m.d.sync += [
            limited.eq(saturate(v, LANE_X_BITS)),
            whole.eq(v),
            rounded.eq(round_shift(gelu_y, LANE_FRAC)),
        ]
        m.d.comb += [self.gelu_x.eq(limited), gelu_y.eq(self.gelu_y)]

        # Everything else is narrowed to its destination and waits as long as GELU takes
        destination = Signal(Destination)
        narrow = Signal(signed(ACC_BITS), reset_less=True)
        m.d.comb += destination.eq(
            delay(m, self.destination, self.GELU_DELAY, name="destination"))
        with m.Switch(destination):
            with m.Case(Destination.ACT, Destination.SELECTOR):
                m.d.sync += narrow.eq(saturate(limited, 8))
            with m.Case(Destination.KEY, Destination.VALUE):
                m.d.sync += narrow.eq(saturate(limited, 8, symmetric=True))
            with m.Case(Destination.SCORE):
                m.d.sync += narrow.eq(saturate(limited, WIDE_BITS))
            with m.Case(Destination.RESIDUAL):
                m.d.sync += narrow.eq(limited)
            with m.Default():
                m.d.sync += narrow.eq(whole)
        waited = Signal(signed(ACC_BITS))
        m.d.comb += waited.eq(delay(m, narrow, PolyLanes.LATENCY, name="narrow"))

        # What is there is added; the polynomial is narrowed as its destination is
        residual = Signal()
        adds = Signal()
        symmetric = Signal()
        gelu = Signal(signed(8))
        m.d.comb += [
            symmetric.eq(delay(m, self.destination == Destination.VALUE, self.OLD_DELAY,
                               name="symmetric")),
            gelu.eq(Mux(symmetric, saturate(rounded, 8, symmetric=True), saturate(rounded, 8))),
            residual.eq(self.destination == Destination.RESIDUAL),
            adds.eq(residual | (self.destination == Destination.LOGIT)),
        ]
        value = Signal(signed(ACC_BITS), reset_less=True)
        old = Signal(signed(ACC_BITS), reset_less=True)
        total = Signal(signed(ACC_BITS + 1), reset_less=True)
        result = Signal(signed(ACC_BITS), reset_less=True)
        m.d.sync += [
            value.eq(Mux(delay(m, self.gelu, self.OLD_DELAY, name="gelu"),
                         gelu, waited)),
            old.eq(Mux(delay(m, adds, self.OLD_DELAY, name="adds"), self.old, 0)),
            total.eq(value + old),
            result.eq(Mux(delay(m, residual, self.LATENCY - 1, name="residual"),
                          saturate(total, WIDE_BITS), saturate(total, ACC_BITS))),
        ]
        m.d.comb += self.data.eq(result)
        return m

    def _requantise(self, m: Module) -> Signal:
        """Return ``v``: two cycles to choose the scale and add its bias, then the scaling."""
        m.submodules.scales = scales = Memory(shape=unsigned(ColumnScale.size), depth=SCALE_SLOTS,
                                              init=[], attrs={"ram_style": "distributed"})
        write = scales.write_port(granularity=8 * self.param_bytes)
        read = scales.read_port()
        m.d.comb += [
            write.addr.eq(self.param_slot),
            write.data.eq(self.param_data.replicate(len(write.en))),
            write.en.eq(self.param_en << self.param_word),
            read.addr.eq(self.slot),
        ]
        column = ColumnScale(read.data)
        acc = Signal(signed(ACC_BITS), reset_less=True)
        bias = Signal(signed(ACC_BITS), reset_less=True)
        scale = Signal(RowScale, reset_less=True)
        m.d.sync += [
            acc.eq(delay(m, self.acc, 1, name="acc")),
            bias.eq(Mux(self.column, column.bias, 0)),
            scale.eq(Mux(self.column, Cat(column.m, column.s), self.scale.as_value())),
        ]
        m.submodules.rescale = rescale = Rescale(width=ACC_BITS, bits=ACC_BITS)
        m.d.comb += [
            rescale.a.eq(acc + bias),  # the program keeps the sum within 27 bits
            rescale.m.eq(scale.m),
            rescale.s.eq(scale.s),
        ]
        return rescale.o


class Epilogue(wiring.Component):
    """``v = sat(round_shift((acc + bias) * m, s), 27)``, then by destination:
    ACT, SELECTOR ``sat(v, 8)``, or with ``gelu`` ``sat(round_shift(P(sat(v, 18)), 10), 8)``;
    KEY, VALUE ``sat'(v, 8)``, and VALUE with ``gelu`` as ACT but ``sat'``; SCORE ``sat(v, 16)``;
    RESIDUAL ``sat(old + sat(v, 18), 16)``;
    LOGIT ``sat(old + v, 27)``.

    ``(bias, m, s)`` are those of the column in ``slot``, or ``(0, const_scale)``, or
    ``(0, row_scale)``.

    No flow control: a row enters every cycle, each with its own destination. The polynomial
    ``P`` is evaluated outside, by lanes that are shared with the prologue: ``gelu_y`` is expected
    ``PolyLanes.LATENCY`` cycles after ``gelu_x``. What is to be added is asked for late,
    ``OLD_DELAY`` cycles after ``acc``, to keep the distance from reading to writing short. A slot
    is written ``load_rows`` bytes of all columns at a time, not while a row in it enters.

    Latency: ``LATENCY`` cycles, for all destinations. Resources: ``columns`` times
    :class:`EpilogueLane`.

    Parameters
    ----------
    config
        Configuration; ``columns`` and ``load_rows`` are used.

    Members
    -------
    acc : In(ArrayLayout(signed(27), columns))
        Finished accumulators of a row.
    scale_source, destination, gelu, slot, const_scale, row_scale : In
        What happens to this row; with ``acc``.
    old : In(ArrayLayout(signed(27), columns))
        RESIDUAL: what is there; LOGIT: what is there, or zero. ``OLD_DELAY`` cycles after ``acc``.
    gelu_x : Out(ArrayLayout(signed(18), columns))
        Inputs of ``P``.
    gelu_y : In(ArrayLayout(signed(32), columns))
        Values of ``P``.
    data : Out(ArrayLayout(signed(27), columns))
        What is to be written.
    param_en, param_slot, param_word, param_data : In
        Writes bytes ``param_word * load_rows`` and on of the ``ColumnScale`` of every column.
    """

    LATENCY = EpilogueLane.LATENCY
    OLD_DELAY = EpilogueLane.OLD_DELAY

    def __init__(self, config: Config) -> None:
        self.columns = config.columns
        self.param_bytes = config.load_rows

        def lanes(shape: Shape) -> data.ArrayLayout:
            return data.ArrayLayout(shape, self.columns)

        super().__init__({
            "acc": In(lanes(signed(ACC_BITS))),
            "scale_source": In(ScaleSource),
            "destination": In(Destination),
            "gelu": In(1),
            "slot": In(range(SCALE_SLOTS)),
            "const_scale": In(RowScale),
            "row_scale": In(RowScale),
            "old": In(lanes(signed(ACC_BITS))),
            "gelu_x": Out(lanes(signed(LANE_X_BITS))),
            "gelu_y": In(lanes(signed(LANE_Y_BITS))),
            "data": Out(lanes(signed(ACC_BITS))),
            "param_en": In(1),
            "param_slot": In(range(SCALE_SLOTS)),
            "param_word": In(range(SCALE_BYTES // self.param_bytes)),
            "param_data": In(lanes(unsigned(8 * self.param_bytes))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        column = Signal(reset_less=True)
        scale = Signal(RowScale, reset_less=True)
        m.d.sync += [
            column.eq(self.scale_source == ScaleSource.COLUMN),
            scale.eq(Mux(self.scale_source == ScaleSource.ROW,
                         self.row_scale.as_value(), self.const_scale.as_value())),
        ]
        for i in range(self.columns):
            m.submodules[f"lane_{i}"] = lane = EpilogueLane(
                param_bytes=self.param_bytes)
            m.d.comb += [
                lane.acc.eq(self.acc[i]),
                lane.column.eq(column),
                lane.scale.eq(scale),
                lane.destination.eq(self.destination),
                lane.gelu.eq(self.gelu),
                lane.slot.eq(self.slot),
                lane.old.eq(self.old[i]),
                lane.gelu_y.eq(self.gelu_y[i]),
                lane.param_en.eq(self.param_en),
                lane.param_slot.eq(self.param_slot),
                lane.param_word.eq(self.param_word),
                lane.param_data.eq(self.param_data[i]),
                self.gelu_x[i].eq(lane.gelu_x),
                self.data[i].eq(lane.data),
            ]
        return m
