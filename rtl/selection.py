# SPDX-License-Identifier: BSD-2-Clause
"""How the token selector is wired into the core: what it sees, borrows, and changes."""

from typing import TYPE_CHECKING

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.utils import ceil_log2

from rtl import isa
from rtl.arith import delay
from rtl.pipeline import RowPipeline

if TYPE_CHECKING:
    from rtl.core import Core

__all__ = ["connect_package", "connect_selector"]


def connect_selector(m: Module, core: "Core", pipeline: RowPipeline) -> None:
    """Token list, class token's attention, statistics of heads, and the selector with what it
    borrows."""
    dispatcher, issue, rowsum = core.dispatcher, core.issue, core.rowsum
    tokens, attention, selector = core.token_list, core.class_attention, core.selector
    segments, statistics, taps = core.segments, core.statistics, core.taps

    # The class token's exponentials, from the prologue, and the reciprocal of their sum
    k = core.at_prologue + core.prologue.EXPONENTIAL_LATENCY
    row = pipeline.row(k)
    sum_at = core.at_array + rowsum.latency
    summed = pipeline.row(sum_at)

    def of_class_token(at: int) -> Value:
        row = pipeline.row(at)
        return (pipeline.valid(at) & pipeline.field(at, "class_attention")
                & (row.index == 0) & row.tile.first_column)

    m.d.comb += [
        attention.e.eq(core.prologue.exponential),
        attention.power.eq(core.prologue.power),
        attention.capture.eq(of_class_token(k)),
        attention.first_k.eq(row.tile.first_k),
        attention.first_head.eq(pipeline.field(k, "first_head")),
        attention.score_s.eq(pipeline.field(k, "score_s")),
        attention.reciprocal_valid.eq(of_class_token(sum_at) & summed.tile.last_k),
        attention.mantissa.eq(rowsum.mantissa),
        attention.shift.eq(rowsum.shift),
        attention.segment.eq(pipeline.field(k, "segment")),
        attention.tokens.eq(Mux(pipeline.field(sum_at, "of_segment"),
                                segments.current[pipeline.field(sum_at, "segment")].count,
                                segments.tokens)),
    ]

    # Statistics of the heads of a row, beside those of the row
    m.d.comb += [
        statistics.read_slot.eq(pipeline.field(0, "norm_slot")),
        statistics.norm_slot.eq(pipeline.field(core.at_write, "norm_slot")),
    ]

    # The selector: scores come from the class token's attention or from a classifier
    m.d.comb += [
        selector.init.eq(dispatcher.image_start),
        selector.init_image.eq(dispatcher.image.image),
        selector.start.eq(dispatcher.select_start),
        selector.select.eq(dispatcher.select),
        selector.segment.eq(segments.current[dispatcher.select.segment]),
        selector.apply.eq(dispatcher.prune),
        selector.kept_base.eq(segments.kept_base),
        selector.dropped_base.eq(segments.dropped_base),
        segments.start.eq(dispatcher.select_start),
        segments.append.eq(selector.append),
        segments.segment.eq(selector.image),
        segments.kept.eq(selector.kept),
        segments.dropped.eq(selector.dropped),
        dispatcher.selector_busy.eq(selector.busy),
        selector.attention_busy.eq(attention.busy),
        selector.score_en.eq(attention.score_en),
        selector.score_segment.eq(attention.score_segment),
        selector.score_row.eq(attention.score_row),
        selector.score.eq(attention.score),
        selector.pair_valid.eq(statistics.pair_valid),
        selector.pair_row.eq(statistics.pair_row),
        selector.pair_weighted.eq(statistics.pair_weighted),
        selector.pair_importance.eq(statistics.pair_importance),
    ]

    # What it borrows while it is idle: the reciprocal
    m.d.comb += [
        rowsum.request.eq(selector.request),
        rowsum.request_sum.eq(selector.request_sum),
        rowsum.request_scale_m.eq(selector.request_scale_m),
        rowsum.request_scale_s.eq(selector.request_scale_s),
        selector.reciprocal.eq(rowsum.o),
    ]

    # The list that it writes, by which rows are issued
    m.d.comb += [
        tokens.image.eq(dispatcher.image_start),
        tokens.first_row.eq(core.first_row),
        tokens.flip.eq(dispatcher.prune),
        tokens.position.eq(issue.list_position),
        tokens.dropped.eq(issue.list_dropped),
        issue.list_row.eq(tokens.row),
        tokens.scan_position.eq(selector.scan_position),
        selector.scan_row.eq(tokens.scan_row),
        tokens.write_en.eq(selector.write_en),
        tokens.write_dropped.eq(selector.write_dropped),
        tokens.write_position.eq(selector.write_position),
        tokens.write_row.eq(selector.write_row),
        selector.readback_at.eq(delay(m, core.readback_at, 1, name="readback_at")),
        core.readback.eq(delay(m, selector.readback, 1, name="readback")),
    ]
    for tap in ("score", "pair", "scan", "weight", "share"):
        source = attention if tap == "score" else statistics if tap == "pair" else selector
        valid = "score_en" if tap == "score" else f"{tap}_valid"
        m.d.comb += getattr(taps, f"{tap}_valid").eq(getattr(source, valid))
    m.d.comb += [
        taps.score_row.eq(attention.score_row),
        taps.score.eq(attention.score),
        taps.pair_weighted.eq(statistics.pair_weighted),
        taps.pair_importance.eq(statistics.pair_importance),
        taps.scan_row.eq(selector.scan_physical),
        taps.scan_keep.eq(selector.scan_keep),
        taps.weight.eq(selector.weight),
        taps.share_index.eq(selector.share_index),
        taps.share.eq(selector.share_value),
    ]


def connect_package(m: Module, core: "Core", pipeline: RowPipeline) -> None:
    """Sum dropped rows on the multipliers of the statistics; write the sum to the first."""
    config, k, statistics = core.config, core.at_write, core.statistics
    row, to = pipeline.row(k), core.writeback.to
    pairs = to[isa.Destination.SELECTOR.value]
    m.d.comb += [
        core.selector.share_row.eq(pipeline.row(k - 1).position),
        statistics.share.eq(core.selector.share),
        statistics.package.eq(to[isa.Destination.RESIDUAL.value]
                              & pipeline.field(k, "package")),
        statistics.part.eq(row.tile.part),
        statistics.first_row.eq(row.swap),
        statistics.last_row.eq(row.last_row),
        statistics.pairs.eq(pairs),
    ]
    # Scores are asked for by position.
    with m.If(pairs):
        m.d.comb += statistics.row.eq(row.position)

    # The address of the first row of a tile waits for the sum of all of them.
    k += statistics.PACKAGE_LATENCY
    late = pipeline.row(k)
    first, addr = Signal(16, name="package_first"), Signal(16, name="package_addr")
    m.d.comb += addr.eq(Mux(pipeline.valid(k) & late.swap, late.write_addr, first))
    m.d.sync += first.eq(addr)
    part_blocks = config.package_lanes // config.block
    turn = late.tile.column_tile[:ceil_log2(config.banks // config.column_blocks)]
    with m.If(statistics.package_valid):
        m.d.comb += [core.residual.write_addr.eq(addr), core.frame.residual_ready.eq(0)]
        for bank in range(config.banks):
            g = bank % config.column_blocks
            m.d.comb += core.residual.write_en[bank].eq(
                (turn == bank // config.column_blocks) & (late.tile.part == g // part_blocks))
            lanes = statistics.package_data.as_value().word_select(
                g % part_blocks, 16 * config.block)
            m.d.comb += core.residual.write_data[bank].eq(lanes)
