# SPDX-License-Identifier: BSD-2-Clause
"""How sensible token selectors are on scenes: whether digits stay, and whether more of them keep
more.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.model import ModelConfig
from golden.pruning import PruningConfig, segment_macs, segment_tokens
from golden.scenes import Scenes

__all__ = ["Kept", "SelectionQuality", "SelectorQuality", "rank_correlation", "selection_quality"]

#: Percentiles between which the images lie that are not exceptions.
_PERCENTILES = (5, 95)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How many patches stay, and how that hangs on the image.

    Parameters
    ----------
    part
        Mean part of all patches.
    low, high
        Patches, the 5th and the 95th percentile of the images.
    by_digits, by_patches
        Rank correlation of the patches that an image keeps with the digits in it, and with its
        patches that hold a digit; None where all images keep equally many.
    """

    part: float
    low: float
    high: float
    by_digits: float | None
    by_patches: float | None

    @property
    def spread(self) -> float | None:
        """How many times ``low`` is ``high``; None where ``low`` is 0."""
        return self.high / self.low if self.low else None


@dataclass(frozen=True, kw_only=True)
class SelectorQuality:
    """What one selector does.

    Parameters
    ----------
    block
        The block before which it stands.
    recall
        Part of the patches with digits that are left.
    random, oracle
        That part if of every image as many patches stay, but any of them (expected), or those with
        digits first.
    kept
        What is left.
    """

    block: int
    recall: float
    random: float
    oracle: float
    kept: Kept


@dataclass(frozen=True, kw_only=True)
class SelectionQuality:
    """What the selectors of a network do.

    Parameters
    ----------
    selectors
        Each of them.
    mean
        The mean of what they leave.
    macs
        Mean multiplications of an image, as a part of those of the dense network.
    """

    selectors: tuple[SelectorQuality, ...]
    mean: Kept
    macs: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        result = asdict(self)
        for fields, kept in ((result["mean"], self.mean), *(
                (fields["kept"], selector.kept)
                for fields, selector in zip(result["selectors"], self.selectors, strict=True))):
            fields["spread"] = kept.spread
        return result


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the place of each value in their order; equal ones have the mean of their places."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (counts.cumsum() - (counts + 1) / 2)[inverse]
    return ranks


def rank_correlation(first: NDArray[Any], second: NDArray[Any]) -> float | None:
    """Return Spearman's rank correlation; None where all values of one are equal."""
    a, b = (ranks - ranks.mean() for ranks in (_ranks(first), _ranks(second)))
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm else None


def selection_quality(keeps: NDArray[np.bool_], scenes: Scenes, model: ModelConfig,
                      pruning: PruningConfig) -> SelectionQuality:
    """Return what selectors do, by the patches that they leave.

    Parameters
    ----------
    keeps
        Which patches of ``scenes`` each selector leaves [images, selectors, patches].
    scenes
        The images.
    model, pruning
        The network, and its selectors.
    """
    held = scenes.patches(model.patch)
    expected = len(scenes.labels), len(pruning.active), model.grid ** 2
    if keeps.shape != expected:
        raise ValueError(f"masks of patches are {keeps.shape}, must be {expected}")
    if not held.any():
        raise ValueError(f"0 patches of {len(held)} scenes hold a digit, must be at least 1")

    def kept(counts: NDArray[Any]) -> Kept:
        low, high = np.percentile(counts, _PERCENTILES)
        return Kept(part=float(counts.mean() / model.grid ** 2), low=float(low), high=float(high),
                    by_digits=rank_correlation(counts, scenes.counts),
                    by_patches=rank_correlation(counts, digits))

    digits = held.sum(1)

    def selector(block: int, keep: NDArray[np.bool_]) -> SelectorQuality:
        count = keep.sum(1)
        return SelectorQuality(
            block=block, recall=float(keep[held].mean()), kept=kept(count),
            random=float(count @ digits / (model.grid ** 2 * digits.sum())),
            oracle=float(np.minimum(count, digits).sum() / digits.sum()))

    macs = [sum(segment_macs(model, pruning, tokens))
            for tokens in segment_tokens(model, pruning.package, keeps.sum(2)).tolist()]
    return SelectionQuality(
        selectors=tuple(map(selector, pruning.active, keeps.swapaxes(0, 1))),
        mean=kept(keeps.sum(2).mean(1)),
        macs=float(np.mean(macs)) / model.macs())
