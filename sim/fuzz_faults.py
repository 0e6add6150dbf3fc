# SPDX-License-Identifier: BSD-2-Clause
"""A core with faults that fuzzing must find: what keeps it from hanging is taken out.

All faults are in one design, for there to be one simulator to build: a run chooses one of them, or
none, by the top byte of the output stride, which both the run controller and the core see.
"""

from pathlib import Path
from unittest.mock import patch

from amaranth.hdl import Module

import rtl.top
from rtl.config import Config
from rtl.control import Control
from rtl.core import Core
from sim.build import bench
from sim.cache import BUILD, replacing
from sim.fault_set import FaultSet
from sim.fuzz_run import Fuzzer
from sim.fuzz_subjects import Subject

__all__ = ["FAULTS", "FaultyFuzzer", "faulty_simulator"]

#: All faults, chosen by the top byte of the output stride.
FAULTS = FaultSet(slice(24, 32))


@FAULTS.of(Control)
def waits_never_end(control: Control, m: Module) -> None:
    """The watchdog is told that all is well."""
    m.d.comb += m.submodules.run.core_moves.eq(1)


@FAULTS.of(Control)
def resets_do_not_wait(control: Control, m: Module) -> None:
    """The core is reset while transfers are under way."""
    m.d.comb += m.submodules.run.masters_idle.eq(1)


@FAULTS.of(Control)
def runs_begin_without_a_reset(control: Control, m: Module) -> None:
    m.d.comb += control.core_reset.eq(0)


@FAULTS.of(Core)
def loads_leave_their_window(core: Core, m: Module) -> None:
    m.d.comb += [core.frame.model_bytes.eq(~0), core.frame.frame_bytes.eq(~0)]


class _FaultyControl(Control):
    """The control port with its faults beside what they break: later assignments win."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        FAULTS.apply(m, m.submodules.registers.output_stride, self)
        return m


class _FaultyCore(Core):
    """The core with its faults beside what they break."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.logits.output_stride.eq(FAULTS.without(self.output_stride))
        FAULTS.apply(m, self.output_stride, self)
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
        self._chosen = FAULTS.bits(fault)

    def _arguments(self, subject: Subject) -> dict[str, int]:
        arguments = super()._arguments(subject)
        arguments["OUTPUT_STRIDE"] |= self._chosen
        return arguments
