# SPDX-License-Identifier: BSD-2-Clause
"""The token list: a position reads as the row that was written there before the last flip."""

from amaranth.hdl import C, Cat, Mux, Signal

from rtl.config import CONFIGS
from tests.formal.bench import Bench
from tests.formal.runner import Design, Proof

__all__ = ["PROOF"]

CONFIG = CONFIGS["nano"]


def build(bench: Bench, design: Design) -> None:
    """The lists, and one position, any of them, of the list that is read and of the dropped."""
    lists = design("rtl.token_list").TokenList(CONFIG)
    module = lists.elaborate(None)
    stored = [module.submodules.lists.read_port(domain="comb") for _ in range(3)]
    copied = [module.submodules.copy.read_port(domain="comb") for _ in range(2)]
    inside = bench.add("lists", module)
    m = bench.m
    for name in ("image", "first_row", "flip", "position", "dropped", "scan_position", "write_en",
                 "write_dropped", "write_position", "write_row"):
        bench.drive(getattr(lists, name), name)
    for position in (lists.position, lists.scan_position, lists.write_position):
        bench.assume(position < CONFIG.pass_rows)
    bench.assume(~(lists.image & lists.flip))
    place = bench.constant(range(CONFIG.pass_rows), "place")
    bench.assume(place < CONFIG.pass_rows)

    # Rows of this position in the list that is read, the one that is written, the dropped one
    rows = [Signal(lists.row.shape(), name=f"row{i}") for i in range(3)]
    known = Signal(3)
    listed, following, gone = rows
    here = lists.write_en & (lists.write_position == place)
    writes = (0, here & ~lists.write_dropped, here & lists.write_dropped)
    after = [Mux(w, lists.write_row, row) for w, row in zip(writes, rows, strict=True)]
    knows = [k | w for w, k in zip(writes, known, strict=True)]
    ordered, first_row = Signal(), Signal.like(lists.first_row)
    with m.If(lists.flip):
        after[:2], knows[:2] = after[1::-1], knows[1::-1]
        m.d.sync += [*(row.eq(value) for row, value in zip(rows, after, strict=True)),
                     known.eq(Cat(knows)), ordered.eq(0)]
        after[:2], knows[:2] = after[1::-1], knows[1::-1]
    with m.Else():
        m.d.sync += [*(row.eq(value) for row, value in zip(rows, after, strict=True)),
                     known.eq(Cat(knows))]
    with m.If(lists.image):
        m.d.sync += [ordered.eq(1), first_row.eq(lists.first_row)]

    # A read that meets a write of the same list in the same cycle is nobody's.
    asks = (lists.position == place) & ~(lists.dropped & writes[2])
    expected = Mux(lists.dropped, gone, Mux(ordered, (place + first_row)[:len(listed)], listed))
    is_known = Mux(lists.dropped, known[2], ordered | known[0])
    asked = bench.past(asks & is_known, "asked")
    bench.always("row_right", ~asked | (lists.row == bench.past(expected, "expected")),
                 "a position reads as the row written there before the last flip; in order before"
                 " the first one; of the dropped list as written last")
    scanned = bench.past((lists.scan_position == place) & (ordered | known[0]), "scanned")
    of_scan = bench.past(Mux(ordered, (place + first_row)[:len(listed)], listed), "of_scan")
    bench.always("scan_right", ~scanned | (lists.scan_row == of_scan),
                 "the selector reads the same")

    current = inside["current"]
    for i, port in enumerate(stored):
        bank = (current, ~current, C(0, 1))[i]
        m.d.comb += port.addr.eq(Cat(place, bank, C(i == 2, 1)))
        bench.always(f"stored{i}", ~known[i] | (port.data == rows[i]), "it is stored", lemma=True)
    for i, port in enumerate(copied):
        m.d.comb += port.addr.eq(Cat(place, current ^ i))
        bench.always(f"copied{i}", ~known[i] | (port.data == rows[i]), "and in the copy",
                     lemma=True)
    bench.always("order_known", (inside["in_order"] == ordered)
                 & (inside["first_row"] == first_row), "whether it is in order", lemma=True)

    of_written = bench.past(asks & known[0] & ~ordered & ~lists.dropped, "of_written")
    bench.cover("flipped", of_written & (lists.row == 77), "a row of a list that was written")
    bench.cover("dropped", asked & bench.past(lists.dropped, "was_dropped") & (lists.row == 5),
                "a row that was dropped")


PROOF = Proof("token_list", build, depths={"prove": 2, "cover": 10}, quick={})
