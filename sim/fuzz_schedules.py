# SPDX-License-Identifier: BSD-2-Clause
"""What a bus and a host do while a program runs: random schedules of both."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np

from rtl.registers import ADDRESS_BITS, ARGUMENTS, REGISTERS, WORD_BYTES, register
from sim.device import FRAME_BASE, MODEL_BASE, OUTPUT_BASE
from sim.fuzz_subjects import Subject

__all__ = ["Outcome", "Step", "random_steps"]

_CTRL, _SOFT_RESET = register("CTRL").offset, register("SOFT_RESET").offset


class Outcome(Enum):
    """What a run under a schedule must come to."""

    RIGHT = "the right result"
    BUS_ERROR = "the right result, or a bus error"
    ERROR = "the right result, or any error"
    END = "an end by itself"
    ANY = "anything, up to a soft reset"


@dataclass(frozen=True)
class Step:
    """One thing that the bus or the host does.

    Members
    -------
    kind
        ``bus``: bytes per cycle in sixteenths, latency, seed of the stalls, jitter, outstanding
        bursts; ``error``: address, response (0 OKAY, 2 SLVERR, 3 DECERR, 4 none); ``wait``: cycles;
        ``read``: register; ``write``: register, value, byte strobes; ``both``: register, value,
        register that is read; ``start``; ``soft reset``; ``reset``: cycles; ``idle``: waits for
        the end of the run.
    arguments
        They.
    """

    kind: str
    arguments: tuple[int, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.kind, *(hex(value) for value in self.arguments)))


class _Chance:
    """Random steps."""

    def __init__(self, random: np.random.Generator, subject: Subject) -> None:
        self.random = random
        program = subject.program
        self.windows = ((MODEL_BASE, len(program.image)),
                        (FRAME_BASE, len(subject.frames) * program.frame_bytes),
                        (OUTPUT_BASE, 64))

    def below(self, limit: int) -> int:
        return int(self.random.integers(limit))

    def either(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def bits(self, width: int) -> int:
        return int.from_bytes(self.random.bytes(-(-width // 8)), "little") & ((1 << width) - 1)

    def wait(self, limit: int = 3000) -> Step:
        return Step("wait", (1 + int(limit ** self.random.random()),))

    def bus(self) -> Step:
        """A bus that is slow, but not so slow that nothing moves for long."""
        speed = int(self.random.choice([8, 16, 64, 128, 1024]))
        latency = int(self.random.choice([1, 2, 10, 60, 300]))
        stalls = 0 if self.either(0.25) else self.bits(31)
        jitter = int(self.random.choice([1, 16, 64, 400]))
        return Step("bus", (speed, latency, stalls, jitter, int(self.random.choice([1, 2, 16]))))

    def error(self) -> Step:
        return Step("error", (self.address(), int(self.random.choice([2, 3]))))

    def address(self) -> int:
        base, size = self.windows[self.below(len(self.windows))]
        return base + self.below(size)

    def read(self) -> Step:
        return Step("read", (self.below(1 << ADDRESS_BITS),))

    def write(self, only: tuple[int, ...] = ()) -> Step:
        """A write of a register, but of those that start or end runs; of some, if they are given.
        """
        offset = int(self.random.choice(only)) if only else self.below(1 << ADDRESS_BITS)
        if offset // WORD_BYTES in (_CTRL // WORD_BYTES, _SOFT_RESET // WORD_BYTES):
            offset += WORD_BYTES
        return Step("write", (offset, self.bits(32), 15 if self.either(0.8) else self.below(16)))

    def both(self) -> Step:
        offset, value, _ = self.write(_NO_ARGUMENTS).arguments
        return Step("both", (offset, value, self.below(1 << ADDRESS_BITS)))

    def host(self) -> Step:
        """Something that changes nothing of a run, whether one goes on or not."""
        kind = self.below(4)
        if kind == 0:
            return self.write(_NO_ARGUMENTS)
        return self.both() if kind == 1 else self.read()

    def interference(self) -> Step:
        """Something that may begin a run, or end it."""
        kind = self.below(8)
        if kind < 2:
            return Step("soft reset")
        if kind == 2 and self.either(0.3):
            return Step("reset", (1 + self.below(16),))
        return Step("start") if kind < 5 else self.host()

    def anything(self) -> Step:
        """Something that may also begin a run that cannot be right, or never ends."""
        kind = self.below(4)
        if kind == 0:
            return self.write(_ARGUMENT_WORDS)
        return self.write() if kind == 1 else self.interference()


#: Words of arguments, and of what a write does nothing to, or only to interrupts.
_ARGUMENT_WORDS = tuple(offset for r in ARGUMENTS for offset in r.words)
_NO_ARGUMENTS = tuple(offset for r in REGISTERS for offset in r.words
                      if r.name not in ("CTRL", "SOFT_RESET") and offset not in _ARGUMENT_WORDS)


def _slow(chance: _Chance) -> Iterator[Step]:
    """A bus that is slow in any way, and a host that does what it may."""
    for _ in range(1 + chance.below(2)):
        yield chance.bus()
        yield Step("start")
        # It runs: what is written to arguments, or started, has no effect. These accesses take far
        # less than a run, however they are stalled.
        for _ in range(chance.below(5)):
            yield (Step("write", (_CTRL, 1, 15)) if chance.either(0.2)
                   else chance.write(_ARGUMENT_WORDS))
        for _ in range(chance.below(6)):
            yield chance.wait()
            yield chance.bus() if chance.either(0.5) else chance.host()
        yield Step("idle")


def _errors(chance: _Chance) -> Iterator[Step]:
    """Errors anywhere, at any time."""
    yield chance.bus()
    early = chance.either(0.5)
    if early:
        yield chance.error()
    yield Step("start")
    for _ in range(chance.below(5) + (not early)):
        yield chance.wait()
        yield chance.error() if chance.either(0.6) else chance.host()
    yield Step("idle")


def _frozen(chance: _Chance, patience: int, *, given_up: bool) -> Iterator[Step]:
    """A bus that does not answer for long; a host that loses its patience, or does not."""
    yield chance.bus()
    address = chance.address() if chance.either(0.5) else None
    if address is not None:
        yield Step("error", (address, 4))
    yield Step("start")
    yield chance.wait()
    if address is None:
        yield Step("bus", (0, 1, 0, 1, 16))
    yield Step("wait", (chance.below(3 * patience),))
    if given_up:
        yield Step("soft reset")
        yield chance.wait()
    yield chance.host()
    yield chance.bus()
    if address is not None:
        yield Step("error", (address, 0))
    yield Step("idle")


def _resets(chance: _Chance) -> Iterator[Step]:
    """Runs that are given up at any time; responses come long after."""
    for _ in range(1 + chance.below(5)):
        yield chance.bus()
        if chance.either(0.3):
            # Nothing comes while the host waits.
            yield Step("bus", (16, 1 + chance.below(6000), 0, 1, 16))
        yield Step("start")
        yield chance.wait()
        yield Step("reset", (1 + chance.below(16),)) if chance.either(0.1) else Step("soft reset")
        for _ in range(chance.below(4)):
            yield chance.interference() if chance.either(0.5) else chance.host()
        if chance.either(0.5):
            yield Step("idle")


def _chaos(chance: _Chance) -> Iterator[Step]:
    """Anything, in any order."""
    for _ in range(2 + chance.below(24)):
        kind = chance.below(8)
        if kind == 0:
            yield chance.bus()
        elif kind == 1:
            yield chance.error()
        elif kind in (2, 3):
            yield chance.wait()
        else:
            yield chance.anything()


def random_steps(random: np.random.Generator, subject: Subject, patience: int
                 ) -> tuple[tuple[Step, ...], Outcome]:
    """Return what is done, and what must come of it.

    Parameters
    ----------
    random
        Where chance comes from.
    subject
        The program that is run.
    patience
        Cycles without progress after which a run is given up by the core.
    """
    chance = _Chance(random, subject)
    kinds: tuple[tuple[float, Callable[[], Iterator[Step]], Outcome], ...] = (
        (0.35, lambda: _slow(chance), Outcome.RIGHT),
        (0.25, lambda: _errors(chance), Outcome.BUS_ERROR),
        (0.07, lambda: _frozen(chance, patience, given_up=False), Outcome.ERROR),
        (0.03, lambda: _frozen(chance, patience, given_up=True), Outcome.ANY),
        (0.15, lambda: _resets(chance), Outcome.ANY),
        (0.15, lambda: _chaos(chance), Outcome.ANY),
    )
    _, steps, outcome = kinds[int(random.choice(len(kinds), p=[kind[0] for kind in kinds]))]
    return tuple(steps()), outcome
