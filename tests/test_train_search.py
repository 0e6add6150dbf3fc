# SPDX-License-Identifier: BSD-2-Clause
"""A search of selectors in a training: its tries, what begins with them, and that it resumes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training import Stopped, assert_equal, train

from golden.latency import LatencyError, LatencyTable
from golden.latency_aware import ACCEPTED, INACCURATE, SLOWER, SearchError, SearchSettings
from golden.model import MODELS
from golden.model_file import load_model, stored_pruning
from golden.pruning import PruningConfig
from golden.train import main
from golden.train_config import Stage, TrainConfig, TrainError
from golden.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parent.parent

#: A network of 64 patches that tables are of, and how deep it is searched here.
NETWORK = replace(MODELS["scenes"], name="scenes64", image_size=96)
MODEL = replace(NETWORK, depth=3)

#: A block takes 100 cycles and 10 for each token, all else of the dense network 500.
TABLE = LatencyTable(model=NETWORK.name, config="tiny", clock_mhz=100, dense=500 + 6 * 750,
                     selectors={"topk": 10, "threshold": 60}, blocks=((1, 110), (65, 750)))

#: The same for the network that the command knows.
WHOLE = replace(TABLE, model="scenes", dense=500 + 6 * 1110, blocks=((1, 110), (101, 1110)))

#: Accuracy by what selectors keep, where networks are not measured.
ACCURACY = {(): 0.9, (0.9,): 0.9, (0.7,): 0.9, (0.5,): 0.85, (0.7, 0.5): 0.8, (0.5, 0.5): 0.6}


@pytest.fixture(autouse=True, scope="module")
def known():
    """Tables are of networks that have a name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, NETWORK.name, NETWORK)
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.json"
    path.write_text(json.dumps(TABLE.to_dict()))
    return path


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(WHOLE.to_dict()))
    return path


def configuration(table, kind="threshold", **bounds):
    """A dense stage, a search in three blocks, and two stages behind it."""
    settings = {"table": str(table), "latency": 0.5, "drop": (0.1,), "rates": (0.9, 0.7, 0.5)}
    search = Stage(name="search", kind=kind, size=96, steps=2, batch=2, rate=1e-3,
                   search=SearchSettings(**settings | bounds))
    return TrainConfig(
        model=MODEL, validation=10, validate_every=1, stages=(
            Stage(name="dense", size=96, steps=1, batch=2, rate=1e-3), search,
            replace(search, name="joint", search=None, rate=0.0, steps=1),
            replace(search, name="other", search=None, kind="topk", rate=0.0, steps=1)))


def measure_by_formula(patch):
    """Measure what ``ACCURACY`` says; return where the networks that are measured are put."""
    networks = []

    def measure(self, stage):
        networks.append((stage.keep, self.network.state()))
        return ACCURACY[stage.keep], stage.keep

    patch.setattr(Trainer, "measure", measure)
    return networks


@pytest.fixture
def formula(monkeypatch):
    return measure_by_formula(monkeypatch)


