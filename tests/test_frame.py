# SPDX-License-Identifier: BSD-2-Clause
"""LOAD: frames of several patch sizes and residual rows reach the right place of the buffers."""

from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator

from rtl import isa
from rtl.config import named
from rtl.frame import LoadUnit
from tests.stalls import KINDS, stalls

LIMIT = 20000
TINY = named("tiny")
FRAMES, MODEL = 0x7_0000_1000, 0x9_0000_2000
#: A frame of 3 x 2 patches of 12 x 12 pixels, and a row of the residual of 48 channels.
FRAME = {"kind": isa.LoadKind.FRAME, "row_bytes": 36, "count": 3, "lines": 2, "patch_rows": 12,
         "stride": 36}
FRAME_BYTES = 3 * 36 * 2 * 12
RESIDUAL = {"kind": isa.LoadKind.RESIDUAL, "row_bytes": 96, "count": 5, "lines": 1,
            "patch_rows": 1, "stride": TINY.words(48)}


class Bench:
    """A memory, the buffers and a dispatcher around a load unit.

    ``frames`` and ``model`` are what is at their addresses. ``requests`` is what was asked for,
    ``written`` what the buffers hold, as (buffer, bank, address) -> bytes.
    """

    def __init__(self, config=TINY, *, frames=b"", model=b"", kind="none", residual="none",
                 **arguments):
        self.config, self.dut = config, LoadUnit(config)
        self.memory = {FRAMES: frames, MODEL: model}
        self.arguments = {"frame_addr": FRAMES, "model_addr": MODEL, "frame_bytes": 1 << 20,
                          "model_bytes": 1 << 20, "images": 1} | arguments
        self.held, self.residual_held = stalls(kind, 1), stalls(residual, 2)
        self.requests: list[tuple] = []
        self.written: dict[tuple[str, int, int], bytes] = {}
        self.error = isa.Error.NONE
        self.busy = self.urgent = False
        self.beats: list[int] = []
        self.waiting = None     # a unit for the residual that was not taken
        self.cycle = 0

    def _beats(self, address, count):
        base = max((at for at in self.memory if at <= address), default=FRAMES)
        size = self.config.port_bits // 8
        held = self.memory[base][address - base:address - base + count * size]
        held = held.ljust(count * size, b"\xaa")
        return [int.from_bytes(held[i:i + size], "little") for i in range(0, len(held), size)]

    async def step(self, ctx):
        dut, width = self.dut, self.config.block
        may = not next(self.held)
        ctx.set(dut.request.ready, may)
        if ctx.get(dut.request.valid) and may:
            assert not self.beats
            self.requests.append((ctx.get(dut.request.p.address), ctx.get(dut.request.p.beats)))
            self.beats = self._beats(*self.requests[-1])
            valid = False
        else:
            valid = bool(self.beats) and not next(self.held)
        ctx.set(dut.data.valid, valid)
        ctx.set(dut.data.payload, self.beats[0] if valid else 0)
        ready = not next(self.residual_held)
        ctx.set(dut.residual_ready, ready)
        word = ctx.get(dut.write_data.as_value()).to_bytes(2 * width, "little")
        enables = ctx.get(dut.patch_en), ctx.get(dut.residual_en)
        assert not (enables[0] and enables[1])
        unit = (enables[1], ctx.get(dut.write_addr), word)
        assert self.waiting in (None, unit), "a unit of the residual changed before it was taken"
        self.waiting = unit if enables[1] and not ready else None
        for name, enable in zip(("patch", "residual"), enables, strict=True):
            assert enable.bit_count() <= 1
            if enable and self.waiting is None:
                key = (name, enable.bit_length() - 1, ctx.get(dut.write_addr))
                assert key not in self.written, f"{key} is written twice"
                self.written[key] = word[width:] if name == "patch" else word
        if valid and ctx.get(dut.data.ready):
            self.beats.pop(0)
        self.error = isa.Error(ctx.get(dut.error))
        self.busy, self.urgent = bool(ctx.get(dut.busy)), bool(ctx.get(dut.urgent))
        self.cycle += 1
        await ctx.tick()

    async def load(self, ctx, fields):
        """Run one LOAD to its end, or error."""
        dut = self.dut
        ctx.set(dut.load, isa.load_layout.const({"opcode": isa.Opcode.LOAD, **fields}))
        ctx.set(dut.start, 1)
        await self.step(ctx)
        assert not self.busy, "it was started while busy"
        ctx.set(dut.start, 0)
        ctx.set(dut.load, isa.load_layout.const({}))  # another instruction is there meanwhile
        for _ in range(LIMIT):
            await self.step(ctx)
            if self.error is not isa.Error.NONE or not self.busy:
                return
            assert self.urgent == (not fields.get("ahead", 0))
        raise AssertionError(f"LOAD did not end in {LIMIT} cycles")

    async def next_round(self, ctx):
        ctx.set(self.dut.next_round, 1)
        await self.step(ctx)
        ctx.set(self.dut.next_round, 0)
        ctx.set(self.dut.odd, not ctx.get(self.dut.odd))

    def run(self, main):
        async def bench(ctx):
            for name, value in self.arguments.items():
                ctx.set(getattr(self.dut, name), value)
            await main(ctx)
            count = len(self.written)
            for _ in range(5):
                await self.step(ctx)
            assert len(self.written) == count, "something was written after the end"

        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        sim.add_testbench(bench)
        sim.run()

    def run_loads(self, *loads):
        async def main(ctx):
            for fields in loads:
                await self.load(ctx, fields)

        self.run(main)
        return self


