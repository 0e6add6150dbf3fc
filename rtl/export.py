# SPDX-License-Identifier: BSD-2-Clause
"""Writes the register map and the instruction set for others: C, SystemRDL, documentation.

``python -m rtl.export DIRECTORY`` writes all files, with names behind it only those files.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path

from amaranth.hdl import Shape
from amaranth.lib import data

from rtl import isa
from rtl.errors import ERRORS, error_page
from rtl.registers import (
    ADDRESS_BITS,
    REGISTERS,
    TIMEOUT_CYCLES,
    WORD_BYTES,
    Access,
    Field,
    Register,
    RunState,
)

__all__ = ["EXPORTS", "export", "instruction_page", "main", "register_header", "register_page",
           "register_rdl", "text_function"]

#: Enumerations that software needs beside the registers.
_REGISTER_ENUMS: tuple[type[Enum], ...] = (RunState, isa.Error, isa.Stall)

_INSTRUCTIONS = {isa.Opcode.BEGIN: "begin_layout", isa.Opcode.TABLE: "table_layout",
                 isa.Opcode.LOAD: "load_layout", isa.Opcode.PASS: "pass_layout",
                 isa.Opcode.END: "end_layout", isa.Opcode.SELECT: "select_layout",
                 isa.Opcode.PRUNE: "prune_layout"}
_PAYLOADS = ("PolyRow", "ListEntry", "ColumnScale")


# Comments of rtl/isa.py: what a name means is written beside it, once

def _isa_comments() -> dict[tuple[str, str], str]:
    """Return the comment of every ``(definition, member)``; the member of a definition is ""."""
    comments: dict[tuple[str, str], str] = {}
    definition, above = "", ""
    for line in inspect.getsource(isa).replace("``", "`").splitlines():
        trailing = re.search(r"  #:? *(.*)$", line)
        if line.startswith("#:"):
            above = f"{above} {line[2:].strip()}".strip()
        elif match := re.match(r"(?:class )?(\w+)(?:\(| =)", line):
            definition = match[1]
            comments[definition, ""] = above or (trailing[1] if trailing else "")
            above = ""
        elif match := re.match(r'    """(.*)"""$', line):
            comments[definition, ""] = match[1]
        elif trailing and (match := re.match(r"    (\w+) ?=", line)):
            comments[definition, match[1]] = trailing[1]
    return comments


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _bits(low: int, width: int) -> str:
    return str(low) if width == 1 else f"{low + width - 1}..{low}"


def _table(*head: str, rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _enum_rows(values: type[Enum], comments: dict[tuple[str, str], str]) -> Iterator[list[str]]:
    for member in values:
        yield [str(member.value), member.name, comments.get((values.__name__, member.name), "")]


# C header

def text_function(declaration: str, texts: Mapping[str, str], default: str) -> list[str]:
    """Return the lines of a function in C that gives a text for each constant.

    Parameters
    ----------
    declaration
        Its name and its argument, ``value``.
    texts, default
        Text of each constant, and of all other values.
    """
    return [f"static inline const char *{declaration}", "{", "    switch (value) {",
            *(f'    case {constant}: return "{text}";' for constant, text in texts.items()),
            f'    default: return "{default}";', "    }", "}", ""]


def register_header() -> str:
    """Return the C header of the register map."""
    lines = ["/* SPDX-License-Identifier: BSD-2-Clause */",
             "/* Registers of the HeatViT accelerator. Written by `python -m rtl.export`. */", "",
             "#ifndef HEATVIT_REGS_H", "#define HEATVIT_REGS_H", "",
             f"#define HEATVIT_ISA_VERSION {isa.ISA_VERSION}u",
             f"#define HEATVIT_MAGIC {isa.MAGIC:#010x}u",
             f"#define HEATVIT_REG_BYTES {1 << ADDRESS_BITS:#x}u", ""]
    for register in REGISTERS:
        lines.append(f"/* {register.description} */")
        lines.append(f"#define HEATVIT_REG_{register.name} {register.offset:#05x}u")
        if register.width == 64:
            high = register.offset + WORD_BYTES
            lines.append(f"#define HEATVIT_REG_{register.name}_HIGH {high:#05x}u")
        if register.count > 1:
            lines.append(f"#define HEATVIT_REG_{register.name}_COUNT {register.count}u")
        for field in register.fields:
            if len(register.fields) > 1 or field.width == 1:
                name = f"HEATVIT_{register.name}_{field.name.upper()}"
                lines.append(f"#define {name}_SHIFT {field.low}")
                lines.append(f"#define {name}_MASK {field.mask:#x}u")
        lines.append("")
    for values in _REGISTER_ENUMS:
        name = _snake(values.__name__)
        prefix = f"HEATVIT_{name.upper()}"
        lines.append(f"enum heatvit_{name} {{")
        lines += [f"    {prefix}_{m.name} = {m.value}," for m in values]
        lines += ["};", "", *text_function(f"heatvit_{name}_name(unsigned int value)",
                                           {f"{prefix}_{m.name}": m.name for m in values},
                                           "unknown")]
    lines += ["/* What has happened, in a sentence */",
              *text_function("heatvit_error_text(unsigned int value)",
                             {f"HEATVIT_ERROR_{error.name}": text.sentence
                              for error, text in ERRORS.items()}, "Unknown error."),
              "#endif", ""]
    return "\n".join(lines)


# SystemRDL

_RDL_ACCESS = {
    Access.RW: "sw = rw; hw = r; reset = {reset:#x};",
    Access.RO: "sw = r; hw = w;",
    Access.SET: "sw = rw; onwrite = woset; hw = rw; reset = 0;",
    Access.COR: "sw = r; onread = rclr; hw = w; hwset; reset = 0;",
    Access.TOW: "sw = rw; onwrite = wot; hw = rw; hwset; reset = 0;",
}


def register_rdl() -> str:
    """Return the register map in SystemRDL 2.0."""
    lines = ["// SPDX-License-Identifier: BSD-2-Clause",
             "// Registers of the HeatViT accelerator. Written by `python -m rtl.export`.", ""]
    used = {f.values for r in REGISTERS for f in r.fields}
    for values in _REGISTER_ENUMS:
        if values in used:
            lines.append(f"enum heatvit_{_snake(values.__name__)} {{")
            lines += [f"    {m.name} = {m.value};" for m in values]
            lines += ["};", ""]
    lines += ["addrmap heatvit {", '    name = "HeatViT accelerator";',
              "    addressing = compact;", "    default accesswidth = 32;", ""]
    for register in REGISTERS:
        lines += ["    reg {", f'        name = "{register.name}";',
                  f'        desc = "{register.description}";',
                  f"        regwidth = {register.width};"]
        for field in register.fields:
            access = _RDL_ACCESS[field.access].format(reset=register.reset)
            encode = f" encode = heatvit_{_snake(field.values.__name__)};" if field.values else ""
            lines += ["        field {", f'            desc = "{field.description}";',
                      f"            {access}{encode}",
                      f"        }} {field.name}[{field.low + field.width - 1}:{field.low}];"]
        size, step = ((f"[{register.count}]", f" += {register.width // 8:#x}")
                      if register.count > 1 else ("", ""))
        lines += [f"    }} {register.name}{size} @ {register.offset:#x}{step};", ""]
    lines += ["};", ""]
    return "\n".join(lines)


# Documentation

_REGISTER_INTRODUCTION = """\
# Registers

