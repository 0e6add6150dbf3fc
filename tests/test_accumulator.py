# SPDX-License-Identifier: BSD-2-Clause
"""Accumulators against numpy: sums over K tiles, row by row."""

from dataclasses import replace

import numpy as np
import pytest

from rtl.accumulator import Accumulator
from rtl.array import psum_bits
from rtl.config import MIN_TILE_CYCLES, named
from tests.pipeline import assert_equal, run, tiles

CONFIG = named("tiny")


def _expected(psum, schedule, depth):
    kept = np.zeros((depth, psum.shape[1]), np.int64)
    result = []
    for values, valid, row, first, last in zip(
            psum, schedule["valid"], schedule["row"], schedule["first"], schedule["last"],
            strict=True):
        total = values + (0 if first else kept[row])
        if valid and not last:
            kept[row] = total
        result.append(total)
    return np.array(result)


def _check(config, schedule, psum):
    got = run(Accumulator(config), {"psum": psum, **schedule}, {"acc": Accumulator.LATENCY})["acc"]
    last = (schedule["valid"] & schedule["last"]) != 0
    assert last.any()
    assert_equal("acc", _expected(psum, schedule, config.pass_rows)[last], got[last])


@pytest.mark.parametrize("rows", range(1, MIN_TILE_CYCLES + 1))
def test_rows_return_after_the_shortest_tile(rows):
    rng = np.random.default_rng(rows)
    schedule = tiles(rng, rows=rows, tiles=5, max_rows=CONFIG.pass_rows, gaps=False)
    period = len(schedule["valid"]) // 5
    schedule["last"] = np.repeat([0, 0, 0, 0, 1], period)
    half = 1 << (psum_bits(CONFIG.rows) - 1)
    _check(CONFIG, schedule, rng.integers(-half, half, (5 * period, CONFIG.columns)))


@pytest.mark.parametrize("config", ["tiny", "zcu104"])
def test_column_tiles_follow_each_other(config):
    """No sum survives from one column tile to the next, and one K tile alone is first and last."""
    config = named(config)
    config = replace(config, max_rows=2 * config.max_tokens)  # as for batches
    rng = np.random.default_rng(7)
    parts, psums = [], []
    half = 1 << (psum_bits(config.rows) - 1)
    for k_tiles in (3, 1, 2, 1):
        part = tiles(rng, rows=20, tiles=k_tiles, max_rows=config.pass_rows)
        period = len(part["valid"]) // k_tiles
        part["last"] = np.repeat(np.arange(k_tiles) == k_tiles - 1, period).astype(np.int64)
        parts.append(part)
        psums.append(rng.integers(-half, half, (k_tiles * period, config.columns)))
    schedule = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    _check(config, schedule, np.concatenate(psums))


def test_rows_that_are_not_valid_leave_no_trace():
    rng = np.random.default_rng(3)
    count = 4 * MIN_TILE_CYCLES
    schedule = {
        "valid": np.repeat([1, 0, 0, 1], MIN_TILE_CYCLES),
        "row": np.tile(np.arange(MIN_TILE_CYCLES), 4),
        "first": np.repeat([1, 0, 1, 0], MIN_TILE_CYCLES),
        "last": np.repeat([0, 0, 0, 1], MIN_TILE_CYCLES),
    }
    _check(CONFIG, schedule, rng.integers(-1000, 1000, (count, CONFIG.columns)))


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_reach_the_ends_of_their_range(sign):
    """48 K tiles of 64 rows, the longest sum of DeiT-B, at the largest products."""
    config = named("zcu102")
    k_tiles = config.max_hidden // config.rows
    schedule = tiles(np.random.default_rng(1), rows=1, tiles=k_tiles, max_rows=4, gaps=False)
    period = len(schedule["valid"]) // k_tiles
    schedule["last"] = np.repeat(np.arange(k_tiles) == k_tiles - 1, period).astype(np.int64)
    largest = sign * config.rows * 127 * 128
    _check(config, schedule, np.full((k_tiles * period, config.columns), largest))
