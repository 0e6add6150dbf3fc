# SPDX-License-Identifier: BSD-2-Clause
"""What units of other approximations would take: tables for docs/approximations.md.

Beside a lane of :mod:`rtl.poly` stand the polynomials of I-BERT and of HeatViT (formulae in
:mod:`golden.nonlinear`) as units of their own, with the inputs and outputs of the lane.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib.wiring import Component, In, Out
from numpy.typing import NDArray

from golden import functions
from golden.fit import LANE_X_FRAC, SIGMOID_SCALE
from golden.fixed import Int, round_shift
from golden.nonlinear import ERF, EXP, FUNCTIONS, PLAN
from golden.pages import table
from platforms.ablation import cells
from platforms.synthesis import Cells
from platforms.tables import print_or_update
from rtl.arith import delay
from rtl.isa import EXP_FRAC, LANE_FRAC, LANE_ROWS, LANE_X_BITS, PolyRow
from rtl.poly import PolyLane

__all__ = ["PlanSigmoid", "PolynomialExp", "PolynomialGelu", "main", "report"]

Real = NDArray[np.float64]

_SECTION = "hardware"

#: Step of the int8 output of GELU that errors are measured with, and what it is of the sigmoid.
_STEP = 1 / 32
_SIGMOID_STEP = 1 / 128


class PolynomialGelu(Component):
    """GELU of I-BERT, and with ``delta`` 1/2 that of HeatViT.

    With ``e = max(-sqrt(2) b - |x|, 0)`` and ``c = -2 / a`` the function is
    ``-(a delta / 4) x (c / delta + sign(x) (c - e^2))``. The first factor is part of the scale.

    There is no flow control; an input enters in every cycle. ``scale`` must not change while inputs
    are on the way. Latency: ``LATENCY``. Resources: 3 DSPs.

    Parameters
    ----------
    delta
        Factor of the polynomial for erf, 1 or 1/2.

    Members
    -------
    x : In(signed(18))
        Argument, 12 fraction bits.
    scale : In(26)
        Scale of the output, see :meth:`scale_of`.
    y : Out(signed(27))
        Value in units of the int8 output, 10 fraction bits.
    """

    #: Distance, its limit, M, sum; M, P, g; M, P.
    LATENCY = 9
    SCALE_BITS = 26
    #: Fraction bits of e^2, what both products are shifted by, and bits of g.
    _SQUARE_FRAC = 2 * LANE_X_FRAC
    _SHIFT = 18
    _G_BITS = 18

    def __init__(self, delta: float) -> None:
        self.delta = delta
        a, b = ERF
        self._reach = round(-b * math.sqrt(2) * 2 ** LANE_X_FRAC)
        c = -2 / a
        #: As many fraction bits as the sum, which reaches c / delta + c, may have in 18 bits.
        self._frac = 18 - math.ceil(math.log2(c / delta + c))
        self._drop = self._SQUARE_FRAC - self._frac
        half = 1 << (self._drop - 1)
        self._above, self._below = (
            round((c / delta + sign * c) * 2 ** self._SQUARE_FRAC) + half for sign in (1, -1))
        super().__init__({"x": In(signed(LANE_X_BITS)), "scale": In(self.SCALE_BITS),
                          "y": Out(signed(self._G_BITS + self.SCALE_BITS + 1 - self._SHIFT))})

    def scale_of(self, step: float) -> int:
        """Return the scale for an int8 output of ``step``."""
        unit = -ERF[0] * self.delta / 4 / 2 ** (LANE_X_FRAC + self._frac - self._SHIFT)
        scale = round(unit / step * 2 ** (LANE_FRAC + self._SHIFT))
        if not 0 < scale < 1 << self.SCALE_BITS:
            raise ValueError(f"step of the output is {step}, its scale {scale} must be from 1 to"
                             f" {(1 << self.SCALE_BITS) - 1}")
        return scale

    def value(self, x: Int, scale: int) -> Int:
        """Return ``y`` of ``x``."""
        e = np.maximum(self._reach - np.abs(x), 0)
        p = np.where(x < 0, self._below + e * e, self._above - e * e) >> self._drop
        return round_shift(round_shift(x * p, self._SHIFT) * scale, self._SHIFT)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        below = self.x[-1]
        distance = Signal(signed(LANE_X_BITS + 1), reset_less=True)
        e = Signal(range(self._reach + 1), reset_less=True)
        square = Signal(2 * len(e), reset_less=True)
        p = Signal(18, reset_less=True)
        g = Signal(signed(self._G_BITS), reset_less=True)
        below_late = delay(m, below, 3, name="below")
        # -|x| takes a carry, which a bit below the sum brings.
        minus = Cat(~below, self.x.as_unsigned() ^ (~below).replicate(LANE_X_BITS)).as_signed()
        sum_ = Mux(below_late, self._below, self._above + 1) + (
            Cat(square, Const(0, 1)) ^ (~below_late).replicate(len(square) + 1)).as_signed()
        m.d.sync += [
            distance.eq((minus + Const(self._reach << 1 | 1)) >> 1),
            e.eq(Mux(distance < 0, 0, distance)),
            square.eq(e * e),
            p.eq(sum_ >> self._drop),
            g.eq(_rounded_product(m, delay(m, self.x, 4, name="x"), p, self._SHIFT, name="g")),
        ]
        scale = delay(m, self.scale, 1, name="scale")
        m.d.comb += self.y.eq(_rounded_product(m, g, scale, self._SHIFT, name="y"))
        return m


class PolynomialExp(Component):
    """The exponential of I-BERT and HeatViT: ``255 * 2**-f`` by one polynomial.

    There is no flow control; an input enters in every cycle. Latency: ``LATENCY``. Resources:
    2 DSPs.

    Members
    -------
    f : In(13)
        Argument, all fraction.
    y : Out(16)
        Value, 8 fraction bits.
    """

    #: Sum, M, P, square, M, P.
    LATENCY = 6
    _Y_FRAC = 8
    #: Fraction bits of the square and of the factor.
    _SQUARE_FRAC, _FACTOR_FRAC = 16, 11
    _START = round(EXP[1] / math.log(2) * 2 ** EXP_FRAC)
    _FACTOR = round(255 * EXP[0] * math.log(2) ** 2 * 2 ** _FACTOR_FRAC)
    _SHIFT = _SQUARE_FRAC + _FACTOR_FRAC - _Y_FRAC
    _OFFSET = round(255 * EXP[2] * 2 ** (_SQUARE_FRAC + _FACTOR_FRAC))

    def __init__(self) -> None:
        super().__init__({"f": In(EXP_FRAC), "y": Out(16)})

    def value(self, f: Int) -> Int:
        """Return ``y`` of ``f``."""
        square = round_shift((self._START - f) ** 2, 2 * EXP_FRAC - self._SQUARE_FRAC)
        return round_shift(square * self._FACTOR + self._OFFSET, self._SHIFT)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        v = Signal(range(self._START + 1), reset_less=True)
        square = Signal(self._SQUARE_FRAC + 2, reset_less=True)
        m.d.sync += [
            v.eq(self._START - self.f),
            square.eq(_rounded_product(m, v, v, 2 * EXP_FRAC - self._SQUARE_FRAC, name="square")),
        ]
        m.d.comb += self.y.eq(_rounded_product(
            m, square, Const(self._FACTOR), self._SHIFT, name="y", plus=self._OFFSET))
        return m


class PlanSigmoid(Component):
    """HeatViT's sigmoid in straight lines, of ``SIGMOID_SCALE * x``.

    There is no flow control; an input enters in every cycle. Latency: ``LATENCY``. Resources: no
    DSP.

    Members
    -------
    x : In(signed(18))
        Argument, 12 fraction bits.
    y : Out(18)
        Value in units of 1/128, 10 fraction bits.
    """

    #: Magnitude, line, sum.
    LATENCY = 3
    _FRAC = 17
    _X_FRAC = LANE_X_FRAC - 1
    #: Magnitude from which on it is 1.
    _FLAT = int(PLAN[-1][0] * 2 ** _X_FRAC)

    def __init__(self) -> None:
        super().__init__({"x": In(signed(LANE_X_BITS)), "y": Out(self._FRAC + 1)})

    def _codes(self) -> list[tuple[int, int, int]]:
        """Return start, shift to the left and value of each line, in integers."""
        return [(int(start * 2 ** self._X_FRAC),
                 self._FRAC - self._X_FRAC + round(math.log2(slope)),
                 int(value * 2 ** self._FRAC)) for start, slope, value in PLAN[:-1]]

    def value(self, x: Int) -> Int:
        """Return ``y`` of ``x``."""
        size = np.abs(x)
        y = np.zeros_like(size)
        for start, shift, value in self._codes():
            y = np.where(size >= start, (size << shift) + value, y)
        y = np.where(size >= self._FLAT, 1 << self._FRAC, y)
        return np.where(x < 0, (1 << self._FRAC) - y, y)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        one = 1 << self._FRAC
        size = Signal(LANE_X_BITS, reset_less=True)
        slope = Signal(self._FRAC, reset_less=True)
        start = Signal(self._FRAC + 1, reset_less=True)
        below = delay(m, self.x[-1], 1, name="below")
        subtract = delay(m, below, 1, name="subtract")
        m.d.sync += [size.eq(Mux(self.x[-1], -self.x, self.x)),
                     slope.eq(0), start.eq(Mux(below, 0, one))]
        for low, shift, value in self._codes():
            high = min([code[0] for code in self._codes() if code[0] > low], default=self._FLAT)
            with m.If((size >= low) & (size < high)):
                m.d.sync += [slope.eq(size << shift), start.eq(Mux(below, one - value, value))]
        m.d.sync += self.y.eq(Mux(subtract, start - slope, start + slope))
        return m


def _rounded_product(m: Module, a: Value, b: Value, shift: int, *, name: str,
                     plus: int = 0) -> Value:
    """Return ``round_shift(a * b + plus, shift)``, two cycles later: one DSP, M and P."""
    product = Signal((a * b).shape(), name=f"{name}_m", reset_less=True)
    total = product + Const(plus + (1 << (shift - 1)))
    rounded = Signal(total.shape(), name=f"{name}_p", reset_less=True)
    m.d.sync += [product.eq(a * b), rounded.eq(total)]
    return rounded >> shift


def _errors(exact: Real, y: Real) -> list[str]:
    error = np.abs(y - exact)
    return [f"{error.max():.2e}", f"{error.mean():.2e}"]


def _measured() -> tuple[dict[str, list[str]], ...]:
    """Return the largest and the mean error of GELU, exp and sigmoid, by unit."""
    exact = FUNCTIONS["exact"]
    x = np.arange(-4 << LANE_X_FRAC, 4 << LANE_X_FRAC)
    real = torch.from_numpy(x / 2 ** LANE_X_FRAC)
    values = {"lane": functions.gelu_raw(exact.gelu_table(_STEP), x)}
    for name, delta in (("I-BERT", 1.0), ("HeatViT", 0.5)):
        unit = PolynomialGelu(delta)
        values[name] = unit.value(x, unit.scale_of(_STEP))
    gelu = {name: _errors(exact.gelu(real).numpy(), y * (_STEP / 2 ** LANE_FRAC))
            for name, y in values.items()}

    f = np.arange(1 << EXP_FRAC)
    exp = {name: _errors(np.exp2(-f / 2 ** EXP_FRAC), y / (255 * 2 ** 8))
           for name, y in (("lane", functions.exp_int(exact.exp_table(), f)),
                           ("polynomial", PolynomialExp().value(f)))}

    values = {"lane": functions.gelu_raw(exact.sigmoid_table(_SIGMOID_STEP), x),
              "PLAN": PlanSigmoid().value(x)}
    sigmoid = {name: _errors(exact.sigmoid(SIGMOID_SCALE * real).numpy(),
                             y * (_SIGMOID_STEP / 2 ** LANE_FRAC)) for name, y in values.items()}
    return gelu, exp, sigmoid


def report() -> str:
    """Synthesise all units, measure their errors, and return the tables."""
    gelu, exp, sigmoid = _measured()
    lane = cells(PolyLane())
    own = _row(PolyLane.LATENCY, lane, LANE_ROWS * PolyRow.size)
    ibert, heatvit, power, plan = (
        (unit.LATENCY, cells(unit))
        for unit in (PolynomialGelu(1.0), PolynomialGelu(0.5), PolynomialExp(), PlanSigmoid()))
    rows = [
        ("GELU", "lane, this project", *own, *gelu["lane"]),
        ("GELU", "I-BERT", *_row(*ibert), *gelu["I-BERT"]),
        ("GELU", "HeatViT, delta 1/2", *_row(*heatvit), *gelu["HeatViT"]),
        ("exp", "the same lane", *own, *exp["lane"]),
        ("exp", "I-BERT and HeatViT", *_row(*power), *exp["polynomial"]),
        ("sigmoid", "the same lane", *own, *sigmoid["lane"]),
        ("sigmoid", "HeatViT (PLAN)", *_row(*plan), *sigmoid["PLAN"]),
    ]
    sums = [
        ("lane, this project: GELU, exp and sigmoid", lane),
        ("I-BERT: GELU and exp", ibert[1] + power[1]),
        ("HeatViT: GELU, exp and sigmoid", heatvit[1] + power[1] + plan[1]),
    ]
    head = ("function", "unit", "latency", "LUT", "of it memory", "FF", "DSP", "table bits",
            "max error", "mean error")
    return "\n\n".join([
        table(head, rows, left=2),
        table(("all units of a lane", "LUT", "of it memory", "FF", "DSP"),
              ([name, *_numbers(found)] for name, found in sums), left=1)])


def _row(latency: int, found: Cells, table_bits: int = 0) -> list[str]:
    return [str(latency), *_numbers(found), f"{table_bits:,}"]


def _numbers(found: Cells) -> list[str]:
    return [f"{n:,}" for n in (found.luts, found.lutram, found.ff, found.dsp)]


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m platforms.function_units``."""
    parser = argparse.ArgumentParser(prog="python -m platforms.function_units",
                                     description=__doc__.splitlines()[0])
    parser.add_argument("--update", type=Path, metavar="FILE",
                        help="put the tables into this file instead of printing them")
    page: Path | None = parser.parse_args(arguments).update
    return print_or_update(page, lambda: (_SECTION, report))


if __name__ == "__main__":
    sys.exit(main())
