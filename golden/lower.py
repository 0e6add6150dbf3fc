# SPDX-License-Identifier: BSD-2-Clause
"""Lowering of a quantised network to the program and memory image of one configuration.

Order of the passes::

    patch embedding
    for each block: Q, K, V, score 0, score 1, attention 0, score 2, attention 1, ...,
                    projection, MLP 1, MLP 2
    head (CLS row), second head (distillation row)

Buffers: Q is at the start of ACT and the attention output behind it; the hidden layer overlays
both, as passes are issued in order and rows are read when they are issued.
"""

from collections.abc import Sequence

import numpy as np
from amaranth.lib import data
from numpy.typing import NDArray

from golden.fit import pack
from golden.fixed import Int
from golden.program import PassInfo, PassKind, Program, head_slot
from golden.quantize import Linear, Norm, QuantizedBlock, QuantizedViT, Scale, patch_bytes
from rtl.config import BLOCK, Config, ConfigError
from rtl.isa import (
    INSTRUCTION_BYTES,
    ISA_VERSION,
    LANE_LAYOUT_ROWS,
    MAGIC,
    TABLE_ROWS,
    Destination,
    ListEntry,
    LoadKind,
    Opcode,
    Prologue,
    ScaleSource,
    Source,
    Stationary,
    Table,
    begin_layout,
    end_layout,
    load_layout,
    pass_layout,
    table_layout,
)

__all__ = ["lower"]

#: Alignment of the initial residual and of each weight stream in the image.
_RESIDUAL_ALIGN = 64
_WEIGHT_ALIGN = 4096

#: Bytes of bias and scale of an output channel.
_PARAMETER_ROWS = 8

#: Scale of an output that is padding: anything that the hardware takes.
_PAD_SCALE = Scale(m=1 << 16, s=17)

#: A block list: for each K tile, for each bank, an index or None.
BlockList = list[tuple[int | None, ...]]


def _instruction(layout: data.StructLayout, opcode: Opcode, **fields: object) -> int:
    """Return an instruction as a number; every field must fit."""
    for name, value in fields.items():
        if isinstance(value, int) and value >= 1 << layout[name].width:
            raise ConfigError(f"{name} is {value}, an instruction holds at most"
                              f" {(1 << layout[name].width) - 1}")
    return layout.const({"opcode": opcode, **fields}).as_bits()


def _table(table: Table, first: int, rows: Sequence[int]) -> list[int]:
    """Return the TABLE instructions that write ``rows`` of 64 bits from ``first`` on."""
    return [_instruction(table_layout, Opcode.TABLE, table=table, first=first + i,
                         count=len(rows[i:i + TABLE_ROWS]), rows=list(rows[i:i + TABLE_ROWS]))
            for i in range(0, len(rows), TABLE_ROWS)]


