# SPDX-License-Identifier: BSD-2-Clause
"""Ports of the IP core, the bus interfaces they form, and the attributes that tell Vivado so."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from amaranth.hdl import Shape
from amaranth.lib.wiring import In, Member, Out, Signature

from rtl.axi import (
    MAX_BEATS,
    READS_OUTSTANDING,
    WRITES_OUTSTANDING,
    AXI4ReadSignature,
    AXI4Signature,
    AXILiteSignature,
    flat_ports,
)
from rtl.config import Config
from rtl.registers import ADDRESS_BITS

__all__ = ["ADDR_BITS", "CONTROL", "Interface", "Kind", "attributes", "interfaces", "members",
           "memory_port", "width"]

#: Address bits of the memory ports; interconnects drop what a memory system lacks.
ADDR_BITS = 64
#: The control port.
CONTROL = "s_axi_control"


class Kind(Enum):
    """Bus definitions of Vivado: vendor, library, name and version."""

    AXI = "xilinx.com:interface:aximm:1.0"
    CLOCK = "xilinx.com:signal:clock:1.0"
    RESET = "xilinx.com:signal:reset:1.0"
    INTERRUPT = "xilinx.com:signal:interrupt:1.0"


@dataclass(frozen=True, kw_only=True)
class Interface:
    """One bus interface of the core.

    Parameters
    ----------
    name
        Name in block designs.
    kind, master
        Bus definition, and whether the core is the master of the bus.
    ports
        Port of the core by the name that the bus definition has for it.
    parameters
        What block designs are told of the interface, in the words of Vivado.
    """

    name: str
    kind: Kind
    master: bool
    ports: Mapping[str, str]
    parameters: Mapping[str, str]


def memory_port(p: int) -> str:
    """Return the name of memory port ``p``."""
    return f"m_axi_gmem{p}"


def _control() -> Signature:
    return AXILiteSignature(addr_bits=ADDRESS_BITS)


def _memory(config: Config, p: int) -> Signature:
    """Port 0 reads and writes, the others read."""
    signature = AXI4ReadSignature if p else AXI4Signature
    return signature(addr_bits=ADDR_BITS, data_bits=config.port_bits)


def members(config: Config) -> dict[str, Member]:
    """Return the ports of the IP core."""
    found: dict[str, Member] = {"ap_clk": In(1), "ap_rst_n": In(1), "interrupt": Out(1)}
    found |= flat_ports(CONTROL, _control().flip())
    for p in range(config.ports):
        found |= flat_ports(memory_port(p), _memory(config, p))
    return found


def width(member: Member) -> int:
    """Return the bits of a port."""
    return Shape.cast(member.shape).width


def _bus(name: str, signature: Signature, master: bool, parameters: dict[str, object]) -> Interface:
    return Interface(
        name=name, kind=Kind.AXI, master=master,
        ports={member.upper(): f"{name}_{member}" for member in signature.members},
        parameters={key: str(value) for key, value in parameters.items()})


def _memory_parameters(config: Config, p: int) -> dict[str, object]:
    writes = p == 0
    outstanding: dict[str, object] = {"NUM_READ_OUTSTANDING": READS_OUTSTANDING}
    if writes:
        outstanding["NUM_WRITE_OUTSTANDING"] = WRITES_OUTSTANDING
    return {
        "PROTOCOL": "AXI4", "DATA_WIDTH": config.port_bits, "ADDR_WIDTH": ADDR_BITS,
        "ID_WIDTH": width(_memory(config, p).members["arid"]),
        "READ_WRITE_MODE": "READ_WRITE" if writes else "READ_ONLY",
        "HAS_BURST": 1, "HAS_CACHE": 1, "HAS_PROT": 1, "HAS_RRESP": 1, "HAS_WSTRB": int(writes),
        "HAS_BRESP": int(writes), "HAS_LOCK": 0, "HAS_QOS": 0, "HAS_REGION": 0,
        "SUPPORTS_NARROW_BURST": 0, "MAX_BURST_LENGTH": MAX_BEATS, **outstanding,
    }


def interfaces(config: Config) -> tuple[Interface, ...]:
    """Return the bus interfaces of the core; each of its ports is in one of them.

    The clock has no FREQ_HZ: a block design is refused whose clock differs from that by one hertz,
    and no clock generator hits a round number. The design says what the clock is.
    """
    buses = [
        _bus(CONTROL, _control(), False, {
            "PROTOCOL": "AXI4LITE", "DATA_WIDTH": 32, "ADDR_WIDTH": ADDRESS_BITS,
            "READ_WRITE_MODE": "READ_WRITE", "HAS_BURST": 0, "HAS_PROT": 0, "HAS_WSTRB": 1}),
        *(_bus(memory_port(p), _memory(config, p), True, _memory_parameters(config, p))
          for p in range(config.ports))]
    return (
        Interface(name="ap_clk", kind=Kind.CLOCK, master=False, ports={"CLK": "ap_clk"},
                  parameters={"ASSOCIATED_BUSIF": ":".join(bus.name for bus in buses),
                              "ASSOCIATED_RESET": "ap_rst_n"}),
        Interface(name="ap_rst_n", kind=Kind.RESET, master=False, ports={"RST": "ap_rst_n"},
                  parameters={"POLARITY": "ACTIVE_LOW"}),
        Interface(name="interrupt", kind=Kind.INTERRUPT, master=True,
                  ports={"INTERRUPT": "interrupt"}, parameters={"SENSITIVITY": "LEVEL_HIGH"}),
        *buses)


def attributes(config: Config) -> dict[str, dict[str, str]]:
    """Return the attributes of the ports by which Vivado knows the interfaces without packaging.

    The parameters of an interface stand at its first port.
    """
    found: dict[str, dict[str, str]] = {}
    for interface in interfaces(config):
        for logical, port in interface.ports.items():
            found[port] = {"X_INTERFACE_INFO": f"{interface.kind.value} {interface.name} {logical}"}
        first = next(iter(interface.ports.values()))
        found[first]["X_INTERFACE_PARAMETER"] = ", ".join(
            [f"XIL_INTERFACENAME {interface.name}",
             *(f"{key} {value}" for key, value in interface.parameters.items())])
    return found
