# SPDX-License-Identifier: BSD-2-Clause
"""Calibration: the steps of a network in integers, from what the float twin does on a few frames.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from golden.images import normalise
from golden.layers import WEIGHT_MAX, Ranges
from golden.parameters import Parameters
from golden.pruning import PrunedViT
from golden.quantize_selector import classifier_steps, record_selectors, score_frac
from rtl.isa import ACC_BITS

__all__ = ["calibrate"]

#: What int16 tensors may grow beyond the calibration frames, and logits.
_HEADROOM = 2.0
_LOGIT_HEADROOM = 4.0
#: Below this range of the hidden layer the coefficients of the GELU table would not fit.
_SMALLEST_HIDDEN = 2.0 ** -3


def _ranges(vit: PrunedViT, frames: Sequence[NDArray[np.uint8]], percentile: float) -> Ranges:
    """Return what the stages of the network reach: the dense ones, and those of its selectors."""
    ranges = Ranges(percentile)
    for frame in frames:
        image = normalise(frame)
        stages = vit.twin.forward_stages(image)
        for name, value in stages.items():
            ranges.record(name, value.numpy())
        if vit.pruning.active:
            record_selectors(vit, image, stages, ranges)
    return ranges


def _residual(vit: PrunedViT, ranges: Ranges) -> dict[str, float]:
    """Return the step of the residual, which is one for the whole network."""
    m = vit.model
    stages = ["embed.residual", *(f"block{i}.residual{j}" for i in range(m.depth) for j in (1, 2))]
    reach = _HEADROOM * max(map(ranges.largest, stages))
    # What is loaded must fit too, with a little room for the rounding of the bias.
    parameters = Parameters(m, vit.twin.state)
    rows = parameters.tokens()
    rows[:m.special_tokens] -= parameters.patch()[1]
    step = max(reach, 1.01 * float(rows.abs().max())) / 32767
    stages.extend(f"selector{i}.package" for i in range(len(vit.pruning.active)))
    return dict.fromkeys(stages, step)


def calibrate(vit: PrunedViT, frames: Sequence[NDArray[np.uint8]],
              percentile: float = 100.0) -> dict[str, float]:
    """Return the real value of one unit, by stage; for LayerNorms, of their int8 output.

    Parameters
    ----------
    vit
        The float model, with selectors or without.
    frames
        Calibration frames, bytes [size, size, 3].
    percentile
        Part of an int8 tensor, in percent, that is not clipped on the calibration frames.
    """
    if not len(frames):
        raise ValueError("no calibration frame was given, at least one is needed")
    if not 50 <= percentile <= 100:
        raise ValueError(f"percentile is {percentile}, must be between 50 and 100")
    m, pruning = vit.model, vit.pruning
    ranges = _ranges(vit, frames, percentile)
    steps = _residual(vit, ranges)
    for i in range(m.depth):
        for name in ("norm1", "q", "k", "v", "attention", "norm2", "hidden"):
            steps[f"block{i}.{name}"] = ranges.step8(f"block{i}.{name}")
        steps[f"block{i}.hidden"] = max(steps[f"block{i}.hidden"], _SMALLEST_HIDDEN / WEIGHT_MAX)
        steps[f"block{i}.scores"] = _HEADROOM * ranges.largest(f"block{i}.scores") / 32767
    steps["head.norm"] = ranges.step8("head.norm")
    # A power of two.
    reach = _LOGIT_HEADROOM * ranges.largest("logits")
    steps["logits"] = 2.0 ** (math.frexp(reach)[1] - (ACC_BITS - 1))
    for i in range(len(pruning.active)):
        if pruning.selector == "topk":
            # The score of the float twin is the mean of the heads.
            steps[f"selector{i}.score"] = 2.0 ** -score_frac(pruning, m, ranges) / m.heads
        else:
            steps.update(classifier_steps(ranges, i))
    return steps
