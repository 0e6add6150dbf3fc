# SPDX-License-Identifier: BSD-2-Clause
"""Files that commands write."""

import os
from pathlib import Path

__all__ = ["check_output", "make_folder", "make_new_folder"]


def check_output(path: Path) -> None:
    """Raise ValueError if the file ``path`` could not be written: before the work, not after."""
    if not path.parent.is_dir():
        raise ValueError(f"the folder of {path} does not exist")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, must be a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{path} cannot be written: permission denied")


def make_folder(path: Path) -> None:
    """Make the folder ``path`` where there is none; raise ValueError if that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"{path} is a file, must be a folder") from None
    except OSError as error:
        raise ValueError(f"the folder {path} cannot be made: {error.strerror}") from None
    if not os.access(path, os.W_OK):
        raise ValueError(f"nothing can be written to the folder {path}: permission denied")


def make_new_folder(path: Path) -> None:
    """Make the folder ``path`` as :func:`make_folder`; raise ValueError if something is in it."""
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"the folder {path} is not empty, must be a new or an empty one")
    make_folder(path)
