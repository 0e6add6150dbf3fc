# SPDX-License-Identifier: BSD-2-Clause
"""The latency-sparsity table: what it reads, interpolates and refuses."""

import json
from pathlib import Path

import pytest

from golden.latency import LatencyError, LatencyTable
from golden.model import model_named
from golden.pruning import PruningConfig

_FULL = model_named("scenes").tokens
_TABLE = LatencyTable(model="scenes", config="tiny", clock_mhz=50.0, dense=90_000,
                      selectors={"topk": 100}, blocks=((4, 1000), (20, 3000), (_FULL, 14_000)))


def _topk(blocks: tuple[int, ...]) -> PruningConfig:
    return PruningConfig(selector="topk", blocks=blocks, counts=(1,) * len(blocks))


def test_blocks_are_interpolated_linearly() -> None:
    assert [_TABLE.block(n) for n in (4, 12, 20)] == [1000, 2000, 3000]
    assert _TABLE.block(4.8) == pytest.approx(1100)


def test_fewer_tokens_than_measured_take_as_long_as_the_fewest() -> None:
    assert _TABLE.block(1) == 1000


@pytest.mark.parametrize("tokens", [0, -1, _FULL + 1, float("nan")])
def test_other_numbers_of_tokens_are_refused(tokens: float) -> None:
    with pytest.raises(LatencyError, match=f"must be above 0 and at most {_FULL}"):
        _TABLE.block(tokens)


def test_network_saves_what_its_blocks_save_and_pays_for_selectors() -> None:
    depth = model_named("scenes").depth
    assert _TABLE.network([_FULL], PruningConfig(selector="none")) == 90_000
    assert _TABLE.network([_FULL, _FULL], _topk((depth - 1,))) == 90_100
    # One block of 20 tokens, the rest of 4.
    assert (_TABLE.network([_FULL, 20, 4], _topk((1, 2)))
            == 90_000 + 200 - 11_000 - (depth - 2) * 13_000)


def test_network_refuses_other_segments_and_selectors() -> None:
    with pytest.raises(LatencyError, match="2 segments, must be 3"):
        _TABLE.network([_FULL, 20], _topk((1, 2)))
    with pytest.raises(LatencyError, match="selector threshold is not in the latency table"):
        _TABLE.network([_FULL, 20], PruningConfig(blocks=(1,)))


def test_milliseconds_of_the_dense_network() -> None:
    assert _TABLE.milliseconds == pytest.approx(1.8)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(_TABLE.to_dict()))
    assert LatencyTable.load(path) == _TABLE


@pytest.mark.parametrize(("change", "message"), [
    ({"blocks": []}, "there are 0 token counts"),
    ({"blocks": [{"tokens": 4, "block_cycles": 1}, {"tokens": 4, "block_cycles": 2}]},
     "4 tokens follow 4"),
    ({"blocks": [{"tokens": 4}]}, r"blocks is \[{'tokens': 4}\], must be a list of pairs of whole"),
    ({"blocks": 3}, "blocks is 3, must be a list of pairs of whole numbers"),
    ({"dense": "many"}, "dense is 'many', must be a whole number"),
    ({"dense": 0}, "dense takes 0 cycles"),
    ({"selectors": [1]}, r"selectors is \[1\], must be names with whole numbers"),
    ({"clock_mhz": 0}, "clock_mhz is 0"),
    ({"clock_mhz": None}, "clock_mhz is None, must be a number"),
    ({"model": None}, "model is None, must be text"),
    ({"model": "nothing"}, "no model is called 'nothing'"),
])
def test_faults_of_the_file_are_named(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(_TABLE.to_dict() | change))
    with pytest.raises(LatencyError, match=message) as error:
        LatencyTable.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "latency.json"
    path.write_text(text)
    with pytest.raises(LatencyError, match="latency table"):
        LatencyTable.load(path)
    with pytest.raises(LatencyError, match="cannot be read"):
        LatencyTable.load(tmp_path / "none.json")
