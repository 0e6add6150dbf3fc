# SPDX-License-Identifier: BSD-2-Clause
"""The scan of a selector: every token goes to one of two lists, in order, the package last."""

from dataclasses import replace
from unittest.mock import patch

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring

from rtl.config import CONFIGS
from rtl.selector import SelectorPhase
from tests.formal.bench import Bench
from tests.formal.runner import Design, Proof

__all__ = ["PROOF"]

CONFIG = replace(CONFIGS["nano"], name="few", max_tokens=8)


def _stand_in(block: type) -> type:
    """Return a component with the ports of ``block`` and nothing in it: its outputs are free."""
    class StandIn(wiring.Component):
        READ_LATENCY = getattr(block, "READ_LATENCY", None)

        def __init__(self, config: object) -> None:
            super().__init__(block(config).signature)

        def elaborate(self, platform: object) -> Module:
            return Module()
    return StandIn


def build(bench: Bench, design: Design) -> None:
    """A selector with any thresholds and scores; the shares end at any time after the scan."""
    module = design("rtl.selector")
    selector = module.Selector(CONFIG)
    with patch.object(module, "TopKSearch", _stand_in(module.TopKSearch)), \
            patch.object(module, "Shares", _stand_in(module.Shares)):
        opened = selector.elaborate(None)
    search, shares = opened.submodules.search, opened.submodules.shares
    inside = bench.add("selector", opened)
    m = bench.m
    for name in ("start", "apply", "init", "init_image", "attention_busy", "pair_valid",
                 "pair_row", "pair_weighted", "pair_importance"):
        bench.drive(getattr(selector, name), name)
    for name in ("done", "threshold", "ties", "read_score"):
        bench.drive(getattr(search, name), f"search_{name}")
    select = bench.constant(selector.select.shape().size, "select_is")
    segment = bench.constant(selector.segment.shape().size, "segment_is")
    bases = {name: bench.constant(getattr(selector, name).shape(), f"{name}_is")
             for name in ("kept_base", "dropped_base")}
    m.d.comb += [Value.cast(selector.select).eq(select), Value.cast(selector.segment).eq(segment),
                 *(getattr(selector, name).eq(base) for name, base in bases.items())]
    count = selector.segment.count
    room = CONFIG.pass_rows
    bench.assume((count != 0) & (count <= CONFIG.max_tokens)
                 & (selector.segment.start + count <= room))
    for base in bases.values():
        bench.assume(base + count + 1 <= room + 1)
    # The shares are busy from start until after the end of the list.
    sharing, ends = Signal(), bench.free(1, "shares_end")
    m.d.comb += shares.busy.eq(sharing)
    finished = Signal()
    m.d.sync += finished.eq((finished | shares.finish) & ~shares.start)
    with m.If(shares.start):
        m.d.sync += sharing.eq(1)
    with m.Elif(finished & ends):
        m.d.sync += sharing.eq(0)
    bench.assume(~selector.start | ~(selector.busy | selector.append))
    pairs = inside["pairs_here"]
    bench.assume(~selector.pair_valid | (pairs < count))
    # Rows of the segment: one position of it, any, has this row.
    place = bench.constant(range(CONFIG.max_tokens), "place")
    bench.assume(place < count)
    row = bench.constant(selector.scan_row.shape(), "row")
    bench.drive(selector.scan_row, "scan_row")
    asked = bench.past(selector.scan_position == selector.segment.start + place, "asked")
    bench.assume(~asked | (selector.scan_row == row))

    # What is written
    seen = Signal(range(16))
    kept, dropped, closed = Signal(range(16)), Signal(range(16)), Signal()
    first_dropped, latest = Signal.like(selector.write_row), Signal.like(selector.write_row)
    scanned, writes = selector.scan_valid, selector.write_en
    to_kept, to_dropped = writes & ~selector.write_dropped, writes & selector.write_dropped
    closes = writes & ~scanned
    with m.If(selector.start):
        m.d.sync += [seen.eq(0), kept.eq(0), dropped.eq(0), closed.eq(0)]
    with m.Else():
        m.d.sync += [seen.eq(seen + scanned), kept.eq(kept + to_kept),
                     dropped.eq(dropped + to_dropped), closed.eq(closed | closes)]
    with m.If(scanned):
        m.d.sync += latest.eq(selector.write_row)
        with m.If(selector.write_dropped & (dropped == 0)):
            m.d.sync += first_dropped.eq(selector.write_row)
    bench.always("each_once", ~scanned | (seen < count), "every position is looked at once")
    bench.always("in_order", ~scanned | (seen != place) | (selector.write_row == row),
                 "the n-th row that is written is that of the n-th position")
    bench.always("one_list", ~scanned | writes, "each goes to the next list or the dropped one")
    bench.always("kept_in_order", ~to_kept
                 | (selector.write_position == (bases["kept_base"] + kept)
                    [:len(selector.write_position)]),
                 "what is kept lies side by side from kept_base on")
    bench.always("dropped_in_order", ~to_dropped
                 | (selector.write_position == (bases["dropped_base"] + dropped)
                    [:len(selector.write_position)]),
                 "what is dropped lies side by side from dropped_base on")
    bench.always("package_last", ~closes | ((seen == count) & ~closed),
                 "one row more is written, after all others")
    bench.always("package_right", ~closes | Mux(
        dropped != 0, ~selector.write_dropped & (selector.write_row == first_dropped),
        selector.write_dropped & (selector.write_row == latest)),
        "it is kept and has the row of the first that was dropped; or, if none was, the last row"
        " is the dropped list")
    bench.always("special_kept", ~scanned | (seen >= selector.select.special)
                 | ~selector.write_dropped, "special tokens are kept")
    bench.always("counts_right", ~selector.append | (
        closed & (seen == count) & (selector.kept == kept) & (selector.dropped == dropped)
        & (kept + dropped == count + 1)),
        "at the end both lists have as many rows as are said, together one more than the segment")
    owed = Signal()
    m.d.sync += owed.eq((owed | selector.start) & ~selector.append)
    bench.always("ends_once", ~selector.append | owed, "one end for one start")
    bench.always("busy_right", selector.busy == owed, "busy is high from start to the end")

    # Why: positions and writes by how far they are in the pipeline
    phase = Value.cast(selector.phase)
    valid = [inside[f"valid_d{i}"] for i in (1, 2, 3)]
    end = [inside[f"ended_d{i}"] for i in (1, 2, 3)]
    closing = inside["append_d1"]
    position = inside["position"]
    under_way = sum(valid, scanned)
    scanning = (phase == SelectorPhase.SCAN.value)
    sharing_phase = phase == SelectorPhase.SHARES.value
    before = (phase != SelectorPhase.SCAN.value) & ~sharing_phase
    idle = phase == SelectorPhase.IDLE.value
    own = selector.segment
    taken = inside.find("segment", len(segment))
    # A segment has its special and its package tokens.
    bench.assume(idle | (inside["patch_end"] >= selector.select.special))
    bench.always("phases", (inside["fsm_state"] < len(SelectorPhase)) & (owed == ~idle)
                 & (sharing | finished | idle) & (~sharing | ~idle), "phases", lemma=True)
    bench.always("taken_right", idle | ((taken == Value.cast(own))
                 & (inside["select"] == select)), "what was taken at the start", lemma=True)
    bench.always("positions", idle | (position == (seen + under_way)[:len(position)]), "positions",
                 lemma=True)
    bench.always("early", ~before | idle | ((seen == 0) & (position == 0) & ~closed
                 & (under_way == 0) & ~closes & ~finished), "nothing yet", lemma=True)
    bench.always("scans", ~scanning | ((position < count)
                 & (position == seen + under_way) & ~closed & ~closes & ~finished),
                 "the scan", lemma=True)
    bench.always("nothing_else", ~(before | scanning) | ~(closing | end[0] | end[1] | end[2]),
                 "no end before the end", lemma=True)
    stages = end[0] + end[1] + end[2] + closing + closes + closed
    bench.always("one_end", ~sharing_phase | ((position == count[:len(position)]) & (stages == 1)
                 & (seen + under_way == count)
                 & (~end[0] | valid[0]) & (~end[1] | (valid[1] & ~valid[0]))
                 & (~end[2] | (valid[2] & ~valid[0] & ~valid[1]))
                 & (~closing | (scanned & ~valid[0] & ~valid[1] & ~valid[2]))
                 & (~(closes | closed) | (under_way == 0))
                 & (finished == (closes | closed)) & (~finished | (seen == count))),
                 "the end is under way", lemma=True)
    bench.always("rests", ~idle | (~valid[0] & ~valid[1] & ~valid[2] & ~writes & ~scanned
                 & ~sharing), "nothing is under way", lemma=True)
    bench.always("writes_right", idle | ((selector.kept == kept + to_kept)
                 & (selector.dropped == dropped + to_dropped) & (~scanned | writes)
                 & (kept + dropped == seen + closed)), "counted", lemma=True)
    last_row = inside["last_row"]
    bench.always("last_row", idle | closes | closed | Mux(
        dropped != 0, last_row == first_dropped,
        ~scanned | (last_row == selector.write_row)), "the row of the package", lemma=True)

    bench.cover("some_of_each", selector.append & (kept == 3) & (dropped == 2), "both lists")
    bench.cover("none_dropped", selector.append & (dropped == 1) & (kept == count),
                "nothing is dropped")


PROOF = Proof("compaction", build, depths={"prove": 6, "cover": 30}, quick={})
