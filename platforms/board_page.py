# SPDX-License-Identifier: BSD-2-Clause
"""Pages about boards: the README of a build, and the table of boards in the documentation."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from golden.cli import exit_status
from golden.pages import check_section, write_section
from platforms.boards import Board, demand
from platforms.boards_data import BOARDS
from platforms.ipxact import NAME, VLNV
from platforms.linux import linux_files
from rtl.config import Config, named
from rtl.interfaces import CONTROL, memory_port
from rtl.isa import ISA_VERSION

__all__ = ["boards_table", "folder_page", "main"]

#: The page with the table.
_PAGE = Path(__file__).parent.parent / "docs" / "boards.md"

_SYSTEM_FILES = """\
| `vivado/settings.tcl` | what the scripts are told: part, clock, ports, addresses; edit here |
| `vivado/build.tcl` | the whole way to the bitstream, which sources the others |
| `vivado/package.tcl`, `vivado/design.tcl` | the core into the catalog; the block design |
| `vivado/linux.tcl` | `output/heatvit.dts`, where there is a `linux/heatvit.dts.in`: its clock |
| `vivado/report.tcl`, `vivado/heatvit.xdc` | the report as JSON; constraints |
"""

_CORE_FILES = """\
| `vivado/settings.tcl` | what the scripts are told: part and clock |
| `vivado/core.tcl` | places and routes the core by itself, out of context |
| `vivado/package.tcl` | checks the core and puts it into a catalog |
| `vivado/report.tcl`, `vivado/core.xdc` | the report as JSON; the clock |
"""

_LINUX_FILES = """\
| `linux/heatvit.dts.in` | device tree overlay: registers and interrupt as UIO, u-dma-buf, clock |
| `linux/system-user.dtsi` | the same for a PetaLinux project of the `.xsa` |
| `linux/heatvit.bif`, `linux/shell.json` | for bootgen; for xmutil |
"""

_SYSTEM_STEPS = """\
1. `./run.sh` with Vivado on PATH and the board files of `{board_part}`.
   It leaves in `output/`: `heatvit.bit`, `heatvit.hwh`, `heatvit.xsa`,{device_tree} `report.json`
   with timing and utilisation, and the reports as text. It ends with status 1 and a sentence if
   timing is not met. The clock is set in `vivado/settings.tcl`; all else follows it.
2. Copy `output/heatvit.bit`, `output/heatvit.hwh` and `deploy/` to the board; `deploy/README.md`
   says how the drivers are started.{for_c}
"""

#: What the driver in C needs besides, where there are files for Linux.
_FOR_C = """
3. The driver in C needs the core in the device tree. If Linux is made with PetaLinux, copy
   `linux/system-user.dtsi` to `project-spec/meta-user/recipes-bsp/device-tree/files/` of a project
   of `output/heatvit.xsa` before it is built (`docs/zcu102.md` of HeatViT-RTL has all commands).
   If there is an image already, as Ubuntu for the KV260, copy `output/heatvit.dts` and `linux/` to
   the board, too: `dtc` makes the overlay, `bootgen` with `linux/heatvit.bif` the bitstream that it
   names, and `xmutil` loads both with `linux/shell.json` (`docs/kv260.md`).\
"""

_CORE_STEPS = """\
1. `./run.sh` with Vivado on PATH. It leaves in `output/`: `heatvit.dcp`, the core placed and
   routed, `report.json` with timing and utilisation, and the reports as text. The clock is set in
   `vivado/settings.tcl` and `vivado/core.xdc`.
2. There is no block design for this board: add `ip/` to the IP repositories of the shell that you
   use, and connect `{vlnv}` in it.
"""


def _addresses(board: Board, config: Config) -> str:
    system = board.system
    assert system is not None
    rows = [f"| {system.master} | `{CONTROL}` | {system.control:#x} |"]
    rows += [f"| {port.interface} | `{memory_port(p)}` | "
             + ", ".join(f"{s.offset:#x} to {s.offset + s.bytes - 1:#x}" for s in port.segments)
             + " |" for p, port in enumerate(system.ports[:config.ports])]
    return "\n".join(["| processing system | core | addresses |", "|---|---|---|", *rows])


def folder_page(board: Board, config: Config) -> str:
    """Return the README of a build."""
    system = board.system
    what = ("Around it is a block design: processing system, SmartConnects, reset and interrupt."
            if system else "It is packaged by itself.")
    text = f"""\
# HeatViT-RTL on the {board.title}

The accelerator in the configuration `{config.name}` ({config.rows} x {config.columns} array,
instruction set {ISA_VERSION}) for {board.part} at {board.clock_mhz} MHz.
{what}

| file | content |
|---|---|
| `run.sh` | runs Vivado |
| `ip/{NAME}/` | the core: Verilog, and `component.xml` (IP-XACT) with its registers |
"""
    text += _SYSTEM_FILES if system else _CORE_FILES
    text += "| `build.json` | the configuration, and the digest of every file |\n"
    device_tree = for_c = ""
    if system:
        if linux_files(board):
            device_tree, for_c = " `heatvit.dts`,", _FOR_C
            text += _LINUX_FILES
        text += "| `deploy/` | what goes to the board: drivers, model, sample and its answer |\n"
    steps = _SYSTEM_STEPS if system else _CORE_STEPS
    text += "\n" + steps.format(board_part=board.board_part, device_tree=device_tree, for_c=for_c,
                                vlnv=":".join(VLNV))
    if system:
        text += f"\n{_addresses(board, config)}\n"
        text += f"""
The interrupt is on `{system.interrupt}`, the clock is `{system.clock}`, the reset of the core
follows `{system.reset}`.
"""
    return text + """
The Verilog carries the interfaces as attributes, too: `create_bd_cell -type module -reference
heatvit` puts it into a block design without the package.
"""


def boards_table() -> str:
    """Return the boards as a table in Markdown."""
    rows = ["| board | device | LUT | FF | DSP | BRAM | configuration | clock | network |",
            "|---|---|---:|---:|---:|---:|---|---:|---|"]
    why = []
    for board in BOARDS.values():
        config = replace(named(board.config), multiplier=board.multiplier)
        found, measured = demand(config, board)
        cells = []
        for key in ("luts", "ff", "dsp", "bram"):
            have = f"of {getattr(board.limits, key):,}"
            known = f"{'' if measured else 'at least '}{found[key]:,}" if key in found else "?"
            cells.append(f"{known} {have}")
        rows.append(f"| {board.title} (`{board.name}`) | {board.part} | {' | '.join(cells)} |"
                    f" `{config.name}` | {board.clock_mhz} MHz | `{board.model}` |")
        why.append(f"- **{board.title}**, `{config.name}`: {board.why}.")
    return "\n".join([*rows, "", *why])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m platforms.board_page``: the table into docs/boards.md."""
    argparse.ArgumentParser(prog="python -m platforms.board_page",
                            description=__doc__).parse_args(arguments)

    def run() -> None:
        check_section(_PAGE, "boards")
        write_section(_PAGE, "boards", boards_table())

    return exit_status("platforms.board_page", run)


if __name__ == "__main__":
    sys.exit(main())
