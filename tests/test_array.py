# SPDX-License-Identifier: BSD-2-Clause
"""The systolic array against numpy: values, and which tile a load belongs to."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from rtl.array import SPLIT, SystolicArray, psum_bits
from rtl.config import CASCADE, MULTIPLIERS, named
from tests.pipeline import assert_equal, run

#: Latency by size: ``columns / 8 + 11 + tree_latency(rows / 8)``.
LATENCY = {(16, 16): 14, (32, 32): 16, (16, 32): 16, (32, 16): 14}
SIZES = list(LATENCY)


def _array(rows, columns, load_rows, multiplier):
    return SystolicArray(replace(named("tiny"), rows=rows, columns=columns, load_rows=load_rows,
                                 multiplier=multiplier))


class Schedule:
    """What goes into an array, cycle by cycle, and by the contract of its ports what comes out."""

    def __init__(self, rows, columns, multiplier="portable", *, load_rows=1):
        self.rows, self.columns, self.multiplier = rows, columns, multiplier
        self.load_rows = load_rows
        self.cycles = []

    def add(self, act, *, swap=False, load=None):
        """``load`` is ``(row, weights)``, or of two lanes ``(row / 2, weights, rows)``: the weights
        of both rows, and a bit for each that says whether it is loaded."""
        self.cycles.append((np.asarray(act), swap, load))

    def idle(self, cycles):
        for _ in range(cycles):
            self.add(np.zeros(self.rows, np.int64))

    def load(self, tile):
        count = self.load_rows
        for row, weights in enumerate(tile.reshape(-1, count * self.columns)):
            self.add(np.zeros(self.rows, np.int64), load=(row, weights, (1 << count) - 1))

    def expected(self):
        shadow = np.zeros((self.rows, self.columns), np.int64)
        active = shadow.copy()
        sums = []
        for act, swap, load in self.cycles:
            if load is not None:
                row, weights, *lanes = load
                for lane, values in enumerate(weights.reshape(self.load_rows, self.columns)):
                    if not lanes or lanes[0] >> lane & 1:
                        shadow[row * self.load_rows + lane] = values
            if swap:
                active = shadow.copy()
            sums.append(act @ active)
        return np.array(sums)

    def check(self):
        nothing = (0, np.zeros(self.columns * self.load_rows, np.int64), 0)
        dut = _array(self.rows, self.columns, self.load_rows, self.multiplier)
        assert dut.latency == LATENCY[self.rows, self.columns]
        got = run(dut, {
            "act": [act for act, _, _ in self.cycles],
            "swap": [swap for _, swap, _ in self.cycles],
            "load_valid": [0 if load is None else [1, *load[2:]][-1]
                           for _, _, load in self.cycles],
            "load_row": [(load or nothing)[0] for _, _, load in self.cycles],
            "load_data": [(load or nothing)[1] for _, _, load in self.cycles],
        }, {"psum": dut.latency})["psum"]
        assert_equal(f"psum {self.rows}x{self.columns}", self.expected(), got)


def _weights(rng, *shape):
    return rng.integers(-127, 128, shape)


def _act(rng, *shape):
    return rng.integers(-256, 256, shape)


@pytest.mark.parametrize(("rows", "columns", "multiplier"),
                         [*((*size, "portable") for size in SIZES), (16, 16, "dsp48e2")])
def test_random_loads_and_swaps(rows, columns, multiplier):
    rng = np.random.default_rng(rows + 1000 * columns)
    schedule = Schedule(rows, columns, multiplier)
    schedule.load(_weights(rng, rows, columns))
    for _ in range(300):
        load = (int(rng.integers(rows)), _weights(rng, columns))
        schedule.add(_act(rng, rows), swap=rng.random() < 0.2,
                     load=load if rng.random() < 0.7 else None)
    schedule.check()


@pytest.mark.parametrize(("rows", "columns", "multiplier"),
                         [(16, 32, "portable"), (32, 16, "portable"), (16, 16, "dsp48e2")])
def test_random_loads_of_two_rows(rows, columns, multiplier):
    """Either, both, or none."""
    rng = np.random.default_rng(rows)
    schedule = Schedule(rows, columns, multiplier, load_rows=2)
    schedule.load(_weights(rng, rows, columns))
    for _ in range(300):
        load = (int(rng.integers(rows // 2)), _weights(rng, 2 * columns), int(rng.integers(4)))
        schedule.add(_act(rng, rows), swap=rng.random() < 0.2, load=load)
    schedule.check()


@pytest.mark.parametrize(("rows", "columns", "load_rows"), [*((*size, 1) for size in SIZES),
                                                            (32, 32, 2), (16, 16, 2)])
def test_tiles_follow_each_other_without_a_gap(rows, columns, load_rows):
    """Load-bound: row 0 of the next tile enters in the cycle after the swap, the last with it."""
    rng = np.random.default_rng(1)
    schedule = Schedule(rows, columns, load_rows=load_rows)
    schedule.load(_weights(rng, rows, columns))
    loads = rows // load_rows
    for _ in range(5):
        for row in range(loads):
            schedule.add(_act(rng, rows), swap=row == 0,
                         load=((row - 1) % loads, _weights(rng, load_rows * columns),
                               (1 << load_rows) - 1))
    schedule.check()


@pytest.mark.parametrize("offset", [-1, 0, 1, 2])
def test_load_around_a_swap(offset):
    """A load in the cycle of the swap belongs to the new tile, one a cycle later to the next."""
    rng = np.random.default_rng(4)
    schedule = Schedule(16, 16)
    tile = _weights(rng, 16, 16)
    schedule.load(tile.copy())
    schedule.idle(3)
    for row in range(16):
        late, early = _weights(rng, 16), tile.copy()
        tile[row] = late
        acts = _act(rng, 8, 16)
        acts[:, row] = 1 + np.arange(8)
        for cycle, act in enumerate(acts):
            schedule.add(act, swap=cycle in (2, 6),
                         load=(row, late) if cycle == 2 + offset else None)
        sums = schedule.expected()[-8:]
        assert_equal("contract", sums[2:6], acts[2:6] @ (tile if offset <= 0 else early))
        assert_equal("contract", sums[6:], acts[6:] @ tile)
    schedule.check()


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_swaps_in_every_cycle(multiplier):
    rng = np.random.default_rng(5)
    schedule = Schedule(16, 16, multiplier)
    schedule.load(_weights(rng, 16, 16))
    for row in range(48):
        schedule.add(_act(rng, 16), swap=True, load=(row % 16, _weights(rng, 16)))
    schedule.check()


def test_active_weights_stay_while_others_load():
    rng = np.random.default_rng(6)
    schedule = Schedule(16, 16)
    schedule.load(_weights(rng, 16, 16))
    schedule.add(_act(rng, 16), swap=True)
    for row in range(64):
        schedule.add(_act(rng, 16), load=(row % 16, _weights(rng, 16)))
    schedule.check()


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_extremes(rows, columns):
    """Every pair of extreme weights meets every extreme activation in all rows of a cascade."""
    extremes = np.array(list(product((127, -127, 0, 1, -1), repeat=2))).ravel()
    schedule = Schedule(rows, columns)
    for start in range(0, len(extremes), columns):
        weights = np.resize(np.roll(extremes, -start), columns)
        schedule.load(np.tile(weights, (rows, 1)))
        for i, value in enumerate((255, -256, 127, -128, 1, -1, 0)):
            schedule.add(np.full(rows, value), swap=i == 0)
    sums = schedule.expected()
    assert np.abs(sums).max() == rows * 127 * 256
    # The half range of the low product; one bit less, and these sums would reach the high one.
    assert (1 << (SPLIT - 2)) < CASCADE * 127 * 255 < (1 << (SPLIT - 1))
    assert np.abs(sums).max() < 1 << (psum_bits(rows) - 1)
    schedule.check()


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_extremes_of_both_signs_within_a_cascade(multiplier):
    rng = np.random.default_rng(8)
    schedule = Schedule(32, 16, multiplier)
    for _ in range(6):
        schedule.load(rng.choice([-127, 127], (32, 16)))
        for i in range(8):
            schedule.add(rng.choice([-256, -128, 127, 255], 32), swap=i == 0)
    schedule.check()
