# SPDX-License-Identifier: BSD-2-Clause
"""Boards as data: device, limits, processing system, memory ports; and what fits them."""

from collections.abc import Mapping
from dataclasses import dataclass

from platforms.figures import ALL, load
from rtl.config import Config

__all__ = ["Board", "BoardError", "Limits", "MemoryPort", "ProcessingSystem", "Segment", "demand"]

#: Bits of a block RAM of 36 kbit.
_BRAM_BITS = 36 * 1024

#: What is compared with the limits, by the names that records have for it.
_NAMES = {"luts": "LUTs", "ff": "flip-flops", "dsp": "DSPs", "bram": "block RAMs of 36 kbit"}


class BoardError(ValueError):
    """A board that does not exist, or a configuration that it cannot hold."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a device has: LUTs, flip-flops, DSPs, block RAMs of 36 kbit."""

    luts: int
    ff: int
    dsp: int
    bram: float

    def __post_init__(self) -> None:
        for name in ("luts", "ff", "dsp", "bram"):
            if getattr(self, name) <= 0:
                raise BoardError(f"{name} is {getattr(self, name)}, must be more than 0")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A piece of memory that a port reaches: its name in block designs, address, and bytes."""

    name: str
    offset: int
    bytes: int

    def __post_init__(self) -> None:
        if self.bytes <= 0 or self.bytes & (self.bytes - 1) or self.offset % self.bytes:
            raise BoardError(f"segment {self.name} has {self.bytes:#x} bytes at {self.offset:#x},"
                             " must have a power of two at a multiple of it")


@dataclass(frozen=True, kw_only=True)
class MemoryPort:
    """A port of a processing system that is a slave to the accelerator.

    Parameters
    ----------
    interface, clock
        Names of its bus interface and of its clock.
    bits
        Width of its data.
    segments
        Memory that it reaches.
    """

    interface: str
    clock: str
    bits: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, kw_only=True)
class ProcessingSystem:
    """The processors of a Zynq device as a cell of a block design.

    Parameters
    ----------
    vlnv, cell, rule, rule_options
        Its IP, the name of its cell, and the rule that applies the preset of a board.
    clock, reset, interrupt
        Pins: clock and reset that it gives, interrupt that it takes.
    master, master_clock, space, control
        Interface that reaches the registers, its clock, its address space, and their address.
    ports
        Ports for the memory ports of the accelerator, in their order.
    pll_mhz
        Frequency that the clock is a whole part of.
    settings
        Properties that are the same on all boards; those of the clock have ``{clock_mhz}``.
    port_settings
        Properties that switch port ``{p}`` on; ``{index}`` counts as the IP does.
    first_port
        ``{index}`` of the first port.
    """

    vlnv: str
    cell: str
    rule: str
    rule_options: Mapping[str, str]
    clock: str
    reset: str
    interrupt: str
    master: str
    master_clock: str
    space: str
    control: int
    ports: tuple[MemoryPort, ...]
    pll_mhz: int
    settings: Mapping[str, str]
    port_settings: Mapping[str, str]
    first_port: int

    def properties(self, clock_mhz: int, ports: int) -> dict[str, str]:
        """Return the properties of the IP for so many memory ports; those of others are 0."""
        found = {key: value.format(clock_mhz=clock_mhz) for key, value in self.settings.items()}
        for p, port in enumerate(self.ports):
            for key, value in self.port_settings.items():
                name = key.format(p=p, index=p + self.first_port)
                if p < ports:
                    found[name] = value.format(bits=port.bits)
                elif value == "1":
                    found[name] = "0"
        return found


@dataclass(frozen=True, kw_only=True)
class Board:
    """One board.

    Parameters
    ----------
    name, title
        Name in commands and in text.
    part, board_part, connections
        Device, board files of Vivado (any version of them) and what these must be told; a board
        without board files has "".
    limits
        What the device has.
    family
        Devices that it is counted with: ``xilinx``, by ``platforms.resources``, or ``ecp5``, by the
        router.
    multiplier
        Form of the array that the device has DSPs for.
    system
        Processing system, if there is one.
    config, clock_mhz, model
        Configuration and its target frequency, and the network, unless asked for others.
    why
        Why this configuration.
    """

    name: str
    title: str
    part: str
    board_part: str = ""
    connections: str = ""
    limits: Limits
    family: str = "xilinx"
    multiplier: str
    system: ProcessingSystem | None = None
    config: str
    clock_mhz: int
    model: str
    why: str

    def __post_init__(self) -> None:
        system = self.system
        if system is not None and system.pll_mhz % self.clock_mhz:
            raise BoardError(f"the clock of {self.name} is {self.clock_mhz} MHz, must be a whole"
                             f" part of {system.pll_mhz} MHz")

    def check(self, config: Config) -> None:
        """Raise BoardError, naming both numbers, unless the board holds ``config``."""
        found, measured = demand(config, self)
        for key, what in _NAMES.items():
            need, have = found.get(key, 0), getattr(self.limits, key)
            if need > have:
                raise BoardError(
                    f"configuration {config.name} takes {'' if measured else 'at least '}{need:,g}"
                    f" {what}, {self.title} has {have:,g}")
        if self.system is None:
            return
        ports = self.system.ports
        if config.ports > len(ports):
            raise BoardError(f"configuration {config.name} has {config.ports} memory ports,"
                             f" {self.title} has {len(ports)}")
        if config.port_bits > ports[0].bits:
            raise BoardError(f"configuration {config.name} has memory ports of {config.port_bits}"
                             f" bits, those of {self.title} have {ports[0].bits}")


def demand(config: Config, board: Board) -> tuple[Mapping[str, float], bool]:
    """Return what ``config`` takes of ``board``, and whether that was synthesised.

    It is what is recorded of the family of its device; where there is nothing, as little as the
    array and the largest buffers can take. Multipliers of ECP5 may be LUTs.
    """
    name = config.name if board.multiplier == "portable" else f"{config.name} {board.multiplier}"
    ecp5 = board.family == "ecp5"
    for recorded in (f"{config.name} ecp5",) if ecp5 else (name, config.name):
        try:
            return load(recorded)[ALL], True
        except ValueError:
            continue
    streaming = (config.act_depth + config.patch_depth + 2 * config.residual_depth
                 + config.score_depth) * config.lanes
    stationary = (config.weight_depth + config.key_depth + config.value_depth) * config.columns
    bram = -(-8 * (streaming + stationary) // _BRAM_BITS)
    return {"bram": bram} | ({} if ecp5 else {"dsp": config.macs_per_cycle // 2}), False
