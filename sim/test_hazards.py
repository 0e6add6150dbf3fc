# SPDX-License-Identifier: BSD-2-Clause
"""Every precaution of docs/hazards.md, taken out: then the results must be wrong.

Precautions between blocks are taken out of the core, at its wires, see ``sim.faults``. Precautions
within a block are taken out of that block, whose own test must then fail.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Value

import rtl.array
import rtl.buffers
import rtl.issue
import rtl.loader
import rtl.top
from golden.images import calibration_frames
from golden.model import FloatViT, ModelConfig
from golden.pruning import PruningConfig
from golden.quantize import quantize
from golden.synthetic import synthetic
from rtl.accumulator import Accumulator
from rtl.arith import delay
from rtl.config import named
from rtl.isa import Error, Opcode
from sim.build import bench
from sim.compare import Comparison, compare, compare_output, compare_run
from sim.device import FRAME_BASE, MODEL_BASE, Device
from sim.faults import CONFIG, FAULTS, FaultyCore, choice
from sim.session import Session
from sim.simulate import PATIENCE, Bus
from sim.streams import streams
from sim.workload import Workload
from tests import (
    test_accumulator,
    test_array,
    test_buffers,
    test_core,
    test_dispatch,
    test_frame,
    test_issue,
    test_loader,
)

# Runs

@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the simulator of the core with all faults."""
    path = tmp_path_factory.mktemp("hazards") / "heatvit.v"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rtl.top, "Core", FaultyCore)
        path.write_text(rtl.top.emit_verilog(CONFIG))
    return bench(path, top="heatvit", recorded=streams(CONFIG))


