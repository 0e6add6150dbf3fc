# SPDX-License-Identifier: BSD-2-Clause
"""The program of the cycle model: what it takes from each instruction."""

from dataclasses import dataclass
from typing import Any

from amaranth.lib import data

from rtl.config import Config
from rtl.isa import Destination, Opcode, Rows, ScaleSource, SelectorKind, Source, Stationary

__all__ = ["Step"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the model takes from an instruction.

    Tiles are 0 where they follow the tokens. ``count`` are rows of a table or classes, ``size``
    and ``units`` the bytes of a LOAD and the cycles that it takes to write them. ``segment`` is
    None where all segments are meant.
    """

    opcode: Opcode
    under_way: int = 0
    count: int = 0
    size: int = 0
    units: int = 0
    ahead: bool = False
    by_score: bool = False
    segment: int | None = None
    rows_from: Any = Rows.TOKENS
    row_first: int = 0
    row_count: int = 0
    column_tiles: int = 0
    k_tiles: int = 0
    stationary: Any = Stationary.WEIGHT
    of_patches: bool = False
    own_scales: bool = False
    row_dependency: int = 0
    operand_dependency: int = 0
    to_residual: bool = False
    to_selector: bool = False
    to_logits: bool = False
    class_attention: bool = False

    @classmethod
    def of(cls, fields: data.Const, config: Config) -> "Step":
        """Return the step of an instruction."""
        opcode = Opcode(fields.opcode)
        if opcode == Opcode.TABLE:
            return cls(opcode=opcode, under_way=fields.under_way, count=fields.count)
        if opcode == Opcode.LOAD:
            rows = fields.count * fields.lines * fields.patch_rows
            return cls(opcode=opcode, under_way=fields.under_way, ahead=bool(fields.ahead),
                       size=rows * fields.row_bytes,
                       units=rows * -(-fields.row_bytes // config.block))
        if opcode == Opcode.SELECT:
            return cls(opcode=opcode, under_way=fields.under_way,
                       by_score=SelectorKind(fields.kind) == SelectorKind.TOPK)
        if opcode == Opcode.END:
            return cls(opcode=opcode, count=fields.classes)
        if opcode != Opcode.PASS:
            return cls(opcode=opcode)
        return cls(
            opcode=opcode, rows_from=fields.rows_from, row_first=fields.row_first,
            row_count=fields.row_count,
            column_tiles=0 if fields.columns_from_tokens else fields.column_tiles,
            k_tiles=0 if fields.k_from_tokens else fields.k_tiles,
            segment=fields.segment if fields.of_segment else None,
            stationary=fields.stationary, of_patches=Source(fields.source) == Source.PATCH,
            own_scales=ScaleSource(fields.scale_source) == ScaleSource.COLUMN,
            row_dependency=fields.row_dependency, operand_dependency=fields.operand_dependency,
            to_residual=Destination(fields.destination) == Destination.RESIDUAL,
            to_selector=Destination(fields.destination) == Destination.SELECTOR,
            to_logits=Destination(fields.destination) == Destination.LOGIT,
            class_attention=bool(fields.class_attention))
