# SPDX-License-Identifier: BSD-2-Clause
"""Logits: what END writes, for every number of classes around a beat and a tile, and ties."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from rtl import isa
from rtl.config import named
from rtl.logits import LogitUnit


def _end(config, logits, *, window=1 << 16, stall=0.0):
    """Store logits, run END; return the request, the words written, the top class, the error."""
    dut = LogitUnit(config)
    rng = np.random.default_rng(5)
    got: dict[str, object] = {"words": []}

    async def bench(ctx):
        ctx.set(dut.output_addr, 0x4000)
        ctx.set(dut.output_bytes, window)
        for tile in range(-(-len(logits) // config.columns)):
            lanes = list(logits[tile * config.columns:(tile + 1) * config.columns])
            ctx.set(dut.write_en, 1)
            ctx.set(dut.write_addr, tile)
            ctx.set(dut.write_data, lanes + [99999] * (config.columns - len(lanes)))
            await ctx.tick()
        ctx.set(dut.write_en, 0)
        ctx.set(dut.classes, len(logits))
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        ctx.set(dut.request.ready, 1)
        pending = False
        for _ in range(40 * len(logits) + 200):
            if ctx.get(dut.request.valid):
                got["request"] = (ctx.get(dut.request.p.address), ctx.get(dut.request.p.beats))
            ready = rng.random() >= stall
            ctx.set(dut.data.ready, ready)
            valid = ctx.get(dut.data.valid)
            assert valid or not pending, "valid was taken back"
            pending = valid and not ready
            if valid and ready:
                assert ctx.get(dut.data.p.strobe) == (1 << config.port_bits // 8) - 1
                beat = ctx.get(dut.data.p.data).to_bytes(config.port_bits // 8, "little")
                got["words"] += np.frombuffer(beat, "<i4").tolist()
            got["error"] = isa.Error(ctx.get(dut.error))
            if ctx.get(dut.done) or got["error"] is not isa.Error.NONE:
                break
            await ctx.tick()
        else:
            raise AssertionError("END did not end")
        got["top"] = ctx.get(dut.top_class)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return got


@pytest.mark.parametrize("name", ["tiny", "zcu102"])
@pytest.mark.parametrize("classes", [2, 3, 4, 15, 16])
@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_end(name, classes, stall):
    config = named(name)
    rng = np.random.default_rng(classes)
    logits = rng.integers(-(1 << 26), 1 << 26, classes).tolist()
    got = _end(config, logits, stall=stall)
    padded = -(-classes // 4) * 4
    top = int(np.argmax(logits))
    expected = logits + [0] * (padded - classes) + [top, logits[top], 0, 0]
    assert got["words"] == expected
    assert got["top"] == top
    assert got["request"] == (0x4000, len(expected) * 32 // config.port_bits)


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


def test_window():
    got = _end(named("tiny"), [1, 2, 3, 4, 5], window=44)
    assert got["error"] is isa.Error.BAD_ADDRESS
    assert "request" not in got
