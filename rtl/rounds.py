# SPDX-License-Identifier: BSD-2-Clause
"""What a run reads of its program and weights, round after round."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from rtl.axi import BEATS_BITS, request_layout
from rtl.config import Config
from rtl.isa import INSTRUCTION_BYTES

__all__ = ["RoundRequests"]

_ADDR_BITS = 64


class RoundRequests(wiring.Component):
    """Asks for the rest of the program once and for its loop in every further round, and on each
    port for the weights of every round.

    The requests of a round do not wait for the round: data wait in the queues of the masters.

    Contract: arguments stay from ``start`` to the next reset.

    Latency: two cycles from ``start`` to the request of port 0 and of the program, one more for
    every further port.

    Resources: an address of 64 bits per port, two adders of 64 bits, counters of 32 bits.

    Parameters
    ----------
    config
        ``ports`` and ``port_bits`` are used.

    Members
    -------
    start : In, pulse
    rounds : In, at least 1
    model_addr : In
    instructions, loop : In, instructions of the program, and the first one of its loop
    weight_addr, weight_stride, weight_beats : In
        Weights of port 0, bytes to those of the next port, length of each in beats.
    program_request : Out(stream)
    weight_request : Out(stream), one per port
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        request = stream.Signature(request_layout(_ADDR_BITS))
        super().__init__({
            "start": In(1), "rounds": In(32), "model_addr": In(_ADDR_BITS),
            "instructions": In(16), "loop": In(16),
            "weight_addr": In(_ADDR_BITS), "weight_stride": In(32), "weight_beats": In(BEATS_BITS),
            "program_request": Out(request),
            "weight_request": Out(request).array(config.ports),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beats_each = exact_log2(8 * INSTRUCTION_BYTES // self.config.port_bits)
        started = Signal()
        m.d.sync += started.eq(self.start)

        # The program: what follows BEGIN, then the loop
        first = Signal()
        program = self.program_request
        index, left = Signal(16), Signal(32)
        m.d.comb += index.eq(Mux(first, 1, self.loop))
        m.d.sync += [
            program.p.address.eq(self.model_addr + index * INSTRUCTION_BYTES),
            program.p.beats.eq((self.instructions - index) << beats_each),
        ]
        with m.If(self.start):
            m.d.sync += [first.eq(1), left.eq(self.rounds)]
        with m.Elif(program.valid & program.ready):
            m.d.sync += [program.valid.eq(0), first.eq(0), left.eq(left - 1)]
        with m.Elif(left != 0):
            m.d.sync += program.valid.eq(1)

        # Weights: the same ones in every round
        address = Signal(_ADDR_BITS, reset_less=True)
        with m.If(self.start):
            m.d.sync += address.eq(self.weight_addr)
        with m.Else():
            m.d.sync += address.eq(address + self.weight_stride)
        begin = started
        for p, request in enumerate(self.weight_request):
            rounds = Signal(32, name=f"left_{p}")
            m.d.comb += [request.valid.eq(rounds != 0), request.p.beats.eq(self.weight_beats)]
            with m.If(begin):
                m.d.sync += [request.p.address.eq(address), rounds.eq(self.rounds)]
            with m.Elif(request.valid & request.ready):
                m.d.sync += rounds.eq(rounds - 1)
            following = Signal(name=f"begin_{p + 1}")
            m.d.sync += following.eq(begin)
            begin = following
        return m
