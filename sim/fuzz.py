# SPDX-License-Identifier: BSD-2-Clause
"""Fuzzed programs, and fuzzed schedules of bus and host, on the simulated accelerator."""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from golden.files import check_output
from rtl.config import CONFIGS, named
from sim.command import command, prepare, step
from sim.fuzz_cases import Case
from sim.fuzz_run import Fuzzer, Verdict
from sim.fuzz_subjects import subjects

__all__ = ["FuzzReport", "fuzz"]

#: What the first letters of names of cases mean.
_KINDS = {"p": "programs", "s": "schedules"}


@dataclass(frozen=True)
class FuzzReport:
    """What came of the cases.

    Members
    -------
    config, seed
        Configuration, and where chance came from.
    verdicts
        On every case.
    smallest
        For each of those with a problem, the smallest case that still has one.
    """

    config: str
    seed: int
    verdicts: tuple[Verdict, ...]
    smallest: tuple[Case, ...]

    @property
    def passed(self) -> bool:
        return not any(verdict.problem for verdict in self.verdicts)

    @property
    def failures(self) -> list[Verdict]:
        """Verdicts on cases with a problem."""
        return [verdict for verdict in self.verdicts if verdict.problem]

    def ends(self, kind: str) -> dict[str, int]:
        """Return how many runs ended with which error, of the cases of a letter."""
        names = Counter(verdict.error.name for verdict in self.verdicts
                        if verdict.case.name[0] == kind and verdict.error is not None)
        return dict(sorted(names.items()))

    def reproduce(self, case: Case) -> str:
        """Return the command that runs a case alone."""
        return f"python -m sim.fuzz --config {self.config} --seed {self.seed} --case {case.name}"

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain data."""
        return {
            "config": self.config, "seed": self.seed, "passed": self.passed,
            **{what: {"cases": sum(verdict.case.name[0] == kind for verdict in self.verdicts),
                      "ends": self.ends(kind)} for kind, what in _KINDS.items()},
            "failures": [{"case": verdict.case.name, "problem": verdict.problem,
                          "parts": verdict.case.parts, "smallest": case.parts,
                          "reproduce": self.reproduce(verdict.case)}
                         for verdict, case in zip(self.failures, self.smallest, strict=True)],
        }


def fuzz(fuzzer: Fuzzer, seed: int, names: Sequence[str], console: Console) -> FuzzReport:
    """Run the cases of these names; show how far it is, and every case with a problem."""
    verdicts: list[Verdict] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TextColumn("{task.fields[problems]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Cases", total=len(names), problems="")

        def done(verdict: Verdict) -> None:
            verdicts.append(verdict)
            problems = sum(bool(verdict.problem) for verdict in verdicts)
            bar.update(task, advance=1, problems=f"{problems} with a problem" if problems else "")

        fuzzer.run([fuzzer.case(seed, name) for name in names], done)
    failures = [verdict.case for verdict in verdicts if verdict.problem]
    smallest = []
    for i, case in enumerate(failures, 1):
        with console.status(f"Looking for the smallest case with the problem, {i} of"
                            f" {len(failures)}"):
            smallest.append(fuzzer.smallest(case))
    return FuzzReport(fuzzer.config.name, seed, tuple(verdicts), tuple(smallest))


def _show(report: FuzzReport, console: Console) -> None:
    for verdict, case in zip(report.failures, report.smallest, strict=True):
        console.print(f"[red]{escape(f'{verdict.case.name}: {verdict.problem}')}[/red]",
                      highlight=False, soft_wrap=True)
        for part in case.parts:
            console.print(f"    {escape(part)}", highlight=False, soft_wrap=True)
        console.print(f"    alone: {report.reproduce(verdict.case)}", highlight=False,
                      soft_wrap=True)
    for kind, what in _KINDS.items():
        cases = [verdict for verdict in report.verdicts if verdict.case.name[0] == kind]
        if cases:
            ends = ", ".join(f"{name} {count}" for name, count in report.ends(kind).items())
            console.print(f"{len(cases)} {what}, of which ended with: {ends or 'none'}",
                          highlight=False)
    if report.passed:
        console.print(f"[bold green]All {len(report.verdicts)} cases ended, kept to the protocol"
                      " and the windows, and the next image was right[/bold green]")
    else:
        console.print(f"[bold red]{len(report.failures)} of {len(report.verdicts)} cases have a"
                      " problem[/bold red]")


def _names(options: argparse.Namespace) -> list[str]:
    """Return the names of the cases that are asked for."""
    if options.case is not None:
        if not re.fullmatch(r"[ps]\d{1,9}", options.case):
            raise ValueError(f"the case is {options.case!r}, must be p or s and a number as in p17")
        return [options.case]
    for what in ("programs", "schedules", "seed"):
        value = getattr(options, what)
        if not 0 <= value <= 1_000_000:
            raise ValueError(f"{what} is {value}, must be between 0 and 1000000")
    return [*(f"p{i}" for i in range(options.programs)),
            *(f"s{i}" for i in range(options.schedules))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 only if no case has a problem."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.fuzz", description="Run random and changed programs, and programs under"
        " random schedules of bus and host, on the simulated accelerator: every run must end, keep"
        " to the protocol of the bus and to its windows, and the next image must be right.")
    parser.add_argument("--config", default="nano",
                        help=f"one of {', '.join(CONFIGS)} (default: %(default)s)")
    parser.add_argument("--programs", type=int, default=1000, metavar="N",
                        help="fuzzed programs (default: %(default)s)")
    parser.add_argument("--schedules", type=int, default=1000, metavar="N",
                        help="fuzzed schedules (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (default: %(default)s)")
    parser.add_argument("--case", metavar="NAME",
                        help="only this case, as in p17 or s4: a program or a schedule")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to FILE, too")
    options = parser.parse_args(arguments)
    console = Console()

    def run() -> bool:
        if options.json is not None:
            check_output(options.json)
        config, names = named(options.config), _names(options)
        program = prepare(config, console)
        with step(console, "Programs to be fuzzed"):
            programs = subjects(config)
        report = fuzz(Fuzzer(program, config, programs), options.seed, names, console)
        _show(report, console)
        if options.json is not None:
            options.json.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
        return report.passed

    return command("sim.fuzz", run)


if __name__ == "__main__":
    sys.exit(main())
