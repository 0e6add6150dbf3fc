# SPDX-License-Identifier: BSD-2-Clause
"""Faults that are all in one design, for there to be one simulator to build: a run chooses one."""

from collections.abc import Callable, Iterator
from typing import Any

from amaranth.hdl import Module, Value

__all__ = ["FaultSet"]

#: Adds a fault to a component: later assignments win.
_Fault = Callable[..., None]


class FaultSet:
    """Faults by their names, of which some bits of a register choose one, or none with 0.

    A name that is there already, and more faults than the bits tell apart, raise ValueError.

    Parameters
    ----------
    choice
        The bits.
    """

    def __init__(self, choice: slice) -> None:
        self._choice = choice
        self._faults: dict[str, tuple[type, _Fault]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._faults)

    def add(self, component: type, name: str, fault: _Fault) -> None:
        """Add a fault of components of a class."""
        if name in self._faults:
            raise ValueError(f"fault {name} is there already, must have another name")
        most = (1 << self._choice.stop - self._choice.start) - 1
        if len(self._faults) == most:
            raise ValueError(f"fault {name} is number {most + 1}, must be at most number {most}")
        self._faults[name] = component, fault

    def of(self, component: type) -> Callable[[_Fault], _Fault]:
        """Return a decorator that adds a fault under the name of its function."""
        def register(fault: _Fault) -> _Fault:
            self.add(component, fault.__name__, fault)
            return fault
        return register

    def bits(self, name: str = "") -> int:
        """Return the bits of the register that choose a fault."""
        return ([*self].index(name) + 1 if name else 0) << self._choice.start

    def without(self, register: Value) -> Value:
        """Return what the register is below these bits."""
        return register[:self._choice.start]

    def apply(self, m: Module, register: Value, component: object, *others: Any) -> None:
        """Put the faults of a component into its module; ``others`` are given to them, too."""
        for number, (kind, fault) in enumerate(self._faults.values(), 1):
            if isinstance(component, kind):
                with m.If(register[self._choice] == number):
                    fault(component, m, *others)
