# SPDX-License-Identifier: BSD-2-Clause
"""Retraining with other functions, the accuracy of all, and the command."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from golden import approximations, integer
from golden.approximations import Result, main, measured, table
from golden.images import normalise
from golden.model import FloatViT, model_named
from golden.model_file import load_model
from golden.nonlinear import FUNCTIONS
from golden.quantize import quantize
from golden.scenes import SceneSettings, fixed_set
from golden.trainable import TrainableViT


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of a network at the start of its training."""
    monkeypatch.setattr(approximations, "_VALIDATION", 8)
    monkeypatch.setattr(approximations, "_CHUNK", 3)
    network = TrainableViT(model_named("scenes"))
    network.initialise(torch.Generator().manual_seed(0))
    path = tmp_path / "start.safetensors"
    save_file(network.state(), path)
    (tmp_path / "config.json").write_text('{"num_attention_heads": 2, "layer_norm_eps": 1e-6}')
    return path


def test_command(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every function is measured before and after it is retrained with; the page has the table."""
    page, found, output = (tmp_path / name for name in ("page.md", "found.json", "trained"))
    page.write_text("above\n<!-- accuracy: begin -->\n<!-- accuracy: end -->\nbelow\n")
    arguments = ["--weights", str(weights), "--steps", "2", "--count", "4", "--output", str(output),
                 "--json", str(found), "--update", str(page)]
    assert main(arguments) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    results = [Result(**result) for result in json.loads(found.read_text())]
    assert [(r.functions, r.steps) for r in results] == [
        (name, steps) for name in ("exact", "ibert", "heatvit") for steps in (0, 2)]
    assert all(r.images == 4 and 0 <= min(r.float_right, r.int8_right)
               and max(r.float_right, r.int8_right) <= 4 for r in results)
    text = page.read_text()
    assert table(results) in text and table(results) in printed
    assert text.startswith("above\n<!-- accuracy: begin -->\n\nRight of 4 test scenes:\n\n| GELU")
    assert text.endswith("|\n\n<!-- accuracy: end -->\nbelow\n")
    # Each was trained with its own functions, for the steps that were told.
    states = {name: torch.load(output / name / "state.pt", weights_only=True) for name in FUNCTIONS}
    for name, state in states.items():
        assert state["config"]["functions"] == name and state["stage"] == 1
        assert state["config"]["stages"][0]["steps"] == 2
    heads = [state["network"]["blocks.0.mlp.fc1.weight"] for state in states.values()]
    assert not torch.equal(heads[0], heads[1]) and not torch.equal(heads[1], heads[2])

    # What is trained is not trained again.
    times = [(output / name / "state.pt").stat().st_mtime_ns for name in FUNCTIONS]
    assert main(arguments) == 0
    assert "validation" not in capsys.readouterr().out
    assert times == [(output / name / "state.pt").stat().st_mtime_ns for name in FUNCTIONS]
    assert json.loads(found.read_text()) == [vars(result) for result in results]


def test_int8_is_the_integer_twin(weights: Path) -> None:
    """Of our functions it is what the accelerator computes."""
    model = model_named("scenes")
    state = load_model(weights, model).state
    settings = SceneSettings(size=model.image_size)
    calibration, scenes = (fixed_set(split, count, settings)
                           for split, count in (("train", 32), ("test", 5)))
    for functions in FUNCTIONS:
        qvit = quantize(FloatViT(model, state, functions),
                        [calibration.rgb(i) for i in range(32)], weights="x")
        right = sum(integer.run(qvit, scenes.rgb(i))[1] == scenes.labels[i] for i in range(5))
        found = measured(model, state, functions, steps=0, count=5)
        assert found == Result(functions=functions, steps=0, images=5, int8_right=right,
                               float_right=sum(
                                   int(FloatViT(model, state, functions).forward_stages(
                                       normalise(scenes.rgb(i)))["logits"].argmax())
                                   == scenes.labels[i] for i in range(5)))


def test_command_names_faults(weights: Path, tmp_path: Path,
                              capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        assert main(["--weights", str(weights), "--output", str(tmp_path / "o"), *arguments]) == 2
        text = capsys.readouterr().err
        assert text.startswith("golden.approximations: ") and text.count("\n") == 1
        return text

    assert "steps is 0, must be at least 1" in refused("--steps", "0")
    assert "count is 0, must be at least 1" in refused("--count", "0")
    assert "threads is 0, must be at least 1" in refused("--threads", "0")
    assert "no model is called 'other'" in refused("--model", "other")
    assert "does not exist" in refused("--json", str(tmp_path / "none" / "file"))
    page = tmp_path / "page.md"
    page.write_text("")
    assert "lacks the lines" in refused("--update", str(page))
    assert "none.safetensors" in refused("--weights", str(tmp_path / "none.safetensors"))
    assert not (tmp_path / "o").exists()


def test_table() -> None:
    rows = table([Result(functions="exact", steps=0, images=4000, float_right=3917,
                         int8_right=3914),
                  Result(functions="heatvit", steps=1000, images=4000, float_right=400,
                         int8_right=4000)]).splitlines()
    assert rows[2:] == ["| exact; in int8 ours | no | 97.92% | 3,917 | 97.85% | 3,914 |",
                        "| HeatViT, delta 1/2 | 1,000 steps | 10.00% | 400 | 100.00% | 4,000 |"]
