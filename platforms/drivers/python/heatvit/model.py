# SPDX-License-Identifier: BSD-2-Clause
"""Model files, as ``python -m platforms.deploy`` writes them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from .errors import HeatViTError
from .interface import INTERFACE, NUMBERS

__all__ = ["ModelFile"]

_FIELDS = INTERFACE["model"]


class ModelFile:
    """A model file that is whole; one that is not raises HeatViTError.

    Parameters
    ----------
    source
        Path of the file, or its bytes.

    Members
    -------
    fields
        Words of the header, by name.
    name
        Of the model.
    image, sample, expected
        Program and weights; the frame of the self-test; its logits, top class and tokens.
    """

    def __init__(self, source: str | Path | bytes) -> None:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        head = data[:4 * len(_FIELDS)].ljust(4 * len(_FIELDS), b"\0")
        words = struct.unpack(f"<{len(_FIELDS)}I", head)
        self.fields: dict[str, int] = {name: words[i] for i, name in enumerate(_FIELDS)}
        self._check(data)
        names = data[len(head):len(head) + NUMBERS["FILE_NAME_BYTES"]]
        self.name = names.rstrip(b"\0").decode()
        at = self.fields
        self.image = data[at["model_offset"]:at["model_offset"] + at["model_bytes"]]
        self.sample = data[at["sample_offset"]:at["sample_offset"] + at["frame_bytes"]]
        self.expected: tuple[int, ...] = struct.unpack_from(
            f"<{at['classes']}i2I", data, at["expected_offset"])

    def _check(self, data: bytes) -> None:
        have, header = self.fields, NUMBERS["FILE_HEADER_BYTES"]
        behind = 4 * (_FIELDS.index("header_crc") + 1)
        if len(data) < 8 or have["magic"] != NUMBERS["FILE_MAGIC"]:
            raise HeatViTError("NOT_A_MODEL")
        if have["format"] != NUMBERS["FILE_FORMAT"]:
            raise HeatViTError("FORMAT", f"format {have['format']}, must be"
                                         f" {NUMBERS['FILE_FORMAT']}")
        if len(data) < header:
            raise HeatViTError("TRUNCATED", f"bytes {len(data)}, must be at least {header}")
        if zlib.crc32(data[behind:header]) != have["header_crc"]:
            raise HeatViTError("CORRUPT")
        if len(data) != have["file_bytes"]:
            raise HeatViTError("TRUNCATED", f"bytes {len(data)}, must be {have['file_bytes']}")
        if zlib.crc32(data[header:]) != have["body_crc"]:
            raise HeatViTError("CORRUPT")

    @property
    def logit_step(self) -> float:
        """Real value of one unit of a logit."""
        shift = self.fields["logit_shift"]
        return float(2.0 ** -(shift - (1 << 32) if shift >> 31 else shift))
