# SPDX-License-Identifier: BSD-2-Clause
"""Post-training quantisation: from the float twin and a few frames to the integers of a program."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from golden.fit import LANE_X_FRAC, reciprocal_table, rsqrt_table
from golden.fixed import Int, round_shift, saturate
from golden.images import MEAN, STD, normalise
from golden.layers import (
    PIXEL_RANGE,
    WEIGHT_MAX,
    Linear,
    Norm,
    Ranges,
    Real,
    Scale,
    linear,
    norm,
    scale,
)
from golden.model import FloatViT, ModelConfig, State
from golden.pruning import PrunedViT, PruningConfig
from golden.quantize_selector import (
    QuantizedClassifier,
    check_weights,
    quantize_classifier,
    record_selectors,
    score_frac,
)
from rtl.config import BLOCK
from rtl.isa import ACC_BITS, LANE_X_BITS

__all__ = ["Linear", "Norm", "QuantizedBlock", "QuantizedClassifier", "QuantizedViT", "Scale",
           "patch_bytes", "quantize", "sqnr"]

#: Step of the input of GELU in the lanes.
_GELU_X_STEP = 2.0 ** -LANE_X_FRAC
#: What int16 tensors may grow beyond the calibration frames, and logits.
_HEADROOM = 2.0
_LOGIT_HEADROOM = 4.0
#: Below this range of the hidden layer the coefficients of the GELU table would not fit.
_SMALLEST_HIDDEN = 2.0 ** -3


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
    pruning
        Where and how patches are dropped; None without selectors.
    classifiers
        Of ``threshold``, the layers of each selector.
    score_frac
        Of ``topk``, fraction bits of the scores; otherwise 0.
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
    pruning: PruningConfig | None = None
    classifiers: tuple[QuantizedClassifier, ...] = ()
    score_frac: int = 0


def patch_bytes(model: ModelConfig) -> int:
    """Return the bytes of a patch in the patch buffer, each pixel row padded to whole blocks."""
    row = model.patch * model.channels
    return model.patch * (-(-row // BLOCK) * BLOCK)


def _requantised_bias(layer: Linear) -> Int:
    return saturate(round_shift(layer.bias * layer.m, layer.s), LANE_X_BITS)


class _Quantizer:
    """The state of one quantisation: parameters in double precision, ranges, chosen steps."""

    def __init__(self, twin: FloatViT, frames: Sequence[NDArray[np.uint8]], percentile: float,
                 vit: PrunedViT | None) -> None:
        self.model, self.functions, self.vit = twin.model, twin.functions, vit
        self.state = {name: value.double().numpy() for name, value in twin.state.items()}
        self.ranges = Ranges(percentile)
        for frame in frames:
            image = normalise(frame)
            stages = twin.forward_stages(image)
            for name, value in stages.items():
                self.ranges.record(name, value.numpy())
            if vit is not None:
                record_selectors(vit, image, stages, self.ranges)
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
        step = self.steps[stage] = self.ranges.step8(stage)
        return norm(self.model.width, self.model.eps, stage, residual=residual, step=step)

    def block(self, i: int, residual: float) -> QuantizedBlock:
        m, block, stage = self.model, f"blocks.{i}", f"block{i}"
        norm1, norm2 = (self.norm(f"{stage}.norm{j}", residual) for j in (1, 2))
        steps = {name: self.ranges.step8(f"{stage}.{name}")
                 for name in ("q", "k", "v", "attention", "hidden")}
        steps["hidden"] = max(steps["hidden"], _SMALLEST_HIDDEN / WEIGHT_MAX)
        steps["scores"] = _HEADROOM * self.ranges.largest(f"{stage}.scores") / 32767
        self.steps.update({f"{stage}.{name}": step for name, step in steps.items()})

        weight, bias = self.layer(f"{block}.attn.qkv", f"{block}.norm1")
        q, k, v = (linear(w, b, f"{stage}.{name}", source=self.steps[f"{stage}.norm1"],
                           target=steps[name])
                   for name, w, b in zip("qkv", np.split(weight, 3), np.split(bias, 3),
                                         strict=True))
        score = steps["q"] * steps["k"] / math.sqrt(m.head_size) / steps["scores"]
        return QuantizedBlock(
            norm1=norm1, q=q, k=k, v=v,
            score=scale(score, f"{stage}.scores"),
            exp=scale(steps["scores"] * math.log2(math.e) * 2.0 ** 5, f"{stage} exp"),
            value=scale(self.functions.attention * 2.0 ** -17 * steps["v"] / steps["attention"],
                        f"{stage}.attention", low=18),
            projection=linear(*self.layer(f"{block}.attn.proj"), f"{stage}.residual1",
                               source=steps["attention"], target=residual),
            norm2=norm2,
            mlp1=linear(*self.layer(f"{block}.mlp.fc1", f"{block}.norm2"), f"{stage}.hidden",
                         source=self.steps[f"{stage}.norm2"], target=_GELU_X_STEP),
            gelu=self.functions.gelu_table(steps["hidden"]),
            mlp2=linear(*self.layer(f"{block}.mlp.fc2"), f"{stage}.residual2",
                         source=steps["hidden"], target=residual))

    def heads(self) -> tuple[Linear, ...]:
        """Return the heads; the logits have a power of two as their step."""
        reach = _LOGIT_HEADROOM * self.ranges.largest("logits")
        step = self.steps["logits"] = 2.0 ** (math.frexp(reach)[1] - (ACC_BITS - 1))
        names = ("head", "head_dist")[:self.model.special_tokens]
        layers = [self.layer(name, "norm") for name in names]
        return tuple(linear(w / len(layers), b / len(layers), name,
                             source=self.steps["head.norm"], target=step)
                     for name, (w, b) in zip(names, layers, strict=True))

    def selectors(self, vit: PrunedViT, residual: float) -> tuple[QuantizedClassifier, ...]:
        for i in range(len(vit.pruning.active)):
            self.steps[f"selector{i}.package"] = residual
        return tuple(quantize_classifier(
            self.model, {name: value.double().numpy() for name, value in selector.state.items()},
            self.functions, self.ranges, index=i, residual=residual, steps=self.steps)
            for i, selector in enumerate(vit.selectors))

    def run(self, weights: str) -> QuantizedViT:
        weight, bias = self.patch_layer()
        residual = self.residual_step(bias)
        patch = linear(weight, bias, "embed.residual", source=1.0, target=residual,
                       limits=PIXEL_RANGE)
        blocks = tuple(self.block(i, residual) for i in range(self.model.depth))
        head_norm = self.norm("head.norm", residual)
        pruning = None if self.vit is None else self.vit.pruning
        frac = 0
        if pruning is not None and pruning.selector == "topk":
            frac = score_frac(pruning, self.model, self.ranges)
            for i in range(len(pruning.active)):
                # The score of the float twin is the mean of the heads.
                self.steps[f"selector{i}.score"] = 2.0 ** -frac / self.model.heads
        return QuantizedViT(
            model=self.model, weights=weights, initial=self.initial(patch, residual), patch=patch,
            blocks=blocks, head_norm=head_norm, heads=self.heads(),
            exp=self.functions.exp_table(), reciprocal=reciprocal_table(), rsqrt=rsqrt_table(),
            steps=self.steps, pruning=pruning, score_frac=frac,
            classifiers=() if self.vit is None else self.selectors(self.vit, residual))


def quantize(twin: FloatViT, frames: Sequence[NDArray[np.uint8]], *, weights: str,
             percentile: float = 100.0, pruning: PruningConfig | None = None,
             selectors: Sequence[State] = (), functions: str | None = None) -> QuantizedViT:
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
    pruning, selectors
        Token selectors and their parameters, as :class:`golden.pruning.PrunedViT` takes them.
    functions
        GELU, softmax and sigmoid, ``exact`` or ``heatvit``; without it those of ``twin``.
    """
    if not len(frames):
        raise ValueError("no calibration frame was given, at least one is needed")
    if twin.model.channels != len(MEAN):
        raise ValueError(f"{twin.model.name} takes frames of {twin.model.channels} colours, frames"
                         f" have {len(MEAN)}")
    if not 50 <= percentile <= 100:
        raise ValueError(f"percentile is {percentile}, must be between 50 and 100")
    if functions is not None:
        twin = FloatViT(twin.model, twin.state, functions)
    # Settings and parameters are checked there.
    vit = PrunedViT(twin, pruning or PruningConfig(selector="none"), selectors)
    check_weights(vit.pruning, twin.model)
    return _Quantizer(twin, frames, percentile, vit if vit.pruning.active else None).run(weights)


def sqnr(qvit: QuantizedViT, float_stages: Mapping[str, object],
         int_stages: Mapping[str, Int]) -> dict[str, float]:
    """Return the signal to quantisation noise ratio in dB of every stage that both twins have.

    Stages that have another shape are left out: there the twins dropped other patches.
    """
    report = {}
    for name, step in qvit.steps.items():
        if name in int_stages and name in float_stages:
            exact = np.asarray(float_stages[name], np.float64)
            if exact.shape == int_stages[name].shape:
                noise = float(np.square(int_stages[name] * step - exact).sum())
                signal = float(np.square(exact).sum())
                report[name] = 10 * math.log10(signal / noise) if noise and signal else math.inf
    return report


if __name__ == "__main__":
    from golden.quantize_command import main  # which imports this module under its name
    raise SystemExit(main())
