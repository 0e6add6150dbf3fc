# SPDX-License-Identifier: BSD-2-Clause
"""The command ``python -m sim.latency``: what it measures, and the table that it writes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from golden.latency import LatencyTable
from golden.model import model_named
from golden.pruning import PruningConfig
from platforms.estimate import cycle_model
from rtl.config import named
from sim.latency import counts_of, main

TINY = ["--model", "tiny_test", "--config", "tiny"]
SHIPPED = Path(__file__).parent.parent / "models" / "scenes" / "latency.json"


def test_counts_from_all_patches_to_one() -> None:
    assert counts_of(model_named("scenes")) == (100, 87, 75, 62, 50, 37, 25, 12, 1)
    assert counts_of(replace(model_named("tiny_test"), image_size=32)) == (4, 3, 2, 1)
    assert counts_of(replace(model_named("tiny_test"), image_size=16)) == (1,)


def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "latency.json"
    assert main([*TINY, "--counts", "4,1", "-o", str(path)]) == 0
    table, written = LatencyTable.load(path), json.loads(path.read_text())
    assert (table.model, table.config, table.clock_mhz) == ("tiny_test", "tiny", 50)
    assert (written["bytes_per_cycle"], written["latency"], written["stalls"]) == (64, 100, 0)
    # All nine patches and the class token; what is kept, with a package token.
    assert [tokens for tokens, _ in table.blocks] == [3, 6, 10]
    model = model_named("tiny_test")
    dense = cycle_model(model, named("tiny"), PruningConfig(selector="none"), bytes_per_cycle=64,
                        latency=100)
    assert table.dense == pytest.approx(dense.cycles((10,)), rel=1e-2)
    assert table.block(10) * model.depth < table.dense
    assert 0 < table.selectors["topk"] < table.selectors["threshold"]
    text = capsys.readouterr().out
    assert f"dense network {table.dense:,} cycles" in text and "bit exact" in text


def test_shipped_table_is_near_the_simulated_networks() -> None:
    """Cycles of ``python -m sim.run --model scenes --config tiny``, see docs/estimate.md."""
    table = LatencyTable.load(SHIPPED)
    topk = PruningConfig(selector="topk", blocks=(1, 2, 3), counts=(60, 36, 18))
    assert table.dense == 153_864
    assert table.network((101, 62, 39, 22), topk) == pytest.approx(83_017, rel=0.02)
    # A classifier costs less where fewer tokens are left, the table has the most.
    assert table.network((101, 60, 5, 5), PruningConfig(blocks=(1, 2, 3))) == pytest.approx(
        87_244, rel=0.04)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--counts", "0"], "a count of kept patches is 0, must be between 1 and 9"),
    (["--counts", "10"], "a count of kept patches is 10, must be between 1 and 9"),
    (["--model", "deit_tiny"], "deit_tiny needs 197 tokens"),
    (["-o", "nowhere/latency.json"], "the folder of nowhere/latency.json does not exist"),
])
def test_faults_are_named(arguments: list[str], message: str, tmp_path: Path,
                          capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "-o", str(tmp_path / "latency.json"), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("sim.latency: ") and message in captured.err
