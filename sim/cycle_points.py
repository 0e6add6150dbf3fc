# SPDX-License-Identifier: BSD-2-Clause
"""How near the cycle model is to simulated runs: ``python -m sim.cycle_points``.

Numbers of cycles do not depend on weights, so those of the networks here are zeros, and nothing is
compared but cycles.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amaranth.hdl import UnusedElaboratable
from rich.console import Console

from golden.cycles import CycleModel
from golden.files import check_output
from golden.lower import lower
from golden.model import model_named
from golden.pages import check_section, table, write_section
from golden.program import Program
from golden.pruning import PruningConfig, tokens_left
from platforms.hollow import hollow
from rtl.config import named
from sim.build import simulator
from sim.command import command, prepare
from sim.device import Device
from sim.session import Session
from sim.simulate import PATIENCE, Bus, checked

__all__ = ["POINTS", "Point", "main", "measure"]

#: The page that ``--update`` writes to, and what the table is called in it.
_PAGE = Path(__file__).parent.parent / "docs" / "estimate.md"
_SECTION = "points"

_HEAD = ("model", "configuration", "tokens", "batch", "last block", "bytes per cycle", "latency",
         "first round", "estimated", "difference", "an image", "estimated", "difference")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network on one configuration and memory.

    Parameters
    ----------
    model, config
        Names.
    blocks, counts
        Blocks that have a selector ``topk`` before them, and the patches that each keeps; the
        package token, merged, comes on top.
    bytes_per_cycle, latency
        The memory.
    batch, last_block
        As of ``golden.lower.lower``.
    rounds
        Rounds of the run.
    """

    model: str
    config: str
    blocks: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    bytes_per_cycle: float = 64
    latency: int = 100
    batch: int = 1
    last_block: str = "all"
    rounds: int = 3

    @property
    def pruning(self) -> PruningConfig:
        if not self.counts:
            return PruningConfig(selector="none")
        return PruningConfig(selector="topk", blocks=self.blocks, counts=self.counts,
                             package="merged")

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens at the start and after each selector."""
        return tokens_left(model_named(self.model), self.pruning)

    @property
    def program(self) -> Program:
        pruning = self.pruning if self.counts else None
        return lower(hollow(model_named(self.model), pruning), named(self.config),
                     last_block=self.last_block, batch=self.batch)


_SMALLEST = Point(model="tiny_test", config="tiny")
_TINY, _TINY_8X8, _SMALL, _LARGE = (Point(model="scenes", config=config)
                                    for config in ("tiny", "tiny-8x8", "small", "zcu102"))


def _pruned(point: Point, *counts: int) -> Point:
    return replace(point, blocks=(1, 2, 3), counts=counts)


#: Networks of two sizes, with and without selectors, on four arrays, in several memories.
POINTS: tuple[Point, ...] = (
    _SMALLEST,
    replace(_SMALLEST, bytes_per_cycle=2),
    replace(_TINY, bytes_per_cycle=4),
    replace(_TINY, latency=400),
    replace(_TINY, last_block="cls"),
    _pruned(_TINY, 60, 36, 18),
    _pruned(replace(_TINY, bytes_per_cycle=4, latency=20), 60, 36, 18),
    _pruned(_TINY_8X8, 60, 36, 18),
    replace(_SMALL, bytes_per_cycle=12),
    _pruned(_SMALL, 50, 25, 12),
    _pruned(replace(_SMALL, bytes_per_cycle=8, batch=2), 50, 25, 12),
    replace(_LARGE, bytes_per_cycle=24),
    _pruned(replace(_LARGE, latency=50), 60, 36, 18),
    _pruned(replace(_LARGE, bytes_per_cycle=16, batch=4), 60, 36, 18),
)


def measure(point: Point, simulation: Path) -> tuple[int, ...]:
    """Return the cycle of the logits of each round, of its last image."""
    program, images = point.program, point.rounds * point.batch
    bus = Bus(bytes_per_cycle=point.bytes_per_cycle, latency=point.latency)
    patience = PATIENCE * CycleModel(program, bus.bytes_per_cycle, bus.latency).ends(
        point.tokens, point.rounds)[-1]
    with Session(simulation) as session:
        device = Device(session, program.model.classes, program.config.port_bits // 8)
        session.bus(bytes_per_cycle=bus.bytes_per_cycle, latency=bus.latency, stalls=bus.stalls)
        device.place(program.image, *[bytes(program.frame_bytes)] * images, batch=point.batch)
        device.start()
        status, results = device.finish(patience)
        session.run()
        checked(status())
        return tuple(result.cycle for result in results()[point.batch - 1::point.batch])


def _row(point: Point, ends: Sequence[int]) -> dict[str, object]:
    """Return what was measured and what is estimated."""
    model = CycleModel(point.program, point.bytes_per_cycle, point.latency)
    estimated = model.ends(point.tokens, point.rounds)
    return {
        "model": point.model, "config": point.config, "tokens": list(point.tokens),
        "batch": point.batch, "last_block": point.last_block,
        "bytes_per_cycle": point.bytes_per_cycle, "latency": point.latency,
        "first": ends[0], "first_estimated": estimated[0],
        "steady": (ends[-2] - ends[-3]) / point.batch,
        "steady_estimated": (estimated[-2] - estimated[-3]) / point.batch}


def _cells(row: dict) -> list[str]:
    cells = [row["model"], row["config"], "/".join(map(str, row["tokens"])), str(row["batch"]),
             row["last_block"], f"{row['bytes_per_cycle']:g}", str(row["latency"])]
    for name in ("first", "steady"):
        measured, estimated = row[name], row[f"{name}_estimated"]
        cells += [f"{measured:,.0f}", f"{estimated:,.0f}", f"{estimated / measured - 1:+.2%}"]
    return cells


def _run(options: argparse.Namespace, console: Console) -> bool:
    if options.json is not None:
        check_output(options.json)
    if options.update:
        check_section(_PAGE, _SECTION)
    points = [point for point in POINTS
              if options.configs is None or point.config in options.configs]
    if not points:
        raise ValueError(f"no point is on {', '.join(options.configs)}, must be on one of"
                         f" {', '.join(dict.fromkeys(point.config for point in POINTS))}")
    rows: list[dict] = []
    for point in points:
        simulation = (simulator(named(point.config)) if any(
            row["config"] == point.config for row in rows) else prepare(named(point.config),
                                                                        console))
        with console.status(f"{point.model} on {point.config}, {point.bytes_per_cycle:g} bytes per"
                            " cycle"):
            rows.append(_row(point, measure(point, simulation)))
        console.print(", ".join(_cells(rows[-1])), markup=False, highlight=False, soft_wrap=True)
    text = table(_HEAD, map(_cells, rows))
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if options.update:
        write_section(_PAGE, _SECTION, text)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sim.cycle_points", description="Simulate networks without weights, and show"
        " how near the cycle model is.")
    parser.add_argument("--configs", nargs="+", metavar="NAME",
                        help="only the points of these configurations")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here, too")
    parser.add_argument("--update", action="store_true",
                        help=f"write the table into {_PAGE.name}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    # The model builds components to ask for their latencies.
    warnings.simplefilter("ignore", UnusedElaboratable)
    return command("sim.cycle_points", lambda: _run(options, Console()))


if __name__ == "__main__":
    sys.exit(main())
