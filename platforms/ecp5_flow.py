# SPDX-License-Identifier: BSD-2-Clause
"""From Verilog to a design that is placed and routed for ECP5, by Yosys and nextpnr."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from platforms.boards_data import BOARDS
from platforms.ecp5_memories import memories
from platforms.synthesis import SynthesisError, blocks, without_zeros
from rtl.config import Config
from rtl.top import emit_verilog

__all__ = ["DEVICE", "RouterError", "core", "implement", "keep_free", "open_chains", "pins",
           "route", "run_tool", "script"]

#: The device: as it is called, and as nextpnr is told.
DEVICE = "LFE5U-85F-6BG381"
_DEVICE = ("--85k", "--package", "CABGA381", "--speed", "6")

#: The multipliers of the array, and all sums, in cells of ECP5.
_CELLS = Path(__file__).with_name("ecp5_cells.v")
_ARITH = Path(__file__).with_name("ecp5_arith.v")

#: Frequency that is asked for, in MHz: the router stops to improve paths that are fast enough.
_TARGET = 60

#: Delay in ps that the mapper aims at, and beyond which it saves LUTs. It believes that wires take
#: 300 ps; they take about 2,000, so that this is 8 LUTs and a period of 60 MHz.
_LOGIC_DELAY = 4_000

#: The placer that leaves wires shortest, and the router that ends with so many.
_TOOLS = ("--placer", "static", "--router", "router2")

#: LUTs of the device, those that cells of the mapper take, and the share of all at which none are
#: left to keep free.
_LUTS = BOARDS["ulx3s"].limits.luts
_LUTS_OF = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}
_FULL = 0.7

#: Columns and rows of tiles in the middle of the device that are to have no LUTs, so that the rows
#: between them can use their wires. None is a row of block RAMs or multipliers.
_FREE = range(24, 97), range(44, 85, 3)

#: Products with at most as many bits are built of LUTs: they are addresses, in short sums.
_SHORT_PRODUCT = 9

#: A port of a module.
_PORT = re.compile(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);$", re.M)

#: Where a log of nextpnr says how many of a part are used, and how many there are.
_USED = re.compile(r"^Info:\s+(\w+):\s+(\d+)/\s*(\d+)\s+\d+%", re.M)

#: Where a log says what is being done.
_STAGES = re.compile(r"^(?:[\d.]+ Executing (\w+)|Info: +(.{1,60}))", re.M)

_RUN = "import sys, yowasp_{0} as tool; sys.exit(tool.run_{1}(sys.argv[1:]))"

#: Tools in the package of another one.
_PACKAGES = {"ecppack": "nextpnr_ecp5"}


class RouterError(SynthesisError):
    """The design does not fit the device, or a tool fails for another reason."""


def implement(config: Config, *, seed: int,
              progress: Callable[[str], None] = lambda stage: None) -> dict[str, Any]:
    """Place and route the accelerator; return the report of nextpnr.

    Parameters
    ----------
    config
        Its configuration; its multipliers are those of ``ecp5_cells.v``.
    seed
        Where the placer begins.
    progress
        Is told what is being done.
    """
    progress("emission")
    verilog = core(config)
    with TemporaryDirectory() as name:
        return route(verilog + pins(verilog), top="heatvit_pins", folder=Path(name), seed=seed,
                     progress=progress)


def core(config: Config) -> str:
    """Return the Verilog of the accelerator as ``route`` wants it."""
    return memories(without_zeros(emit_verilog(replace(config, multiplier="dsp48e2"))))


def route(verilog: str, *, top: str, folder: Path, seed: int, preferences: str | None = None,
          progress: Callable[[str], None] = lambda stage: None) -> dict[str, Any]:
    """Place and route a design; return the report of nextpnr, ``report.json`` in ``folder``.

    Parameters
    ----------
    verilog, top
        The design, with the accelerator of ``core``, and its top module.
    folder
        Everything that the tools read and write goes here.
    seed
        Where the placer begins.
    preferences
        Where pins and clocks are, as LPF: then ``design.config`` is what a bitstream is made of.
        None to leave pins to the placer.
    progress
        Is told what is being done.
    """
    (folder / "design.v").write_text(verilog)
    (folder / "cells.v").write_text(_CELLS.read_text())
    (folder / "arith.v").write_text(_ARITH.read_text())
    (folder / "script.ys").write_text(script(top))
    run_tool("yosys", ["-q", "-l", "log", "script.ys"], folder, progress)
    open_chains(folder / "netlist.json")
    held = keep_free(folder / "netlist.json", top)
    board = ["--lpf-allow-unconstrained"]
    if preferences is not None:
        (folder / "design.lpf").write_text(preferences)
        board = ["--lpf", "design.lpf", "--textcfg", "design.config"]
    run_tool("nextpnr_ecp5", [
        *_DEVICE, "-q", "--log", "log", "--json", "netlist.json", "--report", "report.json",
        "--seed", str(seed), "--freq", str(_TARGET), "--timing-allow-fail",
        *_TOOLS, *board], folder, progress)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    report["utilization"]["TRELLIS_COMB"]["used"] -= held
    return report


def pins(verilog: str) -> str:
    """Return the Verilog of ``heatvit_pins``, the accelerator ``heatvit`` behind three pins.

    Its ports are more than the package has balls. Here inputs are the bits of one long shift
    register, outputs are registered and then made one parity, so that every path into and out of
    the core begins and ends at a register next to it.
    """
    ports = ["    .ap_clk(clk)"]
    bits = {"input": 0, "output": 0}
    for direction, high, name in _PORT.findall(blocks(verilog)["heatvit"].text):
        if name != "ap_clk":
            width = int(high or 0) + 1
            ports.append(f"    .{name}({direction}s[{bits[direction]} +: {width}])")
            bits[direction] += width
    # Each register of a level is the parity of as many of the level before as a LUT has inputs.
    sizes = [bits["output"]]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 4))
    levels = [f"    parity{level}[{k}] <= ^parity{level - 1}[{min(4 * k + 3, before - 1)}:{4 * k}];"
              for level, (before, size) in enumerate(pairwise(sizes), start=1)
              for k in range(size)]
    return "\n".join([
        "", "module heatvit_pins(input clk, input in, output out);",
        f"  reg [{bits['input'] - 1}:0] inputs;",
        f"  wire [{bits['output'] - 1}:0] outputs;",
        *(f"  reg [{size - 1}:0] parity{level};" for level, size in enumerate(sizes)),
        f"  assign out = parity{len(sizes) - 1}[0];",
        "  always @(posedge clk) begin",
        "    inputs <= {inputs, in};",
        "    parity0 <= outputs;",
        *levels,
        "  end", "  heatvit core(", ",\n".join(ports), "  );", "endmodule", ""])


def script(top: str) -> str:
    """Return the commands of Yosys that make ``netlist.json`` of ``design.v`` and ``cells.v``.

    Modules are mapped one by one, each once, and put together afterwards.
    """
    synthesis = f"synth_ecp5 -top {top} -noflatten"
    return "\n".join([
        "read_verilog design.v cells.v",
        "read_verilog -lib -specify +/lattice/cells_sim_ecp5.v +/lattice/cells_bb_ecp5.v",
        f"hierarchy -check -top {top}",
        "proc",
        "check -assert",
        # The mapper names bit 0 of a net `x` as the net that Amaranth calls `x[0]`, and fails.
        r"rename -hide w:*\[*",
        "opt -nodffe -nosdff",
        "wreduce",
        f"alumacc t:$mul r:Y_WIDTH<={_SHORT_PRODUCT} %i",
        "maccmap t:$macc t:$macc_v2",
        f"scratchpad -set abc9.D {_LOGIC_DELAY}",
        f"{synthesis} -run begin:map_gates",
        "flatten",
        # Constants go down a delay line by one register each time: cheaper before all is bits.
        "opt -fast",
        "techmap -map arith.v",
        f"{synthesis} -run map_gates:",
        "check -assert",
        "write_json netlist.json", ""])


def open_chains(netlist: Path) -> None:
    """Take off what is connected to the ends of carry chains to no purpose.

    nextpnr adds a cell for every carry into a chain, a constant one too, and for every carry out of
    it, also if that leads nowhere. A carry into a chain has no effect if the first LUT is 0, as in
    ``ecp5_arith.v``.
    """
    design = json.loads(netlist.read_text())
    cells = [cell for module in design["modules"].values() for cell in module["cells"].values()]
    uses = Counter(bit for cell in cells for bits in cell["connections"].values() for bit in bits)
    for cell in cells:
        if cell["type"] != "CCU2C":
            continue
        ends = cell["connections"]
        if uses[ends["COUT"][0]] == 1:
            ends["COUT"] = ["x"]
        if (ends["CIN"] in (["0"], ["1"], ["x"]) and ends["C0"] == ends["D0"] == ["1"]
                and cell["parameters"]["INIT0"].startswith("0000")):
            ends["CIN"] = ["x"]
    netlist.write_text(json.dumps(design))


def keep_free(netlist: Path, top: str) -> int:
    """Keep LUTs off some rows of tiles; return how many places are held.

    The placer fills the middle of the device until there are more wires than it has. Cells without
    a connection hold places there, of whole rows, as a carry chain takes the tiles of a row one
    after another; flip-flops may be there. None are held if the design takes most of the device.
    """
    design = json.loads(netlist.read_text())
    cells = design["modules"][top]["cells"]
    columns, rows = _FREE
    places = [f"X{x}/Y{y}/SLICE{slice}.K{lut}"
              for y in rows for x in columns for slice in "ABCD" for lut in (0, 1)]
    taken = sum(_LUTS_OF.get(cell["type"], 0) for cell in cells.values())
    if taken + len(places) > _FULL * _LUTS:
        return 0
    cells.update({f"free {place}": {
        "hide_name": 0, "type": "LUT4", "parameters": {"INIT": "0" * 16},
        "attributes": {"BEL": place}, "port_directions": {"Z": "output"},
        "connections": {"Z": []}} for place in places})
    netlist.write_text(json.dumps(design))
    return len(places)


def run_tool(tool: str, arguments: list[str], folder: Path,
             progress: Callable[[str], None]) -> None:
    """Run a tool whose log is ``log``; raise :class:`RouterError` with what it says if it fails."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN.format(_PACKAGES.get(tool, tool), tool), *arguments],
            cwd=folder, stdout=errors, stderr=errors)
        try:
            while process.poll() is None:
                said = log.read_text(errors="replace") if log.exists() else ""
                progress(f"{tool}: {_stage(said)}")
                # The placer would go on for long before it gives up.
                _check_room(said)
                try:
                    process.wait(timeout=1)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.kill()
    if process.returncode:
        text = (log.read_text() if log.exists() else "") + (folder / "errors").read_text()
        faults = list(dict.fromkeys(re.findall(r"^(?:\S+ )?ERROR: (.*)$", text, re.M)))
        raise RouterError(f"{tool}: " + ("; ".join(faults) or text.strip()[-500:]))


def _check_room(log: str) -> None:
    """Raise :class:`RouterError` if a log says that there are too few of a part."""
    for part, used, available in _USED.findall(log):
        if int(used) > int(available):
            raise RouterError(f"the design takes {int(used):,} {part}, {DEVICE} has"
                              f" {int(available):,}")


def _stage(log: str) -> str:
    """Return what the last lines of a log say that is being done."""
    found = _STAGES.findall(log[-20_000:])
    return next(filter(None, found[-1])) if found else "works" if log else "starts"
