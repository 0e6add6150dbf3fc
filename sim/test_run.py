# SPDX-License-Identifier: BSD-2-Clause
"""The command ``python -m sim.run``: what it reports, and one sentence for each bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from golden.model import model_named
from golden.synthetic import synthetic
from rtl.isa import Stall
from sim import workload
from sim.run import main
from sim.workload import Workload

KEYS = {"model": str, "config": str, "weights": str, "image": str, "cycles": int, "macs": int,
        "macs_per_cycle": int, "mac_utilization": float, "clock_mhz": int,
        "images_per_second": float, "dram_bytes_read": int, "dram_bytes_written": int,
        "stages_compared": int, "stages_equal": int, "first_mismatch": type(None),
        "bit_exact": bool, "tokens": int, "top1": int, "stalls": dict}
TINY = ["--model", "tiny_test", "--config", "tiny"]
#: Stages of tiny_test: after the patches; 12 in each block, and 5 statistics of each LayerNorm;
#: those of the last LayerNorm; logits; what is in memory and in the register at the end.
STAGES = 1 + 2 * (12 + 2 * 5) + 5 + 1 + 4


def report(tmp_path: Path, *arguments: str, status: int = 0) -> dict:
    path = tmp_path / "result.json"
    assert main([*TINY, "--json", str(path), *arguments]) == status
    return json.loads(path.read_text())


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = report(tmp_path)
    assert {name: type(result[name]) for name in KEYS} == KEYS
    assert set(result["stalls"]) == {cause.lower() for cause in Stall.__members__}
    assert sum(result["stalls"].values()) <= result["cycles"]
    assert result["weights"] == "synthetic" and result["model"] == "tiny_test"
    assert result["bit_exact"] and result["first_mismatch"] is None
    assert result["stages_compared"] == result["stages_equal"] == STAGES
    assert result["macs"] == model_named("tiny_test").macs()
    assert result["mac_utilization"] == pytest.approx(result["macs"] / result["cycles"] / 256)
    assert result["images_per_second"] == pytest.approx(50e6 / result["cycles"])
    output = capsys.readouterr().out
    for text in ("block*.scores", "SYNTHETIC", "Bit exact", "images/s at 50 MHz"):
        assert text in output


def test_image_and_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, checkpoint = tmp_path / "noise.png", tmp_path / "weights.pth"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(image)
    torch.save(synthetic(model_named("tiny_test"), 9), checkpoint)
    result = report(tmp_path, "--image", str(image), "--checkpoint", str(checkpoint))
    assert result["bit_exact"]
    assert result["image"] == str(image) and result["weights"] == str(checkpoint)
    assert "SYNTHETIC" not in capsys.readouterr().out


def test_memory_options(tmp_path: Path) -> None:
    fast = report(tmp_path)
    slow = report(tmp_path, "--bytes-per-cycle", "2", "--latency", "300")
    stalled = report(tmp_path, "--stalls", "4")
    assert fast["bit_exact"] and slow["bit_exact"] and stalled["bit_exact"]
    assert fast["cycles"] < min(slow["cycles"], stalled["cycles"])
    assert slow["cycles"] > fast["dram_bytes_read"] / 2


def test_mismatch_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                              monkeypatch: pytest.MonkeyPatch) -> None:
    right = Workload.expected.func

    def wrong(workload: Workload) -> tuple:
        logits, top_class, stages = right(workload)
        hidden = stages["block1.hidden"].copy()
        hidden[3, 5] += 1
        return logits, top_class, stages | {"block1.hidden": hidden}

    monkeypatch.setattr(Workload, "expected", property(wrong))
    result = report(tmp_path, status=1)
    assert not result["bit_exact"]
    assert result["stages_equal"] == result["stages_compared"] - 1
    first = result["first_mismatch"]
    assert (first["stage"], first["position"]) == ("block1.hidden", [3, 5])
    assert first["expected"] == first["got"] + 1
    output = capsys.readouterr().out
    assert "Not bit exact" in output and "block1.hidden[3, 5]: expected" in output


@pytest.mark.parametrize("arguments, message", [
    (["--model", "vgg"], "no model is called 'vgg'"),
    (["--config", "huge"], "no configuration is called 'huge'"),
    (["--model", "small_test"], "32 more than max_width of configuration tiny, 64"),
    (["--image", "/nowhere.jpg"], "image /nowhere.jpg cannot be read: No such file"),
    (["--image", __file__], "is in no format that Pillow reads"),
    (["--checkpoint", "/nowhere.pth"], "checkpoint /nowhere.pth cannot be read: No such"),
    (["--checkpoint", __file__], "has the extension '.py'"),
    (["--bytes-per-cycle", "0"], "bytes per cycle is 0, must be between 1 and 4096"),
    (["--latency", "-1"], "latency is -1, must be between 1 and 100000"),
    (["--stalls", "-2"], "the seed of the stalls is -2, must be between 0 and"),
    (["--stalls", "4294967296"], "the seed of the stalls is 4294967296, must be between 0 and"),
    (["--json", "/nowhere/x.json"], "the folder of /nowhere/x.json does not exist"),
    (["--json", "/"], "/ is a folder, must be a file"),
])
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1 and "Traceback" not in error


def test_too_large_a_model_is_refused_before_quantisation(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "quantized", None)
    assert main(["--model", "deit_base", "--config", "kv260"]) == 2
    assert ("deit_base needs 768 residual channels, 384 more than max_width of configuration kv260,"
            " 384") in capsys.readouterr().err


def test_truncated_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pth"
    torch.save(synthetic(model_named("tiny_test"), 9), path)
    path.write_bytes(path.read_bytes()[:20_000])
    assert main([*TINY, "--checkpoint", str(path)]) == 2
    assert f"checkpoint {path} is truncated or corrupt" in capsys.readouterr().err
