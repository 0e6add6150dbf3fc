# SPDX-License-Identifier: BSD-2-Clause
"""An accelerator that classifies the frames that come over a serial line, without a processor."""

from collections.abc import Sequence
from dataclasses import dataclass

from amaranth.hdl import Array, Cat, ClockSignal, Const, Instance, Module, Mux, ResetSignal, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from platforms.flash import FlashReader
from platforms.serial_frames import Code
from platforms.serial_link import AnswerWriter, RequestReader
from platforms.serial_memory import FRAME_BASE, OUTPUT_BASE, SerialMemory
from platforms.uart import UartReceiver, UartTransmitter, divisor
from rtl.axi import AXILiteSignature
from rtl.config import Config, ConfigError
from rtl.fifo import Fifo
from rtl.logits import output_bytes
from rtl.registers import ADDRESS_BITS, register

__all__ = ["LiteMaster", "SerialBoard", "SerialSettings"]

#: Words of the frame that wait for the core; it has other things to read, too.
_FRAME_WORDS = 512


@dataclass(frozen=True, kw_only=True)
class SerialSettings:
    """What a board with a serial line is made for.

    Parameters
    ----------
    config
        The accelerator; it must have one memory port.
    model_base, model_bytes
        Where the model image is in the flash, a multiple of 4096, and its size.
    frame_bytes, classes
        Of the network.
    clock_hz, baud
        Clock of all, and rate of the line.
    silence_ms
        After so long without a byte a request has ended. A serial adapter sends in bursts, with
        gaps of some ms between them.
    """

    config: Config
    model_base: int
    model_bytes: int
    frame_bytes: int
    classes: int
    clock_hz: int
    baud: int
    silence_ms: float = 100

    def __post_init__(self) -> None:
        beat = self.config.port_bits // 8
        if self.config.ports != 1:
            raise ConfigError(f"configuration {self.config.name} has {self.config.ports} memory"
                              " ports, a board with a serial line has 1")
        if self.frame_bytes % beat:
            raise ConfigError(f"a frame has {self.frame_bytes} bytes, must have a multiple of"
                              f" {beat}")
        divisor(self.clock_hz, self.baud)

    @property
    def output_bytes(self) -> int:
        return output_bytes(self.classes)

    @property
    def silence(self) -> int:
        """Cycles of silence that end a request."""
        return round(self.silence_ms * self.clock_hz / 1000)

    def arguments(self) -> list[tuple[int, int]]:
        """Return offset and value of the registers that are written before a run."""
        values = {"MODEL_ADDR": self.model_base, "MODEL_BYTES": self.model_bytes,
                  "FRAME_ADDR": FRAME_BASE, "FRAME_BYTES": self.frame_bytes,
                  "OUTPUT_ADDR": OUTPUT_BASE, "OUTPUT_BYTES": self.output_bytes, "ROUNDS": 1,
                  # The core waits for the line: a silent one is found here, before it gives up.
                  "TIMEOUT": 2 * self.silence}
        return [(offset, value >> 32 * i & 0xFFFFFFFF) for name, value in values.items()
                for i, offset in enumerate(register(name).words)]


