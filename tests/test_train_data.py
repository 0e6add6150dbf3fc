# SPDX-License-Identifier: BSD-2-Clause
"""Batches: the numbers that the float twin takes, windows and their places, fixed validation."""

import numpy as np
import pytest
import torch

from golden.images import normalise
from golden.model import MODELS
from golden.scenes import SceneSettings, SceneSource, fixed_set
from golden.train_config import TrainError
from golden.train_data import SceneData, grey_images, window_places

SCENES = MODELS["scenes"]


def test_images_are_what_the_float_twin_takes():
    scenes = fixed_set("train", 3)
    images = grey_images(scenes.frames)
    for i in range(3):
        assert torch.equal(images[i], normalise(scenes.rgb(i)))


def test_places_of_windows():
    places = window_places(np.array([[0, 0], [2, 1], [8, 8]]), 2, 10)
    assert places.tolist() == [[0, 1, 10, 11], [21, 22, 31, 32], [88, 89, 98, 99]]


def test_whole_images_have_no_places():
    batch = SceneData(SCENES).batch(120, 4, np.random.default_rng(0))
    assert batch.places is None
    expected = SceneSource("train").make(4, np.random.default_rng(0))
    assert torch.equal(batch.images, grey_images(expected.frames))
    assert batch.labels.tolist() == expected.labels.tolist()


def test_windows_are_everywhere():
    batch = SceneData(SCENES).batch(48, 200, np.random.default_rng(0))
    assert batch.images.shape == (200, 3, 48, 48)
    assert batch.places.shape == (200, 16)
    rows, columns = batch.places[:, 0] // 10, batch.places[:, 0] % 10
    assert set(rows.tolist()) == set(columns.tolist()) == set(range(7))
    for places in batch.places:
        assert places.tolist() == window_places(
            np.array([[places[0] // 10, places[0] % 10]]), 4, 10)[0].tolist()


def test_windows_have_less_in_them():
    data = SceneData(SCENES)
    assert data.settings(120) == SceneSettings()
    assert data.settings(48) == SceneSettings(size=48, instances=(1, 1), strokes=(1, 2))
    assert data.settings(84) == SceneSettings(size=84, instances=(1, 2), strokes=(2, 5))


def test_validation_is_the_validation_set():
    batches = list(SceneData(SCENES).fixed("validation", 120, 300))
    expected = fixed_set("validation", 300)
    assert [len(batch.labels) for batch in batches] == [250, 50]
    assert all(batch.places is None and batch.scores is None for batch in batches)
    assert torch.equal(torch.cat([batch.images for batch in batches]),
                       grey_images(expected.frames))
    assert torch.cat([batch.labels for batch in batches]).tolist() == expected.labels.tolist()


def test_validation_of_windows_is_in_the_middle():
    batch, = SceneData(SCENES).fixed("validation", 48, 2)
    assert batch.places.tolist() == 2 * [[33, 34, 35, 36, 43, 44, 45, 46, 53, 54, 55, 56,
                                          63, 64, 65, 66]]


def test_scores_of_the_oracle_are_pixels_of_digits():
    batch = SceneData(SCENES).batch(120, 4, np.random.default_rng(0), "oracle")
    scenes = SceneSource("train").make(4, np.random.default_rng(0))
    assert batch.scores.shape == (4, 100) and batch.scores.dtype == torch.float32
    assert batch.scores[1, 12] == scenes.digits[1, 12:24, 24:36].sum()
    assert np.array_equal(batch.scores.sum(1), scenes.digits.sum((1, 2)))
    fixed, = SceneData(SCENES).fixed("test", 120, 3, "oracle")
    assert np.array_equal(fixed.scores, fixed_set("test", 3).patch_pixels(12))


def test_random_scores_are_new_in_every_step_and_fixed_in_measurements():
    data, generator = SceneData(SCENES), np.random.default_rng(0)
    first, second = (data.batch(120, 4, generator, "random").scores for _ in range(2))
    assert first.shape == (4, 100) and 0 <= first.min() and first.max() < 1
    assert not torch.equal(first, second)
    again = data.batch(120, 4, np.random.default_rng(0), "random")
    assert torch.equal(again.scores, first)
    few, = data.fixed("test", 120, 3, "random")
    many = torch.cat([batch.scores for batch in data.fixed("test", 120, 251, "random")])
    assert torch.equal(many[:3], few.scores)
    assert len(torch.unique(many)) > 100 * 250
    moved = few.to(torch.device("cpu"))
    assert torch.equal(moved.scores, few.scores)


def test_model_must_have_the_classes_of_scenes():
    with pytest.raises(TrainError, match="tiny_test has 16 classes and 3 channels, scenes have 10"):
        SceneData(MODELS["tiny_test"])
