# SPDX-License-Identifier: BSD-2-Clause
"""Post-training quantisation: from the float twin and a few frames to the integers of a program."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from golden.fit import LANE_X_FRAC, exp_table, gelu_table, reciprocal_table, rsqrt_table
from golden.fixed import Int, mantissa, round_shift, saturate
from golden.images import MEAN, STD, normalise
from golden.model import FloatViT, ModelConfig
from rtl.config import BLOCK
from rtl.isa import ACC_BITS, LANE_X_BITS, MEAN_FRAC

__all__ = ["Linear", "Norm", "QuantizedBlock", "QuantizedViT", "Scale", "patch_bytes", "quantize",
           "sqnr"]

Real = NDArray[np.float64]

#: Bytes of a frame are unsigned; other activations reach from -128 to 127.
_PIXEL_RANGE = (0, 255)
_ACT_RANGE = (-128, 127)

#: Largest weight and largest K or V, which are weights too.
_WEIGHT_MAX = 127
#: An accumulator with its bias stays below this.
_ACC_LIMIT = 1 << (ACC_BITS - 1)
#: A bias larger than this gets a coarser weight step; 3072 products leave that much room.
_BIAS_LIMIT = 1 << 24
#: Smallest scale whose shift fits its field.
_SCALE_MIN = 2.0 ** -30
_SHIFT_MAX = 47
#: Step of the input of GELU in the lanes.
_GELU_X_STEP = 2.0 ** -LANE_X_FRAC
#: What int16 tensors may grow beyond the calibration frames, and logits.
_HEADROOM = 2.0
_LOGIT_HEADROOM = 4.0
#: A tensor that is zero on the calibration frames is taken to reach this far.
_SMALLEST = 2.0 ** -20
#: Below this range of the hidden layer the coefficients of the GELU table would not fit.
_SMALLEST_HIDDEN = 2.0 ** -3


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


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedBlock:
    """The layers of one transformer block; ``norm1`` and ``norm2`` have gamma and beta folded away.

    ``score`` requantises q k, ``exp`` takes score differences to powers of two, ``value`` times
    the reciprocal row sum requantises e v; ``gelu`` is the lane table for the hidden scale.
    """

    norm1: Norm
    q: Linear
    k: Linear
    v: Linear
    score: Scale
    exp: Scale
    value: Scale
    projection: Linear
    norm2: Norm
    mlp1: Linear
    gelu: Int
    mlp2: Linear


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedViT:
    """Everything that a program is made of, in integers.

    Members
    -------
    model
        Sizes.
    weights
        Where the parameters are from: a path, or "synthetic".
    initial
        Residual at the start, int16 [tokens, width]: position embedding; for special tokens the
        token less what the patch pass adds to its row of zeros.
    patch
        Patch embedding of raw bytes: inputs are pixel row, pixel column, colour, each pixel row
        padded to a multiple of 16 bytes.
    blocks, head_norm
        The blocks; the LayerNorm before the heads.
    heads
        One Linear for each special token; the logits are their sum.
    exp, reciprocal, rsqrt
        Polynomial tables.
    steps
        Real value of one unit, by stage; for LayerNorms, of their int8 output.
    """

    model: ModelConfig
    weights: str
    initial: NDArray[np.int16]
    patch: Linear
    blocks: tuple[QuantizedBlock, ...]
    head_norm: Norm
    heads: tuple[Linear, ...]
    exp: Int
    reciprocal: Int
    rsqrt: Int
    steps: dict[str, float]


def patch_bytes(model: ModelConfig) -> int:
    """Return the bytes of a patch in the patch buffer, each pixel row padded to whole blocks."""
    row = model.patch * model.channels
    return model.patch * (-(-row // BLOCK) * BLOCK)


def _scale(value: float, name: str, low: int = 1) -> Scale:
    m, s = mantissa(value)
    if not low <= s <= _SHIFT_MAX:
        raise ValueError(f"the shift of the {name} scale is {s}, must be between {low} and"
                         f" {_SHIFT_MAX}")
    return Scale(m=m, s=s)


def _linear(weight: Real, bias: Real, name: str, *, source: float, target: float,
            limits: tuple[int, int] = _ACT_RANGE) -> Linear:
    """Quantise a layer between a source and a target of the given steps.

    The weight step of an output is set by its largest weight, unless its bias or its shift would
    not fit: then the step is coarser.
    """
    step = np.maximum(np.abs(weight).max(axis=1) / _WEIGHT_MAX,
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
    scales = [_scale(source * s / target, name) for s in step.tolist()]
    return Linear(weight=q.astype(np.int8), bias=b, m=np.array([s.m for s in scales], np.int64),
                  s=np.array([s.s for s in scales], np.int64))


def _requantised_bias(layer: Linear) -> Int:
    return saturate(round_shift(layer.bias * layer.m, layer.s), LANE_X_BITS)


class _Ranges:
    """Largest magnitude of every stage over the calibration frames."""

    def __init__(self, twin: FloatViT, frames: Sequence[NDArray[np.uint8]], percentile: float):
        self._max: dict[str, float] = {}
        self._high: dict[str, float] = {}
        for frame in frames:
            for name, value in twin.forward_stages(normalise(frame)).items():
                size = np.abs(value.double().numpy())
                if not np.isfinite(size).all():
                    raise ValueError(f"stage {name} of the float model is not finite")
                high = float(np.percentile(size, percentile))
                self._max[name] = max(self._max.get(name, _SMALLEST), float(size.max()))
                self._high[name] = max(self._high.get(name, _SMALLEST), high)

    def step8(self, stage: str) -> float:
        """Step of an int8 stage: the percentile is its largest code."""
        return self._high[stage] / _WEIGHT_MAX

    def largest(self, stage: str) -> float:
        return self._max[stage]


class _Quantizer:
    """The state of one quantisation: parameters in double precision, ranges, chosen steps."""

    def __init__(self, twin: FloatViT, frames: Sequence[NDArray[np.uint8]], percentile: float):
        self.model = twin.model
        self.state = {name: value.double().numpy() for name, value in twin.state.items()}
        self.ranges = _Ranges(twin, frames, percentile)
        self.steps: dict[str, float] = {}

    def layer(self, name: str, norm: str | None = None) -> tuple[Real, Real]:
        """Return weight and bias of a layer, with gamma and beta of the LayerNorm before it."""
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        if norm is None:
            return weight, bias
        return (weight * self.state[f"{norm}.weight"],
                bias + weight @ self.state[f"{norm}.bias"])

    def patch_layer(self) -> tuple[Real, Real]:
        """Return weight and bias of the patch embedding of raw bytes."""
        weight, bias = self.layer("patch_embed.proj")
        weight = weight.transpose(0, 2, 3, 1)
        bias = bias - weight.sum(axis=(1, 2)) @ (np.array(MEAN) / STD)
        weight = (weight / (255 * np.array(STD))).reshape(*weight.shape[:2], -1)
        return np.pad(weight, ((0, 0), (0, 0), (0, -weight.shape[2] % BLOCK))).reshape(
            len(weight), -1), bias

    def tokens(self) -> Real:
        """Return the residual that the special tokens and the positions give by themselves."""
        rows = self.state["pos_embed"][0].copy()
        for row, name in enumerate(("cls_token", "dist_token")[:self.model.special_tokens]):
            rows[row] += self.state[name][0, 0]
        return rows

    def residual_step(self, bias: Real) -> float:
        stages = ["embed.residual", *(f"block{i}.residual{j}" for i in range(self.model.depth)
                                      for j in (1, 2))]
        reach = _HEADROOM * max(map(self.ranges.largest, stages))
        # What is loaded must fit too, with a little room for the rounding of the bias.
        rows = self.tokens()
        rows[:self.model.special_tokens] -= bias
        step = max(reach, 1.01 * float(np.abs(rows).max())) / 32767
        self.steps.update(dict.fromkeys(stages, step))
        return step

    def initial(self, patch: Linear, step: float) -> NDArray[np.int16]:
        rows = np.rint(self.tokens() / step).astype(np.int64)
        rows[:self.model.special_tokens] -= _requantised_bias(patch)
        if np.any(rows != saturate(rows, 16)):
            raise ValueError(f"the initial residual reaches {np.abs(rows).max()} steps,"
                             " must be at most 32767")
        return rows.astype(np.int16)

    def norm(self, stage: str, residual: float) -> Norm:
        """Choose the output step of a LayerNorm and return its scales."""
        d = self.model.width
        step = self.steps[stage] = self.ranges.step8(stage)
        epsilon = max(1, round(self.model.eps * (d / residual) ** 2))
        if epsilon >= 1 << 32:
            raise ValueError(f"epsilon of {stage} is {epsilon} in steps of the residual, must be"
                             f" below {1 << 32}")
        return Norm(channels=d, mean=_scale((1 << MEAN_FRAC) / d, f"{stage} mean"),
                    scale=_scale(d * 2.0 ** -34 / step, stage, low=27), epsilon=epsilon)

    def block(self, i: int, residual: float) -> QuantizedBlock:
        m, block, stage = self.model, f"blocks.{i}", f"block{i}"
        norm1, norm2 = (self.norm(f"{stage}.norm{j}", residual) for j in (1, 2))
        steps = {name: self.ranges.step8(f"{stage}.{name}")
                 for name in ("q", "k", "v", "attention", "hidden")}
        steps["hidden"] = max(steps["hidden"], _SMALLEST_HIDDEN / _WEIGHT_MAX)
        steps["scores"] = _HEADROOM * self.ranges.largest(f"{stage}.scores") / 32767
        self.steps.update({f"{stage}.{name}": step for name, step in steps.items()})

        weight, bias = self.layer(f"{block}.attn.qkv", f"{block}.norm1")
        q, k, v = (_linear(w, b, f"{stage}.{name}", source=self.steps[f"{stage}.norm1"],
                           target=steps[name])
                   for name, w, b in zip("qkv", np.split(weight, 3), np.split(bias, 3),
                                         strict=True))
        score = steps["q"] * steps["k"] / math.sqrt(m.head_size) / steps["scores"]
        return QuantizedBlock(
            norm1=norm1, q=q, k=k, v=v,
            score=_scale(score, f"{stage}.scores"),
            exp=_scale(steps["scores"] * math.log2(math.e) * 2.0 ** 5, f"{stage} exp"),
            value=_scale(2.0 ** -17 * steps["v"] / steps["attention"], f"{stage}.attention",
                         low=18),
            projection=_linear(*self.layer(f"{block}.attn.proj"), f"{stage}.residual1",
                               source=steps["attention"], target=residual),
            norm2=norm2,
            mlp1=_linear(*self.layer(f"{block}.mlp.fc1", f"{block}.norm2"), f"{stage}.hidden",
                         source=self.steps[f"{stage}.norm2"], target=_GELU_X_STEP),
            gelu=gelu_table(steps["hidden"]),
            mlp2=_linear(*self.layer(f"{block}.mlp.fc2"), f"{stage}.residual2",
                         source=steps["hidden"], target=residual))

    def heads(self) -> tuple[Linear, ...]:
        """Return the heads; the logits have a power of two as their step."""
        reach = _LOGIT_HEADROOM * self.ranges.largest("logits")
        step = self.steps["logits"] = 2.0 ** (math.frexp(reach)[1] - (ACC_BITS - 1))
        names = ("head", "head_dist")[:self.model.special_tokens]
        layers = [self.layer(name, "norm") for name in names]
        return tuple(_linear(w / len(layers), b / len(layers), name,
                             source=self.steps["head.norm"], target=step)
                     for name, (w, b) in zip(names, layers, strict=True))

    def run(self, weights: str) -> QuantizedViT:
        weight, bias = self.patch_layer()
        residual = self.residual_step(bias)
        patch = _linear(weight, bias, "embed.residual", source=1.0, target=residual,
                        limits=_PIXEL_RANGE)
        blocks = tuple(self.block(i, residual) for i in range(self.model.depth))
        head_norm = self.norm("head.norm", residual)
        return QuantizedViT(
            model=self.model, weights=weights, initial=self.initial(patch, residual), patch=patch,
            blocks=blocks, head_norm=head_norm, heads=self.heads(), exp=exp_table(),
            reciprocal=reciprocal_table(), rsqrt=rsqrt_table(), steps=self.steps)


def quantize(twin: FloatViT, frames: Sequence[NDArray[np.uint8]], *, weights: str,
             percentile: float = 100.0) -> QuantizedViT:
    """Return ``twin`` in integers, calibrated on ``frames``.

    Weights get a step per output channel, everything else one per tensor. What cannot be
    represented raises ValueError.

    Parameters
    ----------
    twin
        The float model.
    frames
        Calibration frames, bytes [size, size, 3].
    weights
        Where the parameters are from: a path, or "synthetic".
    percentile
        Part of an int8 tensor, in percent, that is not clipped on the calibration frames.
    """
    if not len(frames):
        raise ValueError("no calibration frame was given, at least one is needed")
    if twin.model.channels != len(MEAN):
        raise ValueError(f"{twin.model.name} takes frames of {twin.model.channels} colours, frames"
                         f" have {len(MEAN)}")
    if not 50 <= percentile <= 100:
        raise ValueError(f"percentile is {percentile}, must be between 50 and 100")
    return _Quantizer(twin, frames, percentile).run(weights)


def sqnr(qvit: QuantizedViT, float_stages: Mapping[str, object],
         int_stages: Mapping[str, Int]) -> dict[str, float]:
    """Return the signal to quantisation noise ratio in dB of every stage that both twins have."""
    report = {}
    for name, step in qvit.steps.items():
        if name in int_stages:
            exact = np.asarray(float_stages[name], np.float64)
            noise = float(np.square(int_stages[name] * step - exact).sum())
            signal = float(np.square(exact).sum())
            report[name] = 10 * math.log10(signal / noise) if noise and signal else math.inf
    return report
