# SPDX-License-Identifier: BSD-2-Clause
"""Whether a model fits a configuration, operator by operator: ``python -m golden.check``."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from golden.checkpoint import (
    CheckpointError,
    Scheme,
    convert,
    is_unused,
    scheme_of,
    sizes_of,
    unsupported,
)
from golden.cli import add_selector_options, exit_status, pruning_config
from golden.files import check_output
from golden.lower import check_sizes, lower
from golden.model import MODELS, ModelConfig, model_named, parameter_shapes
from golden.model_file import Description, ModelFile, read_model
from golden.packed import SUFFIX, load
from golden.program import head_slot
from golden.pruning import PruningConfig
from golden.quantize import patch_bytes
from rtl.config import BLOCK, CONFIGS, Config, ConfigError, named

__all__ = ["Limit", "Row", "Verdict", "check_file", "check_model", "main"]

#: Faults of parameters that are told one by one; of more only the number.
_MOST_FAULTS = 3

#: What frames have; sizes of a head that the array takes, and that of networks that are not named.
_COLOURS = 3
_HEAD_SIZES = (16, 32, 48, 64)
_HEAD_SIZE = 64

#: Operators by the canonical names of their parameters.
_OPERATORS = {re.compile(pattern): operator for pattern, operator in {
    r"patch_embed\.": "patch embedding",
    r"(cls|dist)_token": "special tokens",
    r"pos_embed": "position embedding",
    r"(blocks\.\d+\.norm[12]|norm)\.": "LayerNorm",
    r"blocks\.\d+\.attn\.qkv\.": "Q, K, V",
    r"blocks\.\d+\.attn\.proj\.": "projection",
    r"blocks\.\d+\.mlp\.": "MLP",
    r"head(_dist)?\.": "head",
}.items()}


class _Sizes(ModelConfig):
    """Sizes of a network, whether or not the accelerator could ever run it."""

    def __post_init__(self) -> None:
        pass


@dataclass(frozen=True)
class Limit:
    """One size of the network against one of the configuration, called ``limit``."""

    what: str
    need: int
    limit: str
    most: int


@dataclass
class Row:
    """The verdict on one operator.

    Parameters
    ----------
    operator, model
        Its name, and its sizes in the network.
    limits
        What it needs and what there is.
    why
        Why it does not fit; nothing if it does.
    """

    operator: str
    model: str
    limits: tuple[Limit, ...] = ()
    why: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return not self.why


@dataclass(frozen=True)
class Verdict:
    """The verdict on a network.

    Parameters
    ----------
    source
        The network, as messages call it.
    config
        The configuration.
    sizes
        Sizes of the network by name, as far as they are known.
    rows
        Verdicts on all operators.
    """

    source: str
    config: str
    sizes: Mapping[str, Any]
    rows: tuple[Row, ...]

    @property
    def fits(self) -> bool:
        return all(row.fits for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain data."""
        return {"model": self.source, "config": self.config, "fits": self.fits,
                "sizes": dict(self.sizes),
                "operators": [asdict(row) | {"fits": row.fits} for row in self.rows]}


def _of_sizes(m: ModelConfig, heads: bool, about: Description, config: Config) -> list[Row]:
    """Return the operators of a vision transformer; ``heads`` says whether their number is known.
    """
    rows: list[Row] = []

    def row(operator: str, model: str, *needs: tuple[str, int, str]) -> Row:
        limits = tuple(Limit(what, need, limit, getattr(config, limit))
                       for what, need, limit in needs)
        rows.append(Row(operator, model, limits, [
            f"{x.need} {x.what}, {x.need - x.most} more than {x.limit} of configuration"
            f" {config.name}, {x.most}" for x in limits if x.need > x.most]))
        return rows[-1]

    def multiple(row: Row, what: str, value: int) -> None:
        if value % BLOCK:
            row.why.append(f"{what} is {value}, must be a multiple of {BLOCK}")

    patch = row("patch embedding",
                f"{m.patch} x {m.patch} x {m.channels} to {m.width}, {m.grid ** 2} times",
                ("bytes of a patch", patch_bytes(m), "max_patch"))
    if m.channels != _COLOURS:
        patch.why.append(f"images have {m.channels} colours, must have {_COLOURS}")
    row("special tokens", "class and distillation token" if m.distilled else "class token")
    row("position embedding", f"{m.tokens} tokens", ("tokens", m.tokens, "max_tokens"))
    norm = row("LayerNorm", f"{m.width} channels, eps {m.eps:g}, {2 * m.depth + 1} times",
               ("residual channels", m.width, "max_width"))
    multiple(norm, "width", m.width)
    per_block = f"in {m.depth} blocks"
    row("Q, K, V", f"{m.width} to 3 x {m.width} {per_block}")
    if heads:
        _attention(row, m, f"{m.heads} heads of {m.width / m.heads:g} {per_block}")
    else:
        row("attention", per_block).why.append(
            f"the number of heads is not known, must be said by --model or by num_attention_heads"
            f" in a config.json beside the file, as width {m.width} is no multiple of {_HEAD_SIZE}")
    row("projection", f"{m.width} to {m.width} {per_block}")
    mlp = row("MLP", f"{m.width} to {m.hidden} to {m.width} {per_block}",
              ("hidden channels", m.hidden, "max_hidden"))
    multiple(mlp, "hidden", m.hidden)
    gelu = row("GELU", about.activation or "taken to be GELU by the error function")
    if about.activation not in (None, "gelu"):
        gelu.why.append(f"{about.activation} in {about.source}, must be gelu, by the error"
                        " function")
    row("head", f"{m.width} to {m.classes}" + ", of two tokens" * m.distilled,
        ("classes", m.classes, "max_classes"))
    return rows


