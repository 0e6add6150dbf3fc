# SPDX-License-Identifier: BSD-2-Clause
"""The control port as a driver sees it, and the run controller against a core that misbehaves."""

import random
from dataclasses import replace

import pytest
from amaranth.hdl import Signal
from amaranth.lib import wiring
from amaranth.sim import Simulator, SimulatorContext

from rtl.config import CONFIGS
from rtl.control import Control, ControlRegisters, RunControl
from rtl.isa import Error, Stall
from rtl.registers import (
    ARGUMENTS,
    READBACK,
    REGISTERS,
    STATUS,
    RunState,
    constants,
    readback_words,
    register,
)

CONFIG = CONFIGS["small"]  # two ports of 16 bytes
START = DONE_ENABLE = 1
DONE, IDLE, READY = 2, 4, 8
#: Cycles of TIMEOUT, where it matters.
TIMEOUT = 50


async def ticks(ctx: SimulatorContext, count: int) -> None:
    """Wait; unlike ``tick().repeat``, quietly where another bench fails meanwhile."""
    for _ in range(count):
        await ctx.tick()


async def until(ctx: SimulatorContext, signal: Signal, limit: int = 1000, *,
                value: int = 1) -> int:
    """Return the cycles until a signal has a value."""
    for cycle in range(limit):
        if ctx.get(signal) == value:
            return cycle
        await ctx.tick()
    raise AssertionError(f"{signal.name} is not {value} in {limit} cycles")


class Host:
    """AXI4-Lite master that sends address and data in any order and is slow to take answers."""

    def __init__(self, bus: wiring.PureInterface, *, seed: int = 0, slow: bool = False) -> None:
        self.bus = bus
        self.rng = random.Random(seed)
        self.slow = slow

    def _wait(self) -> int:
        return self.rng.choice((0, 0, 1, 2, 5)) if self.slow else 0

    async def write(self, ctx: SimulatorContext, at: int, value: int, strobe: int = 0xF) -> None:
        bus = self.bus
        address_in, data_in, answer_in = self._wait(), self._wait(), self._wait()
        address_sent = data_sent = False
        for _ in range(100):
            ctx.set(bus.awvalid, not address_sent and address_in <= 0)
            ctx.set(bus.wvalid, not data_sent and data_in <= 0)
            ctx.set(bus.awaddr, at if not address_sent else self.rng.getrandbits(12))
            ctx.set(bus.wdata, value if not data_sent else self.rng.getrandbits(32))
            ctx.set(bus.wstrb, strobe if not data_sent else self.rng.getrandbits(4))
            ctx.set(bus.bready, address_sent and data_sent and answer_in <= 0)
            _, _, awvalid, awready, wvalid, wready, bvalid, bready, bresp = (
                await ctx.tick().sample(bus.awvalid, bus.awready, bus.wvalid, bus.wready,
                                        bus.bvalid, bus.bready, bus.bresp))
            assert not bvalid or (address_sent and data_sent), "answer before address and data"
            assert not bvalid or bresp == 0, f"write to {at:#x}: BRESP is {bresp}"
            address_sent |= bool(awvalid and awready)
            data_sent |= bool(wvalid and wready)
            address_in, data_in, answer_in = address_in - 1, data_in - 1, answer_in - bvalid
            if bvalid and bready:
                ctx.set(bus.bready, 0)
                return
        raise AssertionError(f"write to {at:#x} is not answered")

    async def read(self, ctx: SimulatorContext, at: int) -> int:
        bus = self.bus
        address_in, answer_in = self._wait(), self._wait()
        sent, seen = False, None
        for _ in range(100):
            ctx.set(bus.arvalid, not sent and address_in <= 0)
            ctx.set(bus.araddr, at if not sent else self.rng.getrandbits(12))
            ctx.set(bus.rready, sent and answer_in <= 0)
            _, _, arvalid, arready, rvalid, rready, rdata, rresp = await ctx.tick().sample(
                bus.arvalid, bus.arready, bus.rvalid, bus.rready, bus.rdata, bus.rresp)
            assert not rvalid or sent, "answer before address"
            assert not rvalid or rresp == 0, f"read of {at:#x}: RRESP is {rresp}"
            assert seen is None or (rvalid and rdata == seen), "answer changed before ready"
            seen = rdata if rvalid else None
            sent |= bool(arvalid and arready)
            address_in, answer_in = address_in - 1, answer_in - rvalid
            if rvalid and rready:
                ctx.set(bus.rready, 0)
                return rdata
        raise AssertionError(f"read of {at:#x} is not answered")

    async def get(self, ctx: SimulatorContext, name: str) -> int:
        words = [await self.read(ctx, at) for at in register(name).words]
        return sum(word << 32 * i for i, word in enumerate(words))

    async def set(self, ctx: SimulatorContext, name: str, value: int) -> None:
        for i, at in enumerate(register(name).words):
            await self.write(ctx, at, value >> 32 * i & 0xFFFFFFFF)


