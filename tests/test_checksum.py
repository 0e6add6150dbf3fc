# SPDX-License-Identifier: BSD-2-Clause
"""The checksum of a program: software and hardware agree, and it finds what it must."""

import random

import pytest
from amaranth.sim import Simulator

from golden.program import program_checksum, sealed
from rtl.checksum import ProgramCheck, checksum, divided
from rtl.config import CONFIGS
from rtl.isa import CHECKSUM_POLYNOMIAL, INSTRUCTION_BYTES, begin_layout
from tests.stalls import KINDS, stalls

ADDRESS = 0x12_3456_7000


def _image(instructions: int, seed: int = 0) -> bytes:
    """Return a sealed image of random instructions, and something behind them."""
    begin = begin_layout.const({"instructions": instructions}).as_bits()
    rest = random.Random(seed).randbytes(instructions * INSTRUCTION_BYTES)
    return sealed(begin.to_bytes(INSTRUCTION_BYTES, "little") + rest)


def _with(image: bytes, at: int, part: bytes) -> bytes:
    return image[:at] + part + image[at + len(part):]


def test_the_generator_is_primitive():
    """X has the order 2**32 - 1: no two words of a program have the same weight."""
    def power(exponent):
        result, base = 1, 2
        while exponent:
            if exponent & 1:
                result = _product(result, base)
            base, exponent = _product(base, base), exponent >> 1
        return result

    def _product(a, b):
        result = 0
        for i in range(32):
            result ^= a << i if b >> i & 1 else 0
        for i in reversed(range(32, 64)):
            if result >> i & 1:
                result ^= (1 << 32 | CHECKSUM_POLYNOMIAL) << i - 32
        return result

    order = (1 << 32) - 1
    assert power(order) == 1
    assert all(power(order // factor) != 1 for factor in (3, 5, 17, 257, 65537))


def test_divided_undoes_powers_of_x():
    words = [random.Random(1).getrandbits(32) for _ in range(9)]
    total = checksum(words)
    assert divided(checksum([*words, 0, 0, 0]), 3) == total
    assert checksum([]) == 0xFFFFFFFF and checksum([0]) != checksum([])


@pytest.mark.parametrize("instructions", [1, 2, 17, 225])
def test_a_sealed_program_has_the_checksum_zero(instructions):
    image = _image(instructions)
    assert program_checksum(image) == 0
    assert sealed(image) == image
    # What is behind the program does not matter.
    assert program_checksum(image[:-5] + bytes(5)) == 0


def test_changes_are_found():
    image, rng = _image(40), random.Random(2)
    size = 40 * INSTRUCTION_BYTES
    for at in range(INSTRUCTION_BYTES, size):
        assert program_checksum(_with(image, at, bytes([image[at] ^ 1 << rng.randrange(8)])))
    for bit in range(128, 8 * INSTRUCTION_BYTES):
        flipped = int.from_bytes(image[:INSTRUCTION_BYTES], "little") ^ 1 << bit
        assert program_checksum(_with(image, 0, flipped.to_bytes(INSTRUCTION_BYTES, "little")))
    parts = [image[i:i + INSTRUCTION_BYTES] for i in range(0, size, INSTRUCTION_BYTES)]
    for _ in range(100):
        a, b = rng.sample(range(1, 40), 2)
        swapped = _with(_with(image, INSTRUCTION_BYTES * a, parts[b]), INSTRUCTION_BYTES * b,
                        parts[a])
        assert program_checksum(swapped)


@pytest.mark.parametrize("instructions", [0, 3, 1 << 20])
def test_an_image_without_its_program_is_refused(instructions):
    begin = begin_layout.const({"instructions": instructions}).as_bits()
    with pytest.raises(ValueError, match=f"BEGIN says {instructions} instructions, must say 1 to"):
        sealed(begin.to_bytes(INSTRUCTION_BYTES, "little") * 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", [CONFIGS["nano"], CONFIGS["tiny"], CONFIGS["zcu102"]],
                         ids=lambda c: c.name)
@pytest.mark.parametrize("wrong", [False, True])
def test_the_unit_reads_all_of_it(config, kind, wrong):
    count, size = 13, config.port_bits // 8
    image = _image(count)
    if wrong:
        image = _with(image, count * INSTRUCTION_BYTES - 1, bytes([image[-1] ^ 0x55]))
        wrong = program_checksum(image) != 0
    dut = ProgramCheck(config)
    held = [stalls(kind, seed) for seed in (1, 2)]
    ended = []

    async def bench(ctx):
        ctx.set(dut.address, ADDRESS)
        ctx.set(dut.instructions, count)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        left, requests = [], []
        for cycle in range(4000):
            if not ctx.get(dut.busy):
                ended.append((cycle, ctx.get(dut.wrong), requests, left))
                return
            ready = not next(held[0])
            ctx.set(dut.request.ready, ready)
            if ready and ctx.get(dut.request.valid):
                requests.append((ctx.get(dut.request.p.address), ctx.get(dut.request.p.beats)))
                left = [image[i:i + size] for i in range(0, count * INSTRUCTION_BYTES, size)]
            valid = bool(left) and not next(held[1])
            ctx.set(dut.data.valid, valid)
            if valid:
                ctx.set(dut.data.payload, int.from_bytes(left[0], "little"))
                if ctx.get(dut.data.ready):
                    left.pop(0)
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    (cycle, found, requests, left), = ended
    beats = count * INSTRUCTION_BYTES // size
    assert requests == [(ADDRESS, beats)] and not left
    assert found == wrong
    assert kind != "none" or cycle <= beats + 3
