# SPDX-License-Identifier: BSD-2-Clause
"""Scenes as a set of images: those of the fixed set, for networks that take them."""

import numpy as np
import pytest

from golden.model import model_named
from golden.scene_set import scene_set
from golden.scenes import SceneError, fixed_set

SCENES = model_named("scenes")


def test_it_is_the_fixed_one() -> None:
    scenes, expected = scene_set(SCENES, "test", 2), fixed_set("test", 2)
    assert scenes.labels == expected.labels.tolist()
    assert np.array_equal(scenes.frame(1, 120), expected.rgb(1))


def test_faults_are_named() -> None:
    with pytest.raises(SceneError, match="tiny_test has 16 classes, must have the 10 of scenes"):
        scene_set(model_named("tiny_test"), "test", 2)
    with pytest.raises(SceneError, match="number of scenes is 0, must be at least 1"):
        scene_set(SCENES, "test", 0)
    with pytest.raises(SceneError, match="scenes are 120 pixels wide, must be 96"):
        scene_set(SCENES, "test", 1).frame(0, 96)
