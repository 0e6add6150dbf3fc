# SPDX-License-Identifier: BSD-2-Clause
"""The stream FIFO against a list."""

import gc
import random

import pytest
from amaranth.lib import data
from amaranth.sim import Simulator

from rtl.fifo import Fifo


@pytest.mark.parametrize("depth", [2, 5, 16, 100])
@pytest.mark.parametrize(("push", "pop"), [(1.0, 1.0), (0.5, 0.5), (0.9, 0.3), (0.3, 0.9)])
def test_fifo_keeps_the_order(depth, push, pop):
    fifo = Fifo(16, depth=depth)
    rng = random.Random(depth)
    sent, got = [], []

    async def main(ctx):
        valid = waiting = 0
        for cycle in range(700):
            if cycle >= 500:  # drain
                sending, taking = 0.0, 1.0
            else:
                sending, taking = push, pop
            if not valid:
                valid = rng.random() < sending
                ctx.set(fifo.i.payload, rng.getrandbits(16))
            ctx.set(fifo.i.valid, valid)
            ctx.set(fifo.o.ready, rng.random() < taking)
            assert ctx.get(fifo.level) == len(sent) - len(got)
            _, _, i_ready, i_payload, o_valid, o_ready, o_payload = await ctx.tick().sample(
                fifo.i.ready, fifo.i.payload, fifo.o.valid, fifo.o.ready, fifo.o.payload)
            assert o_valid or not waiting, f"cycle {cycle}: valid fell before ready"
            waiting = o_valid and not o_ready
            if valid and i_ready:
                sent.append(i_payload)
                valid = False
            if o_valid and o_ready:
                got.append(o_payload)
                at = len(got) - 1
                assert got[at] == sent[at], f"element {at}: expected {sent[at]}, got {got[at]}"
            assert len(sent) - len(got) <= depth + 1
        assert len(got) == len(sent)
        if push == pop == 1.0:
            assert len(got) == 500

    sim = Simulator(fifo)
    sim.add_clock(1e-6)
    sim.add_testbench(main)
    sim.run()


def test_fifo_latency_and_room():
    fifo = Fifo(data.StructLayout({"a": 3, "b": 5}), depth=4)

    async def main(ctx):
        ctx.set(fifo.i.valid, 1)
        taken = 0
        for cycle in range(10):
            assert ctx.get(fifo.o.valid) == (cycle >= Fifo.LATENCY)
            ctx.set(fifo.i.p, {"a": cycle % 8, "b": 31 - cycle})
            taken += ctx.get(fifo.i.ready)
            await ctx.tick()
        assert taken == 5  # the memory and the output register
        assert ctx.get(fifo.o.p.a) == 0
        assert ctx.get(fifo.o.p.b) == 31

    sim = Simulator(fifo)
    sim.add_clock(1e-6)
    sim.add_testbench(main)
    sim.run()


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_fifo_refuses_depth():
    with pytest.raises(ValueError, match="depth is 1, must be at least 2"):
        Fifo(8, depth=1)
    gc.collect()
