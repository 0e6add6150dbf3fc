# SPDX-License-Identifier: BSD-2-Clause
"""Tests that programs wait for what they read: golden.lower against the rules of rtl.issue.

The interpreter runs a pass after another, the hardware up to four at once. Here every word that a
pass reads is traced to the row of the pass that wrote it last, and that row must have retired by
what the instructions wait for, whatever the speed of the rest. No pass may touch what is loaded
while it may be loaded.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from amaranth.lib import data
from networks import Network, network, noise
from numpy.typing import NDArray
from pruned_networks import pruned_network

from golden.interpreter import _Machine
from golden.interpreter_buffers import PassRows
from golden.lower import lower
from golden.program import Program, sealed, tokens_of
from rtl.config import PASS_SLOTS, named
from rtl.isa import (
    Destination,
    Opcode,
    Prologue,
    Rows,
    SelectorKind,
    Source,
    Stationary,
    Table,
    load_layout,
    pass_layout,
)


class _Traced(_Machine):
    """Notes for each pass what it reads, and the position of the row; what it writes, and which of
    its rows; and its first and last position, and how many there are. Of each LOAD what it writes.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.reads: list[list[tuple[Any, int]]] = []
        self.writes: list[list[tuple[Any, int]]] = []
        self.shapes: list[tuple[int, int, int]] = []
        self.loads: list[set[Any]] = []
        self.count = 0
        self.used: NDArray[np.bool_] | None = None
        self.storing = self.identity = self.loading = False

    def load(self, fields: data.Const) -> None:
        self.loading = True
        self.loads.append(set())
        super().load(fields)
        self.loading = False

    def run_pass(self, f: data.Const) -> None:
        rows = self.rows_of(f)
        _, self.count = self.segment(f)
        # It writes back what it reads: whoever comes between finds the same.
        self.identity = f.stationary == Stationary.NONE and not f.package
        self.reads.append([])
        self.writes.append([])
        first = 0 if f.rows_from == Rows.EACH else int(rows.position[0])
        self.shapes.append((first, int(rows.position[-1]), len(rows)))
        super().run_pass(f)
        for row, (position, physical) in enumerate(zip(
                rows.position.tolist(), rows.physical.tolist(), strict=True)):
            if f.prologue == Prologue.NORM:
                self.reads[-1].append((("norm", f.norm_slot, physical), position))
            if f.statistics:
                self.writes[-1].append((("norm", f.norm_slot, physical), row))
            if f.prologue == Prologue.EXP and f.exp_m:
                self.reads[-1].append((("max", f.source_slot, position), position))
            if f.destination == Destination.SCORE:
                self.writes[-1].append((("max", f.destination_slot, position), row))

    def prologue(self, f: data.Const, rows: PassRows, entries: Any, broadcast: Any) -> Any:
        # Scores that exp_m makes zero of do not matter.
        used = entries.reshape(-1) >= 0
        self.used = used & bool(f.exp_m) if f.prologue == Prologue.EXP else used
        try:
            return super().prologue(f, rows, entries, broadcast)
        finally:
            self.used = None

    def place(self, source: Any, base: int, stride: int, rows: PassRows, blocks: Any,
              broadcast: Any = False) -> Any:
        word, bank = super().place(source, base, stride, rows, blocks, broadcast)
        if self.loading:
            self.loads[-1] |= {(source, int(w), int(b))
                               for w, b in zip(word.flat, bank.flat, strict=True)}
        elif self.reads:
            log = self.writes[-1] if self.storing else self.reads[-1]
            if self.storing and self.identity and source == Source.RESIDUAL:
                return word, bank
            # Tokens beyond the last one are exponentiated to zero.
            beyond = (source == Source.SCORE) & (blocks * self.config.block >= self.count)
            for i, position in enumerate(rows.position.tolist()):
                for k in range(len(blocks)):
                    if (self.used is None or self.used[k]) and not (beyond[k] and not self.storing):
                        log.append(((source, int(word[i, k]), int(bank[i, k])),
                                    i if self.storing else position))
        return word, bank

    def store(self, *args: Any) -> None:
        self.storing = True
        super().store(*args)
        self.storing = False


def executed(program: Program, rounds: int) -> Iterator[data.Const]:
    """Give the instructions of a run."""
    yield from program.instructions
    for _ in range(rounds - 1):
        yield from program.instructions[program.instructions[0].loop:]


