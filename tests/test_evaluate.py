# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.evaluate: packed models, scenes and folders of images in, accuracies out."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import TINY, write
from networks import network, noise
from PIL import Image
from pruned_networks import pruned_network, random_selector

from golden import integer
from golden.cycles import CycleModel
from golden.evaluate import (
    Answer,
    Networks,
    accuracies,
    configuration,
    evaluate,
    main,
    mean_cycles,
)
from golden.folder import ImageFolder
from golden.images import normalise
from golden.lower import lower
from golden.model import FloatViT, model_named
from golden.packed import load, save
from golden.pruning import PrunedViT, PruningConfig, segment_macs
from golden.quantize import quantize
from golden.scenes import fixed_set
from golden.synthetic import synthetic
from rtl.config import ConfigError, named

TOPK = PruningConfig(selector="topk", blocks=(1,), counts=(4,))
THRESHOLD = PruningConfig(selector="threshold", blocks=(1,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven images in three folders of classes, as ImageNet has them."""
    for i in range(7):
        path = tmp_path / "val" / f"n{i % 3:08}" / f"ILSVRC2012_val_{i:08}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.tile(noise(TINY, i), (2, 3, 1))).save(path)
    return tmp_path / "val"


def packed(path: Path, pruning: PruningConfig | None, selectors: list = ()) -> Path:
    qvit = quantize(FloatViT(TINY, synthetic(TINY, 0)), [noise(TINY, i) for i in range(3)],
                    weights="model.safetensors", pruning=pruning, selectors=selectors)
    save(path, qvit)
    return path


def report(tmp_path: Path, *arguments: object) -> dict:
    path = tmp_path / "result.json"
    assert main([*map(str, arguments), "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_folder_end_to_end(tmp_path: Path, folder: Path,
                           capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write(tmp_path / "model.safetensors", synthetic(TINY, 0))
    model = packed(tmp_path / "model.hv", TOPK)
    result = report(tmp_path, model, "--data", folder, "--checkpoint", checkpoint)
    images, qvit = ImageFolder(folder), load(model)
    frames = [images.frame(i, TINY.image_size) for i in range(7)]
    twin = FloatViT(TINY, synthetic(TINY, 0))
    pruned = PrunedViT(twin, TOPK)
    tops = {"float": [int(twin(normalise(frame)[None]).argmax()) for frame in frames],
            "float, pruned": [int(pruned(normalise(frame)[None]).argmax()) for frame in frames],
            "int8, pruned": [integer.run(qvit, frame)[1] for frame in frames]}
    found = {network["network"]: network for network in result["networks"]}
    assert list(found) == ["float", "float, pruned", "int8", "int8, pruned"]
    for name, top in tops.items():
        assert found[name]["correct"] == sum(np.equal(top, images.labels)), name
        assert found[name]["images"] == result["images"] == 7
    agree = sum(np.equal(tops["int8, pruned"], tops["float, pruned"]))
    assert found["int8, pruned"]["agree"] == agree
    assert found["float"]["agree"] is None
    # The class token, 4 patches, a package.
    assert found["int8, pruned"]["tokens"] == found["float, pruned"]["tokens"] == [10, 6]
    assert found["int8, pruned"]["macs"] == sum(segment_macs(TINY, TOPK, [10, 6]))
    assert found["int8"]["tokens"] == [10] and found["int8"]["macs"] == TINY.macs()
    assert result["accelerator"] == {"config": "nano", "clock_mhz": 50, "bytes_per_cycle": 64,
                                     "latency": 100}
    assert result["functions"] == "exact"
    pruned_cycles = CycleModel(lower(qvit, named("nano"))).cycles((10, 6))
    assert found["int8, pruned"]["cycles"] == pruned_cycles
    assert found["int8, pruned"]["images_per_second"] == pytest.approx(50e6 / pruned_cycles)
    assert found["float"]["cycles"] is found["float"]["images_per_second"] is None
    text = capsys.readouterr().out
    assert "weights model.safetensors" in text and f"{agree / 7:.2%}" in text
    assert "SYNTHETIC" not in text
    assert "estimated for nano at 50 MHz, memory of 64 bytes per cycle, latency 100" in text
    assert f"{pruned_cycles:,}" in text


def test_cycles_are_the_mean_over_images() -> None:
    qvit = pruned_network("tiny_test", "threshold", "each", (1,), (0.0,)).qvit
    config = named("tiny")
    model = CycleModel(lower(qvit, config))
    few, many = (model.cycles(tokens) for tokens in ((10, 3), (10, 10)))
    assert few != many
    assert mean_cycles(qvit, config, [(10, 3), (10, 10), (10, 3)]) == (2 * few + many) / 3


def test_configuration() -> None:
    deit = model_named("deit_tiny")
    assert configuration(None, TINY, None) == named("nano")
    assert configuration("zcu102", TINY, THRESHOLD) == named("zcu102")
    found = configuration(None, deit, None)
    assert found is not None and found.max_tokens >= deit.tokens
    assert configuration(None, replace(deit, image_size=640), None) is None
    with pytest.raises(ConfigError, match="deit_tiny needs 197 tokens"):
        configuration("tiny", deit, None)


def test_other_functions_of_the_float_model(tmp_path: Path, folder: Path) -> None:
    checkpoint = write(tmp_path / "model.safetensors", synthetic(TINY, 0))
    save(tmp_path / "model.hv", network("tiny_test").qvit)
    result = report(tmp_path, tmp_path / "model.hv", "--data", folder, "--checkpoint", checkpoint,
                    "--functions", "heatvit")
    twin, images = FloatViT(TINY, synthetic(TINY, 0), "heatvit"), ImageFolder(folder)
    tops = [int(twin(normalise(images.frame(i, TINY.image_size))[None]).argmax())
            for i in range(7)]
    assert result["functions"] == "heatvit"
    assert result["networks"][0]["correct"] == sum(np.equal(tops, images.labels))
    answers = Networks(load(tmp_path / "model.hv"), checkpoint, "heatvit").floats["float"]
    assert answers.twin.functions == twin.functions


def test_without_checkpoint_and_selectors(tmp_path: Path, folder: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "model.hv", network("tiny_test").qvit)
    result = report(tmp_path, tmp_path / "model.hv", "--data", folder, "--count", 3)
    assert [network["network"] for network in result["networks"]] == ["int8"]
    assert result["images"] == 3 and result["split"] is None and result["pruning"] is None
    text = capsys.readouterr().out
    assert f"folders of classes, the network has {TINY.classes}" in text
    assert "SYNTHETIC" in text and "as float" not in text


def test_threshold_with_the_selectors_of_the_checkpoint(tmp_path: Path, folder: Path) -> None:
    selector = random_selector(TINY, 0, 0.1)
    checkpoint = write(tmp_path / "model.safetensors", synthetic(TINY, 0) | {
        f"selectors.0.{name}": value for name, value in selector.items()})
    model = packed(tmp_path / "model.hv", THRESHOLD, [selector])
    networks, images = Networks(load(model), checkpoint), ImageFolder(folder)
    answers = networks.answers(np.stack([images.frame(i, TINY.image_size) for i in range(7)]))
    vit = PrunedViT(FloatViT(TINY, synthetic(TINY, 0)), THRESHOLD, [selector])
    for i, answer in enumerate(answers):
        run = vit.run(normalise(images.frame(i, TINY.image_size)))
        assert answer["float, pruned"].tokens == (10, run.steps[0].tokens_out)
        stages = integer.run(load(model), images.frame(i, TINY.image_size))[2]
        assert answer["int8, pruned"].tokens == (10, int(stages["selector0.tokens"][0]))
    found = {a.network: a for a in accuracies(networks, images.labels, answers)}
    tokens = [answer["int8, pruned"].tokens for answer in answers]
    assert len(set(tokens)) > 1
    assert found["int8, pruned"].tokens == pytest.approx(np.mean(tokens, 0))
    assert found["int8, pruned"].macs == pytest.approx(np.mean(
        [sum(segment_macs(TINY, THRESHOLD, each)) for each in tokens]))


def test_dense_network_of_a_file_with_selectors() -> None:
    """Without its selectors it is the network that is quantised without them."""
    with_selectors, frame = pruned_network("tiny_test", "topk", "each", (1,), (4,)).qvit, noise(
        TINY, 5)
    answer = Networks(with_selectors).answers(frame[None])[0]["int8"]
    assert answer == Answer(integer.run(network("tiny_test").qvit, frame)[1], (10,))


def test_processes_say_the_same(folder: Path) -> None:
    qvit, images = network("tiny_test").qvit, ImageFolder(folder)
    order = [6, 0, 3, 3, 1]
    one, two = (list(evaluate(qvit, images, order, jobs=jobs)) for jobs in (1, 2))
    assert one == two and one[2] == one[3]
    assert one[0]["int8"].top == integer.run(qvit, images.frame(6, TINY.image_size))[1]


def test_error_in_a_process(folder: Path, tmp_path: Path,
                            capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "model.hv", network("tiny_test").qvit)
    broken = ImageFolder(folder).paths[3]
    broken.write_bytes(b"\xff\xd8\xff no image")
    assert main([str(tmp_path / "model.hv"), "--data", str(folder), "--jobs", "2"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("golden.evaluate: image") and broken.name in error
    assert error.count("\n") == 1


def test_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_named("scenes")
    state, scenes = synthetic(model, 0), fixed_set("validation", 3)
    save(tmp_path / "scenes.hv", quantize(FloatViT(model, state), [scenes.rgb(0)],
                                          weights="synthetic"))
    checkpoint = write(tmp_path / "scenes.safetensors", state)
    result = report(tmp_path, tmp_path / "scenes.hv", "--data", "scenes", "--count", 3,
                    "--split", "validation", "--checkpoint", checkpoint)
    assert (result["split"], result["images"], result["data"]) == ("validation", 3, "scenes")
    tops = [int(FloatViT(model, state)(normalise(scenes.rgb(i))[None]).argmax())
            for i in range(3)]
    assert result["networks"][0]["correct"] == sum(np.equal(tops, scenes.labels))
    assert "3 images of scenes (validation)" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["MODEL", "--data", "scenes"], "tiny_test has 16 classes, must have the 10 of scenes"),
    (["MODEL", "--data", "/nowhere"], "/nowhere is no folder, must be one with a folder for each"),
    (["MODEL", "--data", "DATA", "--count", "0"], "number of images is 0, must be at least 1"),
    (["MODEL", "--data", "DATA", "--functions", "heatvit"], "functions are given without a check"),
    (["MODEL", "--data", "DATA", "--config", "huge"], "no configuration is called 'huge'"),
    (["MODEL", "--data", "DATA", "--jobs", "0"], "number of jobs is 0, must be at least 1"),
    (["MODEL", "--data", "DATA", "--json", "/nowhere/x"], "the folder of /nowhere/x does not"),
    (["MODEL", "--data", "DATA", "--checkpoint", "/nowhere.pth"], "cannot be read"),
    (["/nowhere.hv", "--data", "DATA"], "packed model /nowhere.hv cannot be read"),
])
def test_bad_input(arguments: list[str], sentence: str, tmp_path: Path, folder: Path,
                   capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "model.hv", network("tiny_test").qvit)
    names = {"MODEL": str(tmp_path / "model.hv"), "DATA": str(folder)}
    assert main([names.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.startswith("golden.evaluate: ")
    assert error.count("\n") == 1