def simulate(dut: wiring.Component, main, *background) -> None:
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    for bench in background:
        sim.add_testbench(bench, background=True)
    sim.add_testbench(main)
    sim.run()


# ControlRegisters

@pytest.mark.parametrize("slow", [False, True])
def test_registers_hold_arguments_and_show_status(slow):
    dut = ControlRegisters(CONFIG)
    host = Host(dut.bus, slow=slow)
    rng = random.Random(1)
    shown = {r: rng.getrandbits(r.width) for r in STATUS}
    held = {r: rng.getrandbits(r.width) for r in ARGUMENTS}

    async def main(ctx):
        ctx.set(dut.idle, 1)
        for r in ARGUMENTS:
            assert await host.get(ctx, r.name) == r.reset
        for r, value in shown.items():
            ctx.set(getattr(dut, r.port), value)
        for r, value in held.items():
            await host.set(ctx, r.name, value)
        for r in STATUS:
            await host.set(ctx, r.name, rng.getrandbits(r.width))
        for name in constants(CONFIG):
            await host.set(ctx, name, rng.getrandbits(32))
        for r, value in (shown | held).items():
            got = await host.get(ctx, r.name)
            assert got == value, f"{r.name}: expected {value:#x}, got {got:#x}"
            assert ctx.get(getattr(dut, r.port)) == value
        for name, value in constants(CONFIG).items():
            assert await host.get(ctx, name) == value

    simulate(dut, main)


def test_unmapped_addresses_read_zero_and_ignore_writes():
    dut = ControlRegisters(CONFIG)
    host = Host(dut.bus)
    mapped = {at for r in REGISTERS for at in r.words}
    unmapped = [at for at in (*range(0, 0x100, 4), 0x400, 0x810, 0xFFC) if at not in mapped]

    async def main(ctx):
        ctx.set(dut.idle, 1)
        for r in ARGUMENTS:
            await host.set(ctx, r.name, 0x1234567 + r.offset)
        for at in unmapped:
            await host.write(ctx, at, 0xFFFFFFFF)
            assert await host.get(ctx, "FRAME_BYTES") != 0
            assert await host.read(ctx, at) == 0
        for r in ARGUMENTS:
            assert await host.get(ctx, r.name) == 0x1234567 + r.offset
        assert await host.read(ctx, 0x12) == 0x1234567 + 0x10, "it is the word that counts"

    simulate(dut, main)


@pytest.mark.parametrize("latency", [1, 3, ControlRegisters.READBACK_CYCLES])
@pytest.mark.parametrize("slow", [False, True])
def test_readback_comes_from_the_core(latency, slow):
    """A memory in place of the core, whose answer is rubbish but for the cycle in question."""
    dut = ControlRegisters(CONFIG)
    host = Host(dut.bus, slow=slow)
    rng = random.Random(3)
    held = [rng.getrandbits(32) for _ in range(1 << 10)]
    inside = {at for words in readback_words(CONFIG) for at in words}
    assert {4 * at for at in inside} <= {at for r in READBACK for at in r.words}

    async def core(ctx):
        asked = [0] * (latency + 1)
        while True:
            asked = [ctx.get(dut.readback_at), *asked[:-1]]
            ctx.set(dut.readback, held[asked[latency]])
            await ctx.tick()

    async def main(ctx):
        ctx.set(dut.idle, 1)
        ctx.set(dut.cycles, 0x1234567)
        for words in readback_words(CONFIG):
            for at in range(words.start - 1, words.stop + 2):
                got = await host.read(ctx, 4 * at)
                expected = held[at] if at in inside else 0
                assert got == expected, f"word {at:#x}: expected {expected:#x}, got {got:#x}"
            assert await host.get(ctx, "CYCLES") == 0x1234567
            await host.set(ctx, "GIE", 1)
            await host.write(ctx, 4 * words.start, 0xFFFFFFFF)
            assert await host.read(ctx, 4 * words.start) == held[words.start]

    simulate(dut, main, core)


