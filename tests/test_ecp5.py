# SPDX-License-Identifier: BSD-2-Clause
"""The command that places and routes for ECP5, and the figure that is kept."""

import copy
import json

import pytest

from platforms import ecp5
from platforms.ecp5 import main, record, slower, tables
from platforms.ecp5_flow import DEVICE, RouterError
from platforms.ecp5_timing import Result
from rtl.config import named
from tests.test_ecp5_timing import REPORT


@pytest.fixture(autouse=True)
def router(monkeypatch):
    """Runs of the tools, which take minutes, are replaced by their report; returns the runs."""
    runs = []

    def run(config, *, seed, progress):
        progress("works")
        runs.append((config.name, seed))
        return REPORT

    monkeypatch.setattr(ecp5, "implement", run)
    return runs


def test_tables():
    lines = tables(Result.parse(REPORT)).splitlines()
    assert lines[0] == f"| {DEVICE} | used | of | |"
    assert "| MULT18X18D | 1 | 156 | 1% |" in lines
    assert any("110.2 MHz" in line and "from `core.a` to `core.lane_3.sum`" in line
               for line in lines)
    assert "| 3.93 | multiplier | `core.lane_3.sum` |" in lines
    assert lines[-1] == "| 8.08 | | |"


def test_command(router, tmp_path, capsys):
    file = tmp_path / "result.json"
    assert main(["--config", "tiny", "--seed", "5", "--json", str(file)]) == 0
    assert router == [("tiny", 5)]
    assert "110.2 MHz" in capsys.readouterr().out
    value = json.loads(file.read_text())
    assert (value["config"], value["device"], value["seed"]) == ("tiny", DEVICE, 5)
    assert (value["mhz"], value["used"]["DP16KD"]) == (110.18, 2)


def test_update(router, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("# Page\n<!-- ulx3s: begin -->\n<!-- ulx3s: end -->\n")
    assert main(["--update", str(page)]) == 0
    assert "110.2 MHz" in page.read_text()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("arguments", "message"), [
    (["--config", "huge"], "no configuration is called 'huge'"),
    (["--json", "missing/result.json"], "the folder of missing/result.json does not exist"),
    (["--update", "missing.md"], "missing.md cannot be updated"),
])
def test_faults_are_told_before_the_tools_run(arguments, message, router, tmp_path, monkeypatch,
                                              capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not router


def test_faults_of_the_tools_are_told(monkeypatch, capsys):
    def fail(*_, **__):
        raise RouterError("nextpnr_ecp5: no room")

    monkeypatch.setattr(ecp5, "implement", fail)
    assert main([]) == 2
    assert "error: nextpnr_ecp5: no room" in capsys.readouterr().err


def test_slower():
    before = record(named("tiny"), 1, Result.parse(REPORT))
    assert slower(before, before) == []
    now = copy.deepcopy(before)
    now["mhz"] = 99.2
    now["used"]["FF"] = 75
    assert slower(before, now) == []
    now["mhz"] = 99.1
    now["used"]["FF"] = 76
    assert slower(before, now) == ["99.1 MHz, there were 110.18", "76 FF, there were 69"]
