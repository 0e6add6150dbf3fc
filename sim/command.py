# SPDX-License-Identifier: BSD-2-Clause
"""What the commands of this folder have in common: options, steps, and how they end."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from golden.cli import add_config_option, exit_status
from golden.model import MODELS
from rtl.config import Config
from sim.build import emitted, simulator
from sim.session import SimulationFault
from sim.simulate import Bus, CoreError
from sim.verilator import BuildError

__all__ = ["add_bus_options", "add_network_options", "bus_of", "command",
           "prepare", "progress_bar", "step"]


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, ``--config`` and ``--checkpoint``."""
    parser.add_argument("--model", default="deit_tiny", help=f"one of {', '.join(MODELS)}")
    add_config_option(parser, "zcu102")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help="weights of the network (.safetensors, .pth); without it they are"
                        " synthetic; those of selectors always are")


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


@contextmanager
def step(console: Console, text: str) -> Iterator[None]:
    """Say what is being done, and that it is done."""
    with console.status(text):
        yield
    console.print(f"{text}: done", highlight=False)


def prepare(config: Config, console: Console) -> Path:
    """Return the simulator of a configuration, built if it is not there."""
    with step(console, f"Verilog of {config.name}"):
        emitted(config)
    with step(console, f"Simulator of {config.name} (the first time this takes minutes)"):
        return simulator(config)


@contextmanager
def progress_bar(console: Console, text: str, cycles: int,
                 images: int = 1) -> Iterator[Callable[[int, int], None]]:
    """Show a bar while ``images`` are simulated that take about so many ``cycles`` each.

    Gives the function that moves it: to a number of images, and cycles of the next one.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[at]}"),
               TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=images, at="")

        def move(done: int, now: int) -> None:
            count = f"{done} of {images} images, " if images > 1 else ""
            bar.update(task, completed=done + min(1, now / (1.1 * cycles)),
                       at=f"{count}{now:,} cycles")

        yield move


def command(name: str, run: Callable[[], bool]) -> int:
    """Run a command and return its exit status, see :func:`golden.cli.exit_status`."""
    return exit_status(name, run, BuildError, CoreError, SimulationFault)
