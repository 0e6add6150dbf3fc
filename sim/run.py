# SPDX-License-Identifier: BSD-2-Clause
"""One image through the emitted Verilog, compared with the golden model: ``python -m sim.run``."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from golden.images import SAMPLE
from golden.model import MODELS
from rtl.config import CONFIGS, named
from rtl.isa import Error
from sim.build import emitted, simulator
from sim.compare import Comparison, compare, compare_output
from sim.device import Device, Status
from sim.report import Report
from sim.session import Session, SimulationFault
from sim.streams import streams
from sim.verilator import BuildError
from sim.workload import Workload

__all__ = ["Bus", "CoreError", "main", "simulate"]

#: An image that takes this many times the cycles it should is given up: it hangs.
_PATIENCE = 40


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
    logits, top_class, stages = workload.expected
    config = workload.config
    with Session(program) as session:
        device = Device(session, workload.qvit.model.classes, config.port_bits // 8)
        session.bus(bytes_per_cycle=bus.bytes_per_cycle, latency=bus.latency, stalls=bus.stalls)
        device.place(workload.program.image, workload.frame.tobytes())
        folder = session.trace("image")
        device.start()
        status, result = device.finish(_PATIENCE * bus.cycles(workload))
        session.trace_off()
        values = session.run(progress)
        recording = {stream.name: stream.read(folder) for stream in streams(config.columns)}
        checked = _checked(status())
        inside = compare(workload.program, stages, recording)
        outside = compare_output(logits, top_class, result(), checked.top_class)
        comparison = Comparison(inside.stages + outside.stages, inside.problems)
    return Report(workload, image, checked, values["run1.cycles"], values["run1.bytes_read"],
                  values["run1.bytes_written"], comparison)


@contextmanager
def _step(console: Console, text: str) -> Iterator[None]:
    with console.status(text):
        yield
    console.print(f"{text}: done", highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sim.run", description="Simulate one image on the emitted Verilog and"
        " compare every stage with the golden model.")
    parser.add_argument("--model", default="deit_tiny", help=f"one of {', '.join(MODELS)}")
    parser.add_argument("--config", default="zcu102", help=f"one of {', '.join(CONFIGS)}")
    parser.add_argument("--image", type=Path, metavar="FILE",
                        help="photograph; without it a sample photograph of scikit-learn")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help="weights (.safetensors, .pth); without it they are synthetic")
    parser.add_argument("--bytes-per-cycle", type=float, default=Bus.bytes_per_cycle,
                        metavar="BYTES", help="memory bandwidth (default: %(default)s)")
    parser.add_argument("--latency", type=int, default=Bus.latency, metavar="CYCLES",
                        help="cycles from an address to its data (default: %(default)s)")
    parser.add_argument("--stalls", type=int, default=Bus.stalls, metavar="SEED",
                        help="random stalls on every channel of the bus")
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


def _run(options: argparse.Namespace, console: Console) -> Report:
    if options.json is not None:
        _check_writable(options.json)
    config = named(options.config)
    bus = Bus(bytes_per_cycle=options.bytes_per_cycle, latency=options.latency,
              stalls=options.stalls)
    with _step(console, f"Golden model: {options.model}, quantised and lowered to {config.name}"):
        workload = Workload.named(options.model, config, image=options.image,
                                  checkpoint=options.checkpoint)
        _ = workload.expected  # computed here rather than under the next bar
    with _step(console, f"Verilog of {config.name}"):
        emitted(config)
    with _step(console, f"Simulator of {config.name} (the first time this takes minutes)"):
        program = simulator(config)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[cycles]}"),
               TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Simulation", total=1.1 * bus.cycles(workload), cycles="")
        return simulate(
            workload, program, bus, image=str(options.image or f"{SAMPLE} (scikit-learn)"),
            progress=lambda now: bar.update(task, completed=now, cycles=f"{now:,} cycles"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 only if every stage is equal."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=False)
    try:
        report = _run(options, console)
        report.show(console)
        if options.json is not None:
            options.json.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    # Faults of model, configuration, image, checkpoint, options and ports are ValueErrors.
    except (ValueError, BuildError, CoreError, SimulationFault, OSError) as error:
        print(f"sim.run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sim.run: interrupted", file=sys.stderr)
        return 130
    return 0 if report.comparison.exact else 1


if __name__ == "__main__":
    sys.exit(main())
