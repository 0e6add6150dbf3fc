# SPDX-License-Identifier: BSD-2-Clause
"""A multiplier of the array as one DSP48E2, the DSP slice of AMD UltraScale and UltraScale+."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, signed
from amaranth.lib.wiring import Component, In, Out

__all__ = ["A_BITS", "B_BITS", "P_BITS", "CascadeCell"]

#: Bits of the multiplier's operands; of the 30 bits of port A it takes the lower 27.
A_BITS, B_BITS = 27, 18

#: Bits of the sum.
P_BITS = 48

#: Parameters that all cells have in common: A1 and A2 are two registers in a row, B, M and P have
#: one each. What selects operations is constant and has none, so that it holds from the start.
_PARAMETERS: dict[str, object] = {
    "AREG": 2, "BREG": 1, "MREG": 1, "PREG": 1, "ACASCREG": 2, "BCASCREG": 1,
    "OPMODEREG": 0, "ALUMODEREG": 0, "INMODEREG": 0, "CARRYINREG": 0, "CARRYINSELREG": 0,
    # Ports that nothing selects have registers that never take anything.
    "CREG": 1, "DREG": 1, "ADREG": 1,
    "A_INPUT": "DIRECT", "B_INPUT": "DIRECT", "AMULTSEL": "A", "BMULTSEL": "B",
    "USE_MULT": "MULTIPLY", "USE_SIMD": "ONE48", "USE_PATTERN_DETECT": "NO_PATDET",
}

#: Inputs that are constant in all cells.
_INPUTS: dict[str, Const] = {
    # Bit 0: A2 multiplies, not A1. Bits 1 to 3: A2 is not gated, D not added. Bit 4: B2, not B1.
    "INMODE": Const(0b00000, 5),
    "ALUMODE": Const(0b0000, 4),     # Z + (W + X + Y + carry)
    "CARRYINSEL": Const(0b000, 3),   # the carry is CARRYIN
    "CARRYIN": Const(0, 1), "CARRYCASCIN": Const(0, 1), "MULTSIGNIN": Const(0, 1),
    "ACIN": Const(0, 30), "BCIN": Const(0, 18),
    "CEB1": Const(0, 1), "CEB2": Const(1, 1), "CEM": Const(1, 1), "CEP": Const(1, 1),
    # Unused ports are high and their registers closed, as that leaks least.
    "C": Const(-1, 48), "CEC": Const(0, 1), "D": Const(-1, 27), "CED": Const(0, 1),
    "CEAD": Const(0, 1),
    "CECTRL": Const(0, 1), "CEALUMODE": Const(0, 1), "CEINMODE": Const(0, 1),
    "CECARRYIN": Const(0, 1),
    **{f"RST{part}": Const(0, 1) for part in ("A", "B", "C", "D", "M", "P", "CTRL", "ALUMODE",
                                              "INMODE", "ALLCARRYIN")},
}

#: OPMODE: the multiplexers W, Z, Y and X, of 2, 3, 2 and 2 bits. Y and X together are M.
_W_ZERO, _W_RND = 0b00, 0b10
_Z_ZERO, _Z_PCIN = 0b000, 0b001
_Y_PRODUCT, _X_PRODUCT = 0b01, 0b01


class CascadeCell(Component):
    """``p = a * b + pcin``, or in the first cell of a cascade ``p = a * b + rnd``, modulo 2**48.

    ``a`` is loaded into A1, the shadow, and goes from there to A2, the active operand, with
    ``swap``; both may happen at once. ``b`` passes register B. Nothing is reset; all registers
    start at 0. The constant comes through RND: it takes neither port C nor a LUT.

    Elaborated for a platform, as :func:`rtl.emit.emit` does, it is an instance of DSP48E2;
    without one, as in Amaranth's simulator, a model of its own. ``sim/dsp48e2.v`` is the model for
    Verilog.

    No flow control. Latency from ``b``: ``LATENCY``; from ``pcin``: 1. Resources: one DSP.

    Parameters
    ----------
    rnd
        Constant that the first cell of a cascade adds; None in the others.

    Members
    -------
    a : In(signed(27))
        Operand for the shadow register.
    load, swap : In(1)
        Clock enables of the shadow and of the active operand.
    b : In(signed(18))
        Operand of every cycle.
    pcin : In(48), pcout : Out(48)
        Sums of the cell before and of this one, for PCOUT and PCIN of other cells only.
    p : Out(48)
        The same sum, for everything else.
    """

    #: B, M and P.
    LATENCY = 3

    def __init__(self, *, rnd: int | None = None) -> None:
        self._rnd = rnd
        super().__init__({
            "a": In(signed(A_BITS)), "load": In(1), "swap": In(1), "b": In(signed(B_BITS)),
            "pcin": In(P_BITS), "pcout": Out(P_BITS), "p": Out(P_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if platform is None:
            self._model(m)
        else:
            m.submodules.dsp = self._instance()
        return m

    def _instance(self) -> Instance:
        first = self._rnd is not None
        opmode = Cat(Const(_X_PRODUCT, 2), Const(_Y_PRODUCT, 2),
                     Const(_Z_ZERO if first else _Z_PCIN, 3),
                     Const(_W_RND if first else _W_ZERO, 2))
        return Instance(
            "DSP48E2",
            **{f"p_{name}": value for name, value in _PARAMETERS.items()},
            p_RND=Const(self._rnd or 0, P_BITS),
            **{f"i_{name}": value for name, value in _INPUTS.items()},
            i_CLK=ClockSignal(), i_OPMODE=opmode,
            i_A=Cat(self.a, self.a[-1].replicate(3)), i_CEA1=self.load, i_CEA2=self.swap,
            i_B=self.b, i_PCIN=self.pcin, o_PCOUT=self.pcout, o_P=self.p)

    def _model(self, m: Module) -> None:
        a1 = Signal(signed(A_BITS), reset_less=True)
        a2 = Signal(signed(A_BITS), reset_less=True)
        b2 = Signal(signed(B_BITS), reset_less=True)
        product = Signal(signed(A_BITS + B_BITS), reset_less=True)
        total = Signal(P_BITS, reset_less=True)
        with m.If(self.load):
            m.d.sync += a1.eq(self.a)
        with m.If(self.swap):
            m.d.sync += a2.eq(a1)
        m.d.sync += [
            b2.eq(self.b),
            product.eq(a2 * b2),
            total.eq(product + (self.pcin if self._rnd is None else self._rnd)),
        ]
        m.d.comb += [self.p.eq(total), self.pcout.eq(total)]
