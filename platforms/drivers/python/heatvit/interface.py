# SPDX-License-Identifier: BSD-2-Clause
"""Addresses, layouts and errors as they were generated, in ``interface.json``."""

import json
from pathlib import Path
from typing import Any

__all__ = ["INTERFACE", "NUMBERS", "address", "field"]

INTERFACE: Any = json.loads((Path(__file__).parent / "interface.json").read_text(encoding="utf-8"))
NUMBERS: Any = INTERFACE["numbers"]

_WORD_BYTES = 4


def address(register: str, word: int = 0) -> int:
    """Return the byte address of a word of a register."""
    offset: int = INTERFACE["registers"][register]["offset"]
    return offset + _WORD_BYTES * word


def field(register: str, name: str, value: int) -> int:
    """Return a field of the value of a register."""
    low, mask = INTERFACE["registers"][register]["fields"][name]
    return (value & mask) >> low