@pytest.mark.parametrize(("at", "cycles"), [
    (register("CYCLES").offset, 2), (0xFFC, 2),
    (register("SELECTOR_3").offset, 2 + ControlRegisters.READBACK_CYCLES)])
def test_reads_from_the_core_take_longer(at, cycles):
    dut = ControlRegisters(CONFIG)

    async def main(ctx):
        ctx.set(dut.bus.araddr, at)
        ctx.set(dut.bus.arvalid, 1)
        ctx.set(dut.bus.rready, 1)
        assert ctx.get(dut.bus.arready)
        for _ in range(3):
            for cycle in range(cycles):
                assert not ctx.get(dut.bus.rvalid)
                assert ctx.get(dut.bus.arready) == (cycle == 0)
                await ctx.tick()
            assert ctx.get(dut.bus.rvalid)
            assert not ctx.get(dut.bus.arready)
            await ctx.tick()

    simulate(dut, main)


def test_nothing_is_read_back_without_selectors():
    config = replace(CONFIG, pruning=False)
    dut = ControlRegisters(config)
    host = Host(dut.bus)
    assert "readback" not in dut.signature.members
    assert "readback" not in Control(config).signature.members

    async def main(ctx):
        for r in READBACK:
            assert await host.read(ctx, r.offset) == 0

    simulate(dut, main)


def test_writes_respect_strobes():
    dut = ControlRegisters(CONFIG)
    host = Host(dut.bus)
    rng = random.Random(2)

    async def main(ctx):
        ctx.set(dut.idle, 1)
        expected = [0] * 4
        for strobe in range(16):
            value = rng.randbytes(4)
            expected = [value[i] if strobe >> i & 1 else expected[i] for i in range(4)]
            await host.write(ctx, 0x14, int.from_bytes(value, "little"), strobe)
            assert await host.read(ctx, 0x14) == int.from_bytes(bytes(expected), "little")
        for name in ("CTRL", "SOFT_RESET", "ISR"):  # byte 0 is not written
            await host.write(ctx, register(name).offset, 0xFFFFFFFF, 0xE)
            assert not events
        assert await host.get(ctx, "ISR") == 0
        assert await host.get(ctx, "MODEL_ADDR") == ctx.get(dut.model_addr)
        assert await host.read(ctx, 0x10) == 0

    events = []

    async def watch(ctx):
        while True:
            _, _, start, reset = await ctx.tick().sample(dut.start, dut.soft_reset)
            if start or reset:
                events.append((start, reset))

    simulate(dut, main, watch)


def test_arguments_are_locked_and_start_ignored_while_busy():
    dut = ControlRegisters(CONFIG)
    host = Host(dut.bus)

    async def watch(ctx):
        nonlocal starts
        while True:
            _, _, start = await ctx.tick().sample(dut.start)
            starts += start

    async def main(ctx):
        ctx.set(dut.idle, 1)
        for r in ARGUMENTS:
            await host.set(ctx, r.name, 7)
        await host.set(ctx, "CTRL", START)
        assert starts == 1
        ctx.set(dut.idle, 0)
        assert await host.get(ctx, "CTRL") == START
        for r in ARGUMENTS:
            await host.set(ctx, r.name, 8)
            assert await host.get(ctx, r.name) == 7
        await host.set(ctx, "CTRL", START)
        assert starts == 1
        await host.set(ctx, "IER", 3)  # interrupts are not arguments
        assert await host.get(ctx, "IER") == 3

    starts = 0
    simulate(dut, main, watch)


