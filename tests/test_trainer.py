# SPDX-License-Identifier: BSD-2-Clause
"""Training: it learns, it is repeatable, it resumes as if nothing had happened, and it shares."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from golden.checkpoint import load_checkpoint
from golden.model import MODELS
from golden.scenes import SceneError
from golden.train_config import Stage, TrainConfig, TrainError
from golden.trainer import Trainer, World, learning_rate, parameter_groups

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")

#: Two short stages of a network with one block.
CONFIG = TrainConfig(
    model=replace(MODELS["scenes"], depth=1), validation=20, validate_every=2, stages=(
        Stage(name="windows", size=48, steps=4, batch=4, rate=1e-3, warmup=2, last=0.1),
        Stage(name="dense", size=96, steps=3, batch=2, rate=1e-3, smoothing=0.1,
              precision="bfloat16")))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Steps as small as these only become slower with more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Stopped(Exception):
    """Raised where a training is interrupted."""


def train(folder, config=CONFIG, stop=None, **arguments):
    """Train and return the reports; with ``stop`` raise an error after so many steps."""
    reports = []

    def report(progress):
        reports.append(progress)
        if len(reports) == stop:
            raise Stopped

    Trainer(config, folder, device=CPU, **arguments).run(report)
    return reports


def weights(folder, stage="dense"):
    return load_checkpoint(folder / f"{stage}.safetensors", CONFIG.model)[1]


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, train(folder)


def test_every_step_is_reported(trained):
    folder, reports = trained
    assert [(r.stage.name, r.step) for r in reports] == [
        *(("windows", i) for i in (1, 2, 3, 4)), *(("dense", i) for i in (1, 2, 3))]
    assert [r.accuracy is not None for r in reports] == [0, 1, 0, 1, 0, 1, 1]
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in log] == [
        ("windows", 2), ("windows", 4), ("dense", 2), ("dense", 3)]
    for line, report in zip(log, [r for r in reports if r.accuracy is not None], strict=True):
        assert line["accuracy"] == report.accuracy and line["loss"] == report.loss
    assert log[0]["seconds"] <= log[-1]["seconds"]


def test_weights_are_a_checkpoint(trained):
    folder, _ = trained
    model, state = load_checkpoint(folder / "dense.safetensors", CONFIG.model)
    assert model == CONFIG.model
    assert not torch.equal(state["head.weight"], weights(folder, "windows")["head.weight"])


def test_same_seed_same_weights(trained, tmp_path):
    folder, reports = trained
    again = train(tmp_path)
    assert [r.loss for r in again] == [r.loss for r in reports]
    assert_equal(weights(folder), weights(tmp_path))


def test_other_seed_other_weights(trained, tmp_path):
    train(tmp_path, replace(CONFIG, seed=1))
    assert not torch.equal(weights(trained[0])["head.weight"], weights(tmp_path)["head.weight"])


@pytest.mark.parametrize(("stop", "resumed"), [(2, 3), (3, 3), (4, 5), (6, 7), (1, 1)])
def test_resumed_training_is_the_same(stop, resumed, trained, tmp_path):
    """Stopped between measurements, the steps after the last one are made again."""
    folder, reports = trained
    with pytest.raises(Stopped):
        train(tmp_path, stop=stop)
    rest = train(tmp_path)
    assert (rest[0].stage, rest[0].step) == (reports[resumed - 1].stage, reports[resumed - 1].step)
    assert [r.loss for r in rest] == [r.loss for r in reports[resumed - 1:]]
    assert_equal(weights(folder), weights(tmp_path))


def test_finished_training_has_nothing_to_do(trained):
    folder, _ = trained
    assert train(folder) == []


def test_settings_must_be_the_same(tmp_path):
    train(tmp_path, replace(CONFIG, stages=CONFIG.stages[:1]))
    with pytest.raises(TrainError, match="holds a training with another seed, must be another"):
        train(tmp_path, replace(CONFIG, seed=1))
    with pytest.raises(TrainError, match="holds a training with another stages"):
        train(tmp_path)
    with pytest.raises(TrainError, match="holds a training of 1 processes, must be resumed with as"
                                         " many, not 2"):
        train(tmp_path, replace(CONFIG, stages=CONFIG.stages[:1]), world=World(2, 0))


def test_broken_state(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"broken")
    with pytest.raises(TrainError, match="state.pt is truncated or corrupt: delete it"):
        train(tmp_path)


def test_size_is_checked_before_anything_is_trained(tmp_path):
    stages = (*CONFIG.stages, Stage(name="small", size=36, steps=1, batch=1, rate=1.0))
    with pytest.raises(SceneError, match="size is 36, must be at least 40"):
        train(tmp_path, replace(CONFIG, stages=stages))
    assert not list(tmp_path.iterdir())


def test_learns(tmp_path):
    """The network learns eight windows by heart."""
    stage = Stage(name="windows", size=48, steps=60, batch=8, rate=3e-3, warmup=10)
    trainer = Trainer(replace(CONFIG, validate_every=60, stages=(stage,)), tmp_path, device=CPU)
    batch = trainer.data.batch(48, 8, np.random.default_rng(0))
    trainer.data.batch = lambda size, count, generator: batch
    losses = []
    trainer.run(lambda progress: losses.append(progress.loss))
    assert losses[0] > 2.2
    assert losses[-1] < 0.1


def test_learning_rate():
    stage = Stage(name="a", size=96, steps=12, batch=1, rate=0.4, warmup=4, last=0.25)
    rates = [learning_rate(stage, step) for step in range(12)]
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[4] == pytest.approx(0.4)
    assert rates[8] == pytest.approx(0.4 * (0.25 + 0.75 / 2))
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[11] > 0.1
    assert rates[10] == pytest.approx(0.1 + 0.15 * (1 + math.cos(math.pi * 6 / 8)))


def test_what_decays():
    network = Trainer(CONFIG, Path("nowhere"), device=CPU).network
    decays, rest = (group["params"] for group in parameter_groups(network, 0.1))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(p)] for p in decays} == {
        "patch_embed.proj.weight", "head.weight", *(f"blocks.0.{layer}.weight" for layer in (
            "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"))}
    assert len(decays) + len(rest) == len(names)


def test_batches_are_shared_evenly():
    with pytest.raises(TrainError, match="batch of stage windows is 4, must be a multiple of the 3"
                                         " processes"):
        Trainer(CONFIG, Path("nowhere"), device=CPU, world=World(3, 0))


def test_world_of_torchrun(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert World.from_environment() == World(1, 0, 0)
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "3"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert World.from_environment() == World(4, 3, 1)


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Both have the same weights in the end: only so can a second run resume the first."""
    config = tmp_path / "train.yaml"
    config.write_text("model: scenes\nvalidation: 10\nvalidate_every: 2\nstages:\n"
                      "- {name: windows, size: 48, steps: 3, batch: 4, rate: 0.001}\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", "2", "-m", "golden.train", str(config), "--output"]
    found = []
    for name in ("first", "second"):
        done = subprocess.run([*command, str(tmp_path / name)], cwd=ROOT, capture_output=True,
                              text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("windows 2/3") == 1, "one process prints"
        found.append(load_checkpoint(tmp_path / name / "windows.safetensors", MODELS["scenes"])[1])
    assert_equal(*found)
    state = torch.load(tmp_path / "first" / "state.pt", weights_only=True)
    assert state["processes"] == 2
