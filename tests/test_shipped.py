# SPDX-License-Identifier: BSD-2-Clause
"""The networks that come with the project: their sizes, and what they say of test scenes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from golden.integer_batch import BatchViT, Tables, answers
from golden.lower import lower
from golden.model import MODELS
from golden.packed import load
from golden.quantize_command import main
from golden.scenes import fixed_set
from rtl.config import named

FOLDER = Path(__file__).parent.parent / "models" / "scenes"
#: Packed models, and the selectors that they have.
MODELS_WITH = {"scenes": None, "scenes_topk": "topk", "scenes_threshold": "threshold"}


@pytest.mark.parametrize("name, selector", MODELS_WITH.items())
def test_fits_its_bound_and_the_smallest_configuration(name: str, selector: str | None) -> None:
    file = FOLDER / f"{name}.hv"
    assert file.stat().st_size <= 350 * 1024
    qvit = load(file)
    assert qvit.model == MODELS["scenes"]
    assert (None if qvit.pruning is None else qvit.pruning.selector) == selector
    assert lower(qvit, named("tiny")).tokens == 101


@pytest.mark.parametrize("name", MODELS_WITH)
def test_names_the_digit(name: str) -> None:
    qvit, scenes = load(FOLDER / f"{name}.hv"), fixed_set("test", 200)
    network = BatchViT(qvit, Tables(qvit, torch.device("cpu")))
    found = answers(network, np.repeat(scenes.frames[..., None], 3, -1)).top
    right = int((found == scenes.labels).sum())
    assert right >= 188, f"{right} of 200 are right, of 4,000 it was 97 %"


@pytest.mark.parametrize("name, weights", [
    ("scenes_topk", "topk_int8"), ("scenes_threshold", "threshold_int8")])
def test_is_made_of_the_weights_beside_it(name: str, weights: str, tmp_path: Path) -> None:
    """In the steps of its training: those of the dense one are calibrated in floating point."""
    made = tmp_path / "model.hv"
    assert main([str(FOLDER / f"{weights}.safetensors"), "--model", "scenes",
                 "-o", str(made)]) == 0
    assert made.read_bytes() == (FOLDER / f"{name}.hv").read_bytes()
