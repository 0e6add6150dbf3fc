# SPDX-License-Identifier: BSD-2-Clause
"""The passes of the interpreter: matrix products between its buffers, prologues and epilogues."""

from dataclasses import dataclass, field

import numpy as np
from amaranth.hdl import Shape
from amaranth.lib import data
from numpy.typing import NDArray

from golden.fixed import Int, round_shift, saturate
from golden.functions import (
    exponential,
    gelu_int,
    inverse,
    norm_scale,
    normalised,
    power,
    reciprocal,
)
from golden.integer_selector import package
from golden.interpreter_buffers import Buffers, PassRows
from golden.interpreter_selector import Selection, TokenSelector
from rtl.config import Config
from rtl.isa import (
    ACC_BITS,
    LANE_LAYOUT_ROWS,
    LANE_X_BITS,
    MEAN_FRAC,
    ColumnScale,
    Destination,
    Prologue,
    Rows,
    ScaleSource,
    Source,
    Stationary,
    Table,
)

__all__ = ["Execution", "Output", "Passes", "ProgramError"]


class ProgramError(ValueError):
    """A program that the hardware would refuse."""


@dataclass(frozen=True)
class Output:
    """The result of an image, and the tokens that were left of it."""

    logits: Int
    top1: int
    tokens: int


@dataclass(kw_only=True)
class Execution:
    """What a program did in one round.

    Members
    -------
    outputs
        The results of its images.
    words
        For each pass int64 [column tiles, rows, columns]: the data of all writes in their order.
    rows
        For each pass its row statistics by their last name: ``rowmax``; ``rowsum``,
        ``rowscale.m``, ``rowscale.s``; or ``sum``, ``sumsq``, ``mean``, ``m``, ``s``.
    selections
        What each selector did, in their order.
    dropped_by
        For each physical row the selector that dropped the patch in it, 15 if none did.
    """

    outputs: list[Output] = field(default_factory=list)
    words: list[Int] = field(default_factory=list)
    rows: list[dict[str, Int]] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)
    dropped_by: Int = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def logits(self) -> Int:
        """Logits of the first image."""
        return self.outputs[0].logits

    @property
    def top1(self) -> int:
        """Top class of the first image."""
        return self.outputs[0].top1


def _field(words: Int, name: str) -> Int:
    """Return one field of ColumnScale of every word."""
    place = ColumnScale[name]
    value = words >> place.offset & ((1 << place.width) - 1)
    sign = 1 << (place.width - 1)
    return (value ^ sign) - sign if Shape.cast(place.shape).signed else value


