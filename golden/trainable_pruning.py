# SPDX-License-Identifier: BSD-2-Clause
"""The vision transformer with token selectors as it is trained: masks in place of shorter lists."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from golden.model import ModelConfig
from golden.nonlinear import functions_named
from golden.pruning import PruningConfig
from golden.selector import combined_score, keep_threshold, selector_shapes
from golden.trainable import TrainableViT

__all__ = ["PrunedOutput", "TrainablePrunedViT", "TrainableSelector", "keep_top_batch",
           "noisy_decision", "package_rows", "replace_dropped", "straight_through"]

#: Scores are kept as far from 0 and 1, where their logits are infinite.
_EPS = 1e-6

#: Biases of the two logits at the start: most patches are kept.
_START = (1.0, -1.0)


class PrunedOutput(NamedTuple):
    """What a network with selectors says of a batch.

    Members
    -------
    logits
        [batch, classes].
    features
        Patches after the last LayerNorm [batch, patches, channels], also those that were dropped.
    keeps
        For each selector, which patches are left: 1 or 0 [batch, patches].
    attentions
        For each selector, the attention of the class token to patches in the block before it, the
        mean of the heads [batch, patches]; none of a network in integers.
    """

    logits: Tensor
    features: Tensor
    keeps: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...] = ()


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return the value of ``hard`` with the gradient of ``soft``."""
    return hard.to(soft.dtype) + (soft - soft.detach())


def noisy_decision(score: Tensor, noise: Tensor) -> Tensor:
    """Return where the logit of ``score`` is not negative with ``noise`` added, straight-through.
    """
    logit = torch.logit(score, _EPS) + noise
    return straight_through(logit >= 0, logit.sigmoid())


def keep_top_batch(score: Tensor, left: Tensor, count: int) -> Tensor:
    """Return :func:`golden.selector.keep_top` of each row, among the patches that are ``left``.

    No ``score`` [batch, patches] is negative.
    """
    # -1 is behind all scores.
    order = score.masked_fill(left == 0, -1).argsort(dim=-1, descending=True, stable=True)
    keep = torch.zeros_like(score).scatter(-1, order[:, :count], 1)
    return keep * left


