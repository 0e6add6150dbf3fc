# SPDX-License-Identifier: BSD-2-Clause
"""The accelerator behind its registers: models, runs, answers, counters."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .errors import HeatViTError
from .interface import INTERFACE, NUMBERS, address, field
from .model import ModelFile

__all__ = ["Counters", "HeatViT", "Result", "Selection"]

_PAGE = NUMBERS["PAGE_BYTES"]
#: Words at the end of an output: top class, its logit, cycle, tokens.
_TOP_WORDS = NUMBERS["OUTPUT_TOP_BYTES"] // 4
#: Seconds that a reset takes at most, unless told otherwise.
_RESET = 1.0
#: Seconds that a run takes at most, unless told otherwise.
_TIMEOUT = 10.0
#: What of LIMITS2 changes no program: the depth of the weight FIFO.
_NO_MATTER = ("weight_tiles",)
_IDENTITY = {"config": "CONFIG", "limits0": "LIMITS0", "limits1": "LIMITS1", "limits2": "LIMITS2",
             "limits3": "LIMITS3"}
_LIMITS = {"tokens": "max_tokens", "width": "max_width", "hidden": "max_hidden",
           "patch": "max_patch", "classes": "max_classes"}


@dataclass(frozen=True)
class Result:
    """The answer for an image.

    Members
    -------
    logits, top_class, top_logit
        The answer, integers.
    tokens
        That were left.
    cycle
        From the start of the run to the last logit.
    values
        Logits as real numbers.
    """

    logits: Any
    top_class: int
    top_logit: int
    tokens: int
    cycle: int
    values: Any


@dataclass(frozen=True)
class Selection:
    """What a selector left of an image: tokens of all kinds, patches, and which ones."""

    tokens: int
    patches: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Counters:
    """Counters of a run: cycles, of which the issue stage spent some in each of ``stalls``."""

    cycles: int
    stalls: dict[str, int]
    bytes_read: int
    bytes_written: int
    images_done: int


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class HeatViT:
    """A core. Opening it sees that it is there and of the version of this driver.

    Use it in a ``with`` statement, or call ``close``. What goes wrong raises HeatViTError.

    Parameters
    ----------
    mmio
        Has ``read(offset)`` and ``write(offset, value)``, as ``pynq.MMIO`` and IP of an overlay.
    allocate
        ``allocate(shape=..., dtype=...)`` gives an array with ``device_address``, ``flush``,
        ``invalidate`` and ``freebuffer``, as ``pynq.allocate``.
    interrupt
        Waits so many seconds for the interrupt, and says whether it came; None to poll.
    clock, pause
        Give the time in seconds, and let some pass between two polls.
    """

    def __init__(self, mmio: Any, allocate: Callable[..., Any], *,
                 interrupt: Callable[[float], bool] | None = None,
                 clock: Callable[[], float] = time.monotonic,
                 pause: Callable[[], None] = lambda: time.sleep(20e-6)) -> None:
        self._mmio, self._allocate, self._interrupt = mmio, allocate, interrupt
        self._clock, self._pause = clock, pause
        self._model: ModelFile | None = None
        self._buffers: list[Any] = []
        self._running = False
        self._images = self._capacity = 0
        version = self._read("VERSION")
        # A bus without an answer reads as zeros or ones.
        if version in (0, 0xFFFFFFFF):
            raise HeatViTError("NO_CORE")
        if version != NUMBERS["ISA_VERSION"]:
            raise HeatViTError("VERSION", f"version {version}, must be {NUMBERS['ISA_VERSION']}")
        self.sizes = {name: field(register, name, self._read(register))
                      for register in _IDENTITY.values()
                      for name in INTERFACE["registers"][register]["fields"]}
        self._write("GIE", 0)
        if not self._flag("CTRL", "ap_idle"):
            self.reset()

    def __enter__(self) -> HeatViT:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    # Registers

    def _read(self, register: str, word: int = 0) -> int:
        return int(self._mmio.read(address(register, word)))

    def _write(self, register: str, value: int) -> None:
        for word in range(INTERFACE["registers"][register]["words"]):
            self._mmio.write(address(register, word), value >> 32 * word & 0xFFFFFFFF)

    def _flag(self, register: str, name: str) -> bool:
        return bool(field(register, name, self._read(register)))

    def _acknowledge(self) -> None:
        """Clear ISR: writing a one toggles a bit, so only those that are set are written."""
        self._write("ISR", self._read("ISR"))

    # Models

    @property
    def model(self) -> ModelFile:
        """The model that is loaded."""
        if self._model is None:
            raise HeatViTError("NO_MODEL")
        return self._model

    def check(self, model: ModelFile) -> None:
        """Raise HeatViTError unless the core can run a model."""
        need = model.fields
        if need["version"] != self._read("VERSION"):
            raise HeatViTError("MODEL_VERSION", f"version {need['version']}, must be"
                                                f" {self._read('VERSION')}")
        for name, limit in _LIMITS.items():
            if need[name] > self.sizes[limit]:
                raise HeatViTError("MODEL_LIMIT", f"{name} {need[name]}, must be at most"
                                                  f" {self.sizes[limit]}")
        for word, register in _IDENTITY.items():
            for name in INTERFACE["registers"][register]["fields"]:
                made_for = field(register, name, need[word])
                if made_for != self.sizes[name] and name not in _NO_MATTER:
                    raise HeatViTError("MODEL_CONFIG", f"{name} {made_for}, must be"
                                                       f" {self.sizes[name]}")

    def load(self, source: str | Path | bytes | ModelFile, images: int = 0) -> ModelFile:
        """Check a model file and copy it to memory, with room for as many images.

        They are those of a round if ``images`` is 0.
        """
        model = source if isinstance(source, ModelFile) else ModelFile(source)
        if self._running:
            raise HeatViTError("BUSY")
        self.check(model)
        in_round = model.fields["images"]
        images = images or in_round
        if images % in_round:
            raise HeatViTError("IMAGES", f"images {images}, must be a multiple of {in_round}")
        self._free()
        self._frame_stride = _round_up(model.fields["frame_bytes"],
                                       NUMBERS["FRAME_ALIGN"])
        self._output_stride = _round_up(model.fields["output_bytes"], _PAGE)
        for size in (len(model.image), images * self._frame_stride, images * self._output_stride):
            self._buffers.append(self._allocate(shape=(_round_up(size, _PAGE),), dtype=np.uint8))
            if self._buffers[-1].device_address % _PAGE:
                self._free()
                raise HeatViTError("ALIGNMENT")
        place, _, outputs = self._buffers
        place[:len(model.image)] = np.frombuffer(model.image, np.uint8)
        place.flush()
        # No line that somebody wrote before may fall on an output later.
        outputs[:] = 0
        outputs.flush()
        self._model, self._capacity, self._images = model, images, 0
        return model

    def _free(self) -> None:
        for buffer in self._buffers:
            buffer.freebuffer()
        self._buffers, self._model = [], None

    # Runs

    def start(self, frames: Sequence[Any]) -> None:
        """Start a run over frames, each bytes or an array of bytes: lines of RGB pixels."""
        model, count = self.model, len(frames)
        frame_bytes, in_round = model.fields["frame_bytes"], model.fields["images"]
        if self._running or not self._flag("CTRL", "ap_idle"):
            raise HeatViTError("BUSY")
        if count == 0 or count % in_round:
            raise HeatViTError("IMAGES", f"images {count}, must be a multiple of {in_round}")
        if count > self._capacity:
            raise HeatViTError("IMAGES", f"images {count}, must be at most {self._capacity}")
        image, place, outputs = self._buffers
        for i, frame in enumerate(frames):
            pixels = np.frombuffer(frame, np.uint8) if isinstance(frame, bytes) else (
                np.ascontiguousarray(frame, np.uint8).reshape(-1))
            if len(pixels) != frame_bytes:
                raise ValueError(f"frame {i} has {len(pixels)} bytes, must have {frame_bytes}")
            place[i * self._frame_stride:i * self._frame_stride + frame_bytes] = pixels
        place.flush()
        last = count - 1
        for register, value in (
            ("MODEL_ADDR", image.device_address), ("FRAME_ADDR", place.device_address),
            ("OUTPUT_ADDR", outputs.device_address), ("MODEL_BYTES", len(model.image)),
            ("FRAME_BYTES", last * self._frame_stride + frame_bytes),
            ("OUTPUT_BYTES", last * self._output_stride + model.fields["output_bytes"]),
            ("ROUNDS", count // in_round), ("FRAME_STRIDE", self._frame_stride),
            ("OUTPUT_STRIDE", self._output_stride),
        ):
            self._write(register, value)
        # What is left of an earlier run must not end this one.
        self._acknowledge()
        self._write("IER", int(self._interrupt is not None))
        self._write("GIE", int(self._interrupt is not None))
        self._running, self._images = True, count
        self._write("CTRL", 1)

    def _ended(self, timeout: float) -> tuple[bool, bool]:
        """Wait for the end; return whether it came, and whether the interrupt did."""
        start, interrupted = self._clock(), self._interrupt is None
        while True:
            left = timeout - (self._clock() - start)
            if self._interrupt is not None and left > 0 and self._interrupt(left):
                self._acknowledge()
                interrupted = True
            # The time was read before: a run that ended in time is never late.
            if self._flag("CTRL", "ap_done"):
                return True, interrupted
            if left <= 0:
                return False, interrupted
            if self._interrupt is None:
                self._pause()

    def wait(self, timeout: float = _TIMEOUT) -> list[Result]:
        """Wait for the end of a run and return the answers; after TIMEOUT the run goes on."""
        if not self._running:
            raise HeatViTError("NOT_RUNNING")
        ended, interrupted = self._ended(timeout)
        if not ended:
            raise HeatViTError("TIMEOUT", f"images done {self._read('IMAGES_DONE')}, must be"
                                          f" {self._images}")
        self._running = False
        self._buffers[2].invalidate()
        error = self._read("ERROR")
        if error:
            # What is in the registers is of earlier runs, or a part.
            self._images = 0
            raise HeatViTError(error, f"instruction {self._read('ERROR_INDEX')}")
        if not interrupted:
            raise HeatViTError("INTERRUPT")
        return [self._result(i) for i in range(self._images)]

    def run(self, frames: Sequence[Any], timeout: float = _TIMEOUT) -> list[Result]:
        """Run frames, a multiple of the images in a round; return their answers."""
        self.start(frames)
        return self.wait(timeout)

    def _result(self, image: int) -> Result:
        model, start = self.model, image * self._output_stride
        raw = bytes(self._buffers[2][start:start + model.fields["output_bytes"]])
        words = np.frombuffer(raw, "<i4")
        top_class, top_logit, cycle, tokens = (int(word) for word in words[-_TOP_WORDS:])
        logits = words[:model.fields["classes"]].copy()
        return Result(logits, top_class, top_logit, tokens, cycle & 0xFFFFFFFF,
                      logits * model.logit_step)

    def self_test(self, timeout: float = _TIMEOUT) -> Result:
        """Run the sample of the model in all images of a round and compare the answers."""
        model = self.model
        results = self.run([model.sample] * model.fields["images"], timeout)
        *logits, top_class, tokens = model.expected
        for result in results:
            wrong = np.flatnonzero(result.logits != np.array(logits))
            if len(wrong):
                raise HeatViTError("SELF_TEST", f"first wrong logit {wrong[0]}")
            for name, found, right in (("top class", result.top_class, top_class),
                                       ("tokens", result.tokens, tokens)):
                if found != right:
                    raise HeatViTError("SELF_TEST", f"{name} {found}, must be {right}")
        return results[0]

    def selection(self, selector: int, image: int = -1) -> Selection:
        """Return what a selector left of an image of the last round.

        Images are counted in the run; -1 is the last one. NO_ANSWER if no run has ended since
        the model was loaded or the core was reset, or if the last one ended with an error of the
        core.
        """
        need = self.model.fields
        if self._running:
            raise HeatViTError("BUSY")
        if not self._images:
            raise HeatViTError("NO_ANSWER")
        if not 0 <= selector < need["selectors"]:
            raise HeatViTError("ARGUMENT", f"selector {selector}, must be below"
                                           f" {need['selectors']}")
        image = self._images - 1 if image == -1 else image
        if not max(0, self._images - need["images"]) <= image < self._images:
            raise HeatViTError("ARGUMENT", f"image {image}, must be one of the last"
                                           f" {need['images']} of {self._images}")
        turn, place = divmod(image, need["images"])
        value = self._read(f"SELECTOR_{selector}", place)
        row = need[f"first_row{place}"] + need["special"] + need["row_step"] * (turn % 2)
        in_word, bits = NUMBERS["DROPPED_ROWS"], NUMBERS["DROPPED_BITS"]
        words = {at: self._read("DROPPED", at)
                 for at in range(row // in_word, (row + need["patches"] - 1) // in_word + 1)}
        kept = tuple(
            patch for patch in range(need["patches"])
            if (words[(row + patch) // in_word] >> bits * ((row + patch) % in_word)
                & ((1 << bits) - 1)) > selector)
        return Selection(field(f"SELECTOR_{selector}", "tokens", value),
                         field(f"SELECTOR_{selector}", "patches", value), kept)

    def counters(self) -> Counters:
        """Return the counters of the last run; they are valid after errors, too."""
        return Counters(
            cycles=self._read("CYCLES") | self._read("CYCLES", 1) << 32,
            stalls={cause: self._read(f"STALL_{cause}") for cause in INTERFACE["stalls"]},
            bytes_read=self._read("BYTES_READ"), bytes_written=self._read("BYTES_WRITTEN"),
            images_done=self._read("IMAGES_DONE"))

    def reset(self, timeout: float = _RESET) -> None:
        """End a run, if there is one, and leave the core idle. The model stays loaded."""
        self._write("GIE", 0)
        self._write("SOFT_RESET", 1)
        start, late = self._clock(), False
        while self._flag("SOFT_RESET", "reset"):
            if late:
                raise HeatViTError("RESET")
            late = self._clock() - start >= timeout
            self._pause()
        self._running, self._images = False, 0
        self._read("CTRL")
        self._acknowledge()

    def watchdog(self, cycles: int) -> None:
        """Set the cycles without progress after which the core ends a run with an error.

        It is ``2**20`` after a reset of the hardware.
        """
        if self._running or not self._flag("CTRL", "ap_idle"):
            raise HeatViTError("BUSY")
        self._write("TIMEOUT", cycles)

    def close(self) -> None:
        """Leave the core idle and silent, and free the memory."""
        self._write("GIE", 0)
        # Memory that the core may still write stays where it is.
        if self._running:
            self.reset()
        self._free()
