# SPDX-License-Identifier: BSD-2-Clause
"""KeptMap: nibbles and counts as the host reads them, and a new round on top of an old one."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from rtl.config import Config, named
from rtl.kept_map import KeptMap
from tests.pipeline import assert_equal

TINY = named("tiny")


@pytest.mark.parametrize(("tokens", "images"), [(2, 1), (8, 2), (112, 2), (198, 4), (1024, 2)])
def test_two_rounds(tokens, images):
    config = Config(**{**TINY.to_dict(), "rows": 32, "max_tokens": tokens, "images": images})
    dut = KeptMap(config)
    rng = np.random.default_rng(tokens)
    size = config.residual_rows

    async def bench(ctx):
        for selectors in (15, 3):
            ctx.set(dut.init, 1)
            await ctx.tick()
            ctx.set(dut.init, 0)
            for _ in range(max(64, -(-size // 8))):
                await ctx.tick()
            kept = np.full(size, 15)
            counts = np.zeros(60, np.int64)
            rows = rng.permutation(size)[:max(1, size // 2)]
            for index in range(selectors):
                image = index % 4
                ctx.set(dut.index, index)
                ctx.set(dut.image, image)
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
                counts[4 * index + image] = left << 16 | patches
            words = []
            for at in (*range(0x40, 0x7C), *range(0x100, 0x100 + -(-size // 8))):
                ctx.set(dut.at, at)
                for _ in range(KeptMap.LATENCY):
                    await ctx.tick()
                words.append(ctx.get(dut.word))
            assert_equal(f"counts of {selectors} selectors", counts, words[:60])
            nibbles = [words[60 + row // 8] >> (row % 8 * 4) & 15 for row in range(size)]
            assert_equal(f"map of {selectors} selectors", kept, nibbles)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
