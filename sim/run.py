# SPDX-License-Identifier: BSD-2-Clause
"""Images through the emitted Verilog, compared with the golden model: ``python -m sim.run``."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from golden.cli import (
    add_last_block_option,
    add_selector_options,
    frames,
    picture_name,
    pruning_config,
)
from golden.files import check_output, make_folder
from golden.model import ModelConfig, model_named
from golden.panels import panels
from golden.scene_set import scene_set
from rtl.config import Config, named
from rtl.isa import SEGMENTS
from sim.command import (
    add_bus_options,
    add_network_options,
    bus_of,
    command,
    prepare,
    progress_bar,
    step,
)
from sim.frames import FramesReport, different, simulate_frames
from sim.report import Summary
from sim.simulate import simulate_images
from sim.timeline import Timeline
from sim.trace_events import write_trace
from sim.trace_plot import draw
from sim.workload import Workload

__all__ = ["add_options", "execute", "execute_frames", "main"]

#: Consecutive frames, at most: the streams of all of them are kept.
_MOST_FRAMES = 64

#: Folder of the pictures, unless told otherwise.
_OUTPUT = Path("build") / "run"

#: Scenes that there is a picture of; of photographs there is one of each.
_DRAWN = 8


def add_options(parser: argparse.ArgumentParser, selector: str) -> None:
    """Add the options that :func:`execute` reads, but ``images``; ``selector`` is the default."""
    add_network_options(parser)
    add_selector_options(parser, selector)
    add_last_block_option(parser)
    add_bus_options(parser)
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help="folder for one picture of each photograph, or of the first"
                        f" {_DRAWN} scenes, of what the selectors keep; without it {_OUTPUT} if"
                        " there are selectors")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    parser.add_argument("--trace", type=Path, metavar="FILE",
                        help="JSON file of what was done when, for ui.perfetto.dev")
    parser.add_argument("--plot", type=Path, metavar="FILE",
                        help="picture (.png) of what the array does over time")


def _frames(images: Sequence[Path] | None, scenes: int | None,
            model: ModelConfig) -> list[tuple[str, NDArray[np.uint8], int | None]]:
    """Return name, pixels and, if it is known, class of each image."""
    if scenes is None:
        return [(name, frame, None) for name, frame in frames(images, model.image_size)]
    test = scene_set(model, "test", scenes)
    return [(f"scene {i}", test.frame(i, model.image_size), label)
            for i, label in enumerate(test.labels)]


def _works(options: argparse.Namespace, console: Console,
           pixels: Sequence[tuple[str, NDArray[np.uint8], int | None]], batch: int = 1
           ) -> tuple[list[tuple[str, Workload]], int]:
    """Return the names and workloads of images, and about how many cycles the first one takes."""
    config, bus, pruning = named(options.config), bus_of(options), pruning_config(options)
    with step(console, f"Golden model: {options.model}, quantised and lowered to {config.name}"):
        workload = Workload.named(options.model, config, checkpoint=options.checkpoint,
                                  pruning=pruning if pruning.active else None,
                                  last_block=options.last_block, batch=batch)
        works = [(name, workload.with_frame(frame, label)) for name, frame, label in pixels]
        return works, bus.cycles(works[0][1])


def _finish(summary: Summary | FramesReport, options: argparse.Namespace,
            console: Console) -> None:
    """Show what a run came to, and write it."""
    summary.show(console)
    if options.json is not None:
        options.json.write_text(json.dumps(summary.to_dict(), indent=2) + "\n")


def _checked(options: argparse.Namespace) -> tuple[Config, ModelConfig]:
    """Return configuration and network; raise ValueError if an option is not as it must be."""
    for path in (options.json, options.trace, options.plot):
        if path is not None:
            check_output(path)
    config, model = named(options.config), model_named(options.model)
    pruning_config(options).check(model)
    return config, model


@contextmanager
def _traced(options: argparse.Namespace) -> Iterator[Callable[[Timeline], None] | None]:
    """Give what takes the timelines of the runs, if they are asked for; write them at the end."""
    timelines: list[Timeline] = []
    yield timelines.append if options.trace or options.plot else None
    if options.trace is not None:
        write_trace(options.trace, timelines)
    if options.plot is not None:
        draw(options.plot, timelines)


def execute(options: argparse.Namespace, images: Sequence[Path] | None, console: Console,
            scenes: int | None = None) -> Summary:
    """Run ``images``, files and folders, or the first ``scenes`` for testing, one after another.

    The result is shown, pictures and JSON are written.
    """
    config, model = _checked(options)
    if options.output is not None:
        make_folder(options.output)
    works, cycles = _works(options, console, _frames(images, scenes, model))
    output = options.output or (_OUTPUT if works[0][1].blocks else None)
    if output is not None:
        make_folder(output)
    program = prepare(config, console)
    with (_traced(options) as traced,
          progress_bar(console, "Simulation", cycles, len(works)) as progress):
        reports = simulate_images(works, program, bus_of(options), progress=progress, traced=traced)
    pictures = []
    if output is not None:
        for number, report in enumerate(reports[:None if scenes is None else _DRAWN], 1):
            pictures.append(output / picture_name(number, report.image))
            panels(model, report.workload.frame, report.steps).save(pictures[-1])
    summary = Summary(tuple(reports), tuple(pictures))
    _finish(summary, options, console)
    return summary


def execute_frames(options: argparse.Namespace, images: Sequence[Path] | None, console: Console,
                   scenes: int | None, count: int) -> FramesReport:
    """Run ``count`` frames in one run: the given ones, and variations of them.

    The result is shown, JSON is written; there are no pictures.
    """
    if not 1 <= options.batch <= SEGMENTS:
        raise ValueError(f"the batch is {options.batch}, must be between 1 and {SEGMENTS}")
    if not 1 <= count <= _MOST_FRAMES:
        raise ValueError(f"the number of frames is {count}, must be between 1 and {_MOST_FRAMES}")
    if count % options.batch:
        raise ValueError(f"the number of frames is {count}, must be a multiple of the batch,"
                         f" {options.batch}")
    if options.output is not None:
        raise ValueError("pictures are asked for with consecutive frames, must be without")
    config, model = _checked(options)
    works, cycles = _works(options, console, different(_frames(images, scenes, model), count),
                           options.batch)
    program = prepare(config, console)
    with (_traced(options) as traced,
          progress_bar(console, "Simulation", count * cycles) as progress):
        report = simulate_frames(works, program, bus_of(options), progress=progress, traced=traced)
    _finish(report, options, console)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 only if every stage is equal."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.run", description="Simulate images on the emitted Verilog and"
        " compare every stage with the golden model.")
    add_options(parser, "none")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--images", "--image", type=Path, nargs="+", metavar="FILE",
                        help="photographs, or folders of them; without them a sample photograph of"
                        " scikit-learn")
    source.add_argument("--scenes", type=int, metavar="N",
                        help="the first N scenes of digits that are for testing, with their labels")
    parser.add_argument("--frames", type=int, metavar="N",
                        help="N consecutive frames in one run, without the host in between: the"
                        " images, moved and with noise if there are fewer")
    parser.add_argument("--batch", type=int, default=1, metavar="B",
                        help="images that share weights behind the first selector, which must be"
                        " topk: of --frames, or as many (default: %(default)s)")
    options = parser.parse_args(arguments)

    def run() -> bool:
        inputs = (options, options.images, Console(), options.scenes)
        if options.frames is not None or options.batch != 1:
            count = options.batch if options.frames is None else options.frames
            return execute_frames(*inputs, count).exact
        return execute(*inputs).exact

    return command("sim.run", run)


if __name__ == "__main__":
    sys.exit(main())
