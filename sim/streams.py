# SPDX-License-Identifier: BSD-2-Clause
"""What the top module shows of its work, and how the recordings of it are read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rtl.config import Config
from rtl.isa import (
    ACC_BITS,
    IMPORTANCE_BITS,
    MANTISSA_BITS,
    SCORE_BITS,
    SHARE_BITS,
    SHIFT_BITS,
    SUM_BITS,
    WEIGHT_BITS,
    WEIGHTED_BITS,
)
from rtl.taps import trace_members

__all__ = ["CYCLE", "Field", "Stream", "streams", "trace_streams"]

#: Name of the cycle of an event in the recording of a stream that is timed.
CYCLE = "cycle"


@dataclass(frozen=True)
class Field:
    """A recorded signal: ``lanes`` numbers of ``bits`` bits side by side, lane 0 lowest."""

    signal: str
    bits: int
    signed: bool = False
    lanes: int = 1

    @property
    def size(self) -> int:
        """Bytes of the signal in C++: an integer up to 64 bits, words of 32 bits above."""
        total = self.bits * self.lanes
        return next((n for n in (1, 2, 4, 8) if total <= 8 * n), -(-total // 32) * 4)

    def decode(self, raw: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return ``raw`` [events, size] as numbers [events] or [events, lanes]."""
        # Eight more bytes, so that the 64 bits from the byte of any lane on can be read.
        padded = np.zeros((len(raw), self.size + 8), np.uint8)
        padded[:, :self.size] = raw
        out = np.empty((len(raw), self.lanes), np.int64)
        for lane in range(self.lanes):
            byte, bit = divmod(lane * self.bits, 8)
            word = np.ascontiguousarray(padded[:, byte:byte + 8]).view("<u8")[:, 0]
            value = ((word >> np.uint64(bit)) << np.uint64(64 - self.bits)).view(np.int64)
            # The number is now at the top: an arithmetic or a logical shift brings it down.
            shifted = value >> (64 - self.bits)
            out[:, lane] = shifted if self.signed else shifted & ((1 << self.bits) - 1)
        return out if self.lanes > 1 else out[:, 0]


@dataclass(frozen=True)
class Stream:
    """Signals recorded together in every cycle in which ``valid`` is high.

    Without ``valid`` they are recorded in every cycle in which one is not as it was before. A
    stream that is ``timed`` is recorded with the cycles of its events, and only if asked for.
    """

    name: str
    valid: str | None
    fields: tuple[Field, ...]
    timed: bool = False

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of all signals."""
        valid = () if self.valid is None else (self.valid,)
        return (*valid, *(field.signal for field in self.fields))

    def read(self, folder: Path) -> dict[str, NDArray[np.int64]]:
        """Return the recording in ``folder``: for each signal its value in every event.

        Of a stream that is timed also their cycles, under the name ``CYCLE``.
        """
        raw = np.fromfile(folder / f"{self.name}.bin", np.uint8)
        # A cycle takes 64 bits, of which the highest is never used.
        fields = (Field(CYCLE, 63), *self.fields) if self.timed else self.fields
        size = sum(field.size for field in fields)
        if len(raw) % size:
            raise ValueError(f"the recording of {self.name} has {len(raw)} bytes, must be a"
                             f" multiple of {size}")
        events = raw.reshape(-1, size)
        result, at = {}, 0
        for field in fields:
            result[field.signal] = field.decode(events[:, at:at + field.size])
            at += field.size
        return result


def streams(config: Config) -> tuple[Stream, ...]:
    """Return the streams of an accelerator, events in program order.

    ``write``: what the epilogue writes to a buffer; ``max``: the running maximum of a row of
    scores; ``sum``: the sum of a finished row of exponentials and the scale made of it;
    ``norm``: the statistics of a finished residual row and the scale made of them.
    A scale is its mantissa with its shift above.

    Of a token selector: ``score``: the class token's attention to a position after one more head;
    ``pair``: sum of importance times score and of importance over the heads of a position;
    ``scan``: row of a position and whether it stays; ``weight``: of a dropped row; ``share``: of a
    dropped row in the package token.
    """
    scale = MANTISSA_BITS + SHIFT_BITS
    index, row = ((rows - 1).bit_length() for rows in (config.max_tokens, config.residual_rows))
    dense = (
        Stream("write", "tap_valid",
               (Field("tap_data", ACC_BITS, signed=True, lanes=config.columns),)),
        Stream("max", "tap_max_valid", (Field("tap_max", 16, signed=True),)),
        Stream("sum", "tap_sum_valid", (Field("tap_sum", SUM_BITS), Field("tap_rowscale", scale))),
        Stream("norm", "tap_norm_valid",
               (Field("tap_norm_sum", 26, signed=True), Field("tap_norm_sumsq", 40),
                Field("tap_norm_mean", 24, signed=True), Field("tap_norm_scale", scale))),
    )
    selector = (
        Stream("score", "tap_score_valid",
               (Field("tap_score_row", index), Field("tap_score", SCORE_BITS))),
        Stream("pair", "tap_pair_valid",
               (Field("tap_pair_weighted", WEIGHTED_BITS),
                Field("tap_pair_importance", IMPORTANCE_BITS))),
        Stream("scan", "tap_scan_valid",
               (Field("tap_scan_row", row), Field("tap_scan_keep", 1))),
        Stream("weight", "tap_weight_valid", (Field("tap_weight", WEIGHT_BITS),)),
        Stream("share", "tap_share_valid",
               (Field("tap_share_index", index), Field("tap_share", SHARE_BITS))),
    )
    return (*dense, *selector) if config.pruning else dense


def trace_streams(config: Config) -> tuple[Stream, ...]:
    """Return the streams that a trace of a run is made of, see ``rtl.taps.trace_members``.

    ``issue``: cause of the cycle, whether there is a tile, start and end of the run; ``tile``: a
    tile is accepted; ``loader``, ``selector``: what they do; ``weights``: level of the FIFO;
    ``passes``: how many are queued and retired; ``instruction``; ``epilogue``: rows leave it;
    ``load``; ``bus``: handshakes of the data channels of the memory ports.
    """
    bits = trace_members(config)

    def changes(name: str, *members: str, valid: str | None = None) -> Stream:
        return Stream(name, valid, tuple(Field(f"tap_{member}", bits[member])
                                         for member in members), timed=True)

    bus = tuple(Field(f"m_axi_gmem{port}_{pin}", 1) for port in range(config.ports)
                for pin in ("rvalid", "rready", *(() if port else ("wvalid", "wready"))))
    return (
        changes("issue", "stall", "tile_active", "run_start", "run_end"),
        changes("tile", "tile_slot", "tile_first_column", "tile_last_column", "tile_first_k",
                "tile_last_k", valid="tap_tile_accepted"),
        changes("loader", "loader", "loader_begins"),
        changes("weights", "weight_level"),
        changes("passes", "queued", "retired"),
        changes("instruction", "instruction"),
        changes("epilogue", "written", "written_slot"),
        changes("load", "load_start", "load_busy", "load_kind", "load_ahead"),
        *((changes("selector", "selector"),) if config.pruning else ()),
        Stream("bus", None, bus, timed=True),
    )
