# SPDX-License-Identifier: BSD-2-Clause
"""The on-chip buffers: streaming rows, stationary keys and values, and a long delay line."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory, ReadPort, WritePort
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.arith import delay
from rtl.config import Config

__all__ = ["DelayBuffer", "KeyBuffer", "StreamBuffer", "ValueBuffer", "rotate_left"]


def _memory(m: Module, name: str, shape: int, depth: int, *,
            granularity: int | None = None) -> tuple[ReadPort, WritePort]:
    """Add a memory with one read and one write port, the simple dual port form of block RAM."""
    memory = Memory(shape=shape, depth=depth, init=[], attrs={"ram_style": "block"})
    m.submodules[name] = memory
    return memory.read_port(), memory.write_port(granularity=granularity)


class StreamBuffer(wiring.Component):
    """Rows of channels in ``banks`` banks of one block: block ``b`` of a row is in bank
    ``b % banks``, so that any aligned group of blocks is read in one cycle, each bank at an address
    of its own (block-sparse weights skip blocks).

    No flow control: a read is answered ``LATENCY`` cycles after its address; a write is seen by
    reads from the next cycle on.

    Resources: ``banks`` block RAMs of ``block * bits`` bits by ``depth``.

    Parameters
    ----------
    bits
        Bits of a channel.
    depth
        Words of the buffer.

    Members
    -------
    read_addr : In, one address per bank
    read_data : Out, one word (``banks`` blocks)
    write_en : In, one bit per bank
    write_addr, write_data : In
    """

    LATENCY = 1

    def __init__(self, config: Config, *, bits: int, depth: int):
        self.banks = config.banks
        self.block = config.block
        self.bits = bits
        self.depth = depth
        self.addr_bits = max(1, ceil_log2(depth))
        word = self.word(config, bits)
        super().__init__({
            "read_addr": In(data.ArrayLayout(unsigned(self.addr_bits), self.banks)),
            "read_data": Out(word),
            "write_en": In(self.banks),
            "write_addr": In(self.addr_bits),
            "write_data": In(word),
        })

    @staticmethod
    def word(config: Config, bits: int) -> data.ArrayLayout:
        """Return the layout of a word of channels of ``bits`` bits: one block per bank."""
        return data.ArrayLayout(unsigned(config.block * bits), config.banks)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for b in range(self.banks):
            read, write = _memory(m, f"bank{b}", self.block * self.bits, self.depth)
            m.d.comb += [
                read.addr.eq(self.read_addr[b]),
                self.read_data[b].eq(read.data),
                write.addr.eq(self.write_addr),
                write.data.eq(self.write_data[b]),
                write.en.eq(self.write_en[b]),
            ]
        return m


def rotate_left(m: Module, lanes: Value, amount: Value, *, width: int, count: int,
                name: str) -> tuple[Value, int]:
    """Rotate ``count`` lanes of ``width`` bits so that lane ``i`` becomes lane ``i + amount``.

    ``count`` is a power of two. Three mux levels between registers. Returns the result and the
    number of cycles that it takes.
    """
    bits = ceil_log2(count)
    cycles = 0
    for low in range(0, bits, 3):
        stage = lanes
        for bit in range(low, min(low + 3, bits)):
            step = width << bit
            turned = Signal(width * count, name=f"{name}_{bit}")
            m.d.comb += turned.eq(stage)
            with m.If(amount[bit]):
                m.d.comb += turned.eq(Cat(stage[-step:], stage[:-step]))
            stage = turned
        lanes = Signal(width * count, name=f"{name}_r{low}", reset_less=True)
        m.d.sync += lanes.eq(stage)
        cycles += 1
        amount = delay(m, amount, 1, name=f"{name}_amount{low}")
    return lanes, cycles


class KeyBuffer(wiring.Component):
    """Keys, written a token at a time and read a channel of ``columns`` tokens at a time.

    Channel ``c`` of token ``t`` is in byte bank ``(c + t) % columns``: both a token and a channel
    touch every bank once. Written at one address in all banks, read at one address per bank; a
    rotator on either side.

    No flow control. A write is in the memory ``write_latency`` cycles after its inputs; a read is
    answered ``latency`` cycles after its address.

    Resources: ``columns`` byte-wide block RAMs, two rotators of ``columns`` bytes.

    Members
    -------
    write_en : In
    write_addr : In, ``(token_tile * stride + column_tile) * columns + t % columns``
    write_data : In, channels of a token
    read_base : In, ``token_tile * stride + column_tile``
    read_channel : In, channel modulo ``columns``
    read_start, read_after : In
        The tokens begin at this one of the tile; ``read_base`` of the next tile, of which they are
        the rest.
    read_data : Out, that channel of ``columns`` tokens
    """

    def __init__(self, config: Config):
        self.count = config.columns
        self.depth = config.key_depth
        self.lane_bits = ceil_log2(self.count)
        # A buffer of a single tile has a base all the same: Verilog has no ports of no bits.
        self.addr_bits = max(ceil_log2(self.depth), self.lane_bits + 1)
        self._turns = -(-self.lane_bits // 3)
        #: Cycles from the write inputs to the write of the memory.
        self.write_latency = self._turns + 1
        #: Cycles from the read inputs to ``read_data``.
        self.latency = 2 + self._turns
        super().__init__({
            "write_en": In(1),
            "write_addr": In(self.addr_bits),
            "write_data": In(data.ArrayLayout(signed(8), self.count)),
            "read_base": In(self.addr_bits - self.lane_bits),
            "read_channel": In(self.lane_bits),
            "read_start": In(self.lane_bits),
            "read_after": In(self.addr_bits - self.lane_bits),
            "read_data": Out(data.ArrayLayout(signed(8), self.count)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        turned, turns = rotate_left(
            m, self.write_data.as_value(), self.write_addr[:self.lane_bits], width=8,
            count=self.count, name="write")
        write_en = delay(m, self.write_en, turns, name="write_en", reset=True)
        write_addr = delay(m, self.write_addr, turns, name="write_addr")

        read_word = Signal(8 * self.count)
        for b in range(self.count):
            read, write = _memory(m, f"bank{b}", 8, self.depth)
            token = Signal(self.lane_bits, name=f"token{b}")
            address = Signal(self.addr_bits, name=f"address{b}", reset_less=True)
            m.d.comb += [
                token.eq(b - self.read_channel),
                write.en.eq(write_en),
                write.addr.eq(write_addr),
                write.data.eq(turned[8 * b:8 * b + 8]),
                read.addr.eq(address),
                read_word[8 * b:8 * b + 8].eq(read.data),
            ]
            m.d.sync += address.eq(Cat(token, Mux(token < self.read_start, self.read_after,
                                                  self.read_base)))

        # Token start + j of the channel is in bank channel + start + j: turn right by as much.
        back, turn = Signal(self.lane_bits), Signal(self.lane_bits, reset_less=True)
        m.d.sync += turn.eq(self.read_channel + self.read_start)
        m.d.comb += back.eq(-delay(m, turn, 1, name="turn"))
        turned_back, _ = rotate_left(m, read_word, back, width=8, count=self.count, name="read")
        m.d.comb += self.read_data.eq(turned_back)
        return m


class ValueBuffer(wiring.Component):
    """Values, written and read a token at a time: the channels of a column tile are one word.

    Blocks of a word are written by themselves: two heads share it where they are narrower.

    No flow control; a read is answered ``LATENCY`` cycles after its address.

    Members
    -------
    write_en : In, one bit per block
    write_addr, write_data : In
    read_addr : In
    read_data : Out
    """

    LATENCY = 1

    def __init__(self, config: Config):
        self.block = config.block
        self.depth = config.value_depth
        self.addr_bits = ceil_log2(self.depth)
        word = data.ArrayLayout(signed(8), config.columns)
        super().__init__({
            "write_en": In(config.column_blocks), "write_addr": In(self.addr_bits),
            "write_data": In(word), "read_addr": In(self.addr_bits), "read_data": Out(word),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        read, write = _memory(m, "words", 8 * len(self.read_data), self.depth,
                              granularity=8 * self.block)
        m.d.comb += [
            read.addr.eq(self.read_addr),
            self.read_data.eq(read.data),
            write.en.eq(self.write_en),
            write.addr.eq(self.write_addr),
            write.data.eq(self.write_data),
        ]
        return m


class DelayBuffer(wiring.Component):
    """Delay of a wide word by a fixed number of cycles in block RAM.

    It carries the residual row that is read when a row is issued to the epilogue that adds to it,
    so that the residual buffer needs one read port only.

    Parameters
    ----------
    width
        Bits of the word.
    cycles
        Delay, at least 2.

    Members
    -------
    i : In
    o : Out, ``i`` of ``cycles`` cycles ago
    """

    def __init__(self, *, width: int, cycles: int):
        if cycles < 2:
            raise ValueError(f"a delay buffer of {cycles} cycles was asked for, needs at least 2")
        self.width = width
        self.cycles = cycles
        super().__init__({"i": In(width), "o": Out(width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Written at ``pointer`` and read at the next place, which holds the oldest word.
        read, write = _memory(m, "ring", self.width, self.cycles)
        pointer = Signal(range(self.cycles))
        following = Signal(range(self.cycles))
        m.d.comb += [
            following.eq(pointer + 1),
            write.en.eq(1),
            write.addr.eq(pointer),
            write.data.eq(self.i),
            read.addr.eq(following),
            self.o.eq(read.data),
        ]
        with m.If(pointer == self.cycles - 1):
            m.d.comb += following.eq(0)
        m.d.sync += pointer.eq(following)
        return m
