# SPDX-License-Identifier: BSD-2-Clause
"""RowMax: running maxima of enabled scores, two slots, rows every cycle and every 16 cycles."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from rtl.config import Config, named
from rtl.rowmax import RowMax
from tests.pipeline import assert_equal, run, tiles

TINY = named("tiny")
WIDE = Config(**{**TINY.to_dict(), "columns": 64, "max_tokens": 198})


def _inputs(config, rng, schedule):
    count = len(schedule["row"])
    scores = rng.integers(-32768, 32768, (count, config.columns)) >> rng.integers(0, 16, (count, 1))
    scores[rng.random(count) < 0.1] = -32768
    enable = rng.random((count, config.columns)) < rng.choice([0.0, 0.1, 0.5, 1.0], (count, 1))
    masks = [sum(int(b) << i for i, b in enumerate(row)) for row in enable]
    return {"data": scores, "enable": masks, **schedule}, enable


def _expected(inputs, enable):
    """Return the maximum after each row, and what is left in each slot and row."""
    masked = np.where(enable, inputs["data"], -32768).max(1)
    left = {}
    maxima = np.zeros(len(masked), np.int64)
    for i in np.flatnonzero(inputs["valid"]):
        key = (int(inputs["slot"][i]), int(inputs["row"][i]))
        left[key] = int(masked[i] if inputs["first"][i] else max(masked[i], left[key]))
        maxima[i] = left[key]
    return maxima, left


@pytest.mark.parametrize("config", [TINY, WIDE], ids=["16x16", "16x64"])
@pytest.mark.parametrize("rows, count", [(1, 5), (16, 3), (40, 3)])
def test_running_maxima(config, rows, count):
    rng = np.random.default_rng(rows)
    first, second = (tiles(rng, rows=rows, tiles=count, max_rows=config.max_tokens)
                     for _ in range(2))
    schedule = {name: np.concatenate([first[name], second[name]]) for name in first}
    schedule["slot"] = np.repeat([1, 0], len(first["row"]))
    inputs, enable = _inputs(config, rng, schedule)
    dut = RowMax(config)
    got = run(dut, inputs, {"max": dut.latency - 1, "max_valid": dut.latency - 1})
    maxima, _ = _expected(inputs, enable)
    valid = schedule["valid"].astype(bool)
    assert_equal("max_valid", valid, got["max_valid"])
    assert_equal("max", maxima[valid], got["max"][valid])


@pytest.mark.parametrize("early", [0, 1])
def test_read_back(early):
    """Each row is read ``latency`` cycles after it entered, and all rows of both slots once more at
    the end; with the first reads one cycle early, they find what was there before."""
    rng = np.random.default_rng(5)
    rows = TINY.max_tokens
    dut = RowMax(TINY)
    inputs = {"data": rng.integers(-32768, 32768, (2 * rows, 16)), "enable": [0xFFFF] * 2 * rows,
              "slot": np.repeat([0, 1], rows), "row": np.tile(np.arange(rows), 2),
              "first": np.ones(2 * rows, int), "valid": np.ones(2 * rows, int)}
    _, left = _expected(inputs, np.ones((2 * rows, 16), bool))
    keys = [(int(s), int(r)) for s, r in zip(inputs["slot"], inputs["row"], strict=True)]

    async def bench(ctx):
        wait = dut.latency - early
        for cycle in range(4 * rows + wait + 1):
            if cycle < 2 * rows:
                for name, values in inputs.items():
                    ctx.set(getattr(dut, name), [int(v) for v in values[cycle]]
                            if name == "data" else int(values[cycle]))
            ctx.set(dut.valid, cycle < 2 * rows)
            if cycle > wait:
                turn, index = divmod(cycle - wait - 1, 2 * rows)
                expected = 0 if early and turn == 0 else left[keys[index]]
                got = ctx.get(dut.read_max)
                assert got == expected, f"row {keys[index]}: expected {expected}, got {got}"
            if cycle >= wait:
                slot, row = keys[(cycle - wait) % (2 * rows)]
                ctx.set(dut.read_slot, slot)
                ctx.set(dut.read_row, row)
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
