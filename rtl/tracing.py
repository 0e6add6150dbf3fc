# SPDX-License-Identifier: BSD-2-Clause
"""What a trace of a run is made of, wired to the taps: who works, who waits, and on what."""

from typing import TYPE_CHECKING

from amaranth.hdl import Module

from rtl import isa
from rtl.pipeline import RowPipeline

if TYPE_CHECKING:
    from rtl.core import Core

__all__ = ["connect_trace"]


def connect_trace(m: Module, core: "Core", pipeline: RowPipeline) -> None:
    """Connect the taps of a trace, see ``rtl.taps.trace_members``."""
    dispatcher, loader, issue, frame = core.dispatcher, core.loader, core.issue, core.frame
    state, taps = issue.state, core.taps
    m.d.comb += [
        taps.run_start.eq(core.start),
        taps.run_end.eq(core.done | (core.error != isa.Error.NONE)),
        taps.stall.eq(core.stall),
        # A tile is there as long as its rows are issued, waited for, or padded.
        taps.tile_active.eq(state.busy | state.waits_row | state.pads),
        taps.tile_accepted.eq(state.accepts),
        taps.tile_slot.eq(state.tile.slot),
        *(getattr(taps, f"tile_{name}").eq(getattr(state.tile, name))
          for name in ("first_column", "last_column", "first_k", "last_k")),
        taps.loader.eq(loader.activity),
        taps.loader_begins.eq(loader.begins),
        taps.weight_level.eq(core.weights.level * core.config.load_rows),
        taps.queued.eq(dispatcher.queued),
        taps.retired.eq(dispatcher.retired),
        taps.instruction.eq(dispatcher.error_index),
        taps.written.eq(core.writeback.valid),
        taps.written_slot.eq(pipeline.row(core.at_write).tile.slot),
        taps.load_start.eq(frame.start),
        taps.load_busy.eq(frame.busy),
        taps.load_kind.eq(frame.load.kind),
        taps.load_ahead.eq(frame.load.ahead),
    ]
    if core.config.pruning:
        m.d.comb += taps.selector.eq(core.selector.phase)
