# SPDX-License-Identifier: BSD-2-Clause
"""Lowering of a quantised network to the program and memory image of one configuration.

Order of the passes of an image::

    patch embedding
    for each block: (what golden.lower_selector says, where a selector is before it)
                    Q, K, V, score 0, score 1, attention 0, score 2, attention 1, ...,
                    projection, MLP 1, MLP 2
    head (CLS row), second head (distillation row)

All passes of a block are over all tokens; of the last block, if so asked, only K and V. The images
of a batch are computed one after another up to the first selector, then together, but for scores
and attention.

Buffers: Q is at the start of ACT and the attention output behind it; the hidden layer overlays
both, as passes are issued in order and rows are read when they are issued.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from golden.assembler import PAD_SCALE, block_list
from golden.lower_batch import check_batch
from golden.lower_common import Lowering
from golden.lower_image import Rounds
from golden.lower_selector import check_pruning, lower_classifier, lower_package, select
from golden.model import ModelConfig
from golden.program import PassKind, PassLabel, Program, head_slot
from golden.pruning import PruningConfig, tokens_left
from golden.quantize import Linear, Norm, QuantizedBlock, QuantizedViT, patch_bytes
from golden.quantize_selector import SCORE_SHIFT
from rtl.config import Config, ConfigError
from rtl.isa import Destination, Prologue, Rows, ScaleSource, SelectorKind, Source, Stationary

__all__ = ["check_sizes", "lower"]


def check_sizes(model: ModelConfig, config: Config, pruning: PruningConfig | None = None,
                batch: int = 1) -> None:
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
    check_batch(model, pruning, config, batch)


class _Unit(NamedTuple):
    """One head of one image, where tokens meet: its segment if there are several, its scores."""

    head: int
    segment: int | None
    slot: int


class _Network(Lowering):
    """The network, pass after pass, into an assembler."""

    def __init__(self, qvit: QuantizedViT, config: Config, last_block: str, batch: int) -> None:
        check_sizes(qvit.model, config, qvit.pruning, batch)
        super().__init__(qvit, config, patch_bytes(qvit.model))
        self.last_rows = qvit.model.last_rows(last_block, qvit.model.tokens)
        pruning = qvit.pruning
        self.batch = batch
        #: Blocks that are computed of each image alone, up to the first selector of a batch.
        self.alone = qvit.model.depth
        if pruning is not None and batch > 1:
            self.alone = pruning.active[0]
        self.rounds = Rounds(self, batch, self.alone)
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
        out, stage, parts = self.out, f"block{i}", self._parts(i)
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
        self._queries_keys_values(block, stage, parts)
        self.rounds.after_values(i)
        units = [_Unit(head, segment, number % 2) for number, (segment, head) in enumerate(
            product(self.segments, range(self.model.heads)))]
        before: _Unit | None = None
        for unit in (*units, None):
            if unit is not None:
                self._score(block, stage, unit, i)
            if before is not None:
                self._attention(block, stage, before, i)
            before = unit

        projection = Linear(weight=self._spread(block.projection.weight.T).T,
                            bias=block.projection.bias, m=block.projection.m, s=block.projection.s)
        for rows in parts:
            out.add_pass(
                PassLabel(kind=PassKind.PROJECTION, stage=f"{stage}.residual1",
                          norm=f"{stage}.norm2"),
                reads="attention", layer=projection, source=Source.ACT,
                source_base=self.attention_base, source_stride=self.heads_words,
                entries=block_list([b for head in self.head_blocks for b in head], self.config),
                **rows, **self.to_residual(block.norm2))
        for rows in parts:
            out.add_pass(
                PassLabel(kind=PassKind.MLP1, stage=f"{stage}.hidden"),
                writes="hidden", layer=block.mlp1, destination=Destination.ACT, gelu=1,
                destination_stride=self.hidden_words, **rows, **self.from_residual())
        self.rounds.after_hidden(i)
        if self._scores(i):
            # All but the projection and MLP 1 is over, and with it the attention.
            select(self, SelectorKind.TOPK, keep=self.keep[self.selectors[i + 1]], under_way=2)
        for rows in parts:
            out.add_pass(
                PassLabel(kind=PassKind.MLP2, stage=f"{stage}.residual2", norm=norm_stage),
                reads="hidden", layer=block.mlp2, source=Source.ACT,
                source_stride=self.hidden_words, entries=self.dense(self.model.hidden), **rows,
                **self.to_residual(norm))

    def _rows(self, i: int) -> dict[str, Any]:
        """Return the fields for the rows of one image in block ``i``, of all but K and V."""
        if i + 1 < self.model.depth or self.last_rows == self.model.tokens:
            return {}
        return {"rows_from": Rows.COUNT, "row_count": self.last_rows}

    def _parts(self, i: int) -> list[dict[str, Any]]:
        """Return the same of all images, for each of the passes that it takes."""
        rows = self._rows(i)
        if not rows or self.segments == (None,):
            return [rows]
        return [{"rows_from": Rows.EACH, "row_first": row} for row in range(self.last_rows)]

    def _queries_keys_values(self, block: QuantizedBlock, stage: str,
                             parts: Sequence[dict[str, Any]]) -> None:
        for kind, layer, destination, stride in (
            (PassKind.Q, block.q, Destination.ACT, self.heads_words),
            (PassKind.K, block.k, Destination.KEY, self.heads_tiles),
            (PassKind.V, block.v, Destination.VALUE, self.heads_tiles),
        ):
            padded = Linear(weight=self._spread(layer.weight), bias=self._spread(layer.bias),
                            m=self._spread(layer.m, PAD_SCALE.m),
                            s=self._spread(layer.s, PAD_SCALE.s))
            for rows in parts if kind == PassKind.Q else [{}]:
                self.out.add_pass(
                    PassLabel(kind=kind, stage=f"{stage}.{kind}"), writes=kind, layer=padded,
                    destination=destination, destination_stride=stride, **rows,
                    **self.from_residual())

    def _score_place(self, unit: _Unit, role: str) -> dict[str, Any]:
        """Return the fields for the scores of a head: two heads take turns in the buffer."""
        return {f"{role}_slot": unit.slot,
                f"{role}_base": unit.slot * self.config.max_tokens * self.config.score_words,
                f"{role}_stride": self.config.score_words}

    def _score(self, block: QuantizedBlock, stage: str, unit: _Unit, i: int) -> None:
        self.out.add_pass(
            PassLabel(kind=PassKind.SCORE, stage=f"{stage}.scores", head=unit.head),
            reads="q", operand="k", writes=f"scores{unit.slot}", segment=unit.segment,
            entries=block_list(self.head_blocks[unit.head], self.config),
            source=Source.ACT, source_stride=self.heads_words,
            stationary=Stationary.KEY, operand_stride=self.heads_tiles, columns_from_tokens=1,
            scale_source=ScaleSource.CONSTANT, scale=block.score,
            destination=Destination.SCORE, **self._rows(i),
            **self._score_place(unit, "destination"))

    def _scores(self, i: int) -> bool:
        """Whether the attention of block ``i`` decides which patches stay."""
        return i + 1 in self.selectors and not self.threshold

    def _attention(self, block: QuantizedBlock, stage: str, unit: _Unit, i: int) -> None:
        blocks, column_blocks = self.head_blocks[unit.head], self.config.column_blocks
        first, scores = blocks[0] // column_blocks, self._scores(i)
        self.out.add_pass(
            PassLabel(kind=PassKind.ATTENTION, stage=f"{stage}.attention", head=unit.head),
            reads=f"scores{unit.slot}", operand="v", writes="attention", segment=unit.segment,
            entries=self.tokens_list(), k_from_tokens=1, k_tiles=0, source=Source.SCORE,
            **self._rows(i), **self._score_place(unit, "source"),
            prologue=Prologue.EXP, exp_m=block.exp.m, exp_s=block.exp.s,
            stationary=Stationary.VALUE, operand_base=first,
            operand_stride=self.heads_tiles, column_tiles=-(-len(blocks) // column_blocks),
            scale_source=ScaleSource.ROW, scale=block.value, destination=Destination.ACT,
            destination_base=self.attention_base + self.tile_word(first),
            destination_stride=self.heads_words,
            destination_mask=self.last_mask(len(blocks)) << blocks[0] % column_blocks,
            class_attention=int(scores), first_head=int(scores and unit.head == 0),
            score_s=SCORE_SHIFT - self.qvit.score_frac if scores else 0)

    def _heads(self) -> None:
        last = len(self.qvit.heads) - 1
        for row, head in enumerate(self.qvit.heads):
            label = PassLabel(kind=PassKind.HEAD, stage="logits" if row == last else "logits.cls")
            each: dict[str, Any] = (
                {"rows_from": Rows.COUNT, "row_count": 1} if self.batch == 1 else
                {"rows_from": Rows.EACH, "destination_stride": self.config.class_tiles})
            self.out.add_pass(label, writes="logits", layer=head, destination=Destination.LOGIT,
                              row_first=row, accumulate=int(row > 0), **each,
                              **self.from_residual())

    def program(self, norms: Sequence[tuple[Norm, str]]) -> Program:
        """Return the program; ``norms`` follow the blocks."""
        blocks = [*enumerate(zip(self.qvit.blocks, norms, strict=True))]
        for image in range(self.batch):
            self.rounds.image(image)
            self.out.image = image if self.batch > 1 else None
            self._patch()
            for i, (block, norm) in blocks[:self.alone]:
                self._block(i, block, *norm)
        self.out.image = None
        if self.batch > 1:
            assert self.qvit.pruning is not None
            self.segments = tuple(range(self.batch))
            self.rows = self.batch * tokens_left(self.model, self.qvit.pruning)[1]
        for i, (block, norm) in blocks[self.alone:]:
            self._block(i, block, *norm)
        self._heads()
        return Program(config=self.config, model=self.model, weights=self.qvit.weights,
                       logit_step=self.qvit.steps["logits"], image=self.rounds.memory_image(),
                       pruning=self.qvit.pruning, labels=tuple(self.out.labels))


def lower(qvit: QuantizedViT, config: Config, *, last_block: str = "all",
          batch: int = 1) -> Program:
    """Return the program of a quantised network for one configuration.

    ``last_block`` says which rows of it are computed, see
    :meth:`golden.model.ModelConfig.last_rows`: the logits are the same. ``batch`` images share the
    weights of the blocks behind the first selector.

    Raises ConfigError, naming the limit and by how much, where the network does not fit.
    """
    norms = [(block.norm1, f"block{i}.norm1") for i, block in enumerate(qvit.blocks)]
    return _Network(qvit, config, last_block, batch).program(
        [*norms[1:], (qvit.head_norm, "head.norm")])
