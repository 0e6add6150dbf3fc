# SPDX-License-Identifier: BSD-2-Clause
"""The top: control port, memory masters and core; and the command that emits it as Verilog."""

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

from amaranth.hdl import (
    Cat,
    ClockDomain,
    ClockSignal,
    Module,
    ResetInserter,
    ResetSignal,
    Signal,
)
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from rtl.axi import ReadMaster, WriteMaster, connect_flat
from rtl.config import CONFIGS, MULTIPLIERS, Config, ConfigError, named
from rtl.control import Control
from rtl.core import Core
from rtl.emit import emit
from rtl.interfaces import CONTROL, attributes, members, memory_port, width
from rtl.isa import ISA_VERSION
from rtl.registers import ARGUMENTS, REGISTERS
from rtl.taps import Taps

__all__ = ["HeatViT", "emit_verilog", "main"]

#: Beats of the read queues: a program needs two bursts, loads and weights the memory's round trip.
PROGRAM_BEATS = 32
LOAD_BEATS = 256
WEIGHT_BEATS = 256


class HeatViT(wiring.Component):
    """The accelerator as one IP core.

    ::

        s_axi_control <-> Control ---- arguments, status ---- Core
                            |  reset, stop, idle               ^ |
        m_axi_gmem0 <-> ReadMaster: program, load, weights ----' |
                        WriteMaster: logits <--------------------'
        m_axi_gmem1.. <-> ReadMaster: weights

    The core and the masters are reset before every run, so each image begins from the same state.

    Members
    -------
    ap_clk, ap_rst_n, interrupt
    s_axi_control_* : AXI4-Lite slave, the registers of ``rtl.registers``
    m_axi_gmem<p>_* : AXI4 masters; port 0 reads and writes, the others read
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__(members(config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.domains.sync = ClockDomain()
        m.d.comb += [ClockSignal().eq(self.ap_clk), ResetSignal().eq(~self.ap_rst_n)]

        control = Control(config)
        core = Core(config)
        readers = [ReadMaster(data_bits=config.port_bits,
                              depths=[PROGRAM_BEATS, LOAD_BEATS, WEIGHT_BEATS] if p == 0
                              else [WEIGHT_BEATS]) for p in range(config.ports)]
        writer = WriteMaster(data_bits=config.port_bits)

        fresh = ResetInserter(control.core_reset)
        m.submodules.control = control
        m.submodules.core = fresh(core)
        for p, reader in enumerate(readers):
            m.submodules[f"reader{p}"] = fresh(reader)
        m.submodules.writer = fresh(writer)

        connect_flat(m, self, CONTROL, control.bus)
        for p, reader in enumerate(readers):
            connect_flat(m, self, memory_port(p), reader.axi)
            weight = len(reader.request) - 1
            m.d.comb += reader.hold[weight].eq(core.weight_hold)
            wiring.connect(m, core.weight_request[p], reader.request[weight])
            wiring.connect(m, reader.data[weight], core.weight[p])
        connect_flat(m, self, memory_port(0), writer.axi)
        for i, (request, answer) in enumerate(((core.program_request, core.program),
                                               (core.load_request, core.load))):
            wiring.connect(m, request, readers[0].request[i])
            wiring.connect(m, readers[0].data[i], answer)
        wiring.connect(m, core.output_request, writer.request)
        wiring.connect(m, core.output, writer.data)

        m.d.comb += [
            self.interrupt.eq(control.interrupt),
            core.start.eq(control.core_start),
            core.written.eq(writer.idle),
            control.core_done.eq(core.done),
            control.core_error.eq(core.error),
            control.core_error_index.eq(core.error_index),
            control.core_moves.eq(core.moves),
            control.core_hang.eq(core.hang),
            control.core_hang_index.eq(core.hang_index),
            control.core_top_class.eq(core.top_class),
            control.core_tokens.eq(core.tokens),
            control.core_images_done.eq(core.images_done),
            control.stall.eq(core.stall),
            control.masters_idle.eq(Cat(r.idle for r in readers).all() & writer.idle),
            control.read_error.eq(Cat(r.error for r in readers).any()),
            control.write_error.eq(writer.error),
            control.read_beat.eq(Cat(r.beat for r in readers)),
            control.write_beat.eq(writer.beat),
            *(r.stop.eq(control.stop) for r in (*readers, writer)),
        ]
        for register in ARGUMENTS:
            if register.port in core.signature.members:
                m.d.comb += getattr(core, register.port).eq(getattr(control, register.port))
        if config.pruning:
            m.d.comb += [core.readback_at.eq(control.readback_at),
                         control.readback.eq(core.readback)]
        self._taps(m, core)
        return m

    def _taps(self, m: Module, core: Core) -> None:
        """Give what a simulation compares a name in the top module."""
        for name, member in Taps(self.config).members.items():
            tap = Signal(member.shape, name=f"tap_{name}")
            m.d.comb += tap.eq(getattr(core.taps, name))


def emit_verilog(config: Config) -> str:
    """Return the Verilog of the accelerator, the same bytes for the same configuration."""
    return emit(HeatViT(config), name="heatvit", attributes=attributes(config))


def _description(config: Config, verilog: str) -> dict[str, object]:
    """Return what is written beside the Verilog as ``heatvit.json``."""
    ports = {name: {"direction": "output" if member.flow is Out else "input",
                    "bits": width(member)}
             for name, member in members(config).items()}
    return {
        "name": "heatvit",
        "configuration": config.to_dict(),
        "macs_per_cycle": config.macs_per_cycle,
        "bus_bytes_per_cycle": config.bus_bytes,
        "instruction_set_version": ISA_VERSION,
        "ports": ports,
        "registers": [{"name": r.name, "offset": r.offset, "bits": r.width, "count": r.count,
                       "description": r.description} for r in REGISTERS],
        "bytes": len(verilog.encode()),
        "sha256": hashlib.sha256(verilog.encode()).hexdigest(),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m rtl.top``."""
    parser = argparse.ArgumentParser(prog="python -m rtl.top", description=__doc__)
    parser.add_argument("--emit", choices=["verilog"], required=True, help="what to write")
    parser.add_argument("--config", default="zcu102",
                        help=f"configuration: {', '.join(CONFIGS)}, or one of them with another"
                        " array, as in zcu102-32x64 (default: %(default)s)")
    parser.add_argument("--multiplier", choices=MULTIPLIERS, default=MULTIPLIERS[0],
                        help="form of the multipliers of the array (default: %(default)s)")
    parser.add_argument("--output", type=Path,
                        help="folder to write to (default: build/<configuration>)")
    options = parser.parse_args(arguments)
    try:
        config = replace(named(options.config), multiplier=options.multiplier)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder = options.output or Path("build") / config.name
    verilog = emit_verilog(config)
    description = _description(config, verilog)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "heatvit.v").write_text(verilog)
        (folder / "heatvit.json").write_text(json.dumps(description, indent=2) + "\n")
    except OSError as error:
        print(f"error: {folder} cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{folder / 'heatvit.v'}: {config.name}, {config.rows} x {config.columns} array,"
          f" {description['bytes']:,} bytes, sha256 {str(description['sha256'])[:16]}")
    print(f"{folder / 'heatvit.json'}: configuration, ports, registers, digest")
    return 0


if __name__ == "__main__":
    sys.exit(main())
