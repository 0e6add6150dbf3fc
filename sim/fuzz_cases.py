# SPDX-License-Identifier: BSD-2-Clause
"""Cases: what is done to the accelerator before an image that must be right."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from golden.interpreter import Execution, execute_run
from golden.program import sealed
from rtl.config import Config
from rtl.logits import output_bytes
from sim.device import FRAME_BASE, MODEL_BASE, OUTPUT_BASE, Result
from sim.fuzz_programs import Change, Draft, longest_cycles, number_changes, random_changes
from sim.fuzz_schedules import Outcome, Step, random_steps
from sim.fuzz_subjects import Subject, result_of

__all__ = ["OUTPUT_STRIDE", "PATIENCE", "Case", "random_case", "right_arguments"]

#: Cycles without progress after which the core gives up a run, here.
PATIENCE = 1 << 13

#: Share of programs of which the result is compared with that of the golden interpreter.
_NUMBERS = 0.1

#: Share of other programs that have the right checksum.
_SEALED = 0.97

#: Of what buffers hold at the start, for the golden interpreter: a result that depends on it is not
#: defined.
_SEEDS = (0, 1, 2)

#: Programs that their instructions keep busy for longer than this are drawn anew.
_LONGEST = 500_000

#: Bytes from an output to the next.
OUTPUT_STRIDE = 4096


@dataclass(frozen=True)
class Case:
    """What is done to the accelerator, before it must compute an image as if nothing had been.

    Members
    -------
    name
        ``p`` or ``s`` and its number: a fuzzed program, or a schedule of bus and host.
    subject
        The program that it is made of, which then must run.
    outcome
        What must come of it.
    steps
        What bus and host do.
    changes, arguments
        Of the program, and other values of registers.
    sealed
        Whether the checksum is that of the changed program.
    numbers
        Whether the changes are of numbers: if what they make of the program is defined, that must
        come of it.
    reset
        Whether there is a soft reset before the next image.
    """

    name: str
    subject: Subject
    outcome: Outcome
    steps: tuple[Step, ...]
    changes: tuple[Change, ...] = ()
    arguments: tuple[tuple[str, int], ...] = ()
    sealed: bool = True
    numbers: bool = False
    reset: bool = True

    @property
    def image(self) -> bytes:
        """The memory image."""
        draft = Draft(self.subject)
        for change in self.changes:
            change.apply(draft)
        image = draft.image()
        if not self.sealed:
            return image
        try:
            return sealed(image)
        except ValueError:
            # BEGIN names no number of instructions that is possible.
            return image

    def computed(self, config: Config) -> tuple[Result, ...] | None:
        """Return what the golden interpreter makes of the program; None if that is not defined."""
        image, frames = self.image, self.subject.frames
        try:
            first, *others = (execute_run(image, config, frames, seed=seed)[0] for seed in _SEEDS)
        except ValueError:
            return None
        if any(not _same(first, other) for other in others):
            return None
        return tuple(result_of(output.logits, output.top1, output.tokens)
                     for output in first.outputs)

    @property
    def parts(self) -> list[str]:
        """What it consists of, for people."""
        return [f"program {self.subject.name}", *map(str, self.changes),
                *(f"{name} = {value:#x}" for name, value in self.arguments),
                *([] if self.sealed else ["the checksum is as it was"]),
                *map(str, self.steps), *(["soft reset"] if self.reset else [])]

    def smaller(self) -> Iterator["Case"]:
        """Give the cases that lack one part of this one."""
        for name in ("changes", "arguments", "steps"):
            parts = getattr(self, name)
            for i, part in enumerate(parts):
                # A run that is looked at has begun, and ended.
                if self.outcome == Outcome.ANY or str(part) not in ("start", "idle"):
                    yield replace(self, **{name: parts[:i] + parts[i + 1:]})


def _same(one: Execution, other: Execution) -> bool:
    """Return whether two rounds have the same results, and the same statistics of rows: what one
    of them takes in may be lost again by rounding, with these contents of the buffers.
    """
    return (all(np.array_equal(a.logits, b.logits) and a.tokens == b.tokens
                for a, b in zip(one.outputs, other.outputs, strict=True))
            and all(a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
                    for a, b in zip(one.rows, other.rows, strict=True)))


def right_arguments(subject: Subject) -> dict[str, int]:
    """Return the arguments of a run that is right."""
    frame, images = subject.program.frame_bytes, len(subject.frames)
    return {"MODEL_ADDR": MODEL_BASE, "FRAME_ADDR": FRAME_BASE, "OUTPUT_ADDR": OUTPUT_BASE,
            "MODEL_BYTES": len(subject.program.image), "FRAME_BYTES": frame * images,
            "OUTPUT_BYTES": OUTPUT_STRIDE * (images - 1) + output_bytes(subject.classes),
            "ROUNDS": 1, "FRAME_STRIDE": frame, "OUTPUT_STRIDE": OUTPUT_STRIDE,
            "TIMEOUT": PATIENCE}


def _other_arguments(random: np.random.Generator, right: Mapping[str, int]
                     ) -> tuple[tuple[str, int], ...]:
    """Return a window that is too small, an address or stride that is not right, rounds."""
    if random.random() < 0.85:
        return ()
    name = str(random.choice([name for name in right if name != "TIMEOUT"]))
    if name == "ROUNDS":
        return ((name, int(random.integers(2, 4))),)
    if name.endswith("_BYTES"):
        return ((name, int(random.integers(right[name]))),)
    return ((name, right[name] + int(random.integers(-16, 16))),)


def random_case(seed: int, name: str, subjects: Sequence[Subject], config: Config) -> Case:
    """Return the case of a seed and a name, always the same one."""
    random = np.random.default_rng([seed, ord(name[0]), int(name[1:])])
    subject = subjects[int(random.integers(len(subjects)))]
    reset = bool(random.integers(2))
    if name[0] == "s":
        steps, outcome = random_steps(random, subject, PATIENCE)
        return Case(name, subject, outcome, steps, reset=reset or outcome == Outcome.ANY)
    run = (Step("start"), Step("idle"))
    if random.random() < _NUMBERS:
        return Case(name, subject, Outcome.END, run, number_changes(random, subject),
                    numbers=True, reset=reset)
    while True:
        case = Case(name, subject, Outcome.END, run, random_changes(random, subject, subjects),
                    _other_arguments(random, right_arguments(subject)),
                    sealed=random.random() < _SEALED, reset=reset)
        if longest_cycles(case.image, config) <= _LONGEST:
            return case
