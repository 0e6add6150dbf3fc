# SPDX-License-Identifier: BSD-2-Clause
"""The build for the ULX3S: what is given to the tools and what is written, without running them."""

import json
import re
from pathlib import Path

import pytest

from golden.packed import load
from platforms import figures, ulx3s
from platforms.build import main as build_any
from platforms.ecp5 import record, slower
from platforms.ecp5_flow import RouterError
from platforms.ecp5_timing import PARTS
from platforms.serial_board import SerialSettings
from platforms.ulx3s import MODEL, MODEL_BASE, build, main, packed, prepare
from platforms.ulx3s_top import CLOCK_HZ, Ulx3sTop, sources
from rtl.config import ConfigError, named
from rtl.registers import REGISTERS

#: What was reached: ``report.json`` of ``python -m platforms.ulx3s -o DIR``.
KEPT = Path(ulx3s.__file__).with_name("ulx3s.json")

SHIPPED = Path(__file__).parent.parent / "models" / "scenes" / "scenes_threshold.hv"

#: What nextpnr reports of a design of one register.
REPORT = {
    "fmax": {"clk": {"achieved": 53.219, "constraint": 50.0}},
    "critical_paths": [{"from": "posedge clk", "to": "posedge clk", "path": [
        {"delay": 0.5, "type": "clk-to-q", "from": {"cell": "a", "port": "CLK"},
         "to": {"cell": "a", "port": "Q"}},
        {"delay": 1.25, "type": "routing", "from": {"cell": "a", "port": "Q"},
         "to": {"cell": "b", "port": "DI"}}]}],
    "utilization": {cell: {"used": 46_000 - 1_000 * n, "available": 83_640}
                    for n, cell in enumerate(PARTS.values())},
}


@pytest.fixture
def tools(monkeypatch):
    """Tools that write what they should; returns the calls of them."""
    calls = []

    def route(verilog, *, top, folder, seed, preferences, progress):
        calls.append(("route", verilog, top, seed, preferences))
        progress("routing")
        return json.loads(json.dumps(REPORT))

    def run_tool(tool, arguments, folder, progress):
        calls.append((tool, arguments))
        (folder.parent / "ulx3s.bit").write_bytes(b"bits")

    monkeypatch.setattr(ulx3s, "route", route)
    monkeypatch.setattr(ulx3s, "run_tool", run_tool)
    monkeypatch.setattr(ulx3s, "core", lambda config: f"core of {config.name}")
    return calls


def test_model_by_name_and_by_file():
    assert packed(MODEL) == SHIPPED
    assert packed("scenes") == SHIPPED.with_name("scenes.hv")
    assert packed("some/where.hv") == Path("some/where.hv")


def test_the_network_of_the_board_decides_what_it_keeps():
    what = prepare()
    assert what.qvit.pruning.selector == "threshold" and what.program.selectors == 3


@pytest.mark.parametrize("model", ["scenes", "scenes_threshold", "scenes_topk"])
def test_one_bitstream_is_for_every_model(model):
    what = prepare(model)
    settings = what.settings
    assert settings == prepare().settings
    assert (settings.config.name, settings.clock_hz) == ("ulx3s", CLOCK_HZ)
    assert len(what.program.image) <= settings.model_bytes == 1 << 20
    assert (settings.frame_bytes, settings.classes) == (120 * 120 * 3, 10)
    assert settings.output_bytes == 64 and settings.model_base % 4096 == 0
    values = dict(settings.arguments())
    registers = {r.name: r for r in REGISTERS}
    offset = registers["MODEL_ADDR"].offset
    assert (values[offset], values[offset + 4]) == (MODEL_BASE, 0)
    assert values[registers["FRAME_BYTES"].offset] == settings.frame_bytes


@pytest.mark.parametrize(("changed", "message"), [
    ({"config": named("small")},
     "configuration small has 2 memory ports, a board with a serial line has 1"),
    ({"frame_bytes": 43_201}, "a frame has 43201 bytes, must have a multiple of 8")])
def test_settings_that_are_refused(changed, message):
    fields = {"config": named("ulx3s"), "model_base": 0, "model_bytes": 4096,
              "frame_bytes": 4096, "classes": 10, "clock_hz": CLOCK_HZ, "baud": 2_000_000}
    with pytest.raises(ConfigError, match=f"^{message}$"):
        SerialSettings(**fields | changed)


def test_sources_have_pins_for_every_port():
    verilog, preferences = sources(prepare().settings)
    top, = re.findall(r"^module ulx3s\((.*?)\);", verilog, re.M)
    ports = top.split(", ")
    located = dict(re.findall(r'^LOCATE COMP "(.+?)" SITE "(\w+)";', preferences, re.M))
    assert {name.split("[")[0] for name in located} == set(ports)
    assert located["clk25_0__io"] == "G2"
    assert located["uart_0__rx__io"] == "M1" and located["uart_0__tx__io"] == "L4"
    assert [located[f"spi_flash_2x_0__dq__io[{i}]"] for i in range(2)] == ["W2", "V2"]
    assert 'FREQUENCY PORT "clk25_0__io" 25000000.0 HZ' in preferences
    for cell in ("EHXPLLL", "USRMCLK", "heatvit"):
        assert len(re.findall(rf"^  (?:\(\*.*\*\)\s+)?{cell} (?:#\(|\S+ \()", verilog, re.M)) == 1


