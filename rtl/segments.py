# SPDX-License-Identifier: BSD-2-Clause
"""Segments: which part of the token list is the tokens of which image."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from rtl.config import Config
from rtl.isa import SEGMENTS

__all__ = ["SegmentTable", "segment_layout"]


def segment_layout(config: Config) -> data.StructLayout:
    """Return the layout of a segment: ``count`` positions of a list from ``start`` to ``last``."""
    position = bits_for(config.pass_rows)
    return data.StructLayout({"start": position, "count": position, "last": position})


class SegmentTable(wiring.Component):
    """Three lists in segments: the tokens that passes stream, the next tokens, the dropped ones.

    ``image`` begins an image: its tokens are all of the list, and segment 0. A selector appends
    what stays to the next list, and what it drops to the dropped list, which it empties if it is
    the first of its round or since ``prune``. With ``prune`` the next list is the list.

    There is no flow control; what is set is there in the next cycle.

    Parameters
    ----------
    config
        ``pass_rows`` is used.

    Members
    -------
    image, first_image, image_tokens : In
        Pulse; it is the first one of its round; tokens.
    start : In
        Pulse: a selector begins.
    append, segment, kept, dropped : In
        Pulse: it has ended; what it leaves is this segment of the next list; rows of both lists.
    prune : In
        Pulse.
    tokens : Out
        Rows of the list.
    current, gone : Out
        Segments of the list, and of the dropped list.
    kept_base, dropped_base : Out
        Where a selector appends.
    """

    def __init__(self, config: Config) -> None:
        segment = segment_layout(config)
        self._position = segment["start"].shape
        table = data.ArrayLayout(segment, SEGMENTS)
        super().__init__({
            "image": In(1), "first_image": In(1), "image_tokens": In(16),
            "start": In(1), "append": In(1), "segment": In(range(SEGMENTS)),
            "kept": In(self._position), "dropped": In(self._position), "prune": In(1),
            "tokens": Out(16), "current": Out(table), "gone": Out(table),
            "kept_base": Out(self._position), "dropped_base": Out(self._position),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        following = Signal.like(self.current)
        fresh = Signal()  # the next selector is the first that appends to the next list
        with m.If(self.start & fresh):
            m.d.sync += [fresh.eq(0), self.dropped_base.eq(0)]
        with m.If(self.append):
            for base, rows, table in ((self.kept_base, self.kept, following),
                                      (self.dropped_base, self.dropped, self.gone)):
                m.d.sync += base.eq(base + rows)
                with m.Switch(self.segment):
                    for i in range(SEGMENTS):
                        with m.Case(i):
                            m.d.sync += [table[i].start.eq(base), table[i].count.eq(rows),
                                         table[i].last.eq(base + rows - 1)]
        with m.If(self.prune):
            m.d.sync += [self.current.eq(following), self.tokens.eq(self.kept_base),
                         self.kept_base.eq(0), fresh.eq(1)]
        with m.If(self.image):
            m.d.sync += [
                self.tokens.eq(self.image_tokens),
                self.current[0].start.eq(0),
                self.current[0].count.eq(self.image_tokens),
                self.current[0].last.eq(self.image_tokens - 1),
            ]
            with m.If(self.first_image):
                m.d.sync += [self.kept_base.eq(0), fresh.eq(1)]
        return m
