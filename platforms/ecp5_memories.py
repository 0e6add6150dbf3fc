# SPDX-License-Identifier: BSD-2-Clause
"""Which memories of the design are block RAM on ECP5, and how they are written for Yosys."""

import re

__all__ = ["memories"]

#: A memory in a module of its own, as ``rtl/ram.py`` writes it.
_MODULE = re.compile(r"^module \w+\(clk, write_en,.*?^endmodule$", re.M | re.S)

#: In it: the lanes that are written one by one; style, highest bit and highest row; its accesses.
_LANES = re.compile(r"^  input \[(\d+):0\] write_en;$", re.M)
_ARRAY = re.compile(r'^  \(\* ram_style = "\w+" \*\)\n  reg \[(\d+):0\] memory \[0:(\d+)\];$', re.M)
_WRITE = re.compile(
    r"^(    if \(write_en\[0\]\)\n)      memory\[write_addr\] <= write_data;$", re.M)
_READ = re.compile(r"memory(\[read_addr_\d+\]);")

#: Attributes of a memory of either kind.
_BLOCK, _DISTRIBUTED = 'ram_style = "block", no_rw_check', 'ram_style = "distributed"'

#: Rows by bits that a block RAM can be.
_SHAPES = ((512, 36), (1024, 18), (2048, 9))

#: LUTs that 16 rows by 4 bits of distributed memory take.
_LUTS = 6

#: LUTs that a block RAM must save.
_WORTH = 90

#: Bits that are not worth a block RAM of their own.
_FEW_BITS = 2


def memories(verilog: str) -> str:
    """Return ``verilog`` with block RAM for all memories but the short and the narrow ones.

    A larger FPGA has distributed memories of more rows; here these take too many LUTs. Block RAM
    may read anything where it is being written: the design does not depend on what that is, and
    Yosys would build a bypass otherwise.
    """
    return _MODULE.sub(lambda module: _memory(module[0]), verilog)


def _memory(module: str) -> str:
    """Return a module of one memory with the parts that it is made of."""
    array, lanes = _ARRAY.search(module), _LANES.search(module)
    if array is None or lanes is None:
        return module
    bits, rows = int(array[1]) + 1, int(array[2]) + 1
    step = bits // (int(lanes[1]) + 1)
    luts = _LUTS * -(-bits // 4) * -(-rows // 16)
    # Lanes of a block RAM are bytes.
    if (step < bits and step % 8) or luts < _WORTH * _blocks(bits, rows):
        return module.replace(array[0], _declared(_DISTRIBUTED, bits, "memory", rows))
    depth, width = _SHAPES[0]
    few = bits % width
    if step < bits or not 0 < few <= _FEW_BITS or few == bits or rows > depth:
        return module.replace(array[0], _declared(_BLOCK, bits, "memory", rows))
    low = bits - few
    module = module.replace(array[0], _declared(_BLOCK, low, "memory", rows) + "\n"
                            + _declared(_DISTRIBUTED, few, "few", rows))
    module = _WRITE.sub(rf"\1      memory[write_addr] <= write_data[{low - 1}:0];\n"
                        rf"\1      few[write_addr] <= write_data[{bits - 1}:{low}];", module)
    return _READ.sub(r"{few\1, memory\1};", module)


def _blocks(bits: int, rows: int) -> int:
    """Return how many block RAMs a memory takes."""
    return min(-(-rows // depth) * -(-bits // width) for depth, width in _SHAPES)


def _declared(attributes: str, bits: int, name: str, rows: int) -> str:
    return f'  (* {attributes} *)\n  reg [{bits - 1}:0] {name} [0:{rows - 1}];'
