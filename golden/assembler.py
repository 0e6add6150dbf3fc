# SPDX-License-Identifier: BSD-2-Clause
"""A program under construction: instructions, block lists, and weights in their order of use."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from amaranth.lib import data
from numpy.typing import NDArray

from golden.fixed import Int
from golden.program import PassLabel
from golden.quantize import Linear, Scale
from rtl.config import Config, ConfigError
from rtl.isa import (
    ACC_BITS,
    NO_BLOCK,
    TABLE_ROWS,
    ColumnScale,
    ListEntry,
    Opcode,
    Rows,
    Table,
    pass_layout,
    prune_layout,
    table_layout,
)

__all__ = ["PAD_SCALE", "Assembler", "BlockList", "block_list", "instruction", "placed",
           "table"]

#: The scale where none matters: the hardware refuses a shift of zero.
PAD_SCALE = Scale(m=1 << 16, s=17)

#: For each K tile, for each bank of the prologue: which of its blocks is streamed, if any.
BlockList = Sequence[tuple[int | None, ...]]


def instruction(layout: data.StructLayout, opcode: Any, **fields: Any) -> int:
    """Return an instruction as a number; a field that does not fit raises ConfigError."""
    for name, value in fields.items():
        if isinstance(value, int) and value >= 1 << layout[name].width:
            raise ConfigError(f"{name} is {value}, an instruction holds at most"
                              f" {(1 << layout[name].width) - 1}")
    return layout.const({"opcode": opcode, **fields}).as_bits()


def table(memory: Any, first: int, rows: Sequence[int], *, under_way: int = 1) -> list[int]:
    """Return the TABLE instructions that write ``rows`` of 64 bits from row ``first`` on.

    They wait until at most ``under_way`` passes are under way.
    """
    return [instruction(table_layout, Opcode.TABLE, table=memory, first=first + i,
                        count=len(rows[i:i + TABLE_ROWS]), under_way=under_way,
                        rows=list(rows[i:i + TABLE_ROWS]))
            for i in range(0, len(rows), TABLE_ROWS)]


def block_list(blocks: Sequence[int], config: Config) -> BlockList:
    """Return the shortest list that streams ``blocks``: bank b takes every block b mod banks.

    Of no blocks it is one K tile of zeros.
    """
    count = config.row_blocks
    banks = [[block // count for block in blocks if block % count == bank]
             for bank in range(count)]
    tiles = max(1, *map(len, banks))
    return [tuple(bank[k] if k < len(bank) else None for bank in banks) for k in range(tiles)]


def _list_row(entry: tuple[int | None, ...], broadcast: int) -> int:
    """Return one K tile of a block list as the 64 bits of a table row, a byte for each bank.

    Blocks before block ``broadcast`` are those of row 0.
    """
    most = (1 << ListEntry["index"].width) - 1
    row = 0
    for bank, index in enumerate(entry):
        item = NO_BLOCK
        if index is not None:
            first = index * len(entry) + bank < broadcast
            if index > most - first:
                raise ConfigError(f"block list index is {index}, an entry holds at most"
                                  f" {most - first}")
            item = ListEntry.const({"index": index, "broadcast": int(first)}).as_bits()
        row |= item << (ListEntry.size * bank)
    return row


def placed(parts: Iterable[tuple[Linear, Int, Int]], outputs: int, inputs: int, *,
           bias: int = 0) -> Linear:
    """Return one layer that computes several at once, and zero (or ``bias``) in other outputs.

    Parameters
    ----------
    parts
        Layers, each with the places of its outputs and of its inputs.
    outputs, inputs
        Of the whole.
    bias
        Of outputs that belong to no layer, their scale is ``PAD_SCALE``.
    """
    whole = Linear(weight=np.zeros((outputs, inputs), np.int8),
                   bias=np.full(outputs, bias, np.int64),
                   m=np.full(outputs, PAD_SCALE.m, np.int64),
                   s=np.full(outputs, PAD_SCALE.s, np.int64))
    for layer, rows, columns in parts:
        whole.weight[np.ix_(rows, columns)] = layer.weight
        whole.bias[rows], whole.m[rows], whole.s[rows] = layer.bias, layer.m, layer.s
    return whole


def _resized(array: NDArray, count: int, fill: int = 0) -> NDArray:
    """Return the array with its first axis padded to ``count``."""
    pad = [(0, count - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, pad, constant_values=fill)


def _parameters(layer: Linear, outputs: int) -> NDArray[np.uint8]:
    """Return ColumnScale of every output, padded to ``outputs``, as bytes [outputs, 8]."""
    words = _resized(layer.bias, outputs) & ((1 << ACC_BITS) - 1)
    for name, column, fill in (("m", layer.m, PAD_SCALE.m), ("s", layer.s, PAD_SCALE.s)):
        words |= _resized(column, outputs, fill) << ColumnScale[name].offset
    return words.astype("<u8").view(np.uint8).reshape(outputs, -1)


class Assembler:
    """Collects the passes of a program, their block lists, and their weights in order of use.

    Members
    -------
    body
        Instructions from the first pass on; others than passes may be added.
    labels
        What each pass computes.
    lists
        Rows of the list memory.
    weights
        Rows of the weight stream, [rows, columns] of each pass.
    image
        Image of the round that the passes to come are of, None: all images.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.body: list[int] = []
        self.labels: list[PassLabel] = []
        self.lists: list[int] = []
        self.weights: list[NDArray[np.uint8]] = []
        self.image: int | None = None
        #: The pass that wrote a tensor last, None if it is certainly over.
        self._writers: dict[str, int | None] = {}
        self._waited: set[int] = set()

    def list_tables(self) -> list[int]:
        """Return the TABLE instructions that fill the list memory."""
        need, limit = len(self.lists), self.config.list_depth
        if need > limit:
            raise ConfigError(f"the program needs {need} block list entries, {need - limit} more"
                              f" than list_depth of configuration {self.config.name}, {limit}")
        return table(Table.LIST, 0, self.lists)

    def _list_base(self, entries: BlockList, broadcast: int) -> int:
        """Return where a list is in the list memory; it is added unless it is part of another."""
        rows = [_list_row(entry, broadcast) for entry in entries]
        for base in range(len(self.lists) - len(rows) + 1):
            if self.lists[base:base + len(rows)] == rows:
                return base
        self.lists += rows
        return len(self.lists) - len(rows)

    def _stream(self, layer: Linear, entries: BlockList, stride: int) -> int:
        """Append a layer to the weight stream; return its column tiles.

        The list of column tile t starts at entry ``t * stride``.
        """
        columns, row_blocks, block = (
            self.config.columns, self.config.row_blocks, self.config.block)
        tiles = -(-len(layer.bias) // columns)
        parameters = _parameters(layer, tiles * columns)
        parameters = parameters.reshape(tiles, columns, -1).transpose(0, 2, 1)

        # The input channel of every array row; -1 where a bank streams nothing.
        channel = np.array([
            [-1] * block if index is None
            else [(index * row_blocks + bank) * block + c for c in range(block)]
            for entry in entries for bank, index in enumerate(entry)]).reshape(-1)
        channel = np.stack([channel] * tiles) if not stride else channel.reshape(tiles, -1)
        weight = np.pad(_resized(layer.weight, tiles * columns), ((0, 0), (0, 1)))
        weight = weight.reshape(tiles, columns, -1)
        rows = np.take_along_axis(weight, channel[:, None], axis=2).transpose(0, 2, 1)
        stream = np.concatenate([parameters, rows.view(np.uint8)], axis=1)
        self.weights.append(stream.reshape(-1, columns))
        return tiles

    def all_waited(self) -> None:
        """Take note that what was appended waits for all passes: none after it need wait for them.
        """
        self._writers = dict.fromkeys(self._writers)

    def prune(self) -> None:
        """Append PRUNE."""
        self.body.append(instruction(prune_layout, Opcode.PRUNE))
        self.all_waited()

    def _distance(self, tensor: str | None) -> int:
        """Return how many passes back ``tensor`` was written, 0 if that is certainly over.

        Passes are issued in order: what an earlier pass has waited for needs no waiting.
        """
        writer = None if tensor is None else self._writers[tensor]
        if writer is None:
            return 0
        distance = len(self.labels) - writer
        if distance >= 1 << pass_layout["row_dependency"].width:
            assert writer in self._waited, f"{tensor} is too far back to wait for"
            return 0
        self._waited.add(writer)
        return distance

    def add_pass(self, label: PassLabel, *, reads: str | None, writes: str,
                 operand: str | None = None, entries: BlockList, broadcast: int = 0,
                 layer: Linear | None = None, scale: Scale = PAD_SCALE, list_stride: int = 0,
                 segment: int | None = None, **fields: Any) -> None:
        """Append a pass, over all tokens unless ``fields`` have other rows.

        Parameters
        ----------
        label
            What it computes.
        reads, operand, writes
            Names of the tensors that it streams, holds and writes, for the dependencies.
        entries
            Its block list: one for all column tiles, or one after another.
        broadcast
            Blocks before this one are those of row 0, whatever row is streamed.
        layer
            What comes through the weight stream.
        scale
            Scale in the instruction.
        list_stride
            Entries of the block list of one column tile, if each has its own.
        segment
            Segment of the token list that it is over, and whose operands it takes, if not over all.
        fields
            The other fields of the instruction, where they are not zero.
        """
        values: dict[str, Any] = {
            "row_dependency": self._distance(reads), "operand_dependency": self._distance(operand),
            "list_base": self._list_base(entries, broadcast), "list_stride": list_stride,
            "k_tiles": list_stride or len(entries),
            "rows_from": Rows.TOKENS, "destination_mask": (1 << self.config.column_blocks) - 1,
            "scale_m": scale.m, "scale_s": scale.s, "exp_m": PAD_SCALE.m, "exp_s": PAD_SCALE.s,
            "mean_m": PAD_SCALE.m, "mean_s": PAD_SCALE.s}
        if layer is not None:
            values["column_tiles"] = self._stream(layer, entries, list_stride)
        if segment is not None:
            values |= {"of_segment": 1, "segment": segment}
        values |= fields
        self._writers[writes] = len(self.labels)
        self.labels.append(replace(label, image=self.image if segment is None else segment))
        self.body.append(instruction(pass_layout, Opcode.PASS, **values))
