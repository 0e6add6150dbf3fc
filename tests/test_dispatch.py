# SPDX-License-Identifier: BSD-2-Clause
"""The dispatcher: what it fetches, what it hands out, what it waits for, and what it refuses."""

import random
from dataclasses import replace

import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from rtl import isa
from rtl.config import CONFIGS, PASS_SLOTS, named
from rtl.dispatch import Activity, Dispatcher
from rtl.isa import Error, Opcode
from tests.stalls import KINDS, stalls

TINY = named("tiny")
BASE = 0x12_3456_7000
LAYOUTS = {Opcode.BEGIN: isa.begin_layout, Opcode.TABLE: isa.table_layout,
           Opcode.LOAD: isa.load_layout, Opcode.PASS: isa.pass_layout, Opcode.END: isa.end_layout,
           Opcode.SELECT: isa.select_layout, Opcode.PRUNE: isa.prune_layout,
           Opcode.IMAGE: isa.image_layout}

#: An instruction of eight beats has come after so many cycles.
FETCH = 16
#: Registers between what is waited for and what it lets go on, at most.
LATE = 3
#: A pass that every configuration accepts.
PASS = {"rows_from": isa.Rows.TOKENS, "column_tiles": 1, "k_tiles": 1}


def word(opcode, **fields):
    """Return an instruction as a number; BEGIN, TABLE and END are right unless fields say not."""
    right = {Opcode.BEGIN: {"version": isa.ISA_VERSION, "magic": isa.MAGIC, "tokens": 5,
                            "loop": 1, "images": 1,
                            "weight_offset": 4096, "weight_stride": 4096, "weight_beats": 3},
             Opcode.TABLE: {"count": 1, "under_way": 1},
             Opcode.SELECT: {"special": 1}, Opcode.PRUNE: {}, Opcode.LOAD: {}, Opcode.PASS: PASS,
             Opcode.IMAGE: {},
             Opcode.END: {"classes": 3}}[opcode]
    raw = fields.pop("raw_opcode", opcode.value)
    numbers = {name: getattr(value, "value", value) for name, value in (right | fields).items()}
    result = raw
    for name, value in numbers.items():
        place = LAYOUTS[opcode][name]
        if isinstance(value, list):
            value = sum(row << 64 * i for i, row in enumerate(value))
        assert 0 <= value < 1 << place.width, f"{name} cannot be {value}"
        result |= value << place.offset
    return result


def program(*instructions, **begin):
    """Return a program: BEGIN before, END after what is given as (opcode, fields), and IMAGE behind
    BEGIN if there is none."""
    if all(opcode != Opcode.IMAGE for opcode, _ in instructions):
        instructions = ((Opcode.IMAGE, {}), *instructions)
    begin = {"instructions": len(instructions) + 2} | begin
    return [word(Opcode.BEGIN, **begin), *(word(op, **fields) for op, fields in instructions),
            word(Opcode.END)]


