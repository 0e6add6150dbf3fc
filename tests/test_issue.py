# SPDX-License-Identifier: BSD-2-Clause
"""The issue stage: addresses, row-level hand-over, the shortest tile, and what it says it does."""

import random
from dataclasses import dataclass, replace

import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from rtl import isa
from rtl.config import MIN_TILE_CYCLES, named
from rtl.issue import RowIssue
from rtl.loader import tile_layout
from tests.stalls import KINDS, stalls

TINY = named("tiny")
#: Arrays of every proportion: 1, 2 and 4 blocks a word over those that enter or leave at once.
SIZES = {f"{r}x{c}": replace(named("zcu104"), rows=r, columns=c, ports=1, port_bits=32,
                             max_hidden=1024)
         for r, c in ((8, 8), (16, 16), (32, 32), (64, 16), (16, 64), (32, 64))}
#: Cycles from the acceptance of a tile until it begins, when nothing is before it.
PREPARED = 3
#: Cycles from the issue of a row, as ``state`` tells it, to its addresses.
ISSUE_TO_ROW = RowIssue.LATENCY - PREPARED - 1


def _pass(**fields):
    """Return the fields of a pass over all tokens, unless ``fields`` say otherwise."""
    return {"rows_from": isa.Rows.TOKENS, "source": isa.Source.ACT,
            "destination": isa.Destination.ACT, **fields}


def _tiles(config, rng, slot, columns, ks):
    """Return the tiles of a pass in the order of the loader."""
    return [{"slot": slot, "column_tile": c, "first_column": c == 0,
             "last_column": c == columns - 1, "first_k": k == 0, "last_k": k == ks - 1,
             "scale_slot": rng.randrange(8),
             "rows_valid": rng.randrange(config.rows + 1),
             "columns_valid": rng.randrange(config.columns + 1),
             "part": rng.randrange(config.package_parts),
             "blocks": [{"index": rng.randrange(1 << 6), "broadcast": rng.random() < 0.2,
                         "valid": rng.randrange(2)} for _ in range(config.row_blocks)]}
            for c in range(columns) for k in range(ks)]


@dataclass
class Row:
    """A row as it left the issue stage."""

    cycle: int       # of its addresses
    fields: dict
    read_addr: list
    residual_addr: list


class Bench:
    """Offers tiles and plays the passes that retire and the token list: that is ``physical`` or
    the list of dropped rows. Records rows, states and times.

    ``current`` and ``gone`` are the segments of both lists, as (start, count).
    """

    def __init__(self, config=TINY, *, tokens=20, passes=(), current=None, gone=((0, 7),),
                 images=1, physical=lambda position, dropped: position):
        self.config = config
        self.dut = RowIssue(config)
        self.tokens = tokens
        self.passes = list(passes)
        self.current, self.gone = current or [(0, tokens)], gone
        self.images, self.physical = images, physical
        self.rows: list[Row] = []
        self.accepted: list[int] = []     # cycle of every tile
        self.begun: list[int] = []        # cycle before its first row may be issued
        self.states: list[str] = []
        self.retired: list[tuple] = []    # passes, rows of the next one; for every cycle
        self.cycle = 0

    def descriptors(self, ctx, first):
        """Put passes ``first`` to ``first + 3`` into the descriptors."""
        for number in range(first, min(first + 4, len(self.passes))):
            ctx.set(self.dut.descriptors[number % 4], self.passes[number])

    async def step(self, ctx, retired=(0, 0)):
        """One cycle, with that many passes, and rows of the next one, retired."""
        dut = self.dut
        ctx.set(dut.retired, retired[0] % 256)
        ctx.set(dut.retired_rows, retired[1])
        self.retired.append(retired)
        state = {name: ctx.get(getattr(dut.state, name)) for name in ("busy", "waits_row", "pads")}
        assert sum(state.values()) <= 1, f"cycle {self.cycle}: {state}"
        self.states.append(next((name for name, on in state.items() if on), "idle"))
        if ctx.get(dut.valid):
            row = dut.row
            fields = {name: ctx.get(Value.cast(row[name])) for name in (
                "swap", "last_row", "zero", "index", "position", "physical", "write_addr",
                "tile")}
            self.rows.append(Row(self.cycle, fields, *(
                [ctx.get(port[b]) for b in range(self.config.banks)]
                for port in (dut.read_addr, dut.residual_addr))))
        if ctx.get(dut.tile.valid) and ctx.get(dut.tile.ready):
            self.accepted.append(self.cycle)
        if ctx.get(dut.state.accepts):
            self.begun.append(self.cycle)
        place = self.physical(ctx.get(dut.list_position), ctx.get(dut.list_dropped))
        self.cycle += 1
        await ctx.tick()
        ctx.set(dut.list_row, place)

    async def tile(self, ctx, tile, retired=lambda: (0, 0)):
        """Offer a tile until it is taken."""
        count = len(self.accepted)
        ctx.set(self.dut.tile.payload, tile)
        ctx.set(self.dut.tile.valid, 1)
        for _ in range(4000):
            await self.step(ctx, retired())
            if len(self.accepted) > count:
                ctx.set(self.dut.tile.valid, 0)
                return
        raise AssertionError(f"tile {count} is not taken")

    async def idle(self, ctx, cycles, retired=lambda: (0, 0)):
        for _ in range(cycles):
            await self.step(ctx, retired())

    def run(self, main):
        async def bench(ctx):
            self.descriptors(ctx, 0)
            ctx.set(self.dut.tokens, self.tokens)
            ctx.set(self.dut.images, self.images)
            for port, segments in ((self.dut.current, self.current), (self.dut.gone, self.gone)):
                for i, (start, count) in enumerate(segments):
                    ctx.set(port[i], {"start": start, "count": count})
            await main(ctx)

        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        sim.add_testbench(bench)
        sim.run()


