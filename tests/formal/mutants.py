# SPDX-License-Identifier: BSD-2-Clause
"""Designs with one fault each: a proof that still passes with one of them proves nothing.

Every property has a mutant that violates it, and everything that is to be possible one in which it
is not.
"""

from tests.formal.runner import Mutant

__all__ = ["MUTANTS"]

_AXI, _CONTROL, _FIFO = "rtl.axi", "rtl.control", "rtl.fifo"
_ISSUE, _SELECTOR = "rtl.issue", "rtl.selector"
_SEGMENTS, _LIST = "rtl.segments", "rtl.token_list"

_OF_FIFO = (
    # A queue that goes round too early, is never full or never empty, or does not wait.
    Mutant("fifo", ("order_kept",), _FIFO, "pointer == self.depth - 1",
           "pointer == self.depth - 2"),
    Mutant("fifo", ("no_overflow",), _FIFO, "full.eq(stored == self.depth - 1)", "full.eq(0)"),
    Mutant("fifo", ("nothing_invented",), _FIFO, "some.eq(stored != 1)", "some.eq(1)"),
    Mutant("fifo", ("output_stable",), _FIFO, "some & (~self.o.valid | self.o.ready)", "some"),
    # Full for good; an element that is alone stays inside; the output register is not counted.
    Mutant("fifo", ("takes_while_room",), _FIFO, ", full.eq(0)]", "]"),
    Mutant("fifo", ("offers_at_once",), _FIFO, "some.eq(1)", "some.eq(stored != 0)"),
    Mutant("fifo", ("level_right",), _FIFO, "stored + self.o.valid", "stored"),
    Mutant("fifo", ("fills", "tracked_leaves", "empties"), _FIFO, "self.i.ready.eq(~full)",
           "self.i.ready.eq(0)"),
)

_OF_AXI_WRITE = (
    # A write address or a beat is taken back before the memory took it.
    Mutant("axi_write", ("aw_stable",), _AXI, "with m.Elif(axi.awready):", "with m.Else():"),
    Mutant("axi_write", ("w_stable",), _AXI, "free.eq(sending & (~axi.wvalid | axi.wready))",
           "free.eq(sending)"),
    # Bursts of another kind, a beat longer than they are, or not at a beat.
    Mutant("axi_write", ("aw_kind",), _AXI, "axi.awburst.eq(INCR)", "axi.awburst.eq(0)"),
    Mutant("axi_write", ("aw_length",), _AXI, "axi.awlen.eq(burst.p.last)",
           "axi.awlen.eq(burst.p.last + 1)"),
    Mutant("axi_write", ("aw_aligned",), _AXI, "Const(0, self.offset_bits)",
           "Const(1, self.offset_bits)"),
    # Bursts of any length begin anywhere; the next one begins a beat too early.
    Mutant("axi_write", ("aw_within_4k",), _AXI, "room.eq(~address[:low])",
           "room.eq(self.max_beats - 1)"),
    Mutant("axi_write", ("aw_in_order",), _AXI,
           "address.eq(Cat(Const(0, low), address[low:] + 1))", "address.eq(address + room)"),
    # A beat more than was asked for; a burst that goes on into the next request.
    Mutant("axi_write", ("aw_inside_requests",), _AXI,
           "remaining.eq(self.i.p.beats - 1), active", "remaining.eq(self.i.p.beats), active"),
    Mutant("axi_write", ("aw_of_one_request",), _AXI, "Mux(ends, remaining, room)", "room"),
    # Data go on after their burst, or a burst begins before those of the last one have gone.
    Mutant("axi_write", ("w_after_address",), _AXI, "sending.eq(left != 1)", "sending.eq(1)"),
    Mutant("axi_write", ("w_one_ahead",), _AXI, "burst.valid & ~sending &", "burst.valid &"),
    Mutant("axi_write", ("wlast_right",), _AXI, "axi.wlast.eq(left == 1)",
           "axi.wlast.eq(left <= 2)"),
    Mutant("axi_write", ("outstanding_bounded",), _AXI,
           "& (count != self.outstanding) & ~self.stop", "& ~self.stop"),
    # A beat is taken while the one before it waits, or with stop.
    Mutant("axi_write", ("data_kept",), _AXI, "self.data.ready.eq(free & ~self.stop)",
           "self.data.ready.eq(sending & ~self.stop)"),
    Mutant("axi_write", ("stop_takes_nothing",), _AXI, "self.data.ready.eq(free & ~self.stop)",
           "self.data.ready.eq(free)"),
    Mutant("axi_write", ("stop_begins_nothing",), _AXI,
           "& (count != self.outstanding) & ~self.stop", "& (count != self.outstanding)"),
    # Beats that fill up a burst after stop are written, or never come.
    Mutant("axi_write", ("data_not_invented",), _AXI, "Mux(self.stop, 0, self.data.p.strobe)",
           "self.data.p.strobe"),
    Mutant("axi_write", ("stop_drains",), _AXI, "free & (self.data.valid | self.stop)",
           "free & self.data.valid", depth=30),
    # Idle with acknowledgements or requests to come; acknowledgements that wait, or are misread.
    Mutant("axi_write", ("idle_is_drained",), _AXI, "(count == 0) & (self.stop | ~splitter.busy)",
           "(count == 0) | self.stop"),
    Mutant("axi_write", ("idle_is_complete",), _AXI,
           "(count == 0) & (self.stop | ~splitter.busy)", "count == 0"),
    Mutant("axi_write", ("b_taken",), _AXI, "axi.bready.eq(1)", "axi.bready.eq(~sending)"),
    Mutant("axi_write", ("error_right",), _AXI, "axi.bvalid & axi.bresp[1]",
           "axi.bvalid & axi.bresp[0]"),
    # The address is offered while the memory is ready for data.
    Mutant("axi_write", ("apart",), _AXI, """\
        with m.If(begin):
            m.d.sync += [axi.awvalid.eq(1), axi.awaddr.eq(burst.p.address),
                         axi.awlen.eq(burst.p.last)]
        with m.Elif(axi.awready):
            m.d.sync += axi.awvalid.eq(0)
""", """\
        m.d.comb += axi.awvalid.eq(burst.valid & axi.wready)
"""),
    Mutant("axi_write", ("full_burst", "second_of_request", "all_outstanding", "stopped_within",
                         "drained", "failed"), _AXI, "self.i.ready.eq(~active)",
           "self.i.ready.eq(0)"),
)

