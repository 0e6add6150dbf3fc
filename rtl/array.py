# SPDX-License-Identifier: BSD-2-Clause
"""The systolic array: weight-stationary int8 columns in pairs, double buffered."""

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed, unsigned
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from rtl.arith import delay
from rtl.config import CASCADE, GROUP, Config
from rtl.dsp48e2 import CascadeCell
from rtl.isa import ACT_BITS
from rtl.tree import AdderTree, tree_latency

__all__ = ["ColumnGroup", "SystolicArray", "psum_bits"]

#: Where the high product of a pair begins: 8 * 127 * 256 < 2**18, so the low sum needs 19 bits.
SPLIT = 19

#: What the first row of a cascade adds.
HALF = 1 << (SPLIT - 1)

#: Bits of a packed operand.
OPERAND_BITS = SPLIT + 8

#: Bits of the sum of a cascade. Products have as many, so that adding them extends no sign.
CASCADE_BITS = 2 * SPLIT

PAIRS = GROUP // 2


def psum_bits(rows: int) -> int:
    """Return the bits of a column's sum over ``rows`` rows: 19 for a cascade, plus the tree."""
    return SPLIT + exact_log2(rows // CASCADE)


def _group_latency(rows: int) -> int:
    return 1 + 1 + CASCADE + tree_latency(rows // CASCADE)


class ColumnGroup(Component):
    """Eight columns of the array, all rows: the one module that is repeated.

    Each pair of columns shares a multiplier. Its operand ``{w1', 11 x sign(w0), w0}`` equals
    ``w1 * 2**19 + w0`` when ``w1' = w1 - (w0 < 0)``, so the sum of 8 products is
    ``high * 2**19 + low``, ``|low| < 2**18``. The first row of a cascade adds ``2**18``, after
    which ``high = sum[19:]`` and ``low = {~sum[18], sum[0:18]}``.

    A cell is the inside of a DSP: shadow and active weight (A1, A2), activation (B), product (M)
    and ``P <= M + P of the row above``; nothing is reset. Row ``r`` runs ``r % 8`` cycles behind
    row 0: its activations arrive that late, and ``swap`` and the load bus go down the cascade
    with them; with two lanes even rows take from one, odd rows from the other. A load together
    with ``swap`` comes too late for it: the array gives loads a lead.

    No flow control. Latency: 1 (B) + 1 (M) + 8 (P) + ``tree_latency(rows / 8)``.
    Resources: ``4 * rows`` DSPs, ``8 * (rows / 8 - 1)`` adders of about 20 bits.

    Parameters
    ----------
    rows
        Rows of the array.
    load_rows
        Rows that are loaded in a cycle, 1 or 2.
    multiplier
        Form of the cells, one of ``rtl.config.MULTIPLIERS``; both do the same in every cycle.

    Members
    -------
    act : In(ArrayLayout(signed(9), rows))
        One activation a row, row ``r`` delayed by ``r % 8`` cycles.
    swap : In(1)
        The shadow weights become active, before they meet the activation of this cycle.
    load_valid : In(load_rows), load_row : In(range(rows / load_rows)), load_data : In
        Rows of shadow weights, a pair being ``{w1', w0}``: lane ``i`` is row
        ``load_row * load_rows + i``, loaded if bit ``i`` of ``load_valid`` is set.
    psum : Out(ArrayLayout(signed(psum_bits(rows)), 8))
        Sums of the columns.
    """

    def __init__(self, *, rows: int, load_rows: int = 1, multiplier: str = "portable") -> None:
        self.rows = rows
        self.load_rows = load_rows
        self.multiplier = multiplier
        super().__init__({
            "act": In(data.ArrayLayout(signed(ACT_BITS), rows)),
            "swap": In(1),
            "load_valid": In(load_rows),
            "load_row": In(range(rows // load_rows)),
            "load_data": In(data.ArrayLayout(unsigned(16 * PAIRS), load_rows)),
            "psum": Out(data.ArrayLayout(signed(psum_bits(rows)), GROUP)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        segments = self.rows // CASCADE
        swap: Value = self.swap
        valid: Value = self.load_valid
        row: Value = self.load_row
        lanes: list[Value] = [self.load_data[lane] for lane in range(self.load_rows)]
        sums: list[list[Value]] = [[Const(HALF)] * PAIRS for _ in range(segments)]
        cells = self._primitives if self.multiplier == "dsp48e2" else self._cells
        for step in range(CASCADE):
            if step:
                # The swap pulse and the load bus go down the cascade with the activations.
                swap = delay(m, swap, 1, name=f"swap_{step}")
                valid = delay(m, valid, 1, name=f"valid_{step}")
                row = delay(m, row, 1, name=f"row_{step}")
                # What no row further down takes ends here.
                lanes = [delay(m, lane, 1, name=f"load{i}_{step}")
                         if step + self.load_rows <= CASCADE + i else lane
                         for i, lane in enumerate(lanes)]
            lane = step % self.load_rows
            for segment in range(segments):
                r = segment * CASCADE + step
                write = valid[lane] & (row == r // self.load_rows)
                sums[segment] = cells(m, r, swap, write, lanes[lane], sums[segment])

        for c in range(GROUP):
            m.submodules[f"tree_{c}"] = tree = AdderTree(inputs=segments, shape=signed(SPLIT))
            for segment in range(segments):
                total = sums[segment][c // 2]
                low = Cat(total[:SPLIT - 1], ~total[SPLIT - 1])
                m.d.comb += tree.i[segment].eq(total[SPLIT:] if c % 2 else low)
            m.d.comb += self.psum[c].eq(tree.o)
        return m

    def _cells(self, m: Module, r: int, swap: Value, write: Value, load: Value,
               above: list[Value]) -> list[Value]:
        """Add the cells of row ``r``; return the sums that they pass down."""
        act = Signal(signed(ACT_BITS), name=f"b_{r}", reset_less=True)
        shadow = Signal(16 * PAIRS, name=f"a1_{r}", reset_less=True)
        m.d.sync += act.eq(self.act[r])
        with m.If(write):
            m.d.sync += shadow.eq(load)
        below: list[Value] = []
        for pair in range(PAIRS):
            low, high = shadow.word_select(2 * pair, 8), shadow.word_select(2 * pair + 1, 8)
            active = Signal(signed(OPERAND_BITS), name=f"a2_{r}_{pair}", reset_less=True)
            product = Signal(signed(CASCADE_BITS), name=f"m_{r}_{pair}", reset_less=True)
            total = Signal(signed(CASCADE_BITS), name=f"p_{r}_{pair}", reset_less=True)
            with m.If(swap):
                m.d.sync += active.eq(Cat(low, low[7].replicate(SPLIT - 8), high))
            m.d.sync += product.eq(active * act)
            m.d.sync += total.eq((product + above[pair])[:CASCADE_BITS])
            below.append(total)
        return below

    def _primitives(self, m: Module, r: int, swap: Value, write: Value, load: Value,
                    above: list[Value]) -> list[Value]:
        """Add the cells of row ``r`` as DSP48E2; return the sums that they pass down."""
        first, last = r % CASCADE == 0, r % CASCADE == CASCADE - 1
        below: list[Value] = []
        for pair in range(PAIRS):
            low, high = load.word_select(2 * pair, 8), load.word_select(2 * pair + 1, 8)
            m.submodules[f"cell_{r}_{pair}"] = cell = CascadeCell(rnd=HALF if first else None)
            m.d.comb += [
                cell.a.eq(Cat(low, low[7].replicate(SPLIT - 8), high)),
                cell.load.eq(write),
                cell.swap.eq(swap),
                cell.b.eq(self.act[r]),
            ]
            if not first:
                m.d.comb += cell.pcin.eq(above[pair])
            # The cascade between DSPs leads to the next one only.
            below.append(cell.p[:CASCADE_BITS] if last else cell.pcout)
        return below


class SystolicArray(Component):
    """``psum[c] = sum over r of act[r] * weight[r][c]``, exactly, one row of activations a cycle.

    The weights are one of two tiles: ``swap`` comes with the first activations of a tile and makes
    the loaded tile the active one. A load in the cycle of ``swap`` or before it belongs to that
    tile, a load in a later cycle to the next one; rows that are not loaded keep what the tile
    before the last one had. A weight is -127..127. No flow control.

    Activations, ``swap`` and loads reach row ``r`` after ``r % 8`` cycles and hop from one group of
    8 columns to the next in a cycle. As all three keep step, the contract holds at every cell, and
    no net leaves a group except to the next one. Outputs are aligned again.

    Latency: ``latency = columns / 8 + 11 + tree_latency(rows / 8)``: one register that gives loads
    their lead, the hops, and the latency of :class:`ColumnGroup`.
    Resources: ``rows * columns / 2`` DSPs; hops of ``9 * rows`` registers a group.

    Parameters
    ----------
    config
        Configuration, of which ``rows``, ``columns``, ``load_rows`` and ``multiplier`` are used.

    Members
    -------
    act : In(ArrayLayout(signed(9), rows))
        Activations, a row of the streamed matrix.
    swap : In(1)
        High with the first activations of a tile.
    load_valid : In(load_rows), load_row : In(range(rows / load_rows))
        Bit ``i``: row ``load_row * load_rows + i`` of the next tile is loaded.
    load_data : In(ArrayLayout(signed(8), load_rows * columns))
        These rows, one after the other.
    psum : Out(ArrayLayout(signed(psum_bits(rows)), columns))
        Sums of all columns, ``latency`` cycles after their activations.
    """

    def __init__(self, config: Config) -> None:
        self.rows = config.rows
        self.columns = config.columns
        self.load_rows = config.load_rows
        self.multiplier = config.multiplier
        self.groups = config.columns // GROUP
        self.latency = 1 + self.groups + _group_latency(self.rows)
        super().__init__({
            "act": In(data.ArrayLayout(signed(ACT_BITS), self.rows)),
            "swap": In(1),
            "load_valid": In(self.load_rows),
            "load_row": In(range(self.rows // self.load_rows)),
            "load_data": In(data.ArrayLayout(signed(8), self.load_rows * self.columns)),
            "psum": Out(data.ArrayLayout(signed(psum_bits(self.rows)), self.columns)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = [delay(m, self.act[r], 1 + r % CASCADE, name=f"act_{r}") for r in range(self.rows)]
        act: Value = Signal(ACT_BITS * self.rows, name="act_skewed")
        m.d.comb += act.eq(Cat(rows))
        swap = delay(m, self.swap, 1, name="swap")
        valid: Value = self.load_valid
        row: Value = self.load_row
        for g in range(self.groups):
            m.submodules[f"group_{g}"] = group = ColumnGroup(
                rows=self.rows, load_rows=self.load_rows, multiplier=self.multiplier)
            act = delay(m, act, 1, name=f"act_hop_{g}")
            swap = delay(m, swap, 1, name=f"swap_hop_{g}")
            valid = delay(m, valid, 1, name=f"load_valid_hop_{g}")
            row = delay(m, row, 1, name=f"load_row_hop_{g}")
            m.d.comb += [
                group.act.as_value().eq(act),
                group.swap.eq(swap),
                group.load_valid.eq(valid),
                group.load_row.eq(row),
            ]
            for lane in range(self.load_rows):
                row_data = [self.load_data[lane * self.columns + g * GROUP + c]
                            for c in range(GROUP)]
                # The packed operand of every pair.
                operands = Signal(16 * PAIRS, name=f"operands_{g}_{lane}")
                m.d.comb += operands.eq(Cat(
                    Cat(low, (high - low[7])[:8])
                    for low, high in zip(row_data[::2], row_data[1::2], strict=True)))
                m.d.comb += group.load_data[lane].eq(
                    delay(m, operands, 1 + g, name=f"load_{g}_{lane}"))
            for c in range(GROUP):
                m.d.comb += self.psum[g * GROUP + c].eq(
                    delay(m, group.psum[c], self.groups - 1 - g, name=f"psum_{g}_{c}"))
        return m
