# SPDX-License-Identifier: BSD-2-Clause
"""What drivers are told: no two errors have a code, and both languages are told the same."""

import re
from pathlib import Path

import pytest

from platforms import driver_interface
from platforms.driver_interface import (
    DRIVER_ERRORS,
    FIELDS,
    errors_table,
    fields_table,
    identity,
    interface,
    interface_header,
)
from rtl.config import named
from rtl.isa import Error
from rtl.registers import REGISTERS, constants

PAGE = Path(__file__).parent.parent / "docs" / "drivers.md"


def test_codes_differ() -> None:
    codes = [error.value for error in Error] + [error.code for error in DRIVER_ERRORS.values()]
    assert len(set(codes)) == len(codes)
    assert all(error.value < 256 for error in Error)
    assert all(error.code >= 256 for error in DRIVER_ERRORS.values())


def test_both_languages_are_told_the_same() -> None:
    header, told = interface_header(), interface()
    in_c = dict(re.findall(r"HEATVIT_ERROR_(\w+) = (\d+),", header))
    in_python = {entry["name"]: code for code, entry in told["errors"].items() if int(code) >= 256}
    assert in_c == in_python == {n: str(e.code) for n, e in DRIVER_ERRORS.items()}
    fields = re.findall(r"^    HEATVIT_MODEL_(\w+),", header, re.M)
    assert [field.lower() for field in fields] == told["model"] == list(FIELDS)
    for name, value in re.findall(r"#define HEATVIT_(\w+) (\w+)u$", header, re.M):
        assert told["numbers"][name] == int(value, 0), name
    assert len(told["errors"]) == len(Error) + len(DRIVER_ERRORS)
    assert told["registers"].keys() == {register.name for register in REGISTERS}


def test_every_error_is_a_sentence() -> None:
    for entry in interface()["errors"].values():
        assert re.fullmatch(r"[A-Z].*[.?]", entry["sentence"]), entry
        assert '"' not in entry["sentence"]


def test_identity_is_what_the_registers_show() -> None:
    config = named("tiny")
    assert list(identity(config).values()) == list(constants(config).values())


def test_page_has_the_tables() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert errors_table() in page and fields_table() in page
    for error in DRIVER_ERRORS.values():
        assert error.sentence in page


def test_command_writes_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "drivers.md"
    text = PAGE.read_text(encoding="utf-8")
    page.write_text(text.replace(errors_table(), "").replace(fields_table(), ""), encoding="utf-8")
    monkeypatch.setattr(driver_interface, "_PAGE", page)
    assert driver_interface.main([]) == 0
    assert page.read_text(encoding="utf-8") == text
    page.write_text("No tables.\n", encoding="utf-8")
    assert driver_interface.main([]) == 2
    assert "lacks the lines <!-- errors: begin -->" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        driver_interface.main(["docs"])
    assert ended.value.code == 2
