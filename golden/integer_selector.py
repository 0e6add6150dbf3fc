# SPDX-License-Identifier: BSD-2-Clause
"""Token selectors in integers: scores, the decision, and the package token (docs/arithmetic.md)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from golden.fixed import Int, round_shift, saturate
from golden.functions import (
    apply,
    gelu_int,
    inverse,
    matmul,
    norm_rows,
    normalised,
    power,
    reciprocal,
    requantise,
)
from golden.layers import Linear
from golden.quantize import QuantizedViT
from golden.quantize_selector import SCORE_SHIFT, QuantizedClassifier
from rtl.isa import (
    LANE_X_BITS,
    MEAN_FRAC,
    SCORE_BITS,
    SHARE_BITS,
    SHARE_MARGIN,
    SUM_BITS,
    WEIGHT_BITS,
)

__all__ = ["NORM_FIELDS", "ONE", "SHARE_SCALE", "Tokens", "class_attention", "classify", "cut",
           "keep_largest", "keep_threshold", "kth_largest", "package", "shares", "threshold_score"]

#: Names of the statistics of a row.
NORM_FIELDS = ("sum", "sumsq", "mean", "m", "s")

#: All shares of a package token together.
ONE = 1 << (SHARE_BITS - 1)

_SCORE_MAX = (1 << SCORE_BITS) - 1
#: Scale of the score of a threshold selector: importance-weighted mean to units of 2**-16.
_SCORE_SCALE = (1 << 16, 24)
#: Scale of shares. The margin makes up for the error of the reciprocal.
SHARE_SCALE = ((1 << 16) - SHARE_MARGIN, SUM_BITS)


def cut(value: Int, shift: Int | int) -> Int:
    """Return ``value >> shift``, not rounded."""
    return value >> shift


def class_attention(exp: Int, reciprocal_table: Int, scores: Int, top: Int, total: Int,
                    exp_m: int, exp_s: int, score_frac: int) -> Int:
    """Return the attention that the class token has paid each position after each head.

    Parameters
    ----------
    exp, reciprocal_table
        Polynomial tables.
    scores, top, total
        Of the row of the class token: scores [heads, tokens], row maximum and row sum [heads].
    exp_m, exp_s
        Scale of the exponent.
    score_frac
        The unit is ``2**-score_frac``.
    """
    e16, z = power(exp, scores, top[:, None], exp_m, exp_s)
    r, n = (column[:, None] for column in inverse(reciprocal_table, total))
    part = np.minimum(cut(e16 * r, SCORE_SHIFT - score_frac + z - n), _SCORE_MAX)
    # Nothing is negative: to limit every sum or only the results is the same.
    return np.minimum(part.cumsum(axis=0), _SCORE_MAX)


def kth_largest(score: Int, count: int) -> int:
    """Return the largest threshold which ``count`` scores or more reach, bit by bit from the top.
    """
    threshold = 0
    for bit in reversed(range(SCORE_BITS)):
        if np.count_nonzero(score >= threshold + (1 << bit)) >= count:
            threshold += 1 << bit
    return threshold


def keep_largest(score: Int, count: int) -> np.ndarray:
    """Return which of ``score`` are among its ``count`` largest; of equals the earlier stay."""
    threshold = kth_largest(score, count)
    above, equal = score > threshold, score == threshold
    return above | (equal & (equal.cumsum() <= count - np.count_nonzero(above)))


def keep_threshold(weighted: Int, importance: Int) -> np.ndarray:
    """Return where ``A >= 64 B``: the weighted mean of the scores of the heads is a half or more.
    """
    return weighted >= 64 * importance


def threshold_score(table: Int, weighted: Int, importance: Int) -> Int:
    """Return A / B in units of ``2**-16``; 0 where B is 0. ``table`` is that of the reciprocal."""
    m, s = reciprocal(table, np.maximum(importance, 1), *_SCORE_SCALE)
    return np.where(importance > 0, cut(weighted * m, s), 0)


def shares(table: Int, weights: Int) -> Int:
    """Return the shares of a package token: in proportion to ``weights``, their sum is ``ONE``.

    ``table`` is that of the reciprocal; weights are positive.
    """
    total = int(weights.sum())
    if not 1 <= total < 1 << WEIGHT_BITS or weights.min() < 1:
        raise ValueError(f"weights of {weights.min()} or more sum to {total}, must be 1 or more"
                         f" and sum to less than {1 << WEIGHT_BITS}")
    c = max(0, total.bit_length() - SUM_BITS)
    m, s = reciprocal(table, total >> c, *SHARE_SCALE)
    share = cut(2 * weights * m, s + c)
    share[0] += ONE - share.sum()
    return share


def package(share: Int, rows: Int) -> Int:
    """Return the package token of ``rows`` [count, channels]."""
    return (share @ rows + ONE // 2) >> (SHARE_BITS - 1)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The list of tokens: special tokens, patches by place, packages from the oldest.

    Parameters
    ----------
    special, patches
        How many there are of the first two.
    rows
        Row of the residual, in memory, of each token; of a package that of the first patch in it.
        A patch never moves.
    weights
        Weight of each package.
    """

    special: int
    patches: int
    rows: tuple[int, ...]
    weights: tuple[int, ...] = ()

    @property
    def candidates(self) -> slice:
        """Positions of the patches."""
        return slice(self.special, self.special + self.patches)

    @property
    def places(self) -> list[int]:
        """Place in the image of each patch."""
        return [row - self.special for row in self.rows[self.candidates]]

    def split(self, keep: Sequence[bool], merged: bool) -> tuple[list[int], list[int]]:
        """Return the positions that stay, and those that go into a package token.

        ``keep`` is of the patches. With ``merged`` the old package goes into the new one.
        """
        first = self.special + self.patches
        packages = list(range(first, len(self.rows)))
        dropped = [i for i, k in enumerate(keep, self.special) if not k]
        stay = [*range(self.special), *(i for i, k in enumerate(keep, self.special) if k)]
        if dropped and merged:
            return stay, dropped + packages
        return stay + packages, dropped

    def after(self, stay: Sequence[int], dropped: Sequence[int], weight: int) -> "Tokens":
        """Return the list in which a package of that weight has the place of what is dropped."""
        end = self.special + self.patches
        return Tokens(
            special=self.special, patches=sum(self.special <= i < end for i in stay),
            rows=(*(self.rows[i] for i in stay), self.rows[dropped[0]]),
            weights=(*(self.weights[i - end] for i in stay if i >= end), weight))


