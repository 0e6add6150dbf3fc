# SPDX-License-Identifier: BSD-2-Clause
"""How commands end that print tables of Yosys, or put them into a page."""

import sys
from collections.abc import Callable
from pathlib import Path

from golden.pages import check_section, write_section
from platforms.synthesis import SynthesisError

__all__ = ["print_or_update"]


def print_or_update(page: Path | None, prepare: Callable[[], tuple[str, Callable[[], str]]]) -> int:
    """Print tables, or write them into the section of a page; return the exit status.

    Faults are printed as one sentence: 2.

    Parameters
    ----------
    page
        The page; without one the tables are printed.
    prepare
        Returns the name of the section, and the function that makes the tables. That takes minutes:
        whether the page has a place for them is asked before.
    """
    try:
        section, tables = prepare()
        if page:
            check_section(page, section)
        text = tables()
        if page:
            write_section(page, section, text)
        else:
            print(text)
    except OSError as error:
        print(f"error: {page} cannot be updated: {error.strerror}" if page else f"error: {error}",
              file=sys.stderr)
        return 2
    except (SynthesisError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
