# SPDX-License-Identifier: BSD-2-Clause
"""Lowering of token selectors: classifiers, package tokens, and whether they fit.

Before block b, of selector s::

    threshold:  LayerNorm of head 0; for each head h: LayerNorm of head h + 1, local h, global h;
                importance1; mean; score1 of each head; score2; SELECT; classes
    both:       PRUNE, package token, its LayerNorm

``topk`` has nothing but SELECT, in the block before, as soon as its attention is over.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from golden.assembler import block_list, instruction, placed
from golden.fixed import Int
from golden.lower_common import Lowering
from golden.model import ModelConfig
from golden.program import PassKind, PassLabel, classifier_slots
from golden.pruning import PruningConfig
from golden.quantize import Linear, Norm
from golden.quantize_selector import QuantizedClassifier
from rtl.config import BLOCK, Config, ConfigError
from rtl.isa import (
    SELECTOR_HEADS,
    SELECTORS,
    Destination,
    Opcode,
    Prologue,
    Rows,
    ScaleSource,
    SelectorKind,
    Source,
    Stationary,
    select_layout,
)

__all__ = ["check_pruning", "lower_classifier", "lower_package", "select"]

#: A bias, under PAD_SCALE, whose sigmoid is zero: lanes of ``classes`` that belong to no head.
_NOTHING = -(1 << 20)


@dataclass(frozen=True)
class _Places:
    """Where the tensors of a classifier lie.

    Members
    -------
    slot, slot2
        Channels that a head takes in ``local``, ``global``, ``mean`` and ``score1``; in ``score2``.
    middle
        Channels of ``importance1``, whole blocks, behind the heads of ``score2``.
    mean_words, words, feature_words, tiles
        Words of ``mean``; of a row of ``local`` and ``score1``; of ``score2``. Column tiles of
        ``global``.
    local, score1, feature, end
        First words in ACT, behind ``mean``, and the word behind all.
    """

    slot: int
    slot2: int
    middle: int
    mean_words: int
    words: int
    feature_words: int
    tiles: int
    local: int
    score1: int
    feature: int
    end: int

    @classmethod
    def of(cls, model: ModelConfig, config: Config) -> "_Places":
        slot, slot2 = classifier_slots(model)
        middle = -(-max(1, model.heads // 2) // BLOCK) * BLOCK
        # Turned by one head, so that local and mean of a head are in different banks.
        turned = (model.heads + 1) * slot
        mean_words, words = config.words(turned), config.words(model.heads * slot)
        feature_words = config.words(model.heads * slot2 + middle)
        score1 = mean_words + model.tokens * words
        feature = score1 + model.tokens * words
        return cls(slot=slot, slot2=slot2, middle=middle, mean_words=mean_words, words=words,
                   feature_words=feature_words, tiles=-(-turned // config.columns),
                   local=mean_words, score1=score1, feature=feature,
                   end=feature + model.tokens * feature_words)


def check_pruning(model: ModelConfig, pruning: PruningConfig, config: Config) -> None:
    """Raise ConfigError, naming what is needed and what there is, if selectors do not fit."""
    count, name = len(pruning.active), f"configuration {config.name}"
    if count and not config.pruning:
        raise ConfigError(f"{model.name} needs {count} selectors, {name} has 0: it is without"
                          " pruning")
    if count > SELECTORS:
        raise ConfigError(f"{model.name} needs {count} selectors, {count - SELECTORS} more than a"
                          f" program may have, {SELECTORS}")
    if pruning.selector != "threshold":
        return
    size, columns = model.head_size, config.columns
    if any(h * size % columns and h * size // columns != (h * size + size - 1) // columns
           for h in range(model.heads)):
        raise ConfigError(f"a threshold selector of {model.name} has heads of {size} channels, must"
                          f" have heads of 16, 32 or 64 with {columns} columns")
    places = _Places.of(model, config)
    values = -(-model.tokens // config.rows) * config.rows * places.tiles
    for what, need, limit, most in (
        ("heads", model.heads, "the sums over heads", SELECTOR_HEADS),
        ("columns for two classes of each head", 2 * model.heads, "columns", columns),
        ("words of activations", places.end, "act_depth", config.act_depth),
        ("words of values", values, "value_depth", config.value_depth),
    ):
        if need > most:
            raise ConfigError(f"a threshold selector of {model.name} needs {need} {what},"
                              f" {need - most} more than {limit} of {name}, {most}")


def select(lowering: Lowering, kind: Any, *, keep: int = 0, under_way: int) -> None:
    """Append SELECT, of a ``SelectorKind``: one for each image that the passes before are of."""
    pruning = lowering.qvit.pruning
    assert pruning is not None
    segments = [(0, lowering.out.image)] if lowering.segments == (None,) else [
        (segment, segment) for segment in lowering.segments]
    lowering.out.body += [instruction(
        select_layout, Opcode.SELECT, kind=kind, merged=int(pruning.package == "merged"),
        special=lowering.model.special_tokens, keep=keep, under_way=under_way, segment=segment or 0,
        image=image or 0) for segment, image in segments]


def _identity(lowering: Lowering) -> dict[str, Any]:
    """Return the fields of a pass that reads rows of the residual and writes them back."""
    return {"entries": block_list([], lowering.config), "source": Source.ACT,
            "stationary": Stationary.NONE, "scale_source": ScaleSource.CONSTANT}


def lower_package(lowering: Lowering, index: int, norm: Norm) -> None:
    """Append what follows the selector of this index: its list of tokens, its package tokens."""
    config, width, stage = lowering.config, lowering.model.width, f"selector{index}"
    lowering.out.prune()
    for segment in lowering.segments:
        lowering.out.add_pass(
            PassLabel(kind=PassKind.PACKAGE, stage=f"{stage}.dropped"), reads=None,
            writes="package", segment=segment, destination=Destination.RESIDUAL,
            destination_stride=lowering.residual_words, destination_mask=0, package=1,
            rows_from=Rows.DROPPED, column_tiles=-(-width // config.package_lanes),
            **_identity(lowering))
        lowering.out.add_pass(
            PassLabel(kind=PassKind.PACKAGE_NORM, stage=f"{stage}.package",
                      norm=f"{stage}.package.norm"),
            reads="package", segment=segment, rows_from=Rows.LAST,
            column_tiles=-(-width // config.columns), **_identity(lowering),
            **lowering.to_residual(norm))


def lower_classifier(lowering: Lowering, index: int, block: int) -> None:
    """Append the passes of the classifier before ``block``, and its SELECT."""
    _Classifier(lowering, index, block).add()


class _Classifier:
    """The passes of one classifier."""

    def __init__(self, lowering: Lowering, index: int, block: int) -> None:
        self.lowering, self.out = lowering, lowering.out
        self.config, self.model = lowering.config, lowering.model
        self.layers: QuantizedClassifier = lowering.qvit.classifiers[index]
        self.stage, self.residual = f"selector{index}", f"block{block - 1}.residual2"
        self.places = _Places.of(self.model, self.config)
        self.block = self.config.block
        self.size = self.model.head_size
        self.half, self.quarter = self.size // 2, self.size // 4

    def label(self, kind: PassKind, stage: str, head: int | None = None) -> PassLabel:
        return PassLabel(kind=kind, stage=f"{self.stage}.{stage}", head=head)

    def add(self) -> None:
        heads = range(self.model.heads)
        self.lowering.lane_table(self.layers.gelu, under_way=1)
        self.head_norm(0)
        for head in heads:
            if head + 1 < len(heads):
                self.head_norm(head + 1)
            for kind in (PassKind.LOCAL, PassKind.GLOBAL):
                self.embed(kind, head)
        # While these rows are streamed, global becomes an operand.
        self.importance()
        self.mean()
        for head in heads:
            self.score1(head)
        self.score2()
        # The sigmoid takes the place of GELU: the passes before have gone.
        self.lowering.lane_table(self.layers.sigmoid, under_way=0)
        # The selector follows the classes, row by row.
        select(self.lowering, SelectorKind.THRESHOLD, under_way=0)
        self.classes()

    def to_act(self, base: int, stride: int, channel: int, count: int) -> dict[str, Any]:
        """Return the fields of a pass that writes ``count`` channels of ACT from ``channel`` on."""
        tile, offset = divmod(channel, self.config.columns)
        return {"destination": Destination.ACT, "destination_stride": stride, "operand_base": tile,
                "destination_base": base + self.lowering.tile_word(tile),
                "destination_mask": self.lowering.last_mask((offset + count) // self.block)
                & -1 << (offset // self.block if offset + count <= self.config.columns else 0)}

    def importance(self) -> None:
        """Behind the heads of score2, which is written later: it may write over their places."""
        layer, scale, places = self.layers.importance1, self.layers.importance_scale, self.places
        first = self.model.heads * places.slot2
        offset = first % self.config.columns
        rows = offset + np.arange(len(layer.bias))
        source = self.lowering.from_residual() | {"prologue": Prologue.SCALE}
        self.out.add_pass(
            self.label(PassKind.IMPORTANCE, "importance1"), writes="importance1",
            layer=placed([(layer, rows, np.arange(self.model.width))], offset + places.middle,
                         self.model.width),
            gelu=1, exp_m=scale.m, exp_s=scale.s, **source,
            **self.to_act(places.feature, places.feature_words, first, places.middle))

    def head_norm(self, head: int) -> None:
        """LayerNorm of one head; two slots take turns."""
        blocks, columns = self.size // self.block, self.config.columns
        tile, offset = divmod(head * self.size, columns)
        self.out.add_pass(
            PassLabel(kind=PassKind.HEAD_NORM, stage=self.residual, head=head,
                      norm=f"{self.stage}.head_norm{head}"),
            reads="residual", writes=f"head_norm{head}", norm_slot=1 + head % 2,
            destination=Destination.RESIDUAL, destination_stride=self.lowering.residual_words,
            operand_base=tile, destination_base=self.lowering.tile_word(tile),
            column_tiles=-(-self.size // columns),
            destination_mask=self.lowering.last_mask(blocks) << offset // self.block,
            **_identity(self.lowering), **self.lowering.statistics(self.layers.norm))

    def embed(self, kind: PassKind, head: int) -> None:
        places, columns, first = self.places, self.config.columns, head * self.size
        if kind == PassKind.LOCAL:
            layer, channel = self.layers.local, head * places.slot
            target = self.to_act(places.local, places.words, channel, places.slot)
        else:
            layer, channel = self.layers.global_, (head + 1) * places.slot
            target = {"destination": Destination.VALUE, "destination_stride": places.tiles,
                      "destination_base": channel // columns,
                      "destination_mask": self.lowering.last_mask(places.slot // self.block)
                      << channel % columns // self.block}
        offset = channel % columns
        inputs = first + np.arange(self.size)
        source = self.lowering.from_residual() | {
            "reads": f"head_norm{head}",
            "entries": block_list(range(first // self.block, (first + self.size) // self.block),
                                  self.config)}
        self.out.add_pass(
            self.label(kind, kind, head), writes=kind, norm_slot=1 + head % 2, gelu=1,
            layer=placed([(layer, offset + np.arange(self.half), inputs)], offset + places.slot,
                         self.model.width),
            **source, **target)

    def mean(self) -> None:
        """One row: exponentials of 255 for all but special tokens, over their sum.

        It is streamed as the last row, so that it waits for all rows of importance1: their GELU
        and its exponentials share the lanes. It is written to the place of row 0.
        """
        places, columns = self.places, self.config.columns
        end = (self.model.heads + 1) * places.slot
        target = self.to_act(0, 0, places.slot, 0)
        self.out.add_pass(
            self.label(PassKind.MEAN, "mean"), reads="importance1", operand=PassKind.GLOBAL,
            writes="mean", rows_from=Rows.LAST, entries=self.lowering.tokens_list(),
            k_from_tokens=1, k_tiles=0, source=Source.SCORE, prologue=Prologue.EXP, exp_m=0,
            exp_s=1, zero_rows=self.model.special_tokens, stationary=Stationary.VALUE,
            operand_stride=places.tiles, column_tiles=places.tiles - places.slot // columns,
            scale_source=ScaleSource.ROW, scale=self.layers.mean,
            **target | {"destination_mask": self.lowering.last_mask(end // self.block)})

    def score1(self, head: int) -> None:
        """Inputs are ``local`` of the row and ``mean``, whose words come first in the buffer."""
        places, lanes = self.places, self.config.lanes
        local = places.mean_words * lanes + head * places.slot
        mean = (head + 1) * places.slot
        blocks = [first // self.block + b for first in (mean, local)
                  for b in range(places.slot // self.block)]
        offset = head * places.slot % self.config.columns
        half = np.arange(self.half)
        layer = placed([(self.layers.score1, offset + half, np.append(local + half, mean + half))],
                       offset + places.slot, (places.mean_words + places.words) * lanes)
        self.out.add_pass(
            self.label(PassKind.SCORE1, "score1", head), reads="mean", writes="score1",
            source=Source.ACT, source_stride=places.words, layer=layer, gelu=1,
            entries=block_list(blocks, self.config),
            broadcast=places.mean_words * self.config.banks,
            **self.to_act(places.score1, places.words, head * places.slot, places.slot))

    def score2(self) -> None:
        """All heads in one pass: a column tile takes the blocks of its own heads."""
        places, heads = self.places, self.model.heads
        blocks, columns = places.slot // self.block, self.config.columns
        lists = [block_list(range(first // places.slot2 * blocks,
                                  -(-min(first + columns, heads * places.slot2) // places.slot2)
                                  * blocks), self.config)
                 for first in range(0, heads * places.slot2, columns)]
        stride = max(map(len, lists))
        nothing = (None,) * self.config.row_blocks
        entries = [entry for part in lists for entry in [*part, *[nothing] * (stride - len(part))]]
        layer = placed([(self.layers.score2, h * places.slot2 + np.arange(self.quarter),
                         h * places.slot + np.arange(self.half)) for h in range(heads)],
                       heads * places.slot2, heads * places.slot)
        self.out.add_pass(
            self.label(PassKind.SCORE2, "score2"), reads="score1", writes="score2",
            source=Source.ACT, source_base=places.score1, source_stride=places.words,
            entries=entries, list_stride=stride, layer=layer, gelu=1,
            **self.to_act(places.feature, places.feature_words, 0, heads * places.slot2))

    def classes(self) -> None:
        """Column h is the importance of head h, column h of the upper half its score."""
        places, heads, columns = self.places, self.model.heads, self.config.columns
        middle = heads * places.slot2
        parts: list[tuple[Linear, Int, Int]] = [
            (self.layers.importance2, np.arange(heads),
             middle + np.arange(len(self.layers.importance1.bias)))]
        parts += [(self.layers.score3, np.array([columns // 2 + h]),
                   h * places.slot2 + np.arange(self.quarter)) for h in range(heads)]
        self.out.add_pass(
            self.label(PassKind.CLASSES, "classes"), reads="score2", writes="classes",
            source=Source.ACT, source_base=places.feature, source_stride=places.feature_words,
            entries=self.lowering.dense(middle + places.middle), gelu=1,
            layer=placed(parts, columns, middle + places.middle, bias=_NOTHING),
            destination=Destination.SELECTOR)


