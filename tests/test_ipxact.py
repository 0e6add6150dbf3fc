# SPDX-License-Identifier: BSD-2-Clause
"""The packaged core: it describes its Verilog, and what does not is refused."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from amaranth.lib.wiring import In

from platforms.ipxact import component
from platforms.ipxact_check import check_component, main, verilog_ports
from platforms.ipxact_grammar import SPIRIT, PackageError, check_elements
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


def _elements() -> dict[str, list[str]]:
    """Return the elements of the standard that have others in them, with the tags of these."""
    found: dict[str, list[str]] = {}
    for element in ET.fromstring(component(named("small")).split("\n", 1)[1]).iter():
        if len(element) and element.tag.startswith(f"{{{SPIRIT}}}"):
            tags = [child.tag.removeprefix(f"{{{SPIRIT}}}") for child in element]
            tag = element.tag.removeprefix(f"{{{SPIRIT}}}")
            if len(set(tags)) > len(set(found.get(tag, []))):
                found[tag] = tags
    found.pop("vendorExtensions")
    return found


def _changed(tag: str, change: Callable[[ET.Element], None]) -> ET.Element:
    """Return the component with a change of that element ``tag`` which has most kinds in it."""
    root = ET.fromstring(component(named("small")).split("\n", 1)[1])
    change(max(root.iter(f"{{{SPIRIT}}}{tag}"), key=lambda e: len({child.tag for child in e})))
    return root


@pytest.mark.parametrize("tag", _elements())
def test_order_of_elements_is_that_of_the_standard(tag: str) -> None:
    def swap(element: ET.Element) -> None:
        first = next(i for i, child in enumerate(element[:-1]) if child.tag != element[i + 1].tag)
        child = element[first]
        element.remove(child)
        element.insert(first + 1, child)

    def unknown(element: ET.Element) -> None:
        ET.SubElement(element, f"{{{SPIRIT}}}comment").text = "text"

    def empty(element: ET.Element) -> None:
        element[:] = []

    check_elements(_changed(tag, lambda element: None))
    changes = [unknown] + [swap] * (len(set(_elements()[tag])) > 1)
    for change in changes + [empty] * (tag not in ("master", "slave", "model")):
        with pytest.raises(PackageError, match=f"element {tag} .*must hold"):
            check_elements(_changed(tag, change))


@pytest.mark.parametrize(("tag", "text"), [
    ("direction", "input"), ("baseAddress", "zero"), ("access", "rw"), ("usage", "registers"),
    ("bitWidth", "1:0"), ("modifiedWriteValue", "one"), ("readAction", "read"), ("name", " "),
    ("volatile", "no")])
def test_texts_are_those_of_the_standard(tag: str, text: str) -> None:
    def change(element: ET.Element) -> None:
        element.text = text

    with pytest.raises(PackageError, match=f"element {tag} holds"):
        check_elements(_changed(tag, change))


@pytest.mark.parametrize("tag", ["port", "busInterface", "register", "field", "addressSpace"])
def test_names_are_given_once(tag: str) -> None:
    root = ET.fromstring(component(named("small")).split("\n", 1)[1])
    parent = next(e for e in root.iter() if len(e.findall(f"s:{tag}", _S)) > 1)
    first, second, *_ = parent.findall(f"s:{tag}", _S)
    second[0].text = first[0].text
    with pytest.raises(PackageError, match=f"{tag} {first[0].text} is in .* twice"):
        check_elements(root)


@pytest.mark.parametrize("tag", ["busType", "abstractionType", "memoryMapRef", "addressSpaceRef"])
def test_references_have_their_attributes(tag: str) -> None:
    def change(element: ET.Element) -> None:
        del element.attrib[next(iter(element.attrib))]

    with pytest.raises(PackageError, match=f"element {tag} has the attributes"):
        check_elements(_changed(tag, change))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _package(tmp_path, "nano")
    assert main([str(path)]) == 0
    said = capsys.readouterr().out
    assert f"{len(members(named('nano')))} ports in 5 interfaces as in the Verilog" in said
    path.write_text(path.read_text().replace(">ap_clk<", ">clk<"))
    assert main([str(path)]) == 2
    assert main([str(tmp_path / "none.xml")]) == 2
    said = capsys.readouterr().err
    assert said.count("platforms.ipxact_check: ") == said.count("\n") == 2


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


def _without_prefix(reference: str) -> tuple[str, str]:
    """Return the first reference of that kind, and with an attribute in no namespace."""
    text = component(named("tiny"))
    old = text[text.index(f"<spirit:{reference} "):]
    old = old[:old.index(">")]
    return old, old.replace(" spirit:name=", " name=")


@pytest.mark.parametrize(("old", "new", "said"), [
    ('spirit:library="signal" spirit:name="clock"', 'spirit:library="signal" spirit:name="clk"',
     "interface ap_clk is a bus 'clk', must be one of aximm, clock, reset, interrupt"),
    (*_without_prefix("busType"),
     "element busType has the attributes library, vendor, version, {}name, must have"),
    (*_without_prefix("abstractionType"), "element abstractionType has the attributes"),
    (">heatvit</spirit:modelName>", ">heat(vit</spirit:modelName>",
     "the Verilog has no module heat(vit"),
    ("DATA_WIDTH</spirit:name>", "ID_WIDTH</spirit:name>",
     "interface s_axi_control has ID_WIDTH, and no ARID"),
    ('S_AXI_CONTROL.DATA_WIDTH">32<', 'S_AXI_CONTROL.DATA_WIDTH">wide<',
     "value of parameter DATA_WIDTH is 'wide', must be a number"),
    ("<spirit:left>11<", "<spirit:left>011<", "left of vector is '011', must be a number"),
    ("<spirit:bitOffset>1<", "<spirit:bitOffset>01<", "is '01', must be a number"),
])
def test_bad_files_end_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str,
                                       new: str, said: str) -> None:
    path = _package(tmp_path, "tiny", old, new)
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"platforms.ipxact_check: {path}: ") and error.count("\n") == 1
    assert said in error


def test_a_file_set_has_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _package(tmp_path, "tiny")
    tree = ET.parse(path)
    first = next(tree.iter(f"{{{SPIRIT}}}fileSet"))
    for file in first.findall("s:file", _S):
        first.remove(file)
    tree.write(path)
    assert main([str(path)]) == 2
    assert capsys.readouterr().err == (
        f"platforms.ipxact_check: {path}: file set {first.findtext('s:name', '', _S)} has no file,"
        " must have at least 1\n")


def test_an_element_without_its_namespace_is_refused() -> None:
    def change(element: ET.Element) -> None:
        element.tag = "busType"

    with pytest.raises(PackageError, match="element busInterface .* holds name, {}busType"):
        check_elements(_changed("busType", change))


def test_numbers_may_be_hexadecimal(tmp_path: Path) -> None:
    for change in (("<spirit:left>11<", "<spirit:left>0xb<"),
                   ("<spirit:range>4096<", "<spirit:range>0x1000<"),
                   ("<spirit:size>32<", "<spirit:size>0x20<"),
                   ("<spirit:bitOffset>1<", "<spirit:bitOffset>0x1<")):
        check_component(_package(tmp_path, "tiny", *change))


def test_what_was_checked_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _package(tmp_path, "tiny")
    assert main([str(path)]) == 0
    before = capsys.readouterr().out
    path.write_text(path.read_text().replace(
        "</spirit:vendorExtensions>", "<spirit:port/></spirit:vendorExtensions>"))
    assert main([str(path)]) == 0
    assert capsys.readouterr().out == before
    root = ET.parse(path).getroot()
    extensions = root.find("s:vendorExtensions", _S)
    assert extensions is not None
    count = sum(1 for _ in root.iter()) - sum(1 for _ in extensions.iter()) + 1
    assert f"{count} elements in order" in before


def test_ports_are_read_from_the_verilog() -> None:
    text = "module a(x, y);\n  input [3:0] x;\n  wire [3:0] x;\n  output y;\nendmodule\n"
    assert verilog_ports(text, "a") == {"x": ("in", 4), "y": ("out", 1)}
    with pytest.raises(PackageError, match="no module b"):
        verilog_ports(text, "b")
