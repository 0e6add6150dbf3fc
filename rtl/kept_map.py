# SPDX-License-Identifier: BSD-2-Clause
"""What the host reads of selectors: how much each left of which image, and who dropped a patch."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from rtl.arith import delay
from rtl.config import Config
from rtl.isa import SEGMENTS
from rtl.registers import DROPPED_BITS, DROPPED_ROWS, WORD_ADDRESS_BITS, WORD_BYTES, register

__all__ = ["KeptMap"]

#: From this bit of the word address on, any tells the map from the counts.
_MAP_BIT = exact_log2(register("DROPPED").offset // WORD_BYTES)


class KeptMap(wiring.Component):
    """What the selectors of a round did, for the host: their counts, and who dropped which patch.

    There is no flow control. ``init`` takes ``max(64, ceil(residual_rows / 8))`` cycles, in which
    nothing is written; it clears the counts and sets all nibbles to 15.

    Latency: ``LATENCY`` cycle of a read. Resources: distributed memory of 4 bits a row of the
    residual, and of 64 words.

    Parameters
    ----------
    config
        ``max_tokens`` and ``residual_rows`` are used.

    Members
    -------
    init : In
        Pulse.
    index, image : In
        Selector; image of the round.
    drop, drop_row : In
        It drops the patch in this row.
    count, count_tokens, count_patches : In
        It leaves so many tokens, and of them so many patches.
    at : In; word : Out
        Word address 0x40 + 4 * selector + image: tokens and, in the lower half, patches;
        0x100 + row / 8: eight nibbles, the selector that dropped the patch in a row, 15 if none.
        A cycle later.
    """

    LATENCY = 1

    def __init__(self, config: Config) -> None:
        self.max_tokens = config.max_tokens
        self.residual_rows = config.residual_rows
        super().__init__({
            "init": In(1), "index": In(DROPPED_BITS), "image": In(range(SEGMENTS)), "drop": In(1),
            "drop_row": In(range(config.residual_rows)),
            "count": In(1), "count_tokens": In(16), "count_patches": In(16),
            "at": In(WORD_ADDRESS_BITS), "word": Out(32),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words, row_bits = -(-self.residual_rows // DROPPED_ROWS), exact_log2(DROPPED_ROWS)
        left = data.StructLayout({"patches": bits_for(self.max_tokens),
                                  "tokens": bits_for(self.max_tokens)})
        images = exact_log2(SEGMENTS)
        counters = 1 << (DROPPED_BITS + images)
        counts = Memory(shape=left, depth=counters, init=[],
                        attrs={"ram_style": "distributed"})
        rows = Memory(shape=data.ArrayLayout(DROPPED_BITS, DROPPED_ROWS), depth=words, init=[],
                      attrs={"ram_style": "distributed"})
        m.submodules.counts, m.submodules.rows = counts, rows
        count_read, count_write = counts.read_port(), counts.write_port()
        row_read, row_write = rows.read_port(), rows.write_port(granularity=1)

        filling = Signal()
        place = Signal(range(max(counters, words)))
        with m.If(self.init):
            m.d.sync += [filling.eq(1), place.eq(0)]
        with m.Elif(filling):
            m.d.sync += place.eq(place + 1)
            with m.If(place == max(counters, words) - 1):
                m.d.sync += filling.eq(0)

        m.d.comb += [
            row_write.en.eq((self.drop << self.drop_row[:row_bits])
                            | filling.replicate(DROPPED_ROWS)),
            row_write.addr.eq(Mux(filling, place, self.drop_row[row_bits:])),
            count_write.en.eq(filling | self.count),
            count_write.addr.eq(Mux(filling, place, Cat(self.image, self.index))),
            count_write.data.tokens.eq(Mux(filling, 0, self.count_tokens)),
            count_write.data.patches.eq(Mux(filling, 0, self.count_patches)),
            count_read.addr.eq(self.at),
            row_read.addr.eq(self.at),
        ]
        for i in range(DROPPED_ROWS):
            m.d.comb += row_write.data[i].eq(self.index | filling.replicate(DROPPED_BITS))
        in_map = delay(m, self.at[_MAP_BIT:] != 0, self.LATENCY, name="in_map")
        count_word = Signal(data.StructLayout({"patches": 16, "tokens": 16}))
        m.d.comb += [
            count_word.patches.eq(count_read.data.patches),
            count_word.tokens.eq(count_read.data.tokens),
            self.word.eq(Mux(in_map, row_read.data.as_value(), count_word.as_value())),
        ]
        return m
