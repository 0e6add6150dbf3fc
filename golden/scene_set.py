# SPDX-License-Identifier: BSD-2-Clause
"""Scenes as a set of images with labels, as a folder of images is one."""

import numpy as np
from numpy.typing import NDArray

from golden.model import ModelConfig
from golden.scenes import CLASSES, SceneError, Scenes, SceneSettings, fixed_set

__all__ = ["SceneSet", "scene_set"]


class SceneSet:
    """Scenes as a set of images.

    Parameters
    ----------
    scenes
        The scenes.
    """

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes
        self.labels: list[int] = scenes.labels.tolist()

    def frame(self, index: int, size: int) -> NDArray[np.uint8]:
        """Return a scene, bytes [size, size, 3]."""
        frame = self.scenes.rgb(index)
        if frame.shape[0] != size:
            raise SceneError(f"scenes are {frame.shape[0]} pixels wide, must be {size}")
        return frame


def scene_set(model: ModelConfig, split: str, count: int) -> SceneSet:
    """Return the first ``count`` scenes of a split, of the size that ``model`` takes."""
    if model.classes != CLASSES:
        raise SceneError(f"{model.name} has {model.classes} classes, must have the {CLASSES} of"
                         " scenes")
    if count < 1:
        raise SceneError(f"the number of scenes is {count}, must be at least 1")
    return SceneSet(fixed_set(split, count, SceneSettings(size=model.image_size)))
