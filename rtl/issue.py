# SPDX-License-Identifier: BSD-2-Clause
"""The streaming side of the sequencer: issues rows, the only place where the datapath waits."""

from amaranth.hdl import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from rtl import isa
from rtl.arith import delay
from rtl.config import MIN_TILE_CYCLES, PASS_SLOTS, Config
from rtl.loader import tile_layout
from rtl.segments import segment_layout

__all__ = ["RowIssue", "issue_state", "row_layout"]


def row_layout(config: Config) -> data.StructLayout:
    """Return the layout of the control bits that travel beside a row through the datapath."""
    place = ceil_log2(config.pass_rows)
    return data.StructLayout({
        "swap": unsigned(1),       # first row of a tile
        "last_row": unsigned(1),   # last row of a tile
        "zero": unsigned(1),       # enters the array as zeros
        "index": unsigned(place),  # in the pass
        "position": unsigned(place),
        "physical": unsigned(ceil_log2(config.residual_rows)),
        "write_addr": unsigned(16),
        "tile": tile_layout(config),
    })


def issue_state(config: Config) -> data.StructLayout:
    """Return the layout of what the issue stage does in a cycle, for the counters and traces."""
    return data.StructLayout({
        "busy": unsigned(1),       # issues a row
        "waits_row": unsigned(1),  # waits for one
        "pads": unsigned(1),       # waits until rows may return
        "accepts": unsigned(1),    # begins a tile in the next cycle
        "tile": tile_layout(config),
    })


def _step_layout(config: Config) -> data.StructLayout:
    """Return the layout of what a tile is issued by: its rows, and what they wait for."""
    return data.StructLayout({
        "tile": tile_layout(config),
        "first": unsigned(11),       # position
        "rows": unsigned(11),
        "each": unsigned(1),         # rows are token ``token`` of every segment
        "token": unsigned(10),
        "zero_rows": unsigned(2),
        "dropped": unsigned(1),      # positions are of the dropped list
        "waits": unsigned(1),        # for rows of the pass ``earlier``
        "earlier": unsigned(8),
        "whole": unsigned(1),        # for all of them
        "others": unsigned(1),       # it writes the last row of the residual, not the others
        "made_first": unsigned(11),  # position of its first row
    })


