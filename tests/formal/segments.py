# SPDX-License-Identifier: BSD-2-Clause
"""Segments: what selectors leave follows one another in the next list, and becomes the list."""

from amaranth.hdl import Signal
from amaranth.lib import data

from rtl.config import CONFIGS
from rtl.isa import SEGMENTS
from tests.formal.bench import Bench
from tests.formal.runner import Design, Proof

__all__ = ["PROOF"]

CONFIG = CONFIGS["nano"]


def build(bench: Bench, design: Design) -> None:
    """The table, and selectors that append a segment each, as many rows as there is room for."""
    table = design("rtl.segments").SegmentTable(CONFIG)
    inside = bench.add("table", table)
    m = bench.m
    for name in ("image", "first_image", "image_tokens", "start", "append", "segment", "kept",
                 "dropped", "prune"):
        bench.drive(getattr(table, name), name)
    events = (table.image, table.start, table.append, table.prune)
    bench.assume(sum(events) <= 1)
    bench.assume((table.kept != 0) & (table.dropped != 0))
    bench.assume(table.image_tokens <= CONFIG.pass_rows)
    bench.assume(table.image_tokens != 0)
    bench.assume(~table.first_image | table.image)

    # Rows and segments appended since the list was taken; selectors leave no more than there were
    wide = range(2 * CONFIG.pass_rows + 2)
    kept, dropped = Signal(wide), Signal(wide)
    filled, begun, fresh = Signal(SEGMENTS), Signal(), Signal()
    bench.assume(~table.append | (~filled.bit_select(table.segment, 1) & begun
                                  & (kept + table.kept <= CONFIG.pass_rows)
                                  & (dropped + table.dropped <= CONFIG.pass_rows)))
    bench.assume(~table.prune | (filled != 0))
    with m.If(table.append):
        m.d.sync += [kept.eq(kept + table.kept), dropped.eq(dropped + table.dropped),
                     filled.eq(filled | (1 << table.segment))]
    with m.If(table.start):
        m.d.sync += [begun.eq(1), fresh.eq(0)]
        with m.If(fresh):
            m.d.sync += dropped.eq(0)
    with m.If(table.prune | (table.image & table.first_image)):
        m.d.sync += [kept.eq(0), filled.eq(0), fresh.eq(1), begun.eq(0)]

    # One segment, any of them, from when it is appended until the list is another
    choose = bench.free(1, "choose")
    made, taken = Signal(), Signal()
    which, start, count = Signal(range(SEGMENTS)), Signal(wide), Signal(wide)
    gone_at, gone_count = Signal(wide), Signal(wide)
    append_at, drop_at = table.kept_base, table.dropped_base
    with m.If(table.append & choose & ~made & ~taken):
        m.d.sync += [made.eq(1), which.eq(table.segment), start.eq(append_at),
                     count.eq(table.kept), gone_at.eq(drop_at), gone_count.eq(table.dropped)]
    with m.If(table.prune & made):
        m.d.sync += [made.eq(0), taken.eq(1)]
    with m.If(table.prune & taken):
        m.d.sync += taken.eq(0)
    with m.If(table.image):
        m.d.sync += taken.eq(0)
        with m.If(table.first_image):
            m.d.sync += made.eq(0)
    current, gone = table.current[which], table.gone[which]
    end = start + count
    bench.always("appended_behind", ~(table.append & made) | (append_at >= end),
                 "a segment that is appended begins behind those before it")
    bench.always("dropped_behind", ~(table.append & made & ~fresh)
                 | (drop_at >= gone_at + gone_count), "and so do the rows that are dropped")
    bench.always("segment_taken", ~taken | ((current.start == start) & (current.count == count)
                                            & (current.last == end - 1)),
                 "with prune, a segment is where it was appended, as long as it was")
    bench.always("gone_kept", ~made | ((gone.start == gone_at) & (gone.count == gone_count)),
                 "what a selector dropped is found until the next one drops")
    listed = Signal(wide)
    with m.If(table.prune):
        m.d.sync += listed.eq(kept)
    with m.If(table.image):
        m.d.sync += listed.eq(table.image_tokens)
    bench.always("tokens_right", table.tokens == listed,
                 "rows of the list: those of the image, or all that was appended")
    bench.always("segment_inside", ~taken | (current.start + current.count <= table.tokens),
                 "a segment is inside the list")
    imaged = bench.past(table.image, "image")
    bench.always("image_is_whole", ~imaged | (
        (table.current[0].start == 0) & (table.current[0].count == table.tokens)
        & (table.current[0].last == table.tokens - 1)), "an image begins with one whole segment")

    # Why
    following = data.View(table.current.shape(), inside["following"])
    bench.always("bases", (table.kept_base == kept) & (table.dropped_base == dropped)
                 & (inside["fresh"] == fresh) & (kept <= CONFIG.pass_rows)
                 & (dropped <= CONFIG.pass_rows), "where to append", lemma=True)
    bench.always("made", ~made | ((following[which].start == start)
                 & (following[which].count == count) & (following[which].last == end - 1)
                 & (end <= kept) & (count != 0) & filled.bit_select(which, 1) & ~taken),
                 "what was appended", lemma=True)
    bench.always("made_gone", ~made | fresh | (gone_at + gone_count <= dropped), "what was dropped",
                 lemma=True)
    bench.always("taken_inside", ~taken | (end <= listed), "it was inside", lemma=True)
    bench.always("begins", ~(begun & fresh) & (~made | begun), "a selector begins first",
                 lemma=True)

    bench.cover("all_segments", taken & (table.tokens == 4) & (which == SEGMENTS - 1)
                & (current.start == 3), "a list of a segment each")
    bench.cover("again", bench.past(table.prune & (kept == 5) & (table.tokens == 7), "pruned")
                & (table.tokens == 5), "a list after another")


PROOF = Proof("segments", build, depths={"prove": 2, "cover": 16}, quick={})
