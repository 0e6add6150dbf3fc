# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.program_file: what is written is read back, and what is broken is refused."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from networks import network
from pruned_networks import pruned_network

from golden.interpreter import execute
from golden.lower import lower
from golden.program import Program
from golden.program_file import ProgramFileError, load, save
from rtl.config import named


def small_program() -> Program:
    return lower(network("small_test").qvit, named("zcu104"))


def test_round_trip(tmp_path: Path) -> None:
    program, net = small_program(), network("small_test")
    path = tmp_path / "small.hvit"
    save(path, program)
    got = load(path)
    assert (got.config, got.model, got.weights) == (program.config, net.qvit.model, "synthetic")
    assert got.logit_step == net.qvit.steps["logits"]
    assert got.image == program.image and got.labels == program.labels
    assert got.passes_for([38]) == program.passes_for([38])
    assert execute(got.image, got.config, net.frame).top1 == net.top1


def test_round_trip_with_selectors(tmp_path: Path) -> None:
    for selector, what in (("topk", (5, 2)), ("threshold", (0, 0))):
        net = pruned_network("tiny_test", selector, "merged", (1, 2), what)
        program = lower(net.qvit, named("small"))
        save(tmp_path / "p", program)
        got = load(tmp_path / "p")
        assert got.pruning == net.qvit.pruning and got.selectors == 2
        assert got.labels == program.labels and got.image == program.image
    raw = (tmp_path / "p").read_bytes()
    rest = raw[64:].replace(b'"selector":"threshold"', b'"selector":"undecided"')
    (tmp_path / "p").write_bytes(raw[:24] + hashlib.sha256(rest).digest() + raw[56:64] + rest)
    with pytest.raises(ProgramFileError, match="software: selector is 'undecided', must be one of"):
        load(tmp_path / "p")


def test_layout_of_the_file(tmp_path: Path) -> None:
    program = small_program()
    path = tmp_path / "p"
    save(path, program)
    raw = path.read_bytes()
    assert raw[:8] == b"HEATVIT\x1a" and int.from_bytes(raw[8:12], "little") == 3
    header_bytes = int.from_bytes(raw[12:16], "little")
    start = 64 + header_bytes
    assert start % 4096 == 0 and raw[start:] == program.image
    assert int.from_bytes(raw[16:24], "little") == len(program.image)
    assert raw[24:56] == hashlib.sha256(raw[64:]).digest() and not any(raw[56:64])
    header = json.loads(raw[64:start])
    assert header["frame_bytes"] == 96 * 96 * 3 and header["tokens"] == 38
    assert header["config"]["name"] == "zcu104" and header["model"]["name"] == "small_test"
    assert header["passes"][0] == ["patch", "embed.residual", None, "block0.norm1", None]


def test_same_bytes_every_time(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / name, small_program())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "p"
    program = small_program()
    save(path, program)
    raw = path.read_bytes()
    size = len(raw)
    header = slice(64, size - len(program.image))

    def version(number: int) -> bytes:
        return raw[:8] + number.to_bytes(4, "little") + raw[12:]

    def changed(old: bytes, new: bytes) -> bytes:
        assert len(old) == len(new) and old in raw[header]
        rest = raw[header].replace(old, new) + program.image
        return raw[:24] + hashlib.sha256(rest).digest() + raw[56:64] + rest

    flipped = bytearray(raw)
    flipped[size // 2] ^= 4
    in_header = raw[:100] + b"!" + raw[101:]
    for content, message in (
        (b"", "is no program file: it does not start with b'HEATVIT"),
        (raw[:7], "is no program file"),
        (b"PK" + raw, "is no program file"),
        (raw[:40], "is truncated: it has 40 bytes, must have at least 64"),
        (version(1), "is of format 1, must be of format 3"),
        (raw[:-1], f"is truncated: it has {size - 1} bytes, must have {size}"),
        (raw[:100], f"is truncated: it has 100 bytes, must have {size}"),
        (raw + b"x", f"is too long: it has {size + 1} bytes, must have {size}"),
        (bytes(flipped), "is corrupt: its checksum does not match"),
        (in_header, "is corrupt: its checksum does not match"),
        (changed(b'"instruction_set":4', b'"instruction_set":7'),
         "is for version 7 of the instruction set, must be 4"),
        (changed(b'"max_width"', b'"max_depth"'),
         "has a header of another version of this software: Config.__init__() got an unexpected"),
        (changed(b'"passes"', b'"places"'), "of another version of this software: 'passes'"),
        (changed(b'["patch",', b'["pixel",'), "'pixel' is not a valid PassKind"),
    ):
        path.write_bytes(content)
        with pytest.raises(ProgramFileError, match=re.escape(message)):
            load(path)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProgramFileError, match=r"nothing cannot be read: No such file"):
        load(tmp_path / "nothing")
    with pytest.raises(ProgramFileError, match=r"cannot be read: Is a directory"):
        load(tmp_path)


def test_weights_are_named(tmp_path: Path) -> None:
    program = replace(small_program(), weights="deit.pth")
    save(tmp_path / "p", program)
    assert load(tmp_path / "p").weights == "deit.pth"
