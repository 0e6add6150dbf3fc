# SPDX-License-Identifier: BSD-2-Clause
"""The control side of the core, wired: sequencer, segments, loads, logits, and the host."""

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.utils import exact_log2

from rtl import isa
from rtl.checksum import ProgramCheck
from rtl.dispatch import Activity
from rtl.errors import HANGS
from rtl.segments import segment_layout

if TYPE_CHECKING:
    from rtl.core import Core

__all__ = ["connect_host", "connect_sequencer"]


def connect_sequencer(m: Module, core: "Core") -> None:
    """Dispatcher, segments, tile loader and issue stage; what the issue stage waits for."""
    dispatcher, segments, loader, issue = core.dispatcher, core.segments, core.loader, core.issue
    wiring.connect(m, core.weights.o, loader.weight)
    wiring.connect(m, loader.tile, issue.tile)
    image = dispatcher.image
    segment = Signal(segment_layout(core.config), name="loader_segment")
    whole = ~loader.descriptor.of_segment
    m.d.comb += [
        core.first_row.eq(image.first_row + Mux(image.alternate & dispatcher.odd,
                                                dispatcher.begin.row_step, 0)),
        segments.image.eq(dispatcher.image_start),
        segments.first_image.eq(image.image == 0),
        segments.image_tokens.eq(dispatcher.begin.tokens),
        segments.prune.eq(dispatcher.prune),
        dispatcher.tokens.eq(segments.tokens),
        loader.weight_behind.eq(core.weights.behind),
        loader.queued.eq(dispatcher.queued),
        loader.descriptor.eq(dispatcher.descriptors[loader.slot]),
        segment.eq(segments.current[loader.descriptor.segment]),
        loader.tokens.eq(Mux(whole, segments.tokens, segment.count)),
        loader.first.eq(Mux(whole, 0, segment.start)),
        issue.descriptors.eq(dispatcher.descriptors),
        issue.tokens.eq(segments.tokens),
        issue.images.eq(dispatcher.begin.images),
        issue.current.eq(segments.current),
        issue.gone.eq(segments.gone),
        core.tokens.eq(segments.current[(dispatcher.begin.images - 1)
                                        [:exact_log2(isa.SEGMENTS)]].count),
    ]
    state, cause = issue.state, core.stall
    activity = Signal(Activity)
    m.d.sync += activity.eq(dispatcher.activity)
    with m.If(state.busy):
        m.d.comb += cause.eq(isa.Stall.BUSY)
    with m.Elif(state.waits_row):
        m.d.comb += cause.eq(isa.Stall.ROW)
    with m.Elif(state.pads):
        m.d.comb += cause.eq(isa.Stall.TILE)
    with m.Elif(loader.active):
        with m.Switch(loader.stationary):
            with m.Case(isa.Stationary.WEIGHT):
                m.d.comb += cause.eq(isa.Stall.WEIGHT)
            with m.Case(isa.Stationary.NONE):
                m.d.comb += cause.eq(isa.Stall.TILE)
            with m.Default():
                m.d.comb += cause.eq(isa.Stall.OPERAND)
    with m.Else():
        with m.Switch(activity):
            for kind, waits_for in ((Activity.PROGRAM, isa.Stall.PROGRAM),
                                    (Activity.LOAD, isa.Stall.LOAD),
                                    (Activity.DRAIN, isa.Stall.DRAIN),
                                    (Activity.SELECTOR, isa.Stall.SELECTOR)):
                with m.Case(kind):
                    m.d.comb += cause.eq(waits_for)
    _name_hang(m, core)


def _name_hang(m: Module, core: "Core") -> None:
    """Name the error that it is if the core does not move any more, and the instruction."""
    dispatcher, index = core.dispatcher, core.hang_index
    # It has been so for long: what it waited for in the cycle before is as good.
    waited_for = Signal(isa.Stall)
    m.d.sync += waited_for.eq(core.stall)
    with m.Switch(waited_for):
        for cause, error in HANGS.items():
            with m.Case(cause):
                m.d.comb += core.hang.eq(error)
                if error in (isa.Error.HANG_WEIGHT, isa.Error.HANG_PASS):
                    m.d.comb += index.eq(dispatcher.pass_index)
                elif error == isa.Error.HANG_LOAD:
                    m.d.comb += index.eq(dispatcher.load_index)
                elif error == isa.Error.HANG_OUTPUT:
                    m.d.comb += index.eq(dispatcher.begin.instructions - 1)
                else:
                    m.d.comb += index.eq(dispatcher.error_index)


