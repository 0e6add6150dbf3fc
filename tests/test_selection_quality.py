# SPDX-License-Identifier: BSD-2-Clause
"""Measures of selectors, each by a few scenes where it can be counted by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from golden.model import MODELS, FloatViT
from golden.pruning import PrunedViT, PruningConfig, segment_macs, segment_tokens
from golden.scenes import Scenes, fixed_set
from golden.selection_quality import rank_correlation, selection_quality
from golden.synthetic import synthetic
from golden.train_data import grey_images

SCENES = MODELS["scenes"]
TWO = PruningConfig(selector="topk", blocks=(2, 4), rates=(0.5, 0.25))


def scenes(held):
    """Return scenes whose patches hold digits where ``held`` [scenes, 100] is 1."""
    digits = held.reshape(-1, 10, 10).repeat(12, 1).repeat(12, 2).astype(bool)
    count = len(held)
    return Scenes(np.zeros((count, 120, 120), np.uint8), np.zeros(count, np.int64),
                  np.arange(1, count + 1), digits)


def first(*counts):
    """Return the mask of the first so many patches, for each scene."""
    return np.arange(100) < np.array(counts)[:, None]


def test_rank_correlation():
    a = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    assert rank_correlation(a, np.exp(a)) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, np.ones(8)) is None
    # Ranks 1, 2.5, 2.5, 4 and 2, 1, 3.5, 3.5: with the means 2.5 gone, (0.75 + 1.5) / 4.5.
    found = rank_correlation(np.array([0, 7, 7, 8]), np.array([2, 1, 3, 3]))
    assert found == pytest.approx(0.5)
    # Without equal ones it is 1 - 6 sum d^2 / (n (n^2 - 1)).
    found = rank_correlation(np.array([10, 20, 30, 40, 50]), np.array([3, 1, 2, 5, 4]))
    assert found == pytest.approx(1 - 6 * (4 + 1 + 1 + 1 + 1) / (5 * 24))


def test_recall_and_kept_part():
    images = scenes(first(16, 8, 4))
    keeps = np.stack([first(32, 4, 100), first(8, 2, 100)], 1)
    found = selection_quality(keeps, images, SCENES, TWO)
    assert [selector.block for selector in found.selectors] == [2, 4]
    assert [selector.recall for selector in found.selectors] == pytest.approx(
        [(16 + 4 + 4) / 28, (8 + 2 + 4) / 28])
    assert [selector.random for selector in found.selectors] == pytest.approx(
        [(32 * 16 + 4 * 8 + 100 * 4) / 2800, (8 * 16 + 2 * 8 + 100 * 4) / 2800])
    assert [selector.oracle for selector in found.selectors] == pytest.approx(
        [(16 + 4 + 4) / 28, (8 + 2 + 4) / 28])
    assert [selector.kept.part for selector in found.selectors] == pytest.approx(
        [136 / 300, 110 / 300])
    assert found.mean.part == pytest.approx(123 / 300)


def test_oracle_keeps_digits_first():
    """Of other patches than those with digits, as many."""
    keeps = np.stack([~first(90, 60), ~first(96, 98)], 1)
    found = selection_quality(keeps, scenes(first(16, 8)), SCENES, TWO)
    assert [selector.recall for selector in found.selectors] == [0, 0]
    assert [selector.oracle for selector in found.selectors] == pytest.approx(
        [(10 + 8) / 24, (4 + 2) / 24])


def test_correlations_and_percentiles():
    counts = np.arange(10, 50, 2)
    keeps = np.stack([first(*counts), first(*([5] * 20))], 1)
    found = selection_quality(keeps, scenes(first(*counts[::-1])), SCENES, TWO)
    one, two = (selector.kept for selector in found.selectors)
    # More digits in every scene, in fewer patches.
    assert (one.by_digits, one.by_patches) == pytest.approx((1, -1))
    assert (one.low, one.high) == pytest.approx((11.9, 46.1))
    assert one.spread == pytest.approx(46.1 / 11.9)
    assert (two.by_digits, two.by_patches, two.low, two.high, two.spread) == (None, None, 5, 5, 1)
    assert found.mean.by_digits == pytest.approx(1)
    assert replace(two, low=0.0).spread is None


@pytest.mark.parametrize("package", ["each", "merged"])
def test_tokens_and_macs_are_those_of_the_float_twin(package):
    """Also where a selector drops nothing: there it adds no package token."""
    pruning = PruningConfig(selector="topk", blocks=(1, 2, 4), counts=(100, 40, 10),
                            package=package)
    vit = PrunedViT(FloatViT(SCENES, synthetic(SCENES, 0)), pruning)
    images = fixed_set("train", 2)
    runs = [vit.run(image) for image in grey_images(images.frames)]
    keeps = np.zeros((2, 3, 100), bool)
    for i, run in enumerate(runs):
        for j, step in enumerate(run.steps):
            keeps[i, j, list(step.kept)] = True
    tokens = [[101, *(step.tokens_out for step in run.steps)] for run in runs]
    assert segment_tokens(SCENES, package, keeps.sum(2)).tolist() == tokens
    macs = [sum(segment_macs(SCENES, pruning, counts)) for counts in tokens]
    found = selection_quality(keeps, images, SCENES, pruning)
    assert found.macs == pytest.approx(np.mean(macs) / SCENES.macs())
    assert found.macs < 0.8


def test_all_kept_is_the_dense_network():
    keeps = np.ones((4, 2, 100), bool)
    found = selection_quality(keeps, scenes(first(4, 4, 4, 4)), SCENES, TWO)
    assert found.macs == 1
    assert [selector.recall for selector in found.selectors] == [1, 1]


def test_json():
    keeps = np.stack([first(32, 4), first(8, 0)], 1)
    found = selection_quality(keeps, scenes(first(16, 8)), SCENES, TWO).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        **found, "selectors": list(found["selectors"])}
    assert found["mean"]["spread"] > 1 and found["selectors"][0]["kept"]["spread"] > 1


def test_masks_must_fit():
    with pytest.raises(ValueError, match=r"masks of patches are \(2, 1, 99\), must be \(2, 2, 100"):
        selection_quality(np.ones((2, 1, 99), bool), scenes(first(1, 1)), SCENES, TWO)
    with pytest.raises(ValueError, match="0 patches of 1 scenes hold a digit"):
        selection_quality(np.ones((1, 2, 100), bool), scenes(first(0)), SCENES, TWO)
