# SPDX-License-Identifier: BSD-2-Clause
"""Row maxima of the scores, taken as the scores leave the epilogue."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from rtl.arith import delay
from rtl.config import Config
from rtl.isa import SCORE_BITS, WIDE_BITS
from rtl.tree import MaxTree, tree_latency

__all__ = ["RowMax"]

LOWEST = -(1 << (WIDE_BITS - 1))


class RowMax(Component):
    """``max = max(lowest if first else max of the row so far, data where enabled)``, for the rows
    of two heads: one is written while the other is read.

    No flow control: a row enters every cycle; the same row returns no sooner than 16 cycles after
    (its maximum is read and written back within 3). With ``config.pruning`` the comparators of the
    first level serve a selector whenever no row enters: ``compare_below[k] = compare_scores[k] <
    compare_threshold``, unsigned.

    Latency: ``latency`` cycles until a read sees the maximum: mask, tree, running maximum, write.
    ``max`` comes one cycle earlier. ``COMPARE_LATENCY`` cycles for ``compare_below``: scores
    instead of the mask, first level. Resources: about 30 LUTs a column, 45 with ``pruning``, two
    copies of ``16 * 2 * max_tokens`` bits of distributed memory.

    Parameters
    ----------
    config
        Configuration; ``columns``, ``max_tokens`` and ``pruning`` are used.

    Members
    -------
    data : In(ArrayLayout(signed(16), columns))
        Scores.
    enable : In(columns)
        Scores that are those of tokens.
    valid : In(1)
        A row of scores enters.
    slot, row : In
        Which head, which row.
    first : In(1)
        Its first column tile.
    read_slot, read_row : In
        Row to be read.
    read_max : Out(signed(16))
        Its maximum, one cycle later.
    max, max_valid : Out
        Maximum so far of a row that entered, for tracing.
    compare : In(1)
        Scores of a selector enter, and no row does.
    compare_scores : In(ArrayLayout(16, columns / 2))
        Scores.
    compare_threshold : In(16)
        What they are compared with.
    compare_below : Out(columns / 2)
        Which of them are below.
    """

    COMPARE_LATENCY = 2

    def __init__(self, config: Config) -> None:
        self.columns = config.columns
        self.pruning = config.pruning
        self.max_tokens = config.max_tokens
        self.latency = 1 + tree_latency(self.columns) + 2
        ports = {
            "data": In(data.ArrayLayout(signed(WIDE_BITS), self.columns)),
            "enable": In(self.columns),
            "valid": In(1),
            "slot": In(1),
            "row": In(range(self.max_tokens)),
            "first": In(1),
            "read_slot": In(1),
            "read_row": In(range(self.max_tokens)),
            "read_max": Out(signed(WIDE_BITS)),
            "max": Out(signed(WIDE_BITS)),
            "max_valid": Out(1),
        }
        if self.pruning:
            ports |= {
                "compare": In(1),
                "compare_scores": In(data.ArrayLayout(unsigned(SCORE_BITS), config.comparators)),
                "compare_threshold": In(unsigned(SCORE_BITS)),
                "compare_below": Out(config.comparators),
            }
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.tree = tree = MaxTree(inputs=self.columns, shape=signed(WIDE_BITS))
        for i in range(self.columns):
            score = Signal(signed(WIDE_BITS), name=f"score_{i}", reset_less=True)
            m.d.sync += score.eq(Mux(self.enable[i], self.data[i], LOWEST))
            m.d.comb += tree.i[i].eq(score)
            if self.pruning:
                # For the tree, which compares signed numbers, 0 becomes the lowest one.
                other = self.compare_scores[i // 2] if i % 2 else self.compare_threshold
                with m.If(self.compare):
                    m.d.sync += score.eq(other ^ (1 << (SCORE_BITS - 1)))
        if self.pruning:
            m.d.sync += self.compare_below.eq(tree.above)

        # The slot is the upper half of the address: the rows of slot 1 begin at a power of two.
        depth = (1 << len(self.row)) + self.max_tokens
        m.submodules.maxima = maxima = Memory(shape=signed(WIDE_BITS), depth=depth, init=[],
                                              attrs={"ram_style": "distributed"})
        running, read, write = maxima.read_port(), maxima.read_port(), maxima.write_port()
        address = delay(m, Cat(self.row, self.slot), tree.latency, name="address")
        first = delay(m, self.first, 1 + tree.latency, name="first")
        total = Signal(signed(WIDE_BITS), reset_less=True)
        m.d.sync += total.eq(Mux(first | (tree.o > running.data), tree.o, running.data))
        m.d.comb += [
            running.addr.eq(address),
            write.addr.eq(delay(m, address, 2, name="address_written")),
            write.data.eq(total),
            write.en.eq(delay(m, self.valid, tree.latency + 2, name="valid", reset=True)),
            read.addr.eq(Cat(self.read_row, self.read_slot)),
            self.read_max.eq(read.data),
            self.max.eq(total),
            self.max_valid.eq(write.en),
        ]
        return m
