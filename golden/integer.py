# SPDX-License-Identifier: BSD-2-Clause
"""The integer twin: the network as the accelerator computes it, bit for bit (docs/arithmetic.md).

Integer arithmetic only; matrix products are taken in float64, where all of these are exact.

Named stages, all int32 but the sums of squares (int64), in channel order without padding:

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
"""

import numpy as np
from numpy.typing import NDArray

from golden.fixed import Int, round_shift, saturate
from golden.functions import exponential, gelu_int, norm_scale, normalised, reciprocal
from golden.quantize import Linear, Norm, QuantizedBlock, QuantizedViT
from rtl.config import BLOCK
from rtl.isa import ACC_BITS, LANE_X_BITS

__all__ = ["Stages", "matmul", "patches", "requantise", "run"]

Stages = dict[str, NDArray[np.integer]]

_NORM_FIELDS = ("sum", "sumsq", "mean", "m", "s")


def matmul(a: NDArray[np.integer], b: NDArray[np.integer]) -> Int:
    """Return the matrix product of integers whose sums stay below 2**53."""
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)


def requantise(value: Int, m: Int | int, s: Int | int) -> Int:
    """Return ``sat(round_shift(value * m, s), 27)``."""
    return saturate(round_shift(value * m, s), ACC_BITS)


def patches(qvit: QuantizedViT, frame: NDArray[np.uint8]) -> Int:
    """Return the rows of the patch buffer: patches line by line, pixel rows padded with zeros."""
    m = qvit.model
    shape = (m.image_size, m.image_size, m.channels)
    if frame.shape != shape or frame.dtype != np.uint8:
        raise ValueError(f"the frame is {frame.dtype} {frame.shape}, must be uint8 {shape}")
    rows = frame.reshape(m.grid, m.patch, m.grid, m.patch * m.channels).transpose(0, 2, 1, 3)
    rows = np.pad(rows, ((0, 0), (0, 0), (0, 0), (0, -rows.shape[3] % BLOCK)))
    return rows.reshape(m.grid ** 2, -1).astype(np.int64)


def _linear(layer: Linear, x: Int) -> Int:
    return requantise(matmul(x, layer.weight.T) + layer.bias, layer.m, layer.s)


class _Run:
    """One image: the residual, its row statistics, and the stages so far."""

    def __init__(self, qvit: QuantizedViT) -> None:
        self.qvit = qvit
        self.stages: Stages = {}
        self.residual = qvit.initial.astype(np.int64)
        self.statistics: tuple[Int, Int, Int]

    def record(self, stage: str, value: Int) -> Int:
        self.stages[stage] = value.astype(np.int32)
        return value

    def add(self, layer: Linear, x: Int, stage: str, norm: Norm, norm_stage: str) -> None:
        """Add a layer to the residual and take the statistics for the next LayerNorm."""
        self.residual = saturate(self.residual + saturate(_linear(layer, x), LANE_X_BITS), 16)
        self.record(stage, self.residual)
        total, squares = self.residual.sum(axis=1), np.square(self.residual).sum(axis=1)
        self.statistics = norm_scale(
            self.qvit.rsqrt, total, squares, norm.channels, norm.mean.m, norm.mean.s,
            norm.scale.m, norm.scale.s, norm.epsilon)
        for name, value in zip(_NORM_FIELDS, (total, squares, *self.statistics), strict=True):
            self.record(f"{norm_stage}.{name}", value)
        self.stages[f"{norm_stage}.sumsq"] = squares

    def normalised(self) -> Int:
        return normalised(self.residual, *(column[:, None] for column in self.statistics))

    def heads(self, x: Int) -> Int:
        """Return [heads, tokens, head size] of [tokens, width]."""
        return x.reshape(len(x), self.qvit.model.heads, -1).transpose(1, 0, 2)

    def attention(self, block: QuantizedBlock, stage: str) -> Int:
        y = self.normalised()
        q = self.record(f"{stage}.q", saturate(_linear(block.q, y), 8))
        k, v = (self.record(f"{stage}.{name}", saturate(_linear(layer, y), 8, symmetric=True))
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
        out = saturate(requantise(matmul(e, self.heads(v)), m[..., None], s[..., None]), 8)
        return self.record(f"{stage}.attention", out.transpose(1, 0, 2).reshape(q.shape))

    def block(self, i: int) -> None:
        blocks = self.qvit.blocks
        block, stage = blocks[i], f"block{i}"
        self.add(block.projection, self.attention(block, stage), f"{stage}.residual1",
                 block.norm2, f"{stage}.norm2")
        x = saturate(_linear(block.mlp1, self.normalised()), LANE_X_BITS)
        hidden = self.record(f"{stage}.hidden", gelu_int(block.gelu, x))
        following = ((blocks[i + 1].norm1, f"block{i + 1}.norm1") if i + 1 < len(blocks)
                     else (self.qvit.head_norm, "head.norm"))
        self.add(block.mlp2, hidden, f"{stage}.residual2", *following)

    def embed(self, frame: NDArray[np.uint8]) -> None:
        rows = patches(self.qvit, frame)
        rows = np.pad(rows, ((self.qvit.model.special_tokens, 0), (0, 0)))
        self.add(self.qvit.patch, rows, "embed.residual", self.qvit.blocks[0].norm1,
                 "block0.norm1")

    def logits(self) -> Int:
        y = self.normalised()
        logits = np.zeros(self.qvit.model.classes, np.int64)
        for row, head in enumerate(self.qvit.heads):
            logits = saturate(logits + _linear(head, y[row]), ACC_BITS)
            if row + 1 < len(self.qvit.heads):
                self.record("logits.cls", logits)
        return self.record("logits", logits)


def run(qvit: QuantizedViT, frame: NDArray[np.uint8]) -> tuple[Int, int, Stages]:
    """Return logits, top class (the first of equals) and all named stages of one frame.

    Parameters
    ----------
    qvit
        The quantised model.
    frame
        Bytes [size, size, 3].
    """
    image = _Run(qvit)
    image.embed(frame)
    for i in range(qvit.model.depth):
        image.block(i)
    logits = image.logits()
    return logits, int(np.argmax(logits)), image.stages