@pytest.mark.parametrize("slow", [False, True])
def test_reading_ctrl_never_loses_an_end(slow):
    """ap_done is cleared by the read that shows it, whenever the run ends."""
    dut = ControlRegisters(CONFIG)
    host = Host(dut.bus, slow=slow)

    async def pulse(ctx):
        ctx.set(dut.idle, 1)
        for cycle in range(61 * 20):
            ctx.set(dut.done, cycle % 61 == 0)  # beside the period of reading
            await ctx.tick()

    async def main(ctx):
        seen = 0
        for _ in range(1500):
            value = await host.get(ctx, "CTRL")
            assert value in (IDLE, IDLE | DONE | READY)
            seen += bool(value & DONE)
        assert seen == 20

    simulate(dut, main, pulse)


def test_interrupt_follows_enables_and_toggles():
    dut = ControlRegisters(CONFIG)
    host = Host(dut.bus)

    async def end(ctx):
        ctx.set(dut.done, 1)
        await ctx.tick()
        ctx.set(dut.done, 0)
        await ticks(ctx, 2)

    async def main(ctx):
        ctx.set(dut.idle, 1)
        await end(ctx)
        assert await host.get(ctx, "ISR") == 0, "what is not enabled is not recorded"
        await host.set(ctx, "IER", DONE_ENABLE)
        await end(ctx)
        assert await host.get(ctx, "ISR") == 1
        assert not ctx.get(dut.interrupt), "GIE is clear"
        await host.set(ctx, "GIE", 1)
        await ctx.tick()
        assert ctx.get(dut.interrupt)
        await host.set(ctx, "IER", 2)
        await ctx.tick()
        assert not ctx.get(dut.interrupt)
        await end(ctx)
        assert await host.get(ctx, "ISR") == 3
        assert ctx.get(dut.interrupt)
        await host.set(ctx, "ISR", 2)
        await ctx.tick()
        assert await host.get(ctx, "ISR") == 1
        assert not ctx.get(dut.interrupt)
        await host.set(ctx, "ISR", 3)
        assert await host.get(ctx, "ISR") == 2, "toggles, so a zero becomes a one"
        await host.set(ctx, "GIE", 0xFFFFFFFF)
        await host.set(ctx, "IER", 0xFFFFFFFF)
        assert await host.get(ctx, "GIE") == 1
        assert await host.get(ctx, "IER") == 3

    simulate(dut, main)


def test_reads_and_writes_do_not_wait_for_each_other():
    dut = ControlRegisters(CONFIG)
    writer, reader = Host(dut.bus, seed=1, slow=True), Host(dut.bus, seed=2, slow=True)

    async def read(ctx):
        value = 0
        while value < 40:
            answered = written
            value = await reader.get(ctx, "MODEL_BYTES")
            assert answered <= value <= written + 1, f"{answered} was written, read {value}"

    async def main(ctx):
        nonlocal written
        ctx.set(dut.idle, 1)
        for value in range(1, 41):
            await writer.set(ctx, "MODEL_BYTES", value)
            written = value

    written = 0
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(main)
    sim.add_testbench(read)
    sim.run()


@pytest.mark.parametrize("ready", [1.0, 0.5, 0.1])
def test_requests_without_a_pause_are_all_answered(ready):
    dut = ControlRegisters(CONFIG)
    bus, rng = dut.bus, random.Random(3)
    at, count = register("MODEL_BYTES").offset, 40

    async def main(ctx):
        ctx.set(dut.idle, 1)
        addresses = data = writes = asked = 0
        values = []
        for cycle in range(2000):
            ctx.set(bus.awvalid, addresses < count)
            ctx.set(bus.wvalid, data < count and cycle > 20)
            ctx.set(bus.arvalid, asked < count)
            for address in (bus.awaddr, bus.araddr):
                ctx.set(address, at)
            ctx.set(bus.wdata, data + 1)
            ctx.set(bus.wstrb, 0xF)
            ctx.set(bus.bready, rng.random() < ready)
            ctx.set(bus.rready, rng.random() < ready)
            _, _, aw, w, b, ar, r, value = await ctx.tick().sample(
                bus.awvalid & bus.awready, bus.wvalid & bus.wready, bus.bvalid & bus.bready,
                bus.arvalid & bus.arready, bus.rvalid & bus.rready, bus.rdata)
            addresses, data, writes, asked = addresses + aw, data + w, writes + b, asked + ar
            values += [value] * r
            assert writes <= min(addresses, data)
            assert len(values) <= asked
        assert (addresses, data, writes, len(values)) == (count,) * 4
        assert values == sorted(values)
        assert ctx.get(dut.model_bytes) == count

    simulate(dut, main)


