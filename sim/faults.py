# SPDX-License-Identifier: BSD-2-Clause
"""A core out of which every precaution of docs/hazards.md can be taken that is between its blocks.

All faults are in one design, for there to be one simulator to build: a run chooses one of them, or
none, by the top byte of the frame address. Its highest bit has outputs and initial rows come late.
"""

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

from amaranth.hdl import Module, Signal, Value
from amaranth.utils import ceil_log2

from rtl.buffers import DelayBuffer
from rtl.config import BLOCK, Config
from rtl.core import Core
from rtl.isa import Destination, Opcode
from rtl.pipeline import RowPipeline
from sim.fault_set import FaultSet

__all__ = ["CONFIG", "FAULTS", "FaultyCore", "choice"]

CONFIG = Config(name="hazards", rows=16, columns=16, ports=1, port_bits=64, max_tokens=80,
                max_width=32, max_hidden=64, max_patch=64, max_classes=16, weight_tiles=4,
                clock_mhz=50)

#: All faults; one is chosen by bits of the frame address.
FAULTS = FaultSet(slice(56, 63))
#: The bit of the frame address by which something comes late.
_LATE = 63

#: By how many cycles initial rows do, which is more than a round takes, and outputs: the passes
#: that wait for them have waited for initial rows before.
_ROWS_DELAY, _OUTPUT_DELAY = 10_000, 30_000


def choice(name: str = "", *, late: bool = False) -> int:
    """Return the bits of the frame address that choose a fault, and whether something comes late.
    """
    return FAULTS.bits(name) | late << _LATE


