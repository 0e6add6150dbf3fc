# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.synthetic_selector: the selectors separate empty from crowded pictures."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from golden.images import load_image, normalise
from golden.model import MODELS, FloatViT
from golden.pruning import PrunedViT, PruningConfig
from golden.selector import selector_shapes
from golden.synthetic import synthetic
from golden.synthetic_selector import SKY, composed, darkness, synthetic_selectors


@cache
def vit(name: str, blocks: tuple[int, ...]) -> PrunedViT:
    twin = FloatViT(MODELS[name], synthetic(MODELS[name], 0))
    return PrunedViT(twin, PruningConfig(blocks=blocks), synthetic_selectors(twin, blocks, 0))


def test_pictures() -> None:
    empty, half, full = (composed(96, cover, 1) for cover in (0, 0.5, 1))
    assert (empty == SKY).all()
    cells = [(picture != SKY).any(-1) for picture in (half, full)]
    assert 0.4 < cells[0].mean() < 0.6 and cells[1].mean() > 0.98
    assert np.array_equal(half, composed(96, 0.5, 1))
    assert not np.array_equal(half, composed(96, 0.5, 2))
    assert (half.shape, half.dtype) == ((96, 96, 3), np.uint8)
    with pytest.raises(ValueError, match="^cover is 1.5, must be between 0 and 1$"):
        composed(96, 1.5, 0)


def test_darkness() -> None:
    frame = np.full((48, 48, 3), 255, np.uint8)
    frame[16:32, 32:] = 0
    frame[:16, :16] = 140
    assert darkness(MODELS["tiny_test"], frame, 0).reshape(3, 3).tolist() == [
        [1, pytest.approx(-85 / 30), pytest.approx(-85 / 30)],
        [pytest.approx(-85 / 30), pytest.approx(-85 / 30), 3], [pytest.approx(-85 / 30)] * 3]
    assert darkness(MODELS["tiny_test"], frame, 1)[0] < 0, "later selectors ask for more"


def test_the_seed_alone_decides() -> None:
    model = MODELS["tiny_test"]
    twin = FloatViT(model, synthetic(model, 0))
    first, second, other = (synthetic_selectors(twin, (1,), seed)[0] for seed in (0, 0, 1))
    assert {name: tuple(value.shape) for name, value in first.items()} == selector_shapes(model)
    for name, value in first.items():
        assert value.dtype == torch.float32 and value.isfinite().all()
        assert torch.equal(value, second[name]), name
        assert not torch.equal(value, other[name]) or name == "norm.weight", name


@pytest.mark.parametrize(("name", "blocks"), [
    ("small_test", (1,)),
    pytest.param("deit_tiny", (3, 6, 9), marks=pytest.mark.slow),
    pytest.param("deit_small", (3, 6, 9), marks=pytest.mark.slow)])
def test_the_more_there_is_the_more_is_kept(name: str, blocks: tuple[int, ...]) -> None:
    network, model = vit(name, blocks), MODELS[name]
    # Of other seeds than those that the selectors were fitted to.
    steps = [network.run(normalise(composed(model.image_size, i / 7, 500 + i))).steps
             for i in range(8)]
    for i in range(len(blocks)):
        counts = [len(step[i].kept) for step in steps]
        assert counts[0] == 0, "nothing where nothing is"
        assert len(set(counts)) >= 6, counts
        assert counts[-1] > 0.5 * model.grid ** 2, counts
        assert all(b > a - 0.1 * model.grid ** 2 for a, b in zip(counts, counts[1:], strict=False)
                   ), counts


@pytest.mark.slow
def test_page_has_the_counts() -> None:
    page = Path(__file__).parent.parent / "docs" / "pruning.md"
    table = page.read_text(encoding="utf-8").split("| i |")[1].split("\n\n")[0]
    rows = [[int(cell) for cell in line.split("|")[1:-1]] for line in table.split("\n")[2:]]
    assert [row[0] for row in rows] == list(range(8))
    network = vit("deit_tiny", (3, 6, 9))
    for i, *counts in rows:
        steps = network.run(normalise(composed(224, i / 7, 500 + i))).steps
        # Another machine adds in another order: a score next to 1/2 may be on its other side.
        assert [len(step.kept) for step in steps] == pytest.approx(counts, abs=2), i


def test_the_two_photographs_differ(tmp_path: Path) -> None:
    path = tmp_path / "flower.png"
    Image.fromarray(load_sample_image("flower.jpg")).save(path)
    network = vit("small_test", (1,))
    photographs = [load_image(file, 96) for file in (None, path)]
    counts = [len(network.run(normalise(photograph)).steps[0].kept) for photograph in photographs]
    assert counts[0] != counts[1] and 0 < min(counts) < 36, counts


def test_scores_reach_both_ends() -> None:
    stages = vit("small_test", (1,)).forward_stages(normalise(composed(96, 0.5, 7)))
    score = stages["selector0.score"]
    assert score.min() < 0.2 and score.max() > 0.8
    assert stages["selector0.importance"].std() > 0.01
