# SPDX-License-Identifier: BSD-2-Clause
"""Tests of the command ``python -m golden.accuracy``, and of the numbers in its page."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from golden.accuracy import main
from golden.model import FloatViT, model_named, parameter_shapes
from golden.synthetic import synthetic

TINY = model_named("tiny_test")
DOCS = Path(__file__).parent.parent / "docs" / "accuracy.md"


def report(tmp_path: Path, *arguments: str) -> dict:
    path = tmp_path / "result.json"
    assert main(["--model", "tiny_test", "--json", str(path), *arguments]) == 0
    # NaN and Infinity are no JSON.
    return json.loads(path.read_text(), parse_constant=pytest.fail)


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = report(tmp_path)
    output = capsys.readouterr().out
    names = FloatViT(TINY, synthetic(TINY, 0)).forward_stages(torch.zeros(3, 48, 48)).keys()
    assert {s["stage"] for s in result["stages"]} == names
    assert result["model"] == "tiny_test" and result["image"] == "china.jpg (scikit-learn)"
    assert result["weights"] == "synthetic" and result["seed"] == 0
    assert "SYNTHETIC (seeded random numbers, seed 0)" in output
    low = [s for s in result["stages"] if s["sqnr"] < result["threshold"]]
    assert low and f"{len(low)} of {len(names)} stages are below 25 dB" in output
    for s in result["stages"]:
        assert re.search(rf"{s['stage']} +│ +{s['sqnr']:.1f} │ +{s['local']:.1f} │", output), s
    assert "…" not in output, "a column is too narrow"
    assert f"top class  {result['top1']} (float twin: {result['float_top1']})" in output
    assert {o["stage"] for o in result["outliers"]} == {s["origin"] for s in low}
    for row in (*result["outliers"], *result["attention"]):
        assert output.count(f"│ {row['stage']} ") == 2, "among the stages and in its table"


def test_image_and_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                              capsys: pytest.CaptureFixture[str]) -> None:
    # Short names: a long path is wrapped on a terminal of 80 columns.
    monkeypatch.chdir(tmp_path)
    image, checkpoint = Path("noise.png"), Path("weights.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(image)
    torch.save(synthetic(TINY, 9), checkpoint)
    result = report(tmp_path, "--image", str(image), "--checkpoint", str(checkpoint))
    assert (result["image"], result["weights"], result["seed"]) == (
        str(image), str(checkpoint), None)
    output = capsys.readouterr().out
    assert "SYNTHETIC" not in output and "weights.pth" in output
    assert result["stages"] != report(tmp_path)["stages"]


def test_network_without_noise(tmp_path: Path) -> None:
    """Where all is zero the SQNR is infinite, for which JSON has no number."""
    state = {name: torch.zeros(shape) for name, shape in parameter_shapes(TINY).items()}
    state["pos_embed"] = synthetic(TINY, 0)["pos_embed"]
    checkpoint = tmp_path / "zeros.pth"
    torch.save(state, checkpoint)
    stages = {s["stage"]: s for s in report(tmp_path, "--checkpoint", str(checkpoint))["stages"]}
    assert stages["block0.v"]["sqnr"] is None and stages["block0.v"]["local"] is None
    assert stages["block1.residual2"]["sqnr"] > 60


@pytest.mark.parametrize("arguments, message", [
    (["--model", "vgg"], "no model is called 'vgg'"),
    (["--image", "/nowhere.jpg"], "image /nowhere.jpg cannot be read: No such file"),
    (["--image", __file__], "is in no format that Pillow reads"),
    (["--checkpoint", "/nowhere.pth"], "checkpoint /nowhere.pth cannot be read: No such"),
    (["--checkpoint", __file__], "has the extension '.py'"),
    (["--json", "/nowhere/x.json"], "the folder of /nowhere/x.json does not exist"),
])
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "tiny_test", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("golden.accuracy: ") and message in error
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_page_has_the_numbers_of_the_command(tmp_path: Path) -> None:
    result = report(tmp_path, "--model", "deit_tiny")
    stages = {s["stage"]: s for s in result["stages"]}
    tables = [[cell.strip() for cell in line.split("|")[1:-1]]
              for line in DOCS.read_text(encoding="utf-8").split("\n") if line.startswith("|")]
    head = next(row for row in tables if row[0] == "block")
    cells = {f"block{row[0]}.{name}": cell for row in tables if row[0].isdigit()
             for name, cell in zip(head[1:], row[1:], strict=True)}
    cells |= {row[0].strip("`"): row[1] for row in tables if row[0].strip("`") in stages}
    assert cells.keys() == stages.keys()
    for name, cell in cells.items():
        got = (stages[name]["sqnr"], stages[name]["local"])
        written = tuple(float(number) for number in cell.split(" / "))
        # Another machine adds in another order: now and then a number is rounded another way.
        assert got == pytest.approx(written, abs=0.3), f"{name}: {cell}, measured {got}"
