# SPDX-License-Identifier: BSD-2-Clause
"""The core: sequencer, datapath and buffers, wired as the block diagram."""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl import isa
from rtl.accumulator import Accumulator
from rtl.arith import delay
from rtl.array import SystolicArray
from rtl.axi import request_layout, write_layout
from rtl.buffers import DelayBuffer, KeyBuffer, StreamBuffer, ValueBuffer
from rtl.class_attention import ClassAttention
from rtl.config import Config
from rtl.dispatch import Dispatcher
from rtl.epilogue import Epilogue
from rtl.frame import LoadUnit
from rtl.issue import RowIssue
from rtl.loader import TileLoader
from rtl.logits import LogitUnit
from rtl.pipeline import RowPipeline
from rtl.poly import PolyLanes
from rtl.prologue import Prologue, PrologueLane
from rtl.registers import WORD_ADDRESS_BITS
from rtl.rowmax import RowMax
from rtl.rowsum import RowSum
from rtl.segments import SegmentTable
from rtl.selection import connect_package, connect_selector
from rtl.selector import Selector
from rtl.sequencing import connect_host, connect_sequencer
from rtl.statistics import Statistics
from rtl.taps import Taps
from rtl.token_list import TokenList
from rtl.tracing import connect_trace
from rtl.weights import WeightStream
from rtl.writeback import WriteBack

__all__ = ["Core"]


