# SPDX-License-Identifier: BSD-2-Clause
"""The parameters of a network as integer layers take them: LayerNorms and pixels folded in."""

import torch
from torch import Tensor
from torch.nn import functional

from golden.images import MEAN, STD
from golden.model import ModelConfig, State
from rtl.config import BLOCK

__all__ = ["Parameters"]


class Parameters:
    """Parameters in double precision, layer by layer; gradients pass.

    Parameters
    ----------
    model
        Sizes.
    state
        See :func:`golden.model.parameter_shapes`.
    """

    def __init__(self, model: ModelConfig, state: State) -> None:
        self._model = model
        self._state = {name: value.double() for name, value in state.items()}

    def layer(self, name: str, norm: str | None = None) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a layer, with gamma and beta of the LayerNorm before it."""
        weight, bias = self._state[f"{name}.weight"], self._state[f"{name}.bias"]
        if norm is None:
            return weight, bias
        return (weight * self._state[f"{norm}.weight"],
                bias + weight @ self._state[f"{norm}.bias"])

    def patch(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the patch embedding of raw bytes."""
        weight, bias = self.layer("patch_embed.proj")
        weight = weight.permute(0, 2, 3, 1)
        mean, std = (torch.tensor(values, dtype=weight.dtype, device=weight.device)
                     for values in (MEAN, STD))
        bias = bias - weight.sum(dim=(1, 2)) @ (mean / std)
        weight = (weight / (255 * std)).flatten(2)
        return functional.pad(weight, (0, -weight.shape[2] % BLOCK)).flatten(1), bias

    def tokens(self) -> Tensor:
        """Return the residual that the special tokens and the positions give by themselves."""
        special = [self._state[name][0] for name in ("cls_token", "dist_token")[
            :self._model.special_tokens]]
        positions = self._state["pos_embed"][0]
        return torch.cat([torch.cat(special) + positions[:len(special)],
                          positions[len(special):]])
