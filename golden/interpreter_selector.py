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
    image
        Image of the round.
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

    image: int
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


@dataclass
class _Image:
    """What the selector remembers of an image: its packages, and selectors so far."""

    packages: int = 0
    weight: int = 0
    index: int = 0


class TokenSelector:
    """The token list, and what selectors make of it.

    Parameters
    ----------
    residual_rows
        Rows of the residual, of all images.

    Members
    -------
    rows
        Physical row of each position of the list.
    segments
        First position and number of the tokens of each image in it.
    dropped, share
        For each image the physical rows of what the last selector dropped, and their shares.
    dropped_by
        For each physical row the selector that dropped the patch in it, ``NEVER`` if none did.
    weighted, importance
        Of all positions, what the next threshold selector decides by.
    selections
        What selectors have done.
    """

    def __init__(self, residual_rows: int) -> None:
        self.rows: Int = np.arange(0)
        self.segments: dict[int, tuple[int, int]] = {}
        self.dropped: dict[int, Int] = {}
        self.share: dict[int, Int] = {}
        self.dropped_by: Int = np.full(residual_rows, NEVER, np.int64)
        self.weighted: Int = np.zeros(0, np.int64)
        self.importance: Int = np.zeros(0, np.int64)
        self.selections: list[Selection] = []
        self._attention: dict[int, list[Int]] = {}
        self._images: dict[int, _Image] = {}
        self._select: data.Const | None = None
        self._next: dict[int, Int] = {}

    @property
    def tokens(self) -> int:
        return len(self.rows)

    def image(self, image: int, first_row: int, tokens: int) -> None:
        """Begin an image: the list is that of its rows."""
        self.rows, self.segments = first_row + np.arange(tokens), {0: (0, tokens)}
        self._images[image] = _Image()

    def attend(self, segment: int, e16: Int, z: Int, r: Int, n: Int, score_s: int,
               first_head: bool) -> None:
        """Add the attention of a class token in one head, of exponentials ``e16 * 2**-z``."""
        part = np.minimum(cut(e16 * r, score_s + z - n), _SCORE_MAX)
        heads = [] if first_head else self._attention[segment]
        before = heads[-1] if heads else 0
        self._attention[segment] = [*heads, np.minimum(before + part, _SCORE_MAX)]

    def select(self, f: data.Const) -> None:
        """Begin; :meth:`decide` ends it: scores may come until then."""
        image = self._images[f.image]
        if image.index == SELECTORS or f.image in self._next:
            raise ValueError(f"SELECT {image.index} has no PRUNE before it, or there are more than"
                             f" {SELECTORS}")
        _, count = self.segments[f.segment]
        if not 0 < f.special < count:
            raise ValueError(f"SELECT {image.index} is for {f.special} special tokens, must be for"
                             f" at least 1 and fewer than the {count} tokens")
        if not self._next:
            self.dropped, self.share = {}, {}
        self._select = f
        # What stays follows.
        self._next[f.image] = np.arange(0)

    def decide(self, reciprocal_table: Int) -> None:
        """End the selector that has begun, if any."""
        f, self._select = self._select, None
        if f is None:
            return
        image, (start, count) = self._images[f.image], self.segments[f.segment]
        first, end = f.special, count - image.packages
        seen = {}
        if f.kind == SelectorKind.TOPK:
            seen = {"attention": np.stack(self._attention[f.segment])}
            score = self._attention[f.segment][-1][first:end]
            keep = keep_largest(score, f.keep)
        else:
            seen = {"weighted": self.weighted, "importance": self.importance}
            weighted, importance = self.weighted[first:end], self.importance[first:end]
            score = threshold_score(reciprocal_table, weighted, importance)
            keep = keep_threshold(weighted, importance)

        rows = self.rows[start:start + count]
        patches, packages = rows[first:end], rows[end:]
        gone, weight = patches[~keep], np.maximum(score[~keep], 1)
        self.dropped_by[gone] = image.index
        stay = [rows[:first], patches[keep], packages]
        share = np.array([ONE])
        if len(gone):
            if f.merged and image.packages:
                gone, weight = np.append(gone, packages), np.append(weight, image.weight)
                stay, image.packages = stay[:2], 0
            image.packages, image.weight = image.packages + 1, int(weight.sum())
            share = shares(reciprocal_table, weight)
            stay.append(gone[:1])
        else:
            gone = rows[-1:]
        self._next[f.image] = left = np.concatenate(stay)
        self.dropped[f.image], self.share[f.image] = gone, share
        image.index += 1
        self.selections.append(Selection(
            image=f.image, rows=rows, keep=keep.astype(np.int64), score=score, weight=weight,
            share=share, dropped=gone, tokens=len(left), **seen))

    def prune(self) -> None:
        """Give all that follows the lists that selectors have left, one behind the other."""
        if not self._next:
            raise ValueError("PRUNE has no SELECT before it, must have one")
        start, self.segments = 0, {}
        for image, rows in self._next.items():
            self.segments[image] = start, len(rows)
            start += len(rows)
        self.rows = np.concatenate([*self._next.values()])
        self._next = {}
