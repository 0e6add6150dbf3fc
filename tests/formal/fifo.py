# SPDX-License-Identifier: BSD-2-Clause
"""The queue: elements leave in the order in which they came, none is lost, none is invented."""

from amaranth.hdl import Mux, Signal

from tests.formal.bench import Bench
from tests.formal.runner import Design, Proof

__all__ = ["PROOF"]

DEPTH = 3


def build(bench: Bench, design: Design) -> None:
    """Follow one element, any of them, from where it enters to where it leaves."""
    fifo = design("rtl.fifo").Fifo(8, depth=DEPTH)
    module = fifo.elaborate(None)
    stored = module.submodules.ram.read_port(domain="comb")
    inside = bench.add("fifo", module)
    m = bench.m
    bench.drive(fifo.i.valid, "i_valid")
    bench.drive(fifo.i.payload, "i_payload")
    bench.drive(fifo.o.ready, "o_ready")
    choose = bench.free(1, "choose")

    # What the contract says of numbers, with a counter of our own
    enters, leaves = Signal(), Signal()
    held = Signal(range(DEPTH + 2))
    m.d.comb += [enters.eq(fifo.i.valid & fifo.i.ready), leaves.eq(fifo.o.valid & fifo.o.ready)]
    m.d.sync += held.eq(held + enters - leaves)
    bench.always("level_right", fifo.level == held, "level is what has entered and not left")
    bench.always("nothing_invented", ~fifo.o.valid | (held != 0),
                 "nothing leaves an empty queue")
    bench.always("no_overflow", held <= DEPTH + 1, "never more than depth and the output register")
    bench.always("takes_while_room", fifo.i.ready | (held >= DEPTH),
                 "takes elements as long as there is room")
    idle = bench.past((held != 0) & ~fifo.o.valid, "idle")
    bench.always("offers_at_once", ~idle | fifo.o.valid,
                 "what is held is offered in the next cycle")
    bench.stable("output_stable", fifo.o.valid, fifo.o.ready, fifo.o.payload,
                 "an element that is offered stays until it is taken")

    # One element: how many are before it
    tracked, ahead, value = Signal(), Signal(range(DEPTH + 2)), Signal(8)
    with m.If(enters & choose & ~tracked):
        m.d.sync += [tracked.eq(1), ahead.eq(held - leaves), value.eq(fifo.i.payload)]
    with m.Elif(tracked & leaves):
        m.d.sync += [ahead.eq(ahead - 1), tracked.eq(ahead != 0)]
    bench.always("order_kept", ~(tracked & (ahead == 0) & fifo.o.valid)
                 | (fifo.o.payload == value), "the n-th to enter is the n-th to leave, unchanged")

    # Why: pointers, flags, and where the element is
    read_at, write_at = inside["read_at"], inside["write_at"]
    # The flag that something is stored: of two names before one `=` Amaranth sees the last.
    level, some, full = inside["stored"], inside["$signal"], inside["full"]
    end, at = Signal(4), Signal(4)
    m.d.comb += [
        end.eq(read_at + level),
        at.eq(read_at + ahead - fifo.o.valid),
        stored.addr.eq(Mux(at >= DEPTH, at - DEPTH, at)),
    ]
    bench.always("pointers", (level <= DEPTH) & (read_at < DEPTH) & (write_at < DEPTH)
                 & (write_at == Mux(end >= DEPTH, end - DEPTH, end)), "pointers and level agree",
                 lemma=True)
    bench.always("flags", (some == (level != 0)) & (full == (level == DEPTH)),
                 "flags and level agree", lemma=True)
    bench.always("place", ~tracked | ((ahead < held) & (((ahead == 0) & fifo.o.valid)
                 | (stored.data == value))), "the element is where its turn says", lemma=True)

    bench.cover("fills", fifo.level == DEPTH + 1, "the queue is full, output register included")
    bench.cover("tracked_leaves", tracked & (ahead == 0) & leaves & fifo.level[1],
                "the element leaves, others behind it")
    bench.cover("empties", bench.past(held == DEPTH + 1, "was_full") & leaves, "a full queue moves")


PROOF = Proof("fifo", build, depths={"prove": 3, "cover": 12}, quick={"prove": 3})
