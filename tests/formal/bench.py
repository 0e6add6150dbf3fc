# SPDX-License-Identifier: BSD-2-Clause
"""A block on the bench of a model checker: free inputs, what is assumed, and what must hold."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from amaranth.back import rtlil
from amaranth.hdl import (
    Assert,
    Assume,
    ClockDomain,
    Cover,
    Elaboratable,
    Fragment,
    Module,
    ShapeLike,
    Signal,
    Value,
    ValueLike,
)

__all__ = ["Bench", "Inside", "Property"]


@dataclass(frozen=True)
class Property:
    """What must hold in every cycle, or with ``cover`` what must be possible in some cycle.

    ``bounded``: checked from reset on up to a depth; else proved by induction for any depth.
    ``lemma``: about registers inside the block, there for the induction.
    """

    name: str
    says: str
    cover: bool = False
    bounded: bool = False
    lemma: bool = False


class _Statement(Elaboratable):
    """A module of one statement, so that the checker reports it by the name of the module."""

    def __init__(self, kind: type, condition: Signal) -> None:
        self._kind = kind
        self._condition = condition

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self._kind(self._condition)
        return m


class _Elaborated(Elaboratable):
    def __init__(self, fragment: Fragment) -> None:
        self._fragment = fragment

    def elaborate(self, platform: object) -> Fragment:
        return self._fragment


class Inside:
    """The registers and wires inside an elaborated block, by name."""

    def __init__(self, fragment: Fragment) -> None:
        self._fragment = fragment

    def __getitem__(self, name: str) -> Signal:
        """Return the signal that ``name`` is driven as in this block."""
        return self.find(name)

    def find(self, name: str, width: int | None = None) -> Signal:
        """Return the signal called ``name``, of ``width`` bits where others are called so, too."""
        found = {id(s): s for s in self._signals()
                 if s.name == name and width in (None, len(s))}
        if len(found) != 1:
            raise LookupError(f"{len(found)} signals are called {name!r}, must be one")
        return next(iter(found.values()))

    def below(self, name: str) -> "Inside":
        """Return the inside of the submodule ``name``."""
        for fragment, given, _ in self._fragment.subfragments:
            if given == name:
                return Inside(fragment)
        raise LookupError(f"no submodule is called {name!r}")

    def _signals(self) -> Iterator[Signal]:
        for statements in self._fragment.statements.values():
            for statement in statements:
                yield from statement._lhs_signals()


class Bench:
    """A block, free inputs, assumptions and properties; ``rtlil`` gives what Yosys reads.

    The registers of the block begin with their initial values, as after configuration. ``reset``
    is a free input unless ``reset_only`` limits it: a reset in the middle of life leaves registers
    without reset as they are.

    Parameters
    ----------
    mode
        ``"prove"``, ``"bmc"`` or ``"cover"``: which properties there are.
    only
        Of the properties of the mode, those that there are.
    """

    def __init__(self, mode: str, only: Collection[str] | None = None) -> None:
        self.mode = mode
        self.only = only
        self.m = Module()
        self.properties: list[Property] = []
        self._domain = ClockDomain("sync")
        self.m.domains += self._domain
        self.reset = Signal()
        self.m.d.comb += self._domain.rst.eq(self.reset)
        self._assumptions = 0
        self._inputs: list[Signal] = [self._domain.clk, self.reset]

    def free(self, shape: ShapeLike, name: str) -> Signal:
        """Return an input that may have any value in any cycle."""
        signal = Signal(shape, name=name)
        self._inputs.append(signal)
        return signal

    def constant(self, shape: ShapeLike, name: str) -> Signal:
        """Return an input that may have any value, the same in all cycles."""
        signal = self.free(shape, name)
        first = Signal(name=f"{name}_is_first", init=1, reset_less=True)
        before = Signal(shape, name=f"{name}_before", reset_less=True)
        self.m.d.sync += [first.eq(0), before.eq(signal)]
        self.assume(first | (Value.cast(signal) == Value.cast(before)))
        return signal

    def drive(self, target: ValueLike, name: str) -> Signal:
        """Connect an input of the block to a free input, and return that."""
        value = Value.cast(target)
        signal = self.free(value.shape(), name)
        self.m.d.comb += value.eq(signal)
        return signal

    def add(self, name: str, block: Elaboratable | Module) -> Inside:
        """Add a block and return its inside."""
        fragment = Fragment.get(block, None)
        self.m.submodules[name] = _Elaborated(fragment)
        return Inside(fragment)

    def past(self, value: ValueLike, name: str) -> Signal:
        """Return ``value`` of the cycle before; zero in the first cycle after reset."""
        value = Value.cast(value)
        signal = Signal(value.shape(), name=f"{name}_past")
        self.m.d.sync += signal.eq(value)
        return signal

    def reset_only(self, condition: ValueLike) -> None:
        """Assume that the block is reset only while ``condition`` holds."""
        self.assume(~self.reset | Value.cast(condition).any())

    def assume(self, condition: ValueLike) -> None:
        """Leave out runs in which ``condition`` does not hold."""
        held = Signal(name=f"assumption{self._assumptions}")
        self._assumptions += 1
        self.m.d.comb += held.eq(Value.cast(condition).any())
        self._add(Assume, held)

    def always(self, name: str, condition: ValueLike, says: str, *, bounded: bool = False,
               lemma: bool = False) -> None:
        """Claim that ``condition`` holds in every cycle."""
        if self.mode == ("bmc" if bounded else "prove"):
            self._state(Property(name, says, bounded=bounded, lemma=lemma), condition, Assert)

    def stable(self, name: str, valid: Value, ready: Value, payload: ValueLike, says: str) -> None:
        """Claim that a transfer once offered stays offered, the same, until it is taken."""
        waits = self.past(valid & ~ready, name)
        before = self.past(payload, f"{name}_payload")
        self.always(name, ~waits | (valid & (Value.cast(payload) == before)), says)

    def offered(self, name: str, valid: Value, ready: Value, payload: ValueLike) -> None:
        """Assume the same of an input."""
        waits = self.past(valid & ~ready, name)
        before = self.past(payload, f"{name}_payload")
        self.assume(~waits | (valid & (Value.cast(payload) == before)))

    def cover(self, name: str, condition: ValueLike, says: str) -> None:
        """Claim that ``condition`` is possible: a proof about what never happens says nothing."""
        if self.mode == "cover":
            self._state(Property(name, says, cover=True), condition, Cover)

    def _add(self, kind: type, condition: Signal) -> None:
        self.m.submodules[f"check_{condition.name}"] = _Statement(kind, condition)

    def _state(self, claim: Property, condition: ValueLike, kind: type) -> None:
        if self.only is not None and claim.name not in self.only:
            return
        held = Signal(name=claim.name)
        self.m.d.comb += held.eq(Value.cast(condition).any())
        self._add(kind, held)
        self.properties.append(claim)

    def rtlil(self) -> str:
        """Return the bench as RTLIL, its top module ``top``."""
        return rtlil.convert(self.m, name="top", ports=self._inputs)