def _positions(bench, f):
    """Return the positions of the rows of a pass, in the list or in the dropped one."""
    start, count = 0, bench.tokens
    if f.get("of_segment"):
        start, count = bench.current[f["segment"]]
    match f["rows_from"]:
        case isa.Rows.COUNT:
            first, count = start + f["row_first"], f["row_count"]
        case isa.Rows.TOKENS:
            first = start
        case isa.Rows.DROPPED:
            first, count = bench.gone[f.get("segment", 0)]
        case isa.Rows.LAST:
            first, count = start + count - 1, 1
        case isa.Rows.EACH:
            return [bench.current[i][0] + f.get("row_first", 0) for i in range(bench.images)]
    return list(range(first, first + count))


def _expected(bench, f, tile, i):
    """Return what row ``i`` of a tile must be: fields, read addresses by bank, residual address."""
    config = bench.config
    get = {name: int(getattr(v, "value", v)) for name, v in f.items()}
    positions = _positions(bench, f)
    position = positions[i]
    physical = bench.physical(position, f["rows_from"] == isa.Rows.DROPPED)
    banks, column_tile = config.banks, tile["column_tile"]

    # Scores are of one segment, logits of one row of each: they go by the index.
    def read(block):
        row = {isa.Source.RESIDUAL: physical, isa.Source.SCORE: i}.get(f["source"], position)
        if tile["blocks"][block % config.row_blocks]["broadcast"]:
            row = 0
        return get.get("source_base", 0) + row * get.get("source_stride", 0) + block // banks

    block = [tile["blocks"][b]["index"] * config.row_blocks + b for b in range(config.row_blocks)]
    addresses = {b % banks: read(b) & 0xFFFF for b in block}
    base, stride = get.get("destination_base", 0), get.get("destination_stride", 0)
    match f["destination"]:
        case isa.Destination.KEY:
            tiles = position // config.columns * stride + base + column_tile
            write = tiles * config.columns + position % config.columns
        case isa.Destination.VALUE:
            write = position * stride + base + column_tile
        case isa.Destination.LOGIT:
            write = i * stride + base + column_tile
        case destination:
            row = {isa.Destination.RESIDUAL: physical,
                   isa.Destination.SCORE: i}.get(destination, position)
            write = row * stride + base + column_tile * config.column_blocks // banks
    zero = position < get.get("zero_rows", 0) and f.get("prologue") != isa.Prologue.EXP
    fields = {"swap": i == 0, "last_row": i == len(positions) - 1, "zero": zero, "index": i,
              "position": position, "physical": physical, "write_addr": write & 0xFFFF,
              "tile": tile_layout(config).const(tile).as_bits()}
    return fields, addresses, write & 0xFFFF