<!-- Written by `python -m rtl.export docs registers.md` from rtl/registers.py: do not edit. -->

AXI4-Lite slave `s_axi_control`, {address_bits} address bits, words of 32 bits, little endian. A
register of 64 bits is two words, the low one first. Byte strobes are respected. Unmapped
addresses read as 0; every answer is OKAY. The first four registers follow the control map of
Vitis HLS. `python -m rtl.export DIRECTORY` writes this page, `heatvit_regs.h` for C and
`heatvit.rdl` in SystemRDL.

**A run.** Write the arguments, then 1 to `ap_start`. The core is reset, then runs the program at
MODEL_ADDR, as many rounds as ROUNDS says: in each one image, or a batch of as many as the program
is for. Frame i is at FRAME_ADDR + i * FRAME_STRIDE, its output at OUTPUT_ADDR + i * OUTPUT_STRIDE;
the strides have no effect on a run of one image. IMAGES_DONE counts the outputs that are in memory.
The run ends with `ap_done`, with or without error: read ERROR first. TOP_CLASS, of the last image,
and the outputs are valid if it is NONE. Reading CTRL clears `ap_done` and `ap_ready`. Writes to
arguments and to `ap_start` during a run have no effect.

**An output.** The logits, int32, as many zeros as make it a multiple of 16 bytes, and four words:
the top class, its logit, the cycle since the start of the run in which that image was done, and the
tokens that were left of it.

