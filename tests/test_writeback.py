# SPDX-License-Identifier: BSD-2-Clause
"""Write-back: every block of every column tile to its bank, and none that is masked."""

import random
from dataclasses import replace

import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from rtl import isa
from rtl.config import BLOCK, named
from rtl.writeback import WriteBack

#: Arrays of every proportion: 1, 2 and 4 column tiles in a word of a buffer.
SIZES = {f"{r}x{c}": replace(named("zcu104"), rows=r, columns=c, ports=1, port_bits=32,
                             max_hidden=1024)
         for r, c in ((16, 16), (32, 32), (32, 16), (64, 16), (16, 64), (64, 64))}
STREAMED = {isa.Destination.ACT: "act_en", isa.Destination.SCORE: "score_en",
            isa.Destination.RESIDUAL: "residual_en"}


@pytest.mark.parametrize("size", SIZES)
def test_blocks_and_banks(size):
    config = SIZES[size]
    rng = random.Random(size)
    dut = WriteBack(config)
    turns = config.banks // config.column_blocks

    async def bench(ctx):
        for _ in range(300):
            word = [rng.randrange(-(1 << 26), 1 << 26) for _ in range(config.columns)]
            destination = rng.choice(list(isa.Destination))
            valid, last = rng.random() < 0.8, rng.random() < 0.5
            mask, tile = rng.getrandbits(8), rng.randrange(9)
            unchanged = destination == isa.Destination.RESIDUAL and rng.random() < 0.3
            ctx.set(dut.valid, valid)
            ctx.set(dut.row.tile.last_column, last)
            ctx.set(dut.row.tile.column_tile, tile)
            ctx.set(dut.destination, destination)
            ctx.set(dut.mask, mask)
            ctx.set(dut.unchanged, unchanged)
            for c, value in enumerate(word):
                ctx.set(dut.word[c], value)

            blocks = [g for g in range(config.column_blocks) if mask >> g & 1 or not last]
            assert ctx.get(dut.enable) == sum(1 << g for g in blocks)
            assert ctx.get(dut.to) == valid << destination.value
            written = [(tile % turns) * config.column_blocks + g for g in blocks]
            for kind, port in STREAMED.items():
                hit = valid and kind == destination and not unchanged
                assert ctx.get(getattr(dut, port)) == (sum(1 << b for b in written) if hit else 0)
            for bank, g in zip(written, blocks, strict=True):
                lanes = word[BLOCK * g:BLOCK * (g + 1)]
                for port, bits in ((dut.bytes_word, 8), (dut.wide_word, 16)):
                    expected = sum((v & ((1 << bits) - 1)) << bits * i
                                   for i, v in enumerate(lanes))
                    assert ctx.get(Value.cast(port[bank])) == expected, f"bank {bank}"

    sim = Simulator(dut)
    sim.add_testbench(bench)
    sim.run()
