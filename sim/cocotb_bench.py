# SPDX-License-Identifier: BSD-2-Clause
"""The accelerator under cocotb: registers by name, memory that stalls and fails, whole images."""

import os
import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import (
    AxiBus,
    AxiLiteBus,
    AxiLiteMaster,
    AxiResp,
    AxiSlaveRead,
    AxiSlaveWrite,
)
from cocotbext.axi.sparse_memory import SparseMemory

from rtl.config import named
from rtl.isa import Error
from rtl.logits import output_bytes
from rtl.registers import WORD_BYTES, register
from sim.device import FRAME_BASE, MODEL_BASE, OUTPUT_BASE, Result

__all__ = ["CASE", "CONFIG", "Bench", "Case", "Faults", "pauses"]

#: Configuration that is simulated.
CONFIG = named("tiny")

_CLOCK_NS = 10
#: Environment variable that names the file with the case.
CASE = "HEATVIT_CASE"

@dataclass(frozen=True, eq=False)
class Case:
    """What the tests inside the simulation need: one network, two frames, what comes of them."""

    image: bytes
    classes: int
    tokens: int
    frames: tuple[bytes, ...]
    expected: tuple[Result, ...]
    array_cycles: int

    @classmethod
    def load(cls) -> "Case":
        """Return the case that the test outside of the simulation has made."""
        return pickle.loads(Path(os.environ[CASE]).read_bytes())


def pauses(seed: int) -> Iterator[bool]:
    """Return when a channel is held up: at random, in bursts, or not at all, by turns."""
    generator = random.Random(seed)
    while True:
        rate = generator.choice((0, 0.1, 0.5, 0.9))
        for _ in range(generator.randrange(1, 60)):
            yield generator.random() < rate


class Faults:
    """Addresses that answer with an error, once each."""

    def __init__(self) -> None:
        self.reads: dict[int, AxiResp] = {}
        self.writes: dict[int, AxiResp] = {}

    @staticmethod
    def take(table: dict[int, AxiResp], address: int, size: int) -> AxiResp | None:
        hit = next((at for at in table if address <= at < address + size), None)
        return None if hit is None else table.pop(hit)


class _Read(AxiSlaveRead):
    """Read side of a memory port. The model of cocotbext-axi knows no DECERR: it is put in here."""

    def __init__(self, bus: AxiBus, memory: SparseMemory, faults: Faults, dut: Any) -> None:
        super().__init__(bus, dut.ap_clk, dut.ap_rst_n, reset_active_level=False)
        self.response: AxiResp | None = None
        send = self.r_channel.send

        async def answer(beat: Any) -> None:
            if self.response is not None:
                beat.rresp = self.response
            await send(beat)

        async def read(address: int, length: int) -> bytes:
            self.response = faults.take(faults.reads, address, length)
            return memory[address:address + length]

        self.r_channel.send = answer
        self._read = read


class _Write(AxiSlaveWrite):
    """Write side of a memory port."""

    def __init__(self, bus: AxiBus, memory: SparseMemory, faults: Faults, dut: Any) -> None:
        super().__init__(bus, dut.ap_clk, dut.ap_rst_n, reset_active_level=False)
        self.response: AxiResp | None = None
        send = self.b_channel.send

        async def answer(beat: Any) -> None:
            if self.response is not None:
                beat.bresp = self.response
            self.response = None
            await send(beat)

        async def write(address: int, data: bytes) -> None:
            end = OUTPUT_BASE + self.output_bytes
            assert OUTPUT_BASE <= address and address + len(data) <= end, (
                f"{len(data)} bytes are written at {address:#x}, must be in the output")
            response = faults.take(faults.writes, address, len(data))
            self.response = self.response or response
            memory[address:address + len(data)] = data

        self.output_bytes = 0
        self.b_channel.send = answer
        self._write = write


