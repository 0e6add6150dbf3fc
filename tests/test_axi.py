# SPDX-License-Identifier: BSD-2-Clause
"""The AXI4 masters against memories that stall, fail, and watch the protocol."""

import gc
import random
from collections.abc import Callable, Iterator

import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.sim import Simulator, SimulatorContext

from rtl.axi import (
    AXI4Signature,
    AXILiteSignature,
    ReadMaster,
    Splitter,
    WriteMaster,
    connect_flat,
    flat_ports,
)

STALLS = ("none", "random", "bursty")
OKAY, SLVERR, DECERR = 0, 2, 3
#: AxSIZE of each width of a bus.
SIZE = {32: 2, 64: 3, 128: 4}


async def ticks(ctx: SimulatorContext, count: int) -> None:
    """Wait; unlike ``tick().repeat``, quietly where another bench fails meanwhile."""
    for _ in range(count):
        await ctx.tick()


def moves(stall: str, rng: random.Random) -> Iterator[bool]:
    """Yield for each cycle whether a side of a stream is willing."""
    while True:
        if stall == "none":
            yield True
        elif stall == "random":
            yield rng.random() < 0.5
        else:
            willing = rng.random() < 0.5
            for _ in range(rng.randrange(1, 25)):
                yield willing


def word(address: int, data_bits: int) -> int:
    """Content of the read memory at the byte ``address`` of a beat."""
    return (address * 0x9E3779B97F4A7C15F39CC0605CEDC835 >> 7) & ((1 << data_bits) - 1)


