# SPDX-License-Identifier: BSD-2-Clause
"""Traces: the timeline of a made-up recording, and the files that ``python -m sim.run`` writes."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from golden.model import model_named
from golden.program import PassInfo, PassKind, Program
from rtl.config import named
from rtl.isa import (
    Destination,
    Opcode,
    Stall,
    begin_layout,
    end_layout,
    load_layout,
    pass_layout,
)
from rtl.loader import LoaderActivity as Loader
from sim.run import main
from sim.timeline import Levels
from sim.trace_decode import timeline
from sim.trace_events import Track, events, write_trace
from sim.trace_plot import draw

PHASES = {"X", "C", "M", "i"}


def test_levels() -> None:
    levels = Levels(np.array([0, 10, 12, 20]), np.array([3, 1, 1, 0]))
    assert levels.at(np.array([0, 9, 10, 19, 30])).tolist() == [3, 3, 1, 1, 0]
    assert levels.sums(np.array([5, 10, 11, 25])).tolist() == [15, 1, 9]
    spans = list(levels.spans(5, 25, {3: "three", 1: "one"}))
    assert [(span.name, span.begin, span.end) for span in spans] == [
        ("three", 5, 10), ("one", 10, 20)]
    assert sum(span.cycles for span in levels.spans(11, 13, {1: "one"})) == 2


# A run of two passes, made up

def program() -> Program:
    """Return a program that loads a frame and runs two passes."""
    fields = [(begin_layout, {"opcode": Opcode.BEGIN, "instructions": 5}),
              (load_layout, {"opcode": Opcode.LOAD}), (pass_layout, {"opcode": Opcode.PASS}),
              (pass_layout, {"opcode": Opcode.PASS}), (end_layout, {"opcode": Opcode.END})]
    image = b"".join(layout.const(values).as_bits().to_bytes(64, "little")
                     for layout, values in fields)
    return Program(config=named("tiny"), model=model_named("tiny_test"), weights="synthetic",
                   logit_step=1.0, image=image, labels=())


def info(index: int, stage: str, column_tiles: int, k_tiles: int) -> PassInfo:
    return PassInfo(kind=PassKind.Q, stage=stage, index=index, instruction=2 + index, tokens=4,
                    rows=4, row_first=0, images=(0,), column_tiles=column_tiles, k_tiles=k_tiles,
                    column_first=0, destination=Destination.ACT, destination_mask=1)


PASSES = [info(0, "block0.q", 2, 1), info(1, "block1.k", 1, 2)]


def rows(names: Sequence[str], *events: tuple[int, ...]) -> dict[str, np.ndarray]:
    columns = np.array(events, np.int64).T
    return dict(zip(["cycle", *names], columns, strict=True))


def recording() -> dict[str, dict[str, np.ndarray]]:
    """Return a run from cycle 100 to 199; before it there was another one."""
    busy, weight, row, load = (Stall[name].value for name in ("BUSY", "WEIGHT", "ROW", "LOAD"))
    idle, tile, swap, wait, read, filled = (Loader[name].value for name in (
        "IDLE", "TILE", "SWAP", "WEIGHT", "LOAD", "FILLED"))
    handshake = [f"m_axi_gmem0_{pin}" for pin in ("rvalid", "rready", "wvalid", "wready")]
    return {
        "issue": rows(["tap_stall", "tap_tile_active", "tap_run_start", "tap_run_end"],
                      (90, load, 0, 0, 1), (95, load, 0, 0, 0), (100, load, 0, 1, 0),
                      (101, load, 0, 0, 0), (121, busy, 1, 0, 0), (131, row, 1, 0, 0),
                      (133, busy, 1, 0, 0), (140, weight, 0, 0, 0), (151, busy, 1, 0, 0),
                      (190, load, 0, 0, 0), (197, load, 0, 0, 1)),
        "tile": rows(["tap_tile_slot", "tap_tile_first_column", "tap_tile_last_column",
                      "tap_tile_first_k", "tap_tile_last_k"],
                     (120, 0, 1, 0, 1, 1), (130, 0, 0, 1, 1, 1), (150, 1, 1, 1, 1, 0),
                     (170, 1, 1, 1, 0, 1)),
        "loader": rows(["tap_loader", "tap_loader_begins"],
                       (90, filled, 0), (95, idle, 0), (110, tile, 0), (111, tile, 1),
                       (112, read, 0), (119, filled, 0), (121, idle, 0), (122, tile, 0),
                       (123, tile, 1), (124, swap, 0), (125, read, 0), (126, wait, 0),
                       (127, read, 0), (129, filled, 0), (131, filled, 1), (132, wait, 0),
                       (140, read, 0), (149, filled, 0), (151, tile, 0), (152, tile, 1),
                       (153, read, 0), (169, filled, 0), (171, idle, 0)),
        "weights": rows(["tap_weight_level"], (90, 5), (95, 0), (105, 7), (150, 2)),
        "passes": rows(["tap_queued", "tap_retired"], (90, 254, 254), (95, 0, 0), (105, 1, 0),
                       (106, 2, 0), (148, 2, 1), (196, 2, 2)),
        "instruction": rows(["tap_instruction"], (90, 4), (95, 0), (102, 1), (104, 2), (105, 3),
                            (106, 4)),
        "epilogue": rows(["tap_written", "tap_written_slot"], (90, 0, 3), (125, 1, 0), (128, 0, 0),
                         (135, 1, 0), (144, 0, 1), (175, 1, 1), (194, 0, 1)),
        "load": rows(["tap_load_start", "tap_load_busy", "tap_load_kind", "tap_load_ahead"],
                     (90, 0, 1, 1, 0), (91, 0, 0, 1, 0), (102, 1, 0, 0, 0), (103, 0, 1, 0, 0),
                     (105, 0, 0, 1, 1), (106, 1, 0, 1, 1), (107, 0, 1, 0, 0), (118, 0, 0, 0, 0)),
        "bus": rows(handshake, (90, 0, 1, 0, 1), (102, 1, 1, 0, 1), (112, 1, 0, 1, 1),
                    (122, 0, 0, 0, 1)),
    }


def test_timeline() -> None:
    run = timeline(recording(), program(), [("cat", PASSES)])
    assert (run.begin, run.end) == (100, 199)
    first, second = run.passes
    assert [(one.name, one.begin, one.end, one.queued, one.retired, one.image, one.block)
            for one in run.passes] == [("block0.q", 121, 140, 105, 148, 0, "block0"),
                                       ("block1.k", 151, 190, 106, 196, 0, "block1")]
    assert [(tile.name, tile.begin, tile.end) for one in run.passes for tile in one.tiles] == [
        ("column 0 K 0", 121, 131), ("column 1 K 0", 131, 140), ("column 0 K 0", 151, 171),
        ("column 0 K 1", 171, 190)]
    assert [(one.written.begin, one.written.end) for one in run.passes] == [(125, 144), (175, 194)]
    assert [[(load.begin, load.end, load.waited, [(part.name, part.cycles) for part in load.parts])
             for load in one.loads] for one in run.passes] == [
        [(112, 121, 0, [("load", 7), ("filled", 2)]),
         (124, 132, 1, [("swap", 1), ("load", 4), ("filled", 3)])],
        [(132, 151, 0, [("weight", 8), ("load", 9), ("filled", 2)]),
         (153, 171, 0, [("load", 16), ("filled", 2)])]]
    assert [(span.name, span.begin, span.end) for span in run.instructions] == [
        ("BEGIN", 100, 102), ("LOAD", 102, 104), ("PASS block0.q", 104, 105),
        ("PASS block1.k", 105, 106), ("END", 106, 199)]
    assert [(span.name, span.begin, span.end) for span in run.loads] == [
        ("frame", 103, 105), ("residual, ahead", 107, 118)]
    assert [(span.name, span.cycles) for span in run.stalls()] == [
        ("load", 21), ("row", 2), ("weight", 11), ("load", 9)]
    shares = run.shares(np.array([100, 121, 141, 199]))
    assert shares["load"].tolist() == [1, 0, pytest.approx(9 / 58)]
    assert shares["busy"].tolist() == [0, pytest.approx(17 / 20), pytest.approx(39 / 58)]
    assert sum(shares.values()).tolist() == [1, 1, 1]
    assert [levels.sums(np.array([100, 199])).tolist() for levels in (*run.read, *run.written)] == [
        [10], [10]]
    assert run.selectors == ()


def test_passes_that_are_missing() -> None:
    with pytest.raises(ValueError, match="the trace has 2 passes at the issue stage, must have 3"):
        timeline(recording(), program(), [("cat", [*PASSES, info(2, "logits", 1, 1)])])


def test_two_images_of_one_run() -> None:
    run = timeline(recording(), program(), [("cat", PASSES[:1]), ("dog", PASSES[1:])])
    network = [(event["name"], event["ts"], event["dur"]) for event in events([run])
               if event["ph"] == "X" and event["tid"] == Track.NETWORK]
    assert network == [("cat", 21, 19), ("block0", 21, 19), ("dog", 51, 39), ("block1", 51, 39)]


def test_files_are_the_same_each_time(tmp_path: Path) -> None:
    runs = [timeline(recording(), program(), [("cat", PASSES)])]
    for name in ("first", "second"):
        write_trace(tmp_path / name, runs)
        draw(tmp_path / f"{name}.png", runs)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


# Runs on the emitted Verilog

def check_events(found: list[dict]) -> None:
    """Check the fields of the trace-event format, and that slices nest or follow each other."""
    for event in found:
        assert event["ph"] in PHASES and isinstance(event["name"], str) and event["pid"] == 1
        if event["ph"] != "M":
            assert isinstance(event["ts"], int) and event["ts"] >= 0
        if event["ph"] != "C":
            assert isinstance(event["tid"], int)
    named_tracks = {event["tid"] for event in found if event["name"] == "thread_name"}
    for track, slices in slices_of(found).items():
        assert bool(slices) == (track in named_tracks), track
        around: list[int] = []  # ends of the slices that this one lies in
        for before, event in pairwise([{"ts": 0}, *slices]):
            assert event["dur"] > 0 and event["ts"] >= before["ts"], event
            end = event["ts"] + event["dur"]
            while around and around[-1] <= event["ts"]:
                around.pop()
            assert not around or end <= around[-1], event
            around.append(end)


def traced(tmp_path: Path, *arguments: str) -> tuple[dict, dict]:
    """Run two images; return the trace and the report."""
    paths = {name: tmp_path / name for name in ("trace", "plot", "json")}
    pictures = []
    for seed in range(2):
        pictures.append(str(tmp_path / f"{seed}.png"))
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(pictures[-1])
    options = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
    assert main(["--model", "tiny_test", "--config", "tiny", *options, *arguments,
                 "--images", *pictures, "--output", str(tmp_path)]) == 0
    with Image.open(paths["plot"]) as picture:
        assert picture.format == "PNG" and len(picture.convert("RGB").getcolors(1 << 20)) > 8
    return json.loads(paths["trace"].read_text()), json.loads(paths["json"].read_text())


def slices_of(found: list[dict]) -> dict[Track, list[dict]]:
    return {track: [event for event in found if event["ph"] == "X" and event["tid"] == track]
            for track in Track}


def check_stalls(slices: list[dict], cycles: int, report: dict) -> None:
    """All that the issue stage waits for, to the cycle, is what the registers count."""
    total: Counter[str] = Counter()
    for event in slices:
        total[event["name"]] += event["dur"]
    stalls = {name: count for name, count in report["stalls"].items() if count}
    assert {**total, "busy": cycles - total.total()} == stalls


@pytest.mark.parametrize("arguments", [
    (), ("--selector", "topk", "--blocks", "1"),
    ("--selector", "threshold", "--blocks", "1", "--bytes-per-cycle", "3", "--stalls", "1")],
    ids=["dense", "topk", "slow"])
def test_run(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    trace, report = traced(tmp_path, *arguments)
    found = trace["traceEvents"]
    check_events(found)
    slices = slices_of(found)
    cycles = trace["otherData"]["cycles"]
    check_stalls(slices[Track.STALLS], cycles, report)
    # The host starts the run some cycles before, and gets the interrupt some after.
    assert cycles < report["cycles"] < cycles + 2 * 100

    passes = [event for event in slices[Track.ARRAY] if "args" in event]
    assert [event["args"]["pass"] for event in passes] == 2 * list(range(len(passes) // 2))
    tiles = sum(event["args"]["column tiles"] * event["args"]["K tiles"] for event in passes)
    assert len(slices[Track.ARRAY]) == len(passes) + tiles
    assert sum("column" in event["name"] for event in slices[Track.LOADER]) == tiles
    assert len(slices[Track.EPILOGUE]) == len(passes)
    for one, written in zip(passes, slices[Track.EPILOGUE], strict=True):
        assert one["name"] == written["name"] and one["args"]["queued"] < one["ts"]
        assert one["ts"] < written["ts"]
        assert written["ts"] + written["dur"] < one["args"]["retired"]
    assert {"frame": 2, "residual": 2} == Counter(event["name"] for event in slices[Track.LOADS])
    assert [event["name"] for event in slices[Track.NETWORK]].count("block1") == 2
    phases = [event["name"] for event in slices[Track.SELECTOR]]
    assert phases == 2 * {
        (): [], ("--selector", "topk"): ["selector0", "scores", "search", "scan", "shares"],
        ("--selector", "threshold"): ["selector0", "scores", "scan", "shares"]}[arguments[:2]]

    # The bytes of all windows are those of the run; rates are rounded.
    counters = [event for event in found if event["name"] == "bytes read per cycle"]
    width = cycles / len(counters)
    read = sum(event["args"]["port 0"] for event in counters) * width
    assert read == pytest.approx(report["dram_bytes_read"], rel=0.02)


def test_consecutive_frames(tmp_path: Path) -> None:
    path, result = tmp_path / "trace", tmp_path / "json"
    assert main(["--model", "tiny_test", "--config", "tiny", "--frames", "3", "--trace", str(path),
                 "--json", str(result), "--plot", str(tmp_path / "plot")]) == 0
    trace, report = json.loads(path.read_text()), json.loads(result.read_text())
    check_events(trace["traceEvents"])
    slices = slices_of(trace["traceEvents"])
    check_stalls(slices[Track.STALLS], trace["otherData"]["cycles"], report)
    names = [image["image"] for image in report["images"]]
    images = [event for event in slices[Track.NETWORK] if event["name"] in names]
    assert [event["name"] for event in images] == trace["otherData"]["images"] == names
    loads = slices[Track.LOADS]
    assert Counter(event["name"] for event in loads) == {
        "frame": 1, "residual": 1, "frame, ahead": 2, "residual, ahead": 2}
    # The next image is loaded beside the passes of this one.
    for image, load in zip(images, (event for event in loads if event["name"] == "frame, ahead"),
                           strict=False):
        assert image["ts"] < load["ts"] < image["ts"] + image["dur"]
    assert (tmp_path / "plot").read_bytes().startswith(b"\x89PNG")


def test_run_without_a_trace_writes_none(tmp_path: Path) -> None:
    assert main(["--model", "tiny_test", "--config", "tiny", "--json", str(tmp_path / "json")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["json"]


@pytest.mark.parametrize("option", ["--trace", "--plot"])
def test_no_such_folder(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "missing" / "file"
    assert main(["--model", "tiny_test", "--config", "tiny", option, str(path)]) == 2
    assert f"the folder of {path} does not exist" in capsys.readouterr().err
