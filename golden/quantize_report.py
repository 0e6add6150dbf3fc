# SPDX-License-Identifier: BSD-2-Clause
"""What quantisation does to each layer: noise, saturation, and what the logits suffer from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from golden import integer
from golden.fixed import Int
from golden.functions import normalised
from golden.images import normalise
from golden.model import FloatViT
from golden.operators import Operator, operators
from golden.quantize import QuantizedViT
from rtl.isa import ACC_BITS

__all__ = ["Layer", "layer_report"]

#: Bits of stages that are not int8, by the end of their names.
_BITS = {"residual": 16, "residual1": 16, "residual2": 16, "scores": 16, "logits": ACC_BITS}
#: Stages that saturate at -127, as weights do.
_SYMMETRIC = ("k", "v")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One stage of the network.

    Parameters
    ----------
    stage
        Its name.
    sqnr
        Signal to quantisation noise in dB, against the float twin.
    local
        The same, against the float operator on the inputs that the integer twin has.
    saturated
        Part of its values at the limits of its type.
    harm
        Part of the noise of the logits that is from this stage: what it makes alone, over the sum
        of what all make alone.
    """

    stage: str
    sqnr: float
    local: float
    saturated: float
    harm: float


def _codes(qvit: QuantizedViT, frame: NDArray[np.uint8], stages: Sequence[Operator]
           ) -> dict[str, Int]:
    """Return the stages of the integer twin, and the LayerNorm outputs, which it does not name."""
    codes = integer.run(qvit, frame)[2]
    result: dict[str, Int] = {}
    for op in stages:
        if op.stage in codes:
            result[op.stage] = codes[op.stage].astype(np.int64)
        else:
            mean, m, s = (codes[f"{op.stage}.{name}"].astype(np.int64)[:, None]
                          for name in ("mean", "m", "s"))
            result[op.stage] = normalised(result[op.inputs[0]], mean, m, s)
    return result


def _saturated(stage: str, codes: Int) -> float:
    kind = stage.rsplit(".", 1)[-1]
    high = (1 << (_BITS.get(kind, 8) - 1)) - 1
    low = -high if kind in _SYMMETRIC else -high - 1
    return float(((codes >= high) | (codes <= low)).mean())


def _energy(value: Tensor) -> float:
    return float(value.double().square().sum())


def _decibel(signal: float, noise: float) -> float:
    return 10 * math.log10(signal / noise) if signal and noise else math.inf


def _harm(stages: Sequence[Operator], exact: dict[str, Tensor],
          added: dict[str, Tensor]) -> list[float]:
    """Return the noise of the logits if only one stage adds what it adds in integers."""
    last, result = stages[-1].stage, []
    for i, op in enumerate(stages):
        values = {op.stage: exact[op.stage] + added[op.stage]}
        for later in stages[i + 1:]:
            if any(name in values for name in later.inputs):
                values[later.stage] = later.compute(
                    *(values.get(name, exact[name]) for name in later.inputs))
        result.append(_energy(values[last] - exact[last]))
    return result


@torch.no_grad()
def layer_report(twin: FloatViT, qvit: QuantizedViT,
                 frames: Sequence[NDArray[np.uint8]]) -> list[Layer]:
    """Return all stages of the dense network in order, as they are on ``frames``.

    Selectors have no part in it: the network is compared with all its tokens. ``harm`` is that on
    the first frame.
    """
    if not frames:
        raise ValueError("no frame was given, at least one is needed")
    dense = qvit.without_selectors()
    total: dict[str, NDArray[np.float64]] = {}
    harm: list[float] = []
    for frame in frames:
        exact = twin.forward_stages(normalise(frame))
        stages = operators(twin, exact["embed.residual"])
        codes = _codes(dense, frame, stages)
        values = {name: torch.from_numpy(code * qvit.steps[name]).to(exact[name].dtype)
                  for name, code in codes.items()}
        added = {op.stage: values[op.stage] - op.compute(*(values[name] for name in op.inputs))
                 for op in stages}
        for name, value in values.items():
            total[name] = total.get(name, np.zeros(5)) + (
                _energy(exact[name]), _energy(value - exact[name]), _energy(value - added[name]),
                _energy(added[name]), _saturated(name, codes[name]))
        harm = harm or _harm(stages, exact, added)
    whole = sum(harm) or 1.0
    return [Layer(stage=name, sqnr=_decibel(*energies[:2]), local=_decibel(*energies[2:4]),
                  saturated=energies[4] / len(frames), harm=part / whole)
            for (name, energies), part in zip(total.items(), harm, strict=True)]