class RowIssue(wiring.Component):
    """Streams the rows of one tile after the other: row, physical row, addresses, control bits.

    In the first tile of a pass, a row is issued when the pass ``row_dependency`` back has written
    it (row-level hand-over); everything later in the pass follows by order. Rows before the first
    one of that pass are those of passes before it, which have ended when it retires. Rows of the
    residual that a pass over the last one does not write need no waiting for; a pass over dropped
    rows must have ended, as its rows are counted in another list. A row returns in the
    next tile no sooner than ``MIN_TILE_CYCLES`` cycles later, as the accumulators are
    read-modify-write: shorter tiles are padded. The next tile is accepted while rows of this one
    are issued, so tiles follow without a gap.

    The token list, beside this stage, maps a position to a row of the residual buffer. A row of
    ``DROPPED`` is a position in the list of what the last selector dropped.

    Latency: ``LATENCY`` cycles from the acceptance of a tile to its first ``row`` at the output,
    aligned with ``read_addr``: buffer data are there in the next cycle.

    Resources: two multipliers, of row and stride.

    Members
    -------
    tile : In(stream of tile_layout)
    descriptors : In
    tokens, images : In, of the list; of BEGIN
    current, gone : In, segments of the list, of the dropped list, as ``SegmentTable``
    list_position, list_dropped : Out; list_row : In, one cycle later, as ``TokenList``
    retired : In, passes retired modulo 256
    retired_rows : In, finished rows of the pass that retires
    valid, row : Out, the row whose addresses are out
    read_addr : Out, one per bank, for the buffer that the pass streams from
    residual_addr : Out, one per bank: as ``read_addr``, or of the row that the epilogue adds to
    state : Out
    """

    LATENCY = 8

    def __init__(self, config: Config):
        self.config = config
        addresses = data.ArrayLayout(unsigned(16), config.banks)
        segments = data.ArrayLayout(segment_layout(config), isa.SEGMENTS)
        super().__init__({
            "tile": In(stream.Signature(tile_layout(config))),
            "descriptors": In(data.ArrayLayout(isa.pass_layout, PASS_SLOTS)),
            "tokens": In(16), "images": In(8), "current": In(segments), "gone": In(segments),
            "list_position": Out(ceil_log2(config.pass_rows)), "list_dropped": Out(1),
            "list_row": In(ceil_log2(config.residual_rows)),
            "retired": In(8), "retired_rows": In(11),
            "valid": Out(1), "row": Out(row_layout(config)),
            "read_addr": Out(addresses), "residual_addr": Out(addresses),
            "state": Out(issue_state(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid, row = self._rows(m)
        self._addresses(m, valid, row)
        return m

    def _range(self, m: Module, fields: data.View, name: str) -> tuple[Signal, Signal]:
        """Return the first position of a pass and the number of its rows, but of Rows.EACH."""
        segment = Signal(segment_layout(self.config), name=f"{name}_segment")
        gone = Signal(segment_layout(self.config), name=f"{name}_gone")
        start, count = Signal(11, name=f"{name}_start"), Signal(11, name=f"{name}_count")
        first, rows = Signal(11, name=f"{name}_first"), Signal(11, name=f"{name}_rows")
        m.d.comb += [
            segment.eq(self.current[fields.segment]),
            gone.eq(self.gone[fields.segment]),
            start.eq(Mux(fields.of_segment, segment.start, 0)),
            count.eq(Mux(fields.of_segment, segment.count, self.tokens)),
        ]
        with m.Switch(fields.rows_from):
            with m.Case(isa.Rows.COUNT):
                m.d.comb += [first.eq(start + fields.row_first), rows.eq(fields.row_count)]
            with m.Case(isa.Rows.TOKENS):
                m.d.comb += [first.eq(start), rows.eq(count)]
            with m.Case(isa.Rows.DROPPED):
                m.d.comb += [first.eq(gone.start), rows.eq(gone.count)]
            with m.Case(isa.Rows.LAST):
                m.d.comb += [first.eq(Mux(fields.of_segment, segment.last, self.tokens - 1)),
                             rows.eq(1)]
            with m.Case(isa.Rows.EACH):
                m.d.comb += rows.eq(self.images)
        return first, rows

    def _next(self, m: Module, taken: Signal) -> tuple[Signal, data.View]:
        """Take the next tile and find what its rows are and wait for, in three cycles; return
        whether that is done, and what it is."""
        tile, number = Signal(tile_layout(self.config)), Signal(8)
        held, known, valid = Signal(), Signal(), Signal()
        found = Signal(_step_layout(self.config))
        m.d.comb += self.tile.ready.eq(~held)
        with m.If(self.tile.valid & self.tile.ready):
            m.d.sync += [held.eq(1), tile.eq(self.tile.payload)]
        m.d.sync += [known.eq(held & ~taken), valid.eq(known & ~taken)]
        with m.If(taken):
            m.d.sync += held.eq(0)
            with m.If(tile.last_column & tile.last_k):
                m.d.sync += number.eq(number + 1)

        # One cycle for the pass of the tile and the one it waits for, one for what they say. Copies
        # are true for as long as they matter: a descriptor is written over only after its pass has
        # retired. The pass of the tile does so after its rows; when the other one has, ``behind``
        # is positive, and nothing is waited for.
        queued = Signal(isa.pass_layout, name="queued_fields")
        fields = Signal(isa.pass_layout, reset_less=True)
        earlier = Signal(isa.pass_layout, name="earlier", reset_less=True)
        slot = Signal(range(PASS_SLOTS))
        m.d.comb += [queued.eq(self.descriptors[tile.slot]),
                     slot.eq(tile.slot - queued.row_dependency)]
        m.d.sync += [fields.eq(queued), earlier.eq(self.descriptors[slot])]
        first, rows = self._range(m, fields, "next")
        made_first, _ = self._range(m, earlier, "made")
        to_residual = earlier.destination == isa.Destination.RESIDUAL
        of_last = earlier.rows_from == isa.Rows.LAST
        m.d.sync += [
            found.tile.eq(tile),
            found.first.eq(first),
            found.rows.eq(rows),
            found.each.eq(fields.rows_from == isa.Rows.EACH),
            found.token.eq(fields.row_first),
            found.zero_rows.eq(Mux(fields.prologue == isa.Prologue.EXP, 0, fields.zero_rows)),
            found.dropped.eq(fields.rows_from == isa.Rows.DROPPED),
            found.waits.eq(tile.first_column & tile.first_k & (fields.row_dependency != 0)),
            found.earlier.eq(number - fields.row_dependency),
            # What is left in one row for all, and rows of another list.
            found.whole.eq((earlier.rows_from == isa.Rows.DROPPED) | (of_last & ~to_residual)),
            found.others.eq(of_last & ~earlier.of_segment & to_residual),
            found.made_first.eq(made_first),
        ]
        return valid, found

    def _ready_before(self, m: Module, step: data.View, name: str) -> Value:
        """Return the position before which rows need not be waited for.

        Rows before the first one of the pass that is waited for are those of passes before it,
        which have ended when it retires.
        """
        behind = Signal(8, name=f"{name}_behind")
        before = Signal(12, name=f"{name}_before")
        m.d.comb += behind.eq(self.retired - step.earlier)
        with m.If(~step.waits | (behind.as_signed() > 0)):
            m.d.comb += before.eq(~0)
        with m.Elif((behind == 0) & ~step.whole):
            m.d.comb += before.eq(step.made_first + self.retired_rows)
        with m.Elif(step.others):
            m.d.comb += before.eq(step.made_first)
        return before

    def _rows(self, m: Module) -> tuple[Signal, data.View]:
        """Issue rows; return the issued row and its valid bit."""
        config = self.config
        step = Signal(_step_layout(config))
        active, issued_all, last = Signal(), Signal(), Signal()
        i, position = Signal(11), Signal(11)
        # Rows issued, and cycles since the last one: a wait does not count, as the rows after it
        # are issued so much later.
        elapsed, due = Signal(range(MIN_TILE_CYCLES)), Signal()
        before = Signal(12)
        ready, issue, finish, take = (Signal(name=n) for n in ("ready", "issue", "finish", "take"))
        found_valid, found = self._next(m, take)
        m.d.comb += [
            ready.eq(position < before),
            issue.eq(active & ~issued_all & ready),
            finish.eq(active & ((issue & last) | issued_all) & due),
            take.eq(found_valid & (~active | finish)),
            self.state.busy.eq(issue),
            self.state.waits_row.eq(active & ~issued_all & ~ready),
            self.state.pads.eq(active & issued_all),
            self.state.accepts.eq(take),
            self.state.tile.eq(found.tile),
        ]
        m.d.sync += before.eq(Mux(take, self._ready_before(m, found, "next"),
                                  self._ready_before(m, step, "this")))
        with m.If((issue | (active & issued_all)) & ~due):
            m.d.sync += [elapsed.eq(elapsed + 1), due.eq(elapsed == MIN_TILE_CYCLES - 2)]
        following = Signal(11)
        m.d.comb += following.eq(i + 1)
        with m.If(issue):
            m.d.sync += [
                i.eq(following), issued_all.eq(last), last.eq(i + 2 == step.rows),
                position.eq(Mux(step.each, self._token_of(following, step.token), position + 1)),
            ]
        with m.If(finish):
            m.d.sync += active.eq(0)
        with m.If(take):
            m.d.sync += [
                step.eq(found), active.eq(1), issued_all.eq(0), i.eq(0), elapsed.eq(0), due.eq(0),
                last.eq(found.rows[1:] == 0),  # none would never end
                position.eq(Mux(found.each, self._token_of(Const(0), found.token), found.first)),
            ]

        row = Signal(row_layout(config), reset_less=True)
        valid, dropped = Signal(), Signal(reset_less=True)
        m.d.comb += [self.list_position.eq(row.position), self.list_dropped.eq(dropped)]
        m.d.sync += [
            dropped.eq(step.dropped),
            valid.eq(issue),
            row.swap.eq(i == 0),
            row.last_row.eq(last),
            row.zero.eq(position < step.zero_rows),
            row.index.eq(i),
            row.position.eq(position),
            row.tile.eq(step.tile),
        ]
        return valid, row

    def _token_of(self, segment: Value, token: Value) -> Value:
        """Return the position of a token of a segment."""
        return self.current[segment[:exact_log2(isa.SEGMENTS)]].start + token

    def _addresses(self, m: Module, valid: Signal, row: data.View) -> None:
        """Turn rows into buffer addresses: row times stride, plus base and block, in two steps."""
        config = self.config
        lane_bits = ceil_log2(config.columns)
        # Blocks of a word over those that enter or leave the array at once: 1 for a square array.
        read_turns = ceil_log2(config.banks // config.row_blocks)
        write_turns = ceil_log2(config.banks // config.column_blocks)

        # One cycle after the row: its physical row is there, from the list.
        row1 = Signal(row_layout(config), reset_less=True)
        m.d.sync += row1.eq(row)
        valid1 = delay(m, valid, 1, name="valid1", reset=True)
        # Not written over meanwhile: a pass retires behind its last row.
        fields1 = Signal(isa.pass_layout, reset_less=True)
        m.d.sync += fields1.eq(self.descriptors[row.tile.slot])
        reads_residual, writes_residual, writes_key, streamed = (Signal(name=n) for n in (
            "reads_residual", "writes_residual", "writes_key", "streamed"))
        # Scores are of one segment, logits of one row of each: their place is the index.
        read_place, write_place = Signal.like(row.position), Signal.like(row.position)
        m.d.comb += [
            reads_residual.eq(fields1.source == isa.Source.RESIDUAL),
            writes_residual.eq(fields1.destination == isa.Destination.RESIDUAL),
            writes_key.eq(fields1.destination == isa.Destination.KEY),
            streamed.eq((fields1.destination != isa.Destination.KEY)
                        & (fields1.destination != isa.Destination.VALUE)
                        & (fields1.destination != isa.Destination.LOGIT)),
            read_place.eq(Mux(fields1.source == isa.Source.SCORE, row1.index, row1.position)),
            write_place.eq(Mux((fields1.destination == isa.Destination.SCORE)
                               | (fields1.destination == isa.Destination.LOGIT),
                               row1.index, row1.position)),
        ]

        # Two cycles after: products of row and stride.
        row2 = Signal(row_layout(config), reset_less=True)
        read_product, write_product = Signal(18, reset_less=True), Signal(18, reset_less=True)
        write_offset = Signal(16, reset_less=True)
        read_offsets = [Signal(16, name=f"read_offset{i}", reset_less=True)
                        for i in range(config.row_blocks)]
        from_first = Signal(config.row_blocks, reset_less=True)
        own_residual = Signal(reset_less=True)
        key_low = Signal(lane_bits, reset_less=True)
        is_key = Signal(reset_less=True)
        valid2 = delay(m, valid1, 1, name="valid2", reset=True)
        m.d.sync += [
            row2.eq(row1),
            row2.physical.eq(self.list_row),
            read_product.eq(Mux(reads_residual, self.list_row, read_place)
                            * fields1.source_stride),
            write_product.eq(Mux(writes_residual, self.list_row,
                                 Mux(writes_key, row1.position >> lane_bits, write_place))
                             * fields1.destination_stride),
            write_offset.eq(fields1.destination_base
                            + Mux(streamed, row1.tile.column_tile >> write_turns,
                                  row1.tile.column_tile)),
            own_residual.eq(reads_residual),
            key_low.eq(row1.position),
            is_key.eq(writes_key),
        ]
        for i, offset in enumerate(read_offsets):
            m.d.sync += offset.eq(fields1.source_base + (row1.tile.blocks[i].index >> read_turns))
            m.d.sync += from_first[i].eq(row1.tile.blocks[i].broadcast)

        # Three cycles after: the addresses.
        write_addr = Signal(16)
        m.d.comb += write_addr.eq(write_product + write_offset)
        m.d.sync += [
            self.valid.eq(valid2),
            self.row.eq(row2),
            self.row.write_addr.eq(Mux(is_key, (write_addr << lane_bits) | key_low, write_addr)),
        ]
        for bank in range(config.banks):
            address = Signal(16, name=f"address{bank}")
            block = bank % config.row_blocks
            m.d.comb += address.eq(Mux(from_first[block], 0, read_product) + read_offsets[block])
            m.d.sync += [
                self.read_addr[bank].eq(address),
                self.residual_addr[bank].eq(Mux(own_residual, address, write_addr)),
            ]
