# SPDX-License-Identifier: BSD-2-Clause
"""Runs the proofs, or mutants, and prints what holds or fails: ``python -m tests.formal``."""

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from amaranth.hdl import UnusedElaboratable

from golden.cli import exit_status
from golden.files import make_folder
from golden.pages import check_section, table, write_section
from tests.formal.mutants import MUTANTS
from tests.formal.proofs import PROOFS
from tests.formal.runner import (
    STRUCTURE,
    CheckerError,
    Outcome,
    Proof,
    check,
    check_mutant,
    claims,
)

__all__ = ["main"]

#: What is said of modes; a proof holds at any depth, by induction over so many cycles.
_MODES = {"prove": "proved, induction", "bmc": "bounded", "cover": "cover",
          STRUCTURE: "structure"}


def rows(proof: Proof, mode: str, depth: int, outcome: Outcome) -> Iterator[tuple[str, ...]]:
    """Return a row of the table for each property; those for the induction are one."""
    seconds = f"{outcome.seconds:.0f} s"
    for claim in outcome.properties:
        if not claim.lemma:
            result = "fails" if claim.name in outcome.failed else "open" if outcome.open else (
                "reached" if claim.cover else "holds")
            yield (proof.name, f"`{claim.name}`: {claim.says}", str(depth), _MODES[mode], result,
                   seconds)
    lemmas = [claim for claim in outcome.properties if claim.lemma]
    if lemmas:
        result = ("fails" if any(c.name in outcome.failed for c in lemmas) else
                  "open" if outcome.open else "holds")
        yield (proof.name, f"{len(lemmas)} invariants for the induction", str(depth),
               _MODES[mode], result, seconds)


def prove(names: Sequence[str], output: Path, quick: bool) -> tuple[bool, str]:
    """Run the proofs called ``names``; return whether all holds, and the table."""
    found: list[tuple[str, ...]] = []
    holds = True
    for name in names:
        proof = PROOFS[name]
        for mode, depth in (proof.quick if quick else proof.depths).items():
            print(f"{name}, {_MODES[mode]}, {depth} cycles", file=sys.stderr)
            outcome = check(proof, mode, output / name / mode, depth=depth, trace=mode != "cover")
            holds &= outcome.holds
            found += rows(proof, mode, depth, outcome)
    return holds, table(("block", "property", "cycles", "mode", "result", "time"), found)


def refute(names: Sequence[str], output: Path) -> tuple[bool, str]:
    """Run the mutants of the proofs called ``names``; return whether every property fails in each
    mutant that is said to violate it, and the table."""
    found = []
    holds = True
    for name in names:
        proof = PROOFS[name]
        mutants = [mutant for mutant in MUTANTS if mutant.block == name]
        failed: set[str] = set()
        seconds = 0.0
        for i, mutant in enumerate(mutants):
            print(f"{name}, mutant of {', '.join(mutant.fails)}", file=sys.stderr)
            outcome = check_mutant(proof, mutant, output / name / f"mutant{i}")
            for missed in sorted(set(mutant.fails) - set(outcome.failed)):
                holds = False
                print(f"{missed} holds with {mutant.new!r} for {mutant.old!r}", file=sys.stderr)
            failed.update(outcome.failed)
            seconds += outcome.seconds
        number = sum(len(claims(proof, mode)) for mode in proof.depths)
        found.append((name, str(number), str(len(mutants)), str(len(failed)), f"{seconds:.0f} s"))
    return holds, table(("block", "properties", "mutants", "properties that fail", "time"), found)


def run(names: Sequence[str], output: Path, quick: bool, mutants: bool,
        page: Path | None) -> bool:
    """Run proofs or mutants, print the table or put it into ``page``."""
    for name in names:
        if name not in PROOFS:
            raise ValueError(f"no proof is called {name!r}, there are {', '.join(PROOFS)}")
    make_folder(output)
    section = "mutants" if mutants else "proofs"
    if page:
        check_section(page, section)
    chosen = names or tuple(PROOFS)
    holds, text = refute(chosen, output) if mutants else prove(chosen, output, quick)
    if page:
        write_section(page, section, text)
    else:
        print(text)
    return holds


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.formal", description="Prove properties of blocks, by yowasp-sby and"
        " Bitwuzla; or that they fail for designs with a fault. The exit status is 1 if one does"
        " not hold, or holds with a fault.")
    parser.add_argument("names", nargs="*", metavar="BLOCK", help="of " + ", ".join(PROOFS)
                        + "; all without one")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/formal"), metavar="DIR",
                        help="folder for logs, and for a trace of what fails"
                        " (top/engine_0/trace.vcd; default: %(default)s)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="what make test runs")
    which.add_argument("--mutants", action="store_true",
                       help="designs with one fault each, and what fails of them")
    parser.add_argument("--update", type=Path, metavar="PAGE",
                        help="put the table into this page instead of printing it")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UnusedElaboratable)  # opened by hand, to look inside
    return exit_status("tests.formal", lambda: run(
        options.names, options.output, options.quick, options.mutants, options.update),
        CheckerError)


if __name__ == "__main__":
    sys.exit(main())
