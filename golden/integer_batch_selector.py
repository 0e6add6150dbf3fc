# SPDX-License-Identifier: BSD-2-Clause
"""Token selectors of the integer twin on batches: :mod:`golden.integer_selector`, with masks."""

import numpy as np
import torch
from torch import Tensor

from golden.fixed import Int
from golden.functions import inverse, power, reciprocal
from golden.integer_functions import integers
from golden.integer_selector import ONE, SHARE_SCALE, cut
from golden.layers import Scale
from golden.quantize_selector import SCORE_SHIFT
from golden.trainable_pruning import package_rows, straight_through
from rtl.isa import SCORE_BITS, SUM_BITS

__all__ = ["class_scores", "package_batch", "shares"]

_SCORE_MAX = (1 << SCORE_BITS) - 1


def class_scores(exp: Int, reciprocal_table: Int, scores: Int, top: Int, total: Int, scale: Scale,
                 frac: int) -> Int:
    """Return the scores of ``topk`` [batch, tokens].

    Parameters
    ----------
    exp, reciprocal_table
        Polynomial tables.
    scores, top, total
        Of the class token: its scores [batch, heads, tokens], row maximum and row sum [batch,
        heads].
    scale
        Scale of the exponent.
    frac
        The unit is ``2**-frac``.
    """
    e16, z = power(exp, scores, top[..., None], scale.m, scale.s)
    r, n = (column[..., None] for column in inverse(reciprocal_table, total))
    part = np.minimum(cut(e16 * r, SCORE_SHIFT - frac + z - n), _SCORE_MAX)
    return np.minimum(part.sum(axis=1), _SCORE_MAX)


def shares(table: Int, weights: Int) -> Int:
    """Return the shares of package tokens [batch, tokens]: in proportion to ``weights``.

    What is not in the package has the weight 0. The sum of an image is ``ONE``; if all its weights
    are 0 the shares mean nothing.
    """
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    c = np.maximum(np.frexp(total)[1].astype(np.int64) - SUM_BITS, 0)
    m, s = reciprocal(table, total >> c, *SHARE_SCALE)
    share = cut(2 * weights * m, s + c)
    share[np.arange(len(share)), (weights > 0).argmax(axis=1)] += ONE - share.sum(axis=1)
    return share


def package_batch(table: Int, rows: Tensor, weights: Tensor,
                  members: Tensor) -> tuple[Tensor, Tensor]:
    """Return package tokens [batch, channels], and the sums of their weights [batch].

    In value it is that of the integer twin, in gradient
    :func:`golden.trainable_pruning.package_rows`. ``table`` is that of the reciprocal.
    """
    soft, total = package_rows(rows, weights, members)
    share = torch.from_numpy(shares(table, integers(weights * members))).to(rows.device)
    exact = (share[:, None].double() @ rows.detach().double())[:, 0]
    return straight_through((exact / ONE + 0.5).floor(), soft), total
