# SPDX-License-Identifier: BSD-2-Clause
"""Scale of one row: the reciprocal of its sum, or mean and reciprocal deviation of LayerNorm."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib.wiring import Component, In, Out

from rtl.arith import delay, round_shift
from rtl.isa import (
    MANTISSA_BITS,
    MEAN_BITS,
    NORM_SUM_BITS,
    NORM_SUMSQ_BITS,
    RECIPROCAL_ROWS,
    RSQRT_ROWS,
    SCALAR_FRAC,
    SCALAR_T,
    SHIFT_BITS,
    SUM_BITS,
    VAR_BITS,
    PolyRow,
    RowScale,
)
from rtl.poly import PolyScalar
from rtl.rescale import Rescale

__all__ = ["NormScale", "Normalise", "Reciprocal"]

#: Bits of the fraction of a normalised mantissa.
_FRACTION_BITS = 16
#: Long factors are cut here: the sum of two DSPs in cascade is shifted by this.
_SPLIT = 17
#: Cycles of ``_mantissa``: r, M, P.
_MANTISSA_CYCLES = 3
#: Cycles of it from r on.
_R_CYCLES = 2


def _mantissa(m: Module, y: Value, scale_m: Value) -> tuple[Value, Value]:
    """Return ``r``, which is ``y`` rounded and limited, and the mantissa of ``r * scale_m``.

    The product of two 17-bit numbers, rounded, cannot reach 2**17: the result needs no limit.
    ``r`` comes ``_R_CYCLES`` cycles earlier.
    """
    rounded = Signal(signed(len(y) - SCALAR_FRAC + 1))
    r = Signal(MANTISSA_BITS, reset_less=True)
    factor = delay(m, scale_m, 1, name="factor")
    product = Signal(2 * MANTISSA_BITS, name="product", reset_less=True)
    total = Signal(2 * MANTISSA_BITS, name="total", reset_less=True)
    m.d.comb += rounded.eq(round_shift(y, SCALAR_FRAC))
    m.d.sync += [
        r.eq(Mux(rounded[MANTISSA_BITS:].any(), (1 << MANTISSA_BITS) - 1, rounded)),
        product.eq(r * factor),
        total.eq(product + (1 << (MANTISSA_BITS - 1))),
    ]
    return r, total[MANTISSA_BITS:]


class Normalise(Component):
    """``o = i << n``, so that a one comes to the top; zero stays zero.

    Step by step: when the top ``k`` bits are zero, shift by ``k``. With steps 16, 8, 4, 2, 1
    every n up to 31 is reached; without the last step, the even ones.

    There is no flow control. Latency: one cycle a step. Resources: about ``width`` LUTs a step.

    Parameters
    ----------
    width
        Bits of the input.
    steps
        Powers of two, falling.

    Members
    -------
    i : In(width)
        Number, not zero.
    o : Out(width)
        The number, shifted.
    n : Out
        By how much.
    """

    def __init__(self, *, width: int, steps: tuple[int, ...]) -> None:
        self.steps = steps
        self.latency = len(steps)
        super().__init__({"i": In(width), "o": Out(width), "n": Out(range(2 * steps[0]))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value, bits = self.i, Const(0, 0)
        for k in self.steps:
            zero = Signal(name=f"zero_{k}")
            shifted = Signal.like(self.o, name=f"shifted_{k}", reset_less=True)
            m.d.comb += zero.eq(~value[-k:].any())
            m.d.sync += shifted.eq(Mux(zero, value << k, value))
            bits = Cat(delay(m, Cat(zero, bits), 1, name=f"bits_{k}"))
            value = shifted
        lowest = self.steps[-1].bit_length() - 1
        m.d.comb += [self.o.eq(value), self.n.eq(bits << lowest)]
        return m


class Reciprocal(Component):
    """Scale of a row of exponentials: ``m * 2**-s = scale_m * 2**-scale_s * 2**17 / sum``.

    ``n`` brings the sum to ``2**17 <= sum << n < 2**18``; its mantissa goes through the table;
    ``m = round_shift(r * scale_m, 17)``, ``s = scale_s - n``.

    There is no flow control; a row enters in every cycle. All inputs come from registers.
    Latency: normalise (5), polynomial, r, M, P. Resources: 3 DSPs, 1 kbit of distributed memory.

    Members
    -------
    sum : In(18)
        Sum of the row, not zero.
    scale_m, scale_s : In
        Scale of the instruction.
    o : Out(RowScale)
        Scale of the row.
    mantissa, shift : Out
        ``r`` of 17 bits, before ``scale_m``, and ``n``: ``1 / sum = r * 2**(n - 34)``; with ``o``.
    write_en, write_row, write_data : In
        Writes one row of the table.
    """

    _STEPS = (16, 8, 4, 2, 1)
    LATENCY = len(_STEPS) + PolyScalar.LATENCY + _MANTISSA_CYCLES

    sum: In(SUM_BITS)
    scale_m: In(MANTISSA_BITS)
    scale_s: In(SHIFT_BITS)
    o: Out(RowScale)
    mantissa: Out(MANTISSA_BITS)
    shift: Out(range(SUM_BITS))
    write_en: In(1)
    write_row: In(range(RECIPROCAL_ROWS))
    write_data: In(PolyRow)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.normalise = normalise = Normalise(width=SUM_BITS, steps=self._STEPS)
        m.submodules.poly = poly = PolyScalar(rows=RECIPROCAL_ROWS)
        scale_m = delay(m, self.scale_m, self.LATENCY - _MANTISSA_CYCLES, name="scale_m")
        scale_s = delay(m, self.scale_s, normalise.latency, name="scale_s")
        s = Signal(SHIFT_BITS, reset_less=True)
        m.d.sync += s.eq(scale_s - normalise.n)
        fraction = normalise.o[SUM_BITS - 1 - _FRACTION_BITS:-1]
        r, mantissa = _mantissa(m, poly.y, scale_m)
        n_cycles = self.LATENCY - normalise.latency
        m.d.comb += [
            normalise.i.eq(self.sum),
            poly.row.eq(fraction[SCALAR_T:]),
            poly.t.eq(fraction[:SCALAR_T]),
            poly.write_en.eq(self.write_en),
            poly.write_row.eq(self.write_row),
            poly.write_data.eq(self.write_data),
            self.o.m.eq(mantissa),
            self.o.s.eq(delay(m, s, n_cycles - 1, name="s")),
            self.mantissa.eq(delay(m, r, _R_CYCLES, name="mantissa")),
            self.shift.eq(delay(m, normalise.n, n_cycles, name="shift")),
        ]
        return m


class NormScale(Component):
    """LayerNorm of a row from its sum S and sum of squares Q over D channels.

    ``mean = sat(round_shift(S * mean_m, mean_s), 24)``; ``V = D * Q - S * S + epsilon``; the even
    ``n`` brings V to ``2**52 <= V << n < 2**54``; its mantissa goes through the table of the
    reciprocal square root; ``m = round_shift(r * scale_m, 17)``, ``s = scale_s - n / 2``.

    There is no flow control; a row enters in every cycle. V must be positive.
    Latency: products (4), V, normalise (5), row and t, polynomial, r, M, P.
    Resources: 8 DSPs, 2 kbit of distributed memory.

    Members
    -------
    sum : In(signed(26))
        S, sum of the residual over the channels.
    sumsq : In(40)
        Q, sum of its squares.
    channels : In(16)
        D.
    mean_m, mean_s : In
        ``2**8 / D`` as a scale.
    scale_m, scale_s : In
        Scale of the instruction.
    epsilon : In(32)
        Added to the scaled variance.
    mean : Out(signed(24))
        Mean, 8 fraction bits.
    o : Out(RowScale)
        Scale of the row.
    write_en, write_row, write_data : In
        Writes one row of the table.
    """

    _STEPS = (32, 16, 8, 4, 2)
    _PRODUCT_CYCLES = 4
    #: Cycles until n is known.
    _N_CYCLES = _PRODUCT_CYCLES + 1 + len(_STEPS)
    LATENCY = _N_CYCLES + 1 + PolyScalar.LATENCY + _MANTISSA_CYCLES

    sum: In(signed(NORM_SUM_BITS))
    sumsq: In(NORM_SUMSQ_BITS)
    channels: In(16)
    mean_m: In(MANTISSA_BITS)
    mean_s: In(SHIFT_BITS)
    scale_m: In(MANTISSA_BITS)
    scale_s: In(SHIFT_BITS)
    epsilon: In(32)
    mean: Out(signed(MEAN_BITS))
    o: Out(RowScale)
    write_en: In(1)
    write_row: In(range(RSQRT_ROWS))
    write_data: In(PolyRow)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.normalise = normalise = Normalise(width=VAR_BITS, steps=self._STEPS)
        m.submodules.poly = poly = PolyScalar(rows=RSQRT_ROWS)
        m.submodules.mean = mean = Rescale(width=NORM_SUM_BITS, bits=MEAN_BITS)
        variance = Signal(VAR_BITS, reset_less=True)
        m.d.sync += variance.eq(
            _product(m, self.sumsq, self.channels, self.epsilon, name="squares")
            - _product(m, self.sum, self.sum, Const(0), name="square"))

        a = normalise.o
        row = Signal.like(poly.row, reset_less=True)
        t = Signal.like(poly.t, reset_less=True)
        fraction = Signal(_FRACTION_BITS)
        m.d.comb += fraction.eq(Mux(a[-1], a[-_FRACTION_BITS - 1:-1], a[-_FRACTION_BITS - 2:-2]))
        m.d.sync += [row.eq(Cat(fraction[SCALAR_T:], a[-1])), t.eq(fraction[:SCALAR_T])]

        scale_m = delay(m, self.scale_m, self.LATENCY - _MANTISSA_CYCLES, name="scale_m")
        scale_s = delay(m, self.scale_s, self._N_CYCLES, name="scale_s")
        s = Signal(SHIFT_BITS, reset_less=True)
        m.d.sync += s.eq(scale_s - (normalise.n >> 1))
        _, mantissa = _mantissa(m, poly.y, scale_m)
        m.d.comb += [
            normalise.i.eq(variance),
            poly.row.eq(row),
            poly.t.eq(t),
            poly.write_en.eq(self.write_en),
            poly.write_row.eq(self.write_row),
            poly.write_data.eq(self.write_data),
            mean.a.eq(self.sum),
            mean.m.eq(self.mean_m),
            mean.s.eq(self.mean_s),
            self.mean.eq(delay(m, mean.o, self.LATENCY - Rescale.LATENCY, name="mean")),
            self.o.m.eq(mantissa),
            self.o.s.eq(delay(m, s, self.LATENCY - self._N_CYCLES - 1, name="s")),
        ]
        return m


def _product(m: Module, a: Value, b: Value, c: Value, *, name: str) -> Value:
    """Return ``a * b + c`` after 4 cycles, of factors too long for one DSP.

    The longer factor is cut at bit 17: the product of its upper part is added to that of the
    lower part shifted by 17, which is what the cascade of two DSPs does.
    """
    low, high = a[:_SPLIT], a[_SPLIT:]
    if a.shape().signed:
        high = high.as_signed()
    low, high = delay(m, low, 1, name=f"{name}_low"), delay(m, high, 2, name=f"{name}_high")
    b_low = delay(m, b, 1, name=f"{name}_b_low")
    b_high = delay(m, b_low, 1, name=f"{name}_b_high")
    c = delay(m, c, 2, name=f"{name}_c")
    m_low = Signal((low * b_low).shape(), name=f"{name}_m_low", reset_less=True)
    p_low = Signal((m_low + c).shape(), name=f"{name}_p_low", reset_less=True)
    m_high = Signal((high * b_high).shape(), name=f"{name}_m_high", reset_less=True)
    p_high = Signal((m_high + (p_low >> _SPLIT)).shape(), name=f"{name}_p_high", reset_less=True)
    m.d.sync += [
        m_low.eq(low * b_low),
        p_low.eq(m_low + c),
        m_high.eq(high * b_high),
        p_high.eq(m_high + (p_low >> _SPLIT)),
    ]
    product = Cat(delay(m, p_low[:_SPLIT], 1, name=f"{name}_p_tail"), p_high)
    return product.as_signed() if p_high.shape().signed else product
