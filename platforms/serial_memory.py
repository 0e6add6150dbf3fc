# SPDX-License-Identifier: BSD-2-Clause
"""The memory of an accelerator that has none: flash, a frame on its way, and room for an output."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from platforms.flash import FLASH_REQUEST
from rtl.axi import AXI4Signature

__all__ = ["FRAME_BASE", "OUTPUT_BASE", "SerialMemory"]

#: Where the frame and the output are; below is the flash, from address 0 on.
FRAME_BASE = 0x1000_0000
OUTPUT_BASE = 0x2000_0000

_SLVERR = 0b10


class SerialMemory(wiring.Component):
    """AXI4 slave of one master: reads the flash and the frame, writes the output.

    Contract: bursts are INCR, answered in order, one at a time. The frame is not stored: reads at
    ``FRAME_BASE`` and up take words in the order in which they come, whatever the address says,
    and wait for them; with ``abort`` they are answered with SLVERR instead. Writes go to the
    output, their upper address bits do not matter.

    Resources: a memory of ``output_words`` words.

    Parameters
    ----------
    data_bits
        Of the bus.
    output_words
        Words of the bus that an output takes.

    Members
    -------
    bus : In(AXI4)
    request : Out(stream of ``FLASH_REQUEST``); flash : In(stream of words)
    frame : In(stream of words)
    abort : In, no more words come
    output_at : In; output : Out, a word of the output, a cycle later
    """

    def __init__(self, *, data_bits: int, output_words: int) -> None:
        self.data_bits = data_bits
        self.output_words = output_words
        super().__init__({
            "bus": In(AXI4Signature(addr_bits=64, data_bits=data_bits)),
            "request": Out(stream.Signature(FLASH_REQUEST)),
            "flash": In(stream.Signature(data_bits)),
            "frame": In(stream.Signature(data_bits)),
            "abort": In(1),
            "output_at": In(ceil_log2(output_words)), "output": Out(data_bits),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._reads(m)
        self._writes(m)
        return m

    def _reads(self, m: Module) -> None:
        bus = self.bus
        left = Signal(8)    # beats of the burst, less one
        frame = Signal()    # it is of the frame
        take = Signal()     # a beat is there, and room for it
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.FSM():
            with m.State("Address"):
                m.d.comb += bus.arready.eq(1)
                with m.If(bus.arvalid):
                    m.d.sync += [
                        frame.eq(bus.araddr[exact_log2(FRAME_BASE)]), left.eq(bus.arlen),
                        bus.rid.eq(bus.arid), self.request.p.address.eq(bus.araddr),
                        self.request.p.words.eq(bus.arlen),
                        self.request.valid.eq(~bus.araddr[exact_log2(FRAME_BASE)]),
                    ]
                    m.next = "Data"
            with m.State("Data"):
                m.d.comb += [
                    take.eq((~bus.rvalid | bus.rready)
                            & Mux(frame, self.frame.valid | self.abort, self.flash.valid)),
                    self.flash.ready.eq(take & ~frame),
                    self.frame.ready.eq(take & frame),
                ]
                with m.If(take):
                    m.d.sync += [
                        bus.rvalid.eq(1), bus.rdata.eq(Mux(frame, self.frame.payload,
                                                           self.flash.payload)),
                        bus.rresp.eq(Mux(frame & self.abort, _SLVERR, 0)),
                        bus.rlast.eq(left == 0), left.eq(left - 1),
                    ]
                    with m.If(left == 0):
                        m.next = "Address"
        with m.If(self.request.valid & self.request.ready):
            m.d.sync += self.request.valid.eq(0)

    def _writes(self, m: Module) -> None:
        bus = self.bus
        m.submodules.store = store = Memory(shape=self.data_bits, depth=self.output_words, init=[])
        write = store.write_port(granularity=8)
        read = store.read_port()
        at = Signal(range(self.output_words))
        m.d.comb += [write.addr.eq(at), write.data.eq(bus.wdata),
                     read.addr.eq(self.output_at), self.output.eq(read.data)]
        with m.FSM():
            with m.State("Address"):
                m.d.comb += bus.awready.eq(1)
                with m.If(bus.awvalid):
                    m.d.sync += [at.eq(bus.awaddr >> exact_log2(self.data_bits // 8)),
                                 bus.bid.eq(bus.awid)]
                    m.next = "Data"
            with m.State("Data"):
                m.d.comb += bus.wready.eq(1)
                with m.If(bus.wvalid):
                    m.d.comb += write.en.eq(bus.wstrb)
                    m.d.sync += at.eq(at + 1)
                    with m.If(bus.wlast):
                        m.d.sync += bus.bvalid.eq(1)
                        m.next = "Answer"
            with m.State("Answer"):
                with m.If(bus.bready):
                    m.d.sync += bus.bvalid.eq(0)
                    m.next = "Address"
