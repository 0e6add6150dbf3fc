# SPDX-License-Identifier: BSD-2-Clause
"""Rows handed over between passes: none is issued before the pass that makes it has written it."""

from amaranth.hdl import Array, Const, Mux, Signal, Value
from amaranth.lib import data

from rtl import isa
from rtl.config import CONFIGS, PASS_SLOTS
from rtl.loader import tile_layout
from tests.formal.bench import Bench
from tests.formal.runner import Design, Proof

__all__ = ["PROOF"]

CONFIG = CONFIGS["nano"]

#: Bits of the numbers of passes: more than the 8 of the counters, which go round.
_NUMBER = 12
_FIELDS = ("rows_from", "of_segment", "segment", "row_first", "row_count", "row_dependency",
           "destination")


def build(bench: Bench, design: Design) -> None:
    """The issue stage, tiles of passes in order, and passes that finish rows after the issue.

    What passes are, and the list, does not change: that is the business of those who change it.
    """
    issue = design("rtl.issue").RowIssue(CONFIG)
    inside = bench.add("issue", issue)
    m = bench.m
    tokens = bench.constant(range(CONFIG.pass_rows + 1), "tokens_are")
    images = bench.constant(range(isa.SEGMENTS + 1), "images_are")
    bench.assume((tokens != 0) & (tokens <= CONFIG.pass_rows) & (images != 0)
                 & (images <= isa.SEGMENTS))
    m.d.comb += [issue.tokens.eq(tokens), issue.images.eq(images)]
    for table, name in ((issue.current, "current"), (issue.gone, "gone")):
        for i in range(isa.SEGMENTS):
            at = bench.constant(range(CONFIG.pass_rows), f"{name}{i}_start")
            rows = bench.constant(range(CONFIG.pass_rows + 1), f"{name}{i}_count")
            bench.assume((rows != 0) & (at + rows <= tokens))
            m.d.comb += [table[i].start.eq(at), table[i].count.eq(rows),
                         table[i].last.eq(at + rows - 1)]
    for slot in range(PASS_SLOTS):
        for name in _FIELDS:
            field = Value.cast(issue.descriptors[slot][name])
            m.d.comb += field.eq(bench.constant(len(field), f"slot{slot}_{name}"))
        fields = issue.descriptors[slot]
        bench.assume(Value.cast(fields.rows_from) <= isa.Rows.LAST.value)
        bench.assume(fields.row_dependency < PASS_SLOTS)
        bench.assume((_rows(issue, fields)[1] != 0)
                     & (_rows(issue, fields)[0] + _rows(issue, fields)[1] <= CONFIG.pass_rows))

    if bench.mode == "cover" or bench.only:  # one kind of pass will do, and is found sooner
        for fields in issue.descriptors:
            bench.assume((Value.cast(fields.rows_from) == isa.Rows.COUNT.value)
                         & ~fields.of_segment & (fields.row_first == 0) & (fields.row_count == 4)
                         & (fields.row_dependency == 1))

    # Passes: the one whose tiles are accepted, that of the tile that waits, that of the tile whose
    # rows are issued, and the one that finishes rows.
    accepting, waiting, issued = (Signal(_NUMBER, name=n) for n in ("accepting", "waiting",
                                                                    "issued"))
    retired, finished = Signal(_NUMBER), Signal(11)
    held = Signal()
    bench.drive(issue.tile.valid, "tile_valid")
    bench.drive(issue.tile.payload, "tile")
    bench.offered("tile", issue.tile.valid, issue.tile.ready, issue.tile.payload)
    bench.assume(issue.tile.payload.slot == accepting[:2])
    accept, take = issue.tile.valid & issue.tile.ready, issue.state.accepts
    state = issue.state
    active = state.busy | state.waits_row | state.pads
    layout = tile_layout(CONFIG)
    next_tile, this_tile = Signal(layout), Signal(layout)
    with m.If(accept):
        m.d.sync += [held.eq(1), waiting.eq(accepting), next_tile.eq(issue.tile.payload),
                     accepting.eq(accepting + (issue.tile.payload.last_column
                                               & issue.tile.payload.last_k))]
    with m.Elif(take):
        m.d.sync += held.eq(0)
    with m.If(take):
        m.d.sync += [issued.eq(waiting), this_tile.eq(next_tile)]
    oldest = Mux(active, issued, Mux(held, waiting, accepting))
    bench.assume((accepting - retired)[:_NUMBER] < PASS_SLOTS)
    finishes = bench.free(1, "finishes")
    counts = Array(_rows(issue, issue.descriptors[s])[1] for s in range(PASS_SLOTS))
    ends = finishes & (finished + 1 == counts[retired[:2]])
    bench.assume(~ends | (retired != oldest))
    m.d.sync += [retired.eq(retired + ends),
                 finished.eq(Mux(ends, 0, finished + finishes))]
    m.d.comb += [issue.retired.eq(retired), issue.retired_rows.eq(finished)]

    # The row that is issued, and who makes it
    position = inside["position"]
    waits = Signal()
    dependency = Signal(4)
    fields = data.View(isa.pass_layout, Signal(isa.pass_layout.size, name="issued_fields"))
    earlier = data.View(isa.pass_layout, Signal(isa.pass_layout.size, name="earlier_fields"))
    m.d.comb += [
        fields.as_value().eq(_chosen(issue, issued[:2])),
        dependency.eq(fields.row_dependency),
        earlier.as_value().eq(_chosen(issue, (issued - dependency)[:2])),
        waits.eq(this_tile.first_column & this_tile.first_k & (dependency != 0)),
    ]
    behind = Signal(_NUMBER)
    m.d.comb += behind.eq(retired - (issued - dependency)[:_NUMBER])
    has_retired, retires = (behind != 0) & ~behind[-1], behind == 0
    first, rows = _rows(issue, earlier)
    written = Signal()
    is_last = earlier.rows_from == isa.Rows.LAST
    residual = earlier.destination == isa.Destination.RESIDUAL
    others = is_last & residual & ~earlier.of_segment
    whole = (earlier.rows_from == isa.Rows.DROPPED) | (is_last & ~residual)
    made = (position >= first) & (position < first + rows)
    m.d.comb += written.eq(has_retired | (others & ~made & (position < first)) | (
        retires & ~whole & (~made | (position - first < finished))))
    bench.always("row_written", ~state.busy | ~waits | written,
                 "a row that waits for another pass is issued only when that has written it, or has"
                 " nothing to write there and all before it have ended")
    bench.always("rows_of_pass", ~state.busy | ((position >= _rows(issue, fields)[0]) & (
        position < _rows(issue, fields)[0] + _rows(issue, fields)[1])),
        "rows are those of the pass")
    index = (inside["following"] - 1)[:11]
    bench.always("rows_in_order", ~state.busy | (
        position == _rows(issue, fields)[0] + index), "in order, from the first one on")
    after = bench.past(state.busy, "was_issued")
    last_index = bench.past(index, "last_index")
    begins = bench.past(take, "took")
    bench.always("each_row_once", ~after | begins | (index == last_index + 1),
                 "each row of a tile once")
    number = bench.past(_rows(issue, fields)[1], "rows_before")
    issued_index = bench.past(Mux(state.busy, index + 1, index), "index_then")
    bench.always("all_rows", ~begins | ~bench.past(active, "was_active")
                 | (issued_index == number), "a tile gives way when all of its rows are issued")

    # Why
    step, found = (data.View(design("rtl.issue")._step_layout(CONFIG), inside[name])
                   for name in ("step", "found"))
    waits_long = held & bench.past(held & ~take, "waits_on")
    bench.always("numbers", (inside["number"] == (Mux(held, waiting, accepting))[:8])
                 & (issue.tile.ready == ~held), "passes by number",
                 lemma=True)
    bench.always("order", (~held | ((accepting - waiting)[:_NUMBER]
                 == (next_tile.last_column & next_tile.last_k)))
                 & (~active | ((Mux(held, waiting, accepting) - issued)[:_NUMBER]
                 == (this_tile.last_column & this_tile.last_k)))
                 & ((oldest - retired)[:_NUMBER] < PASS_SLOTS), "passes in order", lemma=True)
    bench.always("slots", (~held | (next_tile.slot == waiting[:2]))
                 & (~active | (this_tile.slot == issued[:2]))
                 & (~waits_long | (found.tile.as_value() == next_tile.as_value())), "slots",
                 lemma=True)
    rows_now = _rows(issue, fields)
    bench.always("step_right", ~active | (
        (step.tile.as_value() == this_tile.as_value()) & (step.waits == waits)
        & (step.rows == rows_now[1]) & (step.first == rows_now[0])
        & (step.earlier == (issued - dependency)[:8]) & ~step.each & (step.whole == whole)
        & (step.others == others) & (step.made_first == first)), "what it is issued by",
        lemma=True)
    bench.always("progress", ~active | (
        (index <= step.rows) & (state.pads == (index == step.rows))
        & (state.pads | (position == step.first + index))
        & (state.pads | (inside["last"] == (index + 1 == step.rows)))), "how far",
        lemma=True)
    bench.always("finished", finished < counts[retired[:2]], "of the pass that retires", lemma=True)

    bench.cover("handed_over", state.busy & waits & retires & made & (finished == 3)
                & (position == first + 2), "a row is issued while its pass finishes others")
    bench.cover("waited", bench.past(state.waits_row, "waited") & state.busy & waits,
                "a row waits")
    bench.cover("second_tile", state.busy & ~this_tile.first_k & (index == 1), "two tiles")


def _chosen(issue: object, slot: Value) -> Value:
    return Array(d.as_value() for d in issue.descriptors)[slot]


def _rows(issue: object, fields: data.View) -> tuple[Value, Value]:
    """Return the first position of a pass and the number of its rows."""
    segment = data.View(issue.current[0].shape(), Array(
        s.as_value() for s in issue.current)[fields.segment])
    gone = data.View(issue.gone[0].shape(), Array(
        s.as_value() for s in issue.gone)[fields.segment])
    start = Mux(fields.of_segment, segment.start, 0)
    count = Mux(fields.of_segment, segment.count, issue.tokens)
    kind = Value.cast(fields.rows_from)
    first, rows = start + fields.row_first, fields.row_count
    for rows_from, place, number in (
            (isa.Rows.TOKENS, start, count), (isa.Rows.DROPPED, gone.start, gone.count),
            (isa.Rows.LAST, Mux(fields.of_segment, segment.last, issue.tokens - 1), Const(1))):
        first = Mux(kind == rows_from.value, place, first)
        rows = Mux(kind == rows_from.value, number, rows)
    return first, rows


PROOF = Proof("hand_over", build, depths={"prove": 5, "cover": 32}, quick={})