def package_rows(rows: Tensor, weights: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Return package tokens [batch, channels], and the sums of their weights [batch].

    For each image :func:`golden.selector.package_token` of those ``rows`` [batch, rows, channels]
    where ``members`` is 1; where there are none the result is 0.
    """
    weights = weights * members
    total = weights.sum(-1)
    shares = torch.where(total[:, None] == 0, members, weights)
    sums = shares.sum(-1)
    return (shares[:, None] @ rows)[:, 0] / torch.where(sums == 0, 1, sums)[:, None], total


def replace_dropped(x: Tensor, present: Tensor, weights: Tensor, score: Tensor, keep: Tensor, *,
                    first: int, merged: bool,
                    package: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
                    = package_rows) -> tuple[Tensor, Tensor, Tensor]:
    """Return all tokens, which are left, and the weights of packages, after a selector.

    Parameters
    ----------
    x, present, weights
        What they were before [batch, tokens, channels], [batch, tokens], [batch, packages].
    score, keep
        Weight of each patch in a package, and which stay [batch, patches].
    first
        Place of the first patch.
    merged
        Whether the old package goes into the new one.
    package
        Makes package tokens, as :func:`package_rows`.
    """
    end = first + keep.shape[1]
    patches, dropped = x[:, first:end], present[:, first:end] - keep
    some = (dropped.detach() > 0).any(-1)
    packages, there = x[:, end:], present[:, end:]
    if merged and weights.shape[1]:
        # The order is that of the list.
        new, weight = package(torch.cat([patches, packages], 1), torch.cat([score, weights], 1),
                              torch.cat([dropped, there], 1))
        # Where nothing is dropped the package is exactly what it was.
        packages = torch.where(some[:, None], new, packages[:, 0])[:, None]
        weights = torch.where(some, weight, weights[:, 0])[:, None]
        there = torch.maximum(there, some[:, None].to(there.dtype))
    else:
        new, weight = package(patches, score, dropped)
        packages = torch.cat([packages, new[:, None]], 1)
        weights = torch.cat([weights, weight[:, None]], 1)
        there = torch.cat([there, some[:, None].to(there.dtype)], 1)
    return (torch.cat([x[:, :first], patches, packages], 1),
            torch.cat([present[:, :first], keep, there], 1), weights)


class TrainableSelector(nn.Module):
    """A :class:`golden.selector.ThresholdSelector` of batches, with gradients.

    Its ``state_dict`` has the names and shapes of :func:`golden.selector.selector_shapes`. The
    decision is straight-through: in value what is kept, in gradient a soft decision. With noise
    that is Gumbel-softmax of (score, 1 - score): the difference of two Gumbel numbers is logistic,
    and the softmax of two is the sigmoid of the difference.

    Parameters
    ----------
    model
        Sizes.
    functions
        GELU and sigmoid, see :mod:`golden.nonlinear`.
    """

    def __init__(self, model: ModelConfig, functions: str = "exact") -> None:
        super().__init__()
        self.model, self.functions = model, functions_named(functions)
        shapes = selector_shapes(model)

        def layer(name: str) -> nn.Linear:
            outputs, inputs = shapes[f"{name}.weight"]
            return nn.Linear(inputs, outputs)

        self.norm = nn.LayerNorm(model.head_size, model.eps)
        self.embed = layer("embed")
        self.score1, self.score2, self.score3 = layer("score1"), layer("score2"), layer("score3")
        self.importance1, self.importance2 = layer("importance1"), layer("importance2")

    def initialise(self, generator: torch.Generator) -> None:
        """Set all parameters to what training starts from."""
        for name, parameter in self.named_parameters():
            with torch.no_grad():
                if name == "norm.weight":
                    parameter.fill_(1)
                elif name == "score3.bias":
                    parameter.copy_(torch.tensor(_START))
                elif name.endswith("bias"):
                    parameter.zero_()
                else:
                    nn.init.xavier_uniform_(parameter, generator=generator)

    def forward(self, tokens: Tensor, present: Tensor, patches: int,
                noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the score and the decision of the first ``patches`` of tokens [batch, patches].

        ``tokens`` [batch, tokens, channels] are patches and packages, ``present`` [batch, tokens]
        says which are left, ``noise`` [batch, patches] is added to the logit of the score.
        """
        gelu = self.functions.gelu
        heads = tokens.unflatten(-1, (self.model.heads, self.model.head_size))
        local, rest = gelu(self.embed(self.norm(heads))).chunk(2, -1)
        there = present[:, :, None, None]
        mean = (rest * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
        score1 = gelu(self.score1(torch.cat([local, mean.expand_as(rest)], -1)))
        logits = self.score3(gelu(self.score2(score1))).to(tokens.dtype)
        scores = self.functions.sigmoid(logits[..., 0] - logits[..., 1])[:, :patches]
        importance = self.functions.sigmoid(
            self.importance2(gelu(self.importance1(heads.mean(-1)))).to(tokens.dtype))[:, :patches]
        score = combined_score(scores, importance)
        if noise is None:
            return score, straight_through(keep_threshold(scores, importance), score)
        return score, noisy_decision(score, noise)


class TrainablePrunedViT(TrainableViT):
    """A vision transformer with selectors, with gradients: :class:`golden.pruning.PrunedViT`.

    All tensors keep their shape: a dropped patch stays in its place, and nothing attends to it but
    itself. Each package token has a place behind the patches, empty where there is none. So the
    logits are those of the lists that become shorter.

    Gradients: ``threshold`` learns by its decisions, straight-through; the choice of ``topk`` has
    none, the network around it learns.

    Parameters
    ----------
    model
        Sizes.
    pruning
        Where and how patches are dropped.
    functions
        The functions that are not linear, see :mod:`golden.nonlinear`.
    """

    def __init__(self, model: ModelConfig, pruning: PruningConfig,
                 functions: str = "exact") -> None:
        super().__init__(model, functions)
        pruning.check(model)
        self.pruning = pruning
        count = len(pruning.active) if pruning.selector == "threshold" else 0
        self.selectors = nn.ModuleList(TrainableSelector(model, functions) for _ in range(count))

    def initialise_selectors(self, generator: torch.Generator) -> None:
        """Set the parameters of the selectors to what training starts from."""
        for selector in self.selectors:
            assert isinstance(selector, TrainableSelector)
            selector.initialise(generator)

    def forward(self, images: Tensor,  # type: ignore[override]
                noise: Tensor | None = None, scores: Tensor | None = None,
                counts: Sequence[int] | None = None) -> PrunedOutput:
        """Return what the network says of ``images`` [batch, channels, side, side].

        ``noise`` [selectors, batch, patches] is added to the logits of the scores of
        ``threshold``; it is logistic where decisions are to be those of Gumbel-softmax. By
        ``scores`` [batch, patches], not negative, all selectors of ``topk`` choose instead of by
        the attention, which weights the package tokens all the same. ``counts`` [selectors] is how
        many patches each selector of ``topk`` keeps, if not those of the settings.
        """
        first, count = self.model.special_tokens, self.model.grid ** 2
        x = self.embed(images)
        present = x.new_ones(x.shape[:2])
        #: Weight of each package token [batch, packages].
        weights = x.new_empty(len(x), 0)
        attention = present
        keeps: list[Tensor] = []
        attentions: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            if i in self.pruning.active:
                attentions.append(attention[:, first:first + count])
                x, present, weights = self._select(
                    len(keeps), x, present, weights, attention,
                    None if noise is None else noise[len(keeps)], scores,
                    None if counts is None else counts[len(keeps)])
                keeps.append(present[:, first:first + count])
            x, attention = block(x, present if keeps else None)
        y = self.norm(x)
        return PrunedOutput(self.logits(y), y[:, first:first + count], tuple(keeps),
                            tuple(attentions))

    def _select(self, index: int, x: Tensor, present: Tensor, weights: Tensor, attention: Tensor,
                noise: Tensor | None,
                scores: Tensor | None, kept: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Apply a selector: return all tokens, which are left, and the weights of packages."""
        first, count = self.model.special_tokens, self.model.grid ** 2
        left = present[:, first:first + count]
        if self.pruning.selector == "threshold":
            score, keep = self.selectors[index](x[:, first:], present[:, first:], count, noise)
            keep = keep * left
        else:
            score = attention[:, first:first + count]
            if kept is None:
                kept = self.pruning.keep_counts(count)[index]
            keep = keep_top_batch(score if scores is None else scores, left, kept)
        return replace_dropped(x, present, weights, score, keep, first=first,
                               merged=self.pruning.package == "merged")

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the parameters: of the network, and ``selectors.0.`` and so on."""
        own = self.state_dict()
        return {**super().state(), **{
            f"selectors.{i}.{name}": own[f"selectors.{i}.{name}"].detach().cpu().clone()
            for i in range(len(self.selectors)) for name in selector_shapes(self.model)}}
