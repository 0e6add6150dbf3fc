# SPDX-License-Identifier: BSD-2-Clause
"""The folder that goes to a board: the model file, what is beside it, and how it is refused."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from golden.images import calibration_frames, load_image
from golden.model import FloatViT, ModelConfig
from golden.network import LoweredNetwork
from golden.pruning import PruningConfig
from golden.quantize import quantize
from golden.synthetic import synthetic
from platforms import driver_interface
from platforms.deploy import (
    DRIVERS,
    MODEL_FILE,
    deployment_of,
    main,
    pack,
    write_deploy,
)
from rtl.config import named
from rtl.logits import output_bytes

MODEL = ModelConfig(name="deploy_test", image_size=24, patch=8, width=32, depth=2, heads=2,
                    hidden=48, classes=10, distilled=True)


@pytest.fixture(scope="module")
def network() -> LoweredNetwork:
    frames = calibration_frames(MODEL.image_size)
    pruning = PruningConfig(selector="topk", blocks=(1,), counts=(5,))
    qvit = quantize(FloatViT(MODEL, synthetic(MODEL, 2)), frames, weights="synthetic",
                    pruning=pruning)
    return LoweredNetwork(qvit, named("tiny"), frames[0])


@pytest.fixture(scope="module")
def folder(network: LoweredNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deploy")
    write_deploy(path, network)
    return path


@pytest.fixture(scope="module")
def heatvit(folder: Path) -> Iterator[Any]:
    """The driver in Python as it is shipped."""
    sys.path.insert(0, str(folder / "python"))
    yield importlib.import_module("heatvit")
    sys.path.remove(str(folder / "python"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "heatvit"]:
        del sys.modules[name]


def test_model_file(network: LoweredNetwork, folder: Path, heatvit: Any) -> None:
    """What the driver reads from the file is what went into it."""
    model = heatvit.ModelFile(folder / MODEL_FILE)
    program, fields = network.program, model.fields
    logits, top_class, _ = network.expected
    assert model.name == MODEL.name and model.image == program.image
    assert model.sample == network.frame.tobytes()
    assert model.expected == (*logits, top_class, network.tokens[-1])
    assert model.logit_step == program.logit_step
    assert {name: fields[name] for name in driver_interface.identity(program.config)} == (
        driver_interface.identity(program.config))
    assert [fields[name] for name in ("tokens", "special", "patches", "selectors", "images",
                                      "image_size", "frame_bytes", "output_bytes")] == [
        11, 2, 9, 1, 1, 24, 24 * 24 * 3, output_bytes(10)]
    # Images take turns in the residual.
    assert fields["row_step"] == program.first_row(1) - program.first_row(0) == 11
    assert all(fields[name] % 4096 == 0 for name in
               ("model_offset", "sample_offset", "expected_offset"))


def test_the_same_to_the_byte(network: LoweredNetwork, folder: Path) -> None:
    assert pack(network) == (folder / MODEL_FILE).read_bytes()


@pytest.mark.parametrize("change, error", [
    (lambda data: b"", "NOT_A_MODEL"),
    (lambda data: b"\x7fELF" + data[4:], "NOT_A_MODEL"),
    (lambda data: data[:4] + b"\2" + data[5:], "FORMAT"),
    (lambda data: data[:200], "TRUNCATED"),
    (lambda data: data[:-1], "TRUNCATED"),
    (lambda data: data + b"\0", "TRUNCATED"),
    (lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:], "CORRUPT"),
    (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "CORRUPT"),
])
def test_broken_model_file(folder: Path, heatvit: Any, change: Any, error: str) -> None:
    data = change((folder / MODEL_FILE).read_bytes())
    with pytest.raises(heatvit.HeatViTError) as caught:
        heatvit.ModelFile(data)
    assert caught.value.name == error
    assert caught.value.code == driver_interface.DRIVER_ERRORS[error].code
    assert not caught.value.from_core


@pytest.fixture(scope="module")
def frame_of(heatvit: Any) -> Any:
    return importlib.import_module("heatvit.picture").frame_of


def test_frame_of_a_picture(frame_of: Any, tmp_path: Path) -> None:
    """The driver cuts a frame from a picture as the golden model does."""
    pixels = np.random.default_rng(1).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    np.testing.assert_array_equal(frame_of(tmp_path / "picture.png", 24),
                                  load_image(tmp_path / "picture.png", 24))


def test_frame_of_a_frame(frame_of: Any, folder: Path, tmp_path: Path) -> None:
    frame = frame_of(folder / "sample.rgb", 24)
    np.testing.assert_array_equal(frame, np.asarray(Image.open(folder / "sample.png")))
    (tmp_path / "short.rgb").write_bytes(bytes(100))
    with pytest.raises(ValueError, match="short.rgb has 100 bytes, must have 1728"):
        frame_of(tmp_path / "short.rgb", 24)


def test_command_for_pictures(folder: Path, tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "heatvit.picture", *arguments],
                              cwd=folder / "python", capture_output=True, text=True)

    frame = tmp_path / "frame.rgb"
    result = run(folder / "sample.png", "24", frame)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert frame.stat().st_size == 3 * 24 * 24
    for arguments, status, message in (
        (("sample.png",), 2, "the following arguments are required: size, frame"),
        (("sample.png", "large", frame), 2, "invalid int value: 'large'"),
        (("none.png", "24", frame), 2, "No such file or directory: "),
        ((folder / "sample.png", "0", frame), 2, "heatvit.picture: "),
    ):
        result = run(*arguments)
        assert result.returncode == status
        assert message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(("command", "said"), [
    (["heatvit.picture", "../sample.png", "24", "frame.rgb"],
     "heatvit.picture: ../sample.png cannot be read without Pillow, which is not installed"),
    (["heatvit", "heatvit.bit", f"../{MODEL_FILE}"],
     "heatvit: heatvit.bit cannot be loaded without PYNQ, which cannot be imported: No module")])
def test_commands_without_their_packages(folder: Path, tmp_path: Path, command: list[str],
                                         said: str) -> None:
    for name in ("PIL", "pynq"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError({f'No module named {name!r}'!r})")
    result = subprocess.run([sys.executable, "-m", *command], cwd=folder / "python",
                            capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.startswith(said) and result.stderr.count("\n") == 1


def test_beside_the_model(network: LoweredNetwork, folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    logits, top_class, stages = network.expected
    assert expected == {"logits": list(logits), "top_class": top_class,
                        "tokens": list(network.tokens),
                        "kept": [stages["selector0.kept"].tolist()]}
    assert (folder / "sample.rgb").read_bytes() == network.frame.tobytes()
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "sample.png")), network.frame)
    text = (folder / "README.md").read_text()
    for word in text.split("`")[1::2]:
        if re.fullmatch(r"\w+\.\w+", word):
            assert (folder / word).exists(), word


@pytest.mark.parametrize("name", ["heatvit", "heatvit_linux", "heatvit_baremetal", "classify"])
@pytest.mark.parametrize("flags", [["-O2"], ["-O0", "-pedantic", "-Wconversion"]], ids=" ".join)
def test_c_compiles(folder: Path, tmp_path: Path, name: str, flags: list[str]) -> None:
    """All of it, as C99 and without a warning; the core of the driver needs no system."""
    freestanding = ["-ffreestanding"] if name in ("heatvit", "heatvit_baremetal") else []
    result = subprocess.run(["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", *flags,
                             *freestanding, "-c", "-o", tmp_path / "object",
                             folder / "c" / f"{name}.c"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    if freestanding:
        symbols = subprocess.run(["nm", "-u", tmp_path / "object"], capture_output=True, text=True,
                                 check=True).stdout
        needed = {line.split()[-1] for line in symbols.splitlines()}
        assert {symbol for symbol in needed if not symbol.startswith("heatvit")} <= {
            "memcpy", "memset", "_GLOBAL_OFFSET_TABLE_"}


def test_makefile(folder: Path) -> None:
    result = subprocess.run(["make", "-C", folder / "c"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    usage = subprocess.run([folder / "c" / "classify"], capture_output=True, text=True)
    assert usage.returncode == 2 and usage.stderr.startswith("usage: ")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "tiny_test", "--depth", "1", "-o", str(tmp_path / "out")]) == 0
    assert "tiny_test, depth 1 for tiny, weights: synthetic" in capsys.readouterr().out
    for source in [*DRIVERS.glob("c/*"), *DRIVERS.glob("python/heatvit/*.py")]:
        assert (tmp_path / "out" / source.relative_to(DRIVERS)).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("arguments, message", [
    (["--model", "deit_tiny"], "deit_tiny needs 197 tokens, 85 more than max_tokens"),
    (["--model", "tiny_test", "--depth", "3"], "the depth is 3, must be between 1 and 2"),
    (["--model", "tiny_test", "--depth", "1", "--weights", "x.hv"], "must be without them"),
    (["--weights", "x.pth"], "the weights are x.pth, must be a packed model, .hv"),
    (["--config", "huge"], "no configuration is called 'huge'"),
])
def test_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str],
                 message: str) -> None:
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_scenes_are_trained() -> None:
    network = deployment_of("scenes", named("tiny"))
    assert network.qvit.weights == "threshold_int8.safetensors"
    assert network.expected[1] == 4
