# SPDX-License-Identifier: BSD-2-Clause
"""The one rounding rule and the one saturation rule of the datapath; delay lines, selection."""

from collections.abc import Sequence

from amaranth.hdl import Module, Mux, Signal, Value, ValueLike
from amaranth.utils import exact_log2

__all__ = ["delay", "round_shift", "saturate", "selected"]


def round_shift(value: Value, shift: int) -> Value:
    """Return ``(value + 2**(shift - 1)) >> shift``, ``shift`` at least one: rounds half up.

    Bind the result to a Signal before using it twice. A shift that is not a constant is best taken
    one place less, as the short result then needs ``round_shift(..., 1)`` only.
    """
    return (value + (1 << (shift - 1))) >> shift


def saturate(value: Value, width: int, *, symmetric: bool = False) -> Value:
    """Return ``value``, a signed Value bound to a Signal, limited to ``signed(width)``.

    With ``symmetric`` the most negative code is not used.
    """
    if not value.shape().signed:
        raise TypeError("saturate takes a signed value, an unsigned one was given")
    high = (1 << (width - 1)) - 1
    low = -high if symmetric else -high - 1
    return Mux(value > high, high, Mux(value < low, low, value))[:width].as_signed()


def delay(m: Module, value: ValueLike, cycles: int, *, name: str, reset: bool = False) -> Value:
    """Return ``value`` as it was ``cycles`` cycles ago.

    Data needs no reset (a resettable delay line cannot become an SRL); valid bits do.
    """
    value = Value.cast(value)
    for i in range(cycles):
        stage = Signal(value.shape(), name=f"{name}_d{i + 1}", reset_less=not reset)
        m.d.sync += stage.eq(value)
        value = stage
    return value


def selected(values: Sequence[Value], index: Value) -> Value:
    """Return ``values[index]``, of a power of two of values, by a tree of multiplexers."""
    values = list(values)
    for bit in range(exact_log2(len(values))):
        values = [Mux(index[bit], values[k + 1], values[k]) for k in range(0, len(values), 2)]
    return values[0]
