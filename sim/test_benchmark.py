# SPDX-License-Identifier: BSD-2-Clause
"""The command ``python -m sim.benchmark``: its tables, and where they are written."""

import json
from pathlib import Path

import pytest

from golden.model import model_named
from sim import pruning_tables
from sim.benchmark import main

TINY = ["--pruning", "--models", "tiny_test", "--config", "tiny", "--blocks", "1"]


def test_pruning(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                 monkeypatch: pytest.MonkeyPatch) -> None:
    page, path = tmp_path / "page.md", tmp_path / "result.json"
    page.write_text("text\n<!-- pruning: begin -->\nstale\n<!-- pruning: end -->\nmore\n"
                    "<!-- selector: begin -->\n<!-- selector: end -->\n")
    monkeypatch.setattr(pruning_tables, "PAGE", page)
    assert main([*TINY, "--keep", "0.7,0.3", "--json", str(path), "--update"]) == 0
    result = json.loads(path.read_text())
    rows = result["pruning"]
    assert [row["selector"] for row in rows] == ["none", "topk 0.7", "topk 0.3", "threshold"]
    dense = rows[0]
    assert dense["tokens"] == [10] and dense["macs"] == model_named("tiny_test").macs()
    assert dense["ratio_to_dense"] == dense["ideal_ratio_to_dense"] == 1
    assert [row["tokens"] for row in rows[1:3]] == [[10, 9], [10, 5]]
    for row in rows:
        assert row["bit_exact"]
        assert row["ratio_to_dense"] == pytest.approx(row["cycles"] / dense["cycles"])
        assert row["cycles_over_ideal"] == pytest.approx(row["cycles"] / row["ideal_cycles"])
        assert row["ratio_over_ideal_ratio"] == pytest.approx(
            row["cycles_over_ideal"] / dense["cycles_over_ideal"])
        assert row["cycles"] >= row["ideal_cycles"]
    costs = result["selector"]
    assert [row["selector"] for row in costs] == ["topk", "threshold"]
    for row in costs:
        assert row["of_dense"] == pytest.approx(row["cycles"] / dense["cycles"])
    text = page.read_text()
    assert "stale" not in text and text.startswith("text\n") and "\nmore\n" in text
    assert f"| {dense['cycles']:,} |" in text and "| topk 0.3 | 10, 5 |" in text
    assert "tiny_test, threshold: " in capsys.readouterr().out


def test_page_without_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                              monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- pruning: begin -->\n<!-- pruning: end -->\n")
    monkeypatch.setattr(pruning_tables, "PAGE", page)
    assert main([*TINY, "--update"]) == 2
    assert f"{page} lacks the lines <!-- selector: begin -->" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, message", [
    (["--keep", "2"], "keep rate is 2.0, must be above 0 and at most 1"),
    (["--blocks", "0"], "a selector is at block 0"),
    (["--config", "huge"], "no configuration is called 'huge'"),
])
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