# RunControl and Control

class Core:
    """A core with its masters: when it ends, how, and for how long its bus is busy then."""

    def __init__(self, dut: Control | RunControl, *, seed: int = 0) -> None:
        self.dut = dut
        self.rng = random.Random(seed)
        self.cycles = 50           # of a run; None: it never ends
        self.busy = 10             # cycles from stop until the masters are idle
        self.error = Error.NONE
        self.late_error = False    # a write error while the masters finish
        self.starts = 0
        self.stalls = dict.fromkeys(Stall, 0)
        self.read = self.written = 0

    def _set_errors(self, ctx: SimulatorContext, error: Error) -> None:
        bus = (Error.BUS_READ, Error.BUS_WRITE)
        ctx.set(self.dut.read_error, error is Error.BUS_READ)
        ctx.set(self.dut.write_error, error is Error.BUS_WRITE)
        ctx.set(self.dut.core_error, Error.BAD_OPCODE if error in bus else error)

    async def run(self, ctx: SimulatorContext) -> None:
        dut, rng = self.dut, self.rng
        left = None        # cycles until the run ends
        busy = resets = 0  # cycles until the masters are idle, cycles of the last reset
        was_reset = False
        while True:
            stall = rng.choice(list(Stall))
            read, written = (rng.getrandbits(2), rng.getrandbits(1)) if busy else (0, 0)
            ctx.set(dut.stall, stall)
            ctx.set(dut.read_beat, read)
            ctx.set(dut.write_beat, written)
            ctx.set(dut.masters_idle, busy == 0)
            _, _, reset, start, stop = await ctx.tick().sample(
                dut.core_reset, dut.core_start, dut.stop)
            self.read += read.bit_count()
            self.written += written
            self.stalls[stall] += not stop
            if reset:
                assert busy == 0, "reset while masters are busy"
                assert stop
                left, resets = None, resets + 1 if was_reset else 1
                self.read = self.written = 0
                self.stalls = dict.fromkeys(Stall, 0)
                self._set_errors(ctx, Error.NONE)
                ctx.set(dut.core_done, 0)
            elif start:
                assert resets == RunControl.RESET_CYCLES, f"start after {resets} cycles of reset"
                assert not stop
                left, busy, resets = self.cycles, self.busy, 0
                self.starts += 1
            elif left:
                left -= 1
                if left == 0:
                    self._set_errors(ctx, self.error)
                    ctx.set(dut.core_done, self.error is Error.NONE)
            was_reset = reset
            if stop and busy:
                busy -= 1
                if busy == 0 and self.late_error:
                    ctx.set(dut.write_error, 1)


async def wait_for_end(ctx: SimulatorContext, host: Host) -> None:
    for _ in range(200):
        if await host.get(ctx, "CTRL") & DONE:
            return
    raise AssertionError("ap_done does not come")


async def check_counters(ctx: SimulatorContext, host: Host, core: Core) -> None:
    total = 0
    for cause, expected in core.stalls.items():
        got = await host.get(ctx, f"STALL_{cause.name}")
        assert got == expected, f"STALL_{cause.name}: expected {expected}, got {got}"
        total += got
    assert await host.get(ctx, "CYCLES") == total
    for name, beats in (("BYTES_READ", core.read), ("BYTES_WRITTEN", core.written)):
        got = await host.get(ctx, name)
        assert got == 16 * beats, f"{name}: expected {16 * beats}, got {got}"


def control(main, *, slow: bool = False) -> None:
    """Simulate ``main(ctx, dut, host, core)`` with a Control."""
    dut = Control(CONFIG)
    host, core = Host(dut.bus, slow=slow), Core(dut)

    async def bench(ctx):
        await ctx.tick()
        await main(ctx, dut, host, core)

    simulate(dut, bench, core.run)


