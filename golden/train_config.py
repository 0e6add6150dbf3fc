# SPDX-License-Identifier: BSD-2-Clause
"""The settings of a training, and the YAML file that they are read from."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from golden.model import ModelConfig, model_named
from golden.nonlinear import FUNCTIONS

__all__ = ["KINDS", "PRECISIONS", "Stage", "TrainConfig", "TrainError", "load_config",
           "parse_config"]

#: Kinds of stages.
KINDS = ("dense",)

#: Precision of the products of matrices.
PRECISIONS = ("float32", "bfloat16")


class TrainError(ValueError):
    """A training that cannot be."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a training: it begins with the weights that the stage before it ended with.

    Parameters
    ----------
    name
        Name of the file of its weights.
    kind
        ``dense``: all patches, cross entropy.
    size
        Side of the images in pixels; less than that of the model, they are windows, each with the
        positions of a random place in the image.
    steps, batch
        Updates, and images in each, of all processes.
    rate, warmup, last
        Learning rate: it grows for ``warmup`` steps to ``rate``, and falls along a cosine to
        ``last`` times that.
    decay
        Decay of weights; biases, LayerNorms, tokens and positions have none.
    smoothing
        Part of a label that is spread over all classes.
    clip
        Norm that the gradient is scaled down to, if it is above.
    precision
        Of the products of matrices: with ``bfloat16`` a training takes half as long on a processor
        that has it. The parameters are in float32, and so is the measured accuracy.
    """

    name: str
    kind: str = "dense"
    size: int
    steps: int
    batch: int
    rate: float
    warmup: int = 0
    last: float = 0.0
    decay: float = 0.05
    smoothing: float = 0.0
    clip: float = 1.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise TrainError(f"the kind of stage {self.name} is {self.kind!r}, must be one of"
                             f" {', '.join(KINDS)}")
        if self.precision not in PRECISIONS:
            raise TrainError(f"precision of stage {self.name} is {self.precision!r}, must be one of"
                             f" {', '.join(PRECISIONS)}")
        if not self.name.isidentifier():
            raise TrainError(f"the name of a stage is {self.name!r}, must be letters, digits and"
                             " underscores")
        limits: tuple[tuple[str, float, float], ...] = (
            ("size", 1, float("inf")), ("steps", 1, float("inf")), ("batch", 1, float("inf")),
            ("warmup", 0, self.steps - 1), ("rate", 0, float("inf")), ("last", 0, 1),
            ("decay", 0, float("inf")), ("smoothing", 0, 1), ("clip", 0, float("inf")))
        for name, low, high in limits:
            value = getattr(self, name)
            if not low <= value <= high:
                limit = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
                raise TrainError(f"{name} of stage {self.name} is {value}, must be {limit}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training.

    Parameters
    ----------
    model
        Network that is trained.
    seed
        Everything random hangs on it.
    data
        ``scenes``: those of :mod:`golden.scenes`.
    threads
        Threads of one process: the weights are the same where this is.
    validation
        Images that the accuracy is measured on, and the steps between two measurements.
    validate_every
        Steps between two measurements, after which the training can be resumed.
    functions
        GELU and softmax, ``exact`` or ``heatvit``.
    stages
        What is done, in this order.
    """

    model: ModelConfig
    seed: int = 0
    data: str = "scenes"
    threads: int = 1
    validation: int = 2000
    validate_every: int = 500
    functions: str = "exact"
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if self.data != "scenes":
            raise TrainError(f"data is {self.data!r}, must be scenes")
        if self.functions not in FUNCTIONS:
            raise TrainError(f"functions is {self.functions!r}, must be one of"
                             f" {', '.join(FUNCTIONS)}")
        for name, low in (("seed", 0), ("threads", 1), ("validation", 1), ("validate_every", 1)):
            if getattr(self, name) < low:
                raise TrainError(f"{name} is {getattr(self, name)}, must be at least {low}")
        if not self.stages:
            raise TrainError("there are 0 stages, must be at least 1")
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise TrainError(f"{names.count(name)} stages are called {name}, must be 1")
        for stage in self.stages:
            if stage.size % self.model.patch or stage.size > self.model.image_size:
                raise TrainError(f"size of stage {stage.name} is {stage.size}, must be a multiple"
                                 f" of the patch, {self.model.patch}, up to"
                                 f" {self.model.image_size}")


def _number(whole: bool, value: object, name: str) -> float:
    """Return a number, also one that YAML takes for text: 1e-3, which has no point."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except ValueError:
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or whole and number % 1:
        raise TrainError(f"{name} is {value!r}, must be a {'whole ' * whole}number")
    return int(number) if whole else number


def _values(kind: type, given: object, what: str) -> dict[str, Any]:
    """Return the arguments of a dataclass of numbers and text from what was read."""
    if not isinstance(given, Mapping):
        raise TrainError(f"{what} is {given!r}, must be names with values")
    known = {field.name: field for field in fields(kind)}
    for name in given:
        if name not in known:
            raise TrainError(f"{what} has {name!r}, must be one of {', '.join(known)}")
    for name, field in known.items():
        if field.default is MISSING and name not in given:
            raise TrainError(f"{what} lacks {name}")
    values = dict(given)
    for name, value in given.items():
        if known[name].type in (int, float):
            values[name] = _number(known[name].type is int, value, f"{name} of {what}")
        elif known[name].type is str and not isinstance(value, str):
            raise TrainError(f"{name} of {what} is {value!r}, must be text")
    return values


def parse_config(text: str, source: str) -> TrainConfig:
    """Return the settings in ``text``, which error messages call ``source``."""
    try:
        values = _values(TrainConfig, yaml.safe_load(text), source)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise TrainError(f"{source} is no YAML{where}: {getattr(error, 'problem', error)}"
                         ) from error
    stages = values["stages"]
    if not isinstance(stages, list):
        raise TrainError(f"stages of {source} is {stages!r}, must be a list")
    values["stages"] = tuple(Stage(**_values(Stage, stage, f"stage {i} of {source}"))
                             for i, stage in enumerate(stages, 1))
    if not isinstance(values["model"], str):
        raise TrainError(f"model of {source} is {values['model']!r}, must be text")
    return TrainConfig(**{**values, "model": model_named(values["model"])})


def load_config(path: Path) -> TrainConfig:
    """Return the settings in a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainError(f"{path} cannot be read: {reason}") from error
    return parse_config(text, str(path))
