# SPDX-License-Identifier: BSD-2-Clause
"""What the stubbed Vivado knows of IPs: tables of its own, and the core from its component.xml."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SPIRIT = {"s": "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"}

class Refused(Exception):
    """What Vivado would end with."""


@dataclass
class Pin:
    """A pin of a cell: ``out`` or ``in``; clocks and resets must be connected."""

    way: str
    bits: int = 1
    kind: str = ""


@dataclass
class Bus:
    """A bus interface: master or slave, its protocol and widths, the clock that it runs with."""

    master: bool
    clock: str
    data: int = 0
    protocol: str = "AXI4"
    segments: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Cell:
    """A cell: what it is, its properties, and functions that give pins and interfaces by them."""

    vlnv: str
    allowed: dict[str, str]
    shape: Callable[[dict[str, str]], tuple[dict[str, Pin], dict[str, Bus]]]
    values: dict[str, str] = field(default_factory=dict)
    automated: bool = False

    @property
    def pins(self) -> dict[str, Pin]:
        return self.shape(self.values)[0]

    @property
    def buses(self) -> dict[str, Bus]:
        return self.shape(self.values)[1]


def _on(values: dict[str, str], name: str) -> bool:
    return values.get(f"CONFIG.{name}", "0") == "1"


def _mpsoc(values: dict[str, str]) -> tuple[dict[str, Pin], dict[str, Bus]]:
    pins = {"pl_resetn0": Pin("out", kind="low")}
    buses = {}
    if _on(values, "PSU__FPGA_PL0_ENABLE"):
        pins["pl_clk0"] = Pin("out", kind="clock")
    if _on(values, "PSU__USE__IRQ0"):
        pins["pl_ps_irq0"] = Pin("in")
    for index, name in enumerate(("HPM0_FPD", "HPM1_FPD", "HPM0_LPD")):
        if _on(values, f"PSU__USE__M_AXI_GP{index}"):
            pins[f"maxi{name.lower()}_aclk"] = Pin("in", kind="clock")
            buses[f"M_AXI_{name}"] = Bus(True, f"maxi{name.lower()}_aclk", 128)
    for p in range(4):
        if _on(values, f"PSU__USE__S_AXI_GP{p + 2}"):
            pins[f"saxihp{p}_fpd_aclk"] = Pin("in", kind="clock")
            place = f"SAXIGP{p + 2}/HP{p}"
            buses[f"S_AXI_HP{p}_FPD"] = Bus(
                False, f"saxihp{p}_fpd_aclk",
                int(values.get(f"CONFIG.PSU__SAXIGP{p + 2}__DATA_WIDTH", "128")),
                segments={f"{place}_DDR_LOW": (0, 1 << 31),
                          f"{place}_LPS_OCM": (0xFF000000, 1 << 24),
                          f"{place}_QSPI": (0xC0000000, 1 << 29),
                          f"{place}_DDR_HIGH": (0x800000000, 1 << 35)})
    return pins, buses


def _zynq7(values: dict[str, str]) -> tuple[dict[str, Pin], dict[str, Bus]]:
    pins, buses = {}, {}
    if _on(values, "PCW_EN_CLK0_PORT"):
        pins["FCLK_CLK0"] = Pin("out", kind="clock")
    if _on(values, "PCW_EN_RST0_PORT"):
        pins["FCLK_RESET0_N"] = Pin("out", kind="low")
    if _on(values, "PCW_USE_FABRIC_INTERRUPT") and _on(values, "PCW_IRQ_F2P_INTR"):
        pins["IRQ_F2P"] = Pin("in")
    if _on(values, "PCW_USE_M_AXI_GP0"):
        pins["M_AXI_GP0_ACLK"] = Pin("in", kind="clock")
        buses["M_AXI_GP0"] = Bus(True, "M_AXI_GP0_ACLK", 32, "AXI3")
    for p in range(4):
        if _on(values, f"PCW_USE_S_AXI_HP{p}"):
            pins[f"S_AXI_HP{p}_ACLK"] = Pin("in", kind="clock")
            buses[f"S_AXI_HP{p}"] = Bus(
                False, f"S_AXI_HP{p}_ACLK",
                int(values.get(f"CONFIG.PCW_S_AXI_HP{p}_DATA_WIDTH", "64")), "AXI3",
                segments={f"S_AXI_HP{p}/HP{p}_DDR_LOWOCM": (0, 1 << 29)})
    return pins, buses


def _smartconnect(values: dict[str, str]) -> tuple[dict[str, Pin], dict[str, Bus]]:
    buses = {}
    for number, master in (("NUM_SI", False), ("NUM_MI", True)):
        for i in range(int(values.get(f"CONFIG.{number}", "1" if master else "2"))):
            buses[f"{'M' if master else 'S'}{i:02d}_AXI"] = Bus(master, "aclk", 0, "any")
    return {"aclk": Pin("in", kind="clock"), "aresetn": Pin("in", kind="low")}, buses


def _reset(values: dict[str, str]) -> tuple[dict[str, Pin], dict[str, Bus]]:
    return {"slowest_sync_clk": Pin("in", kind="clock"), "ext_reset_in": Pin("in", kind="low"),
            "dcm_locked": Pin("in", kind="tied"), "aux_reset_in": Pin("in", kind="tied"),
            "peripheral_aresetn": Pin("out", kind="low"), "peripheral_reset": Pin("out",
                                                                                kind="high"),
            "interconnect_aresetn": Pin("out", kind="low")}, {}


_FLAG, _MHZ = "0|1", r"\d+(\.\d+)?"
#: IPs: properties with what they may be, what these make, and the rule that applies a preset.
IPS = {
    "xilinx.com:ip:zynq_ultra_ps_e": (
        {"PSU__FPGA_PL0_ENABLE": _FLAG, "PSU__CRL_APB__PL0_REF_CTRL__SRCSEL": "IOPLL|RPLL|DPLL",
         "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ": _MHZ, "PSU__USE__FABRIC__RST": _FLAG,
         "PSU__USE__IRQ0": _FLAG, **{f"PSU__USE__M_AXI_GP{i}": _FLAG for i in range(3)},
         **{f"PSU__USE__S_AXI_GP{i}": _FLAG for i in range(7)},
         **{f"PSU__SAXIGP{i}__DATA_WIDTH": "32|64|128" for i in range(7)}}, _mpsoc,
        ("xilinx.com:bd_rule:zynq_ultra_ps_e", {"apply_board_preset"})),
    "xilinx.com:ip:processing_system7": (
        {"PCW_EN_CLK0_PORT": _FLAG, "PCW_EN_RST0_PORT": _FLAG,
         "PCW_FPGA0_PERIPHERAL_FREQMHZ": _MHZ, "PCW_USE_M_AXI_GP0": _FLAG,
         "PCW_USE_FABRIC_INTERRUPT": _FLAG, "PCW_IRQ_F2P_INTR": _FLAG,
         **{f"PCW_USE_S_AXI_HP{i}": _FLAG for i in range(4)},
         **{f"PCW_S_AXI_HP{i}_DATA_WIDTH": "32|64" for i in range(4)}}, _zynq7,
        ("xilinx.com:bd_rule:processing_system7",
         {"apply_board_preset", "make_external", "Master", "Slave"})),
    "xilinx.com:ip:smartconnect": ({"NUM_SI": r"\d+", "NUM_MI": r"\d+"}, _smartconnect, None),
    "xilinx.com:ip:proc_sys_reset": ({}, _reset, None),
}


class Core:
    """The core as Vivado would read it from its component.xml."""

    def __init__(self, component: Path) -> None:
        root = ET.parse(component).getroot()

        def text(element: ET.Element, path: str) -> str:
            return element.findtext("/".join(f"s:{p}" for p in path.split("/")), "", SPIRIT)

        self.component = component
        self.vlnv = ":".join(text(root, tag) for tag in ("vendor", "library", "name", "version"))
        self.files = {component.parent / text(file, "name")
                      for file in root.findall(".//s:file", SPIRIT)}
        bits = {}
        for port in root.findall("s:model/s:ports/s:port", SPIRIT):
            high = text(port, "wire/vector/left")
            bits[text(port, "name")] = Pin(text(port, "wire/direction"), int(high or 0) + 1)
        self.ports = set(bits)
        self.pins, self.buses, self.spaces = {}, {}, set()
        blocks = {text(memory, "name"): [
            (text(block, "name"), int(text(block, "range")))
            for block in memory.findall("s:addressBlock", SPIRIT)]
            for memory in root.findall("s:memoryMaps/s:memoryMap", SPIRIT)}
        for bus in root.findall("s:busInterfaces/s:busInterface", SPIRIT):
            name = text(bus, "name")
            kind = bus.find("s:busType", SPIRIT).get(f"{{{SPIRIT['s']}}}name")
            values = {text(p, "name"): text(p, "value")
                      for p in bus.findall("s:parameters/s:parameter", SPIRIT)}
            master = bus.find("s:master", SPIRIT) is not None
            ports = {text(m, "logicalPort/name"): text(m, "physicalPort/name")
                     for m in bus.findall("s:portMaps/s:portMap", SPIRIT)}
            if kind == "aximm":
                self.buses[name] = Bus(
                    master, "ap_clk", bits[ports["RDATA"]].bits, values["PROTOCOL"],
                    {} if master else {f"{name}/{block}": (0, size)
                                       for block, size in blocks[name]})
                self.spaces |= {name} if master else set()
            else:
                low = values.get("POLARITY") == "ACTIVE_LOW"
                for port in ports.values():
                    self.pins[port] = bits[port]
                    self.pins[port].kind = {"clock": "clock", "interrupt": "",
                                            "reset": "low" if low else "high"}[kind]
        clock = next(b for b in root.findall("s:busInterfaces/s:busInterface", SPIRIT)
                     if text(b, "name") == "ap_clk")
        values = {text(p, "name"): text(p, "value")
                  for p in clock.findall("s:parameters/s:parameter", SPIRIT)}
        if set(values["ASSOCIATED_BUSIF"].split(":")) != set(self.buses):
            raise Refused("interfaces of the core without a clock")
