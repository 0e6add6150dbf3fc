# SPDX-License-Identifier: BSD-2-Clause
"""The array of DSP48E2 in Verilator, and what the model of the primitive refuses."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from rtl.array import ColumnGroup, SystolicArray
from rtl.config import named
from rtl.dsp48e2 import CascadeCell
from rtl.emit import emit
from sim import verilator

MODEL = Path(__file__).parent / "dsp48e2.v"

#: Both forms of a group side by side; everything at random, weights of all 8 bits among it.
_BENCH = """
module bench;
  reg clk = 0, swap = 0;
  reg [`LANES-1:0] load_valid = 0;
  reg [4-`LANES:0] load_row = 0;
  reg [64*`LANES-1:0] load_data = 0;
  reg [143:0] act = 0;
  wire [159:0] portable, packed_;
  integer seed = 1, cycle, part, nonzero = 0;
  portable p (.clk(clk), .rst(1'b0), .swap(swap), .load_valid(load_valid), .load_row(load_row),
              .load_data(load_data), .act(act), .psum(portable));
  vendor v (.clk(clk), .rst(1'b0), .swap(swap), .load_valid(load_valid), .load_row(load_row),
            .load_data(load_data), .act(act), .psum(packed_));
  initial begin
    for (cycle = 0; cycle < 20000; cycle = cycle + 1) begin
      swap = $random(seed) % 4 == 0;
      for (part = 0; part < `LANES; part = part + 1)
        load_valid[part] = $random(seed) % 4 != 0;
      load_row = $random(seed);
      for (part = 0; part < 2 * `LANES; part = part + 1)
        load_data[32 * part +: 32] = $random(seed);
      for (part = 0; part < 9; part = part + 1)
        act[16 * part +: 16] = $random(seed);
      #1 clk = 1;
      #1 clk = 0;
      if (portable !== packed_)
        $fatal(1, "cycle %0d: %h of the portable form, %h", cycle, portable, packed_);
      if (portable != 0)
        nonzero = nonzero + 1;
    end
    $display("equal, %0d of 20000 not zero", nonzero);
    $finish;
  end
endmodule
"""

#: One cell, clocked once.
_CELL = """
module bench;
  reg clk = 0;
  integer fault = 0;
  wire [47:0] pcout;
  cell_ c (.clk(clk), .load(1'b1), .swap(1'b1), .a(27'd1), .b(18'd1), .pcin(48'd0),
           .pcout(pcout));
  initial begin
    if ($value$plusargs("fault=%d", fault)) $display("fault %0d", fault);
    #1 clk = 1;
    #1 $finish;
  end
endmodule
"""

#: Constants of a cell, changed on demand, and what the model says then.
_FAULTS = [
    ("OPMODE", "9'h015", "OPMODE is 000010100, must be M + PCIN or M + RND"),
    ("INMODE", "5'h00", "INMODE, ALUMODE, CARRYINSEL and CARRYIN must be 0"),
    ("ALUMODE", "4'h0", "INMODE, ALUMODE, CARRYINSEL and CARRYIN must be 0"),
    ("CARRYIN", "1'h0", "INMODE, ALUMODE, CARRYINSEL and CARRYIN must be 0"),
    ("CEM", "1'h1", "CEB2, CEM and CEP must be 1"),
    ("RSTP", "1'h0", "the registers cannot be reset"),
]


def _build(folder: Path, text: str) -> Path:
    path = folder / "bench.v"
    path.write_text(text + MODEL.read_text())
    return verilator.build(path, top="bench", cache=folder / "build", sources=[],
                           flags=["--main", "--timing", "-CFLAGS", "-fcoroutines"])


def _change(text: str, of: str, to: str) -> str:
    assert text.count(of) == 1
    return text.replace(of, to)


@pytest.mark.parametrize("lanes", [1, 2])
def test_both_forms_are_equal_in_every_cycle(lanes: int, tmp_path: Path) -> None:
    """With one lane of the load bus, and with two."""
    bench = _build(tmp_path, "".join(
        emit(ColumnGroup(rows=16, load_rows=lanes, multiplier=multiplier), name)
        for multiplier, name in (("portable", "portable"), ("dsp48e2", "vendor")))
        + f"`define LANES {lanes}\n" + _BENCH)
    run = subprocess.run([bench], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    nonzero = re.search(r"equal, (\d+) of 20000 not zero", run.stdout)
    assert nonzero and int(nonzero[1]) > 19900


def test_lint(tmp_path: Path) -> None:
    """The array with the model has nothing that Verilator warns of, as the portable one."""
    path = tmp_path / "array.v"
    array = SystolicArray(replace(named("tiny"), multiplier="dsp48e2"))
    path.write_text(emit(array, "array") + MODEL.read_text())
    assert verilator.lint(path, top="array") == ""


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = emit(CascadeCell(), "cell_")
    for number, (port, value, _) in enumerate(_FAULTS, 1):
        text = _change(text, f".{port}({value})", f".{port}({value} ^ (bench.fault == {number}))")
    return _build(tmp_path_factory.mktemp("cell"), text + _CELL)


def test_used_modes_are_accepted(cell: Path) -> None:
    assert subprocess.run([cell]).returncode == 0


@pytest.mark.parametrize("number", range(1, len(_FAULTS) + 1), ids=[port for port, *_ in _FAULTS])
def test_other_modes_end_the_simulation(cell: Path, number: int) -> None:
    run = subprocess.run([cell, f"+fault={number}"], capture_output=True, text=True)
    assert run.returncode != 0
    assert _FAULTS[number - 1][2] in run.stdout + run.stderr


@pytest.mark.parametrize(("of", "to", "message"), [
    (".AREG(32'd2)", ".AREG(32'd1)", "a parameter has a value that this model does not have"),
    (".AREG(32'd2)", ".AREG(32'd2), .IS_CLK_INVERTED(1'b0)", "IS_CLK_INVERTED"),
    (".PCIN(", ".ACOUT(), .PCIN(", "ACOUT"),
], ids=["value", "parameter", "port"])
def test_others_end_the_build(of: str, to: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cell.v"
    path.write_text(_change(emit(CascadeCell(), "cell_"), of, to) + MODEL.read_text())
    assert message in verilator.lint(path, top="cell_")
