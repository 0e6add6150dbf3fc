# SPDX-License-Identifier: BSD-2-Clause
"""Builds for boards: complete, the same always, and every script runs under a stubbed Vivado."""

import hashlib
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from platforms import build
from platforms.boards_data import BOARDS, board_named
from platforms.build import (
    VivadoError,
    board_config,
    describe,
    main,
    run_vivado,
    write_build,
)
from platforms.ipxact_check import verilog_ports
from rtl.config import named
from rtl.top import emit_verilog
from tests.test_ipxact import verilog_shell
from tests.vivado_ips import Refused
from tests.vivado_model import Vivado, needs_tcl

#: Boards that Vivado builds for.
_VIVADO = [name for name, board in BOARDS.items() if board.part.startswith("xc")]


def _write(name: str, folder: Path, config: str | None = None) -> Path:
    """Write a build without what takes minutes: its Verilog is ports and nothing else."""
    board = board_named(name)
    chosen = board_config(board, config)
    write_build(board, chosen, verilog_shell(chosen), folder)
    describe(board, chosen, folder)
    return folder


def _run(folder: Path, script: str = "build.tcl") -> Vivado:
    (folder / "output").mkdir(exist_ok=True)
    vivado = Vivado(folder)
    vivado.source(folder / "vivado" / script)
    return vivado