def classify(qvit: QuantizedViT, layers: QuantizedClassifier, residual: Int,
             record: Callable[[str, Int], object]) -> tuple[Int, Int]:
    """Return A and B of all tokens; ``record`` is given the stages.

    Parameters
    ----------
    qvit, layers
        The network, for its tables, and the classifier.
    residual
        Of all tokens [tokens, width].
    """
    heads, special = qvit.model.heads, qvit.model.special_tokens

    def gelu(layer: Linear, x: Int) -> Int:
        return gelu_int(layers.gelu, saturate(apply(layer, x), LANE_X_BITS))

    scale = layers.importance_scale
    x = saturate(round_shift((residual << MEAN_FRAC) * scale.m, scale.s), 8)
    importance1 = gelu(layers.importance1, x)
    record("importance1", importance1)

    parts = np.split(residual, heads, axis=1)
    local, rest = [], []
    for h, part in enumerate(parts):
        values = norm_rows(qvit.rsqrt, part, layers.norm)
        for name, value in zip(NORM_FIELDS, values, strict=True):
            record(f"head_norm{h}.{name}", value)
        y = normalised(part, *(column[:, None] for column in values[2:]))
        local.append(gelu(layers.local, y))
        # These are stationary operands of the means.
        rest.append(np.maximum(gelu(layers.global_, y), -127))
    exponentials = np.where(np.arange(len(residual)) < special, 0, 255)[None]
    total = exponentials.sum(axis=1)
    m, s = reciprocal(qvit.reciprocal, total, layers.mean.m, layers.mean.s)
    means = [saturate(requantise(matmul(exponentials, x), m, s), 8) for x in rest]
    for name, value in (("rowsum", total), ("rowscale.m", m), ("rowscale.s", s)):
        record(f"mean.{name}", value)

    score1 = [gelu(layers.score1, np.concatenate([x, np.broadcast_to(mean, x.shape)], axis=1))
              for x, mean in zip(local, means, strict=True)]
    score2 = [gelu(layers.score2, x) for x in score1]
    for name, columns in (("local", local), ("global", rest), ("mean", means),
                          ("score1", score1), ("score2", score2)):
        value = np.concatenate(columns, axis=1)
        record(name, value[0] if name == "mean" else value)

    x = np.concatenate([apply(layers.importance2, importance1),
                        *(apply(layers.score3, x) for x in score2)], axis=1)
    classes = gelu_int(layers.sigmoid, saturate(x, LANE_X_BITS))
    record("classes", classes)
    a, s = np.split(classes, 2, axis=1)
    weighted, importance = (a * s).sum(axis=1), a.sum(axis=1)
    record("weighted", weighted)
    record("importance", importance)
    return weighted, importance
