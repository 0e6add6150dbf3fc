# SPDX-License-Identifier: BSD-2-Clause
"""A core with faults that fuzzing must find: what keeps it from hanging is taken out.

All faults are in one design, for there to be one simulator to build: a run chooses one of them, or
none, by the top byte of the output stride, which both the run controller and the core see.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from amaranth.hdl import Module, Signal

import rtl.top
from rtl.config import Config
from rtl.control import Control
from rtl.core import Core
from sim.build import bench
from sim.cache import BUILD, replacing
from sim.fuzz_run import Fuzzer
from sim.fuzz_subjects import Subject

__all__ = ["FAULTS", "FaultyFuzzer", "faulty_simulator"]

#: Where in the output stride the fault is chosen; the stride is what is below.
_CHOICE = slice(24, 32)

_Fault = Callable[[Any, Module], None]
_OF_CONTROL: dict[str, _Fault] = {}
_OF_CORE: dict[str, _Fault] = {}


def _control(apply: _Fault) -> _Fault:
    """Register a fault of the run controller under the name of its function."""
    _OF_CONTROL[apply.__name__] = apply
    return apply


def _core(apply: _Fault) -> _Fault:
    """Register a fault of the core under the name of its function."""
    _OF_CORE[apply.__name__] = apply
    return apply


@_control
def waits_never_end(control: Control, m: Module) -> None:
    """The watchdog is told that all is well."""
    m.d.comb += m.submodules.run.core_moves.eq(1)


@_control
def resets_do_not_wait(control: Control, m: Module) -> None:
    """The core is reset while transfers are under way."""
    m.d.comb += m.submodules.run.masters_idle.eq(1)


@_control
def runs_begin_without_a_reset(control: Control, m: Module) -> None:
    m.d.comb += control.core_reset.eq(0)


@_core
def loads_leave_their_window(core: Core, m: Module) -> None:
    m.d.comb += [core.frame.model_bytes.eq(~0), core.frame.frame_bytes.eq(~0)]


#: Names of all faults, in the order of their numbers, from 1 on.
FAULTS = (*_OF_CONTROL, *_OF_CORE)


def _apply(m: Module, target: object, stride: Signal, faults: dict[str, _Fault]) -> None:
    for name, apply in faults.items():
        with m.If(stride[_CHOICE] == FAULTS.index(name) + 1):
            apply(target, m)


class _FaultyControl(Control):
    """The control port with its faults beside what they break: later assignments win."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        _apply(m, self, m.submodules.registers.output_stride, _OF_CONTROL)
        return m


class _FaultyCore(Core):
    """The core with its faults beside what they break."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.logits.output_stride.eq(self.output_stride[:_CHOICE.start])
        _apply(m, self, self.output_stride, _OF_CORE)
        return m


def faulty_simulator(config: Config) -> Path:
    """Return the executable that simulates the accelerator with all faults."""
    path = BUILD / "fuzz" / f"{config.name}.v"
    with (replacing(path) as unfinished, patch.object(rtl.top, "Core", _FaultyCore),
          patch.object(rtl.top, "Control", _FaultyControl)):
        unfinished.write_text(rtl.top.emit_verilog(config))
    return bench(path, top="heatvit")


class FaultyFuzzer(Fuzzer):
    """Runs cases on a core with one fault, or without any.

    Parameters
    ----------
    config, subjects
        As of ``Fuzzer``.
    fault
        One of ``FAULTS``, empty for none.
    """

    def __init__(self, config: Config, subjects: tuple[Subject, ...], fault: str = "") -> None:
        super().__init__(faulty_simulator(config), config, subjects)
        self._number = FAULTS.index(fault) + 1 if fault else 0

    def _arguments(self, subject: Subject) -> dict[str, int]:
        arguments = super()._arguments(subject)
        arguments["OUTPUT_STRIDE"] |= self._number << _CHOICE.start
        return arguments