@needs_tcl
@pytest.mark.parametrize("board", _VIVADO)
def test_scripts_run_to_their_end(tmp_path: Path, board: str) -> None:
    folder = _write(board, tmp_path)
    system, config = board_named(board).system, named(board_named(board).config)
    vivado = _run(folder, "build.tcl" if system else "core.tcl")
    report = json.loads((folder / "output" / "report.json").read_text())
    assert report["board"] == board and report["part"] == board_named(board).part
    assert report["timing_met"] is True
    assert report["utilisation"]["luts"] == {"used": 1234, "available": 274080}
    for name, digest in json.loads((folder / "build.json").read_text())["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    if system is None:
        assert vivado.opened == "routed" and (folder / "output" / "heatvit.dcp").exists()
        return
    for name in ("heatvit.bit", "heatvit.hwh", "heatvit.xsa", "timing.rpt", "utilisation.rpt"):
        assert (folder / "output" / name).exists(), name
    core = {f"/heatvit_0/m_axi_gmem{p}" for p in range(config.ports)}
    assert {space for space, _ in vivado.assigned} == core | {f"/{system.cell}/Data"}
    assert vivado.assigned[f"/{system.cell}/Data", "/heatvit_0/s_axi_control/reg0"] == (
        system.control, 4096)
    for p, port in enumerate(system.ports[:config.ports]):
        for s in port.segments:
            assert vivado.assigned[f"/heatvit_0/m_axi_gmem{p}", f"/{system.cell}/{s.name}"] == (
                s.offset, s.bytes)
    assert vivado.nets[f"/{system.cell}/{system.interrupt}"] == "/heatvit_0/interrupt"
    assert vivado.nets["/heatvit_0/ap_rst_n"] == "/reset_0/peripheral_aresetn"
    assert len({driver for pin, driver in vivado.nets.items() if "cl" in pin.split("/")[2]}) == 1


#: File, what stands in it, what it becomes, and what is said of that.
_MISTAKES = [
    ("settings.tcl", "xczu9eg-ffvb1156-2-e", "xczu9eg-ffvb1157-2-e", "part .* is not known"),
    ("settings.tcl", "zcu102:part0", "zcu102:part1", "no board files of xilinx.com:zcu102:part1"),
    ("settings.tcl", "zcu102:part0", "zcu104:part0", "is no board with xczu9eg"),
    ("settings.tcl", "board_connections {}", "board_connections {a b}", "has no connections a b"),
    ("settings.tcl", "heatvit-rtl.org:ip", "heatvit.org:ip", "no IP heatvit.org:ip:heatvit"),
    ("settings.tcl", "ip:zynq_ultra_ps_e", "ip:zynq_ultra_ps", "no IP xilinx.com:ip:zynq_ultra"),
    ("settings.tcl", "bd_rule:zynq_ultra_ps_e", "bd_rule:zynq", "rule xilinx.com:bd_rule:zynq"),
    ("settings.tcl", "apply_board_preset", "board_preset", "rule .* with"),
    ("settings.tcl", "set ps_clock pl_clk0", "set ps_clock pl_clk1", "no pin .*/pl_clk1"),
    ("settings.tcl", "set ps_reset pl_resetn0", "set ps_reset pl_resetn", "no pin .*/pl_resetn"),
    ("settings.tcl", "ps_interrupt pl_ps_irq0", "ps_interrupt pl_ps_irq1", "no pin .*irq1"),
    ("settings.tcl", "M_AXI_HPM0_FPD", "M_AXI_HPM0", "no interface .*/M_AXI_HPM0,"),
    ("settings.tcl", "set ps_space Data", "set ps_space Data0", "no address space"),
    ("settings.tcl", "PSU__USE__IRQ0", "PSU__USE__IRQ", "no property CONFIG.PSU__USE__IRQ "),
    ("settings.tcl", "PSU__USE__IRQ0 1", "PSU__USE__IRQ0 0", "no pin .*/pl_ps_irq0"),
    ("settings.tcl", "DATA_WIDTH 128", "DATA_WIDTH 256", "cannot be 256"),
    ("settings.tcl", "PSU__USE__S_AXI_GP3 1", "PSU__USE__S_AXI_GP3 0", "no interface .*S_AXI_HP1"),
    ("settings.tcl", "PSU__USE__M_AXI_GP1 0", "PSU__USE__M_AXI_GP1 1", "hpm1_fpd_aclk is not con"),
    ("settings.tcl", "m_axi_gmem1 S_AXI_HP1", "m_axi_gmem4 S_AXI_HP1", "no interface .*gmem4"),
    ("settings.tcl", "m_axi_gmem1 S_AXI_HP1", "m_axi_gmem0 S_AXI_HP1", "is taken, or no name"),
    ("settings.tcl", "gmem1 S_AXI_HP1_FPD", "gmem1 S_AXI_HP0_FPD", "is connected already"),
    ("settings.tcl", "saxihp1_fpd_aclk", "saxihp0_fpd_aclk", "is driven by .* already"),
    ("settings.tcl", "SAXIGP2/HP0_DDR_LOW", "SAXIGP2/HP0_DDR", "no segment .*HP0_DDR"),
    ("settings.tcl", "HP0_DDR_LOW 0x0 0x80000000", "HP0_DDR_LOW 0x0 0x100000000", "are asked for"),
    ("settings.tcl", "0x800000000 0x80000000", "0x80000000 0x80000000", "not at 0x80000000"),
    ("settings.tcl", "control_block reg0", "control_block Reg", "no segment .*Reg"),
    ("settings.tcl", "control_bytes 0x1000", "control_bytes 0x2000", "has 0x1000 bytes, 0x2000"),
    ("settings.tcl", "control_address 0xa0000000", "control_address 0xa0000800", "0xa0000800"),
    ("settings.tcl", "set jobs 4", "set jobs many", "many"),
    ("settings.tcl", "set clock_mhz 300", "set clock_mhz fast", "FREQMHZ cannot be fast"),
    ("design.tcl", "create_bd_design $design", "create_bd_desgin $design", "invalid command name"),
    ("design.tcl", "-vlnv $core_vlnv", "-vnlv $core_vlnv", "unknown option -vnlv"),
    ("design.tcl", "/ap_rst_n", "/ap_rst", "no pin .*/ap_rst,"),
    ("design.tcl", "peripheral_aresetn", "peripheral_reset", "are not of one kind"),
    ("design.tcl", "$core_cell/interrupt", "$core_cell/irq", "no pin .*/irq"),
    ("design.tcl", "lappend resets $name/aresetn", "", "aresetn is not connected"),
    ("design.tcl", "lappend clocked $name/aclk", "", "aclk is not connected"),
    ("design.tcl", "$name/S00_AXI", "$name/S01_AXI", "no interface .*S01_AXI"),
    ("design.tcl", "NUM_SI 1", "NUM_SI 2", "S01_AXI is not connected"),
    ("design.tcl", "exclude_bd_addr_seg -target_address_space $space $segment", "",
     "neither in the map of"),
    ("design.tcl", "apply_bd_automation -rule", "list", "no address space"),
    ("design.tcl", "validate_bd_design", "", "no validated block design"),
    ("design.tcl", "CONFIG.FREQ_HZ", "CONFIG.FREQ_MHZ", "no property CONFIG.FREQ_MHZ"),
    ("package.tcl", "component.xml", "components.xml", "components.xml does not exist"),
    ("package.tcl", "ip_repo_paths", "ip_repo_path", "no property ip_repo_path of a project"),
    ("package.tcl", "update_ip_catalog -rebuild", "", "no IP heatvit-rtl.org"),
    ("build.tcl", "heatvit.xdc", "heatvits.xdc", "heatvits.xdc does not exist"),
    ("build.tcl", "constrs_1", "constrs_2", "no file set constrs_2"),
    ("build.tcl", "write_bitstream", "write_bit", "no step write_bit"),
    ("build.tcl", "finish synth_1 -jobs $jobs", "", "no run impl_1"),
    ("build.tcl", "open_run impl_1", "", "no implementation is open"),
    ("build.tcl", "hw_handoff", "handoff", "has written no heatvit_design.hwh"),
    ("build.tcl", "-include_bit", "-include_bitstream", "unknown option -include_bitstream"),
    ("report.tcl", "-return_string", "-return_text", "unknown option -return_text"),
    ("report.tcl", "SLACK", "SLACKS", "no property SLACKS of path"),
    ("heatvit.xdc", "BITSTREAM.GENERAL.COMPRESS", "BITSTREAM.COMPRESS", "no property BITSTREAM.C"),
    ("heatvit.xdc", "set_property", "set_properties", "invalid command name"),
    ("../ip/heatvit/component.xml", "src/heatvit.v", "src/heatvits.v", "heatvits.v of the core"),
    ("../ip/heatvit/component.xml", ":m_axi_gmem3<", "<", "interfaces of the core without a clock"),
    ("../ip/heatvit/component.xml", ">ACTIVE_LOW<", ">ACTIVE_HIGH<", "are not of one kind"),
    ("../ip/heatvit/src/heatvit.v", "heatvit(ap_clk, ", "heatvit(", "port ap_clk is not in both"),
    ("../ip/heatvit/xgui/*.tcl", "-name Component_Name", "-name Component", "Component"),
]


@pytest.fixture(scope="module")
def zcu102(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write("zcu102", tmp_path_factory.mktemp("zcu102"))


@needs_tcl
@pytest.mark.parametrize(("file", "old", "new", "said"), _MISTAKES)
def test_mistakes_are_refused(zcu102: Path, tmp_path: Path, file: str, old: str, new: str,
                              said: str) -> None:
    folder = tmp_path / "build"
    shutil.copytree(zcu102, folder)
    path = next((folder / "vivado").glob(file))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(Refused, match=said):
        _run(folder)


@needs_tcl
@pytest.mark.parametrize(("file", "old", "new", "said"), [
    ("core.xdc", "get_ports ap_clk", "get_ports clk", "core.xdc: get_ports clk"),
    ("core.xdc", "-period", "-periode", "unknown option -periode"),
    ("core.tcl", "-top heatvit", "-top heat", "or module heat"),
    ("core.tcl", "src heatvit.v", "src heatvits.v", "heatvits.v does not exist"),
    ("core.tcl", "route_design", "", "no implementation is open"),
    ("settings.tcl", "xcu250-figd2104-2L-e", "xcu250-figd2104-2-e", "is not known"),
])
def test_mistakes_without_a_system_are_refused(tmp_path: Path, file: str, old: str, new: str,
                                               said: str) -> None:
    folder = _write("u250", tmp_path)
    path = folder / "vivado" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(Refused, match=said):
        _run(folder, "core.tcl")


@needs_tcl
@pytest.mark.parametrize("mhz", [300, 250])
def test_the_device_tree_has_the_clock_that_is_set(zcu102: Path, tmp_path: Path, mhz: int) -> None:
    folder = tmp_path / "build"
    shutil.copytree(zcu102, folder)
    settings = folder / "vivado" / "settings.tcl"
    settings.write_text(settings.read_text().replace("set clock_mhz 300", f"set clock_mhz {mhz}"))
    _run(folder)
    hertz = json.loads((folder / "output" / "report.json").read_text())["clock_hz"]
    assert hertz // 1_000_000 in (mhz - 1, mhz)
    tree = (folder / "output" / "heatvit.dts").read_text()
    assert f"assigned-clock-rates = <{hertz}>;" in tree
    given = (folder / "linux" / "heatvit.dts.in").read_text()
    assert tree == given.replace("@CLOCK_HZ@", str(hertz))


@needs_tcl
def test_a_device_tree_without_a_clock_is_refused(zcu102: Path, tmp_path: Path) -> None:
    folder = tmp_path / "build"
    shutil.copytree(zcu102, folder)
    (folder / "linux" / "heatvit.dts.in").write_text("/dts-v1/;\n")
    with pytest.raises(Refused, match="has no @CLOCK_HZ@"):
        _run(folder)


@needs_tcl
def test_late_timing_is_said(zcu102: Path, tmp_path: Path) -> None:
    folder = tmp_path / "build"
    shutil.copytree(zcu102, folder)
    (folder / "output").mkdir()
    with pytest.raises(Refused, match="timing is not met at 300 MHz: set a lower clock_mhz"):
        Vivado(folder, slack=-0.1).source(folder / "vivado" / "build.tcl")
    report = json.loads((folder / "output" / "report.json").read_text())
    assert report["timing_met"] is False and report["setup_slack_ns"] == -0.1
    assert (folder / "output" / "heatvit.xsa").exists()


def test_a_build_is_the_same_always(zcu102: Path, tmp_path: Path) -> None:
    again = _write("zcu102", tmp_path)
    files = sorted(path.relative_to(zcu102) for path in zcu102.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((zcu102 / file).read_bytes() == (again / file).read_bytes() for file in files)
    listed = json.loads((again / "build.json").read_text())["sha256"]
    assert sorted(listed) == sorted(str(f) for f in files if f.name != "build.json")
    page = (again / "README.md").read_text()
    assert all(name in page for name in listed if name != "README.md" and "ip/" not in name)


def _fake_vivado(folder: Path, options: str = "") -> str:
    """Make a ``vivado`` that runs scripts in the stub, with ``options``; return a PATH with it."""
    folder.mkdir()
    script = folder / "vivado"
    root = str(Path(__file__).parent.parent)
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {root!r})\n"
        f"from tests.vivado_model import main\nsys.exit(main(sys.argv[1:], {options}))\n")
    script.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the Verilog."""
    monkeypatch.setattr(build, "emit_verilog", verilog_shell)


@pytest.fixture
def ready(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
          capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder that was made where there is no Vivado."""
    folder = tmp_path / "new" / "build"
    with monkeypatch.context() as patch:
        patch.setattr(build.shutil, "which", lambda name: None)
        assert main(["kv260", "--config", "nano", "--model", "tiny_test", "-o", str(folder)]) == 0
    return folder


def test_without_vivado_the_folder_is_ready(ready: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    said = capsys.readouterr().out
    assert "vivado is not on PATH" in said and "is ready" in said
    assert os.access(ready / "run.sh", os.X_OK)
    for name in ("model.hvd", "sample.png", "sample.rgb", "expected.json", "c/heatvit_regs.h",
                 "python/heatvit/core.py", "README.md"):
        assert (ready / "deploy" / name).stat().st_size
    listed = json.loads((ready / "build.json").read_text())["sha256"]
    assert sorted(listed) == sorted(path.relative_to(ready).as_posix() for path in
                                    ready.rglob("*") if path.is_file()
                                    and path.name != "build.json")


@needs_tcl
def test_the_folder_runs_where_vivado_is(ready: Path) -> None:
    assert _run(ready).nets["/heatvit_0/ap_clk"] == "/zynq_ultra_ps_e_0/pl_clk0"


@needs_tcl
def test_with_vivado_it_is_run(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", _fake_vivado(tmp_path / "bin"))
    folder = tmp_path / "build"
    arguments = ["kv260", "--config", "nano", "--model", "tiny_test", "-o", str(folder)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "0.25 ns" in said and "1234" in said and "2023.2" in said
    assert (folder / "output" / "heatvit.bit").read_bytes() == b"bit"
    (tmp_path / "bin" / "vivado").write_text("#!/bin/sh\necho ERROR: no licence; exit 1\n")
    arguments[-1] = str(tmp_path / "other")
    assert main(arguments) == 2
    assert "vivado ended with status 1: ERROR: no licence" in capsys.readouterr().err
    (tmp_path / "bin" / "vivado").write_text("#!/bin/sh\nexit 0\n")
    arguments[-1] = str(tmp_path / "third")
    assert main(arguments) == 2
    assert "vivado has left no report" in capsys.readouterr().err


@needs_tcl
def test_what_a_script_ends_with_is_said(ready: Path, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", _fake_vivado(tmp_path / "bin"))
    (ready / "vivado" / "heatvit.xdc").unlink()
    with pytest.raises(VivadoError, match="status 1: add_files: file .*heatvit.xdc does not exist"):
        run_vivado(ready)


@needs_tcl
def test_late_timing_is_reported_like_good_timing(quick: None, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", _fake_vivado(tmp_path / "bin", "slack=-0.125"))
    folder = tmp_path / "build"
    assert main(["kv260", "--config", "nano", "--model", "tiny_test", "-o", str(folder)]) == 1
    said = capsys.readouterr()
    assert "-0.125 ns" in said.out and "1234" in said.out and "report.json" in said.out
    assert said.err == (f"platforms.build: timing is not met at 150 MHz, {folder}/README.md"
                        " says where a lower clock is set\n")
    assert "The clock is set in `vivado/settings.tcl`" in (folder / "README.md").read_text()


@pytest.mark.parametrize("met", ["false", "true", None])
def test_the_report_says_whether_timing_was_missed(tmp_path: Path, met: str | None) -> None:
    """Not the words of a script: late timing alone is a report, all else that fails an error."""
    run = tmp_path / "run.sh"
    left = "" if met is None else f"echo '{{\"timing_met\": {met}}}' > output/report.json\n"
    run.write_text(f"#!/bin/sh\n{left}echo 'ERROR: timing is not met, or slow'\nexit 1\n")
    run.chmod(0o755)
    if met == "false":
        assert run_vivado(tmp_path) == {"timing_met": False}
        return
    with pytest.raises(VivadoError, match="status 1: ERROR: timing is not met, or slow"):
        run_vivado(tmp_path)


@pytest.mark.parametrize(("arguments", "said"), [
    (["zcu111"], "no board is called 'zcu111', there are zcu102"),
    (["zcu102", "--config", "zcu1"], "no configuration is called 'zcu1'"),
    (["zcu102", "--model", "resnet"], "no model is called 'resnet'"),
    (["pynq_z2", "--config", "tiny"], "takes 230 DSPs, PYNQ-Z2 has 220"),
    (["ulx3s", "--config", "zcu104"], "at least 198 block RAMs of 36 kbit, ULX3S-85F has 104"),
    (["ulx3s", "--model", "bad"], "no packed model is called 'bad'"),
    (["ulx3s", "--model", "missing.hv"], "packed model missing.hv cannot be read: No such file"),
    (["ulx3s", "--config", "none"], "no configuration is called 'none'"),
    (["kv260", "--model", "deit_tiny"], "deit_tiny needs 197 tokens, 85 more than max_tokens"),
])
def test_faults_are_found_before_the_work(arguments: list[str], said: str, tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "build"
    assert main([*arguments, "-o", str(folder)]) == 2
    assert said in capsys.readouterr().err
    assert not folder.exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("text")
    assert main(["zcu102", "-o", str(tmp_path)]) == 2
    assert "is not empty, must be a new or an empty one" in capsys.readouterr().err
    assert main(["zcu102", "-o", str(tmp_path / "mine")]) == 2
    assert "is a file, must be a folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build with the real Verilog, not a shell."""
    folder = tmp_path_factory.mktemp("packaged")
    board = board_named("pynq_z2")
    config = replace(named("nano"), multiplier=board.multiplier)
    write_build(board, config, emit_verilog(config), folder)
    return folder


def test_the_emitted_verilog_has_the_ports_of_the_shell(packaged: Path) -> None:
    text = (packaged / "ip" / "heatvit" / "src" / "heatvit.v").read_text()
    assert verilog_ports(text, "heatvit") == verilog_ports(verilog_shell(named("nano")), "heatvit")


@needs_tcl
def test_the_emitted_verilog_is_what_is_packaged(packaged: Path) -> None:
    assert _run(packaged).nets["/heatvit_0/ap_clk"] == "/processing_system7_0/FCLK_CLK0"


def test_the_ulx3s_is_built_by_open_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(build.ulx3s, "main", lambda arguments: called.append(arguments) or 1)
    assert main(["ulx3s", "-o", str(tmp_path / "new")]) == 1
    assert called == [["--model", "scenes_threshold", "--config", "ulx3s", "-o",
                       str(tmp_path / "new")]]
    (tmp_path / "new" / "file").write_text("")
    assert main(["ulx3s", "-o", str(tmp_path / "new")]) == 2 and len(called) == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build for the ZCU102 as a user gets it: the whole Verilog, and DeiT-T."""
    folder = tmp_path_factory.mktemp("whole") / "build"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.shutil, "which", lambda name: None)
        assert main(["zcu102", "-o", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_the_build_for_the_zcu102(whole: Path) -> None:
    expected = json.loads((whole / "deploy" / "expected.json").read_text())
    assert len(expected["logits"]) == 1000 and expected["tokens"] == [197]


@needs_tcl
@pytest.mark.slow
def test_the_build_for_the_zcu102_runs(whole: Path) -> None:
    vivado = _run(whole)
    assert vivado.nets["/heatvit_0/ap_clk"] == "/zynq_ultra_ps_e_0/pl_clk0"
