# SPDX-License-Identifier: BSD-2-Clause
"""Files that commands write."""

import os
from pathlib import Path

__all__ = ["check_output"]


def check_output(path: Path) -> None:
    """Raise ValueError if the file ``path`` could not be written: before the work, not after."""
    if not path.parent.is_dir():
        raise ValueError(f"the folder of {path} does not exist")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, must be a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{path} cannot be written: permission denied")
