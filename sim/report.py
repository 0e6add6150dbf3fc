# SPDX-License-Identifier: BSD-2-Clause
"""What a run is reported as: a table and numbers for people, JSON for programs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sim.compare import Comparison, StageResult
from sim.device import Status
from sim.workload import Workload

__all__ = ["Report"]


@dataclass(frozen=True)
class Report:
    """One simulated frame.

    Parameters
    ----------
    workload
        What was simulated.
    image
        Name of the image.
    status
        Registers of the core afterwards.
    cycles
        From the start to the interrupt, counted outside the core.
    bytes_read, bytes_written
        What passed the memory ports, counted outside the core.
    comparison
        All stages and the output.
    """

    workload: Workload
    image: str
    status: Status
    cycles: int
    bytes_read: int
    bytes_written: int
    comparison: Comparison

    @property
    def utilization(self) -> float:
        """Multiplications of the network over what the array could have done in that time."""
        return self.workload.qvit.model.macs() / (self.cycles * self.workload.config.macs_per_cycle)

    @property
    def images_per_second(self) -> float:
        return self.workload.config.clock_mhz * 1e6 / self.cycles

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain data."""
        work, stages, first = self.workload, self.comparison.stages, self.comparison.first_mismatch
        return {
            "model": work.qvit.model.name,
            "config": work.config.name,
            "weights": work.qvit.weights,
            "image": self.image,
            "cycles": self.cycles,
            "macs": work.qvit.model.macs(),
            "macs_per_cycle": work.config.macs_per_cycle,
            "mac_utilization": self.utilization,
            "clock_mhz": work.config.clock_mhz,
            "images_per_second": self.images_per_second,
            "dram_bytes_read": self.bytes_read,
            "dram_bytes_written": self.bytes_written,
            "stages_compared": len(stages),
            "stages_equal": sum(stage.equal for stage in stages),
            "elements_compared": sum(stage.elements for stage in stages),
            "first_mismatch": None if first is None else {
                "stage": first.stage, "position": list(first.position),
                "expected": first.expected, "got": first.got},
            "problems": list(self.comparison.problems),
            "bit_exact": self.comparison.exact,
            "tokens": self.status.tokens,
            "top1": self.status.top_class,
            "stalls": self.status.stalls,
        }

    def show(self, console: Console) -> None:
        """Print the table and the numbers."""
        console.print(_table(self.comparison.stages))
        work, model = self.workload, self.workload.qvit.model
        rows = [
            ("weights", "SYNTHETIC (seeded random numbers: the top class means nothing)"
             if work.qvit.weights == "synthetic" else escape(work.qvit.weights)),
            ("image", escape(self.image)),
            ("cycles", f"{self.cycles:,}"),
            ("utilisation", f"{self.utilization:.1%} of {work.config.macs_per_cycle} MAC/cycle"),
            ("network", f"{model.macs() / 1e9:.3f} GMAC"),
            ("speed", f"{self.images_per_second:,.1f} images/s at {work.config.clock_mhz} MHz"),
            ("memory", f"{self.bytes_read:,} bytes read, {self.bytes_written:,} written"),
            ("issue stage", _stalls(self.status.stalls)),
            ("tokens", str(self.status.tokens)),
            ("top class", str(self.status.top_class)),
        ]
        grid = Table.grid(padding=(0, 2))
        for name, text in rows:
            grid.add_row(name, text)
        console.print(grid)
        for problem in self.comparison.problems:
            console.print(f"[red]{escape(problem)}[/red]")
        stages = self.comparison.stages
        equal = sum(stage.equal for stage in stages)
        text = (f"{equal} of {len(stages)} stages equal,"
                f" {sum(stage.elements for stage in stages):,} elements compared")
        if self.comparison.exact:
            console.print(f"[bold green]Bit exact: {text}[/bold green]")
        else:
            console.print(f"[bold red]Not bit exact: {text}[/bold red]")
            if self.comparison.first_mismatch is not None:
                console.print(f"first mismatch: {self.comparison.first_mismatch}", markup=False)


def _stalls(stalls: dict[str, int]) -> str:
    total = max(1, sum(stalls.values()))
    return ", ".join(f"{name} {count:,} ({count / total:.1%})" for name, count in stalls.items()
                     if count)


def _table(stages: Sequence[StageResult]) -> Table:
    """Return one line for the stages of all blocks that have the same name."""
    groups: dict[str, list[StageResult]] = {}
    for stage in stages:
        groups.setdefault(re.sub(r"^block\d+\.", "block*.", stage.stage), []).append(stage)
    table = Table()
    table.add_column("stage")
    table.add_column("elements", justify="right")
    table.add_column("equal?")
    for name, group in groups.items():
        equal = sum(stage.equal for stage in group)
        count = f"{equal} of {len(group)} blocks" if name.startswith("block*.") else ""
        table.add_row(name, f"{sum(stage.elements for stage in group):,}",
                      f"[green]yes[/green] {count}" if equal == len(group)
                      else f"[red]NO[/red] {count}")
    return table
