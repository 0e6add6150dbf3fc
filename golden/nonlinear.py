# SPDX-License-Identifier: BSD-2-Clause
"""GELU, softmax and sigmoid of the float twin with their tables: exact, I-BERT's and HeatViT's.

I-BERT (arXiv 2101.01321) has polynomials in their place:

* ``GELU(x) = x/2 (1 + L(x / sqrt 2))``, ``L(u) = sign(u) d1 (a (min(|u|, -b) + b)^2 + 1)``, d1 = 1;
* softmax with ``exp(p - z ln 2) = (0.3585 (p + 1.353)^2 + 0.344) 2^-z``.

It has no sigmoid: here that is ``1 / (1 + exp(-|x|))`` with this exponential, and one less that for
negative x.

HeatViT (arXiv 2211.08110) has the same, but d1 = 1/2, the softmax of the blocks is multiplied by
d2 = 1/2, and the sigmoid is one of straight lines (PLAN). These factors make the slopes smaller
than those of the exact functions. With them a network computes something else: its GELU has the
slopes 1/4 and 3/4 far from zero. It is for networks that were trained with it. The scores of
selectors are not multiplied by d2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from golden.fit import (
    SIGMOID_SCALE,
    exp_table,
    fraction_table,
    gelu_table,
    lane_table,
    sigmoid_table,
)
from golden.fixed import Int

__all__ = ["ERF", "EXP", "FUNCTIONS", "PLAN", "Functions", "functions_named", "heatvit_gelu",
           "heatvit_gelu_table", "heatvit_sigmoid", "heatvit_sigmoid_table", "ibert_exp_table",
           "ibert_gelu", "ibert_gelu_table", "ibert_sigmoid", "ibert_sigmoid_table",
           "ibert_softmax"]

Real = NDArray[np.float64]

#: Coefficients a and b of the polynomial for erf, and the three of the one for exp.
ERF = (-0.2888, -1.769)
EXP = (0.3585, 1.353, 0.344)
#: What the polynomials for erf and for the attention are multiplied by.
_DELTA1 = 0.5
_DELTA2 = 0.5
#: PLAN from a value of ``|x|`` on: slope and value at 0. Beyond the last it is 1.
PLAN = ((0.0, 1 / 4, 1 / 2), (1.0, 1 / 8, 5 / 8), (2.375, 1 / 32, 27 / 32), (5.0, 0.0, 1.0))


def _precise(x: Tensor) -> Tensor:
    """Return ``x`` in float32 if it is in less: in bfloat16 the polynomials lose all digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _polynomial_gelu(x: Tensor, delta: float) -> Tensor:
    x = _precise(x)
    a, b = ERF
    u = x / math.sqrt(2)
    erf = u.sign() * delta * (a * (u.abs().clamp(max=-b) + b).square() + 1)
    return x / 2 * (1 + erf)


def _polynomial_exp(x: Tensor) -> Tensor:
    """Return the exponential of what is not positive."""
    z = (-x / math.log(2)).floor()
    a, b, c = EXP
    return (a * (x + z * math.log(2) + b).square() + c) * torch.exp2(-z)


def ibert_gelu(x: Tensor) -> Tensor:
    """Return I-BERT's polynomial GELU."""
    return _polynomial_gelu(x, 1.0)


