# SPDX-License-Identifier: BSD-2-Clause
"""LUT levels between registers: the deepest paths through a design that is mapped to cells."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from platforms.synthesis import Netlist

__all__ = ["Levels", "Path", "levels"]

#: What a LUT adds to the depth of a path, and a carry, which only decides between equal LUTs.
_LUT, _CARRY = 1 << 16, 1
_NEVER = -1 << 40
#: Cells and borders of modules on a path; more of them are a loop.
_LONGEST = 2000

#: Numbers of cells that one memory is made of.
_PART = re.compile(r"(\.\d+)+$")
#: Numbers of instances that are repeated, numbers by which names are kept apart, bits of a word.
_REPEATED, _APART, _BIT = re.compile(r"\d+$"), re.compile(r"(?<=\w)\$\d+$"), re.compile(r"\[\d+\]$")


@dataclass(frozen=True, kw_only=True)
class Path:
    """A path from a register, or an input of the design, to the next register or an output.

    Parameters
    ----------
    start, end
        Names of the registers, as words; repeated instances have `*` for their number.
    pin
        Pin of the register at the end, such as D or CE; empty for an output.
    cells
        Types of the cells on the way, each with the name of its net if that has one in the design.
    luts, carries
        LUTs and carry chains among the cells.
    """

    start: str
    end: str
    pin: str
    cells: tuple[str, ...]
    luts: int
    carries: int


@dataclass(frozen=True)
class Levels:
    """What is deepest in a design.

    Parameters
    ----------
    deepest
        The deepest path to each word, deepest first, as many as asked for.
    own
        LUT levels of the deepest path that ends in an instance, its parts left out, by its name
        with those of the instances around it and dots between them; the empty one is the design.
    """

    deepest: tuple[Path, ...]
    own: Mapping[str, int]

    def inside(self, name: str) -> int:
        """Return LUT levels of the deepest path that ends in an instance or in one of its parts."""
        return max(count for path, count in self.own.items()
                   if not name or path == name or path.startswith(f"{name}."))


def levels(netlists: Mapping[str, Netlist], *, top: str, count: int = 10) -> Levels:
    """Return what is deepest in ``top``; raise ValueError if that has a loop without registers.

    Paths start and end at registers, memories, DSPs with registers, inputs and outputs; enables and
    resets are ends as well. Every LUT is a level, whatever it does: inverter, memory that is read,
    shift register of a length that varies. Carry chains, the multiplexers behind LUTs and DSPs
    without registers are none, but do not end a path either.

    Parameters
    ----------
    netlists
        Every module of the design by name, mapped to cells without regard to the others.
    top
        Name of the design.
    count
        Number of paths.
    """
    design = _Design({name: _module(netlist, netlists) for name, netlist in netlists.items()}, top)
    return Levels(design.deepest(count), design.own())


@dataclass
class _Module:
    """Ways through the cells of a module, from bit to bit, and where paths start and end."""

    ports: Mapping[str, Any]
    names: Mapping[int, str]
    size: int
    #: Source, target, cost and type of cell.
    ways: list[tuple[int, int, int, str]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    #: Bit, register and pin.
    ends: list[tuple[int, str, str]] = field(default_factory=list)
    #: Name, module and connections.
    parts: list[tuple[str, str, Mapping[str, list[Any]]]] = field(default_factory=list)


def _module(netlist: Netlist, known: Mapping[str, Netlist]) -> _Module:
    names: dict[int, str] = {}
    # Names that the design gives come before those of signals to which it gives none.
    for name, net in sorted(netlist["netnames"].items(), key=lambda item: "$" in item[0][:2]):
        if not net["hide_name"]:
            for bit in net["bits"]:
                names.setdefault(bit, name.removeprefix("\\"))
    size = 1 + max((bit for item in (*netlist["ports"].values(), *netlist["netnames"].values())
                    for bit in item["bits"] if isinstance(bit, int)), default=0)
    module = _Module(netlist["ports"], names, size)
    for name, cell in netlist["cells"].items():
        kind = cell["type"]
        if kind in known:
            module.parts.append((name, kind, cell["connections"]))
            continue
        module.ways += [(source, target, cost, kind) for source, target, cost in _ways(kind, cell)
                        if isinstance(source, int) and isinstance(target, int)]
        if _registered(kind, cell):
            out = [bit for _, bit in _bits(kind, cell, "output")]
            module.starts += out
            label = next((names[bit] for bit in out if bit in names),
                         kind if cell["hide_name"] else _PART.sub("", name))
            module.ends += [(bit, label, pin) for pin, bit in _bits(kind, cell, "input")]
    return module


def _ways(kind: str, cell: Netlist) -> Iterator[tuple[Any, Any, int]]:
    """Yield input, output and cost of each way through a cell without a register on it."""
    pins = cell["connections"]
    if kind.startswith(("LUT", "INV", "MUXF")):
        cost = 0 if kind.startswith("MUXF") else _LUT
        yield from ((pins[pin][0], pins["O"][0], cost) for pin in pins if pin != "O")
    elif kind == "CARRY4":
        for row in range(4):
            first = pins["CI"] + pins["CYINIT"] + pins["S"][:row + 1]
            for out, sources in (("O", first + pins["DI"][:row]),
                                 ("CO", first + pins["DI"][:row + 1])):
                yield from ((source, pins[out][row], _CARRY) for source in sources)
    elif kind.startswith(("RAM", "SRL")) and not kind.startswith("RAMB"):
        yield from ((source, target, _LUT) for address, data in _reads(pins)
                    for source in address for target in data)
    elif kind.startswith("DSP48") and not _registered(kind, cell):
        yield from ((source, target, 0) for _, source in _bits(kind, cell, "input")
                    for _, target in _bits(kind, cell, "output"))


def _reads(pins: Mapping[str, list[Any]]) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yield address and data of each read port of distributed memory or of a shift register."""
    for name, data in (*((f"ADDR{port}", f"DO{port}") for port in "ABCDEFGH"),
                       ("A", "Q"), ("A", "SPO"), ("DPRA", "DPO")):
        if data in pins:
            yield [bit for pin, bits in pins.items() if pin.rstrip("0123456789") == name
                   for bit in bits], pins[data]


