# SPDX-License-Identifier: BSD-2-Clause
"""What is asked of the memory for the program and the weights of a run, round after round."""

import pytest
from amaranth.sim import Simulator

from rtl.config import CONFIGS, named
from rtl.rounds import RoundRequests
from tests.stalls import KINDS, stalls

TINY = named("tiny")
MODEL = 0x12_3456_7000
ARGUMENTS = {"model_addr": MODEL, "instructions": 9, "loop": 4, "weight_addr": MODEL + 0x8000,
             "weight_stride": 0x1240, "weight_beats": 77}


def requests(config, *, kind="none", cycles=400, **arguments):
    """Run; return the requests of the program, and those of each port: (cycle, address, beats)."""
    dut = RoundRequests(config)
    held = [stalls(kind, i) for i in range(1 + config.ports)]
    ports = [dut.program_request, *dut.weight_request]
    got = [[] for _ in ports]
    before = [None] * len(ports)

    async def bench(ctx):
        for name, value in (ARGUMENTS | arguments).items():
            ctx.set(getattr(dut, name), value)
        for cycle in range(-5, cycles):
            ctx.set(dut.start, cycle == 0)
            for i, port in enumerate(ports):
                ready = not next(held[i])
                ctx.set(port.ready, ready)
                request = ctx.get(port.p.address), ctx.get(port.p.beats)
                valid = ctx.get(port.valid)
                assert not (valid and cycle <= 0), "a request before the start"
                assert before[i] is None or (valid and request == before[i]), (
                    f"request {i} has changed")
                before[i] = request if valid and not ready else None
                if valid and ready:
                    got[i].append((cycle, *request))
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return got[0], got[1:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounds", [1, 2, 5])
@pytest.mark.parametrize("config", [TINY, *CONFIGS.values()], ids=lambda c: c.name)
def test_requests_of_all_rounds(config, rounds, kind):
    program, weights = requests(config, kind=kind, rounds=rounds)
    beats = 512 // config.port_bits
    assert [r[1:] for r in program] == [
        (MODEL + 64, 8 * beats), *[(MODEL + 4 * 64, 5 * beats)] * (rounds - 1)]
    assert len(weights) == config.ports
    for p, got in enumerate(weights):
        assert [r[1:] for r in got] == [(MODEL + 0x8000 + 0x1240 * p, 77)] * rounds


@pytest.mark.parametrize("config", CONFIGS.values(), ids=lambda c: c.name)
def test_first_requests_come_at_once(config):
    program, weights = requests(config, rounds=2, cycles=20)
    assert program[0][0] == 2
    assert [got[0][0] for got in weights] == [2 + p for p in range(config.ports)]


@pytest.mark.parametrize("instructions, loop, beats", [
    (2, 1, (1, 1)), (65535, 65534, (65534, 1))])
def test_loops_at_a_limit(instructions, loop, beats):
    program, _ = requests(TINY, rounds=2, instructions=instructions, loop=loop)
    each = 512 // TINY.port_bits
    assert [r[1:] for r in program] == [
        (MODEL + 64, beats[0] * each), (MODEL + 64 * loop, beats[1] * each)]


def test_addresses_beyond_32_bits():
    """The last port begins behind a carry into the upper half."""
    config = named("zcu102")
    base = 0x7_FFFF_F000
    _, weights = requests(config, rounds=1, weight_addr=base, weight_stride=0xFFFF_FFC0)
    assert [got[0][1] for got in weights] == [
        base + 0xFFFF_FFC0 * p for p in range(config.ports)]


def test_many_rounds():
    """Every request is one of its round; none is left out or made twice."""
    program, weights = requests(TINY, rounds=300, cycles=1500)
    assert len(program) == 300
    assert [len(got) for got in weights] == [300] * TINY.ports
