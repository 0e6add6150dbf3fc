# SPDX-License-Identifier: BSD-2-Clause
"""Check of a packaged core: its component.xml by itself, and against its Verilog."""

import argparse
import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from golden.cli import exit_status
from platforms.ipxact_grammar import SPIRIT, PackageError, check_elements

__all__ = ["check_component", "main", "verilog_ports"]

_SPACES = {"s": SPIRIT}

_CHANNELS = {
    "AW": "ADDR LEN SIZE BURST CACHE PROT ID VALID READY",
    "W": "DATA STRB LAST VALID READY", "B": "RESP ID VALID READY",
    "AR": "ADDR LEN SIZE BURST CACHE PROT ID VALID READY", "R": "DATA RESP LAST ID VALID READY"}
#: Ports of the bus definitions of Vivado that the core may have, and which a master drives.
_LOGICAL = {
    "aximm": {f"{channel}{name}": (name == "READY") == (channel in "BR")
              for channel, names in _CHANNELS.items() for name in names.split()},
    "clock": {"CLK": True}, "reset": {"RST": True}, "interrupt": {"INTERRUPT": True}}
#: Without these there is no bus; and those of a channel that come with its VALID.
_NEEDED = {"aximm": {"ARADDR", "ARVALID", "ARREADY", "RDATA", "RVALID", "RREADY", "RRESP"},
           "clock": {"CLK"}, "reset": {"RST"}, "interrupt": {"INTERRUPT"}}


def verilog_ports(text: str, top: str) -> dict[str, tuple[str, int]]:
    """Return direction, ``in`` or ``out``, and bits of the ports of a module."""
    module = re.search(rf"^module {re.escape(top)}\((.*?)\);\n(.*?)^endmodule", text, re.M | re.S)
    if module is None:
        raise PackageError(f"the Verilog has no module {top}")
    found = {name: (direction[:-3], int(high or 0) + 1) for direction, high, name in
             re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);$", module[2], re.M)}
    listed = re.findall(r"\w+", module[1])
    if sorted(listed) != sorted(found):
        raise PackageError(f"module {top} lists {len(listed)} ports and declares {len(found)}")
    return found


def _text(element: ET.Element, path: str) -> str:
    found = element.find("/".join(f"s:{part}" for part in path.split("/")), _SPACES)
    if found is None or not found.text:
        raise PackageError(f"{_called(element)} has no {path}")
    return found.text


def _called(element: ET.Element) -> str:
    return f"{element.tag.partition('}')[2]} {element.findtext('s:name', '', _SPACES)}".strip()


def _number(element: ET.Element, path: str) -> int:
    text = _text(element, path)
    try:
        return int(text, 0)
    except ValueError:
        raise PackageError(f"{path} of {_called(element)} is {text!r}, must be a number as in 16"
                           " or 0x10") from None


def _all(element: ET.Element, path: str) -> Iterator[ET.Element]:
    return iter(element.findall("/".join(f"s:{part}" for part in path.split("/")), _SPACES))


def check_component(path: Path) -> None:
    """Raise PackageError unless ``path`` is a component that describes its files.

    Elements are as the standard has them. Every port of the Verilog is listed with its direction
    and width, and is in one bus interface under a name that the bus has, for its direction; what
    interfaces name exists; registers lie in their block and apart; files exist. What is wrong is
    said with the path.
    """
    try:
        root = ET.parse(path).getroot()
    except (ET.ParseError, LookupError) as error:  # the latter of an encoding that is not known
        raise PackageError(f"{path} is not XML: {error}") from None
    try:
        _check(root, path.parent)
    except PackageError as error:
        raise PackageError(f"{path}: {error}") from None


def _check(root: ET.Element, folder: Path) -> None:
    if root.tag != f"{{{SPIRIT}}}component":
        raise PackageError(f"the root is {root.tag}, must be a component of IEEE 1685-2009")
    check_elements(root)
    files = _check_files(root, folder)
    top = _text(root, "model/views/view/modelName")
    declared = verilog_ports(files[0].read_text(), top)
    _check_ports(root, declared)
    _check_buses(root, declared)
    _check_registers(root)


def _check_files(root: ET.Element, folder: Path) -> list[Path]:
    sets = {_text(found, "name"): [folder / _text(file, "name") for file in _all(found, "file")]
            for found in _all(root, "fileSets/fileSet")}
    for name, found in sets.items():
        if not found:
            raise PackageError(f"file set {name} has no file, must have at least 1")
    for view in _all(root, "model/views/view"):
        name = _text(view, "fileSetRef/localName")
        if name not in sets:
            raise PackageError(f"view {_text(view, 'name')} names file set {name}, which is none")
    files = [file for found in sets.values() for file in found]
    for file in files:
        if not file.is_file():
            raise PackageError(f"file {file} of component.xml does not exist")
    return files


def _check_ports(root: ET.Element, declared: dict[str, tuple[str, int]]) -> None:
    listed = {}
    for port in _all(root, "model/ports/port"):
        vector = port.find("s:wire/s:vector", _SPACES)
        bits = 1 + (0 if vector is None else _number(vector, "left") - _number(vector, "right"))
        listed[_text(port, "name")] = (_text(port, "wire/direction"), bits)
    for name in declared.keys() | listed.keys():
        if declared.get(name) != listed.get(name):
            raise PackageError(f"port {name} is {_said(listed.get(name))} in component.xml,"
                               f" {_said(declared.get(name))} in the Verilog")


