# SPDX-License-Identifier: BSD-2-Clause
"""Tests of the command ``python -m golden.prune``."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from golden.model import model_named
from golden.prune import main
from golden.synthetic import synthetic
from golden.synthetic_selector import composed

TINY, SMALL = model_named("tiny_test"), model_named("small_test")


def report(tmp_path: Path, *arguments: str, model: str = "small_test") -> dict:
    path = tmp_path / "result.json"
    assert main(["--model", model, "--blocks", "1", "--output", str(tmp_path / "pictures"),
                 "--json", str(path), *arguments]) == 0
    # NaN and Infinity are no JSON.
    return json.loads(path.read_text(), parse_constant=pytest.fail)


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Two pictures of the same name, whose centre 7/8 is empty and full."""
    names = []
    for folder, cover in (("empty", 0.0), ("full", 1.0)):
        (tmp_path / folder).mkdir()
        names.append(str(tmp_path / folder / "a.png"))
        Image.fromarray(composed(112, cover, 3)).save(names[-1])
    return names


def test_threshold(tmp_path: Path, images: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    result = report(tmp_path, "--images", *images)
    output = capsys.readouterr().out
    assert {name: result[name] for name in ("model", "weights", "seed", "selector", "blocks",
                                            "selector_weights", "package")} == {
        "model": "small_test", "weights": "synthetic", "seed": 0, "selector": "threshold",
        "blocks": [1], "selector_weights": "synthetic", "package": "each"}
    assert "SYNTHETIC (seeded random numbers, seed 0)" in output
    assert "SYNTHETIC (fitted to keep dark patches, seed 0)" in output
    empty, full = result["images"]
    assert [empty["image"], full["image"]] == images
    assert empty["kept"] == [[]] and empty["tokens"] == [38, 3]
    assert len(full["kept"][0]) > 18 and full["macs"] > empty["macs"]
    assert result["dense_macs"] == SMALL.macs()
    for image in result["images"]:
        (selector,), (kept,) = image["selectors"], image["kept"]
        assert selector == {"block": 1, "tokens_in": 38, "patches": 36, "kept": len(kept),
                            "package": len(kept) < 36, "tokens_out": image["tokens"][1]}
        assert kept == sorted(set(kept)) and set(kept) <= set(range(36))
        assert f"{image['macs'] / 1e9:.3f} GMAC of {SMALL.macs() / 1e9:.3f}" in output
        assert f"top class {image['top1']}, of synthetic weights" in output
        with Image.open(image["picture"]) as picture:
            assert picture.format == "PNG" and picture.width > 300
    assert empty["picture"] != full["picture"]


@pytest.mark.parametrize(("arguments", "tokens"), [
    (["--keep", "0.7"], [38, 2 + 26 + 1]), ([], [38, 2 + 26 + 1]),
    (["--keep", "0.5", "--package", "merged"], [38, 2 + 18 + 1]),
    (["--keep-counts", "36"], [38, 38]), (["--keep-counts", "0"], [38, 3])])
def test_topk(tmp_path: Path, arguments: list[str], tokens: list[int],
              capsys: pytest.CaptureFixture[str]) -> None:
    result = report(tmp_path, "--selector", "topk", *arguments)
    assert result["selector_weights"] is None
    (image,) = result["images"]
    assert image["image"] == "china.jpg (scikit-learn)" and image["tokens"] == tokens
    assert "fitted" not in capsys.readouterr().out


def test_rates_of_several_selectors(tmp_path: Path) -> None:
    arguments = ["--model", "deit_tiny", "--selector", "topk", "--json", str(tmp_path / "x.json"),
                 "--output", str(tmp_path)]
    for keep, kept in (("0.7", [138, 97, 68]), ("0.617,0.369,0.137", [121, 73, 27])):
        assert main([*arguments, "--keep", keep]) == 0
        (image,) = json.loads((tmp_path / "x.json").read_text())["images"]
        assert [len(places) for places in image["kept"]] == kept


def test_none_is_dense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = report(tmp_path, "--selector", "none")
    (image,) = result["images"]
    assert result["blocks"] == [] and result["package"] is None
    assert (image["macs"], image["tokens"], image["kept"]) == (SMALL.macs(), [38], [])
    assert "100.0%" in capsys.readouterr().out


def test_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "weights.pth"
    torch.save(synthetic(TINY, 9), checkpoint)
    result = report(tmp_path, "--checkpoint", str(checkpoint), model="tiny_test")
    assert (result["weights"], result["seed"]) == (str(checkpoint), None)
    output = capsys.readouterr().out
    assert "seeded random" not in output and "fitted to keep dark patches" in output
    assert "of synthetic weights" not in output
    assert np.isfinite(result["images"][0]["macs"])


@pytest.mark.parametrize(("arguments", "message"), [
    (["--model", "vgg"], "no model is called 'vgg'"),
    (["--selector", "best"], "selector is 'best', must be one of threshold, topk, none"),
    (["--package", "two"], "package is 'two', must be one of each, merged"),
    (["--blocks", "0"], "a selector is at block 0, must be at block 1 or later"),
    (["--blocks", "2"], "a selector is at block 2, must be at block 1 or earlier in tiny_test"),
    (["--keep", "0.5"], "keep rates are given for selector threshold, must be for topk only"),
    (["--selector", "topk", "--keep", "1.5"], "keep rate is 1.5, must be above 0 and at most 1"),
    (["--selector", "topk", "--keep", "0"], "keep rate is 0.0, must be above 0 and at most 1"),
    (["--selector", "topk", "--keep", "nan"], "keep rate is nan, must be above 0 and at most 1"),
    (["--selector", "topk", "--keep-counts", "10"],
     "keep count at block 1 is 10, must be at most the 9 patches there"),
    (["--selector", "topk", "--keep-counts", "3,2"],
     "there are 2 keep counts, must be one for each of 1 selectors"),
    (["--images", "/nowhere.jpg"], "image /nowhere.jpg cannot be read: No such file"),
    (["--checkpoint", "/nowhere.pth"], "checkpoint /nowhere.pth cannot be read: No such"),
    (["--json", "/nowhere/x.json"], "the folder of /nowhere/x.json does not exist"),
    (["--json", "/"], "/ is a folder, must be a file"),
    (["--output", __file__], "is a file, must be a folder"),
])
def test_bad_input(tmp_path: Path, arguments: list[str], message: str,
                   capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "tiny_test", "--blocks", "1", "--output", str(tmp_path),
                 *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("golden.prune: ") and message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (["--keep", "much"], "'much' is no list of numbers as in 0.7,0.5"),
    (["--keep-counts", "1.5"], "'1.5' is no list of whole numbers as in 3,6"),
    (["--blocks", ""], "'' is no list of whole numbers as in 3,6"),
    (["--keep", "0.5", "--keep-counts", "1"], "not allowed with argument --keep")])
