# SPDX-License-Identifier: BSD-2-Clause
"""The stationary side of the sequencer: walks column and K tiles, fills the shadow weights."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from rtl import isa
from rtl.arith import delay
from rtl.buffers import KeyBuffer, ValueBuffer
from rtl.config import PASS_SLOTS, SCALE_SLOTS, Config

__all__ = ["LoaderActivity", "TileLoader", "pass_behind", "tile_layout"]


#: An entry of a block list; one that is not ``valid`` streams zeros.
_TILE_BLOCK = data.StructLayout({"index": isa.ListEntry["index"].shape, "broadcast": 1,
                                 "valid": 1})


def tile_layout(config: Config) -> data.StructLayout:
    """Return the layout of what the issue stage must know of a tile."""
    return data.StructLayout({
        "slot": range(PASS_SLOTS),        # pass descriptor
        "column_tile": unsigned(8),        # of the destination
        "part": range(max(2, config.package_parts)),  # of the column tile, of a package
        "first_column": unsigned(1),
        "last_column": unsigned(1),
        "first_k": unsigned(1),
        "last_k": unsigned(1),
        "scale_slot": range(SCALE_SLOTS),
        "rows_valid": unsigned(ceil_log2(config.rows) + 1),        # tokens in this K tile
        "columns_valid": unsigned(ceil_log2(config.columns) + 1),  # tokens in this column tile
        "blocks": data.ArrayLayout(_TILE_BLOCK, config.row_blocks),
    })


class LoaderActivity(enum.Enum, shape=3):
    """What the loader does in a cycle, for tracing."""

    IDLE = 0      #: there is no pass, or the next one is begun
    SCALES = 1    #: bias and scales of a column tile, or waits for a slot for them
    TILE = 2      #: begins a tile
    SWAP = 3      #: waits until the tile before is swapped in
    WEIGHT = 4    #: waits for weights
    OPERAND = 5   #: waits for the pass that writes keys or values
    LOAD = 6      #: requests a row
    FILLED = 7    #: waits until the tile is taken


def pass_behind(retired: Signal, number: Signal, distance: Signal) -> Signal:
    """Return how many passes lie between the one ``distance`` before ``number`` and the one that
    retires now: positive when it has retired, zero while it retires. Counters are modulo 256."""
    return (retired - number + distance)[:8].as_signed()


class TileLoader(wiring.Component):
    """For every pass in order, for every column tile: its bias and scale rows, then per K tile
    ``rows`` rows of stationary operands, into the shadow registers of the array. A pass without
    operands leaves there what is there. A package takes every column tile part by part.

    Runs at most one tile ahead of the array: it begins a tile when the previous one has been
    swapped in. A tile is offered to the issue stage as soon as its last row is certain to be in
    place before the row that swaps it in arrives (``lead`` cycles after the offer at the earliest).

    Resources: two multipliers, of tile or row and stride, of which the first may be in LUTs.

    Parameters
    ----------
    keys, values
        The buffers that it reads, for their address widths and latencies.
    lead
        Cycles from the issue of a row to its entry into the array.

    Members
    -------
    queued, retired : In, number of passes queued and retired, modulo 256
    columns_retired : In, number of column tiles with own scales that retired, modulo
        ``2 * SCALE_SLOTS``
    slot : Out, pass descriptor that is read; ``descriptor`` : In
    tokens, first : In, of the list or segment of the pass: how many, the first position
    list_addr : Out; list_entry : In, one cycle later
    weight : In(stream), array rows; weight_level : In
    key_base, key_channel, key_start, key_after : Out; key_data : In, as ``KeyBuffer``
    value_addr : Out; value_data : In, as ``ValueBuffer``
    swap : In, with the first row of a tile, at the array
    load_valid, load_row, load_data : Out, to the array
    param_en, param_slot, param_byte, param_data : Out, to the epilogue
    tile : Out(stream of tile_layout)
    waits_operand : Out, a key or value tile is being waited for or loaded
    active : Out, a pass is being worked on
    activity : Out, for tracing
    """

    def __init__(self, config: Config, *, keys: KeyBuffer, values: ValueBuffer, lead: int):
        self.config = config
        self.lead = lead
        word = data.ArrayLayout(unsigned(8), config.columns)
        signed_word = data.ArrayLayout(signed(8), config.columns)
        # From the request of a row to its arrival at the array, by source.
        self._latency = {isa.Stationary.WEIGHT: 2, isa.Stationary.KEY: 2 + keys.latency,
                         isa.Stationary.VALUE: 3 + values.LATENCY}
        super().__init__({
            "queued": In(8), "retired": In(8), "columns_retired": In(range(2 * SCALE_SLOTS)),
            "slot": Out(range(PASS_SLOTS)), "descriptor": In(isa.pass_layout), "tokens": In(16),
            "first": In(11),
            "list_addr": Out(ceil_log2(config.list_depth)),
            "list_entry": In(data.ArrayLayout(isa.ListEntry, config.row_blocks)),
            "weight": In(stream.Signature(unsigned(8 * config.columns))),
            "weight_level": In(range(config.weight_depth + 1)),
            "key_base": Out(len(keys.read_base)), "key_after": Out(len(keys.read_base)),
            "key_channel": Out(len(keys.read_channel)), "key_start": Out(len(keys.read_start)),
            "key_data": In(signed_word),
            "value_addr": Out(values.addr_bits), "value_data": In(signed_word),
            "swap": In(1),
            "load_valid": Out(1), "load_row": Out(range(config.rows)),
            "load_data": Out(signed_word),
            "param_en": Out(1), "param_slot": Out(range(SCALE_SLOTS)),
            "param_byte": Out(range(isa.SCALE_BYTES)), "param_data": Out(word),
            "tile": Out(stream.Signature(tile_layout(config))),
            "waits_operand": Out(1), "active": Out(1), "activity": Out(LoaderActivity),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        row_bits, lane_bits = ceil_log2(config.rows), ceil_log2(config.columns)
        part_bits = exact_log2(config.package_parts)

        number = Signal(8)          # pass that is worked on
        m.d.comb += self.slot.eq(number)
        fields = self.descriptor
        column_tile, k_tile = Signal(8), Signal(8)
        column_tiles, k_tiles = Signal(8), Signal(8)
        tokens_left_k = Signal(16)       # tokens from this K tile on
        tokens_left_column = Signal(16)  # tokens from this column tile on
        list_column = Signal(isa.pass_layout["list_base"].width)
        list_pointer = Signal.like(list_column)
        columns_loaded = Signal.like(self.columns_retired)
        byte = Signal(range(isa.SCALE_BYTES))
        row = Signal(range(config.rows))
        shadow_free = Signal(init=1)
        taken = Signal()
        filled = Signal()
        offered = Signal()

        is_weight = fields.stationary == isa.Stationary.WEIGHT
        is_none = fields.stationary == isa.Stationary.NONE
        has_scales = fields.scale_source == isa.ScaleSource.COLUMN
        operands_ready = Signal()
        behind = Signal(8)
        m.d.comb += [
            behind.eq(pass_behind(self.retired, number, fields.operand_dependency)),
            operands_ready.eq((fields.operand_dependency == 0)
                              | (behind.as_signed() > 0)),
        ]
        # A head may begin in the middle of a buffer word; its word is in the destination base.
        within_word = fields.operand_base[:ceil_log2(config.banks // config.column_blocks)]
        last_k, last_column = Signal(), Signal()
        m.d.comb += [
            last_k.eq(k_tile + 1 == k_tiles),
            last_column.eq(column_tile + 1 == column_tiles),
            self.list_addr.eq(list_pointer),
        ]

        read_row = Signal()  # a row is requested in this cycle
        tile = self.tile.payload
        with m.If(self.tile.valid & self.tile.ready):
            m.d.sync += [self.tile.valid.eq(0), taken.eq(1)]
        with m.If(self.swap):
            m.d.sync += shadow_free.eq(1)

        with m.FSM():
            with m.State("Pass"):
                with m.If(number != self.queued):
                    m.d.sync += [
                        column_tile.eq(0),
                        column_tiles.eq(Mux(fields.columns_from_tokens,
                                            (self.tokens + config.columns - 1) >> lane_bits,
                                            fields.column_tiles)),
                        k_tiles.eq(Mux(fields.k_from_tokens,
                                       (self.tokens + config.rows - 1) >> row_bits,
                                       fields.k_tiles)),
                        list_column.eq(fields.list_base),
                        tokens_left_column.eq(self.tokens),
                    ]
                    m.next = "Column"
            with m.State("Column"):
                m.d.comb += self.activity.eq(Mux(has_scales, LoaderActivity.SCALES,
                                                 LoaderActivity.IDLE))
                m.d.sync += [
                    k_tile.eq(0),
                    byte.eq(0),
                    list_pointer.eq(list_column),
                    tokens_left_k.eq(self.tokens),
                ]
                with m.If(~has_scales):
                    m.next = "Tile"
                with m.Elif((columns_loaded - self.columns_retired)[:len(columns_loaded)]
                              != SCALE_SLOTS):
                    m.next = "Scales"
            with m.State("Scales"):
                m.d.comb += [
                    self.activity.eq(LoaderActivity.SCALES),
                    self.weight.ready.eq(1),
                    self.param_en.eq(self.weight.valid),
                    self.param_slot.eq(columns_loaded),
                    self.param_byte.eq(byte),
                    self.param_data.eq(self.weight.payload),
                ]
                with m.If(self.weight.valid):
                    m.d.sync += byte.eq(byte + 1)
                    with m.If(byte == isa.SCALE_BYTES - 1):
                        m.d.sync += columns_loaded.eq(columns_loaded + 1)
                        m.next = "Tile"
            with m.State("Tile"):
                # The list entry is read in this cycle and taken over in the next.
                m.d.comb += self.activity.eq(LoaderActivity.TILE)
                m.d.sync += [row.eq(0), filled.eq(0), taken.eq(0)]
                m.next = "List"
            with m.State("List"):
                m.d.comb += self.activity.eq(LoaderActivity.TILE)
                m.d.sync += [
                    tile.slot.eq(number),
                    tile.column_tile.eq(Mux(fields.package, column_tile >> part_bits, column_tile)
                                        + within_word),
                    tile.part.eq(column_tile[:part_bits]),
                    tile.first_column.eq(column_tile == 0),
                    tile.last_column.eq(last_column),
                    tile.first_k.eq(k_tile == 0),
                    tile.last_k.eq(last_k),
                    tile.scale_slot.eq(columns_loaded - 1),
                    tile.rows_valid.eq(Mux(tokens_left_k > config.rows, config.rows,
                                           tokens_left_k)),
                    tile.columns_valid.eq(Mux(tokens_left_column > config.columns, config.columns,
                                              tokens_left_column)),
                ]
                for block, entry in zip(tile.blocks, self.list_entry, strict=True):
                    m.d.sync += [
                        block.index.eq(entry.index),
                        block.broadcast.eq(entry.broadcast),
                        block.valid.eq(entry.as_value() != isa.NO_BLOCK),
                    ]
                m.next = "Load"
            with m.State("Load"):
                m.d.comb += [
                    read_row.eq(shadow_free & ~filled & ~is_none
                                & Mux(is_weight, self.weight.valid, operands_ready)),
                    self.weight.ready.eq(read_row & is_weight),
                    self.waits_operand.eq(~is_weight),
                ]
                with m.If(is_none & shadow_free):
                    m.d.sync += filled.eq(1)
                with m.If(filled):
                    m.d.comb += self.activity.eq(LoaderActivity.FILLED)
                with m.Elif(~shadow_free):
                    m.d.comb += self.activity.eq(LoaderActivity.SWAP)
                with m.Elif(read_row | is_none):
                    m.d.comb += self.activity.eq(LoaderActivity.LOAD)
                with m.Else():
                    m.d.comb += self.activity.eq(Mux(is_weight, LoaderActivity.WEIGHT,
                                                     LoaderActivity.OPERAND))
                with m.If(read_row):
                    m.d.sync += row.eq(row + 1)
                    with m.If(row == config.rows - 1):
                        m.d.sync += filled.eq(1)

                # Offered when the rest of the tile can no longer be held up: the last of its rows
                # is in place ``remaining - 1`` and the latency of its source from now, the row that
                # swaps it in comes a cycle and ``lead`` from now.
                remaining = Signal(range(config.rows + 1))
                most = Signal(range(config.rows + self.lead + 3))
                certain = Signal()
                with m.Switch(fields.stationary):
                    for kind, cycles in self._latency.items():
                        with m.Case(kind):
                            m.d.comb += most.eq(max(1, self.lead + 2 - cycles))
                m.d.comb += [
                    remaining.eq(config.rows - row),
                    certain.eq(read_row & (remaining <= most)
                               & (~is_weight | (self.weight_level >= remaining))),
                ]
                with m.If((certain | filled) & ~offered):
                    m.d.sync += [self.tile.valid.eq(1), offered.eq(1)]

                with m.If(filled & taken):
                    m.d.sync += [offered.eq(0), shadow_free.eq(0)]
                    m.next = "Next"
            with m.State("Next"):
                with m.If(~last_k):
                    m.d.sync += [
                        k_tile.eq(k_tile + 1),
                        list_pointer.eq(list_pointer + 1),
                        tokens_left_k.eq(tokens_left_k - config.rows),
                    ]
                    m.next = "Tile"
                with m.Elif(~last_column):
                    m.d.sync += [
                        column_tile.eq(column_tile + 1),
                        list_column.eq(list_column + fields.list_stride),
                        tokens_left_column.eq(tokens_left_column - config.columns),
                    ]
                    m.next = "Column"
                with m.Else():
                    m.d.sync += number.eq(number + 1)
                    m.next = "Pass"

        m.d.comb += self.active.eq(number != self.queued)
        self._request(m, read_row, row, tile.blocks, k_tile, column_tile)
        return m

    def _request(self, m: Module, read_row: Signal, row: Signal, blocks: data.View,
                 k_tile: Signal, column_tile: Signal) -> None:
        """Turn the request of a row into the address of its source, and the answer into a load.

        The sources differ in latency; two tiles never overlap, so the answers need no order.
        """
        config, fields = self.config, self.descriptor
        lane_bits = ceil_log2(config.columns)
        source_is = {kind: Signal(name=f"from_{kind.name.lower()}") for kind in isa.Stationary}
        for kind, requested in source_is.items():
            m.d.comb += requested.eq(read_row & (fields.stationary == kind))

        # Key: array row r streams against channel index * rows + r.
        index = Signal(isa.ListEntry["index"].width)
        with m.Switch(row[ceil_log2(config.block):]):
            for bank in range(config.row_blocks):
                with m.Case(bank):
                    m.d.comb += index.eq(blocks[bank].index)
        channel = Signal(ceil_log2(config.rows) + len(index))
        key_row = Signal(16, reset_less=True)
        m.d.comb += channel.eq(Cat(row, index))
        m.d.sync += [
            key_row.eq((column_tile + self.first[lane_bits:]) * fields.operand_stride),
            self.key_base.eq(key_row + channel[lane_bits:]),
            self.key_after.eq(key_row + fields.operand_stride + channel[lane_bits:]),
            self.key_channel.eq(channel[:lane_bits]),
        ]

        m.d.comb += self.key_start.eq(self.first[:lane_bits])

        # Value: array row r is token k_tile * rows + r.
        value_row = Signal(16, reset_less=True)
        m.d.sync += [
            value_row.eq((self.first + Cat(row, k_tile)) * fields.operand_stride),
            self.value_addr.eq(value_row + fields.operand_base + column_tile),
        ]

        weights = Signal.like(self.weight.payload, reset_less=True)
        m.d.sync += weights.eq(self.weight.payload)
        answers = {
            isa.Stationary.WEIGHT: weights,
            isa.Stationary.KEY: self.key_data.as_value(),
            isa.Stationary.VALUE: self.value_data.as_value(),
        }
        m.d.sync += self.load_valid.eq(0)
        for kind, word in answers.items():
            name, cycles = kind.name.lower(), self._latency[kind] - 1
            valid = delay(m, source_is[kind], cycles, name=f"{name}_valid", reset=True)
            at = delay(m, row, cycles, name=f"{name}_row")
            with m.If(valid):
                m.d.sync += [
                    self.load_valid.eq(1),
                    self.load_row.eq(at),
                    self.load_data.eq(word),
                ]