_OF_AXI_READ = (
    # An address is taken back; of another kind, too long, or not at a beat.
    Mutant("axi_read", ("ar_stable",), _AXI, "with m.Elif(axi.arready):", "with m.Else():"),
    Mutant("axi_read", ("ar_kind",), _AXI, "axi.arburst.eq(INCR)", "axi.arburst.eq(0)"),
    Mutant("axi_read", ("ar_length",), _AXI, "axi.arlen.eq(burst.p.last)",
           "axi.arlen.eq(burst.p.last + 1)"),
    Mutant("axi_read", ("ar_aligned",), _AXI, "Const(0, self.offset_bits)",
           "Const(1, self.offset_bits)"),
    # Requests are split as above.
    Mutant("axi_read", ("ar_within_4k",), _AXI, "room.eq(~address[:low])",
           "room.eq(self.max_beats - 1)"),
    Mutant("axi_read", ("ar0_in_order", "ar1_in_order"), _AXI,
           "address.eq(Cat(Const(0, low), address[low:] + 1))", "address.eq(address + room)"),
    Mutant("axi_read", ("ar0_inside_requests", "ar1_inside_requests"), _AXI,
           "remaining.eq(self.i.p.beats - 1), active", "remaining.eq(self.i.p.beats), active"),
    Mutant("axi_read", ("ar0_of_one_request", "ar1_of_one_request"), _AXI,
           "Mux(ends, remaining, room)", "room"),
    # More is asked for than there is room, or the owner of a burst changes within it.
    Mutant("axi_read", ("routed0",), _AXI, " & (room > burst.p.last)", "", depth=24),
    Mutant("axi_read", ("routed0", "routed1"), _AXI, "owners.r_en.eq(complete)",
           "owners.r_en.eq(arrived)"),
    Mutant("axi_read", ("hold0", "hold1"), _AXI, " & ~self.hold[i]", ""),
    Mutant("axi_read", ("outstanding_bounded",), _AXI, "(count != self.outstanding)\n", "1\n"),
    # Bursts begin after stop; the last one is not counted then.
    Mutant("axi_read", ("stop_begins_nothing",), _AXI, "\n                     & ~self.stop)",
           ")"),
    Mutant("axi_read", ("stop_drains",), _AXI, "complete.eq(arrived & last)",
           "complete.eq(arrived & last & ~self.stop)", depth=32),
    # Idle with beats or requests to come; beats that wait, or are misread.
    Mutant("axi_read", ("idle_is_drained",), _AXI, "(count == 0) & (self.stop | ~busy.any())",
           "(count == 0) | self.stop"),
    Mutant("axi_read", ("idle_is_complete",), _AXI, "(count == 0) & (self.stop | ~busy.any())",
           "count == 0"),
    Mutant("axi_read", ("r_taken",), _AXI, "axi.rready.eq(1)", "axi.rready.eq(~axi.arvalid)"),
    Mutant("axi_read", ("error_right",), _AXI, "axi.rvalid & axi.rresp[1]",
           "axi.rvalid & axi.rresp[0]"),
    # The address is offered while the memory has no data.
    Mutant("axi_read", ("apart",), _AXI, """\
        with m.If(issue):
            m.d.sync += [axi.arvalid.eq(1), served.eq(chosen)]
            with m.Switch(chosen):
                for i, burst in enumerate(bursts):
                    with m.Case(i):
                        m.d.sync += [axi.araddr.eq(burst.p.address), axi.arlen.eq(burst.p.last)]
        with m.Elif(axi.arready):
            m.d.sync += axi.arvalid.eq(0)
""", """\
        m.d.comb += axi.arvalid.eq(enough.any() & ~axi.rvalid)
"""),
    Mutant("axi_read", ("full_burst0", "full_burst1", "interleaved", "drained", "failed"), _AXI,
           "self.i.ready.eq(~active)", "self.i.ready.eq(0)"),
)

