# SPDX-License-Identifier: BSD-2-Clause
"""Errors of the core and of the driver: a code, a name and a sentence."""

from __future__ import annotations

from .interface import INTERFACE

__all__ = ["HeatViTError"]

_CODES = {entry["name"]: int(code) for code, entry in INTERFACE["errors"].items()}
#: Codes below this one are those of the core.
_FIRST_OF_DRIVER = 256


class HeatViTError(RuntimeError):
    """Something that went wrong.

    Members
    -------
    code, name
        What it was: the same numbers as in C. Those below 256 were found by the core.
    """

    def __init__(self, error: str | int, details: str = "") -> None:
        self.code = _CODES[error] if isinstance(error, str) else error
        entry = INTERFACE["errors"].get(str(self.code))
        self.name: str = entry["name"] if entry else f"error {self.code}"
        sentence = entry["sentence"] if entry else "The core has ended with an unknown error."
        super().__init__(f"{sentence} ({details})" if details else sentence)

    @property
    def from_core(self) -> bool:
        """Whether the core has found it, not the driver."""
        return self.code < _FIRST_OF_DRIVER