def _said(port: tuple[str, int] | None) -> str:
    return "no port" if port is None else f"{port[0]}put of {port[1]} bits"


def _check_buses(root: ET.Element, declared: dict[str, tuple[str, int]]) -> None:
    buses = {_text(bus, "name"): bus for bus in _all(root, "busInterfaces/busInterface")}
    spaces = {_text(found, "name") for found in _all(root, "addressSpaces/addressSpace")}
    maps = {_text(found, "name") for found in _all(root, "memoryMaps/memoryMap")}
    mapped: Counter[str] = Counter()
    for name, bus in buses.items():
        kind = bus.find("s:busType", _SPACES)
        assert kind is not None
        kind_name = kind.get(f"{{{SPIRIT}}}name", "")
        if kind_name not in _LOGICAL:
            raise PackageError(f"interface {name} is a bus {kind_name!r}, must be one of"
                               f" {', '.join(_LOGICAL)}")
        master = bus.find("s:master", _SPACES) is not None
        logical = {_text(pair, "logicalPort/name"): _text(pair, "physicalPort/name")
                   for pair in _all(bus, "portMaps/portMap")}
        mapped.update(logical.values())
        if missing := _NEEDED[kind_name] - logical.keys():
            raise PackageError(f"interface {name} lacks {min(missing)}")
        for port_name, physical in logical.items():
            if port_name not in _LOGICAL[kind_name]:
                raise PackageError(f"interface {name} has {port_name}, which {kind_name} has not")
            way = "out" if _LOGICAL[kind_name][port_name] == master else "in"
            if physical not in declared:
                raise PackageError(f"interface {name} maps {port_name} to {physical}, which is no"
                                   " port")
            if declared[physical][0] != way:
                raise PackageError(f"interface {name} has {port_name} as {way}put, {physical} is"
                                   f" {declared[physical][0]}put")
        for tag, known in (("addressSpaceRef", spaces), ("memoryMapRef", maps)):
            for reference in bus.iter(f"{{{SPIRIT}}}{tag}"):
                wanted = reference.get(f"{{{SPIRIT}}}{tag}")
                if wanted not in known:
                    raise PackageError(f"interface {name} names {wanted}, which is no {tag[:-3]}")
        _check_parameters(name, bus, logical, declared, buses.keys())
    for port in declared:
        if mapped[port] != 1:
            raise PackageError(f"port {port} is in {mapped[port]} interfaces, must be in 1")


def _check_parameters(name: str, bus: ET.Element, logical: dict[str, str],
                      declared: dict[str, tuple[str, int]], buses: Container[str]) -> None:
    """Check the parameters that say what ports say as well, or name interfaces."""
    for parameter in _all(bus, "parameters/parameter"):
        key, value = _text(parameter, "name"), _text(parameter, "value")
        for width, port in (("DATA_WIDTH", "RDATA"), ("ADDR_WIDTH", "ARADDR"),
                            ("ID_WIDTH", "ARID")):
            if key != width:
                continue
            if port not in logical:
                raise PackageError(f"interface {name} has {key}, and no {port}")
            if _number(parameter, "value") != declared[logical[port]][1]:
                raise PackageError(f"{key} of interface {name} is {value}, {port} has"
                                   f" {declared[logical[port]][1]} bits")
        if key in ("ASSOCIATED_BUSIF", "ASSOCIATED_RESET"):
            for other in value.split(":"):
                if other not in buses:
                    raise PackageError(f"{key} of interface {name} names {other}, which is none")


def _check_registers(root: ET.Element) -> None:
    for block in _all(root, "memoryMaps/memoryMap/addressBlock"):
        size = _number(block, "range")
        taken: dict[int, str] = {}
        for register in _all(block, "register"):
            name, offset = _text(register, "name"), _number(register, "addressOffset")
            count = 1 if register.find("s:dim", _SPACES) is None else _number(register, "dim")
            width = _number(register, "size")
            for at in range(offset, offset + count * width // 8):
                if at in taken or at >= size:
                    raise PackageError(f"register {name} is at {offset:#x}, where"
                                       f" {taken.get(at, 'its block has ended')} is")
                taken[at] = name
            used = 0
            for field in _all(register, "field"):
                low, bits = _number(field, "bitOffset"), _number(field, "bitWidth")
                mask = (1 << bits) - 1 << low
                if mask & used or low + bits > width:
                    raise PackageError(f"field {_text(field, 'name')} of register {name} takes bits"
                                       f" {low} to {low + bits - 1}, which are not free")
                used |= mask


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m platforms.ipxact_check``."""
    parser = argparse.ArgumentParser(
        prog="python -m platforms.ipxact_check", description=__doc__)
    parser.add_argument("component", type=Path, metavar="FILE",
                        help="component.xml of a core, with the files that it names beside it")
    options = parser.parse_args(arguments)

    def run() -> None:
        check_component(options.component)
        root = ET.parse(options.component).getroot()
        ports, interfaces, registers = (
            len(list(_all(root, path))) for path in (
                "model/ports/port", "busInterfaces/busInterface",
                "memoryMaps/memoryMap/addressBlock/register"))
        print(f"{options.component}: {check_elements(root)} elements in order, {ports} ports"
              f" in {interfaces} interfaces as in the Verilog, {registers} registers apart")

    return exit_status("platforms.ipxact_check", run)


if __name__ == "__main__":
    sys.exit(main())
