# SPDX-License-Identifier: BSD-2-Clause
"""Print the packages of pdm.lock as pip requirements, so that pip alone can install them."""

import argparse
import tomllib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["requirements"]

LOCK = Path(__file__).parent.parent / "pdm.lock"


def requirements(lock: Path = LOCK, *, without: str | None = None) -> Iterator[str]:
    """Yield ``name==version; marker`` of every locked package once.

    A package that only the group ``without`` needs is left out. Extras are not named: what they
    bring is locked as packages of its own, and pip takes no extras in a constraint.
    """
    seen = set()
    for package in tomllib.loads(lock.read_text(encoding="utf-8"))["package"]:
        marker = f"; {package['marker']}" if "marker" in package else ""
        line = f"{package['name']}=={package['version']}{marker}"
        if set(package["groups"]) != {without} and line not in seen:
            seen.add(line)
            yield line


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without", metavar="GROUP", help="leave out what only GROUP needs")
    print(*requirements(without=parser.parse_args().without), sep="\n")
