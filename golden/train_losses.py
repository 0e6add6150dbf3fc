# SPDX-License-Identifier: BSD-2-Clause
"""What the training of a network with selectors minimises."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["distillation_loss", "ratio_loss", "token_loss"]


def ratio_loss(keeps: Sequence[Tensor], targets: Sequence[float]) -> Tensor:
    """Return mean_i (mean_bj M_ij - rho_i)^2 of the masks M [batch, patches] of the selectors.

    The mean is over the whole batch: images may keep more or less, as they need.
    """
    shares = torch.stack([keep.mean() for keep in keeps])
    return (shares - shares.new_tensor(targets)).square().mean()


def distillation_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return the KL divergence of the classes of the network from those of its teacher."""
    return functional.kl_div(logits.float().log_softmax(-1), teacher.float().log_softmax(-1),
                             reduction="batchmean", log_target=True)


def token_loss(features: Tensor, teacher: Tensor, keep: Tensor) -> Tensor:
    """Return the mean squared difference of features [batch, patches, channels] that are kept.

    ``keep`` [batch, patches] has no gradient by it: else patches were dropped to be rid of their
    differences. Where nothing is kept the loss is 0.
    """
    keep = keep.detach()
    squares = (features.float() - teacher.float()).square().mean(-1) * keep
    return squares.sum() / keep.sum().clamp(min=1)
