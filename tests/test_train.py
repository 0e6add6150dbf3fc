# SPDX-License-Identifier: BSD-2-Clause
"""The training command: what it prints and writes, and its errors in one line."""

import pytest
import torch

from golden import train
from golden.checkpoint import load_checkpoint
from golden.model import MODELS
from golden.train import main

TEXT = """
model: scenes
validation: 10
validate_every: 2
stages:
  - {name: windows, size: 48, steps: 3, batch: 2, rate: 1.0e-3}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture(autouse=True)
def settings():
    """Put back what the command sets for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def test_trains_and_resumes(config, tmp_path, capsys):
    arguments = [str(config), "--output", str(tmp_path / "out"), "--threads", "1"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "windows 2/3: loss" in printed and "windows 3/3: loss" in printed
    assert "the weights are" in printed
    assert load_checkpoint(tmp_path / "out" / "windows.safetensors", MODELS["scenes"])
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "1 stages and 0 steps" in printed and "2/3" not in printed


def test_bar_of_a_terminal(config, tmp_path, capsys, monkeypatch):
    """It is drawn from the first step on, and again where a second stage begins."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    config.write_text(TEXT + "  - {name: second, size: 48, steps: 2, batch: 2, rate: 1.0e-3}\n")
    assert main([str(config), "--output", str(tmp_path / "out"), "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "3/3" in printed and "2/2" in printed and "\x1b[" in printed


@pytest.mark.parametrize(("arguments", "message"), [
    (["--threads", "0"], "threads is 0, must be at least 1"),
    (["--device", "tpu"], "device is 'tpu', must be cpu or cuda")])
def test_bad_arguments(arguments, message, config, tmp_path, capsys):
    assert main([str(config), "--output", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_device_that_is_not_there(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main([str(config), "--output", str(tmp_path / "out"), "--device", "cuda"]) == 2
    assert "there are 0 GPUs, must be at least 1" in capsys.readouterr().err


def test_output_that_is_a_file(config, tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    assert main([str(config), "--output", str(tmp_path / "out")]) == 2
    assert "is a file, must be a folder" in capsys.readouterr().err


def test_output_below_a_file(config, tmp_path, capsys):
    assert main([str(config), "--output", str(config / "out")]) == 2
    assert "Not a directory" in capsys.readouterr().err


def test_interruption(config, tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train.Trainer, "run", interrupt)
    assert main([str(config), "--output", str(tmp_path / "out")]) == 130
    assert "the same command resumes from the last measurement" in capsys.readouterr().err


def test_missing_configuration(tmp_path, capsys):
    assert main([str(tmp_path / "missing.yaml")]) == 2
    assert "missing.yaml cannot be read" in capsys.readouterr().err
