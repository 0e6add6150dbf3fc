# SPDX-License-Identifier: BSD-2-Clause
"""The memory of a serial board, behind the masters that the accelerator has."""

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from platforms.serial_memory import FRAME_BASE, OUTPUT_BASE, SerialMemory
from rtl.axi import ReadMaster, WriteMaster
from tests.stalls import KINDS, stalls


class Masters(wiring.Component):
    """Two readers and a writer on one memory."""

    def __init__(self):
        self.memory = SerialMemory(data_bits=64, output_words=8)
        self.reader = ReadMaster(data_bits=64, depths=[32, 32])
        self.writer = WriteMaster(data_bits=64)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory, m.submodules.reader = self.memory, self.reader
        m.submodules.writer = self.writer
        for master in (self.reader.axi, self.writer.axi):
            for name, member in master.signature.members.items():
                here, there = getattr(self.memory.bus, name), getattr(master, name)
                m.d.comb += here.eq(there) if member.flow is wiring.Out else there.eq(here)
        return m


async def feed(ctx, stream, words, kind):
    stall = stalls(kind, len(words))
    for word in words:
        while next(stall):
            await ctx.tick()
        ctx.set(stream.valid, 1)
        ctx.set(stream.payload, word)
        await ctx.tick().until(stream.ready)
        ctx.set(stream.valid, 0)


async def collect(ctx, stream, count):
    got = []
    ctx.set(stream.ready, 1)
    while len(got) < count:
        *_, valid, payload = await ctx.tick().sample(stream.valid, stream.payload)
        if valid:
            got.append(payload)
    return got


async def ask(ctx, stream, address, beats):
    ctx.set(stream.valid, 1)
    ctx.set(stream.payload, {"address": address, "beats": beats})
    await ctx.tick().until(stream.ready)
    ctx.set(stream.valid, 0)


def simulate(dut, *benches):
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    for i, bench in enumerate(benches):
        sim.add_testbench(bench, background=i > 0)
    sim.run()


@pytest.mark.parametrize("kind", KINDS)
def test_frame_and_flash_side_by_side(kind):
    dut = Masters()
    rng = random.Random(1)
    frame = [rng.getrandbits(64) for _ in range(50)]
    results = {}

    async def flash(ctx):
        """Give words that are their addresses."""
        memory = dut.memory
        ctx.set(memory.request.ready, 1)
        while True:
            *_, valid, payload = await ctx.tick().sample(memory.request.valid,
                                                         memory.request.payload)
            if valid:
                words = [payload.address + 8 * i for i in range(payload.words + 1)]
                ctx.set(memory.request.ready, 0)
                await feed(ctx, memory.flash, words, kind)
                ctx.set(memory.request.ready, 1)

    async def model(ctx):
        await ask(ctx, dut.reader.request[1], 0x20_0080, 70)
        results["model"] = await collect(ctx, dut.reader.data[1], 70)

    async def main(ctx):
        await ask(ctx, dut.reader.request[0], FRAME_BASE, len(frame))
        results["frame"] = await collect(ctx, dut.reader.data[0], len(frame))
        while "model" not in results:
            await ctx.tick()
        assert not ctx.get(dut.reader.error)

    async def line(ctx):
        await feed(ctx, dut.memory.frame, frame, kind)

    simulate(dut, main, flash, model, line)
    assert results["frame"] == frame
    assert results["model"] == [0x20_0080 + 8 * i for i in range(70)]


def test_a_frame_that_is_given_up_is_a_bus_error():
    dut = Masters()

    async def main(ctx):
        await ask(ctx, dut.reader.request[0], FRAME_BASE, 20)
        await feed(ctx, dut.memory.frame, [1, 2, 3], "none")
        await ctx.tick().repeat(100)
        assert not ctx.get(dut.reader.error) and not ctx.get(dut.reader.idle)
        ctx.set(dut.memory.abort, 1)
        assert (await collect(ctx, dut.reader.data[0], 20))[:3] == [1, 2, 3]
        await ctx.tick().repeat(4)
        assert ctx.get(dut.reader.error) and ctx.get(dut.reader.idle)

    simulate(dut, main)


def test_output_is_kept_by_bytes():
    dut = Masters()

    async def main(ctx):
        write = dut.writer.data
        for strobe, base in ((0xFF, 0), (0x0F, 100)):
            await ask(ctx, dut.writer.request, OUTPUT_BASE, 8)
            for i in range(8):
                ctx.set(write.valid, 1)
                ctx.set(write.payload, {"data": (base + i) * 0x1_0000_0001, "strobe": strobe})
                await ctx.tick().until(write.ready)
            ctx.set(write.valid, 0)
        await ctx.tick().until(dut.writer.idle)
        assert not ctx.get(dut.writer.error)
        for i in range(8):
            ctx.set(dut.memory.output_at, i)
            await ctx.tick()
            assert ctx.get(dut.memory.output) == i << 32 | 100 + i

    simulate(dut, main)
