# SPDX-License-Identifier: BSD-2-Clause
"""Post-training quantisation: from the float twin and a few frames to the integers of a program."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from golden.calibrate import calibrate
from golden.fit import reciprocal_table, rsqrt_table
from golden.fixed import Int, round_shift, saturate
from golden.images import MEAN
from golden.layers import (
    ACT_RANGE,
    PIXEL_RANGE,
    Linear,
    Norm,
    Real,
    Scale,
    linear,
    norm,
    scale,
)
from golden.model import FloatViT, ModelConfig, State
from golden.nonlinear import Functions
from golden.parameters import Parameters
from golden.pruning import PrunedViT, PruningConfig
from golden.quantize_selector import (
    GELU_X_STEP,
    LayerMaker,
    QuantizedClassifier,
    check_weights,
    quantize_classifier,
)
from rtl.config import BLOCK
from rtl.isa import LANE_X_BITS

__all__ = ["Linear", "Norm", "QuantizedBlock", "QuantizedClassifier", "QuantizedViT", "Quantizer",
           "Reals", "Scale", "patch_bytes", "quantize", "sqnr"]

#: Weight and bias of each layer.
Reals = dict[str, tuple[Tensor, Tensor | None]]


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

    def without_selectors(self) -> "QuantizedViT":
        """Return the dense network of the same layers."""
        return replace(self, pruning=None, classifiers=(), score_frac=0)


def patch_bytes(model: ModelConfig) -> int:
    """Return the bytes of a patch in the patch buffer, each pixel row padded to whole blocks."""
    row = model.patch * model.channels
    return model.patch * (-(-row // BLOCK) * BLOCK)


def _requantised_bias(layer: Linear) -> Int:
    return saturate(round_shift(layer.bias * layer.m, layer.s), LANE_X_BITS)


def _numpy(x: Tensor) -> Real:
    result: Real = x.detach().cpu().numpy()
    return result


def _layer(real: Reals, weight: Tensor, bias: Tensor, name: str, *, source: float, target: float,
           limits: tuple[int, int] = ACT_RANGE) -> Linear:
    """Return a quantised layer, and add its real parameters to ``real``."""
    real[name] = weight * (source / target), bias / target
    return linear(_numpy(weight), _numpy(bias), name, source=source, target=target, limits=limits)


class Quantizer:
    """Makes a network of integers of parameters, with steps that are given.

    Parameters
    ----------
    model
        Sizes.
    functions
        GELU, softmax and sigmoid.
    steps
        Real value of one unit, by stage, as :func:`golden.calibrate.calibrate` returns them.
    pruning
        Where and how patches are dropped; None without selectors.
    """

    def __init__(self, model: ModelConfig, functions: Functions, steps: Mapping[str, float],
                 pruning: PruningConfig | None = None) -> None:
        self.model, self.steps, self.pruning = model, dict(steps), pruning
        # The tables are the same for all parameters.
        self.functions = replace(functions, gelu_table=lru_cache(functions.gelu_table),
                                 sigmoid_table=lru_cache(functions.sigmoid_table))
        self._tables = {"exp": functions.exp_table(), "reciprocal": reciprocal_table(),
                        "rsqrt": rsqrt_table()}
        self._residual = self._step("embed.residual")

    def __call__(self, state: State, selectors: Sequence[State] = (), *, weights: str,
                 real: Reals | None = None) -> QuantizedViT:
        """Return the network of these parameters; what cannot be represented raises ValueError.

        Parameters
        ----------
        state, selectors
            Parameters, and those of each selector ``threshold``.
        weights
            Where they are from.
        real
            Gets, by the name of each layer, what its weight and its bias are the rounding of, in
            one unit of the output for one unit of the input, with gradients; as ``initial`` the
            residual of special tokens and positions.
        """
        parameters, residual = Parameters(self.model, state), self._residual
        layer = partial(_layer, {} if real is None else real)
        tokens = parameters.tokens() / residual
        if real is not None:
            real["initial"] = tokens, None
        patch = layer(*parameters.patch(), "embed.residual", source=1.0, target=residual,
                      limits=PIXEL_RANGE)
        frac = 0
        if self.pruning is not None and self.pruning.selector == "topk":
            frac = -round(math.log2(self._step("selector0.score") * self.model.heads))
        return QuantizedViT(
            model=self.model, weights=weights, initial=self._initial(tokens, patch),
            patch=patch, steps=self.steps,
            blocks=tuple(self._block(parameters, layer, i) for i in range(self.model.depth)),
            head_norm=self._norm("head.norm"), heads=self._heads(parameters, layer),
            pruning=self.pruning, score_frac=frac, **self._tables,
            classifiers=tuple(quantize_classifier(
                self.model, selector, self.functions, self._step, layer, index=i)
                for i, selector in enumerate(selectors)))

    def _step(self, stage: str) -> float:
        step = self.steps.get(stage, math.nan)
        if not (step > 0 and math.isfinite(step)):
            raise ValueError(f"the step of {stage} is {self.steps.get(stage)}, must be a positive"
                             " number")
        return step

    def _initial(self, tokens: Tensor, patch: Linear) -> NDArray[np.int16]:
        rows = np.rint(_numpy(tokens)).astype(np.int64)
        rows[:self.model.special_tokens] -= _requantised_bias(patch)
        if np.any(rows != saturate(rows, 16)):
            raise ValueError(f"the initial residual reaches {np.abs(rows).max()} steps,"
                             " must be at most 32767")
        return rows.astype(np.int16)

    def _norm(self, stage: str) -> Norm:
        return norm(self.model.width, self.model.eps, stage, residual=self._residual,
                    step=self._step(stage))

    def _block(self, parameters: Parameters, layer: LayerMaker, i: int) -> QuantizedBlock:
        block, stage, residual = f"blocks.{i}", f"block{i}", self._residual
        norm1, norm2 = (self._norm(f"{stage}.norm{j}") for j in (1, 2))
        steps = {name: self._step(f"{stage}.{name}") for name in (
            "norm1", "q", "k", "v", "scores", "attention", "norm2", "hidden")}
        weight, bias = parameters.layer(f"{block}.attn.qkv", f"{block}.norm1")
        q, k, v = (layer(w, b, f"{stage}.{name}", source=steps["norm1"], target=steps[name])
                   for name, w, b in zip("qkv", weight.chunk(3), bias.chunk(3), strict=True))
        score = steps["q"] * steps["k"] / math.sqrt(self.model.head_size) / steps["scores"]
        return QuantizedBlock(
            norm1=norm1, q=q, k=k, v=v,
            score=scale(score, f"{stage}.scores"),
            exp=scale(steps["scores"] * math.log2(math.e) * 2.0 ** 5, f"{stage} exp"),
            value=scale(self.functions.attention * 2.0 ** -17 * steps["v"] / steps["attention"],
                        f"{stage}.attention", low=18),
            projection=layer(*parameters.layer(f"{block}.attn.proj"), f"{stage}.residual1",
                             source=steps["attention"], target=residual),
            norm2=norm2,
            mlp1=layer(*parameters.layer(f"{block}.mlp.fc1", f"{block}.norm2"),
                       f"{stage}.hidden", source=steps["norm2"], target=GELU_X_STEP),
            gelu=self.functions.gelu_table(steps["hidden"]),
            mlp2=layer(*parameters.layer(f"{block}.mlp.fc2"), f"{stage}.residual2",
                       source=steps["hidden"], target=residual))

    def _heads(self, parameters: Parameters, layer: LayerMaker) -> tuple[Linear, ...]:
        names = ("head", "head_dist")[:self.model.special_tokens]
        layers = [parameters.layer(name, "norm") for name in names]
        return tuple(layer(w / len(layers), b / len(layers), name,
                           source=self._step("head.norm"), target=self._step("logits"))
                     for name, (w, b) in zip(names, layers, strict=True))


def quantize(twin: FloatViT, frames: Sequence[NDArray[np.uint8]], *, weights: str,
             percentile: float = 100.0, pruning: PruningConfig | None = None,
             selectors: Sequence[State] = (), functions: str | None = None,
             steps: Mapping[str, float] | None = None) -> QuantizedViT:
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
        GELU, softmax and sigmoid, ``exact``, ``ibert`` or ``heatvit``; without it those of
        ``twin``.
    steps
        Steps of the stages, those that the parameters were trained with; then there is no
        calibration, and no frame is needed.
    """
    if twin.model.channels != len(MEAN):
        raise ValueError(f"{twin.model.name} takes frames of {twin.model.channels} colours, frames"
                         f" have {len(MEAN)}")
    if functions is not None:
        twin = FloatViT(twin.model, twin.state, functions)
    # Settings and parameters are checked there.
    vit = PrunedViT(twin, pruning or PruningConfig(selector="none"), selectors)
    check_weights(vit.pruning, twin.model)
    if steps is None:
        steps = calibrate(vit, frames, percentile)
    quantizer = Quantizer(twin.model, twin.functions, steps,
                          vit.pruning if vit.pruning.active else None)
    return quantizer(twin.state, [selector.state for selector in vit.selectors], weights=weights)


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