def check(net: Network, program: Program, rounds: int = 1) -> None:
    frames = [noise(net.qvit.model, i).tobytes() for i in range(rounds * program.batch)]
    machine = _Traced(program.image, program.config, frames, 0)
    machine.run()
    loads = iter(machine.loads)
    loading: set[Any] = set()  # what may still be loaded
    gone = -1      # passes up to this one have retired when the next instruction is taken
    written: dict[Any, tuple[int, int]] = {}
    operands: dict[Any, int] = {}
    over = -1      # passes up to this one have retired when the next one is issued
    loaded = -1    # the same, when its operands are loaded
    queued = 0
    fields: list[data.Const] = []

    def meets(passes: range) -> None:
        for number in passes:
            for place, _ in machine.reads[number] + machine.writes[number]:
                assert place not in loading, (
                    f"pass {number} ({label(number)}) is under way while {place} is loaded")

    def label(number: int) -> Any:
        return program.labels[number % len(program.labels)]

    for f in executed(program, rounds):
        if f.opcode in (Opcode.TABLE, Opcode.LOAD, Opcode.IMAGE, Opcode.SELECT, Opcode.PRUNE,
                        Opcode.END):
            waits_for_all = f.opcode in (Opcode.IMAGE, Opcode.PRUNE, Opcode.END)
            done = queued - 1 - (0 if waits_for_all else f.under_way)
            gone = max(gone, done)
            if f.opcode == Opcode.LOAD:
                written_now = next(loads)
                if not written_now:
                    continue  # ahead of the last round
                loading = written_now
                meets(range(gone + 1, queued))
                for place in loading:
                    written.pop(place, None)
            if f.opcode == Opcode.TABLE and f.table == Table.LANE and f.first < 40:
                assert not any(p.gelu for p in fields[done + 1:]), "a table in use is rewritten"
            if f.opcode == Opcode.SELECT:
                topk = f.kind == SelectorKind.TOPK
                assert not any(p.class_attention if topk else p.destination == Destination.SELECTOR
                               for p in fields[done + 1:]), "scores are not there yet"
                # The selector borrows the reciprocal of the row sum.
                assert not any(p.prologue == Prologue.EXP for p in fields[done + 1:])
            over, loaded = max(over, done), max(loaded, done)
        if f.opcode != Opcode.PASS:
            continue
        index, queued = queued, queued + 1
        fields.append(f)
        if f.source == Source.PATCH:
            loading = set()
        meets(range(index, queued))
        over, loaded = max(over, index - PASS_SLOTS), max(loaded, index - PASS_SLOTS)
        gone = max(gone, index - PASS_SLOTS)
        waits = index - f.row_dependency if f.row_dependency else -1
        earlier = fields[waits]
        of_residual = earlier.destination == Destination.RESIDUAL
        last_row = earlier.rows_from == Rows.LAST
        by_row = (waits >= 0 and earlier.rows_from != Rows.DROPPED
                  and not (last_row and not (of_residual and earlier.of_segment)))
        of_last = waits >= 0 and last_row and of_residual and not earlier.of_segment
        # What it waits for: its first position, its last one, and the number of its rows.
        made_first, made_last, made = machine.shapes[waits]
        for place, position in machine.reads[index]:
            writer, row = written.get(place, (-1, 0))
            known = over
            if waits >= 0 and not (of_last and position != made_last):
                known = max(known, waits - 1 if by_row else waits)
                if by_row and writer == waits and row <= position - made_first:
                    known = waits
            assert writer <= known, (f"pass {index} ({label(index)}) reads {place} of pass"
                                     f" {writer} ({label(writer)}) too early")
        if f.stationary in (Stationary.KEY, Stationary.VALUE):
            if f.operand_dependency:
                loaded = max(loaded, index - f.operand_dependency)
            assert operands[f.stationary] <= loaded, f"operands of pass {index} are not there yet"
            # Exponentials and GELU share the lanes: operands are loaded after what they wait for,
            # and a row behind all rows of a pass waits for its end.
            if f.prologue == Prologue.EXP:
                _, last, count = machine.shapes[index]
                ended = waits if count == 1 and last >= made_last else -1
                assert not any(p.gelu for p in fields[max(loaded, over, ended) + 1:index])
        elif f.gelu and by_row:
            assert not any(p.prologue == Prologue.EXP
                           for p in fields[max(over, waits) + 1:index])
        for place, position in machine.writes[index]:
            written[place] = index, position
        if f.destination in (Destination.KEY, Destination.VALUE):
            operands[Stationary.KEY if f.destination == Destination.KEY
                     else Stationary.VALUE] = index
        if waits >= 0:
            # Its last row has been issued: all that it waits for is over, if rows match.
            ended = not by_row or machine.shapes[index][1] - made_first + 1 >= made
            over = max(over, waits if ended else waits - 1)
            assert made > 0
        loaded = max(loaded, over)


@pytest.mark.parametrize(("name", "selector", "what", "config"), [
    ("tiny_test", "topk", (5, 2), "small"), ("head16", "topk", (9, 0), "zcu102"),
    ("tiny_test", "threshold", (0, 0), "zcu102"), ("head16", "threshold", (0, 0), "small"),
    ("head48", "threshold", (0, 0), "tiny"), ("two_tokens", "threshold", (0, 0), "kv260")])
def test_what_is_read_is_waited_for(name: str, selector: str, what: tuple[float, ...],
                                    config: str) -> None:
    net = pruned_network(name, selector, "merged", (1, 2), what)
    check(net, lower(net.qvit, named(config)))


@pytest.mark.parametrize("name", ["small_test", "heads16", "two_tokens"])
def test_dense_networks_wait_too(name: str) -> None:
    net = network(name)
    check(net, lower(net.qvit, named("zcu102")), rounds=2)


