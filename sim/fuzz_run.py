# SPDX-License-Identifier: BSD-2-Clause
"""Runs fuzzed programs and schedules on the simulated accelerator, and judges what they did."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rtl.config import Config
from rtl.isa import Error, Stall
from rtl.registers import register
from sim.device import FRAME_BASE, MODEL_BASE, OUTPUT_BASE, Device
from sim.fuzz_cases import OUTPUT_STRIDE, PATIENCE, Case, random_case, right_arguments
from sim.fuzz_programs import longest_cycles
from sim.fuzz_schedules import Outcome, Step
from sim.fuzz_subjects import Subject
from sim.session import Session, SimulationFault

__all__ = ["Fuzzer", "Verdict"]

#: Cycles that no run takes under any schedule that does not reset the core.
_LIMIT = 1_000_000

#: Cases in one simulation.
_BATCH = 50

#: Bytes per cycle in sixteenths, latency, stalls, jitter, bursts: the bus, but under a schedule.
_BUS = (1024, 20, 0, 1, 16)

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
        self._outputs = OUTPUT_STRIDE * max(len(s.frames) for s in subjects)

    def case(self, seed: int, name: str) -> Case:
        """Return the case of a name, always the same one."""
        return random_case(seed, name, self.subjects, self.config)

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
        return right_arguments(subject)

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
        return error, subject.problem(values["TOP_CLASS"], memory, OUTPUT_STRIDE, _POISON)
