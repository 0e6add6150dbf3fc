# SPDX-License-Identifier: BSD-2-Clause
"""Runs the proofs and prints what holds, to which depth: ``python -m tests.formal``."""

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from amaranth.hdl import UnusedElaboratable

from golden.cli import exit_status
from golden.files import make_folder
from golden.pages import check_section, table, write_section
from tests.formal.proofs import PROOFS
from tests.formal.runner import STRUCTURE, CheckerError, Outcome, Proof, check

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


def run(names: Sequence[str], output: Path, quick: bool, page: Path | None) -> bool:
    """Run the proofs called ``names``, print the table or put it into ``page``."""
    for name in names:
        if name not in PROOFS:
            raise ValueError(f"no proof is called {name!r}, there are {', '.join(PROOFS)}")
    make_folder(output)
    if page:
        check_section(page, "proofs")
    found: list[tuple[str, ...]] = []
    holds = True
    for name in names or PROOFS:
        proof = PROOFS[name]
        for mode, depth in (proof.quick if quick else proof.depths).items():
            print(f"{name}, {_MODES[mode]}, {depth} cycles", file=sys.stderr)
            outcome = check(proof, mode, output / name / mode, depth=depth, trace=mode != "cover")
            holds &= outcome.holds
            found += rows(proof, mode, depth, outcome)
    text = table(("block", "property", "cycles", "mode", "result", "time"), found)
    if page:
        write_section(page, "proofs", text)
    else:
        print(text)
    return holds


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.formal", description="Prove properties of blocks, by yowasp-sby and"
        " Bitwuzla. The exit status is 1 if one does not hold.")
    parser.add_argument("names", nargs="*", metavar="BLOCK", help="of " + ", ".join(PROOFS)
                        + "; all without one")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/formal"), metavar="DIR",
                        help="folder for logs, and for a trace of what fails"
                        " (top/engine_0/trace.vcd; default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="what make test runs")
    parser.add_argument("--update", type=Path, metavar="PAGE",
                        help="put the table into this page instead of printing it")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UnusedElaboratable)  # opened by hand, to look inside
    return exit_status("tests.formal", lambda: run(options.names, options.output, options.quick,
                                                   options.update), CheckerError)


if __name__ == "__main__":
    sys.exit(main())
