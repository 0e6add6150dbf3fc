# SPDX-License-Identifier: BSD-2-Clause
"""The AXI4 master that writes: legal, what was asked for and no more, and drained by ``stop``."""

from amaranth.hdl import Cat, Mux, Signal

from tests.formal.axi_requests import Bursts, legal_bursts, requested_bursts, stop_drains
from tests.formal.bench import Bench
from tests.formal.runner import STRUCTURE, Apart, Design, Proof

__all__ = ["PROOF"]

DATA_BITS, ADDR_BITS = 32, 16
#: Beats of a burst, and bursts, at most; fewer where runs are long.
SIZES, SMALL = (16, 4), (4, 2)
#: Cycles after stop within which a fair memory has the smaller one idle.
DRAIN = 2 * SMALL[0] + 2 * SMALL[1] + 6


def build(bench: Bench, design: Design) -> None:
    """A master, any requests and data, and a memory that answers what it was sent, at any time."""
    max_beats, outstanding = SMALL if bench.mode == "bmc" else SIZES
    master = design("rtl.axi").WriteMaster(data_bits=DATA_BITS, addr_bits=ADDR_BITS,
                                           max_beats=max_beats, outstanding=outstanding)
    inside = bench.add("master", master)
    m, axi, data = bench.m, master.axi, master.data
    for target, name in ((master.request.valid, "request_valid"),
                         (master.request.p, "request"), (data.valid, "data_valid"),
                         (data.p, "data"), (axi.awready, "awready"), (axi.wready, "wready"),
                         (axi.bvalid, "bvalid"), (axi.bresp, "bresp"), (master.stop, "stop")):
        bench.drive(target, name)
    bench.offered("data", data.valid, data.ready, data.p)
    bench.reset_only(master.idle)

    # Bursts, from when they are shown on
    aw_taken, w_taken, b_taken = Signal(), Signal(), Signal()
    shown, w_shown = Signal(), Signal()
    m.d.comb += [
        aw_taken.eq(axi.awvalid & axi.awready),
        w_taken.eq(axi.wvalid & axi.wready),
        b_taken.eq(axi.bvalid & axi.bready),
        shown.eq(axi.awvalid & ~bench.past(axi.awvalid & ~axi.awready, "aw_waits")),
        w_shown.eq(axi.wvalid & ~bench.past(axi.wvalid & ~axi.wready, "w_waits")),
    ]
    bursts = Bursts("aw", axi.awvalid, axi.awready, axi.awaddr, axi.awlen, axi.awsize, axi.awburst,
                    shown)
    legal_bursts(bench, bursts, data_bits=DATA_BITS, max_beats=max_beats)
    open_beats, shown_beats = requested_bursts(bench, "aw", master.request, bursts,
                                               inside.below("splitter"), data_bits=DATA_BITS,
                                               max_beats=max_beats)

    # Data: beats still to come of the oldest burst that is shown, and of the one after it
    owed, next_owed = Signal(range(max_beats + 1)), Signal(range(max_beats + 1))
    now, after = Signal.like(owed), Signal.like(owed)
    m.d.comb += [now.eq(owed), after.eq(next_owed)]
    with m.If(shown & (owed == 0)):
        m.d.comb += now.eq(shown_beats)
    with m.Elif(shown):
        m.d.comb += after.eq(shown_beats)
    m.d.sync += [owed.eq(now), next_owed.eq(after)]
    with m.If(w_taken & (now == 1)):
        m.d.sync += [owed.eq(after), next_owed.eq(0)]
    with m.Elif(w_taken):
        m.d.sync += owed.eq(now - 1)
    bench.always("w_after_address", ~axi.wvalid | (now != 0),
                 "no data before the address of their burst is shown")
    bench.always("w_one_ahead", ~shown | (next_owed == 0),
                 "at most one burst is shown before the data of the last one have gone")
    bench.always("wlast_right", ~axi.wvalid | (axi.wlast == (now == 1)),
                 "WLAST is at the last beat of every burst, and nowhere else")
    bench.stable("w_stable", axi.wvalid, axi.wready, Cat(axi.wdata, axi.wstrb, axi.wlast),
                 "a beat that waits stays the same")
    taken = bench.past(data.valid & data.ready, "data_taken")
    given = bench.past(data.p, "data_given")
    stopped = bench.past(master.stop, "stopped")
    bench.always("data_kept", ~taken | (w_shown & (Cat(axi.wdata, axi.wstrb) == given)),
                 "every beat that is taken is shown next, with its strobes: in order, none lost")
    bench.always("data_not_invented", ~w_shown | taken | (stopped & (axi.wstrb == 0)),
                 "a beat that nobody gave writes nothing, and comes only after stop")

    # Acknowledgements: a memory answers once it has the address and the last beat
    count = range(2 * outstanding + 1)
    begun, aw_done, w_done = Signal(count), Signal(count), Signal(count)
    m.d.sync += [begun.eq(begun + shown - b_taken), aw_done.eq(aw_done + aw_taken - b_taken),
                 w_done.eq(w_done + (w_taken & axi.wlast) - b_taken)]
    bench.assume(~axi.bvalid | ((aw_done != 0) & (w_done != 0)))
    bench.always("outstanding_bounded", begun + shown <= outstanding,
                 "at most ``outstanding`` bursts are not acknowledged")
    bench.always("b_taken", axi.bready, "every acknowledgement is taken when it comes")
    failed = Signal()
    m.d.sync += failed.eq(failed | (b_taken & axi.bresp[1]))
    bench.always("error_right", master.error == failed, "error says that an answer was one")

    # Stop and idle
    bench.always("stop_begins_nothing", ~(shown & stopped), "no burst begins after stop")
    bench.always("stop_takes_nothing", ~(master.stop & data.ready), "no data are taken with stop")
    bench.always("idle_is_drained", ~master.idle | ~(
        axi.awvalid | axi.wvalid | axi.bvalid | (begun != 0) | (now != 0)),
        "idle: no address, no data and no acknowledgement is under way")
    bench.always("idle_is_complete", ~master.idle | master.stop | (open_beats == 0),
                 "idle without stop: all that was asked for is written")
    stop_drains(bench, master.stop, master.idle, {
        "aw": axi.awvalid & ~axi.awready, "w": axi.wvalid & ~axi.wready,
        "b": (aw_done != 0) & (w_done != 0) & ~axi.bvalid}, DRAIN)

    # Why
    left, sending, under_way = inside["left"], inside["sending"], inside["count"]
    bench.always("left", (left <= max_beats) & (~sending | (left != 0)), "beats of a burst",
                 lemma=True)
    bench.always("owed_right", Mux(
        axi.wvalid & axi.wlast, (now == 1) & (after == Mux(sending, left, 0)),
        Mux(axi.wvalid, sending & (now == left + 1) & (after == 0),
            (now == Mux(sending, left, 0)) & (after == 0))),
        "what is owed is what is left and what waits", lemma=True)
    bench.always("counts_right", (under_way <= outstanding) & (under_way == begun + shown)
                 & (under_way == aw_done + axi.awvalid)
                 & (under_way == w_done + (now != 0) + (after != 0)),
                 "bursts by how far they are", lemma=True)

    bench.cover("full_burst", axi.wvalid & axi.wlast & (axi.awlen == max_beats - 1),
                "a burst of max_beats is written")
    bench.cover("second_of_request", bench.past(shown, "was_shown") & (open_beats != 0) & w_taken,
                "a request of two bursts")
    bench.cover("all_outstanding", under_way == outstanding, "as many bursts as may be")
    bench.cover("stopped_within", stopped & axi.wvalid & ~axi.wlast & (axi.wstrb == 0),
                "stop in the middle of a burst")
    bench.cover("drained", bench.past(stopped & (under_way != 0), "was_busy") & master.idle,
                "a stopped master becomes idle")
    bench.cover("failed", master.error & master.idle, "an error, and idle")


PROOF = Proof("axi_write", build,
              depths={"prove": 2, STRUCTURE: 1, "bmc": 30, "cover": 30},
              quick={"prove": 2},
              apart=(Apart(("axi__awvalid", "axi__wvalid"), ("awready", "wready", "bvalid")),))
