# SPDX-License-Identifier: BSD-2-Clause
"""Token selectors in floating point: which patches stay, and what the others leave behind."""

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional

from golden.model import ModelConfig, Record, State, check_state
from golden.nonlinear import FUNCTIONS, Functions

__all__ = ["Selection", "ThresholdSelector", "class_attention", "combined_score", "keep_count",
           "keep_threshold", "keep_top", "package_token", "selector_macs", "selector_shapes"]

#: Fraction bits of a keep rate.
_RATE_BITS = 16


@dataclass(frozen=True)
class Selection:
    """What a selector says of the patches, in their order.

    Parameters
    ----------
    score
        Weight of each patch in a package token: the combined score, or the attention.
    keep
        Which patches stay.
    """

    score: Tensor
    keep: Tensor


def keep_count(patches: int, rate: float) -> int:
    """Return how many of ``patches`` a keep rate is, k = ceil(patches * rate), rate rounded down.

    k = (patches * floor(rate * 2^16) + 2^16 - 1) >> 16
    """
    scaled = int(Fraction(rate) * 2 ** _RATE_BITS)
    return (patches * scaled + 2 ** _RATE_BITS - 1) >> _RATE_BITS


def keep_top(score: Tensor, count: int) -> Tensor:
    """Return which of ``score`` are among its ``count`` largest; of equals the earlier stay."""
    order = score.argsort(descending=True, stable=True)
    keep = torch.zeros_like(score, dtype=torch.bool)
    keep[order[:count]] = True
    return keep


def keep_threshold(head_scores: Tensor, importance: Tensor) -> Tensor:
    """Return where sum_h a_h s_h >= 1/2 sum_h a_h, for s and a [patches, heads]: no division."""
    return (importance * head_scores).sum(-1) >= importance.sum(-1) / 2


def combined_score(head_scores: Tensor, importance: Tensor) -> Tensor:
    """Return sum_h a_h s_h / sum_h a_h, for s and a [patches, heads]."""
    return (importance * head_scores).sum(-1) / importance.sum(-1)


def class_attention(scores: Tensor, functions: Functions = FUNCTIONS["exact"]) -> Tensor:
    """Return the attention of the class token, the mean of the heads [tokens].

    ``scores`` [heads, tokens, tokens] are those before softmax; the class token is row 0.
    """
    return functions.softmax(scores[:, 0]).mean(0)


