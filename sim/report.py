# SPDX-License-Identifier: BSD-2-Clause
"""What a run is reported as: a table and numbers for people, JSON for programs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from golden.pruning import Step
from sim.compare import Comparison
from sim.device import Selections, Status
from sim.verdict import about_network, compared, show_verdict, stages_table, stalls_text
from sim.workload import Workload

__all__ = ["Report", "Summary", "steps_of"]

#: Images that have a line each in the table.
_LISTED = 16


def steps_of(workload: Workload, seen: Selections) -> Iterator[Step]:
    """Give what each selector did, as the registers show it."""
    model = workload.qvit.model
    tokens, places = model.tokens, tuple(range(model.grid ** 2))
    for i, (block, left) in enumerate(zip(workload.blocks, seen.tokens, strict=True)):
        kept = seen.kept(i, model.special_tokens)
        yield Step(block, tokens, left, places, kept, len(kept) < len(places))
        tokens, places = left, kept


@dataclass(frozen=True, kw_only=True)
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
    steps
        What each selector did, from the registers.
    macs
        Multiplications that the network takes for the tokens of this frame.
    cycles
        From the start to the interrupt, counted outside the core.
    bytes_read, bytes_written
        What passed the memory ports, counted outside the core.
    host_accesses
        Accesses of registers and memory by the host, after the start and before the interrupt.
    comparison
        All stages and the output.
    """

    workload: Workload
    image: str
    status: Status
    steps: tuple[Step, ...]
    macs: int
    cycles: int
    bytes_read: int
    bytes_written: int
    host_accesses: int
    comparison: Comparison

    @property
    def utilization(self) -> float:
        """Useful multiplications over what the array could have done in that time."""
        return self.macs / (self.cycles * self.workload.config.macs_per_cycle)

    @property
    def images_per_second(self) -> float:
        return self.workload.config.clock_mhz * 1e6 / self.cycles

    @property
    def right(self) -> bool | None:
        """Whether the top class is the label; None without a label."""
        label = self.workload.label
        return None if label is None else self.status.top_class == label

    def _equal(self, *names: str) -> bool:
        found = [stage.equal for stage in self.comparison.stages if stage.stage.startswith(names)]
        # What is not compared is not equal.
        return bool(found) and all(found)

    @property
    def prediction_equal(self) -> bool:
        """Whether the top class is that of the integer twin, in memory and in the register."""
        return self._equal("output.top_class", "register.top_class")

    @property
    def kept_equal(self) -> bool | None:
        """Whether the registers show what the integer twin keeps; None without selectors."""
        return self._equal("register.selector", "register.dropped",
                           "register.tokens") if self.steps else None

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain data; of one image alone."""
        return {
            "image": self.image,
            "cycles": self.cycles,
            "macs": self.macs,
            "mac_utilization": self.utilization,
            "images_per_second": self.images_per_second,
            "dram_bytes_read": self.bytes_read,
            "dram_bytes_written": self.bytes_written,
            "host_accesses": self.host_accesses,
            "tokens": [step.tokens_out for step in self.steps],
            "kept": [list(step.kept) for step in self.steps],
            "top1": self.status.top_class,
            "label": self.workload.label,
            "prediction_equal": self.prediction_equal,
            "kept_equal": self.kept_equal,
            "stalls": self.status.stalls,
            **compared([self.comparison]),
        }


@dataclass(frozen=True)
class Summary:
    """The frames of one run, at least one, and the pictures made of them."""

    reports: tuple[Report, ...]
    pictures: tuple[Path, ...] = ()

    @property
    def exact(self) -> bool:
        return all(report.comparison.exact for report in self.reports)

    def to_dict(self) -> dict[str, object]:
        """Return the run as plain data: totals, and each image in a list."""
        first, comparisons = self.reports[0], [report.comparison for report in self.reports]
        work = first.workload
        pruning, config = work.qvit.pruning, work.config
        images = [report.to_dict() for report in self.reports]
        for image, picture in zip(images, self.pictures, strict=False):
            image["picture"] = str(picture)
        cycles = sum(report.cycles for report in self.reports)
        macs = sum(report.macs for report in self.reports)
        return {
            "model": work.qvit.model.name,
            "config": config.name,
            "weights": work.qvit.weights,
            "selector": work.selector,
            "selector_weights": None if work.selector != "threshold" else "synthetic"
            if work.selectors_synthetic else work.qvit.weights,
            "blocks": list(work.blocks),
            "package": None if pruning is None else pruning.package,
            "last_block": work.last_block,
            "image": first.image,
            "cycles": cycles,
            "macs": macs,
            "macs_per_cycle": config.macs_per_cycle,
            "mac_utilization": macs / (cycles * config.macs_per_cycle),
            "clock_mhz": config.clock_mhz,
            "images_per_second": len(images) * config.clock_mhz * 1e6 / cycles,
            "dram_bytes_read": sum(report.bytes_read for report in self.reports),
            "dram_bytes_written": sum(report.bytes_written for report in self.reports),
            "host_accesses": sum(report.host_accesses for report in self.reports),
            **compared(comparisons),
            "tokens": first.status.tokens if pruning is None else
            [image["tokens"] for image in images],
            "kept": [image["kept"] for image in images],
            "top1": first.status.top_class,
            "labelled": sum(report.right is not None for report in self.reports),
            "right": sum(report.right is True for report in self.reports),
            "predictions_equal": sum(report.prediction_equal for report in self.reports),
            "kept_equal": None if pruning is None else
            sum(report.kept_equal is True for report in self.reports),
            "stalls": {cause: sum(report.status.stalls[cause] for report in self.reports)
                       for cause in first.status.stalls},
            "pictures": [str(picture) for picture in self.pictures],
            "images": images,
        }

    def show(self, console: Console) -> None:
        """Print the tables and the numbers."""
        console.print(stages_table([report.comparison for report in self.reports]))
        first = self.reports[0]
        work = first.workload
        grid = Table.grid(padding=(0, 2))
        rows = about_network(work)
        rows += _about_one(first) if len(self.reports) == 1 else _about_all(self.reports)
        for name, text in rows:
            grid.add_row(name, text)
        console.print(grid)
        if len(self.reports) > 1:
            console.print(_images(self.reports[:_LISTED]))
            if len(self.reports) > _LISTED:
                console.print(f"the first {_LISTED} of {len(self.reports)} images", highlight=False)
        elif first.steps:
            console.print(_steps(first.steps))
        for picture in self.pictures:
            console.print(f"picture {escape(str(picture))}", highlight=False, soft_wrap=True)
        show_verdict(console, [(report.image, report.comparison) for report in self.reports])


def _about_one(report: Report) -> list[tuple[str, str]]:
    work = report.workload
    return [
        ("image", escape(report.image)),
        ("cycles", f"{report.cycles:,}"),
        ("utilisation", f"{report.utilization:.1%} of {work.config.macs_per_cycle} MAC/cycle"),
        ("network", f"{report.macs / 1e9:.3f} GMAC"),
        ("speed", f"{report.images_per_second:,.1f} images/s at {work.config.clock_mhz} MHz"),
        ("memory", f"{report.bytes_read:,} bytes read, {report.bytes_written:,} written"),
        ("issue stage", stalls_text(report.status.stalls)),
        ("tokens", ", ".join(map(str, [work.qvit.model.tokens,
                                       *(step.tokens_out for step in report.steps)]))),
        ("top class", str(report.status.top_class)),
        *([] if report.right is None else
          [("label", f"{work.label}: {'right' if report.right else 'wrong'}")]),
    ]


def _about_all(reports: Sequence[Report]) -> list[tuple[str, str]]:
    count, work = len(reports), reports[0].workload
    accesses = sum(report.host_accesses for report in reports)
    cycles = [report.cycles for report in reports]
    rate = count * work.config.clock_mhz * 1e6 / sum(cycles)
    answers = [report.right for report in reports if report.right is not None]
    equal = sum(report.prediction_equal for report in reports)
    rows = [
        ("images", f"{count}, one program"),
        ("host", f"{accesses} accesses between start and interrupt"),
        ("cycles", f"{sum(cycles):,}; of an image {_range(cycles)}"),
        ("speed", f"{rate:,.1f} images/s at {work.config.clock_mhz} MHz"),
    ]
    if work.blocks:
        tokens = _range([report.status.tokens for report in reports])
        rows.append(("tokens", f"{work.qvit.model.tokens}; of an image in the last block {tokens}"))
    if answers:
        right = sum(answers)
        rows.append(("top-1", f"{right} of {len(answers)} right ({right / len(answers):.1%})"))
    rows.append(("predictions", f"{equal} of {count} equal to the integer twin"))
    if work.blocks:
        kept = sum(report.kept_equal is True for report in reports)
        rows.append(("kept lists", f"{kept} of {count} equal to the integer twin"))
    return rows


def _range(values: Sequence[int]) -> str:
    """Return the mean, and the extremes where there are any."""
    low, high, mean = min(values), max(values), sum(values) / len(values)
    return f"{low:,}" if low == high else f"{mean:,.1f} ({low:,} to {high:,})"


def _steps(steps: Sequence[Step]) -> Table:
    """Return one line for each selector."""
    table = Table()
    for header in ("before block", "tokens in", "patches in", "kept", "package", "tokens out"):
        table.add_column(header, justify="right")
    for step in steps:
        table.add_row(str(step.block), str(step.tokens_in), str(len(step.candidates)),
                      str(len(step.kept)), "yes" if step.package else "no", str(step.tokens_out))
    return table


def _images(reports: Sequence[Report]) -> Table:
    """Return one line for each image."""
    pruned = bool(reports[0].workload.blocks)
    labelled = any(report.right is not None for report in reports)
    table = Table()
    table.add_column("image", overflow="fold")
    # Labels take the place of the rate, which the cycles say as well: lines are to be short.
    for header in (*(("patches kept",) if pruned else ()), "cycles",
                   *(() if labelled else ("images/s",)), "GMAC", "used",
                   *(("label",) if labelled else ()), "class"):
        table.add_column(header, justify="right")
    table.add_column("equal?")
    for report in reports:
        cells = {
            "patches kept": ", ".join(str(len(step.kept)) for step in report.steps),
            "cycles": f"{report.cycles:,}",
            "images/s": f"{report.images_per_second:,.1f}",
            "GMAC": f"{report.macs / 1e9:.3f}",
            "used": f"{report.utilization:.1%}",
            "label": "" if report.right is None else str(report.workload.label),
            "class": f"[red]{report.status.top_class}[/red]" if report.right is False
            else str(report.status.top_class),
            "equal?": "[green]yes[/green]" if report.comparison.exact else "[red]NO[/red]",
        }
        table.add_row(escape(Path(report.image).name),
                      *(cells[str(column.header)] for column in table.columns[1:]))
    return table
