# SPDX-License-Identifier: BSD-2-Clause
"""Designs with one fault each: a proof that still passes with one of them proves nothing."""

from tests.formal.runner import Mutant

__all__ = ["MUTANTS"]

_AXI, _CONTROL, _FIFO = "rtl.axi", "rtl.control", "rtl.fifo"
_ISSUE, _SELECTOR = "rtl.issue", "rtl.selector"
_SEGMENTS, _LIST = "rtl.segments", "rtl.token_list"

MUTANTS = (
    # A write address or a beat is taken back before the memory took it.
    Mutant("axi_write", "aw_stable", _AXI, "with m.Elif(axi.awready):", "with m.Else():"),
    Mutant("axi_write", "w_stable", _AXI, "free.eq(sending & (~axi.wvalid | axi.wready))",
           "free.eq(sending)"),
    # Bursts of any length begin anywhere; the next one begins a beat too early.
    Mutant("axi_write", "aw_within_4k", _AXI, "room.eq(~address[:low])",
           "room.eq(self.max_beats - 1)"),
    Mutant("axi_write", "aw_in_order", _AXI, "address.eq(Cat(Const(0, low), address[low:] + 1))",
           "address.eq(address + room)"),
    # A beat more than was asked for.
    Mutant("axi_write", "aw_inside_requests", _AXI, "remaining.eq(self.i.p.beats - 1), active",
           "remaining.eq(self.i.p.beats), active"),
    Mutant("axi_write", "wlast_right", _AXI, "axi.wlast.eq(left == 1)", "axi.wlast.eq(left <= 2)"),
    Mutant("axi_write", "outstanding_bounded", _AXI, "& (count != self.outstanding) & ~self.stop",
           "& ~self.stop"),
    Mutant("axi_write", "stop_begins_nothing", _AXI, "& (count != self.outstanding) & ~self.stop",
           "& (count != self.outstanding)"),
    # Beats that fill up a burst after stop are written, or never come.
    Mutant("axi_write", "data_not_invented", _AXI, "Mux(self.stop, 0, self.data.p.strobe)",
           "self.data.p.strobe"),
    Mutant("axi_write", "stop_drains", _AXI, "free & (self.data.valid | self.stop)",
           "free & self.data.valid", depth=30, bounded=True),
    Mutant("axi_write", "idle_is_drained", _AXI, "(count == 0) & (self.stop | ~splitter.busy)",
           "(count == 0) | self.stop"),
    Mutant("axi_write", "error_right", _AXI, "axi.bvalid & axi.bresp[1]",
           "axi.bvalid & axi.bresp[0]"),
    # More is asked for than there is room, or the owner of a burst changes within it.
    Mutant("axi_read", "routed0", _AXI, " & (room > burst.p.last)", "", depth=24),
    Mutant("axi_read", "routed1", _AXI, "owners.r_en.eq(complete)", "owners.r_en.eq(arrived)"),
    Mutant("axi_read", "hold1", _AXI, " & ~self.hold[i]", ""),
    Mutant("axi_read", "outstanding_bounded", _AXI, "(count != self.outstanding)\n", "1\n"),
    Mutant("axi_read", "ar_stable", _AXI, "with m.Elif(axi.arready):", "with m.Else():"),
    # Answers of the control port are withdrawn, invented or lost.
    Mutant("control_port", "b_stable", _CONTROL, "with m.Elif(bus.bready):", "with m.Else():"),
    Mutant("control_port", "r_stable", _CONTROL, "with m.Elif(bus.rready):", "with m.Else():"),
    Mutant("control_port", "b_invented", _CONTROL, "have_address & have_data & ~bus.bvalid",
           "have_address & ~bus.bvalid"),
    Mutant("control_port", "one_write", _CONTROL, "bus.awready.eq(~have_address)",
           "bus.awready.eq(1)"),
    Mutant("control_port", "apart", _CONTROL, "bus.awready.eq(~have_address)",
           "bus.awready.eq(~have_address & bus.wvalid)"),
    # Arguments change in a run, or in lanes that were not written; the end of a run is missed.
    Mutant("control_port", "arguments_kept", _CONTROL, "with m.If(~locked):", "with m.If(1):"),
    Mutant("control_port", "end_told_once", _CONTROL,
           "(finished & ~clear.replicate(2)) | self.done.replicate(2)",
           "(finished | self.done.replicate(2)) & ~clear.replicate(2)"),
    # Masters that are far away are reset while they still write; a run goes on without an end.
    Mutant("run_control", "reset_while_idle", _CONTROL, "SETTLE_CYCLES = 6", "SETTLE_CYCLES = 4",
           depth=20),
    Mutant("run_control", "end_invented", _CONTROL, "self.done.eq(~told)", "self.done.eq(1)",
           depth=30),
    Mutant("run_control", "first_error_wins", _CONTROL,
           "(self.error == Error.NONE.value) & (self.read_error | self.write_error)",
           "self.read_error | self.write_error", depth=20),
    Mutant("run_control", "run_ends", _CONTROL, "with m.Elif(watchdog.hung):", "with m.Elif(0):",
           depth=30, bounded=True),
    # A row is issued with the one before it, or of a pass that is not written row by row.
    Mutant("hand_over", "row_written", _ISSUE, "step.made_first + self.retired_rows",
           "step.made_first + self.retired_rows + 1", depth=26),
    Mutant("hand_over", "rows_in_order", _ISSUE, "last.eq(i + 2 == step.rows)",
           "last.eq(i + 2 == step.rows), i.eq(following + 1)"),
    # Kept rows lie over those of the segment before; the package has the row of the last token.
    Mutant("compaction", "kept_in_order", _SELECTOR, "self.kept_base + kept", "kept", depth=10),
    Mutant("compaction", "package_right", _SELECTOR, "with m.If(~any_dropped):", "with m.If(1):",
           depth=14),
    Mutant("compaction", "counts_right", _SELECTOR, "with m.If(valid | append):",
           "with m.If(valid):", depth=16),
    # A queue that goes round too early, is never full, or does not wait.
    Mutant("fifo", "order_kept", _FIFO, "pointer == self.depth - 1", "pointer == self.depth - 2"),
    Mutant("fifo", "no_overflow", _FIFO, "full.eq(stored == self.depth - 1)", "full.eq(0)"),
    Mutant("fifo", "output_stable", _FIFO, "some & (~self.o.valid | self.o.ready)", "some"),
    # Segments that lie over one another.
    Mutant("segments", "appended_behind", _SEGMENTS, "base.eq(base + rows)", "base.eq(rows)"),
    Mutant("segments", "dropped_behind", _SEGMENTS, "fresh.eq(0), self.dropped_base.eq(0)",
           "self.dropped_base.eq(0)"),
    # Writes to the list that is read, and of dropped rows into the copy.
    Mutant("token_list", "row_right", _LIST, "~current & ~self.write_dropped",
           "current & ~self.write_dropped"),
    Mutant("token_list", "scan_right", _LIST, "write.en & ~write.addr[-1]", "write.en"),
)
