# SPDX-License-Identifier: BSD-2-Clause
"""What changes from step to step of a stage: the learning rate, noise, and what selectors keep."""

import math

from golden.train_config import Stage

__all__ = ["kept_counts", "learning_rate", "noise_level"]


def learning_rate(stage: Stage, step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    if step < stage.warmup:
        return stage.rate * (step + 1) / stage.warmup
    part = (step - stage.warmup) / (stage.steps - stage.warmup)
    return stage.rate * (stage.last + (1 - stage.last) * (1 + math.cos(math.pi * part)) / 2)


def noise_level(stage: Stage, step: int) -> float:
    """Return what the noise of the decisions is multiplied by in a step, counted from 0."""
    noisy = stage.steps * (1 - stage.quiet)
    return stage.noise * (1 - step / noisy) if step < noisy else 0.0


def kept_counts(stage: Stage, patches: int, step: int) -> tuple[int, ...] | None:
    """Return how many of ``patches`` each selector keeps in a step, counted from 0.

    None where the settings of the selectors say so, or nothing does.
    """
    shrinking = stage.steps * stage.shrink
    if stage.pruning is None or stage.pruning.rates is None or step >= shrinking:
        return None
    part = step / shrinking
    return tuple(round(patches + part * (count - patches))
                 for count in stage.pruning.keep_counts(patches))