def connect_host(m: Module, core: "Core") -> None:
    """Loads and logits, the arguments of the host, streams to the masters, and status."""
    dispatcher, frame, logits = core.dispatcher, core.frame, core.logits
    moving = (core.program, core.load, core.output, *core.weight)
    moves = Signal(len(moving) + 1)
    m.d.sync += moves.eq(Cat(*(s.valid & s.ready for s in moving), core.issue.state.busy))
    m.d.comb += core.moves.eq(moves.any())
    flipped = wiring.flipped(core)
    wiring.connect(m, flipped.program_request, dispatcher.program_request)
    wiring.connect(m, flipped.program, dispatcher.program)
    _share_loads(m, core)
    wiring.connect(m, flipped.output_request, logits.request)
    wiring.connect(m, flipped.output, logits.data)
    for p in range(core.config.ports):
        wiring.connect(m, wiring.flipped(core.weight_request[p]), dispatcher.weight_request[p])
        wiring.connect(m, wiring.flipped(core.weight[p]), core.weights.i[p])
    for unit, arguments in ((dispatcher, ("model_addr", "model_bytes", "rounds")),
                            (frame, ("model_addr", "model_bytes", "frame_addr", "frame_bytes",
                                     "frame_stride")),
                            (logits, ("output_addr", "output_bytes", "output_stride"))):
        m.d.comb += [getattr(unit, name).eq(getattr(core, name)) for name in arguments]
    cycle = Signal(32)
    with m.If(core.start):
        m.d.sync += cycle.eq(0)
    with m.Else():
        m.d.sync += cycle.eq(cycle + 1)
    m.d.comb += [
        dispatcher.start.eq(core.start),
        # What the first passes wait for comes before the weights of later ones.
        core.weight_hold.eq(dispatcher.check_busy
                            | (frame.urgent & (core.weights.level * core.config.load_rows
                                               >= 2 * core.config.rows))),
        frame.start.eq(dispatcher.load_start),
        frame.load.eq(dispatcher.load),
        frame.images.eq(dispatcher.begin.images),
        frame.row_step.eq(dispatcher.begin.row_step),
        frame.odd.eq(dispatcher.odd),
        frame.next_round.eq(dispatcher.next_round),
        dispatcher.load_busy.eq(frame.busy),
        dispatcher.load_error.eq(frame.error),
        logits.start.eq(dispatcher.end_start),
        logits.classes.eq(dispatcher.classes),
        logits.images.eq(dispatcher.begin.images),
        logits.cycle.eq(cycle),
        logits.written.eq(core.written),
        dispatcher.end_busy.eq(logits.busy),
        dispatcher.end_error.eq(logits.error),
        core.done.eq(dispatcher.done & core.written),
        core.error.eq(dispatcher.error),
        core.error_index.eq(dispatcher.error_index),
        core.top_class.eq(logits.top_class),
        core.images_done.eq(logits.images_done),
    ]
    for i in range(isa.SEGMENTS):
        m.d.comb += logits.tokens[i].eq(core.segments.current[i].count)


def _share_loads(m: Module, core: "Core") -> None:
    """Give the port of loads to the checksum of the program, until there are loads."""
    dispatcher, frame = core.dispatcher, core.frame
    m.submodules.check = check = ProgramCheck(core.config)
    reads = check.request.valid
    m.d.comb += [
        check.start.eq(dispatcher.check_start),
        check.address.eq(core.model_addr),
        check.instructions.eq(dispatcher.begin.instructions),
        dispatcher.check_busy.eq(check.busy),
        dispatcher.check_wrong.eq(check.wrong),
        core.load_request.valid.eq(reads | frame.request.valid),
        core.load_request.payload.eq(Mux(reads, check.request.payload, frame.request.payload)),
        check.request.ready.eq(core.load_request.ready),
        frame.request.ready.eq(core.load_request.ready & ~reads),
        check.data.payload.eq(core.load.payload),
        check.data.valid.eq(core.load.valid & check.busy),
        frame.data.payload.eq(core.load.payload),
        frame.data.valid.eq(core.load.valid & ~check.busy),
        core.load.ready.eq(Mux(check.busy, check.data.ready, frame.data.ready)),
    ]