@pytest.mark.parametrize("slow", [False, True])
def test_runs_follow_each_other(slow):
    async def main(ctx, dut, host, core):
        rng = random.Random(5)
        ctx.set(dut.core_top_class, 77)
        ctx.set(dut.core_tokens, 66)
        await host.set(ctx, "GIE", 1)
        await host.set(ctx, "IER", DONE_ENABLE)
        assert await host.get(ctx, "CTRL") == IDLE
        for run in range(1, 6):
            core.cycles, core.busy = rng.randrange(1, 90), rng.randrange(40)
            assert not ctx.get(dut.interrupt)
            await host.set(ctx, "CTRL", START)
            await wait_for_end(ctx, host)
            assert ctx.get(dut.interrupt)
            assert core.starts == run
            assert await host.get(ctx, "CTRL") == IDLE, "ap_done is cleared by reading"
            assert await host.get(ctx, "ERROR") == Error.NONE.value
            assert await host.get(ctx, "STATUS") == RunState.IDLE.value
            assert await host.get(ctx, "TOP_CLASS") == 77
            assert await host.get(ctx, "TOKENS") == 66
            assert sum(core.stalls.values()) == core.cycles + 3  # core_done is seen in the last
            await check_counters(ctx, host, core)
            await host.set(ctx, "ISR", 1)

    control(main, slow=slow)


@pytest.mark.parametrize("error", [e for e in Error if e is not Error.NONE])
def test_error_ends_the_run_and_the_next_one_is_clean(error):
    async def main(ctx, dut, host, core):
        ctx.set(dut.core_error_index, 123)
        ctx.set(dut.core_top_class, 77)
        ctx.set(dut.core_tokens, 66)
        await host.set(ctx, "CTRL", START)
        await wait_for_end(ctx, host)
        core.error = error
        await host.set(ctx, "CTRL", START)
        await wait_for_end(ctx, host)
        assert await host.get(ctx, "ERROR") == error.value
        assert await host.get(ctx, "ERROR_INDEX") == 123
        assert await host.get(ctx, "TOP_CLASS") == 0
        assert await host.get(ctx, "TOKENS") == 0
        await check_counters(ctx, host, core)
        core.error = Error.NONE
        await host.set(ctx, "CTRL", START)
        await wait_for_end(ctx, host)
        assert await host.get(ctx, "ERROR") == Error.NONE.value
        assert await host.get(ctx, "ERROR_INDEX") == 0
        assert await host.get(ctx, "TOP_CLASS") == 77

    control(main)


def test_error_of_the_last_write_is_seen():
    async def main(ctx, dut, host, core):
        core.late_error = True
        await host.set(ctx, "CTRL", START)
        await wait_for_end(ctx, host)
        assert await host.get(ctx, "ERROR") == Error.BUS_WRITE.value

    control(main)


def test_core_error_of_an_ended_run_is_not_seen():
    """What a core does that runs dry after it is stopped says nothing."""
    async def main(ctx, dut, host, core):
        core.busy = 60
        await host.set(ctx, "CTRL", START)
        await until(ctx, dut.core_done)
        await ticks(ctx, 4)
        ctx.set(dut.core_error, Error.BAD_FIELD)
        await wait_for_end(ctx, host)
        assert await host.get(ctx, "ERROR") == Error.NONE.value

    control(main)


@pytest.mark.parametrize("when", [*range(0, 40, 3), 58, 60, 64, 66, 70, 76, 90])
def test_soft_reset_at_any_time(when):
    """A run of 50 cycles with 10 of draining: the reset comes before, in and after all states."""
    async def main(ctx, dut, host, core):
        ctx.set(dut.core_top_class, 77)
        await host.set(ctx, "CTRL", START)
        await ticks(ctx, when)
        await host.set(ctx, "SOFT_RESET", 1)
        for _ in range(40):
            if await host.get(ctx, "SOFT_RESET") == 0:
                break
        assert await host.get(ctx, "SOFT_RESET") == 0
        value = await host.get(ctx, "CTRL")
        ended = bool(value & DONE)
        assert value & (START | IDLE) == IDLE
        assert not ended or when >= 64, "a run that was reset has ended"
        assert ended or when < 76, "a run that has ended is not seen"
        starts = core.starts
        await host.set(ctx, "CTRL", START)
        await wait_for_end(ctx, host)
        assert core.starts == starts + 1
        assert await host.get(ctx, "ERROR") == Error.NONE.value
        assert await host.get(ctx, "TOP_CLASS") == 77
        await check_counters(ctx, host, core)

    control(main)


