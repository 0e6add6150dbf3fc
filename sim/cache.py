# SPDX-License-Identifier: BSD-2-Clause
"""Files that are made once, under names that change when anything they are made of changes."""

import fcntl
import hashlib
import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["BUILD", "digest", "replacing", "versions"]

#: Everything that is generated goes here.
BUILD = Path(__file__).parent.parent / "build"


def digest(*parts: str | Path) -> str:
    """Return a short name for texts and for the contents of files."""
    total = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode()
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()[:16]


def versions(*packages: str) -> str:
    """Return the versions of the installed packages, for a digest."""
    return " ".join(f"{name}=={importlib.metadata.version(name)}" for name in packages)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a new file that takes the place of ``path`` at the end.

    No process ever sees ``path`` unfinished, and only one at a time makes it: others wait here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.new")
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield unfinished
        if unfinished.exists():
            unfinished.rename(path)
