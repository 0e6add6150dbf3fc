# SPDX-License-Identifier: BSD-2-Clause
"""The reader of a serial flash against a model of the chip, in cycles of the reader's clock."""

import random

import pytest
from amaranth.sim import Simulator

from platforms.flash import READ_DUAL, FlashReader
from tests.stalls import KINDS, stalls

SIZE = 1 << 12


class Chip:
    """A flash with dual output; its lines change one cycle after the clock has fallen."""

    def __init__(self, contents):
        self.contents = contents
        self.commands = []
        self.deselected = 100
        self.sck = self.lines = 0
        self.head, self.at = [], 0

    def cycle(self, cs, sck, out, oe):
        if not cs:
            assert not sck, "clocked while it is not selected"
            self.head, self.deselected = [], self.deselected + 1
        else:
            if self.deselected:
                assert self.deselected >= FlashReader.DESELECT
                self.deselected = 0
            if sck and not self.sck and len(self.head) < 40:
                assert oe or len(self.head) >= 32
                self.head.append(out)
                if len(self.head) == 32:
                    word = int("".join(map(str, self.head)), 2)
                    assert word >> 24 == READ_DUAL
                    self.at = 4 * (word & 0xFFFFFF)
                    self.commands.append(word & 0xFFFFFF)
            elif self.sck and not sck and len(self.head) == 40:
                assert not oe, "two drive one line"
                self.lines = self.contents[self.at // 4 % SIZE] >> (6 - 2 * (self.at % 4)) & 3
                self.at += 1
        self.sck = sck
        return self.lines


def run(reader, chip, requests, kind="none"):
    """Return the words of ``requests``, address and number of words, and the cycles of all."""
    got = []
    wanted = sum(words for _, words in requests)
    used = []

    async def ask(ctx):
        for address, words in requests:
            ctx.set(reader.i.valid, 1)
            ctx.set(reader.i.payload, {"address": address, "words": words - 1})
            await ctx.tick().until(reader.i.ready)
            ctx.set(reader.i.valid, 0)

    async def bus(ctx):
        stall = stalls(kind, 1)
        for cycle in range(30_000):
            ctx.set(reader.o.ready, not next(stall))
            *_, cs, sck, out, oe, valid, ready, payload = await ctx.tick().sample(
                reader.cs, reader.sck, reader.out, reader.oe, reader.o.valid, reader.o.ready,
                reader.o.payload)
            ctx.set(reader.lines, chip.cycle(cs, sck, out, oe))
            if valid and ready:
                got.append(payload)
            if len(got) == wanted:
                used.append(cycle)
                return

    sim = Simulator(reader)
    sim.add_clock(1e-6)
    sim.add_testbench(ask, background=True)
    sim.add_testbench(bus)
    sim.run()
    return got, used[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word_bytes", [4, 8])
def test_words_of_any_requests(word_bytes, kind):
    rng = random.Random(word_bytes)
    contents = rng.randbytes(SIZE)
    requests = [(word_bytes * rng.randrange(SIZE // 2 // word_bytes), rng.randrange(1, 8))
                for _ in range(12)]
    got, _ = run(FlashReader(word_bytes), Chip(contents), requests, kind)
    expected = [int.from_bytes(contents[at:at + word_bytes], "little")
                for address, words in requests
                for at in range(address, address + words * word_bytes, word_bytes)]
    assert got == expected


def test_a_request_that_goes_on_costs_no_command():
    chip = Chip(bytes(range(256)) * (SIZE // 256))
    got, cycles = run(FlashReader(8), chip, [(64, 4), (96, 4), (128, 4), (64, 1)])
    assert chip.commands == [64, 64]
    assert [word & 0xFF for word in got] == [*range(64, 160, 8), 64]
    # 8 cycles a byte, and of a command 80 and the rest before it
    assert cycles <= 8 * 8 * 13 + 2 * (80 + FlashReader.DESELECT) + 16
