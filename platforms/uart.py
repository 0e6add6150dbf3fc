# SPDX-License-Identifier: BSD-2-Clause
"""A serial line: receiver and transmitter of bytes with 8 data bits, no parity, one stop bit."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["UartReceiver", "UartTransmitter", "divisor"]

#: Both ends sample ten bits in the middle: 5 % of rate between them are half a bit. Less here.
_TOLERANCE = 0.02


def divisor(clock_hz: int, baud: int) -> int:
    """Return the cycles of a bit; ValueError if no whole number is within 2 % of the rate."""
    if baud < 1:
        raise ValueError(f"the rate is {baud} baud, must be at least 1")
    cycles = round(clock_hz / baud)
    if cycles < 4 or abs(clock_hz / cycles / baud - 1) > _TOLERANCE:
        raise ValueError(f"{clock_hz} Hz makes no {baud} baud: a bit takes {clock_hz / baud:.2f}"
                         " cycles, must be within 2 % of a whole number from 4 on")
    return cycles


class UartReceiver(wiring.Component):
    """Bytes from a line: sampled in the middle of every bit, the lowest bit first.

    Contract: a byte is there for one cycle and must be taken. One without a stop bit is dropped.

    Latency: a byte comes half a bit after the end of its last data bit.

    Parameters
    ----------
    cycles
        Of a bit.

    Members
    -------
    rx : In, the line, of no clock of ours
    o : Out(stream of bytes), always taken
    """

    def __init__(self, cycles: int) -> None:
        self.cycles = cycles
        super().__init__({"rx": In(1, init=1),
                          "o": Out(stream.Signature(8, always_ready=True))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.rx, line, init=1)
        left = Signal(range(self.cycles))  # cycles to the next sample
        bits = Signal(range(11))           # samples to come: start, data, stop
        shift = Signal(9, reset_less=True)
        m.d.comb += self.o.payload.eq(shift[1:])
        m.d.sync += self.o.valid.eq(0)
        with m.If(bits == 0):
            with m.If(~line):
                m.d.sync += [bits.eq(10), left.eq(self.cycles // 2 - 1)]
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.Else():
            m.d.sync += [left.eq(self.cycles - 1), bits.eq(bits - 1)]
            with m.If((bits == 10) & line):
                m.d.sync += bits.eq(0)  # too short for a start bit
            with m.If(bits == 1):
                m.d.sync += self.o.valid.eq(line)
            with m.Else():
                m.d.sync += shift.eq(Cat(shift[1:], line))
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a line.

    Latency: the start bit begins a cycle after a byte is taken; bytes follow without a gap.

    Parameters
    ----------
    cycles
        Of a bit.

    Members
    -------
    tx : Out, the line
    i : In(stream of bytes)
    """

    def __init__(self, cycles: int) -> None:
        self.cycles = cycles
        super().__init__({"tx": Out(1, init=1), "i": In(stream.Signature(8))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left = Signal(range(self.cycles))
        bits = Signal(range(11))
        shift = Signal(10, init=(1 << 10) - 1)
        ends = Signal()
        m.d.comb += [
            self.tx.eq(shift[0]),
            ends.eq(left == 0),
            self.i.ready.eq((bits == 0) | ((bits == 1) & ends)),
        ]
        with m.If(~ends):
            m.d.sync += left.eq(left - 1)
        with m.Elif(bits != 0):
            m.d.sync += [shift.eq(Cat(shift[1:], Const(1, 1))), bits.eq(bits - 1),
                         left.eq(self.cycles - 1)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [shift.eq(Cat(Const(0, 1), self.i.payload, Const(1, 1))), bits.eq(10),
                         left.eq(self.cycles - 1)]
        return m
