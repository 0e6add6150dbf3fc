# SPDX-License-Identifier: BSD-2-Clause
"""The integer twin on batches of images, with gradients: :mod:`golden.integer`, with masks."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from golden.fixed import Int
from golden.functions import exponential, gelu_int, gelu_raw, reciprocal
from golden.integer_batch_selector import class_scores, package_batch
from golden.integer_functions import (
    Attention,
    Layer,
    Lookup,
    attend,
    factor,
    integers,
    limits,
    linear,
    look_up,
    normalise,
    rescale,
    scores,
)
from golden.integer_selector import threshold_score
from golden.layers import Linear, Norm
from golden.quantize import QuantizedViT
from golden.trainable_pruning import (
    keep_top_batch,
    noisy_decision,
    replace_dropped,
    straight_through,
)
from rtl.config import BLOCK
from rtl.isa import (
    ACC_BITS,
    LANE_FRAC,
    LANE_LAYOUT_ROWS,
    LANE_T,
    LANE_X_BITS,
    MEAN_FRAC,
    SCORE_BITS,
)

__all__ = ["Answers", "BatchOutput", "BatchViT", "Tables", "answers", "lookup"]

_ACT = limits(8)
_OPERAND = limits(8, symmetric=True)
_LANE = limits(LANE_X_BITS)
_RESIDUAL = limits(16)
_LOGIT = limits(ACC_BITS)
#: Exponentials of 8 bits stand for 1 at 255.
_ONE = 255


def lookup(table: Int, device: torch.device) -> Lookup:
    """Return the function of a lane: of every input, and the slope of its polynomial."""
    x = np.arange(*(limits(LANE_X_BITS) + np.array([0, 1])))
    value = gelu_int(table, x)
    half = LANE_LAYOUT_ROWS["gelu"][1] // 2 << LANE_T
    inside = (x >= -half) & (x < half)
    row = np.where(inside, (x + half) >> LANE_T, np.where(
        x < 0, LANE_LAYOUT_ROWS["gelu_low"][0], LANE_LAYOUT_ROWS["gelu_high"][0]))
    t = np.where(inside, (x + half) % (1 << LANE_T), 0)
    slope = (table[row, 1] + table[row, 2] * t * 2.0 ** (1 - LANE_T)) * 2.0 ** -(LANE_T + LANE_FRAC)
    # A sigmoid, which reaches 128, has a slope everywhere.
    slope[np.abs(gelu_raw(table, x)) > 128 << LANE_FRAC] = 0
    return Lookup(value=torch.from_numpy(value).to(device, torch.float32),
                  slope=torch.from_numpy(slope).to(device, torch.float32))


class Tables:
    """The functions of a network as tables of all their inputs: those hang on its steps only.

    Parameters
    ----------
    qvit
        The network.
    device
        Where the tensors are.
    """

    def __init__(self, qvit: QuantizedViT, device: torch.device) -> None:
        self.device = device
        scores = -np.arange(1 << 16)
        top = np.zeros_like(scores)
        self.exp = [torch.from_numpy(exponential(
            qvit.exp, scores, top, block.exp.m, block.exp.s)).to(device, torch.float32)
            for block in qvit.blocks]
        self.gelu = [lookup(block.gelu, device) for block in qvit.blocks]
        self.selector_gelu = [lookup(layers.gelu, device) for layers in qvit.classifiers]
        self.sigmoid = [lookup(layers.sigmoid, device) for layers in qvit.classifiers]


@contextmanager
def _quick_products(device: torch.device) -> Iterator[None]:
    """Let a processor that has bfloat16 use it for products of float32.

    That is exact: what is multiplied are integers of 8 bits, which bfloat16 has, and sums are in
    float32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if device.type == "cpu" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class BatchOutput(NamedTuple):
    """What a network says of a batch.

    Members
    -------
    logits
        Integers, in float64 [batch, classes].
    features
        All tokens after the last LayerNorm, also those that were dropped, integers [batch, tokens,
        channels].
    keeps
        For each selector, which patches are left: 1 or 0 [batch, patches].
    tokens
        For each segment of blocks, the tokens that are left [batch].
    """

    logits: Tensor
    features: Tensor
    keeps: tuple[Tensor, ...]
    tokens: tuple[Tensor, ...]


