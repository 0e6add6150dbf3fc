# SPDX-License-Identifier: BSD-2-Clause
"""Proofs by a model checker: every property holds, and no mutant of the design passes."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.formal import runner
from tests.formal.mutants import MUTANTS
from tests.formal.proofs import PROOFS
from tests.formal.runner import (
    STRUCTURE,
    Apart,
    CheckerError,
    Mutant,
    check,
    check_mutant,
    claims,
    design,
    mutated,
)

RUNS = [(name, mode) for name, proof in PROOFS.items() for mode in proof.depths]
QUICK = [(name, mode) for name, proof in PROOFS.items() for mode in proof.quick]


@pytest.mark.parametrize(("name", "mode"), QUICK)
def test_quickly(name: str, mode: str, tmp_path: Path) -> None:
    proof = PROOFS[name]
    outcome = check(proof, mode, tmp_path, depth=proof.quick[mode])
    assert outcome.properties
    assert outcome.holds, outcome


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), RUNS)
def test_proof(name: str, mode: str, tmp_path: Path) -> None:
    outcome = check(PROOFS[name], mode, tmp_path)
    assert outcome.properties
    assert outcome.holds, outcome


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.block}-{m.fails[0]}")
def test_mutant_fails(mutant: Mutant, tmp_path: Path) -> None:
    outcome = check_mutant(PROOFS[mutant.block], mutant, tmp_path)
    assert set(outcome.failed) == set(mutant.fails)


def test_every_block_has_mutants() -> None:
    assert {mutant.block for mutant in MUTANTS} == set(PROOFS)


@pytest.mark.parametrize("name", PROOFS)
def test_every_property_has_a_mutant(name: str) -> None:
    proof = PROOFS[name]
    properties = [claim.name for mode in proof.depths for claim in claims(proof, mode)]
    assert len(set(properties)) == len(properties)
    violated = {fails for mutant in MUTANTS if mutant.block == name for fails in mutant.fails}
    assert violated == set(properties)


def test_mutant_fails_each_property_by_itself(tmp_path: Path) -> None:
    mutant = Mutant("fifo", ("level_right", "output_stable", "nothing_invented"), "rtl.fifo",
                    "some & (~self.o.valid | self.o.ready)", "some", depth=6)
    outcome = check_mutant(PROOFS["fifo"], mutant, tmp_path)
    assert set(outcome.failed) == {"level_right", "output_stable"}


def test_mutant_of_two_modes(tmp_path: Path) -> None:
    mutant = Mutant("fifo", ("no_overflow", "fills"), "rtl.fifo", "full.eq(0)", "full.eq(1)")
    with pytest.raises(ValueError, match="no_overflow, fills are not properties of one mode"):
        check_mutant(PROOFS["fifo"], mutant, tmp_path)


def test_structure_of_an_input_that_is_not_there(tmp_path: Path) -> None:
    proof = replace(PROOFS["axi_write"], apart=(Apart(("axi__awvalid",), ("no_such_input",)),))
    with pytest.raises(CheckerError, match="no_such_input"):
        check(proof, STRUCTURE, tmp_path)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.block}-{m.fails[0]}")
def test_mutant_is_of_the_design(mutant: Mutant) -> None:
    module = mutated(mutant)
    assert module(mutant.module) is not design(mutant.module)
    assert module("rtl.isa") is design("rtl.isa")


def test_mutant_of_nothing() -> None:
    with pytest.raises(ValueError, match="is 0 times in rtl.fifo, must be once"):
        mutated(Mutant("fifo", ("order_kept",), "rtl.fifo", "no such text", ""))


def test_the_solver_is_found_from_a_folder_below(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("proof").mkdir()
    first = runner._tools(Path("proof"))["PATH"].split(os.pathsep)[0]
    assert Path(first) == tmp_path / "proof" and Path(first, "bitwuzla").is_file()
