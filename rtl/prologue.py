# SPDX-License-Identifier: BSD-2-Clause
"""The prologue: what happens to a row on its way into the array."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.arith import delay, saturate
from rtl.config import Config
from rtl.isa import (
    ACT_BITS,
    EXP_BITS,
    EXP_FRAC,
    MANTISSA_BITS,
    MEAN_BITS,
    MEAN_FRAC,
    POWER_BITS,
    SHIFT_BITS,
    WIDE_BITS,
)
from rtl.isa import Prologue as Mode
from rtl.poly import LANE_Y_BITS, PolyLanes
from rtl.rescale import Rescale

__all__ = ["Prologue", "PrologueLane"]

#: Bits of ``p`` of the softmax: an exponent up to 16 with its fraction.
P_BITS = EXP_FRAC + POWER_BITS + 1
#: Fraction bits of an exponential as it is evaluated, and its greatest value: 255 is not exceeded.
EXP_OUT_FRAC = 8
EXP_LIMIT = (255 << EXP_OUT_FRAC) + (1 << EXP_OUT_FRAC - 1) - 1


class PrologueLane(wiring.Component):
    """One lane of :class:`Prologue`, whose documentation says what it computes.

    The difference and its scaling serve NORM, SCALE and EXP. A lane that is disabled, or not in
    mode EXP, evaluates a power of two so small that it rounds to zero, and in mode EXP the other
    result is zero, so that the two are joined by an OR and neither mode nor enable travels past the
    shared evaluator.

    Latency: ``LATENCY`` cycles. Resources: one DSP, about 300 LUTs and 30 shift registers.

    Members
    -------
    mode, unsigned_in, data8, data16, enable, ref, m, s : In
        As of :class:`Prologue`, for one lane.
    exp_x, exp_y, act, exponential, power : Out, In, Out, Out, Out
        As of :class:`Prologue`, for one lane.
    """

    #: Cycles from the inputs to ``exp_x``.
    EXP_DELAY = 1 + Rescale.LATENCY + 1
    EXPONENTIAL_LATENCY = EXP_DELAY + PolyLanes.LATENCY + 1
    LATENCY = EXPONENTIAL_LATENCY + 2

    mode: In(Mode)
    unsigned_in: In(1)
    data8: In(unsigned(8))
    data16: In(signed(WIDE_BITS))
    enable: In(1)
    ref: In(signed(MEAN_BITS))
    m: In(unsigned(MANTISSA_BITS))
    s: In(unsigned(SHIFT_BITS))
    exp_x: Out(unsigned(EXP_FRAC))
    exp_y: In(signed(LANE_Y_BITS))
    act: Out(signed(ACT_BITS))
    exponential: Out(EXP_BITS)
    power: Out(POWER_BITS)

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # Difference and product
        x = Signal(signed(WIDE_BITS), reset_less=True)
        ref = Signal(signed(MEAN_BITS), reset_less=True)
        m.submodules.scale = scale = Rescale(width=MEAN_BITS + 1, bits=P_BITS, symmetric=True)
        m.d.sync += [x.eq(self.data16), ref.eq(self.ref)]
        m.d.comb += [
            scale.a.eq((x << MEAN_FRAC) - ref),
            scale.m.eq(delay(m, self.m, 1, name="m")),
            scale.s.eq(delay(m, self.s, 1, name="s")),
        ]
        byte = Signal(signed(ACT_BITS))
        m.d.comb += byte.eq(Mux(self.unsigned_in, self.data8, self.data8.as_signed()))

        # Mode: the number in the lane, or how far to shift the exponential
        cycles = self.EXP_DELAY - 1
        mode = Signal(Mode)
        late_byte = Signal(signed(ACT_BITS))
        exponent = Signal(P_BITS - 1)
        other = Signal(signed(ACT_BITS), reset_less=True)
        power = Signal(POWER_BITS, reset_less=True)
        fraction = Signal(EXP_FRAC, reset_less=True)
        enable = delay(m, self.enable, cycles, name="enable")
        m.d.comb += [
            mode.eq(delay(m, self.mode, cycles, name="mode")),
            late_byte.eq(delay(m, byte, cycles, name="byte")),
            exponent.eq(-scale.o),
            self.exp_x.eq(fraction),
        ]
        m.d.sync += [
            other.eq(0),
            power.eq(~0),
            fraction.eq(exponent[:EXP_FRAC]),
        ]
        with m.If(enable):
            with m.Switch(mode):
                with m.Case(Mode.BYPASS):
                    m.d.sync += other.eq(late_byte)
                with m.Case(Mode.NORM, Mode.SCALE):
                    m.d.sync += other.eq(saturate(scale.o, 8))
                with m.Case(Mode.EXP):
                    m.d.sync += power.eq(exponent[EXP_FRAC:])

        # Exponential: limited, shifted by one place too few, rounded
        half = EXP_OUT_FRAC - 1
        limited = Signal(EXP_BITS - half, reset_less=True)
        rounded = Signal(ACT_BITS - 1, reset_less=True)
        late_power = delay(m, power, PolyLanes.LATENCY + 1, name="power")
        act = Signal(signed(ACT_BITS), reset_less=True)
        m.d.sync += [
            limited.eq(Mux(self.exp_y < 0, 0,
                           Mux(self.exp_y > EXP_LIMIT, EXP_LIMIT, self.exp_y) >> half)),
            rounded.eq(((limited >> late_power) + 1) >> 1),
            act.eq(rounded | delay(m, other, PolyLanes.LATENCY + 2, name="other")),
        ]
        m.d.comb += [
            # A table within the limits needs none in the bits that are rounded away.
            self.exponential.eq(Cat(delay(m, self.exp_y[:half], 1, name="low"), limited)),
            self.power.eq(late_power),
            self.act.eq(act),
        ]
        return m


class Prologue(wiring.Component):
    """BYPASS: ``act = data8``.
    NORM, SCALE: ``act = sat(round_shift(((data16 << 8) - ref) * m, s), 8)``.
    EXP: ``p = round_shift(((data16 << 8) - ref) * m, s)``, ``u = min(-p, 2**17 - 1)``,
    ``act = round_shift(exp(u mod 2**13), 8 + (u >> 13))``. A lane that is not enabled gives 0.

    No flow control: a row enters every cycle, each in a mode of its own. The exponential is
    evaluated outside, by lanes that are shared with the epilogue: ``exp_y`` is expected
    ``PolyLanes.LATENCY`` cycles after ``exp_x``. In mode EXP ``ref`` is not below any enabled
    ``data16 << 8``, unless ``m`` is 0.

    Latency: ``LATENCY`` cycles, in all modes; ``EXPONENTIAL_LATENCY`` of ``exponential`` and
    ``power``, which are there with ``config.pruning``.
    Resources: ``rows`` times :class:`PrologueLane`.

    Parameters
    ----------
    config
        Configuration; ``rows`` and ``pruning`` are used.

    Members
    -------
    mode : In(isa.Prologue)
        What happens to this row.
    unsigned_in : In(1)
        BYPASS: bytes are 0..255, not int8.
    data8 : In(ArrayLayout(unsigned(8), rows))
        Bytes, for BYPASS.
    data16 : In(ArrayLayout(signed(16), rows))
        Residual (NORM, SCALE) or scores (EXP).
    enable : In(rows)
        Lanes that contribute.
    ref : In(signed(24))
        Mean (NORM), zero (SCALE) or row maximum (EXP), 8 fraction bits.
    m, s : In
        Scale of the row (NORM), of the instruction (SCALE) or of the exponent (EXP).
    exp_x : Out(ArrayLayout(unsigned(13), rows))
        Fractions whose power of two is asked for.
    exp_y : In(ArrayLayout(signed(32), rows))
        ``255 * 2**-f`` with 8 fraction bits.
    act : Out(ArrayLayout(signed(9), rows))
        Input of the array.
    exponential : Out(ArrayLayout(16, rows))
        ``exp(u mod 2**13)``, with 8 fraction bits; of mode EXP and lanes that are enabled, and of
        a table that nowhere leaves 0 to 65407.
    power : Out(ArrayLayout(4, rows))
        ``u >> 13``; 15, the most, in other modes and of lanes that are not enabled.
    """

    EXPONENTIAL_LATENCY = PrologueLane.EXPONENTIAL_LATENCY
    LATENCY = PrologueLane.LATENCY

    def __init__(self, config: Config) -> None:
        self.rows = config.rows
        self.pruning = config.pruning
        ports = {
            "mode": In(Mode),
            "unsigned_in": In(1),
            "data8": In(data.ArrayLayout(unsigned(8), self.rows)),
            "data16": In(data.ArrayLayout(signed(WIDE_BITS), self.rows)),
            "enable": In(self.rows),
            "ref": In(signed(MEAN_BITS)),
            "m": In(unsigned(MANTISSA_BITS)),
            "s": In(unsigned(SHIFT_BITS)),
            "exp_x": Out(data.ArrayLayout(unsigned(EXP_FRAC), self.rows)),
            "exp_y": In(data.ArrayLayout(signed(LANE_Y_BITS), self.rows)),
            "act": Out(data.ArrayLayout(signed(ACT_BITS), self.rows)),
        }
        if self.pruning:
            ports |= {
                "exponential": Out(data.ArrayLayout(unsigned(EXP_BITS), self.rows)),
                "power": Out(data.ArrayLayout(unsigned(POWER_BITS), self.rows)),
            }
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for i in range(self.rows):
            m.submodules[f"lane_{i}"] = lane = PrologueLane()
            m.d.comb += [
                lane.mode.eq(self.mode),
                lane.unsigned_in.eq(self.unsigned_in),
                lane.data8.eq(self.data8[i]),
                lane.data16.eq(self.data16[i]),
                lane.enable.eq(self.enable[i]),
                lane.ref.eq(self.ref),
                lane.m.eq(self.m),
                lane.s.eq(self.s),
                lane.exp_y.eq(self.exp_y[i]),
                self.exp_x[i].eq(lane.exp_x),
                self.act[i].eq(lane.act),
            ]
            if self.pruning:
                m.d.comb += [
                    self.exponential[i].eq(lane.exponential),
                    self.power[i].eq(lane.power),
                ]
        return m
