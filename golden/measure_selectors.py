# SPDX-License-Identifier: BSD-2-Clause
"""Accuracy and selectors of networks on scenes: ``python -m golden.measure_selectors MODEL``."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from golden.cli import exit_status
from golden.files import check_output
from golden.integer_batch import BatchViT, Tables, answers
from golden.model import FloatViT, ModelConfig
from golden.model_file import load_model, stored_pruning
from golden.nonlinear import FUNCTIONS
from golden.packed import SUFFIX, load
from golden.pruning import PrunedViT, PruningConfig, PruningError
from golden.scenes import SPLITS, SceneSettings, fixed_set
from golden.selection_quality import Kept, SelectionQuality, selection_quality
from golden.train_data import SceneData
from golden.train_measure import Answers, measure
from golden.trainable_pruning import TrainablePrunedViT

__all__ = ["Measured", "main", "measure_float", "measure_integer"]

#: Images that are computed at a time.
_CHUNK = 250


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a network does to scenes.

    Parameters
    ----------
    model
        The network.
    pruning
        Its selectors.
    accuracy
        Part of the scenes that are classified right.
    quality
        What the selectors do.
    """

    model: ModelConfig
    pruning: PruningConfig
    accuracy: float
    quality: SelectionQuality


def _measured(model: ModelConfig, pruning: PruningConfig, split: str, found: Answers) -> Measured:
    scenes = fixed_set(split, len(found.right), SceneSettings(size=model.image_size))
    return Measured(model=model, pruning=pruning, accuracy=float(found.right.mean()),
                    quality=selection_quality(found.keeps, scenes, model, pruning))


def measure_float(path: Path, split: str, count: int, functions: str = "exact") -> Measured:
    """Return what the float network of a file of weights does to the first scenes of a split."""
    model, state, selectors = load_model(path)
    pruning = stored_pruning(path)
    if pruning is None:
        raise PruningError(f"{path} does not say which selectors it is with, must be written by a"
                           " stage with selectors of golden.train")
    PrunedViT(FloatViT(model, state, functions), pruning, selectors)  # finds what does not fit
    network = TrainablePrunedViT(model, pruning, functions)
    network.load_state_dict({**state, **{
        f"selectors.{i}.{name}": value for i, selector in enumerate(selectors)
        for name, value in selector.items()}})
    return _measured(model, pruning, split, measure(
        network, SceneData(model).fixed(split, model.image_size, count)))


def measure_integer(path: Path, split: str, count: int) -> Measured:
    """Return what the integer twin of a packed model does to the first scenes of a split."""
    qvit = load(path)
    if qvit.pruning is None:
        raise PruningError(f"{path} has 0 selectors, must have at least 1")
    model = SceneData(qvit.model).model  # one that takes scenes
    scenes = fixed_set(split, count, SceneSettings(size=model.image_size))
    network = BatchViT(qvit, Tables(qvit, torch.device("cpu")))
    found = [answers(network, np.repeat(scenes.frames[i:i + _CHUNK, ..., None], 3, -1))
             for i in range(0, count, _CHUNK)]
    return _measured(model, qvit.pruning, split, Answers(
        np.concatenate([part.top for part in found]) == scenes.labels,
        np.concatenate([part.keeps for part in found], 1).swapaxes(0, 1)))


def _cells(kept: Kept) -> list[str]:
    return [f"{kept.part:.1%}", f"{kept.low:.1f}", f"{kept.high:.1f}", *(
        "-" if value is None else f"{value:.2f}"
        for value in (kept.spread, kept.by_digits, kept.by_patches))]


def _show(console: Console, path: Path, found: Measured) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for header in ("before block", "recall", "random", "oracle", "kept", "5 %", "95 %", "spread",
                   "by digits", "by patches"):
        table.add_column(header, justify="right")
    for selector in found.quality.selectors:
        table.add_row(str(selector.block), *(
            f"{recall:.1%}" for recall in (selector.recall, selector.random, selector.oracle)),
            *_cells(selector.kept))
    table.add_row("mean", "", "", "", *_cells(found.quality.mean))
    console.print(f"{escape(str(path))}: {found.pruning}; top-1 {found.accuracy:.2%},"
                  f" {found.quality.macs:.1%} of the MACs", highlight=False, soft_wrap=True)
    console.print(table)


def _result(path: Path, found: Measured) -> dict[str, Any]:
    return {"file": path.name, "model": found.model.name, "selector": found.pruning.selector,
            "package": found.pruning.package, "accuracy": found.accuracy,
            **found.quality.to_dict()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m golden.measure_selectors", description="Measure on scenes what the"
        " selectors of networks do: how many patches with digits are left (recall), and would be"
        " of as many random patches, or of an oracle; how many"
        " patches, also at the 5th and 95th percentile of the scenes and their quotient (spread),"
        " and the rank correlation with the digits in a scene and with its patches that hold one.")
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL",
                        help="weights of golden.train with selectors, or a packed model"
                        f" ({SUFFIX}), which is computed in integers")
    parser.add_argument("--split", default="test",
                        help=f"scenes, one of {', '.join(SPLITS)} (default: %(default)s)")
    parser.add_argument("--count", type=int, default=4000, metavar="N",
                        help="scenes (default: %(default)s)")
    parser.add_argument("--functions", default="exact", help="GELU, softmax and sigmoid of weights,"
                        f" one of {', '.join(FUNCTIONS)} (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    return parser


def _run(options: argparse.Namespace, console: Console) -> None:
    if options.json is not None:
        check_output(options.json)
    if options.count < 1:
        raise ValueError(f"the number of scenes is {options.count}, must be at least 1")
    torch.set_num_threads(1)
    results = []
    for path in options.models:
        with console.status(escape(str(path))):
            found = (measure_integer(path, options.split, options.count) if path.suffix == SUFFIX
                     else measure_float(path, options.split, options.count, options.functions))
        _show(console, path, found)
        results.append(_result(path, found))
    if options.json is not None:
        options.json.write_text(json.dumps(
            {"split": options.split, "scenes": options.count, "models": results}, indent=2,
            allow_nan=False) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status("golden.measure_selectors", lambda: _run(options, Console()))


if __name__ == "__main__":
    sys.exit(main())
