# SPDX-License-Identifier: BSD-2-Clause
"""The buffers and tables of the interpreter, and where the rows of a pass lie in them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.fixed import Int
from rtl.config import Config
from rtl.isa import LANE_ROWS, RECIPROCAL_ROWS, RSQRT_ROWS, Source, Table

__all__ = ["Buffers", "PassRows"]


@dataclass(frozen=True)
class PassRows:
    """Rows of a pass: positions in the list of tokens, and rows of the residual."""

    position: Int
    physical: Int

    def __len__(self) -> int:
        return len(self.position)


class Buffers:
    """All memories, full of rubbish at the start but for the block lists.

    Members
    -------
    stream
        Streaming buffers, by ``Source`` [words, lanes].
    key, value, logit
        Words of ``columns`` channels.
    rowmax
        Maxima of the scores [slots, positions].
    norms
        Mean, mantissa and shift of LayerNorm [slots, 3, rows of the residual].
    tables
        Polynomials, by ``Table`` [rows, 3].
    lists, broadcast
        Block lists: index, -1 where there is none; and whether it is of row 0 [entries, banks].
    """

    def __init__(self, config: Config, seed: int) -> None:
        random = np.random.default_rng(seed)

        def memory(depth: int, width: int, low: int, high: int) -> Int:
            return random.integers(low, high + 1, (depth, width), np.int64)

        self.config = c = config
        self.stream = {
            Source.ACT: memory(c.act_depth, c.lanes, -128, 127),
            Source.PATCH: memory(c.patch_depth, c.lanes, 0, 255),
            Source.RESIDUAL: memory(c.residual_depth, c.lanes, -32768, 32767),
            Source.SCORE: memory(c.score_depth, c.lanes, -32768, 32767)}
        self.key = memory(c.key_depth, c.columns, -127, 127)
        self.value = memory(c.value_depth, c.columns, -127, 127)
        self.logit = memory(c.images * c.class_tiles, c.columns, -100, 100)
        self.rowmax = memory(2, c.pass_rows, -32768, 32767)
        self.norms = memory(4 * 3, c.residual_rows, 1, 47).reshape(4, 3, -1)
        self.tables = {Table.LANE: memory(LANE_ROWS, 3, 0, 9),
                       Table.RECIPROCAL: memory(RECIPROCAL_ROWS, 3, 0, 9),
                       Table.RSQRT: memory(RSQRT_ROWS, 3, 0, 9)}
        self.lists = np.full((c.list_depth, c.row_blocks), -1, np.int64)
        self.broadcast = np.zeros((c.list_depth, c.row_blocks), bool)

    def place(self, source: Any, base: int, stride: int, rows: PassRows, blocks: Int,
              broadcast: NDArray[np.bool_] | bool = False) -> tuple[Int, Int]:
        """Return word and bank of ``blocks`` of ``rows``, each [rows, blocks]."""
        row = (rows.physical if source == Source.RESIDUAL
               # Scores are of one image, one head: they begin at the first row.
               else rows.position - rows.position[0] if source == Source.SCORE else rows.position)
        word = np.where(broadcast, 0, row[:, None] * stride) + base + blocks // self.config.banks
        return word, np.broadcast_to(blocks % self.config.banks, word.shape)

    def memory(self, source: Any) -> Int:
        """Return a buffer as [words, banks, block]."""
        return self.stream[source].reshape(-1, self.config.banks, self.config.block)

    def store(self, source: Any, base: int, stride: int, rows: PassRows, blocks: Int,
              values: Int) -> None:
        place = self.place(source, base, stride, rows, blocks)
        self.memory(source)[place] = values.reshape(len(rows), len(blocks), self.config.block)