def files(folder):
    """Return what is in the files of a training, but for times."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in log:
        del line["seconds"], line["cpu_seconds"]
    return {"log": log, **{path.name: path.read_bytes() for path in sorted(folder.iterdir())
                           if path.suffix in (".safetensors", ".json")}}


def loaded(folder, stage):
    return load_model(folder / f"{stage}.safetensors", MODEL)


#: What then becomes of the tries: of two selectors the first must keep 0.7 to be worth it.
TRIES = [(2, 0.9, 0.9, ACCEPTED), (2, 0.7, 0.9, ACCEPTED), (2, 0.5, 0.85, ACCEPTED),
         (1, 0.9, None, SLOWER), (1, 0.7, 0.8, ACCEPTED), (1, 0.5, 0.6, INACCURATE)]


@pytest.fixture(scope="module")
def searched(table, tmp_path_factory):
    """A training with these tries: its folder, its reports, and the networks that were measured."""
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        networks = measure_by_formula(patch)
        return folder, train(folder, configuration(table)), networks


def test_tries_and_what_is_found(searched):
    folder, _, _ = searched
    content = json.loads((folder / "search.search.json").read_text())
    assert [(one["block"], one["rate"], one["accuracy"], one["verdict"])
            for one in content["tries"]] == TRIES
    assert content["tries"][-1]["keep"] == content["tries"][-1]["kept"] == [0.5, 0.5]
    assert content["accuracy"] == 0.9 and content["found_accuracy"] == 0.8
    found = content["found"]
    assert (found["blocks"], found["keep"], found["met"]) == ([1, 2], [0.7, 0.5], False)
    assert found["latency"] == content["tries"][4]["latency"]
    assert content["bounds"]["drop"] == [0.1] and content["dense_cycles"] == TABLE.dense


def test_every_try_is_logged_and_reported(searched):
    folder, reports, _ = searched
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    lines = [line for line in log if line["stage"] == "search"]
    assert [(line["block"], line["keep"], line["accuracy"], line["verdict"])
            for line in lines[:-1]] == [one for one in TRIES if one[2] is not None]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 10]
    assert lines[-1]["blocks"] == [1, 2] and lines[-1]["kept"] == [0.7, 0.5]
    assert [r.outcome for r in reports if r.outcome] == [
        "90.0% before block 2: validation 90.00%; kept 90.0%; latency 96.9%, accepted",
        "70.0% before block 2: validation 90.00%; kept 70.0%; latency 86.6%, accepted",
        "50.0% before block 2: validation 85.00%; kept 50.0%; latency 76.4%, accepted",
        "90.0% before block 1: latency 77.3%, not faster",
        "70.0% before block 1: validation 80.00%; kept 70.0%, 50.0%; latency 74.8%, accepted",
        "50.0% before block 1: validation 60.00%; kept 50.0%, 50.0%; latency 70.2%, too inaccurate",
        "found 70.0%, 50.0% before blocks 1, 2: validation 80.00%; latency 74.8%, wanted 50.0%"]
    trained = [r for r in reports if r.stage.name == "search" and not r.outcome]
    assert [(r.stage.keep, r.step) for r in trained] == [
        (keep, step) for keep in ((0.9,), (0.7,), (0.5,), (0.7, 0.5), (0.5, 0.5))
        for step in (1, 2)]


def test_network_is_that_of_the_last_accepted_try(searched):
    """Not that of the last try, which was rejected."""
    folder, _, networks = searched
    states = [state for keep, state in networks if keep == (0.7, 0.5)]
    assert_equal(states[0], states[1])
    _, state, selectors = loaded(folder, "search")
    assert_equal(state | {f"selectors.{i}.{name}": value for i, selector in enumerate(selectors)
                          for name, value in selector.items()}, states[0])
    rejected = next(state for keep, state in networks if keep == (0.5, 0.5))
    assert not torch.equal(rejected["head.weight"], states[0]["head.weight"])


def test_stages_behind_have_what_was_found(searched):
    folder, _, _ = searched
    assert stored_pruning(folder / "search.safetensors") == PruningConfig(blocks=(1, 2))
    assert stored_pruning(folder / "joint.safetensors") == PruningConfig(blocks=(1, 2))
    assert stored_pruning(folder / "other.safetensors") == PruningConfig(
        selector="topk", blocks=(1, 2), rates=(0.7, 0.5))
    search, joint, other = (loaded(folder, name) for name in ("search", "joint", "other"))
    assert_equal(search.state, joint.state)
    assert_equal(search.state, other.state)
    for one, same in zip(search.selectors, joint.selectors, strict=True):
        assert_equal(one, same)


# After the dense step and the reports of three tries, in the middle of the fourth and the fifth,
# at their ends and at the end of the search.
@pytest.mark.parametrize("stop", [2, 4, 9, 12, 13, 14, 17, 18, 19])
def test_resumed_search_is_the_same(stop, formula, searched, table, tmp_path):
    folder, reports, _ = searched
    with pytest.raises(Stopped):
        train(tmp_path, configuration(table), stop)
    rest = train(tmp_path, configuration(table))
    assert files(tmp_path) == files(folder)
    # What was decided is not trained again.
    steps = [(r.stage.name, r.stage.keep, r.step) for r in reports if not r.outcome]
    again = [(r.stage.name, r.stage.keep, r.step) for r in rest if not r.outcome]
    assert again == steps[len(steps) - len(again):] and len(again) < len(steps)
    assert train(tmp_path, configuration(table)) == []


def test_stage_is_added_to_a_search_that_ended(formula, searched, table, tmp_path):
    config = configuration(table)
    train(tmp_path, replace(config, stages=config.stages[:2]))
    assert train(tmp_path, replace(config, stages=config.stages[:2])) == []
    train(tmp_path, config)
    assert files(tmp_path) == files(searched[0])


def test_neighbours_are_merged(formula, table, tmp_path, monkeypatch):
    """The selectors that stay are trained on, with the parameters that they had."""
    monkeypatch.setitem(ACCURACY, (0.5, 0.5), 0.85)
    train(tmp_path, configuration(table))
    found = json.loads((tmp_path / "search.search.json").read_text())["found"]
    assert (found["blocks"], found["keep"]) == ([1], [0.5])
    assert stored_pruning(tmp_path / "search.safetensors") == PruningConfig(blocks=(1,))
    state = next(state for keep, state in formula if keep == (0.5, 0.5))
    _, _, (selector,) = loaded(tmp_path, "search")
    assert_equal(selector, {name: state[f"selectors.0.{name}"] for name in selector})


def test_nothing_found(formula, table, tmp_path, monkeypatch):
    monkeypatch.setitem(ACCURACY, (0.9,), 0.5)
    for _ in range(2):  # it is the same when it is resumed
        with pytest.raises(TrainError, match="search of stage search found no selectors: none of 1"
                                             " tries was faster and lost at most 10.00% of 90.00%"):
            train(tmp_path, configuration(table))


def test_settings_and_table_must_be_the_same(formula, table, tmp_path):
    config = configuration(table)
    with pytest.raises(Stopped):
        train(tmp_path, config, 9)
    with pytest.raises(TrainError, match="holds a training with another stages"):
        train(tmp_path, configuration(table, latency=0.6))
    other = replace(TABLE, dense=TABLE.dense + 1)
    before = table.read_text()
    table.write_text(json.dumps(other.to_dict()))
    try:
        with pytest.raises(TrainError, match="a try of stage search is not the one that was made,"
                                             " must be another folder, or the same latency table"):
            train(tmp_path, config)
    finally:
        table.write_text(before)


def test_table_is_checked_before_anything_is_trained(table, tmp_path):
    with pytest.raises(LatencyError, match="missing.json cannot be read"):
        train(tmp_path, configuration("missing.json"))
    with pytest.raises(SearchError, match="first is 3, must be at most 2, the last block"):
        train(tmp_path, configuration(table, first=3))
    assert not list(tmp_path.iterdir())


def write_config(folder, table, joint):
    """Write settings of a dense stage, a search and a stage ``joint`` with what is found."""
    config = folder / "train.yaml"
    config.write_text(
        "model: scenes\nvalidation: 4\nstages:\n"
        "- {name: dense, size: 120, steps: 1, batch: 2, rate: 0.001}\n"
        "- {name: found, kind: topk, size: 120, steps: 1, batch: 2, rate: 0.001, search: {table:"
        f" {table}, latency: 0.91, drop: [1], rates: [0.7, 0.5], first: 3}}}}\n"
        f"- {{name: joint, kind: {joint}, size: 120, steps: 1, batch: 2, rate: 0.001}}\n")
    return config


def test_command(whole, tmp_path, capsys):
    """Networks are measured: all losses are allowed, so the search goes on until it is met."""
    config = write_config(tmp_path, whole, joint="topk")
    assert main([str(config), "--output", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": validation")[0] for line in lines[1:5]] == [
        "found: 70.0% before block 5", "found: 50.0% before block 5", "found: 70.0% before block 4",
        "found: found 70.0%, 50.0% before blocks 4, 5"]
    assert all("kept 70.0%" in line for line in (lines[1], lines[3]))
    assert lines[5].startswith("joint 1/1") and lines[5].endswith("kept 70.0%, 50.0%")


def test_two_processes(whole, tmp_path):
    """All go on with what the first measures."""
    config = write_config(tmp_path, whole, joint="threshold")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "golden.train", str(config), "--output", str(tmp_path / "out")], cwd=ROOT,
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("found: 70.0% before block 4") == 1, "one process prints"
    log = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in log] == ["dense", *["found"] * 4, "joint"]
    assert len(load_model(tmp_path / "out" / "joint.safetensors").selectors) == 2
