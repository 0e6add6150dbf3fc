# SPDX-License-Identifier: BSD-2-Clause
"""Compares what the accelerator wrote with the named stages of the integer twin, every element."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from golden.fixed import Int
from golden.interpreter_selector import NEVER
from golden.program import PassInfo, Program, expected_rows, expected_words, tokens_of
from rtl.isa import MANTISSA_BITS
from sim.device import Result, Selections

__all__ = ["Comparison", "Mismatch", "Recording", "StageResult", "compare", "compare_output",
           "compare_register", "compare_run", "compare_selections"]

#: Stages of a selector that no stream shows. The registers show tokens and places; scores are those
#: of the last head, or weights before they are at least 1.
_NOT_STREAMED = (".tokens", ".kept", ".score")

#: Streams as read from a recording: name of the stream, name of the signal, value in each event.
Recording = Mapping[str, Mapping[str, Int]]


@dataclass(frozen=True)
class Mismatch:
    """The first element that differs; ``got`` is None if it was never written."""

    stage: str
    position: tuple[int, ...]
    expected: int
    got: int | None

    def __str__(self) -> str:
        got = "nothing" if self.got is None else self.got
        where = ", ".join(map(str, self.position))
        return f"{self.stage}[{where}]: expected {self.expected}, got {got}"


@dataclass(frozen=True)
class StageResult:
    """How one stage compared: ``unequal`` of ``elements`` differ, the first one in ``first``."""

    stage: str
    elements: int
    unequal: int
    first: Mismatch | None

    @property
    def equal(self) -> bool:
        return self.unequal == 0


@dataclass(frozen=True)
class Comparison:
    """How all stages compared, in the order in which they are written.

    ``problems`` are sentences about what is no element of a stage: missing or surplus events.
    """

    stages: tuple[StageResult, ...]
    problems: tuple[str, ...]

    @classmethod
    def joined(cls, *parts: "Comparison") -> "Comparison":
        """Return all parts as one."""
        return cls(tuple(stage for part in parts for stage in part.stages),
                   tuple(text for part in parts for text in part.problems))

    @property
    def exact(self) -> bool:
        # Nothing compared is nothing shown.
        return (bool(self.stages) and not self.problems
                and all(stage.equal for stage in self.stages))

    @property
    def first_mismatch(self) -> Mismatch | None:
        return next((stage.first for stage in self.stages if stage.first), None)


def _result(stage: str, expected: NDArray, got: NDArray, seen: NDArray[np.bool_]) -> StageResult:
    wrong = np.flatnonzero((got != expected.reshape(-1)) | ~seen)
    first = None
    if len(wrong):
        at = wrong[0]
        first = Mismatch(stage, tuple(int(i) for i in np.unravel_index(at, expected.shape)),
                         int(expected.flat[at]), int(got[at]) if seen[at] else None)
    return StageResult(stage, expected.size, len(wrong), first)


class _Stages:
    """The stages as the accelerator wrote them, put together event by event.

    ``special`` are the tokens before the patches, ``first_row`` is the row of the first of them.
    """

    def __init__(self, stages: Mapping[str, NDArray[np.integer]], special: int,
                 first_row: int) -> None:
        self.all, self.special, self.first_row = stages, special, first_row
        self.expected = {name: np.asarray(value) for name, value in stages.items()
                         if not (name.startswith("selector") and name.endswith(_NOT_STREAMED))}
        # Laid out like a stage, these say which element (from 1 on) a lane of an event is.
        self.numbers = {name: np.arange(1, value.size + 1).reshape(value.shape)
                        for name, value in self.expected.items()}
        self.got = {name: np.zeros(value.size, np.int64) for name, value in self.expected.items()}
        self.seen = {name: np.zeros(value.size, bool) for name, value in self.expected.items()}
        self.order: dict[str, None] = {}
        self.padding: list[StageResult] = []

    def put(self, stage: str, numbers: Int, values: Int) -> None:
        """Take what the accelerator shows for the elements ``numbers`` of a stage.

        An element that is shown again must be right each time.
        """
        self.order[stage] = None
        index = numbers - 1
        got, seen, expected = self.got[stage], self.seen[stage], self.expected[stage].reshape(-1)
        got[index] = np.where(seen[index] & (got[index] != expected[index]), got[index], values)
        seen[index] = True

    def zeros(self, stage: str, values: Int, positions: Int) -> None:
        """Check lanes that belong to no element of a stage and must be zero."""
        wrong = np.flatnonzero(values)
        if len(wrong):
            name = f"{stage} padding"
            first = Mismatch(name, tuple(map(int, positions[wrong[0]])), 0, int(values[wrong[0]]))
            self.padding.append(StageResult(name, len(values), len(wrong), first))

    def results(self) -> tuple[StageResult, ...]:
        # Stages that no pass wrote come last: nothing may be left out silently.
        names = [*self.order, *(name for name in self.expected if name not in self.order)]
        return (*(_result(name, self.expected[name], self.got[name], self.seen[name])
                  for name in names), *self.padding)


class _Events:
    """The events of one stream, taken from the front."""

    def __init__(self, name: str, signals: Mapping[str, Int]) -> None:
        self.name, self.signals = name, signals
        self.count = len(next(iter(signals.values())))
        self.at = 0
        self.wanted = 0

    def take(self, count: int) -> dict[str, Int]:
        """Return the next ``count`` events of every signal, fewer at the end of the recording."""
        self.wanted += count
        start, self.at = self.at, min(self.at + count, self.count)
        return {name: value[start:self.at] for name, value in self.signals.items()}

    def problem(self) -> list[str]:
        if self.count == self.wanted:
            return []
        return [f"the stream {self.name} has {self.count} events, must have {self.wanted}"]


def _scale(value: Int) -> tuple[Int, Int]:
    return value & ((1 << MANTISSA_BITS) - 1), value >> MANTISSA_BITS


def _selector(total: _Stages, events: Mapping[str, _Events], stage: str) -> list[str]:
    """Take the events of one selector; return sentences on events in the wrong place."""
    numbers, problems = total.numbers, []
    rows, keep = numbers[f"{stage}.rows"], numbers[f"{stage}.keep"]
    if f"{stage}.attention" in numbers:
        attention = numbers[f"{stage}.attention"].reshape(-1)
        scores = events["score"].take(attention.size)
        positions = np.arange(attention.size) % rows.size
        wrong = np.flatnonzero(scores["tap_score_row"] != positions[:len(scores["tap_score_row"])])
        if len(wrong):
            problems.append(f"{stage}: score {wrong[0]} is of position"
                            f" {scores['tap_score_row'][wrong[0]]}, must be of"
                            f" {positions[wrong[0]]}")
        total.put(f"{stage}.attention", attention[:len(scores["tap_score"])], scores["tap_score"])
    else:
        pairs = events["pair"].take(rows.size)
        for name in ("weighted", "importance"):
            got = pairs[f"tap_pair_{name}"]
            total.put(f"{stage}.{name}", numbers[f"{stage}.{name}"][:len(got)], got)

    scan = events["scan"].take(rows.size)
    total.put(f"{stage}.rows", rows[:len(scan["tap_scan_row"])],
              scan["tap_scan_row"] - total.first_row)
    # Special tokens come before the patches, whose rows are the first that follow.
    special = total.special
    kept = scan["tap_scan_keep"][special:special + keep.size]
    total.put(f"{stage}.keep", keep[:len(kept)], kept)

    weight, share = numbers[f"{stage}.weight"], numbers[f"{stage}.share"]
    weights = events["weight"].take(weight.size)["tap_weight"]
    total.put(f"{stage}.weight", weight[:len(weights)], weights)
    shares = events["share"].take(share.size)
    index = shares["tap_share_index"]
    inside = index < share.size
    if not inside.all():
        problems.append(f"{stage}: share {index[~inside][0]} is written, must be below"
                        f" {share.size}")
    total.put(f"{stage}.share", share[index[inside]], shares["tap_share"][inside])
    return problems


def compare(program: Program, stages: Mapping[str, NDArray[np.integer]],
            recording: Recording) -> Comparison:
    """Compare a recording of one image, see :func:`compare_run`."""
    (comparison,) = compare_run(program, [stages], recording)
    return comparison


def compare_run(program: Program, images: Iterable[Mapping[str, NDArray[np.integer]]],
                recording: Recording) -> list[Comparison]:
    """Compare a recording of the streams of ``sim.streams`` with the stages of the integer twin.

    Parameters
    ----------
    program
        The program.
    images
        The stages of each image of the run, asked for one after another.
    recording
        Their events, one image after another in each stream.
    """
    events = {name: _Events(name, signals) for name, signals in recording.items()}
    comparisons: list[Comparison] = []
    of_round: list[_Stages] = []
    for number, stages in enumerate(images):
        of_round.append(_Stages(stages, program.model.special_tokens, program.first_row(number)))
        if len(of_round) == program.batch:
            comparisons += _compare(program, of_round, events)
            of_round = []
    last = comparisons[-1]
    left = tuple(text for stream in events.values() for text in stream.problem())
    return [*comparisons[:-1], Comparison(last.stages, last.problems + left)]


def _compare(program: Program, images: Sequence[_Stages],
             events: Mapping[str, _Events]) -> list[Comparison]:
    """Compare the next events with the stages of the images of a round."""
    numbers = [total.numbers for total in images]
    for info in program.passes_for(tokens_of(program, images[0].all)):
        count = info.column_tiles * info.rows
        expected, mask = expected_words(program, numbers, info)
        data = events["write"].take(count)["tap_data"]
        number = expected.reshape(count, -1)[:len(data)]
        tile, row = np.divmod(np.arange(len(data)), info.rows)
        defined = mask[tile]
        element, zero = defined & (number > 0), defined & (number == 0)
        statistics = _statistics(events, info, expected_rows(program, numbers, info))
        each = info.rows // len(info.images)
        for place, image in enumerate(info.images):
            total, mine = images[image], row // each == place
            shown = element & mine[:, None]
            total.put(info.stage, number[shown], data[shown])
            nothing = zero & mine[:, None]
            where = np.argwhere(nothing)
            total.zeros(info.stage, data[nothing], np.column_stack(
                [row[where[:, 0]] % each, tile[where[:, 0]] * mask.shape[1] + where[:, 1]]))
            rows = slice(place * each, (place + 1) * each)
            for name, (elements, values) in statistics.items():
                got = values[rows]
                total.put(name, elements[rows][:len(got)], got)
    problems: list[list[str]] = [[] for _ in images]
    for selector in range(program.selectors):
        for total, found in zip(images, problems, strict=True):
            found += _selector(total, events, f"selector{selector}")
    return [Comparison(total.results(), tuple(found))
            for total, found in zip(images, problems, strict=True)]


def _statistics(events: Mapping[str, _Events], info: PassInfo,
                expected: Mapping[str, Int]) -> dict[str, tuple[Int, Int]]:
    """Return the elements of the row statistics of a pass, and what the events show for them."""
    values: dict[str, Int] = {}
    suffixes = {name.rpartition(".")[2] for name in expected}
    if "rowmax" in suffixes:
        # The maximum runs over the column tiles: it is complete with the last one.
        count = info.column_tiles * info.rows
        values["rowmax"] = events["max"].take(count)["tap_max"][count - info.rows:]
    elif "rowsum" in suffixes:
        sums = events["sum"].take(info.rows)
        values["rowsum"] = sums["tap_sum"]
        values["rowscale.m"], values["rowscale.s"] = _scale(sums["tap_rowscale"])
    elif "sumsq" in suffixes:
        norms = events["norm"].take(info.rows)
        values |= {name: norms[f"tap_norm_{name}"] for name in ("sum", "sumsq", "mean")}
        values["m"], values["s"] = _scale(norms["tap_norm_scale"])
    return {name: (elements, next(value for suffix, value in values.items()
                                  if name.endswith(f".{suffix}")))
            for name, elements in expected.items()}


def compare_selections(stages: Mapping[str, NDArray[np.integer]], selections: Selections,
                       special: int, tokens: int | None) -> Comparison:
    """Compare what the registers show of the selectors with the stages of the integer twin.

    ``special`` are the tokens before the patches; ``tokens`` is the register TOKENS, which shows
    the last image of a run.
    """
    expected_map = np.full(len(selections.dropped), NEVER)
    results = []
    for i, (after, patches) in enumerate(zip(selections.tokens, selections.patches, strict=True)):
        left, kept = stages[f"selector{i}.tokens"], stages[f"selector{i}.kept"]
        pairs = {"tokens": (left.reshape(1), np.array([after])),
                 "patches": (np.array([kept.size]), np.array([patches]))}
        results += [_result(f"register.selector{i}.{name}", want, got, np.ones(1, bool))
                    for name, (want, got) in pairs.items()]
        gone = expected_map[special:] == NEVER
        gone[kept] = False
        expected_map[special:][gone] = i
    dropped = selections.dropped
    results.append(_result("register.dropped", expected_map, dropped, np.ones(len(dropped), bool)))
    if tokens is not None:
        results.append(_result("register.tokens", left.reshape(1), np.array([tokens]),
                               np.ones(1, bool)))
    return Comparison(tuple(results), ())


def compare_output(logits: Int, top_class: int, tokens: int, result: Result,
                   register: int | None = None) -> Comparison:
    """Compare an output in memory with what the integer twin has.

    Parameters
    ----------
    logits, top_class, tokens
        Of the integer twin; the last are those that are left.
    result
        The output.
    register
        The register TOP_CLASS, of the last image of a run.
    """
    pairs = {"output.logits": (logits, result.logits),
             "output.top_class": (np.array([top_class]), np.array([result.top_class])),
             "output.top_logit": (logits[[top_class]], np.array([result.top_logit])),
             "output.tokens": (np.array([tokens]), np.array([result.tokens]))}
    if register is not None:
        pairs["register.top_class"] = np.array([top_class]), np.array([register])
    return Comparison(tuple(
        _result(name, np.asarray(expected), got.astype(np.int64), np.ones(got.size, bool))
        for name, (expected, got) in pairs.items()), ())


def compare_register(name: str, expected: int, got: int) -> Comparison:
    """Compare a register of a run with what it must be."""
    return Comparison((_result(f"register.{name}", np.array([expected]), np.array([got]),
                               np.ones(1, bool)),), ())
