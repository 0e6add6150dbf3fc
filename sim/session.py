# SPDX-License-Identifier: BSD-2-Clause
"""Commands for a simulated accelerator, and its answers."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Session", "SimulationFault"]


class SimulationFault(RuntimeError):
    """The bench ended the simulation: a broken protocol, no interrupt in time, ..."""


class Session:
    """A command file in the making, and the run of it. Use it in a ``with`` statement.

    Every method but ``run`` only writes a command, see ``cpp/main.cpp``; ``run`` runs them all.

    Parameters
    ----------
    program
        Executable of the simulation.

    Members
    -------
    values
        What the simulation answered, by name; filled by ``run``.
    """

    def __init__(self, program: Path) -> None:
        self.program = program
        self.values: dict[str, int] = {}
        self._commands: list[str] = []
        self._files = 0
        self._calls: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="heatvit-"))
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        shutil.rmtree(self.folder)

    def _add(self, *words: str | int | float) -> None:
        self._commands.append(" ".join(str(word) for word in words))

    # Memory

    def memory(self, base: int, size: int, *, writable: bool = False) -> None:
        self._add("memory", base, size, "rw" if writable else "ro")

    def load(self, contents: bytes, address: int) -> None:
        self._files += 1
        name = f"file{self._files}"
        (self.folder / name).write_bytes(contents)
        self._add("load", name, address)

    def fill(self, address: int, size: int, byte: int) -> None:
        self._add("fill", address, size, byte)

    def dump(self, name: str, address: int, size: int) -> None:
        """Keep memory as it is at this point, for ``dumped(name)`` after the run."""
        self._add("dump", f"dump-{name}", address, size)

    def dumped(self, name: str) -> bytes:
        return (self.folder / f"dump-{name}").read_bytes()

    def bus(self, *, bytes_per_cycle: float, latency: int, stalls: int = 0) -> None:
        self._add("bandwidth", bytes_per_cycle)
        self._add("latency", latency)
        self._add("stalls", stalls)

    def error(self, address: int, response: str) -> None:
        """Answer accesses to the byte at ``address`` with "slverr", "decerr" or "okay", or, with
        "silent", not at all until it is "okay" again."""
        self._add("error", address, response)

    def jitter(self, cycles: int) -> None:
        """With stalls, add up to so many cycles to the latency of every burst."""
        self._add("jitter", cycles)

    def outstanding(self, bursts: int) -> None:
        self._add("outstanding", bursts)

    def outside(self, response: str) -> None:
        """Say what accesses outside of the memory are: "fault", or "decerr" as an answer."""
        self._add("outside", response)

    def allow(self, *ranges: tuple[int, int, bool]) -> None:
        """Fail if the core reads or writes elsewhere from here on; without ranges it may.

        Each is the registers that hold its address and size, and whether it is written, or read.
        """
        self._add("allow", *(word for base, size, writable in ranges
                             for word in (base, size, "rw" if writable else "ro")))

    # Registers and time

    def write(self, offset: int, value: int, strobe: int = 15) -> None:
        self._add("write", offset, value, *([] if strobe == 15 else [strobe]))

    def read(self, offset: int, name: str) -> None:
        self._add("read", offset, name)

    def both(self, offset: int, value: int, read: int, name: str) -> None:
        """Write a register and read another at the same time."""
        self._add("both", offset, value, read, name)

    def echo(self, offset: int) -> None:
        """Write to a register what it reads."""
        self._add("echo", offset)

    def poll(self, offset: int, mask: int, value: int, limit: int) -> None:
        """Read a register until its bits in ``mask`` are ``value``."""
        self._add("poll", offset, mask, value, limit)

    def interrupt(self, limit: int) -> None:
        self._add("interrupt", limit)

    def wait(self, cycles: int) -> None:
        self._add("wait", cycles)

    def quiet(self) -> None:
        """Fail if the core has any memory access under way."""
        self._add("quiet")

    def reset(self, cycles: int = 8) -> None:
        self._add("reset", cycles)

    def clear(self) -> None:
        """Count cycles, bytes and accesses from here on."""
        self._add("clear")

    def count(self, prefix: str = "") -> None:
        """Answer ``cycles``, ``bytes_read``, ``bytes_written`` and ``host_accesses``.

        The last are accesses of registers, and of memory by load, fill and dump.
        """
        self._add("count", *([prefix] if prefix else []))

    def trace(self, name: str, *, timed: bool = False) -> Path:
        """Record the streams from here on; return the folder that holds them after the run.

        Streams that are timed are only recorded if ``timed``.
        """
        folder = self.folder / f"trace-{name}"
        folder.mkdir()
        self._add("trace", folder.name, *(["timed"] if timed else []))
        return folder

    def trace_off(self) -> None:
        self._add("trace", "off")

    def call(self, function: Callable[[], None]) -> None:
        """Call ``function`` in the run, when all before is done and answered.

        The simulation goes on meanwhile.
        """
        self._add("mark", len(self._calls))
        self._calls.append(function)

    def run(self, progress: Callable[[int], None] = lambda cycles: None) -> dict[str, int]:
        """Run the commands and return the answers; ``progress`` is told the cycles now and then."""
        script = self.folder / "commands"
        script.write_text("\n".join(self._commands) + "\n")
        fault = ""
        with subprocess.Popen([self.program, script.name], cwd=self.folder, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    kind, _, rest = line.rstrip("\n").partition(" ")
                    if kind == "progress":
                        progress(int(rest))
                    elif kind == "value":
                        name, _, value = rest.partition(" ")
                        self.values[name] = int(value)
                    elif kind == "mark":
                        self._calls[int(rest)]()
                    elif kind == "fault":
                        fault = rest
                    else:
                        fault = fault or line.strip()
            except BaseException:
                process.terminate()
                raise
        if fault or process.returncode:
            raise SimulationFault(fault or f"the simulation ended with status {process.returncode}")
        return self.values
