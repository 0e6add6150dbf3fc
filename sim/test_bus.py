# SPDX-License-Identifier: BSD-2-Clause
"""The memory ports of the emitted Verilog under cocotb: stalls, bus errors, soft resets."""

import random
from typing import Any

import cocotb
import pytest
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiResp

from rtl.isa import INSTRUCTION_BYTES, Error
from sim.cocotb_bench import Bench
from sim.device import FRAME_BASE, MODEL_BASE, OUTPUT_BASE


@cocotb.test()
async def random_pauses(dut: Any) -> None:
    """Every channel held up at random: the same bytes."""
    bench = await Bench.start(dut)
    for seed in (1, 2, 3):
        bench.pause(seed)
        await bench.begin(seed % 2)
        await bench.finish(seed % 2)


def places(bench: Bench) -> dict[str, int]:
    """An address in every part of memory that is read."""
    image = len(bench.case.image)
    return {"first instruction": MODEL_BASE, "program": MODEL_BASE + 20 * INSTRUCTION_BYTES + 8,
            "weights": MODEL_BASE + image // 2, "last weights": MODEL_BASE + image - 4,
            "frame": FRAME_BASE + len(bench.case.frames[0]) // 2}


@cocotb.test()
async def read_errors(dut: Any) -> None:
    """An error on any read ends the image with an error code; the next image is right."""
    bench = await Bench.start(dut)
    for name, address in places(bench).items():
        for response in (AxiResp.SLVERR, AxiResp.DECERR):
            bench.faults.reads = {address: response}
            await bench.begin()
            await bench.interrupt()
            error = Error(await bench.read("ERROR"))
            assert error == Error.BUS_READ, f"{response.name} in the {name}: {error}"
            assert not bench.faults.reads, f"the {name} was not read"
            await bench.soft_reset()
        await bench.begin()
        await bench.finish()


@cocotb.test()
async def write_errors(dut: Any) -> None:
    """An error on a write of the output, the last one too, ends the image with an error code."""
    bench = await Bench.start(dut)
    for offset in (0, bench.output_bytes - 1):
        for response in (AxiResp.SLVERR, AxiResp.DECERR):
            bench.faults.writes = {OUTPUT_BASE + offset: response}
            await bench.begin()
            await bench.interrupt()
            error = Error(await bench.read("ERROR"))
            assert error == Error.BUS_WRITE, f"{response.name} at {offset}: {error}"
            await bench.soft_reset()
    await bench.begin(1)
    await bench.finish(1)


@cocotb.test()
async def soft_resets(dut: Any) -> None:
    """A soft reset at any time leaves the ports at rest and the core ready."""
    bench = await Bench.start(dut)
    bench.pause(5)
    generator = random.Random(7)
    for attempt in range(8):
        await bench.begin()
        await ClockCycles(dut.ap_clk, generator.randrange(1, bench.case.array_cycles))
        await bench.soft_reset()
        if attempt % 4 == 3:
            await bench.begin(1)
            await bench.finish(1)


@cocotb.test()
async def resets(dut: Any) -> None:
    """After ap_rst_n in the middle of an image the core runs the next one."""
    bench = await Bench.start(dut)
    await bench.begin()
    await ClockCycles(dut.ap_clk, 500)
    dut.ap_rst_n.value = 0
    await ClockCycles(dut.ap_clk, 5)
    dut.ap_rst_n.value = 1
    await ClockCycles(dut.ap_clk, 5)
    await bench.set_arguments()
    await bench.begin(1)
    await bench.finish(1)


@pytest.mark.parametrize("test", ["random_pauses", "read_errors", "write_errors", "soft_resets",
                                  "resets"])
def test_bus(test: str) -> None:
    from sim.cocotb_run import launch  # not when the simulation imports this file

    launch("sim.test_bus", test)