def _attention(row: Callable[..., Row], m: ModelConfig, text: str) -> None:
    size = m.width / m.heads
    if size not in _HEAD_SIZES:
        row("attention", text).why.append(
            f"heads have {size:g} channels, must have {', '.join(map(str, _HEAD_SIZES[:-1]))} or"
            f" {_HEAD_SIZES[-1]}")
        return
    slot = head_slot(m)
    row("attention", text,
        (f"channels for {m.heads} heads of {slot}", m.heads * slot, "max_width"))


def _selectors(model: ModelConfig, pruning: PruningConfig, config: Config) -> Row:
    row = Row("selectors", f"{pruning.selector}, before blocks"
              f" {', '.join(map(str, pruning.active))}")
    try:
        pruning.check(model)
        check_sizes(model, config, pruning)
    # PruningError and ConfigError.
    except ValueError as error:
        row.why.append(str(error))
    return row


def check_model(model: ModelConfig, config: Config, pruning: PruningConfig | None = None, *,
                about: Description | None = None) -> list[Row]:
    """Return the operators of a model that the accelerator can have, and of its selectors."""
    rows = _of_sizes(model, True, about or Description(activation="gelu"), config)
    if pruning is not None and pruning.active and all(row.fits for row in rows):
        rows.append(_selectors(model, pruning, config))
    return rows


