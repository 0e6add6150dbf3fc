# SPDX-License-Identifier: BSD-2-Clause
"""Platforms of Amaranth: the device of the board, and pins that a build names."""

import re

import pytest
from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib import io

from platforms.amaranth_platforms import ZCU102Platform, _BoardPlatform, platform_of
from platforms.boards import BoardError
from platforms.boards_data import BOARDS


class _Blink(Elaboratable):
    """A counter on an LED."""

    def elaborate(self, platform):
        m = Module()
        count = Signal(24)
        m.submodules.led = led = io.Buffer("o", platform.request("led", 0, dir="-"))
        m.d.sync += count.eq(count + 1)
        m.d.comb += led.o.eq(count[-1])
        return m


@pytest.mark.parametrize("name", [name for name in BOARDS if name != "kv260"])
def test_a_design_is_prepared_for_the_device_of_the_board(name: str) -> None:
    plan = platform_of(name).prepare(_Blink(), "blink")
    files = {file: text if isinstance(text, str) else text.decode(errors="replace")
             for file, text in plan.files.items()}
    if name == "ulx3s":
        assert "--85k" in files["build_blink.sh"] and '"B2"' in files["blink.lpf"]
        return
    assert f"-part {BOARDS[name].part}" in files["blink.tcl"]
    pins = re.findall(r"LOC (\w+) \[", files["blink.xdc"])
    assert len(pins) == len(set(pins)) >= 2


def test_the_kv260_has_no_clock_of_its_own() -> None:
    platform = platform_of("kv260")
    assert platform.default_clk is None
    assert f"{platform.device}-{platform.package}-{platform.speed}" == BOARDS["kv260"].part


@pytest.mark.parametrize("name", BOARDS)
def test_no_pin_has_two_names(name: str) -> None:
    taken: dict[str, str] = {}
    for resource in platform_of(name).resources.values():
        if "button_" in resource.name or "switch_" in resource.name or name == "ulx3s":
            continue  # names that say where a button is come beside its number
        for pins in [io_ for io_ in resource.ios if hasattr(io_, "names") or hasattr(io_, "p")]:
            for pin in pins.names if hasattr(pins, "names") else [*pins.p.names, *pins.n.names]:
                assert pin not in taken, f"{pin} is {taken[pin]} and {resource.name}"
                taken[pin] = resource.name


def test_a_platform_of_a_user_has_the_device_of_its_board() -> None:
    class Mine(ZCU102Platform):
        default_clk = "mine"

    platform = Mine()
    assert f"{platform.device}-{platform.package}-{platform.speed}" == BOARDS["zcu102"].part
    assert platform.default_clk == "mine" and platform.resources.keys() == (
        platform_of("zcu102").resources.keys())


def test_a_device_of_others_is_refused() -> None:
    with pytest.raises(BoardError, match="device of ulx3s is LFE5U-85F-6BG381C, must be one of"):
        type("Mine", (_BoardPlatform,), {}, board="ulx3s")


def test_no_platform() -> None:
    with pytest.raises(BoardError, match="no board is called 'zcu1'"):
        platform_of("zcu1")
