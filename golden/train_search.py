# SPDX-License-Identifier: BSD-2-Clause
"""The search of selectors in a training: what it resumes from, and the file that it writes."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from golden.latency import LatencyTable
from golden.latency_aware import ACCEPTED, Found, Try, search
from golden.model import ModelConfig
from golden.train_config import Stage, TrainError

__all__ = ["SearchState", "describe", "describe_found", "go_on", "percent", "search_table",
           "write_search"]

#: Digits of the numbers in the file.
_DIGITS = 6


@dataclass(kw_only=True)
class SearchState:
    """How far the search of a stage is.

    Members
    -------
    accuracy
        Of the network without selectors.
    tries
        Those that were made.
    found
        What was found; None while the search goes on.
    found_accuracy
        Of the network with the selectors that were found.
    """

    accuracy: float
    tries: list[Try] = field(default_factory=list)
    found: Found | None = None
    found_accuracy: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SearchState":
        """Return what ``dataclasses.asdict`` made plain data of."""
        found = values["found"]
        return cls(**{**values, "tries": [Try(**one) for one in values["tries"]],
                      "found": None if found is None else Found(**found)})

    @property
    def selectors(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Blocks and rates of what was found, or of the last try that was accepted."""
        accepted = [one for one in self.tries if one.verdict == ACCEPTED]
        now = self.found or (accepted[-1] if accepted else None)
        return ((), ()) if now is None else (now.blocks, now.keep)


def search_table(stage: Stage, model: ModelConfig) -> LatencyTable:
    """Return the latency table of a stage with a search; raise an error unless it fits."""
    assert stage.search is not None
    table = LatencyTable.load(Path(stage.search.table))
    stage.search.check(model, stage.kind, table)
    return table


def go_on(stage: Stage, table: LatencyTable, model: ModelConfig, state: SearchState, *,
          attempt: Callable[[Stage], tuple[float, tuple[float, ...]]],
          decided: Callable[[Try], None]) -> Found:
    """Go on with a search after the tries that were made; return what it finds.

    ``attempt`` trains a stage and returns its accuracy and what its selectors keep; ``decided`` is
    called with each try that is new, when it is in ``state``.
    """
    assert stage.search is not None
    earlier = list(state.tries)
    count = 0

    def tune(blocks: tuple[int, ...],
             keep: tuple[float, ...]) -> tuple[float, tuple[float, ...]]:
        if count < len(earlier):
            accuracy = earlier[count].accuracy
            return -1.0 if accuracy is None else accuracy, earlier[count].kept
        return attempt(replace(stage, search=None, blocks=blocks, keep=keep))

    def report(one: Try) -> None:
        nonlocal count
        if count < len(earlier):
            if one != earlier[count]:
                raise TrainError(f"a try of stage {stage.name} is not the one that was made, must"
                                 " be another folder, or the same latency table")
        else:
            state.tries.append(one)
            decided(one)
        count += 1

    found = search(stage.search, table, model, kind=stage.kind, package=stage.package,
                   accuracy=state.accuracy, tune=tune, report=report)
    if not found.blocks:
        raise TrainError(f"the search of stage {stage.name} found no selectors: none of"
                         f" {len(state.tries)} tries was faster and lost at most"
                         f" {stage.search.drop[-1]:.2%} of {state.accuracy:.2%}")
    return found


def describe(one: Try) -> str:
    """Return a line that says what became of a try; latency as a part of the dense network's."""
    text = f"{one.rate:.1%} before block {one.block}: "
    if one.accuracy is not None:
        text += f"validation {one.accuracy:.2%}; kept {percent(one.kept)}; "
    return text + f"latency {one.latency:.1%}, {one.verdict}"


def describe_found(found: Found, accuracy: float, wanted: float) -> str:
    """Return a line that says what was found where latency ``wanted`` was wanted."""
    blocks = ", ".join(map(str, found.blocks))
    return (f"found {percent(found.keep)} before blocks {blocks}: validation {accuracy:.2%};"
            f" latency {found.latency:.1%}, wanted {wanted:.1%}")


def percent(parts: Sequence[float]) -> str:
    """Return parts as a list of percentages."""
    return ", ".join(f"{part:.1%}" for part in parts)


def write_search(path: Path, stage: Stage, table: LatencyTable, state: SearchState) -> None:
    """Write the tries of a search, and what was found, as JSON."""
    assert stage.search is not None
    content = {"stage": stage.name, "kind": stage.kind, "package": stage.package,
               "steps": stage.steps, "model": table.model, "config": table.config,
               "clock_mhz": table.clock_mhz, "dense_cycles": table.dense,
               "bounds": asdict(stage.search), **asdict(state)}
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(_rounded(content), indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
