# SPDX-License-Identifier: BSD-2-Clause
"""Requests and answers on a serial line: one definition for the board and for its host."""

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from rtl.isa import Error
from rtl.logits import OUTPUT_TOP_BYTES

__all__ = ["ANSWER", "ANSWER_HEAD", "REQUEST", "Answer", "Code", "LineError", "decode", "request"]

#: The first bytes of a request and of an answer.
REQUEST, ANSWER = b"HVIT", b"HVAN"

#: An answer up to its output: code, core error, bytes of the output, error index, cycles.
ANSWER_HEAD = struct.Struct("<BBHII")

_CRC = struct.Struct("<I")

#: Words behind the logits in an output.
_TOP = OUTPUT_TOP_BYTES // 4


class Code(IntEnum):
    """How a request ended."""

    OK = 0
    #: The request is not for a frame of the size of this network.
    LENGTH = 1
    #: The line was silent within a request.
    TIMEOUT = 2
    #: The core took the frame more slowly than it came.
    OVERRUN = 3
    #: The checksum of the request is wrong.
    CHECKSUM = 4
    #: The core ended with an error, which the answer names.
    CORE = 5


class LineError(ValueError):
    """What came is no answer, or no answer came."""


@dataclass(frozen=True)
class Answer:
    """What the board says of a frame; all behind ``cycles`` is empty unless ``code`` is OK.

    Members
    -------
    code, core_error, error_index
        How it ended; the last two are those of the core, with CORE.
    cycles
        Of the run, with those in which the core waited for the line.
    logits, top_class, tokens
        The output.
    """

    code: Code
    core_error: Error
    error_index: int
    cycles: int
    logits: np.ndarray
    top_class: int = 0
    tokens: int = 0


def request(frame: bytes) -> bytes:
    """Return the request to classify ``frame``: mark, length, frame, CRC-32 of both."""
    body = struct.pack("<I", len(frame)) + frame
    return REQUEST + body + _CRC.pack(zlib.crc32(body))


def decode(head: bytes, output: bytes, checksum: bytes, classes: int) -> Answer:
    """Return the answer in the parts behind its mark; raise LineError where they are broken."""
    if _CRC.unpack(checksum)[0] != zlib.crc32(head + output):
        raise LineError("the checksum of the answer is wrong")
    code, core_error, size, index, cycles = ANSWER_HEAD.unpack(head)
    words = np.frombuffer(output, "<i4")
    if size and (size != len(output) or size < 4 * (classes + _TOP)):
        raise LineError(f"the output has {len(output)} bytes, must have {size} and hold {classes}"
                        " logits")
    answer = Answer(Code(code), Error(core_error), index, cycles, words[:classes].copy())
    if not size:
        return answer
    return Answer(answer.code, answer.core_error, index, cycles, answer.logits,
                  top_class=int(words[-_TOP]), tokens=int(words[-1]))
