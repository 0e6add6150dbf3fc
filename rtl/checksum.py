# SPDX-License-Identifier: BSD-2-Clause
"""The checksum of a program: what it is, and the unit that reads a program and takes it."""

from collections.abc import Iterable

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from rtl.axi import request_layout
from rtl.config import Config
from rtl.isa import CHECKSUM_POLYNOMIAL, CHECKSUM_START, INSTRUCTION_BYTES

__all__ = ["ProgramCheck", "checksum", "divided"]

_BITS = 32


def checksum(words: Iterable[int]) -> int:
    """Return the checksum of words of 32 bits: each one times x, plus the next, over GF(2)."""
    total = CHECKSUM_START
    for word in words:
        high = total >> _BITS - 1
        total = total << 1 & (1 << _BITS) - 1 ^ high * CHECKSUM_POLYNOMIAL ^ word
    return total


def divided(value: int, power: int) -> int:
    """Return a sum over ``x**power``."""
    for _ in range(power):
        value = (value ^ CHECKSUM_POLYNOMIAL) >> 1 | 1 << _BITS - 1 if value & 1 else value >> 1
    return value


def _sum_of(total: Value, words: Value) -> list[Value]:
    """Return the bits of the checksum ``total`` with all ``words`` of a beat, low one first."""
    # What is added to each bit, by its place; what is added twice is not.
    terms: list[set[tuple[str, int]]] = [{("total", i)} for i in range(_BITS)]
    for first in range(0, len(words), _BITS):
        high = terms[-1]
        terms = [set(), *terms[:-1]]
        for i in range(_BITS):
            if CHECKSUM_POLYNOMIAL >> i & 1:
                terms[i] = terms[i] ^ high
            terms[i] = terms[i] ^ {("words", first + i)}
    sources = {"total": total, "words": words}
    result = []
    for places in terms:
        bits = [sources[name][at] for name, at in sorted(places)]
        value: Value = bits[0]
        for bit in bits[1:]:
            value = value ^ bit
        result.append(value)
    return result


class ProgramCheck(wiring.Component):
    """Reads a whole program and takes its checksum, which must be zero: BEGIN has a field for that.

    Contract: ``wrong`` is valid from when ``busy`` falls to the next ``start``.

    Latency: with a beat a cycle, three cycles beside the memory and the beats.

    Resources: 32 sums over GF(2), of at most 3 bits with beats of 32 bits, of 6 with 64, of 12
    with 128; a counter of beats.

    Parameters
    ----------
    config
        ``port_bits`` is used.

    Members
    -------
    start : In, pulse
    address, instructions : In, of the program; they stay
    request : Out(stream); data : In(stream of beats)
    busy, wrong : Out
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "start": In(1), "address": In(64), "instructions": In(16),
            "request": Out(stream.Signature(request_layout(64))),
            "data": In(stream.Signature(config.port_bits)),
            "busy": Out(1), "wrong": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beats = exact_log2(8 * INSTRUCTION_BYTES // self.config.port_bits)
        total = Signal(_BITS, reset_less=True)
        left = Signal(16 + beats, reset_less=True)
        ended = Signal()
        m.d.comb += [
            self.request.p.address.eq(self.address),
            self.request.p.beats.eq(self.instructions << beats),
            self.data.ready.eq(self.busy & ~ended),
        ]
        with m.If(self.start):
            m.d.sync += [self.busy.eq(1), self.request.valid.eq(1), total.eq(CHECKSUM_START),
                         left.eq(self.instructions << beats)]
        with m.Elif(self.request.ready):
            m.d.sync += self.request.valid.eq(0)
        with m.If(self.data.valid & self.data.ready):
            m.d.sync += [left.eq(left - 1), ended.eq(left == 1)]
            for i, bit in enumerate(_sum_of(total, self.data.payload)):
                m.d.sync += total[i].eq(bit)
        with m.If(ended):
            m.d.sync += [ended.eq(0), self.busy.eq(0), self.wrong.eq(total != 0)]
        return m
