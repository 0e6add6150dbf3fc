# SPDX-License-Identifier: BSD-2-Clause
"""Memories for ECP5: which are block RAM, and what one of them with a few bits more becomes."""

import pytest
from amaranth.hdl import Module
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from platforms.ecp5_memories import memories
from platforms.synthesis import synthesise
from rtl.emit import emit

MEMORY = """module memory(clk, write_en, write_addr, write_data);
  input [{}:0] write_en;
  (* {} *)
  reg [{}:0] memory [0:{}];
endmodule
"""


@pytest.mark.parametrize("before", ["block", "distributed"])
@pytest.mark.parametrize(("rows", "bits", "lanes", "style"), [
    (2, 432, 1, "distributed"), (54, 256, 1, "block"), (16, 64, 1, "distributed"),
    (64, 24, 1, "block"), (64, 12, 1, "distributed"), (448, 8, 1, "block"),
    (8, 64, 8, "distributed"), (64, 32, 4, "block"), (64, 32, 8, "distributed"),
    (5376, 128, 8, "block")])
def test_memories_that_are_neither_short_nor_narrow_are_block_ram(before, rows, bits, lanes,
                                                                  style):
    sizes = lanes - 1, bits - 1, rows - 1
    changed = memories(MEMORY.format(sizes[0], f'ram_style = "{before}"', *sizes[1:]))
    # Block RAM may read anything where it is being written.
    attributes = f'ram_style = "{style}"' + (", no_rw_check" if style == "block" else "")
    assert changed == MEMORY.format(sizes[0], attributes, *sizes[1:])


class Table(Component):
    """Memory of 38 bits."""

    row: In(6)
    write_row: In(6)
    write: In(1)
    data: In(38)
    out: Out(38)

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=38, depth=64, init=[],
                                              attrs={"ram_style": "distributed"})
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.en.eq(self.write), write.addr.eq(self.write_row), write.data.eq(self.data),
            read.addr.eq(self.row), self.out.eq(read.data),
        ]
        return m


def test_bits_that_a_block_ram_has_no_room_for_are_distributed():
    text = memories(emit(Table(), "table"))
    assert "reg [35:0] memory [0:63];" in text
    assert "reg [1:0] few [0:63];" in text
    # On an FPGA whose block RAM has 36 bits, too: one, and LUTs for two bits.
    cells = synthesise(text, top="table")
    assert (cells.ramb36, cells.ramb18) == (0, 1)
    assert 0 < cells.lutram <= 8
