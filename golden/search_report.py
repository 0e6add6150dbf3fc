# SPDX-License-Identifier: BSD-2-Clause
"""The tries of a latency-aware search: ``python -m golden.search_report NAME.search.json``."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from golden.cli import exit_status
from golden.files import check_output
from golden.latency_aware import Found, SearchError, Try
from golden.search_plot import draw
from golden.train_search import percent

__all__ = ["SearchFile", "main", "read_search"]


@dataclass(frozen=True, kw_only=True)
class SearchFile:
    """What is in the file of a search.

    Members
    -------
    title
        Network, configuration and kind of selectors.
    steps
        Updates of each try.
    dense_cycles
        Latency of the network without selectors.
    wanted
        The latency that is wanted, as a part of that.
    accuracy
        Of the network without selectors.
    tries, found, found_accuracy
        See :class:`golden.train_search.SearchState`.
    """

    title: str
    steps: int
    dense_cycles: int
    wanted: float
    accuracy: float
    tries: tuple[Try, ...]
    found: Found | None
    found_accuracy: float | None


def read_search(path: Path) -> SearchFile:
    """Return what ``golden.train_search.write_search`` wrote."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, accuracy = content["found"], content["found_accuracy"]
        return SearchFile(
            title=f"{content['model']} on {content['config']}, {content['kind']}",
            steps=int(content["steps"]), dense_cycles=int(content["dense_cycles"]),
            wanted=float(content["bounds"]["latency"]), accuracy=float(content["accuracy"]),
            tries=tuple(map(_try, content["tries"])),
            found=None if found is None else _found(found),
            found_accuracy=None if accuracy is None else float(accuracy))
    except OSError as error:
        raise SearchError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SearchError(f"{path} is not what a search writes, must be NAME.search.json of a"
                          " training") from None


def _try(values: Mapping[str, Any]) -> Try:
    accuracy = values["accuracy"]
    return Try(block=int(values["block"]), rate=float(values["rate"]),
               bound=float(values["bound"]), blocks=tuple(map(int, values["blocks"])),
               keep=_floats(values["keep"]), latency=float(values["latency"]),
               accuracy=None if accuracy is None else float(accuracy),
               kept=_floats(values["kept"]), verdict=str(values["verdict"]))


def _found(values: Mapping[str, Any]) -> Found:
    return Found(blocks=tuple(map(int, values["blocks"])), keep=_floats(values["keep"]),
                 latency=float(values["latency"]), met=bool(values["met"]))


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(map(float, values))


def _table(search: SearchFile) -> Table:
    table = Table()
    for header in ("block", "rate", "selectors before", "keep", "kept", "top-1", "latency"):
        table.add_column(header, justify="right")
    table.add_column("")
    table.add_row(*[""] * 5, f"{search.accuracy:.2%}", "100.0%", "dense")
    for one in search.tries:
        table.add_row(str(one.block), f"{one.rate:.1%}", ", ".join(map(str, one.blocks)),
                      percent(one.keep), percent(one.kept),
                      "" if one.accuracy is None else f"{one.accuracy:.2%}",
                      f"{one.latency:.1%}", one.verdict)
    if search.found is not None and search.found_accuracy is not None:
        table.add_section()
        table.add_row("", "", ", ".join(map(str, search.found.blocks)),
                      percent(search.found.keep), "", f"{search.found_accuracy:.2%}",
                      f"{search.found.latency:.1%}", "found")
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m golden.search_report", description="Print the tries of a latency-aware"
        " search, and what it found.")
    parser.add_argument("search", type=Path, metavar="NAME.search.json",
                        help="what the training wrote")
    parser.add_argument("--plot", type=Path, metavar="PNG",
                        help="draw accuracy over latency, too; tries are labelled by block and"
                        " rate")
    return parser


def _run(options: argparse.Namespace, console: Console) -> None:
    if options.plot is not None:
        check_output(options.plot)
        if options.plot.suffix != ".png":
            raise ValueError(f"the name of the plot is {options.plot}, must end with .png")
    search = read_search(options.search)
    console.print(f"{search.title}, {search.steps} steps a try; wanted: {search.wanted:.1%} of"
                  f" {search.dense_cycles:,} cycles", highlight=False, markup=False)
    console.print(_table(search))
    if options.plot is not None:
        draw(options.plot, search.title, search.accuracy, search.wanted, search.tries,
             search.found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status("golden.search_report", lambda: _run(options, Console()))


if __name__ == "__main__":
    sys.exit(main())
