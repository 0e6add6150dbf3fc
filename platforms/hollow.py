# SPDX-License-Identifier: BSD-2-Clause
"""Networks without weights, for whatever depends on nothing but their sizes."""

import numpy as np

from golden.layers import Linear, Norm, Scale
from golden.model import ModelConfig
from golden.pruning import PruningConfig
from golden.quantize import QuantizedBlock, QuantizedViT, patch_bytes
from golden.quantize_selector import QuantizedClassifier

__all__ = ["hollow"]

_SCALE = Scale(m=1 << 16, s=17)
#: Fraction bits of the scores of ``topk``: as many as a shift of them allows.
_SCORE_FRAC = 16


def _linear(outputs: int, inputs: int) -> Linear:
    return Linear(weight=np.zeros((outputs, inputs), np.int8), bias=np.zeros(outputs, np.int64),
                  m=np.full(outputs, _SCALE.m, np.int64), s=np.full(outputs, _SCALE.s, np.int64))


def _table(rows: int) -> np.ndarray:
    return np.zeros((rows, 3), np.int64)


def _classifier(model: ModelConfig) -> QuantizedClassifier:
    size, middle = model.head_size, max(1, model.heads // 2)
    norm = Norm(channels=size, mean=_SCALE, scale=_SCALE, epsilon=0)
    return QuantizedClassifier(
        norm=norm, local=_linear(size // 2, size), global_=_linear(size // 2, size),
        importance_scale=_SCALE, importance1=_linear(middle, model.width), mean=_SCALE,
        score1=_linear(size // 2, size), score2=_linear(size // 4, size // 2),
        importance2=_linear(model.heads, middle), score3=_linear(1, size // 4),
        gelu=_table(34), sigmoid=_table(34))


def hollow(model: ModelConfig, pruning: PruningConfig | None = None) -> QuantizedViT:
    """Return a network with the sizes of ``model`` and zeros for weights.

    Its program has the same passes, tiles and bytes as that of any other one of these sizes.
    """
    if pruning is not None:
        pruning.check(model)
    selector = "none" if pruning is None else pruning.selector
    width = model.width
    norm = Norm(channels=width, mean=_SCALE, scale=_SCALE, epsilon=0)
    square = _linear(width, width)
    block = QuantizedBlock(
        norm1=norm, q=square, k=square, v=square, score=_SCALE, exp=_SCALE, value=_SCALE,
        projection=square, norm2=norm, mlp1=_linear(model.hidden, width), gelu=_table(34),
        mlp2=_linear(width, model.hidden))
    return QuantizedViT(
        model=model, weights="none", initial=np.zeros((model.tokens, width), np.int16),
        patch=_linear(width, patch_bytes(model)), blocks=(block,) * model.depth, head_norm=norm,
        heads=(_linear(model.classes, width),) * model.special_tokens, exp=_table(8),
        reciprocal=_table(16), rsqrt=_table(32), steps={"logits": 1.0},
        pruning=pruning if selector != "none" else None,
        classifiers=((_classifier(model),) * len(pruning.active)
                     if pruning is not None and selector == "threshold" else ()),
        score_frac=_SCORE_FRAC if selector == "topk" else 0)
