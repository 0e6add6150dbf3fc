# SPDX-License-Identifier: BSD-2-Clause
"""Bus interfaces: every port in one of them, and the attributes in the Verilog."""

import re

import pytest

from rtl.config import CONFIGS, named
from rtl.interfaces import Kind, attributes, interfaces, members
from rtl.top import HeatViT, emit_verilog


@pytest.mark.parametrize("config", CONFIGS)
def test_every_port_is_in_one_interface(config: str) -> None:
    found = interfaces(named(config))
    ports = [port for interface in found for port in interface.ports.values()]
    assert sorted(ports) == sorted(members(named(config))) == sorted(
        HeatViT(named(config)).signature.members)
    assert len(set(ports)) == len(ports)
    clock, reset, interrupt, control, first, *others = found
    assert clock.parameters == {
        "ASSOCIATED_RESET": "ap_rst_n",
        "ASSOCIATED_BUSIF": ":".join(i.name for i in found if i.kind == Kind.AXI)}
    assert reset.parameters == {"POLARITY": "ACTIVE_LOW"} and interrupt.master
    assert (control.name, control.master) == ("s_axi_control", False)
    assert first.ports["WSTRB"] == "m_axi_gmem0_wstrb" and len(others) == named(config).ports - 1
    for other in others:
        assert other.parameters["READ_WRITE_MODE"] == "READ_ONLY" and "AWADDR" not in other.ports


def test_attributes_reach_the_ports_of_the_verilog() -> None:
    """As the reader of Vivado has it: attributes stand before the declaration of a port."""
    config = named("nano")
    text = emit_verilog(config)
    top = re.search(r"^module heatvit\(.*?^endmodule", text, re.M | re.S)[0]
    found: dict[str, dict[str, str]] = {}
    for marks, port in re.findall(
            r"((?:^  \(\* .*? \*\)\n)*)^  (?:in|out)put (?:\[\d+:0\] )?(\w+);", top, re.M):
        found[port] = dict(re.findall(r'\(\* (\w+) = "(.*)" \*\)', marks))
    assert found == attributes(config)
    assert text.count("X_INTERFACE_INFO") == len(found)
    assert found["s_axi_control_awvalid"]["X_INTERFACE_INFO"] == (
        "xilinx.com:interface:aximm:1.0 s_axi_control AWVALID")
    assert found["ap_clk"]["X_INTERFACE_PARAMETER"] == (
        "XIL_INTERFACENAME ap_clk, ASSOCIATED_BUSIF s_axi_control:m_axi_gmem0,"
        " ASSOCIATED_RESET ap_rst_n")
