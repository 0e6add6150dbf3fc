# SPDX-License-Identifier: BSD-2-Clause
"""Errors in words: all of them, and each wait has one."""

import pytest

from rtl.errors import ERRORS, HANGS, error_page
from rtl.isa import CHECKSUM_POLYNOMIAL, Error, Stall


def test_every_error_is_explained() -> None:
    assert list(ERRORS) == list(Error)
    assert len({text.sentence for text in ERRORS.values()}) == len(ERRORS)
    for text in ERRORS.values():
        assert text.sentence.endswith(".") and text.sentence.count(". ") == 0
        assert text.sentence[0].isupper() and '"' not in text.sentence
        assert text.index and text.bus and text.remedy


def test_every_wait_has_an_error() -> None:
    assert set(HANGS) == set(Stall)
    # The drain is not a wait of the issue stage.
    assert {*HANGS.values(), Error.HANG_DRAIN} == {e for e in Error if e.name.startswith("HANG")}


@pytest.mark.parametrize("error", Error, ids=lambda error: error.name)
def test_the_page_has_a_line_for_each(error: Error) -> None:
    line, = (line for line in error_page().splitlines() if f"| {error.name} |" in line)
    assert line.startswith(f"| {error.value} | {error.name} | {ERRORS[error].sentence} |")


def test_the_page_names_the_polynomial_of_the_checksum() -> None:
    assert CHECKSUM_POLYNOMIAL == 1 << 22 | 1 << 2 | 1 << 1 | 1
    assert "modulo\nx^32 + x^22 + x^2 + x + 1: it" in error_page()
