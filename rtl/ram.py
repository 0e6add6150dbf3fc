# SPDX-License-Identifier: BSD-2-Clause
"""Memories in emitted Verilog: one short module for each shape of memory."""

from amaranth.hdl import ClockSignal, Elaboratable, Instance, Shape
from amaranth.lib.memory import Memory
from amaranth.utils import ceil_log2

__all__ = ["Memories"]

_MODULE = """
module {name}(clk, write_en, write_addr, write_data{read_names});
  input clk;
  input [{en_high}:0] write_en;
  input [{addr_high}:0] write_addr;
  input [{data_high}:0] write_data;{ports}
  {style}reg [{data_high}:0] memory [0:{last}];
  integer i;
  initial
    for (i = 0; i <= {last}; i = i + 1)
      memory[i] = {width}'d0;
  always @(posedge clk) begin{writes}
  end{reads}
endmodule
"""

_WRITE = """
    if (write_en[{lane}])
      memory[write_addr]{part} <= write_data{part};"""

_PORT = """
  input read_en_{k};
  input [{addr_high}:0] read_addr_{k};
  output [{data_high}:0] read_data_{k};
  reg [{data_high}:0] read_data_{k} = {width}'d0;"""

_READ = """
  always @(posedge clk)
    if (read_en_{k})
      read_data_{k} <= memory[read_addr_{k}];"""


class Memories:
    """Platform that makes every simple memory an instance of a module for its shape.

    Amaranth writes a line for every row of every memory, and a netlist has every bit of them. A
    memory is simple if it has one write port and reads in its clock domain, neither transparently,
    and is zero at the start; others are left as they are.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._modules: dict[str, str] = {}

    def verilog(self) -> str:
        """Return the modules of all memories so far."""
        return "".join(self._modules[name] for name in sorted(self._modules))

    def get_memory(self, memory: Memory) -> Elaboratable:
        """Return what ``memory`` elaborates to: the hook that Amaranth calls."""
        domains = {port.domain for port in (*memory.read_ports, *memory.write_ports)}
        width = Shape.cast(memory.shape).width
        if (len(memory.write_ports) != 1 or len(domains) != 1 or width == 0 or memory.depth < 2
                or any(port.transparent_for for port in memory.read_ports)
                or any(row not in (None, 0) for row in memory.init)):
            return memory.elaborate(None)

        write, = memory.write_ports
        name = self._module(width=width, depth=memory.depth, lanes=len(write.en),
                            reads=len(memory.read_ports), style=memory.attrs.get("ram_style"))
        ports: dict[str, object] = {
            "i_clk": ClockSignal(write.domain), "i_write_en": write.en,
            "i_write_addr": write.addr, "i_write_data": write.data}
        for k, read in enumerate(memory.read_ports):
            ports |= {f"i_read_en_{k}": read.en, f"i_read_addr_{k}": read.addr,
                      f"o_read_data_{k}": read.data}
        return Instance(name, **ports)

    def _module(self, *, width: int, depth: int, lanes: int, reads: int, style: str | None) -> str:
        """Return the name of the module for memories of a shape."""
        parts = [self._prefix, style, f"{depth}x{width}", f"{lanes}w" if lanes > 1 else None,
                 f"{reads}r" if reads > 1 else None]
        name = "_".join(part for part in parts if part)
        if name not in self._modules:
            sizes = {"addr_high": ceil_log2(depth) - 1, "data_high": width - 1, "width": width}
            step = width // lanes
            lane_parts = [f"[{low + step - 1}:{low}]" if lanes > 1 else ""
                          for low in range(0, width, step)]
            self._modules[name] = _MODULE.format(
                name=name, **sizes, en_high=lanes - 1, last=depth - 1,
                style=f'(* ram_style = "{style}" *)\n  ' if style else "",
                read_names="".join(f", read_en_{k}, read_addr_{k}, read_data_{k}"
                                   for k in range(reads)),
                writes="".join(_WRITE.format(lane=lane, part=part)
                               for lane, part in enumerate(lane_parts)),
                ports="".join(_PORT.format(k=k, **sizes) for k in range(reads)),
                reads="".join(_READ.format(k=k) for k in range(reads)))
        return name
