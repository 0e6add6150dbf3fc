# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.layers: ranges, scales and layers by themselves."""

import numpy as np
import pytest

from golden.layers import Ranges, Scale, linear, norm, scale


def test_ranges_keep_the_largest() -> None:
    ranges = Ranges(75.0)
    ranges.record("a", np.array([1.0, -2.0, 3.0, -4.0, 5.0]))
    ranges.record("a", np.array([[-9.0, 0.0, 0.0, 0.0, 0.0]]))
    ranges.record("b", np.array([8.0]))
    assert ranges.largest("a") == 9 and ranges.step8("a") == 4 / 127
    assert ranges.step8("a", "b") == 8 / 127


def test_stages_without_values() -> None:
    """Where all patches are gone, selectors have no scores."""
    ranges = Ranges(100.0)
    ranges.record("a", np.array([]))
    assert ranges.largest("a") == 2.0 ** -20
    ranges.record("a", np.array([0.0]))
    assert ranges.step8("a") == 2.0 ** -20 / 127
    with pytest.raises(ValueError, match="^stage a of the float model is not finite$"):
        ranges.record("a", np.array([np.inf]))


def test_scale_must_fit() -> None:
    assert scale(0.75, "x") == Scale(m=3 << 15, s=17)
    with pytest.raises(ValueError, match="^the shift of the x scale is 17, must be between 18 and"):
        scale(0.75, "x", low=18)
    with pytest.raises(ValueError, match="^the shift of the x scale is 48, must be between 1 and "):
        scale(2.0 ** -31.5, "x")


def test_linear_is_the_layer() -> None:
    generator = np.random.default_rng(0)
    weight, bias = generator.standard_normal((5, 16)), generator.standard_normal(5)
    layer = linear(weight, bias, "x", source=0.1, target=0.01)
    x = generator.integers(-128, 128, 16)
    got = (layer.weight.astype(int) @ x + layer.bias) * layer.m * 2.0 ** -layer.s * 0.01
    assert np.abs(got - (weight @ x * 0.1 + bias)).max() < 1.0
    assert (np.abs(layer.weight).max(axis=1) == 127).all()


def test_norm_of_a_head() -> None:
    got = norm(32, 1e-6, "x", residual=0.001, step=0.05)
    assert got.channels == 32 and got.epsilon == 1024
    assert got.mean.m * 2.0 ** -got.mean.s == pytest.approx(8, rel=1e-4)
    assert got.scale.m * 2.0 ** -got.scale.s == pytest.approx(32 * 2.0 ** -34 / 0.05, rel=1e-4)
    with pytest.raises(ValueError, match="^epsilon of x is .* in steps of the residual, must be"):
        norm(32, 1e6, "x", residual=0.001, step=0.05)
