# SPDX-License-Identifier: BSD-2-Clause
"""LayerNorm statistics of the residual, taken as its rows leave the epilogue."""

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from rtl.arith import delay
from rtl.config import BLOCK, Config
from rtl.isa import (
    MANTISSA_BITS,
    MEAN_BITS,
    NORM_SUM_BITS,
    NORM_SUMSQ_BITS,
    RSQRT_ROWS,
    SHIFT_BITS,
    WIDE_BITS,
    PolyRow,
    RowScale,
)
from rtl.rowscale import NormScale
from rtl.tree import AdderTree, tree_latency

__all__ = ["BlockSums", "Square", "Statistics"]

SQUARE_BITS = 2 * WIDE_BITS - 1

_BLOCK_SUM = signed(WIDE_BITS + exact_log2(BLOCK))
_BLOCK_SUMSQ = unsigned(SQUARE_BITS + exact_log2(BLOCK))
_SUMS = data.StructLayout({"sum": signed(NORM_SUM_BITS), "sumsq": unsigned(NORM_SUMSQ_BITS)})
_NORM = data.StructLayout({"mean": signed(MEAN_BITS), "scale": RowScale})
_DISTRIBUTED = {"ram_style": "distributed"}


class Square(Component):
    """``o = i * i``, one a cycle, no flow control: one DSP, its three registers.

    Members
    -------
    i : In(signed(16))
        Number.
    o : Out(31)
        Its square, ``LATENCY`` cycles later.
    """

    LATENCY = 3

    i: In(signed(WIDE_BITS))
    o: Out(unsigned(SQUARE_BITS))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        operand = Signal(signed(WIDE_BITS), reset_less=True)
        product = Signal(signed(SQUARE_BITS + 1), reset_less=True)
        m.d.sync += [operand.eq(self.i), product.eq(operand * operand)]
        m.d.comb += self.o.eq(delay(m, product, 1, name="result"))
        return m


class BlockSums(Component):
    """``sum = sum(x)`` and ``sumsq = sum(x * x)`` of a block of 16 channels, zero if not enabled.

    No flow control. Latency: ``LATENCY``: square, adder tree, mask.
    Resources: 16 DSPs, 15 adders of about 18 bits and 15 of about 33.

    Members
    -------
    x : In(ArrayLayout(signed(16), 16))
        Channels of the block.
    enable : In(1)
        The block counts.
    sum : Out(signed(20))
        Sum of the channels.
    sumsq : Out(35)
        Sum of their squares.
    """

    LATENCY = Square.LATENCY + tree_latency(BLOCK) + 1

    x: In(data.ArrayLayout(signed(WIDE_BITS), BLOCK))
    enable: In(1)
    sum: Out(_BLOCK_SUM)
    sumsq: Out(_BLOCK_SUMSQ)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sum_tree = sums = AdderTree(inputs=BLOCK, shape=signed(WIDE_BITS))
        m.submodules.sumsq_tree = squares = AdderTree(inputs=BLOCK, shape=unsigned(SQUARE_BITS))
        for i in range(BLOCK):
            m.submodules[f"square_{i}"] = square = Square()
            m.d.comb += [
                square.i.eq(self.x[i]),
                sums.i[i].eq(self.x[i]),
                squares.i[i].eq(square.o),
            ]
        enable = delay(m, self.enable, self.LATENCY - 1, name="enable")
        total = Signal.like(self.sum, reset_less=True)
        total_squares = Signal.like(self.sumsq, reset_less=True)
        m.d.sync += [
            total.eq(Mux(enable, delay(m, sums.o, Square.LATENCY, name="sum"), 0)),
            total_squares.eq(Mux(enable, squares.o, 0)),
        ]
        m.d.comb += [self.sum.eq(total), self.sumsq.eq(total_squares)]
        return m