def _block_list(blocks: Sequence[int], config: Config) -> BlockList:
    """Return the shortest list that streams ``blocks``: bank b takes every block b mod banks."""
    count = config.row_blocks
    banks = [[block // count for block in blocks if block % count == bank]
             for bank in range(count)]
    tiles = max(map(len, banks))
    return [tuple(bank[k] if k < len(bank) else None for bank in banks) for k in range(tiles)]


def _list_row(entry: tuple[int | None, ...]) -> int:
    """Return one K tile of a block list as the 64 bits of a table row, a byte for each bank."""
    row = 0
    for bank, index in enumerate(entry):
        if index is not None:
            if index >= 1 << ListEntry["index"].width:
                raise ConfigError(f"block list index is {index}, an entry holds at most"
                                  f" {(1 << ListEntry['index'].width) - 1}")
            row |= ListEntry.const({"index": index, "valid": 1}).as_bits() << (8 * bank)
    return row


def _align(value: int, granule: int) -> int:
    return -(-value // granule) * granule


def _resized(array: NDArray, count: int, fill: int = 0) -> NDArray:
    """Return the array with its first axis padded to ``count``."""
    pad = [(0, count - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, pad, constant_values=fill)


class _Assembler:
    """A program under construction: passes, block lists and weight rows in order of use."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.body: list[int] = []
        self.lists: list[int] = []
        self.weights: list[NDArray[np.uint8]] = []
        self.labels: list[tuple[int, dict]] = []
        self._writers: dict[str, int] = {}
        self._waited: set[int] = set()

    def block_list(self, entries: BlockList) -> int:
        """Return where a list is in the list memory; it is added unless it is part of another."""
        rows = [_list_row(entry) for entry in entries]
        for base in range(len(self.lists) - len(rows) + 1):
            if self.lists[base:base + len(rows)] == rows:
                return base
        self.lists += rows
        return len(self.lists) - len(rows)

    def stream(self, layer: Linear, entries: BlockList) -> int:
        """Append bias, scale and weights of a layer in order of use; return its column tiles."""
        rows, columns = self.config.rows, self.config.columns
        tiles = -(-len(layer.bias) // columns)
        count = tiles * columns
        m, s = (_resized(column, count, fill) for column, fill in
                ((layer.m, _PAD_SCALE.m), (layer.s, _PAD_SCALE.s)))
        bias = _resized(layer.bias, count)
        parameters = ((bias & ((1 << 27) - 1)) | m << 32 | s << 49).astype("<u8").view(np.uint8)
        parameters = parameters.reshape(tiles, columns, _PARAMETER_ROWS).transpose(0, 2, 1)

        row_blocks = self.config.row_blocks
        channel = np.array([
            [-1] * BLOCK if index is None
            else [(index * row_blocks + bank) * BLOCK + c for c in range(BLOCK)]
            for entry in entries for bank, index in enumerate(entry)]).reshape(-1)
        # Channel -1 and the channels beyond the last are columns of zeros.
        weight = np.pad(_resized(layer.weight, count),
                        ((0, 0), (0, max(0, channel.max() + 1 - layer.weight.shape[1]) + 1)))
        tile_rows = weight[:, channel].T.reshape(len(entries) * rows, tiles, columns)
        tile_rows = tile_rows.transpose(1, 0, 2).view(np.uint8)
        self.weights.append(np.concatenate([parameters, tile_rows], axis=1).reshape(-1, columns))
        return tiles

    def _distance(self, resource: str | None) -> int:
        """Return how many passes back ``resource`` was written, 0 if that is certainly over.

        Passes are issued in order: what an earlier pass has waited for needs no waiting.
        """
        if resource is None:
            return 0
        writer = self._writers[resource]
        distance = len(self.labels) - writer
        if distance >= 1 << pass_layout["row_dependency"].width:
            assert writer in self._waited, f"{resource} is too far back to wait for"
            return 0
        self._waited.add(writer)
        return distance

    def emit(self, *, kind: PassKind, stage: str, head: int | None = None, norm: str | None = None,
             reads: str | None, operand: str | None = None, writes: str, entries: BlockList,
             layer: Linear | None = None, scale: Scale = _PAD_SCALE, **fields: object) -> None:
        """Append a pass.

        ``reads``, ``operand`` and ``writes`` name tensors, for the dependencies; ``layer`` comes
        through the weight stream.
        """
        values = {
            "row_dependency": self._distance(reads), "operand_dependency": self._distance(operand),
            "list_base": self.block_list(entries), "k_tiles": len(entries),
            "rows_from_tokens": 1, "destination_mask": (1 << self.config.column_blocks) - 1,
            "scale_m": scale.m, "scale_s": scale.s, "exp_m": _PAD_SCALE.m, "exp_s": _PAD_SCALE.s,
            "mean_m": _PAD_SCALE.m, "mean_s": _PAD_SCALE.s}
        if layer is not None:
            values["column_tiles"] = self.stream(layer, entries)
        values.update(fields)
        self._writers[writes] = len(self.labels)
        label = {"kind": kind, "stage": stage, "head": head, "norm": norm}
        self.labels.append((len(self.body), label))
        self.body.append(_instruction(pass_layout, Opcode.PASS, **values))


def _norm_fields(norm: Norm) -> dict[str, object]:
    """Return the fields of a pass that finishes the rows of the residual for a LayerNorm."""
    return {"destination": Destination.RESIDUAL, "statistics": 1, "scale": norm.scale,
            "mean_m": norm.mean.m, "mean_s": norm.mean.s, "channels": norm.channels,
            "epsilon": norm.epsilon}


class _Lowering:
    """The network, pass after pass, into an assembler."""

    def __init__(self, qvit: QuantizedViT, config: Config) -> None:
        self.qvit, self.config, self.model = qvit, config, qvit.model
        self.slot = head_slot(self.model)
        self._check_sizes()
        model = self.model
        self.out = _Assembler(config)
        self.head_blocks = [[h * self.slot // BLOCK + b for b in range(model.head_size // BLOCK)]
                            for h in range(model.heads)]
        self.residual_list = self._dense(model.width)
        self.residual_words = config.words(model.width)
        self.heads_words = config.words(model.heads * self.slot)
        self.attention_base = model.tokens * self.heads_words
        self.score_rows = config.max_tokens * config.score_words

    def _check_sizes(self) -> None:
        model, config = self.model, self.config
        heads = model.heads * self.slot
        for what, need, limit in (
            ("tokens", model.tokens, "max_tokens"),
            ("residual channels", model.width, "max_width"),
            (f"channels for {model.heads} heads of {self.slot}", heads, "max_width"),
            ("hidden channels", model.hidden, "max_hidden"),
            ("bytes of a patch", patch_bytes(model), "max_patch"),
            ("classes", model.classes, "max_classes"),
        ):
            most = getattr(config, limit)
            if need > most:
                raise ConfigError(f"{model.name} needs {need} {what}, {need - most} more than"
                                  f" {limit} of configuration {config.name}, {most}")

    def _dense(self, channels: int) -> BlockList:
        return _block_list(range(-(-channels // BLOCK)), self.config)

    def _slots(self, layer: Linear, *, inputs: bool = False) -> Linear:
        """Return a layer whose outputs (or inputs) are heads, each padded to its slot."""
        model = self.model

        def spread(array: Int, fill: int = 0) -> Int:
            array = array.reshape(model.heads, model.head_size, *array.shape[1:])
            pad = [(0, 0), (0, self.slot - model.head_size)] + [(0, 0)] * (array.ndim - 2)
            array = np.pad(array, pad, constant_values=fill)
            return array.reshape(-1, *array.shape[2:])

        if inputs:
            return Linear(weight=spread(layer.weight.T).T, bias=layer.bias, m=layer.m, s=layer.s)
        return Linear(weight=spread(layer.weight), bias=spread(layer.bias),
                      m=spread(layer.m, _PAD_SCALE.m), s=spread(layer.s, _PAD_SCALE.s))

    def _from_residual(self) -> dict[str, object]:
        return {"source": Source.RESIDUAL, "source_stride": self.residual_words,
                "prologue": Prologue.NORM, "reads": "residual"}

    def _to_residual(self, norm: Norm, stage: str) -> dict[str, object]:
        return {**_norm_fields(norm), "norm": stage, "writes": "residual",
                "destination_stride": self.residual_words}

    def patch(self) -> None:
        qvit = self.qvit
        self.out.emit(kind=PassKind.PATCH, stage="embed.residual", reads=None, layer=qvit.patch,
                      source=Source.PATCH, source_stride=self.config.words(patch_bytes(self.model)),
                      zero_rows=self.model.special_tokens, entries=self._dense(patch_bytes(self.model)),
                      **self._to_residual(qvit.blocks[0].norm1, "block0.norm1"))

    def block(self, i: int, block: QuantizedBlock, norm: Norm, norm_stage: str) -> None:
        out, stage = self.out, f"block{i}"
        out.body += _table(Table.LANE, LANE_LAYOUT_ROWS["gelu"][0], pack(block.gelu))
        self._queries_keys_values(block, stage)
        for h in range(self.model.heads + 1):
            if h < self.model.heads:
                self._scores(block, stage, h)
            if h:
                self._attention(block, stage, h - 1)

        out.emit(kind=PassKind.PROJECTION, stage=f"{stage}.residual1", reads="attention",
                 layer=self._slots(block.projection, inputs=True), source=Source.ACT,
                 source_base=self.attention_base, source_stride=self.heads_words,
                 entries=_block_list(sum(self.head_blocks, []), self.config),
                 **self._to_residual(block.norm2, f"{stage}.norm2"))
        hidden_words = self.config.words(self.model.hidden)
        out.emit(kind=PassKind.MLP1, stage=f"{stage}.hidden", writes="hidden", layer=block.mlp1,
                 entries=self.residual_list, destination=Destination.ACT, gelu=1,
                 destination_stride=hidden_words, **self._from_residual())
        out.emit(kind=PassKind.MLP2, stage=f"{stage}.residual2", reads="hidden", layer=block.mlp2,
                 source=Source.ACT, source_stride=hidden_words,
                 entries=self._dense(self.model.hidden), **self._to_residual(norm, norm_stage))

    def _queries_keys_values(self, block: QuantizedBlock, stage: str) -> None:
        tiles = -(-self.model.heads * self.slot // self.config.columns)
        for kind, layer, destination, stride in (
            (PassKind.Q, block.q, Destination.ACT, self.heads_words),
            (PassKind.K, block.k, Destination.KEY, tiles),
            (PassKind.V, block.v, Destination.VALUE, tiles),
        ):
            self.out.emit(kind=kind, stage=f"{stage}.{kind}", writes=kind, layer=self._slots(layer),
                          entries=self.residual_list, destination=destination,
                          destination_stride=stride, **self._from_residual())
        self.operand_stride = tiles

    def _scores(self, block: QuantizedBlock, stage: str, head: int) -> None:
        self.out.emit(
            kind=PassKind.SCORE, stage=f"{stage}.scores", head=head, reads="q", operand="k",
            writes=f"scores{head}", source=Source.ACT, source_stride=self.heads_words,
            entries=_block_list(self.head_blocks[head], self.config),
            stationary=Stationary.KEY, operand_stride=self.operand_stride,
            scale_source=ScaleSource.CONSTANT, scale=block.score, columns_from_tokens=1,
            destination=Destination.SCORE, destination_slot=head % 2,
            destination_base=head % 2 * self.score_rows,
            destination_stride=self.config.score_words)

    def _attention(self, block: QuantizedBlock, stage: str, head: int) -> None:
        config = self.config
        blocks = self.head_blocks[head]
        first = blocks[0] // config.column_blocks
        mask = (1 << min(len(blocks), config.column_blocks)) - 1
        self.out.emit(
            kind=PassKind.ATTENTION, stage=f"{stage}.attention", head=head,
            reads=f"scores{head}", operand="v", writes="attention", source=Source.SCORE,
            source_slot=head % 2, source_base=head % 2 * self.score_rows,
            source_stride=config.score_words, prologue=Prologue.EXP, exp_m=block.exp.m,
            exp_s=block.exp.s, entries=self._dense(_align(self.model.tokens, config.rows)),
            k_from_tokens=1, k_tiles=0, stationary=Stationary.VALUE, operand_base=first,
            operand_stride=self.operand_stride,
            column_tiles=-(-len(blocks) // config.column_blocks),
            scale_source=ScaleSource.ROW, scale=block.value, destination=Destination.ACT,
            destination_base=self.attention_base, destination_stride=self.heads_words,
            destination_mask=mask << blocks[0] % config.column_blocks)

    def heads(self) -> None:
        last = len(self.qvit.heads) - 1
        for row, head in enumerate(self.qvit.heads):
            self.out.emit(kind=PassKind.HEAD, stage="logits" if row == last else "logits.cls",
                          writes="logits", layer=head, entries=self.residual_list,
                          destination=Destination.LOGIT, rows_from_tokens=0, row_first=row,
                          row_count=1, accumulate=int(row > 0), **self._from_residual())

    def _start(self, weight_rows: int) -> tuple[list[int], int, int]:
        """Return the instructions before the first pass, where the weights are, and their end."""
        qvit, config, model = self.qvit, self.config, self.model
        lists = self.out.lists
        if len(lists) > config.list_depth:
            raise ConfigError(f"{model.name} needs {len(lists)} block list entries,"
                              f" {len(lists) - config.list_depth} more than list_depth of"
                              f" configuration {config.name}, {config.list_depth}")
        tables = [*_table(Table.LANE, LANE_LAYOUT_ROWS["exp"][0], pack(qvit.exp)),
                  *_table(Table.RECIPROCAL, 0, pack(qvit.reciprocal)),
                  *_table(Table.RSQRT, 0, pack(qvit.rsqrt)), *_table(Table.LIST, 0, lists)]
        # BEGIN, two LOADs, END.
        instructions = len(tables) + len(self.out.body) + 4
        residual = _align(instructions * INSTRUCTION_BYTES, _RESIDUAL_ALIGN)
        weights = _align(residual + qvit.initial.nbytes, _WEIGHT_ALIGN)
        length = weight_rows * config.columns // config.ports
        stride = _align(length, _WEIGHT_ALIGN)
        begin = _instruction(
            begin_layout, Opcode.BEGIN, version=ISA_VERSION, magic=MAGIC,
            instructions=instructions, tokens=model.tokens, weight_offset=weights,
            weight_stride=stride, weight_beats=length * 8 // config.port_bits)
        load_residual = _instruction(
            load_layout, Opcode.LOAD, kind=LoadKind.RESIDUAL, row_bytes=2 * model.width,
            offset=residual, first=0, count=model.tokens, lines=1, patch_rows=1,
            stride=self.residual_words)
        load_frame = _instruction(
            load_layout, Opcode.LOAD, kind=LoadKind.FRAME, row_bytes=model.patch * model.channels,
            offset=0, first=model.special_tokens, count=model.grid, lines=model.grid,
            patch_rows=model.patch, stride=config.words(patch_bytes(model)))
        return [begin, *tables, load_residual, load_frame], residual, weights

    def program(self) -> Program:
        qvit, config = self.qvit, self.config
        self.patch()
        norms = [(block.norm1, f"block{i}.norm1") for i, block in enumerate(qvit.blocks)]
        norms.append((qvit.head_norm, "head.norm"))
        for i, block in enumerate(qvit.blocks):
            self.block(i, block, *norms[i + 1])
        self.heads()

        rows = np.concatenate(self.out.weights)
        start, residual, weights = self._start(len(rows))
        end = _instruction(end_layout, Opcode.END, classes=self.model.classes)
        image = bytearray()
        for word in (*start, *self.out.body, end):
            image += word.to_bytes(INSTRUCTION_BYTES, "little")
        image += bytes(residual - len(image)) + qvit.initial.astype("<i2").tobytes()
        for port in np.split(rows, config.ports, axis=1):
            image += bytes(max(weights, _align(len(image), _WEIGHT_ALIGN)) - len(image))
            image += port.tobytes()
        passes = tuple(
            PassInfo.decode(pass_layout.from_bits(self.out.body[at]), config, self.model.tokens,
                            instruction=len(start) + at, **label)
            for at, label in self.out.labels)
        return Program(config=config, model=self.model, weights=qvit.weights,
                       logit_step=qvit.steps["logits"], image=bytes(image), passes=passes)


def lower(qvit: QuantizedViT, config: Config) -> Program:
    """Return the program of a quantised network for one configuration.

    Raises ConfigError, naming the limit and by how much, where the network does not fit.
    """
    return _Lowering(qvit, config).program()