def ibert_softmax(x: Tensor) -> Tensor:
    """Return softmax over the last axis with I-BERT's exponential, which is HeatViT's too."""
    x = _precise(x)
    e = _polynomial_exp(x - x.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def ibert_sigmoid(x: Tensor) -> Tensor:
    """Return a sigmoid of I-BERT's exponential."""
    x = _precise(x)
    y = 1 / (1 + _polynomial_exp(-x.abs()))
    return torch.where(x < 0, 1 - y, y)


def heatvit_gelu(x: Tensor) -> Tensor:
    """Return HeatViT's polynomial GELU, d1 = 1/2."""
    return _polynomial_gelu(x, _DELTA1)


def heatvit_sigmoid(x: Tensor) -> Tensor:
    """Return PLAN, the sigmoid in straight lines."""
    y = torch.full_like(x, 0.5)
    for start, slope, value in PLAN:
        y = torch.where(x.abs() >= start, slope * x.abs() + value, y)
    return torch.where(x < 0, 1 - y, y)


# The functions of tables, of real numbers.

def _ibert_gelu(x: Real) -> Real:
    return ibert_gelu(torch.from_numpy(x)).numpy()


def _ibert_sigmoid(x: Real) -> Real:
    return ibert_sigmoid(torch.from_numpy(SIGMOID_SCALE * x)).numpy()


def _heatvit_gelu(x: Real) -> Real:
    return heatvit_gelu(torch.from_numpy(x)).numpy()


def _heatvit_sigmoid(x: Real) -> Real:
    return heatvit_sigmoid(torch.from_numpy(SIGMOID_SCALE * x)).numpy()


def _ibert_exp(f: Real) -> Real:
    a, b, c = EXP
    return 255 * (a * (b - f * math.log(2)) ** 2 + c)


def ibert_gelu_table(step: float) -> Int:
    """Return the lane table ``[34, 3]`` of :func:`ibert_gelu`; tails 0 and x."""
    return lane_table(_ibert_gelu, step, low=(0, 0), high=(0, 1), name="GELU")


def ibert_sigmoid_table(step: float) -> Int:
    """Return the lane table ``[34, 3]`` of ``ibert_sigmoid(SIGMOID_SCALE * x)``; tails 0 and 1."""
    return lane_table(_ibert_sigmoid, step, low=(0, 0), high=(1, 0), name="sigmoid")


def ibert_exp_table() -> Int:
    """Return the table ``[8, 3]`` of 255 times I-BERT's exponential of ``-f ln 2``."""
    return fraction_table(_ibert_exp)


def heatvit_gelu_table(step: float) -> Int:
    """Return the lane table ``[34, 3]`` of :func:`heatvit_gelu`; tails x/4 and 3x/4."""
    return lane_table(_heatvit_gelu, step, low=(0, (1 - _DELTA1) / 2),
                      high=(0, (1 + _DELTA1) / 2), name="GELU")


def heatvit_sigmoid_table(step: float) -> Int:
    """Return the lane table ``[34, 3]`` of PLAN of ``SIGMOID_SCALE * x``; tails 0 and 1."""
    return lane_table(_heatvit_sigmoid, step, low=(0, 0), high=(1, 0), name="sigmoid")


@dataclass(frozen=True, kw_only=True)
class Functions:
    """The functions of a network that are not linear, and their tables.

    Parameters
    ----------
    gelu, softmax, sigmoid
        Of tensors; ``softmax`` over the last axis.
    attention
        What the softmax of the blocks is multiplied by.
    gelu_table, sigmoid_table, exp_table
        The tables; the first two for an int8 output of a given step.
    """

    gelu: Callable[[Tensor], Tensor]
    softmax: Callable[[Tensor], Tensor]
    sigmoid: Callable[[Tensor], Tensor]
    attention: float
    gelu_table: Callable[[float], Int]
    sigmoid_table: Callable[[float], Int]
    exp_table: Callable[[], Int]


def _softmax(x: Tensor) -> Tensor:
    return x.softmax(-1)


FUNCTIONS: dict[str, Functions] = {
    "exact": Functions(
        gelu=functional.gelu, softmax=_softmax, sigmoid=torch.sigmoid, attention=1.0,
        gelu_table=gelu_table, sigmoid_table=sigmoid_table, exp_table=exp_table),
    "heatvit": Functions(
        gelu=heatvit_gelu, softmax=ibert_softmax, sigmoid=heatvit_sigmoid, attention=_DELTA2,
        gelu_table=heatvit_gelu_table, sigmoid_table=heatvit_sigmoid_table,
        exp_table=ibert_exp_table),
    "ibert": Functions(
        gelu=ibert_gelu, softmax=ibert_softmax, sigmoid=ibert_sigmoid, attention=1.0,
        gelu_table=ibert_gelu_table, sigmoid_table=ibert_sigmoid_table,
        exp_table=ibert_exp_table),
}


def functions_named(name: str) -> Functions:
    """Return the functions called ``name``."""
    if name not in FUNCTIONS:
        raise ValueError(f"functions are {name!r}, must be one of {', '.join(FUNCTIONS)}")
    return FUNCTIONS[name]
