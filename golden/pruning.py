# SPDX-License-Identifier: BSD-2-Clause
"""Vision transformers that drop patches on the way: the settings, and the float twin."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from golden.model import FloatViT, ModelConfig, Record, State
from golden.selector import (
    Selection,
    ThresholdSelector,
    class_attention,
    keep_count,
    keep_top,
    package_token,
    selector_macs,
)

__all__ = ["BLOCKS", "PACKAGES", "SELECTORS", "PrunedImage", "PrunedViT", "PruningConfig",
           "PruningError", "Step", "cumulative_rates", "segment_macs", "segment_tokens",
           "tokens_left"]

#: Kinds of selectors, and of package tokens.
SELECTORS = ("threshold", "topk", "none")
PACKAGES = ("each", "merged")

#: Blocks of DeiT before which HeatViT has a selector, counted from 0.
BLOCKS = (3, 6, 9)


class PruningError(ValueError):
    """Settings of pruning that contradict themselves, or that do not fit the model."""


def cumulative_rates(rate: float, count: int) -> tuple[float, ...]:
    """Return rate, rate^2, ...: what ``count`` selectors keep, each ``rate`` of what it is given.

    All are parts of the patches of the image, as the rates of :class:`PruningConfig` are.
    """
    return tuple(rate ** (i + 1) for i in range(count))


@dataclass(frozen=True, kw_only=True)
class PruningConfig:
    """Where patches are dropped, and by which rule.

    Parameters
    ----------
    selector
        ``threshold``: a classifier decides for every image how many patches stay. ``topk``: a
        given number stays, those to which the class token attends most. ``none``: all stay.
    blocks
        Blocks before which a selector stands, counted from 0.
    rates
        Of ``topk``, for each selector the part of the patches of the image that stay: cumulative.
    counts
        Of ``topk``, for each selector the patches that stay; instead of ``rates``.
    package
        ``each``: every selector that drops patches adds a package token. ``merged``: there is one
        package token, which later selectors add to.
    """

    selector: str = "threshold"
    blocks: tuple[int, ...] = BLOCKS
    rates: tuple[float, ...] | None = None
    counts: tuple[int, ...] | None = None
    package: str = "each"

    def __post_init__(self) -> None:
        for name, value, known in (("selector", self.selector, SELECTORS),
                                   ("package", self.package, PACKAGES)):
            if value not in known:
                raise PruningError(f"{name} is {value!r}, must be one of {', '.join(known)}")
        if not self.blocks:
            raise PruningError("there are 0 blocks with a selector, must be at least 1")
        if min(self.blocks) < 1:
            raise PruningError(f"a selector is at block {min(self.blocks)}, must be at block 1 or"
                               " later: block 0 has no block before it")
        for before, block in pairwise(self.blocks):
            if block <= before:
                raise PruningError(f"a selector at block {before} comes before one at block"
                                   f" {block}, must be in increasing order, one for a block")
        given = [name for name, value in (("rates", self.rates), ("counts", self.counts))
                 if value is not None]
        if self.selector != "topk" and given:
            raise PruningError(f"keep {given[0]} are given for selector {self.selector}, must be"
                               " for topk only")
        if self.selector == "topk" and len(given) != 1:
            raise PruningError(f"{len(given)} of keep rates and keep counts are given for selector"
                               " topk, must be 1")
        for name in given:
            values = getattr(self, name)
            if len(values) != len(self.blocks):
                raise PruningError(f"there are {len(values)} keep {name}, must be one for each of"
                                   f" {len(self.blocks)} selectors")
        for rate in self.rates or ():
            if not 0 < rate <= 1:
                raise PruningError(f"keep rate is {rate}, must be above 0 and at most 1")
        for before_rate, rate in pairwise(self.rates or ()):
            if rate > before_rate:
                raise PruningError(f"keep rate {rate} follows {before_rate}, must be at most that,"
                                   " as rates are parts of all patches")
        for count in self.counts or ():
            if count < 0:
                raise PruningError(f"keep count is {count}, must be at least 0")

    def __str__(self) -> str:
        """Say it in a few words, as error messages do."""
        if not self.active:
            return "no selectors"
        text = f"{self.selector} before blocks {', '.join(map(str, self.blocks))}"
        if self.counts:
            text += f" that keeps {', '.join(map(str, self.counts))} patches"
        if self.rates:
            text += f" that keeps {', '.join(f'{rate:g}' for rate in self.rates)} of all patches"
        return f"{text}, package {self.package}"

    @property
    def active(self) -> tuple[int, ...]:
        """Blocks before which patches may be dropped."""
        return () if self.selector == "none" else self.blocks

    def check(self, model: ModelConfig) -> None:
        """Raise an error unless ``model`` has these blocks, and these many patches."""
        for block in self.active:
            if block >= model.depth:
                raise PruningError(f"a selector is at block {block}, must be at block"
                                   f" {model.depth - 1} or earlier in {model.name}")
        left = model.grid ** 2
        for block, count in zip(self.blocks, self.counts or (), strict=False):
            if count > left:
                raise PruningError(f"keep count at block {block} is {count}, must be at most the"
                                   f" {left} patches there")
            left = count

    def keep_counts(self, patches: int) -> tuple[int, ...]:
        """Return how many of ``patches`` each selector of ``topk`` keeps."""
        return self.counts or tuple(keep_count(patches, rate) for rate in self.rates or ())


def segment_tokens(model: ModelConfig, package: str, kept: ArrayLike) -> NDArray[Any]:
    """Return the tokens of each segment [..., selectors + 1]: up to the first selector, and so on.

    They are those of the model, then the special tokens, patches and packages that each selector
    leaves. ``kept`` [..., selectors] are the patches that it leaves, of an image or the mean of
    several, ``package`` is the kind of package tokens. A selector that drops patches adds a package
    token, and one that drops none does not: so there are never more than in the dense network.
    """
    kept = np.asarray(kept)
    patches = model.grid ** 2
    at_start = [(0, 0)] * (kept.ndim - 1) + [(1, 0)]
    drops = kept < np.pad(kept[..., :-1], at_start, constant_values=patches)
    packages = (np.cumsum(drops, -1) if package == "each"
                else np.logical_or.accumulate(drops, -1))
    # Some images of a mean may drop nothing.
    tokens = np.minimum(model.special_tokens + kept + packages, model.tokens)
    return np.pad(tokens, at_start, constant_values=model.tokens)


def tokens_left(model: ModelConfig, pruning: PruningConfig) -> tuple[int, ...]:
    """Return the tokens at the start, and those that each selector ``topk`` leaves."""
    if not pruning.active:
        return (model.tokens,)
    counts = pruning.keep_counts(model.grid ** 2)
    return tuple(segment_tokens(model, pruning.package, counts).tolist())


def segment_macs(model: ModelConfig, pruning: PruningConfig, tokens: Sequence[int],
                 last_block: str = "all") -> list[int]:
    """Return the multiplications up to the first selector, then from each selector to the next.

    ``tokens`` are the tokens of each segment, all of them: those of the model, then what each
    selector leaves. A selector counts to the segment that it begins, the patch embedding to the
    first and the heads to the last. Counted is every product of matrices; their sum is
    :meth:`golden.model.ModelConfig.macs` where nothing is pruned. Of the last block only the rows
    count that :meth:`golden.model.ModelConfig.last_rows` says.
    """
    starts = (0, *pruning.active, model.depth)
    if len(tokens) != len(starts) - 1:
        raise PruningError(
            f"tokens are given for {len(tokens)} segments, must be {len(starts) - 1}")
    d = model.width
    macs = [(stop - start) * (4 * n * d * d + 2 * n * n * d + 2 * n * d * model.hidden)
            for (start, stop), n in zip(pairwise(starts), tokens, strict=True)]
    if pruning.selector == "threshold":
        for i, n in enumerate(tokens[:-1], 1):
            macs[i] += selector_macs(model, n - model.special_tokens)
    macs[0] += model.grid ** 2 * model.patch_channels * d
    macs[-1] += model.special_tokens * d * model.classes
    n = tokens[-1]
    macs[-1] -= (n - model.last_rows(last_block, n)) * 2 * d * (d + n + model.hidden)
    return macs


@dataclass(frozen=True)
class Step:
    """What one selector did to one image.

    Parameters
    ----------
    block
        The block that comes next.
    tokens_in, tokens_out
        Tokens before and after, all of them.
    candidates, kept
        Patches before and after: their places in the image, line by line from 0.
    package
        Whether there were patches to be packaged.
    """

    block: int
    tokens_in: int
    tokens_out: int
    candidates: tuple[int, ...]
    kept: tuple[int, ...]
    package: bool


@dataclass(frozen=True)
class PrunedImage:
    """The result of one image: its logits [classes], and what each selector did."""

    logits: Tensor
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class _List:
    """The tokens of an image: special tokens, patches by place, packages from the oldest.

    Parameters
    ----------
    x
        Residual of all tokens [tokens, channels].
    places
        Places in the image of the patches.
    weights
        Weight of each package token: the sum of the scores in it.
    """

    x: Tensor
    places: Tensor
    weights: tuple[Tensor, ...] = ()


class PrunedViT:
    """The float twin with selectors: lists of tokens that really become shorter.

    Images are computed one by one, as each keeps patches of its own.

    Parameters
    ----------
    twin
        The network without selectors.
    pruning
        Where and how patches are dropped.
    selectors
        For ``threshold`` the parameters of each selector, see
        :func:`golden.selector.selector_shapes`; otherwise there are none.
    """

    def __init__(self, twin: FloatViT, pruning: PruningConfig,
                 selectors: Sequence[State] = ()) -> None:
        pruning.check(twin.model)
        expected = len(pruning.active) if pruning.selector == "threshold" else 0
        if len(selectors) != expected:
            raise PruningError(f"parameters of {len(selectors)} selectors are given, must be"
                               f" {expected} for selector {pruning.selector}")
        self.twin = twin
        self.model = twin.model
        self.pruning = pruning
        self.selectors = [ThresholdSelector(twin.model, state, twin.functions)
                          for state in selectors]

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [batch, classes] of ``images`` [batch, channels, size, size]."""
        if not len(images):
            return self.twin.state["head.bias"].new_empty(0, self.model.classes)
        return torch.stack([self.run(image).logits for image in images])

    __call__ = forward

    def forward_stages(self, image: Tensor) -> dict[str, Tensor]:
        """Return the named stages of one image [channels, size, size].

        Those of :meth:`golden.model.FloatViT.forward_stages`, for the tokens that are left. Of
        each selector i, counted from 0: of ``threshold`` ``selector{i}.`` and what
        :class:`golden.selector.ThresholdSelector` names, of the patches and packages before it;
        of both kinds ``.score`` and ``.keep`` [patches before], ``.kept`` (places in the image),
        ``.package`` [channels], if there is something to package, and ``.residual`` [tokens
        after, channels].
        """
        stages: dict[str, Tensor] = {}
        self.run(image, stages.__setitem__)
        return stages

    @torch.no_grad()
    def run(self, image: Tensor,
            record: Record = lambda stage, value: None) -> PrunedImage:
        """Return the result of one image [channels, size, size]; ``record`` is given its stages."""
        m = self.model
        tokens = _List(self.twin.embed(image, record), torch.arange(m.grid ** 2))
        scores = torch.empty(0)
        steps: list[Step] = []
        for i in range(m.depth):
            if i in self.pruning.active:
                tokens, step = self._select(len(steps), tokens, scores, record)
                steps.append(step)
            x, scores = self.twin.block(i, tokens.x, record)
            tokens = _List(x, tokens.places, tokens.weights)
        return PrunedImage(self.twin.head(tokens.x, record), tuple(steps))

    def _select(self, index: int, tokens: _List, scores: Tensor,
                record: Record) -> tuple[_List, Step]:
        """Apply a selector; ``scores`` are the attention scores of the block before it."""
        first, count = self.model.special_tokens, len(tokens.places)
        stage = f"selector{index}"
        if self.pruning.selector == "threshold":
            selection = self.selectors[index](
                tokens.x[first:], count, lambda name, value: record(f"{stage}.{name}", value))
        else:
            attention = class_attention(scores, self.twin.functions)[first:first + count]
            kept = self.pruning.keep_counts(self.model.grid ** 2)[index]
            selection = Selection(attention, keep_top(attention, kept))
        keep = selection.keep
        record(f"{stage}.score", selection.score)
        record(f"{stage}.keep", keep)
        record(f"{stage}.kept", tokens.places[keep])

        patches, packages = tokens.x[first:first + count], tokens.x[first + count:]
        weights = tokens.weights
        pruned, pruned_weights = patches[~keep], selection.score[~keep]
        if len(pruned):
            if self.pruning.package == "merged":
                pruned = torch.cat([packages, pruned])
                pruned_weights = torch.cat([*(w[None] for w in weights), pruned_weights])
                packages, weights = packages[:0], ()
            package, weight = package_token(pruned, pruned_weights)
            record(f"{stage}.package", package)
            packages, weights = torch.cat([packages, package[None]]), (*weights, weight)
        x = torch.cat([tokens.x[:first], patches[keep], packages])
        record(f"{stage}.residual", x)
        left = _List(x, tokens.places[keep], weights)
        step = Step(self.pruning.blocks[index], len(tokens.x), len(x),
                    tuple(tokens.places.tolist()), tuple(left.places.tolist()), bool(len(pruned)))
        return left, step
