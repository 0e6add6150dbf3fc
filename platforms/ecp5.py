# SPDX-License-Identifier: BSD-2-Clause
"""Place and route a configuration for ECP5: what it takes, how fast it is, and what limits it."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from golden.cli import add_config_option
from golden.files import check_output
from platforms.boards_data import BOARDS
from platforms.ecp5_flow import DEVICE, implement
from platforms.ecp5_timing import Result
from platforms.tables import print_or_update
from rtl.config import Config, named

__all__ = ["main", "record", "slower", "tables"]

#: What a later version may lose in frequency, and may need more of a part, until it is a fault.
TOLERANCE = 0.1


def record(config: Config, seed: int, result: Result) -> dict[str, Any]:
    """Return what ``--json`` writes: the run and its result as plain data."""
    return {"config": config.name, "device": DEVICE, "seed": seed, **result.to_dict()}


def slower(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in what respects ``now`` is worse than ``before`` by more than ``TOLERANCE``."""
    worse = []
    if now["mhz"] < before["mhz"] * (1 - TOLERANCE):
        worse.append(f"{now['mhz']} MHz, there were {before['mhz']}")
    for part, used in before["used"].items():
        if now["used"][part] > used * (1 + TOLERANCE):
            worse.append(f"{now['used'][part]:,} {part}, there were {used:,}")
    return worse


def tables(result: Result) -> str:
    """Return the parts that are used and the critical path, as Markdown."""
    begin, end = result.ends
    total = sum(step.ns for step in result.path)
    return "\n".join([
        f"| {DEVICE} | used | of | |", "|---|---:|---:|---:|",
        *(f"| {part} | {used:,} | {result.available[part]:,} |"
          f" {used / result.available[part]:.0%} |" for part, used in result.used.items()), "",
        f"**{result.mhz:.1f} MHz.** The critical path leads from `{begin}` to `{end}`:", "",
        "| ns | through | to |", "|---:|---|---|",
        *(f"| {step.ns:.2f} | {step.kind} | `{step.name}` |" for step in result.path),
        f"| {total:.2f} | | |"])


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m platforms.ecp5``."""
    parser = argparse.ArgumentParser(prog="python -m platforms.ecp5", description=__doc__)
    add_config_option(parser, BOARDS["ulx3s"].config)
    parser.add_argument("--seed", type=int, default=1,
                        help="where the placer begins (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    parser.add_argument("--update", type=Path, metavar="FILE",
                        help="put the tables into this file instead of printing them")
    options = parser.parse_args(arguments)

    def prepare() -> tuple[str, Callable[[], str]]:
        config = named(options.config)
        if options.json:
            check_output(options.json)
        return config.name, lambda: _run(config, options.seed, options.json)

    return print_or_update(options.update, prepare)


def _run(config: Config, seed: int, file: Path | None) -> str:
    with Console(stderr=True).status("") as status:
        result = Result.parse(implement(
            config, seed=seed, progress=lambda stage: status.update(f"{config.name}: {stage}")))
    if file:
        file.write_text(json.dumps(record(config, seed, result), indent=2) + "\n")
    return tables(result)


if __name__ == "__main__":
    sys.exit(main())
