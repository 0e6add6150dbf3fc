# SPDX-License-Identifier: BSD-2-Clause
"""The Linux port of the driver on files in place of devices, with the simulated core behind them.

The file of UIO holds the registers, that of u-dma-buf the memory. A thread does what the hardware
would: it sees ``ap_start``, runs the simulated core with the arguments and the memory that are in
the files, and puts status and outputs back.
"""

import mmap
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from platforms.deploy import MODEL_FILE, deployment_of, write_deploy
from rtl.config import named
from rtl.registers import ARGUMENTS, REGISTERS, register
from sim.build import simulator
from sim.drive import FLAGS, compile_c
from sim.live import LiveCore

CONFIG = named("tiny")
_BASE = 0x7_4000_0000
_SIZE = 1 << 20
_SYNC = ("sync_offset", "sync_size", "sync_for_cpu", "sync_for_device")
#: Registers that the hardware sets, but those of the run controller.
_SHOWN = [word for r in REGISTERS if r not in ARGUMENTS and r.offset >= 0x40 for word in r.words]


class Board:
    """Files of devices, and the core behind them."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder, self._program = folder, program
        self.uio, self.buffer, self.sysfs = folder / "uio0", folder / "udmabuf0", folder / "sysfs"
        self.uio.write_bytes(bytes(4096))
        self.buffer.write_bytes(bytes(_SIZE))
        self.sysfs.mkdir()
        (self.sysfs / "phys_addr").write_text(f"{_BASE:#x}\n")
        (self.sysfs / "size").write_text(f"{_SIZE}\n")
        for name in _SYNC:
            (self.sysfs / name).write_text("")
        self._stop = threading.Event()
        self._ready = threading.Event()

    @property
    def options(self) -> list[str]:
        return ["--poll", "--uio", str(self.uio), "--buffer", str(self.buffer), "--sysfs",
                str(self.sysfs)]

    def __enter__(self) -> "Board":
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with (self.uio.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as mapped,
              LiveCore(self._program) as core):
            words = memoryview(mapped).cast("I")
            core.command("memory", _BASE, _SIZE, "rw")
            self._show(core, words)
            self._ready.set()
            while not self._stop.wait(1e-3):
                if words[0] & 1:
                    self._image(core, words)
            words.release()

    def _show(self, core: LiveCore, words: memoryview) -> None:
        for offset in _SHOWN:
            words[offset // 4] = core.read(offset)
        words[0] = core.read(0)

    def _image(self, core: LiveCore, words: memoryview) -> None:
        core.load(self.buffer.read_bytes(), _BASE)
        for argument in ARGUMENTS:
            if argument.name != "TIMEOUT":
                for offset in argument.words:
                    core.write(offset, words[offset // 4])
        core.write(0, 1)
        while not core.read(register("CTRL").offset) & 4:
            core.pause()
        memory = core.dump(_BASE, _SIZE)
        with self.buffer.open("r+b") as file:
            file.write(memory)
        self._show(core, words)
        words[0] = 2 | 4 | 8  # done and ready were cleared by reading them here


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployed")
    write_deploy(folder, deployment_of("scenes", CONFIG))
    subprocess.run(["make", "-s", "-C", folder / "c", f"CFLAGS={' '.join(FLAGS)}"], check=True)
    return folder


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path, simulator(CONFIG))


def classify(deployed: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([deployed / "c" / "classify", *map(str, words)], capture_output=True,
                          text=True, timeout=300)


def test_classify(deployed: Path, board: Board) -> None:
    """The command that is shipped, from the files of the devices to the class."""
    with board:
        result = classify(deployed, *board.options, deployed / MODEL_FILE,
                          deployed / "sample.rgb")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("self-test passed: class 4,") and "18 tokens left" in lines[0]
    assert [line.split() for line in lines[1:4]] == [
        f"selector {i} kept {kept} of 100 patches".split() for i, kept in enumerate((33, 23, 16))]
    assert lines[5].startswith(f"{deployed / 'sample.rgb'}: class 4,")
    assert lines[5].split(": ")[-1] == lines[0].split(": ")[-1]
    # Memory was handed over in both directions: for outputs last, to be read by the processor.
    assert (board.sysfs / "sync_for_device").read_text() == "1"
    assert (board.sysfs / "sync_for_cpu").read_text() == "1"
    assert int((board.sysfs / "sync_offset").read_text()) % 4096 == 0


def test_refused(deployed: Path, board: Board, tmp_path: Path) -> None:
    """One sentence each, and nothing that goes on."""
    model, options = deployed / MODEL_FILE, board.options

    def says(*words: object) -> str:
        result = classify(deployed, *words)
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        return line

    assert says(*options, tmp_path / "none") == (
        f"{tmp_path / 'none'} cannot be read: No such file or directory")
    assert says("--uio", tmp_path / "none", model) == (
        f"{tmp_path / 'none'} cannot be opened or mapped: No such file or directory")
    # There is no core: all registers are zero.
    assert says(*options, model).startswith("No core answers")
    with board:
        (tmp_path / "short").write_bytes(bytes(3))
        assert says(*options, model, tmp_path / "short") == (
            f"{tmp_path / 'short'} has 3 bytes, must have 43200")
        (board.sysfs / "size").write_text("4096\n")
        assert says(*options, model).startswith("The memory for model, frames and outputs is too"
                                                " small. (bytes 4096, must be at least")
        (board.sysfs / "size").write_text("many\n")
        assert says(*options, model) == (
            f"{board.sysfs} cannot be opened or mapped: Invalid argument")
        os.remove(board.sysfs / "size")
        assert says(*options, model).startswith(f"{board.sysfs} cannot be opened or mapped: No")


def test_interrupt(deployed: Path, board: Board) -> None:
    program = compile_c(deployed, "linux_interrupt.c", deployed / "linux_interrupt")
    start = time.monotonic()
    result = subprocess.run([program, board.uio, board.buffer, board.sysfs], capture_output=True,
                            text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - start < 30