class Passes(Buffers):
    """The buffers, and what a pass does to them.

    Members
    -------
    selector
        The token list.
    images
        Images of a round.
    weights, weight_row
        Rows of the weight stream, and the next one.
    results
        What each round has done; passes add to the last one.
    """

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config, seed)
        self.selector = TokenSelector(config.residual_rows)
        self.images = 1
        self.weights: NDArray[np.uint8] = np.zeros((0, config.columns), np.uint8)
        self.weight_row = 0
        self.results: list[Execution] = []

    @property
    def result(self) -> Execution:
        """What is done in this round."""
        return self.results[-1]

    def take(self, count: int) -> NDArray[np.uint8]:
        rows = self.weights[self.weight_row:self.weight_row + count]
        if len(rows) < count:
            raise ProgramError("the program uses more weights than there are")
        self.weight_row += count
        return rows

    def segment(self, f: data.Const) -> tuple[int, int]:
        """Return first position and number of the tokens of a pass."""
        if not f.of_segment:
            return 0, self.selector.tokens
        if f.segment not in self.selector.segments:
            raise ProgramError(f"a pass is over segment {f.segment}, which the token list lacks")
        return self.selector.segments[f.segment]

    def rows_of(self, f: data.Const) -> PassRows:
        if f.rows_from == Rows.DROPPED:
            if f.segment not in self.selector.dropped:
                raise ProgramError("a pass is over dropped rows, there is no selector before it")
            physical = self.selector.dropped[f.segment]
            return PassRows(np.arange(len(physical)), physical)
        start, count = self.segment(f)
        if f.rows_from == Rows.EACH:
            starts = [self.selector.segments[image][0] for image in range(self.images)]
            position = np.array(starts) + f.row_first
        elif f.rows_from == Rows.COUNT:
            position = start + f.row_first + np.arange(f.row_count)
        elif f.rows_from == Rows.LAST:
            position = np.array([start + count - 1])
        else:
            position = start + np.arange(count)
        return PassRows(position, self.selector.rows[position])

    def run_pass(self, f: data.Const) -> None:
        c = self.config
        _, tokens = self.segment(f)
        rows = self.rows_of(f)
        column_tiles = -(-tokens // c.columns) if f.columns_from_tokens else f.column_tiles
        k_tiles = -(-tokens // c.rows) if f.k_from_tokens else f.k_tiles
        self.result.rows.append({})
        words = []
        self.sums = np.zeros((2, len(rows)), np.int64)
        for ct in range(column_tiles):
            if ct == 0 or f.list_stride:
                at = slice(f.list_base + ct * f.list_stride,
                           f.list_base + ct * f.list_stride + k_tiles)
                entries = self.lists[at]
                x = self.prologue(f, rows, entries, self.broadcast[at]).astype(np.float64)
            bias, m, s = self.scales(f)
            acc = (x @ self.stationary(f, ct, entries)).astype(np.int64)
            if np.abs(acc).max() + np.abs(bias).max() >= 1 << (ACC_BITS - 1):
                raise ProgramError("an accumulator overflows")
            v = saturate(round_shift((acc + bias) * m, s), ACC_BITS)
            mask = f.destination_mask if ct == column_tiles - 1 else -1
            words.append(self.write(f, rows, ct, v, mask))
        self.result.words.append(np.stack(words))
        if f.statistics:
            self.statistics(f, rows)

    def scales(self, f: data.Const) -> tuple[Int, Int, Int]:
        """Return bias, mantissa and shift of the columns or rows of a column tile."""
        if f.scale_source == ScaleSource.CONSTANT:
            return np.array([0]), np.array([f.scale_m]), np.array([f.scale_s])
        if f.scale_source == ScaleSource.ROW:
            row = self.result.rows[-1]
            return np.array([0]), row["rowscale.m"][:, None], row["rowscale.s"][:, None]
        raw = self.take(ColumnScale.size // 8).T.copy().view("<i8")[:, 0]
        bias, m, s = (_field(raw, name) for name in ("bias", "m", "s"))
        return bias, m, s

    def stationary(self, f: data.Const, ct: int, entries: Int) -> Int:
        """Return the stationary tiles of all K tiles, [k_tiles * rows, columns]."""
        c = self.config
        count = len(entries) * c.rows
        if f.stationary == Stationary.WEIGHT:
            return self.take(count).view(np.int8).astype(np.float64)
        if f.stationary == Stationary.NONE:
            return np.zeros((count, c.columns), np.int64)
        start, _ = self.segment(f)
        # Behind the last token is what nothing reads.
        if f.stationary == Stationary.VALUE:
            words = (start + np.arange(count)) * f.operand_stride + f.operand_base + ct
            return self.value[words % c.value_depth]
        channel = self.channels(entries)[:, None]
        group, token = np.divmod(start + ct * c.columns + np.arange(c.columns), c.columns)
        words = (group * f.operand_stride + channel // c.columns) * c.columns + token
        return self.key[words % c.key_depth, (channel + token) % c.columns]

    def channels(self, entries: Int) -> Int:
        """Return the channel of every array row of all K tiles (an invalid entry is channel 0)."""
        index = np.maximum(entries, 0)
        block = index * self.config.row_blocks + np.arange(self.config.row_blocks)
        size = self.config.block
        return (block[..., None] * size + np.arange(size)).reshape(-1)

    def prologue(self, f: data.Const, rows: PassRows, entries: Int,
                 broadcast: NDArray[np.bool_]) -> Int:
        """Return what enters the array, [rows, k_tiles * array rows]."""
        channel = self.channels(entries)
        source, size = Source(f.source), self.config.block
        x = self.memory(source)[self.place(source, f.source_base, f.source_stride, rows,
                                           channel[::size] // size, broadcast.reshape(-1))]
        x = x.reshape(len(rows), -1)
        first = 0 if f.prologue == Prologue.EXP else f.zero_rows
        if f.prologue == Prologue.NORM:
            norms = self.norms[f.norm_slot][:, rows.physical]
            x = normalised(x, *(column[:, None] for column in norms))
        elif f.prologue == Prologue.EXP:
            x = self.exponentials(f, rows, x, channel)
        elif f.prologue == Prologue.SCALE:
            x = saturate(round_shift((x << MEAN_FRAC) * f.exp_m, f.exp_s), 8)
        x = np.where(np.repeat(entries.reshape(-1) < 0, size), 0, x)
        return np.where((rows.position < first)[:, None], 0, x)

    def exponentials(self, f: data.Const, rows: PassRows, x: Int, column: Int) -> Int:
        first, count = LANE_LAYOUT_ROWS["exp"]
        table = self.tables[Table.LANE][first:first + count]
        top = self.rowmax[f.source_slot, rows.position][:, None]
        _, tokens = self.segment(f)
        e = np.where((column < tokens) & (column >= f.zero_rows),
                     exponential(table, x, top, f.exp_m, f.exp_s), 0)
        total = e.sum(axis=1)
        m, s = reciprocal(self.tables[Table.RECIPROCAL], total, f.scale_m, f.scale_s)
        self.result.rows[-1] = {"rowsum": total, "rowscale.m": m, "rowscale.s": s}
        if f.class_attention:
            e16, z = power(table, x[0, :tokens], top[0], f.exp_m, f.exp_s)
            r, n = inverse(self.tables[Table.RECIPROCAL], total[0])
            self.selector.attend(f.segment, e16, z, r, n, f.score_s, bool(f.first_head))
        return e

    def write(self, f: data.Const, rows: PassRows, ct: int, v: Int, mask: int) -> Int:
        """Finish ``v`` for its destination and write it; return the data that is written.

        ``mask`` says which blocks of the tile are written.
        """
        c = self.config
        destination = Destination(f.destination)
        written = mask >> np.arange(c.column_blocks) & 1 == 1
        lanes = np.repeat(written, c.block)
        lane = np.arange(c.columns)
        part = 0
        if f.package:
            ct, part = divmod(ct, c.package_parts)
        # A word holds whole column tiles: that of the operand says where in the word it starts.
        tile = f.operand_base % (c.banks // c.column_blocks) + ct
        block = tile * c.column_blocks + np.arange(c.column_blocks)
        place = (f.destination_base, f.destination_stride, rows)
        if f.gelu:
            v = gelu_int(self.tables[Table.LANE][:LANE_LAYOUT_ROWS["gelu_high"][0] + 1],
                         saturate(v, LANE_X_BITS))
        if destination == Destination.LOGIT:
            word = f.destination_base + np.arange(len(rows)) * f.destination_stride + ct
            if f.accumulate:
                v = saturate(v + self.logit[word], ACC_BITS)
            self.logit[word] = v
        elif destination == Destination.KEY:
            v = saturate(v, 8, symmetric=True)
            group, token = np.divmod(rows.position, c.columns)
            address = (group * f.destination_stride + ct) * c.columns + token
            self.key[address[:, None], (lane + token[:, None]) % c.columns] = v
        elif destination == Destination.VALUE:
            v = saturate(v, 8, symmetric=True)
            address = f.destination_base + rows.position * f.destination_stride + ct
            self.value[address[:, None], lane[lanes]] = v[:, lanes]
        elif destination == Destination.SCORE:
            v = saturate(v, 16)
            self.store(Source.SCORE, *place, block, v)
            self._row_maximum(f, rows, ct, v)
        elif destination == Destination.RESIDUAL:
            old = self.memory(Source.RESIDUAL)[self.place(Source.RESIDUAL, *place, block)]
            v = saturate(old.reshape(v.shape) + saturate(v, LANE_X_BITS), 16)
            if f.package:
                self._package(self.selector.share[f.segment], place, tile, part, v)
            else:
                self.store(Source.RESIDUAL, *place, block[written], v[:, lanes])
            self.sums += v[:, lanes].sum(axis=1), np.square(v[:, lanes]).sum(axis=1)
        elif destination == Destination.SELECTOR:
            v = saturate(v, 8)
            if ct == 0:
                importance, score = np.split(v, 2, axis=1)
                self.selector.weighted = (importance * score).sum(axis=1)
                self.selector.importance = importance.sum(axis=1)
        else:
            v = saturate(v, 8)
            self.store(Source.ACT, *place, block[written], v[:, lanes])
        return v

    def _package(self, share: Int, place: tuple[int, int, PassRows], tile: int, part: int,
                 v: Int) -> None:
        """Write the package of some channels of all rows to the first of them."""
        base, stride, rows = place
        blocks = self.config.package_lanes // self.config.block
        lanes = slice(part * self.config.package_lanes, (part + 1) * self.config.package_lanes)
        first = PassRows(rows.position[:1], rows.physical[:1])
        block = tile * self.config.column_blocks + part * blocks + np.arange(blocks)
        self.store(Source.RESIDUAL, base, stride, first, block,
                   package(share, v[:, lanes]))

    def _row_maximum(self, f: data.Const, rows: PassRows, ct: int, v: Int) -> None:
        columns = ct * self.config.columns + np.arange(self.config.columns)
        top = np.where(columns < self.segment(f)[1], v, -32768).max(axis=1)
        slot = self.rowmax[f.destination_slot]
        slot[rows.position] = top if ct == 0 else np.maximum(slot[rows.position], top)
        self.result.rows[-1] = {"rowmax": slot[rows.position].copy()}

    def statistics(self, f: data.Const, rows: PassRows) -> None:
        """Finish the statistics of what was written to the residual."""
        total, squares = self.sums
        mean, m, s = norm_scale(self.tables[Table.RSQRT], total, squares, f.channels, f.mean_m,
                                f.mean_s, f.scale_m, f.scale_s, f.epsilon)
        self.norms[f.norm_slot][:, rows.physical] = mean, m, s
        self.result.rows[-1] = {"sum": total, "sumsq": squares, "mean": mean, "m": m, "s": s}
