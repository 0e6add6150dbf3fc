# SPDX-License-Identifier: BSD-2-Clause
"""Accuracy and speed of a packed model on a set of images: ``python -m golden.evaluate``."""

import argparse
import json
import multiprocessing
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from golden import integer_batch
from golden.cli import exit_status
from golden.cycles import BYTES_PER_CYCLE, LATENCY, CycleModel
from golden.files import check_output
from golden.folder import ImageFolder
from golden.images import normalise
from golden.integer_batch import BatchViT, Tables
from golden.lower import check_sizes, lower
from golden.model import FloatViT, ModelConfig
from golden.model_file import find_model, load_model
from golden.nonlinear import FUNCTIONS
from golden.packed import load
from golden.pruning import PrunedViT, PruningConfig, segment_macs
from golden.quantize import QuantizedViT
from golden.scene_set import scene_set
from golden.scenes import SPLITS
from rtl.config import CONFIGS, Config, ConfigError, named

__all__ = ["Accuracy", "Answer", "Images", "Networks", "accuracies", "configuration", "evaluate",
           "main", "mean_cycles"]

#: The data that are no folder, and how many of them are the test.
_SCENES = "scenes"
_COUNT = 4000

#: Functions of the float twins, unless told otherwise.
_FUNCTIONS = "exact"

#: Images that are computed at a time.
_CHUNK = 16


class Images(Protocol):
    """Images with labels, as :class:`golden.folder.ImageFolder` has them."""

    labels: list[int]

    def frame(self, index: int, size: int) -> NDArray[np.uint8]:
        """Return an image, bytes [size, size, 3]."""


@dataclass(frozen=True)
class Answer:
    """What a network says of one image: its top class, and the tokens of each segment."""

    top: int
    tokens: tuple[int, ...]


