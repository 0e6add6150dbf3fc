# SPDX-License-Identifier: BSD-2-Clause
"""The stationary side of the sequencer: walks column and K tiles, fills the shadow weights."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
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
    SCALES = 1    #: no tile is loaded: bias and scales of a column tile, or a slot for them
    TILE = 2      #: prepares a tile, and loads none
    SWAP = 3      #: waits until the tile before is swapped in
    WEIGHT = 4    #: waits for weights
    OPERAND = 5   #: waits for the pass that writes keys or values
    LOAD = 6      #: requests a row
    FILLED = 7    #: waits until the tile is taken


def _operand_layout(config: Config) -> data.StructLayout:
    """Return the layout of where the rows of a tile come from."""
    return data.StructLayout({
        "stationary": isa.Stationary,
        "requests": range(config.rows),   # behind the first one
        "number": unsigned(8),            # of its pass
        "dependency": isa.pass_layout["operand_dependency"].shape,
        "key_row": unsigned(16),          # token tile times stride
        "value_column": unsigned(16),     # base and column tile
        "first": unsigned(11),            # position of the first token
        "k_tile": unsigned(8),
        "stride": isa.pass_layout["operand_stride"].shape,
    })


def pass_behind(retired: Signal, number: Signal, distance: Signal) -> Signal:
    """Return how many passes lie between the one ``distance`` before ``number`` and the one that
    retires now: positive when it has retired, zero while it retires. Counters are modulo 256."""
    return (retired - number + distance)[:8].as_signed()


class TileLoader(wiring.Component):
    """For every pass in order, for every column tile: its bias and scale rows, then per K tile
    ``rows`` rows of stationary operands, into the shadow registers of the array: weights
    ``load_rows`` in a cycle, keys and values one. A pass without operands leaves there what is
    there. A package takes every column tile part by part.

    Loads one tile ahead of the array. The time from a row's issue to its entry into the array is
    fixed, so the loader is told of a swap before it comes: the first row of the next tile is asked
    for so early that it is at the array in the cycle after the swap. Meanwhile the tile after that
    is prepared, up to its bias and scales, so that tiles follow each other without a gap.

    A tile is offered to the issue stage as soon as its last row is certain to be in place before
    the row that swaps it in arrives (``lead`` cycles after the offer at the earliest).

    Timing: with all operands there, a tile of ``L`` loads is swapped in ``max(L, lead + 2 - l)``
    cycles after the one before, ``l`` being the latency of its source (2 of weights), or when the
    array asks for it. ``SCALE_BYTES / load_rows`` cycles come on top with own scales, as weights
    and scales share a stream.

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
    weight : In(stream), words of ``load_rows`` array rows; weight_behind : In, words behind it
    key_base, key_channel, key_start, key_after : Out; key_data : In, as ``KeyBuffer``
    value_addr : Out; value_data : In, as ``ValueBuffer``
    swap : In, the first row of a tile will be at the array in ``swap_lead`` cycles
    load_valid, load_row, load_data : Out, to the array
    param_en, param_slot, param_word, param_data : Out, to the epilogue
    tile : Out(stream of tile_layout)
    stationary : Out, source of the tile that is loaded or prepared
    active : Out, a pass is being worked on
    activity, begins : Out, for tracing; a tile is loaded from the next cycle on
    """

    def __init__(self, config: Config, *, keys: KeyBuffer, values: ValueBuffer, lead: int):
        self.config = config
        self.lead = lead
        load_word = data.ArrayLayout(signed(8), config.load_rows * config.columns)
        signed_word = data.ArrayLayout(signed(8), config.columns)
        param_word = data.ArrayLayout(unsigned(8 * config.load_rows), config.columns)
        # From the request of a row to its arrival at the array, by source.
        self._latency = {isa.Stationary.WEIGHT: 2, isa.Stationary.KEY: 2 + keys.latency,
                         isa.Stationary.VALUE: 3 + values.LATENCY}
        #: Cycles by which the loader must know of a swap in advance.
        self.swap_lead = max(self._latency.values())
        super().__init__({
            "queued": In(8), "retired": In(8), "columns_retired": In(range(2 * SCALE_SLOTS)),
            "slot": Out(range(PASS_SLOTS)), "descriptor": In(isa.pass_layout), "tokens": In(16),
            "first": In(11),
            "list_addr": Out(ceil_log2(config.list_depth)),
            "list_entry": In(data.ArrayLayout(isa.ListEntry, config.row_blocks)),
            "weight": In(stream.Signature(unsigned(8 * config.columns * config.load_rows))),
            "weight_behind": In(range(config.weight_depth // config.load_rows + 1)),
            "key_base": Out(len(keys.read_base)), "key_after": Out(len(keys.read_base)),
            "key_channel": Out(len(keys.read_channel)), "key_start": Out(len(keys.read_start)),
            "key_data": In(signed_word),
            "value_addr": Out(values.addr_bits), "value_data": In(signed_word),
            "swap": In(1),
            "load_valid": Out(config.load_rows),
            "load_row": Out(range(config.rows // config.load_rows)), "load_data": Out(load_word),
            "param_en": Out(1), "param_slot": Out(range(SCALE_SLOTS)),
            "param_word": Out(range(isa.SCALE_BYTES // config.load_rows)),
            "param_data": Out(param_word),
            "tile": Out(stream.Signature(tile_layout(config))),
            "stationary": Out(isa.Stationary), "active": Out(1), "activity": Out(LoaderActivity),
            "begins": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The tile that is prepared, while the one before is loaded.
        self._tile = Signal(tile_layout(self.config), name="next_tile", reset_less=True)
        self._operand = Signal(_operand_layout(self.config), name="next_operand", reset_less=True)
        self._ready = Signal(name="next_ready")  # it can be taken over
        self._begin = Signal(name="begin")       # it is
        self._stream_free = Signal(name="stream_free")  # no weights of the tile before are to come
        self._param = Signal(name="take_param")
        preparing = self._prepare(m)
        self._load(m, preparing)
        return m

    def _prepare(self, m: Module) -> Signal:
        """Walk the tiles of all passes, and take the bias and scales of a column tile from the
        stream; return what is being done."""
        config, fields, tile, operand = self.config, self.descriptor, self._tile, self._operand
        row_bits, lane_bits = ceil_log2(config.rows), ceil_log2(config.columns)
        part_bits = exact_log2(config.package_parts)

        number = Signal(8)          # pass that is worked on
        column_tile, k_tile = Signal(8), Signal(8)
        column_tiles, k_tiles = Signal(8), Signal(8)
        tokens = Signal(16)              # of the list or segment of the pass
        tokens_left_k = Signal(16)       # tokens from this K tile on
        tokens_left_column = Signal(16)  # tokens from this column tile on
        list_column = Signal(isa.pass_layout["list_base"].width)
        list_pointer = Signal.like(list_column)
        columns_loaded = Signal.like(self.columns_retired)
        scales_due = Signal()            # bias and scales of this column tile are to come
        # In the state "Ready": they are taken from the stream, or there is nothing to take. The
        # stream's ready and the next tile hang on these, not on the state.
        takes, prepared = Signal(), Signal()
        word = Signal.like(self.param_word, name="scale_word")

        # A head may begin in the middle of a buffer word; its word is in the destination base.
        within_word = fields.operand_base[:ceil_log2(config.banks // config.column_blocks)]
        last_k, last_column, last_word = Signal(), Signal(), Signal()
        key_tile = Signal(operand.key_row.shape(), reset_less=True)  # token tile of the buffer
        m.d.comb += [
            self.slot.eq(number),
            self.active.eq(number != self.queued),
            last_word.eq(word == isa.SCALE_BYTES // config.load_rows - 1),
            self.list_addr.eq(list_pointer),
            self._param.eq(takes & self._stream_free),
            self.param_en.eq(self._param & self.weight.valid),
            self._ready.eq(prepared | (self.param_en & last_word)),
            self.param_slot.eq(columns_loaded),
            self.param_word.eq(word),
        ]
        for c in range(config.columns):
            m.d.comb += self.param_data[c].eq(Cat(
                self.weight.payload.word_select(row * config.columns + c, 8)
                for row in range(config.load_rows)))
        preparing = Signal(LoaderActivity)
        with m.FSM():
            with m.State("Pass"):
                m.d.comb += preparing.eq(LoaderActivity.IDLE)
                with m.If(number != self.queued):
                    m.d.sync += [
                        column_tile.eq(0),
                        tokens.eq(self.tokens),
                        list_column.eq(fields.list_base),
                        tokens_left_column.eq(self.tokens),
                    ]
                    m.next = "Column"
            with m.State("Column"):
                m.d.comb += preparing.eq(LoaderActivity.TILE)
                m.d.sync += [
                    # Of the pass; here, as its tokens come late in the cycle before.
                    column_tiles.eq(Mux(fields.columns_from_tokens,
                                        (tokens + config.columns - 1) >> lane_bits,
                                        fields.column_tiles)),
                    k_tiles.eq(Mux(fields.k_from_tokens, (tokens + config.rows - 1) >> row_bits,
                                   fields.k_tiles)),
                    k_tile.eq(0),
                    scales_due.eq(fields.scale_source == isa.ScaleSource.COLUMN),
                    list_pointer.eq(list_column),
                    tokens_left_k.eq(tokens),
                ]
                m.next = "Tile"
            with m.State("Tile"):
                # The list entry is read in this cycle and taken over in the next.
                m.d.comb += preparing.eq(LoaderActivity.TILE)
                m.d.sync += [last_k.eq(k_tile + 1 == k_tiles),
                             last_column.eq(column_tile + 1 == column_tiles),
                             key_tile.eq(column_tile + self.first[lane_bits:])]
                m.next = "List"
            with m.State("List"):
                m.d.comb += preparing.eq(LoaderActivity.TILE)
                m.d.sync += [
                    tile.slot.eq(number),
                    tile.column_tile.eq(Mux(fields.package, column_tile >> part_bits, column_tile)
                                        + within_word),
                    tile.part.eq(column_tile[:part_bits]),
                    tile.first_column.eq(column_tile == 0),
                    tile.last_column.eq(last_column),
                    tile.first_k.eq(k_tile == 0),
                    tile.last_k.eq(last_k),
                    tile.scale_slot.eq(Mux(scales_due, columns_loaded, columns_loaded - 1)),
                    tile.rows_valid.eq(Mux(tokens_left_k > config.rows, config.rows,
                                           tokens_left_k)),
                    tile.columns_valid.eq(Mux(tokens_left_column > config.columns, config.columns,
                                              tokens_left_column)),
                    operand.stationary.eq(fields.stationary),
                    operand.requests.eq(Mux(fields.stationary == isa.Stationary.WEIGHT,
                                            config.rows // config.load_rows - 1,
                                            config.rows - 1)),
                    operand.number.eq(number),
                    operand.dependency.eq(fields.operand_dependency),
                    operand.first.eq(self.first),
                    operand.k_tile.eq(k_tile),
                    operand.stride.eq(fields.operand_stride),
                    operand.key_row.eq(key_tile * fields.operand_stride),
                    operand.value_column.eq(column_tile + fields.operand_base),
                ]
                for block, entry in zip(tile.blocks, self.list_entry, strict=True):
                    m.d.sync += [
                        block.index.eq(entry.index),
                        block.broadcast.eq(entry.broadcast),
                        block.valid.eq(entry.as_value() != isa.NO_BLOCK),
                    ]
                with m.If(~scales_due | ((columns_loaded - self.columns_retired)
                                         [:len(columns_loaded)] != SCALE_SLOTS)):
                    m.d.sync += [takes.eq(scales_due), prepared.eq(~scales_due)]
                    # Of the tile behind this one: when this one begins is known late in a cycle.
                    with m.If(~last_k):
                        m.d.sync += [
                            k_tile.eq(k_tile + 1),
                            list_pointer.eq(list_pointer + 1),
                            tokens_left_k.eq(tokens_left_k - config.rows),
                        ]
                    with m.Else():
                        m.d.sync += [
                            column_tile.eq(column_tile + 1),
                            list_column.eq(list_column + fields.list_stride),
                            tokens_left_column.eq(tokens_left_column - config.columns),
                        ]
                    m.next = "Ready"
                with m.Else():
                    m.d.comb += preparing.eq(LoaderActivity.SCALES)
            with m.State("Ready"):
                m.d.comb += preparing.eq(Mux(takes, LoaderActivity.SCALES, LoaderActivity.TILE))
                with m.If(self.param_en):
                    m.d.sync += word.eq(word + 1)
                    with m.If(last_word):
                        m.d.sync += [scales_due.eq(0), takes.eq(0), prepared.eq(1),
                                     columns_loaded.eq(columns_loaded + 1)]
                with m.If(self._begin):
                    m.d.sync += prepared.eq(0)
                    with m.If(~last_k):
                        m.next = "Tile"
                    with m.Elif(~last_column):
                        m.next = "Column"
                    with m.Else():
                        m.d.sync += number.eq(number + 1)
                        m.next = "Pass"
        return preparing

    def _load(self, m: Module, preparing: Signal) -> None:
        """Request the rows of a tile when the shadow is free for them, and offer the tile."""
        config = self.config
        tile = self.tile.payload
        operand = Signal(_operand_layout(config), reset_less=True)
        loading = Signal()    # there is a tile
        row = Signal(range(config.rows))
        filled = Signal()     # all its rows have been requested
        offered, taken = Signal(), Signal()

        is_weight = operand.stationary == isa.Stationary.WEIGHT
        is_none = operand.stationary == isa.Stationary.NONE
        operands_ready = Signal()
        read_row = Signal()   # a row, of weights a word, is requested in this cycle
        left = Signal(range(config.rows))  # requests behind this one
        last = Signal()                    # there are none
        done = Signal()
        free = self._shadow_free(m, operand.stationary, done)
        m.d.comb += [
            read_row.eq(loading & free & ~filled & ~is_none
                        & Mux(is_weight, self.weight.valid, operands_ready)),
            done.eq(loading & taken & (filled | (read_row & last))),
            self._begin.eq(self._ready & (~loading | done)),
            self._stream_free.eq(~loading | filled | ~is_weight),
            self.weight.ready.eq(self._param | (loading & free & ~filled & is_weight)),
            self.stationary.eq(Mux(loading, operand.stationary, self.descriptor.stationary)),
        ]
        with m.If(self.tile.valid & self.tile.ready):
            m.d.sync += [self.tile.valid.eq(0), taken.eq(1)]
        with m.If(read_row):
            m.d.sync += [row.eq(row + Mux(is_weight, config.load_rows, 1)), left.eq(left - 1),
                         last.eq(left == 1)]
        with m.If((read_row & last) | (loading & free & is_none)):
            m.d.sync += filled.eq(1)

        # Offered when the rest of the tile can no longer be held up: the last of its rows is in
        # place ``left`` and the latency of its source from now, the row that swaps it in comes a
        # cycle and ``lead`` from now.
        most = Signal(range(self.lead + 2))
        certain = Signal()
        with m.Switch(operand.stationary):
            for kind, cycles in self._latency.items():
                with m.Case(kind):
                    m.d.comb += most.eq(max(0, self.lead + 1 - cycles))
        m.d.comb += [
            certain.eq(read_row & (left <= most) & (~is_weight | (self.weight_behind >= left))),
        ]
        with m.If((certain | filled) & ~offered):
            m.d.sync += [self.tile.valid.eq(1), offered.eq(1)]

        with m.If(done):
            m.d.sync += loading.eq(0)
        with m.If(self._begin):
            m.d.sync += [
                tile.eq(self._tile), operand.eq(self._operand), loading.eq(1),
                row.eq(0), left.eq(self._operand.requests), last.eq(0), filled.eq(0), offered.eq(0),
                taken.eq(0),
            ]
        # A cycle late, which is safe, but not of the tile before.
        m.d.sync += operands_ready.eq(Mux(self._begin, self._written(m, self._operand, "next"),
                                          self._written(m, operand, "this")))
        with m.If(loading):
            m.d.comb += self.active.eq(1)
        self._request(m, read_row, row, operand)

        m.d.comb += self.begins.eq(self._begin)
        with m.If(~loading):
            m.d.comb += self.activity.eq(preparing)
        with m.Elif(filled):
            m.d.comb += self.activity.eq(LoaderActivity.FILLED)
        with m.Elif(~free):
            m.d.comb += self.activity.eq(LoaderActivity.SWAP)
        with m.Elif(read_row | is_none):
            m.d.comb += self.activity.eq(LoaderActivity.LOAD)
        with m.Else():
            m.d.comb += self.activity.eq(Mux(is_weight, LoaderActivity.WEIGHT,
                                             LoaderActivity.OPERAND))

    def _written(self, m: Module, operand: data.View, name: str) -> Value:
        """Return whether the pass that writes the keys or values of a tile has retired."""
        behind = Signal(8, name=f"{name}_behind")
        m.d.comb += behind.eq(pass_behind(self.retired, operand.number, operand.dependency))
        return (operand.dependency == 0) | (behind.as_signed() > 0)

    def _shadow_free(self, m: Module, stationary: Value, done: Signal) -> Value:
        """Return whether a row that is requested now comes to the array after the swap of the tile
        before.

        Tiles that are done and swaps are counted modulo 4. Of the swaps one may be to come; or it
        has been announced already, while the last rows of its own tile are requested.
        """
        tiles, swaps = Signal(2), Signal(2)
        m.d.sync += [tiles.eq(tiles + done), swaps.eq(swaps + self.swap)]
        ahead = Signal(2)
        with m.Switch(stationary):
            for kind in (isa.Stationary.KEY, isa.Stationary.VALUE):
                seen = delay(m, swaps, self.swap_lead - self._latency[kind],
                             name=f"{kind.name.lower()}_swaps", reset=True)
                with m.Case(kind):
                    m.d.comb += ahead.eq(seen - tiles)
            seen = delay(m, swaps, self.swap_lead - self._latency[isa.Stationary.WEIGHT],
                         name="swaps", reset=True)
            with m.Default():
                m.d.comb += ahead.eq(seen - tiles)
        return ~ahead[1]

    def _request(self, m: Module, read_row: Signal, row: Signal, operand: data.View) -> None:
        """Turn the request of a row into the address of its source, and the answer into a load.

        The sources differ in latency; a tile follows the swap of the one before, so the answers
        need no order.
        """
        config = self.config
        lane_bits, pair_bits = ceil_log2(config.columns), exact_log2(config.load_rows)
        source_is = {kind: Signal(name=f"from_{kind.name.lower()}") for kind in self._latency}
        for kind, requested in source_is.items():
            m.d.comb += requested.eq(read_row & (operand.stationary == kind))

        # Key: array row r streams against channel index * rows + r.
        index = Signal(isa.ListEntry["index"].width)
        with m.Switch(row[ceil_log2(config.block):]):
            for bank in range(config.row_blocks):
                with m.Case(bank):
                    m.d.comb += index.eq(self.tile.payload.blocks[bank].index)
        channel = Signal(ceil_log2(config.rows) + len(index))
        m.d.comb += channel.eq(Cat(row, index))
        m.d.sync += [
            self.key_base.eq(operand.key_row + channel[lane_bits:]),
            self.key_after.eq(operand.key_row + operand.stride + channel[lane_bits:]),
            self.key_start.eq(operand.first[:lane_bits]),
            self.key_channel.eq(channel[:lane_bits]),
        ]

        # Value: array row r is token k_tile * rows + r, counted from the first.
        value_row = Signal(16, reset_less=True)
        value_column = Signal(16, reset_less=True)
        m.d.sync += [
            value_row.eq((operand.first + Cat(row, operand.k_tile)) * operand.stride),
            value_column.eq(operand.value_column),
            self.value_addr.eq(value_row + value_column),
        ]

        weights = Signal.like(self.weight.payload, reset_less=True)
        m.d.sync += weights.eq(self.weight.payload)
        answers = {
            isa.Stationary.WEIGHT: weights,
            isa.Stationary.KEY: self.key_data.as_value().replicate(config.load_rows),
            isa.Stationary.VALUE: self.value_data.as_value().replicate(config.load_rows),
        }
        m.d.sync += self.load_valid.eq(0)
        for kind, word in answers.items():
            name, cycles = kind.name.lower(), self._latency[kind] - 1
            valid = delay(m, source_is[kind], cycles, name=f"{name}_valid", reset=True)
            at = delay(m, row, cycles, name=f"{name}_row")
            one = kind != isa.Stationary.WEIGHT
            with m.If(valid):
                m.d.sync += [
                    self.load_valid.eq(1 << at[:pair_bits] if one else -1),
                    self.load_row.eq(at >> pair_bits),
                    self.load_data.eq(word),
                ]
