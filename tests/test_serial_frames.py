# SPDX-License-Identifier: BSD-2-Clause
"""Requests and answers as bytes."""

import zlib

import numpy as np
import pytest

from platforms.serial_frames import ANSWER_HEAD, Answer, Code, LineError, decode, request
from rtl.isa import Error

LOGITS = np.array([5, -7, 1 << 20], np.int32)


def parts(code=Code.OK, *, classes=3, size=32):
    """Return the parts of an answer."""
    output = b"" if code else np.array([*LOGITS, 0, 2, 1 << 20, 99, 17], "<i4").tobytes()
    head = ANSWER_HEAD.pack(code, Error.BUS_READ.value if code == Code.CORE else 0,
                            0 if code else size, 3, 1234)
    return head, output, zlib.crc32(head + output).to_bytes(4, "little"), classes


def test_request():
    body = b"\x09\x00\x00\x00123456789"
    assert request(b"123456789") == b"HVIT" + body + zlib.crc32(body).to_bytes(4, "little")


def test_answer():
    answer = decode(*parts())
    assert (answer.code, answer.core_error, answer.error_index) == (Code.OK, Error.NONE, 3)
    assert (answer.cycles, answer.top_class, answer.tokens) == (1234, 2, 17)
    assert answer.logits.tolist() == LOGITS.tolist()


def test_answer_of_an_error():
    answer = decode(*parts(Code.CORE))
    assert isinstance(answer, Answer) and len(answer.logits) == 0
    assert (answer.code, answer.core_error) == (Code.CORE, Error.BUS_READ)


@pytest.mark.parametrize(("changed", "message"), [
    ({"size": 48}, "the output has 32 bytes, must have 48 and hold 3 logits"),
    ({"classes": 5}, "the output has 32 bytes, must have 32 and hold 5 logits")])
def test_outputs_of_another_size(changed, message):
    with pytest.raises(LineError, match=f"^{message}$"):
        decode(*parts(**changed))


@pytest.mark.parametrize("byte", range(12 + 32))
def test_every_byte_is_under_the_checksum(byte):
    head, output, checksum, classes = parts()
    text = bytearray(head + output)
    text[byte] ^= 0x10
    with pytest.raises(LineError, match="^the checksum of the answer is wrong$"):
        decode(bytes(text[:12]), bytes(text[12:]), checksum, classes)
