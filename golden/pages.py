# SPDX-License-Identifier: BSD-2-Clause
"""Pages of documentation: tables, and sections that commands write."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

__all__ = ["check_section", "columns_table", "table", "write_section"]


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, left: int | None = None) -> str:
    """Return a table in Markdown; columns from ``left`` on, if given, have numbers."""
    left = len(head) if left is None else left
    rules = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (head, rules, *rows))


def columns_table(rows: Iterable[Mapping], columns: Sequence[tuple[str, str, Callable]]) -> str:
    """Return a table in Markdown; a column is its title, the key of a row, and how it is shown."""
    return table([title for title, _, _ in columns],
                 ([show(row[key]) for _, key, show in columns] for row in rows))


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
