# SPDX-License-Identifier: BSD-2-Clause
"""What comparisons come to, for people and for programs; and what runs say of a workload."""

import re
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sim.compare import Comparison, StageResult
from sim.workload import Workload

__all__ = ["about_network", "compared", "show_verdict", "stages_table", "stalls_text"]


def _stages(comparisons: Sequence[Comparison]) -> list[StageResult]:
    return [stage for comparison in comparisons for stage in comparison.stages]


def compared(comparisons: Sequence[Comparison]) -> dict[str, object]:
    """Return the comparisons of all images of a run as plain data."""
    stages = _stages(comparisons)
    first = next((comparison.first_mismatch for comparison in comparisons
                  if comparison.first_mismatch is not None), None)
    return {
        "stages_compared": len(stages),
        "stages_equal": sum(stage.equal for stage in stages),
        "elements_compared": sum(stage.elements for stage in stages),
        "first_mismatch": None if first is None else {
            "stage": first.stage, "position": list(first.position),
            "expected": first.expected, "got": first.got},
        "problems": [text for comparison in comparisons for text in comparison.problems],
        "bit_exact": all(comparison.exact for comparison in comparisons),
    }


def show_verdict(console: Console, images: Sequence[tuple[str, Comparison]]) -> None:
    """Print whether everything is equal, and where each named image is not."""
    for name, comparison in images:
        for problem in comparison.problems:
            console.print(f"[red]{escape(f'{name}: {problem}')}[/red]")
    stages = _stages([comparison for _, comparison in images])
    equal = sum(stage.equal for stage in stages)
    text = (f"{equal} of {len(stages)} stages equal,"
            f" {sum(stage.elements for stage in stages):,} elements compared")
    if all(comparison.exact for _, comparison in images):
        console.print(f"[bold green]Bit exact: {text}[/bold green]")
        return
    console.print(f"[bold red]Not bit exact: {text}[/bold red]")
    for name, comparison in images:
        first = comparison.first_mismatch
        if first is not None:
            console.print(f"first mismatch of {name}: {first}", markup=False, highlight=False,
                          soft_wrap=True)


def stages_table(comparisons: Sequence[Comparison]) -> Table:
    """Return one line for the stages of all images, blocks, selectors, heads of the same name."""
    groups: dict[str, list[StageResult]] = {}
    for stage in _stages(comparisons):
        name = re.sub(r"(block|selector|head_norm)\d+\.", r"\1*.", stage.stage)
        groups.setdefault(name, []).append(stage)
    table = Table()
    table.add_column("stage")
    table.add_column("elements", justify="right")
    table.add_column("equal?")
    for name, group in groups.items():
        equal = sum(stage.equal for stage in group)
        count = f"{equal} of {len(group)}" if len(group) > 1 else ""
        table.add_row(name, f"{sum(stage.elements for stage in group):,}",
                      f"[green]yes[/green] {count}" if equal == len(group)
                      else f"[red]NO[/red] {count}")
    return table


def about_network(work: Workload) -> list[tuple[str, str]]:
    """Return where the parameters are from, and what is computed of the last block, in lines."""
    rows = [("weights", "SYNTHETIC (seeded random numbers: the top class means nothing)"
             if work.qvit.weights == "synthetic" else f"trained: {escape(work.qvit.weights)}")]
    if work.selector == "threshold":
        rows.append(("selectors", "SYNTHETIC (fitted to keep dark patches)"
                     if work.selectors_synthetic else "trained, with the weights"))
    if work.last_block != "all":
        count = work.qvit.model.special_tokens
        rows.append(("last block", f"{work.last_block}, rows {count}, keys and values of all"))
    return rows


def stalls_text(stalls: dict[str, int]) -> str:
    """Return what the issue stage did, the causes that there were, in one line."""
    total = max(1, sum(stalls.values()))
    return ", ".join(f"{name} {count:,} ({count / total:.1%})" for name, count in stalls.items()
                     if count)
