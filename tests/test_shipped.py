# SPDX-License-Identifier: BSD-2-Clause
"""The network that comes with the project: its size, and what it says of test scenes."""

from pathlib import Path

from golden import integer
from golden.lower import lower
from golden.model import MODELS
from golden.packed import load
from golden.scenes import fixed_set
from rtl.config import named

SCENES = Path(__file__).parent.parent / "models" / "scenes" / "scenes.hv"


def test_scenes_fits_its_bound_and_the_smallest_configuration() -> None:
    assert SCENES.stat().st_size <= 350_000
    qvit = load(SCENES)
    assert qvit.model == MODELS["scenes"]
    assert lower(qvit, named("tiny")).tokens == 101


def test_scenes_names_the_digit() -> None:
    qvit, scenes = load(SCENES), fixed_set("test", 40)
    right = sum(integer.run(qvit, scenes.rgb(i))[1] == int(label)
                for i, label in enumerate(scenes.labels))
    assert right >= 37, f"{right} of 40 are right, 97.85 % of 4,000 were"
