# SPDX-License-Identifier: BSD-2-Clause
"""Receiver and transmitter of a serial line, with bits of their own length at the other end."""

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from platforms.uart import UartReceiver, UartTransmitter, divisor


def levels(contents, bit, *, stop=1):
    """Return the line for bytes without a gap, level by cycle, a bit taking ``bit`` cycles."""
    bits = [level for byte in contents
            for level in (0, *(byte >> i & 1 for i in range(8)), stop)]
    return [bits[int(at / bit)] for at in range(int(len(bits) * bit))]


def received(cycles, line):
    receiver = UartReceiver(cycles)
    got = []

    async def main(ctx):
        for level in [1, 1, *line, *[1] * 3 * cycles]:
            ctx.set(receiver.rx, level)
            *_, valid, payload = await ctx.tick().sample(receiver.o.valid, receiver.o.payload)
            if valid:
                got.append(payload)

    sim = Simulator(receiver)
    sim.add_clock(1e-6)
    sim.add_testbench(main)
    sim.run()
    return bytes(got)


@pytest.mark.parametrize("cycles", [4, 8, 25])
@pytest.mark.parametrize("rate", [0.98, 1, 1.02])
def test_bytes_are_received_from_a_line_of_about_the_rate(cycles, rate):
    contents = random.Random(cycles).randbytes(40)
    assert received(cycles, levels(contents, cycles * rate)) == contents


def test_a_byte_without_a_stop_bit_is_dropped():
    line = [*levels(b"\x12", 8, stop=0), *[1] * 8, *levels(b"\x34", 8)]
    assert received(8, line) == b"\x34"


def test_a_short_pulse_is_no_start_bit():
    assert received(8, [0, 0, *[1] * 100, *levels(b"\x56", 8)]) == b"\x56"


class Loop(wiring.Component):
    """A transmitter and a receiver on one line."""

    def __init__(self, cycles):
        self.receiver, self.transmitter = UartReceiver(cycles), UartTransmitter(cycles)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver, m.submodules.transmitter = self.receiver, self.transmitter
        m.d.comb += self.receiver.rx.eq(self.transmitter.tx)
        return m


@pytest.mark.parametrize("cycles", [4, 9, 25])
@pytest.mark.parametrize("gaps", [False, True])
def test_what_is_transmitted_is_received(cycles, gaps):
    loop = Loop(cycles)
    rng = random.Random(cycles)
    contents = rng.randbytes(30)
    got = []
    done = []

    async def send(ctx):
        for byte in contents:
            if gaps:
                await ctx.tick().repeat(rng.randrange(1, 40))
            ctx.set(loop.transmitter.i.valid, 1)
            ctx.set(loop.transmitter.i.payload, byte)
            await ctx.tick().until(loop.transmitter.i.ready)
            ctx.set(loop.transmitter.i.valid, 0)
        await ctx.tick().repeat(12 * cycles)
        done.append(True)

    async def receive(ctx):
        while not done:
            *_, valid, payload = await ctx.tick().sample(loop.receiver.o.valid,
                                                         loop.receiver.o.payload)
            if valid:
                got.append(payload)

    sim = Simulator(loop)
    sim.add_clock(1e-6)
    sim.add_testbench(send)
    sim.add_testbench(receive, background=True)
    sim.run()
    assert bytes(got) == contents


@pytest.mark.parametrize(("clock", "baud", "cycles"), [
    (50_000_000, 2_000_000, 25), (50_000_000, 115_200, 434), (50_000_000, 3_000_000, 17)])
def test_divisor(clock, baud, cycles):
    assert divisor(clock, baud) == cycles


def test_no_rate():
    with pytest.raises(ValueError, match="^the rate is 0 baud, must be at least 1$"):
        divisor(50_000_000, 0)


@pytest.mark.parametrize(("baud", "cycles"), [(14_000_000, 3.57), (11_000_000, 4.55)])
def test_rates_that_are_refused(baud, cycles):
    with pytest.raises(ValueError, match=f"^50000000 Hz makes no {baud} baud: a bit takes {cycles}"
                                         " cycles, must be within 2 % of a whole number from 4 on"):
        divisor(50_000_000, baud)
