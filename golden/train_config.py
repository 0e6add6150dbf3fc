# SPDX-License-Identifier: BSD-2-Clause
"""The settings of a training, and the YAML file that they are read from."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from golden.latency_aware import SearchError, SearchSettings
from golden.model import ModelConfig, model_named
from golden.nonlinear import FUNCTIONS
from golden.pruning import PruningConfig, PruningError

__all__ = ["KINDS", "PRECISIONS", "Stage", "TrainConfig", "TrainError", "as_number",
           "load_config", "make_config", "parse_config", "parse_yaml", "read_text"]

#: Kinds of stages.
KINDS = ("dense", "threshold", "topk", "random", "oracle")

#: Precision of the products of matrices.
PRECISIONS = ("float32", "bfloat16")

#: Kinds of stages whose selectors may be found by a search: those that the hardware has.
_SEARCHED = ("threshold", "topk")

#: Types of settings that are lists.
_LISTS = (tuple[int, ...], tuple[float, ...])


class TrainError(ValueError):
    """A training that cannot be."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a training.

    Parameters
    ----------
    name
        Name of the file of its weights.
    kind
        ``dense``: all patches, cross entropy. ``threshold`` or ``topk``: with selectors of this
        kind, see :mod:`golden.pruning`. ``random`` and ``oracle`` are there to compare with: a
        ``topk`` that keeps other patches, by random numbers or those with the most pixels of
        digits. The hardware has neither.
    start
        Name of the stage before whose weights this one begins with: those of its selectors, too,
        that stand before the same blocks. Without it, it is the one just before.
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
    quantise
        Whether the network computes in integers, see :mod:`golden.trainable_integer`, with steps
        that are calibrated on training images at the start of the stage; then ``precision`` is
        that of the gradients.
    blocks, keep, package
        Of stages with selectors: blocks before which one stands; the part of all patches that each
        keeps, of ``threshold`` in the mean over all images; kind of the package tokens. Without
        blocks and parts they are those of the stage that this one begins with.
    search
        Finds blocks and parts, see :mod:`golden.latency_aware`: each of its tries is made of
        ``steps`` updates.
    network
        The rate of the network, as a part of that of the selectors.
    noise
        Of ``threshold``, what the noise of the decisions is multiplied by: 1 is Gumbel-softmax. It
        falls to 0 along a straight line, for in the end decisions are made without noise.
    quiet
        Of ``threshold``, part of the steps that have no noise, the last ones: in these the ratio is
        learned of the decisions that the network will make.
    shrink
        Of stages where a given number stays, the part of the steps in which it falls to ``keep``,
        from all patches.
    loss_class, loss_ratio, loss_distil, loss_tokens, loss_attention
        Of stages with selectors, weights of: the cross entropy; the square of the difference from
        ``keep``, of ``threshold``; KL divergence of the classes from those of the dense network;
        the squared difference of the kept patches from theirs in the dense network; KL divergence
        of the attention of the class token before each selector from that of the dense network, not
        where the stage quantises. The dense network is that of the last dense stage before.
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
    quantise: bool = False
    start: str = ""
    blocks: tuple[int, ...] = ()
    keep: tuple[float, ...] = ()
    package: str = "each"
    search: SearchSettings | None = None
    network: float = 1.0
    noise: float = 1.0
    quiet: float = 0.25
    shrink: float = 0.0
    loss_class: float = 1.0
    loss_ratio: float = 2.0
    loss_distil: float = 0.5
    loss_tokens: float = 0.5
    loss_attention: float = 0.0

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
        if self.quantise and self.shrink:
            raise TrainError(f"shrink of stage {self.name} is {self.shrink}, must be 0 in a stage"
                             " that quantises")
        limits: tuple[tuple[str, float, float], ...] = (
            ("size", 1, float("inf")), ("steps", 1, float("inf")), ("batch", 1, float("inf")),
            ("warmup", 0, self.steps - 1), ("rate", 0, float("inf")), ("last", 0, 1),
            ("decay", 0, float("inf")), ("smoothing", 0, 1), ("clip", 0, float("inf")),
            ("network", 0, float("inf")), ("noise", 0, float("inf")), ("quiet", 0, 1),
            ("shrink", 0, 1),
            *((f"loss_{part}", 0, float("inf"))
              for part in ("class", "ratio", "distil", "tokens", "attention")))
        for name, low, high in limits:
            value = getattr(self, name)
            if not low <= value <= high:
                limit = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
                raise TrainError(f"{name} of stage {self.name} is {value}, must be {limit}")
        self._check_selectors()

    def _check_selectors(self) -> None:
        if self.kind == "dense":
            for name in ("blocks", "keep"):
                if getattr(self, name):
                    raise TrainError(f"{name} of stage {self.name} is {list(getattr(self, name))},"
                                     " must not be there in a dense stage")
        if self.search is not None:
            if self.kind not in _SEARCHED:
                raise TrainError(f"stage {self.name} of kind {self.kind} has a search, must be of"
                                 f" kind {' or '.join(_SEARCHED)}")
            if self.blocks:
                raise TrainError(f"blocks of stage {self.name} is {list(self.blocks)}, must not be"
                                 " there in a stage with a search")
        if self.kind == "dense":
            return
        if len(self.keep) != len(self.blocks):
            raise TrainError(f"keep of stage {self.name} has {len(self.keep)} values, must have one"
                             f" for each of its {len(self.blocks)} blocks")
        if not self.blocks:
            return
        try:
            # The limits of rates are those of topk in all kinds.
            PruningConfig(selector="topk", blocks=self.blocks, rates=self.keep,
                          package=self.package)
        except PruningError as error:
            raise TrainError(f"stage {self.name}: {error}") from error

    @property
    def pruning(self) -> PruningConfig | None:
        """Where and how patches are dropped; None in a dense stage, and where no blocks are
        given.
        """
        if not self.blocks:
            return None
        if self.kind == "threshold":
            return PruningConfig(selector="threshold", blocks=self.blocks, package=self.package)
        return PruningConfig(selector="topk", blocks=self.blocks, package=self.package,
                             rates=self.keep)

    @property
    def distils(self) -> bool:
        """Whether the stage learns from the dense network."""
        return self.kind != "dense" and max(
            self.loss_distil, self.loss_tokens, self.loss_attention) > 0


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
        Images that the accuracy is measured on.
    validate_every
        Steps between two measurements, after which the training can be resumed.
    functions
        GELU and softmax, see :mod:`golden.nonlinear`.
    weights
        File of a dense network that the first stage begins with, as the path is from where the
        command is called.
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
    weights: str = ""
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
        if self.seed >= 2 ** 63:
            raise TrainError(f"seed is {self.seed}, must be less than {2 ** 63}")
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
            if stage.quantise and stage.size != self.model.image_size:
                raise TrainError(f"size of stage {stage.name} is {stage.size}, must be"
                                 f" {self.model.image_size} in a stage that quantises")
            if stage.quantise and stage.search is not None:
                raise TrainError(f"stage {stage.name} has a search, must have none as it quantises")
        for index, stage in enumerate(self.stages):
            self._check_selectors(index, stage)

    def _check_selectors(self, index: int, stage: Stage) -> None:
        before = [earlier.name for earlier in self.stages[:index]]
        if stage.start and stage.start not in before:
            raise TrainError(f"start of stage {stage.name} is {stage.start!r}, must be a stage"
                             f" before it: {', '.join(before) or 'there is none'}")
        if stage.kind == "dense":
            return
        if stage.pruning is not None:
            try:
                stage.pruning.check(self.model)
            except PruningError as error:
                raise TrainError(f"stage {stage.name}: {error}") from error
        elif stage.search is None:
            self.selected_by(index)
        else:
            source = self.source(index)
            kinds = {earlier.name: earlier.kind for earlier in self.stages[:index]}
            if source is not None and kinds[source] != "dense":
                raise TrainError(f"stage {stage.name} with a search begins with {source}, must"
                                 " begin with a dense stage")
        if stage.size != self.model.image_size:
            raise TrainError(f"size of stage {stage.name} is {stage.size}, must be"
                             f" {self.model.image_size} in a stage with selectors")
        if stage.distils and self.teacher(index) is None and not self.weights:
            raise TrainError(f"there are 0 dense stages before {stage.name}, must be 1 for it to"
                             " learn from, or weights")

    def source(self, index: int) -> str | None:
        """Return the name of the stage whose weights stage ``index`` begins with, if any."""
        stage = self.stages[index]
        return stage.start or (self.stages[index - 1].name if index else None)

    def selected_by(self, index: int) -> Stage:
        """Return the stage whose selectors stage ``index`` has: itself, if it says which."""
        names = [stage.name for stage in self.stages]
        stage: Stage | None = self.stages[index]
        while stage is not None and not stage.blocks and stage.search is None:
            source = self.source(names.index(stage.name))
            stage = None if source is None else self.stages[names.index(source)]
        if stage is None:
            raise TrainError(f"there are 0 blocks with a selector in stage"
                             f" {self.stages[index].name}, must be at least 1, or in the stage that"
                             " it begins with")
        return stage

    def teacher(self, index: int) -> str | None:
        """Return the name of the last dense stage before stage ``index``, if any."""
        dense = [stage.name for stage in self.stages[:index] if stage.kind == "dense"]
        return dense[-1] if dense else None


