# SPDX-License-Identifier: BSD-2-Clause
"""A lowered network: its memory image, and which stage every pass writes (docs/program.md)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from amaranth.lib import data
from numpy.typing import NDArray

from golden.fixed import Int
from golden.model import ModelConfig
from golden.pruning import PruningConfig
from rtl.checksum import checksum, divided
from rtl.config import BLOCK, Config
from rtl.isa import (
    INSTRUCTION_BYTES,
    Destination,
    LoadKind,
    Opcode,
    Rows,
    begin_layout,
    end_layout,
    image_layout,
    load_layout,
    pass_layout,
    prune_layout,
    select_layout,
    table_layout,
)

__all__ = ["LAYOUTS", "PassInfo", "PassKind", "PassLabel", "Program", "classifier_slots",
           "expected_rows", "expected_words", "head_slot", "program_checksum", "sealed",
           "tokens_of"]

#: Named stages of an image, or numbers laid out like them.
Stages = Mapping[str, Int]

LAYOUTS = {Opcode.BEGIN: begin_layout, Opcode.TABLE: table_layout, Opcode.LOAD: load_layout,
           Opcode.PASS: pass_layout, Opcode.SELECT: select_layout, Opcode.PRUNE: prune_layout,
           Opcode.END: end_layout, Opcode.IMAGE: image_layout}

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
    IMPORTANCE = "importance1"
    HEAD_NORM = "head_norm"
    LOCAL = "local"
    GLOBAL = "global"
    MEAN = "mean"
    SCORE1 = "score1"
    SCORE2 = "score2"
    CLASSES = "classes"
    PACKAGE = "package"
    PACKAGE_NORM = "package_norm"


_IN_SLOTS = (PassKind.Q, PassKind.K, PassKind.V, PassKind.ATTENTION)
_OF_ONE_HEAD = (PassKind.LOCAL, PassKind.GLOBAL, PassKind.SCORE1)
#: They lie one head further on.
_TURNED = (PassKind.GLOBAL, PassKind.MEAN)
_SUM = ("rowsum", "rowscale.m", "rowscale.s")
_STATISTICS = ("sum", "sumsq", "mean", "m", "s")


@dataclass(frozen=True, kw_only=True)
class PassLabel:
    """What a pass computes.

    Members
    -------
    kind, stage
        What it computes, and the name of the stage that it writes.
    head
        The attention head, of SCORE and ATTENTION, and of what a classifier does head by head.
    norm
        Name of the row statistics that it takes (``block0.norm1``), of passes to the residual.
    image
        Image of the round that it is of, None if it is of all.
    """

    kind: PassKind
    stage: str
    head: int | None = None
    norm: str | None = None
    image: int | None = None


@dataclass(frozen=True, kw_only=True)
class PassInfo(PassLabel):
    """What one pass writes, in the order: column tile after column tile, in each row after row.

    Members
    -------
    index, instruction
        Index among the passes, and among all instructions.
    tokens
        Tokens that there are of each image.
    rows, row_first
        Number of rows, and the first: a position among the tokens of an image, or in what was
        dropped.
    images
        Images of the round whose rows they are, one behind the other; as many of each.
    column_tiles, k_tiles
        Tiles: ``rows * column_tiles * k_tiles`` rows enter the array. Of a package, parts of
        column tiles.
    column_first
        First column tile of the destination.
    destination, destination_mask
        Buffer, and which blocks of the last column tile are written.
    """

    index: int
    instruction: int
    tokens: int
    rows: int
    row_first: int
    images: tuple[int, ...]
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
    pruning
        Where patches are dropped, and by which rule; None where they are not.
    """

    config: Config
    model: ModelConfig
    weights: str
    logit_step: float
    image: bytes
    labels: tuple[PassLabel, ...]
    pruning: PruningConfig | None = None

    @cached_property
    def instructions(self) -> tuple[data.Const, ...]:
        """The instructions, each a constant of its layout."""
        def decode(index: int) -> data.Const:
            raw = self.image[INSTRUCTION_BYTES * index:INSTRUCTION_BYTES * (index + 1)]
            return LAYOUTS[Opcode(raw[0])].from_bits(int.from_bytes(raw, "little"))

        return tuple(decode(i) for i in range(decode(0).instructions))

    @cached_property
    def selectors(self) -> int:
        """Number of token selectors."""
        return sum(fields.opcode == Opcode.PRUNE for fields in self.instructions)

    def passes_for(self, tokens: Sequence[int]) -> tuple[PassInfo, ...]:
        """Return the passes, in order.

        Parameters
        ----------
        tokens
            Tokens of each image at the start, and after each selector, see :func:`tokens_of`.
        """
        if len(tokens) != self.selectors + 1 or tokens[0] != self.tokens:
            raise ValueError(f"the numbers of tokens are {', '.join(map(str, tokens))}, must be"
                             f" {self.tokens} and one for each of {self.selectors} selectors")
        passes: list[PassInfo] = []
        selector = 0
        for i, fields in enumerate(self.instructions):
            if fields.opcode == Opcode.PRUNE:
                selector += 1
            elif fields.opcode == Opcode.PASS:
                before, now = tokens[max(0, selector - 1)], tokens[selector]
                passes.append(self._info(len(passes), i, fields, now, before - now + 1))
        return tuple(passes)

    def _info(self, index: int, instruction: int, fields: data.Const, tokens: int,
              dropped: int) -> PassInfo:
        label, config = self.labels[index], self.config
        first, rows = {Rows.COUNT: (fields.row_first, fields.row_count), Rows.TOKENS: (0, tokens),
                       Rows.DROPPED: (0, dropped), Rows.LAST: (tokens - 1, 1),
                       Rows.EACH: (fields.row_first, 1)}[Rows(fields.rows_from)]
        images = tuple(range(self.batch)) if label.image is None else (label.image,)
        destination = Destination(fields.destination)
        return PassInfo(
            kind=label.kind, stage=label.stage, head=label.head, norm=label.norm,
            image=label.image, index=index, instruction=instruction, tokens=tokens,
            rows=rows * len(images), row_first=first, images=images,
            column_tiles=(-(-tokens // config.columns) if fields.columns_from_tokens
                          else fields.column_tiles),
            k_tiles=-(-tokens // config.rows) if fields.k_from_tokens else fields.k_tiles,
            # Words of V are column tiles.
            column_first=(fields.destination_base if destination == Destination.VALUE
                          else fields.operand_base),
            destination=destination, destination_mask=fields.destination_mask)

    @property
    def tokens(self) -> int:
        return self.instructions[0].tokens

    @property
    def batch(self) -> int:
        """Images in a round."""
        return self.instructions[0].images

    def first_row(self, image: int) -> int:
        """Return the row of the residual of the first token of an image of a run, from 0 on."""
        begin = self.instructions[0]
        number, place = divmod(image, begin.images)
        fields = [f for f in self.instructions if f.opcode == Opcode.IMAGE][place]
        return fields.first_row + (begin.row_step if fields.alternate and number % 2 else 0)

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


def program_checksum(image: bytes) -> int:
    """Return the checksum of the program of a memory image: zero, if it is as it was sealed."""
    return checksum(np.frombuffer(image, "<u4", _program_words(image)).tolist())


def sealed(image: bytes) -> bytes:
    """Return a memory image with the checksum of its program in BEGIN.

    Raises ValueError where BEGIN names more instructions than the image has room for.
    """
    field = begin_layout["checksum"]
    place = field.offset // 8
    clear = image[:place] + bytes(field.width // 8) + image[place + field.width // 8:]
    # The words behind it multiply it by a power of x.
    value = divided(program_checksum(clear), _program_words(image) - 1 - place // 4)
    return clear[:place] + value.to_bytes(field.width // 8, "little") + clear[
        place + field.width // 8:]


def _program_words(image: bytes) -> int:
    begin = begin_layout.from_bits(int.from_bytes(image[:INSTRUCTION_BYTES], "little"))
    most = len(image) // INSTRUCTION_BYTES
    if not 1 <= begin.instructions <= most:
        raise ValueError(f"BEGIN says {begin.instructions} instructions, must say 1 to {most}, as"
                         f" the memory image has {len(image)} bytes")
    return begin.instructions * INSTRUCTION_BYTES // 4


def head_slot(model: ModelConfig) -> int:
    """Return the channels that a head takes in the buffers: 16, 32 or 64."""
    return next(slot for slot in (16, 32, 64) if slot >= model.head_size)


def classifier_slots(model: ModelConfig) -> tuple[int, int]:
    """Return the channels that a head takes where it has half and a quarter of its own."""
    half, quarter = (-(-model.head_size // part // BLOCK) * BLOCK for part in (2, 4))
    return half, quarter


def tokens_of(program: Program, stages: Mapping[str, NDArray[np.integer]]) -> tuple[int, ...]:
    """Return the tokens at the start, and after each selector."""
    return (program.tokens, *(int(stages[f"selector{s}.tokens"][0])
                              for s in range(program.selectors)))


def _in_slots(channel: Int, slot: int, size: int, heads: Sequence[int]) -> Int:
    """Return the channel of the stage, in which heads of ``size`` follow each other.

    In the buffer each takes ``slot`` channels, of which the rest is zero; ``heads`` are written.
    """
    head, offset = np.divmod(channel, slot)
    place = np.where(offset < size, head * size + offset, _ZERO)
    return np.where(np.isin(head, list(heads)), place, _UNDEFINED)


def _limited(channel: Int, limit: int, beyond: int) -> Int:
    return np.where((channel >= 0) & (channel < limit), channel, beyond)


def _stage_channels(program: Program, info: PassInfo, channel: Int) -> Int:
    """Return the channel of the stage that is at each channel of the destination."""
    model, columns, kind = program.model, program.config.columns, info.kind
    size, heads = model.head_size, range(model.heads)
    half, quarter = classifier_slots(model)
    if kind in _IN_SLOTS:
        place = _in_slots(channel, head_slot(model), size, heads)
        return np.where(place == _UNDEFINED, _ZERO, place)
    if kind in _OF_ONE_HEAD or kind == PassKind.MEAN:
        channel = channel - (half if kind in _TURNED else 0)
        return _in_slots(channel, half, size // 2, heads if info.head is None else [info.head])
    if kind == PassKind.SCORE2:
        return _in_slots(channel, quarter, size // 4, heads)
    if kind == PassKind.IMPORTANCE:
        return _limited(channel - model.heads * quarter, max(1, model.heads // 2), _ZERO)
    if kind == PassKind.CLASSES:
        upper, head = np.divmod(channel, columns // 2)
        return np.where(head < model.heads, upper * model.heads + head, _ZERO)
    if info.destination == Destination.SCORE:
        return _limited(channel, info.tokens, _UNDEFINED)
    if info.destination == Destination.RESIDUAL:
        return _limited(channel, model.width, _UNDEFINED)
    return _limited(channel, model.hidden if kind == PassKind.MLP1 else model.classes, _ZERO)


def _channels(program: Program, info: PassInfo) -> Int:
    """Return for each lane of all column tiles the channel of the stage that it writes."""
    config, columns = program.config, program.config.columns
    tile, lane = np.divmod(np.arange(info.column_tiles * columns), columns)
    if info.kind == PassKind.PACKAGE:
        # Other parts of the first row may have got their package already.
        tile, part = np.divmod(tile, config.package_parts)
        written = lane // config.package_lanes == part
    else:
        mask = info.destination_mask >> lane // config.block & 1 == 1
        written = mask | (tile < info.column_tiles - 1)
    channel = _stage_channels(program, info, (info.column_first + tile) * columns + lane)
    return np.where(written, channel, _UNDEFINED)


def _of_images(stages: Stages | Sequence[Stages], info: PassInfo) -> list[Stages]:
    """Return the stages of the images of a pass."""
    images = [stages] if isinstance(stages, Mapping) else stages
    return [images[image] for image in info.images]


def _rows_of(stage: Int, info: PassInfo) -> Int:
    """Return the rows of a stage of one image that a pass writes."""
    rows = info.rows // len(info.images)
    return stage[info.row_first:info.row_first + rows]


def expected_words(program: Program, stages: Stages | Sequence[Stages],
                   info: PassInfo) -> tuple[Int, NDArray[np.bool_]]:
    """Return what a pass writes, and which lanes of it are defined.

    Parameters
    ----------
    program
        The program.
    stages
        Named stages of ``golden.integer.run``, of each image of the round if it is not of one.
    info
        The pass, one of ``program.passes_for(tokens_of(program, stages))``.

    Returns
    -------
    words
        int64 [column tiles, rows, columns]: the data of every write, in the order of the writes.
    mask
        [column tiles, columns]: lanes to compare. The others are not written (other heads, other
        parts of a package), or hold what nothing reads (scores beyond the tokens, residual
        channels beyond the width).
    """
    parts = []
    for named in _of_images(stages, info):
        stage = np.asarray(named[info.stage], np.int64)
        if info.kind == PassKind.SCORE:
            stage = stage[info.head]
        parts.append(_rows_of(stage, info) if stage.ndim > 1 else stage[None])
    channel = _channels(program, info)
    # Zero and undefined lanes take the column of zeros behind the last channel.
    words = np.pad(np.concatenate(parts), ((0, 0), (0, 1)))[:, np.maximum(channel, _ZERO)]
    shape = (info.column_tiles, program.config.columns)
    words = words.reshape(info.rows, *shape).transpose(1, 0, 2)
    return words, (channel != _UNDEFINED).reshape(shape)


def expected_rows(program: Program, stages: Stages | Sequence[Stages],
                  info: PassInfo) -> dict[str, Int]:
    """Return the row statistics of a pass under their stage names, each [rows].

    SCORE passes give the row maximum; ATTENTION and MEAN passes the row sum and the scale made of
    it; passes to the residual, but to package tokens, the statistics of the LayerNorm that follows.
    """
    parts = [_row_statistics(named, info) for named in _of_images(stages, info)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _row_statistics(stages: Stages, info: PassInfo) -> dict[str, Int]:
    """Return those of one image."""
    block = info.stage.split(".")[0]
    if info.kind == PassKind.SCORE:
        return {f"{block}.rowmax": stages[f"{block}.rowmax"][info.head]}
    if info.kind == PassKind.ATTENTION:
        names = [f"{block}.{name}" for name in _SUM]
        return {name: stages[name][info.head] for name in names}
    if info.kind == PassKind.MEAN:
        names = [f"{info.stage}.{name}" for name in _SUM]
        return {name: stages[name] for name in names}
    if info.norm is not None:
        names = [f"{info.norm}.{name}" for name in _STATISTICS]
        # The package token is the last of all, and the only one of its LayerNorm.
        return {name: stages[name] if info.kind == PassKind.PACKAGE_NORM
                else _rows_of(stages[name], info) for name in names}
    return {}
