# SPDX-License-Identifier: BSD-2-Clause
"""What AXI masters share: bursts are legal, are what was asked for, and end after stop."""

from collections.abc import Mapping
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Mux, Signal, Value
from amaranth.utils import ceil_log2

from tests.formal.bench import Bench, Inside

__all__ = ["Bursts", "Part", "legal_bursts", "requested_bursts", "stop_drains"]

INCR = 1

#: Cycles that a fair memory leaves a master waiting.
PATIENCE = 1


@dataclass(frozen=True)
class Bursts:
    """An address channel, and in which cycles a burst is shown on it for the first time."""

    name: str
    valid: Value
    ready: Value
    address: Value
    length: Value  # beats less one
    size: Value
    kind: Value
    shown: Value


@dataclass(frozen=True)
class Part:
    """Beats inside a master that are asked for and not yet shown, from ``first`` on, in beats."""

    there: Value
    first: Value
    beats: Value


def legal_bursts(bench: Bench, bursts: Bursts, *, data_bits: int, max_beats: int) -> None:
    """Claim what AXI4 demands of one burst."""
    size = ceil_log2(data_bits // 8)
    name, valid = bursts.name, bursts.valid
    payload = Cat(bursts.address, bursts.length, bursts.size, bursts.kind)
    bench.stable(f"{name}_stable", valid, bursts.ready, payload,
                 "an address that waits stays the same")
    bench.always(f"{name}_kind", ~valid | ((bursts.size == size) & (bursts.kind == INCR)),
                 "bursts increment, in beats as wide as the bus")
    bench.always(f"{name}_length", ~valid | (bursts.length < max_beats),
                 f"at most max_beats, here {max_beats}")
    bench.always(f"{name}_aligned", ~valid | (bursts.address[:size] == 0),
                 "addresses are multiples of the beat")
    bench.always(f"{name}_within_4k", ~valid
                 | (bursts.address[:12] + ((bursts.length + 1) << size) <= 4096),
                 "no burst crosses 4 KiB")
    low = ceil_log2(max_beats)
    bench.always(f"{name}_within_block", ~valid
                 | (bursts.address[size:size + low] + bursts.length < max_beats),
                 "no burst crosses a multiple of max_beats", lemma=True)


def requested_bursts(bench: Bench, name: str, request: object, bursts: Bursts, splitter: Inside,
                     *, data_bits: int, max_beats: int) -> tuple[Signal, Signal]:
    """Claim that bursts are the beats that were asked for, each once and in order.

    One request, any of them, is followed: so many beats are ``before`` it, from ``next`` on it has
    ``rest``. Returns what is asked for and not yet shown, this cycle's burst still counted.
    """
    m = bench.m
    size, low = ceil_log2(data_bits // 8), ceil_log2(max_beats)
    address_bits = len(request.p.address) - size
    accept = Signal(name=f"{name}_accept")
    asked_at = Signal(address_bits, name=f"{name}_asked_at")
    m.d.comb += [accept.eq(request.valid & request.ready),
                 asked_at.eq(request.p.address >> size)]
    bench.offered(f"{name}_request", request.valid, request.ready, request.p)
    bench.assume(~request.valid | (asked_at + request.p.beats <= 1 << address_bits))

    wide = address_bits + 3
    open_beats, shown = Signal(wide, name=f"{name}_open"), Signal(low + 1, name=f"{name}_shown")
    m.d.comb += shown.eq(Mux(bursts.shown, bursts.length + 1, 0))
    m.d.sync += open_beats.eq(open_beats - shown + Mux(accept, request.p.beats, 0))
    bench.always(f"{name}_inside_requests", shown <= open_beats,
                 "nothing is asked for beyond the requests")

    choose = bench.free(1, f"{name}_choose")
    tracked = Signal(name=f"{name}_tracked")
    before, rest = Signal(wide, name=f"{name}_before"), Signal(wide, name=f"{name}_rest")
    following = Signal(address_bits + 1, name=f"{name}_next")
    mine = Signal(name=f"{name}_mine")
    m.d.comb += mine.eq(tracked & bursts.shown & (before == 0))
    with m.If(accept & choose & ~tracked & (request.p.beats != 0)):
        m.d.sync += [tracked.eq(1), before.eq(open_beats - shown), rest.eq(request.p.beats),
                     following.eq(asked_at)]
    with m.Elif(mine):
        m.d.sync += [rest.eq(rest - shown), following.eq(following + shown),
                     tracked.eq(rest != shown)]
    with m.Elif(tracked):
        m.d.sync += before.eq(before - shown)
    bench.always(f"{name}_in_order", ~mine | ((bursts.address >> size) == following),
                 "bursts of a request follow one another from its address on")
    bench.always(f"{name}_of_one_request", ~(tracked & bursts.shown)
                 | (shown <= Mux(before == 0, rest, before)), "no burst is of two requests")

    # Why: what is shown, what the splitter has ready, and what it has yet to split
    ready_at = splitter["o__payload"]
    ready_last = ready_at[len(request.p.address):]
    split_last = splitter["remaining"]
    parts = [
        Part(bursts.shown, bursts.address >> size, shown),
        Part(splitter["o__valid"], ready_at[size:len(request.p.address)], ready_last + 1),
        Part(splitter["active"], splitter["address"], split_last + 1),
    ]
    start: Value = Const(0, wide)
    for i, part in enumerate(parts):
        begin, end = Signal(wide, name=f"{name}_begin{i}"), Signal(wide, name=f"{name}_end{i}")
        m.d.comb += [begin.eq(start), end.eq(start + Mux(part.there, part.beats, 0))]
        in_tracked = ((begin >= before) & (end <= before + rest)
                      & (part.first == following + (begin - before)[:wide]))
        apart = (end <= before) | (begin >= before + rest)
        bench.always(f"{name}_part{i}", ~tracked | ~part.there | in_tracked | apart,
                     "a part is of the request that is followed, or not", lemma=True)
        start = end
    bench.always(f"{name}_parts", open_beats == start, "the parts are all there is", lemma=True)
    bench.always(f"{name}_tracked_inside", ~tracked
                 | ((rest != 0) & (before + rest <= open_beats)), "it is part of it", lemma=True)
    bench.always(f"{name}_ready_legal", ~splitter["o__valid"]
                 | ((ready_at[size:size + low] + ready_last < max_beats)
                    & (ready_at[:size] == 0)), "what is ready is legal", lemma=True)
    bench.always(f"{name}_split_inside", ~splitter["active"]
                 | (splitter["address"] + split_last < 1 << address_bits),
                 "what is split ends inside the memory", lemma=True)
    return open_beats, shown


def stop_drains(bench: Bench, stop: Value, idle: Value, waits: Mapping[str, Value],
                within: int) -> None:
    """Claim that a fair memory lets ``stop`` end in ``idle`` after ``within`` cycles.

    ``waits`` are the ways, by name, in which a memory leaves a master waiting.
    """
    if bench.mode != "bmc":
        return
    m = bench.m
    for name, condition in waits.items():
        waited = Signal(range(PATIENCE + 2), name=f"{name}_waited")
        m.d.sync += waited.eq(Mux(condition, waited + 1, 0))
        bench.assume(~condition | (waited < PATIENCE))
    stopped_for = Signal(range(within + 2))
    m.d.sync += stopped_for.eq(Mux(~stop, 0, Mux(stopped_for > within, stopped_for,
                                                 stopped_for + 1)))
    bench.always("stop_drains", (stopped_for <= within) | ~stop | idle,
                 f"{within} cycles after stop a memory that waits {PATIENCE} cycle has it idle",
                 bounded=True)