def test_soft_reset_ends_a_hang_and_leaves_its_counters():
    async def main(ctx, dut, host, core):
        core.cycles = None
        await host.set(ctx, "CTRL", START)
        await ticks(ctx, 300)
        assert await host.get(ctx, "CTRL") == START
        assert await host.get(ctx, "STATUS") == RunState.RUN.value
        assert await host.get(ctx, "CYCLES") > 290
        await host.set(ctx, "SOFT_RESET", 1)
        while await host.get(ctx, "SOFT_RESET"):
            pass
        assert await host.get(ctx, "CTRL") == IDLE
        assert await host.get(ctx, "CYCLES") > 290
        assert not ctx.get(dut.interrupt)

    control(main)


def test_images_are_counted_while_the_run_goes_on():
    async def main(ctx, dut, host, core):
        core.cycles = 60
        for _ in range(2):
            ctx.set(dut.core_images_done, 0)
            await host.set(ctx, "CTRL", START)
            assert await host.get(ctx, "IMAGES_DONE") == 0
            await ticks(ctx, 20)
            ctx.set(dut.core_images_done, 7)
            assert await host.get(ctx, "IMAGES_DONE") == 7
            await until(ctx, dut.core_done)
            # The last image counts even if it ends with the run; what comes later does not.
            ctx.set(dut.core_images_done, 8)
            await until(ctx, dut.stop)
            ctx.set(dut.core_images_done, 9)
            await wait_for_end(ctx, host)
            assert await host.get(ctx, "IMAGES_DONE") == 8

    control(main)


async def begin(ctx: SimulatorContext, dut: RunControl, timeout: int = TIMEOUT) -> None:
    """Begin a run with a core that moves in every cycle."""
    ctx.set(dut.timeout, timeout)
    ctx.set(dut.masters_idle, 1)
    ctx.set(dut.core_moves, 1)
    ctx.set(dut.start, 1)
    await ctx.tick()
    ctx.set(dut.start, 0)
    await until(ctx, dut.stop, value=0)


def test_run_control_timing():
    dut = RunControl(CONFIG)

    async def main(ctx):
        ctx.set(dut.masters_idle, 1)
        ctx.set(dut.start, 1)
        cycles, resets = 0, []
        while not ctx.get(dut.core_start):
            assert ctx.get(dut.stop)
            await ctx.tick()
            ctx.set(dut.start, 0)
            cycles += 1
            resets.append(ctx.get(dut.core_reset))
        assert cycles == RunControl.RESET_CYCLES + RunControl.SETTLE_CYCLES + 1
        assert resets == [1] * RunControl.RESET_CYCLES + [0] * (cycles - RunControl.RESET_CYCLES)
        assert not ctx.get(dut.stop)
        ctx.set(dut.core_done, 1)
        await ctx.tick()
        assert not ctx.get(dut.stop), "what comes from far is looked at a cycle later"
        await ctx.tick()
        for _ in range(RunControl.SETTLE_CYCLES - 1):  # a late masters_idle is waited for
            assert ctx.get(dut.stop)
            assert not ctx.get(dut.done)
            await ctx.tick()
        assert ctx.get(dut.done)
        await ctx.tick()
        assert ctx.get(dut.idle)
        assert not ctx.get(dut.done)

    simulate(dut, main)


def test_a_master_that_is_busy_late_is_waited_for():
    """``stop`` and ``masters_idle`` pass through as many registers as they may."""
    dut = RunControl(CONFIG)

    async def main(ctx):
        await begin(ctx, dut, timeout=1000)
        ctx.set(dut.core_done, 1)
        await until(ctx, dut.stop)
        await ticks(ctx, RunControl.SETTLE_CYCLES - 2)
        ctx.set(dut.masters_idle, 0)
        for _ in range(40):
            await ctx.tick()
            assert not ctx.get(dut.done)
            assert not ctx.get(dut.idle)
        ctx.set(dut.masters_idle, 1)
        await ctx.tick()
        assert ctx.get(dut.done)
        await ctx.tick()
        assert ctx.get(dut.idle)

    simulate(dut, main)


