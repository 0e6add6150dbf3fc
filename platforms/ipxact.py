# SPDX-License-Identifier: BSD-2-Clause
"""The IP core as IP-XACT (IEEE 1685-2009): the component.xml that Vivado reads from a catalog."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from enum import Enum

from amaranth.lib.wiring import In

from platforms.ipxact_grammar import SPIRIT
from rtl.config import Config
from rtl.interfaces import ADDR_BITS, CONTROL, Interface, Kind, interfaces, members, width
from rtl.isa import ISA_VERSION
from rtl.registers import ADDRESS_BITS, REGISTERS, WORD_BYTES, Access, Field, Register

__all__ = ["BLOCK", "GUI", "NAME", "VERILOG", "VLNV", "XILINX", "component"]

#: Namespace of what Vivado adds to the standard.
XILINX = "http://www.xilinx.com"

#: Name of the core, and under which the catalog has it: the version is that of the instructions.
NAME = "heatvit"
VLNV = ("heatvit-rtl.org", "ip", NAME, f"{ISA_VERSION}.0")
#: The address block of the registers, which an address map names.
BLOCK = "reg0"
#: Files of the core, relative to component.xml.
VERILOG = f"src/{NAME}.v"
GUI = f"xgui/{NAME}_v{ISA_VERSION}_0.tcl"

_SYNTHESIS, _SIMULATION, _GUI = ("xilinx_anylanguagesynthesis",
                                 "xilinx_anylanguagebehavioralsimulation", "xilinx_xpgui")

#: Families of devices by the form of the array: those with DSP48E2, or also those without.
_NEWER = ("zynquplus", "virtexuplus", "kintexuplus", "virtexuplusHBM", "zynquplusRFSOC",
          "artixuplus")
_OLDER = ("zynq", "artix7", "kintex7", "virtex7")

#: Access of a field: as a standard word, what writing does, what reading does.
_ACCESS = {Access.RW: ("read-write", "", ""), Access.RO: ("read-only", "", ""),
           Access.SET: ("read-write", "oneToSet", ""), Access.COR: ("read-only", "", "clear"),
           Access.TOW: ("read-write", "oneToToggle", "")}


def _name(tag: str) -> str:
    return f"{{{XILINX}}}{tag[2:]}" if tag.startswith("x:") else f"{{{SPIRIT}}}{tag}"


def _add(parent: ET.Element, tag: str, text: object = None, **attributes: str) -> ET.Element:
    """Add an element of the standard, or with ``x:`` one of Vivado."""
    prefix = "x:" if tag.startswith("x:") else ""
    child = ET.SubElement(parent, _name(tag),
                          {_name(prefix + key): value for key, value in attributes.items()})
    if text is not None:
        child.text = str(text)
    return child


def _vlnv(parent: ET.Element, tag: str, vlnv: str, suffix: str = "") -> None:
    vendor, library, name, version = vlnv.split(":")
    _add(parent, tag, vendor=vendor, library=library, name=name + suffix, version=version)


def _parameters(parent: ET.Element, values: Mapping[str, str], prefix: str) -> None:
    if not values:
        return
    parameters = _add(parent, "parameters")
    for name, text in values.items():
        parameter = _add(parameters, "parameter")
        _add(parameter, "name", name)
        _add(parameter, "value", text, id=f"{prefix}.{name}")


def _bus(parent: ET.Element, interface: Interface) -> None:
    bus = _add(parent, "busInterface")
    _add(bus, "name", interface.name)
    _vlnv(bus, "busType", interface.kind.value)
    _vlnv(bus, "abstractionType", interface.kind.value, "_rtl")
    role = _add(bus, "master" if interface.master else "slave")
    if interface.kind == Kind.AXI:
        if interface.master:
            _add(role, "addressSpaceRef", addressSpaceRef=interface.name)
        else:
            _add(role, "memoryMapRef", memoryMapRef=interface.name)
    maps = _add(bus, "portMaps")
    for logical, port in interface.ports.items():
        pair = _add(maps, "portMap")
        _add(_add(pair, "logicalPort"), "name", logical)
        _add(_add(pair, "physicalPort"), "name", port)
    _parameters(bus, interface.parameters, f"BUSIFPARAM_VALUE.{interface.name.upper()}")


def _field(parent: ET.Element, field: Field, low: int, bits: int) -> None:
    access, write, read = _ACCESS[field.access]
    child = _add(parent, "field")
    _add(child, "name", field.name)
    _add(child, "description", field.description)
    _add(child, "bitOffset", low)
    _add(child, "bitWidth", bits)
    if field.access != Access.RW:
        _add(child, "volatile", "true")
    _add(child, "access", access)
    if field.values is not None:
        _values(child, field.values)
    if write:
        _add(child, "modifiedWriteValue", write)
    if read:
        _add(child, "readAction", read)


def _values(parent: ET.Element, values: type[Enum]) -> None:
    listed = _add(parent, "enumeratedValues")
    for value in values:
        child = _add(listed, "enumeratedValue")
        _add(child, "name", value.name)
        _add(child, "value", value.value)


def _word(parent: ET.Element, register: Register, word: int) -> None:
    """Add word ``word`` of a register; wider registers are several, as HLS has them."""
    words = register.width // 32
    child = _add(parent, "register")
    _add(child, "name", register.name if words == 1 else f"{register.name}_{word + 1}")
    part = "" if words == 1 else f" Bits {32 * word + 31} to {32 * word}."
    _add(child, "description", register.description + part)
    if register.count > 1:
        _add(child, "dim", register.count)
    _add(child, "addressOffset", f"{register.offset + WORD_BYTES * word:#x}")
    _add(child, "size", 32)
    accesses = {_ACCESS[field.access][0] for field in register.fields}
    _add(child, "access", accesses.pop() if len(accesses) == 1 else "read-write")
    for field in register.fields:
        low = max(field.low - 32 * word, 0)
        high = min(field.low + field.width - 32 * word, 32)
        if high > low:
            _field(child, field, low, high - low)


def _memory_map(parent: ET.Element) -> None:
    found = _add(_add(parent, "memoryMaps"), "memoryMap")
    _add(found, "name", CONTROL)
    block = _add(found, "addressBlock")
    _add(block, "name", BLOCK)
    _add(block, "baseAddress", 0)
    _add(block, "range", 1 << ADDRESS_BITS)
    _add(block, "width", 32)
    _add(block, "usage", "register")
    for register in REGISTERS:
        for word in range(register.width // 32):
            _word(block, register, word)


def _address_spaces(parent: ET.Element, config: Config) -> None:
    spaces = _add(parent, "addressSpaces")
    for interface in interfaces(config):
        if interface.kind == Kind.AXI and interface.master:
            space = _add(spaces, "addressSpace")
            _add(space, "name", interface.name)
            _add(space, "range", 1 << ADDR_BITS)
            _add(space, "width", config.port_bits)


def _model(parent: ET.Element, config: Config) -> None:
    model = _add(parent, "model")
    views = _add(model, "views")
    for name, purpose in ((_SYNTHESIS, "synthesis"), (_SIMULATION, "simulation"),
                          (_GUI, "xgui.ui")):
        view = _add(views, "view")
        _add(view, "name", name)
        _add(view, "envIdentifier", f":vivado.xilinx.com:{purpose}")
        if name != _GUI:
            _add(view, "language", "Verilog")
            _add(view, "modelName", NAME)
        _add(_add(view, "fileSetRef"), "localName", f"{name}_view_fileset")
    ports = _add(model, "ports")
    for name, member in members(config).items():
        port = _add(ports, "port")
        _add(port, "name", name)
        wire = _add(port, "wire")
        _add(wire, "direction", "in" if member.flow is In else "out")
        bits = width(member)
        if bits > 1:
            vector = _add(wire, "vector")
            _add(vector, "left", bits - 1)
            _add(vector, "right", 0)
        definition = _add(_add(wire, "wireTypeDefs"), "wireTypeDef")
        _add(definition, "typeName", "wire")
        for view_name in (_SYNTHESIS, _SIMULATION):
            _add(definition, "viewNameRef", view_name)


def _file_sets(parent: ET.Element) -> None:
    sets = _add(parent, "fileSets")
    for name, path, kind in ((_SYNTHESIS, VERILOG, "verilogSource"),
                             (_SIMULATION, VERILOG, "verilogSource"),
                             (_GUI, GUI, "tclSource")):
        found = _add(sets, "fileSet")
        _add(found, "name", f"{name}_view_fileset")
        file = _add(found, "file")
        _add(file, "name", path)
        _add(file, "fileType", kind)


def _extensions(parent: ET.Element, config: Config) -> None:
    core = _add(_add(parent, "vendorExtensions"), "x:coreExtensions")
    families = _add(core, "x:supportedFamilies")
    for family in _NEWER if config.multiplier == "dsp48e2" else (*_NEWER, *_OLDER):
        _add(families, "x:family", family, lifeCycle="Production")
    _add(_add(core, "x:taxonomies"), "x:taxonomy", "/UserIP")
    _add(core, "x:displayName", f"HeatViT ({config.name})")
    _add(core, "x:coreRevision", ISA_VERSION)


def component(config: Config) -> str:
    """Return component.xml for the core of ``config``, the same bytes for the same one."""
    ET.register_namespace("spirit", SPIRIT)
    ET.register_namespace("xilinx", XILINX)
    root = ET.Element(_name("component"))
    for tag, text in zip(("vendor", "library", "name", "version"), VLNV, strict=True):
        _add(root, tag, text)
    buses = _add(root, "busInterfaces")
    for interface in interfaces(config):
        _bus(buses, interface)
    _address_spaces(root, config)
    _memory_map(root)
    _model(root, config)
    _file_sets(root)
    _add(root, "description", f"Vision transformers, {config.rows} x {config.columns} array")
    parameter = _add(_add(root, "parameters"), "parameter")
    _add(parameter, "name", "Component_Name")
    _add(parameter, "value", f"{NAME}_v{ISA_VERSION}_0", resolve="user",
         id="PARAM_VALUE.Component_Name", order="1")
    _extensions(root, config)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'
