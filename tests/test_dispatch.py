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
           Opcode.SELECT: isa.select_layout, Opcode.PRUNE: isa.prune_layout}

#: A pass that every configuration accepts.
PASS = {"rows_from": isa.Rows.TOKENS, "column_tiles": 1, "k_tiles": 1}


def word(opcode, **fields):
    """Return an instruction as a number; BEGIN, TABLE and END are right unless fields say not."""
    right = {Opcode.BEGIN: {"version": isa.ISA_VERSION, "magic": isa.MAGIC, "tokens": 5,
                            "weight_offset": 4096, "weight_stride": 4096, "weight_beats": 3},
             Opcode.TABLE: {"count": 1, "under_way": 1},
             Opcode.SELECT: {"special": 1}, Opcode.PRUNE: {}, Opcode.LOAD: {}, Opcode.PASS: PASS,
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
    """Return a program: BEGIN before, END after what is given as (opcode, fields)."""
    begin = {"instructions": len(instructions) + 2} | begin
    return [word(Opcode.BEGIN, **begin), *(word(op, **fields) for op, fields in instructions),
            word(Opcode.END)]


class Bench:
    """Memory, units and arguments around a dispatcher; what it did is in ``log``, by cycle."""

    def __init__(self, words, *, config=TINY, kind="none", seed=0, retire=lambda bench: 0,
                 model_addr=BASE, model_bytes=1 << 20, load_error=Error.NONE,
                 end_error=Error.NONE, busy=12, selects=9, after=3):
        self.config, self.dut = config, Dispatcher(config)
        self.words = words
        self.retire = retire               # passes that have retired, asked for in every cycle
        self.arguments = {"model_addr": model_addr, "model_bytes": model_bytes}
        self.load_error, self.end_error = load_error, end_error
        self.held = [stalls(kind, seed + i) for i in range(3 + config.ports)]
        self.cycle = 0
        self.log: list[tuple] = []         # cycle, what, details
        self.queued = self.retired = 0
        self.descriptors: list[int] = []
        self.list_cycles = busy            # how long the token list takes
        self.busy = 0                      # of these, to come
        self.select_cycles = selects       # how long the selector takes
        self.selecting = 0                 # of these, to come
        self.after = after                 # tokens that it leaves
        self.beats: list[int] = []
        self.waiting: dict[str, int] = {}  # cycle in which a unit is done
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

        self.retired = self.retire(self)
        ctx.set(dut.retired, self.retired % 256)
        ctx.set(dut.tokens_busy, self.busy > 0)
        self.busy = max(0, self.busy - 1)
        ctx.set(dut.selector_busy, self.selecting > 0)
        ctx.set(dut.tokens_after, 0 if self.selecting else self.after)
        self.selecting = max(0, self.selecting - 1)
        for unit, error in (("load", self.load_error), ("end", self.end_error)):
            done = self.waiting.get(unit) == self.cycle
            ctx.set(getattr(dut, f"{unit}_done"), done and error == Error.NONE)
            if done:
                ctx.set(getattr(dut, f"{unit}_error"), error)

        if valid and ctx.get(dut.program.ready):
            self.beats.pop(0)
        if ctx.get(dut.tokens_start):
            self.add("tokens")
            self.busy = self.list_cycles
        if ctx.get(dut.select_start):
            self.add("select", ctx.get(Value.cast(dut.select)))
            self.selecting = self.select_cycles
        if ctx.get(dut.prune):
            self.add("prune", ctx.get(dut.tokens))
        if ctx.get(dut.table_en):
            self.add("table", ctx.get(Value.cast(dut.table)), ctx.get(dut.table_row),
                     ctx.get(dut.table_data))
        for unit, extra in (("load", dut.load), ("end", dut.classes)):
            if ctx.get(getattr(dut, f"{unit}_start")):
                assert unit not in self.waiting, f"{unit} is started twice"
                self.waiting[unit] = self.cycle + 9
                self.add(unit, ctx.get(Value.cast(extra)))
            elif self.waiting.get(unit) == self.cycle:
                # The instruction stays as long as its unit works.
                self.add(f"{unit} done", ctx.get(Value.cast(extra)))
                del self.waiting[unit]
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
            count = len(self.log)
            result = self._result(ctx)
            for _ in range(30):
                await self.step(ctx)
            assert self._result(ctx) == result, "the end is not the end"
            assert len(self.log) == count, f"after the end: {self.log[count:]}"

        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        sim.add_testbench(bench)
        sim.run()
        return result

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
    body = [(Opcode.TABLE, {"table": isa.Table.LIST, "first": 500, "count": 7,
                            "rows": [rng.getrandbits(64) for _ in range(7)]}),
            (Opcode.TABLE, {"table": isa.Table.RSQRT, "first": 30, "count": 2,
                            "rows": [rng.getrandbits(64) for _ in range(7)]}),
            (Opcode.LOAD, {"kind": isa.LoadKind.RESIDUAL, "offset": 512, "count": 6}),
            (Opcode.LOAD, {"kind": isa.LoadKind.FRAME, "offset": 0, "lines": 3})]
    for n in range(9):
        body.append((Opcode.PASS, PASS | {"scale_m": rng.getrandbits(17), "row_dependency": n,
                                          "operand_dependency": n // 2}))
    body.insert(7, (Opcode.TABLE, {"table": isa.Table.LANE, "first": 57, "count": 7,
                                   "rows": [rng.getrandbits(64) for _ in range(7)]}))
    words = program(*body, tokens=config.max_tokens)
    bench = Bench(words, config=config, kind=kind, retire=_at_once)
    assert bench.run() == (Error.NONE, len(words) - 1, 1)

    beat = config.port_bits // 8
    assert bench.logged("program") == [
        ("program", BASE, 64 // beat),
        ("program", BASE + 64, (len(words) - 1) * 64 // beat)]
    for p in range(config.ports):
        assert bench.logged(f"weights {p}") == [(f"weights {p}", BASE + 4096 * (p + 1), 3)]
    assert not bench.beats
    assert bench.logged("table") == [
        ("table", f["table"].value, f["first"] + i, f["rows"][i])
        for op, f in body if op == Opcode.TABLE for i in range(f["count"])]
    # What a unit works on is there when it starts and when it ends.
    assert [f[1] for f in bench.logged("load")] == words[3:5]
    assert [f[1] for f in bench.logged("load done")] == words[3:5]
    assert bench.descriptors == [w for w in words if w & 0xFF == Opcode.PASS.value]
    assert bench.logged("end", "end done") == [("end", 3), ("end done", 3)]
    order = [entry[1] for entry in bench.log
             if entry[1] in ("tokens", "table", "load", "load done", "pass", "end")]
    assert order == (["tokens"] + 9 * ["table"] + 2 * ["load", "load done"] + 3 * ["pass"]
                     + 7 * ["table"] + 6 * ["pass"] + ["end"])


def test_tokens_are_there_when_they_are_announced():
    words = program((Opcode.PASS, {}), tokens=77)
    bench = Bench(words, retire=_at_once)
    seen = []
    step = bench.step

    async def watched(ctx):
        await step(ctx)
        seen.append((ctx.get(bench.dut.tokens), ctx.get(bench.dut.tokens_start)))

    bench.step = watched
    bench.run()
    at = [start for _, start in seen].index(1)
    assert {tokens for tokens, _ in seen[:at + 1]} == {0}
    assert {tokens for tokens, _ in seen[at + 1:]} == {77}


@pytest.mark.parametrize("opcode", [Opcode.PASS, Opcode.LOAD, Opcode.SELECT])
def test_nothing_starts_while_the_token_list_is_written(opcode):
    bench = Bench(program((opcode, {})), retire=_at_once, busy=200)
    bench.run()
    assert 200 < bench.at(opcode.name.lower()) - bench.at("tokens") < 205


# What it waits for

def test_at_most_four_passes_are_queued():
    """A fifth is queued when one retires; the descriptors of the others stay."""
    passes = 11
    words = program(*[(Opcode.PASS, {"scale_m": n}) for n in range(passes)])
    bench = Bench(words, retire=lambda bench: max(0, (bench.cycle - 200) // 50))
    assert bench.run() == (Error.NONE, passes + 1, 1)
    times = [bench.at("pass", n) for n in range(passes)]
    assert times[3] < 200
    for n in range(4, passes):
        # Pass n - 4 retires when 50 cycles more have passed.
        retired = 200 + 50 * (n - 3)
        assert times[n] == retired + 1, f"pass {n} at {times[n]}, must be at {retired + 1}"


def test_counters_of_passes_go_round():
    passes = 262
    bench = Bench(program(*[(Opcode.PASS, {"scale_m": n}) for n in range(passes)]),
                  retire=_at_once)
    assert bench.run(cycles=6000) == (Error.NONE, passes + 1, 1)
    assert bench.queued == passes


@pytest.mark.parametrize("opcode, most", [(Opcode.TABLE, 1), (Opcode.LOAD, 0), (Opcode.END, 0)])
def test_waits_until_passes_have_retired(opcode, most):
    """TABLE lets the latest pass run on, LOAD and END wait for all."""
    body = [(Opcode.PASS, {})] * 3
    if opcode != Opcode.END:
        body.append((opcode, {}))
    bench = Bench(program(*body), retire=lambda bench: min(3, bench.cycle // 100))
    assert bench.run()[0] == Error.NONE
    at = bench.at(opcode.name.lower())
    retired = 100 * (3 - most)
    assert retired <= at <= retired + 1
    drains = [cycle for cycle in range(150, at) if bench.activity[cycle] == Activity.DRAIN]
    assert bool(drains) == (opcode == Opcode.END)


def test_activity():
    bench = Bench(program((Opcode.LOAD, {}), (Opcode.TABLE, {})), retire=_at_once)
    bench.run()
    start, done, end = bench.at("load"), bench.at("load done"), bench.at("end")
    names = [activity.name for activity in bench.activity]
    assert set(names[:start + 1]) == {"PROGRAM"}
    assert set(names[start + 1:done + 1]) == {"LOAD"}
    assert set(names[done + 1:end - 1]) == {"PROGRAM"}
    assert set(names[end:]) == {"DRAIN"}


@pytest.mark.parametrize("opcode", [Opcode.TABLE, Opcode.SELECT])
@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_waits_until_few_passes_are_under_way(opcode, most):
    """TABLE and SELECT say how many; a SELECT goes on while the passes do."""
    body = [(Opcode.PASS, {})] * 4 + [(opcode, {"under_way": most}), (Opcode.PASS, {})]
    bench = Bench(program(*body), retire=lambda bench: min(5, bench.cycle // 100), selects=10_000)
    assert bench.run()[0] == Error.NONE
    retired = 100 * (4 - most)
    assert retired <= bench.at(opcode.name.lower()) <= retired + 1
    assert bench.at("pass", 4) - bench.at(opcode.name.lower()) < 20


@pytest.mark.parametrize("selects", [1, 300])
def test_prune_waits_for_all_passes_and_the_selector(selects):
    """Tokens change with PRUNE: a pass before it has ended, one after it has not begun."""
    body = [(Opcode.SELECT, {"under_way": 4, "keep": 7, "merged": 1}), (Opcode.PASS, {}),
            (Opcode.PRUNE, {}), (Opcode.PASS, {"rows_from": isa.Rows.DROPPED})]
    words = program(*body, tokens=8)
    bench = Bench(words, retire=lambda bench: min(2, bench.cycle // 200), selects=selects)
    assert bench.run() == (Error.NONE, 5, 1)
    assert bench.logged("select") == [("select", words[1])]
    assert bench.logged("prune") == [("prune", 8)]
    at = max(200, bench.at("select") + selects)
    assert at <= bench.at("prune") <= at + 2
    assert bench.at("pass", 0) < bench.at("prune") < bench.at("pass", 1)


def test_tokens_that_the_selector_leaves():
    seen = []
    bench = Bench(program((Opcode.SELECT, {}), (Opcode.PRUNE, {}), tokens=8), after=4)
    step = bench.step

    async def watched(ctx):
        await step(ctx)
        seen.append((bool(bench.logged("prune")), ctx.get(bench.dut.tokens)))

    bench.step = watched
    assert bench.run()[0] == Error.NONE
    assert {tokens for pruned, tokens in seen if pruned} == {4}
    assert 4 not in {tokens for pruned, tokens in seen if not pruned}


@pytest.mark.parametrize("before, bad", [
    ([(Opcode.SELECT, {})], (Opcode.SELECT, {})),
    ([(Opcode.SELECT, {})], (Opcode.PASS, {"rows_from": isa.Rows.DROPPED})),
    ([(Opcode.SELECT, {}), (Opcode.PRUNE, {}), (Opcode.SELECT, {})],
     (Opcode.PASS, {"rows_from": isa.Rows.DROPPED})),
    ([(Opcode.SELECT, {}), (Opcode.PRUNE, {})], (Opcode.PRUNE, {})),
    ([(Opcode.SELECT, {}), (Opcode.PRUNE, {})] * isa.SELECTORS, (Opcode.SELECT, {})),
], ids=["two", "not yet", "no more", "prune twice", "too many"])
def test_bad_order_of_selectors(before, bad):
    bench = Bench(program(*before, bad), retire=_at_once)
    assert bench.run() == (Error.BAD_FIELD, 1 + len(before), 0)


@pytest.mark.parametrize("opcode, fields, error", [
    (Opcode.SELECT, {}, Error.BAD_OPCODE), (Opcode.PRUNE, {}, Error.BAD_OPCODE),
    (Opcode.PASS, {"destination": isa.Destination.SELECTOR}, Error.BAD_FIELD)])
def test_a_core_without_a_selector_refuses_it(opcode, fields, error):
    bench = Bench(program((opcode, fields)), config=replace(TINY, pruning=False))
    assert bench.run() == (error, 1, 0)


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
    assert not bench.logged("tokens") or error == Error.BAD_ADDRESS
    assert not [entry for entry in bench.log if entry[1].startswith(("weights", "pass"))]
    outside = arguments.get("model_bytes", 64) < 64 or "model_addr" in arguments
    assert len(bench.logged("program")) == (not outside)


@pytest.mark.parametrize("name, config, fields, arguments", [
    ("one instruction", ONE_PORT, {"instructions": 2}, {}),
    ("all tokens", ONE_PORT, {"tokens": TINY.max_tokens}, {}),
    ("one token", ONE_PORT, {"tokens": 1}, {}),
    ("weights to the end", ONE_PORT, {"weight_beats": ((1 << 20) - 4096) // 8}, {}),
    ("last byte of the weights", ONE_PORT, {}, {"model_bytes": 4096 + 24}),
    ("program to the end", ONE_PORT, {"weight_offset": 0, "weight_beats": 0},
     {"model_bytes": 128}),
    ("no weights", ONE_PORT, {"weight_beats": 0}, {}),
    ("stride of one port", ONE_PORT, {"weight_stride": 1}, {}),
    ("last stride", FOUR_PORTS, {"weight_stride": ((1 << 20) - 4096 - 48) // 3 // 16 * 16}, {}),
])
def test_begin_at_a_limit(name, config, fields, arguments):
    assert Bench(program(**fields), config=config, **arguments).run() == (Error.NONE, 1, 1)


def _bad_instructions():
    """Name, opcode and fields of an instruction, error."""
    for raw in (0, Opcode.BEGIN.value, 8, 255):
        yield f"opcode {raw}", Opcode.PASS, {"raw_opcode": raw}, Error.BAD_OPCODE
    for memory, rows in ((isa.Table.LANE, 64), (isa.Table.RECIPROCAL, 16), (isa.Table.RSQRT, 32),
                         (isa.Table.LIST, TINY.list_depth)):
        for first, count in ((rows, 1), (rows - 6, 7), (0xFFFF, 2), (0, 0), (0, 8)):
            yield (f"{memory.name} {first}+{count}", Opcode.TABLE,
                   {"table": memory, "first": first, "count": count}, Error.BAD_FIELD)
    for name, fields in (
        ("no rows", {"rows_from": isa.Rows.COUNT}),
        ("rows", {"rows_from": isa.Rows.COUNT, "row_first": TINY.max_tokens, "row_count": 1}),
        ("many rows", {"rows_from": isa.Rows.COUNT, "row_first": 1023, "row_count": 1023}),
        ("dropped rows", {"rows_from": isa.Rows.DROPPED}),
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
    yield "no classes", Opcode.END, {"classes": 0}, Error.BAD_FIELD
    yield "classes", Opcode.END, {"classes": TINY.max_classes + 1}, Error.BAD_FIELD


@pytest.mark.parametrize("name, opcode, fields, error", list(_bad_instructions()),
                         ids=lambda v: v if isinstance(v, str) else "")
def test_bad_instruction(name, opcode, fields, error):
    """The index is that of the instruction; what came before is handed out, and nothing after."""
    words = program(*[(Opcode.PASS, {})] * 2, (opcode, fields), (Opcode.TABLE, {}), tokens=3)
    bench = Bench(words, retire=_at_once)
    assert bench.run() == (error, 3, 0)
    assert bench.queued == 2
    assert not bench.logged("table", "end")


@pytest.mark.parametrize("opcode, fields", [
    (Opcode.TABLE, {"table": isa.Table.LANE, "first": 63}),
    (Opcode.TABLE, {"table": isa.Table.RECIPROCAL, "first": 9, "count": 7}),
    (Opcode.TABLE, {"table": isa.Table.RSQRT, "first": 25, "count": 7}),
    (Opcode.TABLE, {"table": isa.Table.LIST, "first": TINY.list_depth - 1}),
    (Opcode.PASS, {"rows_from": isa.Rows.COUNT, "row_first": TINY.max_tokens - 1, "row_count": 1}),
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
    assert Bench(words, retire=_at_once).run() == (Error.NONE, 4, 1)


def test_dependencies_in_a_long_program():
    """The count of passes behind stays at its limit; it does not begin anew."""
    passes = [(Opcode.PASS, {"row_dependency": min(n, 15), "operand_dependency": min(n, 15)})
              for n in range(40)]
    words = program(*passes)
    assert Bench(words, retire=_at_once).run() == (Error.NONE, 41, 1)


@pytest.mark.parametrize("classes", [1, TINY.max_classes])
def test_end_at_a_limit(classes):
    words = program()[:1] + [word(Opcode.END, classes=classes)]
    bench = Bench(words)
    assert bench.run() == (Error.NONE, 1, 1)
    assert bench.logged("end done") == [("end done", classes)]


def test_program_without_end():
    """The index is that of the instruction which is missing."""
    words = program((Opcode.PASS, {}), (Opcode.TABLE, {}), instructions=3)
    bench = Bench(words, retire=_at_once)
    assert bench.run() == (Error.BAD_OPCODE, 3, 0)
    assert len(bench.logged("table")) == 1


@pytest.mark.parametrize("unit, index", [("load", 1), ("end", 2)])
@pytest.mark.parametrize("error", [Error.BAD_ADDRESS, Error.BAD_FIELD])
def test_errors_of_the_units(unit, index, error):
    bench = Bench(program((Opcode.LOAD, {})), **{f"{unit}_error": error})
    assert bench.run() == (error, index, 0)
    assert len(bench.logged("end")) == (unit == "end")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [32, 64, 128])
def test_instructions_are_put_together_from_beats(bits, kind):
    config = replace(TINY, port_bits=bits)
    rng = random.Random(bits)
    tables = [{"table": isa.Table.LIST, "first": n, "count": 7,
               "rows": [rng.getrandbits(64) for _ in range(7)]} for n in range(5)]
    bench = Bench(program(*((Opcode.TABLE, f) for f in tables)), config=config, kind=kind)
    assert bench.run() == (Error.NONE, 6, 1)
    assert [data for *_, data in bench.logged("table")] == [r for f in tables for r in f["rows"]]
