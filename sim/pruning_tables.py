# SPDX-License-Identifier: BSD-2-Clause
"""Tables of token pruning: measured cycles beside ideal ones, and the cost of a selector."""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from golden.files import check_output
from golden.lower import check_sizes
from golden.model import model_named
from golden.pages import check_section, columns_table, write_section
from golden.pruning import PruningConfig, cumulative_rates
from rtl.config import Config, named
from sim.command import bus_of, prepare, progress_bar, step
from sim.report import Report
from sim.simulate import Bus, simulate
from sim.workload import Workload

__all__ = ["PAGE", "Row", "run"]

#: The page that ``--update`` writes to, and what the tables are called in it.
PAGE = Path(__file__).parent.parent / "docs" / "benchmark.md"
_PRUNING, _COST = "pruning", "selector"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured network: its selectors by name, the run, and the ideal cycles of its passes."""

    name: str
    report: Report
    ideal: int

    @property
    def tokens(self) -> list[int]:
        """Tokens at the start and after each selector."""
        return [self.report.workload.qvit.model.tokens,
                *(step.tokens_out for step in self.report.steps)]

    def to_dict(self, dense: "Row") -> dict[str, object]:
        """Return the row as plain data, compared with the ``dense`` network."""
        report = self.report
        measured, ideal = report.cycles / dense.report.cycles, self.ideal / dense.ideal
        return {
            "model": report.workload.qvit.model.name, "selector": self.name,
            "tokens": self.tokens, "macs": report.macs, "cycles": report.cycles,
            "images_per_second": report.images_per_second,
            "mac_utilization": report.utilization, "ideal_cycles": self.ideal,
            "cycles_over_ideal": report.cycles / self.ideal, "ratio_to_dense": measured,
            "ideal_ratio_to_dense": ideal, "ratio_over_ideal_ratio": measured / ideal,
            "bit_exact": report.comparison.exact}


#: Column, key of :meth:`Row.to_dict`, and how it is printed.
_COLUMNS: tuple[tuple[str, str, Callable], ...] = (
    ("model", "model", str),
    ("selectors", "selector", str),
    ("tokens", "tokens", lambda tokens: ", ".join(map(str, tokens))),
    ("GMAC", "macs", lambda n: f"{n / 1e9:.3f}"),
    ("cycles", "cycles", "{:,}".format),
    ("images/s", "images_per_second", "{:,.1f}".format),
    ("ideal", "ideal_cycles", "{:,}".format),
    ("cycles / ideal", "cycles_over_ideal", "{:.3f}".format),
    ("to dense", "ratio_to_dense", "{:.3f}".format),
    ("ideal to dense", "ideal_ratio_to_dense", "{:.3f}".format),
    ("quotient", "ratio_over_ideal_ratio", "{:.3f}".format),
    ("bit exact", "bit_exact", lambda exact: "yes" if exact else "NO"),
)

#: Columns of the cost of one selector.
_COST_COLUMNS: tuple[tuple[str, str, Callable], ...] = (
    ("model", "model", str),
    ("selector", "selector", str),
    ("tokens", "tokens", str),
    ("cycles", "cycles", "{:,}".format),
    ("of the dense network", "of_dense", "{:.2%}".format),
)


class _Runs:
    """Simulations of one configuration, each shown as it ends."""

    def __init__(self, config: Config, bus: Bus, console: Console) -> None:
        self.config, self.bus, self.console = config, bus, console
        self.program = prepare(config, console)

    def run(self, model: str, name: str, pruning: PruningConfig | None) -> Row:
        with step(self.console, f"Golden model: {model}, {name}"):
            workload = Workload.named(model, self.config, pruning=pruning)
            cycles = self.bus.cycles(workload)
        with progress_bar(self.console, f"{model}, {name}", cycles) as progress:
            report = simulate(workload, self.program, self.bus, progress=progress)
        row = Row(name=name, report=report,
                  ideal=workload.ideal_cycles(self.bus.bytes_per_cycle))
        exact = "bit exact" if report.comparison.exact else "NOT bit exact"
        self.console.print(f"{model}, {name}: {report.cycles:,} cycles, ideal {row.ideal:,},"
                           f" {exact}", highlight=False)
        if not report.comparison.exact:
            self.console.print(f"first mismatch: {report.comparison.first_mismatch}"
                               f" {report.comparison.problems}", markup=False)
        return row


def _pruned(options: argparse.Namespace) -> Iterator[tuple[str, PruningConfig]]:
    """Give name and settings of the pruned networks in the table."""
    shared = PruningConfig(blocks=options.blocks, package=options.package)
    for rate in options.keep:
        yield f"topk {rate:g}", replace(shared, selector="topk",
                                        rates=cumulative_rates(rate, len(options.blocks)))
    yield "threshold", shared


def _cost(runs: _Runs, model: str, dense: Row, options: argparse.Namespace) -> list[dict]:
    """Measure one selector of each kind before the last block, where all tokens are still there.

    ``topk`` keeps everything: what it adds to the dense network is its cost. What ``threshold``
    adds to ``topk`` that keeps as many is the cost of its classifier.
    """
    depth = dense.report.workload.qvit.model.depth
    patches = dense.report.workload.qvit.model.grid ** 2
    shared = PruningConfig(blocks=(depth - 1,), package=options.package)
    last = f"before block {depth - 1}"
    everything = runs.run(model, f"topk {last}, all kept",
                          replace(shared, selector="topk", counts=(patches,)))
    threshold = runs.run(model, f"threshold {last}", shared)
    kept = len(threshold.report.steps[0].kept)
    same = runs.run(model, f"topk {last}, {kept} kept",
                    replace(shared, selector="topk", counts=(kept,)))
    base = everything.report.cycles - dense.report.cycles
    costs = {"topk": base,
             "threshold": base + threshold.report.cycles - same.report.cycles}
    return [{"model": model, "selector": name, "tokens": dense.tokens[0], "cycles": cycles,
             "of_dense": cycles / dense.report.cycles,
             "bit_exact": all(row.report.comparison.exact for row in (everything, threshold, same))}
            for name, cycles in costs.items()]


def run(options: argparse.Namespace, console: Console) -> bool:
    """Measure the tables; return whether every run was bit exact."""
    if options.json is not None:
        check_output(options.json)
    config, bus = named(options.config), bus_of(options)
    settings = list(_pruned(options))
    # What is wrong is said before the long work.
    if options.update:
        for name in (_PRUNING, _COST):
            check_section(PAGE, name)
    for model in options.models:
        check_sizes(model_named(model), config)
        for _, pruning in settings:
            pruning.check(model_named(model))
    runs = _Runs(config, bus, console)
    rows: list[dict] = []
    costs: list[dict] = []
    for model in options.models:
        dense = runs.run(model, "none", None)
        rows += [row.to_dict(dense) for row in (
            dense, *(runs.run(model, name, pruning) for name, pruning in settings))]
        costs += _cost(runs, model, dense, options)
    tables = {_PRUNING: (rows, _COLUMNS), _COST: (costs, _COST_COLUMNS)}
    for name, (lines, columns) in tables.items():
        text = columns_table(lines, columns)
        console.print(f"\n{text}", markup=False, highlight=False, soft_wrap=True)
        if options.update:
            write_section(PAGE, name, text)
    if options.json is not None:
        options.json.write_text(json.dumps({
            "config": config.name, "clock_mhz": config.clock_mhz,
            "bytes_per_cycle": bus.bytes_per_cycle, "latency": bus.latency,
            "stalls": bus.stalls, "package": options.package, "blocks": list(options.blocks),
            **{name: lines for name, (lines, _) in tables.items()}}, indent=2) + "\n")
    return all(line["bit_exact"] for line in (*rows, *costs))
