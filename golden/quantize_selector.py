# SPDX-License-Identifier: BSD-2-Clause
"""Post-training quantisation of token selectors."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from golden.fit import LANE_X_FRAC, SIGMOID_SCALE
from golden.fixed import Int
from golden.layers import WEIGHT_MAX, Linear, Norm, Ranges, Scale, norm, scale
from golden.model import ModelConfig, State
from golden.nonlinear import Functions
from golden.pruning import PrunedViT, PruningConfig, PruningError
from rtl.isa import MEAN_FRAC, SCORE_BITS, WEIGHT_BITS

__all__ = ["GELU_STAGES", "GELU_X_STEP", "SCORE_SHIFT", "LayerMaker", "QuantizedClassifier",
           "check_weights", "classifier_steps", "quantize_classifier", "record_selectors",
           "score_frac"]

#: Shift that leaves the attention as a whole number, see ``class_attention``.
SCORE_SHIFT = 42

#: Stages of a classifier that come from GELU: all in one step.
GELU_STAGES = ("local", "global", "score1", "score2", "importance1")

#: Step of the outputs of the sigmoid.
_SIGMOID_STEP = 2.0 ** -7
#: Steps of the input of a lane, and of the argument of the sigmoid.
GELU_X_STEP = 2.0 ** -LANE_X_FRAC
_SIGMOID_X_STEP = GELU_X_STEP * SIGMOID_SCALE
#: Below this range of the GELU stages the coefficients of their table would not fit.
_SMALLEST_RANGE = 2.0 ** -3
#: Fraction bits of the scores of ``topk``, and what scores may grow beyond the calibration frames.
_SCORE_FRACS = (12, 24)
_SCORE_HEADROOM = 2.0


class LayerMaker(Protocol):
    """Quantises a layer, see :func:`golden.layers.linear`."""

    def __call__(self, weight: Tensor, bias: Tensor, name: str, *, source: float, target: float,
                 limits: tuple[int, int] = ...) -> Linear:
        """Return the layer of this name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedClassifier:
    """The layers of one ``threshold`` selector; H heads of d channels, I = max(1, H // 2).

    Members
    -------
    norm
        LayerNorm over the channels of one head; gamma and beta are folded away.
    local, global_
        The two halves of the embedding [d / 2, d].
    importance_scale
        Takes the residual to 8 bits, on its way to ``importance1`` [I, H d], in which the means
        over d channels are folded.
    mean
        Scale of the means of ``global_``, times the reciprocal row sum.
    score1, score2, score3
        [d / 2, d] of local, then mean; [d / 4, d / 2]; [1, d / 4], the difference of two outputs.
    importance2
        [H, I]. It and ``score3`` make half the argument of the sigmoid, in steps of the lanes.
    gelu, sigmoid
        Lane tables; the outputs of all GELU layers have one step.
    """

    norm: Norm
    local: Linear
    global_: Linear
    importance_scale: Scale
    importance1: Linear
    mean: Scale
    score1: Linear
    score2: Linear
    importance2: Linear
    score3: Linear
    gelu: Int
    sigmoid: Int


def check_weights(pruning: PruningConfig, model: ModelConfig) -> None:
    """Raise an error if the weight of a package token could exceed its field."""
    # A score below one half is below 2**15.
    most = (1 << WEIGHT_BITS - SCORE_BITS + 1) - 1
    if pruning.selector == "threshold" and model.grid ** 2 > most:
        raise PruningError(f"{model.name} has {model.grid ** 2} patches, must be at most {most}"
                           " with selector threshold")


def record_selectors(vit: PrunedViT, image: Tensor, dense: Mapping[str, Tensor],
                     ranges: Ranges) -> None:
    """Take in the stages of all selectors on one image [channels, size, size].

    They see the tokens that selectors before them leave, and all tokens of the ``dense`` network,
    as another image may keep what this one drops.
    """
    m, pruned = vit.model, vit.forward_stages(image)
    for i, (block, selector) in enumerate(zip(vit.pruning.active, vit.selectors, strict=False)):
        for stages in (pruned, dense):
            tokens = stages[f"block{block - 1}.residual2"][m.special_tokens:]
            found = {"input": tokens}
            selector(tokens, len(tokens), found.__setitem__)
            for name, value in found.items():
                ranges.record(f"selector{i}.{name}", value.numpy())
    if vit.pruning.selector == "topk":
        for i in range(len(vit.pruning.active)):
            # The sum over the heads, not their mean.
            ranges.record("topk.score", m.heads * pruned[f"selector{i}.score"].numpy())


