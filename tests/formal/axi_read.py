# SPDX-License-Identifier: BSD-2-Clause
"""The AXI4 master that reads: legal, what was asked for and no more, to whom it belongs."""

from dataclasses import replace
from unittest.mock import patch

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import data

from tests.formal.axi_requests import Bursts, legal_bursts, requested_bursts, stop_drains
from tests.formal.bench import Bench, Inside
from tests.formal.runner import STRUCTURE, Apart, Design, Proof

__all__ = ["PROOF"]

DATA_BITS, ADDR_BITS = 32, 16
#: Beats of a burst, and bursts, at most; fewer where runs are long.
SIZES, SMALL = (8, 3), (4, 2)
#: Cycles after stop within which a fair memory has the smaller one idle.
DRAIN = 2 * SMALL[0] * SMALL[1] + 6
DEPTHS = (8, 16)


class _Queue(Elaboratable):
    """Stands for the queue of Amaranth that holds the owners of bursts; its entries can be seen."""

    def __init__(self, *, width: int, depth: int) -> None:
        self.depth = depth
        self.entries = [Signal(width, name=f"entry{i}") for i in range(depth)]
        self.level = Signal(range(depth + 1))
        self.w_data, self.w_en, self.r_en = Signal(width), Signal(), Signal()
        self.r_data = self.entries[0]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        put, got = Signal(), Signal()
        place = Signal.like(self.level)
        m.d.comb += [put.eq(self.w_en & (self.level != self.depth)),
                     got.eq(self.r_en & (self.level != 0)), place.eq(self.level - got)]
        m.d.sync += self.level.eq(place + put)
        with m.If(got):
            m.d.sync += [a.eq(b) for a, b in zip(self.entries, self.entries[1:], strict=False)]
        for i, entry in enumerate(self.entries):
            with m.If(put & (place == i)):
                m.d.sync += entry.eq(self.w_data)
        return m


