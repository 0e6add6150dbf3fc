# SPDX-License-Identifier: BSD-2-Clause
"""Bad programs and bad arguments end in an error code, and the next image is right."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from golden.images import calibration_frames
from golden.model import FloatViT, ModelConfig, model_named
from golden.program import LAYOUTS, sealed
from golden.pruning import PruningConfig
from golden.quantize import quantize
from golden.synthetic import synthetic
from golden.synthetic_selector import synthetic_selectors
from rtl.config import named
from rtl.isa import (
    INSTRUCTION_BYTES,
    ISA_VERSION,
    Destination,
    Error,
    LoadKind,
    Opcode,
    Prologue,
    Rows,
    ScaleSource,
    Source,
    Stationary,
    begin_layout,
)
from rtl.registers import TIMEOUT_CYCLES, RunState
from sim.build import simulator
from sim.device import FRAME_BASE, MODEL_BASE, OUTPUT_BASE, Device
from sim.session import Session
from sim.workload import Workload

CONFIG = named("nano")

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


@pytest.fixture(scope="module")
def classifier() -> Workload:
    """A network with a classifier for a selector."""
    model = model_named("tiny_test")
    frames = calibration_frames(model.image_size)
    twin = FloatViT(model, synthetic(model, 3))
    pruning = PruningConfig(selector="threshold", blocks=(1,), package="each")
    qvit = quantize(twin, frames, weights="synthetic", pruning=pruning,
                    selectors=synthetic_selectors(twin, pruning.blocks, 3))
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
    return sealed(bytes(image))


class Bench:
    """A session with the right program in memory, and what is asked of it run after run."""

    def __init__(self, program: Path, workload: Workload) -> None:
        self.session = Session(program)
        self.workload = workload

    def __enter__(self) -> Self:
        self.session.__enter__()
        self.device = Device(self.session, self.workload.qvit.model.classes,
                             CONFIG.port_bits // 8)
        self.session.bus(bytes_per_cycle=64, latency=20)
        # Room for programs that are longer
        self.device.place(self.workload.program.image + bytes(4096),
                          self.workload.frame.tobytes())
        self._checks: list[Callable[[], None]] = []
        return self

    def __exit__(self, *reason: Any) -> None:
        self.session.__exit__(*reason)

    def start(self, image: bytes, **arguments: int) -> None:
        """Start a run of ``image``; ``arguments`` are values of registers, in lower case."""
        self.session.load(image, MODEL_BASE)
        sizes = {"model_bytes": len(image), "frame_bytes": self.workload.frame.nbytes}
        self.device.arguments(**sizes)
        for name, value in arguments.items():
            self.device.write(name.upper(), value)
        self.device.start()

    def fails(self, error: Error, index: int, *, limit: int = _LIMIT) -> None:
        """Expect a run to end with an error."""
        status, _ = self.device.finish(limit)
        self._checks.append(lambda: _same((status().error, status().error_index), (error, index)))

    def right(self) -> None:
        """Run the right program, and expect its result."""
        self.start(self.workload.program.image, timeout=TIMEOUT_CYCLES)
        status, results = self.device.finish(_LIMIT)
        logits, top_class, _ = self.workload.expected

        def compare() -> None:
            assert status().error == Error.NONE, f"{status().error} at {status().error_index}"
            np.testing.assert_array_equal(results()[0].logits, logits)
            assert results()[0].top_class == status().top_class == top_class
            assert status().images_done == 1

        self._checks.append(compare)

    def reads(self, name: str, value: int) -> None:
        """Expect a register to have a value."""
        self._tag = getattr(self, "_tag", 0) + 1
        read = self.device.read(name, f"read{self._tag}.")
        self._checks.append(lambda: _same(read(), value))

    def run(self) -> None:
        """Run all of it, and compare."""
        self.session.run()
        for compare in self._checks:
            compare()


def _same(got: Any, expected: Any) -> None:
    assert got == expected


def check(program: Path, workload: Workload, image: bytes, error: Error, index: int,
          **arguments: int) -> None:
    """Run ``image``, then the right one, with a soft reset between and without."""
    with Bench(program, workload) as bench:
        for reset in (True, False):
            bench.start(image, **arguments)
            bench.fails(error, index)
            if reset:
                bench.device.soft_reset()
            bench.right()
        bench.run()


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
    yield "images", Error.BAD_FIELD, begin, {}, {"images": CONFIG.images + 1}
    yield "image of a LOAD", Error.BAD_FIELD, load, {"kind": LoadKind.FRAME}, {"image": 1}
    yield "image", Error.BAD_FIELD, Opcode.IMAGE, {}, {"image": 1}
    yield "rows of an image", Error.BAD_FIELD, Opcode.IMAGE, {}, {"first_row": 0xFFFF}
    yield "loop at a TABLE", Error.BAD_FIELD, table, {}, {}
    yield "loop at a PASS", Error.BAD_FIELD, Opcode.PASS, {}, {}
    yield "no tokens", Error.BAD_FIELD, begin, {}, {"tokens": 0}
    for name, fields in (
        ("source", {"source_base": 0xFFFF}), ("destination", {"destination_base": 0xFFFF}),
        ("column tiles", {"column_tiles": 0}), ("K tiles", {"k_tiles": 0}),
        ("row dependency", {"row_dependency": 15}),
        ("destination buffer", {"destination": 7}), ("scale source", {"scale_source": 3}),
        ("dropped rows before a selector", {"rows_from": Rows.DROPPED.value}),
        ("segment", {"of_segment": 1, "segment": 1}),
        ("EXP of the residual", {"prologue": Prologue.EXP.value}),
        ("sum of what is no exponential", {"scale_source": ScaleSource.ROW.value}),
        ("statistics of activations", {"statistics": 1}),
        ("package of activations", {"package": 1}),
        ("sum of activations", {"accumulate": 1}),
        ("class attention without EXP", {"class_attention": 1}),
        ("GELU of logits", {"gelu": 1, "destination": Destination.LOGIT.value}),
        ("LayerNorm of patches", {"source": Source.PATCH.value}),
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
    image = (changed(workload, 0, loop=index) if name.startswith("loop") else
             changed(workload, index, **fields))
    check(program, workload, image, error, index)


def test_nothing_comes_before_the_first_image(program: Path, workload: Workload) -> None:
    """Each of these in the place of IMAGE."""
    place = index_of(workload, Opcode.IMAGE)
    for opcode in (Opcode.PASS, Opcode.SELECT, Opcode.PRUNE, Opcode.END):
        image = bytearray(workload.program.image)
        word = LAYOUTS[opcode].const({"opcode": opcode}).as_bits()
        if opcode == Opcode.PASS:
            at = index_of(workload, opcode) * INSTRUCTION_BYTES
            word = int.from_bytes(image[at:at + INSTRUCTION_BYTES], "little")
        at = place * INSTRUCTION_BYTES
        image[at:at + INSTRUCTION_BYTES] = word.to_bytes(INSTRUCTION_BYTES, "little")
        # The loop begins elsewhere.
        load = index_of(workload, Opcode.LOAD)
        begin = changed(workload, 0, loop=load)[:INSTRUCTION_BYTES]
        check(program, workload, sealed(begin + bytes(image[INSTRUCTION_BYTES:])),
              Error.BAD_FIELD, place)


def test_end_before_the_end(program: Path, workload: Workload) -> None:
    image = bytearray(workload.program.image)
    end = index_of(workload, Opcode.END)
    word = image[end * INSTRUCTION_BYTES:(end + 1) * INSTRUCTION_BYTES]
    image[(end - 1) * INSTRUCTION_BYTES:end * INSTRUCTION_BYTES] = word
    check(program, workload, sealed(bytes(image)), Error.BAD_FIELD, end - 1)


@pytest.mark.parametrize("place", [begin_layout["row_step"].offset // 8, 300, -1])
def test_damaged_program(program: Path, workload: Workload, place: int) -> None:
    """A bit in BEGIN, in a table, in END: whatever it would mean."""
    image = bytearray(workload.program.image)
    size = len(workload.program.instructions) * INSTRUCTION_BYTES
    image[place % size] ^= 0x40
    check(program, workload, bytes(image), Error.BAD_CHECKSUM, 0)


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
        device.write(name, base + 2)
        device.start()
        status, _ = device.finish(_LIMIT)
        session.run()
        assert status().error == Error.BAD_ADDRESS


# Waits that do not end

#: Cycles of TIMEOUT here, more than any wait of a run that is right.
_TIMEOUT = 3000


def test_weights_that_are_promised_too_few(program: Path, workload: Workload) -> None:
    """The bus is idle then: the run ends at once."""
    instructions = workload.program.instructions
    image = changed(workload, 0, weight_beats=0)
    first = index_of(workload, Opcode.PASS)
    check(program, workload, image, Error.HANG_WEIGHT, first, timeout=_TIMEOUT)
    image = changed(workload, 0, weight_beats=instructions[0].weight_beats - 8)
    last = max(i for i, f in enumerate(instructions) if f.opcode == Opcode.PASS)
    check(program, workload, image, Error.HANG_WEIGHT, last, timeout=_TIMEOUT)


def without_scales(work: Workload) -> bytes:
    """Return a program of no weights, with a first pass that takes scales of columns beside none.

    No program of ``golden.lower`` does that.
    """
    index = index_of(work, Opcode.PASS)
    assert work.program.instructions[index].scale_source == ScaleSource.COLUMN
    image = changed(work, index, stationary=Stationary.NONE.value)
    at = begin_layout["weight_beats"].offset // 8
    return sealed(image[:at] + bytes(4) + image[at + 4:])


def test_scales_that_do_not_come(program: Path, workload: Workload) -> None:
    check(program, workload, without_scales(workload), Error.HANG_PASS,
          index_of(workload, Opcode.PASS), timeout=_TIMEOUT)


def silences(workload: Workload) -> dict[str, tuple[Error, int, int]]:
    """Return error, index and an address that does not answer."""
    last = len(workload.program.instructions) - 1
    frame = index_of(workload, Opcode.LOAD, kind=LoadKind.FRAME)
    residual = index_of(workload, Opcode.LOAD, kind=LoadKind.RESIDUAL)
    offset = workload.program.instructions[residual].offset
    return {
        "BEGIN": (Error.HANG_PROGRAM, 0, MODEL_BASE),
        "program": (Error.HANG_PROGRAM, 1, MODEL_BASE + INSTRUCTION_BYTES),
        "frame": (Error.HANG_LOAD, frame, FRAME_BASE + 512),
        "residual": (Error.HANG_LOAD, residual, MODEL_BASE + offset),
        "output": (Error.HANG_OUTPUT, last, OUTPUT_BASE),
    }


@pytest.mark.parametrize("name", ["BEGIN", "program", "frame", "residual", "output"])
def test_memory_that_does_not_answer(program: Path, workload: Workload, name: str) -> None:
    """The run ends, the drain waits for the answer, and with it the next run or a soft reset."""
    error, index, address = silences(workload)[name]
    idle, late = RunState.IDLE.value, RunState.DRAIN.value | 1 << 2
    with Bench(program, workload) as bench:
        session, device = bench.session, bench.device
        for reset in (False, True):
            session.error(address, "silent")
            bench.start(workload.program.image, timeout=_TIMEOUT)
            session.interrupt(_LIMIT)
            for register, value in (("STATUS", late), ("ERROR", error.value),
                                    ("ERROR_INDEX", index), ("CTRL", 0b1011)):
                bench.reads(register, value)
            # Nothing begins before the bus is at rest.
            device.write("CTRL", 1)
            if reset:
                device.write("SOFT_RESET", 1)
            session.wait(2 * _TIMEOUT)
            bench.reads("STATUS", late)
            bench.reads("SOFT_RESET", int(reset))
            session.error(address, "okay")
            session.wait(500)
            session.quiet()
            bench.reads("STATUS", idle)
            bench.reads("SOFT_RESET", 0)
            bench.reads("ERROR", error.value)
            device.write("ISR", 1)
            bench.right()
        bench.run()


def test_soft_reset_while_memory_does_not_answer(program: Path, workload: Workload) -> None:
    """The first code that says so is HANG_DRAIN: the run had no error."""
    with Bench(program, workload) as bench:
        session, device = bench.session, bench.device
        for address in (FRAME_BASE, MODEL_BASE, OUTPUT_BASE):
            session.error(address, "silent")
            bench.start(workload.program.image, timeout=2 * _LIMIT)
            session.wait(_LIMIT // 2)
            device.write("TIMEOUT", _TIMEOUT)  # without effect
            device.write("SOFT_RESET", 1)
            session.wait(5 * _TIMEOUT)
            bench.reads("STATUS", RunState.DRAIN.value)
            session.wait(2 * _LIMIT)
            bench.reads("STATUS", RunState.DRAIN.value | 1 << 2)
            bench.reads("ERROR", Error.HANG_DRAIN.value)
            session.error(address, "okay")
            session.wait(500)
            session.quiet()
            bench.reads("STATUS", RunState.IDLE.value)
            bench.reads("SOFT_RESET", 0)
            bench.right()
        bench.run()


def without_scores(work: Workload) -> bytes:
    """Return the program of a classifier, with the pass of its scores going elsewhere."""
    return changed(work, index_of(work, Opcode.PASS, destination=Destination.SELECTOR),
                   destination=Destination.ACT.value)


def test_selector_without_scores(program: Path, classifier: Workload) -> None:
    check(program, classifier, without_scores(classifier), Error.HANG_SELECTOR,
          index_of(classifier, Opcode.PRUNE), timeout=_TIMEOUT)


def test_no_timeout_is_no_patience(program: Path, workload: Workload) -> None:
    with Bench(program, workload) as bench:
        bench.start(workload.program.image, timeout=0)
        bench.session.interrupt(_LIMIT)
        bench.session.wait(2000)
        bench.reads("ERROR", Error.HANG_PROGRAM.value)
        bench.device.write("ISR", 1)
        bench.right()
        bench.run()


# All codes

def more_weights(work: Workload) -> bytes:
    """Return a program that promises weights which it does not use, to the end of the image."""
    begin = work.program.instructions[0]
    image = work.program.image + bytes(64 * CONFIG.port_bits // 8)
    at = begin_layout["weight_beats"].offset // 8
    return sealed(image[:at] + (begin.weight_beats + 64).to_bytes(4, "little") + image[at + 4:])


def unused_weights(work: Workload) -> tuple[int]:
    """Return an address among them that is not in a burst with others."""
    return (MODEL_BASE + len(work.program.image) + 40 * CONFIG.port_bits // 8,)


def _damaged(work: Workload) -> bytes:
    image = bytearray(work.program.image)
    image[5 * INSTRUCTION_BYTES + 20] ^= 1
    return bytes(image)


#: What produces each code: the program, and what of memory answers how, if anything.
_PRODUCERS: dict[Error, Callable[[Workload], tuple[bytes, int, str]]] = {
    Error.BAD_MAGIC: lambda work: (changed(work, 0, magic=0), 0, ""),
    Error.BAD_VERSION: lambda work: (changed(work, 0, version=0), 0, ""),
    Error.BAD_OPCODE: lambda work: (changed(work, 1, opcode=0), 0, ""),
    Error.BAD_FIELD: lambda work: (changed(work, 0, tokens=0), 0, ""),
    Error.BAD_ADDRESS: lambda work: (changed(work, 0, weight_offset=0x7FFFF000), 0, ""),
    Error.BUS_READ: lambda work: (work.program.image, FRAME_BASE + 100, "slverr"),
    Error.BUS_WRITE: lambda work: (work.program.image, OUTPUT_BASE + 20, "decerr"),
    Error.BAD_CHECKSUM: lambda work: (_damaged(work), 0, ""),
    Error.HANG_PROGRAM: lambda work: (work.program.image, *silences(work)["program"][2:],
                                      "silent"),
    Error.HANG_LOAD: lambda work: (work.program.image, *silences(work)["frame"][2:], "silent"),
    Error.HANG_WEIGHT: lambda work: (changed(work, 0, weight_beats=0), 0, ""),
    Error.HANG_PASS: lambda work: (without_scales(work), 0, ""),
    Error.HANG_SELECTOR: lambda work: (without_scores(work), 0, ""),
    Error.HANG_OUTPUT: lambda work: (work.program.image, *silences(work)["output"][2:], "silent"),
    # Weights behind those that are used
    Error.HANG_DRAIN: lambda work: (more_weights(work), *unused_weights(work), "silent"),
}


@pytest.mark.parametrize("error", [error for error in Error if error != Error.NONE],
                         ids=lambda error: error.name)
def test_every_code(program: Path, workload: Workload, classifier: Workload,
                    error: Error) -> None:
    """HANG_PASS of rows and operands takes a core that is broken: see ``sim.test_hazards``."""
    work = classifier if error == Error.HANG_SELECTOR else workload
    image, address, response = _PRODUCERS[error](work)
    with Bench(program, work) as bench:
        session, device = bench.session, bench.device
        if response:
            session.error(address, response)
        bench.start(image, timeout=_TIMEOUT)
        session.interrupt(_LIMIT)
        bench.reads("ERROR", error.value)
        if response:
            session.error(address, "okay")
        device.soft_reset()
        device.write("ISR", 1)
        bench.right()
        bench.run()


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
