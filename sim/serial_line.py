# SPDX-License-Identifier: BSD-2-Clause
"""A board with a serial line in simulation: its line reads and writes as that of pyserial."""

import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from platforms.serial_board import SerialBoard, SerialSettings
from platforms.uart import divisor
from rtl.emit import emit
from sim import verilator
from sim.build import emitted
from sim.cache import BUILD, digest, replacing
from sim.session import SimulationFault

__all__ = ["SimulatedLine", "serial_simulator"]

_SOURCES = Path(__file__).parent / "serial"


def serial_simulator(settings: SerialSettings) -> Path:
    """Return the executable that simulates a board with a serial line."""
    verilog = emit(SerialBoard(settings), name="serial_board") + emitted(
        settings.config).read_text()
    path = BUILD / "serial" / digest(verilog) / "serial_board.v"
    if not path.exists():
        with replacing(path) as unfinished:
            unfinished.write_text(verilog)
    return verilator.build(path, top="serial_board", cache=BUILD / "serial",
                           sources=sorted(_SOURCES.iterdir()))


class SimulatedLine:
    """The host's end of the line of a simulated board. Use it in a ``with`` statement.

    Time passes in ``write`` until all is sent, in ``read`` until as much has come or for
    ``timeout`` seconds of the board, and in ``wait``. So a run is the same every time.

    Parameters
    ----------
    settings
        Of the board.
    image
        What is in its flash.
    bit
        Cycles of a bit of this end; None for those of the board.

    Members
    -------
    timeout
        Seconds.
    cycles
        From the start to the end of the last ``read``.
    """

    def __init__(self, settings: SerialSettings, image: bytes, *, bit: float | None = None) -> None:
        self.settings = settings
        self.timeout = 1.0
        self.cycles = 0
        self._image = image
        self._bit = bit or divisor(settings.clock_hz, settings.baud)

    def __enter__(self) -> Self:
        program = serial_simulator(self.settings)
        self._folder = tempfile.TemporaryDirectory(prefix="heatvit-")
        file = Path(self._folder.name) / "flash"
        file.write_bytes(self._image)
        self._process = subprocess.Popen(
            [program, file, str(self.settings.model_base), str(self._bit)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._folder.cleanup()

    def _command(self, *words: object, contents: bytes = b"") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)).encode() + b"\n" + contents)
        self._process.stdin.flush()

    def write(self, contents: bytes) -> None:
        self._command("send", len(contents), contents=contents)

    def wait(self, cycles: int) -> None:
        self._command("wait", cycles)

    def bit(self, cycles: float) -> None:
        """Send and sample with bits of another length from here on."""
        self._command("bit", cycles)

    def read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        self._command("receive", size, round(self.timeout * self.settings.clock_hz))
        line = self._process.stdout.readline().decode()
        kind, _, rest = line.rstrip("\n").partition(" ")
        if kind != "bytes":
            raise SimulationFault(rest or "the simulation has ended")
        count, self.cycles = map(int, rest.split())
        return self._process.stdout.read(count)
