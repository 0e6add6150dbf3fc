# SPDX-License-Identifier: BSD-2-Clause
"""RowSum: running sums and reciprocals, rows every cycle and one row every 16 cycles."""

from dataclasses import replace

import numpy as np
import pytest

from golden.fit import reciprocal_table
from golden.fixed import round_shift
from golden.functions import reciprocal
from rtl.config import Config, named
from rtl.isa import RECIPROCAL_ROWS
from rtl.rowscale import Reciprocal
from rtl.rowsum import RowSum
from tests.pipeline import assert_equal, run, table_writes, tiles

TINY = named("tiny")
WIDE = Config(**{**TINY.to_dict(), "rows": 32, "max_tokens": 1024})
TABLE = reciprocal_table()


def _check(config, e, schedule, scale_m, scale_s):
    """Run rows of exponentials ``e`` and compare the sums so far and the scales of the rows."""
    dut = RowSum(config)
    count = len(e)
    scale_m, scale_s = np.broadcast_to(scale_m, count), np.broadcast_to(scale_s, count)
    sums = {}
    expected = np.zeros(count, np.int64)
    for i in np.flatnonzero(schedule["valid"]):
        row = schedule["row"][i]
        sums[row] = e[i].sum() + (0 if schedule["first"][i] else sums[row])
        expected[i] = sums[row]
    got = run(dut, {"e": e, **schedule, "scale_m": scale_m, "scale_s": scale_s},
              {"sum": dut.latency, "o": dut.latency}, tables=table_writes(TABLE))
    used = np.flatnonzero(schedule["valid"] & (expected > 0))
    assert used.size, "no row was tested"
    assert_equal("sum", expected[used], got["sum"][used])
    m, s = reciprocal(TABLE, expected[used], scale_m[used], scale_s[used])
    assert_equal("m", m, got["o"][used] & 0x1FFFF)
    assert_equal("s", s, got["o"][used] >> 17)


def test_table_fits():
    assert len(TABLE) == RECIPROCAL_ROWS


@pytest.mark.parametrize("config", [TINY, WIDE], ids=["16x16", "32x16"])
@pytest.mark.parametrize("rows, count", [(1, 5), (5, 3), (16, 3), (40, 4)])
def test_running_sums(config, rows, count):
    rng = np.random.default_rng(rows)
    schedule = tiles(rng, rows=rows, tiles=count, max_rows=config.max_tokens)
    e = rng.integers(0, 256, (len(schedule["row"]), config.rows))
    e[rng.random(len(e)) < 0.2] = 255
    _check(config, e, schedule, rng.integers(1 << 16, 1 << 17, len(e)),
           rng.integers(18, 48, len(e)))


def test_every_size_of_sum():
    """From one exponential of 1 to 1024 tokens of 255, the most that 18 bits must hold."""
    count = 1024 // WIDE.rows
    schedule = tiles(np.random.default_rng(1), rows=1, tiles=count, max_rows=1, gaps=False)
    e = np.full((len(schedule["row"]), WIDE.rows), 255)
    e[0] = [1] + 31 * [0]
    _check(WIDE, e, schedule, (1 << 17) - 1, 47)
    e[0] = 255
    _check(WIDE, e, schedule, 1 << 16, 18)


def test_requests():
    """A selector's sums go through the reciprocal where no sum of a row does, and change none."""
    rng = np.random.default_rng(2)
    dut = RowSum(TINY)
    schedule = tiles(rng, rows=7, tiles=8, max_rows=TINY.max_tokens)
    cycles = len(schedule["row"])
    e = rng.integers(0, 256, (cycles, TINY.rows))
    scale_m, scale_s = rng.integers(1 << 16, 1 << 17, cycles), rng.integers(18, 48, cycles)
    # The sum of a row comes to the reciprocal this much later than the row, a request at once.
    late = dut.latency - Reciprocal.LATENCY
    request = 1 - np.roll(schedule["valid"], late)
    asked = {"request_sum": 1 + (rng.integers(0, (1 << 18) - 1, cycles) >> rng.integers(0, 18)),
             "request_scale_m": rng.integers(1 << 16, 1 << 17, cycles),
             "request_scale_s": rng.integers(18, 48, cycles)}
    got = run(dut, {"e": e, **schedule, "scale_m": scale_m, "scale_s": scale_s,
                    "request": request, **asked},
              dict.fromkeys(("o", "mantissa", "shift"), Reciprocal.LATENCY),
              tables=table_writes(TABLE))
    total = np.zeros(TINY.max_tokens, np.int64)
    sums, ms, ss = (np.where(request, v, 0) for v in asked.values())
    for i in np.flatnonzero(schedule["valid"][:cycles - late]):
        row = schedule["row"][i]
        total[row] = e[i].sum() + (0 if schedule["first"][i] else total[row])
        sums[i + late], ms[i + late], ss[i + late] = total[row], scale_m[i], scale_s[i]
    used = np.flatnonzero(sums)
    assert request[used].any()
    assert not request[used].all()
    m, s = reciprocal(TABLE, sums[used], ms[used], ss[used])
    assert_equal("m", m, got["o"][used] & 0x1FFFF)
    assert_equal("s", s, got["o"][used] >> 17)
    assert_equal("shift", ss[used] - s, got["shift"][used])
    assert_equal("mantissa", m, round_shift(got["mantissa"][used] * ms[used], 17))


def test_without_pruning():
    dut = RowSum(replace(TINY, pruning=False))
    assert not {"request", "mantissa", "shift"} & set(dut.signature.members)
