# SPDX-License-Identifier: BSD-2-Clause
"""Program files: a lowered network on disk, see docs/program.md."""

import hashlib
import json
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

from golden.model import ModelConfig
from golden.program import PassKind, PassLabel, Program
from golden.pruning import PruningConfig
from rtl.config import Config
from rtl.isa import ISA_VERSION

__all__ = ["FORMAT_VERSION", "ProgramFileError", "load", "save"]

FORMAT_VERSION = 3

_MAGIC = b"HEATVIT\x1a"
#: Magic, format version, header bytes, image bytes, SHA-256 of header and image, reserved.
_FIXED = struct.Struct("<8sIIQ32s8x")
#: The image starts at a multiple of this, so that it can be mapped.
_ALIGN = 4096


class ProgramFileError(ValueError):
    """A program file that cannot be read."""


def save(path: str | Path, program: Program) -> None:
    """Write ``program`` to a file."""
    header = {
        "instruction_set": ISA_VERSION,
        "config": program.config.to_dict(),
        "model": asdict(program.model),
        "weights": program.weights,
        "logit_step": program.logit_step,
        "tokens": program.tokens,
        "frame_bytes": program.frame_bytes,
        "pruning": None if program.pruning is None else asdict(program.pruning),
        "passes": [[label.kind, label.stage, label.head, label.norm, label.image]
                   for label in program.labels],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-(_FIXED.size + len(text)) // _ALIGN) * _ALIGN - _FIXED.size)
    digest = hashlib.sha256(text + program.image).digest()
    fixed = _FIXED.pack(_MAGIC, FORMAT_VERSION, len(text), len(program.image), digest)
    Path(path).write_bytes(fixed + text + program.image)


def _pruning(fields: dict[str, Any] | None) -> PruningConfig | None:
    if fields is None:
        return None
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                              for name, value in fields.items()}
    return PruningConfig(**values)


def load(path: str | Path) -> Program:
    """Read a program that :func:`save` wrote; a file that is broken raises ProgramFileError."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ProgramFileError(f"program file {path} cannot be read: {error.strerror}") from error
    if raw[:len(_MAGIC)] != _MAGIC:
        raise ProgramFileError(f"{path} is no program file: it does not start with {_MAGIC!r}")
    if len(raw) < _FIXED.size:
        raise ProgramFileError(f"program file {path} is truncated: it has {len(raw)} bytes,"
                               f" must have at least {_FIXED.size}")
    _, version, header_bytes, image_bytes, digest = _FIXED.unpack_from(raw)
    if version != FORMAT_VERSION:
        raise ProgramFileError(f"program file {path} is of format {version}, must be of format"
                               f" {FORMAT_VERSION}")
    size = _FIXED.size + header_bytes + image_bytes
    if len(raw) != size:
        state = "truncated" if len(raw) < size else "too long"
        raise ProgramFileError(
            f"program file {path} is {state}: it has {len(raw)} bytes, must have {size}")
    if hashlib.sha256(raw[_FIXED.size:]).digest() != digest:
        raise ProgramFileError(f"program file {path} is corrupt: its checksum does not match")
    header = json.loads(raw[_FIXED.size:_FIXED.size + header_bytes])
    if header["instruction_set"] != ISA_VERSION:
        raise ProgramFileError(f"program file {path} is for version {header['instruction_set']} of"
                               f" the instruction set, must be {ISA_VERSION}")
    try:
        return Program(
            config=Config(**header["config"]), model=ModelConfig(**header["model"]),
            weights=header["weights"], logit_step=header["logit_step"],
            image=raw[_FIXED.size + header_bytes:], pruning=_pruning(header["pruning"]),
            labels=tuple(
                PassLabel(kind=PassKind(kind), stage=stage, head=head, norm=norm, image=image)
                for kind, stage, head, norm, image in header["passes"]))
    # Written by a version with other sizes of configurations and models, or other passes.
    except (KeyError, TypeError, ValueError) as error:
        raise ProgramFileError(f"program file {path} has a header of another version of this"
                               f" software: {error}") from error
