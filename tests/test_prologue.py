# SPDX-License-Identifier: BSD-2-Clause
"""Prologue: every mode against docs/arithmetic.md, random and corner values, one row a cycle."""

from dataclasses import replace

import numpy as np
import pytest

from golden.fixed import round_shift, saturate
from rtl.config import Config, named
from rtl.isa import Prologue as Mode
from rtl.poly import PolyLanes
from rtl.prologue import Prologue
from tests.pipeline import assert_equal, run

TINY = named("tiny")
WIDE = Config(**{**TINY.to_dict(), "rows": 32})


def _exp(x):
    """Return a stand-in for the table: corners, and numbers on both sides of the limits."""
    corners = {0: 65280, 1: -1, 2: 70000, 3: 1 << 30, 4: -(1 << 31), 5: 65407, 6: 127, 7: 128}
    return [corners.get(v, (v * 40503 + 12345) % 65408) for v in x]


def _expected(rows):
    mode, data16 = rows["mode"][:, None], rows["data16"]
    difference = (data16 << 8) - rows["ref"][:, None]
    p = round_shift(difference * rows["m"][:, None], rows["s"][:, None])
    bypass = np.where(rows["unsigned_in"][:, None] == 1, rows["data8"],
                      saturate(rows["data8"] - (rows["data8"] > 127) * 256, 8))
    u = np.minimum(np.abs(p), (1 << 17) - 1)
    x = u % (1 << 13)
    e16 = np.clip([_exp(row) for row in x.tolist()], 0, 65535)
    norm = (mode == Mode.NORM.value) | (mode == Mode.SCALE.value)
    act = np.select([mode == Mode.BYPASS.value, norm], [bypass, saturate(p, 8)],
                    np.minimum(round_shift(e16, 8 + (u >> 13)), 255))
    used = rows["lanes"] & (mode == Mode.EXP.value)
    assert (p[used] <= 0).all(), "a score is above the maximum"
    # Without a limit, which a table that stays within it does not need.
    e16 = np.array([_exp(row) for row in x.tolist()])
    return x, used, np.where(rows["lanes"], act, 0), p, e16, np.where(used, u >> 13, 15)


def _rows(config, rng, count):
    lanes = config.rows
    mode = rng.integers(0, 4, count)
    size = rng.integers(0, 16, count)[:, None]
    data16 = rng.integers(-32768, 32768, (count, lanes)) >> size
    data16[0], data16[1], data16[2], data16[3] = 32767, -32768, -32768, 0
    ref = (rng.integers(-(1 << 23), 1 << 23, count) >> size[:, 0])
    ref[0], ref[1], ref[2], ref[3] = -(1 << 23), (1 << 23) - 1, 32767 << 8, 0
    enable = rng.random((count, lanes)) < 0.9
    # Exponents: nothing that is enabled is above the maximum, and all sizes of z.
    enable[:4] = True
    m = rng.integers(1 << 16, 1 << 17, count)
    m[1:4] = (1 << 17) - 1
    bits = np.log2(np.abs((data16 << 8) - ref[:, None]).max(1) + 1) + 17
    s = np.clip(bits - rng.integers(5, 20, count), 1, 47).astype(np.int64)
    s[4], s[5] = 1, 47
    mode[0:6] = Mode.NORM.value
    is_exp = mode == Mode.EXP.value
    is_exp[1] = is_exp[2] = is_exp[3] = True
    mode[is_exp] = Mode.EXP.value
    top = np.where(enable, data16, -32768).max(1)
    ref = np.where(is_exp, top << 8, ref)
    ref[1] = ref[2] = 32767 << 8
    ref[mode == Mode.SCALE.value] = 0
    return {"mode": mode, "unsigned_in": rng.integers(0, 2, count),
            "data8": rng.integers(0, 256, (count, lanes)), "data16": data16, "lanes": enable,
            "enable": [sum(int(b) << i for i, b in enumerate(row)) for row in enable],
            "ref": ref, "m": m, "s": s}


@pytest.mark.parametrize("config", [TINY, WIDE], ids=["16x16", "32x16"])
def test_every_mode(config):
    rng = np.random.default_rng(7)
    rows = _rows(config, rng, 300)
    dut = Prologue(config)
    got = run(dut, {name: v for name, v in rows.items() if name != "lanes"},
              {"exp_x": dut.LATENCY - PolyLanes.LATENCY - 3, "act": dut.LATENCY,
               "exponential": dut.EXPONENTIAL_LATENCY, "power": dut.EXPONENTIAL_LATENCY},
              loop=("exp_x", "exp_y", PolyLanes.LATENCY, _exp))
    x, used, act, p, e16, power = _expected(rows)
    exponents = np.minimum(-p, (1 << 17) - 1)[used] >> 13
    assert set(exponents.tolist()) == set(range(16)), "some exponent is not tested"
    for scaled in (Mode.NORM, Mode.SCALE):
        norm = (rows["mode"][:, None] == scaled.value) & rows["lanes"]
        for corner in (p[norm] > 127, p[norm] < -128, np.abs(p[norm]) < 100):
            assert corner.any(), f"some range of {scaled.name} is not tested"
    assert_equal("exp_x", np.where(used, x, 0), np.where(used, got["exp_x"], 0))
    assert_equal("act", act, got["act"])
    within = used & (e16 >= 0) & (e16 <= (255 << 8) + 127)
    assert within.sum() > 1000
    assert_equal("exponential", np.where(within, e16, 0), np.where(within, got["exponential"], 0))
    assert_equal("power", power, got["power"])


def test_without_pruning():
    dut = Prologue(replace(TINY, pruning=False))
    assert not {"exponential", "power"} & set(dut.signature.members)


@pytest.mark.parametrize("x, expected", [(-3, -1), (-1, 0), (1, 1), (3, 2)])
def test_norm_rounds_half_up(x, expected):
    """``x * 2**8 * m * 2**-s = x / 2``."""
    dut = Prologue(TINY)
    got = run(dut, {"mode": [Mode.NORM.value], "data16": [[x] * 16], "enable": [0xFFFF],
                    "ref": [0], "m": [1 << 16], "s": [25]}, {"act": dut.LATENCY})
    assert_equal("act", np.full((1, 16), expected), got["act"])


def test_exp_underflows():
    """One maximum away: 2**-8 * 255 rounds to one, 2**-9 * 255 to zero, 2**-16 to zero."""
    dut = Prologue(TINY)
    scores = [0, -1, -2, -3, -8, -9, -10, -16, -17, -32768, -100, -15, -14, -12, -7, -6]
    got = run(dut, {"mode": [Mode.EXP.value], "data16": [scores], "enable": [0xFFFF],
                    "ref": [0], "m": [1 << 16], "s": [11]}, {"act": dut.LATENCY},
              loop=("exp_x", "exp_y", PolyLanes.LATENCY, lambda x: [65280] * len(x)))
    expected = [(65280 + (1 << (7 - s))) >> (8 - s) if s > -16 else 0 for s in scores]
    assert_equal("act", [expected], got["act"])
