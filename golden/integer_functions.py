# SPDX-License-Identifier: BSD-2-Clause
"""The functions of the integer twin on batches of tensors, with the gradients of the float network.

Tensors hold integers, in float32, which has all of 24 bits. Values are exactly those of
:mod:`golden.functions`. Gradients are those of the functions that these stand for, of the same
tensors: a rounding has the slope 1, what is limited has none beyond its limits.

``m * 2**-s`` is a float64. ``x * m * 2**-s + 1/2`` is a multiple of ``2**-s`` and has fewer than 53
bits: float64 has it exactly, and its floor is ``round_shift``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from golden.fixed import Int
from golden.functions import norm_scale, reciprocal
from golden.layers import Linear, Norm, Scale
from rtl.isa import MEAN_FRAC

__all__ = ["Attention", "Layer", "Lookup", "attend", "factor", "integers", "limits", "linear",
           "look_up", "normalise", "rescale", "scores"]

#: Integers of which float32 has all.
_EXACT = 1 << 24
#: Attention scores are int16, activations are int8.
_SCORES = (-32768, 32767)
_ACTIVATIONS = (-128, 127)


def limits(bits: int, symmetric: bool = False) -> tuple[int, int]:
    """Return the least and the largest signed integer of so many bits."""
    high = (1 << (bits - 1)) - 1
    return (-high if symmetric else -high - 1), high


def integers(x: Tensor) -> Int:
    """Return the integers in a tensor, for :mod:`golden.functions`."""
    result: Int = x.detach().cpu().numpy().astype(np.int64)
    return result


def factor(m: NDArray[np.integer] | int, s: NDArray[np.integer] | int, like: Tensor) -> Tensor:
    """Return ``m * 2**-s`` in float64, on the device of ``like``."""
    scale = np.asarray(np.ldexp(np.asarray(m, np.float64), -np.asarray(s)))
    return torch.from_numpy(scale).to(like.device)


def _passed(gradient: Tensor, value: Tensor, low: int, high: int) -> Tensor:
    """Return the gradient where ``value`` is within limits, and 0 elsewhere."""
    result: Tensor = torch.ops.aten.hardtanh_backward(gradient, value, low - 0.5, high + 0.5)
    return result


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A layer as tensors.

    Parameters
    ----------
    weight
        Integers [outputs, inputs], in float32, or in float64 where sums may exceed 24 bits.
    scale, bias
        ``m * 2**-s``, and the bias times that, plus 1/2, in float64 [outputs].
    real
        What weight and bias times scale are the rounding of, in one unit of the output for one
        unit of the input; they have the gradients. None where there are none.
    precision
        Of the products of matrices for gradients.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor
    real: tuple[Tensor | None, Tensor | None] = (None, None)
    precision: torch.dtype = torch.float32

    @classmethod
    def of(cls, layer: Linear, device: torch.device, *, largest: int = 128,
           real: tuple[Tensor | None, Tensor | None] = (None, None),
           precision: torch.dtype = torch.float32) -> "Layer":
        """Return a layer whose inputs are up to ``largest``."""
        reach = int(np.abs(layer.weight.astype(np.int64)).sum(axis=1).max()) * largest
        weight = torch.from_numpy(layer.weight).to(
            device, torch.float32 if reach < _EXACT else torch.float64)
        scale = factor(layer.m, layer.s, weight)
        bias = torch.from_numpy(layer.bias).to(device) * scale + 0.5
        return cls(weight=weight, scale=scale, bias=bias, real=real, precision=precision)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, layer: Layer,
                low: int, high: int) -> Tensor:
        acc = x.to(layer.weight.dtype) @ layer.weight.T
        value = acc.double().mul_(layer.scale).add_(layer.bias).floor_()
        if high < _EXACT:
            value = value.float()
        # Where limits are wide there are narrower ones to come.
        narrow = low >= _ACTIVATIONS[0]
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, value if narrow else None)
            ctx.layer, ctx.limits = layer, (low, high)
        return value.clamp(low, high) if narrow else value.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, value = ctx.saved_tensors
        layer, (by_x, by_weight, by_bias, *_) = ctx.layer, ctx.needs_input_grad
        if value is not None:
            gradient = _passed(gradient, value, *ctx.limits)
        gradient = gradient.float().flatten(0, -2)
        factors = gradient.to(layer.precision)
        weight = (layer.weight * layer.scale[:, None]).to(layer.precision)
        return ((factors @ weight).float().view_as(x) if by_x else None,
                (factors.T @ x.flatten(0, -2).to(layer.precision)).float() if by_weight else None,
                gradient.sum(0) if by_bias else None, None, None, None)


def linear(layer: Layer, x: Tensor, low: int, high: int) -> Tensor:
    """Return the outputs of a layer between limits; in float64 if these have 25 bits or more."""
    y: Tensor = _Linear.apply(x, *layer.real, layer, low, high)
    return y


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookup:
    """A function of signed integers as a table: its value and its slope from the least one on."""

    value: Tensor
    slope: Tensor


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Lookup) -> Tensor:
        index = (x + len(table.value) // 2).int().flatten()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(index)
            ctx.slope = table.slope
        return table.value.index_select(0, index).view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        index, = ctx.saved_tensors
        return gradient * ctx.slope.index_select(0, index).view_as(gradient), None


def look_up(table: Lookup, x: Tensor) -> Tensor:
    """Return the values of a table at ``x``, which must be in it."""
    y: Tensor = _LookUp.apply(x, table)
    return y


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Norm, rsqrt: Int) -> Tensor:
        wide = x.double()
        total, squares = wide.sum(-1, keepdim=True), wide.square().sum(-1, keepdim=True)
        mean, m, s = norm_scale(rsqrt, integers(total), integers(squares), norm.channels,
                                norm.mean.m, norm.mean.s, norm.scale.m, norm.scale.s, norm.epsilon)
        scale = factor(m, s, x)
        shift = 0.5 - torch.from_numpy(mean).to(x.device) * scale
        value = wide.mul_(scale * (1 << MEAN_FRAC)).add_(shift).floor_().float()
        if ctx.needs_input_grad[0]:
            variance = (norm.channels * squares - total.square() + norm.epsilon)
            ctx.save_for_backward(x, value, (total / norm.channels).float(),
                                  (norm.channels * variance.rsqrt()).float())
            # The step of the result.
            ctx.step = norm.channels * 2.0 ** (norm.scale.s - 34) / norm.scale.m
        return value.clamp(*_ACTIVATIONS)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, value, mean, rstd = ctx.saved_tensors
        by_x, *_ = torch.ops.aten.native_layer_norm_backward(
            _passed(gradient, value, *_ACTIVATIONS).contiguous(), x.contiguous(), x.shape[-1:],
            mean, rstd, None, None, [True, False, False])
        return by_x / ctx.step, None, None


def normalise(x: Tensor, norm: Norm, rsqrt: Int) -> Tensor:
    """Return the LayerNorm of ``x`` over the last axis; ``rsqrt`` is the table."""
    y: Tensor = _Normalise.apply(x, norm, rsqrt)
    return y


class _Rescale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        value = (x.double() * scale).add_(0.5).floor_().float()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(value, scale.float())
            ctx.limits = low, high
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        value, scale = ctx.saved_tensors
        return _passed(gradient, value, *ctx.limits) * scale, None, None, None


def rescale(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Return ``x`` times a scale, rounded, between limits."""
    y: Tensor = _Rescale.apply(x, scale, low, high)
    return y


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, scale: float, precision: torch.dtype) -> Tensor:
        value = (q @ k.transpose(-2, -1)).double().mul_(scale).add_(0.5).floor_().float()
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(q, k, value)
            ctx.scale, ctx.precision = scale, precision
        return value.clamp(*_SCORES)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, value = ctx.saved_tensors
        gradient = (_passed(gradient, value, *_SCORES) * ctx.scale).to(ctx.precision)
        return ((gradient @ k.to(ctx.precision)).float(),
                (gradient.transpose(-2, -1) @ q.to(ctx.precision)).float(), None, None)