@pytest.mark.parametrize("name", ["small_test", "heads16", "two_tokens"])
def test_rows_of_the_last_block_wait_too(name: str) -> None:
    net = network(name)
    check(net, lower(net.qvit, named("zcu102"), last_block="cls"))


@pytest.mark.parametrize(("name", "selector", "what"), [
    ("tiny_test", "topk", (5, 2)), ("head16", "threshold", (0, 0))])
def test_rows_of_a_last_block_with_a_selector_wait_too(name: str, selector: str,
                                                       what: tuple[float, ...]) -> None:
    net = pruned_network(name, selector, "merged", (1, 2), what)
    check(net, lower(net.qvit, named("small"), last_block="cls"))


@pytest.mark.parametrize(("name", "package", "what", "batch", "last_block"), [
    ("tiny_test", "each", (5, 2), 3, "all"), ("tiny_test", "merged", (9, 4), 2, "cls"),
    ("head16", "merged", (9, 5), 4, "cls"), ("heads16", "each", (3, 1), 3, "all"),
    ("head16", "each", (3, 0), 2, "all")])
def test_batches_wait_too(name: str, package: str, what: tuple[float, ...], batch: int,
                          last_block: str) -> None:
    net = pruned_network(name, "topk", package, (1, 2), what)
    check(net, lower(net.qvit, named("zcu102"), last_block=last_block, batch=batch))


@pytest.mark.parametrize(("selector", "what", "batch"), [
    ("topk", (5, 2), 2), ("threshold", (0, 0), 1)])
def test_rounds_of_selectors_wait_too(selector: str, what: tuple[float, ...], batch: int) -> None:
    net = pruned_network("tiny_test", selector, "merged", (1, 2), what)
    check(net, lower(net.qvit, named("small"), batch=batch), rounds=2)


def found_missing(net: Network, program: Program) -> set[tuple[str, str]]:
    """Return the dependencies, of the first or the last pass of a kind, whose lack is found."""
    passes = program.passes_for(tokens_of(program, net.stages))
    labels = list(enumerate(program.labels))
    one = {(label.kind, end): index for end, order in enumerate((labels, labels[::-1]))
           for index, label in order}
    shift = {name: pass_layout[name].offset for name in ("row_dependency", "operand_dependency")}
    found = set()
    for (kind, _), index in one.items():
        at = passes[index].instruction
        for name, offset in shift.items():
            if not getattr(program.instructions[at], name):
                continue
            image = bytearray(program.image)
            word = int.from_bytes(image[64 * at:64 * at + 64], "little") & ~(0xF << offset)
            image[64 * at:64 * at + 64] = word.to_bytes(64, "little")
            try:
                check(net, replace(program, image=sealed(bytes(image))))
            except AssertionError:
                found.add((name, str(kind)))
    return found


def test_a_dependency_that_is_missing_is_found() -> None:
    net = pruned_network("tiny_test", "threshold", "each", (1,), (0,))
    found = found_missing(net, lower(net.qvit, named("small")))
    assert found >= {("row_dependency", kind) for kind in (
        "q", "score", "attention", "mlp1", "mlp2", "head_norm", "local", "mean", "score1", "score2",
        "package_norm")}
    assert found >= {("operand_dependency", "score"), ("operand_dependency", "mean")}


def test_a_dependency_that_is_missing_in_a_batch_is_found() -> None:
    net = pruned_network("tiny_test", "topk", "each", (1,), (4,))
    found = found_missing(net, lower(net.qvit, named("small"), batch=2))
    assert found >= {("row_dependency", kind) for kind in (
        "q", "score", "attention", "projection", "mlp1", "mlp2", "package_norm", "head")}
    assert ("operand_dependency", "score") in found


@pytest.mark.parametrize("batch", [1, 2])
def test_a_frame_that_comes_over_the_last_one_is_found(batch: int) -> None:
    net = pruned_network("tiny_test", "topk", "each", (1,), (4,))
    program = lower(net.qvit, named("small"), batch=batch)
    at = next(i for i, f in enumerate(program.instructions)
              if f.opcode == Opcode.LOAD and f.under_way)
    with pytest.raises(AssertionError, match=r"embed.residual.* is under way while .*PATCH"):
        check(net, _changed(program, at, under_way=PASS_SLOTS), rounds=2)


def test_rows_that_come_over_those_in_use_are_found() -> None:
    """Those of the next round, where they do not take turns."""
    net = network("small_test")
    program = lower(net.qvit, named("zcu102"))
    at = next(i for i, f in enumerate(program.instructions)
              if f.opcode == Opcode.LOAD and f.alternate)
    with pytest.raises(AssertionError, match="is under way while .*RESIDUAL"):
        check(net, _changed(program, at, alternate=0), rounds=2)


def _changed(program: Program, at: int, **fields: int) -> Program:
    """Return the program with other fields in a LOAD."""
    image = bytearray(program.image)
    word = int.from_bytes(image[64 * at:64 * at + 64], "little")
    for name, value in fields.items():
        field = load_layout[name]
        word &= ~(((1 << field.width) - 1) << field.offset)
        word |= value << field.offset
    image[64 * at:64 * at + 64] = word.to_bytes(64, "little")
    return replace(program, image=sealed(bytes(image)))
