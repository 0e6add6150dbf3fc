# SPDX-License-Identifier: BSD-2-Clause
"""Estimated cycles: how near they are to measured ones, what they depend on, and the command."""

import json
from pathlib import Path

import pytest
from networks import NETWORKS, network
from pruned_networks import pruned_network

from golden.cycles import CycleModel
from golden.lower import lower
from golden.model import model_named
from golden.program import Program, tokens_of
from golden.pruning import PruningConfig, tokens_left
from platforms.estimate import check_tokens, cycle_model, main
from platforms.hollow import hollow
from platforms.measured import measured
from rtl.config import named
from rtl.isa import INSTRUCTION_BYTES

_BENCHMARK = Path(__file__).parent.parent / "docs" / "benchmark.md"
_DENSE = PruningConfig(selector="none")
_TOPK = PruningConfig(selector="topk", blocks=(1, 2, 3), counts=(60, 36, 18))
_THRESHOLD = PruningConfig(blocks=(1, 2, 3))


def _model(name: str, config: str, pruning: PruningConfig = _DENSE, bytes_per_cycle: float = 64,
           latency: int = 100, last_block: str = "all") -> CycleModel:
    return cycle_model(model_named(name), named(config), pruning, bytes_per_cycle=bytes_per_cycle,
                       latency=latency, last_block=last_block)


def test_near_the_benchmark() -> None:
    rows = [row for row in measured(_BENCHMARK, "zcu102")
            if row.model == "deit_tiny" and row.cycles is not None]
    models = {kind: cycle_model(model_named("deit_tiny"), named("zcu102"), PruningConfig(
        selector=kind, rates=(1.0,) * 3 if kind == "topk" else None), bytes_per_cycle=64,
        latency=100) for kind in ("none", "topk", "threshold")}
    assert len(rows) >= len(models)
    for row in rows:
        estimated = models[row.selectors.split()[0]].cycles(row.tokens)
        assert estimated == pytest.approx(row.cycles, rel=1e-2)


def _shape(program: Program) -> list[tuple]:
    names = ("opcode", "row_dependency", "operand_dependency", "column_tiles", "k_tiles",
             "stationary", "rows_from", "destination", "scale_source", "count", "row_bytes",
             "under_way", "weight_beats")
    return [tuple(getattr(fields, name, None) for name in names)
            for fields in program.instructions]


@pytest.mark.parametrize("name", ["head48", "head16", "heads16"])
def test_hollow_networks_have_the_programs_of_others(name: str) -> None:
    config = named("small")
    real, empty = (lower(qvit, config) for qvit in (network(name).qvit, hollow(NETWORKS[name])))
    assert _shape(real) == _shape(empty)
    assert len(real.image) == len(empty.image)


@pytest.mark.parametrize(("selector", "what"), [("topk", (2.0,)), ("threshold", (0.0,))])
def test_selectors_of_hollow_networks(selector: str, what: tuple[float, ...]) -> None:
    found = pruned_network("head48", selector, "each", (1,), what)
    config = named("small")
    real = lower(found.qvit, config)
    empty = lower(hollow(found.qvit.model, found.qvit.pruning), config)
    assert _shape(real) == _shape(empty)
    tokens = tokens_of(real, found.stages)
    assert CycleModel(real).cycles(tokens) == CycleModel(empty).cycles(tokens)
    assert len(empty.instructions) * INSTRUCTION_BYTES <= len(empty.image)
    if selector == "topk":
        assert tokens_left(found.qvit.model, found.qvit.pruning) == tokens


@pytest.mark.parametrize(("counts", "package", "tokens"), [
    ((60, 36, 18), "each", (101, 62, 39, 22)), ((60, 36, 18), "merged", (101, 62, 38, 20)),
    ((100, 100, 0), "each", (101, 101, 101, 2)), ((100, 3, 3), "each", (101, 101, 5, 5))])
def test_tokens_that_topk_leaves(counts: tuple[int, ...], package: str, tokens: tuple[int,
                                 ...]) -> None:
    pruning = PruningConfig(selector="topk", blocks=(1, 2, 3), counts=counts, package=package)
    assert tokens_left(model_named("scenes"), pruning) == tokens


@pytest.mark.parametrize(("tokens", "message"), [
    ((101, 62), "after 1 selectors, must be after 3"),
    ((101, 102, 3, 3), "leaves 102 tokens of 101, must leave between 2 and 101"),
    ((101, 62, 39, 1), "leaves 1 tokens of 39, must leave between 2 and 39")])
