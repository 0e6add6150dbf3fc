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
from golden.synthetic_selector import composed
from rtl.isa import Stall
from sim import workload
from sim.run import main
from sim.workload import Workload

KEYS = {"model": str, "config": str, "weights": str, "image": str, "cycles": int, "macs": int,
        "macs_per_cycle": int, "mac_utilization": float, "clock_mhz": int,
        "images_per_second": float, "dram_bytes_read": int, "dram_bytes_written": int,
        "stages_compared": int, "stages_equal": int, "first_mismatch": type(None),
        "bit_exact": bool, "tokens": int, "top1": int, "stalls": dict, "selector": str,
        "blocks": list, "package": type(None), "kept": list, "host_accesses": int,
        "pictures": list, "images": list, "last_block": str}
TINY = ["--model", "tiny_test", "--config", "tiny"]
#: Stages of tiny_test: after the patches; 12 in each block, and 5 statistics of each LayerNorm;
#: those of the last LayerNorm; logits; what is in memory and in the register at the end.
STAGES = 1 + 2 * (12 + 2 * 5) + 5 + 1 + 5


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


def test_rows_of_the_class_token_in_the_last_block(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = report(tmp_path)
    assert whole["last_block"] == "all" and "last block" not in capsys.readouterr().out
    few = report(tmp_path, "--last-block", "cls")
    assert few["last_block"] == "cls" and few["bit_exact"] and few["stages_compared"] == STAGES
    assert few["elements_compared"] < whole["elements_compared"]
    assert few["macs"] < whole["macs"] and few["stalls"]["busy"] < whole["stalls"]["busy"]
    assert few["top1"] == whole["top1"]
    assert "last block   cls, rows 1" in capsys.readouterr().out


def test_image_and_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, checkpoint = tmp_path / "noise.png", tmp_path / "weights.pth"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(image)
    torch.save(synthetic(model_named("tiny_test"), 9), checkpoint)
    result = report(tmp_path, "--image", str(image), "--checkpoint", str(checkpoint))
    assert result["bit_exact"]
    assert result["image"] == str(image) and result["weights"] == str(checkpoint)
    assert "SYNTHETIC" not in capsys.readouterr().out


def pictures(folder: Path, *covers: float) -> Path:
    """Write composed pictures and a file that is none, and return their folder."""
    folder.mkdir()
    for i, cover in enumerate(covers):
        Image.fromarray(composed(64, cover, 7)).save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_several_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictures(tmp_path / "in", 0, 0.5, 1)
    result = report(tmp_path, "--images", str(folder), str(folder / "1.png"))
    images = result["images"]
    assert [Path(image["image"]).name for image in images] == ["0.png", "1.png", "2.png", "1.png"]
    assert result["bit_exact"] and result["host_accesses"] == 0
    for name in ("cycles", "macs", "dram_bytes_read", "stages_compared", "elements_compared"):
        assert result[name] == sum(image[name] for image in images), name
    assert result["images_per_second"] == pytest.approx(4 * 50e6 / result["cycles"])
    assert result["stages_compared"] == 4 * STAGES
    assert result["image"] == images[0]["image"] and result["top1"] == images[0]["top1"]
    assert {**images[1], "image": ""} == {**images[3], "image": ""}
    assert images[0]["top1"] != images[1]["top1"] or images[0] != images[1]
    output = capsys.readouterr().out
    assert "4, one program" in output and "0 accesses between start and interrupt" in output


@pytest.mark.parametrize("selector", ["threshold", "topk"])
@pytest.mark.parametrize("package", ["each", "merged"])
def test_selectors(tmp_path: Path, selector: str, package: str,
                   capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = pictures(tmp_path / "in", 0, 1), tmp_path / "out"
    result = report(tmp_path, "--selector", selector, "--package", package, "--blocks", "1",
                    "--images", str(folder), "--output", str(output))
    assert result["bit_exact"] and result["selector"] == selector
    assert result["blocks"] == [1] and result["package"] == package
    assert result["selector_weights"] == ("synthetic" if selector == "threshold" else None)
    images = result["images"]
    assert result["tokens"] == [image["tokens"] for image in images]
    assert result["kept"] == [image["kept"] for image in images]
    for image in images:
        (kept,), (tokens,) = image["kept"], image["tokens"]
        assert kept == sorted(set(kept)) and set(kept) <= set(range(9))
        assert tokens == 1 + len(kept) + (len(kept) < 9)
        assert image["macs"] < model_named("tiny_test").macs() or len(kept) == 9
        with Image.open(image["picture"]) as picture:
            assert picture.format == "PNG"
    assert result["pictures"] == [str(output / "1-0.png"), str(output / "2-1.png")]
    if selector == "topk":
        assert result["tokens"] == [[1 + 7 + 1]] * 2
    else:
        assert len(result["kept"][0][0]) < len(result["kept"][1][0])
    text = capsys.readouterr().out
    assert ("SYNTHETIC (fitted to keep dark patches)" in text) == (selector == "threshold")
    assert "selector*.package" in text and "register.dropped" in text


def test_one_image_with_selectors(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = report(tmp_path, "--selector", "topk", "--keep-counts", "4", "--blocks", "1")
    assert result["bit_exact"] and result["tokens"] == [[6]] and len(result["kept"][0][0]) == 4
    assert result["pictures"] == ["build/run/1-china.png"]
    assert (tmp_path / "build" / "run" / "1-china.png").exists()
    output = capsys.readouterr().out
    assert "before block" in output and "picture build/run/1-china.png" in output
    assert "10, 6" in output


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
    (["--selector", "best"], "selector is 'best', must be one of threshold, topk, none"),
    (["--selector", "topk", "--blocks", "1", "--keep", "0"],
     "keep rate is 0.0, must be above 0 and at most 1"),
    (["--selector", "topk", "--blocks", "1", "--keep", "1.5"],
     "keep rate is 1.5, must be above 0 and at most 1"),
    (["--selector", "topk", "--blocks", "1", "--keep-counts", "10"],
     "keep count at block 1 is 10, must be at most the 9 patches there"),
    (["--selector", "topk", "--blocks", "1", "--keep-counts", "3,2"],
     "there are 2 keep counts, must be one for each of 1 selectors"),
    (["--selector", "topk", "--blocks", "0"], "a selector is at block 0, must be at block 1"),
    (["--selector", "threshold", "--blocks", "2"],
     "a selector is at block 2, must be at block 1 or earlier in tiny_test"),
    (["--selector", "threshold"], "a selector is at block 3, must be at block 1 or earlier"),
    (["--selector", "threshold", "--blocks", "1", "--keep", "0.5"],
     "keep rates are given for selector threshold, must be for topk only"),
    (["--keep", "0.5"], "keep rates are given for selector none, must be for topk only"),
    (["--package", "two"], "package is 'two', must be one of each, merged"),
    (["--images", "/nowhere.jpg"], "image /nowhere.jpg cannot be read: No such file"),
    (["--images", str(Path(__file__).parent)], "has 0 images, must have at least 1"),
    (["--selector", "topk", "--blocks", "1", "--output", __file__], "is a file, must be a folder"),
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
