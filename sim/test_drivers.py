# SPDX-License-Identifier: BSD-2-Clause
"""The drivers that are shipped, executed on the simulated core."""

import json
import re
import runpy
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from golden.images import calibration_frames
from golden.model import FloatViT, ModelConfig
from golden.network import LoweredNetwork
from golden.pruning import PruningConfig
from golden.quantize import quantize
from golden.synthetic import synthetic
from platforms.deploy import MODEL_FILE, write_deploy
from platforms.driver_interface import DRIVER_ERRORS, FIELDS, HEADER_BYTES, interface
from rtl.config import named
from rtl.isa import ISA_VERSION
from sim.build import simulator
from sim.drive import compared, compile_c, expected, main, run_c, run_python, shipped
from sim.frames import different
from sim.live import LiveCore

CONFIG = named("tiny")
ERRORS = {int(code): entry for code, entry in interface()["errors"].items()}


def small(pruning: PruningConfig | None = None, batch: int = 1) -> LoweredNetwork:
    model = ModelConfig(name="driver_test", image_size=24, patch=8, width=32,
                        depth=1 if pruning is None else 2, heads=2, hidden=48, classes=10)
    frames = calibration_frames(model.image_size)
    qvit = quantize(FloatViT(model, synthetic(model, 2)), frames, weights="synthetic",
                    pruning=pruning)
    return LoweredNetwork(qvit, CONFIG, frames[0], batch=batch)


@pytest.fixture(scope="module")
def program() -> Path:
    return simulator(CONFIG)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployed")
    write_deploy(folder, small())
    compile_c(folder, "faults.c", folder / "faults")
    return folder


#: What the driver in C says in each case of faults.c, in order.
CASES = {
    "identity": "NO_CORE NO_CORE VERSION MODEL_CONFIG MODEL_LIMIT NO_MODEL",
    "files": "NOT_A_MODEL NOT_A_MODEL FORMAT TRUNCATED TRUNCATED TRUNCATED CORRUPT CORRUPT"
             " NO_MODEL",
    "arguments": "MEMORY ALIGNMENT IMAGES IMAGES NOT_RUNNING NO_ANSWER ARGUMENT ARGUMENT BUSY BUSY"
                 " BUSY BUSY",
    "slow": "TIMEOUT TIMEOUT NO_ANSWER",
    "silent": "TIMEOUT RESET BUSY TIMEOUT",
    "watchdog": "HANG_LOAD NO_ANSWER BUSY BUSY",
    "bus_errors": "BUS_READ NO_ANSWER BUS_WRITE NO_ANSWER",
    "damaged": "BAD_CHECKSUM BAD_MAGIC",
    "interrupts": "INTERRUPT",
    "self_test": "SELF_TEST",
    "cache": "BAD_MAGIC SELF_TEST",
}


