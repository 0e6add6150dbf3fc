# SPDX-License-Identifier: BSD-2-Clause
"""The command that trains and measures the points of a curve, on a network with two blocks."""

import json
from dataclasses import replace

import pytest
import torch

from golden.model import MODELS, FloatViT
from golden.model_file import load_model, save_weights
from golden.pruning import PrunedViT, segment_macs
from golden.scenes import fixed_set
from golden.tradeoff import dense_accuracy, main, train_point, train_points
from golden.tradeoff_points import parse_points
from golden.train_data import grey_images
from golden.trainable import TrainableViT
from golden.trainer import Trainer

MODEL = replace(MODELS["scenes"], depth=2)
TEXT = """
model: scenes
weights: {weights}
validation: 5
validate_every: 2
kinds: [topk, oracle]
keep: [[0.5], [0.2]]
stage: {{size: 120, steps: 3, batch: 2, rate: 1e-3, blocks: [1]}}
"""


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """Put back what the command sets for the whole process; let networks have two blocks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setitem(MODELS, "scenes", MODEL)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    network = TrainableViT(MODEL)
    network.initialise(torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("weights") / "dense.safetensors"
    save_weights(path, network.state())
    (path.parent / "config.json").write_text('{"num_attention_heads": 2, "layer_norm_eps": 1e-6}')
    return path


@pytest.fixture
def config(weights, tmp_path):
    path = tmp_path / "points" / "tradeoff.yaml"
    path.parent.mkdir()
    path.write_text(TEXT.format(weights=weights))
    return path


def points(config):
    return parse_points(config.read_text(), "x.yaml")


def test_a_point_is_what_the_float_twin_does(config, tmp_path):
    """Accuracy and multiplications are those of lists that become shorter."""
    first = points(config)[0]
    found = train_point(first, tmp_path, "validation", 12)
    model, state, _ = load_model(tmp_path / "topk_05" / "topk_05.safetensors", MODEL)
    twin = PrunedViT(FloatViT(model, state), first.stages[0].pruning)
    scenes = fixed_set("validation", 12)
    runs = [twin.run(image) for image in grey_images(scenes.frames)]
    right = [int(run.logits.argmax()) == label
             for run, label in zip(runs, scenes.labels, strict=True)]
    assert found.accuracy == sum(right) / 12
    macs = sum(segment_macs(model, twin.pruning, (101, 52)))
    assert found.quality.macs == pytest.approx(macs / model.macs())
    assert found.quality.selectors[0].kept.part == 0.5
    held = scenes.patches(12)
    kept = [run.steps[0].kept for run in runs]
    recall = sum(held[i, list(kept[i])].sum() for i in range(12)) / held.sum()
    assert found.quality.selectors[0].recall == pytest.approx(recall)


def test_oracle_keeps_more_digits(config, tmp_path):
    topk, oracle = (train_point(points(config)[i], tmp_path, "test", 12) for i in (0, 2))
    assert oracle.kind == "oracle"
    assert oracle.quality.selectors[0].recall > 0.95 > topk.quality.selectors[0].recall
    assert oracle.quality.macs == topk.quality.macs


def test_command(config, tmp_path, capsys):
    arguments = [str(config), "--output", str(tmp_path / "out"), "--split", "validation",
                 "--count", "6"]
    outputs = ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    assert main([*arguments, *outputs]) == 0
    printed = capsys.readouterr().out
    assert printed.count("of the MACs, top-1") == 4 and "topk_05: " in printed
    result = json.loads((tmp_path / "a.json").read_text())
    assert (result["model"], result["weights"], result["split"], result["scenes"]) == (
        "scenes", "dense.safetensors", "validation", 6)
    assert [(point["kind"], point["keep"]) for point in result["points"]] == [
        ("topk", [0.5]), ("topk", [0.2]), ("oracle", [0.5]), ("oracle", [0.2])]
    assert result["dense"] == dense_accuracy(points(config)[0], "validation", 6)
    state = (tmp_path / "out" / "topk_05" / "state.pt").stat().st_mtime_ns
    # The second time nothing is trained, and everything is the same.
    outputs = ["--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png")]
    assert main([*arguments, *outputs]) == 0
    assert capsys.readouterr().out == printed
    assert (tmp_path / "out" / "topk_05" / "state.pt").stat().st_mtime_ns == state
    for name in ("json", "png"):
        assert (tmp_path / f"a.{name}").read_bytes() == (tmp_path / f"b.{name}").read_bytes()


def test_points_that_are_added(config, tmp_path, monkeypatch):
    """Only they are trained, and a point that was interrupted goes on."""
    trained = []
    update = Trainer._update

    def counted(self, network, stage):
        trained.append((stage.name, self.step))
        if trained[-1] == stop:
            raise KeyboardInterrupt
        return update(self, network, stage)

    monkeypatch.setattr(Trainer, "_update", counted)
    arguments = [str(config), "--output", str(tmp_path / "out"), "--count", "2"]
    stop = ("oracle_05", 2)
    assert main(arguments) == 130
    trained.clear()
    stop = None
    config.write_text(config.read_text().replace("[[0.5]", "[[0.7], [0.5]"))
    assert main(arguments) == 0
    assert trained == [*(("topk_07", i) for i in range(3)), *(("oracle_07", i) for i in range(3)),
                       ("oracle_05", 2), *(("oracle_02", i) for i in range(3))]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--count", "0"], "the number of scenes is 0, must be at least 1"),
    (["--split", "all"], "the split is 'all', must be one of train, validation, test"),
    (["--jobs", "0"], "the number of jobs is 0, must be at least 1"),
    (["--plot", "nowhere/a.png"], "the folder of nowhere/a.png does not exist"),
    (["--json", "."], "is a folder, must be a file")])
def test_bad_arguments(arguments, message, config, tmp_path, capsys):
    assert main([str(config), "--output", str(tmp_path / "out"), "--count", "2", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_plot_is_png(config, tmp_path, capsys):
    assert main([str(config), "--plot", str(tmp_path / "a.svg")]) == 2
    assert "a.svg, must end with .png" in capsys.readouterr().err


def test_faults_of_files(config, tmp_path, capsys, weights):
    arguments = [str(config), "--output", str(tmp_path / "out"), "--count", "2"]
    assert main(["missing.yaml"]) == 2
    assert "missing.yaml cannot be read" in capsys.readouterr().err
    assert main(arguments) == 0
    capsys.readouterr()
    # Points of other weights would stand in one curve with these.
    other = tmp_path / "dense.safetensors"
    network = TrainableViT(MODEL)
    network.initialise(torch.Generator().manual_seed(1))
    save_weights(other, network.state())
    config.write_text(TEXT.format(weights=other))
    assert main(arguments) == 2
    assert "holds points of other weights than" in capsys.readouterr().err
    config.write_text(TEXT.format(weights="missing.safetensors"))
    assert main(arguments) == 2
    assert "missing.safetensors" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_give_the_same(config, tmp_path):
    configs = points(config)[:2]
    alone = dict(train_points(configs, tmp_path / "a", "validation", 6))
    shared = dict(train_points(configs, tmp_path / "b", "validation", 6, jobs=2))
    assert alone == shared and sorted(alone) == [0, 1]
