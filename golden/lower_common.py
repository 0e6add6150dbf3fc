# SPDX-License-Identifier: BSD-2-Clause
"""What the lowering of blocks and the lowering of selectors share: lists, places and masks."""

from typing import Any

from golden.assembler import Assembler, BlockList, block_list, table
from golden.fit import pack
from golden.fixed import Int
from golden.program import head_slot
from golden.quantize import Norm, QuantizedViT
from rtl.config import Config
from rtl.isa import LANE_LAYOUT_ROWS, Destination, Prologue, Source, Table

__all__ = ["Lowering"]


class Lowering:
    """A network on its way into an assembler, and where its tensors lie.

    Members
    -------
    qvit, model, config
        The network, its sizes, and the configuration.
    out
        The assembler.
    slot
        Channels that a head takes in Q, K, V and the attention output.
    head_blocks
        For each head its blocks there.
    residual_words, hidden_words, patch_words, heads_words
        Words of a row of each tensor; those of Q and of the attention output are the last.
    heads_tiles
        Column tiles of K and V.
    segments
        Segments of the token list that are computed one after another where tokens meet: None alone
        is the whole list, of one image.
    rows
        Positions of the token list, at most.
    """

    def __init__(self, qvit: QuantizedViT, config: Config, patch_channels: int) -> None:
        self.qvit, self.config = qvit, config
        model = self.model = qvit.model
        self.out = Assembler(config)
        self.slot = head_slot(model)
        self.head_blocks = [[h * self.slot // config.block + b
                             for b in range(model.head_size // config.block)]
                            for h in range(model.heads)]
        self.residual_words = config.words(model.width)
        self.hidden_words = config.words(model.hidden)
        self.patch_words = config.words(patch_channels)
        self.heads_words = config.words(model.heads * self.slot)
        self.heads_tiles = -(-model.heads * self.slot // config.columns)
        self.segments: tuple[int | None, ...] = (None,)
        self.rows = model.tokens

    @property
    def attention_base(self) -> int:
        """Word of the attention output, behind Q."""
        return self.rows * self.heads_words

    def dense(self, channels: int) -> BlockList:
        """Return the list of all blocks of ``channels``."""
        return block_list(range(-(-channels // self.config.block)), self.config)

    def tokens_list(self) -> BlockList:
        """Return the list of all tokens: pruning shortens it."""
        rows = self.config.rows
        return self.dense(-(-self.model.tokens // rows) * rows)

    def lane_table(self, rows: Int, *, under_way: int) -> None:
        """Append the GELU table, or what takes its place."""
        self.out.body += table(Table.LANE, LANE_LAYOUT_ROWS["gelu"][0], pack(rows),
                               under_way=under_way)

    def last_mask(self, blocks: int) -> int:
        """Return which blocks of the last of the column tiles of ``blocks`` there are."""
        return (1 << (blocks - 1) % self.config.column_blocks + 1) - 1

    def tile_word(self, tile: int) -> int:
        """Return the word of a row in which a column tile lies."""
        return tile * self.config.column_blocks // self.config.banks

    def from_residual(self) -> dict[str, Any]:
        """Return the fields of a pass from the residual through its LayerNorm."""
        return {"reads": "residual", "source": Source.RESIDUAL, "prologue": Prologue.NORM,
                "source_stride": self.residual_words, "entries": self.dense(self.model.width)}

    def to_residual(self, norm: Norm) -> dict[str, Any]:
        """Return the fields of a pass to the residual, with the statistics for ``norm``."""
        return {"writes": "residual", "destination": Destination.RESIDUAL,
                "destination_stride": self.residual_words,
                "destination_mask": self.last_mask(self.model.width // self.config.block),
                **self.statistics(norm)}

    def statistics(self, norm: Norm) -> dict[str, Any]:
        """Return the fields by which a pass takes the statistics for ``norm``."""
        return {"statistics": 1, "scale": norm.scale, "mean_m": norm.mean.m,
                "mean_s": norm.mean.s, "channels": norm.channels, "epsilon": norm.epsilon}