def _check(bench, jobs):
    """Compare all rows with those of ``jobs``: (pass, tile) in order."""
    config, got = bench.config, iter(bench.rows)
    for at, (number, tile) in enumerate(jobs):
        f = bench.passes[number]
        for i in range(len(_positions(bench, f))):
            where = f"tile {at} of pass {number}, row {i}"
            row = next(got, None)
            assert row is not None, f"{where} was not issued"
            fields, addresses, write = _expected(bench, f, tile, i)
            for name, value in fields.items():
                assert row.fields[name] == value, (
                    f"{where}, {name}: expected {int(value):#x}, got {row.fields[name]:#x}")
            for bank, address in addresses.items():
                assert row.read_addr[bank] == address, (
                    f"{where}, bank {bank}: expected word {address}, got {row.read_addr[bank]}")
                if f["source"] == isa.Source.RESIDUAL:
                    assert row.residual_addr[bank] == address, f"{where}, bank {bank}"
            if f["source"] != isa.Source.RESIDUAL and f["destination"] == isa.Destination.RESIDUAL:
                assert row.residual_addr == [write] * config.banks, (
                    f"{where}, residual: expected word {write}, got {row.residual_addr}")
    assert next(got, None) is None, f"{len(bench.rows)} rows are too many"


def _random_pass(config, rng):
    source = rng.choice(list(isa.Source))
    destinations = list(isa.Destination)
    if source == isa.Source.RESIDUAL:
        destinations.remove(isa.Destination.RESIDUAL)  # it has one read port
    return _pass(
        source=source, destination=rng.choice(destinations), rows_from=rng.choice(list(isa.Rows)),
        prologue=rng.choice(list(isa.Prologue)),
        of_segment=rng.randrange(2), segment=rng.randrange(3),
        row_first=rng.randrange(5), row_count=rng.randrange(1, 30),
        zero_rows=rng.randrange(4), source_base=rng.randrange(2000),
        source_stride=rng.randrange(40), destination_base=rng.randrange(100),
        destination_stride=rng.randrange(13))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_rows_and_addresses(size, kind):
    """Random passes: every source, destination and stride; tiles that come late or at once."""
    config = SIZES[size]
    rng = random.Random(f"{size}{kind}")
    passes = [_random_pass(config, rng) for _ in range(10)]
    for number, destination in enumerate(isa.Destination):
        passes[number] |= {"destination": destination, "source": isa.Source.ACT}
    jobs = [(number, tile) for number in range(len(passes))
            for tile in _tiles(config, rng, number % 4, rng.randrange(1, 3), rng.randrange(1, 3))]
    current, gone = ([(0, a), (a, b), (a + b, c)] for a, b, c in (
        [rng.randrange(1, 30) for _ in range(3)] for _ in range(2)))
    bench = Bench(config, tokens=sum(current[-1]), passes=passes, current=current, gone=gone,
                  images=3)
    held = stalls(kind, 1)

    async def main(ctx):
        for number, tile in jobs:
            # The pipeline still needs the descriptors of the passes before.
            bench.descriptors(ctx, max(0, number - 3))
            while next(held):
                await bench.step(ctx)
            await bench.tile(ctx, tile)
        await bench.idle(ctx, 200)

    bench.run(main)
    _check(bench, jobs)


def test_the_token_list_leads_to_rows_of_the_residual():
    """Only rows of the residual go through the list; dropped rows have one of their own."""
    rng = random.Random(3)
    strides = {"source_stride": 3, "destination_stride": 5}
    passes = [_pass(source=isa.Source.RESIDUAL, **strides),
              _pass(destination=isa.Destination.RESIDUAL, **strides),
              _pass(**strides),
              _pass(destination=isa.Destination.RESIDUAL, rows_from=isa.Rows.DROPPED, **strides)]
    jobs = [(n, tile) for n in range(4) for tile in _tiles(TINY, rng, n, 1, 1)]
    bench = Bench(passes=passes, gone=[(0, 5)],
                  physical=lambda position, dropped: 7 * position % 64 + dropped)

    async def main(ctx):
        for _, tile in jobs:
            await bench.tile(ctx, tile)
        await bench.idle(ctx, 60)

    bench.run(main)
    _check(bench, jobs)
    assert bench.rows[19].fields["physical"] == 7 * 19 % 64
    assert bench.rows[-1].fields["physical"] == 7 * 4 + 1


