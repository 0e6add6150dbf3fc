# SPDX-License-Identifier: BSD-2-Clause
"""Trees: sums and maxima of every size, one set a cycle."""

import numpy as np
import pytest
from amaranth.hdl import signed, unsigned

from rtl.tree import AdderTree, MaxTree, tree_latency
from tests.pipeline import assert_equal, run

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("inputs, latency", [(2, 1), (4, 1), (8, 2), (16, 2), (32, 3)])
@pytest.mark.parametrize("shape, low, high", [(signed(8), -128, 127), (unsigned(5), 0, 31)])
def test_trees(inputs, latency, shape, low, high):
    numbers = RNG.integers(low, high + 1, (50, inputs))
    numbers[0], numbers[1] = low, high
    assert tree_latency(inputs) == latency
    assert tree_latency(1) == 0
    for tree, expected in ((AdderTree, numbers.sum(1)), (MaxTree, numbers.max(1))):
        dut = tree(inputs=inputs, shape=shape)
        got = run(dut, {"i": numbers}, {"o": latency})["o"]
        assert_equal(tree.__name__, expected, got)
