# SPDX-License-Identifier: BSD-2-Clause
"""What a simulation sees of the core: what is compared with the golden model, what is traced."""

from amaranth.hdl import Shape, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from rtl import isa
from rtl.config import PASS_SLOTS, Config
from rtl.loader import LoaderActivity
from rtl.selector import SelectorPhase

__all__ = ["Taps", "trace_members"]


def trace_members(config: Config) -> dict[str, int]:
    """Return name and bits of what a trace is made of.

    ``run_start``, ``run_end``: pulse that starts the core; it is done or has failed. ``stall``:
    cause of this cycle. ``tile_active``: the issue stage has a tile; ``tile_accepted``: it gets
    one, of slot ``tile_slot``. ``loader``: what the tile loader does; ``loader_begins``: it loads a
    tile from the next cycle on. ``weight_level``: rows in the weight FIFO. ``queued``, ``retired``:
    passes, modulo 256. ``instruction``: which is executed. ``written``: a row leaves the epilogue,
    of slot ``written_slot``. ``load_start``: pulse, with ``load_kind`` and ``load_ahead`` of a
    LOAD, before ``load_busy``. ``selector``: what it does.
    """
    slot = (PASS_SLOTS - 1).bit_length()
    return {
        "run_start": 1, "run_end": 1, "stall": Shape.cast(isa.Stall).width, "tile_active": 1,
        "tile_accepted": 1, "tile_slot": slot, "tile_first_column": 1, "tile_last_column": 1,
        "tile_first_k": 1, "tile_last_k": 1,
        "loader": Shape.cast(LoaderActivity).width, "loader_begins": 1,
        "weight_level": config.weight_depth.bit_length(),
        "queued": 8, "retired": 8, "instruction": 32, "written": 1, "written_slot": slot,
        "load_start": 1, "load_busy": 1, "load_ahead": 1,
        "load_kind": Shape.cast(isa.LoadKind).width,
        **({"selector": Shape.cast(SelectorPhase).width} if config.pruning else {}),
    }


class Taps(wiring.Signature):
    """What a simulation compares: every write of the epilogue, the statistics of rows, and what a
    token selector finds and decides; and what a trace is made of, see :func:`trace_members`.

    The signals have no reader in the design and cost nothing in hardware.
    """

    def __init__(self, config: Config):
        index, row = range(config.max_tokens), range(config.residual_rows)
        selector = {
            "score_valid": Out(1), "score_row": Out(index), "score": Out(isa.SCORE_BITS),
            "pair_valid": Out(1), "pair_weighted": Out(isa.WEIGHTED_BITS),
            "pair_importance": Out(isa.IMPORTANCE_BITS),
            "scan_valid": Out(1), "scan_row": Out(row), "scan_keep": Out(1),
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
            **{name: Out(bits) for name, bits in trace_members(config).items()},
        })
