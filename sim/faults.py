# SPDX-License-Identifier: BSD-2-Clause
"""A core out of which every precaution of docs/hazards.md can be taken that is between its blocks.

All faults are in one design, for there to be one simulator to build: a run chooses one of them, or
none, by the top byte of the frame address. Its highest bit has outputs and initial rows come late.
"""

from collections.abc import Callable
from copy import copy
from typing import Any

from amaranth.hdl import Module, Signal, Value
from amaranth.utils import ceil_log2

from rtl.buffers import DelayBuffer
from rtl.config import BLOCK, Config
from rtl.core import Core
from rtl.isa import Destination, Opcode
from rtl.pipeline import RowPipeline

__all__ = ["CONFIG", "FAULTS", "FaultyCore", "choice"]

CONFIG = Config(name="hazards", rows=16, columns=16, ports=1, port_bits=64, max_tokens=80,
                max_width=32, max_hidden=64, max_patch=64, max_classes=16, weight_tiles=4,
                clock_mhz=50)

#: Where in the frame address the fault is chosen, and whether something comes late.
_CHOICE = slice(56, 63)
_LATE = 63

#: By how many cycles initial rows do, which is more than a round takes, and outputs: the passes
#: that wait for them have waited for initial rows before.
_ROWS_DELAY, _OUTPUT_DELAY = 10_000, 30_000

_Fault = Callable[["FaultyCore", Module, RowPipeline], None]
FAULTS: dict[str, _Fault] = {}


def fault(apply: _Fault) -> _Fault:
    """Register a fault under the name of its function."""
    FAULTS[apply.__name__] = apply
    return apply


def choice(name: str = "", *, late: bool = False) -> int:
    """Return the bits of the frame address that choose a fault, and whether something comes late.
    """
    number = [*FAULTS].index(name) + 1 if name else 0
    return number << _CHOICE.start | late << _LATE


class FaultyCore(Core):
    """The core, with every fault beside what it breaks: later assignments win."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.frame.frame_addr.eq(self.frame_addr[:_CHOICE.start])
        chosen = Signal(_CHOICE.stop - _CHOICE.start)
        m.d.comb += chosen.eq(self.frame_addr[_CHOICE])
        with m.If(self.frame_addr[_LATE]):
            self._late(m)
        rows = RowPipeline(m, self.issue.valid, self.issue.row, self.dispatcher.descriptors,
                           depth=self.at_retire)
        for number, apply in enumerate(FAULTS.values(), 1):
            with m.If(chosen == number):
                apply(self, m, rows)
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


# Order of passes, tiles and rows

@fault
def rows_do_not_wait(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += core.issue.retired.eq(core.dispatcher.queued)


@fault
def rows_are_never_handed_over(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += [core.issue.retired.eq(0), core.issue.retired_rows.eq(0)]


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


def _nothing_under_way(core: FaultyCore, m: Module, opcode: Any) -> None:
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


# Loads and outputs, which go on behind the passes

@fault
def loads_do_not_wait_for_passes(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    _nothing_under_way(core, m, Opcode.LOAD)


@fault
def loads_do_not_wait_for_each_other(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    _idle(core, m, Opcode.LOAD, core.dispatcher.load_busy)


@fault
def patches_do_not_wait_for_their_load(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    _idle(core, m, Opcode.PASS, core.dispatcher.load_busy)


@fault
def logits_do_not_wait_for_the_last_output(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    _idle(core, m, Opcode.PASS, core.dispatcher.end_busy)


@fault
def selectors_do_not_wait_for_each_other(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    _idle(core, m, Opcode.SELECT, core.dispatcher.selector_busy)


def _idle(core: FaultyCore, m: Module, opcode: Any, busy: Signal) -> None:
    """Let the dispatcher believe that a unit is idle, for instructions of one kind."""
    with m.If(core.dispatcher.load.opcode == opcode):
        m.d.comb += busy.eq(0)


@fault
def loads_write_beside_passes(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += core.frame.residual_ready.eq(1)


@fault
def loads_write_beside_a_package(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    with m.If(core.statistics.package_valid):
        m.d.comb += core.frame.residual_ready.eq(1)


@fault
def images_do_not_take_turns_in_the_residual(core: FaultyCore, m: Module,
                                             rows: RowPipeline) -> None:
    m.d.comb += [core.first_row.eq(core.dispatcher.image.first_row), core.frame.row_step.eq(0)]


# Images, and what selectors leave of them

@fault
def images_do_not_wait(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    _nothing_under_way(core, m, Opcode.IMAGE)


@fault
def selectors_do_not_begin_anew(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += core.selector.init.eq(0)


@fault
def an_image_forgets_the_package_of_another(core: FaultyCore, m: Module,
                                            rows: RowPipeline) -> None:
    m.d.comb += core.selector.init_image.eq(0)


@fault
def every_image_begins_a_round(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += core.segments.first_image.eq(1)


@fault
def what_stays_of_all_images_begins_at_one_place(core: FaultyCore, m: Module,
                                                 rows: RowPipeline) -> None:
    m.d.comb += core.selector.kept_base.eq(0)


@fault
def what_goes_of_all_images_begins_at_one_place(core: FaultyCore, m: Module,
                                                rows: RowPipeline) -> None:
    m.d.comb += core.selector.dropped_base.eq(0)


# Segments

@fault
def segments_share_their_scores(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += core.class_attention.segment.eq(0)


@fault
def operands_of_a_segment_begin_with_a_word(core: FaultyCore, m: Module,
                                            rows: RowPipeline) -> None:
    first = core.loader.first
    with m.If(core.loader.descriptor.of_segment):
        m.d.comb += first[:ceil_log2(core.config.columns)].eq(0)


@fault
def keys_of_a_segment_end_with_their_word(core: FaultyCore, m: Module, rows: RowPipeline) -> None:
    m.d.comb += core.keys.read_after.eq(core.loader.key_base)
