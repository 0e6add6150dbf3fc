# SPDX-License-Identifier: BSD-2-Clause
"""Registered binary trees: the sum or the maximum of many numbers, one set a cycle."""

from abc import abstractmethod

from amaranth.hdl import Module, Mux, Shape, Signal, Value
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2, exact_log2

__all__ = ["AdderTree", "MaxTree", "tree_latency"]


def tree_latency(inputs: int) -> int:
    """Return the cycles that a tree with ``inputs`` inputs takes."""
    return (ceil_log2(inputs) + 1) // 2


class _Tree(Component):
    """A tree with a register after every second level, and after the last."""

    def __init__(self, *, inputs: int, shape: Shape, result: Shape) -> None:
        self.inputs = inputs
        self.latency = tree_latency(inputs)
        super().__init__({"i": In(data.ArrayLayout(shape, inputs)), "o": Out(result)})

    @abstractmethod
    def _combine(self, a: Value, b: Value) -> Value:
        """Return the node above ``a`` and ``b``."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        values = [self.i[k] for k in range(self.inputs)]
        levels = exact_log2(self.inputs)
        for level in range(1, levels + 1):
            registered = level % 2 == 0 or level == levels
            nodes = []
            for k in range(0, len(values), 2):
                value = self._combine(values[k], values[k + 1])
                node = Signal(value.shape(), name=f"level_{level}_{k // 2}", reset_less=True)
                m.d["sync" if registered else "comb"] += node.eq(value)
                nodes.append(node)
            values = nodes
        m.d.comb += self.o.eq(values[0])
        return m


class AdderTree(_Tree):
    """``o = sum(i)``, exact, one sum a cycle, no flow control.

    Latency: ``latency = tree_latency(inputs)``. Resources: ``inputs - 1`` adders.

    Parameters
    ----------
    inputs
        Numbers to be summed, a power of two; a single one passes unregistered.
    shape
        Shape of a number.

    Members
    -------
    i : In(ArrayLayout(shape, inputs))
        Numbers.
    o : Out
        Their sum, one bit wider than a number for each level.
    """

    def __init__(self, *, inputs: int, shape: Shape) -> None:
        width = shape.width + exact_log2(inputs)
        super().__init__(inputs=inputs, shape=shape, result=Shape(width, shape.signed))

    def _combine(self, a: Value, b: Value) -> Value:
        return a + b


class MaxTree(_Tree):
    """``o = max(i)``, one maximum a cycle, no flow control.

    Latency: ``latency = tree_latency(inputs)``. Resources: ``inputs - 1`` comparators.

    Parameters
    ----------
    inputs
        Numbers to be compared, a power of two; a single one passes unregistered.
    shape
        Shape of a number.

    Members
    -------
    i : In(ArrayLayout(shape, inputs))
        Numbers.
    o : Out(shape)
        The greatest of them.
    """

    def __init__(self, *, inputs: int, shape: Shape) -> None:
        super().__init__(inputs=inputs, shape=shape, result=shape)

    def _combine(self, a: Value, b: Value) -> Value:
        return Mux(a > b, a, b)
