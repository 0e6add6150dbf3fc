# SPDX-License-Identifier: BSD-2-Clause
"""The accelerator in numpy: executes the bytes of a memory image on modelled buffers.

It decodes instructions, tables, block lists and weight streams as the hardware does and knows
nothing of the network, so it proves a lowering without the hardware. Buffers start with rubbish.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from amaranth.hdl import Shape
from amaranth.lib import data
from numpy.typing import NDArray

from golden.fixed import Int, round_shift, saturate
from golden.functions import exponential, gelu_int, norm_scale, normalised, reciprocal
from golden.program import LAYOUTS
from rtl.config import BLOCK, Config
from rtl.isa import (
    ACC_BITS,
    INSTRUCTION_BYTES,
    ISA_VERSION,
    LANE_LAYOUT_ROWS,
    LANE_ROWS,
    LANE_X_BITS,
    MAGIC,
    RECIPROCAL_ROWS,
    RSQRT_ROWS,
    ColumnScale,
    Destination,
    ListEntry,
    LoadKind,
    Opcode,
    PolyRow,
    Prologue,
    Rows,
    ScaleSource,
    Source,
    Stationary,
    Table,
)

__all__ = ["Execution", "ProgramError", "execute"]


class ProgramError(ValueError):
    """A program that the hardware would refuse."""


@dataclass(kw_only=True)
class Execution:
    """What a program did.

    Members
    -------
    logits, top1
        The result.
    words
        For each pass int64 [column tiles, rows, columns]: the data of all writes in their order.
    rows
        For each pass its row statistics by their last name: ``rowmax``; ``rowsum``,
        ``rowscale.m``, ``rowscale.s``; or ``sum``, ``sumsq``, ``mean``, ``m``, ``s``.
    """

    logits: Int
    top1: int
    words: list[Int] = field(default_factory=list)
    rows: list[dict[str, Int]] = field(default_factory=list)


def _unpack(word: int) -> tuple[int, int, int]:
    row = PolyRow.from_bits(word & ((1 << PolyRow.size) - 1))
    return row.c0, row.c1, row.c2


def _field(words: Int, name: str) -> Int:
    """Return one field of ColumnScale of every word."""
    place = ColumnScale[name]
    value = words >> place.offset & ((1 << place.width) - 1)
    sign = 1 << (place.width - 1)
    return (value ^ sign) - sign if Shape.cast(place.shape).signed else value


class _Machine:
    def __init__(self, image: bytes, config: Config, frame: bytes, seed: int) -> None:
        self.image, self.config, self.frame = image, config, frame
        random = np.random.default_rng(seed)

        def memory(depth: int, width: int, low: int, high: int) -> Int:
            return random.integers(low, high + 1, (depth, width), np.int64)

        c = config
        self.stream = {
            Source.ACT: memory(c.act_depth, c.lanes, -128, 127),
            Source.PATCH: memory(c.patch_depth, c.lanes, 0, 255),
            Source.RESIDUAL: memory(c.residual_depth, c.lanes, -32768, 32767),
            Source.SCORE: memory(c.score_depth, c.lanes, -32768, 32767)}
        self.key = memory(c.key_depth, c.columns, -127, 127)
        self.value = memory(c.value_depth, c.columns, -127, 127)
        self.logit = memory(c.class_tiles, c.columns, -100, 100)
        self.rowmax = memory(2, c.max_tokens, -32768, 32767)
        self.norms = memory(3, c.max_tokens, 1, 47)
        self.tables = {Table.LANE: memory(LANE_ROWS, 3, 0, 9),
                       Table.RECIPROCAL: memory(RECIPROCAL_ROWS, 3, 0, 9),
                       Table.RSQRT: memory(RSQRT_ROWS, 3, 0, 9)}
        self.lists = np.full((c.list_depth, c.row_blocks), -1, np.int64)
        self.weight_row = 0
        self.result = Execution(logits=np.zeros(0, np.int64), top1=0)
        self.handlers: dict[Any, Callable[[data.Const], None]] = {
            Opcode.TABLE: self.table, Opcode.LOAD: self.load, Opcode.PASS: self.run_pass,
            Opcode.END: self.end}

    # Program

    def instruction(self, index: int) -> data.Const:
        raw = self.image[INSTRUCTION_BYTES * index:INSTRUCTION_BYTES * (index + 1)]
        try:
            layout = LAYOUTS[Opcode(raw[0])]
        except (IndexError, ValueError):
            raise ProgramError(f"instruction {index} has no known opcode") from None
        return layout.from_bits(int.from_bytes(raw, "little"))

    def run(self) -> Execution:
        begin = self.instruction(0)
        if begin.opcode != Opcode.BEGIN or begin.magic != MAGIC:
            raise ProgramError("the program does not start with BEGIN and its magic number")
        if begin.version != ISA_VERSION:
            raise ProgramError(f"the program is of version {begin.version} of the instruction set,"
                               f" must be {ISA_VERSION}")
        self.tokens = begin.tokens
        self.weights = self._weights(begin)
        for index in range(1, begin.instructions):
            fields = self.instruction(index)
            is_last = index == begin.instructions - 1
            if fields.opcode == Opcode.BEGIN or (fields.opcode == Opcode.END) != is_last:
                raise ProgramError(f"instruction {index} of {begin.instructions} is"
                                   f" {Opcode(fields.opcode).name}")
            self.handlers[Opcode(fields.opcode)](fields)
        if self.weight_row != len(self.weights):
            raise ProgramError(f"the program used {self.weight_row} rows of weights, there are"
                               f" {len(self.weights)}")
        return self.result

    def _weights(self, begin: data.Const) -> NDArray[np.uint8]:
        """Return the array rows of the weight stream, [rows, columns]."""
        c = self.config
        share = c.columns // c.ports
        length = begin.weight_beats * c.port_bits // 8
        parts = [np.frombuffer(self.image, np.uint8, length,
                               begin.weight_offset + port * begin.weight_stride)
                 for port in range(c.ports)]
        return np.concatenate([part.reshape(-1, share) for part in parts], axis=1)

    def take(self, count: int) -> NDArray[np.uint8]:
        rows = self.weights[self.weight_row:self.weight_row + count]
        if len(rows) < count:
            raise ProgramError("the program uses more weights than there are")
        self.weight_row += count
        return rows

    def table(self, fields: data.Const) -> None:
        table = Table(fields.table)
        for i in range(fields.count):
            if table == Table.LIST:
                for bank in range(self.config.row_blocks):
                    entry = ListEntry.from_bits(fields.rows[i] >> (8 * bank) & 0xFF)
                    self.lists[fields.first + i, bank] = entry.index if entry.valid else -1
            else:
                self.tables[table][fields.first + i] = _unpack(fields.rows[i])

    def end(self, fields: data.Const) -> None:
        self.result.logits = self.logit.reshape(-1)[:fields.classes].copy()
        self.result.top1 = int(self.result.logits.argmax())

    # Streaming buffers: blocks of 16 channels

    def blocks(self, source: Any, base: int, stride: int, rows: Int, blocks: Int) -> Int:
        """Return ``blocks`` of ``rows``, [rows, blocks, 16]."""
        banks = self.config.banks
        memory = self.stream[source].reshape(-1, banks, BLOCK)
        word = base + rows[:, None] * stride + blocks // banks
        return memory[word, blocks % banks]

    def store(self, source: Any, base: int, stride: int, rows: Int, blocks: Int,
              values: Int) -> None:
        banks = self.config.banks
        memory = self.stream[source].reshape(-1, banks, BLOCK)
        word = base + rows[:, None] * stride + blocks // banks
        memory[word, blocks % banks] = values.reshape(len(rows), len(blocks), BLOCK)

    def load(self, fields: data.Const) -> None:
        frame = fields.kind == LoadKind.FRAME
        raw = np.frombuffer(self.frame if frame else self.image, np.uint8)
        size = 1 if frame else 2
        units = -(-fields.row_bytes // size // BLOCK)
        pitch = fields.count * fields.row_bytes
        for line in range(fields.lines):
            for i in range(fields.count):
                row = np.array([fields.first + line * fields.count + i])
                for y in range(fields.patch_rows):
                    if frame:
                        start = (line * fields.patch_rows + y) * pitch + i * fields.row_bytes
                    else:
                        start = i * fields.row_bytes
                    part = raw[fields.offset + start:][:fields.row_bytes]
                    values = part.view(np.uint8 if frame else "<i2").astype(np.int64)
                    # What pads a row is not defined.
                    values = np.pad(values, (0, units * BLOCK - len(values)), constant_values=77)
                    self.store(Source.PATCH if frame else Source.RESIDUAL, 0, fields.stride, row,
                               np.arange(units) + y * units, values)

    # Passes

    def run_pass(self, f: data.Const) -> None:
        c = self.config
        rows = (np.arange(self.tokens) if f.rows_from == Rows.TOKENS
                else f.row_first + np.arange(f.row_count))
        column_tiles = -(-self.tokens // c.columns) if f.columns_from_tokens else f.column_tiles
        k_tiles = -(-self.tokens // c.rows) if f.k_from_tokens else f.k_tiles
        self.result.rows.append({})
        words = []
        for ct in range(column_tiles):
            if ct == 0 or f.list_stride:
                entries = self.lists[f.list_base + ct * f.list_stride:][:k_tiles]
                x = self.prologue(f, rows, entries).astype(np.float64)
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
        if f.stationary == Stationary.VALUE:
            words = np.arange(count) * f.operand_stride + f.operand_base + ct
            return self.value[words]
        channel = self.channels(entries)
        token = np.arange(c.columns)
        base = (ct * f.operand_stride + channel // c.columns) * c.columns
        bank = (channel[:, None] + token) % c.columns
        return self.key[base[:, None] + token, bank]

    def channels(self, entries: Int) -> Int:
        """Return the channel of every array row of all K tiles (an invalid entry is channel 0)."""
        index = np.maximum(entries, 0)
        block = index * self.config.row_blocks + np.arange(self.config.row_blocks)
        return (block[..., None] * BLOCK + np.arange(BLOCK)).reshape(-1)

    def prologue(self, f: data.Const, rows: Int, entries: Int) -> Int:
        """Return what enters the array, [rows, k_tiles * array rows]."""
        channel = self.channels(entries)
        x = self.blocks(Source(f.source), f.source_base, f.source_stride, rows,
                        channel[::BLOCK] // BLOCK).reshape(len(rows), -1)
        if f.prologue == Prologue.NORM:
            x = normalised(x, *(column[:, None] for column in self.norms[:, rows]))
        elif f.prologue == Prologue.EXP:
            x = self.exponentials(f, rows, x, channel)
        x = np.where(np.repeat(entries.reshape(-1) < 0, BLOCK), 0, x)
        return np.where((rows < f.zero_rows)[:, None], 0, x)

    def exponentials(self, f: data.Const, rows: Int, x: Int, column: Int) -> Int:
        first, count = LANE_LAYOUT_ROWS["exp"]
        table = self.tables[Table.LANE][first:first + count]
        top = self.rowmax[f.source_slot, rows][:, None]
        e = np.where(column < self.tokens, exponential(table, x, top, f.exp_m, f.exp_s), 0)
        total = e.sum(axis=1)
        m, s = reciprocal(self.tables[Table.RECIPROCAL], total, f.scale_m, f.scale_s)
        self.result.rows[-1] = {"rowsum": total, "rowscale.m": m, "rowscale.s": s}
        return e

    def write(self, f: data.Const, rows: Int, ct: int, v: Int, mask: int) -> Int:
        """Finish ``v`` for its destination and write it; return the data that is written.

        ``mask`` says which blocks of the tile are written.
        """
        c = self.config
        destination = Destination(f.destination)
        lane = np.arange(c.columns)
        # A word holds whole column tiles: that of the operand says where in the word it starts.
        tile = f.operand_base % (c.banks // c.column_blocks) + ct
        block = tile * c.column_blocks + np.arange(c.column_blocks)
        written = mask >> np.arange(c.column_blocks) & 1 == 1
        lanes = np.repeat(written, BLOCK)
        place = (f.destination_base, f.destination_stride, rows)
        if destination == Destination.LOGIT:
            if f.accumulate:
                v = saturate(v + self.logit[f.destination_base + ct], ACC_BITS)
            self.logit[f.destination_base + ct] = v[0]
        elif destination == Destination.KEY:
            v = saturate(v, 8, symmetric=True)
            address = ((rows // c.columns * f.destination_stride + ct) * c.columns
                       + rows % c.columns)
            self.key[address[:, None], (lane + rows[:, None]) % c.columns] = v
        elif destination == Destination.VALUE:
            v = saturate(v, 8, symmetric=True)
            address = f.destination_base + rows * f.destination_stride + ct
            self.value[address[:, None], lane[lanes]] = v[:, lanes]
        elif destination == Destination.SCORE:
            v = saturate(v, 16)
            self.store(Source.SCORE, *place, block, v)
            self._row_maximum(f, rows, ct, v)
        elif destination == Destination.RESIDUAL:
            old = self.blocks(Source.RESIDUAL, *place, block).reshape(v.shape)
            v = saturate(old + saturate(v, LANE_X_BITS), 16)
            self.store(Source.RESIDUAL, *place, block[written], v[:, lanes])
        else:
            v = (gelu_int(self.tables[Table.LANE][:LANE_LAYOUT_ROWS["gelu_high"][0] + 1],
                          saturate(v, LANE_X_BITS)) if f.gelu else saturate(v, 8))
            self.store(Source.ACT, *place, block[written], v[:, lanes])
        return v

    def _row_maximum(self, f: data.Const, rows: Int, ct: int, v: Int) -> None:
        columns = ct * self.config.columns + np.arange(self.config.columns)
        top = np.where(columns < self.tokens, v, -32768).max(axis=1)
        slot = self.rowmax[f.destination_slot]
        slot[rows] = top if ct == 0 else np.maximum(slot[rows], top)
        self.result.rows[-1] = {"rowmax": slot[rows].copy()}

    def statistics(self, f: data.Const, rows: Int) -> None:
        blocks = np.arange(-(-f.channels // BLOCK))
        x = self.blocks(Source.RESIDUAL, f.destination_base, f.destination_stride, rows,
                        blocks).reshape(len(rows), -1)
        total, squares = x.sum(axis=1), np.square(x).sum(axis=1)
        mean, m, s = norm_scale(self.tables[Table.RSQRT], total, squares, f.channels, f.mean_m,
                                f.mean_s, f.scale_m, f.scale_s, f.epsilon)
        self.norms[:, rows] = mean, m, s
        self.result.rows[-1] = {"sum": total, "sumsq": squares, "mean": mean, "m": m, "s": s}


def execute(image: bytes, config: Config, frame: NDArray[np.uint8], *, seed: int = 0) -> Execution:
    """Run the program in ``image`` on one frame.

    Parameters
    ----------
    image
        The memory image.
    config
        The configuration whose hardware it is for.
    frame
        The frame, its bytes in order.
    seed
        Of what the buffers hold at the start.
    """
    return _Machine(image, config, frame.tobytes(), seed).run()
