# SPDX-License-Identifier: BSD-2-Clause
"""The command ``python -m sim.adaptive``: pictures, one program, different numbers of tokens."""

import json
from pathlib import Path

import numpy as np
import pytest

from golden.images import load_image
from golden.synthetic_selector import composed
from sim import adaptive
from sim.adaptive import compose, main


def test_the_network_sees_what_is_composed(tmp_path: Path) -> None:
    files = compose(224, tmp_path / "pictures")
    assert len(files) == 8
    for i, file in enumerate(files):
        assert np.array_equal(load_image(file, 224), composed(224, i / 7, 500 + i)), file


def test_adaptive(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive, "_COMPOSED", tmp_path / "pictures")
    path = tmp_path / "result.json"
    assert main(["--model", "tiny_test", "--config", "tiny", "--blocks", "1", "--json",
                 str(path), "--output", str(tmp_path / "out")]) == 0
    result = json.loads(path.read_text())
    assert result["bit_exact"] and result["host_accesses"] == 0
    assert [image["host_accesses"] for image in result["images"]] == [0] * 8
    counts = {len(image["kept"][0]) for image in result["images"]}
    assert len(counts) >= 4
    assert len(list((tmp_path / "out").iterdir())) == 8
    assert (f"{len(counts)} different numbers of patches kept, with one program and 0 accesses"
            in capsys.readouterr().out)


def test_too_few_different_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive, "_COMPOSED", tmp_path / "pictures")
    assert main(["--model", "tiny_test", "--config", "tiny", "--blocks", "1", "--selector", "topk",
                 "--output", str(tmp_path / "out")]) == 1
