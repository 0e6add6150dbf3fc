# SPDX-License-Identifier: BSD-2-Clause
"""What the training of a network with selectors minimises."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["attention_loss", "distillation_loss", "ratio_loss", "token_loss"]

#: Attention is taken to be at least this: its logarithm is finite.
_LEAST = 1e-6


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


def attention_loss(attentions: Sequence[Tensor], teacher: Tensor,
                   keeps: Sequence[Tensor]) -> Tensor:
    """Return the KL divergence of the attention of the class token from that of the teacher.

    mean_i sum_p t_p log(t_p / a_p), over the patches p that are left before selector i, both
    normalised to sum 1 there. So ``topk`` chooses early by what the teacher only finds late.

    Parameters
    ----------
    attentions
        Of the block before each selector [batch, patches].
    teacher
        [batch, patches].
    keeps
        What each selector leaves [batch, patches].
    """
    losses = []
    for attention, left in zip(attentions, (torch.ones_like(teacher), *keeps), strict=False):
        a, t = (((x.float() + _LEAST) * left.detach()) for x in (attention, teacher))
        a, t = (x / x.sum(-1, keepdim=True).clamp(min=_LEAST) for x in (a, t))
        losses.append(((t * ((t + _LEAST).log() - (a + _LEAST).log())).sum(-1)).mean())
    return torch.stack(losses).mean()