# Time-outs

def _state(ctx, dut):
    """Return the fields of STATUS."""
    value = ctx.get(dut.status)
    return RunState(value & 3), value >> 2


@pytest.mark.parametrize("moving", [0, 1, 70])
@pytest.mark.parametrize("beat", ["core_moves", "read_beat", "write_beat"])
def test_a_run_that_does_not_move_ends_with_what_it_waits_for(moving, beat):
    dut = RunControl(CONFIG)

    async def main(ctx):
        await begin(ctx, dut)
        ctx.set(dut.core_moves, 0)
        ctx.set(dut.core_hang, Error.HANG_WEIGHT)
        ctx.set(dut.core_hang_index, 77)
        ctx.set(getattr(dut, beat), 1)
        await ticks(ctx, moving)
        ctx.set(getattr(dut, beat), 0)
        assert TIMEOUT <= await until(ctx, dut.stop, 2 * TIMEOUT) <= TIMEOUT + 4
        ctx.set(dut.core_hang, Error.HANG_PASS)
        await until(ctx, dut.done, 20)
        assert (ctx.get(dut.error), ctx.get(dut.error_index)) == (Error.HANG_WEIGHT.value, 77)
        assert _state(ctx, dut) == (RunState.DRAIN, 0)

    simulate(dut, main)


@pytest.mark.parametrize("what, error", [
    ("core_done", Error.HANG_DRAIN), ("core_error", Error.BAD_FIELD),
    ("read_error", Error.BUS_READ), ("", Error.HANG_LOAD)])
def test_a_run_whose_transfers_do_not_end_is_told_once(what, error):
    """It is over, but what comes after waits for them; ``start`` is no use meanwhile."""
    dut = RunControl(CONFIG)

    async def main(ctx):
        await begin(ctx, dut)
        ctx.set(dut.masters_idle, 0)
        ctx.set(dut.core_hang, Error.HANG_LOAD)
        if what:
            ctx.set(getattr(dut, what), Error.BAD_FIELD if what == "core_error" else 1)
        else:
            ctx.set(dut.core_moves, 0)
        await until(ctx, dut.stop, 2 * TIMEOUT)
        assert TIMEOUT <= await until(ctx, dut.done, 2 * TIMEOUT) <= TIMEOUT + 10
        await ctx.tick()
        assert ctx.get(dut.error) == error.value
        for _ in range(3 * TIMEOUT):
            assert _state(ctx, dut) == (RunState.DRAIN, 1)
            assert ctx.get(dut.stop) and not ctx.get(dut.done) and not ctx.get(dut.idle)
            await ctx.tick()
        ctx.set(dut.masters_idle, 1)
        for _ in range(5):
            await ctx.tick()
            assert not ctx.get(dut.done)
        assert ctx.get(dut.idle) and _state(ctx, dut) == (RunState.IDLE, 0)
        assert ctx.get(dut.error) == error.value

    simulate(dut, main)


@pytest.mark.parametrize("before", [0, 3 * TIMEOUT])
def test_a_soft_reset_waits_for_transfers_however_late(before):
    dut = RunControl(CONFIG)

    async def main(ctx):
        await begin(ctx, dut)
        ctx.set(dut.masters_idle, 0)
        ctx.set(dut.core_error, Error.BAD_OPCODE if before else Error.NONE)
        await ticks(ctx, before)
        ctx.set(dut.soft_reset, 1)
        await ctx.tick()
        ctx.set(dut.soft_reset, 0)
        for cycle in range(3 * TIMEOUT):
            assert ctx.get(dut.aborting) and not ctx.get(dut.core_reset) and not ctx.get(dut.done)
            assert cycle < TIMEOUT + 12 or _state(ctx, dut) == (RunState.DRAIN, 1)
            await ctx.tick()
        assert ctx.get(dut.error) == (Error.BAD_OPCODE if before else Error.HANG_DRAIN).value
        ctx.set(dut.masters_idle, 1)
        await until(ctx, dut.core_reset, 5)
        await until(ctx, dut.idle, 20)
        assert not ctx.get(dut.aborting) and _state(ctx, dut) == (RunState.IDLE, 0)

    simulate(dut, main)
