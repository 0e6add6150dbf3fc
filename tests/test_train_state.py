# SPDX-License-Identifier: BSD-2-Clause
"""The file that a training is resumed from: it is whole, and refused where it does not fit."""

from dataclasses import asdict

import pytest
import torch

from golden.model import MODELS
from golden.train_config import Stage, TrainConfig, TrainError
from golden.train_state import read_state, write_state

CONFIG = TrainConfig(model=MODELS["scenes"], stages=(
    Stage(name="dense", size=120, steps=2, batch=2, rate=1e-3),))

STATE = {"config": asdict(CONFIG), "processes": 1, "stage": 0, "step": 1, "seconds": 1.5,
         "cpu_seconds": 1.0, "network": {"a": torch.zeros(2)}, "steps": None, "searches": {},
         "optimiser": None}


def test_reads_what_was_written(tmp_path):
    path = tmp_path / "state.pt"
    assert read_state(path, CONFIG, 1) is None
    write_state(path, STATE)
    found = read_state(path, CONFIG, 1)
    assert found["network"]["a"].equal(STATE["network"]["a"])
    assert {**found, "network": None} == {**STATE, "network": None}
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"


@pytest.mark.parametrize("content", [[1], {}, {"config": {}}, {**STATE, "config": 3}])
def test_content_of_something_else(content, tmp_path):
    path = tmp_path / "state.pt"
    torch.save(content, path)
    with pytest.raises(TrainError, match="state.pt is truncated or corrupt: delete it"):
        read_state(path, CONFIG, 1)


def test_entries(tmp_path):
    path = tmp_path / "state.pt"
    write_state(path, {"config": STATE["config"], "step": 1})
    with pytest.raises(TrainError, match="state.pt has config, step, must have config, cpu_second"):
        read_state(path, CONFIG, 1)


def test_processes(tmp_path):
    path = tmp_path / "state.pt"
    write_state(path, STATE)
    with pytest.raises(TrainError, match="holds a training of 1 processes, must be resumed with as"
                                         " many, not 2"):
        read_state(path, CONFIG, 2)