def build(bench: Bench, design: Design) -> None:
    """A master of two clients, any requests, and a memory that answers bursts in order."""
    max_beats, outstanding = SMALL if bench.mode == "bmc" else SIZES
    module = design("rtl.axi")
    master = module.ReadMaster(data_bits=DATA_BITS, addr_bits=ADDR_BITS, depths=DEPTHS,
                               max_beats=max_beats, outstanding=outstanding)
    with patch.object(module, "SyncFIFO", _Queue):
        opened = master.elaborate(None)
    owners = opened.submodules.owners
    inside = bench.add("master", opened)
    m, axi = bench.m, master.axi
    for target, name in ((axi.arready, "arready"), (axi.rvalid, "rvalid"), (axi.rdata, "rdata"),
                         (axi.rlast, "rlast"), (axi.rresp, "rresp"), (master.stop, "stop"),
                         (master.hold, "hold")):
        bench.drive(target, name)
    for i in range(len(DEPTHS)):
        bench.drive(master.request[i].valid, f"request{i}_valid")
        bench.drive(master.request[i].p, f"request{i}")
        bench.drive(master.data[i].ready, f"data{i}_ready")
    bench.reset_only(master.idle)

    shown, owner = Signal(), bench.past(inside["chosen"], "owner")
    m.d.comb += shown.eq(axi.arvalid & ~bench.past(axi.arvalid & ~axi.arready, "ar_waits"))
    bursts = Bursts("ar", axi.arvalid, axi.arready, axi.araddr, axi.arlen, axi.arsize, axi.arburst,
                    shown)
    legal_bursts(bench, bursts, data_bits=DATA_BITS, max_beats=max_beats)
    open_beats = []
    for i in range(len(DEPTHS)):
        of_client = replace(bursts, name=f"ar{i}", shown=shown & (owner == i))
        left, _ = requested_bursts(bench, f"ar{i}", master.request[i], of_client,
                                   inside.below(f"splitter_{i}"), data_bits=DATA_BITS,
                                   max_beats=max_beats)
        open_beats.append(left)

    # Bursts that are shown and have not arrived, the oldest first
    burst = data.StructLayout({"owner": 1, "beats": range(max_beats + 1)})
    held = [Signal(burst, name=f"held{i}") for i in range(outstanding)]
    under_way = [Signal(burst, name=f"under_way{i}") for i in range(outstanding)]
    held_count, count = Signal(range(outstanding + 2)), Signal(range(outstanding + 2))
    m.d.comb += count.eq(held_count + shown)
    for i, (old, now) in enumerate(zip(held, under_way, strict=True)):
        m.d.comb += now.eq(old)
        with m.If(shown & (held_count == i)):
            m.d.comb += [now.owner.eq(owner), now.beats.eq(axi.arlen + 1)]
    arrives, ends = Signal(), Signal()
    oldest = under_way[0]
    m.d.comb += [arrives.eq(axi.rvalid & axi.rready), ends.eq(arrives & (oldest.beats == 1))]
    m.d.sync += [held_count.eq(count - ends),
                 *(old.eq(now) for old, now in zip(held, under_way, strict=True))]
    with m.If(ends):
        m.d.sync += [old.eq(now) for old, now in zip(held, under_way[1:], strict=False)]
    with m.Elif(arrives):
        m.d.sync += held[0].beats.eq(oldest.beats - 1)
    # A memory answers what it has taken, in order, and says when a burst ends.
    bench.assume(~axi.rvalid | ((count > axi.arvalid) & (axi.rlast == (oldest.beats == 1))))
    bench.always("outstanding_bounded", count <= outstanding,
                 "at most ``outstanding`` bursts have not arrived")
    bench.always("r_taken", axi.rready, "every beat is taken when it comes")
    failed = Signal()
    m.d.sync += failed.eq(failed | (arrives & axi.rresp[1]))
    bench.always("error_right", master.error == failed, "error says that an answer was one")

    # Each beat goes to the queue of its client, where there is room
    came, whose = bench.past(arrives, "came"), bench.past(oldest.owner, "whose")
    beat, last = bench.past(axi.rdata, "beat"), bench.past(ends, "last")
    for i, depth in enumerate(DEPTHS):
        queue = inside.below(f"fifo_{i}")
        written, level = queue["write"], queue["level"]
        mine = came & (whose == i)
        bench.always(f"routed{i}", (written == mine)
                     & (~mine | (queue["write_port__data"] == beat)),
                     "every beat, and nothing else, enters the queue of the client that asked")
        _room(bench, i, depth, inside, queue, level, mine, under_way, count)
        held_twice = bench.past(bench.past(master.hold[i], f"hold{i}") & master.hold[i],
                                f"held_twice{i}")
        bench.always(f"hold{i}", ~(held_twice & shown & (owner == i)),
                     "nothing is asked for two cycles after hold")
    stopped = bench.past(master.stop, "stopped")
    bench.always("stop_begins_nothing", ~(shown & stopped), "no burst begins after stop")
    bench.always("idle_is_drained", ~master.idle | ~(axi.arvalid | axi.rvalid | came
                                                     | (count != 0)),
                 "idle: no address and no beat is under way")
    bench.always("idle_is_complete", ~master.idle | master.stop
                 | (Cat(*open_beats) == 0), "idle without stop: all that was asked for has come")
    stop_drains(bench, master.stop, master.idle, {
        "ar": axi.arvalid & ~axi.arready, "r": (count > axi.arvalid) & ~axi.rvalid}, DRAIN)

    # Why: the owners of bursts are in the order of the bursts, one more until it has been counted
    bench.always("count_right", (inside["count"] == count + last) & (owners.level == count + last)
                 & (count + last <= outstanding) & (count >= axi.arvalid), "bursts are counted",
                 lemma=True)
    for i in range(outstanding):
        entry = Mux(last, owners.entries[i + 1] if i + 1 < outstanding else 0, owners.entries[i])
        bench.always(f"owner{i}", (count <= i) | (entry == under_way[i].owner),
                     "owners are in order", lemma=True)
        bench.always(f"beats{i}", (count <= i) | ((under_way[i].beats != 0)
                     & (under_way[i].beats <= max_beats)), "bursts have beats", lemma=True)
    bench.always("arrived_right", (inside["arrived"] == came) & (~came | (
        (inside["last"] == last) & (owners.entries[0] == whose) & (last | (count != 0)))),
        "what has arrived is of the first owner", lemma=True)

    for i in range(len(DEPTHS)):
        bench.cover(f"full_burst{i}", came & last & (whose == i)
                    & (bench.past(bench.past(axi.arlen, f"len{i}"), f"len_past{i}")
                       == max_beats - 1), "a burst of max_beats arrives")
    bench.cover("interleaved", (count == outstanding) & (under_way[0].owner != under_way[1].owner)
                & (under_way[1].owner != under_way[-1].owner), "bursts of both clients by turns")
    bench.cover("drained", bench.past(stopped & (inside["count"] != 0), "was_busy") & master.idle,
                "a stopped master becomes idle")
    bench.cover("failed", master.error & master.idle, "an error, and idle")


def _room(bench: Bench, i: int, depth: int, inside: Inside, queue: Inside, level: Value,
          mine: Value, under_way: list[Signal], count: Signal) -> None:
    """Why there is always room: what is under way, in the register and in the queue is counted."""
    room, stored = inside[f"room_{i}"], queue["stored"]
    expected = sum((Mux((count > j) & (b.owner == i), b.beats, 0)
                    for j, b in enumerate(under_way)), mine)
    splitter = inside.below(f"splitter_{i}")
    burst_last = splitter["o__payload"][ADDR_BITS:]
    bench.always(f"room{i}", (level + expected + room) == depth, "room is counted", lemma=True)
    bench.always(f"enough{i}", ~inside["enough"][i] | (splitter["o__valid"] & (room > burst_last)),
                 "what is asked for next has room", lemma=True)
    bench.always(f"queue{i}", (stored <= depth) & (queue["full"] == (stored == depth))
                 & (queue["$signal"] == (stored != 0)), "the flags of the queue", lemma=True)


PROOF = Proof("axi_read", build,
              depths={"prove": 2, STRUCTURE: 1, "bmc": 32, "cover": 30},
              quick={},
              apart=(Apart(("axi__arvalid",), ("arready", "rvalid")),))
