# SPDX-License-Identifier: BSD-2-Clause
"""The steady state of consecutive frames: what is measured, and the table of it."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from golden.images import load_image
from golden.model import model_named
from golden.pruning import BLOCKS, PruningConfig, tokens_left
from rtl.config import Config
from sim.build import emitted, simulator
from sim.cache import BUILD, digest, replacing
from sim.frames import different, simulate_frames
from sim.simulate import Bus
from sim.workload import Workload

__all__ = ["COLUMNS", "Point", "bandwidths", "measure"]

@dataclass(frozen=True, kw_only=True)
class Point:
    """One network on one configuration and memory.

    Parameters
    ----------
    model
        Name of the network.
    config
        Configuration.
    bus
        Memory.
    counts
        Patches that each selector ``topk`` keeps; the package token, merged, comes on top.
    batch
        Images whose tokens stream through the same weight tile.
    last_block
        Rows of the last block that are computed.
    rounds
        Frames in the run, or batches of them.
    """

    model: str
    config: Config
    bus: Bus
    counts: tuple[int, ...] = ()
    batch: int = 1
    last_block: str = "all"
    rounds: int = 3

    def __str__(self) -> str:
        parts = [self.model, f"{self.config.rows} x {self.config.columns}"]
        if self.counts:
            parts.append("tokens " + "/".join(map(str, self.tokens[1:])))
        if self.batch > 1:
            parts.append(f"batch {self.batch}")
        if self.last_block != "all":
            parts.append(f"last block {self.last_block}")
        return ", ".join([*parts, f"{self.bus.bytes_per_cycle:g} bytes per cycle"])

    @property
    def pruning(self) -> PruningConfig:
        if not self.counts:
            return PruningConfig(selector="none")
        return PruningConfig(selector="topk", blocks=BLOCKS, counts=self.counts,
                             package="merged")

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens at the start and after each selector."""
        return tokens_left(model_named(self.model), self.pruning)


def bandwidths(networks: Sequence[dict], config: Config, bytes_per_cycle: Sequence[float],
               latency: int, rounds: int) -> Iterator[Point]:
    """Give a point for each of ``networks``, fields of :class:`Point`, and each bandwidth.

    ``rounds`` are those of networks that do not say how many.
    """
    for network in networks:
        for rate in bytes_per_cycle:
            yield Point(config=config, bus=Bus(bytes_per_cycle=rate, latency=latency),
                        **{"rounds": rounds} | network)


def _works(point: Point) -> list[tuple[str, Workload]]:
    """Return the frames of a point, no two equal, with their names."""
    model = model_named(point.model)
    workload = Workload.named(point.model, point.config, last_block=point.last_block,
                              pruning=point.pruning if point.counts else None, batch=point.batch)
    sample = [("sample", load_image(None, model.image_size), None)]
    return [(name, workload.with_frame(frame, label))
            for name, frame, label in different(sample, point.rounds * point.batch)]


def _run(point: Point, works: Sequence[tuple[str, Workload]]) -> dict:
    """Simulate a point and return its row."""
    config = point.config
    report = simulate_frames(works, simulator(config), point.bus)
    row = report.to_dict()
    cycles = row["steady_cycles"]
    total = sum(report.status.stalls.values())
    return {
        "model": point.model, "config": config.name, "array": [config.rows, config.columns],
        "tokens": list(point.tokens),
        "batch": point.batch, "last_block": point.last_block,
        "bytes_per_cycle": point.bus.bytes_per_cycle, "memory_latency": point.bus.latency,
        "clock_mhz": config.clock_mhz, "images": len(works),
        "macs": sum(report.macs) // len(works), "macs_per_cycle": config.macs_per_cycle,
        "cycles": cycles, "images_per_second": row["images_per_second"],
        "mac_utilization": row["steady_mac_utilization"],
        "latency_cycles": row["latency_cycles"], "latency_ms": row["latency_ms"],
        "run_cycles": report.status.cycles, "stalls": report.status.stalls,
        "accounted": total == report.status.cycles,
        "stages_compared": row["stages_compared"],
        "elements_compared": row["elements_compared"], "bit_exact": report.exact,
    }


def _cached(point: Point) -> dict:
    """Return the row of a point: simulated, or what it was when design, program, frames and memory
    were the same, and the integers that it is compared with."""
    works = _works(point)
    contents = (works[0][1].program.image, *(work.frame.tobytes() for _, work in works))
    key = digest(emitted(point.config), repr(point),
                 *(hashlib.sha256(content).hexdigest() for content in contents),
                 *sorted((BUILD.parent / "golden").glob("integer*.py")))
    path = BUILD / "steady" / f"{key}.json"
    if not path.exists():
        row = _run(point, works)
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(row))
    return json.loads(path.read_text())


def measure(points: Sequence[Point], console: Console, jobs: int) -> list[dict]:
    """Simulate the points, ``jobs`` at a time, and return their rows in the same order.

    A point whose design, program, frames and memory have been simulated before is not again.
    """
    for config in dict.fromkeys(point.config for point in points):
        with console.status(f"Simulator of {config.name}, {config.rows} x {config.columns}"):
            simulator(config)
    rows: dict[Point, dict] = {}
    columns = (TextColumn("{task.description}"), BarColumn(),
               TextColumn("{task.completed} of {task.total} runs"), TimeElapsedColumn())
    with (ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool,
          Progress(*columns, console=console, transient=True) as bar):
        task = bar.add_task("Simulation", total=len(points))
        waiting = {pool.submit(_cached, point): point for point in points}
        for done in as_completed(waiting):
            point = waiting[done]
            rows[point] = row = done.result()
            exact = "bit exact" if row["bit_exact"] else "NOT bit exact"
            console.print(f"{point}: {row['mac_utilization']:.1%}, {row['cycles']:,} cycles an"
                          f" image, {exact}", highlight=False)
            bar.advance(task)
    return [rows[point] for point in points]


def _waits(stalls: dict[str, int]) -> str:
    """Return what the cycles of a run went to, in the order of their number."""
    total = sum(stalls.values())
    parts = sorted(((count, cause) for cause, count in stalls.items() if count), reverse=True)
    return ", ".join(f"{cause} {count / total:.1%}" for count, cause in parts
                     if count >= total / 2000)


#: Column, key of a row, and how it is printed.
COLUMNS: tuple[tuple[str, str, Callable], ...] = (
    ("model", "model", str),
    ("configuration", "config", str),
    ("array", "array", lambda size: "{} x {}".format(*size)),
    ("tokens", "tokens", lambda tokens: "/".join(map(str, tokens))),
    ("batch", "batch", str),
    ("frames", "images", str),
    ("last block", "last_block", str),
    ("bytes per cycle", "bytes_per_cycle", "{:g}".format),
    ("GMAC", "macs", lambda n: f"{n / 1e9:.3f}"),
    ("cycles an image", "cycles", "{:,}".format),
    ("images/s", "images_per_second", "{:,.1f}".format),
    ("utilisation", "mac_utilization", "{:.1%}".format),
    ("first image, cycles", "latency_cycles", "{:,}".format),
    ("ms", "latency_ms", "{:.3f}".format),
    ("the run: cycles by cause", "stalls", _waits),
    ("elements compared", "elements_compared", "{:,}".format),
    ("bit exact", "bit_exact", lambda exact: "yes" if exact else "NO"),
)
