# SPDX-License-Identifier: BSD-2-Clause
"""The cycle model against runs of small networks."""

from pathlib import Path

import pytest

from golden.cycles import CycleModel
from rtl.config import named
from sim.build import simulator
from sim.cycle_points import POINTS, Point, main, measure


@pytest.mark.parametrize("point", [point for point in POINTS if point.config == "tiny"][:2],
                         ids=lambda point: f"{point.bytes_per_cycle:g}")
def test_the_model_is_near(point: Point) -> None:
    ends = measure(point, simulator(named(point.config)))
    estimated = CycleModel(point.program, point.bytes_per_cycle, point.latency).ends(
        point.tokens, point.rounds)
    assert len(ends) == len(estimated) == point.rounds
    assert estimated == pytest.approx(ends, rel=1e-2)


def test_points_differ_in_all_that_matters() -> None:
    assert len(POINTS) == len(set(POINTS)) >= 10
    for name in ("model", "config", "counts", "bytes_per_cycle", "latency", "batch", "last_block"):
        assert len({getattr(point, name) for point in POINTS}) > 1, name


def test_faults_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--configs", "kv260"]) == 2
    assert "no point is on kv260, must be on one of tiny, tiny-8x8," in capsys.readouterr().err
    assert main(["--json", str(tmp_path / "no" / "file.json")]) == 2
