# SPDX-License-Identifier: BSD-2-Clause
"""Pages of documentation with sections that commands write."""

from pathlib import Path

__all__ = ["check_section", "write_section"]


def _around(page: Path, name: str) -> tuple[str, str]:
    """Return what stands before and after the text of a section, the markers included."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, found_begin, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{page} lacks the lines {begin.strip()} and {end.strip()}")
    return before + begin, end + after


def check_section(page: Path, name: str) -> None:
    """Raise ValueError if ``page`` has no section ``name``: before the work, not after.

    A section stands between the lines ``<!-- name: begin -->`` and ``<!-- name: end -->``.
    """
    _around(page, name)


def write_section(page: Path, name: str, text: str) -> None:
    """Put ``text`` in place of what the section ``name`` holds."""
    page.write_text(f"\n{text}\n\n".join(_around(page, name)))