def test_every_row_source_of_segments():
    """What a row is counted from, one after another, in lists of almost as many rows as fit."""
    config = replace(TINY, max_rows=1000)
    current = [(0, 300), (300, 37), (337, 600), (937, 63)]
    gone = [(0, 1), (1, 2), (3, 990), (993, 7)]
    strides = {"source_stride": 3, "destination_stride": 2}
    passes = []
    for segment in range(isa.SEGMENTS):
        passes += [
            _pass(of_segment=1, segment=segment, **strides),
            _pass(of_segment=1, segment=segment, rows_from=isa.Rows.LAST, **strides),
            _pass(of_segment=1, segment=segment, rows_from=isa.Rows.COUNT, row_first=7,
                  row_count=20, source=isa.Source.SCORE, **strides),
            _pass(of_segment=1, segment=segment, source=isa.Source.PATCH,
                  destination=isa.Destination.SCORE, **strides)]
        passes.append(_pass(segment=segment, rows_from=isa.Rows.DROPPED, **strides))
    passes += [_pass(rows_from=isa.Rows.EACH, row_first=token, destination=isa.Destination.LOGIT,
                     **strides) for token in (0, 36)]
    passes += [_pass(rows_from=isa.Rows.LAST, **strides),
               _pass(rows_from=isa.Rows.COUNT, row_first=990, row_count=10, **strides)]
    rng = random.Random(7)
    jobs = [(n, tile) for n in range(len(passes)) for tile in _tiles(config, rng, n % 4, 1, 1)]
    bench = Bench(config, tokens=1000, passes=passes, current=current, gone=gone, images=4,
                  physical=lambda position, dropped: (5 * position + dropped) % 128)

    async def main(ctx):
        for number, tile in jobs:
            bench.descriptors(ctx, max(0, number - 3))
            await bench.tile(ctx, tile)
        await bench.idle(ctx, 100)

    bench.run(main)
    _check(bench, jobs)
    assert max(row.fields["position"] for row in bench.rows) == 999


@pytest.mark.parametrize("images", range(1, isa.SEGMENTS + 1))
def test_one_token_of_every_segment(images):
    current = [(0, 3), (3, 9), (12, 5), (17, 2)]
    passes = [_pass(rows_from=isa.Rows.EACH, row_first=token, destination_stride=1)
              for token in (0, 1)]
    jobs = [(n, tile) for n in range(2) for tile in _tiles(TINY, random.Random(n), n, 2, 1)]
    bench = Bench(tokens=19, passes=passes, current=current, images=images)

    async def main(ctx):
        for _, tile in jobs:
            await bench.tile(ctx, tile)
        await bench.idle(ctx, 60)

    bench.run(main)
    _check(bench, jobs)
    assert len(bench.rows) == 4 * images


# Time

@pytest.mark.parametrize("rows", range(1, 18))
def test_shortest_tile(rows):
    """Tiles follow each other after 16 cycles, or without a gap when they have 16 rows or more."""
    bench = Bench(tokens=rows, passes=[_pass()])
    jobs = [(0, tile) for tile in _tiles(TINY, random.Random(rows), 0, 3, 2)]

    async def main(ctx):
        for _, tile in jobs:
            await bench.tile(ctx, tile)
        await bench.idle(ctx, 50)

    bench.run(main)
    _check(bench, jobs)
    period = max(MIN_TILE_CYCLES, rows)
    expected = [bench.accepted[0] + RowIssue.LATENCY + t * period + i
                for t in range(len(jobs)) for i in range(rows)]
    assert [row.cycle for row in bench.rows] == expected
    assert bench.begun == [bench.accepted[0] + PREPARED + t * period for t in range(len(jobs))]
    # The next one is accepted, and prepared, as soon as one begins.
    assert bench.accepted[1:] == [begun + 1 for begun in bench.begun[:-1]]
    busy = ["busy"] * rows + ["pads"] * (period - rows)
    at = bench.begun[0] + 1
    assert bench.states[:at] == ["idle"] * at
    assert bench.states[at:at + period * len(jobs)] == busy * len(jobs)
    assert set(bench.states[at + period * len(jobs):]) == {"idle"}


