# SPDX-License-Identifier: BSD-2-Clause
"""The watchdog: a run in which nothing moves any more ends with an error code."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Watchdog"]


class Watchdog(wiring.Component):
    """``hung`` rises after ``CYCLES`` cycles of a run without progress, and stays until reset.

    Members
    -------
    start : In, pulse: a run begins
    moves : In, a row was issued or a beat has moved
    ends : In, the run has ended by itself
    hung : Out
    """

    #: 3.5 ms at 300 MHz: longer than any memory takes to answer, shorter than anyone waits.
    CYCLES = 1 << 20

    start: In(1)
    moves: In(1)
    ends: In(1)
    hung: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        running = Signal()
        still = Signal(range(self.CYCLES))
        with m.If(self.start):
            m.d.sync += running.eq(1)
        moves = Signal()
        m.d.sync += moves.eq(self.moves | self.ends)
        with m.If(moves | ~running):
            m.d.sync += still.eq(0)
        with m.Elif(still == self.CYCLES - 1):
            m.d.sync += self.hung.eq(1)
        with m.Else():
            m.d.sync += still.eq(still + 1)
        return m
