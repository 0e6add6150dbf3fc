# SPDX-License-Identifier: BSD-2-Clause
"""The control port: registers behind AXI4-Lite, and the controller of a run."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.axi import AXILiteSignature
from rtl.config import Config
from rtl.isa import Error, Stall
from rtl.registers import (
    ADDRESS_BITS,
    ARGUMENTS,
    READBACK,
    REGISTERS,
    STATUS,
    WORD_ADDRESS_BITS,
    Register,
    RunState,
    constants,
    readback_words,
)
from rtl.watchdog import Watchdog

__all__ = ["Control", "ControlRegisters", "RunControl"]


def _readback_ports(config: Config) -> dict[str, wiring.Member]:
    return {"readback_at": Out(WORD_ADDRESS_BITS), "readback": In(32)} if config.pruning else {}


def _ports(registers: tuple[Register, ...], flow: wiring.Flow) -> dict[str, wiring.Member]:
    return {r.port: flow(r.width, init=r.reset) for r in registers}


class ControlRegisters(wiring.Component):
    """The registers of ``rtl.registers`` behind an AXI4-Lite slave.

    Contract: addresses and data of writes come in any order. Reads of unmapped addresses give 0,
    writes to them and to arguments during a run change nothing; every answer is OKAY. No ready
    depends on a valid in the same cycle.

    Latency: a read is answered two cycles after its address, from the core ``READBACK_CYCLES``
    later; a write one cycle after the later of address and data has been taken.

    Resources: 384 flip-flops of arguments, a multiplexer of one word per register.

    Parameters
    ----------
    config
        Sizes shown in the registers CONFIG and LIMITS.

    Members
    -------
    bus
        AXI4-Lite slave.
    interrupt
        High while an enabled bit of ISR is set.
    start, soft_reset
        Pulses: a one was written to ap_start while idle, to SOFT_RESET.
    done
        Pulse at the end of a run.
    idle, aborting
        No run or reset in progress; a soft reset in progress.
    model_addr, ...
        Out: value of every argument.
    status, ...
        In: value of every status register.
    readback_at
        Out: word address that is read, which stays until the next read. With ``config.pruning``.
    readback
        In: what is there, where it is one of ``readback_words``; ``READBACK_CYCLES`` cycles later,
        or sooner.
    """

    #: A memory that is read, and up to three registers on the way there and back.
    READBACK_CYCLES = 4

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            **_readback_ports(config),
            "bus": In(AXILiteSignature(addr_bits=ADDRESS_BITS)), "interrupt": Out(1),
            "start": Out(1), "soft_reset": Out(1), "done": In(1), "idle": In(1), "aborting": In(1),
            **_ports(ARGUMENTS, Out), **_ports(STATUS, In),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        write, write_at, write_data, strobe = self._build_write_port(m)
        read, read_at, read_data = self._build_read_port(m)
        bits = Cat(s.replicate(8) for s in strobe)

        held = [r for r in REGISTERS if r not in READBACK]
        gie = Signal()
        ier = Signal(2)
        isr = Signal(2)
        finished = Signal(2)  # ap_done, ap_ready: as long as nothing is pipelined, the same event
        stored = {"GIE": gie, "IER": ier} | {r.name: getattr(self, r.port) for r in ARGUMENTS}
        values: dict[str, Value] = {
            **stored,
            "CTRL": Cat(~self.idle, finished[0], self.idle, finished[1]),
            "ISR": isr,
            "SOFT_RESET": self.aborting,
            **{name: Const(value, 32) for name, value in constants(self.config).items()},
            **{r.name: getattr(self, r.port) for r in STATUS},
        }

        # Writes
        control_write = Signal()
        toggle = Signal(2)
        with m.If(write):
            with m.Switch(write_at):
                for register in held:
                    target = stored.get(register.name)
                    for i, at in enumerate(register.words):
                        with m.Case(at // 4):
                            if register.name == "CTRL":
                                m.d.comb += control_write.eq(write_data[0] & strobe[0])
                            elif register.name == "ISR":
                                m.d.comb += toggle.eq(Mux(strobe[0], write_data[:2], 0))
                            elif register.name == "SOFT_RESET":
                                m.d.comb += self.soft_reset.eq(write_data[0] & strobe[0])
                            elif target is not None:
                                word = target[32 * i:32 * i + 32]
                                locked = ~self.idle if register in ARGUMENTS else Const(0)
                                with m.If(~locked):
                                    m.d.sync += word.eq((write_data & bits) | (word & ~bits))
        m.d.comb += self.start.eq(control_write & self.idle)

        # Reads; reading CTRL clears what says that a run has ended, unless one ends just now
        clear = Signal()
        with m.If(read):
            m.d.sync += read_data.eq(0)
            with m.Switch(read_at):
                for register in held:
                    for i, at in enumerate(register.words):
                        with m.Case(at // 4):
                            value = values[register.name]
                            m.d.sync += read_data.eq(value[32 * i:32 * i + 32])
                            if register.name == "CTRL":
                                m.d.comb += clear.eq(1)
        m.d.sync += [
            finished.eq((finished & ~clear.replicate(2)) | self.done.replicate(2)),
            isr.eq((isr ^ toggle) | (self.done.replicate(2) & ier)),
            self.interrupt.eq(gie & (isr & ier).any()),
        ]
        return m

    def _build_write_port(self, m: Module) -> tuple[Signal, Signal, Signal, Signal]:
        """Return (enable, word address, data, byte strobes) of writes."""
        bus = self.bus
        have_address = Signal()
        have_data = Signal()
        write = Signal()
        address = Signal(WORD_ADDRESS_BITS, reset_less=True, name="write_at")
        value = Signal(32, reset_less=True, name="write_data")
        strobe = Signal(4, reset_less=True)
        m.d.comb += [bus.awready.eq(~have_address), bus.wready.eq(~have_data),
                     write.eq(have_address & have_data & ~bus.bvalid)]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [have_address.eq(1), address.eq(bus.awaddr[2:])]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [have_data.eq(1), value.eq(bus.wdata), strobe.eq(bus.wstrb)]
        with m.If(write):
            m.d.sync += [have_address.eq(0), have_data.eq(0), bus.bvalid.eq(1)]
        with m.Elif(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        return write, address, value, strobe

    def _build_read_port(self, m: Module) -> tuple[Signal, Signal, Signal]:
        """Return (enable, word address, register of the answer) of reads."""
        bus = self.bus
        read = Signal()
        waits = Signal()    # for the core
        answered = Signal()
        address = Signal(WORD_ADDRESS_BITS, reset_less=True, name="read_at")
        value = Signal(32, reset_less=True, name="read_data")
        m.d.comb += [
            bus.arready.eq(~read & ~waits & ~bus.rvalid),
            bus.rdata.eq(value),
            answered.eq(read),
        ]
        m.d.sync += read.eq(bus.arvalid & bus.arready)
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += address.eq(bus.araddr[2:])
        if self.config.pruning:
            inside = Signal()
            timer = Signal(range(self.READBACK_CYCLES))
            m.d.comb += [
                self.readback_at.eq(address),
                inside.eq(Cat((address >= words.start) & (address < words.stop)
                              for words in readback_words(self.config)).any()),
            ]
            with m.If(read & inside):
                m.d.comb += answered.eq(0)
                m.d.sync += [waits.eq(1), timer.eq(self.READBACK_CYCLES - 1)]
            with m.Elif(waits):
                m.d.sync += timer.eq(timer - 1)
                with m.If(timer == 0):
                    m.d.comb += answered.eq(1)
                    m.d.sync += [waits.eq(0), value.eq(self.readback)]
        with m.If(answered):
            m.d.sync += bus.rvalid.eq(1)
        with m.Elif(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        return read, address, value


class RunControl(wiring.Component):
    """Starts and ends runs, so that each begins with a core after reset and an idle bus.

    ``IDLE -> RESET -> RUN -> DRAIN -> IDLE``; a soft reset goes ``-> DRAIN -> RESET -> IDLE``.
    A run in which nothing moves for ``timeout`` cycles ends with the error of what it waits for. If
    its transfers do not end in that time either, ``done`` comes and ``status`` says that it is
    late, but what follows DRAIN waits until they do.

    Contract: the core, masters included, is reset before every run, and only while the masters are
    idle. The run ends when the core is done, or with the first error; a bus error wins over one of
    the core in the same cycle, as it explains it. ``core_reset``, ``stop`` and ``masters_idle`` may
    each pass through registers, ``SETTLE_CYCLES - 2`` at most for the way there and back.

    Latency: ``RESET_CYCLES + SETTLE_CYCLES + 1`` cycles from ``start`` to ``core_start``.

    Resources: counters of 64 + 3 * 32 bits, and of 32 bits per cause of a stall.

    Parameters
    ----------
    config
        Number and width of the memory ports.

    Members
    -------
    start, soft_reset
        Pulses; ``start`` only while ``idle``.
    timeout
        Cycles without progress.
    done
        Pulse at the end of a run that was not aborted.
    idle, aborting
        No run or reset in progress; a soft reset in progress.
    core_reset
        Resets the core and the masters.
    core_start
        Pulse: run.
    stop
        For the masters: begin nothing new.
    masters_idle
        All masters are idle.
    core_done
        The core has finished, and all it wrote is acknowledged. Ignored outside of a run.
    core_error, core_error_index
        Error, if any; instruction that failed or is in execution.
    core_moves, core_hang, core_hang_index
        There is progress; the error if there is none any more, and its instruction.
    read_error, write_error
        A read, a write of any master has failed.
    stall
        What the issue stage does in this cycle.
    read_beat, write_beat
        One bit per port: a beat was read, written.
    core_top_class, core_tokens, core_images_done
        Results, when ``core_done``; images so far.
    status, ...
        Out: value of every status register.
    """

    RESET_CYCLES = 2
    SETTLE_CYCLES = 6

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "start": In(1), "soft_reset": In(1), "done": Out(1), "idle": Out(1), "aborting": Out(1),
            "timeout": In(32), **self.core_ports(config), **_ports(STATUS, Out),
        })

    @staticmethod
    def core_ports(config: Config) -> dict[str, wiring.Member]:
        """Ports towards the core."""
        return {
            "core_reset": Out(1), "core_start": Out(1), "stop": Out(1), "masters_idle": In(1),
            "core_done": In(1), "core_error": In(Error), "core_error_index": In(16),
            "core_moves": In(1), "core_hang": In(Error), "core_hang_index": In(16),
            "read_error": In(1), "write_error": In(1), "stall": In(Stall),
            "read_beat": In(config.ports), "write_beat": In(config.ports),
            "core_top_class": In(16), "core_tokens": In(16), "core_images_done": In(32),
        }

    def elaborate(self, platform: object) -> Module:
        m = Module()
        begin = Signal()    # of a run
        running = Signal()
        draining = Signal()
        state, late = Signal(RunState), Signal()
        told = Signal()     # that the run has ended
        timer = Signal(range(self.RESET_CYCLES + self.SETTLE_CYCLES))
        settled = Signal()
        failure = Signal(Error)
        core_failure = Signal()
        quiet, core_done = Signal(), Signal()
        core_error, core_index = Signal(Error), Signal(16)
        hang, hang_index = Signal(Error), Signal(16)
        m.submodules.watchdog = watchdog = Watchdog()

        m.d.comb += [
            self.stop.eq(~running),
            self.status.eq(Cat(state, late)),
            settled.eq(timer == self.SETTLE_CYCLES - 1),
            core_failure.eq(core_error != Error.NONE),
            failure.eq(Mux(self.read_error, Error.BUS_READ,
                           Mux(self.write_error, Error.BUS_WRITE, core_error))),
            watchdog.timeout.eq(self.timeout),
        ]
        # Nothing that comes from far is looked at in the cycle in which it comes.
        m.d.sync += [
            quiet.eq(self.masters_idle),
            core_done.eq(self.core_done),
            core_error.eq(self.core_error),
            core_index.eq(self.core_error_index),
            hang.eq(self.core_hang),
            hang_index.eq(self.core_hang_index),
            watchdog.moves.eq(Mux(running, self.core_moves, ~(draining & settled))
                              | self.read_beat.any() | self.write_beat.any()),
        ]
        m.d.sync += self.core_start.eq(0)
        with m.If(self.soft_reset):
            m.d.sync += self.aborting.eq(1)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += state.eq(RunState.IDLE)
                m.d.sync += [timer.eq(0), told.eq(0)]
                m.d.comb += [self.idle.eq(~self.aborting), begin.eq(self.start)]
                with m.If(self.aborting | self.start):
                    m.next = "RESET"
            with m.State("RESET"):
                m.d.comb += [state.eq(RunState.RESET),
                             self.core_reset.eq(timer < self.RESET_CYCLES)]
                m.d.sync += timer.eq(timer + 1)
                with m.If(timer == self.RESET_CYCLES + self.SETTLE_CYCLES - 1):
                    m.d.sync += timer.eq(0)
                    with m.If(self.aborting):
                        m.d.sync += self.aborting.eq(0)
                        m.next = "IDLE"
                    with m.Else():
                        m.d.sync += self.core_start.eq(1)
                        m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += [state.eq(RunState.RUN), running.eq(1)]
                with m.If(self.read_error | self.write_error | core_failure):
                    m.d.sync += [self.error.eq(failure), self.error_index.eq(core_index)]
                    m.next = "DRAIN"
                with m.Elif(core_done):
                    m.d.sync += [self.top_class.eq(self.core_top_class),
                                 self.tokens.eq(self.core_tokens)]
                    m.next = "DRAIN"
                with m.Elif(watchdog.hung):
                    m.d.sync += [self.error.eq(hang), self.error_index.eq(hang_index)]
                    m.next = "DRAIN"
                with m.If(self.aborting):
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.comb += [state.eq(RunState.DRAIN), draining.eq(1)]
                with m.If(~settled):
                    m.d.sync += timer.eq(timer + 1)
                # Answers that are still to come may be errors
                with m.If((self.error == Error.NONE.value) & (self.read_error | self.write_error)):
                    m.d.sync += [self.error.eq(failure), self.error_index.eq(core_index)]
                with m.If(settled & quiet):
                    m.d.sync += [timer.eq(0), late.eq(0)]
                    with m.If(self.aborting):
                        m.next = "RESET"
                    with m.Else():
                        m.d.comb += self.done.eq(~told)
                        m.next = "IDLE"
                with m.Elif(settled & watchdog.hung & ~late):
                    m.d.sync += late.eq(1)
                    with m.If(self.error == Error.NONE.value):
                        m.d.sync += self.error.eq(Error.HANG_DRAIN)
                    with m.If(~self.aborting):
                        m.d.comb += self.done.eq(1)
                        m.d.sync += told.eq(1)
        with m.If(running):
            m.d.sync += self.images_done.eq(self.core_images_done)
        with m.If(begin):
            m.d.sync += [self.error.eq(0), self.error_index.eq(0), self.top_class.eq(0),
                         self.tokens.eq(0), self.images_done.eq(0)]
        self._build_counters(m, begin, running, draining)
        return m

    def _build_counters(self, m: Module, begin: Signal, running: Signal, draining: Signal) -> None:
        """Count from the start of a run to its end; what is counted is registered first."""
        shift = ceil_log2(self.config.port_bits // 8)
        for pulses, register in ((self.read_beat, self.bytes_read),
                                 (self.write_beat, self.bytes_written)):
            name = "read" if register is self.bytes_read else "written"
            beats = Signal(range(len(pulses) + 1), name=f"{name}_now")
            total = Signal(32 - shift, name=f"{name}_beats")
            m.d.comb += register.eq(Cat(Const(0, shift), total))
            m.d.sync += [beats.eq(Mux(running | draining, sum(pulses), 0)),
                         total.eq(Mux(begin, 0, total + beats))]

        counting = Signal()
        stall = Signal(Stall)
        m.d.sync += [counting.eq(running), stall.eq(self.stall)]
        with m.If(begin):
            m.d.sync += self.cycles.eq(0)
        with m.Elif(counting):
            m.d.sync += self.cycles.eq(self.cycles + 1)
        for cause in Stall:
            counter = getattr(self, f"stall_{cause.name.lower()}")
            with m.If(begin):
                m.d.sync += counter.eq(0)
            with m.Elif(counting & (stall == cause)):
                m.d.sync += counter.eq(counter + 1)


class Control(wiring.Component):
    """Registers and run controller, connected.

    Parameters
    ----------
    config
        Configuration of the accelerator.

    Members
    -------
    bus, interrupt, model_addr, ..., readback_at, readback
        As of ``ControlRegisters``.
    core_reset, core_start, ...
        The ports of ``RunControl.core_ports``.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__({
            "bus": In(AXILiteSignature(addr_bits=ADDRESS_BITS)), "interrupt": Out(1),
            **_ports(ARGUMENTS, Out), **RunControl.core_ports(config), **_readback_ports(config),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.registers = registers = ControlRegisters(self.config)
        m.submodules.run = run = RunControl(self.config)
        wiring.connect(m, wiring.flipped(self.bus), registers.bus)
        m.d.comb += [
            self.interrupt.eq(registers.interrupt),
            run.start.eq(registers.start),
            run.soft_reset.eq(registers.soft_reset),
            run.timeout.eq(registers.timeout),
            registers.done.eq(run.done),
            registers.idle.eq(run.idle),
            registers.aborting.eq(run.aborting),
            *(getattr(self, r.port).eq(getattr(registers, r.port)) for r in ARGUMENTS),
            *(getattr(registers, r.port).eq(getattr(run, r.port)) for r in STATUS),
        ]
        if self.config.pruning:
            m.d.comb += [
                self.readback_at.eq(registers.readback_at),
                registers.readback.eq(self.readback),
            ]
        for name, member in RunControl.core_ports(self.config).items():
            outer, inner = getattr(self, name), getattr(run, name)
            m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)
        return m
