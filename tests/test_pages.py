# SPDX-License-Identifier: BSD-2-Clause
"""Sections of pages: what is replaced, and pages that lack one."""

from pathlib import Path

import pytest

from golden.pages import check_section, write_section

PAGE = ("before\n<!-- one: begin -->\n\nold\n\n<!-- one: end -->\nbetween\n"
        "<!-- two: begin -->\n<!-- two: end -->\nafter\n")


def test_sections(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    check_section(page, "one")
    assert page.read_text() == PAGE
    for text in (r"new \1", "newer"):
        write_section(page, "two", text)
    write_section(page, "one", "new")
    assert page.read_text() == (
        "before\n<!-- one: begin -->\n\nnew\n\n<!-- one: end -->\nbetween\n"
        "<!-- two: begin -->\n\nnewer\n\n<!-- two: end -->\nafter\n")


@pytest.mark.parametrize("text", ["", "<!-- one: begin -->\n", "<!-- one: end -->\n",
                                  "<!-- one: end -->\n<!-- one: begin -->\n"])
def test_page_without_the_section(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    for fails in (lambda: check_section(page, "one"), lambda: write_section(page, "one", "new")):
        with pytest.raises(ValueError, match="lacks the lines <!-- one: begin --> and <!-- one"):
            fails()
    assert page.read_text() == text
