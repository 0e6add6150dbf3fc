# SPDX-License-Identifier: BSD-2-Clause
"""Commands of the stubbed Vivado for block designs."""

import re

from tests.vivado_ips import IPS, Bus, Cell, Pin, Refused


class BlockDesign:
    """A block design: cells, nets, links of interfaces, and the address map.

    The class that inherits this parses words and options, and has the catalog of cores.
    """

    def __init__(self) -> None:
        self.board = ""
        self.catalog = {}
        self.cells: dict[str, Cell] = {}
        self.nets: dict[str, str] = {}          # pin -> driver
        self.links: dict[str, str] = {}         # interface -> the other one
        self.assigned: dict[tuple[str, str], tuple[int, int]] = {}
        self.excluded: set[tuple[str, str]] = set()
        self.design = ""
        self.saved = self.validated = False

    def do_create_bd_design(self, *words: str) -> str:
        _, (name,) = self._options(words, "", "", 1)
        self._need("board", self.board)
        self.design = name
        return name

    def do_create_bd_cell(self, *words: str) -> str:
        options, (name,) = self._options(words, "", "type vlnv reference", 1)
        self._need("block design", self.design)
        if name in self.cells or not re.fullmatch(r"[a-z]\w*", name):
            raise Refused(f"{name} is taken, or no name")
        vlnv = options.get("vlnv", "")
        if options.get("type") != "ip":
            raise Refused(f"type {options.get('type')}, must be ip")
        if vlnv in self.catalog:
            core = self.catalog[vlnv]
            self.cells[name] = Cell(vlnv, {}, lambda _: (core.pins, core.buses))
        elif vlnv in IPS:
            allowed, shape, _ = IPS[vlnv]
            self.cells[name] = Cell(vlnv, allowed, shape)
        else:
            raise Refused(f"no IP {vlnv} in the catalog")
        return f"/{name}"

    def do_apply_bd_automation(self, *words: str) -> None:
        options, (target,) = self._options(words, "", "rule config", 1)
        cell = self.cells.get(target.lstrip("/"))
        if cell is None or IPS.get(cell.vlnv, (0, 0, None))[2] is None:
            raise Refused(f"no rule for {target}")
        rule, known = IPS[cell.vlnv][2]
        given = self._words(options["config"])
        if options["rule"] != rule or not set(given[::2]) <= known or len(given) % 2:
            raise Refused(f"rule {options['rule']} with {given}")
        cell.automated = True

    def _split(self, name: str) -> tuple[Cell, str]:
        cell, _, rest = name.lstrip("/").partition("/")
        if cell not in self.cells:
            raise Refused(f"no cell {cell}")
        return self.cells[cell], rest

    def _pin(self, name: str) -> Pin:
        cell, rest = self._split(name)
        if rest not in cell.pins:
            raise Refused(f"no pin {name}, {cell.vlnv} has {', '.join(cell.pins)}")
        return cell.pins[rest]

    def _bus(self, name: str) -> Bus:
        cell, rest = self._split(name)
        if rest not in cell.buses:
            raise Refused(f"no interface {name}, {cell.vlnv} has {', '.join(cell.buses)}")
        return cell.buses[rest]

    def do_get_bd_pins(self, *words: str) -> str:
        _, (name,) = self._options(words, "", "", 1)
        self._pin(name)
        return f"/{name.lstrip('/')}"

    def do_get_bd_intf_pins(self, *words: str) -> str:
        _, (name,) = self._options(words, "", "", 1)
        self._bus(name)
        return f"/{name.lstrip('/')}"

    def do_connect_bd_net(self, *words: str) -> None:
        _, (a, b) = self._options(words, "", "", 2)
        if self._pin(a).way == self._pin(b).way:
            raise Refused(f"{a} and {b} are both {self._pin(a).way}puts")
        driver, sink = (a, b) if self._pin(a).way == "out" else (b, a)
        if sink in self.nets:
            raise Refused(f"{sink} is driven by {self.nets[sink]} already")
        if self._pin(a).bits != self._pin(b).bits or self._pin(a).kind != self._pin(b).kind:
            raise Refused(f"{a} and {b} are not of one kind")
        self.nets[sink] = driver

    def do_connect_bd_intf_net(self, *words: str) -> None:
        _, (a, b) = self._options(words, "", "", 2)
        one, other = self._bus(a), self._bus(b)
        if not one.master or other.master:
            raise Refused(f"{a} must be a master and {b} a slave")
        if "any" not in (one.protocol, other.protocol):
            raise Refused(f"{a} has {one.protocol}, {b} {other.protocol}")
        for name in (a, b):
            if name in self.links:
                raise Refused(f"{name} is connected already")
        self.links[a], self.links[b] = b, a

    def _spaces(self) -> dict[str, int]:
        return {f"/{name}/{space}": bits for name, cell in self.cells.items()
                for space, bits in [*((("Data", 40),) if cell.automated else ()),
                                    *((bus, 64) for bus in getattr(self.catalog.get(cell.vlnv),
                                                                   "spaces", ()))]}

    def _segments(self) -> dict[str, tuple[str, int, int]]:
        return {f"/{name}/{segment}": (f"/{name}/{bus}", *place)
                for name, cell in self.cells.items() for bus, known in cell.buses.items()
                for segment, place in known.segments.items()}

    def do_get_bd_addr_spaces(self, *words: str) -> str:
        _, (name,) = self._options(words, "", "", 1)
        if (path := f"/{name.lstrip('/')}") not in self._spaces():
            raise Refused(f"no address space {name}, there are {', '.join(self._spaces())}")
        return path

    def do_get_bd_addr_segs(self, *words: str) -> list[str] | str:
        options, rest = self._options(words, "", "of_objects", (0, 1))
        segments = self._segments()
        if "of_objects" in options:
            self._bus(options["of_objects"])
            return [name for name, (bus, _, _) in segments.items() if bus == options["of_objects"]]
        if (path := f"/{rest[0].lstrip('/')}") not in segments:
            raise Refused(f"no segment {rest[0]}, there are {', '.join(segments)}")
        return path

    def do_assign_bd_address(self, *words: str) -> None:
        options, (segment,) = self._options(words, "", "offset range target_address_space", 1)
        space = options["target_address_space"]
        offset, size = int(options["offset"], 0), int(options["range"], 0)
        if space not in self._spaces() or segment not in self._segments():
            raise Refused(f"no space {space} or segment {segment}")
        bus, first, most = self._segments()[segment]
        if size > most or size < 4096 or offset % size:
            raise Refused(f"{segment} has {most:#x} bytes, {size:#x} at {offset:#x} are asked for")
        if bus[1:].split("/")[0] not in {"heatvit_0"} and not (
                first <= offset and offset + size <= first + most):
            raise Refused(f"{segment} is at {first:#x}, not at {offset:#x}")
        for (other, name), (at, length) in self.assigned.items():
            if other == space and at < offset + size and offset < at + length:
                raise Refused(f"{segment} and {name} overlap")
        self.assigned[space, segment] = (offset, size)

    def do_exclude_bd_addr_seg(self, *words: str) -> None:
        options, (segment,) = self._options(words, "", "target_address_space", 1)
        if segment not in self._segments():
            raise Refused(f"no segment {segment}")
        if (options["target_address_space"], segment) in self.assigned:
            raise Refused(f"{segment} is assigned")
        self.excluded.add((options["target_address_space"], segment))

    def do_validate_bd_design(self, *words: str) -> None:
        self._options(words)
        for name, cell in self.cells.items():
            if IPS.get(cell.vlnv, (0, 0, None))[2] is not None and not cell.automated:
                raise Refused(f"{name} has no preset")
            for pin, known in cell.pins.items():
                path = f"/{name}/{pin}"
                if known.way == "in" and known.kind != "tied" and path not in self.nets:
                    raise Refused(f"{path} is not connected")
                if pin == "interrupt" and path not in self.nets.values():
                    raise Refused(f"{path} is not connected")
            for bus in cell.buses:
                if f"/{name}/{bus}" not in self.links:
                    raise Refused(f"/{name}/{bus} is not connected")
        self._validate_addresses()
        self.validated = True

    def _validate_addresses(self) -> None:
        """Every segment that a master reaches is in its map or left out of it."""
        masters = {f"/{name}/{bus}": (f"/{name}/Data" if cell.automated else f"/{name}/{bus}")
                   for name, cell in self.cells.items() for bus, known in cell.buses.items()
                   if known.master and known.protocol != "any"}
        segments = self._segments()
        for bus, space in masters.items():
            cell = self.links[bus].split("/")[1]
            slave = self.links[f"/{cell}/M00_AXI"]
            for segment, (owner, _, _) in segments.items():
                if owner == slave and not {(space, segment)} & (self.assigned.keys()
                                                               | self.excluded):
                    raise Refused(f"{segment} is neither in the map of {space} nor left out")

    def do_save_bd_design(self, *words: str) -> None:
        self._options(words)
        self._need("validated block design", self.validated)
        self.saved = True
