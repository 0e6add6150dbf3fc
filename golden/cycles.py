# SPDX-License-Identifier: BSD-2-Clause
"""The cycle model: when the tiles of a program are loaded, streamed and retired."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from golden.cycles_memory import Fetch, Memory, Weights
from golden.cycles_program import Step
from golden.program import Program
from rtl.class_attention import ClassAttention
from rtl.config import MIN_TILE_CYCLES, PASS_SLOTS
from rtl.control import RunControl
from rtl.core import Core
from rtl.fifo import Fifo
from rtl.isa import SCALE_BYTES, Opcode, Rows, Stationary
from rtl.search import TopKSearch
from rtl.selector import Selector

__all__ = ["BYTES_PER_CYCLE", "LATENCY", "CycleModel"]

#: The memory unless told otherwise: bytes per cycle of all ports together, cycles to the first
#: data. It is that of :class:`sim.simulate.Bus`.
BYTES_PER_CYCLE, LATENCY = 64, 100

#: Cycles from the write of the control register to the reset of the core, and, beside what the
#: core is given to settle, from its end to the interrupt; from that write to the start of the core.
_CONTROL = 4
_INTERRUPT = 4
_BEFORE = _CONTROL + RunControl.RESET_CYCLES + RunControl.SETTLE_CYCLES

#: Registers and states of the dispatcher: from the end of the reset to the request of BEGIN (the
#: pulse, Idle), from BEGIN to the requests of the first port and of the program (checks of two
#: cycles, the state Begin, RoundRequests of two), until an instruction that is there is checked,
#: from an instruction to the first beat of the next, until a pass that is queued is seen by the
#: loader.
_START = 2
_REQUEST = 5
_CHECK = 1
_FOLLOW = 1
_QUEUE = 1

#: Cycles of the issue stage from the acceptance of a tile until it may begin.
_ACCEPT = 2

#: Registers between the counter of passes that have ended, or of their rows, and the dispatcher, or
#: the issue stage; between what an instruction waits for and its execution.
_ENDED = 1
_VERDICT = 1

#: Registers behind the last beat of the program that its checksum is taken of.
_SUM = 2

#: Cycles of the tile loader from its states Pass, Column and Tile until a tile is prepared; it does
#: that while it loads the tile before.
_PASS = 4
_COLUMN = 3
_TILE = 2

#: States of a LOAD before its request, and registers behind its last unit.
_LOAD_STATES = 4
_LOADED = 1

#: States of the logit unit before the first tile of an image, and the words behind the logits of
#: which the third says in which cycle it is made.
_LOGITS = 3
_RESULTS = 4
_CYCLE = 2

#: Cycles of a write beside the latency of the memory: it is taken, its answer registered.
_ANSWER = 2

#: Bits of a score, each a sweep of the search.
_SEARCH_STEPS = 16


@dataclass
class _Issued:
    """A pass whose rows have been issued: those of its last tile are what others wait for.

    ``last`` are the cycles in which its last rows were, from position ``first`` on; ``retired`` is
    the cycle from which the whole pass is known to be over.
    """

    step: Step
    first: int
    last: NDArray[np.int64]
    retired: int


class CycleModel:
    """Cycles of a run from the start to the interrupt, without running it.

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
        self.to_array = core.loader.lead - _ACCEPT - 1
        self.to_sums = self.to_array + core.rowsum.latency
        self.to_pairs = self.to_array - core.at_array + core.at_write + core.statistics.pair_latency
        self.to_retire = self.to_array - core.at_array + core.at_retire + 1
        #: By source, cycles from the request of a row to the array, and the requests of a tile.
        self.latency = {Stationary.WEIGHT: 2, Stationary.KEY: 2 + core.keys.latency,
                        Stationary.VALUE: 3 + core.values.LATENCY, Stationary.NONE: 2}
        self.requests = dict.fromkeys(self.latency, config.rows) | {
            Stationary.WEIGHT: config.rows // config.load_rows}
        #: How many requests of a tile are made before it is offered.
        self.early = {kind: max(0, self.requests[kind] - 1 - max(0, core.loader.lead + 1 - cycles))
                      for kind, cycles in self.latency.items()}
        self.memory = Memory(config, bytes_per_cycle, latency)
        self.step_cycles = TopKSearch(config).step_cycles if config.pruning else 0
        begin = program.instructions[0]
        #: Instruction at which further rounds begin, and images of a round.
        self.loop, self.images = begin.loop, begin.images
        self.steps = [Step.of(fields, program.config) for fields in program.instructions]

    def cycles(self, tokens: Sequence[int]) -> int:
        """Return the cycles of a run of one round, with so many tokens of each image at the start
        and after each selector."""
        return self._run(tokens, 1).end

    def ends(self, tokens: Sequence[int], rounds: int) -> tuple[int, ...]:
        """Return the cycle of the logits of each round, of its last image, from when the core
        starts."""
        return tuple(self._run(tokens, rounds).ends)

    def steady(self, tokens: Sequence[int], rounds: int = 4) -> float:
        """Return the cycles of an image in the middle of a run: of the last round but one, which
        has one behind it, over its images; of two rounds, of the second."""
        ends = self.ends(tokens, rounds)
        middle = max(1, rounds - 2)
        return (ends[middle] - ends[middle - 1]) / self.images

    def _run(self, tokens: Sequence[int], rounds: int) -> "_Run":
        if len(tokens) != self.program.selectors + 1 or tokens[0] != self.program.tokens:
            raise ValueError(f"the numbers of tokens are {', '.join(map(str, tokens))}, must be"
                             f" {self.program.tokens} and one for each of"
                             f" {self.program.selectors} selectors")
        return _Run(self, tokens, rounds)


class _Run:
    """A run: the state of all units, and when its rounds and all of it end."""

    def __init__(self, model: CycleModel, tokens: Sequence[int], rounds: int) -> None:
        self.m, self.config = model, model.config
        self.counts = list(tokens)
        self.selectors = 0   # lists before this one, of the same image
        self.segments = 1    # images in the list
        self.selecting = 0   # images in the next one
        self.dropped = 1     # rows that the last selector drops, of one image
        self.passes: list[_Issued] = []
        self.free = 0        # cycle in which the issue stage may begin the next tile
        self.held = 0        # cycle in which it may accept one
        self.swapped = 0     # cycle of the last swap
        self.loader = 0      # cycle in which the loader may prepare the next pass
        self.done = 0        # cycle in which it has loaded the last tile
        self.stream = 0      # cycle in which it may read bias and scales
        self.scores = 0      # cycle of the last score, or pair
        self.selected = 0    # cycle in which the selector has ended
        self.written = 0     # cycle in which the logits of the last round are in memory
        #: Cycle of the core in which the logits of the last image of each round are there.
        self.ends: list[int] = []
        self._run(rounds)
        #: Cycle of the interrupt.
        self.end = self.written + _INTERRUPT + RunControl.SETTLE_CYCLES

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return self.counts[self.selectors]

    def _run(self, rounds: int) -> None:
        memory = self.m.memory
        # BEGIN is there; its fields are checked, and weights and program asked for.
        begun = _BEFORE + _START + memory.read_delay + memory.instruction_beats
        # Until the checksum is there no weights are asked for.
        checked = round(begun + _REQUEST - 1 + memory.read_delay + _SUM
                        + len(self.m.steps) * memory.instruction_beats * memory.beat_cycles)
        self.weights = Weights(memory, checked + memory.read_delay + Fifo.LATENCY
                               + round(memory.row_interval), checked)
        fetch = Fetch(memory, self.weights, begun + _REQUEST)
        steps = list(enumerate(self.m.steps))[1:]
        now = fetch.next(begun) + _CHECK
        for left in reversed(range(rounds)):
            for index, step in steps:
                if step.opcode == Opcode.END:
                    now = max(self._under_way(0, now), self.written + _VERDICT)
                    self._end(now, step.count)
                    break
                now = self._step(index, step, now, last=not left)
                now = fetch.next(now + _FOLLOW) + _CHECK
            else:
                raise ValueError(f"the last of {len(self.m.steps)} instructions is"
                                 f" {self.m.steps[-1].opcode.name}, must be END")
            steps = steps[-(len(self.m.steps) - self.m.loop):]
            fetch.again(self.m.loop)
            now = fetch.next(now + _FOLLOW) + _CHECK

    def _step(self, index: int, step: Step, now: int, last: bool) -> int:
        """Return when an instruction has been handed over that is there ``now``."""
        if step.opcode == Opcode.TABLE:
            return self._under_way(step.under_way, now) + step.count
        now = max(now, self.weights.checked + _VERDICT)
        if step.opcode == Opcode.LOAD:
            if step.ahead and last:
                return now
            now = max(self._under_way(step.under_way, now), self._loaded())
            beats = -(-8 * step.size // self.config.port_bits)
            self.weights.load(now + _LOAD_STATES, beats, step.units,
                              urgent=not step.ahead)
        elif step.opcode == Opcode.IMAGE:
            now = max(self._under_way(0, now), self.selected + _VERDICT)
            self.selectors, self.segments = 0, 1
        elif step.opcode == Opcode.PASS:
            if step.of_patches:
                now = max(now, self._loaded())
            if step.to_logits:
                now = max(now, self.written + _VERDICT)
            now = self._under_way(PASS_SLOTS - 1, now)
            self._issue(step, now + _QUEUE)
        elif step.opcode == Opcode.SELECT:
            now = max(self._under_way(step.under_way, now), self.selected + _VERDICT)
            self._select(step, now)
        elif step.opcode == Opcode.PRUNE:
            now = max(self._under_way(0, now), self.selected + _VERDICT)
            self.selectors += 1
            self.segments, self.selecting = self.selecting, 0
        else:
            raise ValueError(f"instruction {index} is {step.opcode.name}, must be one that the"
                             " cycle model knows behind BEGIN")
        return now

    def _under_way(self, most: int, now: int) -> int:
        """Return when there are at most so many passes under way."""
        if len(self.passes) <= most:
            return now
        return max(now, self.passes[-1 - most].retired + _ENDED + _VERDICT)

    def _loaded(self) -> int:
        """Return when all loads have ended."""
        return round(self.weights.loaded()) + _LOADED + _VERDICT

    def _end(self, now: int, classes: int) -> None:
        """Write the logits of a round, a word a cycle; each image is in memory before the next."""
        padded = -(-classes // 4) * 4
        self.written = now
        for _ in range(self.m.images):
            first = self.written + _LOGITS - (-classes // self.config.columns)
            end = first + padded + _CYCLE
            self.written = first + padded + _RESULTS + self.m.memory.latency + _ANSWER
        self.ends.append(end - _BEFORE)

    # Selectors

    def _select(self, step: Step, now: int) -> None:
        before, after = self.counts[self.selectors:self.selectors + 2]
        self.selecting += 1
        self.dropped = max(1, before - after + 1)
        if step.by_score:
            words = -(-before // self.config.comparators)
            search = _SEARCH_STEPS * (words + self.m.step_cycles) + 1
            self.selected = (max(now, self.scores) + search
                             + Selector.busy_cycles(before, self.dropped))

    def _pairs(self, last: int) -> None:
        self.selected = last + self.m.to_pairs + Selector.busy_cycles(1, self.dropped)

    # Passes

    def _positions(self, step: Step) -> NDArray[np.int64]:
        """Return the positions of the rows."""
        first, tokens = 0, self.tokens * self.segments
        if step.segment is not None:
            first, tokens = step.segment * self.tokens, self.tokens
        if step.rows_from == Rows.EACH:
            return step.row_first + self.tokens * np.arange(self.segments)
        rows = {Rows.COUNT: (step.row_first, step.row_count), Rows.TOKENS: (0, tokens),
                Rows.DROPPED: (0, self.dropped), Rows.LAST: (tokens - 1, 1)}
        start, count = rows[step.rows_from]
        return first + start + np.arange(count)

    def _first_rows(self, step: Step, positions: NDArray[np.int64], now: int) -> NDArray[np.int64]:
        """Return when the rows of the first tile are issued, the first not before ``now``."""
        steady = np.arange(len(positions))
        if not step.row_dependency:
            return now + steady
        made = self.passes[-step.row_dependency]
        ready = np.full(len(positions), made.retired)
        # What a pass leaves in one row that is none of the residual is read by all rows.
        by_row = made.step.rows_from not in (Rows.DROPPED, Rows.EACH) and (
            made.step.rows_from != Rows.LAST or made.step.to_residual)
        if by_row:
            at = positions - made.first
            known = (at >= 0) & (at < len(made.last))
            ready[known] = np.minimum(made.retired, made.last[at[known]] + self.m.to_retire)
            # Another image: its rows are there when the pass is the next to retire.
            before = self.passes[:-step.row_dependency]
            ready[at < 0] = before[-1].retired if before else 0
        if (made.step.rows_from == Rows.LAST and made.step.segment is None
                and made.step.to_residual):
            ready[positions != made.first] = 0
        return np.maximum.accumulate(np.maximum(ready + _ENDED, now) - steady) + steady

    def _issue(self, step: Step, queued: int) -> None:
        """Stream a pass tile after tile; it is queued from this cycle on."""
        positions = self._positions(step)
        rows = len(positions)
        columns = step.column_tiles or -(-self.tokens // self.config.columns)
        depth = step.k_tiles or -(-self.tokens // self.config.rows)
        padding = max(0, MIN_TILE_CYCLES - rows)
        operands = (self.passes[-step.operand_dependency].retired
                    if step.operand_dependency else 0)
        kind = step.stationary
        latency, requests, early = (by_kind[kind] for by_kind in (
            self.m.latency, self.m.requests, self.m.early))
        prepared = max(self.loader, queued) + _PASS
        for tile in range(columns * depth):
            column, k = divmod(tile, depth)
            if tile:
                prepared = self.loader + (_TILE if k else _COLUMN)
            if k == 0 and step.own_scales:
                prepared = self.weights.take(SCALE_BYTES, max(prepared, self.stream),
                                             self.config.load_rows)
            begin = max(prepared, self.done)
            self.loader = begin + 1
            # Its first row is at the array behind the swap of the tile before.
            first = max(self.loader, self.swapped + 1 - latency, operands)
            last, self.stream = first + requests - 1, 0
            offered = first + early + 1
            if kind == Stationary.NONE:
                last, offered = first + 1, first + 2
            elif kind == Stationary.WEIGHT:
                last = self.weights.take(self.config.rows, first, self.config.load_rows)
                offered = max(offered, int(self.weights.arrived) + 1)
                self.stream = last + 1
            accepted = max(offered, self.held)
            taken = max(accepted + _ACCEPT, self.free)
            if tile == 0:
                issued = self._first_rows(step, positions, taken + 1)
                start, end = int(issued[0]), int(issued[-1])
            else:
                start, end = taken + 1, taken + rows
            self.held, self.free = taken + 1, end + padding
            self.swapped = start + self.m.to_array
            self.done = max(last, accepted + 1)
            if step.class_attention and column == 0 and k == depth - 1:
                self.scores = start + self.m.to_sums + ClassAttention.LATENCY + self.tokens
        if columns * depth > 1:
            issued = start + np.arange(rows)
        self.passes.append(_Issued(step, int(positions[0]), issued, end + self.m.to_retire))
        if step.to_selector:
            self._pairs(end)