def _check_frame(bench, frame, fields, first):
    """Compare a frame in the buffer, from a row of it on."""
    config = bench.config
    width, patch = config.block, fields["patch_rows"]
    pitch = -(-fields["row_bytes"] // 16) * 16
    for line in range(fields["lines"]):
        for column in range(fields["count"]):
            row = first + line * fields["count"] + column
            for y in range(patch):
                pixels = frame[line * patch + y, column * patch:(column + 1) * patch].tobytes()
                for at in range(0, len(pixels), width):
                    block = (y * pitch + at) // width
                    key = ("patch", block % config.banks,
                           row * fields["stride"] + block // config.banks)
                    expected = pixels[at:at + width]
                    assert bench.written[key][:len(expected)] == expected, (
                        f"patch {row} block {block}")


def _check_residual(bench, residual, first):
    config = bench.config
    rows, channels = residual.shape
    stride, size = config.words(channels), config.block
    for row in range(rows):
        for block in range(channels // size):
            key = ("residual", block % config.banks,
                   (first + row) * stride + block // config.banks)
            expected = residual[row, size * block:size * block + size].tobytes()
            assert bench.written[key] == expected, f"row {first + row} block {block}"


def _frames(count, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (count, 24, 36, 3), dtype=np.uint8)


def _residual(rows, channels=48, seed=1):
    return np.random.default_rng(seed).integers(-32768, 32768, (rows, channels)).astype("<i2")


@pytest.mark.parametrize("name", ["tiny", "tiny-8x8", "kv260", "zcu102"])
@pytest.mark.parametrize("patch", [16, 12, 14])
@pytest.mark.parametrize("kind", KINDS[:2])
def test_frame(name, patch, kind):
    config = named(name)
    columns, lines, first = 3, 2, 1
    rng = np.random.default_rng(patch)
    frame = rng.integers(0, 256, (lines * patch, columns * patch, 3), dtype=np.uint8)
    pitch = -(-3 * patch // 16) * 16
    fields = {"kind": isa.LoadKind.FRAME, "row_bytes": 3 * patch, "offset": 0, "first": first,
              "count": columns, "lines": lines, "patch_rows": patch,
              "stride": -(-pitch * patch // (config.banks * config.block))}
    bench = Bench(config, frames=frame.tobytes(), kind=kind).run_loads(fields)
    assert bench.requests == [(FRAMES, -(-frame.size // (config.port_bits // 8)))]
    assert len(bench.written) == lines * columns * patch * -(-3 * patch // config.block)
    _check_frame(bench, frame, fields, first)


@pytest.mark.parametrize("residual_kind", KINDS)
@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("name", ["tiny", "tiny-8x8", "kv260"])
def test_residual(name, kind, residual_kind):
    """It waits until the passes leave room to write, and loses nothing meanwhile."""
    config = named(name)
    residual = _residual(5)
    bench = Bench(config, model=bytes(64) + residual.tobytes(), kind=kind, residual=residual_kind)
    bench.run_loads(RESIDUAL | {"offset": 64, "first": 2, "stride": config.words(48)})
    assert bench.requests == [(MODEL + 64, residual.nbytes // (config.port_bits // 8))]
    assert len(bench.written) == residual.size // config.block
    _check_residual(bench, residual, 2)


def test_a_load_has_not_ended_before_its_last_unit_is_taken():
    bench = Bench(model=_residual(1).tobytes())
    bench.residual_held = iter([True] * 500 + [False] * 100)

    async def main(ctx):
        await bench.load(ctx, RESIDUAL | {"count": 1})
        assert bench.cycle > 500
        assert len(bench.written) == 3

    bench.run(main)


def test_frames_do_not_wait_for_the_residual():
    frame, = _frames(1)
    bench = Bench(frames=frame.tobytes())
    bench.residual_held = iter([True] * LIMIT)
    _check_frame(bench.run_loads(FRAME), frame, FRAME, 0)


@pytest.mark.parametrize("images", range(1, isa.SEGMENTS + 1))
@pytest.mark.parametrize("gap", [0, 64])
def test_frames_of_rounds(images, gap):
    """The first of a run is loaded in its round, all others ahead, or not, as programs do."""
    rounds, stride = 3, FRAME_BYTES + gap
    frames = _frames(rounds * images)
    memory = b"".join(frame.tobytes() + bytes(gap) for frame in frames)
    bench = Bench(frames=memory, images=images, frame_stride=stride, frame_bytes=len(memory))
    beat = TINY.port_bits // 8

    async def main(ctx):
        async def load(image, ahead):
            bench.written.clear()
            await bench.load(ctx, FRAME | {"image": image, "ahead": ahead})
            assert bench.error is isa.Error.NONE
            number = images * (r + ahead) + image
            assert bench.requests[-1] == (FRAMES + number * stride, FRAME_BYTES // beat)
            _check_frame(bench, frames[number], FRAME, 0)

        for r in range(rounds):
            if r == 0:
                await load(0, ahead=0)
            for image in range(1, images):
                await load(image, ahead=0)
            if r < rounds - 1:
                await load(0, ahead=1)
                await load(images - 1, ahead=1)
                await bench.next_round(ctx)

    bench.run(main)


def test_frames_without_a_stride_are_one():
    frame, = _frames(1)
    bench = Bench(frames=frame.tobytes(), images=4, frame_bytes=FRAME_BYTES)

    async def main(ctx):
        await bench.next_round(ctx)
        await bench.load(ctx, FRAME | {"image": 3, "ahead": 1})

    bench.run(main)
    assert bench.requests[0][0] == FRAMES
    _check_frame(bench, frame, FRAME, 0)


@pytest.mark.parametrize("rounds", range(3))
@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("alternate", [0, 1])
def test_rows_of_the_residual_alternate(rounds, ahead, alternate):
    """Rows of even and odd rounds; ahead, those of the next round. The bytes are the same ones."""
    residual = _residual(5)
    config = replace(TINY, max_tokens=16)
    assert config.residual_rows >= 2 * 16
    bench = Bench(config, model=residual.tobytes(), row_step=16, frame_stride=1 << 16, images=3)

    async def main(ctx):
        for _ in range(rounds):
            await bench.next_round(ctx)
        await bench.load(ctx, RESIDUAL | {"ahead": ahead, "alternate": alternate, "first": 3})

    bench.run(main)
    assert bench.error is isa.Error.NONE
    assert bench.requests[0][0] == MODEL
    _check_residual(bench, residual, 3 + 16 * (alternate and (rounds + ahead) % 2))


@pytest.mark.parametrize("fields", [FRAME | {"image": 1}, RESIDUAL | {"alternate": 1}],
                         ids=["frame", "residual"])
def test_a_round_may_end_right_behind_a_load(fields):
    """What is ahead is of the next round as it was at the start, three cycles before an END."""
    frames, residual = _frames(6), _residual(5)
    bench = Bench(frames=frames.tobytes(), model=residual.tobytes(), images=2, row_step=16,
                  frame_stride=FRAME_BYTES)

    async def main(ctx):
        dut = bench.dut
        ctx.set(dut.load, isa.load_layout.const({"opcode": isa.Opcode.LOAD, "ahead": 1, **fields}))
        ctx.set(dut.start, 1)
        await bench.step(ctx)
        ctx.set(dut.start, 0)
        for _ in range(2):
            await bench.step(ctx)
        ctx.set(dut.next_round, 1)
        ctx.set(dut.odd, 1)
        await bench.step(ctx)
        ctx.set(dut.next_round, 0)
        while bench.busy:
            await bench.step(ctx)

    bench.run(main)
    if fields["kind"] == isa.LoadKind.FRAME:
        assert bench.requests[0][0] == FRAMES + 3 * FRAME_BYTES
        _check_frame(bench, frames[3], fields, 0)
    else:
        _check_residual(bench, residual, 16)


def test_loads_of_both_kinds_follow_each_other():
    """Nothing of one is left in the other; the last bytes of a beat may belong to none."""
    frame, = _frames(1)
    residual = _residual(5)
    short = RESIDUAL | {"count": 1}
    bench = Bench(frames=frame.tobytes(), model=residual.tobytes(), kind="random",
                  residual="random")

    async def main(ctx):
        for fields in (FRAME, RESIDUAL, short | {"first": 9}, FRAME | {"first": 20},
                       FRAME | {"first": 40}, short | {"first": 10, "offset": 96}):
            await bench.load(ctx, fields)

    bench.run(main)
    for first in (0, 20, 40):
        _check_frame(bench, frame, FRAME, first)
    _check_residual(bench, residual, 0)
    _check_residual(bench, residual[:1], 9)
    _check_residual(bench, residual[1:2], 10)


ROWS = {"kind": isa.LoadKind.RESIDUAL, "row_bytes": 96, "patch_rows": 1, "lines": 1}


@pytest.mark.parametrize(("fields", "arguments", "error"), [
    ({}, {"frame_bytes": FRAME_BYTES - 16}, isa.Error.BAD_ADDRESS),
    ({"offset": 32}, {"frame_bytes": FRAME_BYTES}, isa.Error.BAD_ADDRESS),
    ({"first": TINY.max_tokens - 1}, {}, isa.Error.BAD_FIELD),
    ({"first": 0xFFFF}, {}, isa.Error.BAD_FIELD),
    ({"count": 0}, {}, isa.Error.BAD_FIELD),
    ({"row_bytes": 65}, {}, isa.Error.BAD_FIELD),
    # Rows of which a product of too few bits would make few and short ones.
    ({"count": 0x8001, "lines": 0x8000}, {}, isa.Error.BAD_FIELD),
    ({"row_bytes": 0x8001, "patch_rows": 0x8000}, {"frame_bytes": (1 << 32) - 1},
     isa.Error.BAD_FIELD),
    ({"kind": isa.LoadKind.RESIDUAL, "row_bytes": 144, "patch_rows": 1}, {}, isa.Error.BAD_FIELD),
    # The residual has other rows than the patch buffer.
    (ROWS | {"count": 3, "first": TINY.residual_rows - 2}, {}, isa.Error.BAD_FIELD),
    (ROWS | {"count": TINY.max_tokens + 1}, {}, isa.Error.BAD_FIELD),
    (ROWS | {"alternate": 1, "ahead": 1, "first": TINY.residual_rows - 10}, {"row_step": 8},
     isa.Error.BAD_FIELD),
    (ROWS | {"alternate": 1, "ahead": 1, "first": 0xFFFF}, {"row_step": 0xFFFF},
     isa.Error.BAD_FIELD),
    # Frames of later images.
    ({"ahead": 1}, {"frame_bytes": 2 * FRAME_BYTES - 16, "frame_stride": FRAME_BYTES},
     isa.Error.BAD_ADDRESS),
    ({"image": 3}, {"frame_bytes": 4 * FRAME_BYTES - 16, "frame_stride": FRAME_BYTES},
     isa.Error.BAD_ADDRESS),
    ({"image": 1}, {"frame_stride": FRAME_BYTES + 4}, isa.Error.BAD_ADDRESS),
    ({"image": 1}, {"frame_stride": 0xFFFF_FFF0}, isa.Error.BAD_ADDRESS),
    ({"image": 3}, {"frame_stride": 0xAAAA_AAB0, "frame_bytes": 0xFFFF_FFFF},
     isa.Error.BAD_ADDRESS),
    ({"image": 3, "ahead": 1}, {"frame_stride": 0x8000_0000, "images": 4},
     isa.Error.BAD_ADDRESS),
])
def test_faults(fields, arguments, error):
    assert (TINY.max_patch, TINY.max_width) == (768, 64)
    bench = Bench(frames=bytes(4096), model=bytes(4096), **arguments)
    bench.run_loads({**FRAME, **fields})
    assert bench.error is error
    assert not bench.requests
    assert bench.busy, "a unit that has failed takes no further load"


@pytest.mark.parametrize(("fields", "arguments"), [
    ({}, {"frame_bytes": FRAME_BYTES}),
    ({"first": TINY.max_tokens - 6}, {}),
    (ROWS | {"count": 3, "first": TINY.residual_rows - 3, "stride": 3}, {}),
    ({"image": 3}, {"frame_bytes": 4 * FRAME_BYTES, "frame_stride": FRAME_BYTES}),
])
def test_loads_at_a_limit(fields, arguments):
    bench = Bench(**arguments).run_loads({**FRAME, **fields})
    assert bench.error is isa.Error.NONE
    assert bench.written
