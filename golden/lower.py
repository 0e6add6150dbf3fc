# SPDX-License-Identifier: BSD-2-Clause
"""Lowering of a quantised network to the program and memory image of one configuration.

Order of the passes of an image::

    patch embedding
    for each block: (what golden.lower_selector says, where a selector is before it)
                    Q, K, V, score 0, score 1, attention 0, score 2, attention 1, ...,
                    projection, MLP 1, MLP 2
    head (CLS row), second head (distillation row)

All passes of a block are over all tokens; of the last block, if so asked, only K and V.

Buffers: Q is at the start of ACT and the attention output behind it; the hidden layer overlays
both, as passes are issued in order and rows are read when they are issued.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden.assembler import PAD_SCALE, block_list
from golden.lower_common import Lowering
from golden.lower_image import Rounds
from golden.lower_selector import check_pruning, lower_classifier, lower_package, select
from golden.model import ModelConfig
from golden.program import PassKind, PassLabel, Program, head_slot
from golden.pruning import PruningConfig
from golden.quantize import Linear, Norm, QuantizedBlock, QuantizedViT, patch_bytes
from golden.quantize_selector import SCORE_SHIFT
from rtl.config import Config, ConfigError
from rtl.isa import Destination, Prologue, Rows, ScaleSource, SelectorKind, Source, Stationary

__all__ = ["check_sizes", "lower"]


def check_sizes(model: ModelConfig, config: Config,
                pruning: PruningConfig | None = None) -> None:
    """Raise ConfigError, naming the limit and by how much, if ``model`` is too large."""
    slot = head_slot(model)
    for what, need, limit in (
        ("tokens", model.tokens, "max_tokens"),
        ("residual channels", model.width, "max_width"),
        (f"channels for {model.heads} heads of {slot}", model.heads * slot, "max_width"),
        ("hidden channels", model.hidden, "max_hidden"),
        ("bytes of a patch", patch_bytes(model), "max_patch"),
        ("classes", model.classes, "max_classes"),
    ):
        most = getattr(config, limit)
        if need > most:
            raise ConfigError(f"{model.name} needs {need} {what}, {need - most} more than {limit}"
                              f" of configuration {config.name}, {most}")
    if pruning is not None:
        check_pruning(model, pruning, config)


class _Network(Lowering):
    """The network, pass after pass, into an assembler."""

    def __init__(self, qvit: QuantizedViT, config: Config, last_block: str) -> None:
        check_sizes(qvit.model, config, qvit.pruning)
        super().__init__(qvit, config, patch_bytes(qvit.model))
        self.rounds = Rounds(self)
        self.last_rows = qvit.model.last_rows(last_block, qvit.model.tokens)
        pruning = qvit.pruning
        #: Index of the selector before a block, whether they are classifiers, patches that stay.
        self.selectors = {} if pruning is None else {b: s for s, b in enumerate(pruning.active)}
        self.threshold = pruning is not None and pruning.selector == "threshold"
        self.keep = () if pruning is None else pruning.keep_counts(qvit.model.grid ** 2)

    def _spread(self, array: NDArray, fill: int = 0) -> NDArray:
        """Return an array whose first axis is all heads, each padded to its slot."""
        model = self.model
        array = array.reshape(model.heads, model.head_size, *array.shape[1:])
        pad = [(0, 0), (0, self.slot - model.head_size)] + [(0, 0)] * (array.ndim - 2)
        array = np.pad(array, pad, constant_values=fill)
        return array.reshape(-1, *array.shape[2:])

    def _patch(self) -> None:
        label = PassLabel(kind=PassKind.PATCH, stage="embed.residual", norm="block0.norm1")
        self.out.add_pass(
            label, reads=None, layer=self.qvit.patch, source=Source.PATCH,
            source_stride=self.patch_words, zero_rows=self.model.special_tokens,
            entries=self.dense(patch_bytes(self.model)),
            **self.to_residual(self.qvit.blocks[0].norm1))

    def _block(self, i: int, block: QuantizedBlock, norm: Norm, norm_stage: str) -> None:
        """Add one block; ``norm`` is the LayerNorm that follows it."""
        out, stage, rows = self.out, f"block{i}", self._rows(i)
        selector = self.selectors.get(i)
        if selector is not None and self.threshold:
            lower_classifier(self, selector, i)
            lower_package(self, selector, block.norm1)
            # Only the package and its LayerNorm, which need no table, are after PRUNE.
            self.lane_table(block.gelu, under_way=2)
        else:
            # MLP 1 of the block before has finished with the table: MLP 2 has waited for it.
            self.lane_table(block.gelu, under_way=1)
            if selector is not None:
                lower_package(self, selector, block.norm1)
        self._queries_keys_values(block, stage, rows)
        self.rounds.after_values(i)
        for head in range(self.model.heads + 1):
            if head < self.model.heads:
                self._score(block, stage, head, rows)
            if head > 0:
                self._attention(block, stage, head - 1, self._scores(i), rows)

        projection = Linear(weight=self._spread(block.projection.weight.T).T,
                            bias=block.projection.bias, m=block.projection.m, s=block.projection.s)
        out.add_pass(
            PassLabel(kind=PassKind.PROJECTION, stage=f"{stage}.residual1", norm=f"{stage}.norm2"),
            reads="attention", layer=projection, source=Source.ACT,
            source_base=self.attention_base, source_stride=self.heads_words,
            entries=block_list([b for head in self.head_blocks for b in head], self.config),
            **rows, **self.to_residual(block.norm2))
        out.add_pass(
            PassLabel(kind=PassKind.MLP1, stage=f"{stage}.hidden"),
            writes="hidden", layer=block.mlp1, destination=Destination.ACT, gelu=1,
            destination_stride=self.hidden_words, **rows, **self.from_residual())
        self.rounds.after_hidden(i)
        if self._scores(i):
            # All but the projection and MLP 1 is over, and with it the attention.
            select(self, SelectorKind.TOPK, keep=self.keep[self.selectors[i + 1]], under_way=2)
        out.add_pass(
            PassLabel(kind=PassKind.MLP2, stage=f"{stage}.residual2", norm=norm_stage),
            reads="hidden", layer=block.mlp2, source=Source.ACT, source_stride=self.hidden_words,
            entries=self.dense(self.model.hidden), **rows, **self.to_residual(norm))

    def _rows(self, i: int) -> dict[str, Any]:
        """Return the fields for the rows of block ``i`` that are computed of all but K and V."""
        if i + 1 < self.model.depth or self.last_rows == self.model.tokens:
            return {}
        return {"rows_from": Rows.COUNT, "row_count": self.last_rows}

    def _queries_keys_values(self, block: QuantizedBlock, stage: str,
                             rows: dict[str, Any]) -> None:
        for kind, layer, destination, stride in (
            (PassKind.Q, block.q, Destination.ACT, self.heads_words),
            (PassKind.K, block.k, Destination.KEY, self.heads_tiles),
            (PassKind.V, block.v, Destination.VALUE, self.heads_tiles),
        ):
            padded = Linear(weight=self._spread(layer.weight), bias=self._spread(layer.bias),
                            m=self._spread(layer.m, PAD_SCALE.m),
                            s=self._spread(layer.s, PAD_SCALE.s))
            self.out.add_pass(
                PassLabel(kind=kind, stage=f"{stage}.{kind}"), writes=kind, layer=padded,
                destination=destination, destination_stride=stride,
                **(rows if kind == PassKind.Q else {}), **self.from_residual())

    def _score_place(self, head: int, role: str) -> dict[str, Any]:
        """Return the fields for the scores of a head: two heads take turns in the buffer."""
        slot = head % 2
        return {f"{role}_slot": slot,
                f"{role}_base": slot * self.config.max_tokens * self.config.score_words,
                f"{role}_stride": self.config.score_words}

    def _score(self, block: QuantizedBlock, stage: str, head: int, rows: dict[str, Any]) -> None:
        self.out.add_pass(
            PassLabel(kind=PassKind.SCORE, stage=f"{stage}.scores", head=head),
            reads="q", operand="k", writes=f"scores{head}",
            entries=block_list(self.head_blocks[head], self.config),
            source=Source.ACT, source_stride=self.heads_words,
            stationary=Stationary.KEY, operand_stride=self.heads_tiles, columns_from_tokens=1,
            scale_source=ScaleSource.CONSTANT, scale=block.score,
            destination=Destination.SCORE, **rows, **self._score_place(head, "destination"))

    def _scores(self, i: int) -> bool:
        """Whether the attention of block ``i`` decides which patches stay."""
        return i + 1 in self.selectors and not self.threshold

    def _attention(self, block: QuantizedBlock, stage: str, head: int, scores: bool,
                   rows: dict[str, Any]) -> None:
        blocks, column_blocks = self.head_blocks[head], self.config.column_blocks
        first = blocks[0] // column_blocks
        self.out.add_pass(
            PassLabel(kind=PassKind.ATTENTION, stage=f"{stage}.attention", head=head),
            reads=f"scores{head}", operand="v", writes="attention",
            entries=self.tokens_list(), k_from_tokens=1, k_tiles=0, source=Source.SCORE,
            **rows, **self._score_place(head, "source"),
            prologue=Prologue.EXP, exp_m=block.exp.m, exp_s=block.exp.s,
            stationary=Stationary.VALUE, operand_base=first,
            operand_stride=self.heads_tiles, column_tiles=-(-len(blocks) // column_blocks),
            scale_source=ScaleSource.ROW, scale=block.value, destination=Destination.ACT,
            destination_base=self.attention_base + self.tile_word(first),
            destination_stride=self.heads_words,
            destination_mask=self.last_mask(len(blocks)) << blocks[0] % column_blocks,
            class_attention=int(scores), first_head=int(scores and head == 0),
            score_s=SCORE_SHIFT - self.qvit.score_frac if scores else 0)

    def _heads(self) -> None:
        last = len(self.qvit.heads) - 1
        for row, head in enumerate(self.qvit.heads):
            label = PassLabel(kind=PassKind.HEAD, stage="logits" if row == last else "logits.cls")
            self.out.add_pass(label, writes="logits", layer=head, destination=Destination.LOGIT,
                              rows_from=Rows.COUNT, row_first=row, row_count=1,
                              accumulate=int(row > 0), **self.from_residual())

    def program(self, norms: Sequence[tuple[Norm, str]]) -> Program:
        """Return the program; ``norms`` follow the blocks."""
        self.rounds.image()
        self._patch()
        for i, (block, norm) in enumerate(zip(self.qvit.blocks, norms, strict=True)):
            self._block(i, block, *norm)
        self._heads()
        return Program(config=self.config, model=self.model, weights=self.qvit.weights,
                       logit_step=self.qvit.steps["logits"], image=self.rounds.memory_image(),
                       pruning=self.qvit.pruning, labels=tuple(self.out.labels))


def lower(qvit: QuantizedViT, config: Config, *, last_block: str = "all") -> Program:
    """Return the program of a quantised network for one configuration.

    ``last_block`` says which rows of it are computed, see
    :meth:`golden.model.ModelConfig.last_rows`: the logits are the same.

    Raises ConfigError, naming the limit and by how much, where the network does not fit.
    """
    norms = [(block.norm1, f"block{i}.norm1") for i, block in enumerate(qvit.blocks)]
    return _Network(qvit, config, last_block).program([*norms[1:], (qvit.head_norm, "head.norm")])