def score_frac(pruning: PruningConfig, model: ModelConfig, ranges: Ranges) -> int:
    """Return the fraction bits of the scores of ``topk``."""
    low, high = _SCORE_FRACS
    limit = float(1 << SCORE_BITS) / (_SCORE_HEADROOM * ranges.largest("topk.score"))
    if model.grid ** 2 > 1 << WEIGHT_BITS - SCORE_BITS:
        # All attention of all heads, times what the rounding of exponentials adds to it.
        most = model.heads * len(pruning.active) * (1 + model.tokens / 510)
        limit = min(limit, (1 << WEIGHT_BITS) / most)
    return min(high, max(low, math.floor(math.log2(limit))))


def classifier_steps(ranges: Ranges, index: int) -> dict[str, float]:
    """Return the steps of the ``threshold`` selector of this index.

    ``ranges`` is what :func:`record_selectors` has filled.
    """
    stage = f"selector{index}"
    step = max(ranges.step8(*(f"{stage}.{name}" for name in GELU_STAGES)),
               _SMALLEST_RANGE / WEIGHT_MAX)
    return {f"{stage}.norm": ranges.step8(f"{stage}.norm"),
            f"{stage}.input": ranges.step8(f"{stage}.input"),
            **{f"{stage}.{name}": step for name in (*GELU_STAGES, "mean")},
            f"{stage}.classes": _SIGMOID_STEP, f"{stage}.score": 2.0 ** -SCORE_BITS}


def quantize_classifier(model: ModelConfig, state: State, functions: Functions,
                        step_of: Callable[[str], float], make: LayerMaker, *,
                        index: int) -> QuantizedClassifier:
    """Return the ``threshold`` selector of this index in integers.

    Parameters
    ----------
    model, state, functions
        Sizes, parameters, GELU and sigmoid.
    step_of
        The step of a stage.
    make
        Quantises a layer.
    """
    state = {name: value.double() for name, value in state.items()}
    stage, d = f"selector{index}", model.head_size
    residual, normal, step, pooled = (step_of(name) for name in (
        "embed.residual", f"{stage}.norm", f"{stage}.local", f"{stage}.input"))

    def layer(name: str, weight: Tensor, bias: Tensor, source: float,
              target: float = GELU_X_STEP) -> Linear:
        return make(weight, bias, f"{stage}.{name}", source=source, target=target)

    def parameters(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    weight, bias = parameters("embed")
    bias = bias + weight @ state["norm.bias"]
    weight = weight * state["norm.weight"]
    local, global_ = (layer(name, w, b, normal) for name, w, b in zip(
        ("local", "global"), weight.chunk(2), bias.chunk(2), strict=True))
    weight, bias = parameters("importance1")
    importance1 = layer("importance1", (weight / d).repeat_interleave(d, 1), bias, pooled)
    weight, bias = parameters("score3")
    difference = layer("score3", weight[:1] - weight[1:], bias[:1] - bias[1:], step,
                       _SIGMOID_X_STEP)
    return QuantizedClassifier(
        norm=norm(d, model.eps, f"{stage}.norm", residual=residual, step=normal),
        local=local, global_=global_,
        importance_scale=scale(residual / pooled / (1 << MEAN_FRAC), f"{stage}.input"),
        importance1=importance1, mean=scale(2.0 ** -17, f"{stage}.mean", low=18),
        score1=layer("score1", *parameters("score1"), step),
        score2=layer("score2", *parameters("score2"), step),
        importance2=layer("importance2", *parameters("importance2"), step, _SIGMOID_X_STEP),
        score3=difference, gelu=functions.gelu_table(step),
        sigmoid=functions.sigmoid_table(_SIGMOID_STEP))
