# SPDX-License-Identifier: BSD-2-Clause
"""The parameters of a network as integer layers take them: LayerNorms and pixels folded in."""

from collections.abc import Mapping

import numpy as np

from golden.images import MEAN, STD
from golden.layers import Real
from golden.model import ModelConfig
from rtl.config import BLOCK

__all__ = ["Parameters"]


class Parameters:
    """Parameters in double precision, layer by layer.

    Parameters
    ----------
    model
        Sizes.
    state
        See :func:`golden.model.parameter_shapes`.
    """

    def __init__(self, model: ModelConfig, state: Mapping[str, Real]) -> None:
        self._model, self._state = model, state

    def layer(self, name: str, norm: str | None = None) -> tuple[Real, Real]:
        """Return weight and bias of a layer, with gamma and beta of the LayerNorm before it."""
        weight, bias = self._state[f"{name}.weight"], self._state[f"{name}.bias"]
        if norm is None:
            return weight, bias
        return (weight * self._state[f"{norm}.weight"],
                bias + weight @ self._state[f"{norm}.bias"])

    def patch(self) -> tuple[Real, Real]:
        """Return weight and bias of the patch embedding of raw bytes."""
        weight, bias = self.layer("patch_embed.proj")
        weight = weight.transpose(0, 2, 3, 1)
        bias = bias - weight.sum(axis=(1, 2)) @ (np.array(MEAN) / STD)
        weight = (weight / (255 * np.array(STD))).reshape(*weight.shape[:2], -1)
        return np.pad(weight, ((0, 0), (0, 0), (0, -weight.shape[2] % BLOCK))).reshape(
            len(weight), -1), bias

    def tokens(self) -> Real:
        """Return the residual that the special tokens and the positions give by themselves."""
        rows = self._state["pos_embed"][0].copy()
        for row, name in enumerate(("cls_token", "dist_token")[:self._model.special_tokens]):
            rows[row] += self._state[name][0, 0]
        return rows
