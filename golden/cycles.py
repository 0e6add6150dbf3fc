# SPDX-License-Identifier: BSD-2-Clause
"""The cycle model: when the tiles of a program are loaded, streamed and retired."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.lib import data
from numpy.typing import NDArray

from golden.cycles_memory import Fetch, Memory, Weights
from golden.program import Program
from rtl.class_attention import ClassAttention
from rtl.config import MIN_TILE_CYCLES, PASS_SLOTS, Config
from rtl.control import RunControl
from rtl.core import Core
from rtl.fifo import Fifo
from rtl.isa import (
    SCALE_BYTES,
    Destination,
    Opcode,
    Rows,
    ScaleSource,
    SelectorKind,
    Stationary,
)
from rtl.search import TopKSearch
from rtl.selector import Selector

__all__ = ["BYTES_PER_CYCLE", "LATENCY", "CycleModel"]

#: The memory unless told otherwise: bytes per cycle of all ports together, cycles to the first
#: data. It is that of :class:`sim.simulate.Bus`.
BYTES_PER_CYCLE, LATENCY = 64, 100

#: Cycles from the write of the control register to the reset of the core, and, beside what the
#: core is given to settle, from its end to the interrupt.
_CONTROL = 4
_INTERRUPT = 4

#: Registers and states of the dispatcher: from the end of the reset to the request of BEGIN (the
#: pulse, Idle), from BEGIN to the first request of weights (Begin, Window) and, beside one for each
#: port, to that of the rest (Begin, Window, Default); from an instruction to the request of the
#: state that follows (Next), until a pass that is queued is seen by the loader.
_START = 2
_WINDOW = 2
_REST = 3
_FOLLOW = 1
_QUEUE = 1

#: Cycles of the tile loader: from its state Tile to the first row, and from the last one, when the
#: tile is taken, to the next state Tile, Column or Pass.
_LIST = 2
_NEXT = 2

#: States of a LOAD before its request.
_LOAD_STATES = 3

#: States of the logit unit before its first word.
_LOGITS = 3

#: Cycles of a write beside the latency of the memory: it is taken, its answer registered.
_ANSWER = 2

#: Bits of a score, each a sweep of the search.
_SEARCH_STEPS = 16


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What the model takes from an instruction.

    Tiles are 0 where they follow the tokens. ``count`` are rows of a table or classes, ``size``
    and ``units`` the bytes of a LOAD and the cycles that it takes to write them.
    """

    opcode: Opcode
    under_way: int = 0
    count: int = 0
    size: int = 0
    units: int = 0
    by_score: bool = False
    rows_from: Any = Rows.TOKENS
    row_first: int = 0
    row_count: int = 0
    column_tiles: int = 0
    k_tiles: int = 0
    stationary: Any = Stationary.WEIGHT
    own_scales: bool = False
    row_dependency: int = 0
    operand_dependency: int = 0
    to_residual: bool = False
    to_selector: bool = False
    class_attention: bool = False

    @classmethod
    def of(cls, fields: data.Const, config: Config) -> "_Step":
        """Return the step of an instruction."""
        opcode = Opcode(fields.opcode)
        if opcode == Opcode.TABLE:
            return cls(opcode=opcode, under_way=fields.under_way, count=fields.count)
        if opcode == Opcode.LOAD:
            rows = fields.count * fields.lines * fields.patch_rows
            return cls(opcode=opcode, size=rows * fields.row_bytes,
                       units=rows * -(-fields.row_bytes // config.block))
        if opcode == Opcode.SELECT:
            return cls(opcode=opcode, under_way=fields.under_way,
                       by_score=SelectorKind(fields.kind) == SelectorKind.TOPK)
        if opcode == Opcode.END:
            return cls(opcode=opcode, count=fields.classes)
        if opcode != Opcode.PASS:
            return cls(opcode=opcode)
        return cls(
            opcode=opcode, rows_from=fields.rows_from, row_first=fields.row_first,
            row_count=fields.row_count,
            column_tiles=0 if fields.columns_from_tokens else fields.column_tiles,
            k_tiles=0 if fields.k_from_tokens else fields.k_tiles,
            stationary=fields.stationary,
            own_scales=ScaleSource(fields.scale_source) == ScaleSource.COLUMN,
            row_dependency=fields.row_dependency, operand_dependency=fields.operand_dependency,
            to_residual=Destination(fields.destination) == Destination.RESIDUAL,
            to_selector=Destination(fields.destination) == Destination.SELECTOR,
            class_attention=bool(fields.class_attention))


@dataclass
class _Issued:
    """A pass whose rows have been issued: those of its last tile are what others wait for.

    ``last`` are the cycles in which its last rows were, from position ``first`` on; ``retired`` is
    the cycle from which the whole pass is known to be over.
    """

    step: _Step
    first: int
    last: NDArray[np.int64]
    retired: int


class CycleModel:
    """Cycles of an image from the start to the interrupt, without running it.

    Follows the units that decide when what happens: the dispatcher, which hands over
    instructions; the tile loader, which fills a tile while the one before is streamed; the issue
    stage, which streams rows when those that they are made of are written; the selector; the
    memory, as ``sim`` has it.

    Parameters
    ----------
    program
        The program.
    bytes_per_cycle, latency
        The memory: bytes per cycle of all ports together, cycles to the first data.
    """

    def __init__(self, program: Program, bytes_per_cycle: float = BYTES_PER_CYCLE,
                 latency: int = LATENCY) -> None:
        if not 1 <= bytes_per_cycle <= 4096:
            raise ValueError(f"bytes per cycle is {bytes_per_cycle:g}, must be between 1 and 4096")
        if not 1 <= latency <= 100_000:
            raise ValueError(f"latency is {latency}, must be between 1 and 100000")
        self.program = program
        self.config = config = program.config
        core = Core(config)
        #: From a row's issue to its entry into the array, and until others may read it.
        self.to_array = core.loader.lead - 1
        self.to_sums = self.to_array + core.rowsum.latency
        self.to_pairs = self.to_array - core.at_array + core.at_write + core.statistics.pair_latency
        self.to_retire = self.to_array - core.at_array + core.at_retire + 1
        #: How many rows of a tile may be missing when it is offered, by the source of its rows.
        self.ahead = {kind: max(1, core.loader.lead + 2 - cycles) for kind, cycles in (
            (Stationary.WEIGHT, 2), (Stationary.KEY, 2 + core.keys.latency),
            (Stationary.VALUE, 3 + core.values.LATENCY))}
        self.memory = Memory(config, bytes_per_cycle, latency)
        self.step_cycles = TopKSearch(config).step_cycles if config.pruning else 0
        self.steps = [_Step.of(fields, program.config) for fields in program.instructions]

    def cycles(self, tokens: Sequence[int]) -> int:
        """Return the cycles of an image with so many tokens at the start, after each selector."""
        if len(tokens) != self.program.selectors + 1 or tokens[0] != self.program.tokens:
            raise ValueError(f"the numbers of tokens are {', '.join(map(str, tokens))}, must be"
                             f" {self.program.tokens} and one for each of"
                             f" {self.program.selectors} selectors")
        return _Run(self, tokens).end


class _Run:
    """One image: the state of all units, and when it ends."""

    def __init__(self, model: CycleModel, tokens: Sequence[int]) -> None:
        self.m, self.config = model, model.config
        self.left = list(tokens)
        self.tokens, self.dropped = self.left.pop(0), 1
        self.passes: list[_Issued] = []
        self.free = 0        # cycle in which the issue stage takes the next tile
        self.swapped = 0     # cycle of the last swap
        self.loader = 0      # cycle in which the loader takes the next pass
        self.scores = 0      # cycle of the last score, or pair
        self.selected = 0    # cycle in which the selector has ended
        self.end = self._run()

    def _run(self) -> int:
        memory = self.m.memory
        start = _CONTROL + RunControl.RESET_CYCLES + RunControl.SETTLE_CYCLES + _START
        # BEGIN is there; its fields are checked, and the streams of weights asked for.
        begun = start + memory.read_delay + memory.instruction_beats
        self.weights = Weights(memory, begun + _WINDOW + memory.read_delay + Fifo.LATENCY
                               + round(memory.row_interval))
        fetch = Fetch(memory, self.weights, begun + _REST + self.config.ports)
        now = fetch.next(begun)
        listed = begun + self.config.max_tokens  # the list of tokens is there
        for index, step in enumerate(self.m.steps[1:], 1):
            if step.opcode == Opcode.TABLE:
                now = self._under_way(step.under_way, now) + step.count
            elif step.opcode == Opcode.LOAD:
                now = self._load(max(self._under_way(0, now), listed), step)
            elif step.opcode == Opcode.PASS:
                now = self._under_way(PASS_SLOTS - 1, max(now, listed))
                self._issue(step, now + _QUEUE)
            elif step.opcode == Opcode.SELECT:
                now = self._under_way(step.under_way, now)
                self._select(step, now)
            elif step.opcode == Opcode.PRUNE:
                now = max(self._under_way(0, now), self.selected)
                self.tokens = self.left.pop(0)
            elif step.opcode == Opcode.END:
                return self._finish(self._under_way(0, now), step.count)
            else:
                raise ValueError(f"instruction {index} is {step.opcode.name}, must be one that the"
                                 " cycle model knows behind BEGIN")
            now = fetch.next(now + _FOLLOW)
        raise ValueError(f"the last of {len(self.m.steps)} instructions is"
                         f" {self.m.steps[-1].opcode.name}, must be END")

    def _under_way(self, most: int, now: int) -> int:
        """Return when there are at most so many passes under way."""
        return max(now, self.passes[-1 - most].retired) if len(self.passes) > most else now

    def _load(self, now: int, step: _Step) -> int:
        begin = now + _LOAD_STATES + self.m.memory.read_delay
        beats = -(-8 * step.size // self.config.port_bits)
        self.weights.load(begin, beats, step.units)
        return round(self.weights.loaded())

    def _finish(self, now: int, classes: int) -> int:
        """Return when the logits are in memory, a word a cycle, and the interrupt is there."""
        padded = -(-classes // 4) * 4
        words = padded + 4 + -(-classes // self.config.columns)
        written = now + _LOGITS + words + self.m.memory.latency + _ANSWER
        return written + _INTERRUPT + RunControl.SETTLE_CYCLES

    # Selectors

    def _select(self, step: _Step, now: int) -> None:
        before, after = self.tokens, self.left[0]
        self.dropped = max(1, before - after + 1)
        if step.by_score:
            words = -(-before // self.config.comparators)
            search = _SEARCH_STEPS * (words + self.m.step_cycles) + 1
            self.selected = (max(now, self.scores) + search
                             + Selector.busy_cycles(before, self.dropped))

    def _pairs(self, last: int) -> None:
        self.selected = last + self.m.to_pairs + Selector.busy_cycles(1, self.dropped)

    # Passes

    def _rows(self, step: _Step) -> tuple[int, int]:
        """Return the first position and the number of rows."""
        if step.rows_from == Rows.COUNT:
            return step.row_first, step.row_count
        if step.rows_from == Rows.TOKENS:
            return 0, self.tokens
        if step.rows_from == Rows.DROPPED:
            return 0, self.dropped
        return self.tokens - 1, 1

    def _first_rows(self, step: _Step, first: int, rows: int, now: int) -> NDArray[np.int64]:
        """Return when the rows of the first tile are issued, the first not before ``now``."""
        steady = np.arange(rows)
        if not step.row_dependency:
            return now + steady
        made = self.passes[-step.row_dependency]
        ready = np.full(rows, made.retired)
        if made.step.rows_from != Rows.DROPPED:
            at = first + steady - made.first
            known = (at >= 0) & (at < len(made.last))
            ready[known] = np.minimum(made.retired, made.last[at[known]] + self.m.to_retire)
        if made.step.rows_from == Rows.LAST and made.step.to_residual:
            ready[first + steady + 1 != self.tokens] = 0
        return np.maximum.accumulate(np.maximum(ready, now) - steady) + steady

    def _issue(self, step: _Step, queued: int) -> None:
        """Stream a pass tile after tile; it is queued from this cycle on."""
        rows_of_tile, to_array = self.config.rows, self.m.to_array
        first, rows = self._rows(step)
        columns = step.column_tiles or -(-self.tokens // self.config.columns)
        depth = step.k_tiles or -(-self.tokens // self.config.rows)
        padding = max(0, MIN_TILE_CYCLES - rows)
        operands = (self.passes[-step.operand_dependency].retired
                    if step.operand_dependency else 0)
        ahead = self.m.ahead.get(step.stationary, 0)
        early = max(0, rows_of_tile - ahead)
        # The cycle in which the loader is in its state Column, then in its state Tile.
        at = max(self.loader, queued) + 1
        for column in range(columns):
            at = self.weights.take(SCALE_BYTES, at + 1) + 1 if step.own_scales else at + 1
            for k in range(depth):
                begin = max(at + _LIST, self.swapped + 1, operands)
                if step.stationary == Stationary.NONE:
                    filled, offered = begin + 1, begin + 2
                elif step.stationary == Stationary.WEIGHT:
                    filled = self.weights.take(rows_of_tile, begin) + 1
                    offered = max(begin + early, int(self.weights.arrived)) + 1
                else:
                    filled, offered = begin + rows_of_tile, begin + early + 1
                taken = max(offered, self.free)
                if column == k == 0:
                    issued = self._first_rows(step, first, rows, taken + 1)
                    start, end = int(issued[0]), int(issued[-1])
                else:
                    start, end = taken + 1, taken + rows
                self.free = end + padding
                self.swapped = start + to_array
                at = max(filled, taken + 1) + _NEXT
                if step.class_attention and column == 0 and k == depth - 1:
                    self.scores = start + self.m.to_sums + ClassAttention.LATENCY + self.tokens
        if columns * depth > 1:
            issued = start + np.arange(rows)
        self.loader = at
        self.passes.append(_Issued(step, first, issued, end + self.m.to_retire))
        if step.to_selector:
            self._pairs(end)
