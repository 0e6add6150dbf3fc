# SPDX-License-Identifier: BSD-2-Clause
"""The report of a search: it says what the training wrote, and refuses what is something else."""

import json

import pytest
from PIL import Image

from golden.latency import LatencyTable
from golden.latency_aware import ACCEPTED, INACCURATE, SLOWER, Found, SearchSettings, Try
from golden.search_report import main, read_search
from golden.train_config import Stage
from golden.train_search import SearchState, write_search

TABLE = LatencyTable(model="scenes", config="tiny", clock_mhz=100, dense=12345,
                     selectors={"topk": 10}, blocks=((101, 1110),))

STAGE = Stage(name="search", kind="topk", size=120, steps=7, batch=2, rate=1e-3,
              search=SearchSettings(table="t.json", latency=0.8, drop=(0.01,), rates=(0.7, 0.5)))

TRIES = [
    Try(block=5, rate=0.7, bound=0.01, blocks=(5,), keep=(0.7,), latency=0.95, accuracy=0.98,
        kept=(0.71,), verdict=ACCEPTED),
    Try(block=4, rate=0.7, bound=0.01, blocks=(4, 5), keep=(0.7, 0.7), latency=0.96,
        verdict=SLOWER),
    Try(block=4, rate=0.5, bound=0.01, blocks=(4, 5), keep=(0.5, 0.5), latency=0.85, accuracy=0.9,
        kept=(0.5, 0.5), verdict=INACCURATE)]


@pytest.fixture
def file(tmp_path):
    """The file of a search that ended, and what is in it."""
    path = tmp_path / "search.search.json"
    state = SearchState(accuracy=0.985, tries=TRIES, found=Found(
        blocks=(5,), keep=(0.7,), latency=0.95, met=False), found_accuracy=0.98)
    write_search(path, STAGE, TABLE, state)
    return path, state


def test_reads_what_was_written(file):
    path, state = file
    found = read_search(path)
    assert (list(found.tries), found.found) == (state.tries, state.found)
    assert (found.accuracy, found.found_accuracy, found.wanted) == (0.985, 0.98, 0.8)
    assert (found.steps, found.dense_cycles) == (7, 12345)
    assert not list(path.parent.glob("*.partial"))


def test_table(file, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main([str(file[0])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "scenes on tiny, topk, 7 steps a try; wanted: 80.0% of 12,345 cycles"
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if "│" in line]
    assert rows == [
        ["", "", "", "", "", "98.50%", "100.0%", "dense"],
        ["5", "70.0%", "5", "70.0%", "71.0%", "98.00%", "95.0%", "accepted"],
        ["4", "70.0%", "4, 5", "70.0%, 70.0%", "", "", "96.0%", "not faster"],
        ["4", "50.0%", "4, 5", "50.0%, 50.0%", "50.0%, 50.0%", "90.00%", "85.0%",
         "too inaccurate"],
        ["", "", "5", "70.0%", "", "98.00%", "95.0%", "found"]]


def test_search_that_goes_on(tmp_path, capsys):
    path = tmp_path / "a.search.json"
    write_search(path, STAGE, TABLE, SearchState(accuracy=0.985, tries=TRIES[:1]))
    assert main([str(path), "--plot", str(tmp_path / "a.png")]) == 0
    assert "found" not in capsys.readouterr().out


def test_plot(file, tmp_path, capsys):
    path, state = file
    pictures = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"]
    for picture in pictures[:2]:
        assert main([str(path), "--plot", str(picture)]) == 0
    state.accuracy = 0.99
    write_search(path, STAGE, TABLE, state)
    assert main([str(path), "--plot", str(pictures[2])]) == 0
    first, second, other = (picture.read_bytes() for picture in pictures)
    assert first == second != other
    with Image.open(pictures[0]) as picture:
        assert picture.size == (900, 540)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "3", json.dumps({"found": None})])
def test_other_files(text, tmp_path, capsys):
    path = tmp_path / "a.json"
    path.write_text(text)
    assert main([str(path)]) == 2
    assert capsys.readouterr().err == (f"golden.search_report: {path} is not what a search writes,"
                                       " must be NAME.search.json of a training\n")


@pytest.mark.parametrize("change", [
    {"block": "x"}, {"rate": None}, {"blocks": 3}, {"keep": ["a"]}, {"latency": [1]},
    {"accuracy": "x"}, {"kept": None}])
def test_tries_of_other_types(change, file, capsys):
    path, _ = file
    content = json.loads(path.read_text())
    content["tries"][0] |= change
    path.write_text(json.dumps(content))
    assert main([str(path)]) == 2
    assert "is not what a search writes" in capsys.readouterr().err


def test_bad_paths(file, tmp_path, capsys):
    assert main([str(tmp_path / "missing.json")]) == 2
    assert "missing.json cannot be read: No such file" in capsys.readouterr().err
    assert main([str(file[0]), "--plot", str(tmp_path / "a.pdf")]) == 2
    assert "a.pdf, must end with .png" in capsys.readouterr().err
    assert main([str(file[0]), "--plot", str(tmp_path / "none" / "a.png")]) == 2
    assert "does not exist" in capsys.readouterr().err