**Interrupt.** The output `interrupt` is high while GIE is set and a bit is set in both IER and
ISR. The end of a run sets those bits of ISR that are enabled in IER. Writing 1 to a bit of ISR
toggles it: this is how it is cleared.

**Errors and hangs.** After an error the next run begins like any other; [errors.md](errors.md) has
all codes. A run in which nothing moves for TIMEOUT cycles ends with the error of what it waits for;
after a reset these are {timeout:,}, and 0 lets no wait pass. SOFT_RESET ends a run without
`ap_done`: the core asks memory for nothing more, waits for what it has asked for, and is reset.
SOFT_RESET reads 0 when that is complete. The counters stay until the next run and tell what the run
waited for. If memory does not answer for TIMEOUT cycles at the end of a run, `late` of STATUS is
set and `ap_done` comes, but `ap_idle` only when memory has answered.

**Selectors.** SELECTOR_0 and up count what each selector of the last round left, a word for each
image of it. DROPPED has four bits for each row of the residual at the start of the round, the first
row in the lowest bits of the first word: of each image special tokens, then patches in its order.
Where the images of a program take turns, those of odd rounds, counted from 0, begin at row
`BEGIN.row_step`, else at row 0; image b of a batch begins at the `first_row` of its IMAGE. Both
hold until the next round begins, and read as 0 in hardware without a token selector.
"""


def _register_rows(register: Register) -> Iterator[list[str]]:
    def where(field: Field) -> str:
        return f"`{field.name}`" if len(register.fields) > 1 or field.width == 1 else ""

    words = ", ".join(f"0x{at:03x}" for at in register.words)
    if register.count > 1:
        words = f"0x{register.words[0]:03x} .. 0x{register.words[-1]:03x}"
    for i, field in enumerate(register.fields):
        head = [words, f"**{register.name}**"] if i == 0 else ["", ""]
        yield [*head, _bits(field.low, field.width), where(field), field.access.value,
               field.description]


def register_page() -> str:
    """Return the page of the register map, in Markdown."""
    comments = _isa_comments()
    lines = [_REGISTER_INTRODUCTION.format(address_bits=ADDRESS_BITS, timeout=TIMEOUT_CYCLES)]
    lines += _table("address", "register", "bits", "field", "access", "meaning",
                    rows=[row for register in REGISTERS for row in _register_rows(register)])
    comments |= {("RunState", "IDLE"): "ready for `ap_start`",
                 ("RunState", "RESET"): "the core is reset",
                 ("RunState", "RUN"): "a program runs",
                 ("RunState", "DRAIN"): "waits for bus transfers to complete"}
    for values, title in ((RunState, "STATUS"), (isa.Error, "ERROR"), (isa.Stall, "STALL")):
        lines += [f"## {title}", ""]
        lines += _table("value", "name", "meaning", rows=_enum_rows(values, comments))
    lines.append("Each cause has its counter; together they make CYCLES.")
    return "\n".join(lines) + "\n"


def _layout_rows(layout: data.StructLayout, name: str,
                 comments: dict[tuple[str, str], str]) -> Iterator[list[str]]:
    for key, field in layout:
        if re.fullmatch(r"pad\d*|spare", key):
            continue
        shape = field.shape
        if isinstance(shape, data.ArrayLayout):
            kind = f"{shape.length} x {Shape.cast(shape.elem_shape).width} bits"
        elif isinstance(shape, type):
            kind = shape.__name__
        else:
            kind = "signed" if Shape.cast(shape).signed else "unsigned"
        yield [_bits(field.offset, field.width), f"`{key}`", kind, comments.get((name, key), "")]


_ISA_INTRODUCTION = """\
# Instruction set

