# SPDX-License-Identifier: BSD-2-Clause
"""The noise of the integer twin against the float twin: how much, where from, and where it is."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from golden import integer
from golden.fixed import Int, round_shift, saturate
from golden.images import normalise
from golden.model import FloatViT
from golden.operators import Operator, operators, split_heads
from golden.quantize import QuantizedViT, sqnr
from rtl.isa import MEAN_FRAC

__all__ = ["THRESHOLD", "Attention", "Noise", "Outliers", "Stage"]

#: A stage with a lower SQNR, in dB, is explained.
THRESHOLD = 25.0
#: A channel is an outlier where its rms is this many times that of the median channel.
_OUTLIER = 4.0
#: What adds noise, by the stage whose weights or rounding do.
_SOURCES = {"embed.residual": "patches", "norm1": "LayerNorm", "norm2": "LayerNorm",
            "head.norm": "LayerNorm", "q": "Q K V", "k": "Q K V", "v": "Q K V",
            "scores": "scores", "attention": "attention", "residual1": "projection",
            "hidden": "hidden", "residual2": "MLP output", "logits": "head"}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The noise of a stage: SQNR in dB against the float twin, and against the float operator on
    the inputs that the integer twin has. Below the threshold also the stage that it is from, the
    noise that each source makes alone over the sum of these, and the sum over the true noise.
    """

    stage: str
    sqnr: float
    local: float
    origin: str
    sources: dict[str, float]
    sum: float


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """The channels of a stage: its largest value over its rms; how many are outliers, their share
    of signal and noise; of the other channels the rms in integer steps, and both SQNRs, the
    first also of the special tokens, the only rows that the heads read.
    """

    stage: str
    range: float
    outliers: int
    signal: float
    noise: float
    rms_steps: float
    others_sqnr: float
    others_local: float
    others_special: float


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Where the noise of an attention is: the share that comes by the scores, not by V; the head
    with the most, its share, its mean entropy over log N, and the deviation of its scores (in
    units of the exponent, weighted by the attention they get); the rows, of all heads, whose
    maximum is another token than in the float twin, and their share.
    """

    stage: str
    by_scores: float
    head: int
    noise: float
    entropy: float
    score_error: float
    moved_rows: float
    moved_noise: float


def _kind(stage: str) -> str:
    return re.sub(r"^block\d+\.", "", stage)


def _energy(value: Tensor) -> float:
    return float(value.double().square().sum())


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _decibel(signal: Tensor, noise: Tensor) -> float:
    ratio = _share(_energy(signal), _energy(noise))
    return 10 * math.log10(ratio) if ratio else math.inf


def _codes(qvit: QuantizedViT, frame: NDArray[np.uint8],
           stages: Sequence[Operator]) -> dict[str, Int]:
    """Return the stages of the integer twin, and the LayerNorm outputs, which it does not name."""
    codes = integer.run(qvit, frame)[2]
    for op in stages:
        if _SOURCES[_kind(op.stage)] == "LayerNorm":
            mean, m, s = (codes[f"{op.stage}.{name}"].astype(np.int64)[:, None]
                          for name in ("mean", "m", "s"))
            x = codes[op.inputs[0]].astype(np.int64)
            codes[op.stage] = saturate(round_shift(((x << MEAN_FRAC) - mean) * m, s), 8)
    return {op.stage: codes[op.stage].astype(np.int64) for op in stages}


class Noise:
    """The noise of the integer twin on one frame.

    Parameters
    ----------
    twin, qvit
        The float twin, and the same network in integers.
    frame
        Bytes [size, size, 3].

    Members
    -------
    stages, outliers, attention
        All stages in order; the stages that are the origin of noise; the attentions below the
        threshold.
    """

    def __init__(self, twin: FloatViT, qvit: QuantizedViT, frame: NDArray[np.uint8]) -> None:
        self.twin, self.qvit = twin, qvit
        self.exact = twin.forward_stages(normalise(frame))
        self.operators = {op.stage: op for op in operators(twin, self.exact["embed.residual"])}
        self.codes = _codes(qvit, frame, list(self.operators.values()))
        self.value = {stage: torch.from_numpy(code * qvit.steps[stage]).to(self.exact[stage].dtype)
                      for stage, code in self.codes.items()}
        on_inputs = {op.stage: op.compute(*(self.value[name] for name in op.inputs))
                     for op in self.operators.values()}
        self.noise = {stage: value - self.exact[stage] for stage, value in self.value.items()}
        self.added = {stage: value - on_inputs[stage] for stage, value in self.value.items()}
        self.sqnr = sqnr(qvit, self.exact, self.codes)
        self.local = sqnr(qvit, on_inputs, self.codes)
        alone = {source: self._alone(source) for source in dict.fromkeys(_SOURCES.values())}
        self.stages = []
        for stage in self.operators:
            low = self.sqnr[stage] < THRESHOLD
            total = sum(energy[stage] for energy in alone.values())
            shares = {source: _share(energy[stage], total) for source, energy in alone.items()}
            self.stages.append(Stage(
                stage=stage, sqnr=self.sqnr[stage], local=self.local[stage],
                origin=self._origin(stage) if low else "",
                sources=dict(sorted(shares.items(), key=lambda item: -item[1])) if low else {},
                sum=_share(total, _energy(self.noise[stage])) if low else 0.0))
        origins = {s.origin for s in self.stages}
        self.outliers = [self._outliers(stage) for stage in self.operators if stage in origins]
        self.attention = [self._attention(s.stage) for s in self.stages
                          if s.origin and _kind(s.stage) == "attention"]

    def _alone(self, source: str) -> dict[str, float]:
        """Return the noise of all stages if only one source adds what it adds in integers."""
        values: dict[str, Tensor] = {}
        for op in self.operators.values():
            values[op.stage] = op.compute(*(values[name] for name in op.inputs))
            if _SOURCES[_kind(op.stage)] == source:
                values[op.stage] = values[op.stage] + self.added[op.stage]
        return {stage: _energy(value - self.exact[stage]) for stage, value in values.items()}

    def _by_input(self, stage: str) -> dict[str, float]:
        """Return the noise that each input of a stage brings by itself."""
        op = self.operators[stage]
        return {name: _energy(op.compute(*(
            (self.value if other == name else self.exact)[other] for other in op.inputs))
            - self.exact[stage]) for name in op.inputs}

    def _origin(self, stage: str) -> str:
        """Return the first stage, back along the noisiest inputs, that has a low SQNR by itself,
        or is a LayerNorm: there the outliers decide how much is left for the other channels.
        """
        while (self.local[stage] >= THRESHOLD and _SOURCES[_kind(stage)] != "LayerNorm"
               and self.operators[stage].inputs):
            inputs = self._by_input(stage)
            stage = max(inputs, key=lambda name: inputs[name])
        return stage

    def _outliers(self, stage: str) -> Outliers:
        exact, value, noise, added = (
            tensors[stage].reshape(-1, tensors[stage].shape[-1]).double()
            for tensors in (self.exact, self.value, self.noise, self.added))
        rms = exact.square().mean(0).sqrt()
        high = rms > _OUTLIER * rms.median()
        special = slice(self.twin.model.special_tokens)
        return Outliers(
            stage=stage,
            range=_share(float(exact.abs().max()), float(exact.square().mean().sqrt())),
            outliers=int(high.sum()),
            signal=_share(_energy(exact[:, high]), _energy(exact)),
            noise=_share(_energy(noise[:, high]), _energy(noise)),
            rms_steps=float(exact[:, ~high].square().mean().sqrt()) / self.qvit.steps[stage],
            others_sqnr=_decibel(exact[:, ~high], noise[:, ~high]),
            others_local=_decibel((value - added)[:, ~high], added[:, ~high]),
            others_special=_decibel(exact[special][:, ~high], noise[special][:, ~high]))

    def _attention(self, stage: str) -> Attention:
        scores, _ = self.operators[stage].inputs
        by_input = self._by_input(stage)
        rows = split_heads(self.noise[stage], self.twin.model.heads).double().square().sum(-1)
        head = int(rows.sum(1).argmax())
        weight = self.exact[scores].double().softmax(-1)
        entropy = torch.special.entr(weight).sum(-1) / math.log(self.twin.model.tokens)
        error = self.noise[scores].double()
        error = error - (weight * error).sum(-1, keepdim=True)
        moved = self.exact[scores].argmax(-1) != self.value[scores].argmax(-1)
        return Attention(
            stage=stage, by_scores=_share(by_input[scores], sum(by_input.values())), head=head,
            noise=float(rows[head].sum() / rows.sum()), entropy=float(entropy[head].mean()),
            score_error=float((weight * error.square())[head].sum(-1).mean().sqrt()),
            moved_rows=float(moved.double().mean()),
            moved_noise=float(rows[moved].sum() / rows.sum()))
