# SPDX-License-Identifier: BSD-2-Clause
"""Images through the emitted Verilog, compared with the golden model: ``python -m sim.run``."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from golden.cli import add_selector_options, frames, picture_name, pruning_config
from golden.model import MODELS, model_named
from golden.panels import panels
from golden.pruning import Step
from rtl.config import CONFIGS, named
from rtl.isa import Error
from sim.build import emitted, simulator
from sim.compare import Comparison, compare, compare_output, compare_selections
from sim.device import Device, Status
from sim.report import Report, Summary, steps_of
from sim.session import Session, SimulationFault
from sim.streams import streams
from sim.verilator import BuildError
from sim.workload import Workload

__all__ = ["Bus", "CoreError", "add_bus_options", "bus_of", "execute", "main", "parser", "prepare",
           "simulate", "simulate_images"]

#: An image that takes this many times the cycles it should is given up: it hangs.
_PATIENCE = 40

#: Folder of the pictures, unless told otherwise.
_OUTPUT = Path("build") / "run"


class CoreError(RuntimeError):
    """The core ended an image with an error code."""


@dataclass(frozen=True, kw_only=True)
class Bus:
    """The memory: bytes per cycle of all ports together, cycles to the first data, stalls.

    ``stalls`` is the seed of random stalls on every channel, 0 for none.
    """

    bytes_per_cycle: float = 64
    latency: int = 100
    stalls: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.bytes_per_cycle <= 4096:
            raise ValueError(f"bytes per cycle is {self.bytes_per_cycle:g}, must be between 1 and"
                             " 4096")
        if not 1 <= self.latency <= 100_000:
            raise ValueError(f"latency is {self.latency}, must be between 1 and 100000")
        if not 0 <= self.stalls < 1 << 32:
            raise ValueError(f"the seed of the stalls is {self.stalls}, must be between 0 and"
                             f" {(1 << 32) - 1}")

    def cycles(self, workload: Workload) -> int:
        """Return about how long an image takes: the array or the memory, whichever is slower."""
        moved = len(workload.program.image) + workload.frame.nbytes
        return max(workload.array_cycles, int(moved / self.bytes_per_cycle)) + 50 * self.latency


def _checked(status: Status) -> Status:
    if status.error != Error.NONE:
        raise CoreError(f"the core ended with error {status.error.name} at instruction"
                        f" {status.error_index}")
    return status


def simulate(workload: Workload, program: Path, bus: Bus, *, image: str = "",
             progress: Callable[[int], None] = lambda cycles: None) -> Report:
    """Run one frame on the executable ``program`` and compare everything it wrote."""
    (report,) = simulate_images([(image, workload)], program, bus, progress=progress)
    return report


def simulate_images(images: Sequence[tuple[str, Workload]], program: Path, bus: Bus, *,
                    progress: Callable[[int], None] = lambda cycles: None) -> list[Report]:
    """Run frames of one network one after another, with one load of its program.

    ``images`` are their names and frames, made of one workload by ``with_frame``. They are
    compared while the next ones run; ``progress`` is told the cycles of all of them.
    """
    first = images[0][1]
    classes, port_bytes = first.qvit.model.classes, first.config.port_bits // 8
    reports: list[Report] = []
    with Session(program) as session:
        device = Device(session, classes, port_bytes)
        session.bus(bytes_per_cycle=bus.bytes_per_cycle, latency=bus.latency, stalls=bus.stalls)
        device.place(first.program.image, first.frame.tobytes())
        for number, (name, workload) in enumerate(images, 1):
            if number > 1:
                device.frame(workload.frame.tobytes())
            session.call(_frame(session, device, name, workload, bus, number, reports))
        session.run(lambda now: progress(now + sum(report.cycles for report in reports)))
    return reports


def _frame(session: Session, device: Device, name: str, workload: Workload, bus: Bus, number: int,
           reports: list[Report]) -> Callable[[], None]:
    """Add the commands of a frame; return the function that reports on it after them."""
    model = workload.qvit.model
    folder = session.trace(f"image{number}")
    device.start()
    status, result = device.finish(_PATIENCE * bus.cycles(workload))
    session.trace_off()
    selectors = len(workload.blocks)
    selections = device.selections(selectors, model.tokens) if selectors else None

    def report() -> None:
        logits, top_class, stages = workload.expected
        checked = _checked(status())
        recording = {stream.name: stream.read(folder) for stream in streams(workload.config)}
        parts = [compare(workload.program, stages, recording),
                 compare_output(logits, top_class, result(), checked.top_class)]
        steps: list[Step] = []
        if selections is not None:
            seen = selections()
            parts.append(compare_selections(stages, seen, model.special_tokens, checked.tokens))
            steps = list(steps_of(workload, seen))
        shutil.rmtree(folder)
        values = session.values
        counts = {key: values[f"run{number}.{key}"] for key in (
            "cycles", "bytes_read", "bytes_written", "host_accesses")}
        # The start of the image is an access, the only one.
        counts["host_accesses"] -= 1
        reports.append(Report(
            workload=workload, image=name, status=checked, steps=tuple(steps), **counts,
            comparison=Comparison(tuple(stage for part in parts for stage in part.stages),
                                  tuple(text for part in parts for text in part.problems))))

    return report


@contextmanager
def _step(console: Console, text: str) -> Iterator[None]:
    with console.status(text):
        yield
    console.print(f"{text}: done", highlight=False)


def add_bus_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`bus_of` reads."""
    parser.add_argument("--bytes-per-cycle", type=float, default=Bus.bytes_per_cycle,
                        metavar="BYTES", help="memory bandwidth (default: %(default)s)")
    parser.add_argument("--latency", type=int, default=Bus.latency, metavar="CYCLES",
                        help="cycles from an address to its data (default: %(default)s)")
    parser.add_argument("--stalls", type=int, default=Bus.stalls, metavar="SEED",
                        help="random stalls on every channel of the bus")


