# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: BSD-2-Clause
"""Rescale: rounding, saturation at both ends, every shift."""

import numpy as np
import pytest

from golden.fixed import round_shift, saturate
from rtl.rescale import Rescale
from tests.pipeline import assert_equal, run


@pytest.mark.parametrize("width, bits, symmetric", [(27, 27, False), (25, 18, True)])
def test_rescale(width, bits, symmetric):
    rng = np.random.default_rng(1)
    count = 3000
    limit = 1 << (width - 1)
    a = rng.integers(-limit, limit, count) >> rng.integers(0, width, count)
    m = rng.integers(0, 1 << 17, count)
    s = rng.integers(1, 48, count)
    # Ties and the neighbours of the limits, with a scale of a power of two.
    half, whole = 1 << (bits - 1), 1 << bits
    edges = np.array([e + d for e in (0, half, whole, -half, -whole) for d in range(-4, 5)])
    edges = edges[np.abs(edges) < limit]
    a[:edges.size], m[:edges.size], s[:edges.size] = edges, 1 << 16, 17
    a[-2:], m[-2:], s[-2:] = [-limit, limit - 1], (1 << 17) - 1, 1
    dut = Rescale(width=width, bits=bits, symmetric=symmetric)
    got = run(dut, {"a": a, "m": m, "s": s}, {"o": dut.LATENCY})
    assert_equal("o", saturate(round_shift(a * m, s), bits, symmetric=symmetric), got["o"])


def test_too_wide():
    with pytest.raises(ValueError, match="of 28 bits was asked for, a multiplier takes 27"):
        Rescale(width=28, bits=8)
