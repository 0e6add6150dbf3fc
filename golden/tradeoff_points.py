# SPDX-License-Identifier: BSD-2-Clause
"""The points of a curve of accuracy over multiplications: which trainings they take."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from golden.train_config import (
    KINDS,
    TrainConfig,
    TrainError,
    as_number,
    make_config,
    parse_yaml,
    read_text,
)

__all__ = ["load_points", "parse_points"]

#: Settings of a stage that a point has of its own.
_OWN = ("name", "kind", "keep", "start")


def _name(kind: str, keep: Sequence[object], source: str) -> str:
    """Return the name of a point, of letters and digits: topk_07_05 keeps 0.7, then 0.5."""
    rates = (f"{as_number(rate, f'keep of {source}'):g}" for rate in keep)
    return "_".join([kind, *(rate.replace(".", "").replace("-", "") for rate in rates)])


def parse_points(text: str, source: str) -> list[TrainConfig]:
    """Return the training of each point, of one stage, kind by kind.

    ``text`` has the settings of a :class:`golden.train_config.TrainConfig`, of which ``weights``
    must be there; instead of stages it has

    ``kinds``
        Kinds of stages.
    ``keep``
        A list of points, of each what the selectors keep.
    ``stage``
        All other settings of a stage; they are the same for all points.

    Error messages call it ``source``.
    """
    given = parse_yaml(text, source)
    if not isinstance(given, Mapping):
        raise TrainError(f"{source} is {given!r}, must be names with values")
    settings = dict(given)
    for name in ("kinds", "keep", "stage", "weights"):
        if name not in settings:
            raise TrainError(f"{source} lacks {name}")
    if "stages" in settings:
        raise TrainError(f"{source} has 'stages', must have kinds, keep and stage")
    kinds, keeps, stage = (settings.pop(name) for name in ("kinds", "keep", "stage"))
    if not isinstance(stage, Mapping):
        raise TrainError(f"stage of {source} is {stage!r}, must be names with values")
    for name in _OWN:
        if name in stage:
            raise TrainError(f"stage of {source} has {name!r}, which every point has of its own")
    with_selectors = KINDS[1:]
    if not isinstance(kinds, list) or not kinds:
        raise TrainError(f"kinds of {source} is {kinds!r}, must be a list of"
                         f" {', '.join(with_selectors)}")
    for kind in kinds:
        if kind not in with_selectors or kinds.count(kind) > 1:
            raise TrainError(f"kinds of {source} has {kind!r}, must have some of"
                             f" {', '.join(with_selectors)}, each once")
    if not isinstance(keeps, list) or not keeps or not all(isinstance(x, list) for x in keeps):
        raise TrainError(f"keep of {source} is {keeps!r}, must be a list of lists")
    for keep in keeps:
        if keeps.count(keep) > 1:
            raise TrainError(f"keep of {source} has {keep!r} {keeps.count(keep)} times, must have"
                             " it once")
    return [make_config({**settings, "stages": [
        {**stage, "name": _name(kind, keep, source), "kind": kind, "keep": keep}]}, source)
        for kind in kinds for keep in keeps]


def load_points(path: Path) -> list[TrainConfig]:
    """Return the training of each point in a YAML file."""
    return parse_points(read_text(path), str(path))