def test_another_clock_is_refused():
    settings = SerialSettings(
        config=named("ulx3s"), model_base=0, model_bytes=4096, frame_bytes=4096, classes=10,
        clock_hz=25_000_000, baud=1_000_000)
    with pytest.raises(ValueError, match="^the clock is 25000000 Hz, must be 50000000$"):
        Ulx3sTop(settings)


def test_build_writes_all(tools, tmp_path):
    stages = []
    what = prepare()
    result = build(what, tmp_path / "out", seed=3, progress=stages.append)
    (_, verilog, top, seed, preferences), (tool, arguments) = tools
    assert (top, seed, tool) == ("ulx3s", 3, "ecppack")
    assert verilog.endswith("core of ulx3s") and "LOCATE COMP" in preferences
    assert arguments[arguments.index("--input") + 1] == "design.config"
    assert result.mhz == 53.22 and stages == ["emission", "routing"]
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"ulx3s.bit", "model.bin", "board.json", "report.json", "work"}
    assert (tmp_path / "out" / "model.bin").read_bytes() == what.program.image
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["mhz"], report["seed"], report["config"]) == (53.22, 3, "ulx3s")
    board = json.loads((tmp_path / "out" / "board.json").read_text())
    assert (board["baud"], board["model_base"], board["config"]) == (2_000_000, MODEL_BASE,
                                                                     "ulx3s")
    assert board["weights"] == load(SHIPPED).weights


@pytest.mark.parametrize("mhz", [50.0, 49.99])
def test_command_says_whether_timing_is_met(mhz, tools, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(REPORT["fmax"]["clk"], "achieved", mhz)
    assert main(["-o", str(tmp_path)]) == (0 if mhz >= 50 else 1)
    text = capsys.readouterr().out
    assert "| LUT4 | 46,000 | 83,640 | 55% |" in text
    assert ("as much as the 50 MHz of its clock" in text) == (mhz >= 50)
    assert ("less than the 50 MHz of its clock: another --seed may do" in text) == (mhz < 50)


def test_what_it_takes_is_recorded(tools, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "RECORD", tmp_path / "record.json")
    assert main(["--record", "-o", str(tmp_path / "out")]) == 0
    assert figures.load("ulx3s ecp5") == {
        "all": {"luts": 46_000, "ff": 45_000, "dsp": 43_000, "bram": 21_000}}


@pytest.mark.parametrize(("arguments", "message"), [
    (["--config", "none"], "no configuration is called 'none'"),
    (["--config", "nano"], "scenes needs 101 tokens"),
    (["--baud", "12000000"], "makes no 12000000 baud"),
    (["--model", "no.hv"], "no.hv"),
    (["--model", "deit_tiny"], "no packed model is called 'deit_tiny', there are scenes,")])
def test_faults_are_one_sentence(arguments, message, tools, tmp_path, capsys):
    assert main([*arguments, "-o", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not tools


def test_the_common_command_builds_it_too(tools, tmp_path, capsys):
    assert build_any(["ulx3s", "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "ulx3s.bit").exists()
    assert "53.2 MHz, as much as the 50 MHz of its clock" in capsys.readouterr().out


def test_a_model_that_is_too_large(monkeypatch):
    monkeypatch.setattr(ulx3s, "_MODEL_ROOM", 300_000)
    with pytest.raises(ValueError, match="^the model image of scenes_threshold has 356160 bytes,"
                                         " must have at most 300000$"):
        prepare()


def test_a_design_that_does_not_fit(tools, tmp_path, capsys, monkeypatch):
    def route(verilog, **options):
        raise RouterError("the design takes 90,000 TRELLIS_COMB, there are 83,640")

    monkeypatch.setattr(ulx3s, "route", route)
    assert main(["-o", str(tmp_path)]) == 2
    assert "ulx3s: the design takes 90,000 TRELLIS_COMB" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_kept_figure(tmp_path):
    """Placed and routed anew: the clock is met, and it is neither much slower nor much larger."""
    before = json.loads(KEPT.read_text())
    what = prepare()
    result = build(what, tmp_path / "out", seed=before["seed"])
    now = record(what.settings.config, before["seed"], result)
    assert (now["config"], now["device"]) == (before["config"], before["device"])
    assert slower(before, now) == [], f"the critical path: {now['path']}"
    assert result.mhz >= CLOCK_HZ / 1e6
    assert (tmp_path / "out" / "ulx3s.bit").stat().st_size > 100_000
