# SPDX-License-Identifier: BSD-2-Clause
"""Proofs by a model checker: every property holds, and no mutant of the design passes."""

from pathlib import Path

import pytest

from tests.formal.mutants import MUTANTS
from tests.formal.proofs import PROOFS
from tests.formal.runner import Mutant, check, check_mutant, design, mutated

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
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.block}-{m.fails}")
def test_mutant_fails(mutant: Mutant, tmp_path: Path) -> None:
    outcome = check_mutant(PROOFS[mutant.block], mutant, tmp_path)
    assert outcome.failed == (mutant.fails,)


def test_every_block_has_mutants() -> None:
    assert {mutant.block for mutant in MUTANTS} == set(PROOFS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.block}-{m.fails}")
def test_mutant_is_of_the_design(mutant: Mutant) -> None:
    module = mutated(mutant)
    assert module(mutant.module) is not design(mutant.module)
    assert module("rtl.isa") is design("rtl.isa")


def test_mutant_of_nothing() -> None:
    with pytest.raises(ValueError, match="is 0 times in rtl.fifo, must be once"):
        mutated(Mutant("fifo", "order_kept", "rtl.fifo", "no such text", ""))
