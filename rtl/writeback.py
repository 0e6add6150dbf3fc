# SPDX-License-Identifier: BSD-2-Clause
"""Write-back: which blocks of what leaves the epilogue go to which bank of which buffer."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl import isa
from rtl.buffers import StreamBuffer
from rtl.config import Config
from rtl.issue import row_layout

__all__ = ["WriteBack"]


class WriteBack(wiring.Component):
    """Steers a word of ``columns`` channels to its destination, in the same cycle.

    A streaming buffer takes column block ``g`` into bank ``turn * column_blocks + g``, ``turn``
    being the place of the column tile within a buffer word. Of the last column tile, blocks that
    ``mask`` leaves out are not written: they belong to another head, or they are padding, and would
    spoil the statistics. Rows that a pass leaves ``unchanged`` are not written: part of a row may
    have been replaced since it was read, by the package that is made of it.

    Members
    -------
    valid, row, word : In, of a finished row (last K tile)
    destination, mask, unchanged : In, of its pass
    to : Out, one bit per ``Destination``
    enable : Out, blocks of the word that count
    act_en, score_en, residual_en : Out, one bit per bank
    bytes_word, wide_word : Out, the word for buffers of 8 and of 16 bits
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "valid": In(1), "row": In(row_layout(config)),
            "word": In(data.ArrayLayout(signed(isa.ACC_BITS), config.columns)),
            "destination": In(isa.Destination), "mask": In(8), "unchanged": In(1),
            "to": Out(len(isa.Destination)), "enable": Out(config.column_blocks),
            "act_en": Out(config.banks), "score_en": Out(config.banks),
            "residual_en": Out(config.banks),
            "bytes_word": Out(StreamBuffer.word(config, 8)),
            "wide_word": Out(StreamBuffer.word(config, 16)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        for kind in isa.Destination:
            m.d.comb += self.to[kind.value].eq(self.valid & (self.destination == kind))

        for g in range(config.column_blocks):
            m.d.comb += self.enable[g].eq(self.mask[g] | ~self.row.tile.last_column)

        turn = self.row.tile.column_tile[:ceil_log2(config.banks // config.column_blocks)]
        for bank in range(config.banks):
            g = bank % config.column_blocks
            hit = Signal(name=f"hit{bank}")
            lanes = [self.word[config.block * g + i] for i in range(config.block)]
            m.d.comb += [
                hit.eq(self.enable[g] & ~self.unchanged & (turn == bank // config.column_blocks)),
                self.bytes_word[bank].eq(Cat(lane[:8] for lane in lanes)),
                self.wide_word[bank].eq(Cat(lane[:16] for lane in lanes)),
            ]
            for en, kind in ((self.act_en, isa.Destination.ACT),
                             (self.score_en, isa.Destination.SCORE),
                             (self.residual_en, isa.Destination.RESIDUAL)):
                m.d.comb += en[bank].eq(self.to[kind.value] & hit)
        return m