<!-- Written by `python -m rtl.export docs isa.md` from rtl/isa.py: do not edit. -->

Version {version}. A program is a sequence of instructions of {bytes} bytes, little endian: bit 0
is the lowest bit of the first byte. The first instruction is BEGIN, the last END. Bits that are
not listed are 0. A PASS is one matrix product, with its loops in hardware:

    for column_tile: for k_tile: for row: array(stationary tile, prologue(source row))
    after the last k_tile of a column tile: epilogue -> destination row

SELECT decides which patches stay, beside the passes; PRUNE makes it so for all that follow. The
program does not contain the number of tokens: rows and tiles of a pass follow it.

[arithmetic.md](arithmetic.md) says what is computed, [program.md](program.md) how a network
becomes a program.
"""


def instruction_page() -> str:
    """Return the page of the instruction set, in Markdown."""
    comments = _isa_comments()
    lines = [_ISA_INTRODUCTION.format(version=isa.ISA_VERSION, bytes=isa.INSTRUCTION_BYTES)]
    lines += ["## Instructions", ""]
    for opcode, name in _INSTRUCTIONS.items():
        lines += [f"### {opcode.name} ({opcode.value})", "", comments[name, ""], ""]
        layout = getattr(isa, name)
        lines += _table("bits", "field", "type", "meaning",
                        rows=_layout_rows(layout, name, comments))
    lines += ["## Enumerations", ""]
    for name in isa.__all__:
        values = getattr(isa, name)
        if isinstance(values, type) and issubclass(values, Enum):
            lines += [f"### {name}", "", comments[name, ""], ""]
            lines += _table("value", "name", "meaning", rows=_enum_rows(values, comments))
    lines += ["## Rows of tables and parameters", ""]
    for name in _PAYLOADS:
        lines += [f"### {name}", "", comments[name, ""], ""]
        lines += _table("bits", "field", "type", "meaning",
                        rows=_layout_rows(getattr(isa, name), name, comments))
    lines += ["## Numbers", ""]
    lines += _table("name", "value", "meaning", rows=[
        [f"`{name}`", f"{value:#x}" if value > 1 << 16 else str(value), comments[name, ""]]
        for name, value in vars(isa).items()
        if type(value) is int and (name, "") in comments])
    return "\n".join(lines).rstrip("\n") + "\n"


#: What is written, by file name.
EXPORTS: dict[str, Callable[[], str]] = {
    "registers.md": register_page,
    "isa.md": instruction_page,
    "errors.md": error_page,
    "heatvit_regs.h": register_header,
    "heatvit.rdl": register_rdl,
}


def export(directory: Path, names: Sequence[str] = tuple(EXPORTS)) -> list[Path]:
    """Write the files called ``names`` to ``directory``; return their paths."""
    for name in names:
        if name not in EXPORTS:
            raise ValueError(f"no export is called {name!r}, there are {', '.join(EXPORTS)}")
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / name for name in names]
    for path in paths:
        path.write_text(EXPORTS[path.name](), encoding="utf-8", newline="\n")
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m rtl.export", description=__doc__)
    parser.add_argument("directory", type=Path, help="where to write")
    parser.add_argument("names", nargs="*", help=f"which files, of {', '.join(EXPORTS)}")
    options = parser.parse_args(arguments)
    try:
        paths = export(options.directory, options.names or tuple(EXPORTS))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for path in paths:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
