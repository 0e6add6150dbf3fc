# SPDX-License-Identifier: BSD-2-Clause
"""Layers and scales in integers, and the ranges that choose their steps."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from golden.fixed import Int, mantissa
from rtl.isa import ACC_BITS, MANTISSA_BITS, MEAN_FRAC

__all__ = ["ACT_RANGE", "PIXEL_RANGE", "WEIGHT_MAX", "Linear", "Norm", "Ranges", "Real", "Scale",
           "linear", "norm", "scale"]

Real = NDArray[np.float64]

#: Bytes of a frame are unsigned; other activations reach from -128 to 127.
PIXEL_RANGE = (0, 255)
ACT_RANGE = (-128, 127)

#: Largest weight and largest K or V, which are weights too.
WEIGHT_MAX = 127
#: An accumulator with its bias stays below this.
_ACC_LIMIT = 1 << (ACC_BITS - 1)
#: A bias larger than this gets a coarser weight step; 3072 products leave that much room.
_BIAS_LIMIT = 1 << 24
#: Smallest scale whose shift fits its field.
_SCALE_MIN = 2.0 ** -30
_SHIFT_MAX = 47
#: A tensor that is zero on the calibration frames is taken to reach this far.
_SMALLEST = 2.0 ** -20


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A real scale, ``m * 2**-s``."""

    m: int
    s: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear:
    """One layer: ``v = round_shift((weight @ x + bias) * m, s)``, scale and bias per output.

    ``weight`` is int8 [outputs, inputs], the others are int64 [outputs].
    """

    weight: NDArray[np.int8]
    bias: Int
    m: Int
    s: Int


@dataclass(frozen=True, kw_only=True)
class Norm:
    """One LayerNorm, as the pass that finishes its input computes the scales of its rows."""

    channels: int
    mean: Scale
    scale: Scale
    epsilon: int


def scale(value: float, name: str, low: int = 1) -> Scale:
    """Return the scale nearest to ``value``; its shift must be ``low`` or more."""
    m, s = mantissa(value)
    if not low <= s <= _SHIFT_MAX:
        raise ValueError(f"the shift of the {name} scale is {s}, must be between {low} and"
                         f" {_SHIFT_MAX}")
    return Scale(m=m, s=s)


def linear(weight: Real, bias: Real, name: str, *, source: float, target: float,
           limits: tuple[int, int] = ACT_RANGE) -> Linear:
    """Quantise a layer between a source and a target of the given steps.

    The weight step of an output is set by its largest weight, unless its bias or its shift would
    not fit: then the step is coarser.
    """
    step = np.maximum(np.abs(weight).max(axis=1) / WEIGHT_MAX,
                      np.abs(bias) / (source * _BIAS_LIMIT))
    step = np.maximum(step, _SCALE_MIN * target / source)
    q = np.rint(weight / step[:, None]).astype(np.int64)
    b = np.rint(bias / (source * step)).astype(np.int64)
    low, high = limits
    positive, negative = np.maximum(q, 0).sum(axis=1), np.minimum(q, 0).sum(axis=1)
    reach = np.maximum(positive * high + negative * low, -positive * low - negative * high)
    reach += np.abs(b)
    if reach.max() >= _ACC_LIMIT:
        raise ValueError(f"|accumulator| + |bias| of output {reach.argmax()} of {name} reaches"
                         f" {reach.max()}, must stay below {_ACC_LIMIT}")
    # As scale() of each output.
    fraction, exponent = np.frexp(source * step / target)
    m = np.rint(fraction * (1 << MANTISSA_BITS)).astype(np.int64)
    carry = m >> MANTISSA_BITS
    shift = MANTISSA_BITS - exponent.astype(np.int64) - carry
    if np.any(bad := (shift < 1) | (shift > _SHIFT_MAX)):
        scale(source * float(step[bad][0]) / target, name)
    return Linear(weight=q.astype(np.int8), bias=b, m=m >> carry, s=shift)


def norm(channels: int, eps: float, name: str, *, residual: float, step: float) -> Norm:
    """Return the LayerNorm over ``channels`` of a residual of that step, to an output of ``step``.
    """
    epsilon = max(1, round(eps * (channels / residual) ** 2))
    if epsilon >= 1 << 32:
        raise ValueError(f"epsilon of {name} is {epsilon} in steps of the residual, must be"
                         f" below {1 << 32}")
    return Norm(channels=channels, mean=scale((1 << MEAN_FRAC) / channels, f"{name} mean"),
                scale=scale(channels * 2.0 ** -34 / step, name, low=27), epsilon=epsilon)


class Ranges:
    """Largest magnitude of every stage over the calibration frames.

    Parameters
    ----------
    percentile
        Part of an int8 tensor, in percent, that is not clipped.
    """

    def __init__(self, percentile: float) -> None:
        self._percentile = percentile
        self._max: dict[str, float] = {}
        self._high: dict[str, float] = {}

    def record(self, stage: str, value: NDArray[np.floating]) -> None:
        """Take in what one frame has at a stage."""
        size = np.abs(value.astype(np.float64))
        if not np.isfinite(size).all():
            raise ValueError(f"stage {stage} of the float model is not finite")
        if not size.size:
            return
        high = float(np.percentile(size, self._percentile))
        self._max[stage] = max(self.largest(stage), float(size.max()))
        self._high[stage] = max(self._high.get(stage, _SMALLEST), high)

    def step8(self, *stages: str) -> float:
        """Return the step of int8 stages: the percentile, the largest of them, is 127 steps."""
        return max(self._high[stage] for stage in stages) / WEIGHT_MAX

    def largest(self, stage: str) -> float:
        return self._max.get(stage, _SMALLEST)
