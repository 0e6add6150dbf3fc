# SPDX-License-Identifier: BSD-2-Clause
"""Block RAM read where it is written: on ECP5 it gives anything, and the design must not care."""

import re
import subprocess
from pathlib import Path

import pytest

import sim.build
from rtl.config import Config
from sim import test_networks, test_pruning, verilator
from sim.cache import BUILD, digest, replacing

#: A memory, as ``rtl/ram.py`` writes it; its write enables, its bits, and a read.
_MEMORY = re.compile(r"^module heatvit_ram\w*\(.*?^endmodule$", re.M | re.S)
_ENABLES = re.compile(r"input \[(\d+):0\] write_en;")
_WIDTH = re.compile(r"reg \[(\d+):0\] memory ")
_READ = re.compile(r"(read_data_(\d+)) <= (memory\[(read_addr_\d+)\]);")

_BENCH = """
module bench;
  reg clk = 0;
  wire [7:0] same, other;
  heatvit_ram_4x8_2w at(.clk(clk), .write_en(2'b01), .write_addr(2'd1), .write_data(8'h33),
                        .read_en_0(1'b1), .read_addr_0(2'd1), .read_data_0(same),
                        .read_en_1(1'b1), .read_addr_1(2'd2), .read_data_1(other));
  initial begin
    #1 clk = 1;
    #1 $display("%h %h", same, other);
    $finish;
  end
endmodule

module heatvit_ram_4x8_2w(clk, write_en, write_addr, write_data, read_en_0, read_addr_0,
                          read_data_0, read_en_1, read_addr_1, read_data_1);
  input clk, read_en_0, read_en_1;
  input [1:0] write_en;
  input [1:0] write_addr, read_addr_0, read_addr_1;
  input [7:0] write_data;
  output reg [7:0] read_data_0, read_data_1;
  reg [7:0] memory [0:3];
  integer i;
  initial
    for (i = 0; i < 4; i = i + 1)
      memory[i] = 8'd0;
  always @(posedge clk)
    if (write_en[0])
      memory[write_addr][3:0] <= write_data[3:0];
  always @(posedge clk)
    if (read_en_0)
      read_data_0 <= memory[read_addr_0];
  always @(posedge clk)
    if (read_en_1)
      read_data_1 <= memory[read_addr_1];
endmodule
"""


def colliding(verilog: str) -> str:
    """Return ``verilog`` with memories that give wrong bits where they are being written."""
    def memory(found: re.Match[str]) -> str:
        text = found[0]
        enables, width = _ENABLES.search(text), _WIDTH.search(text)
        assert enables and width
        lanes = int(enables[1]) + 1
        step = (int(width[1]) + 1) // lanes
        written = ", ".join(f"{{{step}{{write_en[{lane}]}}}}" for lane in reversed(range(lanes)))
        return _READ.sub(rf"\1 <= \3 ^ (write_addr == \4 ? {{{written}}} : {step * lanes}'d0);",
                         text)

    return _MEMORY.sub(memory, verilog)


@pytest.fixture
def collisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulations run with memories that give wrong bits where they are being written."""
    emitted = sim.build.emitted

    def changed(config: Config) -> Path:
        before = emitted(config)
        path = BUILD / "verilog" / digest("collisions", before, Path(__file__)) / "heatvit.v"
        if not path.exists():
            text = before.read_text()
            # All memories of more than a few rows are modules.
            assert len(_MEMORY.findall(text)) > 30
            with replacing(path) as unfinished:
                unfinished.write_text(colliding(text))
        return path

    monkeypatch.setattr(sim.build, "emitted", changed)


def test_bits_that_are_written_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "bench.v"
    path.write_text(colliding(_BENCH))
    bench = verilator.build(path, top="bench", cache=tmp_path / "build", sources=[],
                            flags=["--main", "--timing", "-CFLAGS", "-fcoroutines"])
    said = subprocess.run([bench], capture_output=True, text=True, check=True).stdout
    assert said.startswith("0f 00")


@pytest.mark.usefixtures("collisions")
@pytest.mark.parametrize("bus", test_networks.BUSES)
def test_networks_do_not_depend_on_them(bus: str) -> None:
    test_networks.test_small_network_on_every_configuration("tiny", bus)


@pytest.mark.usefixtures("collisions")
@pytest.mark.parametrize("selector", ["topk", "threshold"])
def test_selectors_do_not_depend_on_them(selector: str) -> None:
    for package, bus in (("each", "fast"), ("merged", "stalls")):
        test_pruning.test_selectors("tiny", selector, package, bus)


@pytest.mark.slow
@pytest.mark.usefixtures("collisions")
@pytest.mark.parametrize("seed", range(12))
def test_random_networks_do_not_depend_on_them(seed: int) -> None:
    test_networks.test_random_network_on_tiny(seed)