@pytest.mark.parametrize("rows", [1, 2, 3, 15, 16, 17])
@pytest.mark.parametrize("held_row", [0, 1, 2, 14])
def test_rows_return_late_enough_after_a_wait(rows, held_row):
    """Rows held up for longer than a tile, at its beginning or within it: the same row of the next
    tile must still be 16 cycles later."""
    if held_row >= rows:
        held_row = rows - 1
    bench = Bench(tokens=rows, passes=[_pass(), _pass(row_dependency=1)])
    jobs = [(n, tile) for n in range(2)
            for tile in _tiles(TINY, random.Random(rows), n, 1, 1 + 2 * n)]

    async def main(ctx):
        def retired():
            return (0, rows) if bench.cycle > 150 else (0, min(held_row, rows))

        for _, tile in jobs:
            await bench.tile(ctx, tile, retired)
        await bench.idle(ctx, 50, retired)

    bench.run(main)
    _check(bench, jobs)
    times = [row.cycle for row in bench.rows][rows:]
    assert times[held_row] > 150, "nothing was held up"
    for i in range(rows):
        visits = times[i::rows]
        distances = [b - a for a, b in zip(visits, visits[1:], strict=False)]
        assert min(distances) >= MIN_TILE_CYCLES, f"row {i}: {distances}"
    # No longer than it must be.
    assert times[rows] == times[rows - 1] + 1 + max(0, MIN_TILE_CYCLES - rows)


def _hand_over(bench, rows):
    """Check that every row was issued in the first cycle in which it could be."""
    for number, (first, f) in enumerate(rows):
        distance = f["row_dependency"]
        for i in range(bench.tokens):
            row = bench.rows[first + i]
            at = row.cycle - ISSUE_TO_ROW

            def there(cycle, i=i, number=number, distance=distance):
                # What has retired is looked at a cycle later.
                passes, done = bench.retired[cycle - 1]
                return (distance == 0 or passes > number - distance
                        or (passes == number - distance and done > i))

            assert there(at), f"row {i} of pass {number} was issued before it was written"
            before = bench.rows[first + i - 1].cycle - ISSUE_TO_ROW
            could = at - 1 > before if i else at - 1 > bench.begun[number]
            assert not could or not there(at - 1), f"row {i} of pass {number} came late"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distance", [1, 2, 15])
def test_a_row_waits_until_it_is_written(distance, kind):
    """Row i is issued when row i of the pass ``distance`` back has retired: not before, at once."""
    rng = random.Random(distance)
    count = distance + 5
    passes = [_pass(row_dependency=distance if n >= distance else 0) for n in range(count)]
    tokens = 9
    bench = Bench(tokens=tokens, passes=passes)
    held = stalls(kind, distance)
    at = [0, 0]  # passes and rows that have retired

    def retired():
        """Rows retire 40 cycles after they were issued, or later: never before."""
        done = [row for row in bench.rows if row.cycle + 40 <= bench.cycle]
        if len(done) > tokens * at[0] + at[1] and not next(held):
            at[1] += 1
            if at[1] == tokens:
                at[:] = at[0] + 1, 0
        return tuple(at)

    async def main(ctx):
        for number in range(count):
            # At most four passes are under way.
            while at[0] + 4 <= number:
                await bench.step(ctx, retired())
            bench.descriptors(ctx, number)
            for tile in _tiles(TINY, rng, number % 4, 1, 1):
                await bench.tile(ctx, tile, retired)
        await bench.idle(ctx, 700, retired)

    bench.run(main)
    assert len(bench.rows) == tokens * count
    _hand_over(bench, [(tokens * n, f) for n, f in enumerate(passes)])
    if distance < 4:
        assert "waits_row" in bench.states