class Networks:
    """The networks that are compared, by name: ``float``, ``int8``, and both ``pruned``.

    Parameters
    ----------
    qvit
        The packed model; with selectors it is also taken without them.
    checkpoint
        What it was made of, for the float twins; they have the selectors of ``qvit``.
    functions
        GELU, softmax and sigmoid of the float twins, see :data:`golden.nonlinear.FUNCTIONS`.
    """

    def __init__(self, qvit: QuantizedViT, checkpoint: Path | None = None,
                 functions: str = _FUNCTIONS) -> None:
        self.model = qvit.model
        self.pruning = qvit.pruning
        self.integers = {"int8": qvit.without_selectors()}
        self.floats: dict[str, PrunedViT] = {}
        if qvit.pruning is not None:
            self.integers["int8, pruned"] = qvit
        self._batches = {name: BatchViT(each, Tables(each, torch.device("cpu")))
                         for name, each in self.integers.items()}
        if checkpoint is not None:
            _, state, selectors = load_model(checkpoint, qvit.model)
            twin = FloatViT(qvit.model, state, functions)
            self.floats["float"] = PrunedViT(twin, PruningConfig(selector="none"))
            if qvit.pruning is not None:
                self.floats["float, pruned"] = PrunedViT(twin, qvit.pruning, selectors)

    def answers(self, frames: NDArray[np.uint8]) -> list[dict[str, Answer]]:
        """Return what each network says of each image, bytes [images, size, size, 3]."""
        found: list[dict[str, Answer]] = [{} for _ in frames]
        for frame, answers in zip(frames, found, strict=True):
            for name, twin in self.floats.items():
                result = twin.run(normalise(frame))
                answers[name] = Answer(int(result.logits.argmax()), (
                    self.model.tokens, *(step.tokens_out for step in result.steps)))
        for name, network in self._batches.items():
            batch = integer_batch.answers(network, frames)
            for answers, top, tokens in zip(found, batch.top.tolist(), batch.tokens.tolist(),
                                            strict=True):
                answers[name] = Answer(top, tuple(tokens))
        return found

    def macs(self, answer: Answer) -> int:
        """Return the multiplications that an answer took."""
        dense = PruningConfig(selector="none")
        pruning = dense if len(answer.tokens) == 1 or self.pruning is None else self.pruning
        return sum(segment_macs(self.model, pruning, answer.tokens))


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How well one network does.

    Parameters
    ----------
    network
        Its name, see :class:`Networks`.
    images, correct
        How many there were, and how many it named rightly.
    agree
        How many the float network, dense or pruned as this one, named equally; None without it.
    tokens
        Mean tokens of each segment, of all images.
    macs
        Mean multiplications of an image.
    cycles
        Mean cycles of an image on the accelerator, estimated; None of float networks.
    """

    network: str
    images: int
    correct: int
    agree: int | None
    tokens: tuple[float, ...]
    macs: float
    cycles: float | None = None

    @property
    def top1(self) -> float:
        return self.correct / self.images


def accuracies(networks: Networks, labels: Sequence[int],
               answers: Sequence[dict[str, Answer]]) -> list[Accuracy]:
    """Return the accuracy of each network, of its answers to images with ``labels``."""
    result = []
    for name in answers[0]:
        mine = [answer[name] for answer in answers]
        reference = name.replace("int8", "float")
        agree = (sum(answer[reference].top == one.top
                     for answer, one in zip(answers, mine, strict=True))
                 if name != reference and reference in networks.floats else None)
        result.append(Accuracy(
            network=name, images=len(mine), agree=agree,
            correct=sum(one.top == label for one, label in zip(mine, labels, strict=True)),
            tokens=tuple(np.mean([one.tokens for one in mine], 0).tolist()),
            macs=float(np.mean([networks.macs(one) for one in mine]))))
    return result


def configuration(name: str | None, model: ModelConfig,
                  pruning: PruningConfig | None) -> Config | None:
    """Return the configuration of this name, which the network must fit.

    Without a name it is the smallest that the network fits, None if it fits none.
    """
    if name is not None:
        config = named(name)
        check_sizes(model, config, pruning)
        return config
    for config in sorted(CONFIGS.values(), key=lambda each: each.macs_per_cycle):
        try:
            check_sizes(model, config, pruning)
        except ConfigError:
            continue
        return config
    return None


def mean_cycles(qvit: QuantizedViT, config: Config,
                tokens: Sequence[tuple[int, ...]]) -> float:
    """Return the mean cycles of images with these tokens of each segment, estimated."""
    model = CycleModel(lower(qvit, config))
    return sum(count * model.cycles(each) for each, count in Counter(tokens).items()) / len(tokens)


# A process has its networks and images once, then it is told indices.
_networks: Networks
_images: Images


def _frames(images: Images, indices: Sequence[int], model: ModelConfig) -> NDArray[np.uint8]:
    return np.stack([images.frame(index, model.image_size) for index in indices])


def _start(qvit: QuantizedViT, checkpoint: Path | None, functions: str, images: Images) -> None:
    global _networks, _images
    # It is the first process that an interruption ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _networks, _images = Networks(qvit, checkpoint, functions), images


def _answers(indices: Sequence[int]) -> list[dict[str, Answer]]:
    return _networks.answers(_frames(_images, indices, _networks.model))


def evaluate(qvit: QuantizedViT, images: Images, indices: Sequence[int], *,
             checkpoint: Path | None = None, functions: str = _FUNCTIONS,
             jobs: int = 1) -> Iterator[dict[str, Answer]]:
    """Yield what the networks say of the images with these indices, in their order.

    Parameters
    ----------
    qvit, checkpoint, functions
        See :class:`Networks`.
    images
        The images.
    indices
        Which of them, and in which order.
    jobs
        Processes; with 1 it is this one.
    """
    if jobs < 1:
        raise ValueError(f"the number of jobs is {jobs}, must be at least 1")
    chunks = [indices[i:i + _CHUNK] for i in range(0, len(indices), _CHUNK)]
    if jobs == 1:
        networks = Networks(qvit, checkpoint, functions)
        for chunk in chunks:
            yield from networks.answers(_frames(images, chunk, qvit.model))
        return
    # A process that is forked while torch has threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start, (qvit, checkpoint, functions, images)) as pool:
        try:
            for answers in pool.map(_answers, chunks):
                yield from answers
        except BrokenProcessPool:
            raise ChildProcessError("a process ended before its images were done") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _table(found: Sequence[Accuracy], config: Config | None) -> Table:
    compared = any(accuracy.agree is not None for accuracy in found)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for header in ("network", "top-1", "right", *(("as float",) if compared else ()),
                   "tokens", "GMAC", *(("cycles", "images/s") if config else ())):
        table.add_column(header, justify="left" if header == "network" else "right")
    for a in found:
        agree = "" if a.agree is None else f"{a.agree / a.images:.2%}"
        table.add_row(a.network, f"{a.top1:.2%}", f"{a.correct:,}",
                      *((agree,) if compared else ()),
                      ", ".join(f"{mean:.1f}".removesuffix(".0") for mean in a.tokens),
                      f"{a.macs / 1e9:.4f}",
                      *(() if config is None else ("", "") if a.cycles is None else
                        (f"{a.cycles:,.0f}", f"{_rate(a, config):,.1f}")))
    return table


def _rate(accuracy: Accuracy, config: Config) -> float | None:
    """Return the images per second, if cycles are known."""
    return None if accuracy.cycles is None else config.clock_mhz * 1e6 / accuracy.cycles


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m golden.evaluate", description="Measure the accuracy of a packed model, as"
        " the accelerator computes it: without selectors, and with those that are in the file.")
    parser.add_argument("model", type=Path, metavar="MODEL.hv", help="packed model")
    parser.add_argument("--data", required=True, metavar=f"{_SCENES}|FOLDER",
                        help="scenes of digits, or a folder with one folder for each class")
    parser.add_argument("--split", default="test",
                        help=f"of scenes, one of {', '.join(SPLITS)} (default: %(default)s)")
    parser.add_argument("--count", type=int, metavar="N",
                        help=f"images: the first {_COUNT:,} scenes, or all of a folder, of which"
                        " fewer are taken evenly")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help="parameters that the model was made of: the float model is measured,"
                        " too, and how often both agree")
    parser.add_argument("--functions", metavar="NAME",
                        help="GELU, softmax and sigmoid of the float model, one of"
                        f" {', '.join(FUNCTIONS)} (default: {_FUNCTIONS}); those of the packed"
                        " model are in its tables")
    parser.add_argument("--config", metavar="NAME",
                        help="configuration for which cycles are estimated, one of"
                        f" {', '.join(CONFIGS)}; without it the smallest that the model fits")
    parser.add_argument("--jobs", type=int, default=1, metavar="PROCESSES",
                        help="processes that share the images (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    return parser


def _data(options: argparse.Namespace, model: ModelConfig) -> tuple[Images, list[int]]:
    """Return the images, and which of them are taken."""
    if options.count is not None and options.count < 1:
        raise ValueError(f"the number of images is {options.count}, must be at least 1")
    if options.data == _SCENES:
        scenes = scene_set(model, options.split, options.count or _COUNT)
        return scenes, list(range(len(scenes.labels)))
    folder = ImageFolder(options.data, model.classes)
    return folder, list(folder.spread(options.count or len(folder)))


def _result(options: argparse.Namespace, qvit: QuantizedViT, config: Config | None,
            found: Sequence[Accuracy]) -> dict[str, Any]:
    """Return what is measured as JSON takes it."""
    return {
        "model": qvit.model.name, "weights": qvit.weights, "data": options.data,
        "split": options.split if options.data == _SCENES else None,
        "checkpoint": None if options.checkpoint is None else find_model(options.checkpoint).name,
        "images": found[0].images,
        "pruning": None if qvit.pruning is None else asdict(qvit.pruning),
        "functions": None if options.checkpoint is None else options.functions or _FUNCTIONS,
        "accelerator": None if config is None else {
            "config": config.name, "clock_mhz": config.clock_mhz,
            "bytes_per_cycle": BYTES_PER_CYCLE, "latency": LATENCY},
        "networks": [{**asdict(a), "top1": a.top1,
                      "images_per_second": None if config is None else _rate(a, config),
                      "agreement": None if a.agree is None else a.agree / a.images}
                     for a in found]}


def _run(options: argparse.Namespace, console: Console) -> None:
    if options.json is not None:
        check_output(options.json)
    qvit = load(options.model)
    config = configuration(options.config, qvit.model, qvit.pruning)
    if options.functions is not None and options.checkpoint is None:
        raise ValueError("functions are given without a checkpoint, must be with one: they are of"
                         " the float model")
    functions = options.functions or _FUNCTIONS
    # Faults of the checkpoint are found here, before there are processes.
    networks = Networks(qvit, options.checkpoint, functions)
    with console.status(f"Images of {escape(options.data)}"):
        images, indices = _data(options, qvit.model)
    torch.set_num_threads(1)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        answers = list(bar.track(
            evaluate(qvit, images, indices, checkpoint=options.checkpoint, functions=functions,
                     jobs=min(options.jobs, len(indices))),
            total=len(indices), description=qvit.model.name))
    found = accuracies(networks, [images.labels[i] for i in indices], answers)
    if config is not None:
        found = [a if a.network not in networks.integers else replace(a, cycles=mean_cycles(
            networks.integers[a.network], config, [answer[a.network].tokens for answer in answers]))
            for a in found]
    weights = ("SYNTHETIC (seeded random numbers: the accuracy means nothing)"
               if qvit.weights == "synthetic" else qvit.weights)
    split = f" ({options.split})" if options.data == _SCENES else ""
    console.print(f"{escape(str(options.model))}: {qvit.model.name}, weights {escape(weights)}",
                  highlight=False)
    console.print(f"{len(indices):,} images of {escape(options.data)}{split}", highlight=False)
    if isinstance(images, ImageFolder) and len(images.names) < qvit.model.classes:
        console.print(f"{len(images.names)} folders of classes, the network has"
                      f" {qvit.model.classes}: they count as its first ones", highlight=False)
    console.print(_table(found, config))
    console.print(f"{qvit.model.name} fits no configuration: no cycles" if config is None else
                  f"cycles: mean, estimated for {config.name} at {config.clock_mhz} MHz, memory of"
                  f" {BYTES_PER_CYCLE} bytes per cycle, latency {LATENCY}", highlight=False,
                  soft_wrap=True)
    if options.json is not None:
        options.json.write_text(
            json.dumps(_result(options, qvit, config, found), indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status("golden.evaluate", lambda: _run(options, Console()))


if __name__ == "__main__":
    sys.exit(main())