class FaultyCore(Core):
    """The core, with every fault beside what it breaks: later assignments win."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.frame.frame_addr.eq(FAULTS.without(self.frame_addr))
        with m.If(self.frame_addr[_LATE]):
            self._late(m)
        rows = RowPipeline(m, self.issue.valid, self.issue.row, self.dispatcher.descriptors,
                           depth=self.at_retire)
        FAULTS.apply(m, self.frame_addr, self, rows)
        return m

    def _late(self, m: Module) -> None:
        """Have the output of a round wait, and initial rows for a package that is written."""
        output = Signal(range(_OUTPUT_DELAY + 1), name="output_waits")
        with m.If(self.logits.start):
            m.d.sync += output.eq(_OUTPUT_DELAY)
        with m.Elif(output != 0):
            m.d.comb += [self.output_request.valid.eq(0), self.logits.request.ready.eq(0)]
            m.d.sync += output.eq(output - 1)
        rows = Signal(range(_ROWS_DELAY + 1), name="rows_wait")
        with m.If(self.frame.start):
            m.d.sync += rows.eq(_ROWS_DELAY)
        with m.Elif(self.statistics.package_valid & self.frame.residual_en.any()):
            m.d.sync += rows.eq(0)
        with m.Elif(rows != 0):
            m.d.comb += self.frame.residual_ready.eq(0)
            # What waits is written again and again.
            with m.If(~self.writeback.residual_en.any() & ~self.statistics.package_valid):
                m.d.comb += self.residual.write_en.eq(0)
            m.d.sync += rows.eq(rows - 1)


# Wires that are held at what would not wait, or begin anew, or tell one from another

#: Gives statements.
_Wires = Callable[[FaultyCore], Any]

#: What each fault assigns.
_HELD: dict[str, _Wires] = {
    # Order of passes, tiles and rows
    "rows_do_not_wait": lambda core: core.issue.retired.eq(core.dispatcher.queued),
    "rows_are_never_handed_over": lambda core: [
        core.issue.retired.eq(0), core.issue.retired_rows.eq(0)],
    "operands_do_not_wait": lambda core: core.loader.retired.eq(core.dispatcher.queued),
    "tiles_do_not_wait_for_the_swap": lambda core: core.loader.swap.eq(1),
    "tiles_do_not_wait_for_their_weights": lambda core: core.loader.weight_behind.eq(~0),
    "all_columns_share_one_slot_of_scales": lambda core: [
        core.epilogue.slot.eq(0), core.epilogue.param_slot.eq(0)],
    "both_heads_share_one_slot_of_maxima": lambda core: [
        core.rowmax.slot.eq(0), core.rowmax.read_slot.eq(0)],
    # Read-modify-write: the first tile takes nothing from before
    "accumulators_are_not_begun_anew": lambda core: core.accumulator.first.eq(0),
    "maxima_are_not_begun_anew": lambda core: core.rowmax.first.eq(0),
    "row_sums_are_not_begun_anew": lambda core: core.rowsum.first.eq(0),
    "statistics_are_not_begun_anew": lambda core: core.statistics.first.eq(0),
    # Columns that are no tokens
    "maxima_of_padding": lambda core: core.rowmax.enable.eq(~0),
    # Loads, which go on behind the passes
    "loads_write_beside_passes": lambda core: core.frame.residual_ready.eq(1),
    "images_do_not_take_turns_in_the_residual": lambda core: [
        core.first_row.eq(core.dispatcher.image.first_row), core.frame.row_step.eq(0)],
    # Images, and what selectors leave of them
    "selectors_do_not_begin_anew": lambda core: core.selector.init.eq(0),
    "an_image_forgets_the_package_of_another": lambda core: core.selector.init_image.eq(0),
    "every_image_begins_a_round": lambda core: core.segments.first_image.eq(1),
    "what_stays_of_all_images_begins_at_one_place": lambda core: core.selector.kept_base.eq(0),
    "what_goes_of_all_images_begins_at_one_place": lambda core: (
        core.selector.dropped_base.eq(0)),
    "segments_share_their_scores": lambda core: core.class_attention.segment.eq(0),
    "keys_of_a_segment_end_with_their_word": lambda core: (
        core.keys.read_after.eq(core.loader.key_base)),
}


def _hold(wires: _Wires, core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += wires(core)


for _name, _wires in _HELD.items():
    FAULTS.add(FaultyCore, _name, partial(_hold, _wires))


# What the dispatcher believes of passes and units, for instructions of one kind

#: All passes have retired.
_NOTHING_UNDER_WAY = {
    "passes_do_not_wait_for_a_descriptor": Opcode.PASS,
    "tables_do_not_wait": Opcode.TABLE,
    "the_end_does_not_wait": Opcode.END,
    "loads_do_not_wait_for_passes": Opcode.LOAD,
    "images_do_not_wait": Opcode.IMAGE,
}
#: A unit is idle.
_IDLE: dict[str, tuple[Any, _Wires]] = {
    "loads_do_not_wait_for_each_other": (
        Opcode.LOAD, lambda core: core.dispatcher.load_busy.eq(0)),
    "patches_do_not_wait_for_their_load": (
        Opcode.PASS, lambda core: core.dispatcher.load_busy.eq(0)),
    "logits_do_not_wait_for_the_last_output": (
        Opcode.PASS, lambda core: core.dispatcher.end_busy.eq(0)),
    "selectors_do_not_wait_for_each_other": (
        Opcode.SELECT, lambda core: core.dispatcher.selector_busy.eq(0)),
}


def _believe(opcode: Any, wires: _Wires, core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    with m.If(core.dispatcher.load.opcode == opcode):
        m.d.comb += wires(core)


for _name, _opcode in _NOTHING_UNDER_WAY.items():
    FAULTS.add(FaultyCore, _name, partial(
        _believe, _opcode, lambda core: core.dispatcher.retired.eq(core.dispatcher.queued)))
for _name, (_opcode, _idle) in _IDLE.items():
    FAULTS.add(FaultyCore, _name, partial(_believe, _opcode, _idle))


# What takes more than that

@FAULTS.of(FaultyCore)
def rows_are_handed_over_early(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    """When they are written: statistics, maxima and keys that follow from them are not there."""
    early = copy(core)
    early.at_retire = core.at_write + 1
    early._retire(m, rows)


@FAULTS.of(FaultyCore)
def swaps_do_not_travel_with_their_row(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    k = core.at_array + 1
    m.d.comb += core.array.swap.eq(rows.valid(k) & rows.row(k).swap)


@FAULTS.of(FaultyCore)
def exponentials_of_padding(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    row = rows.row(core.at_prologue - 1)
    for lane in range(core.config.rows):
        m.d.sync += core.prologue.enable[lane].eq(
            row.tile.blocks[lane // BLOCK].valid & ~row.zero)


@FAULTS.of(FaultyCore)
def old_residual_is_one_cycle_early(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    old = m.submodules.old
    m.submodules.old_early = early = DelayBuffer(width=old.width, cycles=old.cycles - 1)
    m.d.comb += early.i.eq(old.i)
    _old_residual(core, m, rows, early.o)


@FAULTS.of(FaultyCore)
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


@FAULTS.of(FaultyCore)
def loads_write_beside_a_package(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    with m.If(core.statistics.package_valid):
        m.d.comb += core.frame.residual_ready.eq(1)


@FAULTS.of(FaultyCore)
def operands_of_a_segment_begin_with_a_word(core: FaultyCore, m: Module,
                                            rows: RowPipeline) -> None:
    first = core.loader.first
    with m.If(core.loader.descriptor.of_segment):
        m.d.comb += first[:ceil_log2(core.config.columns)].eq(0)
