# SPDX-License-Identifier: BSD-2-Clause
"""Every precaution of docs/hazards.md, taken out: then the results must be wrong.

Precautions between blocks are taken out of the core, at its wires. All of these faults are in one
design, and a run chooses one of them, or none, by the top byte of the frame address: there is one
simulator to build. Precautions within a block are taken out of that block, whose own test must
then fail.
"""

import re
from collections.abc import Callable
from copy import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, Value

import rtl.array
import rtl.buffers
import rtl.issue
import rtl.loader
import rtl.top
from golden.model import FloatViT, ModelConfig
from golden.quantize import quantize
from golden.synthetic import synthetic
from rtl.accumulator import Accumulator
from rtl.arith import delay
from rtl.buffers import DelayBuffer
from rtl.config import BLOCK, Config, named
from rtl.core import Core
from rtl.isa import Destination, Error, Opcode
from rtl.pipeline import RowPipeline
from sim.build import bench
from sim.compare import Comparison, compare, compare_output
from sim.device import FRAME_BASE, MODEL_BASE, Device
from sim.session import Session, SimulationFault
from sim.simulate import Bus
from sim.streams import streams
from sim.workload import Workload, calibration_frames
from tests import (
    test_accumulator,
    test_array,
    test_buffers,
    test_core,
    test_issue,
    test_loader,
)

CONFIG = Config(name="hazards", rows=16, columns=16, ports=1, port_bits=64, max_tokens=80,
                max_width=32, max_hidden=64, max_patch=64, max_classes=16, weight_tiles=4,
                clock_mhz=50)

#: Where in the frame address the fault is chosen.
_CHOICE = slice(56, 64)

_Fault = Callable[["FaultyCore", Module, RowPipeline], None]
_FAULTS: dict[str, _Fault] = {}


def fault(apply: _Fault) -> _Fault:
    """Register a fault under the name of its function."""
    _FAULTS[apply.__name__] = apply
    return apply


