# SPDX-License-Identifier: BSD-2-Clause
"""Stages in integers: they are resumed exactly, and what they end with is what runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import training
from safetensors.torch import load_file, save_file
from training import Stopped

from golden import integer
from golden.checkpoint import CheckpointError
from golden.integer_batch import BatchViT, Tables, answers
from golden.model import MODELS, FloatViT
from golden.model_file import load_model, stored_steps
from golden.packed import load
from golden.quantize import quantize
from golden.quantize_command import main
from golden.scenes import fixed_set
from golden.train_config import Stage, TrainConfig, TrainError, parse_config

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
_INTEGERS = {"size": 120, "steps": 3, "batch": 2, "rate": 1e-3, "quantise": True,
             "precision": "bfloat16"}
CONFIG = TrainConfig(
    model=replace(MODELS["scenes"], depth=2), validation=10, validate_every=2, stages=(
        Stage(name="dense", size=120, steps=2, batch=2, rate=1e-3),
        Stage(name="integers", **_INTEGERS),
        Stage(name="threshold", kind="threshold", start="dense", blocks=(1,), keep=(0.5,),
              **_INTEGERS),
        Stage(name="topk", kind="topk", start="integers", blocks=(1,), keep=(0.5,), **_INTEGERS)))


def train(folder: Path, stop: int | None = None) -> list:
    return training.train(folder, CONFIG, stop)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("integers")
    return folder, train(folder)


def packed(folder: Path, name: str):
    """Return what is made of the weights and the steps of a stage."""
    file = folder / f"{name}.safetensors"
    model, state, selectors = load_model(file, CONFIG.model)
    stage = next(stage for stage in CONFIG.stages if stage.name == name)
    return quantize(FloatViT(model, state), [], weights=name, steps=stored_steps(file),
                    pruning=stage.pruning, selectors=selectors)


@pytest.mark.parametrize("name", ["integers", "threshold", "topk"])
def test_measured_accuracy_is_that_of_the_integers(name: str, trained) -> None:
    folder, reports = trained
    scenes = fixed_set("validation", 10)
    right = sum(integer.run(packed(folder, name), scenes.rgb(i))[1] == int(label)
                for i, label in enumerate(scenes.labels))
    last = [report for report in reports if report.stage.name == name][-1]
    assert last.accuracy == right / 10


def test_kept_patches_are_those_of_the_integers(trained) -> None:
    folder, reports = trained
    qvit, scenes = packed(folder, "threshold"), fixed_set("validation", 10)
    images = torch.stack([torch.from_numpy(scenes.rgb(i)) for i in range(10)]).numpy()
    keeps = answers(BatchViT(qvit, Tables(qvit, CPU)), images).keeps
    last = [report for report in reports if report.stage.name == "threshold"][-1]
    assert last.kept == pytest.approx((keeps.mean(),))


def test_weights_have_steps_and_learn(trained) -> None:
    folder, _ = trained
    assert stored_steps(folder / "dense.safetensors") is None
    steps = stored_steps(folder / "topk.safetensors")
    assert steps is not None and {"block0.q", "logits", "selector0.score"} <= steps.keys()
    first, then = (load_model(folder / f"{name}.safetensors", CONFIG.model).state["head.weight"]
                   for name in ("dense", "integers"))
    assert 0 < (first - then).abs().max() < 0.1


@pytest.mark.parametrize("stop", [4, 5, 7, 9, 11])
def test_resumed_training_is_the_same(stop: int, trained, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(tmp_path, stop=stop)
    train(tmp_path)
    for stage in CONFIG.stages:
        found, expected = (load_file(folder / f"{stage.name}.safetensors")
                           for folder in (tmp_path, trained[0]))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found), stage.name


def test_finished_training_has_nothing_to_do(trained) -> None:
    folder, _ = trained
    before = (folder / "topk.safetensors").read_bytes()
    assert train(folder) == [] and (folder / "topk.safetensors").read_bytes() == before


def test_command_takes_the_steps(trained, tmp_path: Path, capsys) -> None:
    folder, _ = trained
    output = tmp_path / "x.hv"
    arguments = [str(folder / "integers.safetensors"), "-o", str(output)]
    assert main(arguments) == 0
    assert "the steps of its training" in " ".join(capsys.readouterr().out.split())
    assert load(output).steps == stored_steps(folder / "integers.safetensors")
    assert main([*arguments, "--calibrate", "scenes", "--images", "2"]) == 0
    assert "calibrated on 2 images" in " ".join(capsys.readouterr().out.split())
    assert load(output).steps != stored_steps(folder / "integers.safetensors")


def test_step_that_is_no_number(trained, tmp_path: Path) -> None:
    tensors = load_file(trained[0] / "integers.safetensors")
    file = tmp_path / "x.safetensors"
    save_file({**tensors, "steps.block0.q": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match=r"^the step of block0.q in checkpoint .* is torch.flo"
                                              r"at32 \(2,\), must be one number$"):
        stored_steps(file)


def test_settings() -> None:
    with pytest.raises(TrainError, match="size of stage x is 48, must be 120 in a stage that qu"):
        replace(CONFIG, stages=(Stage(name="x", **{**_INTEGERS, "size": 48}),))
    text = ("model: scenes\nstages: [{name: x, size: 120, steps: 1, batch: 1, rate: 1,"
            " quantise: %s}]")
    assert parse_config(text % "true", "x").stages[0].quantise is True
    with pytest.raises(TrainError, match="quantise of stage 1 of x is 1, must be true or false"):
        parse_config(text % "1", "x")
