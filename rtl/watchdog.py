# SPDX-License-Identifier: BSD-2-Clause
"""The watchdog: a run, or its end, in which nothing moves any more is told so."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Watchdog"]


class Watchdog(wiring.Component):
    """``hung`` is high from ``timeout + LATENCY`` cycles after the last ``moves`` to the next one.

    Resources: a counter of 33 bits.

    Members
    -------
    timeout : In, cycles
    moves : In, something has moved, or nothing is waited for
    hung : Out
    """

    LATENCY = 2

    timeout: In(32)
    moves: In(1)
    hung: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The bit behind the highest one is that of minus one.
        left = Signal(len(self.timeout) + 1, init=(1 << len(self.timeout)) - 1)
        m.d.comb += self.hung.eq(left[-1])
        with m.If(self.moves):
            m.d.sync += left.eq(self.timeout)
        with m.Elif(~self.hung):
            m.d.sync += left.eq(left - 1)
        return m
