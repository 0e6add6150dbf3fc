# SPDX-License-Identifier: BSD-2-Clause
"""The command that measures selectors: float weights and packed models, and its errors."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from golden import integer
from golden.measure_selectors import main, measure_float, measure_integer
from golden.model import MODELS, FloatViT
from golden.model_file import save_weights
from golden.packed import load, save
from golden.pruning import PrunedViT, PruningConfig
from golden.quantize import quantize
from golden.scenes import fixed_set
from golden.synthetic import synthetic
from golden.synthetic_selector import synthetic_selectors
from golden.train_data import grey_images

MODEL = replace(MODELS["scenes"], depth=2)
COUNT = 6


@pytest.fixture(autouse=True)
def one_thread():
    """Put back what the command sets for the whole process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def files(folder: Path, pruning: PruningConfig) -> tuple[Path, Path, PrunedViT]:
    """Write weights and a packed model with selectors; also return the float twin."""
    twin = FloatViT(MODEL, synthetic(MODEL, 0))
    selectors = (synthetic_selectors(twin, pruning.blocks, 0)
                 if pruning.selector == "threshold" else [])
    weights, packed = folder / "model.safetensors", folder / "model.hv"
    save_weights(weights, {**twin.state, **{
        f"selectors.{i}.{name}": value for i, selector in enumerate(selectors)
        for name, value in selector.items()}}, asdict(pruning))
    (folder / "config.json").write_text('{"num_attention_heads": 2, "layer_norm_eps": 1e-6}')
    save(packed, quantize(twin, [fixed_set("train", 1).rgb(0)], weights="model.safetensors",
                          pruning=pruning, selectors=selectors))
    return weights, packed, PrunedViT(twin, pruning, selectors)


@pytest.mark.parametrize("pruning", [
    PruningConfig(blocks=(1,)), PruningConfig(selector="topk", blocks=(1,), rates=(0.5,))], ids=str)
def test_measures_are_those_of_the_twins(pruning, tmp_path):
    weights, packed, twin = files(tmp_path, pruning)
    scenes = fixed_set("validation", COUNT)
    held = scenes.patches(12)
    runs = [twin.run(image) for image in grey_images(scenes.frames)]
    found = measure_float(weights, "validation", COUNT)
    assert found.accuracy == np.mean([
        int(run.logits.argmax()) == label for run, label in zip(runs, scenes.labels, strict=True)])
    kept = [list(run.steps[0].kept) for run in runs]
    assert found.quality.selectors[0].recall == pytest.approx(
        sum(held[i, kept[i]].sum() for i in range(COUNT)) / held.sum())

    runs = [integer.run(load(packed), scenes.rgb(i)) for i in range(COUNT)]
    found = measure_integer(packed, "validation", COUNT)
    assert found.accuracy == np.mean([
        top == label for (_, top, _), label in zip(runs, scenes.labels, strict=True)])
    kept = [stages["selector0.kept"] for _, _, stages in runs]
    assert found.quality.selectors[0].recall == pytest.approx(
        sum(held[i, kept[i]].sum() for i in range(COUNT)) / held.sum())
    assert found.quality.mean.part == pytest.approx(sum(map(len, kept)) / COUNT / 100)


def test_command(tmp_path, capsys):
    weights, packed, _ = files(tmp_path, PruningConfig(selector="topk", blocks=(1,), rates=(0.5,)))
    arguments = [str(weights), str(packed), "--split", "validation", "--count", "6", "--json",
                 str(tmp_path / "a.json")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.count("of the MACs") == 2 and "50.0%" in printed
    result = json.loads((tmp_path / "a.json").read_text())
    assert (result["split"], result["scenes"]) == ("validation", 6)
    assert [model["file"] for model in result["models"]] == ["model.safetensors", "model.hv"]
    first = (tmp_path / "a.json").read_bytes()
    assert main(arguments) == 0
    assert (tmp_path / "a.json").read_bytes() == first


def test_faults(tmp_path, capsys):
    weights, packed, twin = files(tmp_path, PruningConfig(blocks=(1,)))
    save_weights(weights, twin.twin.state)
    save(packed, quantize(twin.twin, [fixed_set("train", 1).rgb(0)], weights="a"))
    for arguments, message in (
            ([weights], "does not say which selectors it is with, must be written by a stage"),
            ([packed], "has 0 selectors, must have at least 1"),
            ([weights, "--count", "0"], "the number of scenes is 0, must be at least 1"),
            ([tmp_path / "none.hv"], "none.hv")):
        assert main([*map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    save_weights(weights, twin.twin.state, asdict(twin.pruning))
    assert main([str(weights)]) == 2
    assert "parameters of 0 selectors are given, must be 1" in capsys.readouterr().err
    save_weights(weights, twin.twin.state, {"selector": "oracle", "blocks": [1]})
    assert main([str(weights)]) == 2
    assert "selector is 'oracle', must be one of threshold" in capsys.readouterr().err
    files(tmp_path, PruningConfig(blocks=(1,)))
    assert main([str(weights), "--split", "all"]) == 2
    assert "the split is 'all'" in capsys.readouterr().err