def package_token(tokens: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return P = sum_t w_t x_t / sum_t w_t [channels], and sum_t w_t.

    Of ``tokens`` [count, channels] there must be one or more. Where all ``weights`` [count] are
    zero, which only happens when they underflow, P is the plain mean.
    """
    total = weights.sum()
    if total == 0:
        return tokens.mean(0), total
    return weights @ tokens / total, total


def selector_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every parameter of a threshold selector for ``model``.

    d is the size of a head, h the number of heads. ``norm``, ``embed`` and ``score1`` to
    ``score3`` are one set of weights for all heads; ``importance1`` and ``importance2`` mix the
    heads. Weights are [outputs, inputs].
    """
    d, h = model.head_size, model.heads
    middle = max(1, h // 2)
    shapes: dict[str, tuple[int, ...]] = {"norm.weight": (d,), "norm.bias": (d,)}
    for name, outputs, inputs in (("embed", d, d), ("score1", d // 2, d),
                                  ("score2", d // 4, d // 2), ("score3", 2, d // 4),
                                  ("importance1", middle, h), ("importance2", h, middle)):
        shapes[f"{name}.weight"] = (outputs, inputs)
        shapes[f"{name}.bias"] = (outputs,)
    return shapes


def selector_macs(model: ModelConfig, tokens: int) -> int:
    """Return the multiplications of a threshold selector on ``tokens`` patches and packages.

    Every product of matrices, as in :meth:`golden.model.ModelConfig.macs`; not the means.
    """
    macs = {name: outputs * inputs for name, (outputs, *rest) in selector_shapes(model).items()
            for inputs in rest}
    by_head = sum(value for name, value in macs.items() if not name.startswith("importance"))
    return tokens * (model.heads * by_head + sum(macs.values()) - by_head)


class ThresholdSelector:
    """The multi-head token classifier of HeatViT, in evaluation mode.

    Of a token, x_h are the d channels of head h. With one set of weights for all heads:

    * e_h = GELU(embed(LayerNorm(x_h))), local = its first half, global = mean over the tokens of
      its second half;
    * s_h = column 0 of softmax(score3(GELU(score2(GELU(score1([local, global])))))).

    And over all heads: a = sigmoid(importance2(GELU(importance1([mean(x_1) .. mean(x_h)])))).
    A patch stays where sum_h a_h s_h >= 1/2 sum_h a_h; its score is the quotient of the two sums.

    Source: HeatViT, arXiv 2211.08110, with the layers of SPViT, arXiv 2112.13890.

    Parameters
    ----------
    model
        Sizes.
    state
        Parameters, see :func:`selector_shapes`.
    functions
        GELU and sigmoid.
    """

    def __init__(self, model: ModelConfig, state: State,
                 functions: Functions = FUNCTIONS["exact"]) -> None:
        check_state(state, selector_shapes(model), model, " of a selector")
        self.model = model
        self.state = dict(state)
        self.functions = functions

    def _layer(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.model.heads, self.model.head_size))

    def normalise(self, tokens: Tensor,
                  record: Record = lambda stage, value: None) -> Tensor:
        """Return the channels of every head, normalised: [tokens, heads, d]."""
        x = functional.layer_norm(self._split(tokens), (self.model.head_size,), eps=self.model.eps)
        record("norm", x.flatten(1))
        return x * self.state["norm.weight"] + self.state["norm.bias"]

    def features(self, tokens: Tensor, record: Record = lambda stage, value: None) -> Tensor:
        """Return the inputs of ``score3``: [tokens, heads, d / 4]."""
        gelu = self.functions.gelu
        local, rest = gelu(self._layer("embed", self.normalise(tokens, record))).chunk(2, -1)
        mean = rest.mean(0)
        score1 = gelu(self._layer("score1", torch.cat([local, mean.expand_as(rest)], -1)))
        score2 = gelu(self._layer("score2", score1))
        for name, value in (("local", local), ("global", rest), ("score1", score1),
                            ("score2", score2)):
            record(name, value.flatten(1))
        record("mean", mean.flatten())
        return score2

    def importance(self, tokens: Tensor, record: Record = lambda stage, value: None) -> Tensor:
        """Return a, how much each head counts: [tokens, heads]."""
        pooled = self._split(tokens).mean(-1)
        importance1 = self.functions.gelu(self._layer("importance1", pooled))
        record("importance1", importance1)
        return self.functions.sigmoid(self._layer("importance2", importance1))

    def __call__(self, tokens: Tensor, patches: int,
                 record: Record = lambda stage, value: None) -> Selection:
        """Select among the first ``patches`` of ``tokens`` [tokens, channels].

        The others are package tokens: they count in the global means and are never pruned.
        ``record`` is called with the stages ``norm`` (before gamma and beta), ``local``,
        ``global``, ``score1``, ``score2`` (head after head) and ``importance1`` [tokens,
        channels], ``mean`` [channels], ``head_scores`` (s) and ``importance`` (a) [tokens, heads].
        """
        logits = self._layer("score3", self.features(tokens, record))
        # The first column of the softmax of two is the sigmoid of their difference.
        scores = self.functions.sigmoid(logits[..., 0] - logits[..., 1])
        importance = self.importance(tokens, record)
        record("head_scores", scores)
        record("importance", importance)
        scores, importance = scores[:patches], importance[:patches]
        return Selection(combined_score(scores, importance), keep_threshold(scores, importance))
