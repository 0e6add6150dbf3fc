# SPDX-License-Identifier: BSD-2-Clause
"""Gradients of the functions of the integer twin are those of the functions they stand for.

Their values are compared in test_integer_batch.py, where the twin of single images is.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from golden import fit
from golden import integer_functions as integers
from golden.functions import exponential
from golden.integer_batch import lookup
from golden.layers import Linear, Scale, norm, scale
from golden.nonlinear import FUNCTIONS
from golden.trainable import masked_softmax

GENERATOR = torch.Generator().manual_seed(0)


def whole(low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=GENERATOR).float()


def gradients(value: Tensor, factors: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((value * factors).sum(), inputs))


def assert_near(found: list[Tensor], expected: list[Tensor], error: float) -> None:
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert other.norm() > 0
        assert (one - other).norm() <= error * other.norm(), i


def test_linear() -> None:
    weight, bias = whole(-127, 127, 8, 16), whole(-5000, 5000, 8)
    layer = Linear(weight=weight.numpy().astype(np.int8), bias=bias.numpy().astype(np.int64),
                   m=np.full(8, 70000), s=np.full(8, 23))
    unit = 70000 / 2 ** 23
    real = (weight * unit).requires_grad_(), (bias * unit).requires_grad_()
    x = whole(-128, 127, 5, 3, 16).requires_grad_()
    y = integers.linear(integers.Layer.of(layer, torch.device("cpu"), real=real), x, -128, 127)
    soft = (x @ real[0].T + real[1])
    assert (y.detach() - soft.clamp(-128, 127)).abs().max() <= 0.5001
    assert 0.2 < (soft.abs() > 128).float().mean() < 0.9
    factors = torch.randn(y.shape, generator=GENERATOR)
    inside = (y.detach() - soft).abs() <= 0.5001
    assert_near(gradients(y, factors, x, *real), gradients(soft, factors * inside, x, *real), 1e-5)


def test_normalise() -> None:
    made = norm(48, 1e-6, "x", residual=1e-3, step=0.01)
    x = whole(-3000, 3000, 4, 7, 48).requires_grad_()
    y = integers.normalise(x, made, fit.rsqrt_table())
    soft = layer_norm(x, (48,), eps=1.0) / 0.01
    assert (y - soft.clamp(-128, 127)).abs().max() < 0.51
    inside = (soft > -128.5) & (soft < 127.5)
    assert 0.5 < inside.float().mean() < 1, "nothing is limited"
    factors = torch.randn(y.shape, generator=GENERATOR)
    assert_near(gradients(y, factors, x), gradients(soft, factors * inside, x), 1e-2)


def test_scores() -> None:
    q, k = (whole(-128, 127, 2, 3, 5, 16).requires_grad_() for _ in range(2))
    y = integers.scores(q, k, Scale(m=70000, s=14))
    soft = q @ k.transpose(-2, -1) * 70000 / 2 ** 14
    inside = soft.abs() < 32768
    assert inside.any() and not inside.all()
    factors = torch.randn(y.shape, generator=GENERATOR)
    assert_near(gradients(y, factors, q, k), gradients(soft, factors * inside, q, k), 1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_attend(masked: bool, precision: torch.dtype) -> None:
    step, gain = 1e-3, 0.8
    exp = scale(step * math.log2(math.e) * 2 ** 5, "x")
    table = exponential(fit.exp_table(), -np.arange(1 << 16), np.int64(0), exp.m, exp.s)
    constants = integers.Attention(
        exp=torch.from_numpy(table).float(), reciprocal=fit.reciprocal_table(),
        value=scale(gain * 2 ** -17, "x", low=18), gain=gain, score_step=step,
        precision=precision)
    scores = whole(-2000, 2000, 2, 3, 9, 9).requires_grad_()
    v = whole(-127, 127, 2, 3, 9, 16).requires_grad_()
    present = (torch.rand(2, 9, generator=GENERATOR) < 0.6).float()
    present[:, 0] = 1
    present = present.requires_grad_() if masked else torch.ones(2, 9, requires_grad=True)
    y, first, top, total = integers.attend(scores, v, present if masked else None, constants)
    weights = masked_softmax(scores * step, present, FUNCTIONS["exact"])
    soft = weights @ v * gain
    # Exponentials have eight bits.
    assert (y - soft).abs().max() < 1.5
    torch.testing.assert_close(first, weights[:, :, 0].sum(1), atol=1e-2, rtol=0)
    there = scores[0, :, 0, present[0] == 1]
    assert torch.equal(top[0, :, 0], there.amax(-1))
    assert total.shape == (2, 3, 1)
    factors, more = (torch.randn(x.shape, generator=GENERATOR) for x in (y, first))
    inputs = (scores, v, present) if masked else (scores, v)

    def loss(y: Tensor, first: Tensor) -> list[Tensor]:
        return gradients(torch.cat([y.flatten(), 100 * first.flatten()]),
                         torch.cat([factors.flatten(), more.flatten()]), *inputs)

    assert_near(loss(y, first), loss(soft, weights[:, :, 0].sum(1)), 0.02)


def test_look_up() -> None:
    step = 0.02
    table = lookup(fit.gelu_table(step), torch.device("cpu"))
    x = torch.linspace(-131072, 131071, 5001).round().requires_grad_()
    y = integers.look_up(table, x)
    real = torch.nn.functional.gelu(x / 4096) / step
    assert (y - real.clamp(-128, 127)).abs().max() <= 1
    slope, = gradients(y, torch.ones(5001), x)
    expected, = gradients(real, (real < 127.9).float(), x)
    far = (real.detach() - 128).abs() > 0.3
    assert (slope - expected)[far].abs().max() < 0.01 * expected.max()


def test_rescale() -> None:
    x = whole(-3000, 3000, 4, 6).requires_grad_()
    y = integers.rescale(x, torch.tensor(1 / 16, dtype=torch.float64), -128, 127)
    assert y.tolist() == ((x + 8) / 16).floor().clamp(-128, 127).tolist()
    slope, = gradients(y, torch.ones(4, 6), x)
    assert torch.equal(slope, ((x >= -128 * 16 - 8) & (x < 127 * 16 + 8)) / 16)


def test_wide_layers_are_exact() -> None:
    """Sums of more than 24 bits are taken in double precision."""
    weight = np.full((1, 2000), 127, np.int8)
    layer = Linear(weight=weight, bias=np.zeros(1, np.int64), m=np.array([1 << 16]),
                   s=np.array([16]))
    made = integers.Layer.of(layer, torch.device("cpu"))
    x = torch.full((1, 2000), -128.0)
    x[0, 0] = 127
    assert integers.linear(made, x, -(1 << 26), (1 << 26) - 1).item() == 127 * (127 - 1999 * 128)
