# SPDX-License-Identifier: BSD-2-Clause
"""Bad programs and bad arguments end in an error code, and the next image is right."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden.images import calibration_frames
from golden.model import FloatViT, ModelConfig
from golden.program import LAYOUTS
from golden.quantize import quantize
from golden.synthetic import synthetic
from rtl.config import named
from rtl.isa import INSTRUCTION_BYTES, ISA_VERSION, Error, LoadKind, Opcode, Prologue, Rows
from sim.build import simulator
from sim.device import FRAME_BASE, MODEL_BASE, OUTPUT_BASE, Device, Result, Status
from sim.session import Session
from sim.workload import Workload

CONFIG = named("tiny")

#: More cycles than any image here takes.
_LIMIT = 200_000


@pytest.fixture(scope="module")
def program() -> Path:
    return simulator(CONFIG)


@pytest.fixture(scope="module")
def workload() -> Workload:
    model = ModelConfig(name="error_test", image_size=24, patch=8, width=32, depth=1, heads=2,
                        hidden=48, classes=10)
    frames = calibration_frames(model.image_size)
    qvit = quantize(FloatViT(model, synthetic(model, 2)), frames, weights="synthetic")
    return Workload(qvit, CONFIG, frames[0])


def index_of(workload: Workload, opcode: Opcode, **fields: Any) -> int:
    """Return the index of the first instruction with these fields."""
    for index, instruction in enumerate(workload.program.instructions):
        if instruction.opcode == opcode and all(
                getattr(instruction, name) == value for name, value in fields.items()):
            return index
    raise ValueError(f"the program has no {opcode} with {fields}")


def changed(workload: Workload, index: int, **fields: int) -> bytes:
    """Return the memory image with other values in the fields of one instruction."""
    image = bytearray(workload.program.image)
    at = slice(index * INSTRUCTION_BYTES, (index + 1) * INSTRUCTION_BYTES)
    raw = int.from_bytes(image[at], "little")
    layout = LAYOUTS[Opcode(raw & 0xFF)]
    for name, value in fields.items():
        field = layout[name]
        assert 0 <= value < 1 << field.width
        raw = raw & ~(((1 << field.width) - 1) << field.offset) | value << field.offset
    image[at] = raw.to_bytes(INSTRUCTION_BYTES, "little")
    return bytes(image)


def run(program: Path, workload: Workload, image: bytes, *, reset: bool = True,
        limit: int = _LIMIT, **arguments: int) -> tuple[Status, Status, Result]:
    """Run ``image``, then the right one; return the status of both and the output of the second."""
    sizes = {"model_bytes": len(image), "frame_bytes": workload.frame.nbytes}
    with Session(program) as session:
        device = Device(session, workload.qvit.model.classes, CONFIG.port_bits // 8)
        session.bus(bytes_per_cycle=64, latency=20)
        device.place(workload.program.image, workload.frame.tobytes())
        session.load(image, MODEL_BASE)
        output = arguments.pop("output_bytes", None)
        device.arguments(**sizes | arguments)
        if output is not None:
            device.write("OUTPUT_BYTES", output)
        device.start()
        bad, _ = device.finish(limit)
        if reset:
            device.soft_reset()
        session.load(workload.program.image, MODEL_BASE)
        device.arguments(model_bytes=len(workload.program.image),
                         frame_bytes=workload.frame.nbytes)
        device.start()
        good, results = device.finish(_LIMIT)
        session.run()
        return bad(), good(), results()[0]


def check(program: Path, workload: Workload, image: bytes, error: Error, index: int,
          **arguments: int) -> None:
    for reset in (True, False):
        bad, good, result = run(program, workload, image, reset=reset, **arguments)
        assert (bad.error, bad.error_index) == (error, index), (
            f"the error is {bad.error} at {bad.error_index}, must be {error} at {index}")
        assert good.error == Error.NONE
        logits, top_class, _ = workload.expected
        np.testing.assert_array_equal(result.logits, logits)
        assert result.top_class == good.top_class == top_class


def bad_instructions() -> Iterator[tuple[str, Error, Opcode, dict[str, Any], dict[str, int]]]:
    """Name, error, opcode and fields of the instruction, and its fields that are changed."""
    begin, table, load = Opcode.BEGIN, Opcode.TABLE, Opcode.LOAD
    yield "magic", Error.BAD_MAGIC, begin, {}, {"magic": 0x12345678}
    yield "version", Error.BAD_VERSION, begin, {}, {"version": ISA_VERSION + 1}
    yield "no opcode", Error.BAD_OPCODE, table, {}, {"opcode": 0}
    yield "unknown opcode", Error.BAD_OPCODE, Opcode.PASS, {"accumulate": 0}, {"opcode": 9}
    yield "second begin", Error.BAD_OPCODE, load, {}, {"opcode": begin.value}
    yield "no begin", Error.BAD_MAGIC, begin, {}, {"opcode": table.value}
    yield "tokens", Error.BAD_FIELD, begin, {}, {"tokens": CONFIG.max_tokens + 1}
    yield "no tokens", Error.BAD_FIELD, begin, {}, {"tokens": 0}
    for name, fields in (
        ("source", {"source_base": 0xFFFF}), ("destination", {"destination_base": 0xFFFF}),
        ("column tiles", {"column_tiles": 0}), ("K tiles", {"k_tiles": 0}),
        ("row dependency", {"row_dependency": 15}),
        ("destination buffer", {"destination": 7}), ("scale source", {"scale_source": 3}),
        ("dropped rows before a selector", {"rows_from": Rows.DROPPED.value}),
    ):
        yield name, Error.BAD_FIELD, Opcode.PASS, {"prologue": Prologue.NORM}, fields
    yield "prune without select", Error.BAD_FIELD, table, {}, {"opcode": Opcode.PRUNE.value}
    yield "classes", Error.BAD_FIELD, Opcode.END, {}, {"classes": CONFIG.max_classes + 1}
    yield "table", Error.BAD_FIELD, table, {}, {"first": 0xFFF0}
    yield "weights", Error.BAD_ADDRESS, begin, {}, {"weight_offset": 0x7FFFF000}
    yield "stream", Error.BAD_ADDRESS, begin, {}, {"weight_beats": 1 << 20}
    yield ("residual", Error.BAD_ADDRESS, load, {"kind": LoadKind.RESIDUAL},
           {"offset": 0x7FFFF000})
    yield "frame", Error.BAD_ADDRESS, load, {"kind": LoadKind.FRAME}, {"offset": 64}


@pytest.mark.parametrize("name, error, opcode, where, fields", list(bad_instructions()),
                         ids=lambda value: value if isinstance(value, str) else "")
def test_bad_instruction(program: Path, workload: Workload, name: str, error: Error, opcode: Opcode,
                         where: dict[str, Any], fields: dict[str, int]) -> None:
    index = index_of(workload, opcode, **where)
    check(program, workload, changed(workload, index, **fields), error, index)


def test_program_without_end(program: Path, workload: Workload) -> None:
    end = index_of(workload, Opcode.END)
    image = changed(workload, 0, instructions=end)
    check(program, workload, image, Error.BAD_OPCODE, end)


@pytest.mark.parametrize("name, missing, opcode, where", [
    ("model_bytes", 64, Opcode.BEGIN, {}),
    ("frame_bytes", 64, Opcode.LOAD, {"kind": LoadKind.FRAME}),
    ("output_bytes", 16, Opcode.END, {}),
])
def test_window_too_small(program: Path, workload: Workload, name: str, missing: int,
                          opcode: Opcode, where: dict[str, Any]) -> None:
    sizes = {"model_bytes": len(workload.program.image), "frame_bytes": workload.frame.nbytes,
             "output_bytes": 64}
    index = index_of(workload, opcode, **where)
    check(program, workload, workload.program.image, Error.BAD_ADDRESS, index,
          **{name: sizes[name] - missing})


@pytest.mark.parametrize("name, base", [("MODEL_ADDR", MODEL_BASE), ("FRAME_ADDR", FRAME_BASE),
                                        ("OUTPUT_ADDR", OUTPUT_BASE)])
def test_unaligned_argument(program: Path, workload: Workload, name: str, base: int) -> None:
    with Session(program) as session:
        device = Device(session, workload.qvit.model.classes, CONFIG.port_bits // 8)
        device.place(workload.program.image, workload.frame.tobytes())
        device.write(name, base + 4)
        device.start()
        status, _ = device.finish(_LIMIT)
        session.run()
        assert status().error == Error.BAD_ADDRESS


def test_hang(program: Path, workload: Workload) -> None:
    """A program that promises fewer weights than its passes take never ends by itself."""
    beats = workload.program.instructions[0].weight_beats
    image = changed(workload, 0, weight_beats=beats // 2)
    bad, good, result = run(program, workload, image, limit=3 << 20)
    assert bad.error == Error.HANG
    assert workload.program.instructions[bad.error_index].opcode == Opcode.PASS
    assert good.error == Error.NONE
    np.testing.assert_array_equal(result.logits, workload.expected[0])


def test_soft_reset_at_any_time(program: Path, workload: Workload) -> None:
    logits, _, _ = workload.expected
    for stalls in (0, 1):
        with Session(program) as session:
            device = Device(session, workload.qvit.model.classes, CONFIG.port_bits // 8)
            session.bus(bytes_per_cycle=16, latency=60, stalls=stalls)
            device.place(workload.program.image, workload.frame.tobytes())
            # Never as long as an image: its interrupt would stay.
            for cycles in range(1, workload.array_cycles, 97):
                device.start()
                session.wait(cycles)
                device.soft_reset()
            device.start()
            status, results = device.finish(_LIMIT)
            session.run()
            assert status().error == Error.NONE
            np.testing.assert_array_equal(results()[0].logits, logits)


def test_two_frames_in_turn(program: Path, workload: Workload) -> None:
    other = replace(workload, frame=np.ascontiguousarray(workload.frame[::-1, ::-1]))
    assert not np.array_equal(other.expected[0], workload.expected[0])
    with Session(program) as session:
        device = Device(session, workload.qvit.model.classes, CONFIG.port_bits // 8)
        session.bus(bytes_per_cycle=64, latency=100)
        device.place(workload.program.image, workload.frame.tobytes())
        results = []
        for work in (workload, other, workload):
            device.frame(work.frame.tobytes())
            device.start()
            results.append((work, device.finish(_LIMIT)[1]))
        session.run()
        for work, outputs in results:
            np.testing.assert_array_equal(outputs()[0].logits, work.expected[0])