@pytest.mark.parametrize("distance", [1, 2, 15])
def test_dependencies_reach_across_the_end_of_the_counters(distance):
    """Passes are counted modulo 256."""
    count = 262
    bench = Bench(tokens=1, passes=[_pass(row_dependency=min(n, distance)) for n in range(count)])
    tile, = _tiles(TINY, random.Random(0), 0, 1, 1)
    done = [0]

    def retired():
        return done[-1], 0

    async def main(ctx):
        for number in range(count):
            bench.descriptors(ctx, number)
            await bench.tile(ctx, tile | {"slot": number % 4}, retired)
            # Its row may only be issued when the pass it waits for has retired.
            rows = bench.states.count("busy")
            done.append(max(0, number - distance))
            await bench.idle(ctx, MIN_TILE_CYCLES + 2, retired)
            issued = bench.states.count("busy") - rows
            assert issued == (number == 0), f"pass {number} did not wait"
            if number:
                done.append(number - min(number, distance) + 1)
                await bench.idle(ctx, 3, retired)
                assert bench.states.count("busy") == rows + 1, f"pass {number} waits for ever"

    bench.run(main)


def test_only_the_first_tile_of_a_pass_waits():
    """What follows in a pass follows by order, even where the counters of rows have moved on."""
    bench = Bench(tokens=5, passes=[_pass(), _pass(row_dependency=1)])
    jobs = [(n, tile) for n in range(2) for tile in _tiles(TINY, random.Random(1), n, 2, 2)]

    async def main(ctx):
        for _, tile in jobs[:6]:
            await bench.tile(ctx, tile, lambda: (0, 5))
        # The sixth has been accepted while the fifth, the first one of pass 1, is issued.
        await bench.idle(ctx, 5, lambda: (0, 5))
        for _, tile in jobs[6:]:
            await bench.tile(ctx, tile, lambda: (0, 0))
        await bench.idle(ctx, 40, lambda: (0, 0))

    bench.run(main)
    _check(bench, jobs)


def test_one_state_for_every_cycle():
    """A tile that waits, is issued, and is padded; between tiles the stage is idle."""
    bench = Bench(tokens=3, passes=[_pass(), _pass(row_dependency=1)])
    jobs = [(n, tile) for n in range(2) for tile in _tiles(TINY, random.Random(1), n, 1, 1)]

    async def main(ctx):
        def retired():
            return (0, min(3, max(0, bench.cycle - 40)))

        await bench.tile(ctx, jobs[0][1], retired)
        await bench.idle(ctx, 29, retired)
        await bench.tile(ctx, jobs[1][1], retired)
        await bench.idle(ctx, 40, retired)

    bench.run(main)
    runs = [[bench.states[0], 1]]
    for state in bench.states[1:]:
        if state == runs[-1][0]:
            runs[-1][1] += 1
        else:
            runs.append([state, 1])
    assert runs == [["idle", 4], ["busy", 3], ["pads", 13], ["idle", 14], ["waits_row", 8],
                    ["busy", 3], ["pads", 13], ["idle", 13]]


#: Three segments of a list of nine rows.
SEGMENTS = [(0, 4), (4, 3), (7, 2)]


def _issued(passes, retired, *, tokens=9, **lists):
    """Return the positions of the last pass that are issued while ``retired`` has retired."""
    bench = Bench(tokens=tokens, passes=passes, **lists)

    async def main(ctx):
        for number in range(len(passes)):
            tile, = _tiles(TINY, random.Random(0), number, 1, 1)
            await bench.tile(ctx, tile)
        await bench.idle(ctx, 40, lambda: retired)

    bench.run(main)
    rows = sum(len(_positions(bench, f)) for f in passes[:-1])
    return [row.fields["position"] for row in bench.rows[rows:]]


def test_only_the_last_row_waits_for_a_pass_over_the_last_row():
    last = _pass(rows_from=isa.Rows.LAST, destination=isa.Destination.RESIDUAL)
    passes = [last, _pass(row_dependency=1)]
    assert _issued(passes, (0, 0)) == list(range(8))
    assert _issued(passes, (1, 0)) == list(range(9))


