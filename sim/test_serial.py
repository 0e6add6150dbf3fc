# SPDX-License-Identifier: BSD-2-Clause
"""A board with a serial line in simulation: frames and faults over the line, answers from it."""


import numpy as np
import pytest

from golden import integer
from golden.images import calibration_frames
from golden.lower import lower
from golden.model import ModelConfig
from platforms.serial_board import SerialBoard, SerialSettings
from platforms.serial_frames import Code, request
from platforms.serial_host import SerialHost
from rtl.config import named
from rtl.emit import emit
from rtl.isa import Error
from sim.build import emitted
from sim.serial_line import SimulatedLine
from sim.serial_scenes import main
from sim.verilator import lint
from sim.workload import quantized

#: As small as a network can be: most of the time of a frame is its way, and that of the weights.
MODEL = ModelConfig(name="serial_test", image_size=32, patch=16, width=32, depth=1, heads=2,
                    hidden=32, classes=5)


@pytest.fixture(scope="module")
def network():
    qvit = quantized(MODEL, None)
    program = lower(qvit, named("nano"))
    settings = SerialSettings(
        config=program.config, model_base=0x20_0000, model_bytes=len(program.image),
        frame_bytes=program.frame_bytes, classes=MODEL.classes, clock_hz=50_000_000,
        baud=6_250_000, silence_ms=0.5)
    return qvit, program, settings


@pytest.fixture(scope="module")
def frames():
    return calibration_frames(MODEL.image_size)


def check(answer, qvit, frame):
    logits, top_class, _ = integer.run(qvit, frame)
    assert (answer.code, answer.core_error) == (Code.OK, Error.NONE)
    assert np.array_equal(answer.logits, logits)
    assert (answer.top_class, answer.tokens) == (top_class, MODEL.tokens)


@pytest.mark.parametrize("rate", [0.98, 1.02])
def test_frames_over_a_line_of_another_rate(rate, network, frames):
    qvit, program, settings = network
    with SimulatedLine(settings, program.image, bit=8 * rate) as line:
        host = SerialHost(line, MODEL.classes)
        for frame in frames[:2]:
            check(host.classify(frame.tobytes()), qvit, frame)


@pytest.mark.parametrize(("change", "code", "error"), [
    (lambda text: text[:500] + bytes([text[500] ^ 1]) + text[501:], Code.CHECKSUM, Error.NONE),
    (lambda text: text[:2000], Code.TIMEOUT, Error.BUS_READ),
    (lambda text: text[:6], Code.TIMEOUT, Error.NONE),
    (lambda text: text[:-2], Code.TIMEOUT, Error.NONE),
    (lambda text: text[:5] + b"\x0d" + text[6:], Code.LENGTH, Error.NONE),
], ids=["checksum", "frame cut off", "length cut off", "checksum cut off", "length"])
def test_a_broken_request_has_its_answer_and_the_next_one_works(change, code, error, network,
                                                                frames):
    qvit, program, settings = network
    with SimulatedLine(settings, program.image) as line:
        host = SerialHost(line, MODEL.classes)
        line.write(change(request(frames[0].tobytes())))
        answer = host.answer()
        assert (answer.code, answer.core_error) == (code, error) and len(answer.logits) == 0
        check(host.classify(frames[1].tobytes()), qvit, frames[1])


def test_a_flash_without_a_model(network, frames):
    _, program, settings = network
    with SimulatedLine(settings, bytes(len(program.image))) as line:
        host = SerialHost(line, MODEL.classes)
        for _ in range(2):
            answer = host.classify(frames[0].tobytes())
            assert (answer.code, answer.core_error) == (Code.CORE, Error.BAD_MAGIC)


def test_lint(network, tmp_path):
    settings = network[2]
    path = tmp_path / "board.v"
    path.write_text(emit(SerialBoard(settings), name="serial_board")
                    + emitted(settings.config).read_text())
    assert lint(path, top="serial_board") == ""


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_twenty_scenes(capsys):
    """Through the network that the ULX3S is built with, on its configuration."""
    assert main(["--scenes", "20"]) == 0
    assert "20 of 20 right, 20 of 20 equal to the golden model" in capsys.readouterr().out