class BatchViT:
    """A quantised network on batches: the integers are those that :func:`golden.integer.run` has.

    Tensors keep their shape, as in :class:`golden.trainable_pruning.TrainablePrunedViT`: a dropped
    patch stays in its place, and nothing attends to it but itself.

    Parameters
    ----------
    qvit
        The network.
    tables
        Its tables, or those of another network with the same steps.
    real
        What the layers are the rounding of, as :class:`golden.quantize.Quantizer` says, for
        gradients.
    precision
        Of the products of matrices for gradients.
    """

    def __init__(self, qvit: QuantizedViT, tables: Tables,
                 real: Mapping[str, tuple[Tensor, Tensor | None]] | None = None,
                 precision: torch.dtype = torch.float32) -> None:
        self.model = qvit.model
        self._qvit, self._tables, self._precision = qvit, tables, precision
        self._layers: dict[str, Layer] = {}
        self._real = {} if real is None else {name: tuple(
            None if x is None else x.float() for x in pair) for name, pair in real.items()}
        initial = torch.from_numpy(qvit.initial.astype(np.float32)).to(tables.device)
        special = qvit.model.special_tokens
        patch = self._layer(qvit.patch, "embed.residual", largest=255)
        # The patch pass adds its bias to the rows of special tokens.
        initial[:special] += patch.bias.floor().clamp(*_LANE).float()
        self._initial = initial.clamp(*_RESIDUAL)
        if "initial" in self._real:
            tokens = self._real["initial"][0]
            assert tokens is not None
            self._initial = straight_through(self._initial, tokens)
        self._patch = patch

    def _layer(self, layer: Linear, name: str, largest: int = 128) -> Layer:
        if name not in self._layers:
            weight, bias = self._real.get(name, (None, None))
            self._layers[name] = Layer.of(layer, self._tables.device, largest=largest,
                                          real=(weight, bias), precision=self._precision)
        return self._layers[name]

    def _normalise(self, x: Tensor, norm: Norm) -> Tensor:
        return normalise(x, norm, self._qvit.rsqrt)

    def __call__(self, frames: Tensor, noise: Tensor | None = None,
                 choose: Tensor | None = None) -> BatchOutput:
        """Return what the network says of ``frames``, bytes in any type [batch, size, size, 3].

        ``noise`` and ``choose`` are as the noise and the scores of
        :class:`golden.trainable_pruning.TrainablePrunedViT`.
        """
        with _quick_products(self._tables.device):
            return self._forward(frames, noise, choose)

    def _forward(self, frames: Tensor, noise: Tensor | None,
                 choose: Tensor | None) -> BatchOutput:
        model, pruning = self._qvit.model, self._qvit.pruning
        x = self._embed(frames)
        first, end = model.special_tokens, model.tokens
        present = x.new_ones(x.shape[:2])
        weights, attention = x.new_empty(len(x), 0), present
        keeps: list[Tensor] = []
        tokens = [present.sum(1)]
        for i in range(model.depth):
            if pruning is not None and i in pruning.active:
                x, present, weights = self._select(
                    len(keeps), x, present, weights, attention,
                    None if noise is None else noise[len(keeps)], choose)
                keeps.append(present[:, first:end])
                tokens.append(present.detach().sum(1))
            x, attention = self._block(i, x, present if keeps else None)
        y = self._normalise(x, self._qvit.head_norm)
        logits = torch.zeros((), dtype=torch.float64, device=x.device)
        for row, (head, name) in enumerate(zip(self._qvit.heads, ("head", "head_dist"),
                                               strict=False)):
            logits = (logits + linear(self._layer(head, name), y[:, row], *_LOGIT)).clamp(*_LOGIT)
        return BatchOutput(logits, y, tuple(keeps), tuple(tokens))

    def _embed(self, frames: Tensor) -> Tensor:
        m = self._qvit.model
        shape = (m.image_size, m.image_size, m.channels)
        if tuple(frames.shape[1:]) != shape:
            raise ValueError(f"frames are {tuple(frames.shape[1:])}, must be {shape}")
        rows = frames.float().reshape(-1, m.grid, m.patch, m.grid, m.patch * m.channels)
        rows = functional.pad(rows.transpose(2, 3), (0, -rows.shape[4] % BLOCK)).flatten(3)
        patches = linear(self._patch, rows.flatten(1, 2), *_LANE)
        special, positions = self._initial.split([m.special_tokens, m.grid ** 2])
        return torch.cat([special.expand(len(frames), -1, -1),
                          (positions + patches).clamp(*_RESIDUAL)], 1)

    def _block(self, i: int, x: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the residual after a block, and the scores of ``topk`` if they come next."""
        qvit, block, stage = self._qvit, self._qvit.blocks[i], f"block{i}"
        heads = qvit.model.heads

        def split(layer: Linear, name: str, low: int, high: int) -> Tensor:
            part = linear(self._layer(layer, f"{stage}.{name}"), y, low, high)
            return part.unflatten(-1, (heads, -1)).transpose(1, 2)

        y = self._normalise(x, block.norm1)
        q = split(block.q, "q", *_ACT)
        k, v = split(block.k, "k", *_OPERAND), split(block.v, "v", *_OPERAND)
        dots = scores(q, k, block.score, self._precision)
        out, attention, top, total = attend(dots, v, present, Attention(
            exp=self._tables.exp[i], reciprocal=qvit.reciprocal, value=block.value,
            gain=block.value.m * 2.0 ** (17 - block.value.s),
            score_step=block.exp.m * 2.0 ** -(block.exp.s + 5) * math.log(2),
            precision=self._precision))
        if qvit.pruning is not None and qvit.pruning.selector == "topk" and (
                i + 1 in qvit.pruning.active):
            hard = class_scores(qvit.exp, qvit.reciprocal, integers(dots[:, :, 0]),
                                integers(top)[..., 0], integers(total)[..., 0], block.exp,
                                qvit.score_frac)
            attention = straight_through(torch.from_numpy(hard).to(x.device),
                                         attention * 2.0 ** qvit.score_frac)
        x = self._add(x, block.projection, f"{stage}.residual1", out.transpose(1, 2).flatten(2))
        y = linear(self._layer(block.mlp1, f"{stage}.hidden"), self._normalise(x, block.norm2),
                   *_LANE)
        hidden = look_up(self._tables.gelu[i], y)
        return self._add(x, block.mlp2, f"{stage}.residual2", hidden), attention

    def _add(self, x: Tensor, layer: Linear, name: str, y: Tensor) -> Tensor:
        return (x + linear(self._layer(layer, name), y, *_LANE)).clamp(*_RESIDUAL)

    def _select(self, index: int, x: Tensor, present: Tensor, weights: Tensor, attention: Tensor,
                noise: Tensor | None,
                choose: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Apply a selector: return all tokens, which are left, and the weights of packages."""
        pruning, model, table = self._qvit.pruning, self._qvit.model, self._qvit.reciprocal
        assert pruning is not None
        patches = slice(model.special_tokens, model.tokens)
        left = present[:, patches]
        if pruning.selector == "topk":
            score = attention[:, patches]
            keep = keep_top_batch(score if choose is None else choose, left,
                                  pruning.keep_counts(model.grid ** 2)[index])
        else:
            weighted, importance = (part[:, patches] for part in self._classify(index, x, present))
            hard = torch.from_numpy(threshold_score(
                table, integers(weighted), integers(importance))).to(x.device)
            soft = weighted / (128 * importance.clamp(min=1))
            keep = left * (straight_through(weighted >= 64 * importance, soft) if noise is None
                           else noisy_decision(soft, noise))
            score = straight_through(hard, soft * (1 << SCORE_BITS))
        return replace_dropped(
            x, present, weights, score.clamp(min=1), keep, first=patches.start,
            merged=pruning.package == "merged",
            package=lambda *given: package_batch(table, *given))

    def _classify(self, index: int, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return A and B of all tokens [batch, tokens]."""
        qvit, layers = self._qvit, self._qvit.classifiers[index]
        special = qvit.model.special_tokens

        def layer(name: str, y: Tensor) -> Tensor:
            made = self._layer(getattr(layers, f"{name}_" if name == "global" else name),
                               f"selector{index}.{name}")
            table = self._tables.sigmoid if name in ("importance2", "score3") else (
                self._tables.selector_gelu)
            return look_up(table[index], linear(made, y, *_LANE))

        scale = layers.importance_scale
        pooled = rescale(x, factor(scale.m << MEAN_FRAC, scale.s, x), *_ACT)
        heads = x.unflatten(-1, (qvit.model.heads, -1))
        y = self._normalise(heads, layers.norm)
        local, rest = layer("local", y), layer("global", y).clamp(min=_OPERAND[0])

        there = torch.cat([torch.zeros_like(present[:, :special]), present[:, special:]], 1)
        count = there.sum(1)[:, None, None]
        total = (rest * there[:, :, None, None]).sum(1)
        m, s = reciprocal(qvit.reciprocal, _ONE * integers(count), layers.mean.m, layers.mean.s)
        mean = straight_through(
            rescale(total.detach(), factor(_ONE * m, s, x), *_ACT), total / count)
        score1 = layer("score1", torch.cat([local, mean[:, None].expand_as(local)], -1))
        score = layer("score3", layer("score2", score1))[..., 0]
        importance = layer("importance2", layer("importance1", pooled))
        return (importance * score).sum(-1), importance.sum(-1)


class Answers(NamedTuple):
    """What a network says of images: logits, top class, and of each selector what is left.

    Members
    -------
    logits
        [images, classes].
    top
        The first of the largest logits [images].
    tokens
        For each segment of blocks, the tokens [images, segments].
    keeps
        For each selector, which patches are left [selectors, images, patches].
    """

    logits: Int
    top: Int
    tokens: Int
    keeps: NDArray[np.bool_]


@torch.no_grad()
def answers(network: BatchViT, frames: NDArray[np.uint8]) -> Answers:
    """Return what :func:`golden.integer.run` says of each of ``frames`` [images, size, size, 3]."""
    output = network(torch.from_numpy(frames))
    logits = integers(output.logits)
    keeps = np.zeros((len(output.keeps), len(frames), network.model.grid ** 2), np.bool_)
    for index, keep in enumerate(output.keeps):
        keeps[index] = keep.bool().cpu().numpy()
    return Answers(logits, logits.argmax(1), integers(torch.stack(output.tokens, 1)),
                   keeps)