_OF_CONTROL_PORT = (
    # Answers are withdrawn, invented, late or lost, or are errors.
    Mutant("control_port", ("b_stable",), _CONTROL, "with m.Elif(bus.bready):", "with m.Else():"),
    Mutant("control_port", ("r_stable",), _CONTROL, "with m.Elif(bus.rready):", "with m.Else():"),
    Mutant("control_port", ("b_invented",), _CONTROL, "have_address & have_data & ~bus.bvalid",
           "have_address & ~bus.bvalid"),
    Mutant("control_port", ("b_lost",), _CONTROL, "have_address & have_data & ~bus.bvalid",
           "have_address & have_data & ~bus.bvalid & ~bus.rvalid"),
    Mutant("control_port", ("r_invented",), _CONTROL, "read.eq(bus.arvalid & bus.arready)",
           "read.eq(bus.arready)"),
    Mutant("control_port", ("r_lost",), _CONTROL, "answered.eq(1)", "answered.eq(0)"),
    Mutant("control_port", ("okay",), _CONTROL, "bus.rdata.eq(value),",
           "bus.rdata.eq(value), bus.rresp.eq(Mux(address[-1], 2, 0)),"),
    # A second access is taken before the first is answered; a ready waits for a valid.
    Mutant("control_port", ("one_write",), _CONTROL, "bus.awready.eq(~have_address)",
           "bus.awready.eq(1)"),
    Mutant("control_port", ("one_read",), _CONTROL, "~read & ~waits & ~bus.rvalid",
           "~read & ~bus.rvalid"),
    Mutant("control_port", ("apart",), _CONTROL, "bus.awready.eq(~have_address)",
           "bus.awready.eq(~have_address & bus.wvalid)"),
    # Every word is read at the place of the next; the core is asked, or heard, at the wrong time.
    Mutant("control_port", (
        "argument_read", "unmapped_zero", "constant_version", "constant_config",
        "constant_limits0", "constant_limits1", "constant_limits2", "constant_limits3",
        "status_status0", "status_error0", "status_error_index0", "status_top_class0",
        "status_tokens0", "status_bytes_read0", "status_bytes_written0", "status_images_done0",
        "status_cycles0", "status_cycles1", "status_stall_busy0", "status_stall_weight0",
        "status_stall_operand0", "status_stall_row0", "status_stall_load0",
        "status_stall_program0", "status_stall_tile0", "status_stall_drain0",
        "status_stall_selector0"), _CONTROL, "with m.Switch(read_at):",
           "with m.Switch((read_at - 1)[:len(read_at)]):"),
    Mutant("control_port", ("core_read",), _CONTROL, ", value.eq(self.readback)]", "]"),
    Mutant("control_port", ("core_address",), _CONTROL, "self.readback_at.eq(address)",
           "self.readback_at.eq(bus.araddr[2:])"),
    # Arguments change in a run; a run starts in a run; lanes that are not written count.
    Mutant("control_port", ("arguments_kept",), _CONTROL, "with m.If(~locked):", "with m.If(1):"),
    Mutant("control_port", ("start_right",), _CONTROL, "self.start.eq(control_write & self.idle)",
           "self.start.eq(control_write)"),
    Mutant("control_port", ("soft_reset_right",), _CONTROL,
           "self.soft_reset.eq(write_data[0] & strobe[0])", "self.soft_reset.eq(write_data[0])"),
    # The end of a run is missed.
    Mutant("control_port", ("end_told_once",), _CONTROL,
           "(finished & ~clear.replicate(2)) | self.done.replicate(2)",
           "(finished | self.done.replicate(2)) & ~clear.replicate(2)"),
    Mutant("control_port", ("word_first", "both_wait", "argument", "interrupt"), _CONTROL,
           "bus.awready.eq(~have_address)", "bus.awready.eq(0)"),
    Mutant("control_port", ("core", "end"), _CONTROL, "~read & ~waits & ~bus.rvalid", "0"),
)

