# SPDX-License-Identifier: BSD-2-Clause
"""What a simulation sees of the core: the signals that are compared with the golden model."""

from amaranth.hdl import signed
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from rtl import isa
from rtl.config import Config

__all__ = ["Taps"]


class Taps(wiring.Signature):
    """What a simulation compares: every write of the epilogue, the statistics of rows, and what a
    token selector finds and decides.

    The signals have no reader in the design and cost nothing in hardware.
    """

    def __init__(self, config: Config):
        index = range(config.max_tokens)
        selector = {
            "score_valid": Out(1), "score_row": Out(index), "score": Out(isa.SCORE_BITS),
            "pair_valid": Out(1), "pair_weighted": Out(isa.WEIGHTED_BITS),
            "pair_importance": Out(isa.IMPORTANCE_BITS),
            "scan_valid": Out(1), "scan_row": Out(index), "scan_keep": Out(1),
            "weight_valid": Out(1), "weight": Out(isa.WEIGHT_BITS),
            "share_valid": Out(1), "share_index": Out(index), "share": Out(isa.SHARE_BITS),
        } if config.pruning else {}
        super().__init__({
            "valid": Out(1), "data": Out(isa.ACC_BITS * config.columns),
            "max_valid": Out(1), "max": Out(signed(isa.WIDE_BITS)),
            "sum_valid": Out(1), "sum": Out(isa.SUM_BITS), "rowscale": Out(isa.RowScale.size),
            "norm_valid": Out(1), "norm_sum": Out(signed(isa.NORM_SUM_BITS)),
            "norm_sumsq": Out(isa.NORM_SUMSQ_BITS), "norm_mean": Out(signed(isa.MEAN_BITS)),
            "norm_scale": Out(isa.RowScale.size),
            **selector,
        })
