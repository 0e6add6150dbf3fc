# SPDX-License-Identifier: BSD-2-Clause
"""What Vivado is given: the scripts of the folder vivado, and the settings that they read."""

from collections.abc import Mapping
from pathlib import Path

from platforms.boards import Board
from platforms.ipxact import BLOCK, GUI, NAME, VERILOG, VLNV, component
from rtl.config import Config
from rtl.interfaces import CONTROL, memory_port
from rtl.registers import ADDRESS_BITS

__all__ = ["CELL", "DESIGN", "core_files", "settings", "vivado_files"]

#: Name of the block design.
DESIGN = "heatvit_design"
#: The cell of the core in it, which drivers look for.
CELL = f"{NAME}_0"

#: The scripts, which are the same for all boards.
_SCRIPTS = Path(__file__).with_name("vivado")

_SPDX = "# SPDX-License-Identifier: BSD-2-Clause\n"

_GUI = _SPDX + """\
#
# The page of the core in Vivado: it has nothing to set.

proc init_gui {instance} {
    ipgui::add_param $instance -name Component_Name
}
"""


def _set(name: str, value: object) -> str:
    text = str(value)
    plain = text and not set(text) & set(' ;"[]{}$\\')
    return f"set {name} {text if plain else f'{{{text}}}'}\n"


def _list(values: Mapping[str, str]) -> str:
    return " ".join(f"{key} {value if value and ' ' not in value else f'{{{value}}}'}"
                    for key, value in values.items())


def _system(board: Board, config: Config) -> str:
    """Return the settings of the block design."""
    system = board.system
    assert system is not None
    # The clock is set once, above, where a user may change it.
    properties = system.properties(board.clock_mhz, config.ports)
    lines = [_set("design", DESIGN), _set("core_cell", CELL), "\n# Processing system\n"]
    for name in ("vlnv", "cell", "rule"):
        lines.append(_set(f"ps_{name}", getattr(system, name)))
    lines.append(_set("ps_rule_options", _list(system.rule_options)))
    for name in ("clock", "reset", "interrupt", "master", "master_clock", "space"):
        lines.append(_set(f"ps_{name}", getattr(system, name)))
    lines.append("set ps_properties [list")
    for key, text in properties.items():
        value = "$clock_mhz" if system.settings.get(key) == "{clock_mhz}" else text
        lines.append(f" \\\n    {key} {value}")
    lines += ["]\n\n# Registers: interface and block of the core, address and size\n",
              _set("control_interface", CONTROL), _set("control_block", BLOCK),
              _set("control_address", f"{system.control:#x}"),
              _set("control_bytes", f"{1 << ADDRESS_BITS:#x}"),
              "\n# Memory: port of the core, port of the processing system and its clock,\n",
              "# and of each segment that it reaches name, address and bytes\n",
              "set memory_ports {\n"]
    for p, port in enumerate(system.ports[:config.ports]):
        lines.append(f"    {memory_port(p)} {port.interface} {port.clock} {{\n")
        lines += [f"        {s.name} {s.offset:#x} {s.bytes:#x}\n" for s in port.segments]
        lines.append("    }\n")
    return "".join([*lines, "}\n"])


def settings(board: Board, config: Config) -> str:
    """Return settings.tcl."""
    system = board.system
    text = _SPDX + "#\n# All that the scripts beside this file are told.\n\n"
    text += _set("board", board.name) + _set("configuration", config.name)
    text += _set("part", board.part) + _set("board_part", board.board_part)
    text += _set("board_connections", board.connections)
    if system is None:
        text += f"\n# Target frequency, as in core.xdc\n{_set('clock_mhz', board.clock_mhz)}"
    else:
        text += (f"\n# Target frequency, a whole part of {system.pll_mhz} MHz\n"
                 f"{_set('clock_mhz', board.clock_mhz)}")
    text += f"# Jobs of a run at once\n{_set('jobs', 4)}\n"
    text += _set("core_vlnv", ":".join(VLNV))
    return text + (_system(board, config) if system else "")


def _constraints(board: Board) -> dict[str, str]:
    if board.system is None:
        return {"core.xdc": _SPDX + "#\n# The clock of the core, by itself.\n\n"
                f"create_clock -name ap_clk -period {1000 / board.clock_mhz:.3f}"
                " [get_ports ap_clk]\n"}
    return {"heatvit.xdc": _SPDX + """\
#
# The design has no pins of its own: those of the processing system come with its preset, and its
# clock is constrained by its IP.

set_property BITSTREAM.GENERAL.COMPRESS TRUE [current_design]
"""}


def vivado_files(board: Board, config: Config) -> dict[str, str]:
    """Return the files of the folder ``vivado`` of a build; the script to run is the first."""
    names = (["build.tcl", "design.tcl", "linux.tcl", "package.tcl", "report.tcl"] if board.system
             else ["core.tcl", "package.tcl", "report.tcl"])
    files = {name: (_SCRIPTS / name).read_text() for name in names}
    return files | {"settings.tcl": settings(board, config)} | _constraints(board)


def core_files(config: Config, verilog: str) -> dict[str, str]:
    """Return the files of the packaged core, for the folder ``ip/heatvit`` of a build."""
    return {"component.xml": component(config), VERILOG: verilog, GUI: _GUI}
