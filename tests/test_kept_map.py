# SPDX-License-Identifier: BSD-2-Clause
"""KeptMap: nibbles and counts as the host reads them, and a new run on top of an old one."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from rtl.config import Config, named
from rtl.kept_map import KeptMap
from tests.pipeline import assert_equal

TINY = named("tiny")


@pytest.mark.parametrize("tokens", [2, 8, 112, 198, 1024])
def test_two_runs(tokens):
    dut = KeptMap(Config(**{**TINY.to_dict(), "rows": 32, "max_tokens": tokens}))
    rng = np.random.default_rng(tokens)

    async def bench(ctx):
        for selectors in (15, 3):
            ctx.set(dut.init, 1)
            await ctx.tick()
            ctx.set(dut.init, 0)
            for _ in range(max(16, -(-tokens // 8))):
                await ctx.tick()
            kept = np.full(tokens, 15)
            counts = np.zeros(15, np.int64)
            rows = rng.permutation(tokens)[:max(1, tokens // 2)]
            for index in range(selectors):
                ctx.set(dut.index, index)
                for row in rows[index::selectors]:
                    ctx.set(dut.drop_row, int(row))
                    ctx.set(dut.drop, 1)
                    await ctx.tick()
                    ctx.set(dut.drop, 0)
                    await ctx.tick()
                    kept[row] = index
                left, patches = (int(v) for v in rng.integers(0, tokens + 1, 2))
                ctx.set(dut.count_tokens, left)
                ctx.set(dut.count_patches, patches)
                ctx.set(dut.count, 1)
                await ctx.tick()
                ctx.set(dut.count, 0)
                counts[index] = left << 16 | patches
            words = []
            for at in (*range(0x40, 0x4F), *range(0x100, 0x100 + -(-tokens // 8))):
                ctx.set(dut.at, at)
                for _ in range(KeptMap.LATENCY):
                    await ctx.tick()
                words.append(ctx.get(dut.word))
            assert_equal(f"counts of {selectors} selectors", counts, words[:15])
            nibbles = [words[15 + row // 8] >> (row % 8 * 4) & 15 for row in range(tokens)]
            assert_equal(f"map of {selectors} selectors", kept, nibbles)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
