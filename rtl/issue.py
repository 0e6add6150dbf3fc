# SPDX-License-Identifier: BSD-2-Clause
"""The streaming side of the sequencer: issues rows, the only place where the datapath waits."""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from rtl import isa
from rtl.arith import delay
from rtl.config import MIN_TILE_CYCLES, PASS_SLOTS, Config
from rtl.loader import pass_behind, tile_layout
from rtl.segments import segment_layout

__all__ = ["IssueState", "RowIssue", "row_layout"]


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


class IssueState(data.Struct):
    """What the issue stage does in a cycle, for the stall counters."""

    busy: 1
    waits_row: 1
    pads: 1


class RowIssue(wiring.Component):
    """Streams the rows of one tile after the other: row, physical row, addresses, control bits.

    In the first tile of a pass, a row is issued when the pass ``row_dependency`` back has written
    it (row-level hand-over); everything later in the pass follows by order. Rows before the first
    one of that pass are those of passes before it, which have ended when it retires. Rows of the
    residual that a pass over the last one does not write need no waiting for; a pass over dropped
    rows must have ended, as its rows are counted in another list. A row returns in the
    next tile no sooner than ``MIN_TILE_CYCLES`` cycles later, as the accumulators are
    read-modify-write: shorter tiles are padded. A tile is accepted while the last row of the one
    before is issued, so tiles follow without a gap.

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

    LATENCY = 5

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
            "state": Out(IssueState),
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
                m.d.comb += [first.eq(start + count - 1), rows.eq(1)]
            with m.Case(isa.Rows.EACH):
                m.d.comb += rows.eq(self.images)
        return first, rows

    def _rows(self, m: Module) -> tuple[Signal, data.View]:
        """Issue rows; return the issued row and its valid bit."""
        config = self.config
        tile = Signal(tile_layout(config))
        active, issued_all = Signal(), Signal()
        i, first, rows = Signal(11), Signal(11), Signal(11)
        # Rows issued, and cycles since the last one: a wait does not count, as the rows after it
        # are issued so much later.
        elapsed = Signal(range(MIN_TILE_CYCLES))
        number = Signal(8)  # pass of the current tile
        fields = Signal(isa.pass_layout)
        m.d.comb += fields.eq(self.descriptors[tile.slot])

        # What a tile needs to know of the pass that it waits for
        waits = Signal()         # for rows of it
        whole = Signal()         # for all of them
        of_last = Signal()       # it writes the last row of the residual, no other
        made_first = Signal(11)  # position of its first row
        position = Signal(11)
        behind = Signal(8)
        written, ready, issue, last, finish = (Signal(name=n) for n in (
            "written", "ready", "issue", "last", "finish"))
        m.d.comb += [
            position.eq(first + i),
            behind.eq(pass_behind(self.retired, number, fields.row_dependency)),
            written.eq((behind.as_signed() > 0)
                       | ((behind == 0) & ~whole & ((made_first + self.retired_rows > position)
                                                    | (position < made_first)))
                       | (of_last & (position + 1 != self.tokens))),
            ready.eq(~waits | written),
            issue.eq(active & ~issued_all & ready),
            last.eq(i + 1 == rows),
            finish.eq(active & ((issue & last) | issued_all) & (elapsed == MIN_TILE_CYCLES - 1)),
            self.tile.ready.eq(~active | finish),
            self.state.busy.eq(issue),
            self.state.waits_row.eq(active & ~issued_all & ~ready),
            self.state.pads.eq(active & issued_all),
        ]
        with m.If(fields.rows_from == isa.Rows.EACH):
            m.d.comb += position.eq(self.current[i[:exact_log2(isa.SEGMENTS)]].start
                                    + fields.row_first)
        with m.If((issue | (active & issued_all)) & (elapsed != MIN_TILE_CYCLES - 1)):
            m.d.sync += elapsed.eq(elapsed + 1)
        with m.If(issue):
            m.d.sync += [i.eq(i + 1), issued_all.eq(last)]
        with m.If(finish):
            m.d.sync += active.eq(0)
            with m.If(tile.last_column & tile.last_k):
                m.d.sync += number.eq(number + 1)

        following, earlier = Signal(isa.pass_layout), Signal(isa.pass_layout)
        m.d.comb += [
            following.eq(self.descriptors[self.tile.payload.slot]),
            earlier.eq(self.descriptors[(self.tile.payload.slot - following.row_dependency)
                                        [:exact_log2(PASS_SLOTS)]]),
        ]
        next_first, next_rows = self._range(m, following, "next")
        next_made_first, _ = self._range(m, earlier, "made")
        with m.If(self.tile.valid & self.tile.ready):
            m.d.sync += [
                tile.eq(self.tile.payload),
                active.eq(1), issued_all.eq(0), i.eq(0), elapsed.eq(0),
                first.eq(next_first), rows.eq(next_rows),
                waits.eq(self.tile.payload.first_column & self.tile.payload.first_k
                         & (following.row_dependency != 0)),
                whole.eq(earlier.rows_from == isa.Rows.DROPPED),
                of_last.eq((earlier.rows_from == isa.Rows.LAST) & ~earlier.of_segment
                           & (earlier.destination == isa.Destination.RESIDUAL)),
                made_first.eq(next_made_first),
            ]

        row = Signal(row_layout(config), reset_less=True)
        valid, dropped = Signal(), Signal(reset_less=True)
        m.d.comb += [self.list_position.eq(row.position), self.list_dropped.eq(dropped)]
        m.d.sync += [
            dropped.eq(fields.rows_from == isa.Rows.DROPPED),
            valid.eq(issue),
            row.swap.eq(i == 0),
            row.last_row.eq(last),
            row.zero.eq((position < fields.zero_rows) & (fields.prologue != isa.Prologue.EXP)),
            row.index.eq(i),
            row.position.eq(position),
            row.tile.eq(tile),
        ]
        return valid, row

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
        fields1 = Signal(isa.pass_layout)
        reads_residual, writes_residual, writes_key, streamed = (Signal(name=n) for n in (
            "reads_residual", "writes_residual", "writes_key", "streamed"))
        # Scores are of one segment, logits of one row of each: their place is the index.
        read_place, write_place = Signal.like(row.position), Signal.like(row.position)
        m.d.comb += [
            fields1.eq(self.descriptors[row1.tile.slot]),
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
