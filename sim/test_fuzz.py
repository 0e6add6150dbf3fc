# SPDX-License-Identifier: BSD-2-Clause
"""Fuzzed programs and schedules end, keep to their windows, and leave a core that works."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from golden.program import program_checksum
from rtl.config import named
from rtl.isa import INSTRUCTION_BYTES, Error, Opcode
from sim import fuzz, fuzz_cases, fuzz_run
from sim.build import simulator
from sim.device import MODEL_BASE
from sim.fuzz_cases import Case
from sim.fuzz_faults import FAULTS, FaultyFuzzer
from sim.fuzz_programs import Change, Draft, longest_cycles
from sim.fuzz_run import Fuzzer
from sim.fuzz_schedules import Outcome, Step
from sim.fuzz_subjects import Subject, subjects

CONFIG = named("nano")


@pytest.fixture(scope="module")
def programs() -> tuple[Subject, ...]:
    return subjects(CONFIG)


@pytest.fixture(scope="module")
def fuzzer(programs: tuple[Subject, ...]) -> Fuzzer:
    return Fuzzer(simulator(CONFIG), CONFIG, programs)


def run(fuzzer: Fuzzer, names: list[str], seed: int = 0) -> fuzz.FuzzReport:
    return fuzz.fuzz(fuzzer, seed, names, Console(file=io.StringIO()))


def assert_passed(report: fuzz.FuzzReport) -> None:
    assert report.passed, [(verdict.case.name, verdict.problem) for verdict in report.failures]


def test_programs(fuzzer: Fuzzer) -> None:
    report = run(fuzzer, [f"p{i}" for i in range(60)])
    assert_passed(report)
    # They get past the first check, and to different ends.
    assert {"NONE", "BAD_FIELD", "BAD_ADDRESS"} <= report.ends("p").keys()
    assert any(verdict.compared for verdict in report.verdicts)


def test_schedules(fuzzer: Fuzzer) -> None:
    report = run(fuzzer, [f"s{i}" for i in range(30)])
    assert_passed(report)
    assert {"NONE", "BUS_READ"} <= report.ends("s").keys()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_all(tmp_path: Path) -> None:
    assert fuzz.main(["--programs", "1000", "--schedules", "1000", "--seed", "0",
                      "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"] and not report["failures"]
    assert report["programs"]["cases"] == report["schedules"]["cases"] == 1000


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["", *FAULTS])
def test_faults_are_found(programs: tuple[Subject, ...], fault: str) -> None:
    faulty = FaultyFuzzer(CONFIG, programs, fault)
    problems: list[str] = []
    for first in range(0, 60, 10):
        names = [f"{kind}{i}" for i in range(first, first + 10) for kind in "ps"]
        faulty.run([faulty.case(0, name) for name in names],
                   lambda verdict: problems.append(verdict.problem))
        if any(problems):
            break
    assert any(problems) == bool(fault)


def test_a_case_is_always_the_same(fuzzer: Fuzzer) -> None:
    for name in ("p3", "s3"):
        case = fuzzer.case(7, name)
        assert case.parts == fuzzer.case(7, name).parts
        assert case.parts != fuzzer.case(8, name).parts


def test_most_programs_have_the_right_checksum(fuzzer: Fuzzer) -> None:
    cases = [fuzzer.case(0, f"p{i}") for i in range(100)]
    right = 0
    for case in cases:
        try:
            right += program_checksum(case.image) == 0
        except ValueError:
            # BEGIN names more instructions than there are.
            assert case.changes
    assert 80 <= right < 100


def test_every_schedule_has_an_outcome_that_it_is_drawn_for(fuzzer: Fuzzer) -> None:
    outcomes = {fuzzer.case(0, f"s{i}").outcome for i in range(60)}
    assert outcomes == {Outcome.RIGHT, Outcome.BUS_ERROR, Outcome.ERROR, Outcome.ANY}


@pytest.mark.parametrize("name", ["p87", "p946"])
def test_what_rounding_hides_is_no_result(fuzzer: Fuzzer, name: str) -> None:
    """Weights of channels that pad a row: other padding leaves the same logits by chance alone."""
    verdict = fuzzer.verdict(fuzzer.case(7, name))
    assert verdict.case.numbers and verdict.error == Error.NONE
    assert not verdict.compared and not verdict.problem


def test_changes_are_made(programs: tuple[Subject, ...]) -> None:
    subject = programs[0]
    count = len(subject.program.instructions)
    draft = Draft(subject)
    assert draft.image() == subject.program.image
    for change in (Change("field", 0, 3, "BEGIN.tokens"), Change("bits", 1, 1 << 511),
                   Change("swap", 2, 3), Change("copy", 4, 6), Change("remove", 0x7FFFFFFF),
                   Change("insert", 5, 0x42), Change("byte", 0, 0x99)):
        change.apply(draft)
    old = [subject.program.image[INSTRUCTION_BYTES * i:INSTRUCTION_BYTES * (i + 1)]
           for i in range(count)]
    image = draft.image()
    new = [image[INSTRUCTION_BYTES * i:INSTRUCTION_BYTES * (i + 1)] for i in range(count + 1)]
    assert new[2] == old[3] and new[3] == old[2]
    assert new[1][:-1] == old[1][:-1] and new[1][-1] == old[1][-1] ^ 0x80
    assert new[5] == b"\x42".ljust(INSTRUCTION_BYTES, b"\0")
    assert new[7] == old[4]
    assert len(image) == len(subject.program.image)


def test_right_programs_are_not_too_long_to_be_drawn(fuzzer: Fuzzer) -> None:
    for subject in fuzzer.subjects:
        assert 3000 < longest_cycles(subject.program.image, CONFIG) < fuzz_cases._LONGEST


@pytest.mark.parametrize("opcode, field, value", [
    (Opcode.IMAGE, "remove", 0), (Opcode.PASS, "PASS.segment", 3)])
def test_a_pass_of_no_rows_is_refused(fuzzer: Fuzzer, opcode: Opcode, field: str, value: int
                                      ) -> None:
    """It would never end, and no watchdog would see it."""
    for subject in fuzzer.subjects:
        index = next(i for i, fields in enumerate(subject.program.instructions)
                     if fields.opcode == opcode)
        changes = ((Change("remove", index),) if field == "remove" else
                   (Change("field", index, 1, "PASS.of_segment"),
                    Change("field", index, value, field)))
        verdict = fuzzer.verdict(Case("p0", subject, Outcome.END, (Step("start"), Step("idle")),
                                      changes))
        assert not verdict.problem
        assert verdict.error == Error.BAD_FIELD


def test_a_problem_is_made_small(fuzzer: Fuzzer, capsys: pytest.CaptureFixture[str],
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule that is said to be harmless, but is not."""
    case = fuzzer.case(0, "s0")
    first = case.subject.program.instructions[0].weight_offset
    wrong = Case("s0", case.subject, Outcome.RIGHT,
                 (Step("read", (0x40,)), Step("error", (MODEL_BASE + first, 3)),
                  Step("wait", (50,)), Step("start"), Step("idle")))
    monkeypatch.setattr(Fuzzer, "case", lambda self, seed, name: wrong)
    report = run(fuzzer, ["s0"])
    (verdict,) = report.failures
    assert verdict.error == Error.BUS_READ
    assert verdict.problem == "the error is BUS_READ, must be the right result"
    (smallest,) = report.smallest
    assert [step.kind for step in smallest.steps] == ["error", "start", "idle"]
    assert report.to_dict()["failures"][0]["reproduce"] == (  # type: ignore[index]
        "python -m sim.fuzz --config nano --seed 0 --case s0")
    fuzz._show(report, Console())
    assert "1 of 1 cases have a problem" in capsys.readouterr().out


def test_an_access_outside_of_the_windows_is_found(fuzzer: Fuzzer,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_run, "_WINDOWS", fuzz_run._WINDOWS[1:])
    case = Case("s0", fuzzer.subjects[0], Outcome.ANY, (Step("start"), Step("idle")))
    assert (fuzzer.verdict(case).problem
            == f"a read of 64 bytes at {MODEL_BASE:#x} lies outside of what the registers allow")


@pytest.mark.parametrize("arguments, text", [
    (["--case", "x3"], "the case is 'x3', must be p or s and a number as in p17"),
    (["--programs", "-1"], "programs is -1, must be between 0 and 1000000"),
    (["--config", "nane"], "no configuration is called 'nane'"),
    (["--json", "/nowhere/x.json"], "the folder of /nowhere/x.json does not exist"),
])
def test_bad_options(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(arguments) == 2
    assert text in capsys.readouterr().err