class Bench:
    """The design in ``dut`` with its clock, its memory and a master on its control port.

    Members
    -------
    case
        The network and the frames.
    faults
        Bus errors to come.
    """

    def __init__(self, dut: Any) -> None:
        self.dut, self.case, self.faults = dut, Case.load(), Faults()
        self.memory = SparseMemory(1 << 64)
        self.control = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_control"), dut.ap_clk,
                                     dut.ap_rst_n, reset_active_level=False)
        bus = AxiBus.from_prefix(dut, "m_axi_gmem0")
        self._read = _Read(bus.read, self.memory, self.faults, dut)
        self._write = _Write(bus.write, self.memory, self.faults, dut)
        self._write.output_bytes = self.output_bytes = output_bytes(self.case.classes)

    @classmethod
    async def start(cls, dut: Any) -> "Bench":
        """Return the bench after reset, the network in memory and the arguments set."""
        dut.ap_rst_n.value = 0
        Clock(dut.ap_clk, _CLOCK_NS, "ns").start()
        bench = cls(dut)
        await ClockCycles(dut.ap_clk, 5)
        dut.ap_rst_n.value = 1
        await ClockCycles(dut.ap_clk, 5)
        bench.memory[MODEL_BASE:MODEL_BASE + len(bench.case.image)] = bench.case.image
        await bench.set_arguments()
        return bench

    async def set_arguments(self) -> None:
        case = self.case
        for name, value in (("MODEL_ADDR", MODEL_BASE), ("FRAME_ADDR", FRAME_BASE),
                            ("OUTPUT_ADDR", OUTPUT_BASE), ("MODEL_BYTES", len(case.image)),
                            ("FRAME_BYTES", len(case.frames[0])),
                            ("OUTPUT_BYTES", self.output_bytes), ("GIE", 1), ("IER", 1)):
            await self.write(name, value)

    def pause(self, seed: int) -> None:
        """Hold up every channel of every port at random."""
        channels = [self._read.ar_channel, self._read.r_channel, self._write.aw_channel,
                    self._write.w_channel, self._write.b_channel,
                    self.control.write_if.aw_channel, self.control.write_if.w_channel,
                    self.control.write_if.b_channel, self.control.read_if.ar_channel,
                    self.control.read_if.r_channel]
        for i, channel in enumerate(channels):
            channel.set_pause_generator(pauses(seed * len(channels) + i))

    async def write(self, name: str, value: int) -> None:
        for i, offset in enumerate(register(name).words):
            await self.control.write_dword(offset, value >> (8 * WORD_BYTES * i) & 0xFFFFFFFF)

    async def read(self, name: str) -> int:
        value = 0
        for i, offset in enumerate(register(name).words):
            value |= await self.control.read_dword(offset) << (8 * WORD_BYTES * i)
        return value

    async def begin(self, frame: int = 0) -> None:
        """Place a frame, poison the output, and start."""
        contents = self.case.frames[frame]
        self.memory[FRAME_BASE:FRAME_BASE + len(contents)] = contents
        self.memory[OUTPUT_BASE:OUTPUT_BASE + self.output_bytes] = b"\xa5" * self.output_bytes
        await self.write("CTRL", 1)

    async def interrupt(self) -> None:
        """Wait for the interrupt and acknowledge it."""
        limit = 40 * (self.case.array_cycles + len(self.case.image)) * _CLOCK_NS
        if not self.dut.interrupt.value:
            await with_timeout(RisingEdge(self.dut.interrupt), limit, "ns")
        await self.write("ISR", 1)
        assert await self.read("ISR") == 0
        await ClockCycles(self.dut.ap_clk, 2)
        assert not self.dut.interrupt.value, "the interrupt is high after its bit was cleared"

    async def finish(self, frame: int = 0) -> None:
        """Wait for the end of an image and compare its output."""
        await self.interrupt()
        error = Error(await self.read("ERROR"))
        assert error == Error.NONE, f"{error} at instruction {await self.read('ERROR_INDEX')}"
        expected = self.case.expected[frame]
        got = Result.decode(
            bytes(self.memory[OUTPUT_BASE:OUTPUT_BASE + self.output_bytes]), self.case.classes)
        np.testing.assert_array_equal(got.logits, expected.logits)
        assert (got.top_class, got.top_logit) == (expected.top_class, expected.top_logit)
        assert await self.read("TOP_CLASS") == expected.top_class

    async def soft_reset(self) -> None:
        """Reset the core through its register and wait until it is idle."""
        await self.write("SOFT_RESET", 1)
        for _ in range(2000):
            if not await self.read("SOFT_RESET"):
                break
        else:
            raise AssertionError("the soft reset does not end")
        assert await self.read("CTRL") & 0b101 == 0b100, "the core is not idle after a soft reset"
        assert not self.dut.interrupt.value
        assert not (self.dut.m_axi_gmem0_arvalid.value or self.dut.m_axi_gmem0_awvalid.value)