class LiteMaster(wiring.Component):
    """Reads and writes registers over AXI4-Lite, one access at a time.

    Members
    -------
    start : In, pulse with ``write``, ``address`` and ``value``, while not ``busy``
    done : Out, pulse; ``result`` : Out, what was read, from then on
    bus : Out(AXI4-Lite)
    """

    def __init__(self) -> None:
        super().__init__({"start": In(1), "write": In(1), "address": In(ADDRESS_BITS),
                          "value": In(32), "done": Out(1), "result": Out(32),
                          "bus": Out(AXILiteSignature(addr_bits=ADDRESS_BITS))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.bus
        answered = Signal()
        m.d.comb += [bus.wstrb.eq(0b1111), bus.bready.eq(1), bus.rready.eq(1),
                     answered.eq(bus.bvalid | bus.rvalid)]
        m.d.sync += self.done.eq(answered)
        for channel in ("aw", "w", "ar"):
            valid = getattr(bus, f"{channel}valid")
            with m.If(getattr(bus, f"{channel}ready")):
                m.d.sync += valid.eq(0)
        with m.If(self.start):
            m.d.sync += [bus.awaddr.eq(self.address), bus.araddr.eq(self.address),
                         bus.wdata.eq(self.value), bus.awvalid.eq(self.write),
                         bus.wvalid.eq(self.write), bus.arvalid.eq(~self.write)]
        with m.If(bus.rvalid):
            m.d.sync += self.result.eq(bus.rdata)
        return m


class SerialBoard(wiring.Component):
    """The accelerator, its memory, and the sequencer that runs it for every request.

    ::

        rx - UartReceiver - RequestReader - words - Fifo ---.
                                |                           v
                            sequencer - LiteMaster -> heatvit <-> SerialMemory <- FlashReader
                                |                                   | output
        tx - UartTransmitter - AnswerWriter <-----------------------'

    The core starts when a request begins, and reads the frame as it comes: it is stored in the
    buffers of the core alone. A request that breaks off has the core end with a bus error. So
    every request has its answer, and after it the board waits for the next one.

    The accelerator is an instance of ``heatvit``, as ``rtl.top`` emits it.

    Members
    -------
    rx, tx
        The serial line.
    flash_sck, flash_cs, flash_out, flash_oe, flash_in
        The flash, as of ``FlashReader``.
    led
        Class of the last answer; a request comes; the core runs; the last one failed; ready.
    """

    def __init__(self, settings: SerialSettings) -> None:
        self.settings = settings
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "flash_sck": Out(1),
                          "flash_cs": Out(1), "flash_out": Out(1), "flash_oe": Out(1),
                          "flash_in": In(2), "led": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        settings = self.settings
        bits = settings.config.port_bits
        cycles = divisor(settings.clock_hz, settings.baud)
        m.submodules.receiver = receiver = UartReceiver(cycles)
        m.submodules.transmitter = transmitter = UartTransmitter(cycles)
        m.submodules.reader = reader = RequestReader(frame_bytes=settings.frame_bytes,
                                                     silence=settings.silence)
        m.submodules.answer = answer = AnswerWriter(word_bytes=bits // 8,
                                                    output_bytes=settings.output_bytes)
        m.submodules.flash = flash = FlashReader(bits // 8)
        m.submodules.memory = memory = SerialMemory(
            data_bits=bits, output_words=settings.output_bytes * 8 // bits)
        m.submodules.master = master = LiteMaster()
        m.submodules.frame = frame = Fifo(bits, depth=_FRAME_WORDS)
        drain = Signal()  # the core takes no more of the frame
        wiring.connect(m, receiver.o, reader.i)
        wiring.connect(m, answer.o, transmitter.i)
        wiring.connect(m, memory.request, flash.i)
        wiring.connect(m, flash.o, memory.flash)
        m.d.comb += [
            receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx),
            self.flash_sck.eq(flash.sck), self.flash_cs.eq(flash.cs),
            self.flash_out.eq(flash.out), self.flash_oe.eq(flash.oe),
            flash.lines.eq(self.flash_in),
            memory.frame.valid.eq(frame.o.valid & ~drain),
            memory.frame.payload.eq(frame.o.payload),
            frame.o.ready.eq(memory.frame.ready | drain),
            memory.abort.eq((reader.code == Code.TIMEOUT) | (reader.code == Code.OVERRUN)),
            memory.output_at.eq(answer.output_at), answer.output.eq(memory.output),
        ]
        self._words(m, reader, frame.i)
        m.d.comb += reader.lost.eq(frame.i.valid & ~frame.i.ready)
        self._core(m, master, memory)
        self._sequence(m, reader, master, answer, drain)
        return m

    @staticmethod
    def _words(m: Module, reader: RequestReader, o: stream.Interface) -> None:
        """Put the bytes of a frame together to words."""
        bits = len(o.payload)
        count = Signal(range(bits // 8))
        m.d.sync += o.valid.eq(0)
        with m.If(reader.begin):
            m.d.sync += count.eq(0)
        with m.If(reader.o.valid):
            m.d.sync += [o.payload.eq(Cat(o.payload[8:], reader.o.payload)), count.eq(count + 1),
                         o.valid.eq(count == bits // 8 - 1)]

    @staticmethod
    def _core(m: Module, master: LiteMaster, memory: SerialMemory) -> None:
        ports: dict[str, object] = {"i_ap_clk": ClockSignal(), "i_ap_rst_n": ~ResetSignal(),
                                    "o_interrupt": Signal(name="interrupt")}
        for prefix, bus in (("s_axi_control", master.bus), ("m_axi_gmem0", memory.bus)):
            for name in bus.signature.members:
                # What leaves the bus here enters the core.
                side = "i" if bus.signature.members[name].flow is Out else "o"
                ports[f"{side}_{prefix}_{name}"] = getattr(bus, name)
        m.submodules.core = Instance("heatvit", **ports)

    def _sequence(self, m: Module, reader: RequestReader, master: LiteMaster,
                  answer: AnswerWriter, drain: Signal) -> None:
        control, = register("CTRL").words
        arguments = [*self.settings.arguments(), (control, 1)]
        results = [register("ERROR").words[0], register("ERROR_INDEX").words[0],
                   register("CYCLES").words[0], register("TOP_CLASS").words[0]]
        step = Signal(range(max(len(arguments), len(results)) + 1))
        begun = Signal()  # the access of this step
        ended = Signal()  # the request has
        code = Signal(Code)
        values = [Signal(32, name=f"result_{i}") for i in range(len(results))]
        error, index, cycles, top_class = values
        good = Signal()
        with m.If(reader.end):
            m.d.sync += ended.eq(1)
        m.d.comb += [
            code.eq(Mux(reader.code != Code.OK, reader.code, Mux(error != 0, Code.CORE, Code.OK))),
            good.eq(code == Code.OK),
            answer.head.eq(Cat(code, Const(0, 8 - len(code)), error[:8],
                               Mux(good, Const(self.settings.output_bytes, 16), 0), index,
                               cycles)),
            answer.has_output.eq(good),
            self.led[4].eq(reader.busy), self.led[7].eq(1),
        ]

        def access(addresses: Sequence[int], after: str) -> None:
            """Make one access after the other, then go to the state ``after``."""
            m.d.comb += [master.start.eq(~begun), master.address.eq(Array(addresses)[step])]
            m.d.sync += begun.eq(1)
            with m.If(master.done):
                m.d.sync += [begun.eq(0), step.eq(step + 1)]
                with m.If(step == len(addresses) - 1):
                    m.d.sync += step.eq(0)
                    m.next = after

        with m.FSM():
            with m.State("Ready"):
                m.d.comb += drain.eq(1)
                m.d.sync += [value.eq(0) for value in values]
                with m.If(reader.begin):
                    m.next = "Arguments"
                with m.Elif(reader.end):
                    m.next = "Answer"
            with m.State("Arguments"):
                m.d.comb += [master.write.eq(1),
                             master.value.eq(Array(value for _, value in arguments)[step])]
                access([offset for offset, _ in arguments], "Run")
            with m.State("Run"):
                m.d.comb += self.led[5].eq(1)
                # Bit 1 of CTRL is ap_done.
                with m.If(master.done & ~master.result[1]):
                    m.d.sync += begun.eq(0)
                with m.Else():
                    access([control], "Results")
            with m.State("Results"):
                m.d.comb += drain.eq(1)
                with m.If(master.done):
                    m.d.sync += Array(values)[step].eq(master.result)
                access(results, "Wait")
            with m.State("Wait"):
                m.d.comb += drain.eq(1)
                with m.If(ended):
                    m.next = "Answer"
            with m.State("Answer"):
                m.d.comb += [drain.eq(1), answer.start.eq(1)]
                m.d.sync += self.led[6].eq(~good)
                with m.If(good):
                    m.d.sync += self.led[:4].eq(top_class)
                m.next = "Send"
            with m.State("Send"):
                m.d.comb += drain.eq(1)
                with m.If(answer.done):
                    m.d.comb += reader.clear.eq(1)
                    m.d.sync += ended.eq(0)
                    m.next = "Ready"
