# SPDX-License-Identifier: BSD-2-Clause
"""The tile loader, with models of all that it touches: streams, buffers, array, retirement."""

import random
from collections import deque
from dataclasses import dataclass, replace
from functools import cache

import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from rtl import isa
from rtl.buffers import KeyBuffer, ValueBuffer
from rtl.config import MIN_TILE_CYCLES, SCALE_SLOTS, named
from rtl.core import Core
from rtl.issue import RowIssue
from rtl.loader import TileLoader, tile_layout
from tests.stalls import KINDS, stalls

SIZES = {f"{r}x{c}": replace(named("zcu104"), rows=r, columns=c, ports=1, port_bits=32,
                             max_hidden=1024, load_rows=n)
         for r, c, n in ((16, 16, 1), (32, 16, 2), (16, 64, 2), (64, 32, 1), (64, 64, 2))}
TINY = named("tiny")
COLUMN, CONSTANT = isa.ScaleSource.COLUMN, isa.ScaleSource.CONSTANT
WEIGHT, KEY, VALUE, NONE = (isa.Stationary.WEIGHT, isa.Stationary.KEY, isa.Stationary.VALUE,
                            isa.Stationary.NONE)


@cache
def _lead(config):
    """Return the lead that the loader has in the core."""
    return Core(config).loader.lead


def _pass(**fields):
    return {"stationary": WEIGHT, "scale_source": COLUMN, "column_tiles": 1, "k_tiles": 1, **fields}


@dataclass
class Tile:
    """A tile that the loader must offer, and what must be in the array when it is swapped in.

    A tile of a pass without operands has no rows.
    """

    number: int   # of its pass
    where: str
    fields: dict
    rows: list[int]
    column: int = -1   # of those with parameters
    ends_column: bool = False
    ends_pass: bool = False


@dataclass
class Column:
    """The parameters of a column tile."""

    rows: list[int]
    written: int = 0
    slot: int = -1


