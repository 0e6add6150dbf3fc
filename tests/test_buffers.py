# SPDX-License-Identifier: BSD-2-Clause
"""Buffers: the key transposition for every channel and token, banks, and the delay."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from rtl.buffers import DelayBuffer, KeyBuffer, StreamBuffer, ValueBuffer
from rtl.config import Config, named

#: As narrow as an array row and of as few tokens: one tile of keys.
ONE_TILE = Config(**{**named("tiny").to_dict(), "max_tokens": 16, "max_width": 16})


def _run(dut, bench):
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


@pytest.mark.parametrize(("config", "tiles"), [
    (named("tiny"), 2), (named("small"), 2), (ONE_TILE, 1)], ids=["tiny", "small", "one tile"])
def test_key_buffer_transposes(config, tiles):
    dut = KeyBuffer(config)
    assert len(dut.read_base) >= 1, "a port of no bits is not portable Verilog"
    lanes = config.columns
    rng = np.random.default_rng(1)
    stride = tiles
    tokens = tiles * lanes
    keys = rng.integers(-127, 128, (tokens, stride * lanes))

    async def bench(ctx):
        ctx.set(dut.write_en, 1)
        for tile in range(stride):
            for t in range(tokens):
                word = keys[t, tile * lanes:(tile + 1) * lanes]
                ctx.set(dut.write_addr, ((t // lanes) * stride + tile) * lanes + t % lanes)
                ctx.set(dut.write_data, [int(v) for v in word])
                await ctx.tick()
        ctx.set(dut.write_en, 0)
        await ctx.tick().repeat(dut.write_latency)
        asked = [(tt, c) for tt in range(tokens // lanes) for c in range(stride * lanes)]
        for i in range(len(asked) + dut.latency):
            if i < len(asked):
                tt, c = asked[i]
                ctx.set(dut.read_base, tt * stride + c // lanes)
                ctx.set(dut.read_channel, c % lanes)
            if i >= dut.latency:
                tt, c = asked[i - dut.latency]
                got = [ctx.get(dut.read_data[j]) for j in range(lanes)]
                expected = keys[tt * lanes:(tt + 1) * lanes, c].tolist()
                assert got == expected, f"token tile {tt}, channel {c}: {expected} != {got}"
            await ctx.tick()

    _run(dut, bench)


@pytest.mark.parametrize("name", ["tiny", "tiny-8x8", "small"])
def test_keys_that_begin_within_a_tile(name):
    """The tokens of a segment begin anywhere: the rest of a column tile is in the tile after."""
    config = named(name)
    dut = KeyBuffer(config)
    lanes, stride, tiles = config.columns, 2, 3
    keys = np.random.default_rng(4).integers(-127, 128, (tiles * lanes, stride * lanes))

    async def bench(ctx):
        ctx.set(dut.write_en, 1)
        for tile in range(stride):
            for t in range(tiles * lanes):
                ctx.set(dut.write_addr, ((t // lanes) * stride + tile) * lanes + t % lanes)
                ctx.set(dut.write_data, keys[t, tile * lanes:(tile + 1) * lanes].tolist())
                await ctx.tick()
        ctx.set(dut.write_en, 0)
        await ctx.tick().repeat(dut.write_latency)
        # Every start with every channel; what one reads says nothing about the next.
        asked = [(tile, (start + c) % lanes, c) for tile in range(tiles - 1)
                 for start in range(lanes) for c in range(stride * lanes)]
        for i in range(len(asked) + dut.latency):
            if i < len(asked):
                tile, start, c = asked[i]
                ctx.set(dut.read_base, tile * stride + c // lanes)
                ctx.set(dut.read_after, (tile + 1) * stride + c // lanes)
                ctx.set(dut.read_start, start)
                ctx.set(dut.read_channel, c % lanes)
            if i >= dut.latency:
                tile, start, c = asked[i - dut.latency]
                first = tile * lanes + start
                got = [ctx.get(dut.read_data[j]) for j in range(lanes)]
                assert got == keys[first:first + lanes, c].tolist(), (
                    f"token tile {tile} from {start} on, channel {c}")
            await ctx.tick()

    _run(dut, bench)


def test_stream_buffer_banks_are_independent():
    config = named("small")
    dut = StreamBuffer(config, bits=8, depth=8)

    async def bench(ctx):
        for addr in range(8):
            for bank in range(config.banks):
                ctx.set(dut.write_en, 1 << bank)
                ctx.set(dut.write_addr, addr)
                ctx.set(dut.write_data[bank], 100 * addr + bank)
                await ctx.tick()
        ctx.set(dut.write_en, 0)
        ctx.set(dut.read_addr, [3, 5])
        await ctx.tick()
        assert [ctx.get(dut.read_data[b]) for b in range(2)] == [300, 501]

    _run(dut, bench)


@pytest.mark.parametrize("name", ["tiny", "kv260"])
def test_value_buffer_writes_blocks(name):
    config = named(name)
    dut = ValueBuffer(config)
    rng = np.random.default_rng(3)
    blocks = config.column_blocks
    held = np.zeros((5, blocks, 16), np.int64)

    async def bench(ctx):
        for _ in range(60):
            addr, enable = int(rng.integers(5)), int(rng.integers(1 << blocks))
            word = rng.integers(-128, 128, (blocks, 16))
            ctx.set(dut.write_addr, addr)
            ctx.set(dut.write_en, enable)
            ctx.set(dut.write_data, word.ravel().tolist())
            ctx.set(dut.read_addr, addr)
            await ctx.tick()
            assert [ctx.get(v) for v in dut.read_data] == held[addr].ravel().tolist()
            ctx.set(dut.write_en, 0)
            await ctx.tick()
            for block in range(blocks):
                if enable >> block & 1:
                    held[addr, block] = word[block]
            got = np.reshape([ctx.get(v) for v in dut.read_data], (blocks, 16))
            assert (got == held[addr]).all(), f"word {addr}, blocks {enable:b}: {got - held[addr]}"

    _run(dut, bench)


@pytest.mark.parametrize("cycles", [2, 3, 17])
def test_delay_buffer(cycles):
    dut = DelayBuffer(width=8, cycles=cycles)

    async def bench(ctx):
        for i in range(60):
            ctx.set(dut.i, i)
            if i >= cycles:
                assert ctx.get(dut.o) == i - cycles, f"cycle {i}"
            await ctx.tick()

    _run(dut, bench)


def test_delay_buffer_too_short():
    with pytest.raises(ValueError, match="of 1 cycles was asked for, needs at least 2"):
        DelayBuffer(width=8, cycles=1)
