# SPDX-License-Identifier: BSD-2-Clause
"""The board's end of the line: requests, good ones and broken ones, and answers."""

import zlib

import pytest
from amaranth.sim import Simulator

from platforms.serial_frames import ANSWER, ANSWER_HEAD, Code, decode, request
from platforms.serial_link import AnswerWriter, RequestReader

FRAME = bytes(range(1, 49))
SILENCE = 60


def read(*pieces, lost=None):
    """Send pieces, bytes or a number of cycles; return begins, codes at the end, and frames.

    Whatever ends is cleared some cycles later. With ``lost`` so many bytes of frames are taken.
    """
    reader = RequestReader(frame_bytes=len(FRAME), silence=SILENCE)
    begins, codes, frames = [], [], []

    async def main(ctx):
        async def cycles(count):
            for _ in range(count):
                *_, begin, end, code, valid, payload = await ctx.tick().sample(
                    reader.begin, reader.end, reader.code, reader.o.valid, reader.o.payload)
                ctx.set(reader.clear, 0)
                if begin:
                    begins.append(len(codes))
                    frames.append(b"")
                if valid:
                    frames[-1] += bytes([payload])
                    if lost is not None and len(frames[-1]) == lost:
                        ctx.set(reader.lost, 1)
                else:
                    ctx.set(reader.lost, 0)
                if end:
                    codes.append(Code(code))
                    clears.append(5)
                if clears:
                    clears[0] -= 1
                    if clears[0] == 0:
                        clears.pop()
                        ctx.set(reader.clear, 1)

        clears = []
        for piece in pieces:
            if isinstance(piece, int):
                await cycles(piece)
                continue
            for byte in piece:
                ctx.set(reader.i.valid, 1)
                ctx.set(reader.i.payload, byte)
                await cycles(1)
                ctx.set(reader.i.valid, 0)
                await cycles(3)
        await cycles(2 * SILENCE)
        assert not ctx.get(reader.busy)

    sim = Simulator(reader)
    sim.add_clock(1e-6)
    sim.add_testbench(main)
    sim.run()
    return begins, codes, frames


GOOD = request(FRAME)


def test_requests_one_after_another():
    begins, codes, frames = read(GOOD, 12, GOOD, 12)
    assert (begins, codes, frames) == ([0, 1], [Code.OK] * 2, [FRAME] * 2)


def test_what_is_no_mark_is_passed_over():
    assert read(b"HHVIHV", GOOD, b"\0\xffHVI") == ([0], [Code.OK], [FRAME])


def test_a_pause_shorter_than_silence():
    assert read(GOOD[:20], SILENCE - 8, GOOD[20:])[1] == [Code.OK]


@pytest.mark.parametrize("place", [8, 20, len(GOOD) - 1])
def test_a_wrong_bit(place):
    bad = bytearray(GOOD)
    bad[place] ^= 4
    begins, codes, _ = read(bytes(bad), 12, GOOD)
    assert (begins, codes) == ([0, 1], [Code.CHECKSUM, Code.OK])


@pytest.mark.parametrize("length", [0, len(FRAME) - 1, len(FRAME) + 1, 1 << 31])
def test_a_wrong_length_begins_nothing(length):
    bad = GOOD[:4] + length.to_bytes(4, "little") + GOOD[8:]
    begins, codes, frames = read(bad, 2 * SILENCE, GOOD)
    assert (begins, codes, frames) == ([1], [Code.LENGTH, Code.OK], [FRAME])


@pytest.mark.parametrize("size", [5, 8, 30, len(GOOD) - 4, len(GOOD) - 1])
def test_a_request_that_breaks_off(size):
    begins, codes, frames = read(GOOD[:size], 2 * SILENCE, GOOD)
    assert codes == [Code.TIMEOUT, Code.OK] and frames[-1] == FRAME
    assert len(begins) == 1 + (size >= 8)


@pytest.mark.parametrize("taken", [10, len(FRAME)])
def test_a_frame_that_is_not_taken(taken):
    _, codes, frames = read(GOOD, 2 * SILENCE, GOOD, lost=taken)
    assert codes == [Code.OVERRUN] * 2 and frames == [FRAME[:taken]] * 2


@pytest.mark.parametrize("code", [Code.OK, Code.CORE])
def test_answers(code):
    output = bytes(range(32))
    size = 0 if code else len(output)
    writer = AnswerWriter(word_bytes=8, output_bytes=len(output))
    head = ANSWER_HEAD.pack(code, 6, size, 7, 1 << 30)
    got = []

    async def memory(ctx):
        while True:
            *_, at = await ctx.tick().sample(writer.output_at)
            ctx.set(writer.output, int.from_bytes(output[8 * at:8 * at + 8], "little"))

    async def main(ctx):
        ctx.set(writer.head, int.from_bytes(head, "little"))
        ctx.set(writer.has_output, code == Code.OK)
        for _ in range(2):
            got.clear()
            ctx.set(writer.start, 1)
            await ctx.tick()
            ctx.set(writer.start, 0)
            done = cycle = 0
            while not done:
                ready = cycle % 3 == 0
                cycle += 1
                ctx.set(writer.o.ready, ready)
                *_, valid, payload, done = await ctx.tick().sample(
                    writer.o.valid, writer.o.payload, writer.done)
                if valid and ready:
                    got.append(payload)
            text = bytes(got)
            assert text == ANSWER + head + output[:size] + zlib.crc32(
                head + output[:size]).to_bytes(4, "little")
            assert decode(text[4:16], text[16:-4], text[-4:], 4).code == code

    sim = Simulator(writer)
    sim.add_clock(1e-6)
    sim.add_testbench(main)
    sim.add_testbench(memory, background=True)
    sim.run()
