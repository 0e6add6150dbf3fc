# SPDX-License-Identifier: BSD-2-Clause
"""The host of a board with a serial line: sends frames, and reads what they are."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import serial
from numpy.typing import NDArray

from golden import integer
from golden.cli import exit_status, frames
from golden.packed import load
from golden.quantize import QuantizedViT
from golden.scene_set import scene_set
from platforms.serial_frames import (
    ANSWER,
    ANSWER_HEAD,
    Answer,
    Code,
    LineError,
    decode,
    request,
)
from platforms.ulx3s import BAUD, MODEL, packed
from rtl.errors import ERRORS

__all__ = ["Line", "Named", "SerialHost", "classify_all", "explain", "main", "scenes"]

_CRC_BYTES = 4


#: Name, pixels [size, size, 3] and label of a frame; None where nobody knows its class.
Named = tuple[str, NDArray[np.uint8], int | None]


class Line(Protocol):
    """A serial line, as of pyserial: ``read`` returns less than asked for when time is up."""

    def write(self, contents: bytes, /) -> object: ...

    def read(self, size: int, /) -> bytes: ...


class SerialHost:
    """Classifies frames on the board at the other end of ``line``.

    Parameters
    ----------
    line
        The serial line; how long an answer may take is its setting.
    classes
        Logits of the network.
    """

    def __init__(self, line: Line, classes: int) -> None:
        self.line = line
        self.classes = classes

    def classify(self, frame: bytes) -> Answer:
        """Send a frame and return the answer; raise LineError where there is none."""
        self.line.write(request(frame))
        return self.answer()

    def answer(self) -> Answer:
        """Return the answer to a request that was sent."""
        mark = self.line.read(len(ANSWER))
        while mark != ANSWER:
            byte = self.line.read(1)
            if not byte:
                raise LineError("the board does not answer" if not mark else
                                f"what came is no answer: {mark!r}")
            mark = mark[1:] + byte
        head = self._read(ANSWER_HEAD.size)
        size = ANSWER_HEAD.unpack(head)[2]
        return decode(head, self._read(size), self._read(_CRC_BYTES), self.classes)

    def _read(self, size: int) -> bytes:
        contents = self.line.read(size) if size else b""
        if len(contents) < size:
            raise LineError(f"the answer broke off: {size} bytes were to come, {len(contents)}"
                            " came")
        return contents


def classify_all(host: SerialHost, qvit: QuantizedViT, images: Sequence[Named],
                 tell: Callable[[str], None]) -> bool:
    """Classify frames; tell of each, and return whether all are as the golden model says.

    A frame that the board refuses raises LineError.
    """
    tell("| image | label | class | tokens | cycles | logits |\n|---|---:|---:|---:|---:|---|")
    right = equal = 0
    for name, frame, label in images:
        answer = host.classify(frame.tobytes())
        if answer.code != Code.OK:
            raise LineError(f"{name}: {explain(answer)}")
        logits, top_class, _ = integer.run(qvit, frame)
        same = answer.top_class == top_class and np.array_equal(answer.logits, logits)
        right += answer.top_class == label
        equal += same
        tell(f"| {name} | {'-' if label is None else label} | {answer.top_class} |"
             f" {answer.tokens} | {answer.cycles:,} |"
             f" {'as the golden model' if same else 'NOT as the golden model'} |")
    labelled = sum(label is not None for *_, label in images)
    tell(f"\n{f'{right} of {labelled} right, ' if labelled else ''}"
         f"{equal} of {len(images)} equal to the golden model")
    return equal == len(images)


def scenes(qvit: QuantizedViT, count: int) -> list[Named]:
    """Return the first test scenes, with their names and labels."""
    found = scene_set(qvit.model, "test", count)
    return [(f"scene {i}", found.frame(i, qvit.model.image_size), label)
            for i, label in enumerate(found.labels)]


def explain(answer: Answer) -> str:
    """Return a sentence on an answer with an error."""
    return {
        Code.OK: "the frame was classified",
        Code.LENGTH: "the board is made for frames of another size",
        Code.TIMEOUT: "the line was silent within the frame",
        Code.OVERRUN: "the frame came faster than the core took it",
        Code.CHECKSUM: "the frame came with a wrong checksum",
        Code.CORE: f"the core ended with error {answer.core_error.name} at instruction"
                   f" {answer.error_index}: {ERRORS[answer.core_error].sentence}",
    }[answer.code]


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m platforms.serial_host``."""
    parser = argparse.ArgumentParser(prog="python -m platforms.serial_host", description=__doc__)
    parser.add_argument("--port", required=True, help="the serial line, as in /dev/ttyUSB0")
    parser.add_argument("--baud", type=int, default=BAUD,
                        help="its rate, as the board was built for (default: %(default)s)")
    parser.add_argument("--model", default=MODEL,
                        help="the packed model that is on the board (default: %(default)s)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--scenes", type=int, default=20,
                      help="test scenes that are classified (default: %(default)s)")
    what.add_argument("--image", type=Path, nargs="+", metavar="PATH",
                      help="images, or folders of images, that are classified instead")
    parser.add_argument("--timeout", type=float, default=5,
                        help="seconds that an answer may take (default: %(default)s)")
    options = parser.parse_args(arguments)

    def run() -> bool:
        qvit = load(packed(options.model))
        images = scenes(qvit, options.scenes) if options.image is None else [
            (name, frame, None) for name, frame in frames(options.image, qvit.model.image_size)]
        with serial.Serial(options.port, options.baud, timeout=options.timeout) as line:
            return classify_all(SerialHost(line, qvit.model.classes), qvit, images,
                                lambda text: print(text, flush=True))

    return exit_status("serial_host", run)


if __name__ == "__main__":
    sys.exit(main())