def test_what_is_no_list(arguments: list[str], message: str,
                         capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("selector", ["threshold", "topk", "none"])
def test_integers_beside_the_float_twin(tmp_path: Path, images: list[str], selector: str,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    result = report(tmp_path, "--integers", "--selector", selector, "--images", *images)
    output = capsys.readouterr().out
    for image in result["images"]:
        selectors = image["integers"]["selectors"]
        assert len(selectors) == len(result["blocks"]) == len(image["kept"])
        assert f"integers: top class {image['integers']['top1']}, of synthetic" in output
        for found, kept in zip(selectors, image["kept"], strict=True):
            assert found["both"] == 36
            assert found["same"] == 36 - len(set(found["kept"]) ^ set(kept)) >= 30
            assert (f"integers, selector 0: kept {len(found['kept'])}, decided alike"
                    f" {found['same']} of 36; score {found['score']:.1f} dB" in output)
            assert (found["package"] is None) == (len(kept) == 36)
            if found["package"] is not None:
                assert found["package"] > 10 and f"; package {found['package']:.1f} dB" in output


def test_output_is_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    # Permissions do not bind every user that runs tests.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    path = tmp_path / "x.json"
    assert main(["--model", "tiny_test", "--blocks", "1", "--json", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"golden.prune: {path} cannot be written: permission denied\n")