class Bench:
    """Memory, units and arguments around a dispatcher; what it did is in ``log``, by cycle."""

    def __init__(self, words, *, config=TINY, kind="none", seed=0, retire=lambda bench: 0,
                 model_addr=BASE, model_bytes=1 << 20, rounds=1, fails=None, loads=9, ends=9,
                 selects=9, checks=0, wrong=0):
        self.config, self.dut = config, Dispatcher(config)
        self.words = words
        self.retire = retire               # passes that have retired, asked for in every cycle
        self.arguments = {"model_addr": model_addr, "model_bytes": model_bytes, "rounds": rounds}
        self.fails = fails or {}           # errors, of (unit, how many times it was started before)
        self.checks, self.wrong = checks, wrong    # cycles of the checksum, and whether it is
        self.checked = 0                           # cycle in which it is there
        self.held = [stalls(kind, seed + i) for i in range(3 + config.ports)]
        self.cycle = 0
        self.log: list[tuple] = []         # cycle, what, details
        self.queued = self.retired = 0
        self.descriptors: list[int] = []
        self.takes = {"load": loads, "end": ends, "select": selects}  # cycles of a unit
        self.until = dict.fromkeys(self.takes, 0)  # cycle from which it is not busy
        self.error = dict.fromkeys(self.takes, Error.NONE)  # that it has then
        begin = isa.begin_layout.from_bits(words[0])
        self.tokens = begin.tokens
        self.beats: list[int] = []
        self.before: dict[int, tuple] = {}
        self.activity: list[Activity] = []

    def add(self, what, *details):
        self.log.append((self.cycle, what, *details))

    def logged(self, *kinds):
        """Return the entries of some kinds, without their cycle."""
        return [entry[1:] for entry in self.log if entry[1] in kinds]

    def at(self, what, index=0):
        """Return the cycle of an entry."""
        return [entry[0] for entry in self.log if entry[1] == what][index]

    def _request(self, ctx, name, port, may):
        """Take a request; it may not change or be taken back before."""
        ctx.set(port.ready, may)
        if not ctx.get(port.valid):
            assert name not in self.before, f"the request {name} was taken back"
            return None
        request = ctx.get(port.p.address), ctx.get(port.p.beats)
        assert self.before.setdefault(name, request) == request, f"the request {name} changed"
        if not may:
            return None
        del self.before[name]
        self.add(name, *request)
        return request

    async def step(self, ctx):
        dut, bits = self.dut, self.config.port_bits
        request = self._request(ctx, "program", dut.program_request, not next(self.held[0]))
        if request:
            assert request[0] % (bits // 8) == 0
            image = sum(w << 512 * i for i, w in enumerate(self.words))
            first = (request[0] - self.arguments["model_addr"]) * 8
            self.beats += [image >> first + bits * i & ((1 << bits) - 1)
                           for i in range(request[1])]
        for p, port in enumerate(dut.weight_request):
            self._request(ctx, f"weights {p}", port, not next(self.held[1 + p]))
        valid = bool(self.beats) and not next(self.held[-1])
        ctx.set(dut.program.valid, valid)
        if valid:
            ctx.set(dut.program.payload, self.beats[0])

        ctx.set(dut.check_busy, self.cycle < self.checked)
        ctx.set(dut.check_wrong, self.cycle >= self.checked > 0 and self.wrong)
        if ctx.get(dut.check_start):
            self.checked = self.cycle + 1 + self.checks
            self.add("check")
        self.retired = self.retire(self)
        ctx.set(dut.retired, self.retired % 256)
        ctx.set(dut.tokens, self.tokens)
        busy = {}
        for unit, at in self.until.items():
            ended = self.cycle >= at
            # A unit that has failed stays busy.
            busy[unit] = not ended or self.error[unit] != Error.NONE
            ctx.set(getattr(dut, "selector_busy" if unit == "select" else f"{unit}_busy"),
                    busy[unit])
            if unit != "select":
                ctx.set(getattr(dut, f"{unit}_error"), self.error[unit] if ended else Error.NONE)
                if ended and at and at == self.cycle and not busy[unit]:
                    self.add(f"{unit} done")

        if valid and ctx.get(dut.program.ready):
            self.beats.pop(0)
        if ctx.get(dut.image_start):
            self.add("image", ctx.get(Value.cast(dut.image)), ctx.get(dut.odd))
        if ctx.get(dut.prune):
            self.add("prune")
        if ctx.get(dut.table_en):
            self.add("table", ctx.get(Value.cast(dut.table)), ctx.get(dut.table_row),
                     ctx.get(dut.table_data))
        for unit, extra in (("load", dut.load), ("select", dut.select), ("end", dut.classes)):
            if ctx.get(getattr(dut, f"{unit}_start")):
                assert not busy[unit], f"{unit} is started while it is busy"
                self.until[unit] = self.cycle + 1 + self.takes[unit]
                self.error[unit] = self.fails.get((unit, len(self.logged(unit))), Error.NONE)
                self.add(unit, ctx.get(Value.cast(extra)))
        if ctx.get(dut.next_round):
            assert ctx.get(dut.end_start)
            self.add("round")
        queued = ctx.get(dut.queued)
        if queued != self.queued % 256:
            assert queued == (self.queued + 1) % 256
            slot = self.queued % PASS_SLOTS
            self.descriptors.append(ctx.get(Value.cast(dut.descriptors[slot])))
            self.add("pass", self.queued)
            self.queued += 1
        assert self.queued - self.retired <= PASS_SLOTS
        for number in range(max(self.retired, self.queued - PASS_SLOTS), self.queued):
            got = ctx.get(Value.cast(dut.descriptors[number % PASS_SLOTS]))
            assert got == self.descriptors[number], f"the descriptor of pass {number} has changed"
        self.activity.append(Activity(ctx.get(dut.activity)))
        self.cycle += 1
        await ctx.tick()

    def run(self, *, cycles=3000):
        """Run the program to its end or error; return error, index, and whether it is done."""
        result = None

        async def bench(ctx):
            nonlocal result
            for name, value in self.arguments.items():
                ctx.set(getattr(self.dut, name), value)
            for _ in range(5):
                await self.step(ctx)
            assert not self.log, "nothing happens before the start"
            ctx.set(self.dut.start, 1)
            await self.step(ctx)
            ctx.set(self.dut.start, 0)
            for _ in range(cycles):
                await self.step(ctx)
                if ctx.get(self.dut.done) or ctx.get(Value.cast(self.dut.error)):
                    break
            count = len(self._from_dut())
            result = self._result(ctx)
            for _ in range(30):
                await self.step(ctx)
            assert self._result(ctx) == result, "the end is not the end"
            after = self._from_dut()[count:]
            assert not after, f"after the end: {after}"

        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        sim.add_testbench(bench)
        sim.run()
        return result

    def _from_dut(self):
        """Return what the dispatcher did: not what a unit does that goes on."""
        return [entry for entry in self.log if not entry[1].endswith("done")]

    def _result(self, ctx):
        dut = self.dut
        return Error(ctx.get(Value.cast(dut.error))), ctx.get(dut.error_index), ctx.get(dut.done)


def _at_once(bench):
    """Passes retire five cycles after they were queued."""
    queued = [entry[0] for entry in bench.log if entry[1] == "pass"]
    return sum(cycle + 5 < bench.cycle for cycle in queued)


# What a program makes it do

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=lambda c: c.name)
def test_program(config, kind):
    rng = random.Random(f"{config.name}{kind}")
    body = [(Opcode.IMAGE, {"first_row": 7, "alternate": 1}),
            (Opcode.TABLE, {"table": isa.Table.LIST, "first": 500, "count": 7,
                            "rows": [rng.getrandbits(64) for _ in range(7)]}),
            (Opcode.TABLE, {"table": isa.Table.RSQRT, "first": 30, "count": 2,
                            "rows": [rng.getrandbits(64) for _ in range(7)]}),
            (Opcode.LOAD, {"kind": isa.LoadKind.RESIDUAL, "offset": 512, "count": 6}),
            (Opcode.LOAD, {"kind": isa.LoadKind.FRAME, "offset": 0, "lines": 3})]
    for n in range(9):
        body.append((Opcode.PASS, PASS | {"scale_m": rng.getrandbits(17), "row_dependency": n,
                                          "operand_dependency": n // 2}))
    body.insert(8, (Opcode.TABLE, {"table": isa.Table.LANE, "first": 57, "count": 7,
                                   "rows": [rng.getrandbits(64) for _ in range(7)]}))
    words = program(*body, tokens=config.max_tokens - 7)
    bench = Bench(words, config=config, kind=kind, retire=_at_once)
    assert bench.run() == (Error.NONE, len(words) - 1, 1)

    beat = config.port_bits // 8
    assert bench.logged("program") == [
        ("program", BASE, 64 // beat),
        ("program", BASE + 64, (len(words) - 1) * 64 // beat)]
    for p in range(config.ports):
        assert bench.logged(f"weights {p}") == [(f"weights {p}", BASE + 4096 * (p + 1), 3)]
    assert not bench.beats
    assert bench.logged("image") == [("image", words[1], 0)]
    assert bench.logged("table") == [
        ("table", f["table"].value, f["first"] + i, f["rows"][i])
        for op, f in body if op == Opcode.TABLE for i in range(f["count"])]
    assert [f[1] for f in bench.logged("load")] == words[4:6]
    assert bench.descriptors == [w for w in words if w & 0xFF == Opcode.PASS.value]
    assert bench.logged("end", "end done") == [("end", 3), ("end done",)]
    order = [entry[1] for entry in bench.log
             if entry[1] in ("image", "table", "load", "pass", "end")]
    assert order == (["image"] + 9 * ["table"] + 2 * ["load"] + 3 * ["pass"]
                     + 7 * ["table"] + 6 * ["pass"] + ["end"])


def test_fields_of_begin_are_there_for_everyone():
    fields = {"tokens": 77, "images": 2, "row_step": 1234, "instructions": 4, "loop": 1}
    words = program((Opcode.PASS, {}), **fields)
    bench = Bench(words, retire=_at_once)
    seen = []
    step = bench.step

    async def watched(ctx):
        await step(ctx)
        seen.append({name: ctx.get(getattr(bench.dut.begin, name)) for name in fields})

    bench.step = watched
    assert bench.run() == (Error.NONE, 3, 1)
    assert seen[bench.at("weights 0")] == fields
    assert seen[-1] == fields


# Rounds

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounds", [0, 1, 2, 5])
@pytest.mark.parametrize("config", [TINY, CONFIGS["zcu102"]], ids=lambda c: c.name)
def test_rounds(config, rounds, kind):
    """What is before the loop is executed once, and what is ahead not in the last round."""
    once = [(Opcode.TABLE, {"table": isa.Table.LIST, "first": 11,
                            "rows": [3, *[0] * (isa.TABLE_ROWS - 1)]}),
            (Opcode.LOAD, {"kind": isa.LoadKind.FRAME, "offset": 1})]
    body = [(Opcode.IMAGE, {"image": 0, "first_row": 9, "alternate": 1}),
            (Opcode.PASS, {"scale_m": 1}),
            (Opcode.LOAD, {"kind": isa.LoadKind.FRAME, "offset": 2, "ahead": 1}),
            (Opcode.PASS, {"scale_m": 2}),
            (Opcode.LOAD, {"kind": isa.LoadKind.RESIDUAL, "offset": 3})]
    words = program(*once, *body, loop=3)
    bench = Bench(words, config=config, kind=kind, retire=_at_once, rounds=rounds)
    assert bench.run() == (Error.NONE, len(words) - 1, 1)

    count, beat = max(1, rounds), config.port_bits // 8
    assert bench.logged("program") == [
        ("program", BASE, 64 // beat), ("program", BASE + 64, (len(words) - 1) * 64 // beat),
        *[("program", BASE + 3 * 64, (len(words) - 3) * 64 // beat)] * (count - 1)]
    for p in range(config.ports):
        assert bench.logged(f"weights {p}") == (
            [(f"weights {p}", BASE + 4096 * (p + 1), 3)] * count)
    assert not bench.beats
    of_round = [("image", None), ("pass", None), ("load", words[5]), ("pass", None),
                ("load", words[7]), ("end", 3)]
    expected = [("table", None), ("load", words[2])]
    for r in range(count):
        steps = [("image", r % 2) if what == "image" else (what, detail)
                 for what, detail in of_round]
        if r == count - 1:
            del steps[2]
        expected += [*steps, ("round", None)] if r < count - 1 else steps
    got = []
    for what, *details in bench.logged("table", "image", "pass", "load", "end", "round"):
        assert what != "image" or details[0] == words[3]
        got.append((what, details[-1] if what in ("image", "load", "end") else None))
    # The pulses of a cycle come in any order.
    assert sorted(got[-1:]) == [("end", 3)]
    assert [g for g in got if g[0] != "round"] == [e for e in expected if e[0] != "round"]
    assert len(bench.logged("round")) == count - 1
    assert bench.descriptors == [words[4], words[6]] * count
    assert len(bench.logged("end done")) == count


def test_a_round_goes_on_while_the_last_one_is_written():
    """Only what needs the logits waits for them: a pass that writes there, and the next END."""
    body = [(Opcode.IMAGE, {}), (Opcode.PASS, {}),
            (Opcode.PASS, {"destination": isa.Destination.LOGIT})]
    bench = Bench(program(*body), retire=_at_once, rounds=3, ends=150)
    assert bench.run() == (Error.NONE, 4, 1)
    for r in (0, 1):
        assert bench.at("image", r + 1) - bench.at("end", r) < FETCH
        assert bench.at("pass", 2 * r + 2) - bench.at("image", r + 1) < FETCH
        done = bench.at("end done", r)
        assert done == bench.at("end", r) + 151
        assert 0 <= bench.at("pass", 2 * r + 3) - done <= LATE
        waiting = bench.activity[bench.at("pass", 2 * r + 2) + FETCH:done]
        assert set(waiting) == {Activity.DRAIN}


def test_an_end_waits_for_the_one_before():
    bench = Bench(program((Opcode.IMAGE, {})), rounds=3, ends=150)
    assert bench.run() == (Error.NONE, 2, 1)
    for r in (0, 1):
        assert bench.at("image", r + 1) - bench.at("end", r) < FETCH
        assert 0 <= bench.at("end", r + 1) - bench.at("end done", r) <= LATE


def test_dependencies_reach_back_into_the_round_before():
    body = [(Opcode.IMAGE, {}), (Opcode.PASS, {}), (Opcode.IMAGE, {}),
            (Opcode.PASS, {"row_dependency": 1})]
    assert Bench(program(*body, loop=3), retire=_at_once, rounds=3).run() == (Error.NONE, 5, 1)


def test_selectors_are_counted_anew_in_a_round():
    """As many as there may be, in each round; another image of the round does not begin anew."""
    selectors = [(Opcode.SELECT, {}), (Opcode.PRUNE, {})] * isa.SELECTORS
    words = program((Opcode.IMAGE, {}), *selectors)
    assert Bench(words, rounds=2, selects=1).run() == (Error.NONE, len(words) - 1, 1)
    words = program((Opcode.IMAGE, {}), *selectors, (Opcode.IMAGE, {"image": 1}),
                    (Opcode.SELECT, {}), images=2)
    assert Bench(words, selects=1).run() == (Error.BAD_FIELD, len(words) - 2, 0)


def test_what_was_dropped_is_forgotten_in_the_next_round():
    body = [(Opcode.IMAGE, {}), (Opcode.PASS, {"rows_from": isa.Rows.DROPPED})]
    first = (Opcode.IMAGE, {})
    words = program(first, (Opcode.SELECT, {}), (Opcode.PRUNE, {}), (Opcode.PASS, PASS), *body)
    assert Bench(words, retire=_at_once).run() == (Error.BAD_FIELD, 6, 0)
    words = program(first, (Opcode.SELECT, {}), (Opcode.IMAGE, {}), (Opcode.PRUNE, {}))
    assert Bench(words, retire=_at_once).run() == (Error.BAD_FIELD, 4, 0)


def test_selectors_of_several_images_end_with_one_prune():
    selects = [(Opcode.SELECT, {"image": i}) for i in range(3)]
    alone = [(op, fields) for i, select in enumerate(selects)
             for op, fields in ((Opcode.IMAGE, {"image": i}), select)]
    words = program(*alone, (Opcode.PRUNE, {}),
                    (Opcode.PASS, {"rows_from": isa.Rows.DROPPED, "of_segment": 1, "segment": 2}),
                    images=3)
    bench = Bench(words, config=FOUR_PORTS, retire=_at_once, selects=50)
    assert bench.run() == (Error.NONE, len(words) - 1, 1)
    assert [f[1] for f in bench.logged("select")] == words[2:7:2]
    for n in (0, 1):
        assert 51 <= bench.at("select", n + 1) - bench.at("select", n) <= 51 + FETCH
    assert 51 <= bench.at("prune") - bench.at("select", 2) <= 51 + LATE


# What it waits for

def test_at_most_four_passes_are_queued():
    """A fifth is queued when one retires; the descriptors of the others stay."""
    passes = 11
    words = program(*[(Opcode.PASS, {"scale_m": n}) for n in range(passes)])
    bench = Bench(words, retire=lambda bench: max(0, (bench.cycle - 200) // 50))
    assert bench.run() == (Error.NONE, passes + 2, 1)
    times = [bench.at("pass", n) for n in range(passes)]
    assert times[3] < 200
    for n in range(4, passes):
        # Pass n - 4 retires when 50 cycles more have passed.
        retired = 200 + 50 * (n - 3)
        assert retired < times[n] <= retired + LATE, f"pass {n} at {times[n]}"


def test_counters_of_passes_go_round():
    passes = 262
    bench = Bench(program(*[(Opcode.PASS, {"scale_m": n}) for n in range(passes)]),
                  retire=_at_once)
    assert bench.run(cycles=6000) == (Error.NONE, passes + 2, 1)
    assert bench.queued == passes


@pytest.mark.parametrize("opcode, most", [
    (Opcode.TABLE, 1), (Opcode.LOAD, 0), (Opcode.IMAGE, 0), (Opcode.END, 0)])
def test_waits_until_passes_have_retired(opcode, most):
    """TABLE lets the latest pass run on, LOAD, IMAGE and END wait for all."""
    body = [(Opcode.IMAGE, {})] + [(Opcode.PASS, {})] * 3
    if opcode != Opcode.END:
        body.append((opcode, {}))
    bench = Bench(program(*body), retire=lambda bench: min(3, bench.cycle // 100))
    assert bench.run()[0] == Error.NONE
    at = bench.at(opcode.name.lower(), int(opcode is Opcode.IMAGE))
    retired = 100 * (3 - most)
    assert retired <= at <= retired + LATE
    activity = {Opcode.TABLE: Activity.PROGRAM, Opcode.LOAD: Activity.LOAD,
                Opcode.IMAGE: Activity.SELECTOR, Opcode.END: Activity.DRAIN}[opcode]
    assert set(bench.activity[150:at - LATE]) == {activity}


@pytest.mark.parametrize("opcode, fields, activity", [
    (Opcode.PASS, {"source": isa.Source.PATCH}, Activity.LOAD), (Opcode.LOAD, {}, Activity.LOAD),
    (Opcode.PASS, {}, None), (Opcode.TABLE, {}, None), (Opcode.IMAGE, {}, None),
    (Opcode.SELECT, {}, None), (Opcode.PASS, {"destination": isa.Destination.LOGIT}, None),
], ids=str)
def test_who_waits_for_a_load(opcode, fields, activity):
    """Passes over patches, and the next load; everything else goes on beside it."""
    body = [(Opcode.IMAGE, {}), (Opcode.LOAD, {}), (opcode, fields)]
    bench = Bench(program(*body), retire=_at_once, loads=200)
    assert bench.run() == (Error.NONE, 4, 1)
    start, done = bench.at("load"), bench.at("load done")
    at = bench.at(opcode.name.lower(), int(opcode in (Opcode.LOAD, Opcode.IMAGE)))
    if activity is None:
        assert at - start < FETCH
    else:
        assert done <= at <= done + LATE
        assert set(bench.activity[start + FETCH:done]) == {activity}


def test_a_run_ends_when_its_loads_have_ended():
    """A load that no pass waits for is a load, and may fail."""
    bench = Bench(program((Opcode.LOAD, {})), loads=200)
    assert bench.run() == (Error.NONE, 3, 1)
    assert 0 <= bench.cycle - 31 - bench.at("load done") <= LATE
    bench = Bench(program((Opcode.LOAD, {})), loads=200, fails={("load", 0): Error.BAD_FIELD})
    assert bench.run() == (Error.BAD_FIELD, 2, 0)


def test_activity():
    body = [(Opcode.LOAD, {}), (Opcode.PASS, {"source": isa.Source.PATCH}), (Opcode.TABLE, {}),
            (Opcode.SELECT, {}), (Opcode.PRUNE, {})]
    bench = Bench(program(*body), loads=40, ends=40, selects=40, retire=_at_once)
    bench.run()
    start, done = bench.at("load"), bench.at("load done")
    select, prune, end = bench.at("select"), bench.at("prune"), bench.at("end")
    assert set(bench.activity[:start + 1]) == {Activity.PROGRAM}
    assert set(bench.activity[start + FETCH:done]) == {Activity.LOAD}
    assert set(bench.activity[done + LATE:select]) == {Activity.PROGRAM}
    assert set(bench.activity[select + FETCH:prune - LATE]) == {Activity.SELECTOR}
    assert set(bench.activity[prune:end - LATE]) == {Activity.PROGRAM}
    assert set(bench.activity[end:]) == {Activity.DRAIN}


@pytest.mark.parametrize("opcode", [Opcode.TABLE, Opcode.SELECT, Opcode.LOAD])
@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_waits_until_few_passes_are_under_way(opcode, most):
    """They say how many; a SELECT or LOAD goes on while the passes do."""
    body = [(Opcode.PASS, {})] * 4 + [(opcode, {"under_way": most}), (Opcode.PASS, {})]
    bench = Bench(program(*body), retire=lambda bench: min(5, bench.cycle // 100), selects=10_000)
    bench.run(cycles=700)
    retired = 100 * (4 - most)
    at = bench.at(opcode.name.lower())
    assert retired <= at <= retired + LATE
    assert bench.at("pass", 4) - bench.at(opcode.name.lower()) < 20


@pytest.mark.parametrize("opcode", [Opcode.PRUNE, Opcode.IMAGE])
@pytest.mark.parametrize("selects", [1, 300])
def test_the_list_changes_after_all_passes_and_the_selector(opcode, selects):
    """A pass before it has ended, one after it has not begun."""
    body = [(Opcode.IMAGE, {}), (Opcode.SELECT, {"under_way": 4, "keep": 7, "merged": 1}),
            (Opcode.PASS, {}), (opcode, {}), (Opcode.PASS, {})]
    words = program(*body, tokens=8)
    bench = Bench(words, retire=lambda bench: min(2, bench.cycle // 200), selects=selects)
    assert bench.run() == (Error.NONE, 6, 1)
    assert bench.logged("select") == [("select", words[2])]
    changed, before = opcode.name.lower(), int(opcode is Opcode.IMAGE)
    assert len(bench.logged(changed)) == 1 + before
    at = max(200, bench.at("select") + 1 + selects)
    assert at <= bench.at(changed, before) <= at + LATE
    assert bench.at("pass", 0) < bench.at(changed, before) < bench.at("pass", 1)


@pytest.mark.parametrize("before, bad", [
    ([(Opcode.SELECT, {})], (Opcode.PASS, {"rows_from": isa.Rows.DROPPED})),
    ([(Opcode.SELECT, {}), (Opcode.PRUNE, {}), (Opcode.SELECT, {})],
     (Opcode.PASS, {"rows_from": isa.Rows.DROPPED})),
    ([(Opcode.SELECT, {}), (Opcode.PRUNE, {})], (Opcode.PRUNE, {})),
    ([(Opcode.SELECT, {}), (Opcode.PRUNE, {})] * isa.SELECTORS, (Opcode.SELECT, {})),
], ids=["not yet", "no more", "prune twice", "too many"])
def test_bad_order_of_selectors(before, bad):
    bench = Bench(program(*before, bad), retire=_at_once)
    assert bench.run() == (Error.BAD_FIELD, 2 + len(before), 0)


@pytest.mark.parametrize("opcode, fields, error", [
    (Opcode.SELECT, {}, Error.BAD_OPCODE), (Opcode.PRUNE, {}, Error.BAD_OPCODE),
    (Opcode.PASS, {"destination": isa.Destination.SELECTOR}, Error.BAD_FIELD)])
def test_a_core_without_a_selector_refuses_it(opcode, fields, error):
    bench = Bench(program((opcode, fields)), config=replace(TINY, pruning=False))
    assert bench.run() == (error, 2, 0)


# What it refuses

ONE_PORT, FOUR_PORTS = TINY, named("zcu102")


def _bad_begins():
    """Name, configuration, fields of BEGIN, arguments, error."""
    begin = [("magic", {"magic": isa.MAGIC ^ 1}, Error.BAD_MAGIC),
             ("opcode", {"raw_opcode": Opcode.END.value}, Error.BAD_MAGIC),
             ("cleared memory", {"raw_opcode": 0, "magic": 0, "version": 0}, Error.BAD_MAGIC),
             ("version 0", {"version": 0}, Error.BAD_VERSION),
             ("version before", {"version": isa.ISA_VERSION - 1}, Error.BAD_VERSION),
             ("version after", {"version": isa.ISA_VERSION + 1}, Error.BAD_VERSION),
             ("no tokens", {"tokens": 0}, Error.BAD_FIELD),
             ("tokens", {"tokens": TINY.max_tokens + 1}, Error.BAD_FIELD),
             ("no instructions", {"instructions": 0}, Error.BAD_FIELD),
             ("begin alone", {"instructions": 1}, Error.BAD_FIELD),
             ("no loop", {"loop": 0}, Error.BAD_FIELD),
             ("loop behind the program", {"loop": 4}, Error.BAD_FIELD),
             ("loop far behind", {"loop": 0xFFFF}, Error.BAD_FIELD),
             ("no images", {"images": 0}, Error.BAD_FIELD),
             ("images", {"images": TINY.images + 1}, Error.BAD_FIELD),
             ("many images", {"images": 0x81}, Error.BAD_FIELD),
             ("beats of the program", {"instructions": 1 << 21}, Error.BAD_FIELD),
             ("beats of the weights", {"weight_beats": 1 << 24}, Error.BAD_FIELD),
             ("instructions beyond the window", {"instructions": (1 << 14) + 1},
              Error.BAD_ADDRESS),
             ("weights beyond the window", {"weight_beats": ((1 << 20) - 4096) // 8 + 1},
              Error.BAD_ADDRESS),
             ("weights far beyond", {"weight_offset": 0xFFFF_F000}, Error.BAD_ADDRESS),
             ("unaligned weights", {"weight_offset": 4100}, Error.BAD_ADDRESS)]
    for name, fields, error in begin:
        yield name, ONE_PORT, fields, {}, error
    for name, fields in (
        ("unaligned stride", {"weight_stride": 4104}),
        # Three strides and three beats after the offset.
        ("stride", {"weight_stride": ((1 << 20) - 4096 - 48) // 3 // 16 * 16 + 16})):
        yield name, FOUR_PORTS, fields, {}, Error.BAD_ADDRESS
    for name, arguments in (("unaligned model", {"model_addr": BASE + 64}),
                            ("a byte of the weights", {"model_bytes": 4096 + 23}),
                            ("no window", {"model_bytes": 0}),
                            ("window of part of BEGIN", {"model_bytes": 63}),
                            ("window of BEGIN alone", {"model_bytes": 64})):
        yield name, ONE_PORT, {}, arguments, Error.BAD_ADDRESS


@pytest.mark.parametrize("name, config, fields, arguments, error", list(_bad_begins()),
                         ids=lambda v: v if isinstance(v, str) else "")
def test_bad_begin(name, config, fields, arguments, error):
    words = program((Opcode.PASS, {}), **fields)
    bench = Bench(words, config=config, **arguments)
    assert bench.run() == (error, 0, 0)
    # Nothing but BEGIN was read, and not even that where there is no room for it.
    assert not [entry for entry in bench.log if entry[1].startswith(("weights", "pass"))]
    outside = arguments.get("model_bytes", 64) < 64 or "model_addr" in arguments
    assert len(bench.logged("program")) == (not outside)


@pytest.mark.parametrize("name, config, fields, arguments", [
    ("an image alone", ONE_PORT, {"loop": 1}, {}),
    ("all images", ONE_PORT, {"images": TINY.images}, {}),
    ("as many images as segments", FOUR_PORTS, {"images": isa.SEGMENTS}, {}),
    ("all tokens", ONE_PORT, {"tokens": TINY.max_tokens}, {}),
    ("one token", ONE_PORT, {"tokens": 1}, {}),
    ("weights to the end", ONE_PORT, {"weight_beats": ((1 << 20) - 4096) // 8}, {}),
    ("last byte of the weights", ONE_PORT, {}, {"model_bytes": 4096 + 24}),
    ("program to the end", ONE_PORT, {"weight_offset": 0, "weight_beats": 0},
     {"model_bytes": 192}),
    ("no weights", ONE_PORT, {"weight_beats": 0}, {}),
    ("stride of one port", ONE_PORT, {"weight_stride": 1}, {}),
    ("last stride", FOUR_PORTS, {"weight_stride": ((1 << 20) - 4096 - 48) // 3 // 16 * 16}, {}),
])
def test_begin_at_a_limit(name, config, fields, arguments):
    assert Bench(program(**fields), config=config, **arguments).run() == (Error.NONE, 2, 1)


def _bad_instructions():
    """Name, opcode and fields of an instruction, error."""
    for raw in (0, Opcode.BEGIN.value, 9, 255):
        yield f"opcode {raw}", Opcode.PASS, {"raw_opcode": raw}, Error.BAD_OPCODE
    for memory, rows in ((isa.Table.LANE, 64), (isa.Table.RECIPROCAL, 16), (isa.Table.RSQRT, 32),
                         (isa.Table.LIST, TINY.list_depth)):
        for first, count in ((rows, 1), (rows - 6, 7), (0xFFFF, 2), (0, 0), (0, 8)):
            yield (f"{memory.name} {first}+{count}", Opcode.TABLE,
                   {"table": memory, "first": first, "count": count}, Error.BAD_FIELD)
    for name, fields in (
        ("no rows", {"rows_from": isa.Rows.COUNT}),
        ("rows", {"rows_from": isa.Rows.COUNT, "row_first": TINY.pass_rows, "row_count": 1}),
        ("many rows", {"rows_from": isa.Rows.COUNT, "row_first": 1023, "row_count": 1023}),
        ("dropped rows", {"rows_from": isa.Rows.DROPPED}),
        ("rows from 5", {"rows_from": 5}), ("rows from 7", {"rows_from": 7}),
        ("column tiles", {"column_tiles": 0}), ("K tiles", {"k_tiles": 0}),
        ("row dependency", {"row_dependency": 3}),
        ("operand dependency", {"operand_dependency": 3}),
        ("scale source", {"scale_source": 3}),
        ("residual twice", {"source": isa.Source.RESIDUAL,
                            "destination": isa.Destination.RESIDUAL}),
        ("source ACT", {"source_base": TINY.act_depth}),
        ("source PATCH", {"source": isa.Source.PATCH, "source_base": TINY.patch_depth}),
        ("source RESIDUAL", {"source": isa.Source.RESIDUAL, "source_base": TINY.residual_depth}),
        ("source SCORE", {"source": isa.Source.SCORE, "source_base": TINY.score_depth}),
        ("destination ACT", {"destination_base": TINY.act_depth}),
        ("destination RESIDUAL", {"destination": isa.Destination.RESIDUAL,
                                  "destination_base": TINY.residual_depth}),
        ("destination KEY", {"destination": isa.Destination.KEY,
                             "destination_base": TINY.key_depth}),
        ("destination VALUE", {"destination": isa.Destination.VALUE,
                               "destination_base": TINY.value_depth}),
        ("destination SCORE", {"destination": isa.Destination.SCORE,
                               "destination_base": TINY.score_depth}),
        ("destination LOGIT", {"destination": isa.Destination.LOGIT,
                               "destination_base": TINY.class_tiles}),
        ("destination 7", {"destination": 7}),
    ):
        yield name, Opcode.PASS, fields, Error.BAD_FIELD
    yield "no special token", Opcode.SELECT, {"special": 0}, Error.BAD_FIELD
    yield "no patch", Opcode.SELECT, {"special": 3}, Error.BAD_FIELD
    yield "PRUNE alone", Opcode.PRUNE, {}, Error.BAD_FIELD
    yield "END before the end", Opcode.END, {}, Error.BAD_FIELD


@pytest.mark.parametrize("name, opcode, fields, error", list(_bad_instructions()),
                         ids=lambda v: v if isinstance(v, str) else "")
def test_bad_instruction(name, opcode, fields, error):
    """The index is that of the instruction; what came before is handed out, and nothing after."""
    words = program(*[(Opcode.PASS, {})] * 2, (opcode, fields), (Opcode.TABLE, {}), tokens=3)
    bench = Bench(words, retire=_at_once)
    assert bench.run() == (error, 4, 0)
    assert bench.queued == 2
    assert not bench.logged("table", "end")


@pytest.mark.parametrize("opcode, fields", [
    (Opcode.TABLE, {"table": isa.Table.LANE, "first": 63}),
    (Opcode.TABLE, {"table": isa.Table.RECIPROCAL, "first": 9, "count": 7}),
    (Opcode.TABLE, {"table": isa.Table.RSQRT, "first": 25, "count": 7}),
    (Opcode.TABLE, {"table": isa.Table.LIST, "first": TINY.list_depth - 1}),
    (Opcode.PASS, {"rows_from": isa.Rows.COUNT, "row_first": TINY.pass_rows - 1, "row_count": 1}),
    (Opcode.PASS, {"rows_from": isa.Rows.EACH, "of_segment": 1}),
    (Opcode.PASS, {"rows_from": isa.Rows.LAST}),
    (Opcode.PASS, {"stationary": isa.Stationary.NONE, "prologue": isa.Prologue.SCALE}),
    (Opcode.PASS, {"destination": isa.Destination.SELECTOR, "destination_base": 0xFFFF}),
    (Opcode.SELECT, {"special": 2}),
    (Opcode.PASS, {"columns_from_tokens": 1, "column_tiles": 0}),
    (Opcode.PASS, {"k_from_tokens": 1, "k_tiles": 0}),
    (Opcode.PASS, {"row_dependency": 2, "operand_dependency": 2}),
    (Opcode.PASS, {"source_base": TINY.act_depth - 1, "destination_base": TINY.act_depth - 1}),
    (Opcode.PASS, {"destination": isa.Destination.LOGIT,
                   "destination_base": TINY.class_tiles - 1}),
], ids=str)
def test_instruction_at_a_limit(opcode, fields):
    words = program(*[(Opcode.PASS, {})] * 2, (opcode, fields), tokens=3)
    assert Bench(words, retire=_at_once).run() == (Error.NONE, 5, 1)


def test_dependencies_in_a_long_program():
    """The count of passes behind stays at its limit; it does not begin anew."""
    passes = [(Opcode.PASS, {"row_dependency": min(n, 15), "operand_dependency": min(n, 15)})
              for n in range(40)]
    words = program(*passes)
    assert Bench(words, retire=_at_once).run() == (Error.NONE, 42, 1)


@pytest.mark.parametrize("classes", [1, TINY.max_classes])
def test_end_at_a_limit(classes):
    words = program()[:-1] + [word(Opcode.END, classes=classes)]
    bench = Bench(words)
    assert bench.run() == (Error.NONE, 2, 1)
    assert bench.logged("end", "end done") == [("end", classes), ("end done",)]


@pytest.mark.parametrize("classes", [0, TINY.max_classes + 1])
def test_bad_end(classes):
    words = program()[:-1] + [word(Opcode.END, classes=classes)]
    assert Bench(words).run() == (Error.BAD_FIELD, 2, 0)


def test_program_without_end():
    """The index is that of the instruction which is missing."""
    words = program((Opcode.PASS, {}), (Opcode.TABLE, {}), instructions=4)
    bench = Bench(words, retire=_at_once)
    assert bench.run() == (Error.BAD_OPCODE, 4, 0)
    assert len(bench.logged("table")) == 1


@pytest.mark.parametrize("unit, index", [("load", 2), ("end", 3)])
@pytest.mark.parametrize("error", [Error.BAD_ADDRESS, Error.BAD_FIELD])
def test_errors_of_the_units(unit, index, error):
    bench = Bench(program((Opcode.LOAD, {})), fails={(unit, 0): error})
    assert bench.run() == (error, index, 0)


@pytest.mark.parametrize("loads", [3, 60, 400])
@pytest.mark.parametrize("number, index", [(0, 2), (1, 4), (2, 4), (3, 6)])
def test_errors_of_loads_from_behind(loads, number, index):
    """The index is that of the LOAD, whatever is executed when it fails."""
    body = [(Opcode.TABLE, {}), (Opcode.LOAD, {}), (Opcode.IMAGE, {}),
            (Opcode.LOAD, {"ahead": 1}), (Opcode.PASS, {}),
            (Opcode.PASS, {"source": isa.Source.PATCH}), (Opcode.TABLE, {})]
    if number == 3:
        body[5] = (Opcode.LOAD, {"kind": isa.LoadKind.RESIDUAL})
    fails = {("load", number - (number == 3)): Error.BAD_ADDRESS}
    bench = Bench(program(*body, loop=3), rounds=3, loads=loads, fails=fails, retire=_at_once)
    assert bench.run() == (Error.BAD_ADDRESS, index, 0)
    assert len(bench.logged("load")) == number + (number != 3)


@pytest.mark.parametrize("ends", [1, 40, 400])
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("logits", [False, True])
def test_errors_of_ends_from_behind(ends, number, logits):
    """The logits of a round may fail in the next one: the index is that of END."""
    destination = isa.Destination.LOGIT if logits else isa.Destination.ACT
    body = [(Opcode.IMAGE, {}), (Opcode.TABLE, {}), (Opcode.PASS, {}),
            (Opcode.PASS, {"destination": destination})]
    bench = Bench(program(*body), rounds=3, ends=ends, retire=_at_once,
                  fails={("end", number): Error.BAD_ADDRESS})
    assert bench.run() == (Error.BAD_ADDRESS, 5, 0)
    assert len(bench.logged("end")) == number + 1


def test_an_error_is_not_seen_before_its_turn():
    """The unit has failed, but the last rows of a table are written first."""
    rows = [{"count": 7, "rows": [*range(7)]}] * 2
    bench = Bench(program((Opcode.LOAD, {}), *((Opcode.TABLE, f) for f in rows)), loads=15,
                  fails={("load", 0): Error.BAD_FIELD})
    assert bench.run() == (Error.BAD_FIELD, 2, 0)
    assert len(bench.logged("table")) in (7, 14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [32, 64, 128])
def test_instructions_are_put_together_from_beats(bits, kind):
    config = replace(TINY, port_bits=bits)
    rng = random.Random(bits)
    tables = [{"table": isa.Table.LIST, "first": n, "count": 7,
               "rows": [rng.getrandbits(64) for _ in range(7)]} for n in range(5)]
    bench = Bench(program(*((Opcode.TABLE, f) for f in tables)), config=config, kind=kind)
    assert bench.run() == (Error.NONE, 7, 1)
    assert [data for *_, data in bench.logged("table")] == [r for f in tables for r in f["rows"]]


# The checksum, while it is taken

def test_only_tables_do_not_wait_for_the_checksum():
    body = [(Opcode.TABLE, {}), (Opcode.IMAGE, {}), (Opcode.LOAD, {}), (Opcode.PASS, {})]
    bench = Bench(program(*body, loop=2), retire=_at_once, checks=200)
    assert bench.run() == (Error.NONE, 5, 1)
    start = bench.at("check")
    assert bench.at("table") - start < FETCH < 200 <= bench.at("image") - start <= 200 + LATE
    assert set(bench.activity[start:start + 200]) == {Activity.PROGRAM}


@pytest.mark.parametrize("body", [[(Opcode.IMAGE, {})], [(Opcode.TABLE, {}), (Opcode.IMAGE, {})],
                                  [(Opcode.PASS, {"raw_opcode": 9})],
                                  [(Opcode.TABLE, {"count": 0})]], ids=str)
def test_a_wrong_checksum_comes_before_all_other_errors(body):
    bench = Bench(program(*body, loop=2), checks=200, wrong=1)
    assert bench.run() == (Error.BAD_CHECKSUM, 0, 0)
    assert bench.cycle >= 200 and not bench.logged("image")


def test_the_instruction_of_the_first_pass_under_way():
    body = [(Opcode.TABLE, {}), *[(Opcode.PASS, {})] * 2, (Opcode.TABLE, {"under_way": 3}),
            (Opcode.PASS, {})]
    bench = Bench(program(*body), retire=lambda bench: min(3, bench.cycle // 100))
    seen, step = [], bench.step

    async def watched(ctx):
        await step(ctx)
        seen.append(ctx.get(bench.dut.pass_index))

    bench.step = watched
    assert bench.run() == (Error.NONE, 7, 1)
    assert [seen[at] for at in (99, 150, 250)] == [3, 4, 6]