@pytest.mark.parametrize("mode", ["interrupt", "poll"])
@pytest.mark.parametrize("case", CASES)
def test_faults_in_c(program: Path, deployed: Path, case: str, mode: str) -> None:
    """Each ends in its code and sentence, and the next image is right: the program checks that."""
    result = subprocess.run([deployed / "faults", program, deployed / MODEL_FILE, case,
                             *(["poll"] if mode == "poll" else [])],
                            cwd=deployed, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    said = [line.partition(" ") for line in result.stdout.splitlines()]
    assert [ERRORS[int(code)]["name"] for code, _, _ in said] == CASES[case].split()
    for code, _, sentence in said:
        assert sentence.startswith(ERRORS[int(code)]["sentence"])


def test_numbers_of_an_error(program: Path, deployed: Path) -> None:
    result = subprocess.run([deployed / "faults", program, deployed / MODEL_FILE, "identity"],
                            cwd=deployed, capture_output=True, text=True, check=True)
    assert "(rows 16, must be 8)" in result.stdout
    assert "(tokens 10, must be at most 3)" in result.stdout


def test_every_code_of_the_driver_is_seen() -> None:
    """The others are those of files of Linux, see test_drivers_linux.py, and the one below."""
    seen = set(" ".join(CASES.values()).split())
    assert DRIVER_ERRORS.keys() - seen == {"DEVICE", "MODEL_VERSION"}


def test_model_of_another_version(program: Path, deployed: Path, tmp_path: Path) -> None:
    data = bytearray((deployed / MODEL_FILE).read_bytes())
    data[4 * list(FIELDS).index("version")] += 1
    data[8:12] = zlib.crc32(data[12:HEADER_BYTES]).to_bytes(4, "little")
    shutil.copytree(deployed, tmp_path, dirs_exist_ok=True)
    (tmp_path / MODEL_FILE).write_bytes(data)
    code = DRIVER_ERRORS["MODEL_VERSION"].code
    versions = f"(version {ISA_VERSION + 1}, must be {ISA_VERSION})"
    with pytest.raises(ValueError, match=re.escape(
            f"error {code} {ERRORS[code]['sentence']} {versions}")):
        run_c(tmp_path, program, [], "poll")
    heatvit = shipped(tmp_path)
    with LiveCore(program) as live:
        core = heatvit.HeatViT(live, live.allocate, **live.port(polled=True))
        with pytest.raises(heatvit.HeatViTError, match=re.escape(versions)) as caught:
            core.load(tmp_path / MODEL_FILE)
        assert (caught.value.code, caught.value.name) == (code, "MODEL_VERSION")


class Other:
    """Registers of a core, but for one that reads as something else."""

    def __init__(self, core: LiveCore, offset: int, value: int) -> None:
        self._core, self._offset, self._value = core, offset, value
        self.write = core.write

    def read(self, offset: int) -> int:
        return self._value if offset == self._offset else self._core.read(offset)


@pytest.mark.parametrize("mode", ["interrupt", "poll"])
def test_faults_in_python(program: Path, deployed: Path, mode: str) -> None:
    heatvit = shipped(deployed)
    registers = interface()["registers"]
    seen = []

    def fails(function: Any, *arguments: Any) -> None:
        with pytest.raises(heatvit.HeatViTError) as caught:
            function(*arguments)
        seen.append(caught.value.name)
        assert str(caught.value).startswith(ERRORS[caught.value.code]["sentence"])

    def opened(mmio: Any) -> Any:
        return heatvit.HeatViT(mmio, live.allocate, **live.port(polled=mode == "poll"))

    with LiveCore(program) as live:
        live.command("latency", 20)
        for name, value in (("VERSION", 0), ("VERSION", 99)):
            fails(opened, Other(live, registers[name]["offset"], value))
        core = opened(Other(live, registers["CONFIG"]["offset"], 0x08011008))
        fails(core.load, deployed / MODEL_FILE)
        core = opened(Other(live, registers["LIMITS0"]["offset"], 3))
        fails(core.load, deployed / MODEL_FILE)
        core = opened(live)
        fails(core.self_test)
        fails(core.wait)
        model = core.load(deployed / MODEL_FILE)
        fails(core.selection, 0)
        core.self_test()
        fails(core.run, [])
        fails(core.run, [model.sample] * 2)
        with pytest.raises(ValueError, match="frame 0 has 3 bytes, must have 1728"):
            core.run([b"abc"])
        fails(core.selection, 0)
        # Memory is slow, then it does not answer.
        live.command("latency", 3000)
        core.start([model.sample])
        fails(core.wait, 20e-6)
        fails(core.start, [model.sample])
        assert core.wait()[0].top_class == model.expected[-2]
        live.command("latency", 10 ** 12)
        core.start([model.sample])
        fails(core.wait, 20e-6)
        fails(core.reset, 100e-6)
        fails(core.selection, 0)
        live.command("latency", 20)
        live.command("reset", 8)
        core.reset()
        fails(core.selection, 0)
        core.self_test()
        core.watchdog(3000)
        address = core._buffers[1].device_address
        live.command("error", address, "silent")
        fails(core.run, [model.sample])
        fails(core.selection, 0)
        fails(core.watchdog, 3000)
        live.command("error", address, "okay")
        core.reset()
        core.self_test()
        # An error of the bus, and of the interrupt.
        address = core._buffers[0].device_address + 64
        live.command("error", address, "slverr")
        fails(core.run, [model.sample])
        live.command("error", address, "okay")
        assert core.self_test().tokens == 10
        core._interrupt = lambda seconds: live.command("wait", 100_000)
        fails(core.self_test)
        core.close()
        live.command("quiet")
    assert seen == ["NO_CORE", "VERSION", "MODEL_CONFIG", "MODEL_LIMIT", "NO_MODEL", "NOT_RUNNING",
                    "NO_ANSWER", "IMAGES", "IMAGES", "ARGUMENT", "TIMEOUT", "BUSY", "TIMEOUT",
                    "RESET", "BUSY", "NO_ANSWER", "HANG_LOAD", "NO_ANSWER", "BUSY", "BUS_READ",
                    "INTERRUPT"]


@pytest.mark.parametrize("mode", ["interrupt", "poll"])
def test_no_selection_of_a_run_that_has_failed(program: Path, tmp_path: Path, mode: str) -> None:
    """The registers still have that of the run before, which would be taken for it."""
    write_deploy(tmp_path, small(PruningConfig(selector="topk", blocks=(1,), counts=(5,))))
    heatvit = shipped(tmp_path)
    with (LiveCore(program) as live, heatvit.HeatViT(
            live, live.allocate, **live.port(polled=mode == "poll")) as core):
        model = core.load(tmp_path / MODEL_FILE)
        core.self_test()
        right = core.selection(0)
        assert right.patches == len(right.kept) == 5
        for register in ("FRAME_ADDR", "OUTPUT_ADDR"):
            address = live.read(interface()["registers"][register]["offset"]) | (
                live.read(interface()["registers"][register]["offset"] + 4) << 32)
            live.command("error", address, "slverr")
            with pytest.raises(heatvit.HeatViTError) as caught:
                core.run([model.sample])
            assert caught.value.from_core
            with pytest.raises(heatvit.HeatViTError) as caught:
                core.selection(0)
            assert caught.value.name == "NO_ANSWER"
            live.command("error", address, "okay")
            core.self_test()
            assert core.selection(0) == right


def test_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The trained network, with its selectors: both drivers, polled and by interrupt."""
    assert main(["--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.count("every number is right") == 4
    assert re.search(r"driver in Python, interrupt: .*; \d\d,\d{3} cycles an image", text)


def test_wrong_answer_is_told(program: Path, deployed: Path) -> None:
    network = small()
    frames = [frame for _, frame, _ in different([("", network.frame, None)], 2)]
    right = expected(network, frames)
    drive = run_c(deployed, program, [frame.tobytes() for frame in frames], "poll")
    assert compared(drive, right, 1) == ""
    assert "run alone has another answer" in compared(drive, right[::-1], 1)
    swapped = replace(drive, together=drive.together[::-1])
    assert "one run over all has another answer" in compared(swapped, right, 1)


@pytest.mark.parametrize("batch", [1, 2])
def test_rounds(program: Path, tmp_path: Path, batch: int) -> None:
    """Images that take turns in the residual, and batches: which patches of which image stayed."""
    network = small(PruningConfig(selector="topk", blocks=(1,), counts=(5,)), batch)
    write_deploy(tmp_path, network)
    frames = [frame for _, frame, _ in different([("", network.frame, None)], 4)]
    right = expected(network, frames)
    assert len({answer.kept for answer in right}) == len(right)
    for run in (run_c, run_python):
        drive = run(tmp_path, program, [frame.tobytes() for frame in frames], "interrupt")
        assert compared(drive, right, batch) == ""
        assert [counters["images_done"] for counters in drive.counters] == (
            [batch] * (4 // batch) + [4])


class Overlay:
    """Stands in for that of PYNQ: IP with registers and an interrupt to be awaited."""

    def __init__(self, bitstream: str) -> None:
        assert bitstream == "board.bit"
        self.ip_dict = {"heatvit_0": {}, "axi_intc_0": {}}
        self.heatvit_0 = self
        self.interrupt = self

    live: LiveCore

    def read(self, offset: int) -> int:
        self.live.pause()
        return self.live.read(offset)

    def write(self, offset: int, value: int) -> None:
        self.live.write(offset, value)

    async def wait(self) -> None:
        assert self.live.interrupt(1)


@pytest.mark.parametrize("options", [[], ["--interrupt"]], ids=" ".join)
def test_pynq(program: Path, deployed: Path, options: list[str], capsys: pytest.CaptureFixture[str],
              monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command that is shipped, with a module in place of PYNQ, and a picture."""
    shipped(deployed)
    monkeypatch.syspath_prepend(deployed / "python")
    with LiveCore(program) as live:
        monkeypatch.setattr(Overlay, "live", live, raising=False)
        pynq = SimpleNamespace(Overlay=Overlay, allocate=live.allocate)
        monkeypatch.setitem(sys.modules, "pynq", pynq)
        monkeypatch.setattr(sys, "argv", [
            "heatvit", *options, "board.bit", str(deployed / MODEL_FILE),
            str(deployed / "sample.png")])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("heatvit", run_name="__main__")
        assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    right = json.loads((deployed / "expected.json").read_text())
    assert lines[0].startswith(f"self-test passed: class {right['top_class']}, 10 tokens left")
    assert lines[2].startswith(f"{deployed / 'sample.png'}: class ") and len(lines) == 4


@pytest.mark.slow
def test_one_block_of_deit_on_zcu102(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "deit_tiny", "--depth", "1", "--config", "zcu102", "--output",
                 str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("every number is right") == 4