def as_number(value: object, name: str, whole: bool = False) -> float:
    """Return a number, also one that YAML takes for text: 1e-3, which has no point."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
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
            values[name] = as_number(value, f"{name} of {what}", known[name].type is int)
        elif known[name].type in _LISTS:
            if not isinstance(value, list):
                raise TrainError(f"{name} of {what} is {value!r}, must be a list")
            whole = known[name].type == tuple[int, ...]
            values[name] = tuple(as_number(item, f"{name} of {what}", whole) for item in value)
        elif known[name].type == SearchSettings | None:
            where = f"{name} of {what}"
            try:
                values[name] = SearchSettings(**_values(SearchSettings, value, where))
            except SearchError as error:
                raise TrainError(f"{where}: {error}") from error
        elif known[name].type is bool and not isinstance(value, bool):
            raise TrainError(f"{name} of {what} is {value!r}, must be true or false")
        elif known[name].type is str and not isinstance(value, str):
            raise TrainError(f"{name} of {what} is {value!r}, must be text")
    return values


def parse_yaml(text: str, source: str) -> Any:
    """Return what is in YAML, which error messages call ``source``."""
    try:
        return yaml.safe_load(text)
    # ValueError is that of a date that is none.
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", getattr(error, "reason", error))
        raise TrainError(f"{source} is no YAML{where}: {reason}") from error


def parse_config(text: str, source: str) -> TrainConfig:
    """Return the settings in ``text``, which error messages call ``source``."""
    return make_config(parse_yaml(text, source), source)


def make_config(given: object, source: str) -> TrainConfig:
    """Return the settings that were read from YAML, which error messages call ``source``."""
    values = _values(TrainConfig, given, source)
    stages = values["stages"]
    if not isinstance(stages, list):
        raise TrainError(f"stages of {source} is {stages!r}, must be a list")
    values["stages"] = tuple(Stage(**_values(Stage, stage, f"stage {i} of {source}"))
                             for i, stage in enumerate(stages, 1))
    if not isinstance(values["model"], str):
        raise TrainError(f"model of {source} is {values['model']!r}, must be text")
    return TrainConfig(**{**values, "model": model_named(values["model"])})


def read_text(path: Path) -> str:
    """Return the text of a file of settings."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainError(f"{path} cannot be read: {reason}") from error


def load_config(path: Path) -> TrainConfig:
    """Return the settings in a YAML file."""
    return parse_config(read_text(path), str(path))
