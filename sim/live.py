# SPDX-License-Identifier: BSD-2-Clause
"""A simulated core that a host talks to as to a board: registers, memory and interrupt, one by one.

What :class:`sim.session.Session` collects and runs at once is here done at once, for drivers that
decide by what they read.
"""

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from platforms.driver_interface import ALIGN
from sim.session import SimulationFault

__all__ = ["LiveCore", "SimulatedBuffer"]

#: Where memory begins; above 4 GiB, so that all address bits matter.
_BASE = 0x12_4000_0000
#: Cycles between two polls.
_PAUSE = 200


class SimulatedBuffer(np.ndarray):
    """Memory as ``pynq.allocate`` gives it, behind a cache that writes nothing back by itself.

    Members
    -------
    device_address
        Where the core sees it.
    """

    device_address: int
    _core: "LiveCore"

    def flush(self) -> None:
        self._core.load(self.tobytes(), self.device_address)

    def invalidate(self) -> None:
        contents = np.frombuffer(self._core.dump(self.device_address, self.nbytes), self.dtype)
        self[...] = contents.reshape(self.shape)

    def freebuffer(self) -> None:
        """Give nothing back: the simulation has memory enough."""


class LiveCore:
    """A simulated core with the interfaces of PYNQ. Use it in a ``with`` statement.

    Parameters
    ----------
    program
        Executable of the simulation.
    megahertz
        Clock of the core, which :meth:`clock` tells the time by.
    """

    def __init__(self, program: Path, megahertz: int = 300) -> None:
        self._hertz = megahertz * 1e6
        self._program = program
        self._next = _BASE

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="heatvit-")
        self._process = subprocess.Popen(
            [self._program.resolve(), "/dev/stdin"], cwd=self._folder.name, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        with self._process:
            if kind is not None:
                self._process.kill()
        self._folder.cleanup()

    def command(self, *words: str | int) -> None:
        """Give a command of ``cpp/main.cpp`` that has no answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")

    def _answer(self, kind: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.flush()
        for line in self._process.stdout:
            first, _, rest = line.rstrip("\n").partition(" ")
            if first == "fault":
                raise SimulationFault(rest)
            if first == kind:
                return rest
        raise SimulationFault("the simulation ended before it has answered")

    def _value(self) -> int:
        return int(self._answer("value").split()[1])

    # As pynq.MMIO

    def read(self, offset: int) -> int:
        self.command("read", offset, "r")
        return self._value()

    def write(self, offset: int, value: int) -> None:
        self.command("write", offset, value)

    # As pynq.allocate

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> SimulatedBuffer:
        """Return memory that the core may read and write, poisoned on both sides."""
        array = np.empty(shape, dtype).view(SimulatedBuffer)
        array.view(np.uint8)[...] = 0xA5
        array.device_address, array._core = self._next, self
        # A page between two buffers: what is written there is a fault.
        self._next += (-(-array.nbytes // ALIGN) + 1) * ALIGN
        self.command("memory", array.device_address, array.nbytes, "rw")
        self.command("fill", array.device_address, array.nbytes, 0x5A)
        return array

    def load(self, contents: bytes, address: int) -> None:
        """Copy bytes to memory."""
        (Path(self._folder.name) / "memory").write_bytes(contents)
        self.command("load", "memory", address)
        self._done()

    def dump(self, address: int, size: int) -> bytes:
        """Return bytes of memory."""
        self.command("dump", "memory", address, size)
        self._done()
        return (Path(self._folder.name) / "memory").read_bytes()

    def _done(self) -> None:
        self.command("mark", 0)
        self._answer("mark")

    # Time and interrupt

    def clock(self) -> float:
        """Return the time of the simulation in seconds."""
        self.command("count")
        cycles = self._value()
        for _ in range(3):  # bytes read, bytes written, accesses
            self._value()
        return cycles / self._hertz

    def pause(self) -> None:
        self.command("wait", _PAUSE)

    def interrupt(self, seconds: float) -> bool:
        """Wait for the interrupt; say whether it came."""
        self.command("await", int(seconds * self._hertz), "i")
        return bool(self._value())

    def port(self, *, polled: bool) -> dict[str, Callable[..., Any]]:
        """Return what the driver is given beside the registers and ``allocate``."""
        port: dict[str, Callable[..., Any]] = {"clock": self.clock, "pause": self.pause}
        return port if polled else port | {"interrupt": self.interrupt}