def _registered(kind: str, cell: Netlist) -> bool:
    """Return whether paths start and end in a cell."""
    if kind.startswith("DSP48"):
        return any(int(cell["parameters"][name], 2) for name in ("MREG", "PREG"))
    return kind.startswith(("FD", "SRL", "RAM"))


def _bits(kind: str, cell: Netlist, direction: str) -> list[tuple[str, int]]:
    """Return pin and bit of what is connected to the pins of a direction, clocks left out."""
    return [(pin, bit) for pin, bits in cell["connections"].items()
            if cell["port_directions"][pin] == direction and "CLK" not in pin
            and not (kind.startswith("FD") and pin == "C")
            for bit in bits if isinstance(bit, int)]


@dataclass(frozen=True)
class _Instance:
    """An instance: its name, and its first bit, way and end among those of the design."""

    path: str
    module: _Module
    bit: int
    way: int
    end: int


class _Design:
    """All instances of the modules, with the depth of each bit of their nets."""

    def __init__(self, modules: Mapping[str, _Module], top: str) -> None:
        self.instances: list[_Instance] = []
        self._sizes = [0, 0, 0]
        borders: list[tuple[int, int]] = []
        self._place(modules, "", modules[top], borders)

        self.firsts = {what: np.array([getattr(i, what) for i in self.instances])
                       for what in ("bit", "way", "end")}

        way = [np.array([w[:3] for w in i.module.ways], np.int64).reshape(-1, 3)
               + [i.bit, i.bit, 0] for i in self.instances]
        border = np.array([(*pair, 0) for pair in borders], np.int64).reshape(-1, 3)
        source, target, cost = np.concatenate([*way, border]).T
        #: Ways by target; those of cells come before the borders of modules in the numbering.
        self.order = np.argsort(target, kind="stable")
        self.source, self.cost = source[self.order], cost[self.order]
        self.target, self.first = np.unique(target[self.order], return_index=True)

        self.depth = np.full(self._sizes[0], _NEVER)
        for i in self.instances:
            self.depth[np.array(i.module.starts, np.int64) + i.bit] = 0
        self.depth[self._port_bits("input")] = 0
        self._propagate()
        self.ends = np.concatenate(
            [*(np.array([end[0] for end in i.module.ends], np.int64) + i.bit
               for i in self.instances), self._port_bits("output")])

    def _place(self, modules: Mapping[str, _Module], path: str, module: _Module,
               borders: list[tuple[int, int]]) -> int:
        """Place an instance with its parts; return its first bit."""
        base = self._sizes[0]
        self.instances.append(_Instance(path, module, *self._sizes))
        for k, size in enumerate((module.size, len(module.ways), len(module.ends))):
            self._sizes[k] += size
        for name, kind, pins in module.parts:
            part = self._place(modules, f"{path}.{name}" if path else name, modules[kind], borders)
            for port, bits in pins.items():
                inner = modules[kind].ports[port]
                for outside, inside in zip(bits, inner["bits"], strict=True):
                    if isinstance(outside, int) and isinstance(inside, int):
                        pair = base + outside, part + inside
                        borders.append(pair if inner["direction"] == "input" else pair[::-1])
        return base

    def _port_bits(self, direction: str) -> np.ndarray:
        return np.array([bit for port in self.instances[0].module.ports.values()
                         if port["direction"] == direction
                         for bit in port["bits"] if isinstance(bit, int)], np.int64)

    def _propagate(self) -> None:
        for _ in range(_LONGEST):
            reached = np.maximum.reduceat(self.depth[self.source] + self.cost, self.first)
            if not (reached > self.depth[self.target]).any():
                return
            self.depth[self.target] = np.maximum(self.depth[self.target], reached)
        raise ValueError("the netlist has a loop of cells without a register between them")

    def deepest(self, count: int) -> tuple[Path, ...]:
        """Return the deepest path to each word, deepest first."""
        found: dict[tuple[str, str], Path] = {}
        for k in np.argsort(-self.depth[self.ends], kind="stable"):
            if len(found) == count or self.depth[self.ends[k]] < 0:
                break
            end = self._end(int(k))
            if end not in found:
                found[end] = self._path(int(self.ends[k]), *end)
        return tuple(found.values())

    def own(self) -> dict[str, int]:
        """Return the LUT levels of the deepest path to an end in each instance."""
        found = {}
        for i in self.instances:
            ends = self.ends[i.end:i.end + len(i.module.ends)]
            found[i.path] = int(self.depth[ends].max(initial=0)) // _LUT
        # The outputs of the design come after all other ends.
        outputs = self.depth[self.ends[self._sizes[2]:]].max(initial=0)
        found[""] = max(found[""], int(outputs) // _LUT)
        return found

    def _end(self, k: int) -> tuple[str, str]:
        """Return word and pin of an end."""
        if k >= self._sizes[2]:
            bit = int(self.ends[k])
            return self._word(bit), ""
        i = self._instance(k, "end")
        _, register, pin = i.module.ends[k - i.end]
        return _joined(i.path, register), pin

    def _path(self, bit: int, end: str, pin: str) -> Path:
        """Return the deepest path to a bit."""
        total, cells = int(self.depth[bit]), []
        while (step := self._step(bit)) is not None:
            source, kind = step
            if kind:
                i = self._instance(bit, "bit")
                name = i.module.names.get(bit - i.bit)
                cells.append(f"{kind} {_joined(i.path, name)}" if name else kind)
            bit = source
        merged = [list(group) for _, group in groupby(
            reversed(cells), key=lambda cell: "CARRY4" if cell.startswith("CARRY4") else object())]
        return Path(start=self._word(bit), end=end, pin=pin,
                    cells=tuple(group[-1] + (f" x{len(group)}" if len(group) > 1 else "")
                                for group in merged),
                    luts=total // _LUT, carries=sum(g[0].startswith("CARRY4") for g in merged))

    def _step(self, bit: int) -> tuple[int, str] | None:
        """Return the bit before one on its deepest path, and the cell between, "" for a border."""
        at = int(np.searchsorted(self.target, bit))
        if at == len(self.target) or self.target[at] != bit:
            return None
        last = int(self.first[at + 1]) if at + 1 < len(self.first) else len(self.source)
        for k in range(int(self.first[at]), last):
            if self.depth[self.source[k]] + self.cost[k] == self.depth[bit]:
                number = int(self.order[k])
                if number >= self._sizes[1]:
                    return int(self.source[k]), ""
                i = self._instance(number, "way")
                return int(self.source[k]), i.module.ways[number - i.way][3]
        return None

    def _word(self, bit: int) -> str:
        i = self._instance(bit, "bit")
        return _joined(i.path, i.module.names.get(bit - i.bit, "a net without a name"))

    def _instance(self, number: int, what: str) -> _Instance:
        """Return the instance that a bit, a way or an end is in."""
        return self.instances[int(np.searchsorted(self.firsts[what], number, side="right")) - 1]


def _joined(path: str, name: str) -> str:
    """Return the name of a word in an instance, the same for all repetitions of the instance."""
    parts = [_REPEATED.sub("*", _APART.sub("", part)) for part in path.split(".")] if path else []
    return ".".join([*parts, _BIT.sub("", _APART.sub("", name))])
