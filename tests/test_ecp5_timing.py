# SPDX-License-Identifier: BSD-2-Clause
"""Reports of nextpnr: parts, frequency, and the critical path in names of the design."""

import copy
import json

import pytest

from platforms.ecp5_timing import PARTS, Result, Step

CLOCK = "$glbnet$clk$TRELLIS_IO_IN"
ROW = "core.lane_3.sum_TRELLIS_FF_Q_{}_DI_CCU2C_S1$CCU2_COMB{}"
PRODUCT = "core.lane_3.sum_TRELLIS_FF_Q_9_DI_CCU2C_S1_A1_MULT18X18D_P31"


def _part(kind, delay, start, end):
    (cell, port), (to, to_port) = start, end
    return {"type": kind, "delay": delay, "from": {"cell": cell, "loc": [1, 2], "port": port},
            "to": {"cell": to, "loc": [1, 3], "port": to_port}}


#: As nextpnr 0.11.1 writes them: a register, a product, four steps of a carry chain, a register.
PATH = [
    _part("clk-to-q", 0.522, ("core.a_TRELLIS_FF_Q_13", "Q"), ("core.a_TRELLIS_FF_Q_13", "Q")),
    _part("routing", 1.356, ("core.a_TRELLIS_FF_Q_13", "Q"), (PRODUCT, "A15")),
    _part("logic", 3.927, (PRODUCT, "A15"), (PRODUCT, "P2")),
    _part("routing", 1.183, (PRODUCT, "P2"), (ROW.format(16, 0), "A")),
    _part("logic", 0.447, (ROW.format(16, 0), "A"), (ROW.format(16, 0), "FCO")),
    _part("routing", 0, (ROW.format(16, 0), "FCO"), (ROW.format(16, 1), "FCI")),
    _part("logic", 0, (ROW.format(16, 1), "FCI"), (ROW.format(16, 1), "FCO")),
    _part("routing", 0, (ROW.format(16, 1), "FCO"), (ROW.format(18, 0), "FCI")),
    _part("logic", 0.071, (ROW.format(18, 0), "FCI"), (ROW.format(18, 0), "FCO")),
    _part("routing", 0, (ROW.format(18, 0), "FCO"), (ROW.format(18, 1), "FCI")),
    _part("logic", 0.444, (ROW.format(18, 1), "FCI"), (ROW.format(18, 1), "F")),
    _part("routing", 0.133, (ROW.format(18, 1), "F"), ("core.lane_3.sum_TRELLIS_FF_Q_12", "DI")),
    _part("setup", 0, ("core.lane_3.sum_TRELLIS_FF_Q_12", "DI"),
          ("core.lane_3.sum_TRELLIS_FF_Q_12", "DI")),
]

REPORT = {
    "critical_paths": [
        {"from": f"posedge {CLOCK}", "to": f"posedge {CLOCK}", "path": PATH},
        {"from": "<async>", "to": f"posedge {CLOCK}", "path": [
            _part("source", 0, ("in$tr_io", "O"), ("in$tr_io", "O"))]},
    ],
    "fmax": {CLOCK: {"achieved": 110.18069, "constraint": 60}},
    "utilization": {
        "TRELLIS_COMB": {"available": 83640, "used": 55}, "DCCA": {"available": 56, "used": 1},
        "TRELLIS_FF": {"available": 83640, "used": 69},
        "TRELLIS_RAMW": {"available": 10455, "used": 0},
        "MULT18X18D": {"available": 156, "used": 1}, "DP16KD": {"available": 208, "used": 2}},
}


def test_parts_and_frequency():
    result = Result.parse(REPORT)
    assert result.mhz == 110.18
    assert result.used == {"LUT4": 55, "FF": 69, "RAMW": 0, "MULT18X18D": 1, "DP16KD": 2}
    assert result.available["LUT4"] == 83640
    assert set(result.used) == set(result.available) == set(PARTS)


def test_the_critical_path_is_that_between_registers():
    result = Result.parse(REPORT)
    assert result.ends == ("core.a", "core.lane_3.sum")
    assert result.path == (
        Step(0.52, "register", "core.a"),
        Step(1.36, "routing", "core.lane_3.sum"),
        Step(3.93, "multiplier", "core.lane_3.sum"),
        Step(1.18, "routing", "core.lane_3.sum"),
        Step(0.96, "carry", "core.lane_3.sum"),
        Step(0.13, "routing", "core.lane_3.sum"),
        Step(0, "setup", "core.lane_3.sum"),
    )


@pytest.mark.parametrize(("cell", "port", "kind", "name"), [
    ("core.fifo.level_LUT4_B_Z_LUT4_Z_3", "F", "LUT", "core.fifo.level"),
    ("core.x_DP16KD_DOA3", "DOA1", "RAM", "core.x"),
    ("core.y_TRELLIS_DPR16X4_DO_1$DPRAM0_COMB2", "F", "RAM", "core.y"),
    ("core.z[3]", "F", "LUT", "core.z"),
])
def test_what_a_step_goes_through(cell, port, kind, name):
    report = copy.deepcopy(REPORT)
    report["critical_paths"][0]["path"].insert(2, _part("logic", 0.5, (cell, "A"), (cell, port)))
    assert Result.parse(report).path[2] == Step(0.5, kind, name)


def test_to_dict_is_plain_data():
    value = Result.parse(REPORT).to_dict()
    assert json.loads(json.dumps(value)) == {**value, "path": list(value["path"])}
    assert value["path"][2] == {"ns": 3.93, "kind": "multiplier", "name": "core.lane_3.sum"}