_OF_RUN_CONTROL = (
    # Masters are reset while they still write, as they are far away, or left as they were; or
    # a run has ended while they still write.
    Mutant("run_control", ("reset_while_idle",), _CONTROL, "SETTLE_CYCLES = 6",
           "SETTLE_CYCLES = 4", depth=20),
    Mutant("run_control", ("fresh_core",), _CONTROL, "RESET_CYCLES = 2", "RESET_CYCLES = 0",
           depth=20),
    Mutant("run_control", ("idle_while_idle",), _CONTROL, "with m.If(settled & quiet):",
           "with m.If(settled):", depth=24),
    # The end of a run is told twice, or not; what went wrong at first is forgotten.
    Mutant("run_control", ("end_invented",), _CONTROL, "self.done.eq(~told)", "self.done.eq(1)",
           depth=30),
    Mutant("run_control", ("end_lost",), _CONTROL, "self.done.eq(~told)", "self.done.eq(told)",
           depth=24),
    Mutant("run_control", ("first_error_wins",), _CONTROL,
           "(self.error == Error.NONE.value) & (self.read_error | self.write_error)",
           "self.read_error | self.write_error", depth=20),
    # A run, or a soft reset outside of one, goes on without an end.
    Mutant("run_control", ("run_ends",), _CONTROL, "with m.Elif(watchdog.hung):",
           "with m.Elif(0):", depth=30),
    Mutant("run_control", ("soft_reset_ends",), _CONTROL, "with m.If(self.aborting | self.start):",
           "with m.If(self.start):", depth=30),
    Mutant("run_control", ("runs", "hangs", "aborted"), _CONTROL,
           "with m.If(self.aborting | self.start):", "with m.If(0):"),
)

_OF_HAND_OVER = (
    # A row is issued with the one before it; every other row is; more or less rows than there are.
    Mutant("hand_over", ("row_written",), _ISSUE, "step.made_first + self.retired_rows",
           "step.made_first + self.retired_rows + 1", depth=26),
    Mutant("hand_over", ("rows_in_order", "each_row_once"), _ISSUE, "last.eq(i + 2 == step.rows)",
           "last.eq(i + 2 == step.rows), i.eq(following + 1)"),
    Mutant("hand_over", ("rows_of_pass",), _ISSUE, "rows.eq(fields.row_count)",
           "rows.eq(fields.row_count + 1)"),
    Mutant("hand_over", ("all_rows",), _ISSUE, "last.eq(i + 2 == step.rows)",
           "last.eq(i + 3 == step.rows)", depth=30),
    Mutant("hand_over", ("handed_over", "waited", "second_tile"), _ISSUE,
           "self.tile.ready.eq(~held)", "self.tile.ready.eq(0)"),
)