class Core(wiring.Component):
    """Runs one program after ``start``, then stays in ``done`` or ``error`` until it is reset.

    ::

        weights -> FIFO -> loader -> shadow tile <- keys / values
                                        v
        buffer -> prologue ----------> array -> accumulator -> epilogue -> buffer

    Beside them the token selector takes scores from what passes by, decides, and writes the next
    list of tokens, by which rows are issued.

    Rows are issued by ``RowIssue`` and then move through a pipeline of fixed latency without
    back-pressure. Control bits (``row_layout``) travel beside them; ``pipeline.row(k)`` is the row
    that was issued k cycles ago.

    Members
    -------
    start : In, pulse
    model_addr, frame_addr, output_addr, model_bytes, frame_bytes, output_bytes, rounds, \
frame_stride, output_stride : In, arguments
    program_request, program, load_request, load, weight_request, weight : streams to the masters
    weight_hold : Out, no more weights are asked for, for now
    output_request, output : streams to the write master
    written : In, all that was given to the write master is in memory
    done, error, error_index, top_class, images_done, tokens, stall : Out, status
    moves, hang, hang_index : Out, something moves; the error if nothing ever does again
    readback_at : In; readback : Out, as ``Selector``, one register later on both sides
    taps : Out
    """

    def __init__(self, config: Config):
        self.config = config
        request = stream.Signature(request_layout(64))
        beats = stream.Signature(config.port_bits)
        super().__init__({
            "start": In(1),
            "model_addr": In(64), "frame_addr": In(64), "output_addr": In(64),
            "model_bytes": In(32), "frame_bytes": In(32), "output_bytes": In(32),
            "rounds": In(32), "frame_stride": In(32), "output_stride": In(32),
            "program_request": Out(request), "program": In(beats),
            "load_request": Out(request), "load": In(beats),
            "weight_request": Out(request).array(config.ports),
            "weight": In(beats).array(config.ports), "weight_hold": Out(1),
            "output_request": Out(request),
            "output": Out(stream.Signature(write_layout(config.port_bits))), "written": In(1),
            "done": Out(1), "error": Out(isa.Error), "error_index": Out(16),
            "moves": Out(1), "hang": Out(isa.Error), "hang_index": Out(16),
            "top_class": Out(32), "images_done": Out(32), "tokens": Out(16),
            "stall": Out(isa.Stall),
            **({"readback_at": In(WORD_ADDRESS_BITS), "readback": Out(32)}
               if config.pruning else {}),
            "taps": Out(Taps(config)),
        })

        # The blocks, and the cycles between them, counted from the output of the issue stage.
        self.dispatcher = Dispatcher(config)
        self.segments = SegmentTable(config)
        #: Row of the residual of the first token of the image that begins.
        self.first_row = Signal(range(config.residual_rows))
        self.issue = RowIssue(config)
        self.prologue = Prologue(config)
        self.array = SystolicArray(config)
        self.accumulator = Accumulator(config)
        self.rowsum = RowSum(config)
        self.epilogue = Epilogue(config)
        self.rowmax = RowMax(config)
        self.statistics = Statistics(config)
        self.lanes = PolyLanes(config)
        self.act = StreamBuffer(config, bits=8, depth=config.act_depth)
        self.patch = StreamBuffer(config, bits=8, depth=config.patch_depth)
        self.residual = StreamBuffer(config, bits=16, depth=config.residual_depth)
        self.score = StreamBuffer(config, bits=16, depth=config.score_depth)
        self.keys, self.values = KeyBuffer(config), ValueBuffer(config)
        self.logits = LogitUnit(config)
        self.frame = LoadUnit(config)
        self.weights = WeightStream(config)
        self.writeback = WriteBack(config)
        if config.pruning:
            self.token_list = TokenList(config)
            self.class_attention = ClassAttention(config)
            self.selector = Selector(config)

        self.at_prologue = StreamBuffer.LATENCY + 1
        self.at_array = self.at_prologue + self.prologue.LATENCY
        # The reciprocal of the row sum must be there when the row leaves the accumulator.
        short = self.rowsum.latency - self.array.latency - self.accumulator.LATENCY
        self.psum_wait = max(0, short)
        self.at_accumulator = self.at_array + self.array.latency + self.psum_wait
        self.at_epilogue = self.at_accumulator + self.accumulator.LATENCY
        self.at_write = self.at_epilogue + self.epilogue.LATENCY
        # A row counts as written when whatever follows from it can be read.
        self.at_retire = self.at_write + 1 + max(
            self.statistics.latency, self.rowmax.latency, self.keys.write_latency)
        self.loader = TileLoader(config, keys=self.keys, values=self.values,
                                 lead=RowIssue.LATENCY + self.at_array)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name in ("dispatcher", "segments", "weights", "loader", "issue", "frame", "prologue",
                     "array", "accumulator", "rowsum", "epilogue", "rowmax", "statistics", "lanes",
                     "keys", "values", "logits", "writeback", "act", "patch", "residual",
                     "score"):
            m.submodules[name] = getattr(self, name)
        if self.config.pruning:
            for name in ("token_list", "class_attention", "selector"):
                m.submodules[name] = getattr(self, name)
        pipeline = RowPipeline(m, self.issue.valid, self.issue.row, self.dispatcher.descriptors,
                               depth=self.at_retire)
        connect_sequencer(m, self)
        connect_host(m, self)
        self._tables(m)
        self._buffers(m, pipeline)
        self._prologue(m, pipeline)
        self._array(m, pipeline)
        self._epilogue(m, pipeline)
        self._write(m, pipeline)
        self._retire(m, pipeline)
        connect_trace(m, self, pipeline)
        if self.config.pruning:
            connect_selector(m, self, pipeline)
            connect_package(m, self, pipeline)
        else:
            self._rows_in_order(m)
        return m

    def _rows_in_order(self, m: Module) -> None:
        """Find the rows of an image that nothing is dropped of."""
        base, row = Signal.like(self.first_row), Signal.like(self.issue.list_row, reset_less=True)
        with m.If(self.dispatcher.image_start):
            m.d.sync += base.eq(self.first_row)
        m.d.sync += row.eq(self.issue.list_position + base)
        m.d.comb += self.issue.list_row.eq(row)

    # Blocks, in the order of the diagram

    def _tables(self, m: Module) -> None:
        """Polynomial tables and block lists, all written by TABLE."""
        d = self.dispatcher
        entry = data.ArrayLayout(isa.ListEntry, self.config.row_blocks)
        m.submodules.lists = lists = Memory(shape=entry, depth=self.config.list_depth, init=[],
                                            attrs={"ram_style": "block"})
        read, write = lists.read_port(), lists.write_port()
        m.d.comb += [
            write.en.eq(d.table_en & (d.table == isa.Table.LIST)),
            write.addr.eq(d.table_row),
            write.data.eq(d.table_data),
            read.addr.eq(self.loader.list_addr),
            self.loader.list_entry.eq(read.data),
        ]
        for unit, table in ((self.lanes, isa.Table.LANE), (self.rowsum, isa.Table.RECIPROCAL),
                            (self.statistics, isa.Table.RSQRT)):
            m.d.comb += [
                unit.write_en.eq(d.table_en & (d.table == table)),
                unit.write_row.eq(d.table_row),
                unit.write_data.eq(d.table_data),
            ]

    def _buffers(self, m: Module, pipeline: RowPipeline) -> None:
        """Streaming buffers and their addresses; keys and values belong to the loader."""
        config, issue, loader = self.config, self.issue, self.loader
        for name in ("act", "patch", "residual", "score"):
            buffer = getattr(self, name)
            addresses = issue.residual_addr if name == "residual" else issue.read_addr
            for bank in range(config.banks):
                m.d.comb += buffer.read_addr[bank].eq(addresses[bank])
        m.d.comb += [
            self.keys.read_base.eq(loader.key_base),
            self.keys.read_channel.eq(loader.key_channel),
            self.keys.read_start.eq(loader.key_start),
            self.keys.read_after.eq(loader.key_after),
            loader.key_data.eq(self.keys.read_data),
            self.values.read_addr.eq(loader.value_addr),
            loader.value_data.eq(self.values.read_data),
            self.rowmax.read_row.eq(pipeline.row(0).index),
            self.rowmax.read_slot.eq(pipeline.field(0, "source_slot")),
            self.statistics.read_row.eq(pipeline.row(0).physical),
        ]

    def _select(self, m: Module, word: data.View, chosen: list[Value], blocks: int, bits: int,
                name: str) -> Value:
        """Return ``blocks`` blocks of a word: block i from bank ``chosen[i] * blocks + i``."""
        width, turns = self.config.block * bits, self.config.banks // blocks
        lanes = Signal(width * blocks, name=name)
        for i in range(blocks):
            part = lanes[width * i:width * (i + 1)]
            with m.Switch(chosen[i][:ceil_log2(turns)]):
                for turn in range(turns):
                    with m.Case(turn):
                        m.d.comb += part.eq(word[turn * blocks + i])
        return lanes

    def _prologue(self, m: Module, pipeline: RowPipeline) -> None:
        """What the buffers answer, one register, and the prologue."""
        config, prologue = self.config, self.prologue
        k = self.at_prologue - 1
        row = pipeline.row(k)
        source = pipeline.field(k, "source")
        mode = pipeline.field(k, "prologue")
        bytes_word, wide_word = self.act.read_data.shape(), self.residual.read_data.shape()
        word8, word16 = Signal(bytes_word), Signal(wide_word)
        m.d.comb += [
            word8.eq(Mux(source == isa.Source.PATCH, self.patch.read_data, self.act.read_data)),
            word16.eq(Mux(source == isa.Source.SCORE, self.score.read_data,
                          self.residual.read_data)),
        ]
        chosen = [row.tile.blocks[i].index for i in range(config.row_blocks)]
        m.d.sync += [
            prologue.data8.eq(self._select(m, word8, chosen, config.row_blocks, 8, "data8")),
            prologue.data16.eq(self._select(m, word16, chosen, config.row_blocks, 16, "data16")),
            prologue.unsigned_in.eq(source == isa.Source.PATCH),
            prologue.mode.eq(mode),
        ]
        skipped = pipeline.field(k, "zero_rows")
        for lane in range(config.rows):
            is_token = lane < row.tile.rows_valid
            if lane < (1 << len(skipped)) - 1:
                is_token &= ~row.tile.first_k | (lane >= skipped)
            m.d.sync += prologue.enable[lane].eq(
                row.tile.blocks[lane // config.block].valid & ~row.zero
                & ((mode != isa.Prologue.EXP) | is_token))
        exp_m, exp_s = pipeline.field(k, "exp_m"), pipeline.field(k, "exp_s")
        m.d.sync += [prologue.m.eq(exp_m), prologue.s.eq(exp_s)]
        with m.Switch(mode):
            with m.Case(isa.Prologue.EXP):
                m.d.sync += prologue.ref.eq(self.rowmax.read_max << isa.MEAN_FRAC)
            with m.Case(isa.Prologue.SCALE):
                m.d.sync += prologue.ref.eq(0)
            with m.Default():
                m.d.sync += [
                    prologue.ref.eq(self.statistics.read_mean),
                    prologue.m.eq(self.statistics.read_scale.m),
                    prologue.s.eq(self.statistics.read_scale.s),
                ]

    def _array(self, m: Module, pipeline: RowPipeline) -> None:
        """Array, accumulators, and the row sum beside them."""
        array, accumulator, rowsum, loader = self.array, self.accumulator, self.rowsum, self.loader
        row = pipeline.row(self.at_array)
        swap = Signal()
        early = self.at_array - loader.swap_lead
        is_exp = pipeline.field(self.at_array, "prologue") == isa.Prologue.EXP
        m.d.comb += [
            swap.eq(pipeline.valid(self.at_array) & row.swap),
            array.act.eq(self.prologue.act),
            array.swap.eq(swap),
            loader.swap.eq(pipeline.valid(early) & pipeline.row(early).swap),
            array.load_valid.eq(loader.load_valid),
            array.load_row.eq(loader.load_row),
            array.load_data.eq(loader.load_data),
            rowsum.e.eq(self.prologue.act),
            rowsum.valid.eq(pipeline.valid(self.at_array) & is_exp),
            rowsum.row.eq(row.index),
            rowsum.first.eq(row.tile.first_k),
            rowsum.scale_m.eq(pipeline.field(self.at_array, "scale_m")),
            rowsum.scale_s.eq(pipeline.field(self.at_array, "scale_s")),
        ]
        late = pipeline.row(self.at_accumulator)
        m.d.comb += [
            accumulator.psum.eq(delay(m, array.psum.as_value(), self.psum_wait, name="psum")),
            accumulator.row.eq(late.index),
            accumulator.valid.eq(pipeline.valid(self.at_accumulator)),
            accumulator.first.eq(late.tile.first_k),
            accumulator.last.eq(late.tile.last_k),
        ]

    def _epilogue(self, m: Module, pipeline: RowPipeline) -> None:
        """Epilogue, with the row that it adds to, and the shared polynomial lanes."""
        config, epilogue, k = self.config, self.epilogue, self.at_epilogue
        row = pipeline.row(k)
        wait = k - self.at_array - self.rowsum.latency
        m.d.comb += [
            epilogue.acc.eq(self.accumulator.acc),
            epilogue.scale_source.eq(pipeline.field(k, "scale_source")),
            epilogue.destination.eq(pipeline.field(k, "destination")),
            epilogue.gelu.eq(pipeline.field(k, "gelu")),
            epilogue.slot.eq(row.tile.scale_slot),
            epilogue.const_scale.m.eq(pipeline.field(k, "scale_m")),
            epilogue.const_scale.s.eq(pipeline.field(k, "scale_s")),
            epilogue.row_scale.eq(delay(m, self.rowsum.o.as_value(), wait, name="row_scale")),
            # They have a register on the way, and come long before the first row that needs them.
            epilogue.param_en.eq(delay(m, self.loader.param_en, 1, name="param_en", reset=True)),
            epilogue.param_slot.eq(delay(m, self.loader.param_slot, 1, name="param_slot")),
            epilogue.param_word.eq(delay(m, self.loader.param_word, 1, name="param_word")),
            epilogue.param_data.eq(delay(m, self.loader.param_data.as_value(), 1,
                                         name="param_data")),
        ]

        # The old residual was read when the row was issued.
        read_at = self.at_prologue
        turn = pipeline.row(read_at - 1).tile.column_tile
        word = self.residual.read_data
        lanes = Signal(16 * config.columns, name="old_residual", reset_less=True)
        m.d.sync += lanes.eq(self._select(m, word, [turn] * config.column_blocks,
                                          config.column_blocks, 16, "old_word"))
        old_at = k + epilogue.OLD_DELAY
        m.submodules.old = old = DelayBuffer(width=len(lanes), cycles=old_at - read_at)
        adds = pipeline.field(old_at, "accumulate")
        is_logit = pipeline.field(old_at, "destination") == isa.Destination.LOGIT
        m.d.comb += [
            old.i.eq(lanes),
            self.logits.read_addr.eq(pipeline.row(old_at - 1).write_addr),
        ]
        for c in range(config.columns):
            residual = old.o[16 * c:16 * c + 16].as_signed()
            m.d.comb += epilogue.old[c].eq(Mux(
                is_logit, Mux(adds, self.logits.read_data[c], 0), residual))

        # exp and GELU are never under way together, see docs/hazards.md: a rule for programs.
        lanes_unit = self.lanes
        with_exp = Signal()
        exp_at = self.at_prologue + PrologueLane.EXP_DELAY
        m.d.comb += [
            with_exp.eq(pipeline.valid(exp_at)
                        & (pipeline.field(exp_at, "prologue") == isa.Prologue.EXP)),
            lanes_unit.exp.eq(with_exp),
        ]
        for lane in range(config.lanes):
            gelu_x = epilogue.gelu_x[lane] if lane < config.columns else Const(0)
            exp_x = self.prologue.exp_x[lane] if lane < config.rows else Const(0)
            m.d.comb += lanes_unit.x[lane].eq(Mux(with_exp, exp_x, gelu_x))
            if lane < config.rows:
                m.d.comb += self.prologue.exp_y[lane].eq(lanes_unit.y[lane])
            if lane < config.columns:
                m.d.comb += epilogue.gelu_y[lane].eq(lanes_unit.y[lane])

    def _write(self, m: Module, pipeline: RowPipeline) -> None:
        """Write what leaves the epilogue, and take the statistics of it."""
        config, k, taps = self.config, self.at_write, self.taps
        row = pipeline.row(k)
        word = self.epilogue.data
        back, frame = self.writeback, self.frame
        m.d.comb += [
            back.valid.eq(pipeline.valid(k) & row.tile.last_k),
            back.row.eq(row),
            back.word.eq(word),
            back.destination.eq(pipeline.field(k, "destination")),
            back.mask.eq(pipeline.field(k, "destination_mask")),
            back.unchanged.eq(pipeline.field(k, "stationary") == isa.Stationary.NONE),
        ]
        to = {kind: back.to[kind.value] for kind in isa.Destination}
        for buffer, en, data_word in ((self.act, back.act_en, back.bytes_word),
                                      (self.score, back.score_en, back.wide_word),
                                      (self.residual, back.residual_en, back.wide_word)):
            m.d.comb += [
                buffer.write_en.eq(en),
                buffer.write_addr.eq(row.write_addr),
                buffer.write_data.eq(data_word),
            ]

        # Loads write where no pass does.
        m.d.comb += frame.residual_ready.eq(~back.residual_en.any())
        with m.If(~back.residual_en.any()):
            m.d.comb += [
                self.residual.write_addr.eq(frame.write_addr),
                self.residual.write_en.eq(frame.residual_en),
            ]
            for bank in range(config.banks):
                m.d.comb += self.residual.write_data[bank].eq(frame.write_data.as_value())
        m.d.comb += [
            self.patch.write_addr.eq(frame.write_addr),
            self.patch.write_en.eq(frame.patch_en),
        ]
        for bank in range(config.banks):
            m.d.comb += self.patch.write_data[bank].eq(frame.write_data[1])

        # Stationary operands and logits
        for unit, en in ((self.keys, to[isa.Destination.KEY]),
                         (self.values, Mux(to[isa.Destination.VALUE], back.enable, 0)),
                         (self.logits, to[isa.Destination.LOGIT])):
            m.d.comb += [unit.write_en.eq(en), unit.write_addr.eq(row.write_addr)]
            for c in range(config.columns):
                m.d.comb += unit.write_data[c].eq(word[c])

        # Statistics of the row
        rowmax, statistics = self.rowmax, self.statistics
        m.d.comb += [
            rowmax.valid.eq(to[isa.Destination.SCORE]),
            rowmax.slot.eq(pipeline.field(k, "destination_slot")),
            rowmax.row.eq(row.index),
            rowmax.first.eq(row.tile.first_column),
            statistics.valid.eq(to[isa.Destination.RESIDUAL]
                                & pipeline.field(k, "statistics")),
            statistics.row.eq(row.physical),
            statistics.first.eq(row.tile.first_column),
            statistics.last.eq(row.tile.last_column),
            statistics.enable.eq(back.enable),
        ]
        for name in ("channels", "mean_m", "mean_s", "scale_m", "scale_s", "epsilon"):
            m.d.comb += getattr(statistics, name).eq(pipeline.field(k, name))
        for c in range(config.columns):
            m.d.comb += [
                rowmax.data[c].eq(word[c]),
                rowmax.enable[c].eq(c < row.tile.columns_valid),
                statistics.data[c].eq(word[c]),
            ]
        m.d.comb += [
            taps.valid.eq(back.valid),
            taps.data.eq(word.as_value()),
            taps.max_valid.eq(rowmax.max_valid),
            taps.max.eq(rowmax.max),
            taps.norm_valid.eq(statistics.norm_valid),
            taps.norm_sum.eq(statistics.norm_sum),
            taps.norm_sumsq.eq(statistics.norm_sumsq),
            taps.norm_mean.eq(statistics.norm_mean),
            taps.norm_scale.eq(statistics.norm_scale.as_value()),
        ]
        sum_at = self.at_array + self.rowsum.latency
        is_exp = pipeline.field(sum_at, "prologue") == isa.Prologue.EXP
        summed = pipeline.row(sum_at).tile
        m.d.comb += [
            # A head wider than the array is summed again for every column tile.
            taps.sum_valid.eq(pipeline.valid(sum_at) & is_exp & summed.last_k
                              & summed.first_column),
            taps.sum.eq(self.rowsum.sum),
            taps.rowscale.eq(self.rowsum.o.as_value()),
        ]

    def _retire(self, m: Module, pipeline: RowPipeline) -> None:
        """Count finished rows, passes and column tiles: what hand-over and interlocks look at."""
        row = pipeline.row(self.at_retire)
        retired, rows = Signal(8), Signal(11)
        columns = Signal.like(self.loader.columns_retired)
        own_scales = pipeline.field(self.at_retire, "scale_source") == isa.ScaleSource.COLUMN
        with m.If(pipeline.valid(self.at_retire) & row.tile.last_k):
            with m.If(row.tile.last_column):
                m.d.sync += rows.eq(rows + 1)
                with m.If(row.last_row):
                    m.d.sync += [rows.eq(0), retired.eq(retired + 1)]
            with m.If(row.last_row & own_scales):
                m.d.sync += columns.eq(columns + 1)
        m.d.comb += [
            self.dispatcher.retired.eq(retired),
            self.loader.retired.eq(retired),
            self.loader.columns_retired.eq(columns),
            self.issue.retired.eq(retired),
            self.issue.retired_rows.eq(rows),
        ]
