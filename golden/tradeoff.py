# SPDX-License-Identifier: BSD-2-Clause
"""The curve of accuracy over multiplications: ``python -m golden.tradeoff CONFIG.yaml``."""

import argparse
import hashlib
import json
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from golden.cli import exit_status
from golden.files import check_output, make_folder
from golden.model_file import load_model
from golden.scenes import SPLITS, SceneSettings, fixed_set
from golden.selection_quality import SelectionQuality, selection_quality
from golden.tradeoff_plot import draw
from golden.tradeoff_points import load_points
from golden.train_config import TrainConfig, TrainError
from golden.train_data import SceneData
from golden.train_measure import measure
from golden.trainable import TrainableViT
from golden.trainer import Trainer

__all__ = ["Point", "dense_accuracy", "main", "train_point", "train_points"]

#: Folder of the results, unless told otherwise; the folder of the configuration is put below it.
_OUTPUT = Path("build") / "tradeoff"

#: File that says which weights the points in a folder begin with.
_DIGEST = "weights.sha256"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of the curve.

    Parameters
    ----------
    kind
        Kind of the stage.
    keep
        What each selector was to keep.
    accuracy
        Part of the images that are classified right.
    quality
        What the selectors do to them, and what is left of the multiplications.
    """

    kind: str
    keep: tuple[float, ...]
    accuracy: float
    quality: SelectionQuality

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {"kind": self.kind, "keep": list(self.keep), "accuracy": self.accuracy,
                **self.quality.to_dict()}


def dense_accuracy(config: TrainConfig, split: str, count: int) -> float:
    """Return the accuracy of the weights that points begin with, on scenes of a split."""
    _, state, _ = load_model(config.weights, config.model)
    network = TrainableViT(config.model, config.functions)
    network.load_state_dict(state)
    batches = SceneData(config.model).fixed(split, config.model.image_size, count)
    return float(measure(network, batches).right.mean())


def train_point(config: TrainConfig, folder: Path, split: str, count: int) -> Point:
    """Train a point, from where that was interrupted, and measure it on scenes of a split.

    Parameters
    ----------
    config
        A training of one stage.
    folder
        Folder of all points; this one has a folder there with the name of its stage.
    split, count
        The scenes: the first so many of the split.
    """
    stage, = config.stages
    trainer = Trainer(config, folder / stage.name, device=torch.device("cpu"))
    trainer.run(lambda progress: None)
    answers = measure(trainer.network, trainer.data.fixed(split, stage.size, count, stage.kind))
    scenes = fixed_set(split, count, SceneSettings(size=stage.size))
    assert stage.pruning is not None
    return Point(kind=stage.kind, keep=stage.keep, accuracy=float(answers.right.mean()),
                 quality=selection_quality(answers.keeps, scenes, config.model, stage.pruning))


def _start(threads: int) -> None:
    """Make a process ready to train."""
    if multiprocessing.parent_process() is not None:
        # An interruption ends it without a word: what it was at is resumed.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)


def train_points(points: Sequence[TrainConfig], folder: Path, split: str, count: int,
                 jobs: int = 1) -> Iterator[tuple[int, Point]]:
    """Yield index and result of each point when it is done; see :func:`train_point`.

    ``jobs`` are the processes that train points at the same time; with 1 it is this one.
    """
    if jobs < 1:
        raise ValueError(f"the number of jobs is {jobs}, must be at least 1")
    threads = points[0].threads
    if jobs == 1:
        _start(threads)
        for index, config in enumerate(points):
            yield index, train_point(config, folder, split, count)
        return
    # A process that is forked while torch has threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start, (threads,)) as pool:
        try:
            waiting = {pool.submit(train_point, config, folder, split, count): index
                       for index, config in enumerate(points)}
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BrokenProcessPool:
            raise ChildProcessError("a process ended before its point was done") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _check_weights(weights: str, folder: Path) -> None:
    """Raise TrainError if the points in ``folder`` begin with other weights than these."""
    digest, file = hashlib.sha256(Path(weights).read_bytes()).hexdigest(), folder / _DIGEST
    if not file.exists():
        file.write_text(f"{digest}\n")
    elif file.read_text().strip() != digest:
        raise TrainError(f"{folder} holds points of other weights than {weights}, must be another"
                         " folder")


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(points: Sequence[Point], dense: float) -> Table:
    """Return the points, with the digit patches that the last selector leaves, and of the mean of
    all selectors the rank correlation with the digits and the spread.
    """
    table = Table()
    for header in ("selectors", "keep", "MACs", "top-1", "recall", "by digits", "spread"):
        table.add_column(header, justify="left" if header == "selectors" else "right",
                         no_wrap=True)
    table.add_row("none", "", f"{1:.1%}", f"{dense:.2%}")
    for point in points:
        last, mean = point.quality.selectors[-1], point.quality.mean
        table.add_row(point.kind, ",".join(f"{rate:g}" for rate in point.keep),
                      f"{point.quality.macs:.1%}", f"{point.accuracy:.2%}", f"{last.recall:.1%}",
                      _number(mean.by_digits), _number(mean.spread, 1))
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m golden.tradeoff", description="Fine-tune a dense network with selectors of"
        " several kinds that keep more or fewer patches, and compare accuracy and multiplications."
        " Points that are done are not trained again, those that were interrupted are resumed.")
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="the points")
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help=f"folder of a folder for each point; without it {_OUTPUT / 'NAME'}, by"
                        " the folder of the configuration")
    parser.add_argument("--split", default="test",
                        help=f"scenes, one of {', '.join(SPLITS)} (default: %(default)s)")
    parser.add_argument("--count", type=int, default=4000, metavar="N",
                        help="scenes that are measured (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, metavar="PROCESSES",
                        help="points that are trained at the same time (default: %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curves")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    return parser


def _run(options: argparse.Namespace, console: Console) -> None:
    for path in (options.plot, options.json):
        if path is not None:
            check_output(path)
    if options.plot is not None and options.plot.suffix != ".png":
        raise ValueError(f"the name of the plot is {options.plot}, must end with .png")
    if options.count < 1:
        raise ValueError(f"the number of scenes is {options.count}, must be at least 1")
    if options.split not in SPLITS:
        raise ValueError(f"the split is {options.split!r}, must be one of {', '.join(SPLITS)}")
    configs = load_points(options.config)
    config = configs[0]
    model, weights = config.model, config.weights
    folder = options.output or _OUTPUT / options.config.resolve().parent.name
    dense = dense_accuracy(config, options.split, options.count)
    make_folder(folder)
    _check_weights(weights, folder)
    found: dict[int, Point] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True,
                  disable=not console.is_terminal) as bar:
        task = bar.add_task("points", total=len(configs))
        for index, point in train_points(configs, folder, options.split, options.count,
                                         options.jobs):
            found[index] = point
            bar.advance(task)
            console.print(f"{configs[index].stages[0].name}: {point.quality.macs:.1%} of the MACs,"
                          f" top-1 {point.accuracy:.2%}", highlight=False)
    points = [found[index] for index in range(len(configs))]
    title = f"{model.name}: {options.count:,} scenes for {options.split}"
    console.print(f"{title}, weights {escape(weights)}", highlight=False, soft_wrap=True)
    console.print(_table(points, dense))
    if options.plot is not None:
        draw(options.plot, title, dense, {
            kind: [(point.quality.macs, point.accuracy) for point in points if point.kind == kind]
            for kind in dict.fromkeys(point.kind for point in points)})
    if options.json is not None:
        result = {"model": model.name, "weights": Path(weights).name, "split": options.split,
                  "scenes": options.count, "steps": config.stages[0].steps,
                  "batch": config.stages[0].batch, "blocks": list(config.stages[0].blocks),
                  "dense": dense, "points": [point.to_dict() for point in points]}
        options.json.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status("golden.tradeoff", lambda: _run(options, Console()))


if __name__ == "__main__":
    sys.exit(main())
