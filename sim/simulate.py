# SPDX-License-Identifier: BSD-2-Clause
"""Runs images on the simulated accelerator and compares everything that it writes."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from golden.pruning import Step
from rtl.isa import Error
from sim.compare import Comparison, compare, compare_output, compare_selections
from sim.device import Device, Status
from sim.report import Report, steps_of
from sim.session import Session
from sim.streams import streams
from sim.timeline import Timeline
from sim.trace_decode import read_timeline
from sim.workload import Workload

__all__ = ["PATIENCE", "Bus", "CoreError", "checked", "simulate", "simulate_images"]

#: An image that takes this many times the cycles of the first is given up: it hangs.
PATIENCE = 40


class CoreError(RuntimeError):
    """The core ended an image with an error code."""


@dataclass(frozen=True, kw_only=True)
class Bus:
    """The memory: bytes per cycle of all ports together, cycles to the first data, stalls.

    ``stalls`` is the seed of random stalls on every channel, 0 for none.
    """

    bytes_per_cycle: float = 64
    latency: int = 100
    stalls: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.bytes_per_cycle <= 4096:
            raise ValueError(f"bytes per cycle is {self.bytes_per_cycle:g}, must be between 1 and"
                             " 4096")
        if not 1 <= self.latency <= 100_000:
            raise ValueError(f"latency is {self.latency}, must be between 1 and 100000")
        if not 0 <= self.stalls < 1 << 32:
            raise ValueError(f"the seed of the stalls is {self.stalls}, must be between 0 and"
                             f" {(1 << 32) - 1}")

    def cycles(self, workload: Workload) -> int:
        """Return about how long an image takes: the array or the memory, whichever is slower."""
        moved = len(workload.program.image) + workload.frame.nbytes
        return max(workload.array_cycles, int(moved / self.bytes_per_cycle)) + 50 * self.latency


def checked(status: Status) -> Status:
    """Return the registers of a run that ended well; else raise CoreError."""
    if status.error != Error.NONE:
        raise CoreError(f"the core ended with error {status.error.name} at instruction"
                        f" {status.error_index}")
    return status


def simulate(workload: Workload, program: Path, bus: Bus, *, image: str = "",
             progress: Callable[[int, int], None] = lambda done, cycles: None) -> Report:
    """Run one frame on the executable ``program`` and compare everything it wrote."""
    (report,) = simulate_images([(image, workload)], program, bus, progress=progress)
    return report


def simulate_images(images: Sequence[tuple[str, Workload]], program: Path, bus: Bus, *,
                    progress: Callable[[int, int], None] = lambda done, cycles: None,
                    traced: Callable[[Timeline], None] | None = None) -> list[Report]:
    """Run frames of one network one after another, with one load of its program.

    ``images`` are their names and frames, made of one workload by ``with_frame``. They are
    compared while the next ones run; ``progress`` is told how many are done, and the cycles of
    the one that runs. ``traced``, if any, is given the timeline of every run.
    """
    first = images[0][1]
    classes, port_bytes = first.qvit.model.classes, first.config.port_bits // 8
    reports: list[Report] = []
    # The first image stands for all: on the others the integer twin runs beside the simulation.
    limit = PATIENCE * bus.cycles(first)
    with Session(program) as session:
        device = Device(session, classes, port_bytes)
        session.bus(bytes_per_cycle=bus.bytes_per_cycle, latency=bus.latency, stalls=bus.stalls)
        device.place(first.program.image, first.frame.tobytes())
        for number, (name, workload) in enumerate(images, 1):
            if number > 1:
                device.frame(workload.frame.tobytes())
            session.call(_frame(session, device, name, workload, limit, number, reports, traced))
        session.run(lambda now: progress(len(reports), now))
    return reports


def _frame(session: Session, device: Device, name: str, workload: Workload, limit: int, number: int,
           reports: list[Report],
           traced: Callable[[Timeline], None] | None) -> Callable[[], None]:
    """Add the commands of a frame; return the function that reports on it after them.

    A frame that takes more than ``limit`` cycles hangs.
    """
    model = workload.qvit.model
    folder = session.trace(f"image{number}", timed=traced is not None)
    device.start()
    status, results = device.finish(limit)
    session.trace_off()
    selectors = len(workload.blocks)
    selections = device.selections(selectors, model.tokens) if selectors else None

    def report() -> None:
        logits, top_class, stages = workload.expected
        registers = checked(status())
        recording = {stream.name: stream.read(folder) for stream in streams(workload.config)}
        parts = [compare(workload.program, stages, recording),
                 compare_output(logits, top_class, workload.tokens[-1], results()[0],
                                registers.top_class)]
        steps: list[Step] = []
        if selections is not None:
            seen = selections()
            parts.append(compare_selections(stages, seen, model.special_tokens, registers.tokens))
            steps = list(steps_of(workload, seen))
        if traced is not None:
            traced(read_timeline(folder, workload.program, [(name, workload.passes)]))
        shutil.rmtree(folder)
        values = session.values
        counts = {key: values[f"run{number}.{key}"] for key in (
            "cycles", "bytes_read", "bytes_written", "host_accesses")}
        # The start of the image is an access, the only one.
        counts["host_accesses"] -= 1
        reports.append(Report(
            workload=workload, image=name, status=registers, steps=tuple(steps), macs=workload.macs,
            **counts, comparison=Comparison.joined(*parts)))
        workload.forget()

    return report
