# SPDX-License-Identifier: BSD-2-Clause
"""The host of a serial line, on a line of which the board is a list of bytes."""

import os
import threading
import tty
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from golden import integer
from golden.images import load_image
from golden.packed import load
from golden.scenes import fixed_set
from platforms import serial_host
from platforms.serial_frames import ANSWER, ANSWER_HEAD, Answer, Code, LineError, request
from platforms.serial_host import SerialHost, explain, main
from rtl.isa import Error

SHIPPED = Path(__file__).parent.parent / "models" / "scenes" / "scenes_threshold.hv"


def answer(logits, top, code=Code.OK):
    """Return the bytes of an answer."""
    output = b"" if code else np.array([*logits, *[0] * (-len(logits) % 4), top, 0, 5, 9],
                                       "<i4").tobytes()
    head = ANSWER_HEAD.pack(code, 1 if code == Code.CORE else 0, len(output), 0, 777)
    return ANSWER + head + output + zlib.crc32(head + output).to_bytes(4, "little")


class Line:
    """A line on which ``bytes`` come."""

    def __init__(self, contents):
        self.contents, self.sent = contents, b""

    def write(self, contents):
        self.sent += contents

    def read(self, size):
        part, self.contents = self.contents[:size], self.contents[size:]
        return part


def test_a_frame_is_sent_and_its_answer_returned():
    line = Line(b"\0HV" + answer([1, 9, 3], 1))  # what comes before the mark is passed over
    result = SerialHost(line, 3).classify(b"frame")
    assert line.sent == request(b"frame")
    assert (result.code, result.top_class, result.tokens, result.cycles) == (Code.OK, 1, 9, 777)
    assert result.logits.tolist() == [1, 9, 3]


@pytest.mark.parametrize(("come", "message"), [
    (b"", "the board does not answer"),
    (b"some text", "what came is no answer: b'text'"),
    (answer([1, 9, 3], 1)[:10], "the answer broke off: 12 bytes were to come, 6 came"),
    (answer([1, 9, 3], 1)[:-1], "the answer broke off: 4 bytes were to come, 3 came"),
    (answer([1, 9, 3], 1)[:-1] + b"\0", "the checksum of the answer is wrong")])
def test_faults_of_the_line(come, message):
    with pytest.raises(LineError, match=f"^{message}$"):
        SerialHost(Line(come), 3).classify(b"frame")


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_sentence(code):
    text = explain(Answer(code, Error.BAD_MAGIC, 4, 0, np.zeros(0, np.int32)))
    assert len(text.split()) > 3
    assert ("BAD_MAGIC at instruction 4" in text) == (code == Code.CORE)


def board(wrong, count):
    """Return port and thread of a board behind a pseudo terminal; scene ``wrong`` is wrong."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    qvit, scenes = load(SHIPPED), fixed_set("test", count)
    texts = []
    for i in range(count):
        logits, top, _ = integer.run(qvit, scenes.rgb(i))
        texts.append(answer(logits + (i == wrong), top))
    length = len(request(scenes.rgb(0).tobytes()))

    def serve():
        for text in texts:
            left = length
            while left:
                left -= len(os.read(ours, left))
            os.write(ours, text)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return os.ttyname(theirs), thread, (ours, theirs)


@pytest.mark.parametrize("wrong", [None, 1])
def test_scenes_over_a_port(wrong, capsys):
    port, thread, ends = board(wrong, 2)
    status = main(["--port", port, "--scenes", "2", "--baud", "115200", "--timeout", "20"])
    thread.join()
    for end in ends:
        os.close(end)
    text = capsys.readouterr().out
    assert status == (0 if wrong is None else 1)
    assert f"{2 if wrong is None else 1} of 2 equal to the golden model" in text
    assert ("NOT as the golden model" in text) == (wrong is not None)
    assert "| scene 0 | " in text and "| 777 |" in text and "2 of 2 right, " in text


def test_images_of_ones_own(tmp_path, capsys, monkeypatch):
    Image.fromarray(fixed_set("test", 1).rgb(0)).save(tmp_path / "own.png")
    logits, top, _ = integer.run(load(SHIPPED), load_image(tmp_path / "own.png", 120))

    class Serial(Line):
        def __init__(self, port, baud, timeout):
            super().__init__(answer(logits, top))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(serial_host.serial, "Serial", Serial)
    assert main(["--port", "x", "--image", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert f"own.png | - | {top} | 9 | 777 | as the golden model |" in text
    assert text.endswith("\n1 of 1 equal to the golden model\n")


def test_a_scene_that_the_board_refuses(capsys, monkeypatch):
    class Serial(Line):
        def __init__(self, port, baud, timeout):
            super().__init__(answer([], 0, Code.CORE))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(serial_host.serial, "Serial", Serial)
    assert main(["--port", "x", "--scenes", "1"]) == 2
    assert capsys.readouterr().err == (
        "serial_host: scene 0: the core ended with error BAD_MAGIC at instruction 0: There is no"
        " program at the model address.\n")


def test_a_port_that_is_none(capsys):
    assert main(["--port", "/dev/none", "--scenes", "1"]) == 2
    assert "/dev/none" in capsys.readouterr().err
