# SPDX-License-Identifier: BSD-2-Clause
"""Tables of measured cycles for docs/: ``python -m sim.benchmark``."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from golden.cli import add_config_option, numbers
from golden.files import check_output
from golden.lower import check_sizes
from golden.model import model_named
from golden.pages import check_section, columns_table, write_section
from golden.pruning import BLOCKS, PACKAGES
from rtl.config import Config, named
from sim import pruning_tables
from sim.command import add_bus_options, command
from sim.pruning_tables import PAGE
from sim.simulate import Bus
from sim.steady import COLUMNS, Point, bandwidths, measure

__all__ = ["main", "networks"]

_MODELS = ("deit_tiny", "deit_small", "deit_base")
_PRUNING_MODELS = ("deit_tiny", "deit_small")
_KEEP = (0.9, 0.7, 0.5)
_BANDWIDTHS = (64.0, 48.0, 32.0)
#: Patches that stay, of networks with 139, 98, 69 and with 90, 47, 34 tokens behind the selectors.
_LIGHT, _STRONG = (137, 96, 67), (88, 45, 32)
#: Networks on other arrays.
_SHAPES = (("deit_tiny", "zcu102"), ("deit_tiny", "zcu102-64x32"), ("deit_tiny", "zcu102-32x64"),
           ("deit_tiny", "zcu102-32x32"), ("deit_base", "zcu102-128x64"), ("scenes", "tiny"),
           ("scenes", "tiny-8x8"))
#: An image of DeiT-B takes minutes to simulate, and is loaded in less than a hundredth of its
#: time: two of them, the second with none behind it.
_ROUNDS = {"deit_base": {"rounds": 2}}
#: What the tables of the steady state are called on the page.
_STEADY, _SHAPES_TABLE = "steady", "shapes"


def networks(models: Sequence[str]) -> list[dict[str, Any]]:
    """Return the networks of the table of the steady state, as fields of ``sim.steady.Point``."""
    listed: list[dict[str, Any]] = [{"model": model} | _ROUNDS.get(model, {}) for model in models]
    if "deit_tiny" in models:
        tiny: dict[str, Any] = {"model": "deit_tiny"}
        listed += [tiny | {"counts": _LIGHT}, tiny | {"counts": _STRONG},
                   tiny | {"counts": _STRONG, "batch": 4}, tiny | {"last_block": "cls"}]
    return listed


def _points(options: argparse.Namespace, config: Config) -> list[Point]:
    models = options.models or _MODELS
    for model in models:
        check_sizes(model_named(model), config)
    return list(bandwidths(networks(models), config, options.bandwidths, options.latency,
                           options.rounds))


def _shapes(options: argparse.Namespace) -> list[Point]:
    """Return points of other arrays: the network, the configuration."""
    bus = Bus(bytes_per_cycle=max(options.bandwidths), latency=options.latency)
    return [Point(model=model, config=named(name), bus=bus,
                  **{"rounds": options.rounds} | _ROUNDS.get(model, {}))
            for model, name in _SHAPES]


def _steady(options: argparse.Namespace, console: Console) -> bool:
    """Measure the table of the steady state."""
    if options.json is not None:
        check_output(options.json)
    name = _SHAPES_TABLE if options.shapes else _STEADY
    if options.update:
        check_section(PAGE, name)
    if not 2 <= options.rounds <= 64:
        raise ValueError(f"the number of rounds is {options.rounds}, must be between 2 and 64")
    points = _shapes(options) if options.shapes else _points(options, named(options.config))
    rows = measure(points, console, options.jobs)
    text = columns_table(rows, COLUMNS)
    console.print(f"\n{text}", markup=False, highlight=False, soft_wrap=True)
    if options.update:
        write_section(PAGE, name, text)
    if options.json is not None:
        options.json.write_text(json.dumps({name: rows}, indent=2) + "\n")
    return all(row["bit_exact"] and row["accounted"] for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 only if every run is bit exact."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.benchmark", description="Simulate networks for tables of measured"
        " cycles. Without options: utilisation in the steady state of consecutive frames, at"
        " several memory bandwidths, and the latency of the first frame.")
    parser.add_argument("--pruning", action="store_true",
                        help="the tables of token pruning instead: topk at several rates and"
                        " threshold, beside the dense network, and the cost of one selector; one"
                        " frame at a time")
    parser.add_argument("--shapes", action="store_true",
                        help="arrays of other shapes instead, at the highest bandwidth")
    parser.add_argument("--models", nargs="+", metavar="MODEL",
                        help=f"without it {' '.join(_MODELS)}, with --pruning"
                        f" {' '.join(_PRUNING_MODELS)}")
    add_config_option(parser, "zcu102")
    parser.add_argument("--bandwidths", type=numbers(float, "numbers"), default=_BANDWIDTHS,
                        metavar="BYTES", help="bytes per cycle of the memory, not with --pruning;"
                        f" without it {','.join(f'{rate:g}' for rate in _BANDWIDTHS)}")
    parser.add_argument("--rounds", type=int, default=3, metavar="N",
                        help="frames of a run, or batches of them (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N",
                        help="simulations at a time (default: %(default)s)")
    parser.add_argument("--keep", type=numbers(float, "numbers"), default=_KEEP, metavar="RATES",
                        help="with --pruning, topk: what each selector keeps of its patches, a row"
                        f" each; without it {','.join(map(str, _KEEP))}")
    parser.add_argument("--blocks", type=numbers(int, "whole numbers"), default=BLOCKS,
                        help="with --pruning: blocks before which there is a selector, counted"
                        f" from 0; without it {','.join(map(str, BLOCKS))}")
    parser.add_argument("--package", default="merged",
                        help=f"with --pruning: one of {', '.join(PACKAGES)}")
    add_bus_options(parser)
    parser.add_argument("--update", action="store_true", help=f"write the tables into {PAGE.name}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables here, too")
    options = parser.parse_args(arguments)
    if options.pruning:
        options.models = options.models or _PRUNING_MODELS
        return command("sim.benchmark", lambda: pruning_tables.run(options, Console()))
    return command("sim.benchmark", lambda: _steady(options, Console()))


if __name__ == "__main__":
    sys.exit(main())
