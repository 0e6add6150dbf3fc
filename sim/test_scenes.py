# SPDX-License-Identifier: BSD-2-Clause
"""Scenes with labels through the emitted Verilog, on the smallest configuration."""

import json
from pathlib import Path

import pytest
from PIL import Image

from golden import integer
from golden.model import FloatViT, model_named
from golden.packed import save
from golden.pruning import PruningConfig
from golden.quantize import QuantizedViT, quantize
from golden.scenes import fixed_set
from golden.synthetic import SEED, synthetic
from golden.synthetic_selector import synthetic_selectors
from sim.run import main

MODEL = model_named("scenes")
TINY = ["--model", "scenes", "--config", "tiny"]


def packed(path: Path, pruning: PruningConfig | None = None) -> QuantizedViT:
    """Write a packed model that says its weights are trained."""
    twin = FloatViT(MODEL, synthetic(MODEL, 1))
    selectors = [] if pruning is None else synthetic_selectors(twin, pruning.blocks, SEED)
    scenes = fixed_set("train", 2)
    qvit = quantize(twin, [scenes.rgb(0), scenes.rgb(1)], weights="dense.safetensors",
                    pruning=pruning, selectors=selectors)
    save(path, qvit)
    return qvit


def run(tmp_path: Path, *arguments: object) -> dict:
    path = tmp_path / "result.json"
    assert main([*TINY, "--json", str(path), *map(str, arguments)]) == 0
    return json.loads(path.read_text())


def test_labels_and_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qvit = packed(tmp_path / "model.hv")
    result = run(tmp_path, "--checkpoint", tmp_path / "model.hv", "--scenes", 4)
    scenes = fixed_set("test", 4)
    tops = [integer.run(qvit, scenes.rgb(i))[1] for i in range(4)]
    assert result["bit_exact"] and result["weights"] == "dense.safetensors"
    assert [image["top1"] for image in result["images"]] == tops
    assert [image["label"] for image in result["images"]] == scenes.labels.tolist()
    right = sum(top == label for top, label in zip(tops, scenes.labels, strict=True))
    assert (result["labelled"], result["right"]) == (4, right)
    text = capsys.readouterr().out
    assert "trained: dense.safetensors" in text and "SYNTHETIC" not in text
    assert f"{right} of 4 right" in text and "label" in text and "scene 3" in text


def test_selectors_of_a_packed_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed(tmp_path / "model.hv", PruningConfig(selector="threshold", blocks=(2,)))
    result = run(tmp_path, "--checkpoint", tmp_path / "model.hv", "--scenes", 1)
    assert result["bit_exact"] and result["selector_weights"] == "dense.safetensors"
    text = capsys.readouterr().out
    assert "trained, with the weights" in text and "SYNTHETIC" not in text
    right = result["images"][0]["top1"] == result["images"][0]["label"]
    assert f"{fixed_set('test', 1).labels[0]}: {'right' if right else 'wrong'}" in text


def test_images_of_unknown_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(fixed_set("test", 1).rgb(0)).save(tmp_path / "scene.png")
    result = run(tmp_path, "--image", tmp_path / "scene.png")
    assert result["bit_exact"] and result["weights"] == "synthetic"
    assert (result["labelled"], result["right"]) == (0, 0)
    assert result["images"][0]["label"] is None
    text = capsys.readouterr().out
    assert "label" not in text and "SYNTHETIC" in text


@pytest.mark.parametrize(("arguments", "sentence"), [
    ([*TINY, "--scenes", "0"], "the number of scenes is 0, must be at least 1"),
    (["--model", "tiny_test", "--config", "tiny", "--scenes", "1"],
     "tiny_test has 16 classes, must have the 10 of scenes"),
])
def test_bad_input(arguments: list[str], sentence: str,
                   capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err