class FaultyCore(Core):
    """The core, with every fault beside what it breaks: later assignments win."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.frame.frame_addr.eq(self.frame_addr[:_CHOICE.start])
        chosen = Signal(8)
        m.d.comb += chosen.eq(self.frame_addr[_CHOICE])
        rows = RowPipeline(m, self.issue.valid, self.issue.row, self.dispatcher.descriptors,
                           depth=self.at_retire)
        for number, apply in enumerate(_FAULTS.values(), 1):
            with m.If(chosen == number):
                apply(self, m, rows)
        return m


# Order of passes, tiles and rows

@fault
def rows_do_not_wait(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += core.issue.retired.eq(core.dispatcher.queued)


@fault
def rows_are_handed_over_early(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    """When they are written: statistics, maxima and keys that follow from them are not there."""
    early = copy(core)
    early.at_retire = core.at_write + 1
    early._retire(m, rows)


@fault
def operands_do_not_wait(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += core.loader.retired.eq(core.dispatcher.queued)


@fault
def tiles_do_not_wait_for_the_swap(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += core.loader.swap.eq(1)


@fault
def tiles_do_not_wait_for_their_weights(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += core.loader.weight_behind.eq(~0)


@fault
def swaps_do_not_travel_with_their_row(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    k = core.at_array + 1
    m.d.comb += core.array.swap.eq(rows.valid(k) & rows.row(k).swap)


@fault
def passes_do_not_wait_for_a_descriptor(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    _nothing_under_way(core, m, Opcode.PASS)


@fault
def tables_do_not_wait(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    _nothing_under_way(core, m, Opcode.TABLE)


@fault
def the_end_does_not_wait(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    _nothing_under_way(core, m, Opcode.END)


def _nothing_under_way(core: FaultyCore, m: Module, opcode: Opcode) -> None:
    """Let the dispatcher believe that all passes have retired, for instructions of one kind."""
    with m.If(core.dispatcher.load.opcode == opcode):
        m.d.comb += core.dispatcher.retired.eq(core.dispatcher.queued)


@fault
def all_columns_share_one_slot_of_scales(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += [core.epilogue.slot.eq(0), core.epilogue.param_slot.eq(0)]


@fault
def both_heads_share_one_slot_of_maxima(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += [core.rowmax.slot.eq(0), core.rowmax.read_slot.eq(0)]


# Read-modify-write: the first tile takes nothing from before

@fault
def accumulators_are_not_begun_anew(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += core.accumulator.first.eq(0)


@fault
def maxima_are_not_begun_anew(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += core.rowmax.first.eq(0)


@fault
def row_sums_are_not_begun_anew(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += core.rowsum.first.eq(0)


@fault
def statistics_are_not_begun_anew(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += core.statistics.first.eq(0)


# Columns that are no tokens

@fault
def maxima_of_padding(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += core.rowmax.enable.eq(~0)


@fault
def exponentials_of_padding(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    row = rows.row(core.at_prologue - 1)
    for lane in range(core.config.rows):
        m.d.sync += core.prologue.enable[lane].eq(
            row.tile.blocks[lane // BLOCK].valid & ~row.zero)


# The residual row that the epilogue adds to

@fault
def old_residual_is_one_cycle_early(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    old = m.submodules.old
    m.submodules.old_early = early = DelayBuffer(width=old.width, cycles=old.cycles - 1)
    m.d.comb += early.i.eq(old.i)
    _old_residual(core, m, rows, early.o)


@fault
def old_residual_is_read_late(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    """When the epilogue needs it: a row that is issued in that cycle finds the port taken."""
    k = core.at_epilogue + core.epilogue.OLD_DELAY - 2
    row = rows.row(k)
    adds = rows.field(k, "destination") == Destination.RESIDUAL
    with m.If(rows.valid(k) & row.tile.last_k & adds):
        for bank in range(core.config.banks):
            m.d.comb += core.residual.read_addr[bank].eq(row.write_addr)
    _old_residual(core, m, rows, m.submodules.old.i)


def _old_residual(core: FaultyCore, m: Module, rows: RowPipeline, word: Value) -> None:
    at = core.at_epilogue + core.epilogue.OLD_DELAY
    with m.If(rows.field(at, "destination") == Destination.RESIDUAL):
        for c in range(core.config.columns):
            m.d.comb += core.epilogue.old[c].eq(word[16 * c:16 * c + 16].as_signed())


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
def workload(grid: int, *, width: int = 32, depth: int = 1, distilled: bool = False) -> Workload:
    """Return a network of ``grid`` squared patches, and one or two tokens more."""
    model = ModelConfig(name=f"grid{grid}", image_size=4 * grid, patch=4, width=width, depth=depth,
                        heads=width // 16, hidden=48, classes=10, distilled=distilled)
    frames = calibration_frames(model.image_size)
    qvit = quantize(FloatViT(model, synthetic(model, 5)), frames, weights="synthetic")
    return Workload(qvit, CONFIG, frames[0])


def run(program: Path, work: Workload, bus: Bus, *, fault: str = "",
        before: Workload | None = None) -> Comparison:
    """Run a frame with a fault, and compare everything.

    ``before`` is run first, without it, and leaves what it leaves in the buffers.
    """
    choice = [*_FAULTS].index(fault) + 1 if fault else 0
    turns = [(work, choice)] if before is None else [(before, 0), (work, choice)]
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
            device.write("FRAME_ADDR", FRAME_BASE | chosen << _CHOICE.start)
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


#: Faults that need a memory that the core waits for.
_SLOW = {"tiles_do_not_wait_for_their_weights"}

#: Faults after which a counter never comes to where something waits for it.
_HANGS = {"passes_do_not_wait_for_a_descriptor"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in _FAULTS if name not in _HANGS])
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
    assert run(program, workload(3), FAST).exact
    with pytest.raises(SimulationFault, match="no interrupt"):
        run(program, workload(3), FAST, fault=name)


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
    text = (Path(__file__).parent.parent / "docs" / "hazards.md").read_text(encoding="utf-8")
    named_there = set(re.findall(r"`(\w+)`", text))
    assert not set(_FAULTS) - named_there
    tests = {name for name in named_there if name.startswith("test_")}
    known = {name for module in (test_accumulator, test_core, test_loader)
             for name in vars(module)} | set(globals())
    assert not tests - known


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
