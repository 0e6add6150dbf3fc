# SPDX-License-Identifier: BSD-2-Clause
"""Scenes with labels through the emitted Verilog, on the smallest configuration."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from golden import integer
from golden.model import FloatViT, model_named
from golden.packed import load, save
from golden.pruning import PruningConfig
from golden.quantize import QuantizedViT, quantize
from golden.scenes import fixed_set
from golden.synthetic import SEED, synthetic
from golden.synthetic_selector import synthetic_selectors
from sim.run import main
from sim.workload import Workload

MODEL = model_named("scenes")
TINY = ["--model", "scenes", "--config", "tiny"]
SHIPPED = Path(__file__).parent.parent / "models" / "scenes" / "scenes.hv"


def packed(path: Path, pruning: PruningConfig | None = None) -> QuantizedViT:
    """Write a packed model that says its weights are trained."""
    twin = FloatViT(MODEL, synthetic(MODEL, 1))
    selectors = (synthetic_selectors(twin, pruning.blocks, SEED)
                 if pruning is not None and pruning.selector == "threshold" else [])
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
    assert (result["predictions_equal"], result["kept_equal"]) == (4, None)
    assert "4 of 4 equal to the integer twin" in text and "kept" not in text


def test_selectors_of_a_packed_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed(tmp_path / "model.hv", PruningConfig(selector="threshold", blocks=(2,)))
    result = run(tmp_path, "--checkpoint", tmp_path / "model.hv", "--scenes", 1)
    assert result["bit_exact"] and result["selector_weights"] == "dense.safetensors"
    text = capsys.readouterr().out
    assert "trained, with the weights" in text and "SYNTHETIC" not in text
    right = result["images"][0]["top1"] == result["images"][0]["label"]
    assert f"{fixed_set('test', 1).labels[0]}: {'right' if right else 'wrong'}" in text


@pytest.mark.parametrize("pruning", [
    PruningConfig(selector="topk", blocks=(1, 3), counts=(40, 11), package="merged"),
    PruningConfig(selector="threshold", blocks=(1, 3)),
], ids=["topk", "threshold"])
def test_kept_lists(pruning: PruningConfig, tmp_path: Path,
                    capsys: pytest.CaptureFixture[str]) -> None:
    qvit = packed(tmp_path / "model.hv", pruning)
    result = run(tmp_path, "--checkpoint", tmp_path / "model.hv", "--scenes", 3,
                 "--output", tmp_path / "out")
    scenes = fixed_set("test", 3)
    for i, image in enumerate(result["images"]):
        _, top, stages = integer.run(qvit, scenes.rgb(i))
        assert image["kept"] == [stages[f"selector{s}.kept"].tolist() for s in range(2)]
        assert image["top1"] == top and image["prediction_equal"] and image["kept_equal"]
        assert Path(image["picture"]) == tmp_path / "out" / f"{i + 1}-scene-{i}.png"
        assert Path(image["picture"]).exists()
    assert result["bit_exact"] and result["predictions_equal"] == result["kept_equal"] == 3
    assert "kept lists   3 of 3 equal to the integer twin" in capsys.readouterr().out


def test_wrong_kept_list(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                         monkeypatch: pytest.MonkeyPatch) -> None:
    """One scene of three is to keep one other patch: that scene alone is told of, and where."""
    qvit = packed(tmp_path / "model.hv", PruningConfig(selector="topk", blocks=(2,), counts=(40,)))
    right, scene = Workload.expected.func, fixed_set("test", 2).rgb(1)
    kept = integer.run(qvit, scene)[2]["selector0.kept"]
    dropped = np.setdiff1d(np.arange(100), kept)[0]

    def wrong(workload: Workload) -> tuple:
        logits, top_class, stages = right(workload)
        if np.array_equal(workload.frame, scene):
            stages = stages | {"selector0.kept": np.sort(np.append(kept[1:], dropped))}
        return logits, top_class, stages

    monkeypatch.setattr(Workload, "expected", property(wrong))
    path = tmp_path / "result.json"
    assert main([*TINY, "--checkpoint", str(tmp_path / "model.hv"), "--scenes", "3", "--output",
                 str(tmp_path), "--json", str(path)]) == 1
    result = json.loads(path.read_text())
    assert result["kept_equal"] == 2 and result["predictions_equal"] == 3
    assert [image["bit_exact"] for image in result["images"]] == [True, False, True]
    text = capsys.readouterr().out
    assert "kept lists   2 of 3 equal to the integer twin" in text
    expected, got = (15, 0) if dropped < kept[0] else (0, 15)
    assert (f"first mismatch of scene 1: register.dropped[{1 + min(dropped, kept[0])}]:"
            f" expected {expected}, got {got}") in text
    assert text.count("first mismatch") == 1


@pytest.mark.slow
def test_shipped_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More scenes than are listed or drawn, through the network that comes with the project."""
    count = 40
    result = run(tmp_path, "--checkpoint", SHIPPED, "--scenes", count, "--output", tmp_path)
    qvit, scenes = load(SHIPPED), fixed_set("test", count)
    tops = [integer.run(qvit, scenes.rgb(i))[1] for i in range(count)]
    assert [image["top1"] for image in result["images"]] == tops
    assert result["bit_exact"] and result["predictions_equal"] == count
    assert result["kept_equal"] == (None if qvit.pruning is None else count)
    assert result["right"] == sum(
        top == label for top, label in zip(tops, scenes.labels, strict=True)) >= 0.9 * count
    assert len(result["pictures"]) == 8 and len(result["images"]) == count
    text = capsys.readouterr().out
    assert "scene 15" in text and "scene 16" not in text and "the first 16 of 40 images" in text


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
