# SPDX-License-Identifier: BSD-2-Clause
"""Runs fuzzed programs and schedules on the simulated accelerator, and judges what they did."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from golden.interpreter import execute_run
from golden.program import sealed
from rtl.config import Config
from rtl.isa import Error, Stall
from rtl.registers import register
from sim.device import FRAME_BASE, MODEL_BASE, OUTPUT_BASE, Device, Result, output_bytes
from sim.fuzz_programs import Change, Draft, longest_cycles, number_changes, random_changes
from sim.fuzz_schedules import Outcome, Step, random_steps
from sim.fuzz_subjects import Subject
from sim.session import Session, SimulationFault

__all__ = ["PATIENCE", "Case", "Fuzzer", "Verdict"]

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

#: Cycles that no run takes under any schedule that does not reset the core.
_LIMIT = 1_000_000

#: Cases in one simulation.
_BATCH = 50

#: Bytes per cycle in sixteenths, latency, stalls, jitter, bursts: the bus, but under a schedule.
_BUS = (1024, 20, 0, 1, 16)

_OUTPUT_STRIDE = 4096
_POISON = 0xA5

#: Registers of the windows that the core has been given.
_WINDOWS = tuple((register(base).offset, register(size).offset, writable)
                 for base, size, writable in (("MODEL_ADDR", "MODEL_BYTES", False),
                                              ("FRAME_ADDR", "FRAME_BYTES", False),
                                              ("OUTPUT_ADDR", "OUTPUT_BYTES", True)))
#: Responses to errors, as of steps.
_RESPONSES = {0: "okay", 2: "slverr", 3: "decerr", 4: "silent"}
_DONE = 1 << 1


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
            runs = [execute_run(image, config, frames, seed=seed)[0].outputs for seed in _SEEDS]
        except ValueError:
            return None
        if any(not np.array_equal(one.logits, other.logits) or one.tokens != other.tokens
               for run in runs[1:] for one, other in zip(runs[0], run, strict=True)):
            return None
        return tuple(Result(np.asarray(output.logits, np.int32), output.top1,
                            int(output.logits[output.top1]), output.tokens) for output in runs[0])

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


@dataclass(frozen=True)
class Verdict:
    """What came of a case.

    Members
    -------
    case
        The case.
    error
        That its last run ended with; None if the simulation did not get so far.
    problem
        What is wrong, empty if nothing is.
    compared
        Whether the result was compared with what the golden interpreter computes.
    """

    case: Case
    error: Error | None
    problem: str
    compared: bool = False


#: What is seen after a run: the values of registers, and the memory of the outputs.
_Seen = Callable[[], tuple[dict[str, int], bytes]]


class Fuzzer:
    """Makes cases, and runs them.

    Parameters
    ----------
    program
        Executable of the simulation.
    config
        What it simulates.
    subjects
        Programs to be fuzzed.
    """

    def __init__(self, program: Path, config: Config, subjects: Sequence[Subject]) -> None:
        self.program, self.config, self.subjects = program, config, tuple(subjects)
        self._beat = config.port_bits // 8
        self._outputs = _OUTPUT_STRIDE * max(len(s.frames) for s in subjects)

    def case(self, seed: int, name: str) -> Case:
        """Return the case of a name, always the same one."""
        random = np.random.default_rng([seed, ord(name[0]), int(name[1:])])
        subject = self.subjects[int(random.integers(len(self.subjects)))]
        reset = bool(random.integers(2))
        if name[0] == "s":
            steps, outcome = random_steps(random, subject, PATIENCE)
            return Case(name, subject, outcome, steps, reset=reset or outcome == Outcome.ANY)
        run = (Step("start"), Step("idle"))
        if random.random() < _NUMBERS:
            return Case(name, subject, Outcome.END, run, number_changes(random, subject),
                        numbers=True, reset=reset)
        while True:
            case = Case(name, subject, Outcome.END, run,
                        random_changes(random, subject, self.subjects),
                        self._other_arguments(random, subject),
                        sealed=random.random() < _SEALED, reset=reset)
            if longest_cycles(case.image, self.config) <= _LONGEST:
                return case

    def run(self, cases: Sequence[Case], done: Callable[[Verdict], None]) -> None:
        """Run cases, and give the verdict on each as soon as there is one."""
        left = list(cases)
        while left:
            left = left[self._batch(left[:_BATCH], done):]

    def verdict(self, case: Case) -> Verdict:
        """Return the verdict on one case."""
        verdicts: list[Verdict] = []
        self.run([case], verdicts.append)
        return verdicts[0]

    def smallest(self, case: Case, tries: int = 60) -> Case:
        """Return a case with a problem, of which no part can be left out without losing it.

        After ``tries`` runs there may be such parts.
        """
        parts = case.smaller()
        while (smaller := next(parts, None)) is not None and tries > 0:
            tries -= 1
            if self.verdict(smaller).problem:
                case, parts = smaller, smaller.smaller()
        return case

    def _arguments(self, subject: Subject) -> dict[str, int]:
        """Return the arguments of a run that is right."""
        frame, images = subject.program.frame_bytes, len(subject.frames)
        return {"MODEL_ADDR": MODEL_BASE, "FRAME_ADDR": FRAME_BASE, "OUTPUT_ADDR": OUTPUT_BASE,
                "MODEL_BYTES": len(subject.program.image), "FRAME_BYTES": frame * images,
                "OUTPUT_BYTES": _OUTPUT_STRIDE * (images - 1) + output_bytes(subject.classes),
                "ROUNDS": 1, "FRAME_STRIDE": frame, "OUTPUT_STRIDE": _OUTPUT_STRIDE,
                "TIMEOUT": PATIENCE}

    def _other_arguments(self, random: np.random.Generator, subject: Subject
                         ) -> tuple[tuple[str, int], ...]:
        """Return a window that is too small, an address or stride that is not right, rounds."""
        if random.random() < 0.85:
            return ()
        arguments = self._arguments(subject)
        name = str(random.choice([name for name in arguments if name != "TIMEOUT"]))
        if name == "ROUNDS":
            return ((name, int(random.integers(2, 4))),)
        if name.endswith("_BYTES"):
            return ((name, int(random.integers(arguments[name]))),)
        return ((name, arguments[name] + int(random.integers(-16, 16))),)

    def _batch(self, cases: Sequence[Case], done: Callable[[Verdict], None]) -> int:
        """Run cases in one simulation, up to the first that ends it; return how many those are."""
        ended = 0
        with Session(self.program) as session:
            session.memory(MODEL_BASE, max(-(-len(s.program.image) // self._beat) * self._beat
                                           for s in self.subjects))
            session.memory(FRAME_BASE, max(sum(frame.nbytes for frame in s.frames)
                                           for s in self.subjects))
            session.memory(OUTPUT_BASE, self._outputs, writable=True)
            session.outside("decerr")
            self._bus(session, _BUS)
            for case in cases:
                judge = self._write(session, case)

                def end(judge: Callable[[], Verdict] = judge) -> None:
                    nonlocal ended
                    ended += 1
                    done(judge())

                session.call(end)
            try:
                session.run()
            except SimulationFault as fault:
                done(Verdict(cases[ended], None, str(fault)))
                ended += 1
        return ended

    def _bus(self, session: Session, settings: Sequence[int]) -> None:
        speed, latency, stalls, jitter, outstanding = settings
        session.bus(bytes_per_cycle=speed / 16, latency=latency, stalls=stalls)
        session.jitter(jitter)
        session.outstanding(outstanding)

    def _write(self, session: Session, case: Case) -> Callable[[], Verdict]:
        """Write the commands of a case; return what gives the verdict after them."""
        subject, outcome = case.subject, case.outcome
        results = case.computed(self.config) if case.numbers else None
        if results is not None:
            outcome = Outcome.RIGHT
        device = Device(session, subject.classes, self._beat)
        session.load(case.image, MODEL_BASE)
        for i, frame in enumerate(subject.frames):
            session.load(frame.tobytes(), FRAME_BASE + i * frame.nbytes)
        limit = _LIMIT
        if case.outcome == Outcome.END:
            limit = 4 * (longest_cycles(case.image, self.config) + PATIENCE) * dict(
                case.arguments).get("ROUNDS", 1)
        self._prepare(session, device, self._arguments(subject) | dict(case.arguments))
        seen = []
        for i, step in enumerate(case.steps):
            self._step(session, step, f"{case.name}.{i}", limit)
            if step.kind == "idle":
                seen.append(self._look(session, device, f"{case.name}.{i}."))
        self._bus(session, _BUS)
        for step in case.steps:
            if step.kind == "error":
                session.error(step.arguments[0], "okay")
        if case.reset:
            device.write("SOFT_RESET", 1)
            session.poll(register("SOFT_RESET").offset, 1, 0, limit)
        self._step(session, Step("idle"), case.name, limit)

        # The next image
        session.load(subject.program.image, MODEL_BASE)
        self._prepare(session, device, self._arguments(subject))
        self._step(session, Step("start"), case.name, limit)
        session.interrupt(_LIMIT)
        session.quiet()
        after = self._look(session, device, f"{case.name}.next.")

        fuzzed = subject if results is None else replace(subject, results=results)

        def verdict() -> Verdict:
            error, problem = None, ""
            for look in seen:
                error, fault = self._judge(fuzzed, outcome, *look())
                problem = problem or fault
            _, fault = self._judge(subject, Outcome.RIGHT, *after())
            return Verdict(case, error, problem or (fault and f"the next image: {fault}"),
                           compared=results is not None)

        return verdict

    def _prepare(self, session: Session, device: Device, arguments: dict[str, int]) -> None:
        """Have all registers as before a run."""
        session.fill(OUTPUT_BASE, self._outputs, _POISON)
        for name, value in (arguments | {"GIE": 1, "IER": 1}).items():
            device.write(name, value)
        session.echo(register("ISR").offset)
        device.read("CTRL", "before.")  # clears ap_done

    def _step(self, session: Session, step: Step, tag: str, limit: int) -> None:
        """Write the commands of a step."""
        kind, arguments = step.kind, step.arguments
        if kind == "bus":
            self._bus(session, arguments)
        elif kind == "error":
            session.error(arguments[0], _RESPONSES[arguments[1]])
        elif kind == "wait":
            session.wait(arguments[0])
        elif kind == "read":
            session.read(arguments[0], f"{tag}.read")
        elif kind == "write":
            session.write(*arguments)
        elif kind == "both":
            session.both(arguments[0], arguments[1], arguments[2], f"{tag}.read")
        elif kind == "start":
            session.allow(*_WINDOWS)
            session.write(register("CTRL").offset, 1)
        elif kind == "soft reset":
            session.write(register("SOFT_RESET").offset, 1)
        elif kind == "reset":
            session.reset(*arguments)
        else:
            session.poll(register("STATUS").offset, 0b11, 0, limit)
            session.quiet()

    def _look(self, session: Session, device: Device, tag: str) -> _Seen:
        """Read what a run has left; return what gives it after the session."""
        names = ("CTRL", "ERROR", "IMAGES_DONE", "TOP_CLASS", "CYCLES",
                 *(f"STALL_{cause}" for cause in Stall.__members__))
        values = {name: device.read(name, tag) for name in names}
        session.dump(f"{tag}output", OUTPUT_BASE, self._outputs)
        return lambda: ({name: value() for name, value in values.items()},
                        session.dumped(f"{tag}output"))

    def _judge(self, subject: Subject, outcome: Outcome, values: dict[str, int], memory: bytes
               ) -> tuple[Error, str]:
        """Return the error of a run, and what is wrong with it."""
        error = Error(values["ERROR"])
        if outcome == Outcome.ANY:
            return error, ""
        if not values["CTRL"] & _DONE:
            return error, "the core is idle, but the run has not ended"
        stalls = sum(values[f"STALL_{cause}"] for cause in Stall.__members__)
        if stalls != values["CYCLES"]:
            return error, f"the causes of {stalls} cycles are counted, must be {values['CYCLES']}"
        if outcome == Outcome.END or (error != Error.NONE and outcome == Outcome.ERROR):
            return error, ""
        if error != Error.NONE:
            if outcome == Outcome.BUS_ERROR and error in (Error.BUS_READ, Error.BUS_WRITE):
                return error, ""
            return error, f"the error is {error.name}, must be {outcome.value}"
        if values["IMAGES_DONE"] != len(subject.frames):
            return error, (f"{values['IMAGES_DONE']} images are done, must be"
                           f" {len(subject.frames)}")
        return error, subject.problem(values["TOP_CLASS"], memory, _OUTPUT_STRIDE, _POISON)