class Statistics(Component):
    """``S = sum(x)`` and ``Q = sum(x * x)`` of a row over its column tiles, and with the last tile
    its mean and scale by :class:`NormScale`, kept by physical row.

    No flow control: a row enters every cycle; the same row returns no sooner than 16 cycles after
    (its sums are read and written back within 3). Q stays below ``2**40``.

    Latency: ``latency`` cycles until a read sees mean and scale: block sums, adder tree, running
    sums, NormScale, write. The outputs for tracing come one cycle earlier.
    Resources: ``columns`` DSPs and those of :class:`NormScale`, ``113 * max_tokens`` bits of
    distributed memory.

    Parameters
    ----------
    config
        Configuration; ``columns`` and ``max_tokens`` are used.

    Members
    -------
    data : In(ArrayLayout(signed(16), columns))
        Residual.
    enable : In(columns / 16)
        Blocks that count.
    valid : In(1)
        A row of the residual enters.
    row : In(range(max_tokens))
        Which one, physically.
    first, last : In(1)
        Its first and its last column tile.
    channels, mean_m, mean_s, scale_m, scale_s, epsilon : In
        As of :class:`NormScale`; with ``data``.
    read_row : In(range(max_tokens))
        Row to be read.
    read_mean, read_scale : Out
        Its mean and scale, one cycle later.
    norm_valid, norm_row, norm_sum, norm_sumsq, norm_mean, norm_scale : Out
        A finished row, for tracing.
    write_en, write_row, write_data : In
        Writes one row of the table of the reciprocal square root.
    """

    def __init__(self, config: Config) -> None:
        self.blocks = config.column_blocks
        self.max_tokens = config.max_tokens
        #: Cycles until the running sums are there.
        self._sum_latency = BlockSums.LATENCY + tree_latency(self.blocks) + 1
        self.latency = self._sum_latency + NormScale.LATENCY + 1
        row = range(self.max_tokens)
        super().__init__({
            "data": In(data.ArrayLayout(signed(WIDE_BITS), config.columns)),
            "enable": In(self.blocks),
            "valid": In(1),
            "row": In(row),
            "first": In(1),
            "last": In(1),
            "channels": In(16),
            "mean_m": In(MANTISSA_BITS),
            "mean_s": In(SHIFT_BITS),
            "scale_m": In(MANTISSA_BITS),
            "scale_s": In(SHIFT_BITS),
            "epsilon": In(32),
            "read_row": In(row),
            "read_mean": Out(signed(MEAN_BITS)),
            "read_scale": Out(RowScale),
            "norm_valid": Out(1),
            "norm_row": Out(row),
            "norm_sum": Out(signed(NORM_SUM_BITS)),
            "norm_sumsq": Out(NORM_SUMSQ_BITS),
            "norm_mean": Out(signed(MEAN_BITS)),
            "norm_scale": Out(RowScale),
            "write_en": In(1),
            "write_row": In(range(RSQRT_ROWS)),
            "write_data": In(PolyRow),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sum_tree = sum_tree = AdderTree(inputs=self.blocks, shape=_BLOCK_SUM)
        m.submodules.sumsq_tree = sumsq_tree = AdderTree(inputs=self.blocks, shape=_BLOCK_SUMSQ)
        for b in range(self.blocks):
            m.submodules[f"block_{b}"] = block = BlockSums()
            for i in range(BLOCK):
                m.d.comb += block.x[i].eq(self.data[b * BLOCK + i])
            m.d.comb += [
                block.enable.eq(self.enable[b]),
                sum_tree.i[b].eq(block.sum),
                sumsq_tree.i[b].eq(block.sumsq),
            ]

        # Running sums
        m.submodules.sums = sums = Memory(shape=_SUMS, depth=self.max_tokens, init=[],
                                          attrs=_DISTRIBUTED)
        read, write = sums.read_port(), sums.write_port()
        cycles = self._sum_latency
        read_row = delay(m, self.row, cycles - 2, name="row")
        row = delay(m, read_row, 2, name="row_written")
        first = delay(m, self.first, cycles - 1, name="first")
        valid = delay(m, self.valid, cycles, name="valid", reset=True)
        total = Signal(_SUMS, reset_less=True)
        m.d.sync += [
            total.sum.eq(sum_tree.o + Mux(first, 0, read.data.sum)),
            total.sumsq.eq(sumsq_tree.o + Mux(first, 0, read.data.sumsq)),
        ]
        m.d.comb += [
            read.addr.eq(read_row),
            write.addr.eq(row),
            write.data.eq(total),
            write.en.eq(valid),
        ]

        # Mean and scale
        m.submodules.norm_scale = scale = NormScale()
        m.d.comb += [scale.sum.eq(total.sum), scale.sumsq.eq(total.sumsq)]
        for name in ("channels", "mean_m", "mean_s", "scale_m", "scale_s", "epsilon"):
            m.d.comb += getattr(scale, name).eq(delay(m, getattr(self, name), cycles, name=name))
        m.d.comb += [
            scale.write_en.eq(self.write_en),
            scale.write_row.eq(self.write_row),
            scale.write_data.eq(self.write_data),
        ]
        finished = Signal()
        m.d.comb += finished.eq(valid & delay(m, self.last, cycles, name="last"))

        m.submodules.norms = norms = Memory(shape=_NORM, depth=self.max_tokens, init=[],
                                            attrs=_DISTRIBUTED)
        read_norm, write_norm = norms.read_port(), norms.write_port()
        late_total = _SUMS(delay(m, total, NormScale.LATENCY, name="total"))
        m.d.comb += [
            self.norm_valid.eq(
                delay(m, finished, NormScale.LATENCY, name="finished", reset=True)),
            self.norm_row.eq(delay(m, row, NormScale.LATENCY, name="row_finished")),
            self.norm_sum.eq(late_total.sum),
            self.norm_sumsq.eq(late_total.sumsq),
            self.norm_mean.eq(scale.mean),
            self.norm_scale.eq(scale.o),
            write_norm.addr.eq(self.norm_row),
            write_norm.data.mean.eq(scale.mean),
            write_norm.data.scale.eq(scale.o),
            write_norm.en.eq(self.norm_valid),
            read_norm.addr.eq(self.read_row),
            self.read_mean.eq(read_norm.data.mean),
            self.read_scale.eq(read_norm.data.scale),
        ]
        return m
