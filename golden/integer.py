# SPDX-License-Identifier: BSD-2-Clause
"""The integer twin: the network as the accelerator computes it, bit for bit (docs/arithmetic.md).

Integer arithmetic only; matrix products are taken in float64, where all of these are exact.

Named stages, all int32 but sums of squares and weights (int64), in channel order without padding:

=====================================  ==========================================================
``embed.residual``                     residual after the patch embedding [tokens, width]
``block{i}.q``, ``.k``, ``.v``         [tokens, width]
``block{i}.scores``                    [heads, tokens, tokens]
``block{i}.rowmax``, ``.rowsum``       of scores, of exponentials [heads, tokens]
``block{i}.rowscale.m``, ``.s``        scale that divides by the row sum [heads, tokens]
``block{i}.attention``                 [tokens, width]
``block{i}.residual1``                 after the projection
``block{i}.hidden``                    after GELU [tokens, hidden]
``block{i}.residual2``                 after the second MLP layer
``block{i}.norm1.sum``, ``.sumsq``,    row statistics [tokens] for the LayerNorm before Q, K, V;
``.mean``, ``.m``, ``.s``              also ``block{i}.norm2`` and ``head.norm``
``logits.cls``                         distilled models: the first head alone [classes]
``logits``                             [classes]
=====================================  ==========================================================

Tokens are those that are left. If only the class token's rows of the last block are computed, its
stages have the rows of the special tokens alone, and so has ``head.norm``; ``.k`` and ``.v`` have
all, scores are [heads, special tokens, tokens].

Of selector s, for T tokens before it, T' after it, d dropped rows:

=======================================  ========================================================
``selector{s}.rows``                     row of the residual in memory of each token before [T]
``selector{s}.tokens``                   T' [1]
``selector{s}.score``, ``.keep``         of the patches before
``selector{s}.kept``                     places in the image of the patches after
``selector{s}.weight``                   [d]; empty if nothing is dropped
``selector{s}.share``, ``.dropped``      [d], residual [d, width]; if nothing is dropped, those of
                                         the last token, which then takes its own place
``selector{s}.package``                  residual of the last token after it [width]
``selector{s}.package.norm.sum``, ...    its statistics for the LayerNorm of the next block [1]
``selector{s}.attention``                ``topk``: scores after each head [heads, T]
``selector{s}.importance1``              ``threshold``: [T, max(1, heads // 2)]
``selector{s}.head_norm{h}.sum``, ...    statistics of the channels of one head [T]
``selector{s}.local``, ``.global``,      head after head [T, width / 2], [T, width / 2],
``.score1``, ``.score2``                 [T, width / 2], [T, width / 4]
``selector{s}.mean``                     [width / 2]; also ``.mean.rowsum``,
                                         ``.mean.rowscale.m``, ``.s`` [1]
``selector{s}.classes``                  a, then s of all heads [T, 2 heads]
``selector{s}.weighted``,                A, B [T]
``.importance``
=======================================  ========================================================
"""

import numpy as np
from numpy.typing import NDArray

from golden.fixed import Int, saturate
from golden.functions import (
    apply,
    exponential,
    gelu_int,
    matmul,
    norm_rows,
    normalised,
    reciprocal,
    requantise,
)
from golden.integer_selector import (
    NORM_FIELDS,
    ONE,
    Tokens,
    class_attention,
    classify,
    keep_largest,
    keep_threshold,
    package,
    shares,
    threshold_score,
)
from golden.pruning import PruningConfig
from golden.quantize import Linear, Norm, QuantizedViT
from rtl.config import BLOCK
from rtl.isa import ACC_BITS, LANE_X_BITS

__all__ = ["Stages", "matmul", "patches", "requantise", "run"]

Stages = dict[str, NDArray[np.integer]]

#: Stages that are not int32.
_WIDE = ("sumsq", "weight")


def patches(qvit: QuantizedViT, frame: NDArray[np.uint8]) -> Int:
    """Return the rows of the patch buffer: patches line by line, pixel rows padded with zeros."""
    m = qvit.model
    shape = (m.image_size, m.image_size, m.channels)
    if frame.shape != shape or frame.dtype != np.uint8:
        raise ValueError(f"the frame is {frame.dtype} {frame.shape}, must be uint8 {shape}")
    rows = frame.reshape(m.grid, m.patch, m.grid, m.patch * m.channels).transpose(0, 2, 1, 3)
    rows = np.pad(rows, ((0, 0), (0, 0), (0, 0), (0, -rows.shape[3] % BLOCK)))
    return rows.reshape(m.grid ** 2, -1).astype(np.int64)