@cache
def workload(grid: int, *, width: int = 32, depth: int = 1, distilled: bool = False,
             counts: tuple[int, ...] = (), batch: int = 1) -> Workload:
    """Return a network of ``grid`` squared patches, and one or two tokens more.

    ``counts`` of patches are left by selectors, before the last blocks.
    """
    model = ModelConfig(name=f"grid{grid}", image_size=4 * grid, patch=4, width=width, depth=depth,
                        heads=width // 16, hidden=48, classes=10, distilled=distilled)
    pruning = PruningConfig(selector="topk", blocks=tuple(range(depth - len(counts), depth)),
                            counts=counts, package="merged") if counts else None
    frames = calibration_frames(model.image_size)
    qvit = quantize(FloatViT(model, synthetic(model, 5)), frames, weights="synthetic",
                    pruning=pruning)
    return Workload(qvit, CONFIG, frames[0], batch=batch)


@cache
def images(count: int, **network: Any) -> tuple[Workload, ...]:
    """Return a network as :func:`workload` does, with frames of which no two are equal."""
    work = workload(**network)
    return tuple(work.with_frame(frame)
                 for frame in calibration_frames(work.qvit.model.image_size)[:count])


def run(program: Path, work: Workload, bus: Bus, *, fault: str = "",
        before: Workload | None = None) -> Comparison:
    """Run a frame with a fault, and compare everything.

    ``before`` is run first, without it, and leaves what it leaves in the buffers.
    """
    turns = [(work, choice(fault))] if before is None else [(before, 0), (work, choice(fault))]
    with Session(program) as session:
        device = Device(session, work.qvit.model.classes, CONFIG.port_bits // 8)
        session.bus(bytes_per_cycle=bus.bytes_per_cycle, latency=bus.latency, stalls=bus.stalls)
        device.place(bytes(max(len(turn.program.image) for turn, _ in turns)),
                     bytes(max(turn.frame.nbytes for turn, _ in turns)))
        for number, (turn, chosen) in enumerate(turns):
            image, frame = turn.program.image, turn.frame.tobytes()
            session.load(image, MODEL_BASE)
            device.frame(frame)
            device.arguments(model_bytes=len(image), frame_bytes=len(frame))
            device.write("FRAME_ADDR", FRAME_BASE | chosen)
            folder = session.trace(f"turn{number}")
            device.start()
            status, results = device.finish(20 * bus.cycles(turn))
            session.trace_off()
        session.run()
        assert status().error == Error.NONE
        logits, top_class, stages = work.expected
        recording = {stream.name: stream.read(folder) for stream in streams(CONFIG)}
        inside = compare(work.program, stages, recording)
        outside = compare_output(logits, top_class, status().tokens, results()[0],
                                 status().top_class)
        return Comparison(inside.stages + outside.stages, inside.problems)


def run_images(program: Path, works: Sequence[Workload], *, fault: str = "",
               late: bool = False) -> Comparison:
    """Run images of one network in one run with a fault, and compare everything of all of them."""
    first, bus = works[0], FAST
    with Session(program) as session:
        device = Device(session, first.qvit.model.classes, CONFIG.port_bits // 8)
        session.bus(bytes_per_cycle=bus.bytes_per_cycle, latency=bus.latency, stalls=bus.stalls)
        device.place(first.program.image, *(work.frame.tobytes() for work in works),
                     batch=first.batch)
        device.write("FRAME_ADDR", FRAME_BASE | choice(fault, late=late))
        folder = session.trace("images")
        device.start()
        status, results = device.finish(PATIENCE * len(works) * bus.cycles(first))
        session.trace_off()
        session.run()
        assert status().error == Error.NONE
        recording = {stream.name: stream.read(folder) for stream in streams(CONFIG)}
        inside = compare_run(first.program, [work.expected[2] for work in works], recording)
        outside = [compare_output(*work.expected[:2], work.tokens[-1], result,
                                  status().top_class if work is works[-1] else None)
                   for work, result in zip(works, results(), strict=True)]
        return Comparison.joined(*inside, *outside)


FAST = Bus(bytes_per_cycle=64, latency=20)
SLOW = Bus(bytes_per_cycle=2, latency=60)
STALLS = Bus(bytes_per_cycle=8, latency=40, stalls=1)

#: What a fault needs to show, where three times three patches do not do.
_NEEDS: dict[str, dict[str, int]] = {
    # Keys are waited for only where the values between take one tile.
    "operands_do_not_wait": {"width": 16},
    # Keys that were left behind are more than those of two tokens: some row likes one best.
    "maxima_of_padding": {"grid": 1},
    # What is left from the block before.
    "maxima_are_not_begun_anew": {"depth": 2},
    "tables_do_not_wait": {"depth": 2},
    # A pass of residual rows begins while the one before still adds: more rows than cycles between.
    "old_residual_is_read_late": {"grid": 8},
}


#: Networks that faults between images need: 26 tokens take turns in the residual.
_DENSE = {"count": 3, "grid": 5}
#: Two images share weights. Their tokens are 22, then 14: the second begins within a word.
_BATCH = {"count": 4, "grid": 4, "depth": 3, "counts": (9, 5), "batch": 2}
_BETWEEN_IMAGES: dict[str, dict[str, Any]] = {
    # The patch embedding is under way for longer than a table of GELU takes to come.
    "loads_do_not_wait_for_passes": {"count": 3, "grid": 8},
    "loads_do_not_wait_for_each_other": _DENSE,
    "patches_do_not_wait_for_their_load": _DENSE,
    "logits_do_not_wait_for_the_last_output": _DENSE,
    "loads_write_beside_passes": _DENSE,
    # Initial rows come while the package of the image before is written.
    "loads_write_beside_a_package": {"count": 3, "grid": 4, "depth": 4, "counts": (9, 5)},
    "images_do_not_take_turns_in_the_residual": _DENSE,
    "selectors_do_not_begin_anew": {"count": 3, "grid": 4, "depth": 2, "counts": (9,)},
} | dict.fromkeys((
    "selectors_do_not_wait_for_each_other", "images_do_not_wait",
    "an_image_forgets_the_package_of_another", "every_image_begins_a_round",
    "what_stays_of_all_images_begins_at_one_place", "what_goes_of_all_images_begins_at_one_place",
    "segments_share_their_scores", "operands_of_a_segment_begin_with_a_word",
    "keys_of_a_segment_end_with_their_word"), _BATCH)

#: Faults that show only where outputs or initial rows come late.
_LATE = {"logits_do_not_wait_for_the_last_output", "loads_write_beside_a_package"}

#: Faults that need a memory that the core waits for.
_SLOW = {"tiles_do_not_wait_for_their_weights"}

#: Faults after which a counter never comes to where something waits for it.
_HANGS = {"passes_do_not_wait_for_a_descriptor": Error.HANG_WEIGHT,
          "rows_are_never_handed_over": Error.HANG_PASS}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAULTS
                                  if name not in _HANGS and name not in _BETWEEN_IMAGES])
def test_without_its_precaution_the_result_is_wrong(program: Path, name: str) -> None:
    """Seventeen tokens have been there before: keys and values of them are left behind."""
    work = workload(**{"grid": 3} | _NEEDS.get(name, {}))
    before, bus = workload(4), SLOW if name in _SLOW else FAST
    assert run(program, work, bus, before=before).exact
    comparison = run(program, work, bus, before=before, fault=name)
    assert not comparison.exact
    assert comparison.first_mismatch is not None, comparison.problems


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_HANGS))
def test_without_its_precaution_the_core_hangs(program: Path, name: str) -> None:
    """The run ends with an error all the same, and the next one is right."""
    work = workload(3)
    with Session(program) as session:
        device = Device(session, work.qvit.model.classes, CONFIG.port_bits // 8)
        session.bus(bytes_per_cycle=FAST.bytes_per_cycle, latency=FAST.latency)
        device.place(work.program.image, work.frame.tobytes())
        device.write("TIMEOUT", 3000)
        ended = []
        for chosen in (choice(name), choice()):
            device.write("FRAME_ADDR", FRAME_BASE | chosen)
            device.start()
            ended.append(device.finish(20 * FAST.cycles(work)))
            device.soft_reset()
        session.run()
        (bad, _), (good, results) = ended
        assert bad().error == _HANGS[name]
        assert work.program.instructions[bad().error_index].opcode == Opcode.PASS
        assert good().error == Error.NONE
        np.testing.assert_array_equal(results()[0].logits, work.expected[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", _BETWEEN_IMAGES)
def test_without_its_precaution_some_image_is_wrong(program: Path, name: str) -> None:
    works, late = images(**_BETWEEN_IMAGES[name]), name in _LATE
    assert run_images(program, works, late=late).exact
    comparison = run_images(program, works, fault=name, late=late)
    assert not comparison.exact
    assert comparison.first_mismatch is not None, comparison.problems


@pytest.mark.slow
@pytest.mark.parametrize("bus", [FAST, SLOW, STALLS], ids=["fast", "slow", "stalls"])
@pytest.mark.parametrize("distilled", [False, True], ids=["cls", "distilled"])
@pytest.mark.parametrize("grid", [1, 2, 3, 4, 5, 8])
def test_with_all_precautions_the_result_is_right(program: Path, grid: int, distilled: bool,
                                                  bus: Bus) -> None:
    """From 2 tokens to 66, after a network with more of them."""
    work = workload(grid, distilled=distilled, depth=2)
    comparison = run(program, work, bus, before=workload(8, distilled=True))
    assert comparison.exact, f"{comparison.first_mismatch} {comparison.problems}"


def test_every_fault_is_documented() -> None:
    root = Path(__file__).parent.parent
    text = (root / "docs" / "hazards.md").read_text(encoding="utf-8")
    named_there = set(re.findall(r"`(\w+)`", text))
    assert not set(FAULTS) - named_there
    tests = {name for name in named_there if name.startswith("test_")}
    modules = test_accumulator, test_core, test_dispatch, test_frame, test_loader
    known = {name for module in modules for name in vars(module)} | set(globals())
    assert not tests - known
    files = set(re.findall(r"`(\w+/\w+\.py)`", text))
    assert files and all((root / name).exists() for name in files)


# Within a block

@pytest.mark.parametrize("undelayed", [
    r"swap_\d", r"(valid|row|load\d)_\d$", r"swap_hop", r"load_(valid|row)_hop", r"load_\d+_\d+"],
    ids=["swap down", "load down", "swap across", "load across", "weights across"])
def test_swap_and_loads_keep_step_with_the_activations(undelayed: str,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """Down the cascade and from group to group: what does not wait comes to the wrong row."""
    def skip(m: Module, value: Value, cycles: int, *, name: str) -> Value:
        return value if re.match(undelayed, name) else delay(m, value, cycles, name=name)

    test_array.test_random_loads_and_swaps(16, 16, "portable")
    monkeypatch.setattr(rtl.array, "delay", skip)
    with pytest.raises(AssertionError, match="psum 16x16"):
        test_array.test_random_loads_and_swaps(16, 16, "portable")


def test_keys_are_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is written into all banks at once, and a channel is read from all banks at once."""
    def straight(m: Module, lanes: Value, amount: Value, *, width: int, count: int,
                 name: str) -> tuple[Value, int]:
        cycles = -(-(count - 1).bit_length() // 3)
        return delay(m, lanes, cycles, name=name), cycles

    test_buffers.test_key_buffer_transposes(named("tiny"), 2)
    monkeypatch.setattr(rtl.buffers, "rotate_left", straight)
    with pytest.raises(AssertionError, match="token tile 0, channel 0"):
        test_buffers.test_key_buffer_transposes(named("tiny"), 2)


@pytest.mark.parametrize("period", range(1, 6))
def test_rows_of_the_accumulators_return_late_enough(period: int) -> None:
    """A row that returns within the latency of its sum takes the sum before that."""
    tiles = 6
    count = period * tiles
    schedule = {"valid": np.zeros(count, int), "row": np.ones(count, int),
                "first": np.zeros(count, int), "last": np.zeros(count, int)}
    schedule["valid"][::period] = 1
    schedule["row"][::period] = 0
    schedule["first"][0] = schedule["last"][-period] = 1
    psum = np.random.default_rng(1).integers(-1000, 1000, (count, 16))
    if period > Accumulator.LATENCY:
        test_accumulator._check(test_accumulator.CONFIG, schedule, psum)
    else:
        with pytest.raises(AssertionError, match="acc"):
            test_accumulator._check(test_accumulator.CONFIG, schedule, psum)


@pytest.mark.parametrize("rows", [1, 2, 3, 15])
def test_short_tiles_are_padded(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the core the load of a tile is padding enough, see tests/test_loader.py."""
    test_issue.test_shortest_tile(rows)
    monkeypatch.setattr(rtl.issue, "MIN_TILE_CYCLES", 1)
    with pytest.raises(AssertionError):
        test_issue.test_shortest_tile(rows)


def test_scales_are_not_loaded_over_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline of the core never holds as many column tiles, see tests/test_core.py."""
    test_loader.test_parameters_are_never_ahead_by_more_than_their_slots()
    monkeypatch.setattr(rtl.loader, "SCALE_SLOTS", 16)
    with pytest.raises(AssertionError, match="parameters of column 8|slot of column 8"):
        test_loader.test_parameters_are_never_ahead_by_more_than_their_slots()
