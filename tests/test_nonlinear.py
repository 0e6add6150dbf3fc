# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.nonlinear: the functions as published, and the errors of their tables."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from golden import functions
from golden.fit import SIGMOID_SCALE
from golden.fixed import Int
from golden.nonlinear import (
    FUNCTIONS,
    functions_named,
    heatvit_gelu,
    heatvit_gelu_table,
    heatvit_sigmoid,
    heatvit_sigmoid_table,
    ibert_exp_table,
    ibert_gelu,
    ibert_gelu_table,
    ibert_sigmoid,
    ibert_sigmoid_table,
    ibert_softmax,
)

X = np.arange(-(1 << 17), 1 << 17)


def gelu(x: float, delta: float) -> float:
    u = x / math.sqrt(2)
    erf = math.copysign(delta, u) * (-0.2888 * (min(abs(u), 1.769) - 1.769) ** 2 + 1)
    return x / 2 * (1 + erf)


def exponential(x: float) -> float:
    z = math.floor(-x / math.log(2))
    return (0.3585 * (x + z * math.log(2) + 1.353) ** 2 + 0.344) / 2 ** z


def sigmoid(x: float) -> float:
    if x < 0:
        return 1 - sigmoid(-x)
    return 1 if x >= 5 else x / 32 + 27 / 32 if x >= 2.375 else x / 8 + 5 / 8 if x >= 1 else (
        x / 4 + 1 / 2)


def test_functions_are_the_published_ones() -> None:
    x = torch.linspace(-9, 9, 1441, dtype=torch.float64)
    points = x.tolist()
    assert heatvit_gelu(x).tolist() == pytest.approx([gelu(v, 0.5) for v in points])
    assert ibert_gelu(x).tolist() == pytest.approx([gelu(v, 1) for v in points])
    assert heatvit_sigmoid(x).tolist() == pytest.approx([sigmoid(v) for v in points])
    e = [exponential(v - 9) for v in points]
    assert ibert_softmax(x).tolist() == pytest.approx([v / sum(e) for v in e])
    assert ibert_sigmoid(x[x >= 0]).tolist() == pytest.approx(
        [1 / (1 + exponential(-v)) for v in points if v >= 0])
    assert ibert_sigmoid(x[x < 0]).tolist() == pytest.approx(
        [exponential(v) / (1 + exponential(v)) for v in points if v < 0])


def test_distances_from_the_exact_functions() -> None:
    x = torch.linspace(-4, 4, 801, dtype=torch.float64)
    assert (heatvit_sigmoid(x) - x.sigmoid()).abs().max() == pytest.approx(0.0189, abs=1e-4)
    # The factor of one half makes GELU another function.
    error = (heatvit_gelu(x) - torch.nn.functional.gelu(x)).abs()
    assert error.max() == pytest.approx(1.0, abs=0.01)
    error = (ibert_gelu(x) - torch.nn.functional.gelu(x)).abs()
    assert error.max() == pytest.approx(0.0182, abs=1e-4)
    assert error.mean() == pytest.approx(0.0065, abs=1e-4)
    assert (ibert_sigmoid(x) - x.sigmoid()).abs().max() < 8e-4
    softmax = ibert_softmax(torch.stack([x, 3 * x]))
    assert (softmax / torch.stack([x, 3 * x]).softmax(-1) - 1).abs().max() < 8e-3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients(name: str) -> None:
    """They are those of the functions, so that a network can be trained with them."""
    own = FUNCTIONS[name]
    # Of neither corners nor steps: multiples of 0.1 are neither.
    x = torch.arange(-60, 61).double()[:, None] / 10 + 0.01
    for function in (own.gelu, own.sigmoid, lambda x: own.softmax(x.T).T):
        assert torch.autograd.gradcheck(function, x.requires_grad_(), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bfloat16(name: str) -> None:
    """In a training the inputs have 8 bits; the functions of them are as exact as ever."""
    x = torch.linspace(-9, 9, 1441).bfloat16()
    for function in (FUNCTIONS[name].gelu, FUNCTIONS[name].softmax):
        assert torch.equal(function(x).bfloat16(), function(x.float()).bfloat16())


@pytest.mark.parametrize("step", [0.02, 0.0317, 0.05, 0.08, 0.25])
@pytest.mark.parametrize(("function", "made"), [(heatvit_gelu, heatvit_gelu_table),
                                                (ibert_gelu, ibert_gelu_table)])
def test_gelu_every_code(function: Callable[[torch.Tensor], torch.Tensor],
                         made: Callable[[float], Int], step: float) -> None:
    table = made(step)
    assert table.shape == (34, 3) and not table[32:, 2].any()
    real = function(torch.from_numpy(X / 4096)).numpy()
    fits = np.abs(real) < 127.5 * step  # beyond, the output is limited
    raw = functions.gelu_raw(table, X)[fits] * step / 1024
    assert np.abs(raw - real[fits]).max() < 1.5e-3
    got = functions.gelu_int(table, X)
    # Half a step of the output, and the error of the table: below 1/16 of a step.
    assert np.abs(got[fits] * step - real[fits]).max() < step / 2 + min(1.5e-3, step / 16)
    assert set(got[~fits].tolist()) <= {127, -127, -128}


def test_ibert_sigmoid_every_code() -> None:
    real = ibert_sigmoid(torch.from_numpy(SIGMOID_SCALE * X / 4096)).numpy()
    error = np.abs(functions.gelu_raw(ibert_sigmoid_table(1 / 128), X) / 1024 / 128 - real)
    assert error.max() < 1e-3


def test_sigmoid_every_code() -> None:
    real = heatvit_sigmoid(torch.from_numpy(SIGMOID_SCALE * X / 4096)).numpy()
    table = heatvit_sigmoid_table(1 / 128)
    error = np.abs(functions.gelu_raw(table, X) / 1024 / 128 - real)
    # At the corners at +-1.1875 the parabola of the segment rounds the step of PLAN off.
    segment = np.isin(X >> 10, (4, -5))
    assert error[~segment].max() < 2e-4, error[~segment].max()
    assert error[segment].max() < 6e-3, error[segment].max()
    got = functions.gelu_int(table, X)
    assert got.min() == 0 and got.max() == 127 and got[1 << 17] == 64


def test_exp_every_code() -> None:
    f = np.arange(1 << 13)
    got = functions.exp_int(ibert_exp_table(), f) / 256
    real = np.array([255 * exponential(-v * math.log(2) / 8192) for v in f.tolist()])
    assert np.abs(got - real).max() < 0.01
    assert got[0] < 255.5 and round(got[0]) == 255
    assert np.abs(real / (255 * np.exp2(-f / 8192)) - 1).max() < 4e-3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_means_take_exponentials_of_255(name: str) -> None:
    table = FUNCTIONS[name].exp_table()
    assert functions.exponential(table, np.array([5]), np.array([5]), 0, 1).tolist() == [255]


def test_names() -> None:
    assert functions_named("heatvit").attention == 0.5
    assert functions_named("exact").attention == functions_named("ibert").attention == 1.0
    with pytest.raises(ValueError,
                       match=r"^functions are 'fast', must be one of exact, heatvit, ibert$"):
        functions_named("fast")
