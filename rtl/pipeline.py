# SPDX-License-Identifier: BSD-2-Clause
"""Control bits beside the datapath: which row is where, and what its pass says of it."""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data

from rtl import isa

__all__ = ["RowPipeline"]


class RowPipeline:
    """Delays a row of control bits by every number of cycles from 0 to ``depth``.

    The datapath has a fixed latency and never waits, so that a block ``k`` cycles behind the issue
    stage finds its control bits in ``row(k)``.

    Parameters
    ----------
    m
        Module that gets the registers. Only valid bits are reset.
    valid, row
        What was issued.
    descriptors
        Pass descriptors, chosen by the slot of the row.
    """

    def __init__(self, m: Module, valid: Value, row: data.View, descriptors: data.View, *,
                 depth: int):
        self._m = m
        self._descriptors = descriptors
        self._fields: dict[tuple[int, str], Signal] = {}
        self._valids = [valid]
        self._rows = [row]
        for k in range(1, depth + 1):
            later_valid = Signal(name=f"valid_{k}")
            later_row = Signal(row.shape(), name=f"row_{k}", reset_less=True)
            m.d.sync += [later_valid.eq(self._valids[-1]), later_row.eq(self._rows[-1])]
            self._valids.append(later_valid)
            self._rows.append(later_row)

    def valid(self, k: int) -> Value:
        """Return whether a row was issued ``k`` cycles ago."""
        return self._valids[k]

    def row(self, k: int) -> data.View:
        """Return the row that was issued ``k`` cycles ago."""
        return self._rows[k]

    def field(self, k: int, name: str) -> Value:
        """Return a field of the pass of the row that was issued ``k`` cycles ago.

        It is chosen a cycle earlier and comes from a register: a descriptor stays for as long as
        rows of its pass are under way. For ``k = 0`` it is combinational.

        Ask for it outside of conditions: it is driven where it is first asked for.
        """
        if (k, name) in self._fields:
            return self._fields[k, name]
        value = Signal(isa.pass_layout[name].shape, name=f"{name}_{k}", reset_less=True)
        self._fields[k, name] = value
        domain = self._m.d.sync if k else self._m.d.comb
        with self._m.Switch(self.row(max(0, k - 1)).tile.slot):
            for slot in range(len(self._descriptors)):
                with self._m.Case(slot):
                    domain += value.eq(self._descriptors[slot][name])
        return value
