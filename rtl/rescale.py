# SPDX-License-Identifier: BSD-2-Clause
"""The one requantiser: multiply by a scale, round, saturate."""

from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.arith import delay, round_shift, saturate
from rtl.isa import MANTISSA_BITS, SHIFT_BITS

__all__ = ["Rescale"]


class Rescale(wiring.Component):
    """``o = sat(round_shift(a * m, s), bits)``, one new triple per cycle, no flow control.

    The registers are where a DSP48E2 has them: operands (AD and B, so that the sum or difference
    that drives ``a`` can be its pre-adder), product (M), result (P). The product is shifted one
    place too few and limited before the short sum that rounds it, so that no carry chain is as
    long as the product.

    Latency: ``LATENCY`` cycles. Resources: one DSP and about 270 LUTs.

    Parameters
    ----------
    width
        Bits of ``a``, at most 27.
    bits
        Bits of ``o``.
    symmetric
        The most negative code of ``o`` is not used.

    Members
    -------
    a : In(signed(width))
        Operand.
    m, s : In
        Scale ``m * 2**-s``, ``s`` at least 1.
    o : Out(signed(bits))
        Result.
    """

    LATENCY = 7

    def __init__(self, *, width: int, bits: int, symmetric: bool = False) -> None:
        if width > 27:
            raise ValueError(f"an operand of {width} bits was asked for, a multiplier takes 27")
        self.width = width
        self.bits = bits
        self.symmetric = symmetric
        super().__init__({
            "a": In(signed(width)),
            "m": In(unsigned(MANTISSA_BITS)),
            "s": In(unsigned(SHIFT_BITS)),
            "o": Out(signed(bits)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = Signal(signed(self.width), reset_less=True)
        mantissa = Signal(MANTISSA_BITS, reset_less=True)
        shift = Signal(SHIFT_BITS, reset_less=True)
        m.d.sync += [a.eq(self.a), mantissa.eq(self.m), shift.eq(self.s - 1)]

        product = Signal(signed(self.width + MANTISSA_BITS), reset_less=True)
        result = Signal(product.shape(), reset_less=True)
        m.d.sync += [product.eq(a * mantissa), result.eq(product)]

        shifted = Signal(product.shape(), reset_less=True)
        m.d.sync += shifted.eq(result >> delay(m, shift, 2, name="shift"))

        # One bit more than the output, for the half that is rounded away.
        limited = Signal(signed(self.bits + 1), reset_less=True)
        rounded = Signal(signed(self.bits + 1), reset_less=True)
        o = Signal(signed(self.bits), reset_less=True)
        m.d.sync += [
            limited.eq(saturate(shifted, self.bits + 1)),
            rounded.eq(round_shift(limited, 1)),
            o.eq(saturate(rounded, self.bits, symmetric=self.symmetric)),
        ]
        m.d.comb += self.o.eq(o)
        return m
