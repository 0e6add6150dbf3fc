# SPDX-License-Identifier: BSD-2-Clause
"""The token selector of the interpreter: lists of rows, scores, shares, and what was dropped."""

from dataclasses import dataclass, field

import numpy as np
from amaranth.lib import data

from golden.fixed import Int
from golden.integer_selector import ONE, cut, keep_largest, keep_threshold, shares, threshold_score
from rtl.isa import SCORE_BITS, SELECTORS, SelectorKind

__all__ = ["NEVER", "Selection", "TokenSelector"]

#: Number of a selector in the map of dropped rows where none has dropped the row.
NEVER = SELECTORS

_SCORE_MAX = (1 << SCORE_BITS) - 1


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What one selector did, the names those of the stages of ``golden.integer``.

    Members
    -------
    rows
        Physical row of each position before it.
    keep, score
        Whether each patch stays, and its score.
    weight
        Of everything that is dropped, a package last.
    share, dropped
        Shares and physical rows of everything that is dropped; of the last token if nothing is.
    tokens
        Tokens after it.
    attention
        ``topk``: scores of all positions after each head.
    weighted, importance
        ``threshold``: the sums A and B of all positions.
    """

    rows: Int
    keep: Int
    score: Int
    weight: Int
    share: Int
    dropped: Int
    tokens: int
    attention: Int = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    weighted: Int = field(default_factory=lambda: np.zeros(0, np.int64))
    importance: Int = field(default_factory=lambda: np.zeros(0, np.int64))


class TokenSelector:
    """State of the selector from IMAGE on.

    Parameters
    ----------
    first_row, tokens
        Rows of the residual at the start.
    residual_rows
        Rows of the residual, of all images.

    Members
    -------
    rows, dropped
        Physical row of each position, and of each row of what the last selector dropped.
    share
        Shares of the latter.
    dropped_by
        For each physical row the selector that dropped the patch in it, ``NEVER`` if none did.
    """

    def __init__(self, first_row: int, tokens: int, residual_rows: int) -> None:
        self.rows: Int = first_row + np.arange(tokens)
        self.dropped: Int | None = None
        self.share: Int = np.zeros(0, np.int64)
        self.dropped_by: Int = np.full(residual_rows, NEVER, np.int64)
        self.weighted: Int = np.zeros(0, np.int64)
        self.importance: Int = np.zeros(0, np.int64)
        self._attention: list[Int] = []
        self._packages = self._weight = self._index = 0
        self._select: data.Const | None = None

    @property
    def tokens(self) -> int:
        return len(self.rows)

    def attend(self, e16: Int, z: Int, r: Int, n: Int, score_s: int, first_head: bool) -> None:
        """Add the attention of the class token in one head, of exponentials ``e16 * 2**-z``."""
        part = np.minimum(cut(e16 * r, score_s + z - n), _SCORE_MAX)
        if first_head:
            self._attention = []
        before = self._attention[-1] if self._attention else 0
        self._attention.append(np.minimum(before + part, _SCORE_MAX))

    def select(self, f: data.Const) -> None:
        """Begin; :meth:`prune` decides: scores may come until then."""
        if self._index == SELECTORS or self._select is not None:
            number = self._index + (self._select is not None)
            raise ValueError(f"SELECT {number} has no PRUNE before it, or there are more than"
                             f" {SELECTORS}")
        if not 0 < f.special < self.tokens:
            raise ValueError(f"SELECT {self._index} is for {f.special} special tokens, must be for"
                             f" at least 1 and fewer than the {self.tokens} tokens")
        self._select = f

    def prune(self, reciprocal_table: Int) -> Selection:
        """Decide, and give all that follows the new list."""
        f = self._select
        if f is None:
            raise ValueError("PRUNE has no SELECT before it, must have one")
        self._select = None
        first, end = f.special, self.tokens - self._packages
        seen = {}
        if f.kind == SelectorKind.TOPK:
            seen = {"attention": np.stack(self._attention)}
            score = self._attention[-1][first:end]
            keep = keep_largest(score, f.keep)
        else:
            seen = {"weighted": self.weighted, "importance": self.importance}
            weighted, importance = self.weighted[first:end], self.importance[first:end]
            score = threshold_score(reciprocal_table, weighted, importance)
            keep = keep_threshold(weighted, importance)

        rows = self.rows
        patches, packages = rows[first:end], rows[end:]
        gone, weight = patches[~keep], np.maximum(score[~keep], 1)
        self.dropped_by[gone] = self._index
        stay = [rows[:first], patches[keep], packages]
        share = np.array([ONE])
        if len(gone):
            if f.merged and self._packages:
                gone, weight = np.append(gone, packages), np.append(weight, self._weight)
                stay, self._packages = stay[:2], 0
            self._packages, self._weight = self._packages + 1, int(weight.sum())
            share = shares(reciprocal_table, weight)
            stay.append(gone[:1])
        else:
            gone = rows[-1:]
        self.rows, self.dropped, self.share = np.concatenate(stay), gone, share
        self._index += 1
        return Selection(rows=rows, keep=keep.astype(np.int64), score=score, weight=weight,
                         share=share, dropped=gone, tokens=len(self.rows), **seen)