_OF_COMPACTION = (
    # A position more; rows of another segment; rows that wait for the next one are not written.
    Mutant("compaction", ("each_once",), _SELECTOR, "position + 1 == segment.count",
           "position == segment.count"),
    Mutant("compaction", ("in_order",), _SELECTOR,
           "self.scan_position.eq(segment.start + position)", "self.scan_position.eq(position)"),
    Mutant("compaction", ("one_list",), _SELECTOR, "self.write_en.eq(valid | append)",
           "self.write_en.eq((valid & keep) | append)"),
    # Rows lie over those of the segment before; special tokens are dropped like others.
    Mutant("compaction", ("kept_in_order",), _SELECTOR, "self.kept_base + kept", "kept", depth=10),
    Mutant("compaction", ("dropped_in_order",), _SELECTOR, "self.dropped_base + dropped",
           "dropped"),
    Mutant("compaction", ("special_kept",), _SELECTOR, "(position >= select.special) & ~package",
           "~package"),
    # The package comes with the last token, has its row, or is not counted.
    Mutant("compaction", ("package_last",), _SELECTOR, "append = delay(m, ended, 1,",
           "append = delay(m, last, 1,"),
    Mutant("compaction", ("package_right",), _SELECTOR, "with m.If(~any_dropped):",
           "with m.If(1):"),
    Mutant("compaction", ("counts_right",), _SELECTOR, "with m.If(valid | append):",
           "with m.If(valid):"),
    # It ends again and again, is busy after the end, or never ends.
    Mutant("compaction", ("ends_once",), _SELECTOR,
           "m.d.sync += self.busy.eq(0)\n                    m.next = \"IDLE\"",
           "m.d.sync += self.busy.eq(0)", depth=20),
    Mutant("compaction", ("busy_right",), _SELECTOR, "m.d.sync += self.busy.eq(0)\n",
           "m.d.sync += self.busy.eq(1)\n", depth=20),
    Mutant("compaction", ("some_of_each", "none_dropped"), _SELECTOR,
           "m.d.comb += self.append.eq(1)", "m.d.comb += self.append.eq(0)"),
)

_OF_SEGMENTS = (
    # Segments that lie over one another, are a row too long, or are of the other list.
    Mutant("segments", ("appended_behind",), _SEGMENTS, "base.eq(base + rows)", "base.eq(rows)"),
    Mutant("segments", ("dropped_behind",), _SEGMENTS, "fresh.eq(0), self.dropped_base.eq(0)",
           "self.dropped_base.eq(0)"),
    Mutant("segments", ("segment_taken",), _SEGMENTS, "table[i].last.eq(base + rows - 1)",
           "table[i].last.eq(base + rows)"),
    Mutant("segments", ("gone_kept",), _SEGMENTS, "self.dropped, self.gone",
           "self.kept, self.gone"),
    # A list that is as long as the one before it; an image that begins where that one did.
    Mutant("segments", ("tokens_right", "segment_inside"), _SEGMENTS,
           "self.tokens.eq(self.kept_base),", ""),
    Mutant("segments", ("image_is_whole",), _SEGMENTS, "self.current[0].start.eq(0),", ""),
    Mutant("segments", ("all_segments", "again"), _SEGMENTS, "with m.If(self.prune):",
           "with m.If(0):"),
)

_OF_TOKEN_LIST = (
    # Writes to the list that is read, and of dropped rows into the copy; or none at all.
    Mutant("token_list", ("row_right",), _LIST, "~current & ~self.write_dropped",
           "current & ~self.write_dropped"),
    Mutant("token_list", ("scan_right",), _LIST, "write.en & ~write.addr[-1]", "write.en"),
    Mutant("token_list", ("flipped", "dropped"), _LIST, "write.en.eq(self.write_en)",
           "write.en.eq(0)"),
)

MUTANTS = (*_OF_FIFO, *_OF_AXI_WRITE, *_OF_AXI_READ, *_OF_CONTROL_PORT, *_OF_RUN_CONTROL,
           *_OF_HAND_OVER, *_OF_COMPACTION, *_OF_SEGMENTS, *_OF_TOKEN_LIST)
