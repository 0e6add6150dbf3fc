# SPDX-License-Identifier: BSD-2-Clause
"""Reads words of a serial flash, two bits a clock."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["FLASH_REQUEST", "FlashReader"]

#: A request: ``words`` words, less one, from the byte ``address`` on.
FLASH_REQUEST = data.StructLayout({"address": 24, "words": 8})

#: Fast read, dual output: the command that flash chips of all makers know without a mode being set.
READ_DUAL = 0x3B
#: Clocks of the command, of the address, and before the first data.
_HEAD_CLOCKS = 8 + 24 + 8


class FlashReader(wiring.Component):
    """Words of ``word_bytes`` bytes, the byte at the lowest address lowest.

    Contract: a request that goes on where the last one ended costs nothing; any other one takes 40
    clocks of the flash for its command and address, and ``DESELECT`` cycles of rest. While a word
    is not taken the clock rests. Lines change when ``sck`` falls and are sampled when it falls the
    next time, 2 cycles later: the way to the flash and back may take almost that long.

    Latency: 8 cycles a byte.

    Parameters
    ----------
    word_bytes
        Bytes of a word.

    Members
    -------
    i : In(stream of ``FLASH_REQUEST``)
    o : Out(stream of words)
    sck, cs, out, oe : Out, clock, select, and the first data line while ``oe``
    lines : In(2), both data lines
    """

    #: Cycles without selection between two commands: 160 ns at 50 MHz; chips ask for up to 100.
    DESELECT = 8

    def __init__(self, word_bytes: int = 8) -> None:
        self.word_bytes = word_bytes
        super().__init__({"i": In(stream.Signature(FLASH_REQUEST)),
                          "o": Out(stream.Signature(8 * word_bytes)),
                          "sck": Out(1), "cs": Out(1), "out": Out(1), "oe": Out(1),
                          "lines": In(2)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        position = Signal(24)                             # address behind the words so far
        words = Signal(8)                                 # to come, less one
        head = Signal(_HEAD_CLOCKS, reset_less=True)
        clocks = Signal(range(max(_HEAD_CLOCKS, 4 * self.word_bytes)))  # to come, less one
        byte = Signal(6, reset_less=True)
        word = Signal(8 * self.word_bytes - 8, reset_less=True)
        rest = Signal(range(self.DESELECT))
        falls = Signal()
        m.d.comb += [self.out.eq(head[-1]), falls.eq(self.sck)]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)

        with m.FSM():
            with m.State("Idle"):
                with m.If(self.i.valid):
                    with m.If(self.cs & (self.i.p.address == position)):
                        m.d.comb += self.i.ready.eq(1)
                        m.d.sync += [words.eq(self.i.p.words), clocks.eq(4 * self.word_bytes - 1)]
                        m.next = "Read"
                    with m.Else():
                        m.d.sync += [self.cs.eq(0), rest.eq(self.DESELECT - 1)]
                        m.next = "Deselect"
            with m.State("Deselect"):
                m.d.sync += rest.eq(rest - 1)
                with m.If(rest == 0):
                    m.d.comb += self.i.ready.eq(1)
                    m.d.sync += [
                        self.cs.eq(1), self.oe.eq(1),
                        head.eq(Cat(Const(0, 8), self.i.p.address, Const(READ_DUAL, 8))),
                        position.eq(self.i.p.address), words.eq(self.i.p.words),
                        clocks.eq(_HEAD_CLOCKS - 1),
                    ]
                    m.next = "Head"
            with m.State("Head"):
                m.d.sync += self.sck.eq(~self.sck)
                with m.If(falls):
                    m.d.sync += [head.eq(head << 1), clocks.eq(clocks - 1)]
                    with m.If(clocks == 8):
                        m.d.sync += self.oe.eq(0)  # the flash drives the line soon
                    with m.If(clocks == 0):
                        m.d.sync += clocks.eq(4 * self.word_bytes - 1)
                        m.next = "Read"
            with m.State("Read"):
                with m.If(~self.sck):
                    m.d.sync += self.sck.eq((clocks != 0) | ~self.o.valid | self.o.ready)
                with m.Else():
                    m.d.sync += [self.sck.eq(0), clocks.eq(clocks - 1),
                                 byte.eq(Cat(self.lines, byte))]
                    with m.If(clocks[:2] == 0):
                        m.d.sync += word.eq(Cat(word[8:], self.lines, byte))
                    with m.If(clocks == 0):
                        m.d.sync += [
                            self.o.valid.eq(1), self.o.payload.eq(Cat(word, self.lines, byte)),
                            position.eq(position + self.word_bytes), words.eq(words - 1),
                            clocks.eq(4 * self.word_bytes - 1),
                        ]
                        with m.If(words == 0):
                            m.next = "Idle"
        return m