def test_tokens_that_no_selector_leaves(tokens: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tokens(model_named("scenes"), _THRESHOLD, tokens)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    assert main(["--model", "scenes", "--config", "tiny", "--selector", "threshold", "--blocks",
                 "1,2,3", "--tokens", "60,5,5", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert result["tokens"] == [101, 60, 5, 5] and result["blocks"] == [1, 2, 3]
    assert result["cycles"] == pytest.approx(87_244, rel=3e-2)
    assert result["milliseconds"] == pytest.approx(result["cycles"] / 50e3)
    # The next image begins when this one is at its end, its frame is there.
    assert 0.9 * result["cycles"] < result["steady_cycles"] < result["cycles"]
    assert result["images_per_second"] == pytest.approx(50e6 / result["steady_cycles"])
    assert result["mac_utilization"] < result["steady_mac_utilization"] < 1
    assert (result["bytes_per_cycle"], result["latency"]) == (64, 100)
    text = capsys.readouterr().out
    assert f"{result['cycles']:,} (estimated; memory of 64 bytes per cycle, latency 100)" in text
    assert f"utilisation {result['steady_mac_utilization']:.2%}" in text
    assert result["last_block"] == "all" and "last block" not in text
    assert main(["--model", "scenes", "--config", "tiny", "--last-block", "cls", "--json",
                 str(path)]) == 0
    result = json.loads(path.read_text())
    assert result["last_block"] == "cls"
    assert result["cycles"] == pytest.approx(141_087, rel=3e-2)
    assert "no selectors, last block: cls\n" in capsys.readouterr().out


def test_command_compares_with_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("| model | what |\n| --- | --- |\n| tiny_test | no table |\n\n"
                    "| model | selectors | tokens | cycles |\n| --- | --- | --- | --- |\n"
                    "| scenes | none | 101 | 153,864 |\n| scenes | topk 0.6 | 101, 62, 39, 22 |"
                    " 83,017 |\n")
    assert main(["--check", str(page), "--config", "tiny", "--blocks", "1,2,3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| scenes | tiny | none | 101 | 153,864 | 154,5")
    assert lines[3].startswith("| scenes | tiny | topk 0.6 | 101, 62, 39, 22 | 83,017 | ")


def test_command_compares_the_steady_state(tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "| model | configuration | tokens | batch | frames | last block | bytes per cycle"
        " | cycles an image | first image, cycles |\n|---|---|---|---|---|---|---|---|---|\n"
        "| scenes | tiny | 101/62/38/20 | 1 | 3 | all | 4 | 99,941 | 112,195 |\n"
        "| scenes | tiny | 101 | 1 | 3 | cls | 8 | 134,000 | 141,000 |\n")
    assert main(["--check", str(page), "--blocks", "1,2,3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| scenes | tiny | 101/62/38/20 | 1 | all | 4 | 112,195 | 11")
    assert lines[3].startswith("| scenes | tiny | 101 | 1 | cls | 8 | 141,000 | 14")
    assert len(lines) == 4


def test_command_of_a_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    command = ["--model", "scenes", "--config", "small", "--selector", "topk", "--blocks", "1,2",
               "--bytes-per-cycle", "8", "--json", str(path)]
    results = []
    for batch in ("1", "2"):
        # 50 patches, class and package token: the 144 rows of a pass hold those of two images.
        assert main([*command, "--keep-counts", "50,30", "--batch", batch]) == 0
        results.append(json.loads(path.read_text()))
    one, two = results
    assert [result["batch"] for result in results] == [1, 2]
    # Their first image begins late, and the weights of most blocks come once for both.
    assert one["cycles"] < two["cycles"] < 2 * one["cycles"]
    assert two["steady_cycles"] < one["steady_cycles"]
    assert two["images_per_second"] == pytest.approx(200e6 / two["steady_cycles"])
    assert two["mac_utilization"] < two["steady_mac_utilization"] < 1
    text = capsys.readouterr().out
    assert ", batch 2\n" in text and f" {two['steady_cycles']:,.0f} an image, " in text


@pytest.mark.parametrize(("line", "message"), [
    ("| scenes | none |", "has 2 cells, must have 4"),
    ("| scenes | none | x | 3 |", "a number of tokens is 'x', must be a positive whole number"),
    ("| scenes | none | 101 | 1e3 |", "a number of cycles is '1e3', must be a positive whole"),
    ("| scenes | none | 101 | 0 |", "a number of cycles is '0', must be a positive whole"),
    ("| scenes |  | 101 | 3 |", "selector is '', must be one of"),
])
def test_faults_of_a_page_are_named(line: str, message: str, tmp_path: Path,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"| model | selectors | tokens | cycles |\n|---|---|---|---|\n{line}\n")
    assert main(["--check", str(page), "--config", "tiny", "--blocks", "1,2,3"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    (["--update"], "--update is given without --check, must be with it"),
    (["--check", "README.md", "--json", "x.json"], "--json is given with --check, must be without"),
    (["--selector", "threshold"], "--tokens must say how many tokens it leaves"),
    (["--tokens", "3"], "tokens are given for selector none, must be for threshold only"),
    (["--config", "tiny"], "deit_tiny needs 197 tokens, 85 more than max_tokens"),
    (["--model", "x"], "no model is called 'x'"),
    (["--check", "nowhere.md"], "nowhere.md is no file"),
    (["--check", "README.md"], "README.md has no table of model, selectors, tokens, cycles"),
])
def test_faults_are_named(arguments: list[str], message: str,
                          capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("platforms.estimate: ")
    assert not captured.out
