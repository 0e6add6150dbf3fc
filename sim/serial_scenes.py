# SPDX-License-Identifier: BSD-2-Clause
"""Classifies test scenes on a simulated board, over its serial line."""

import argparse
import sys

from rich.console import Console

from golden.cli import add_config_option
from platforms.serial_host import SerialHost, classify_all, scenes
from platforms.ulx3s import CONFIG, MODEL, prepare
from sim.command import command, step
from sim.serial_line import SimulatedLine, serial_simulator

__all__ = ["FAST_BAUD", "main"]

#: Rate of the line, unless told otherwise: 5 cycles a bit, as most of a frame's time is its way.
FAST_BAUD = 10_000_000


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m sim.serial_scenes``."""
    parser = argparse.ArgumentParser(prog="python -m sim.serial_scenes", description=__doc__)
    parser.add_argument("--model", default=MODEL,
                        help="as of platforms.ulx3s (default: %(default)s)")
    add_config_option(parser, CONFIG)
    parser.add_argument("--baud", type=int, default=FAST_BAUD,
                        help="rate of the line (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=20,
                        help="how many are classified (default: %(default)s)")
    options = parser.parse_args(arguments)

    def run() -> bool:
        what = prepare(options.model, config=options.config, baud=options.baud)
        console = Console(stderr=True)
        with step(console, "Simulator of the board (the first time this takes minutes)"):
            serial_simulator(what.settings)
        with SimulatedLine(what.settings, what.program.image) as line:
            host = SerialHost(line, what.settings.classes)
            return classify_all(host, what.qvit, scenes(what.qvit, options.scenes),
                                lambda text: print(text, flush=True))

    return command("serial_scenes", run)


if __name__ == "__main__":
    sys.exit(main())