def bus_of(options: argparse.Namespace) -> Bus:
    """Return what the options of :func:`add_bus_options` say."""
    return Bus(bytes_per_cycle=options.bytes_per_cycle, latency=options.latency,
               stalls=options.stalls)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options of :func:`execute`."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.run", description="Simulate images on the emitted Verilog and"
        " compare every stage with the golden model.")
    parser.add_argument("--model", default="deit_tiny", help=f"one of {', '.join(MODELS)}")
    parser.add_argument("--config", default="zcu102", help=f"one of {', '.join(CONFIGS)}")
    add_selector_options(parser, "none")
    parser.add_argument("--images", "--image", type=Path, nargs="+", metavar="FILE",
                        help="photographs, or folders of them; without them a sample photograph of"
                        " scikit-learn")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help="weights of the network (.safetensors, .pth); without it they are"
                        " synthetic; those of selectors always are")
    add_bus_options(parser)
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help="folder for one picture of each photograph, of what the selectors"
                        f" keep; without it {_OUTPUT} if there are selectors")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    return parser


def _check_writable(path: Path) -> None:
    """Raise ValueError if a file cannot be written: before the simulation, not after it."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, must be a file")
    if not path.parent.is_dir():
        raise ValueError(f"the folder of {path} does not exist")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{path} cannot be written: permission denied")


def prepare(workload: Workload, console: Console) -> Path:
    """Return the simulator of a configuration, built if it is not there."""
    config = workload.config
    with _step(console, f"Verilog of {config.name}"):
        emitted(config)
    with _step(console, f"Simulator of {config.name} (the first time this takes minutes)"):
        return simulator(config)


def execute(options: argparse.Namespace, console: Console) -> Summary:
    """Run the images that the options of :func:`parser` name, and write their pictures."""
    if options.json is not None:
        _check_writable(options.json)
    config, model = named(options.config), model_named(options.model)
    bus, pruning = bus_of(options), pruning_config(options)
    images = frames(options.images, model.image_size)
    output = options.output or (_OUTPUT if pruning.active else None)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    with _step(console, f"Golden model: {options.model}, quantised and lowered to {config.name}"):
        workload = Workload.named(options.model, config, checkpoint=options.checkpoint,
                                  pruning=pruning if pruning.active else None)
        works = [(name, workload.with_frame(frame)) for name, frame in images]
        total = sum(bus.cycles(work) for _, work in works)
    program = prepare(workload, console)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[cycles]}"),
               TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Simulation", total=1.1 * total, cycles="")
        reports = simulate_images(
            works, program, bus,
            progress=lambda now: bar.update(task, completed=now, cycles=f"{now:,} cycles"))
    pictures = []
    if output is not None:
        for number, report in enumerate(reports, 1):
            pictures.append(output / picture_name(number, report.image))
            panels(model, report.workload.frame, report.steps).save(pictures[-1])
    return Summary(tuple(reports), tuple(pictures))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 only if every stage is equal."""
    options = parser().parse_args(arguments)
    console = Console(stderr=False)
    try:
        summary = execute(options, console)
        summary.show(console)
        if options.json is not None:
            options.json.write_text(json.dumps(summary.to_dict(), indent=2) + "\n")
    # Faults of model, configuration, selectors, images, checkpoint, options and ports are
    # ValueErrors.
    except (ValueError, BuildError, CoreError, SimulationFault, OSError) as error:
        print(f"sim.run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sim.run: interrupted", file=sys.stderr)
        return 130
    return 0 if summary.exact else 1


if __name__ == "__main__":
    sys.exit(main())
