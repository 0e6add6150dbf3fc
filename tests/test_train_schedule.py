# SPDX-License-Identifier: BSD-2-Clause
"""Learning rate, noise and numbers of kept patches, step by step."""

import math
from dataclasses import replace

import pytest

from golden.train_config import Stage
from golden.train_schedule import kept_counts, learning_rate, noise_level


def test_learning_rate():
    stage = Stage(name="a", size=120, steps=12, batch=1, rate=0.4, warmup=4, last=0.25)
    rates = [learning_rate(stage, step) for step in range(12)]
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[4] == pytest.approx(0.4)
    assert rates[8] == pytest.approx(0.4 * (0.25 + 0.75 / 2))
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[11] > 0.1
    assert rates[10] == pytest.approx(0.1 + 0.15 * (1 + math.cos(math.pi * 6 / 8)))


def test_what_topk_keeps_falls():
    stage = Stage(name="a", kind="topk", size=120, steps=8, batch=1, rate=0.4, blocks=(1, 2),
                  keep=(0.5, 0.25), shrink=0.5)
    found = [kept_counts(stage, 64, step) for step in range(8)]
    assert found == [(64, 64), (56, 52), (48, 40), (40, 28), None, None, None, None]
    assert kept_counts(replace(stage, shrink=0.0), 64, 0) is None
    dense = replace(stage, kind="dense", blocks=(), keep=())
    for other in (replace(stage, kind="threshold"), dense):
        assert kept_counts(other, 64, 0) is None


def test_noise_ends_before_the_stage():
    stage = Stage(name="a", kind="threshold", size=120, steps=8, batch=1, rate=0.4, noise=2.0,
                  blocks=(1,), keep=(0.5,))
    assert [noise_level(stage, step) for step in range(8)] == pytest.approx(
        [2, 5 / 3, 4 / 3, 1, 2 / 3, 1 / 3, 0, 0])
    assert noise_level(replace(stage, quiet=0.0), 7) == 0.25
    assert noise_level(replace(stage, quiet=1.0), 0) == 0
    assert noise_level(replace(stage, noise=0.0), 0) == 0
