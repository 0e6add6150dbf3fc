# SPDX-License-Identifier: BSD-2-Clause
"""The accelerator behind its registers: places a model, starts images, reads status and result."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from golden.interpreter_selector import NEVER
from rtl.isa import Error, Stall
from rtl.logits import OUTPUT_TOP_BYTES, output_bytes
from rtl.registers import DROPPED_BITS, DROPPED_ROWS, WORD_BYTES, register
from sim.session import Session

__all__ = ["FRAME_BASE", "MODEL_BASE", "OUTPUT_BASE", "Device", "Result", "Selections",
           "Status"]

#: Where things are in memory; above 4 GiB, so that all address bits matter.
MODEL_BASE = 0x12_0000_0000
FRAME_BASE = 0x13_8000_0000
OUTPUT_BASE = 0x25_4000_0000

#: Alignment of an output.
_OUTPUT_ALIGN = 4096


@dataclass(frozen=True)
class Status:
    """Registers at the end of a run."""

    cycles: int
    stalls: dict[str, int]
    error: Error
    error_index: int
    top_class: int
    tokens: int
    bytes_read: int
    bytes_written: int
    images_done: int


@dataclass(frozen=True)
class Result:
    """What an image left in memory.

    Members
    -------
    logits, top_class, top_logit
        The answer.
    tokens
        That were left.
    cycle
        From the start of the run to the last logit, modulo ``2**32``.
    """

    logits: np.ndarray
    top_class: int
    top_logit: int
    tokens: int
    cycle: int = 0

    @classmethod
    def decode(cls, output: bytes, classes: int) -> "Result":
        """Return the result in the bytes at the output address."""
        words = np.frombuffer(output, "<i4")
        top = words[-OUTPUT_TOP_BYTES // 4:]
        return cls(words[:classes].copy(), int(top[0]), int(top[1]), tokens=int(top[3]),
                   cycle=int(top[2]) & 0xFFFFFFFF)


@dataclass(frozen=True)
class Selections:
    """What the token selectors did with the last image, as their registers show it.

    Members
    -------
    tokens, patches
        After each selector: tokens, and patches among them.
    dropped
        For each of its rows the selector that dropped it, ``NEVER`` if none did.
    """

    tokens: tuple[int, ...]
    patches: tuple[int, ...]
    dropped: np.ndarray

    def kept(self, selector: int, special: int) -> tuple[int, ...]:
        """Return the places in the image of the patches that are left after a selector.

        ``special`` are the tokens before the patches.
        """
        return tuple(int(place) for place in np.flatnonzero(self.dropped[special:] > selector))


@dataclass
class Device:
    """Writes the commands that run images on ``session``, and reads the answers.

    Parameters
    ----------
    session
        Commands go here.
    classes
        Logits of the model.
    port_bytes
        Bytes of one beat of a memory port: no window ends within a beat.
    """

    session: Session
    classes: int
    port_bytes: int
    _tags: int = field(default=0, init=False)

    def write(self, name: str, value: int) -> None:
        """Write a register, all of its words."""
        for i, offset in enumerate(register(name).words):
            self.session.write(offset, value >> (8 * WORD_BYTES * i) & 0xFFFFFFFF)

    def read(self, name: str, tag: str = "") -> Callable[[], int]:
        """Read a register; the returned function gives its value after the run."""
        words = [(offset, f"{tag}{name}.{i}") for i, offset in enumerate(register(name).words)]
        for offset, key in words:
            self.session.read(offset, key)
        values = self.session.values
        return lambda: sum(values[key] << (8 * WORD_BYTES * i) for i, (_, key) in enumerate(words))

    def place(self, model: bytes, *frames: bytes, batch: int = 1) -> None:
        """Declare the memory, load model and frames, set the argument registers.

        A run processes all the frames, ``batch`` in a round.
        """
        self.images, self.rounds = len(frames), len(frames) // batch
        self.frame_stride = -(-len(frames[0]) // self.port_bytes) * self.port_bytes
        self.session.memory(MODEL_BASE, -(-len(model) // self.port_bytes) * self.port_bytes)
        self.session.load(model, MODEL_BASE)
        self.session.memory(FRAME_BASE, self.images * self.frame_stride)
        for i, contents in enumerate(frames):
            self.session.load(contents, FRAME_BASE + i * self.frame_stride)
        # A window each: what is written between them is a fault.
        for base in self._outputs:
            self.session.memory(base, output_bytes(self.classes), writable=True)
        self.arguments(model_bytes=len(model),
                       frame_bytes=(self.images - 1) * self.frame_stride + len(frames[-1]))

    @property
    def _output_stride(self) -> int:
        return -(-output_bytes(self.classes) // _OUTPUT_ALIGN) * _OUTPUT_ALIGN

    @property
    def _outputs(self) -> range:
        """Addresses of the outputs."""
        stride = self._output_stride
        return range(OUTPUT_BASE, OUTPUT_BASE + self.images * stride, stride)

    def frame(self, contents: bytes) -> None:
        """Put another frame where the first one was."""
        self.session.load(contents, FRAME_BASE)

    def arguments(self, *, model_bytes: int, frame_bytes: int) -> None:
        """Set the argument registers and enable the interrupt."""
        window = self._outputs[-1] - OUTPUT_BASE + output_bytes(self.classes)
        for name, value in (("MODEL_ADDR", MODEL_BASE), ("FRAME_ADDR", FRAME_BASE),
                            ("OUTPUT_ADDR", OUTPUT_BASE), ("MODEL_BYTES", model_bytes),
                            ("FRAME_BYTES", frame_bytes), ("OUTPUT_BYTES", window),
                            ("ROUNDS", self.rounds), ("FRAME_STRIDE", self.frame_stride),
                            ("OUTPUT_STRIDE", self._output_stride), ("GIE", 1), ("IER", 1)):
            self.write(name, value)

    def start(self) -> None:
        """Poison the outputs and start a run: the write of CTRL is its first access."""
        for base in self._outputs:
            self.session.fill(base, output_bytes(self.classes), 0xA5)
        self.session.clear()
        self.write("CTRL", 1)

    def selections(self, selectors: int, rows: int, *, image: int = 0,
                   first_row: int = 0) -> Callable[[], Selections]:
        """Read what ``selectors`` selectors did with an image of the last round.

        After :meth:`finish`; returns a function that gives it after the run.

        Parameters
        ----------
        selectors
            How many there are.
        rows, first_row
            Rows of the image in the residual, and the first of them.
        image
            Which one of the round.
        """
        tag = f"run{self._tags}."
        counts = [self.read(f"SELECTOR_{i}", tag) for i in range(selectors)]
        start, low = divmod(first_row, DROPPED_ROWS)
        words = register("DROPPED").words[start:-(-(first_row + rows) // DROPPED_ROWS)]
        keys = [f"{tag}{offset:#x}" for offset in words]
        for offset, key in zip(words, keys, strict=True):
            self.session.read(offset, key)
        fields = {field.name: field for field in register("SELECTOR_0").fields}

        def value(word: int, name: str) -> int:
            return (word >> (8 * WORD_BYTES * image) & fields[name].mask) >> fields[name].low

        def selections() -> Selections:
            packed = np.array([self.session.values[key] for key in keys], np.int64)
            nibbles = packed[:, None] >> DROPPED_BITS * np.arange(DROPPED_ROWS) & NEVER
            return Selections(tuple(value(count(), "tokens") for count in counts),
                              tuple(value(count(), "patches") for count in counts),
                              nibbles.reshape(-1)[low:low + rows])

        return selections

    def soft_reset(self, cycles: int = 2000) -> None:
        """Reset the core through its register, and give it time to bring its ports to rest."""
        self.write("SOFT_RESET", 1)
        self.session.wait(cycles)
        self.session.quiet()

    def finish(self, limit: int) -> tuple[Callable[[], Status], Callable[[], list[Result]]]:
        """Wait for the interrupt, acknowledge it, keep status and outputs.

        Returns functions that give them after the run, an output of each image.
        """
        self._tags += 1
        tag = f"run{self._tags}."
        self.session.interrupt(limit)
        self.session.count(tag)
        self.session.quiet()
        self.write("ISR", 1)
        for i, base in enumerate(self._outputs):
            self.session.dump(f"{tag}output{i}", base, output_bytes(self.classes))
        names = ("CYCLES", "ERROR", "ERROR_INDEX", "TOP_CLASS", "TOKENS", "BYTES_READ",
                 "BYTES_WRITTEN", "IMAGES_DONE")
        reads = {name: self.read(name, tag) for name in names}
        stalls = {cause.lower(): self.read(f"STALL_{cause}", tag) for cause in Stall.__members__}

        def status() -> Status:
            values = {name: read() for name, read in reads.items()}
            return Status(
                cycles=values["CYCLES"], stalls={name: read() for name, read in stalls.items()},
                error=Error(values["ERROR"]), error_index=values["ERROR_INDEX"],
                top_class=values["TOP_CLASS"], tokens=values["TOKENS"],
                bytes_read=values["BYTES_READ"], bytes_written=values["BYTES_WRITTEN"],
                images_done=values["IMAGES_DONE"])

        def results() -> list[Result]:
            return [Result.decode(self.session.dumped(f"{tag}output{i}"), self.classes)
                    for i in range(self.images)]

        return status, results