@pytest.mark.parametrize("destination", [isa.Destination.ACT, isa.Destination.SELECTOR])
@pytest.mark.parametrize("of_segment", [0, 1])
def test_all_rows_wait_for_what_the_last_one_leaves_elsewhere(destination, of_segment):
    """The mean of a classifier, which is of the last row, is for all of them."""
    passes = [_pass(rows_from=isa.Rows.LAST, destination=destination, of_segment=of_segment,
                    segment=2),
              _pass(row_dependency=1, of_segment=of_segment, segment=2)]
    rows = [7, 8] if of_segment else list(range(9))
    assert _issued(passes, (0, 0), current=SEGMENTS) == []
    assert _issued(passes, (0, 1), current=SEGMENTS) == []
    assert _issued(passes, (1, 0), current=SEGMENTS) == rows


def test_rows_wait_for_the_end_of_a_pass_over_dropped_rows():
    passes = [_pass(rows_from=isa.Rows.DROPPED),
              _pass(rows_from=isa.Rows.LAST, row_dependency=1)]
    assert _issued(passes, (0, 7), tokens=5) == []
    assert _issued(passes, (1, 0), tokens=5) == [4]


def test_rows_before_the_first_one_of_a_pass_wait_for_the_passes_before_it():
    """Those are of pass 0, which may still be under way when they are reached."""
    passes = [_pass(), _pass(rows_from=isa.Rows.COUNT, row_first=4, row_count=3),
              _pass(row_dependency=1)]
    assert _issued(passes, (0, 0)) == []
    assert _issued(passes, (0, 9)) == []
    assert _issued(passes, (1, 0)) == [0, 1, 2, 3]
    assert _issued(passes, (1, 2)) == [0, 1, 2, 3, 4, 5]
    # What is behind its last row is of earlier passes as well, but waits.
    assert _issued(passes, (1, 3)) == [*range(7)]
    assert _issued(passes, (2, 0)) == [*range(9)]


@pytest.mark.parametrize("segment", range(3))
def test_a_segment_waits_for_its_positions(segment):
    """Rows of a pass over all tokens are handed over to a segment by their position."""
    start, count = SEGMENTS[segment]
    passes = [_pass(), _pass(row_dependency=1, of_segment=1, segment=segment)]
    for rows in range(9):
        expected = [p for p in range(start, start + count) if p < rows]
        assert _issued(passes, (0, rows), current=SEGMENTS) == expected
    assert _issued(passes, (1, 0), current=SEGMENTS) == [*range(start, start + count)]


@pytest.mark.parametrize("made", range(3))
@pytest.mark.parametrize("read", range(3))
def test_segments_wait_for_segments(made, read):
    """Row by row for the same one; for another one when the passes before have ended."""
    start, count = SEGMENTS[read]
    made_start, made_count = SEGMENTS[made]
    passes = [_pass(), _pass(of_segment=1, segment=made),
              _pass(row_dependency=1, of_segment=1, segment=read)]
    assert _issued(passes, (0, 9), current=SEGMENTS) == []
    for rows in range(made_count):
        expected = [p for p in range(start, start + count) if p < made_start + rows]
        assert _issued(passes, (1, rows), current=SEGMENTS) == expected
    assert _issued(passes, (2, 0), current=SEGMENTS) == [*range(start, start + count)]


def test_rows_of_a_list_wait_for_the_last_row_of_a_segment():
    """There are further packages: only that of the whole list leaves all other rows as they are."""
    last = _pass(rows_from=isa.Rows.LAST, destination=isa.Destination.RESIDUAL, of_segment=1,
                 segment=1)
    passes = [last, _pass(row_dependency=1)]
    assert _issued(passes, (0, 0), current=SEGMENTS) == [*range(6)]
    assert _issued(passes, (1, 0), current=SEGMENTS) == [*range(9)]


def test_one_token_of_every_segment_waits():
    each = {"rows_from": isa.Rows.EACH}
    lists = {"current": SEGMENTS, "images": 3}
    passes = [_pass(), _pass(row_dependency=1, **each)]
    for rows, expected in ((0, []), (1, [0]), (4, [0]), (5, [0, 4]), (7, [0, 4]), (8, [0, 4, 7])):
        assert _issued(passes, (0, rows), **lists) == expected
    passes = [_pass(**each), _pass(row_dependency=1, **each)]
    assert _issued(passes, (0, 0), **lists) == []
    assert _issued(passes, (1, 0), **lists) == [0, 4, 7]
    # Never before it is written, though its index is not its position.
    for rows in range(3):
        assert len(_issued(passes, (0, rows), **lists)) <= rows
