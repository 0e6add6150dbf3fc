# SPDX-License-Identifier: BSD-2-Clause
"""Consecutive frames in one run: how long one takes alone, and how long with others beside it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from golden.program import PassInfo
from sim.compare import (
    Comparison,
    compare_output,
    compare_register,
    compare_run,
    compare_selections,
)
from sim.device import Device, Result, Status
from sim.session import Session
from sim.simulate import PATIENCE, Bus, checked
from sim.streams import streams
from sim.timeline import Timeline
from sim.trace_decode import read_timeline
from sim.verdict import about_network, compared, show_verdict, stages_table, stalls_text
from sim.workload import Workload

__all__ = ["FramesReport", "different", "simulate_frames"]


def different(frames: Sequence[tuple[str, NDArray[np.uint8], int | None]],
              count: int) -> list[tuple[str, NDArray[np.uint8], int | None]]:
    """Return ``count`` frames with names and classes; those that are missing are made.

    They are the given ones, moved and with noise: no two are equal, so that exchanged images show.
    """
    made = list(frames[:count])
    for i in range(len(made), count):
        name, frame, label = frames[i % len(frames)]
        moved = np.roll(frame, (5 * i, 3 * i), (0, 1)).astype(np.int16)
        noise = np.random.default_rng(i).integers(-9, 10, frame.shape)
        made.append((f"{name}, moved {i}", np.clip(moved + noise, 0, 255).astype(np.uint8), label))
    return made


@dataclass(frozen=True, kw_only=True)
class FramesReport:
    """One run over several frames.

    Parameters
    ----------
    names, workloads
        The frames.
    status
        Registers of the core afterwards.
    results
        What each left in memory.
    macs
        Multiplications that the network takes for each.
    cycles, bytes_read, bytes_written, host_accesses
        From the start to the interrupt, counted outside the core.
    comparisons
        All stages and the output of each.
    """

    names: tuple[str, ...]
    workloads: tuple[Workload, ...]
    status: Status
    results: tuple[Result, ...]
    macs: tuple[int, ...]
    cycles: int
    bytes_read: int
    bytes_written: int
    host_accesses: int
    comparisons: tuple[Comparison, ...]

    @property
    def exact(self) -> bool:
        return all(comparison.exact for comparison in self.comparisons)

    @property
    def batch(self) -> int:
        """Images in a round."""
        return self.workloads[0].batch

    @property
    def _ends(self) -> list[int]:
        """Cycles in which the logits of the rounds were complete."""
        return [result.cycle for result in self.results[self.batch - 1::self.batch]]

    @property
    def intervals(self) -> tuple[int, ...]:
        """Cycles from the logits of each round to those of the next."""
        return tuple((b - a) % (1 << 32) for a, b in pairwise(self._ends))

    @property
    def latency(self) -> int:
        """Cycles of the first round, from the start to its logits."""
        return self._ends[0]

    @property
    def _middle(self) -> int:
        """A round that has others before and, from three rounds on, behind it."""
        return max(1, len(self.intervals) - 1)

    @property
    def steady(self) -> int | None:
        """Cycles of that round, from the logits of the one before to its own."""
        return self.intervals[self._middle - 1] if self.intervals else None

    def utilization(self, number: int, cycles: int) -> float:
        """Useful multiplications of round ``number`` over what the array could have done in
        ``cycles``."""
        macs = sum(self.macs[number * self.batch:(number + 1) * self.batch])
        return macs / (cycles * self.workloads[0].config.macs_per_cycle)

    def to_dict(self) -> dict[str, object]:
        """Return the run as plain data."""
        first = self.workloads[0]
        pruning, config, steady = first.qvit.pruning, first.config, self.steady
        clock = config.clock_mhz * 1e6
        return {
            "model": first.qvit.model.name,
            "config": config.name,
            "weights": first.qvit.weights,
            "selector": first.selector,
            "blocks": list(first.blocks),
            "package": None if pruning is None else pruning.package,
            "last_block": first.last_block,
            "frames": len(self.names),
            "batch": self.batch,
            "latency_cycles": self.latency,
            "latency_ms": self.latency / clock * 1e3,
            "latency_mac_utilization": self.utilization(0, self.latency),
            "round_cycles": steady,
            "steady_cycles": None if steady is None else round(steady / self.batch),
            "steady_mac_utilization": (
                None if steady is None else self.utilization(self._middle, steady)),
            "images_per_second": None if steady is None else clock * self.batch / steady,
            "cycles": self.cycles,
            "macs": sum(self.macs),
            "macs_per_cycle": config.macs_per_cycle,
            "clock_mhz": config.clock_mhz,
            "dram_bytes_read": self.bytes_read,
            "dram_bytes_written": self.bytes_written,
            "host_accesses": self.host_accesses,
            "stalls": self.status.stalls,
            **compared(self.comparisons),
            "images": [{"image": name, "logits_at_cycle": result.cycle, "macs": macs,
                        "tokens": result.tokens, "top1": result.top_class, "label": work.label,
                        "bit_exact": comparison.exact}
                       for name, work, result, macs, comparison in zip(
                           self.names, self.workloads, self.results, self.macs, self.comparisons,
                           strict=True)],
        }

    def show(self, console: Console) -> None:
        """Print the tables and the numbers."""
        console.print(stages_table(self.comparisons))
        first = self.workloads[0]
        clock, what = first.config.clock_mhz, "image" if self.batch == 1 else "batch"

        def time(number: int, cycles: int) -> str:
            return (f"{cycles:,} cycles, {cycles / clock / 1e3:.3f} ms at {clock} MHz,"
                    f" {self.utilization(number, cycles):.1%} of {first.config.macs_per_cycle}"
                    " MAC/cycle")

        rows = [
            *about_network(first),
            ("images", f"{len(self.names)} in one run" + (
                f", {self.batch} of a batch share weights" if self.batch > 1 else "")),
            ("host", f"{self.host_accesses} accesses between start and interrupt"),
            ("network", f"{sum(self.macs) / len(self.macs) / 1e9:.3f} GMAC an image"),
            (f"one {what}", f"{time(0, self.latency)}, from the start to its logits"),
        ]
        if self.steady is not None:
            rows += [("the next", f"{time(self._middle, self.steady)}, from logits to logits"),
                     ("speed", f"{clock * 1e6 * self.batch / self.steady:,.1f} images/s")]
        rows += [
            ("whole run", f"{self.cycles:,} cycles"),
            ("memory", f"{self.bytes_read:,} bytes read, {self.bytes_written:,} written"),
            ("issue stage", stalls_text(self.status.stalls)),
        ]
        grid = Table.grid(padding=(0, 2))
        for name, text in rows:
            grid.add_row(name, text)
        console.print(grid)
        console.print(self._images())
        show_verdict(console, list(zip(self.names, self.comparisons, strict=True)))

    def _images(self) -> Table:
        """Return one line for each image."""
        table = Table()
        table.add_column("image", overflow="fold")
        for header in ("logits at cycle", "after the last", "tokens", "class"):
            table.add_column(header, justify="right")
        table.add_column("equal?")
        at = [0, *(result.cycle for result in self.results)]
        before = [f"{(b - a) % (1 << 32):,}" for a, b in pairwise(at)]
        for name, result, comparison, interval in zip(
                self.names, self.results, self.comparisons, before, strict=True):
            table.add_row(escape(Path(name).name), f"{result.cycle:,}", interval,
                          str(result.tokens), str(result.top_class),
                          "[green]yes[/green]" if comparison.exact else "[red]NO[/red]")
        return table


def simulate_frames(frames: Sequence[tuple[str, Workload]], program: Path, bus: Bus, *,
                    progress: Callable[[int, int], None] = lambda done, cycles: None,
                    traced: Callable[[Timeline], None] | None = None) -> FramesReport:
    """Run frames of one network in one run on the executable ``program``; compare everything.

    ``frames`` are their names and contents, made of one workload by ``with_frame``, whole rounds of
    them; ``traced``, if any, is given the timeline of the run.
    """
    names, works = tuple(name for name, _ in frames), tuple(work for _, work in frames)
    first = works[0]
    selectors, model, batch = len(first.blocks), first.qvit.model, first.batch
    with Session(program) as session:
        device = Device(session, model.classes, first.config.port_bits // 8)
        session.bus(bytes_per_cycle=bus.bytes_per_cycle, latency=bus.latency, stalls=bus.stalls)
        device.place(first.program.image, *(work.frame.tobytes() for work in works),
                     batch=batch)
        folder = session.trace("frames", timed=traced is not None)
        device.start()
        status, results = device.finish(PATIENCE * len(works) // batch * bus.cycles(first))
        session.trace_off()
        # The registers show the last image, those of the selectors the last round.
        last = len(works) - 1
        selections = {i: device.selections(selectors, model.tokens, image=i % batch,
                                           first_row=first.program.first_row(i))
                      for i in range(len(works) - batch, len(works)) if selectors}
        session.run(lambda now: progress(0, now))

        registers = checked(status())
        recording = {stream.name: stream.read(folder) for stream in streams(first.config)}
        outputs = results()
        macs: list[int] = []
        passes: list[tuple[str, Sequence[PassInfo]]] = []
        outside: list[list[Comparison]] = []

        def stages() -> Iterator[dict[str, NDArray[np.integer]]]:
            """Give the stages of each image, and compare what is not in the recording."""
            for i, (work, output) in enumerate(zip(works, outputs, strict=True)):
                logits, top_class, named = work.expected
                yield named
                # Behind the comparison of the streams.
                macs.append(work.macs)
                if i % batch == 0:
                    passes.append((", ".join(names[i:i + batch]), work.passes))
                outside.append([compare_output(logits, top_class, work.tokens[-1], output,
                                             registers.top_class if i == last else None)])
                if i in selections:
                    outside[-1].append(compare_selections(
                        named, selections[i](), model.special_tokens,
                        registers.tokens if i == last else None))
                if i == last:
                    outside[-1].append(compare_register("images_done", len(works),
                                                        registers.images_done))
                work.forget()

        inside = compare_run(first.program, stages(), recording)
        if traced is not None:
            traced(read_timeline(folder, first.program, passes))
        counts = {key: session.values[f"run1.{key}"] for key in (
            "cycles", "bytes_read", "bytes_written", "host_accesses")}
    # The start is an access, the only one.
    counts["host_accesses"] -= 1
    return FramesReport(
        names=names, workloads=works, status=registers, results=tuple(outputs), macs=tuple(macs),
        **counts, comparisons=tuple(Comparison.joined(streamed, *rest)
                                    for streamed, rest in zip(inside, outside, strict=True)))
