# SPDX-License-Identifier: BSD-2-Clause
"""A lowered network: its memory image, and which stage every pass writes (docs/program.md)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from amaranth.lib import data
from numpy.typing import NDArray

from golden.fixed import Int
from golden.model import ModelConfig
from rtl.config import BLOCK, Config
from rtl.isa import (
    INSTRUCTION_BYTES,
    Destination,
    LoadKind,
    Opcode,
    Rows,
    begin_layout,
    end_layout,
    load_layout,
    pass_layout,
    table_layout,
)

__all__ = ["LAYOUTS", "PassInfo", "PassKind", "PassLabel", "Program", "expected_rows",
           "expected_words", "head_slot"]

LAYOUTS = {Opcode.BEGIN: begin_layout, Opcode.TABLE: table_layout, Opcode.LOAD: load_layout,
           Opcode.PASS: pass_layout, Opcode.END: end_layout}

#: Lanes of a column tile that hold no channel: written as zero, or not defined.
_ZERO, _UNDEFINED = -1, -2


class PassKind(StrEnum):
    """What a pass computes."""

    PATCH = "patch"
    Q = "q"
    K = "k"
    V = "v"
    SCORE = "score"
    ATTENTION = "attention"
    PROJECTION = "projection"
    MLP1 = "mlp1"
    MLP2 = "mlp2"
    HEAD = "head"


_IN_SLOTS = (PassKind.Q, PassKind.K, PassKind.V, PassKind.ATTENTION)
_STATISTICS = ("sum", "sumsq", "mean", "m", "s")


@dataclass(frozen=True, kw_only=True)
class PassLabel:
    """What a pass computes.

    Members
    -------
    kind, stage
        What it computes, and the name of the stage that it writes.
    head
        The attention head, of SCORE and ATTENTION.
    norm
        Name of the row statistics that it takes (``block0.norm1``), of passes to the residual.
    """

    kind: PassKind
    stage: str
    head: int | None = None
    norm: str | None = None


@dataclass(frozen=True, kw_only=True)
class PassInfo(PassLabel):
    """What one pass writes, in the order: column tile after column tile, in each row after row.

    Members
    -------
    instruction
        Index in the program.
    rows, row_first
        Number of rows, and the first.
    column_tiles, k_tiles
        Tiles: ``rows * column_tiles * k_tiles`` rows enter the array.
    column_first
        First column tile of the destination.
    destination, destination_mask
        Buffer, and which blocks of the last column tile are written.
    """

    instruction: int
    rows: int
    row_first: int
    column_tiles: int
    k_tiles: int
    column_first: int
    destination: Destination
    destination_mask: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A network for one configuration: the memory image and what it means.

    Members
    -------
    config, model
        Sizes of the accelerator and of the network.
    weights
        Where the parameters are from: a path, or "synthetic".
    logit_step
        Real value of one unit of the logits, a power of two.
    image
        The memory image: program, initial residual, weight streams.
    labels
        What each pass computes, in order.
    """

    config: Config
    model: ModelConfig
    weights: str
    logit_step: float
    image: bytes
    labels: tuple[PassLabel, ...]

    @cached_property
    def instructions(self) -> tuple[data.Const, ...]:
        """The instructions, each a constant of its layout."""
        def decode(index: int) -> data.Const:
            raw = self.image[INSTRUCTION_BYTES * index:INSTRUCTION_BYTES * (index + 1)]
            return LAYOUTS[Opcode(raw[0])].from_bits(int.from_bytes(raw, "little"))

        return tuple(decode(i) for i in range(decode(0).instructions))

    @cached_property
    def passes(self) -> tuple[PassInfo, ...]:
        """The passes, in order."""
        found = [(i, fields) for i, fields in enumerate(self.instructions)
                 if fields.opcode == Opcode.PASS]
        return tuple(self._info(label, i, fields)
                     for label, (i, fields) in zip(self.labels, found, strict=True))

    def _info(self, label: PassLabel, index: int, fields: data.Const) -> PassInfo:
        columns = -(-self.tokens // self.config.columns)
        k_tiles = -(-self.tokens // self.config.rows)
        return PassInfo(
            kind=label.kind, stage=label.stage, head=label.head, norm=label.norm,
            instruction=index,
            rows=self.tokens if fields.rows_from == Rows.TOKENS else fields.row_count,
            row_first=fields.row_first,
            column_tiles=columns if fields.columns_from_tokens else fields.column_tiles,
            k_tiles=k_tiles if fields.k_from_tokens else fields.k_tiles,
            column_first=fields.operand_base, destination=Destination(fields.destination),
            destination_mask=fields.destination_mask)

    @property
    def tokens(self) -> int:
        return self.instructions[0].tokens

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame, [size, size, channels] uint8 without gaps."""
        return self.model.image_size ** 2 * self.model.channels

    @property
    def initial(self) -> NDArray[np.int16]:
        """Residual at the start, [tokens, width]."""
        load = next(i for i in self.instructions
                    if i.opcode == Opcode.LOAD and i.kind == LoadKind.RESIDUAL)
        count = load.count * load.row_bytes // 2
        return np.frombuffer(self.image, "<i2", count, load.offset).reshape(load.count, -1)

    @property
    def streams(self) -> tuple[bytes, ...]:
        """The weight stream of every port."""
        begin = self.instructions[0]
        length = begin.weight_beats * self.config.port_bits // 8
        starts = (begin.weight_offset + port * begin.weight_stride
                  for port in range(self.config.ports))
        return tuple(self.image[start:start + length] for start in starts)


def head_slot(model: ModelConfig) -> int:
    """Return the channels that a head takes in the buffers: 16, 32 or 64."""
    return next(slot for slot in (16, 32, 64) if slot >= model.head_size)


def _channels(program: Program, info: PassInfo) -> Int:
    """Return for each lane of all column tiles the channel of the stage that it writes."""
    model, columns = program.model, program.config.columns
    lane = np.arange(info.column_tiles * columns)
    channel = info.column_first * columns + lane
    if info.kind in _IN_SLOTS:
        head, offset = np.divmod(channel, head_slot(model))
        inside = (offset < model.head_size) & (head < model.heads)
        channel = np.where(inside, head * model.head_size + offset, _ZERO)
    elif info.destination == Destination.SCORE:
        channel = np.where(channel < program.tokens, channel, _UNDEFINED)
    elif info.destination == Destination.RESIDUAL:
        channel = np.where(channel < model.width, channel, _UNDEFINED)
    else:
        limit = model.hidden if info.kind == PassKind.MLP1 else model.classes
        channel = np.where(channel < limit, channel, _ZERO)
    last = lane >= (info.column_tiles - 1) * columns
    written = ~last | (info.destination_mask >> (lane % columns // BLOCK) & 1 == 1)
    return np.where(written, channel, _UNDEFINED)


def expected_words(program: Program, stages: Mapping[str, Int],
                   index: int) -> tuple[Int, NDArray[np.bool_]]:
    """Return what pass ``index`` writes, and which lanes of it are defined.

    Parameters
    ----------
    program
        The program; ``program.passes[index]`` is the pass.
    stages
        Named stages of ``golden.integer.run``.
    index
        Number of the pass.

    Returns
    -------
    words
        int64 [column tiles, rows, columns]: the data of every write, in the order of the writes.
    mask
        [column tiles, columns]: lanes to compare. The others are not written (other heads), or
        hold what nothing reads (scores beyond the tokens, residual channels beyond the width).
    """
    info = program.passes[index]
    stage = np.asarray(stages[info.stage], np.int64)
    if info.destination == Destination.LOGIT:
        stage = stage[None]
    else:
        if info.kind == PassKind.SCORE:
            stage = stage[info.head]
        stage = stage[info.row_first:info.row_first + info.rows]
    channel = _channels(program, info)
    # Zero and undefined lanes take the column of zeros behind the last channel.
    words = np.pad(stage, ((0, 0), (0, 1)))[:, np.maximum(channel, _ZERO)]
    shape = (info.column_tiles, program.config.columns)
    words = words.reshape(info.rows, *shape).transpose(1, 0, 2)
    return words, (channel != _UNDEFINED).reshape(shape)


def expected_rows(program: Program, stages: Mapping[str, Int], index: int) -> dict[str, Int]:
    """Return the row statistics of pass ``index`` under their stage names, each [rows].

    SCORE passes give the row maximum; ATTENTION passes the row sum and the scale made of it;
    passes to the residual the statistics of the LayerNorm that follows.
    """
    info = program.passes[index]
    block = info.stage.split(".")[0]
    if info.kind == PassKind.SCORE:
        return {f"{block}.rowmax": stages[f"{block}.rowmax"][info.head]}
    if info.kind == PassKind.ATTENTION:
        names = [f"{block}.{name}" for name in ("rowsum", "rowscale.m", "rowscale.s")]
        return {name: stages[name][info.head] for name in names}
    if info.norm is not None:
        names = [f"{info.norm}.{name}" for name in _STATISTICS]
        return {name: stages[name] for name in names}
    return {}
