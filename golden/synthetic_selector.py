# SPDX-License-Identifier: BSD-2-Clause
"""Selectors where there are no trained ones, and pictures between empty and crowded.

The selectors are seeded random numbers but for two linear fits, of the embedding and of the last
layer: they keep the dark patches, and each selector asks for darker ones than the one before. On
pictures of :func:`composed` they keep nothing where nothing is, and the more the more there is.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from golden.images import load_image, normalise
from golden.model import FloatViT, ModelConfig
from golden.selector import ThresholdSelector, selector_shapes

__all__ = ["SKY", "composed", "darkness", "synthetic_selectors"]

#: Colour where a composed picture is empty.
SKY = (206, 218, 232)

#: Cells along one side of a composed picture, and pixels of the photograph along one of a cell.
_CELLS = 7
_CROP = 48

#: Covered parts of the composed pictures that the fits are for.
_COVERS = (0.0, 0.33, 0.66, 1.0)

#: Mean pixel below which the first selector keeps a patch, and its factor for each one after.
_LEVEL = 170
_LEVEL_STEP = 0.77
#: Pixels that are one unit of darkness, and the limit of darkness in the fits.
_UNIT = 30
_LIMIT = 3

#: What the fitted and the random part of the embedding weigh, and the gain of the last layer.
_FITTED = 1.5
_RANDOM = 0.7
_GAIN = 1.5
#: Ridge of the two fits.
_RIDGES = (1e-2, 1e-3)


def composed(size: int, cover: float, seed: int) -> NDArray[np.uint8]:
    """Return a picture [size, size, 3] of sky, of which the part ``cover`` is filled.

    Of its 7 x 7 cells that many show pieces of the lower halves of the two sample photographs.
    """
    if not 0 <= cover <= 1:
        raise ValueError(f"cover is {cover}, must be between 0 and 1")
    generator = np.random.default_rng(seed)
    photographs = load_sample_images().images
    picture = np.empty((size, size, 3), np.uint8)
    picture[:] = SKY
    edges = [i * size // _CELLS for i in range(_CELLS + 1)]
    for cell in generator.permutation(_CELLS ** 2)[:round(cover * _CELLS ** 2)]:
        row, column = divmod(int(cell), _CELLS)
        photograph = photographs[generator.integers(len(photographs))]
        height, width, _ = photograph.shape
        top = generator.integers(height // 2, height - _CROP)
        left = generator.integers(width - _CROP)
        rows, columns = slice(*edges[row:row + 2]), slice(*edges[column:column + 2])
        piece = Image.fromarray(photograph[top:top + _CROP, left:left + _CROP]).resize(
            (columns.stop - columns.start, rows.stop - rows.start))
        picture[rows, columns] = np.asarray(piece)
    return picture


def darkness(model: ModelConfig, frame: NDArray[np.uint8], selector: int) -> Tensor:
    """Return what the selector of this number is fitted to, of each patch of ``frame``.

    It is positive where the patch is to stay, and between -3 and 3.
    """
    patches = frame.reshape(model.grid, model.patch, model.grid, model.patch, -1)
    level = _LEVEL * _LEVEL_STEP ** selector
    dark = (level - patches.mean((1, 3, 4)).reshape(-1)) / _UNIT
    return torch.from_numpy(dark.clip(-_LIMIT, _LIMIT))


def _fit(inputs: Tensor, target: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Return weights and bias for which inputs @ weights + bias is nearest to ``target``."""
    mean, level = inputs.mean(0), target.mean()
    centred = inputs - mean
    penalty = ridge * len(inputs) * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    weights = torch.linalg.solve(centred.T @ centred + penalty, centred.T @ (target - level))
    return weights, level - mean @ weights


def _selector(model: ModelConfig, seed: int, index: int, tokens: Sequence[Tensor],
              target: Tensor) -> dict[str, Tensor]:
    """Return the parameters of one selector, fitted to the ``target`` of patches ``tokens``."""
    generator = np.random.default_rng((seed, index))

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(generator.standard_normal(shape))

    state = {name: 2 ** 0.5 * shape[1] ** -0.5 * normal(*shape) if len(shape) == 2
             else 0.1 * normal(*shape) for name, shape in selector_shapes(model).items()}
    state["norm.weight"] += 1
    target = target[:, None].expand(-1, model.heads).flatten()

    inputs = torch.cat([ThresholdSelector(model, state).normalise(x) for x in tokens])
    fitted, _ = _fit(inputs.flatten(0, 1), target, _RIDGES[0])
    d = model.head_size
    state["embed.weight"] = (_FITTED * normal(d, 1) * fitted / fitted.norm()
                             + _RANDOM * d ** -0.5 * normal(d, d))
    features = torch.cat([ThresholdSelector(model, state).features(x) for x in tokens])
    weights, bias = _fit(features.flatten(0, 1), target, _RIDGES[1])
    # The softmax of two logits is the sigmoid of their difference.
    state["score3.weight"] = _GAIN / 2 * torch.stack([weights, -weights])
    state["score3.bias"] = _GAIN / 2 * torch.stack([bias, -bias])
    return {name: value.to(torch.float32) for name, value in state.items()}


@torch.no_grad()
def synthetic_selectors(twin: FloatViT, blocks: Sequence[int],
                        seed: int) -> list[dict[str, Tensor]]:
    """Return parameters of a threshold selector before each of ``blocks`` of ``twin``.

    They are the same for the same network, blocks and seed, up to the rounding of the machine.
    """
    model = twin.model
    photograph = load_image(None, model.image_size)
    frames = [photograph, np.ascontiguousarray(photograph[:, ::-1]),
              *(composed(model.image_size, cover, seed + i) for i, cover in enumerate(_COVERS))]
    tokens: list[list[Tensor]] = [[] for _ in blocks]
    for frame in frames:
        stages = twin.forward_stages(normalise(frame))
        for kept, block in zip(tokens, blocks, strict=True):
            kept.append(stages[f"block{block - 1}.residual2"][model.special_tokens:].double())
    return [_selector(model, seed, i, x, torch.cat([darkness(model, f, i) for f in frames]))
            for i, x in enumerate(tokens)]
