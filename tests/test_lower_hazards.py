# SPDX-License-Identifier: BSD-2-Clause
"""Tests that programs wait for what they read: golden.lower against the rules of rtl.issue.

The interpreter runs a pass after another, the hardware up to four at once. Here every word that a
pass reads is traced to the row of the pass that wrote it last, and that row must have retired by
what the instructions wait for, whatever the speed of the rest.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from amaranth.lib import data
from networks import Network, network
from numpy.typing import NDArray
from pruned_networks import pruned_network

from golden.interpreter import _Machine
from golden.interpreter_buffers import PassRows
from golden.lower import lower
from golden.program import Program, tokens_of
from rtl.config import PASS_SLOTS, named
from rtl.isa import (
    Destination,
    LoadKind,
    Opcode,
    Prologue,
    Rows,
    SelectorKind,
    Source,
    Stationary,
    Table,
    pass_layout,
)


class _Traced(_Machine):
    """Notes for each pass what it reads and writes: a place, and the position of the row."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.reads: list[list[tuple[Any, int]]] = []
        self.writes: list[list[tuple[Any, int]]] = []
        self.shapes: list[tuple[int, int]] = []
        self.used: NDArray[np.bool_] | None = None
        self.storing = self.identity = False

    def run_pass(self, f: data.Const) -> None:
        rows = self.rows_of(f)
        # It writes back what it reads: whoever comes between finds the same.
        self.identity = f.stationary == Stationary.NONE and not f.package
        self.reads.append([])
        self.writes.append([])
        self.shapes.append((int(rows.position[-1]), len(rows)))
        super().run_pass(f)
        for position, physical in zip(rows.position.tolist(), rows.physical.tolist(), strict=True):
            if f.prologue == Prologue.NORM:
                self.reads[-1].append((("norm", f.norm_slot, physical), position))
            if f.statistics:
                self.writes[-1].append((("norm", f.norm_slot, physical), position))
            if f.prologue == Prologue.EXP and f.exp_m:
                self.reads[-1].append((("max", f.source_slot, position), position))
            if f.destination == Destination.SCORE:
                self.writes[-1].append((("max", f.destination_slot, position), position))

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
        if self.reads and source != Source.PATCH:
            log = self.writes[-1] if self.storing else self.reads[-1]
            if self.storing and self.identity and source == Source.RESIDUAL:
                return word, bank
            # Tokens beyond the last one are exponentiated to zero.
            beyond = (source == Source.SCORE) & (blocks * 16 >= self.selector.tokens)
            for i, position in enumerate(rows.position.tolist()):
                for k in range(len(blocks)):
                    if (self.used is None or self.used[k]) and not (beyond[k] and not self.storing):
                        log.append(((source, int(word[i, k]), int(bank[i, k])), position))
        return word, bank

    def store(self, *args: Any) -> None:
        self.storing = True
        super().store(*args)
        self.storing = False


def check(net: Network, program: Program) -> None:
    machine = _Traced(program.image, program.config, [net.frame.tobytes()], 0)
    machine.run()
    written: dict[Any, tuple[int, int]] = {}
    operands: dict[Any, int] = {}
    over = -1      # passes up to this one have retired when the next one is issued
    loaded = -1    # the same, when its operands are loaded
    queued = 0
    fields: list[data.Const] = []
    for f in program.instructions:
        if f.opcode in (Opcode.TABLE, Opcode.LOAD, Opcode.SELECT, Opcode.PRUNE):
            done = queued - 1 - (0 if f.opcode == Opcode.PRUNE else f.under_way)
            if f.opcode == Opcode.LOAD and f.kind == LoadKind.FRAME:
                assert not any(p.source == Source.PATCH for p in fields[done + 1:]), (
                    "a frame in use is overwritten")
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
        over, loaded = max(over, index - PASS_SLOTS), max(loaded, index - PASS_SLOTS)
        waits = index - f.row_dependency if f.row_dependency else -1
        by_row = waits >= 0 and fields[waits].rows_from in (Rows.COUNT, Rows.TOKENS)
        for place, position in machine.reads[index]:
            writer, row = written.get(place, (-1, 0))
            of_last = (waits >= 0 and fields[waits].rows_from == Rows.LAST
                       and fields[waits].destination == Destination.RESIDUAL)
            known = over
            if waits >= 0 and not (of_last and position != machine.shapes[waits][0]):
                known = max(known, waits - 1 if by_row else waits)
                if by_row and writer == waits:
                    known = waits if row <= position else known
            assert writer <= known, (f"pass {index} ({program.labels[index]}) reads {place} of"
                                     f" pass {writer} ({program.labels[writer]}) too early")
        if f.stationary in (Stationary.KEY, Stationary.VALUE):
            if f.operand_dependency:
                loaded = max(loaded, index - f.operand_dependency)
            assert operands[f.stationary] <= loaded, f"operands of pass {index} are not there yet"
            # Exponentials and GELU share the lanes: operands are loaded after what they wait for,
            # and a row behind all rows of a pass waits for its end.
            if f.prologue == Prologue.EXP:
                last, count = machine.shapes[index]
                ended = waits if count == 1 and last >= machine.shapes[waits][0] else -1
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
            last, count = machine.shapes[waits]
            over = max(over, waits if machine.shapes[index][0] >= last or not by_row
                       else waits - 1)
            assert count > 0
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
    check(net, lower(net.qvit, named("zcu102")))


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


def test_a_dependency_that_is_missing_is_found() -> None:
    net = pruned_network("tiny_test", "threshold", "each", (1,), (0,))
    program = lower(net.qvit, named("small"))
    passes = program.passes_for(tokens_of(program, net.stages))
    first = {label.kind: index for index, label in reversed(list(enumerate(program.labels)))}
    shift = {name: pass_layout[name].offset for name in ("row_dependency", "operand_dependency")}
    found = set()
    for kind, index in first.items():
        at = passes[index].instruction
        for name, offset in shift.items():
            if not getattr(program.instructions[at], name):
                continue
            image = bytearray(program.image)
            word = int.from_bytes(image[64 * at:64 * at + 64], "little") & ~(0xF << offset)
            image[64 * at:64 * at + 64] = word.to_bytes(64, "little")
            try:
                check(net, replace(program, image=bytes(image)))
            except AssertionError:
                found.add((name, kind))
    assert found >= {("row_dependency", kind) for kind in (
        "q", "score", "attention", "mlp1", "mlp2", "head_norm", "local", "mean", "score1", "score2",
        "package_norm")}
    assert found >= {("operand_dependency", "score"), ("operand_dependency", "mean")}
