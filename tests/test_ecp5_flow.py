# SPDX-License-Identifier: BSD-2-Clause
"""The flow to ECP5: what Yosys is given, and faults of the tools."""

import json
import re
from itertools import pairwise

import pytest

from platforms import ecp5_flow
from platforms.ecp5_flow import (
    RouterError,
    implement,
    keep_free,
    open_chains,
    pins,
    script,
)
from rtl.config import named
from rtl.top import HeatViT
from sim.build import emitted

#: Places that are held: 14 rows of 73 tiles with 8 LUTs.
HELD = 14 * 73 * 8


def test_pins_reach_every_port_once():
    config = named("tiny")
    text = pins(emitted(config).read_text())
    ports = HeatViT(config).signature.members
    connected = re.findall(r"^    \.(\w+)\((.*?)\)", text, re.M)
    assert sorted(name for name, _ in connected) == sorted(ports)
    for vector in ("inputs", "outputs"):
        size, = (int(high) + 1 for high in re.findall(rf"(?:reg|wire) \[(\d+):0\] {vector};", text))
        taken = sorted((int(low), int(width)) for name, wire in connected
                       for low, width in re.findall(rf"{vector}\[(\d+) \+: (\d+)\]", wire))
        ends = [low + width for low, width in taken]
        assert [low for low, _ in taken] == [0, *ends[:-1]]
        assert ends[-1] == size


def test_script_reads_maps_and_writes():
    lines = script("pins").splitlines()
    assert lines[0] == "read_verilog design.v cells.v"
    mapped = [line for line in lines if line.startswith(("synth_ecp5", "techmap"))]
    assert mapped == ["synth_ecp5 -top pins -noflatten -run begin:map_gates",
                      "techmap -map arith.v",
                      "synth_ecp5 -top pins -noflatten -run map_gates:"]
    assert lines[-1] == "write_json netlist.json"


def _tool(tmp_path, monkeypatch, text):
    monkeypatch.setattr(ecp5_flow, "_RUN", text + "  # {0}")
    ecp5_flow.run_tool("yosys", [], tmp_path, lambda stage: None)


def test_the_fault_of_a_tool_is_told(tmp_path, monkeypatch):
    with pytest.raises(RouterError, match="^yosys: Unable to place cell 'x'; no more$"):
        _tool(tmp_path, monkeypatch, "print(\"ERROR: Unable to place cell 'x'\\n\" * 2 +"
                                     " 'Info: fine\\nERROR: no more'); raise SystemExit(1)")


def test_a_tool_that_says_nothing_of_a_fault(tmp_path, monkeypatch):
    with pytest.raises(RouterError, match=r"(?s)^yosys: .*ZeroDivisionError"):
        _tool(tmp_path, monkeypatch, "1 / 0")


@pytest.mark.parametrize(("log", "stage"), [
    ("", "starts"),
    ("Yosys 0.70\n", "works"),
    ("12.3. Executing OPT pass.\n12.44.16. Executing ABC9 pass (LUTs).\n...\n", "ABC9"),
    ("Info: Packing constants..\nInfo:     at iteration #3\n", "at iteration #3"),
])
def test_progress(log, stage):
    assert ecp5_flow._stage(log) == stage


def test_a_design_that_is_too_large_is_not_placed():
    log = "Info: \t          DP16KD:     208/    208   100%\n"
    ecp5_flow._check_room(log)
    with pytest.raises(RouterError, match="takes 90,000 TRELLIS_COMB, LFE5U-85F.* has 83,640"):
        ecp5_flow._check_room(log + "Info: \t    TRELLIS_COMB:   90000/  83640   107%\n")


def _chain(cin, cout, *, init="0000000000001000", c="1"):
    return {"type": "CCU2C", "parameters": {"INIT0": init}, "connections": {
        "CIN": [cin], "COUT": [cout], "C0": [c], "D0": ["1"], "S0": [90 + cout]}}


def test_ends_of_chains_are_open(tmp_path):
    path = tmp_path / "netlist.json"
    adds = "0110000000001010"
    cells = {"first": _chain("0", 1), "second": _chain(1, 2, init=adds),
             "constant": _chain("1", 3, init=adds), "low": _chain("0", 4, c=7),
             "wire": _chain(8, 5), "user": {"type": "LUT4", "parameters": {},
                                            "connections": {"A": [3], "Z": [6]}}}
    path.write_text(json.dumps({"modules": {"top": {"cells": cells}}}))
    open_chains(path)
    ends = {name: (cell["connections"]["CIN"][0], cell["connections"]["COUT"][0])
            for name, cell in json.loads(path.read_text())["modules"]["top"]["cells"].items()
            if cell["type"] == "CCU2C"}
    assert ends == {
        "first": ("x", 1),      # its first LUT lets no carry in, its carry goes on
        "second": (1, "x"),     # its carry leads nowhere
        "constant": ("1", 3),   # its first LUT adds the carry
        "low": ("0", "x"),      # ... may add it
        "wire": (8, "x"),       # a carry that is no constant
    }


def test_places_of_rows_are_held(tmp_path):
    path = tmp_path / "netlist.json"
    used = {"type": "LUT4", "connections": {"Z": [2]}}
    path.write_text(json.dumps({"modules": {"LUT4": {"cells": {}}, "top": {"cells": {"a": used}}}}))
    held = keep_free(path, "top")
    modules = json.loads(path.read_text())["modules"]
    assert modules["LUT4"]["cells"] == {}
    cells = modules["top"]["cells"]
    assert cells.pop("a") == used
    assert all(cell["type"] == "LUT4" and cell["connections"] == {"Z": []}
               for cell in cells.values())
    places = [re.fullmatch(r"X(\d+)/Y(\d+)/SLICE([A-D])\.K([01])", cell["attributes"]["BEL"])
              for cell in cells.values()]
    assert all(places) and len({place[0] for place in places}) == len(cells)
    rows = sorted({int(place[2]) for place in places})
    assert {b - a for a, b in pairwise(rows)} == {3}
    assert not {row for row in rows if row % 12 == 10}  # where block RAMs and multipliers are
    assert held == len(cells) == HELD == 8 * len({place[1] for place in places}) * len(rows)


def test_no_places_are_held_where_most_are_taken(tmp_path):
    path = tmp_path / "netlist.json"
    chain = {"type": "CCU2C", "connections": {}}
    text = json.dumps({"modules": {"top": {"cells": {str(n): chain for n in range(26_000)}}}})
    path.write_text(text)
    assert keep_free(path, "top") == 0 and path.read_text() == text


def test_implement_runs_both_tools(monkeypatch):
    """In a folder with what they read, on the array of instances, one after the other."""
    runs = []

    def run(tool, arguments, folder, progress):
        design = (folder / "design.v").read_text()
        assert "DSP48E2 #(" in design
        assert "module heatvit_pins(" in design
        assert (folder / "cells.v").read_text().count("module ") == 3
        runs.append((tool, arguments))
        (folder / "netlist.json").write_text('{"modules": {"heatvit_pins": {"cells": {}}}}')
        (folder / "report.json").write_text(
            '{"fmax": {}, "utilization": {"TRELLIS_COMB": {"used": 9000}}}')

    monkeypatch.setattr(ecp5_flow, "run_tool", run)
    stages = []
    assert implement(named("tiny"), seed=7, progress=stages.append) == {
        "fmax": {}, "utilization": {"TRELLIS_COMB": {"used": 9000 - HELD}}}
    assert [tool for tool, _ in runs] == ["yosys", "nextpnr_ecp5"]
    router = runs[1][1]
    assert router[router.index("--seed") + 1] == "7"
    assert stages == ["emission"]
