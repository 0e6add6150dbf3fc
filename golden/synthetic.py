# SPDX-License-Identifier: BSD-2-Clause
"""Seeded weights that excite the arithmetic as a trained network does, where there are none.

On a photograph, as the float twin computes it, in every block of every model:

* attention rows reach from nearly uniform (entropy above 0.97 log N) to nearly one-hot (below
  0.03 log N), and the mean entropies of the heads are spread between; scores reach beyond 30;
* the residual has 2 to 12 outlier channels (one in 64), 5 to 35 times the median channel, at least
  one 12 times, and few others above 4 times; it starts near 1 and grows with the depth;
* of the inputs of GELU, 1 to 12 % are in each tail, beyond 4, and 1 % or more, the dead channels,
  are below -32, where they saturate;
* logits have a standard deviation between 1 and 6; those of two photographs differ by 0.4 or more.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from golden.model import ModelConfig, parameter_shapes

__all__ = ["SEED", "outlier_channels", "synthetic"]

#: Seed that the commands take.
SEED = 0

#: Size of the outlier channels of the residual, from the smallest to the largest.
_OUTLIERS = (12.0, 25.0)

#: Products of the gains of Q and K, head by head: from nearly uniform to nearly one-hot.
_SCORES = (0.03, 6.0)
#: Correlation of the weights of Q and K: as in trained networks, most tokens attend to tokens
#: that are like them, so that which token wins does not hang on the last bit of Q and K.
_ALIKE = 0.6

#: What attention and MLP each add to the channels of the residual, and to its outliers.
_BRANCH = 0.3
_OUTLIER_BRANCH = 0.9
_OUTLIER_GROWTH = 0.05

#: Standard deviation of special tokens: small, so that they are mostly what they gather.
_SPECIAL = 0.3

#: Standard deviations of the inputs of GELU, and of the logits.
_HIDDEN = 1.5
_LOGITS = 3.0

#: Bias of the hidden channels that are dead, and their part of all.
_DEAD = -40.0
_DEAD_PART = 1 / 64


def _outliers(model: ModelConfig, generator: np.random.Generator) -> NDArray[np.int64]:
    return generator.choice(model.width, size=max(2, model.width // 64), replace=False)


def outlier_channels(model: ModelConfig, seed: int) -> list[int]:
    """Return the residual channels that are outliers in ``synthetic(model, seed)``."""
    return sorted(_outliers(model, np.random.default_rng(seed)).tolist())


def synthetic(model: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    """Return canonical parameters that are the same for the same ``model`` and ``seed``."""
    generator = np.random.default_rng(seed)
    outliers = _outliers(model, generator)
    sizes = np.geomspace(*_OUTLIERS, len(outliers)) * generator.choice((-1, 1), len(outliers))
    d = model.width
    # LayerNorm divides by the outliers too: this is what it leaves of the other channels.
    level = (1 + (sizes ** 2).sum() / d) ** -0.5

    def normal(*shape: int) -> NDArray[np.float32]:
        return generator.standard_normal(shape, np.float32)

    def weight(outputs: int, inputs: int, gain: float) -> NDArray[np.float32]:
        """Rows of different size, so that the scales of the output channels differ."""
        sizes = generator.uniform(0.4, 1.6, (outputs, 1)).astype(np.float32)
        return gain * inputs ** -0.5 * sizes * normal(outputs, inputs)

    state: dict[str, NDArray[np.float32]] = {}
    state["cls_token"] = _SPECIAL * normal(1, 1, d)
    if model.distilled:
        state["dist_token"] = _SPECIAL * normal(1, 1, d)
    state["pos_embed"] = 0.5 * normal(1, model.tokens, d)
    state["pos_embed"][..., outliers] += sizes * (1 + 0.1 * normal(1, model.tokens, len(outliers)))
    inputs = model.patch_channels
    state["patch_embed.proj.weight"] = weight(d, inputs, 1.0).reshape(
        d, model.channels, model.patch, model.patch)
    state["patch_embed.proj.bias"] = 0.2 * normal(d)

    def norm(name: str) -> None:
        gamma = 1 + 0.2 * normal(d)
        gamma[outliers] *= 0.1
        state[f"{name}.weight"] = gamma / level
        state[f"{name}.bias"] = 0.2 * normal(d)

    def layer(name: str, weights: NDArray[np.float32], bias: float) -> None:
        state[f"{name}.weight"] = weights
        state[f"{name}.bias"] = bias * normal(len(weights))

    for i in range(model.depth):
        block = f"blocks.{i}"
        norm(f"{block}.norm1")
        qkv = weight(3 * d, d, 1.0)
        qkv[d:2 * d] = _ALIKE * qkv[:d] + (1 - _ALIKE ** 2) ** 0.5 * qkv[d:2 * d]
        scores = generator.permutation(np.geomspace(*_SCORES, model.heads))
        qkv[:2 * d] *= np.tile(np.repeat(scores ** 0.5, model.head_size), 2)[:, None]
        layer(f"{block}.attn.qkv", qkv, 0.1)
        layer(f"{block}.attn.proj", weight(d, d, _BRANCH), 0.05)
        norm(f"{block}.norm2")
        layer(f"{block}.mlp.fc1", weight(model.hidden, d, _HIDDEN), 0.5)
        dead = generator.choice(model.hidden, int(model.hidden * _DEAD_PART), replace=False)
        state[f"{block}.mlp.fc1.bias"][dead] = _DEAD
        layer(f"{block}.mlp.fc2", weight(d, model.hidden, _BRANCH), 0.05)
        for name in ("attn.proj", "mlp.fc2"):
            state[f"{block}.{name}.weight"][outliers] *= _OUTLIER_BRANCH / _BRANCH
            state[f"{block}.{name}.bias"][outliers] += _OUTLIER_GROWTH * sizes
    norm("norm")
    for name in ("head", "head_dist") if model.distilled else ("head",):
        layer(name, weight(model.classes, d, _LOGITS), 0.1)
    return {name: torch.from_numpy(state[name].astype(np.float32))
            for name in parameter_shapes(model)}
