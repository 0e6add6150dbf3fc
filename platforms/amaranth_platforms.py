# SPDX-License-Identifier: BSD-2-Clause
"""The boards as platforms of Amaranth, with the names of amaranth-boards for what they have.

They are for designs that use the logic alone: a clock, LEDs and buttons, a connector. The builds of
:mod:`platforms.build` reach the processors and the memory by a block design instead.
"""

import re

from amaranth.build import Attrs, Clock, Connector, DiffPairs, Pins, PinsN, Platform, Resource
from amaranth.vendor import XilinxPlatform
from amaranth_boards.resources import ButtonResources, LEDResources, SwitchResources
from amaranth_boards.ulx3s import ULX3S_85F_Platform

from platforms.boards import BoardError
from platforms.boards_data import board_named

__all__ = ["KV260Platform", "PYNQZ2Platform", "U250Platform", "ZCU102Platform", "ZCU104Platform",
           "platform_of"]

_33 = Attrs(IOSTANDARD="LVCMOS33")

#: Device, package and speed in the name of a part; those of the 7 series have no hyphen.
_PART = re.compile(r"(xc7z\d+|[a-z0-9]+)-?([a-z]+\d+)-(.+)")


class _BoardPlatform(XilinxPlatform):
    """The platform of a board, on its device."""

    default_clk: str | None = "clk125"
    connectors: list[Connector] = []

    def __init_subclass__(cls, *, board: str | None = None) -> None:
        super().__init_subclass__()
        if board is None:  # of a board that has its device already
            return
        name = board_named(board).part
        part = _PART.fullmatch(name)
        if part is None:
            raise BoardError(f"the device of {board} is {name}, must be one of AMD as in"
                             " xczu9eg-ffvb1156-2-e")
        cls.device, cls.package, cls.speed = part.groups()


class ZCU102Platform(_BoardPlatform, board="zcu102"):
    """ZCU102, pins of UG1182."""

    resources = [
        Resource("clk125", 0, DiffPairs("G21", "F21", dir="i"), Clock(125e6),
                 Attrs(IOSTANDARD="LVDS_25")),
        Resource("cpu_reset", 0, Pins("AM13", dir="i"), _33),
        *LEDResources(pins="AG14 AF13 AE13 AJ14 AJ15 AH13 AH14 AL12", attrs=_33),
        *ButtonResources(pins="AG15 AE14 AF15 AE15 AG13", attrs=_33),
        *SwitchResources(pins="AN14 AP14 AM14 AN13 AN12 AP12 AL13 AK13", attrs=_33),
    ]


class ZCU104Platform(_BoardPlatform, board="zcu104"):
    """ZCU104, pins of UG1267."""

    resources = [
        Resource("clk125", 0, DiffPairs("F23", "E23", dir="i"), Clock(125e6),
                 Attrs(IOSTANDARD="LVDS")),
        *LEDResources(pins="D5 D6 A5 B5", attrs=_33),
        *ButtonResources(pins="B4 C4 B3 C3", attrs=_33),
    ]


class KV260Platform(_BoardPlatform, board="kv260"):
    """KV260, pins of UG1089. The logic has no clock of its own: it comes from the processors."""

    default_clk = None
    resources = [Resource("fan_enable", 0, PinsN("A12", dir="o"), _33)]
    connectors = [Connector("pmod", 0, "H12 E10 D10 C11 - - B10 E12 D11 B11 - -")]


class U250Platform(_BoardPlatform, board="u250"):
    """Alveo U250, pins of UG1289."""

    default_clk = "clk300"
    resources = [
        Resource("clk300", 0, DiffPairs("AY37", "AY38", dir="i"), Clock(300e6),
                 Attrs(IOSTANDARD="DIFF_SSTL12")),
        *LEDResources(pins="BC21 BB21 BA20", attrs=Attrs(IOSTANDARD="LVCMOS12")),
    ]


class PYNQZ2Platform(_BoardPlatform, board="pynq_z2"):
    """PYNQ-Z2, pins of its reference manual."""

    resources = [
        Resource("clk125", 0, Pins("H16", dir="i"), Clock(125e6), _33),
        *LEDResources(pins="R14 P14 N16 M14", attrs=_33),
        *ButtonResources(pins="D19 D20 L20 L19", attrs=_33),
        *SwitchResources(pins="M20 M19", attrs=_33),
    ]
    connectors = [Connector("pmod", 0, "Y18 Y19 Y16 Y17 - - U18 U19 W18 W19 - -"),
                  Connector("pmod", 1, "W14 Y14 T11 T10 - - V16 W16 V12 W13 - -")]


_PLATFORMS: dict[str, type[Platform]] = {
    "zcu102": ZCU102Platform, "zcu104": ZCU104Platform, "kv260": KV260Platform,
    "u250": U250Platform, "pynq_z2": PYNQZ2Platform, "ulx3s": ULX3S_85F_Platform}


def platform_of(name: str) -> Platform:
    """Return the platform of the board called ``name``; BoardError if there is none."""
    return _PLATFORMS[board_named(name).name]()
