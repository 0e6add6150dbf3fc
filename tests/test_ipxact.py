# SPDX-License-Identifier: BSD-2-Clause
"""The packaged core: it describes its Verilog, and what does not is refused."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from amaranth.lib.wiring import In

from platforms.ipxact import SPIRIT, component
from platforms.ipxact_check import PackageError, check_component, verilog_ports
from platforms.vivado import core_files
from rtl.config import CONFIGS, Config, named
from rtl.interfaces import members, width
from rtl.registers import REGISTERS

_S = {"s": SPIRIT}


def verilog_shell(config: Config) -> str:
    """Return a module with the ports of the accelerator and nothing in it."""
    lines = []
    for name, member in members(config).items():
        way, bits = "input" if member.flow is In else "output", width(member)
        lines.append(f"  {way} {f'[{bits - 1}:0] ' if bits > 1 else ''}{name};\n")
    return f"module heatvit({', '.join(members(config))});\n{''.join(lines)}endmodule\n"


def _package(folder: Path, config: str, *change: str) -> Path:
    for name, text in core_files(named(config), verilog_shell(named(config))).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    path = folder / "component.xml"
    if change:
        text = path.read_text()
        assert change[0] in text
        path.write_text(text.replace(change[0], change[1], 1))
    return path


@pytest.mark.parametrize("config", CONFIGS)
def test_component_describes_its_verilog(tmp_path: Path, config: str) -> None:
    check_component(_package(tmp_path, config))
    assert component(named(config)) == component(named(config))


def test_registers_are_those_of_the_core() -> None:
    root = ET.fromstring(component(named("tiny")).split("\n", 1)[1])
    found = {r.findtext("s:name", "", _S): int(r.findtext("s:addressOffset", "", _S), 0)
             for r in root.iter(f"{{{SPIRIT}}}register")}
    for register in REGISTERS:
        name = register.name if register.width == 32 else f"{register.name}_1"
        assert found.pop(name) == register.offset
        if register.width == 64:
            assert found.pop(f"{register.name}_2") == register.offset + 4
    assert not found


def test_order_of_elements_is_that_of_the_standard() -> None:
    """A schema of the standard is not shipped with this: its order of elements is told here."""
    root = ET.fromstring(component(named("small")).split("\n", 1)[1])
    order = {
        "component": "vendor library name version busInterfaces addressSpaces memoryMaps model"
                     " fileSets description parameters vendorExtensions",
        "busInterface": "name busType abstractionType master slave portMaps parameters",
        "register": "name description dim addressOffset size access field",
        "field": "name description bitOffset bitWidth volatile access enumeratedValues"
                 " modifiedWriteValue readAction",
        "addressBlock": "name baseAddress range width usage register",
        "view": "name envIdentifier language modelName fileSetRef",
        "wire": "direction vector wireTypeDefs"}
    for tag, names in order.items():
        places = {name: i for i, name in enumerate(names.split())}
        elements = list(root.iter(f"{{{SPIRIT}}}{tag}"))
        assert elements
        for element in elements:
            found = [places[child.tag.partition("}")[2]] for child in element]
            assert found == sorted(found), (tag, element.findtext("s:name", "", _S))


@pytest.mark.parametrize(("old", "new", "said"), [
    ("<spirit:left>11<", "<spirit:left>12<", "input of 13 bits in component.xml, input of 12"),
    ("<spirit:direction>in<", "<spirit:direction>out<", "port ap_clk is output of 1 bits"),
    (">AWVALID<", ">AWVALIDS<", "AWVALIDS, which aximm has not"),
    (">s_axi_control_wready<", ">s_axi_control_bready<", "WREADY as output, s_axi_control_bready"),
    (">s_axi_control_wready<", ">s_axi_control_bvalid<", "must be in 1"),
    (">m_axi_gmem0_rlast<", ">m_axi_gmem7_rlast<", "m_axi_gmem7_rlast, which is no port"),
    ('memoryMapRef="s_axi_control"', 'memoryMapRef="control"', "names control, which is no"),
    ('addressSpaceRef="m_axi_gmem0"', 'addressSpaceRef="gmem0"', "names gmem0, which is no"),
    ("s_axi_control:m_axi_gmem0<", "s_axi_control:m_axi_gmem9<", "m_axi_gmem9, which is none"),
    ('S_AXI_CONTROL.DATA_WIDTH">32<', 'S_AXI_CONTROL.DATA_WIDTH">64<', "RDATA has 32 bits"),
    (">src/heatvit.v<", ">src/heatvits.v<", "heatvits.v of component.xml does not exist"),
    (">0x4<", ">0x0<", "register GIE is at 0x0, where CTRL is"),
    ("<spirit:bitOffset>1<", "<spirit:bitOffset>0<", "which are not free"),
    ("<spirit:component ", "<spirit:design ", "is not XML"),
])
def test_mistakes_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = _package(tmp_path, "tiny", old, new)
    with pytest.raises(PackageError, match=said):
        check_component(path)


def test_ports_are_read_from_the_verilog() -> None:
    text = "module a(x, y);\n  input [3:0] x;\n  wire [3:0] x;\n  output y;\nendmodule\n"
    assert verilog_ports(text, "a") == {"x": ("in", 4), "y": ("out", 1)}
    with pytest.raises(PackageError, match="no module b"):
        verilog_ports(text, "b")
