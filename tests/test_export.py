# SPDX-License-Identifier: BSD-2-Clause
"""What is written for others says what rtl/registers.py and rtl/isa.py say."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from amaranth.lib import data

from rtl import isa
from rtl.errors import ERRORS
from rtl.export import (
    EXPORTS,
    export,
    instruction_page,
    main,
    register_header,
    register_page,
    register_rdl,
)
from rtl.registers import REGISTERS, RunState

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", [name for name in EXPORTS if name.endswith(".md")])
def test_committed_page_is_current(name):
    committed = (DOCS / name).read_text(encoding="utf-8")
    assert committed == EXPORTS[name](), f"run: python -m rtl.export docs {name}"


def defines() -> dict[str, int]:
    found = re.findall(r"^#define (HEATVIT_\w+) (\w+?)u?$", register_header(), re.MULTILINE)
    names = [name for name, _ in found]
    assert len(names) == len(set(names)), "a name is defined twice"
    return {name: int(value, 0) for name, value in found}


def test_header_has_every_register_and_field():
    values = defines()
    for register in REGISTERS:
        assert values.pop(f"HEATVIT_REG_{register.name}") == register.offset
        if register.width == 64:
            assert values.pop(f"HEATVIT_REG_{register.name}_HIGH") == register.offset + 4
        if register.count > 1:
            assert values.pop(f"HEATVIT_REG_{register.name}_COUNT") == register.count
        for field in register.fields:
            if field.name != "value":
                name = f"HEATVIT_{register.name}_{field.name.upper()}"
                assert values.pop(f"{name}_SHIFT") == field.low
                assert values.pop(f"{name}_MASK") == field.mask
    assert values == {"HEATVIT_ISA_VERSION": isa.ISA_VERSION, "HEATVIT_MAGIC": isa.MAGIC,
                      "HEATVIT_REG_BYTES": 4096}


def test_header_compiles_and_names_errors(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    export(tmp_path, ["heatvit_regs.h"])
    checks = [f'    if (strcmp(heatvit_{kind}_name({m.value}), "{m.name}")) return 1;'
              for kind, values in (("error", isa.Error), ("stall", isa.Stall),
                                   ("run_state", RunState)) for m in values]
    checks += [f'    if (strcmp(heatvit_error_text({error.value}), "{text.sentence}")) return 1;'
               for error, text in ERRORS.items()]
    (tmp_path / "t.c").write_text("\n".join([
        '#include "heatvit_regs.h"', "#include <string.h>", "int main(void)", "{", *checks,
        '    return strcmp(heatvit_error_name(99), "unknown") != 0;', "}", ""]))
    subprocess.run([compiler, "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "t.c",
                    "-o", "t"], cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "t"], check=True)


def test_rdl_has_every_register_and_field():
    text = register_rdl()
    found = re.findall(r"    reg \{(.*?)\n    \} (\w+)(?:\[(\d+)\])? @ (\w+)(?: \+= (\w+))?;",
                       text, re.DOTALL)
    assert [(name, int(at, 0), int(count or 1), int(step or "0", 0))
            for _, name, count, at, step in found] == [
        (r.name, r.offset, r.count, r.width // 8 if r.count > 1 else 0) for r in REGISTERS]
    for (body, *_), register in zip(found, REGISTERS, strict=True):
        assert f"regwidth = {register.width};" in body
        fields = re.findall(r"\} (\w+)\[(\d+):(\d+)\];", body)
        assert fields == [(f.name, str(f.low + f.width - 1), str(f.low)) for f in register.fields]
    assert text.count("{") == text.count("}")


def test_instruction_page_has_every_field():
    sections = dict(re.findall(r"^### (\w+)[^\n]*\n(.*?)(?=^##|\Z)", instruction_page(),
                               re.DOTALL | re.MULTILINE))
    layouts = {"BEGIN": isa.begin_layout, "TABLE": isa.table_layout, "LOAD": isa.load_layout,
               "PASS": isa.pass_layout, "END": isa.end_layout, "SELECT": isa.select_layout,
               "PRUNE": isa.prune_layout, "PolyRow": isa.PolyRow, "ListEntry": isa.ListEntry,
               "ColumnScale": isa.ColumnScale}
    for name, layout in layouts.items():
        rows = dict(re.findall(r"^\| ([\d.]+) \| `(\w+)` \|", sections[name], re.MULTILINE))
        for bits, key in rows.items():
            high, _, low = bits.partition("..")
            field: data.Field = layout[key]
            assert field.offset == int(low or high), f"{name}.{key}"
            assert field.offset + field.width == int(high) + 1, f"{name}.{key}"
        listed = set(rows.values())
        for key, _ in layout:
            assert (key in listed) != bool(re.fullmatch(r"pad\d*|spare", key)), f"{name}: {key}"


@pytest.mark.parametrize("line", [
    # comments of rtl/isa.py of each kind: of a field, a member, a class, a layout, a number
    "| 287..256 | `checksum` | unsigned | see docs/errors.md |",
    "| 511..64 | `rows` | 7 x 64 bits | PolyRow, or a ListEntry per bank |",
    "| 26..0 | `bias` | signed |  |",
    "| 7..0 | `opcode` | Opcode |  |",
    "| 3 | SCALE | times the constant scale of the instruction, `exp_m` and `exp_s` |",
    "| 31..16 | `keep` | unsigned | TOPK: patches that stay |",
    "| 6 | BUS_READ | SLVERR or DECERR on a read |",
    "Where the stationary tiles of a pass come from.",
    "Writes `count` rows of a table or block list, starting at `first`.",
    '| `MAGIC` | 0x54495648 | "HVIT", little endian |',
    "| `SHIFT_BITS` | 6 | Bits of a scale shift `s`, 1 to 47. |",
])
def test_instruction_page_carries_the_comments(line):
    assert line in instruction_page().splitlines()


def test_register_page_has_arrays_in_one_line():
    assert "| 0x400 .. 0xbfc | **DROPPED** |" in register_page()
    assert "| 0x1e0 .. 0x1ec | **SELECTOR_14** | 15..0 | `patches` |" in register_page()


def test_command_writes_what_is_asked_for(tmp_path, capsys):
    assert main([str(tmp_path / "all")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "all" / name) for name in EXPORTS]
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == sorted(EXPORTS)
    assert main([str(tmp_path / "one"), "heatvit.rdl"]) == 0
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["heatvit.rdl"]
    assert (tmp_path / "one" / "heatvit.rdl").read_text() == register_rdl()
    capsys.readouterr()
    assert main([str(tmp_path), "heatvit.h"]) == 2
    assert capsys.readouterr().err.startswith("no export is called 'heatvit.h', there are")
