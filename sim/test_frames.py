# SPDX-License-Identifier: BSD-2-Clause
"""Consecutive frames and batches on the emitted Verilog: every stage of every image, and timing."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from golden.images import calibration_frames
from golden.model import FloatViT, ModelConfig, model_named
from golden.pruning import PruningConfig
from golden.quantize import quantize
from golden.synthetic import synthetic
from golden.synthetic_selector import synthetic_selectors
from rtl.config import Config, ConfigError, named
from sim.build import simulator
from sim.frames import FramesReport, different, simulate_frames
from sim.run import main
from sim.simulate import Bus
from sim.test_networks import random_model
from sim.workload import Workload

#: The memory at its best, at its worst, and in between with random stalls on every channel.
BUSES = {"fast": Bus(bytes_per_cycle=64, latency=20), "slow": Bus(bytes_per_cycle=3, latency=400),
         "stalls": Bus(bytes_per_cycle=24, latency=60, stalls=1)}
#: A network for each small configuration; classifiers take no heads of 48 channels.
NETWORKS = {"tiny": model_named("tiny_test"),
            "small": replace(model_named("small_test"), name="small", heads=3)}


def workload(model: ModelConfig, config: Config, pruning: PruningConfig | None = None,
             last_block: str = "all", batch: int = 1) -> Workload:
    twin, frames = FloatViT(model, synthetic(model, 3)), calibration_frames(model.image_size)
    selectors = (synthetic_selectors(twin, pruning.blocks, 3)
                 if pruning is not None and pruning.selector == "threshold" else [])
    qvit = quantize(twin, frames, weights="synthetic", pruning=pruning, selectors=selectors)
    return Workload(qvit, config, frames[0], last_block=last_block, batch=batch)


def run(work: Workload, bus: Bus, rounds: int) -> FramesReport:
    frames = different([("", work.frame, None)], rounds * work.batch)
    return simulate_frames([(f"{i}", work.with_frame(frame))
                            for i, (_, frame, _) in enumerate(frames)],
                           simulator(work.config), bus)


def check(report: FramesReport) -> None:
    for comparison in report.comparisons:
        assert comparison.exact, f"{comparison.first_mismatch} {comparison.problems}"
    status, work = report.status, report.workloads[0]
    assert sum(status.stalls.values()) == status.cycles
    rounds = report.workloads[::work.batch]
    assert status.stalls["busy"] == sum(one.array_cycles for one in rounds)
    assert (status.bytes_read, status.bytes_written) == (report.bytes_read, report.bytes_written)
    assert report.host_accesses == 0
    ends = [result.cycle for result in report.results]
    assert ends == sorted(ends) and ends[-1] <= status.cycles <= report.cycles
    # What is exchanged would show.
    assert len({result.logits.tobytes() for result in report.results}) == len(report.results)


def pruning_of(selector: str, package: str = "merged") -> PruningConfig | None:
    return None if selector == "none" else PruningConfig(
        selector=selector, blocks=(1,), package=package,
        rates=(0.6,) if selector == "topk" else None)


@pytest.mark.parametrize("bus", BUSES)
@pytest.mark.parametrize("selector", ["none", "topk", "threshold"])
@pytest.mark.parametrize("name", NETWORKS)
def test_consecutive_frames(name: str, selector: str, bus: str) -> None:
    work = workload(NETWORKS[name], named(name), pruning_of(selector))
    assert work.program.instructions[0].row_step == work.qvit.model.tokens
    report = run(work, BUSES[bus], 4)
    check(report)
    # The frame of the next image is loaded beside the passes, its first weights as well.
    if selector != "threshold":
        assert report.steady is not None and report.steady < report.latency


def test_images_that_do_not_take_turns() -> None:
    """65 tokens of 64 channels: the residual has words for those of one image, not of two."""
    model = replace(model_named("tiny_test"), name="large", image_size=64, patch=8, depth=1)
    work = workload(model, named("tiny"))
    assert work.program.instructions[0].row_step == 0
    check(run(work, BUSES["stalls"], 3))


@pytest.mark.parametrize("bus", BUSES)
@pytest.mark.parametrize("last_block", ["all", "cls"])
@pytest.mark.parametrize("package", ["each", "merged"])
@pytest.mark.parametrize("name", NETWORKS)
def test_batches(name: str, package: str, last_block: str, bus: str) -> None:
    """``small`` has a distillation token: two rows of each image in its last block."""
    work = workload(NETWORKS[name], named(name), pruning_of("topk", package), last_block, batch=2)
    check(run(work, BUSES[bus], 3))


@pytest.mark.parametrize("seed", range(6))
def test_random_batches(seed: int) -> None:
    """Several selectors that keep nothing, something or everything, after any block."""
    generator, config = random.Random(seed), named(["tiny", "small"][seed % 2])
    for attempt in range(100):
        model = replace(random_model(config, 100 * seed + attempt), depth=generator.randrange(2, 5))
        patches = model.grid ** 2
        blocks = sorted(generator.sample(range(1, model.depth),
                                         generator.randrange(1, model.depth)))
        counts = sorted((generator.randrange(patches + 1) for _ in blocks), reverse=True)
        pruning = PruningConfig(selector="topk", blocks=tuple(blocks), counts=tuple(counts),
                                package=generator.choice(["each", "merged"]))
        work = workload(model, config, pruning, generator.choice(["all", "cls"]), batch=2)
        try:
            assert work.program.batch == 2
        except ConfigError:
            continue
        check(run(work, list(BUSES.values())[seed % 3], 2))
        return
    raise AssertionError("no batch of 100 fits")


def test_a_batch_reads_its_weights_once() -> None:
    """Where memory is slow it takes less time than its images one after another."""
    model, config = replace(NETWORKS["small"], depth=4), named("small")
    reports = [run(workload(model, config, pruning_of("topk"), batch=batch), BUSES["slow"], 3)
               for batch in (1, 2)]
    steady = [report.to_dict()["steady_cycles"] for report in reports]
    assert 2 * reports[0].bytes_read > 1.3 * reports[1].bytes_read
    assert isinstance(steady[0], int) and isinstance(steady[1], int)
    assert steady[1] < 0.75 * steady[0]


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    assert main(["--model", "tiny_test", "--config", "tiny", "--frames", "3", "--json",
                 str(path)]) == 0
    result = json.loads(path.read_text())
    assert result["bit_exact"] and result["frames"] == 3 and result["batch"] == 1
    at = [image["logits_at_cycle"] for image in result["images"]]
    assert result["latency_cycles"] == at[0]
    assert result["steady_cycles"] == result["round_cycles"] == at[1] - at[0]
    assert result["images_per_second"] == pytest.approx(50e6 / result["steady_cycles"])
    macs = model_named("tiny_test").macs()
    assert result["steady_mac_utilization"] == pytest.approx(macs / result["steady_cycles"] / 256)
    assert [image["image"].endswith(f"moved {i}") for i, image in enumerate(result["images"])] == [
        False, True, True]
    text = capsys.readouterr().out
    for part in ("3 in one run", "one image", "the next", "Bit exact"):
        assert part in text
    assert main(["--model", "tiny_test", "--config", "tiny", "--selector", "topk", "--blocks", "1",
                 "--batch", "2", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert result["bit_exact"] and result["frames"] == result["batch"] == 2
    assert result["steady_cycles"] is None and result["images_per_second"] is None
    assert "one batch" in capsys.readouterr().out


def test_frames_that_are_made_differ() -> None:
    given = [("a", np.zeros((8, 8, 3), np.uint8), 1), ("b", np.full((8, 8, 3), 99, np.uint8), None)]
    made = different(given, 7)
    assert [name for name, _, _ in made] == [
        "a", "b", "a, moved 2", "b, moved 3", "a, moved 4", "b, moved 5", "a, moved 6"]
    assert [label for _, _, label in made] == [1, None, 1, None, 1, None, 1]
    assert len({frame.tobytes() for _, frame, _ in made}) == 7
    assert [name for name, _, _ in different(given, 1)] == ["a"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--frames", "0"], "the number of frames is 0, must be between 1 and 64"),
    (["--frames", "65"], "the number of frames is 65, must be between 1 and 64"),
    (["--batch", "0"], "the batch is 0, must be between 1 and 4"),
    (["--batch", "2", "--frames", "3"],
     "the number of frames is 3, must be a multiple of the batch, 2"),
    (["--batch", "2"], "a batch of 2 images has selector none, must have topk"),
    (["--batch", "3", "--selector", "topk", "--blocks", "1"],
     "needs 3 sets of logits, 1 more than images of configuration tiny, 2"),
    (["--frames", "2", "--output", "x"], "pictures are asked for with consecutive frames"),
])
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "tiny_test", "--config", "tiny", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