class _Run:
    """One image: the residual, its row statistics, the list of tokens, and the stages so far."""

    def __init__(self, qvit: QuantizedViT, last_block: str) -> None:
        self.qvit, self.last_block = qvit, last_block
        self.stages: Stages = {}
        self.residual = qvit.initial.astype(np.int64)
        self.statistics: tuple[Int, ...]
        self.class_attention: Int
        model, self.pruning = qvit.model, qvit.pruning or PruningConfig(selector="none")
        self.tokens = Tokens(special=model.special_tokens, patches=model.grid ** 2,
                             rows=tuple(range(model.tokens)))

    def record(self, stage: str, value: Int) -> Int:
        self.stages[stage] = value.astype(
            np.int64 if stage.endswith(_WIDE) else np.int32)
        return value

    def statistics_of(self, rows: Int, norm: Norm, stage: str) -> tuple[Int, Int, Int]:
        """Return mean, m and s of rows, and record them with their sums."""
        values = norm_rows(self.qvit.rsqrt, rows, norm)
        for name, value in zip(NORM_FIELDS, values, strict=True):
            self.record(f"{stage}.{name}", value)
        return values[2:]

    def add(self, layer: Linear, x: Int, stage: str, norm: Norm, norm_stage: str) -> None:
        """Add a layer to the residual and take the statistics for the next LayerNorm."""
        self.residual = saturate(self.residual + saturate(apply(layer, x), LANE_X_BITS), 16)
        self.record(stage, self.residual)
        self.statistics = self.statistics_of(self.residual, norm, norm_stage)

    def normalised(self) -> Int:
        return normalised(self.residual, *(column[:, None] for column in self.statistics))

    def heads(self, x: Int) -> Int:
        """Return [heads, tokens, head size] of [tokens, width]."""
        return x.reshape(len(x), self.qvit.model.heads, -1).transpose(1, 0, 2)

    def attention(self, i: int, rows: int) -> Int:
        """Return the attention output of the first ``rows`` tokens, to all tokens."""
        block, stage = self.qvit.blocks[i], f"block{i}"
        y = self.normalised()
        q = self.record(f"{stage}.q", saturate(apply(block.q, y[:rows]), 8))
        k, v = (self.record(f"{stage}.{name}", saturate(apply(layer, y), 8, symmetric=True))
                for name, layer in (("k", block.k), ("v", block.v)))
        acc = matmul(self.heads(q), self.heads(k).transpose(0, 2, 1))
        scores = self.record(f"{stage}.scores", saturate(
            requantise(acc, block.score.m, block.score.s), 16))
        rowmax = self.record(f"{stage}.rowmax", scores.max(axis=-1))
        e = exponential(self.qvit.exp, scores, rowmax[..., None], block.exp.m, block.exp.s)
        rowsum = self.record(f"{stage}.rowsum", e.sum(axis=-1))
        m, s = reciprocal(self.qvit.reciprocal, rowsum, block.value.m, block.value.s)
        self.record(f"{stage}.rowscale.m", m)
        self.record(f"{stage}.rowscale.s", s)
        if self.pruning.selector == "topk" and i + 1 in self.pruning.active:
            self.class_attention = class_attention(
                self.qvit.exp, self.qvit.reciprocal, scores[:, 0], rowmax[:, 0], rowsum[:, 0],
                block.exp.m, block.exp.s, self.qvit.score_frac)
        out = saturate(requantise(matmul(e, self.heads(v)), m[..., None], s[..., None]), 8)
        return self.record(f"{stage}.attention", out.transpose(1, 0, 2).reshape(q.shape))

    def block(self, i: int) -> None:
        blocks = self.qvit.blocks
        block, stage = blocks[i], f"block{i}"
        rows = len(self.residual)
        if i + 1 == len(blocks):
            rows = self.qvit.model.last_rows(self.last_block, rows)
        attention = self.attention(i, rows)
        self.residual = self.residual[:rows]
        self.add(block.projection, attention, f"{stage}.residual1", block.norm2, f"{stage}.norm2")
        x = saturate(apply(block.mlp1, self.normalised()), LANE_X_BITS)
        hidden = self.record(f"{stage}.hidden", gelu_int(block.gelu, x))
        following = ((blocks[i + 1].norm1, f"block{i + 1}.norm1") if i + 1 < len(blocks)
                     else (self.qvit.head_norm, "head.norm"))
        self.add(block.mlp2, hidden, f"{stage}.residual2", *following)

    def scores(self, index: int) -> tuple[Int, Int, NDArray[np.bool_]]:
        """Return of the patches score and weight, and which of them stay."""
        stage, candidates, model = f"selector{index}", self.tokens.candidates, self.qvit.model
        if self.pruning.selector == "topk":
            self.record(f"{stage}.attention", self.class_attention)
            score = self.class_attention[-1, candidates]
            keep = keep_largest(score, self.pruning.keep_counts(model.grid ** 2)[index])
        else:
            weighted, importance = (x[candidates] for x in classify(
                self.qvit, self.qvit.classifiers[index], self.residual,
                lambda name, value: self.record(f"{stage}.{name}", value)))
            score = threshold_score(self.qvit.reciprocal, weighted, importance)
            keep = keep_threshold(weighted, importance)
        return score, np.maximum(score, 1), keep

    def select(self, index: int) -> None:
        """Apply a selector to the list of tokens, and write the package token."""
        stage, tokens, block = f"selector{index}", self.tokens, self.pruning.active[index]
        self.record(f"{stage}.rows", np.array(tokens.rows))
        score, weights, keep = self.scores(index)
        stay, dropped = tokens.split(keep.tolist(), self.pruning.package == "merged")
        weight = np.array([weights[i - tokens.special] if i < tokens.candidates.stop
                           else tokens.weights[i - tokens.candidates.stop] for i in dropped],
                          np.int64)
        share = np.array([ONE])
        if dropped:
            share = shares(self.qvit.reciprocal, weight)
            self.tokens = tokens.after(stay, dropped, int(weight.sum()))
        else:
            # The last token takes the place of a package of itself alone.
            stay, dropped = stay[:-1], stay[-1:]
        rows = self.residual[dropped]
        new = package(share, rows)
        self.residual = np.concatenate([self.residual[stay], new[None]])
        statistics = self.statistics_of(new[None], self.qvit.blocks[block].norm1,
                                        f"{stage}.package.norm")
        self.statistics = tuple(np.concatenate([column[stay], last]) for column, last in zip(
            self.statistics, statistics, strict=True))
        for name, value in (("score", score), ("keep", keep), ("kept", self.tokens.places),
                            ("tokens", [len(self.tokens.rows)]), ("weight", weight),
                            ("share", share), ("dropped", rows), ("package", new)):
            self.record(f"{stage}.{name}", np.array(value))

    def embed(self, frame: NDArray[np.uint8]) -> None:
        rows = patches(self.qvit, frame)
        rows = np.pad(rows, ((self.qvit.model.special_tokens, 0), (0, 0)))
        self.add(self.qvit.patch, rows, "embed.residual", self.qvit.blocks[0].norm1,
                 "block0.norm1")

    def logits(self) -> Int:
        y = self.normalised()
        logits = np.zeros(self.qvit.model.classes, np.int64)
        for row, head in enumerate(self.qvit.heads):
            logits = saturate(logits + apply(head, y[row]), ACC_BITS)
            if row + 1 < len(self.qvit.heads):
                self.record("logits.cls", logits)
        return self.record("logits", logits)


def run(qvit: QuantizedViT, frame: NDArray[np.uint8], *,
        last_block: str = "all") -> tuple[Int, int, Stages]:
    """Return logits, top class (the first of equals) and all named stages of one frame.

    Parameters
    ----------
    qvit
        The quantised model.
    frame
        Bytes [size, size, 3].
    last_block
        Which rows of the last block are computed, see :meth:`golden.model.ModelConfig.last_rows`:
        logits are the same.
    """
    image = _Run(qvit, last_block)
    image.embed(frame)
    for i in range(qvit.model.depth):
        if i in image.pruning.active:
            image.select(image.pruning.active.index(i))
        image.block(i)
    logits = image.logits()
    return logits, int(np.argmax(logits)), image.stages
