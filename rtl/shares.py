# SPDX-License-Identifier: BSD-2-Clause
"""What a selector drops becomes one package token: the weights of the rows, and their shares."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from rtl import isa
from rtl.arith import delay
from rtl.config import Config
from rtl.rowscale import Reciprocal

__all__ = ["Shares"]

#: A / B in units of 2**-16, both with seven fraction bits and A with seven more.
_QUOTIENT_M = 1 << 16
_QUOTIENT_S = 24
#: A share is 2 * w * m >> 18: the doubling is one place less of the shift.
_SHARE_M = (1 << 16) - isa.SHARE_MARGIN
_SHARE_S = 17


class Shares(wiring.Component):
    """``w = max(1, S)`` or ``max(1, cut(A / B))``; ``share = cut(2 * w * m, s + c)``, ``m * 2**-s``
    the reciprocal of ``sum(w) >> c``; what the shares lack of one is added to the first.

    Dropped rows enter from ``start`` to ``finish``, at most one a cycle, also in the cycle of
    ``finish``; their weights are there ``WEIGHT_LATENCY`` cycles later. Then, with ``busy``, the
    sum is shifted until it has 18 bits, and its reciprocal taken; weights are read again, one a
    cycle, and shares replace them. The first share, what the others leave of 2**16, is last.
    With no dropped row there is one share of one.

    The reciprocal unit is outside, ``Reciprocal.LATENCY`` cycles behind ``request``, which stays
    high and with it the reciprocal of the sum, while shares are taken.

    Latency: ``finish_cycles(dropped)`` at most, of ``busy`` after ``finish``.
    Resources: 1 DSP, one block RAM of 18 kbit for up to 512 ``pass_rows``, about 350 LUTs.

    Parameters
    ----------
    config
        ``max_tokens`` and ``pass_rows`` are used.

    Members
    -------
    init, init_image : In
        Pulse: there is no package of this image yet.
    image, base : In
        From ``start`` on: image of the rows; place of the first of them in the list of dropped
        rows.
    start, finish : In; busy : Out
        Pulses; high from the cycle after ``start`` until all shares are there.
    quotient : In
        Scores are A and B; high or low from ``start`` on.
    dropped, package, score, importance : In
        A row is dropped; it is the package there was; S or A; B.
    request, request_sum, request_scale_m, request_scale_s : Out; reciprocal : In
        Reciprocal unit.
    share_row : In; share : Out
        Place in the list of dropped rows; its share one cycle later, unless ``busy``.
    weight_valid, weight, share_valid, share_index, share_value : Out
        What is written, for tracing: weights in order, the first share after all others.
    """

    #: Operands, M, P, three steps of the shift.
    _MULTIPLY_CYCLES = 6
    WEIGHT_LATENCY = 1 + Reciprocal.LATENCY + _MULTIPLY_CYCLES
    #: Cycles of a read of the memory.
    _READ_CYCLES = 1

    def __init__(self, config: Config) -> None:
        self.max_tokens = config.max_tokens
        self.pass_rows = config.pass_rows
        index, place = range(config.max_tokens), range(config.pass_rows)
        super().__init__({
            "init": In(1), "init_image": In(range(isa.SEGMENTS)),
            "image": In(range(isa.SEGMENTS)), "base": In(bits_for(config.pass_rows)),
            "start": In(1), "finish": In(1), "busy": Out(1), "quotient": In(1),
            "dropped": In(1), "package": In(1), "score": In(isa.WEIGHTED_BITS),
            "importance": In(isa.IMPORTANCE_BITS),
            "request": Out(1), "request_sum": Out(isa.SUM_BITS),
            "request_scale_m": Out(isa.MANTISSA_BITS), "request_scale_s": Out(isa.SHIFT_BITS),
            "reciprocal": In(isa.RowScale),
            "share_row": In(place), "share": Out(isa.SHARE_BITS),
            "weight_valid": Out(1), "weight": Out(isa.WEIGHT_BITS),
            "share_valid": Out(1), "share_index": Out(index), "share_value": Out(isa.SHARE_BITS),
        })

    @classmethod
    def finish_cycles(cls, dropped: int) -> int:
        """Return the most cycles of ``busy`` after ``finish``."""
        shift = isa.WEIGHT_BITS - isa.SUM_BITS
        return (cls.WEIGHT_LATENCY + shift + Reciprocal.LATENCY + dropped + cls._READ_CYCLES
                + cls._MULTIPLY_CYCLES + 6)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sharing = Signal()                  # first weights are taken, then shares
        count = Signal(range(self.max_tokens + 1))       # the next of them
        read_index = Signal(range(self.max_tokens + 1))  # weight that becomes a share
        take = Signal()                                  # it is read
        sums = Signal(isa.WEIGHT_BITS)      # sum of the weights; what the shares leave of one
        # Weight of the package there is, of each image
        carried = Signal(data.ArrayLayout(isa.WEIGHT_BITS, isa.SEGMENTS))
        shifted = Signal(isa.WEIGHT_BITS, reset_less=True)
        scale_s = Signal(isa.SHIFT_BITS, reset_less=True)

        weights = Memory(shape=isa.WEIGHT_BITS, depth=self.pass_rows, init=[],
                         attrs={"ram_style": "block"})
        m.submodules.weights = weights
        read, write = weights.read_port(), weights.write_port()

        # What enters, as late as the reciprocal of its importance.
        cycles = 1 + Reciprocal.LATENCY
        entered = delay(m, self.dropped, cycles, name="entered", reset=True)
        package = delay(m, self.package, cycles, name="package")
        score = delay(m, self.score, cycles, name="score")
        read_valid = delay(m, take, self._READ_CYCLES, name="read_valid", reset=True)
        value = Signal(isa.WEIGHT_BITS)
        plain = Signal()
        m.d.comb += [
            value.eq(Mux(sharing, read.data, Mux(package, carried[self.image], score))),
            plain.eq(~sharing & (package | ~self.quotient)),
        ]
        result = self._multiply(m, value, plain)
        result_valid = delay(m, Mux(sharing, read_valid, entered), self._MULTIPLY_CYCLES,
                             name="result_valid", reset=True)

        last_share = Signal()
        m.d.comb += [
            self.weight.eq(result | (~sharing & ~result.any())),
            self.weight_valid.eq(result_valid & ~sharing),
            self.share_valid.eq((result_valid & sharing) | last_share),
            self.share_index.eq(Mux(last_share, 0, count)),
            self.share_value.eq(write.data),
            write.en.eq(result_valid | last_share),
            write.addr.eq(self.base + self.share_index),
            write.data.eq(Mux(last_share, sums, self.weight)),
            read.addr.eq(Mux(self.busy, self.base + read_index, self.share_row)),
            self.share.eq(read.data),
            self.request_sum.eq(shifted),
            self.request_scale_m.eq(Mux(sharing, _SHARE_M, _QUOTIENT_M)),
            self.request_scale_s.eq(scale_s),
        ]
        with m.If(result_valid):
            # One carry chain: with the lowest bits, it adds the one of the complement.
            addend = self.weight ^ sharing.replicate(isa.WEIGHT_BITS)
            m.d.sync += [count.eq(count + 1),
                         sums.eq((Cat(sharing, sums) + Cat(sharing, addend)) >> 1)]

        # The phases. While weights come, the sum that is asked for is an importance.
        dropped = Signal(range(self.max_tokens + 1))
        wait = Signal(range(max(self.WEIGHT_LATENCY, Reciprocal.LATENCY) + 1))
        m.d.sync += self.request.eq(sharing | (self.dropped & self.quotient))
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [self.busy.eq(1), count.eq(0), sums.eq(0), scale_s.eq(_QUOTIENT_S)]
                    m.next = "WEIGHTS"
            with m.State("WEIGHTS"):
                m.d.sync += shifted.eq(self.importance)
                with m.If(self.finish):
                    m.d.sync += wait.eq(self.WEIGHT_LATENCY)
                    m.next = "LAST_WEIGHT"
            with m.State("LAST_WEIGHT"):
                with m.If(wait == 0):
                    m.d.sync += [sharing.eq(1), shifted.eq(sums), scale_s.eq(_SHARE_S),
                                 sums.eq(1 << (isa.SHARE_BITS - 1)),
                                 dropped.eq(count), count.eq(1), read_index.eq(1)]
                    m.next = "NORMALISE"
                    with m.If(count == 0):
                        m.next = "FIRST"
                    with m.Else():
                        m.d.sync += carried[self.image].eq(sums)
            with m.State("NORMALISE"):
                with m.If(shifted[isa.SUM_BITS:].any()):
                    m.d.sync += [shifted.eq(shifted >> 1), scale_s.eq(scale_s + 1)]
                with m.Else():
                    m.d.sync += wait.eq(Reciprocal.LATENCY)
                    m.next = "RECIPROCAL"
            with m.State("RECIPROCAL"):
                with m.If(wait == 0):
                    m.next = "SHARES"
            with m.State("SHARES"):
                with m.If(read_index == dropped):
                    m.d.sync += wait.eq(self._READ_CYCLES + self._MULTIPLY_CYCLES)
                    m.next = "LAST_SHARE"
                with m.Else():
                    m.d.comb += take.eq(1)
                    m.d.sync += read_index.eq(read_index + 1)
            with m.State("LAST_SHARE"):
                with m.If(wait == 0):
                    m.next = "FIRST"
            with m.State("FIRST"):
                m.d.comb += last_share.eq(1)
                m.d.sync += [self.busy.eq(0), sharing.eq(0)]
                m.next = "IDLE"
        with m.If(self.init):
            m.d.sync += carried[self.init_image].eq(0)
        return m

    def _multiply(self, m: Module, value: Signal, plain: Signal) -> Signal:
        """Return ``value * m >> s`` of the reciprocal, or ``value`` itself; what is lost is cut.

        The shift is at most 23: 17 and the six places of the sum, or 18 and that of an importance
        of twelve bits. It is by eights, then by twos, then by one.
        """
        a = Signal(isa.WEIGHT_BITS, reset_less=True)
        b = Signal(isa.MANTISSA_BITS, reset_less=True)
        s = Signal(5, reset_less=True)
        product = Signal(isa.WEIGHT_BITS + isa.MANTISSA_BITS, reset_less=True)
        eights = Signal(isa.WEIGHT_BITS + 7, reset_less=True)
        twos = Signal(isa.WEIGHT_BITS + 1, reset_less=True)
        result = Signal(isa.WEIGHT_BITS, reset_less=True)
        m.d.sync += [
            a.eq(value),
            b.eq(Mux(plain, 1, self.reciprocal.m)),
            s.eq(Mux(plain, 0, self.reciprocal.s)),
            product.eq(a * b),
        ]
        total = delay(m, product, 1, name="total")
        s_eights = delay(m, s, 2, name="s_eights")
        s_twos = delay(m, s_eights[:3], 1, name="s_twos")
        s_one = delay(m, s_twos[0], 1, name="s_one")
        m.d.sync += [
            eights.eq(total >> (s_eights[3:] << 3)),
            twos.eq(eights >> (s_twos[1:] << 1)),
            result.eq(twos >> s_one),
        ]
        return result