class Stable:
    """Checks of a channel that valid and payload stay until ready."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting: tuple | None = None

    def check(self, valid: int, ready: int, *payload: int) -> bool:
        """Take the values of one clock edge; return whether there was a transfer."""
        if self.waiting is not None:
            assert valid, f"{self.name}: valid fell before ready"
            assert payload == self.waiting, (
                f"{self.name}: payload changed before ready, expected {self.waiting},"
                f" got {payload}")
        self.waiting = payload if valid and not ready else None
        return bool(valid and ready)


def check_burst(address: int, length: int, size: int, burst: int, cache: int, data_bits: int,
                max_beats: int) -> None:
    data_bytes = data_bits // 8
    assert size == SIZE[data_bits]
    assert (burst, cache) == (1, 3)
    assert length < max_beats, f"burst of {length + 1} beats, at most {max_beats} allowed"
    assert address % data_bytes == 0, f"burst at {address:#x} is not aligned"
    assert address % 4096 + (length + 1) * data_bytes <= 4096, (
        f"burst of {length + 1} beats at {address:#x} crosses 4 KiB")


class ReadMemory:
    """Answers bursts in order, each beat ``latency`` cycles after its address or later.

    At most one address is taken in ``period`` cycles.
    """

    def __init__(self, master: ReadMaster, stall: str = "none", *, latency: int = 4, seed: int = 0,
                 period: int = 1, response: Callable[[int], int] = lambda address: OKAY) -> None:
        self.master = master
        self.stall = stall
        self.latency = latency
        self.period = period
        self.response = response
        self.rng = random.Random(seed)
        self.bursts: list[tuple[int, int]] = []  # (cycle, beats)
        self.beats = 0                           # transferred
        self.asked = 0
        self.most_outstanding = 0

    async def run(self, ctx: SimulatorContext) -> None:
        axi, master = self.master.axi, self.master
        data_bytes = master.data_bits // 8
        stable = Stable("AR")
        address_moves, data_moves = moves(self.stall, self.rng), moves(self.stall, self.rng)
        queue: list[tuple[int, int, bool]] = []  # (cycle from which on, address, last)
        cycle = outstanding = 0
        valid = False
        while True:
            (_, _, arvalid, arready, address, length, size, burst, cache, rready) = (
                await ctx.tick().sample(axi.arvalid, axi.arready, axi.araddr, axi.arlen,
                                        axi.arsize, axi.arburst, axi.arcache, axi.rready))
            cycle += 1
            if valid:
                assert rready, f"cycle {cycle}: rready is low"
                outstanding -= queue[0][2]
                queue.pop(0)
                self.beats += 1
                valid = False
            if stable.check(arvalid, arready, address, length):
                check_burst(address, length, size, burst, cache, master.data_bits,
                            master.max_beats)
                self.bursts.append((cycle, length + 1))
                self.asked += length + 1
                outstanding += 1
                queue += [(cycle + self.latency, address + i * data_bytes, i == length)
                          for i in range(length + 1)]
            self.most_outstanding = max(self.most_outstanding, outstanding)
            ctx.set(axi.arready, cycle % self.period == 0 and next(address_moves))
            valid = bool(queue) and queue[0][0] <= cycle and next(data_moves)
            ctx.set(axi.rvalid, valid)
            if valid:
                _, at, last = queue[0]
                ctx.set(axi.rdata, word(at, master.data_bits))
                ctx.set(axi.rlast, last)
                ctx.set(axi.rresp, self.response(at))


class Client:
    """Makes requests, and takes data, of one client of a ReadMaster."""

    def __init__(self, master: ReadMaster, index: int, requests: list[tuple[int, int]],
                 stall: str = "none", *, seed: int = 0, takes: bool = True) -> None:
        self.index = index
        self.data_bits = master.data_bits
        self.request, self.data = master.request[index], master.data[index]
        self.stall = stall
        self.takes = takes
        self.rng = random.Random(seed + 100 * index)
        self.restart(requests)

    def restart(self, requests: list[tuple[int, int]]) -> None:
        self.waiting = list(requests)
        self.expected = [word(address + i * self.data_bits // 8, self.data_bits)
                         for address, beats in requests for i in range(beats)]
        self.got: list[int] = []
        self.times: list[int] = []
        self.stable = Stable(f"data {self.index}")

    async def run(self, ctx: SimulatorContext) -> None:
        request_moves, data_moves = moves(self.stall, self.rng), moves(self.stall, self.rng)
        cycle = 0
        offered = False
        while True:
            offered = bool(self.waiting) and (offered or next(request_moves))
            ctx.set(self.request.valid, offered)
            if offered:
                address, beats = self.waiting[0]
                ctx.set(self.request.p, {"address": address, "beats": beats})
            ctx.set(self.data.ready, self.takes and next(data_moves))
            _, _, taken, valid, ready, payload = await ctx.tick().sample(
                self.request.ready, self.data.valid, self.data.ready, self.data.payload)
            cycle += 1
            if offered and taken and self.waiting:
                self.waiting.pop(0)
                offered = False
            if self.stable.check(valid, ready, payload):
                self.got.append(payload)
                self.times.append(cycle)

    def check(self) -> None:
        self.check_start()
        assert len(self.got) == len(self.expected), (
            f"client {self.index}: expected {len(self.expected)} beats, got {len(self.got)}")

    def check_start(self) -> None:
        """Check what has come so far."""
        assert len(self.got) <= len(self.expected), (
            f"client {self.index}: expected {len(self.expected)} beats, got {len(self.got)}")
        for i, (expected, got) in enumerate(zip(self.expected, self.got, strict=False)):
            assert got == expected, (
                f"client {self.index}, beat {i}: expected {expected:#x}, got {got:#x}")


async def settle(ctx: SimulatorContext, idle: Signal, finished: Callable[[], bool],
                 limit: int = 20000, after: int = 40) -> None:
    """Wait until ``finished`` and ``idle``, then ``after`` cycles for what should not come."""
    for _ in range(limit):
        if finished() and ctx.get(idle):
            await ticks(ctx, after)
            return
        await ctx.tick()
    raise AssertionError(f"not finished after {limit} cycles")


def simulate(dut: wiring.Component, *background: Callable, main: Callable) -> None:
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    for bench in background:
        sim.add_testbench(bench, background=True)
    sim.add_testbench(main)
    sim.run()


def read_all(master: ReadMaster, memory: ReadMemory, clients: list[Client]) -> None:
    beats = 0

    async def count(ctx: SimulatorContext) -> None:
        nonlocal beats
        while True:
            _, _, beat = await ctx.tick().sample(master.beat)
            beats += beat

    async def main(ctx: SimulatorContext) -> None:
        takers = [c for c in clients if c.takes]
        await settle(ctx, master.idle, lambda: all(len(c.got) >= len(c.expected) for c in takers))
        assert not ctx.get(master.error)

    simulate(master, memory.run, count, *(c.run for c in clients), main=main)
    for client in clients:
        if client.takes:
            client.check()
    assert beats == memory.beats == memory.asked
    assert memory.most_outstanding <= master.outstanding


def random_requests(rng: random.Random, count: int, data_bits: int) -> list[tuple[int, int]]:
    """Requests of every length, many of them around a multiple of 4 KiB."""
    data_bytes = data_bits // 8
    pages = [rng.randrange(1 << 51) << 12 for _ in range(count)]
    return [(page - data_bytes * rng.randrange(40), rng.choice((0, 1, 2, 3, 15, 16, 17, 70)))
            for page in pages]


# ReadMaster

@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(("data_bits", "depths", "outstanding"),
                         [(32, (16,), 1), (64, (40, 16, 33), 8), (128, (70, 64), 3)])
def test_read_brings_all_requests_in_order(data_bits, depths, outstanding, stall):
    master = ReadMaster(data_bits=data_bits, depths=depths, outstanding=outstanding)
    rng = random.Random(7)
    clients = [Client(master, i, random_requests(rng, 8, data_bits), stall)
               for i in range(len(depths))]
    read_all(master, ReadMemory(master, stall), clients)


@pytest.mark.parametrize("max_beats", [2, 256])
def test_read_respects_the_longest_burst(max_beats):
    master = ReadMaster(data_bits=128, depths=(300,), max_beats=max_beats)
    memory = ReadMemory(master)
    read_all(master, memory, [Client(master, 0, [(0xFFC0, 6), (0x20000, 300)])])
    assert max(beats for _, beats in memory.bursts) == max_beats


@pytest.mark.parametrize("clients", [1, 2])
def test_read_moves_a_beat_in_every_cycle(clients):
    latency, outstanding, total = 100, 8, 1024
    master = ReadMaster(data_bits=64, depths=(256,) * clients, outstanding=outstanding)
    memory = ReadMemory(master, latency=latency)
    benches = [Client(master, i, [(0x10000 * i, total // clients)]) for i in range(clients)]
    read_all(master, memory, benches)
    times = sorted(t for bench in benches for t in bench.times)
    # One cycle per beat; the queue of the second client may end while the first one's is read.
    assert times[-1] - times[0] < total + 16 * (clients - 1)


def test_read_of_short_requests_keeps_the_rate():
    """Patch rows of 48 bytes on a port of 128 bits: three beats every three cycles."""
    master = ReadMaster(data_bits=128, depths=(64,), outstanding=16)
    client = Client(master, 0, [(672 * i, 3) for i in range(100)])
    read_all(master, ReadMemory(master, latency=20), [client])
    assert client.times[-1] - client.times[0] == 299


def test_read_latency():
    master = ReadMaster(data_bits=64, depths=(16,))

    async def main(ctx):
        ctx.set(master.request[0].valid, 1)
        ctx.set(master.request[0].p, {"address": 0x40, "beats": 2})
        assert ctx.get(master.idle)
        cycles = 0
        while not ctx.get(master.axi.arvalid):
            await ctx.tick()
            cycles += 1
            ctx.set(master.request[0].valid, 0)
            assert not ctx.get(master.idle)
        assert cycles == ReadMaster.LATENCY

    simulate(master, main=main)


def test_read_client_that_takes_nothing_does_not_block_the_others():
    master = ReadMaster(data_bits=64, depths=(16, 32))
    memory = ReadMemory(master)
    blocked = Client(master, 0, [(0, 100)], takes=False)
    free = Client(master, 1, [(0x8000, 200)])

    async def main(ctx):
        await settle(ctx, Signal(init=1), lambda: len(free.got) == 200)
        assert not ctx.get(master.idle)

    simulate(master, memory.run, blocked.run, free.run, main=main)
    free.check()
    assert memory.asked == 200 + 16


@pytest.mark.parametrize("held", [0, 1])
def test_read_asks_for_nothing_for_a_client_that_is_held(held):
    """What has been asked for still comes, the other client goes on, and then it goes on itself."""
    master = ReadMaster(data_bits=64, depths=(16, 32))
    memory = ReadMemory(master)
    clients = [Client(master, 0, [(0, 300)]), Client(master, 1, [(0x8000, 300)])]

    async def main(ctx):
        await ticks(ctx, 60)
        ctx.set(master.hold, 1 << held)
        await ticks(ctx, 60)
        so_far = len(clients[held].got)
        assert 0 < so_far < 200
        await settle(ctx, Signal(init=1), lambda: len(clients[1 - held].got) == 300)
        await ticks(ctx, 200)
        assert len(clients[held].got) == so_far, "it was asked for more"
        assert memory.asked == 300 + so_far == memory.beats
        assert not ctx.get(master.idle)
        ctx.set(master.hold, 0)
        await settle(ctx, master.idle, lambda: len(clients[held].got) == 300)

    simulate(master, memory.run, *(client.run for client in clients), main=main)
    for client in clients:
        client.check()


@pytest.mark.parametrize("period", [1, 24])
def test_read_serves_clients_in_turn(period):
    master = ReadMaster(data_bits=64, depths=(64, 64, 64))
    clients = [Client(master, i, [(0x10000 * i, 320)]) for i in range(3)]
    read_all(master, ReadMemory(master, period=period), clients)
    ends = [client.times[-1] for client in clients]
    assert max(ends) - min(ends) < max(ends) / 4, f"clients end at cycles {ends}"


@pytest.mark.parametrize("response", [SLVERR, DECERR])
def test_read_error_is_kept(response):
    master = ReadMaster(data_bits=64, depths=(32,))
    memory = ReadMemory(master, response=lambda at: response if at == 0x98 else OKAY)
    client = Client(master, 0, [(0, 40)])

    async def main(ctx):
        await settle(ctx, master.idle, lambda: len(client.got) == 40)
        assert ctx.get(master.error)

    simulate(master, memory.run, client.run, main=main)
    client.check()


async def stop_and_reset(ctx: SimulatorContext, stop: Signal, idle: Signal, valid: Signal,
                         reset: Signal, rng: random.Random) -> None:
    """Stop at a random time, check that no burst begins any more, reset when idle."""
    await ticks(ctx, rng.randrange(1, 80))
    ctx.set(stop, 1)
    waits = True  # an address that is on the bus when stop rises stays there
    for _ in range(1000):
        waits = ctx.get(valid) and waits
        assert bool(ctx.get(valid)) == bool(waits), "a burst begins after stop"
        if ctx.get(idle):
            break
        await ctx.tick()
    assert ctx.get(idle), "not idle 1000 cycles after stop"
    for _ in range(rng.randrange(1, 30)):
        await ctx.tick()
        assert ctx.get(idle) and not ctx.get(valid), "a burst begins while idle"
    ctx.set(reset, 1)
    await ctx.tick()
    ctx.set(reset, 0)
    ctx.set(stop, 0)


@pytest.mark.parametrize("stall", STALLS)
def test_read_stops_at_any_time(stall):
    rng = random.Random(3)
    master = ReadMaster(data_bits=64, depths=(40, 24))
    reset = Signal()
    memory = ReadMemory(master, stall)
    clients = [Client(master, i, [], stall) for i in range(2)]

    async def main(ctx):
        for _ in range(12):
            for i, client in enumerate(clients):
                client.restart([(0x10000 * i + 0x3C8, 5000)])
            await stop_and_reset(ctx, master.stop, master.idle, master.axi.arvalid, reset, rng)
            assert memory.asked == memory.beats
            for client in clients:
                client.check_start()
        for i, client in enumerate(clients):
            client.restart([(0x10000 * i, 50)])
        await settle(ctx, master.idle, lambda: all(len(c.got) == 50 for c in clients))

    simulate(ResetInserter(reset)(master), memory.run, *(c.run for c in clients), main=main)
    for client in clients:
        client.check()


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize(("arguments", "message"), [
    ({"data_bits": 48, "depths": (16,)}, "data_bits is 48"),
    ({"data_bits": 64, "depths": ()}, "has 0 clients"),
    ({"data_bits": 64, "depths": (64, 8)}, "client 1 is 8, must be at least 16"),
    ({"data_bits": 64, "depths": (64,), "max_beats": 12}, "max_beats is 12"),
    ({"data_bits": 256, "depths": (512,), "max_beats": 256}, "power of two from 2 to 128"),
    ({"data_bits": 64, "depths": (64,), "outstanding": 0}, "outstanding is 0"),
])
def test_read_refuses_sizes(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReadMaster(**arguments)
    gc.collect()  # the object that was not finished, while its warning is ignored


# WriteMaster

class WriteMemory:
    """Takes bursts into a dictionary of bytes, and acknowledges them ``latency`` cycles later."""

    def __init__(self, master: WriteMaster, stall: str = "none", *, latency: int = 3, seed: int = 0,
                 response: Callable[[int], int] = lambda address: OKAY) -> None:
        self.master = master
        self.stall = stall
        self.latency = latency
        self.response = response
        self.rng = random.Random(seed)
        self.bytes: dict[int, int] = {}
        self.beats = 0  # sent
        self.bursts = 0  # acknowledged
        self.most_outstanding = 0

    async def run(self, ctx: SimulatorContext) -> None:
        axi, data_bytes = self.master.axi, self.master.data_bits // 8
        address_stable, data_stable = Stable("AW"), Stable("W")
        address_moves, data_moves, response_moves = (moves(self.stall, self.rng) for _ in range(3))
        bursts: list[tuple[int, int]] = []       # (address, beats)
        beats: list[tuple[int, int, int]] = []   # (data, strobe, last)
        answers: list[tuple[int, int]] = []      # (cycle from which on, response)
        cycle = outstanding = 0
        valid = False
        while True:
            (_, _, awvalid, awready, address, length, size, burst, cache, wvalid, wready, wdata,
             wstrb, wlast, bready) = await ctx.tick().sample(
                axi.awvalid, axi.awready, axi.awaddr, axi.awlen, axi.awsize, axi.awburst,
                axi.awcache, axi.wvalid, axi.wready, axi.wdata, axi.wstrb, axi.wlast, axi.bready)
            cycle += 1
            if valid:
                assert bready, f"cycle {cycle}: bready is low"
                answers.pop(0)
                self.bursts += 1
                outstanding -= 1
            if address_stable.check(awvalid, awready, address, length):
                check_burst(address, length, size, burst, cache, self.master.data_bits,
                            self.master.max_beats)
                bursts.append((address, length + 1))
                outstanding += 1
            if data_stable.check(wvalid, wready, wdata, wstrb, wlast):
                beats.append((wdata, wstrb, wlast))
                self.beats += 1
            self.most_outstanding = max(self.most_outstanding, outstanding)
            while bursts and len(beats) >= bursts[0][1]:
                start, count = bursts.pop(0)
                for i in range(count):
                    data, strobe, last = beats.pop(0)
                    assert last == (i == count - 1), f"burst at {start:#x}: wlast wrong at {i}"
                    for k in range(data_bytes):
                        if strobe >> k & 1:
                            self.bytes[start + i * data_bytes + k] = data >> 8 * k & 0xFF
                answers.append((cycle + self.latency, self.response(start)))
            assert not any(last for _, _, last in beats) or not bursts, "wlast before its time"
            ctx.set(axi.awready, next(address_moves))
            ctx.set(axi.wready, next(data_moves))
            valid = bool(answers) and answers[0][0] <= cycle and next(response_moves)
            ctx.set(axi.bvalid, valid)
            if valid:
                ctx.set(axi.bresp, answers[0][1])


class Writer:
    """Makes requests and gives their data, with random strobes."""

    def __init__(self, master: WriteMaster, requests: list[tuple[int, int]], stall: str = "none",
                 *, seed: int = 0) -> None:
        self.master = master
        self.stall = stall
        self.rng = random.Random(seed)
        self.restart(requests)

    def restart(self, requests: list[tuple[int, int]]) -> None:
        data_bits = self.master.data_bits
        self.requests = list(requests)
        #: address, data and strobe of every beat
        self.beats = [(address + i * data_bits // 8, self.rng.getrandbits(data_bits),
                       self.rng.getrandbits(data_bits // 8))
                      for address, beats in requests for i in range(beats)]
        self.given = 0

    def bytes(self, beats: int) -> dict[int, int]:
        """Memory after the first ``beats`` beats."""
        return {address + k: data >> 8 * k & 0xFF for address, data, strobe in self.beats[:beats]
                for k in range(self.master.data_bits // 8) if strobe >> k & 1}

    async def run(self, ctx: SimulatorContext) -> None:
        request, data = self.master.request, self.master.data
        request_moves, data_moves = moves(self.stall, self.rng), moves(self.stall, self.rng)
        asks = gives = False
        while True:
            asks = bool(self.requests) and (asks or next(request_moves))
            ctx.set(request.valid, asks)
            if asks:
                address, beats = self.requests[0]
                ctx.set(request.p, {"address": address, "beats": beats})
            gives = self.given < len(self.beats) and (gives or next(data_moves))
            ctx.set(data.valid, gives)
            if gives:
                _, value, strobe = self.beats[self.given]
                ctx.set(data.p, {"data": value, "strobe": strobe})
            _, _, asked, taken = await ctx.tick().sample(request.ready, data.ready)
            if asks and asked and self.requests:
                self.requests.pop(0)
                asks = False
            if gives and taken and self.given < len(self.beats):
                self.given += 1
                gives = False


def compare_bytes(expected: dict[int, int], got: dict[int, int]) -> None:
    for address in sorted(expected.keys() | got.keys()):
        assert expected.get(address) == got.get(address), (
            f"byte at {address:#x}: expected {expected.get(address)}, got {got.get(address)}")


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(("data_bits", "outstanding"), [(32, 1), (64, 4), (128, 2)])
def test_write_brings_all_beats_to_their_places(data_bits, outstanding, stall):
    master = WriteMaster(data_bits=data_bits, outstanding=outstanding)
    memory = WriteMemory(master, stall)
    writer = Writer(master, random_requests(random.Random(8), 8, data_bits), stall)
    beats = 0

    async def count(ctx):
        nonlocal beats
        while True:
            _, _, beat = await ctx.tick().sample(master.beat)
            beats += beat

    async def main(ctx):
        await settle(ctx, master.idle, lambda: writer.given == len(writer.beats))
        assert not ctx.get(master.error)

    simulate(master, memory.run, writer.run, count, main=main)
    compare_bytes(writer.bytes(len(writer.beats)), memory.bytes)
    assert memory.beats == beats == len(writer.beats)
    assert memory.most_outstanding <= outstanding


def test_write_loses_one_cycle_per_burst():
    master = WriteMaster(data_bits=64)
    memory = WriteMemory(master)
    writer = Writer(master, [(0, 160)])

    async def main(ctx):
        cycles = 0
        while memory.beats < 160:
            await ctx.tick()
            cycles += 1
        assert cycles <= 160 + 160 // 16 + WriteMaster.LATENCY

    simulate(master, memory.run, writer.run, main=main)


def test_write_latency():
    master = WriteMaster(data_bits=64)

    async def main(ctx):
        ctx.set(master.request.valid, 1)
        ctx.set(master.request.p, {"address": 0x40, "beats": 2})
        assert ctx.get(master.idle)
        cycles = 0
        while not ctx.get(master.axi.awvalid):
            await ctx.tick()
            cycles += 1
            ctx.set(master.request.valid, 0)
            assert not ctx.get(master.idle)
        assert cycles == WriteMaster.LATENCY

    simulate(master, main=main)


@pytest.mark.parametrize("response", [SLVERR, DECERR])
def test_write_error_is_kept(response):
    master = WriteMaster(data_bits=64)
    memory = WriteMemory(master, response=lambda at: response if at == 0x80 else OKAY)
    writer = Writer(master, [(0, 64)])

    async def main(ctx):
        await settle(ctx, master.idle, lambda: writer.given == 64)
        assert ctx.get(master.error)

    simulate(master, memory.run, writer.run, main=main)
    assert memory.bursts == 4


@pytest.mark.parametrize("stall", STALLS)
def test_write_stops_at_any_time(stall):
    rng = random.Random(4)
    master = WriteMaster(data_bits=64)
    reset = Signal()
    memory = WriteMemory(master, stall)
    writer = Writer(master, [], stall)
    filled = 0

    async def main(ctx):
        nonlocal filled
        for _ in range(12):
            memory.bytes.clear()
            before = memory.beats
            writer.restart([(0x3C8, 5000)])
            await stop_and_reset(ctx, master.stop, master.idle, master.axi.awvalid, reset, rng)
            compare_bytes(writer.bytes(writer.given), memory.bytes)
            filled += memory.beats - before - writer.given
        memory.bytes.clear()
        writer.restart([(0x1000, 50)])
        await settle(ctx, master.idle, lambda: writer.given == 50)

    simulate(ResetInserter(reset)(master), memory.run, writer.run, main=main)
    compare_bytes(writer.bytes(50), memory.bytes)
    assert filled > 0, "no burst was stopped in its middle"


def test_write_stopped_without_data_completes_its_burst():
    master = WriteMaster(data_bits=64)
    memory = WriteMemory(master)
    writer = Writer(master, [(0, 16)])
    del writer.beats[5:]

    async def main(ctx):
        await ticks(ctx, 60)
        assert not ctx.get(master.idle)
        ctx.set(master.stop, 1)
        await settle(ctx, master.idle, lambda: True, limit=40)

    simulate(master, memory.run, writer.run, main=main)
    assert memory.bursts == 1
    compare_bytes(writer.bytes(5), memory.bytes)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_write_refuses_sizes():
    with pytest.raises(ValueError, match="outstanding is 0, must be at least 1"):
        WriteMaster(data_bits=64, outstanding=0)
    gc.collect()


# Splitter and signatures

def test_splitter_cuts_at_multiples_of_the_longest_burst():
    splitter = Splitter(addr_bits=40, data_bits=128, max_beats=16)
    requests = [(0x1F0, 35), (0x2000, 0), (0x2000, 16), (0xFFFFFFFF00, 16)]
    expected = [(0x1F0, 0), (0x200, 15), (0x300, 15), (0x400, 1), (0x2000, 15),
                (0xFFFFFFFF00, 15)]
    got = []

    async def feed(ctx):
        for address, beats in requests:
            ctx.set(splitter.i.valid, 1)
            ctx.set(splitter.i.p, {"address": address, "beats": beats})
            await ctx.tick().until(splitter.i.ready)
        ctx.set(splitter.i.valid, 0)

    async def main(ctx):
        latency = None
        ctx.set(splitter.o.ready, 1)
        for cycle in range(40):
            if ctx.get(splitter.o.valid):
                latency = cycle if latency is None else latency
                got.append((ctx.get(splitter.o.p.address), ctx.get(splitter.o.p.last)))
            await ctx.tick()
        assert latency == Splitter.LATENCY
        assert not ctx.get(splitter.busy)

    simulate(splitter, feed, main=main)
    assert got == expected


class Flat(wiring.Component):
    """A reader behind flat ports, with a port that also has write channels."""

    def __init__(self) -> None:
        super().__init__(flat_ports("m_axi_gmem0", AXI4Signature(addr_bits=64, data_bits=64))
                         | flat_ports("s_axi_control", AXILiteSignature(addr_bits=12).flip()))
        self.master = ReadMaster(data_bits=64, depths=(16,))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.master = self.master
        connect_flat(m, self, "m_axi_gmem0", self.master.axi)
        return m


def test_flat_ports_carry_the_bus():
    top = Flat()
    flows = {name: member.flow for name, member in top.signature.members.items()}
    assert flows["m_axi_gmem0_arvalid"] is wiring.Out
    assert flows["m_axi_gmem0_rdata"] is wiring.In
    assert flows["m_axi_gmem0_awvalid"] is wiring.Out
    assert flows["s_axi_control_awvalid"] is wiring.In
    assert flows["s_axi_control_rdata"] is wiring.Out

    async def main(ctx):
        request, data = top.master.request[0], top.master.data[0]
        ctx.set(request.p, {"address": 0x1238, "beats": 1})
        ctx.set(request.valid, 1)
        await ctx.tick()
        ctx.set(request.valid, 0)
        await ctx.tick().until(top.m_axi_gmem0_arvalid)
        assert ctx.get(top.m_axi_gmem0_araddr) == 0x1238
        ctx.set(top.m_axi_gmem0_arready, 1)
        await ctx.tick()
        assert not ctx.get(top.m_axi_gmem0_arvalid)
        ctx.set(top.m_axi_gmem0_rvalid, 1)
        ctx.set(top.m_axi_gmem0_rlast, 1)
        ctx.set(top.m_axi_gmem0_rdata, 0x123456789ABCDEF0)
        await ctx.tick()
        ctx.set(top.m_axi_gmem0_rvalid, 0)
        ctx.set(data.ready, 1)
        *_, payload = await ctx.tick().sample(data.payload).until(data.valid)
        assert payload == 0x123456789ABCDEF0

    simulate(top, main=main)