class Bench:
    """Everything around the loader, cycle by cycle.

    The array swaps a tile in ``lead`` cycles after it has taken it, the earliest that there is,
    unless ``wait`` says how much later, and takes the next one after as many cycles as a tile has.
    The loader is told ``swap_lead`` cycles before.
    Rows that come later than the swap, or before that of the tile before, are found at the swap.
    ``segments`` are the first position and number of the tokens of each pass, if not all tokens.
    """

    def __init__(self, config, passes, *, tokens=20, segments=(), lead=None, kind="none", seed=0,
                 wait=lambda: 0, drain=60, period=MIN_TILE_CYCLES, burst=4):
        self.config, self.load_rows = config, config.load_rows
        self.keys, self.values = KeyBuffer(config), ValueBuffer(config)
        self.lead = _lead(config) if lead is None else lead
        self.dut = TileLoader(config, keys=self.keys, values=self.values, lead=self.lead)
        self.passes = passes
        self.segments = list(segments) or [(0, tokens)] * len(passes)
        # Structs are packed once, and ports of structs are set as numbers: this is much faster.
        self.descriptors = [isa.pass_layout.const(f).as_bits() for f in passes]
        self.port = {name: Value.cast(getattr(self.dut, name))
                     for name in self.dut.signature.members if name not in ("weight", "tile")}
        payload = self.dut.tile.payload
        self.tile_port = {name: Value.cast(payload[name]) for name, _ in tile_layout(config)}
        self.wait, self.drain, self.period = wait, drain, period
        self.rng = random.Random(seed)
        self.stall, self.burst = stalls(kind, seed), burst
        word = 8 * config.columns
        self.key_memory, self.value_memory = (
            [self.rng.getrandbits(word) for _ in range(depth)]
            for depth in (1 << len(self.dut.key_base) + len(self.dut.key_channel),
                          1 << len(self.dut.value_addr)))
        self.lists = [int.from_bytes(
            isa.NO_BLOCK if self.rng.random() < 0.1 else self.rng.getrandbits(isa.ListEntry.size)
            for _ in range(config.row_blocks)) for _ in range(config.list_depth)]
        self.stream: list[int] = []
        self.columns: list[Column] = []
        self.tiles = [tile for number in range(len(passes)) for tile in self._tiles(number)]
        self.filled = [tile for tile in self.tiles if tile.rows]

        self.now = 0
        self.sent = self.taken = 0           # rows of the weight stream: into the FIFO, out of it
        self.offered_at: list[int] = []
        self.accepted_at: list[int] = []
        self.swapped_at: list[int] = []
        self.loaded_at: list[int] = []       # last row of every tile
        self.swaps: deque[int] = deque()     # those to come
        self.free = 0                        # when the next tile can be taken
        self.retirements: deque[tuple[int, Tile]] = deque()
        self.retired = self.columns_retired = 0
        self.queued = 0
        self.parameters = 0                  # rows written
        self.loads = 0
        self.shadow: dict[int, int] = {}
        #: What the buffers will answer.
        self.key_answers = deque([0] * self.keys.latency)
        self.value_answers = deque([0] * self.values.LATENCY)
        #: How many passes had retired, cycle by cycle.
        self.past: list[int] = []
        self.list_answer = 0
        self.rubbish = self.rng.getrandbits(isa.pass_layout.size)
        self.driven: dict[str, int] = {}

    # What must come, by docs/program.md

    def _tiles(self, number):
        config, f, (first, tokens) = self.config, self.passes[number], self.segments[number]
        parts = config.package_parts
        columns = -(-tokens // config.columns) if f.get("columns_from_tokens") \
            else f["column_tiles"]
        ks = -(-tokens // config.rows) if f.get("k_from_tokens") else f["k_tiles"]
        for ct in range(columns):
            if f["scale_source"] == COLUMN:
                self.columns.append(Column([self._weights() for _ in range(isa.SCALE_BYTES)]))
            for kt in range(ks):
                entry = f.get("list_base", 0) + ct * f.get("list_stride", 0) + kt
                blocks = self.lists[entry % config.list_depth]
                bits = [blocks >> isa.ListEntry.size * b & 0xFF for b in range(config.row_blocks)]
                base = f.get("operand_base", 0)
                fields = {
                    "slot": number % 4,
                    "column_tile": (ct // parts if f.get("package") else ct)
                    + base % (config.banks // config.column_blocks),
                    "part": ct % parts,
                    "first_column": ct == 0, "last_column": ct == columns - 1, "first_k": kt == 0,
                    "last_k": kt == ks - 1,
                    "blocks": sum((b | (b != isa.NO_BLOCK) << 8) << 9 * i
                                  for i, b in enumerate(bits))}
                if f.get("k_from_tokens"):
                    fields["rows_valid"] = min(config.rows, tokens - kt * config.rows)
                if f.get("columns_from_tokens"):
                    fields["columns_valid"] = min(config.columns, tokens - ct * config.columns)
                has_scales = f["scale_source"] == COLUMN
                if has_scales:
                    fields["scale_slot"] = (len(self.columns) - 1) % SCALE_SLOTS
                yield Tile(number, f"pass {number}, column tile {ct}, K tile {kt}", fields,
                           [self._operand(f, first, blocks, ct, kt, r)
                            for r in range(config.rows) if f["stationary"] != NONE],
                           len(self.columns) - 1 if has_scales else -1,
                           has_scales and kt == ks - 1, ct == columns - 1 and kt == ks - 1)

    def _weights(self):
        self.stream.append(self.rng.getrandbits(8 * self.config.columns))
        return self.stream[-1]

    def _operand(self, f, first, blocks, ct, kt, r):
        config = self.config
        if f["stationary"] == WEIGHT:
            return self._weights()
        if f["stationary"] == VALUE:
            token = first + kt * config.rows + r
            at = token * f.get("operand_stride", 0) + f.get("operand_base", 0) + ct
            return self.value_memory[at % len(self.value_memory)]
        entry = isa.ListEntry.from_bits(
            blocks >> isa.ListEntry.size * (r // config.block) & 0xFF)
        channel = entry.index * config.rows + r
        row = 0
        for c in range(config.columns):
            tile, lane = divmod(first + ct * config.columns + c, config.columns)
            base = tile * f.get("operand_stride", 0) + channel // config.columns
            row |= (self._key(base, channel % config.columns) >> 8 * lane & 0xFF) << 8 * c
        return row

    def _key(self, base, channel):
        """Return a channel of all tokens of a tile."""
        return self.key_memory[(base * self.config.columns + channel) % len(self.key_memory)]

    def _keys(self, ctx):
        """Return what the buffer answers: the end of one tile, and the begin of another."""
        channel, start = ctx.get(self.dut.key_channel), ctx.get(self.dut.key_start)
        tile, after = (self._key(ctx.get(base), channel)
                       for base in (self.dut.key_base, self.dut.key_after))
        split = 8 * (self.config.columns - start)
        return tile >> 8 * start | (after & ((1 << 8 * start) - 1)) << split

    # The cycle

    async def cycle(self, ctx, *, ready=True):
        dut, port, now = self.dut, self.port, self.now
        self._retire()
        while self.queued < len(self.passes) and self.queued - self.retired < 4:
            self.queued += 1
        if not next(self.stall):
            self.sent = min(len(self.stream), self.sent + self.burst,
                            self.taken + self.config.weight_depth)
        words = self.sent // self.load_rows - self.taken // self.load_rows
        descriptor, (first, tokens) = self._pass_in(ctx.get(dut.slot))
        for name, value in (
                ("retired", self.retired % 256), ("columns_retired", self.columns_retired % 16),
                ("queued", self.queued % 256), ("list_entry", self.lists[self.list_answer]),
                ("key_data", self.key_answers.popleft()),
                ("value_data", self.value_answers.popleft()),
                ("weight_behind", max(0, words - 1)), ("swap", now + dut.swap_lead in self.swaps),
                ("descriptor", descriptor), ("first", first), ("tokens", tokens)):
            if self.driven.get(name) != value:
                ctx.set(port[name], value)
                self.driven[name] = value
        ctx.set(dut.weight.valid, words > 0)
        if words > 0:
            ctx.set(dut.weight.payload, self._join(self.stream[self.taken:]))
        ctx.set(dut.tile.ready, ready and now >= self.free)

        self._loads(ctx)
        if self.swaps and self.swaps[0] == now:
            self._swap()
        self._offer(ctx)
        if ctx.get(dut.param_en):
            self._parameter(ctx)
        if ctx.get(dut.weight.valid) and ctx.get(dut.weight.ready):
            self.taken += self.load_rows
        self.key_answers.append(self._keys(ctx))
        self.value_answers.append(self.value_memory[ctx.get(dut.value_addr)])
        self.past.append(self.retired)
        self.list_answer = ctx.get(dut.list_addr)
        self.now += 1
        await ctx.tick()

    def _pass_in(self, slot):
        """Return the pass in a slot, and its segment; a slot that is free may hold anything."""
        number = self.retired + (slot - self.retired) % 4
        if number < self.queued:
            return self.descriptors[number], self.segments[number]
        return self.rubbish, (self.rubbish % 1000, 7)

    def _join(self, rows):
        """Return a word of the stream."""
        bits = 8 * self.config.columns
        return sum(row << bits * i for i, row in enumerate(rows[:self.load_rows]))

    def _loads(self, ctx):
        dut, bits = self.dut, 8 * self.config.columns
        valid = ctx.get(dut.load_valid)
        word = ctx.get(self.port["load_data"]) if valid else 0
        for lane in range(self.load_rows):
            if valid >> lane & 1:
                self._row(ctx.get(dut.load_row) * self.load_rows + lane,
                          word >> bits * lane & ((1 << bits) - 1))

    def _row(self, row, data):
        number, at = divmod(self.loads, self.config.rows)
        assert number < len(self.filled), f"cycle {self.now}: a load too many, row {row}"
        tile = self.filled[number]
        assert row == at, f"{tile.where}: expected row {at}, got row {row}"
        # The pass that writes it must have retired when the row was asked for.
        f = self.passes[tile.number]
        if f.get("operand_dependency"):
            asked = self.now - self.dut._latency[f["stationary"]]
            assert self.past[asked] > tile.number - f["operand_dependency"], (
                f"{tile.where}, row {row}: asked for in cycle {asked}, too early")
        self.shadow[row] = data
        self.loads += 1
        if at == self.config.rows - 1:
            self.loaded_at.append(self.now)

    def _swap(self):
        """A load in the cycle of the swap still belongs to the tile."""
        tile = self.tiles[len(self.swapped_at)]
        for row, expected in enumerate(tile.rows):
            got = self.shadow.get(row, 0)
            assert got == expected, (f"{tile.where}, row {row} at the swap: expected"
                                     f" {expected:#x}, got {got:#x}")
        assert self.loads == sum(len(t.rows) for t in self.tiles[:len(self.swapped_at) + 1]), (
            f"{tile.where}: {self.loads} rows had been loaded at its swap")
        if tile.column >= 0:
            column = self.columns[tile.column]
            assert column.written == isa.SCALE_BYTES, f"{tile.where}: parameters are missing"
            assert column.slot == tile.fields["scale_slot"], tile.where
        self.swapped_at.append(self.now)
        self.swaps.popleft()
        # Where nothing ends, nothing retires.
        if tile.ends_column or tile.ends_pass:
            self.retirements.append((self.now + self.drain, tile))

    def _retire(self):
        while self.retirements and self.retirements[0][0] <= self.now:
            _, tile = self.retirements.popleft()
            self.columns_retired += tile.ends_column
            self.retired += tile.ends_pass

    def _offer(self, ctx):
        dut = self.dut
        if not ctx.get(dut.tile.valid):
            assert len(self.offered_at) == len(self.accepted_at), f"cycle {self.now}: offer undone"
            return
        index = len(self.accepted_at)
        assert index < len(self.tiles), f"cycle {self.now}: a tile too many"
        tile = self.tiles[index]
        if len(self.offered_at) == index:
            self.offered_at.append(self.now)
        for name, expected in tile.fields.items():
            got = ctx.get(self.tile_port[name])
            assert got == expected, (f"{tile.where}, {name}: expected {int(expected):#x},"
                                     f" got {got:#x}")
        if ctx.get(dut.tile.ready):
            self.accepted_at.append(self.now)
            start = max(self.now + self.wait(), self.swaps[-1] - self.lead if self.swaps else 0)
            self.swaps.append(start + self.lead)
            self.free = start + self.period

    def _parameter(self, ctx):
        number, byte = divmod(self.parameters, isa.SCALE_BYTES)
        columns, lanes = self.config.columns, self.load_rows
        assert number < len(self.columns), f"cycle {self.now}: a parameter row too many"
        column = self.columns[number]
        column.slot = number % SCALE_SLOTS
        got = tuple(ctx.get(self.port[name])
                    for name in ("param_slot", "param_word", "param_data"))
        # Of every column the bytes of all rows of the word.
        data = sum((column.rows[byte + i] >> 8 * c & 0xFF) << 8 * (lanes * c + i)
                   for i in range(lanes) for c in range(columns))
        expected = (column.slot, byte // lanes, data)
        assert got == expected, f"parameters of column {number}: expected {expected}, got {got}"
        held = number - self.columns_retired
        assert held < SCALE_SLOTS, (f"the slot of column {number} is written while column"
                                    f" {number - SCALE_SLOTS} is in use")
        column.written += lanes
        self.parameters += lanes

    def run(self, main=None):
        """Simulate ``main``, or until all has retired; then check that all has come."""
        async def bench(ctx):
            if main is not None:
                await main(ctx)
            while self.retired < len(self.passes):
                assert self.now < 20_000, f"tile {len(self.accepted_at)} does not come"
                await self.cycle(ctx)
            for _ in range(100):
                await self.cycle(ctx)
                assert not ctx.get(self.dut.active)
            assert len(self.swapped_at) == len(self.tiles)
            assert self.taken == len(self.stream)
            assert self.parameters == isa.SCALE_BYTES * len(self.columns)

        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        sim.add_testbench(bench)
        sim.run()

    def distances(self):
        """Return the cycles from one swap to the next."""
        return [b - a for a, b in zip(self.swapped_at, self.swapped_at[1:], strict=False)]

    def margins(self):
        """Return for every tile the cycles from its last load to its swap."""
        swapped = [at for at, tile in zip(self.swapped_at, self.tiles, strict=True) if tile.rows]
        return [b - a for a, b in zip(self.loaded_at, swapped, strict=True)]


def _random_passes(config, rng, count):
    """Passes of all kinds, with any list, operand and number of tiles."""
    passes = []
    kinds = [WEIGHT, KEY, VALUE, NONE,
             *rng.choices([WEIGHT, WEIGHT, KEY, VALUE, NONE], k=count - 4)]
    rng.shuffle(kinds)
    for number, stationary in enumerate(kinds):
        f = _pass(stationary=stationary, column_tiles=rng.randrange(1, 4),
                  k_tiles=rng.randrange(1, 4), list_base=rng.randrange(400),
                  list_stride=rng.choice([0, 0, 1, 5]))
        if stationary != WEIGHT or rng.random() < 0.2:
            f["scale_source"] = CONSTANT
        if stationary == NONE:
            f["package"] = rng.randrange(2)
        if stationary == KEY:
            f |= {"columns_from_tokens": 1, "operand_stride": rng.randrange(1, 5)}
        if stationary == VALUE:
            f |= {"k_from_tokens": 1, "operand_stride": rng.randrange(1, 5),
                  "operand_base": rng.randrange(5)}
        if stationary in (KEY, VALUE) and number:
            f["operand_dependency"] = rng.randrange(min(number, 15) + 1)
        passes.append(f)
    return passes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_random_passes(size, kind):
    """Every tile with the right operands, at the swap that comes as early as it can."""
    config = SIZES[size]
    rng = random.Random(f"{size}{kind}")
    waits = stalls("bursty", 4)
    bench = Bench(config, _random_passes(config, rng, 7), tokens=rng.randrange(2, 70), kind=kind,
                  seed=rng.randrange(1000),
                  # The array waits for rows now and then.
                  wait=lambda: rng.randrange(40) if kind != "none" and next(waits) else 0)
    bench.run()
    assert min(bench.margins()) >= 0


@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 31, 32, 33, 64, 65])
@pytest.mark.parametrize("size", SIZES)
def test_tiles_that_the_tokens_do_not_fill(size, tokens):
    config = SIZES[size]
    passes = [_pass(stationary=KEY, scale_source=CONSTANT, columns_from_tokens=1, k_tiles=1,
                    operand_stride=2),
              _pass(stationary=VALUE, scale_source=CONSTANT, k_from_tokens=1, operand_stride=3)]
    bench = Bench(config, passes, tokens=tokens)
    bench.run()
    scores = [tile.fields["columns_valid"] for tile in bench.tiles if tile.number == 0]
    values = [tile.fields["rows_valid"] for tile in bench.tiles if tile.number == 1]
    for counts, full in ((scores, config.columns), (values, config.rows)):
        assert sum(counts) == tokens
        assert counts[:-1] == [full] * (len(counts) - 1)


@pytest.mark.parametrize("first", [1, 7, 15, 16, 17, 40, 100])
@pytest.mark.parametrize("size", SIZES)
def test_operands_of_a_segment_begin_at_its_first_token(size, first):
    """Keys within a tile, with the rest of the next one; values at the row of the token."""
    config = SIZES[size]
    passes = [_pass(stationary=KEY, scale_source=CONSTANT, columns_from_tokens=1, k_tiles=2,
                    operand_stride=3),
              _pass(stationary=VALUE, scale_source=CONSTANT, k_from_tokens=1, column_tiles=2,
                    operand_stride=2, operand_base=1),
              _pass(k_tiles=2)]
    bench = Bench(config, passes, segments=[(first, 45)] * 3)
    bench.run()
    assert min(bench.margins()) >= 0


@pytest.mark.parametrize("size", ["16x16", "32x16", "16x64"])
def test_operands_of_segments_one_after_another(size):
    """Segments that begin at every place in a word, and end within it or in a later one."""
    config = SIZES[size]
    rng = random.Random(size)
    passes, segments = [], []
    for start in range(config.columns):
        first = rng.randrange(3) * config.columns + start
        if start % 3 == 0:
            passes.append(_pass(stationary=VALUE, scale_source=CONSTANT, k_from_tokens=1,
                                operand_stride=rng.randrange(1, 5), operand_base=rng.randrange(3)))
            segments.append((first, rng.randrange(1, config.rows + 3)))
        passes.append(_pass(stationary=KEY, scale_source=CONSTANT, columns_from_tokens=1,
                            operand_stride=rng.randrange(1, 5)))
        segments.append((first, rng.randrange(1, config.columns + 3)))
    bench = Bench(config, passes, segments=segments, drain=1)
    bench.run()
    of_keys = [first % config.columns for f, (first, _) in zip(passes, segments, strict=True)
               if f["stationary"] == KEY]
    assert of_keys == [*range(config.columns)]


@pytest.mark.parametrize("size", ["16x16", "16x64", "64x32"])
@pytest.mark.parametrize("lead", [8, 9, 14, 30, 90, None])
def test_no_swap_overtakes_a_load(size, lead):
    """For every lead, with memory that is slow, fast, and slow as soon as a tile has begun."""
    config = SIZES[size]
    passes = [_pass(column_tiles=2, k_tiles=2), _pass(k_tiles=3, scale_source=CONSTANT),
              _pass(stationary=KEY, scale_source=CONSTANT, columns_from_tokens=1, k_tiles=2),
              _pass(column_tiles=2)]
    for kind, burst in (("none", 16), ("random", 1), ("bursty", 9)):
        bench = Bench(config, passes, lead=lead, kind=kind, burst=burst, seed=2)
        bench.run()
        assert min(bench.margins()) >= 0, "found at the swap"
        if kind == "none":
            # The offer is early: the array waits for few cycles only, whatever the lead is.
            late = max(bench.margins())
            loads = config.rows // config.load_rows
            assert late <= max(2, max(MIN_TILE_CYCLES, bench.lead) - loads), f"{late} cycles"


def test_weights_are_offered_only_when_the_rest_is_there():
    """The FIFO runs dry in the middle of a tile: no offer before its last row has come."""
    bench = Bench(TINY, [_pass(scale_source=CONSTANT)] * 2, kind="none", burst=0)
    held = TINY.rows - 1

    async def main(ctx):
        bench.sent = held
        for _ in range(100):
            await bench.cycle(ctx)
        assert bench.taken == held and not bench.offered_at
        bench.sent += 1
        for _ in range(4):
            await bench.cycle(ctx)
        assert len(bench.offered_at) == 1, "the tile is complete"
        bench.burst = 4

    bench.run(main)


@pytest.mark.parametrize("stationary", [WEIGHT, KEY, VALUE])
def test_a_tile_waits_for_the_swap_of_the_one_before(stationary):
    """The array takes a tile but swaps it in late: no row of the next one is loaded until then."""
    f = _pass(stationary=stationary, scale_source=CONSTANT, k_tiles=3)
    wait = 200
    bench = Bench(TINY, [f], wait=lambda: wait)
    bench.run()
    assert len(bench.tiles) == 3
    first_loads = [at - TINY.rows + 1 for at in bench.loaded_at[1:]]
    for swapped, loaded in zip(bench.swapped_at, first_loads, strict=False):
        assert loaded > swapped
        assert loaded - swapped <= 2 + bench.dut._latency[stationary], "and begins at once"
    assert all(distance > wait for distance in bench.distances())


@pytest.mark.parametrize("size", SIZES)
def test_tiles_are_further_apart_than_read_modify_write(size):
    """There is one shadow tile: even where the issue stage would not pad, the next tile is loaded
    when this one has been swapped in, and offered before it is swapped in itself."""
    config = SIZES[size]
    passes = [_pass(k_tiles=4, scale_source=CONSTANT),
              _pass(stationary=VALUE, scale_source=CONSTANT, k_tiles=4),
              _pass(stationary=KEY, scale_source=CONSTANT, k_tiles=4)]
    bench = Bench(config, passes, period=1, drain=1)
    bench.run()
    assert min(bench.distances()) >= MIN_TILE_CYCLES
    assert min(bench.distances()) >= config.rows // config.load_rows


def _distance(bench, stationary):
    """Return the least cycles between the swaps of two tiles, by docstring of the loader."""
    loads = bench.config.rows // (bench.load_rows if stationary == WEIGHT else 1)
    return max(loads, bench.lead + 2 - bench.dut._latency[stationary])


@pytest.mark.parametrize("stationary", [WEIGHT, KEY, VALUE])
@pytest.mark.parametrize("size", SIZES)
def test_tiles_follow_each_other_without_a_gap(size, stationary):
    """The array takes what comes; or has more rows than the load of a tile takes, and never waits.

    Five tiles in one column, five columns, five passes.
    """
    passes = [_pass(stationary=stationary, scale_source=CONSTANT, k_tiles=5),
              _pass(stationary=stationary, scale_source=CONSTANT, column_tiles=5),
              *[_pass(stationary=stationary, scale_source=CONSTANT)] * 5]
    bench = Bench(SIZES[size], passes, kind="none", period=1, drain=1)
    bench.run()
    least = _distance(bench, stationary)
    assert bench.distances() == [least] * 14
    for rows in (least, least + 1):
        bench = Bench(SIZES[size], passes, kind="none", period=rows, drain=1)
        bench.run()
        assert bench.distances() == [rows] * 14


@pytest.mark.parametrize("size", SIZES)
def test_scales_take_no_longer_than_their_words(size):
    """They come from the stream before the weights of their column tile, in cycles in which the
    tile before may be swapped in."""
    config = SIZES[size]
    passes = [_pass(k_tiles=2, column_tiles=3)] * 2
    bench = Bench(config, passes, kind="none", period=1, burst=8)
    bench.run()
    loads, words = (count // config.load_rows for count in (config.rows, isa.SCALE_BYTES))
    least = _distance(bench, WEIGHT)
    assert bench.distances() == [least, max(least, loads + words)] * 5 + [least]


@pytest.mark.parametrize("stationary", [KEY, VALUE])
@pytest.mark.parametrize("distance", [1, 3])
def test_operands_are_loaded_when_their_pass_has_retired(stationary, distance):
    """Not a cycle before, nor after; the rest of the tile follows without a gap."""
    passes = [_pass()] * 3 + [_pass(stationary=stationary, scale_source=CONSTANT,
                                    operand_dependency=distance)]
    bench = Bench(TINY, passes, drain=500)
    latency = {KEY: 1 + bench.keys.latency, VALUE: 2 + bench.values.LATENCY}[stationary]
    bench.run()
    # The last pass of weights retires last: dependency 3 is met while it is under way.
    retired = bench.swapped_at[3 - distance] + bench.drain
    # Asked for in the cycle after that; one register before the array.
    first = retired + 1 + latency + 1
    assert bench.loaded_at[3] == first + TINY.rows - 1, (
        f"first row at {bench.loaded_at[3] - TINY.rows + 1}, must be {first}")


def test_what_is_waited_for_is_told():
    passes = [_pass(), _pass(stationary=KEY, scale_source=CONSTANT, operand_dependency=1)]
    bench = Bench(TINY, passes, drain=300)

    async def main(ctx):
        while not bench.swapped_at:
            assert bench.accepted_at or ctx.get(bench.dut.stationary) == WEIGHT
            await bench.cycle(ctx)
        for _ in range(20):
            await bench.cycle(ctx)
        while bench.retired == 0:
            assert ctx.get(bench.dut.stationary) == KEY and ctx.get(bench.dut.active)
            await bench.cycle(ctx)

    bench.run(main)


def test_parameters_are_never_ahead_by_more_than_their_slots():
    """Nothing retires: the ninth column waits; each that retires lets one more in."""
    columns = 12
    bench = Bench(TINY, [_pass(column_tiles=columns)], drain=10_000)

    async def main(ctx):
        for _ in range(SCALE_SLOTS * 120):
            await bench.cycle(ctx)
        for retired in range(1, columns - SCALE_SLOTS + 1):
            for _ in range(80):
                await bench.cycle(ctx)
            assert bench.parameters == isa.SCALE_BYTES * (SCALE_SLOTS + retired - 1)
            assert len(bench.swapped_at) == SCALE_SLOTS + retired - 1
            bench.columns_retired = retired
        for _ in range(200):
            await bench.cycle(ctx)
        assert len(bench.swapped_at) == columns
        # Those that have been counted above.
        last = bench.retirements.pop()[1]
        bench.retirements.clear()
        bench.columns_retired = columns - 1
        bench.retirements.append((bench.now, last))

    bench.run(main)


def test_columns_without_parameters_need_no_slot():
    """Twelve columns of scores, none retired."""
    bench = Bench(TINY, [_pass(stationary=KEY, scale_source=CONSTANT, column_tiles=12)],
                  drain=3000)

    async def main(ctx):
        for _ in range(12 * 80):
            await bench.cycle(ctx)
        assert len(bench.swapped_at) == 12 and bench.retired == 0

    bench.run(main)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tile_that_is_not_taken_stays(kind):
    """The offer does not change, and nothing is loaded over the tile."""
    held = stalls(kind, 3)
    passes = [_pass(column_tiles=2, k_tiles=2), _pass(k_tiles=2, scale_source=CONSTANT)]
    bench = Bench(TINY, passes, seed=1)

    async def main(ctx):
        for _ in range(150):
            await bench.cycle(ctx, ready=False)
        assert len(bench.offered_at) == 1 and not bench.accepted_at
        assert bench.loads == TINY.rows
        while bench.retired < len(passes):
            assert bench.now < 5000
            await bench.cycle(ctx, ready=not next(held))

    bench.run(main)


def test_more_passes_than_the_counters_hold():
    """Passes are counted modulo 256, columns modulo 16, descriptors modulo 4."""
    count = 260
    passes = [_pass(scale_source=CONSTANT, stationary=VALUE, operand_dependency=min(n, 2))
              if n % 8 == 7 else _pass(list_base=n) for n in range(count)]
    bench = Bench(TINY, passes, drain=20, lead=20)
    bench.run()
    assert bench.retired == count


def test_the_lead_of_the_core():
    """From the acceptance of a tile to its swap at the array."""
    for config in (*SIZES.values(), TINY):
        core = Core(config)
        assert core.loader.lead == RowIssue.LATENCY + core.at_array
