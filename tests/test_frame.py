# SPDX-License-Identifier: BSD-2-Clause
"""LOAD: frames of several patch sizes and residual rows reach the right place of the buffers."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from rtl import isa
from rtl.config import named
from rtl.frame import LoadUnit

LIMIT = 20000


def _load(config, fields, payload, *, window=1 << 20, stall=0.0):
    """Run one LOAD; return what was written, as (buffer, bank, address) -> bytes, and the error."""
    dut = LoadUnit(config)
    rng = np.random.default_rng(3)
    beat_bytes = config.port_bits // 8
    written: dict[tuple[str, int, int], bytes] = {}
    result = {}

    async def bench(ctx):
        ctx.set(dut.load, isa.load_layout.const({"opcode": isa.Opcode.LOAD, **fields}))
        ctx.set(dut.frame_addr, 0x1000)
        ctx.set(dut.model_addr, 0x2000)
        ctx.set(dut.frame_bytes, window)
        ctx.set(dut.model_bytes, window)
        ctx.set(dut.request.ready, 1)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        at, done = 0, None
        for cycle in range(LIMIT):
            valid = at < len(payload) and rng.random() >= stall
            ctx.set(dut.data.valid, valid)
            ctx.set(dut.data.payload, int.from_bytes(payload[at:at + beat_bytes], "little"))
            if ctx.get(dut.request.valid):
                result["request"] = (ctx.get(dut.request.p.address), ctx.get(dut.request.p.beats))
            if ctx.get(dut.done):
                done = cycle
            for name, en in (("patch", dut.patch_en), ("residual", dut.residual_en)):
                for bank in range(config.banks):
                    if ctx.get(en) >> bank & 1:
                        word = ctx.get(dut.write_data.as_value()).to_bytes(32, "little")
                        key = (name, bank, ctx.get(dut.write_addr))
                        assert key not in written, f"{key} is written twice"
                        written[key] = word[16:] if name == "patch" else word
            if valid and ctx.get(dut.data.ready):
                at += beat_bytes
            result["error"] = isa.Error(ctx.get(dut.error))
            if result["error"] is not isa.Error.NONE or (done is not None and cycle > done + 2):
                break
            await ctx.tick()
        else:
            raise AssertionError(f"LOAD did not end in {LIMIT} cycles")

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return written, result


@pytest.mark.parametrize("name", ["tiny", "kv260", "zcu102"])
@pytest.mark.parametrize("patch", [16, 12, 14])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_frame(name, patch, stall):
    config = named(name)
    columns, lines, first = 3, 2, 1
    rng = np.random.default_rng(patch)
    frame = rng.integers(0, 256, (lines * patch, columns * patch, 3), dtype=np.uint8)
    row_bytes = 3 * patch
    units = -(-row_bytes // 16)
    stride = -(-units * patch // config.banks)
    written, result = _load(
        config, {"kind": isa.LoadKind.FRAME, "row_bytes": row_bytes, "offset": 0, "first": first,
                 "count": columns, "lines": lines, "patch_rows": patch, "stride": stride},
        frame.tobytes() + bytes(16), stall=stall)
    assert result["request"][0] == 0x1000
    assert result["request"][1] == -(-frame.size // (config.port_bits // 8))
    assert len(written) == lines * columns * patch * units
    for line in range(lines):
        for column in range(columns):
            for y in range(patch):
                pixels = frame[line * patch + y, column * patch:(column + 1) * patch].tobytes()
                for u in range(units):
                    block = y * units + u
                    row = first + line * columns + column
                    key = ("patch", block % config.banks, row * stride + block // config.banks)
                    expected = pixels[16 * u:16 * u + 16]
                    assert written[key][:len(expected)] == expected, f"patch {row} block {block}"


@pytest.mark.parametrize("name", ["tiny", "kv260"])
def test_residual(name):
    config = named(name)
    rows, channels = 5, 48
    rng = np.random.default_rng(1)
    residual = rng.integers(-32768, 32768, (rows, channels)).astype("<i2")
    stride = config.words(channels)
    written, result = _load(
        config, {"kind": isa.LoadKind.RESIDUAL, "row_bytes": 2 * channels, "offset": 64,
                 "first": 0, "count": rows, "lines": 1, "patch_rows": 1, "stride": stride},
        residual.tobytes())
    assert result["request"][0] == 0x2000 + 64
    assert len(written) == rows * channels // 16
    for row in range(rows):
        for block in range(channels // 16):
            key = ("residual", block % config.banks, row * stride + block // config.banks)
            expected = residual[row, 16 * block:16 * block + 16].tobytes()
            assert written[key] == expected, f"row {row} block {block}"


@pytest.mark.parametrize(("fields", "window", "error"), [
    ({}, 3 * 36 * 2 * 12 - 16, isa.Error.BAD_ADDRESS),
    ({"offset": 32}, 3 * 36 * 2 * 12, isa.Error.BAD_ADDRESS),
    ({"first": 111}, 1 << 20, isa.Error.BAD_FIELD),
    ({"first": 0xFFFF}, 1 << 20, isa.Error.BAD_FIELD),
    ({"count": 0}, 1 << 20, isa.Error.BAD_FIELD),
    ({"row_bytes": 65}, 1 << 20, isa.Error.BAD_FIELD),
    # Rows of which a product of too few bits would make few and short ones.
    ({"count": 0x8001, "lines": 0x8000}, 1 << 20, isa.Error.BAD_FIELD),
    ({"row_bytes": 0x8001, "patch_rows": 0x8000}, (1 << 32) - 1, isa.Error.BAD_FIELD),
    ({"kind": isa.LoadKind.RESIDUAL, "row_bytes": 144, "patch_rows": 1}, 1 << 20,
     isa.Error.BAD_FIELD),
])
def test_faults(fields, window, error):
    config = named("tiny")
    assert (config.max_patch, config.max_width) == (768, 64)
    good = {"kind": isa.LoadKind.FRAME, "row_bytes": 36, "offset": 0, "first": 0, "count": 3,
            "lines": 2, "patch_rows": 12, "stride": 36}
    _, result = _load(config, {**good, **fields}, bytes(4096), window=window)
    assert result["error"] is error
