# SPDX-License-Identifier: BSD-2-Clause
"""LayerNorm statistics of the residual, taken as its rows leave the epilogue."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from rtl.arith import delay
from rtl.config import Config
from rtl.isa import (
    IMPORTANCE_BITS,
    MANTISSA_BITS,
    MEAN_BITS,
    NORM_SUM_BITS,
    NORM_SUMSQ_BITS,
    RSQRT_ROWS,
    SHARE_BITS,
    SHIFT_BITS,
    WEIGHTED_BITS,
    WIDE_BITS,
    PolyRow,
    RowScale,
)
from rtl.rowscale import NormScale
from rtl.tree import AdderTree, tree_latency

__all__ = ["BlockSums", "Square", "Statistics"]

SQUARE_BITS = 2 * WIDE_BITS - 1

_SUMS = data.StructLayout({"sum": signed(NORM_SUM_BITS), "sumsq": unsigned(NORM_SUMSQ_BITS)})
_NORM = data.StructLayout({"mean": signed(MEAN_BITS), "scale": RowScale})
#: Deepest memory that is distributed: one of 64 rows is a LUT a bit.
_DISTRIBUTED_DEPTH = 256
#: LayerNorms that are kept of a row.
_NORM_SLOTS = 4
_FACTOR = signed(SHARE_BITS + 1)
#: Sum of a channel times all shares, which sum to 2**16, and one half.
_PACKAGE_SUM = signed(WIDE_BITS + SHARE_BITS)
_ONE_HALF = SHARE_BITS - 2
_STEP = data.StructLayout({"enable": 1, "accumulate": 1, "half": 1})


def _style(depth: int) -> dict[str, str]:
    return {"ram_style": "distributed" if depth <= _DISTRIBUTED_DEPTH else "block"}


class Square(Component):
    """``o = i * i``, one a cycle, no flow control: one DSP, its three registers.

    With ``package`` the factors are two, and the DSP sums its products:
    ``o = i * factor + (o if accumulate else 2**15 if half else 0)``.

    Parameters
    ----------
    package
        Whether it serves packages as well.

    Members
    -------
    i : In(signed(16))
        Number.
    o : Out(31), with ``package`` Out(signed(33))
        Its square, ``LATENCY`` cycles later.
    factor : In(signed(18))
        Second factor, with ``i``.
    step : In
        What is added. ``o`` changes with ``enable`` only. ``STEP_DELAY`` cycles after ``i``.
    """

    STEP_DELAY = 2
    LATENCY = STEP_DELAY + 1

    def __init__(self, *, package: bool = False) -> None:
        self.package = package
        ports = {"i": In(signed(WIDE_BITS)), "o": Out(unsigned(SQUARE_BITS))}
        if package:
            ports |= {"factor": In(_FACTOR), "step": In(_STEP), "o": Out(_PACKAGE_SUM)}
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        operand = Signal(signed(WIDE_BITS), reset_less=True)
        m.d.sync += operand.eq(self.i)
        if not self.package:
            product = Signal(signed(SQUARE_BITS + 1), reset_less=True)
            m.d.sync += product.eq(operand * operand)
            m.d.comb += self.o.eq(delay(m, product, 1, name="result"))
            return m

        factor = Signal(_FACTOR, reset_less=True)
        product = Signal(signed(WIDE_BITS + _FACTOR.width), reset_less=True)
        addend = Signal(_PACKAGE_SUM)
        total = Signal(_PACKAGE_SUM, reset_less=True)
        m.d.sync += [factor.eq(self.factor), product.eq(operand * factor)]
        m.d.comb += [
            addend.eq(Mux(self.step.accumulate, total, self.step.half << _ONE_HALF)),
            self.o.eq(total),
        ]
        with m.If(self.step.enable):
            m.d.sync += total.eq(product + addend)
        return m


class BlockSums(Component):
    """``sum = sum(x)`` and ``sumsq = sum(x * x)`` of a block of channels, zero if not enabled.

    With ``package`` the squares are ``x * factor`` of another ``x``, each summed over the rows by
    itself as well.

    No flow control. Latency: ``latency``: square, adder tree, mask.
    Resources: ``size`` DSPs, ``size - 1`` adders of about 18 bits and as many of about 33.

    Parameters
    ----------
    size
        Channels, a power of two.
    package
        Whether it serves packages as well.

    Members
    -------
    x : In(ArrayLayout(signed(16), size))
        Channels of the block.
    enable : In(1)
        The block counts.
    sum : Out(signed(16 + log2(size)))
        Sum of the channels.
    sumsq : Out(31 + log2(size))
        Sum of their squares.
    i, factor, step : In
        As of :class:`Square`, one ``i`` and ``factor`` for each channel.
    o : Out(ArrayLayout(signed(33), size))
        Squares, or what is summed, ``Square.LATENCY`` cycles later.
    """

    def __init__(self, *, size: int, package: bool = False) -> None:
        self.size = size
        self.package = package
        self.latency = Square.LATENCY + tree_latency(size) + 1
        self.sum_shape = signed(WIDE_BITS + exact_log2(size))
        self.sumsq_shape = unsigned(SQUARE_BITS + exact_log2(size))
        ports = {
            "x": In(data.ArrayLayout(signed(WIDE_BITS), size)),
            "enable": In(1),
            "sum": Out(self.sum_shape),
            "sumsq": Out(self.sumsq_shape),
        }
        if package:
            ports |= {
                "i": In(data.ArrayLayout(signed(WIDE_BITS), size)),
                "factor": In(data.ArrayLayout(_FACTOR, size)),
                "step": In(_STEP),
                "o": Out(data.ArrayLayout(_PACKAGE_SUM, size)),
            }
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sum_tree = sums = AdderTree(inputs=self.size, shape=signed(WIDE_BITS))
        m.submodules.sumsq_tree = squares = AdderTree(inputs=self.size,
                                                      shape=unsigned(SQUARE_BITS))
        for k in range(self.size):
            m.submodules[f"square_{k}"] = square = Square(package=self.package)
            m.d.comb += [
                square.i.eq(self.i[k] if self.package else self.x[k]),
                sums.i[k].eq(self.x[k]),
                squares.i[k].eq(square.o[:SQUARE_BITS]),
            ]
            if self.package:
                m.d.comb += [
                    square.factor.eq(self.factor[k]),
                    square.step.eq(self.step),
                    self.o[k].eq(square.o),
                ]
        enable = delay(m, self.enable, self.latency - 1, name="enable")
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

    With ``config.pruning`` a row has four slots for mean and scale, and the multipliers of the
    squares are lent to the token selector: ``pairs`` gives ``sum(a)`` and ``sum(a * s)`` of a row
    with ``a`` in its lower and ``s`` in its upper half, and ``package``, over the rows from
    ``first_row`` to ``last_row``, ``(2**15 + sum(share * x)) >> 16`` of each of ``package_lanes``
    channels. The shares of all rows are not negative and sum to ``2**16``. Neither has running
    sums, mean or scale; between the rows of a package no other row enters.

    Latency: ``latency`` cycles until a read sees mean and scale: block sums, adder tree, running
    sums, NormScale, write. The outputs for tracing come one cycle earlier. Sums of pairs come after
    ``pair_latency`` cycles, a package ``PACKAGE_LATENCY`` cycles after its last row, for one cycle.
    Resources: ``columns`` DSPs and those of :class:`NormScale`, ``113 * residual_rows`` bits of
    distributed memory; with ``pruning`` ``66 * residual_rows`` and 47 of four times as many rows of
    block RAM, and 66 LUTs a package lane.

    Parameters
    ----------
    config
        Configuration; ``columns``, ``residual_rows`` and ``pruning`` are used.

    Members
    -------
    data : In(ArrayLayout(signed(16), columns))
        Residual.
    enable : In(columns / block)
        Blocks that count.
    valid : In(1)
        A row of the residual enters.
    row : In(range(residual_rows))
        Which one, physically; of pairs its position.
    first, last : In(1)
        Its first and its last column tile.
    channels, mean_m, mean_s, scale_m, scale_s, epsilon : In
        As of :class:`NormScale`; with ``data``.
    read_row : In(range(residual_rows))
        Row to be read.
    read_mean, read_scale : Out
        Its mean and scale, one cycle later.
    norm_valid, norm_row, norm_sum, norm_sumsq, norm_mean, norm_scale : Out
        A finished row, for tracing.
    write_en, write_row, write_data : In
        Writes one row of the table of the reciprocal square root.
    norm_slot, read_slot : In(2)
        Which mean and scale of the row are written and read.
    pairs : In(1)
        A row of pairs enters instead; ``enable``, ``first`` and ``last`` have no effect.
    package : In(1)
        A row of a package enters instead; they have no effect either.
    part, share, first_row, last_row : In
        Which ``package_lanes`` channels, times what; first and last row, which may be one.
    pair_valid, pair_row, pair_weighted, pair_importance : Out
        Sums of a row of pairs: ``sum(a * s)`` and ``sum(a)``.
    package_valid, package_data : Out
        Channels of a package.
    """

    PACKAGE_LATENCY = Square.LATENCY

    def __init__(self, config: Config) -> None:
        self.pruning = config.pruning
        self.package_lanes = config.package_lanes if self.pruning else 0
        self.block = config.block
        self.blocks = [BlockSums(size=self.block, package=c < self.package_lanes)
                       for c in range(0, config.columns, self.block)]
        self.residual_rows = config.residual_rows
        #: Cycles until the running sums are there.
        self._sum_latency = self.blocks[0].latency + tree_latency(len(self.blocks)) + 1
        self.latency = self._sum_latency + NormScale.LATENCY + 1
        self.pair_latency = self._sum_latency
        row = range(self.residual_rows)
        ports = {
            "data": In(data.ArrayLayout(signed(WIDE_BITS), config.columns)),
            "enable": In(len(self.blocks)),
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
        }
        if self.pruning:
            ports |= {
                "norm_slot": In(range(_NORM_SLOTS)),
                "read_slot": In(range(_NORM_SLOTS)),
                "pairs": In(1),
                "package": In(1),
                "part": In(1),
                "share": In(SHARE_BITS),
                "first_row": In(1),
                "last_row": In(1),
                "pair_valid": Out(1),
                "pair_row": Out(row),
                "pair_weighted": Out(WEIGHTED_BITS),
                "pair_importance": Out(IMPORTANCE_BITS),
                "package_valid": Out(1),
                "package_data": Out(data.ArrayLayout(signed(WIDE_BITS), self.package_lanes)),
            }
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        blocks, size = self.blocks, self.block
        m.submodules.sum_tree = sum_tree = AdderTree(
            inputs=len(blocks), shape=blocks[0].sum_shape)
        m.submodules.sumsq_tree = sumsq_tree = AdderTree(
            inputs=len(blocks), shape=blocks[0].sumsq_shape)
        for b, block in enumerate(blocks):
            m.submodules[f"block_{b}"] = block
            m.d.comb += [
                block.x.eq(Cat(self.data[b * size + k] for k in range(size))),
                block.enable.eq(self.enable[b]),
                sum_tree.i[b].eq(block.sum),
                sumsq_tree.i[b].eq(block.sumsq),
            ]
        if self.pruning:
            self._lend(m)

        # Running sums
        first = self.first | self.pairs if self.pruning else self.first
        m.submodules.sums = sums = Memory(shape=_SUMS, depth=self.residual_rows, init=[],
                                          attrs=_style(self.residual_rows))
        read, write = sums.read_port(), sums.write_port()
        cycles = self._sum_latency
        read_row = delay(m, self.row, cycles - 2, name="row")
        row = delay(m, read_row, 2, name="row_written")
        first = delay(m, first, cycles - 1, name="first")
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
        if self.pruning:
            m.d.comb += [
                self.pair_valid.eq(delay(m, self.pairs, cycles, name="pairs", reset=True)),
                self.pair_row.eq(row),
                self.pair_weighted.eq(total.sumsq),
                self.pair_importance.eq(total.sum),
            ]
        self._norms(m, row, total, valid)
        return m

    def _lend(self, m: Module) -> None:
        """Give multipliers the factors of pairs and packages, besides squares."""
        half = len(self.data) // 2
        upper = Signal()
        step = Signal(_STEP)
        late = Signal(_STEP)
        m.d.comb += [
            upper.eq(self.pairs | (self.package & self.part)),
            step.enable.eq(self.valid | self.pairs | self.package),
            step.accumulate.eq(self.package & ~self.first_row),
            step.half.eq(self.package & self.first_row),
            late.eq(delay(m, step, Square.STEP_DELAY, name="step")),
        ]
        for c in range(self.package_lanes):
            block, k = self.blocks[c // self.block], c % self.block
            # Where both halves are in one block there are no parts, and its own upper half is left
            # out of pairs.
            other = self.data[c + half] if c < half else 0
            if c >= half:
                with m.If(self.pairs):
                    m.d.comb += block.x[k].eq(0)
            m.d.comb += [
                block.i[k].eq(Mux(upper, other, self.data[c])),
                block.factor[k].eq(Mux(self.package, self.share, self.data[c])),
                self.package_data[c].eq(block.o[k] >> (SHARE_BITS - 1)),
            ]
        for block in self.blocks:
            if block.package:
                m.d.comb += block.step.eq(late)
            with m.If(self.pairs):
                m.d.comb += block.enable.eq(block.package)
        m.d.comb += self.package_valid.eq(delay(
            m, self.package & self.last_row, self.PACKAGE_LATENCY, name="package", reset=True))

    def _norms(self, m: Module, row: Value, total: data.View, valid: Value) -> None:
        """Mean and scale of finished rows, and their memory."""
        cycles = self._sum_latency
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

        depth = self.residual_rows
        write_slot, read_slot = Const(0, 0), Const(0, 0)
        if self.pruning:
            # The slot is the upper part of the address: rows of a slot begin at a power of two.
            depth = ((_NORM_SLOTS - 1) << len(self.row)) + self.residual_rows
            write_slot = delay(m, self.norm_slot, self.latency - 1, name="slot")
            read_slot = self.read_slot
        m.submodules.norms = norms = Memory(shape=_NORM, depth=depth, init=[], attrs=_style(depth))
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
            write_norm.addr.eq(Cat(self.norm_row, write_slot)),
            write_norm.data.mean.eq(scale.mean),
            write_norm.data.scale.eq(scale.o),
            write_norm.en.eq(self.norm_valid),
            read_norm.addr.eq(Cat(self.read_row, read_slot)),
            self.read_mean.eq(read_norm.data.mean),
            self.read_scale.eq(read_norm.data.scale),
        ]
