# SPDX-License-Identifier: BSD-2-Clause
"""The far end of the serial line: takes requests apart, and puts answers together."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ETHERNET
from amaranth.lib.wiring import In, Out

from platforms.serial_frames import ANSWER, ANSWER_HEAD, REQUEST, Code

__all__ = ["AnswerWriter", "RequestReader"]

_CRC_BYTES = 4


class RequestReader(wiring.Component):
    """Finds requests among bytes, checks them, and passes on their frames.

    ``begin`` tells of a request for a frame of the right size; its bytes follow, and ``end`` when
    all is over, with ``code``. A request that ends early, by a wrong length, silence or ``lost``,
    ends when the line has been silent. Then the next mark is looked for: what is no mark is
    passed over.

    Parameters
    ----------
    frame_bytes
        Of a frame.
    silence
        Cycles without a byte after which a line is silent.

    Members
    -------
    i : In(stream of bytes), o : Out(stream of bytes); both always taken
    begin, end : Out, pulses; end without begin for a wrong length
    code : Out, what is wrong, as soon as it is known, else OK; until ``clear``
    lost : In, a byte of the frame could not be kept
    clear : In, pulse: ready for the next request; bytes before it are passed over
    busy : Out, within a request
    """

    def __init__(self, *, frame_bytes: int, silence: int) -> None:
        self.frame_bytes = frame_bytes
        self.silence = silence
        byte = stream.Signature(8, always_ready=True)
        super().__init__({"i": In(byte), "o": Out(byte), "begin": Out(1), "end": Out(1),
                          "code": Out(Code), "lost": In(1), "clear": In(1), "busy": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = CRC32_ETHERNET(data_width=8).create()
        recent = Signal(32)  # the last four bytes
        now = Signal(32)     # ... with the one that comes
        left = Signal(range(max(self.frame_bytes, 4)))
        still = Signal(range(self.silence + 1))
        silent = Signal()
        m.d.comb += [
            now.eq(Cat(recent[8:], self.i.payload)),
            silent.eq(still == self.silence),
            crc.data.eq(self.i.payload), crc.valid.eq(self.i.valid),
            self.o.payload.eq(self.i.payload),
        ]
        with m.If(self.i.valid):
            m.d.sync += [recent.eq(now), still.eq(0)]
        with m.Elif(~silent):
            m.d.sync += still.eq(still + 1)

        def fail(code: Code) -> None:
            m.d.sync += self.code.eq(code)
            m.next = "Rest"

        def timeout() -> None:
            with m.If(silent):
                fail(Code.TIMEOUT)

        with m.FSM():
            with m.State("Mark"):
                with m.If(self.i.valid & (now == int.from_bytes(REQUEST, "little"))):
                    m.d.comb += [crc.start.eq(1), crc.valid.eq(0)]
                    m.d.sync += left.eq(3)
                    m.next = "Length"
            with m.State("Length"):
                m.d.comb += self.busy.eq(1)
                timeout()
                with m.If(self.i.valid):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 0):
                        m.d.sync += left.eq(self.frame_bytes - 1)
                        with m.If(now == self.frame_bytes):
                            m.d.comb += self.begin.eq(1)
                            m.next = "Frame"
                        with m.Else():
                            fail(Code.LENGTH)
            with m.State("Frame"):
                m.d.comb += [self.busy.eq(1), self.o.valid.eq(self.i.valid)]
                timeout()
                with m.If(self.i.valid):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 0):
                        m.d.sync += left.eq(_CRC_BYTES - 1)
                        m.next = "Checksum"
                with m.If(self.lost):
                    fail(Code.OVERRUN)
            with m.State("Checksum"):
                m.d.comb += self.busy.eq(1)
                timeout()
                with m.If(self.i.valid):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 0):
                        m.next = "Check"
                # The last word of the frame is lost a cycle after its last byte.
                with m.If(self.lost):
                    fail(Code.OVERRUN)
            with m.State("Check"):
                m.d.comb += self.busy.eq(1)
                m.d.sync += self.code.eq(Mux(crc.match_detected, Code.OK, Code.CHECKSUM))
                m.next = "End"
            with m.State("Rest"):
                m.d.comb += self.busy.eq(1)
                with m.If(silent):
                    m.next = "End"
            with m.State("End"):
                m.d.comb += self.end.eq(1)
                m.next = "Wait"
            with m.State("Wait"):
                with m.If(self.clear):
                    m.d.sync += [self.code.eq(Code.OK), recent.eq(0)]
                    m.next = "Mark"
        return m


class AnswerWriter(wiring.Component):
    """Writes one answer: mark, head, output, checksum of head and output.

    Parameters
    ----------
    word_bytes, output_bytes
        Bytes of a word, and of the output.

    Members
    -------
    start : In, pulse
    head : In, the bytes of ``ANSWER_HEAD``, which stay until ``done``
    has_output : In, whether an output follows, as ``head`` says
    output_at : Out; output : In, a word of the output, a cycle later
    o : Out(stream of bytes)
    done : Out, pulse: all is sent
    """

    def __init__(self, *, word_bytes: int, output_bytes: int) -> None:
        self.word_bytes = word_bytes
        self.output_bytes = output_bytes
        words = output_bytes // word_bytes
        super().__init__({
            "start": In(1), "head": In(8 * ANSWER_HEAD.size), "has_output": In(1),
            "output_at": Out(range(words)), "output": In(8 * word_bytes),
            "o": Out(stream.Signature(8)), "done": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = CRC32_ETHERNET(data_width=8).create()
        mark = Const(int.from_bytes(ANSWER, "little"), 8 * len(ANSWER))
        opening = 8 * (len(ANSWER) + ANSWER_HEAD.size)
        shift = Signal(max(opening, 8 * self.word_bytes))  # the next byte is the lowest
        left = Signal(range(max(opening // 8, self.word_bytes)))  # bytes in it, less one
        word = Signal(range(self.output_bytes // self.word_bytes + 1))
        sent, empty = Signal(), Signal()
        m.d.comb += [
            self.output_at.eq(word), self.o.payload.eq(shift[:8]),
            sent.eq(self.o.valid & self.o.ready), empty.eq(sent & (left == 0)),
            crc.data.eq(shift[:8]),
        ]
        with m.If(sent):
            m.d.sync += [shift.eq(shift >> 8), left.eq(left - 1)]
        with m.FSM():
            with m.State("Idle"):
                m.d.sync += word.eq(0)
                m.d.comb += crc.start.eq(1)
                with m.If(self.start):
                    m.d.sync += [shift.eq(Cat(mark, self.head)),
                                 left.eq(opening // 8 - 1)]
                    m.next = "Head"
            with m.State("Head"):
                # The mark is not part of the checksum.
                m.d.comb += [self.o.valid.eq(1),
                             crc.valid.eq(sent & (left < ANSWER_HEAD.size))]
                with m.If(empty):
                    with m.If(self.has_output):
                        m.next = "Word"
                    with m.Else():
                        m.next = "Last"
            with m.State("Word"):
                m.d.sync += [shift.eq(self.output), left.eq(self.word_bytes - 1),
                             word.eq(word + 1)]
                m.next = "Output"
            with m.State("Output"):
                m.d.comb += [self.o.valid.eq(1), crc.valid.eq(sent)]
                with m.If(empty):
                    with m.If(word == self.output_bytes // self.word_bytes):
                        m.next = "Last"
                    with m.Else():
                        m.next = "Word"
            with m.State("Last"):
                m.d.sync += [shift.eq(crc.crc), left.eq(_CRC_BYTES - 1)]
                m.next = "Checksum"
            with m.State("Checksum"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(empty):
                    m.d.comb += self.done.eq(1)
                    m.next = "Idle"
        return m
