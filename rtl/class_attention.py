# SPDX-License-Identifier: BSD-2-Clause
"""Attention that the class token pays to every token, summed over the heads."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data
from amaranth.lib.memory import Memory, WritePort
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2, exact_log2

from rtl.arith import delay, selected
from rtl.config import Config
from rtl.isa import EXP_BITS, MANTISSA_BITS, POWER_BITS, SCORE_BITS, SEGMENTS, SHIFT_BITS

__all__ = ["ClassAttention"]

#: Lanes of one multiplexer of the serialiser: as many as a quarter of a SLICE selects from.
_GROUP = 16
#: Greatest score, and greatest attention of one head.
_LIMIT = (1 << SCORE_BITS) - 1
#: Bits of the shift: of a score (18 to 48), of a power of two (0 to 15), less n (0 to 17).
_AMOUNT_BITS = 6


class ClassAttention(Component):
    """``t = min(e * mantissa >> (score_s + z - n), 2**16 - 1)``,
    ``S = min((0 if first_head else S) + t, 2**16 - 1)`` for every token: ``e`` and ``z`` of the
    class token's row, ``mantissa`` and ``n`` of the reciprocal of its sum. Cut off, not rounded.

    No flow control. A head is one capture for each K tile, the first with ``first_k``, and then
    the reciprocal; then its scores come in the order of the positions, one a cycle. Captures are
    at least ``rows`` cycles apart, the reciprocal comes at least ``WRITE_LATENCY`` cycles after
    the last capture of its head and before the first one of the next head, and at least 16 and
    ``tokens`` cycles after the reciprocal of the head before. ``18 <= score_s <= 48``.

    What is captured waits in plain registers, in front of one multiplexer, to be written into a
    memory one lane a cycle. The memory holds two heads: that of the next one begins while the
    scores of this one are computed.

    Latency: the score of position p comes ``LATENCY + p`` cycles after the reciprocal.
    Resources: one DSP; a flip-flop for every bit that is captured, and a third of a LUT for its
    part of the multiplexer; two block RAMs of 18 kbit up to 256 tokens.

    Parameters
    ----------
    config
        Configuration; ``rows``, ``max_tokens`` and ``images``, as many segments as have scores,
        are used.

    Members
    -------
    e, power : In(ArrayLayout(16, rows)), In(ArrayLayout(4, rows))
        Exponentials and the powers of two that divide them, one K tile of the class token's row.
    capture : In(1)
        They are there.
    first_k, first_head, score_s, segment : In
        With ``capture``: first K tile of a head; first head, whose scores begin with 0; shift;
        segment of the class token.
    reciprocal_valid : In(1)
        The reciprocal of the row sum is there.
    mantissa, shift : In(17), In(5)
        Its mantissa, and n.
    tokens : In(16)
        Tokens of the segment, at least one, with ``reciprocal_valid``.
    score_en, score_segment, score_row, score : Out
        A position of a segment and its score, this head included.
    busy : Out(1)
        From the cycle after the first capture of a head to the last of its scores.
    """

    #: Cycles from a capture until its first lane can be read from the memory, less one.
    WRITE_LATENCY = 2
    #: Address, data, A and B, M, P, coarse shift, fine shift, limit, sum, limit.
    LATENCY = 10

    def __init__(self, config: Config) -> None:
        self.rows = config.rows
        self.max_tokens = config.max_tokens
        self.segment_bits = ceil_log2(config.images)
        super().__init__({
            "e": In(data.ArrayLayout(unsigned(EXP_BITS), self.rows)),
            "power": In(data.ArrayLayout(unsigned(POWER_BITS), self.rows)),
            "capture": In(1),
            "first_k": In(1),
            "first_head": In(1),
            "score_s": In(SHIFT_BITS),
            "segment": In(range(SEGMENTS)),
            "reciprocal_valid": In(1),
            "mantissa": In(MANTISSA_BITS),
            "shift": In(5),
            "tokens": In(16),
            "score_en": Out(1),
            "score_segment": Out(range(SEGMENTS)),
            "score_row": Out(range(self.max_tokens)),
            "score": Out(SCORE_BITS),
            "busy": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        position_bits = ceil_log2(max(self.max_tokens, self.rows))
        m.submodules.row = row = Memory(
            shape=unsigned(EXP_BITS + POWER_BITS), depth=2 << position_bits, init=[],
            attrs={"ram_style": "block"})
        write, read = row.write_port(), row.read_port()
        bank, capturing = self._serialise(m, write, position_bits)

        # One position a cycle, from the reciprocal on
        reading = Signal()
        position = Signal(position_bits, reset_less=True)
        read_bank = Signal(reset_less=True)
        last = Signal(position_bits, reset_less=True)
        head_first, head_s = (Signal(reset_less=True, name="head_first"),
                              Signal(SHIFT_BITS, reset_less=True, name="head_s"))
        first, amount, mantissa = (Signal(reset_less=True, name="first"),
                                   Signal(_AMOUNT_BITS, reset_less=True, name="amount"),
                                   Signal(MANTISSA_BITS, reset_less=True, name="factor"))
        head_segment = Signal(range(SEGMENTS), reset_less=True)
        segment = Signal(range(SEGMENTS), reset_less=True)
        with m.If(self.capture):
            m.d.sync += [head_first.eq(self.first_head), head_s.eq(self.score_s),
                         head_segment.eq(self.segment)]
        m.d.sync += position.eq(position + 1)
        with m.If(self.reciprocal_valid):
            m.d.sync += [reading.eq(1), position.eq(0), read_bank.eq(bank), first.eq(head_first),
                         segment.eq(head_segment), last.eq(self.tokens - 1),
                         amount.eq(head_s - self.shift), mantissa.eq(self.mantissa)]
        with m.Elif(position == last):
            m.d.sync += reading.eq(0)
        m.d.comb += read.addr.eq(Cat(position, read_bank))

        t = self._attention(m, read.data, delay(m, mantissa, 1, name="factor"),
                            delay(m, amount, 1, name="amount"))
        en, late_segment, late_position = self._accumulate(m, t, segment, position, first,
                                                           reading)
        under_way = Signal()  # any of them
        m.d.sync += under_way.eq(reading | en[:-1].any())
        m.d.comb += [
            self.score_en.eq(en[-1]),
            self.score_segment.eq(late_segment),
            self.score_row.eq(late_position),
            self.busy.eq(capturing | reading | under_way),
        ]
        return m

    def _serialise(self, m: Module, write: WritePort,
                   position_bits: int) -> tuple[Value, Value]:
        """Write the lanes that are captured into the memory; return the bank of the head, and
        whether it waits for its reciprocal."""
        lane_bits = exact_log2(self.rows)
        lanes = []
        for i in range(self.rows):
            lane = Signal(EXP_BITS + POWER_BITS, name=f"lane_{i}", reset_less=True)
            with m.If(self.capture):
                m.d.sync += lane.eq(Cat(self.e[i], self.power[i]))
            lanes.append(lane)

        serial, bank, capturing = (Signal(name="serial"), Signal(name="bank"),
                                   Signal(name="capturing"))
        position = Signal(position_bits, name="written", reset_less=True)
        with m.If(serial):
            m.d.sync += position.eq(position + 1)
        with m.If(self.capture):
            m.d.sync += serial.eq(1)
            with m.If(self.first_k):
                m.d.sync += [position.eq(0), bank.eq(~bank)]
        with m.Elif(position[:lane_bits].all()):
            m.d.sync += serial.eq(0)
        with m.If(self.capture | self.reciprocal_valid):
            m.d.sync += capturing.eq(self.capture)

        groups = []
        size = min(_GROUP, self.rows)
        for g in range(self.rows // size):
            group = Signal(EXP_BITS + POWER_BITS, name=f"group_{g}", reset_less=True)
            m.d.sync += group.eq(selected(lanes[g * size:][:size], position))
            groups.append(group)
        address = delay(m, Cat(position, bank), 1, name="written")
        m.d.comb += [
            write.addr.eq(address),
            write.data.eq(selected(groups, address[exact_log2(size):])),
            write.en.eq(delay(m, serial, 1, name="serial", reset=True)),
        ]
        return bank, capturing

    def _attention(self, m: Module, entry: Value, mantissa: Value, amount: Value) -> Value:
        """Return ``t``, 6 cycles after ``entry`` of the memory."""
        a = Signal(EXP_BITS, reset_less=True)
        b = Signal(MANTISSA_BITS, reset_less=True)
        product = Signal(EXP_BITS + MANTISSA_BITS, reset_less=True)
        result = Signal.like(product, name="result", reset_less=True)
        coarse = Signal.like(product, name="coarse", reset_less=True)
        fine = Signal.like(product, name="fine", reset_less=True)
        t = Signal(SCORE_BITS, reset_less=True)
        total = Signal(_AMOUNT_BITS, name="shift_total", reset_less=True)
        late = delay(m, total, 2, name="shift_total")
        m.d.sync += [
            a.eq(entry[:EXP_BITS]), b.eq(mantissa),
            total.eq(amount + entry[EXP_BITS:]),
            product.eq(a * b),
            result.eq(product),
            coarse.eq(result >> (late & 0b111000)),
            fine.eq(coarse >> delay(m, late[:3], 1, name="shift_fine")),
            t.eq(fine[:SCORE_BITS] | fine[SCORE_BITS:].any().replicate(SCORE_BITS)),
        ]
        return t

    def _accumulate(self, m: Module, t: Value, segment: Value, position: Value, first: Value,
                    reading: Value) -> tuple[Value, Value, Value]:
        """Add ``t`` to the score of its position; return the valid bits after ``reading``, and the
        segment and the position that belong to ``score``."""
        m.submodules.scores = scores = Memory(
            shape=unsigned(SCORE_BITS), depth=self.max_tokens << self.segment_bits, init=[],
            attrs={"ram_style": "block"})
        read, write = scores.read_port(), scores.write_port()
        before = self.LATENCY - 3  # cycles from a position to its t
        place = Cat(segment[:self.segment_bits], position)
        at_read = delay(m, place, before - 1, name="position")
        at_write = delay(m, at_read, 3, name="position_late")
        en = Signal(self.LATENCY - 1)
        total = Signal(SCORE_BITS + 1, name="total", reset_less=True)
        score = Signal(SCORE_BITS, name="score_limited", reset_less=True)
        m.d.sync += [
            en.eq(Cat(reading, en)),
            total.eq(t + Mux(delay(m, first, before, name="first"), 0, read.data)),
            score.eq(Mux(total[-1], _LIMIT, total)),
        ]
        m.d.comb += [
            read.addr.eq(at_read),
            write.addr.eq(at_write),
            write.data.eq(score),
            write.en.eq(en[-1]),
            self.score.eq(score),
        ]
        return en, at_write[:self.segment_bits], at_write[self.segment_bits:]
