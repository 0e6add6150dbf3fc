# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.quantize as a command: checkpoints and images in, packed models out."""

import json
import runpy
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import SMALL, TEACHER, TINY, VIT, hugging_face, published, write
from networks import noise
from PIL import Image
from pruned_networks import random_selector

from golden.images import ImageError, calibration_frames, load_image
from golden.model import MODELS, FloatViT
from golden.model_file import save_weights
from golden.packed import PackedError, load
from golden.pruning import PruningConfig
from golden.quantize import quantize
from golden.quantize_command import calibration_images, main
from golden.scenes import fixed_set
from golden.synthetic import synthetic
from rtl.config import CONFIGS
from sim.workload import Workload, quantized


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write(tmp_path / "model.safetensors", synthetic(TINY, 0))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with 3 images of the size of the network, two of them in folders of classes."""
    for i, name in enumerate(("a.png", "x/b.png", "y/c.png")):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(TINY, i)).save(path)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def fault(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error.removeprefix("golden.quantize: ").rstrip()


def assert_image(path: Path, twin: FloatViT, frames: Sequence[np.ndarray],
                 **options: object) -> None:
    """Compare a packed model with the network quantised in memory, by what runs on the hardware."""
    expected = quantize(twin, frames, weights="model.safetensors", **options)
    found = Workload(load(path), CONFIGS["small"], frames[0])
    assert found.program.image == Workload(expected, CONFIGS["small"], frames[0]).program.image
    assert found.qvit.weights == "model.safetensors"


def test_checkpoint_and_images(tmp_path: Path, checkpoint: Path, images: Path) -> None:
    model = tmp_path / "model.hv"
    assert main([str(checkpoint), "--calibrate", str(images), "-o", str(model)]) == 0
    twin = FloatViT(TINY, synthetic(TINY, 0))
    assert_image(model, twin, [noise(TINY, i) for i in range(3)])
    assert main([str(checkpoint), "-o", str(model), "--percentile", "99"]) == 0
    assert_image(model, twin, calibration_frames(TINY.image_size), percentile=99.0)


def test_calibration_on_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = calibration_images(Path("scenes"), 120, 3)
    expected = fixed_set("train", 3)
    assert len(found) == 3 and np.array_equal(found[2], expected.rgb(2))
    # A folder that has the name is a folder.
    monkeypatch.chdir(tmp_path)
    Path("scenes").mkdir()
    Image.fromarray(noise(TINY, 0)).save("scenes/a.png")
    (frame,) = calibration_images(Path("scenes"), TINY.image_size, 3)
    assert np.array_equal(frame, noise(TINY, 0))


def test_same_bytes_in_another_place(tmp_path: Path, checkpoint: Path, images: Path) -> None:
    other = tmp_path / "other" / checkpoint.name
    other.parent.mkdir()
    other.write_bytes(checkpoint.read_bytes())
    for path, name in ((checkpoint, "a.hv"), (other, "b.hv")):
        assert main([str(path), "--calibrate", str(images), "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.hv").read_bytes() == (tmp_path / "b.hv").read_bytes()


def test_command_line(tmp_path: Path, checkpoint: Path, images: Path,
                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["golden.quantize", str(checkpoint), "--calibrate",
                                      str(images), "-o", str(tmp_path / "model.hv")])
    monkeypatch.delitem(sys.modules, "golden.quantize")
    with pytest.raises(SystemExit) as end:
        runpy.run_module("golden.quantize", run_name="__main__")
    assert end.value.code == 0
    assert load(tmp_path / "model.hv").model == TINY


def test_report(capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoint: Path,
                images: Path) -> None:
    model, file = tmp_path / "model.hv", tmp_path / "report.json"
    assert main([str(checkpoint), "--calibrate", str(images), "--images", "2", "-o", str(model),
                 "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert (report["images"], report["weights"]) == (2, "model.safetensors")
    assert report["bytes"] == model.stat().st_size
    layers = {layer["stage"]: layer for layer in report["layers"]}
    assert list(layers)[:3] == ["embed.residual", "block0.norm1", "block0.q"]
    assert list(layers)[-2:] == ["head.norm", "logits"]
    text = capsys.readouterr().out
    worst = max(layers.values(), key=lambda layer: layer["harm"])
    assert f"These hurt most: {worst['stage']} ({worst['harm']:.0%})" in text
    assert f"{worst['sqnr']:.1f}" in text


def test_synthetic_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["tiny_test", "-o", str(tmp_path / "model.hv"), "--selector", "threshold",
                 "--blocks", "1"]) == 0
    assert "SYNTHETIC" in capsys.readouterr().out
    qvit = load(tmp_path / "model.hv")
    assert qvit.weights == "synthetic"
    assert len(qvit.classifiers) == 1


def test_hugging_face_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hugging_face(VIT, replace(SMALL, distilled=False)).save_pretrained(tmp_path / "hub")
    assert main([str(tmp_path / "hub"), "-o", str(tmp_path / "model.hv")]) == 0
    model = load(tmp_path / "model.hv").model
    assert (model.heads, model.eps, model.distilled) == (2, 1e-12, False)


# Selectors


def test_topk(tmp_path: Path, checkpoint: Path, images: Path) -> None:
    model = tmp_path / "model.hv"
    assert main([str(checkpoint), "--calibrate", str(images), "-o", str(model), "--selector",
                 "topk", "--blocks", "1", "--keep-counts", "4", "--package", "merged"]) == 0
    pruning = PruningConfig(selector="topk", blocks=(1,), counts=(4,), package="merged")
    assert load(model).pruning == pruning
    assert_image(model, FloatViT(TINY, synthetic(TINY, 0)), [noise(TINY, i) for i in range(3)],
                 pruning=pruning)


def test_trained_selectors(tmp_path: Path, images: Path,
                           capsys: pytest.CaptureFixture[str]) -> None:
    state, selector = synthetic(TINY, 0), random_selector(TINY, 0, 0.1)
    named = {f"selectors.0.{name}": value for name, value in selector.items()}
    path, model = write(tmp_path / "model.safetensors", state | named), tmp_path / "model.hv"
    arguments = [path, "--calibrate", images, "-o", model, "--selector", "threshold", "--blocks"]
    assert main([*map(str, arguments), "1"]) == 0
    assert_image(model, FloatViT(TINY, state), [noise(TINY, i) for i in range(3)],
                 pruning=PruningConfig(selector="threshold", blocks=(1,)), selectors=[selector])
    assert fault(capsys, path, "-o", model) == (
        "model.safetensors has the parameters of 1 selectors, must have those of 0 for selector"
        " none")
    write(path, state)
    assert fault(capsys, *arguments, "1") == (
        "model.safetensors has the parameters of 0 selectors, must have those of 1 for selector"
        " threshold")
    del named["selectors.0.embed.bias"]
    write(path, state | named)
    assert "embed.bias" in fault(capsys, *arguments, "1")


@pytest.mark.parametrize("pruning", [
    PruningConfig(blocks=(1,), package="merged"),
    PruningConfig(selector="topk", blocks=(1,), rates=(0.5,), package="merged")], ids=str)
def test_weights_say_what_is_not_given(tmp_path: Path, images: Path, pruning: PruningConfig,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    path, model = tmp_path / "model.safetensors", tmp_path / "model.hv"
    state = synthetic(TINY, 0)
    if pruning.selector == "threshold":
        state |= {f"selectors.0.{name}": value
                  for name, value in random_selector(TINY, 0, 0.1).items()}
    save_weights(path, state, asdict(pruning))
    arguments = [str(path), "--calibrate", str(images), "-o", str(model)]
    assert main(arguments) == 0
    assert load(model).pruning == pruning
    first = model.read_bytes()
    assert main([*arguments, "--selector", pruning.selector, "--blocks", "1", "--package",
                 "merged"]) == 0
    assert model.read_bytes() == first
    for option, value, right in (("selector", "none", pruning.selector), ("blocks", "2,3", "1"),
                                 ("package", "each", "merged")):
        assert fault(capsys, *arguments, f"--{option}", value) == (
            f"--{option} is {value}, must be {right} as in the weights, or left out")


def test_what_is_kept_may_be_another_than_in_the_weights(tmp_path: Path, images: Path) -> None:
    path, model = tmp_path / "model.safetensors", tmp_path / "model.hv"
    save_weights(path, synthetic(TINY, 0), asdict(
        PruningConfig(selector="topk", blocks=(1,), rates=(0.5,))))
    assert main([str(path), "--calibrate", str(images), "-o", str(model), "--keep-counts",
                 "4"]) == 0
    assert load(model).pruning == PruningConfig(selector="topk", blocks=(1,), counts=(4,))


# Simulation


def test_simulation_takes_packed_models(tmp_path: Path, checkpoint: Path) -> None:
    model = tmp_path / "model.hv"
    assert main([str(checkpoint), "-o", str(model), "--selector", "topk", "--blocks", "1"]) == 0
    expected = load(model)
    work = Workload.named("tiny_test", CONFIGS["tiny"], checkpoint=model)
    assert work.qvit.weights == "model.safetensors"
    assert work.selector == "topk"
    assert work.program.image == Workload(expected, CONFIGS["tiny"], work.frame).program.image
    assert quantized(TINY, model, expected.pruning).pruning == expected.pruning
    for network, pruning, sentence in (
        (SMALL, None, f"packed model {model} is of tiny_test, must be of small_test"),
        (TINY, PruningConfig(selector="topk", blocks=(1,), counts=(1,)),
         "each, what is asked for is topk before blocks 1 that keeps 1 patches, package each")):
        with pytest.raises(PackedError) as error:
            quantized(network, model, pruning)
        assert sentence in str(error.value)


# Images for calibration


def test_images_are_taken_evenly(images: Path) -> None:
    def numbers(most: int) -> list[int]:
        frames = calibration_images(images, TINY.image_size, most)
        return [next(i for i in range(3) if np.array_equal(frame, noise(TINY, i)))
                for frame in frames]

    assert [numbers(most) for most in (1, 2, 3, 9)] == [[0], [0, 1], [0, 1, 2], [0, 1, 2]]


def test_images_of_other_sizes_are_cropped(images: Path) -> None:
    for file in images.rglob("*.png"):
        np.testing.assert_array_equal(calibration_images(file.parent, 32, 1)[0],
                                      load_image(file, 32))


def test_faults_of_images(tmp_path: Path) -> None:
    for folder, most, sentence in (
        (tmp_path, 1, f"the folder {tmp_path} has 0 images, must have at least 1"),
        (tmp_path / "none", 1, "is no folder, must be one with images for calibration"),
        (tmp_path, 0, "the number of images is 0, must be at least 1"),
    ):
        with pytest.raises(ImageError) as error:
            calibration_images(folder, 48, most)
        assert str(error.value).endswith(sentence)


# Faults


def test_faults(capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoint: Path) -> None:
    model = tmp_path / "model.hv"
    assert fault(capsys, checkpoint, "-o", tmp_path / "model.bin") == (
        f"the name of the packed model is {tmp_path / 'model.bin'}, must end with .hv")
    assert fault(capsys, checkpoint, "-o", tmp_path / "none" / "model.hv").endswith(
        "does not exist")
    assert fault(capsys, checkpoint, "-o", model, "--model", "small_test").endswith(
        "must be (1, 1, 96) in small_test")
    assert fault(capsys, "tiny_test", "-o", model, "--model", "tiny_test") == (
        "--model is given for tiny_test, must be for checkpoints")
    assert fault(capsys, checkpoint, "-o", model, "--functions", "none").startswith(
        "functions are 'none', must be one of")
    assert fault(capsys, checkpoint, "-o", model, "--percentile", "20") == (
        "percentile is 20.0, must be between 50 and 100")
    assert fault(capsys, checkpoint, "-o", model, "--selector", "topk", "--blocks", "2").startswith(
        "a selector is at block 2")
    checkpoint.write_bytes(checkpoint.read_bytes()[:9999])
    assert "is truncated or corrupt" in fault(capsys, checkpoint, "-o", model)
    assert not model.exists()


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda state: state.pop("norm.bias"), "lacks parameter norm.bias"),
    (lambda state: state.update({"norm.bias": torch.zeros(3)}),
     "is (3,), must be (64,) in tiny_test"),
    (lambda state: state.update({"blocks.0.ls1.gamma": torch.zeros(64)}),
     "has layer scale (blocks.0.ls1.gamma), which is not supported"),
    (lambda state: state.update({"adapter.weight": torch.zeros(64)}),
     "has an unexpected parameter adapter.weight, which tiny_test has not"),
])
def test_broken_checkpoints(capsys: pytest.CaptureFixture[str], tmp_path: Path, change: object,
                            sentence: str) -> None:
    state = synthetic(TINY, 0)
    change(state)
    path = write(tmp_path / "model.pth", state)
    assert fault(capsys, path, "-o", tmp_path / "model.hv").endswith(sentence)


def test_other_activation(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                          checkpoint: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_act": "relu"}')
    assert fault(capsys, checkpoint, "-o", tmp_path / "model.hv") == (
        f"the activation in {tmp_path / 'config.json'} is relu, must be gelu")


@pytest.mark.slow
@pytest.mark.parametrize("naming", ["timm", "Hugging Face"])
@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_deit_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str,
                    naming: str) -> None:
    """All sizes of DeiT go from a file to a program."""
    if size != "tiny":
        monkeypatch.setattr("golden.quantize_command.layer_report", lambda *_: [])
    timm = naming == "timm"
    model = MODELS[f"deit_{size}" if timm else f"deit_{size}_distilled"]
    path = write(tmp_path / "model.safetensors", synthetic(model, 0) if timm
                 else published(hugging_face(TEACHER, model).state_dict()))
    (tmp_path / "images").mkdir()
    Image.fromarray(noise(model, 0)).save(tmp_path / "images" / "a.png")
    assert main([str(path), "--calibrate", str(tmp_path / "images"), "-o",
                 str(tmp_path / "model.hv")]) == 0
    work = Workload.named(model.name, CONFIGS["zcu102"], checkpoint=tmp_path / "model.hv")
    assert work.program.image
    assert work.qvit.model.eps == (1e-6 if timm else 1e-12)
