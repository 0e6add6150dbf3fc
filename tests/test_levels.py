# SPDX-License-Identifier: BSD-2-Clause
"""LUT levels between registers: counted through modules, carries, memories and multipliers."""

import pytest

from platforms.levels import levels
from platforms.synthesis import map_blocks

_XOR = """\
module parity(a, y);
  input [5:0] a; output y;
  assign y = ^a;
endmodule
"""


def _design(body: str, *, bits: int, more: str = "") -> str:
    """Return a design with registers ``r`` of its inputs ``d``, and so many outputs ``q``."""
    return f"""{more}module top(clk, d, q);
  input clk; input [35:0] d; output reg [{bits - 1}:0] q;
  reg [35:0] r;
  always @(posedge clk) r <= d;
{body}
endmodule
"""


def _parities(count: int, source: str, target: str) -> str:
    return "".join(f"  parity {target}_{k} (\n    .a({source}[{6 * k + 5}:{6 * k}]), "
                   f".y({target}[{k}])\n  );\n" for k in range(count))


def _levels(text: str):
    return levels(map_blocks(text), top="top")


def test_paths_cross_the_borders_of_modules() -> None:
    """Six parities of six bits, and one of them: two LUTs between two registers of the top."""
    found = _levels(_design(
        "  wire [5:0] s; wire y;\n" + _parities(6, "r", "s")
        + "  parity last (\n    .a(s), .y(y)\n  );\n  always @(posedge clk) q <= y;",
        bits=1, more=_XOR))
    path = found.deepest[0]
    assert (path.luts, path.carries, path.pin) == (2, 0, "D")
    assert (path.start, path.end) == ("r", "q")
    assert path.cells == ("LUT6 s_*.y", "LUT6 last.y")
    assert found.own == {"": 2, "last": 0} | {f"s_{k}": 0 for k in range(6)}
    assert (found.inside(""), found.inside("last")) == (2, 0)


def test_a_register_ends_a_path() -> None:
    found = _levels(_design(
        "  reg [5:0] s; wire [5:0] w; wire y;\n" + _parities(6, "r", "w")
        + "  parity last (\n    .a(s), .y(y)\n  );\n"
          "  always @(posedge clk) begin s <= w; q <= y; end", bits=1, more=_XOR))
    assert {(path.luts, path.start, path.end) for path in found.deepest if path.luts} == {
        (1, "r", "s"), (1, "s", "q")}


def test_enables_and_outputs_are_ends() -> None:
    found = _levels("module top(clk, a, d, q, y);\n  input clk; input [11:0] a; input d;\n"
                    "  output reg q; output y;\n"
                    "  assign y = ~d;\n"
                    "  always @(posedge clk) if (&a) q <= d;\nendmodule\n")
    assert {(path.luts, path.start, path.end, path.pin) for path in found.deepest} >= {
        (2, "a", "q", "CE"), (1, "d", "y", "")}


def test_carry_chains_are_counted_beside_luts() -> None:
    """A sum of 32 bits is one LUT and one chain, however long that is."""
    found = _levels(_design("  always @(posedge clk) q <= r[31:0] + d[31:0];", bits=32))
    path = found.deepest[0]
    assert (path.luts, path.carries) == (1, 1)
    assert path.cells[-1].startswith("CARRY4") and path.cells[-1].endswith("x8")


def test_a_memory_that_is_read_is_a_level_and_a_multiplier_is_none() -> None:
    memory = _levels(_design(
        "  reg [7:0] m [0:63];\n"
        "  always @(posedge clk) begin\n"
        "    if (r[35]) m[d[5:0]] <= d[20:13];\n    q <= m[r[5:0]];\n  end", bits=8))
    assert (memory.deepest[0].luts, memory.deepest[0].start) == (1, "r")
    assert memory.deepest[0].cells[0].startswith("RAM")
    product = _levels(_design("  always @(posedge clk) q <= ($signed(r[15:0]) * $signed(r[31:16]))"
                              " ^ d[31:0];", bits=32))
    path = next(path for path in product.deepest if path.start == "r" and path.end == "q")
    assert path.luts == 1
    assert path.cells[0].startswith("DSP48E2")


def test_a_loop_is_refused() -> None:
    cell = {"type": "LUT1", "hide_name": 1, "connections": {"I0": [2], "O": [2]},
            "port_directions": {"I0": "input", "O": "output"}}
    start = {"type": "FDRE", "hide_name": 1, "connections": {"Q": [2]},
             "port_directions": {"Q": "output"}}
    module = {"ports": {}, "cells": {"loop": cell, "start": start},
              "netnames": {"n": {"hide_name": 0, "bits": [2]}}}
    with pytest.raises(ValueError, match="loop of cells without a register"):
        levels({"top": module}, top="top")