def scores(q: Tensor, k: Tensor, scale: Scale, precision: torch.dtype = torch.float32) -> Tensor:
    """Return the attention scores of ``q`` and ``k`` [batch, heads, tokens, channels]."""
    y: Tensor = _Scores.apply(
        q, k, scale.m * 2.0 ** -scale.s, precision)
    return y


@dataclass(frozen=True, kw_only=True, eq=False)
class Attention:
    """What is constant in the softmax and the product with V of a block.

    Parameters
    ----------
    exp
        Exponential of each difference from the maximum of a row, from 0.
    reciprocal
        Table of the reciprocal.
    value
        Scale of the products.
    gain, score_step
        Real value of one unit of V, times what the softmax is multiplied by, in units of the
        result; real value of one unit of the scores.
    precision
        Of the products of matrices for gradients.
    """

    exp: Tensor
    reciprocal: Int
    value: Scale
    gain: float
    score_step: float
    precision: torch.dtype = torch.float32


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, v: Tensor, present: Tensor | None,
                constants: Attention) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mask: Tensor | None = None
        top = scores
        if present is not None:
            diagonal = torch.eye(scores.shape[-1], device=scores.device)
            mask = torch.maximum(present[:, None], diagonal)[:, None]
            top = scores + (mask - 1) * (_SCORES[1] - _SCORES[0])
        top = top.amax(-1, keepdim=True)
        # Tokens that are absent may be above the maximum.
        index = (top - scores).clamp_(min=0).int().flatten()
        e = constants.exp.index_select(0, index).view_as(scores)
        weights = e if mask is None else e * mask
        total = weights.sum(-1, keepdim=True)
        scale = factor(*reciprocal(constants.reciprocal, integers(total), constants.value.m,
                                   constants.value.s), v)
        value = (weights @ v).double().mul_(scale).add_(0.5).floor_().float()
        first = (weights[:, :, 0] / total[:, :, 0]).sum(1)
        ctx.mark_non_differentiable(top, total)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(e, mask, total, v, value)
            ctx.constants = constants
        return value.clamp(*_ACTIVATIONS), first, top[:, :, 0], total[:, :, 0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, by_first: Tensor, *_: Tensor
                 ) -> tuple[Tensor | None, ...]:
        e, mask, total, v, value = ctx.saved_tensors
        constants = ctx.constants
        gradient = (_passed(gradient, value, *_ACTIVATIONS) * constants.gain).to(
            constants.precision)
        part = e / total
        weights = part if mask is None else part * mask
        by_weights = (gradient @ v.to(constants.precision).transpose(-2, -1)).float()
        by_weights[:, :, 0] += by_first[:, None]
        by_weights -= (by_weights * weights).sum(-1, keepdim=True)
        by_v = (weights.to(constants.precision).transpose(-2, -1) @ gradient).float()
        by_present = None
        if ctx.needs_input_grad[2]:
            by_mask = (by_weights * part).sum(1)
            by_present = by_mask.sum(1) - by_mask.diagonal(dim1=1, dim2=2)
        return weights * by_weights * constants.score_step, by_v, by_present, None


def attend(scores: Tensor, v: Tensor, present: Tensor | None,
           constants: Attention) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return softmax(scores) v [batch, heads, tokens, channels], and of the class token the sum of
    its attention over the heads [batch, tokens], and row maximum and row sum [batch, heads, 1].

    With ``present`` [batch, tokens] tokens attend to those where it is 1, and to themselves; it has
    a gradient as in :func:`golden.trainable.masked_softmax`. The attention of the class token is
    the real one, the others are integers.
    """
    return _Attend.apply(scores, v, present, constants)
