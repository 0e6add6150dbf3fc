# SPDX-License-Identifier: BSD-2-Clause
"""TokenList: rows in order, two lists that change places, the dropped tokens."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from rtl.config import Config, named
from rtl.token_list import TokenList

TINY = named("tiny")
CONFIGS = [TINY, named("zcu102"), Config(**{**TINY.to_dict(), "max_tokens": 2}),
           Config(**{**TINY.to_dict(), "max_rows": 200}),
           Config(**{**TINY.to_dict(), "rows": 32, "max_tokens": 1024})]


def _simulate(config, bench):
    dut = TokenList(config)

    async def testbench(ctx):
        await bench(ctx, dut)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()


async def _image(ctx, dut, first_row):
    ctx.set(dut.image, 1)
    ctx.set(dut.first_row, first_row)
    await ctx.tick()
    ctx.set(dut.image, 0)
    ctx.set(dut.first_row, 0)


async def _flip(ctx, dut):
    ctx.set(dut.flip, 1)
    await ctx.tick()
    ctx.set(dut.flip, 0)


async def _write(ctx, dut, rows, *, dropped=0):
    ctx.set(dut.write_en, 1)
    ctx.set(dut.write_dropped, dropped)
    for position, row in enumerate(rows):
        ctx.set(dut.write_position, position)
        ctx.set(dut.write_row, int(row))
        await ctx.tick()
    ctx.set(dut.write_en, 0)


async def _check(ctx, dut, name, tokens, dropped=None):
    """Read positions backwards, through both ports and of both kinds of list."""
    for position in reversed(range(len(tokens))):
        ctx.set(dut.position, position)
        ctx.set(dut.scan_position, len(tokens) - 1 - position)
        ctx.set(dut.dropped, 0)
        for _ in range(TokenList.LATENCY):
            await ctx.tick()
        for port, at in (("row", position), ("scan_row", len(tokens) - 1 - position)):
            got = ctx.get(getattr(dut, port))
            assert got == tokens[at], f"{name}, {port} {at}: expected {tokens[at]}, got {got}"
    for position, expected in enumerate([] if dropped is None else dropped):
        ctx.set(dut.position, position)
        ctx.set(dut.dropped, 1)
        at = position % len(tokens)
        ctx.set(dut.scan_position, at)
        for _ in range(TokenList.LATENCY):
            await ctx.tick()
        got = ctx.get(dut.row)
        assert got == expected, f"{name}, dropped {position}: expected {expected}, got {got}"
        got = ctx.get(dut.scan_row)
        assert got == tokens[at], f"{name}, scan_row {at}: expected {tokens[at]}, got {got}"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.pass_rows} of {c.residual_rows}")
def test_lists(config):
    rng = np.random.default_rng(config.max_tokens)
    size, image = config.pass_rows, config.max_tokens

    async def bench(ctx, dut):
        last = config.residual_rows - image
        await _image(ctx, dut, last)
        in_order = range(last, last + image)
        await _check(ctx, dut, "in order", in_order)
        lists = [in_order, None]
        for turn in range(3):
            new, dropped = (rng.permutation(config.residual_rows)[:size] for _ in range(2))
            await _write(ctx, dut, new)
            await _write(ctx, dut, dropped, dropped=1)
            await _check(ctx, dut, f"before turn {turn}", lists[0], dropped)
            await _flip(ctx, dut)
            lists = [new, lists[0]]
            await _check(ctx, dut, f"after turn {turn}", lists[0], dropped)
        # An image in order, also where its list is written before it is read.
        await _image(ctx, dut, 0)
        await _write(ctx, dut, new)
        await _check(ctx, dut, "in order again", range(image), dropped)
        await _flip(ctx, dut)
        await _check(ctx, dut, "what was written", new, dropped)

    _simulate(config, bench)
