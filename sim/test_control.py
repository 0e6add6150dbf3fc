# SPDX-License-Identifier: BSD-2-Clause
"""Control of the emitted Verilog under cocotb: registers, start, done, interrupt, counters."""

import random
from typing import Any

import cocotb
import pytest
from cocotb.triggers import ClockCycles

from rtl.isa import Stall
from rtl.registers import REGISTERS, Access, RunState, constants
from sim.cocotb_bench import CONFIG, Bench

#: Bits of CTRL.
START, DONE, IDLE, READY = 1, 2, 4, 8


@cocotb.test()
async def registers(dut: Any) -> None:
    """Identity, arguments that hold what is written, read-only registers that do not."""
    bench = await Bench.start(dut)
    for name, value in constants(CONFIG).items():
        assert await bench.read(name) == value, name
    generator = random.Random(1)
    for register in REGISTERS:
        if register.name in ("CTRL", "ISR", "SOFT_RESET"):
            continue
        before = await bench.read(register.name)
        value = generator.getrandbits(register.width)
        await bench.write(register.name, value)
        mask = sum(field.mask for field in register.fields if field.access is Access.RW)
        assert await bench.read(register.name) == before & ~mask | value & mask, register.name
    assert await bench.control.read_dword(0xFFC) == 0, "an unmapped address reads as zero"


@cocotb.test()
async def one_image(dut: Any) -> None:
    """The states of a run as a driver sees them, and its counters."""
    bench = await Bench.start(dut)
    assert await bench.read("CTRL") == IDLE
    assert not dut.interrupt.value
    await bench.begin()
    assert await bench.read("CTRL") & (START | IDLE) == START
    assert await bench.read("STATUS") != RunState.IDLE.value
    await bench.write("MODEL_ADDR", 0)  # without effect while it runs
    await bench.finish()
    assert await bench.read("CTRL") == DONE | IDLE | READY
    assert await bench.read("CTRL") == IDLE, "reading clears done"
    assert await bench.read("STATUS") == RunState.IDLE.value
    assert await bench.read("TOKENS") == bench.case.tokens
    cycles = await bench.read("CYCLES")
    stalls = {cause: await bench.read(f"STALL_{cause}") for cause in Stall.__members__}
    assert sum(stalls.values()) == cycles
    assert stalls["BUSY"] == bench.case.array_cycles
    assert await bench.read("BYTES_READ") >= len(bench.case.frames[0])
    assert await bench.read("BYTES_WRITTEN") == bench.output_bytes


@cocotb.test()
async def interrupt_enables(dut: Any) -> None:
    """Without its enables the interrupt stays low, and a driver can poll."""
    bench = await Bench.start(dut)
    for global_enable, enable, pending in ((1, 0, 0), (0, 1, 1)):
        await bench.write("GIE", global_enable)
        await bench.write("IER", enable)
        await bench.begin()
        for _ in range(100_000):
            if await bench.read("CTRL") & DONE:
                break
        else:
            raise AssertionError("the image does not end")
        assert not dut.interrupt.value
        assert await bench.read("ISR") == pending
        await bench.write("ISR", pending)
        assert await bench.read("ISR") == 0


@cocotb.test()
async def images_in_a_row(dut: Any) -> None:
    """Nothing of one image is left in the next, whatever the time between them."""
    bench = await Bench.start(dut)
    cycles = []
    for frame, gap in ((0, 0), (1, 1), (1, 50), (0, 7)):
        await bench.begin(frame)
        await bench.finish(frame)
        cycles.append(await bench.read("CYCLES"))
        await ClockCycles(dut.ap_clk, gap)
    assert max(cycles) - min(cycles) <= 64, f"the same work took {cycles} cycles"


@pytest.mark.parametrize("test", ["registers", "one_image", "interrupt_enables",
                                  "images_in_a_row"])
def test_control(test: str) -> None:
    from sim.cocotb_run import launch  # not when the simulation imports this file

    launch("sim.test_control", test)