def _faults(tensors: Mapping[str, Tensor], scheme: Scheme,
            model: ModelConfig) -> Iterable[tuple[str, str]]:
    """Give the canonical name and the fault of every parameter with one."""
    for name, shape in parameter_shapes(model).items():
        if name.startswith("head_dist.") and scheme.single_head:
            continue
        keys = scheme.names(name)
        part = (shape[0] // len(keys), *shape[1:])
        for key in keys:
            if key not in tensors:
                yield name, f"parameter {key} is missing"
            elif tuple(tensors[key].shape) != part:
                yield name, f"the shape of {key} is {tuple(tensors[key].shape)}, must be {part}"
            elif not tensors[key].is_floating_point():
                yield name, f"{key} is of type {tensors[key].dtype}, must be floating point"
            elif not tensors[key].isfinite().all():
                yield name, f"{key} has values that are not finite numbers"


def _extras(file: ModelFile, known: Iterable[str]) -> list[Row]:
    """Return the operators that the accelerator has not, and the parameters of none."""
    left = {key for key in file.tensors if not is_unused(key)} - set(known)
    rows = [Row(operator, where, (), ["the accelerator does not have it"])
            for operator, where in file.extras]
    for operator, keys in unsupported(sorted(left)).items():
        rows.append(Row(operator, f"{keys[0]}{_more(keys)}", (),
                        ["the accelerator does not have it"]))
        left -= set(keys)
    if left and known:
        keys = sorted(left)
        rows.append(Row("unknown parameters", f"{keys[0]}{_more(keys)}", (),
                        [f"{len(keys)} more than a vision transformer has, must be 0"]))
    return rows


def _more(keys: Sequence[str]) -> str:
    return f" and {len(keys) - 1} more" if len(keys) > 1 else ""


def _from_file(file: ModelFile, model: ModelConfig | None, config: Config
               ) -> tuple[ModelConfig | None, list[Row]]:
    """Return the sizes of the network in a file, if they are known, and its operators."""
    about, tensors = file.description, file.tensors
    try:
        scheme = scheme_of(tensors, file.source)
        found = sizes_of(tensors, scheme, file.source) if model is None else {}
    except CheckpointError as error:
        rows = _extras(file, ())
        return None, [*rows, Row("network", "sizes not known", (), [str(error)])]
    if model is None:
        same = [m for m in MODELS.values() if about.heads in (None, m.heads) and all(
            getattr(m, size) == value for size, value in found.items())]
        heads = about.heads or (same[0].heads if same else
                                None if found["width"] % _HEAD_SIZE else
                                found["width"] // _HEAD_SIZE)
        sizes: ModelConfig = _Sizes(name=same[0].name if same else "custom", heads=heads or 1,
                                    eps=about.eps or scheme.eps, **found)
        rows = _of_sizes(sizes, heads is not None, about, config)
    else:
        sizes = model
        rows = _of_sizes(model, True, about, config)
    by_name = {row.operator: row for row in rows}
    more: dict[str, int] = {}
    for name, fault in _faults(tensors, scheme, sizes):
        operator = next(op for pattern, op in _OPERATORS.items() if pattern.match(name))
        if len(by_name[operator].why) < _MOST_FAULTS:
            by_name[operator].why.append(fault)
        else:
            more[operator] = more.get(operator, 0) + 1
    for operator, count in more.items():
        by_name[operator].why.append(f"so have {count} more parameters")
    names = [key for name in parameter_shapes(sizes) for key in scheme.names(name)]
    return sizes, rows + _extras(file, names)


def check_file(path: Path, config: Config, pruning: PruningConfig | None = None,
               model: ModelConfig | None = None) -> Verdict:
    """Return the verdict on the network in a file; a file that cannot be read raises ValueError."""
    if path.suffix == SUFFIX:
        qvit = load(path)
        rows = check_model(qvit.model, config, qvit.pruning)
        if all(row.fits for row in rows):
            rows.append(Row("program", f"{len(lower(qvit, config).image)} bytes"))
        return Verdict(f"packed model {path}", config.name, asdict(qvit.model), tuple(rows))
    file = read_model(path)
    sizes, rows = _from_file(file, model, config)
    if sizes is not None and all(row.fits for row in rows):
        # What runs the model reads it by these: they must agree with the table.
        try:
            sizes, _ = convert(file.tensors, model, heads=file.description.heads,
                               source=file.source)
            check_sizes(sizes, config)
        except (CheckpointError, ConfigError) as error:
            rows.append(Row("network", sizes.name, (), [str(error)]))
        else:
            if pruning is not None and pruning.active:
                rows.append(_selectors(sizes, pruning, config))
    known = {} if sizes is None else {f.name: getattr(sizes, f.name) for f in fields(ModelConfig)}
    return Verdict(file.source, config.name, known, tuple(rows))


def _show(console: Console, verdict: Verdict) -> None:
    table = Table(title=f"{escape(verdict.source)} on {verdict.config}", title_justify="left")
    for header in ("operator", "in the model", f"needs / {verdict.config} has", "verdict"):
        table.add_column(header, overflow="fold")
    for row in verdict.rows:
        limits = "\n".join(f"{x.need} / {x.most} ({x.limit})" for x in row.limits)
        table.add_row(row.operator, escape(row.model), limits,
                      "fits" if row.fits else "[bold red]does not fit")
    console.print(table)
    bad = [row for row in verdict.rows if not row.fits]
    for row in bad:
        for reason in row.why:
            console.print(f"{row.operator}: {reason}", highlight=False, markup=False)
    if bad:
        console.print(f"Does not fit: {len(bad)} of {len(verdict.rows)} operators"
                      f" ({', '.join(row.operator for row in bad)})", highlight=False)
    else:
        console.print(f"Fits: all {len(verdict.rows)} operators", highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m golden.check", description="Say whether a model fits a configuration,"
        " operator by operator, before anything is run.",
        epilog="Exit status: 0 it fits, 1 it does not, 2 it cannot be read.")
    parser.add_argument("source", metavar="MODEL_OR_CHECKPOINT",
                        help=f"one of {', '.join(MODELS)}; or a file (.safetensors, .pth, .onnx,"
                        f" {SUFFIX}), or the folder of one")
    parser.add_argument("--config", default="zcu102", help=f"one of {', '.join(CONFIGS)}")
    parser.add_argument("--model", help="what the checkpoint must be of; without it that is"
                        " inferred from its shapes and from a config.json beside it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdict here, too")
    add_selector_options(parser, "none")
    return parser


def _run(options: argparse.Namespace, console: Console) -> bool:
    if options.json is not None:
        check_output(options.json)
    config, pruning = named(options.config), pruning_config(options)
    model = None if options.model is None else model_named(options.model)
    path = Path(options.source)
    if options.source in MODELS and not path.exists():
        if model is not None:
            raise CheckpointError(f"--model is given for {options.source}, must be for checkpoints")
        of = model_named(options.source)
        verdict = Verdict(of.name, config.name, asdict(of),
                          tuple(check_model(of, config, pruning)))
    elif not path.suffix and not path.exists():
        raise CheckpointError(f"{options.source} is no file, and no model is called so: there are"
                              f" {', '.join(MODELS)}")
    else:
        verdict = check_file(path, config, pruning, model)
    _show(console, verdict)
    if options.json is not None:
        options.json.write_text(json.dumps(verdict.to_dict(), indent=2) + "\n")
    return verdict.fits


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status("golden.check", lambda: _run(options, Console()))


if __name__ == "__main__":
    sys.exit(main())
