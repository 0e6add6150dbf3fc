# SPDX-License-Identifier: BSD-2-Clause
"""Logits: what END writes of one and of several images, around a beat and a tile, and ties."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from rtl import isa
from rtl.config import named
from rtl.logits import LogitUnit


def _end(config, *images, window=1 << 16, stride=0x1000, stall=0.0, starts=1):
    """Store the logits of every image, run END, as often as ``starts`` says.

    Return the requests, the words written, the last top class, the images done, and the error.
    """
    dut = LogitUnit(config)
    rng = np.random.default_rng(5)
    got: dict[str, object] = {"requests": [], "words": [], "cycles": [], "done": []}

    async def bench(ctx):
        ctx.set(dut.output_addr, 0x4000)
        ctx.set(dut.output_bytes, window)
        ctx.set(dut.output_stride, stride)
        for image, logits in enumerate(images):
            for tile in range(-(-len(logits) // config.columns)):
                lanes = list(logits[tile * config.columns:(tile + 1) * config.columns])
                ctx.set(dut.write_en, 1)
                ctx.set(dut.write_addr, image * config.class_tiles + tile)
                ctx.set(dut.write_data, lanes + [99999] * (config.columns - len(lanes)))
                await ctx.tick()
        ctx.set(dut.write_en, 0)
        cycle = 0
        for _ in range(starts):
            ctx.set(dut.classes, len(images[0]))
            ctx.set(dut.images, len(images))
            for image in range(isa.SEGMENTS):
                ctx.set(dut.tokens[image], 100 + image)
            ctx.set(dut.start, 1)
            await ctx.tick()
            for port in (dut.start, dut.classes, dut.images, *dut.tokens):
                ctx.set(port, 0)
            ctx.set(dut.request.ready, 1)
            pending = False
            while ctx.get(dut.busy):
                assert cycle < starts * (40 * len(images) * len(images[0]) + 400), "no end"
                if ctx.get(dut.request.valid):
                    got["requests"].append((ctx.get(dut.request.p.address),
                                            ctx.get(dut.request.p.beats)))
                ready = rng.random() >= stall
                ctx.set(dut.data.ready, ready)
                ctx.set(dut.cycle, cycle)
                # Nothing is written before it has been handed over.
                asked = sum(beats for _, beats in got["requests"])
                ctx.set(dut.written, len(got["cycles"]) == asked and rng.random() < 0.3)
                valid = ctx.get(dut.data.valid)
                assert valid or not pending, "valid was taken back"
                pending = valid and not ready
                if valid and ready:
                    assert ctx.get(dut.data.p.strobe) == (1 << config.port_bits // 8) - 1
                    beat = ctx.get(dut.data.p.data).to_bytes(config.port_bits // 8, "little")
                    got["words"] += np.frombuffer(beat, "<i4").tolist()
                    got["cycles"].append(cycle)
                got["error"] = isa.Error(ctx.get(dut.error))
                if got["error"] is not isa.Error.NONE:
                    return
                await ctx.tick()
                cycle += 1
            got["done"].append(ctx.get(dut.images_done))
        got["top"] = ctx.get(dut.top_class)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return got


def _output(logits, tokens, cycle):
    """Return what is written of an image."""
    top = int(np.argmax(logits))
    padding = [0] * (-len(logits) % 4)
    return [*logits, *padding, top, logits[top], cycle, tokens]


@pytest.mark.parametrize("name", ["tiny", "zcu102"])
@pytest.mark.parametrize("classes", [2, 3, 4, 15, 16])
@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_end(name, classes, stall):
    config = named(name)
    rng = np.random.default_rng(classes)
    logits = rng.integers(-(1 << 26), 1 << 26, classes).tolist()
    got = _end(config, logits, stall=stall)
    cycle = got["words"][-2]
    # The word is made before its beat is complete and taken.
    assert 0 < cycle < got["cycles"][-1]
    assert got["words"] == _output(logits, 100, cycle)
    assert got["top"] == int(np.argmax(logits))
    assert got["requests"] == [(0x4000, len(got["words"]) * 32 // config.port_bits)]
    assert got["done"] == [1]


@pytest.mark.parametrize(("name", "count"), [("tiny", 2), ("zcu102", 3), ("zcu102", 4)])
@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_images_of_two_rounds(name, count, stall):
    config = named(name)
    rng = np.random.default_rng(count)
    images = rng.integers(-(1 << 26), 1 << 26, (count, 13)).tolist()
    got = _end(config, *images, stall=stall, starts=2)
    words = np.reshape(got["words"], (2 * count, 20))
    for i, output in enumerate(words):
        assert output.tolist() == _output(images[i % count], 100 + i % count, output[-2])
    assert (np.diff(words[:count, -2]) > 0).all()
    assert got["top"] == int(np.argmax(images[-1]))
    assert got["requests"] == [(0x4000 + 0x1000 * i, 20 * 32 // config.port_bits)
                               for i in range(2 * count)]
    assert got["done"] == [count, 2 * count]


def test_several_tiles():
    config = named("zcu102")
    rng = np.random.default_rng(1)
    logits = rng.integers(-(1 << 20), 1 << 20, 130).tolist()
    got = _end(config, logits)
    assert got["words"][:130] == logits
    assert got["top"] == int(np.argmax(logits))


@pytest.mark.parametrize("logits", [[5, 5, 5], [-7, -3, -3, -9], [-(1 << 26)] * 5])
def test_first_of_equal_logits_is_top(logits):
    assert _end(named("tiny"), logits)["top"] == int(np.argmax(logits))


@pytest.mark.parametrize(("window", "stride", "requests"), [
    (44, 0x1000, 0), (48 + 0xFFF, 0x1000, 1), (1 << 16, 0x1010, 1)])
def test_window(window, stride, requests):
    images = [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]]
    got = _end(named("tiny"), *images, window=window, stride=stride)
    assert got["error"] is isa.Error.BAD_ADDRESS
    assert len(got["requests"]) == requests
    assert got["words"] == ([] if not requests else _output(images[0], 100, got["words"][-2]))
