# SPDX-License-Identifier: BSD-2-Clause
"""What a training learns from, and what its accuracy is measured on."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from golden.images import MEAN, STD
from golden.model import ModelConfig
from golden.scenes import CLASSES, SceneSettings, SceneSource, fixed_set
from golden.train_config import TrainError

__all__ = ["Batch", "SceneData", "grey_images", "window_places"]

#: Images of one step of a measurement.
_CHUNK = 250

#: Seed of the random numbers by which patches stay in a measurement.
_SEED = 2022


@dataclass(frozen=True, eq=False)
class Batch:
    """Images for one step.

    Members
    -------
    images
        Normalised [batch, channels, side, side].
    labels
        Class of each.
    places
        Of windows, where in the image each patch is [batch, patches]; None for whole images.
    scores
        Of stages where not the network decides, those with the largest stay [batch, patches].
    """

    images: Tensor
    labels: Tensor
    places: Tensor | None = None
    scores: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on ``device``."""
        return Batch(self.images.to(device), self.labels.to(device),
                     None if self.places is None else self.places.to(device),
                     None if self.scores is None else self.scores.to(device))


def grey_images(frames: NDArray[np.uint8]) -> Tensor:
    """Return grey frames [batch, size, size] normalised, [batch, 3, size, size].

    Equal to ``golden.images.normalise`` of the frame with three equal colours.
    """
    pixels = torch.from_numpy(frames)[:, None].to(torch.float32) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def window_places(corners: NDArray[np.int64], side: int, grid: int) -> Tensor:
    """Return the places of windows of ``side`` x ``side`` patches in images of ``grid`` x ``grid``.

    ``corners`` [batch, 2] are the row and column of their first patch; the result is [batch,
    side * side].
    """
    inside = np.arange(side)
    rows, columns = (corners[:, i, None] + inside for i in (0, 1))
    return torch.from_numpy((rows[:, :, None] * grid + columns[:, None]).reshape(len(corners), -1))


class SceneData:
    """The scenes of :mod:`golden.scenes`: new ones in every step, of the training digits.

    Parameters
    ----------
    model
        Network that takes them: the size of the images, and of the patches.
    """

    def __init__(self, model: ModelConfig) -> None:
        if (model.classes, model.channels) != (CLASSES, len(MEAN)):
            raise TrainError(f"{model.name} has {model.classes} classes and {model.channels}"
                             f" channels, scenes have {CLASSES} and {len(MEAN)}")
        self.model = model

    def settings(self, size: int) -> SceneSettings:
        """Return what is in scenes of ``size`` pixels: in windows less, by their area.

        A window has no more digits than fit: one for each digit of the largest size in it.
        """
        whole = SceneSettings(size=self.model.image_size)
        part = (size / whole.size) ** 2

        def fewer(most: int) -> int:
            return max(1, round(part * most))

        return SceneSettings(size=size, instances=(1, fewer(whole.instances[1])),
                             strokes=(fewer(whole.strokes[0]), fewer(whole.strokes[1])),
                             digit=whole.digit)

    def batch(self, size: int, count: int, generator: np.random.Generator,
              kind: str = "dense") -> Batch:
        """Return ``count`` images of ``size`` pixels for training in a stage of this ``kind``."""
        scenes = SceneSource("train", self.settings(size)).make(count, generator)
        places = None
        side = size // self.model.patch
        if side < self.model.grid:
            corners = generator.integers(0, self.model.grid - side + 1, (count, 2))
            places = window_places(corners, side, self.model.grid)
        scores = None
        if kind == "random":
            scores = torch.from_numpy(generator.random((count, side * side), np.float32))
        elif kind == "oracle":
            scores = torch.from_numpy(scenes.patch_pixels(self.model.patch)).float()
        return Batch(grey_images(scenes.frames), torch.from_numpy(scenes.labels), places, scores)

    def fixed(self, split: str, size: int, count: int, kind: str = "dense") -> Iterator[Batch]:
        """Yield ``count`` images of ``size`` pixels, of the digits of a split, always the same.

        Windows are in the middle of the image. The random numbers of an image hang on its place in
        the set only.
        """
        scenes = fixed_set(split, count, self.settings(size))
        side = size // self.model.patch
        scores = None
        if kind == "random":
            scores = torch.from_numpy(np.stack([np.random.default_rng([_SEED, i]).random(
                side * side, np.float32) for i in range(count)]))
        elif kind == "oracle":
            scores = torch.from_numpy(scenes.patch_pixels(self.model.patch)).float()
        for i in range(0, count, _CHUNK):
            frames = scenes.frames[i:i + _CHUNK]
            corners = np.full((len(frames), 2), (self.model.grid - side) // 2)
            yield Batch(grey_images(frames), torch.from_numpy(scenes.labels[i:i + _CHUNK]),
                        None if side == self.model.grid
                        else window_places(corners, side, self.model.grid),
                        None if scores is None else scores[i:i + _CHUNK])
