# SPDX-License-Identifier: BSD-2-Clause
"""The control port: every AXI4-Lite access is answered once, and registers are what they say."""

from collections.abc import Iterable

from amaranth.hdl import Array, Cat, Const, Mux, Signal, Value

from rtl.config import CONFIGS
from rtl.registers import ARGUMENTS, REGISTERS, STATUS, constants, readback_words
from tests.formal.bench import Bench
from tests.formal.runner import STRUCTURE, Apart, Design, Proof

__all__ = ["PROOF"]

CONFIG = CONFIGS["nano"]
_CTRL, _ISR, _SOFT_RESET = (next(r.offset // 4 for r in REGISTERS if r.name == name)
                            for name in ("CTRL", "ISR", "SOFT_RESET"))


def build(bench: Bench, design: Design) -> None:
    """The registers, any host that keeps to the protocol, and a core that is in any state."""
    registers = design("rtl.control").ControlRegisters(CONFIG)
    inside = bench.add("registers", registers)
    m, bus = bench.m, registers.bus
    for name in ("awvalid", "awaddr", "wvalid", "wdata", "wstrb", "bready", "arvalid", "araddr",
                 "rready"):
        bench.drive(getattr(bus, name), name)
    for name in ("done", "idle", "aborting", "readback", *(r.port for r in STATUS)):
        bench.drive(getattr(registers, name), name)
    bench.offered("aw", bus.awvalid, bus.awready, bus.awaddr)
    bench.offered("w", bus.wvalid, bus.wready, Cat(bus.wdata, bus.wstrb))
    bench.offered("ar", bus.arvalid, bus.arready, bus.araddr)
    b_shown, r_shown = Signal(), Signal()
    m.d.comb += [b_shown.eq(bus.bvalid & ~bench.past(bus.bvalid & ~bus.bready, "b_waits")),
                 r_shown.eq(bus.rvalid & ~bench.past(bus.rvalid & ~bus.rready, "r_waits"))]

    # Writes: one address and one word are taken, in any order, and answered together
    at, word, strobe = Signal(10), Signal(32), Signal(4)
    addressed, given = Signal(), Signal()
    both = bench.past(addressed & given & ~bus.bvalid, "both")
    has_address, has_word = Signal(), Signal()  # of a write that is not answered yet
    m.d.comb += [has_address.eq(addressed & ~b_shown), has_word.eq(given & ~b_shown)]
    m.d.sync += [addressed.eq(has_address | (bus.awvalid & bus.awready)),
                 given.eq(has_word | (bus.wvalid & bus.wready))]
    with m.If(bus.awvalid & bus.awready):
        m.d.sync += at.eq(bus.awaddr[2:])
    with m.If(bus.wvalid & bus.wready):
        m.d.sync += [word.eq(bus.wdata), strobe.eq(bus.wstrb)]
    bench.always("one_write", ~((bus.awready & has_address) | (bus.wready & has_word)),
                 "no address and no word is taken while one of the same kind waits")
    bench.always("b_invented", ~b_shown | (addressed & given),
                 "no answer without an address and a word")
    bench.always("b_lost", ~both | b_shown, "both are answered in the next cycle that is free")
    bench.stable("b_stable", bus.bvalid, bus.bready, bus.bresp, "the answer stays until taken")
    bench.always("okay", ~(bus.bvalid & (bus.bresp != 0)) & ~(bus.rvalid & (bus.rresp != 0)),
                 "every answer is OKAY")

    # Reads: one at a time
    reading, read_at, age = Signal(), Signal(10), Signal(4)
    pending = Signal()
    m.d.comb += pending.eq(reading & ~r_shown)
    m.d.sync += [reading.eq(pending | (bus.arvalid & bus.arready)), age.eq(age + (age != 15))]
    with m.If(bus.arvalid & bus.arready):
        m.d.sync += [read_at.eq(bus.araddr[2:]), age.eq(0)]
    from_core = _any(_has(read_at, words) for words in readback_words(CONFIG))
    latency = Mux(from_core, 1 + registers.READBACK_CYCLES, 1)
    bench.always("one_read", ~(bus.arready & (pending | bus.rvalid)),
                 "no address is taken while a read waits for its answer")
    bench.always("r_invented", ~r_shown | reading, "no answer without an address")
    bench.always("r_lost", ~reading | (age < latency) | ((age == latency) & r_shown),
                 "every read is answered in its time")
    bench.stable("r_stable", bus.rvalid, bus.rready, Cat(bus.rdata, bus.rresp),
                 "the answer stays until taken, the same")

    # Arguments: any word of them
    words = [(address // 4, getattr(registers, r.port)[32 * i:32 * i + 32])
             for r in ARGUMENTS for i, address in enumerate(r.words)]
    index = bench.constant(range(len(words)), "index")
    bench.assume(index < len(words))
    address, value = Signal(10), Signal(32)
    m.d.comb += [address.eq(Array(Const(a, 10) for a, _ in words)[index]),
                 value.eq(Array(v for _, v in words)[index])]
    was_idle = bench.past(registers.idle, "idle")
    initial = Array(Const(r.reset >> 32 * i & 0xffff_ffff, 32)
                    for r in ARGUMENTS for i in range(r.width // 32))[index]
    changed, last, expected = Signal(), Signal(32), Signal(32)
    kept = Mux(changed, last, initial)
    lanes = Cat(s.replicate(8) for s in strobe)
    written = b_shown & (at == address) & was_idle
    m.d.comb += expected.eq(Mux(written, (word & lanes) | (kept & ~lanes), kept))
    m.d.sync += [changed.eq(1), last.eq(expected)]
    bench.always("arguments_kept", value == expected,
                 "an argument is what was written to it while idle, lane by lane, and else what it"
                 " was, from its reset value on")

    # What is read: arguments, constants, status, zeros, and from the core
    fixed = constants(CONFIG)
    before = bench.past(value, "value")
    bench.always("argument_read", ~(r_shown & (read_at == address)) | (bus.rdata == before),
                 "an argument reads as it is")
    for name, number in fixed.items():
        at_word = next(r.offset // 4 for r in REGISTERS if r.name == name)
        bench.always(f"constant_{name.lower()}", ~(r_shown & (read_at == at_word))
                     | (bus.rdata == number), f"{name} reads as configured")
    for register in STATUS:
        port = getattr(registers, register.port)
        for i, offset in enumerate(register.words):
            shows = bench.past(Value.cast(port)[32 * i:32 * i + 32], f"{register.port}{i}")
            bench.always(f"status_{register.port}{i}", ~(r_shown & (read_at == offset // 4))
                         | (bus.rdata == shows), f"{register.name} reads as it is")
    mapped = _any(_has(read_at, range(r.words.start // 4, r.words.stop // 4))
                  for r in REGISTERS)
    bench.always("unmapped_zero", ~r_shown | mapped | (bus.rdata == 0), "elsewhere zero is read")
    came = bench.past(registers.readback, "readback")
    bench.always("core_read", ~(r_shown & from_core) | (bus.rdata == came),
                 "what is read of the core is what it says in the last cycle")
    bench.always("core_address", ~reading | r_shown | (registers.readback_at == read_at),
                 "the core sees the address from the first cycle of the read to the last")

    # Start, soft reset, and the end of a run
    writes = Signal()
    m.d.comb += writes.eq(addressed & given & ~b_shown & ~bus.bvalid)
    one = word[0] & strobe[0]
    bench.always("start_right", registers.start
                 == (writes & (at == _CTRL) & one & registers.idle),
                 "a run is started by a one in ap_start while idle, and by nothing else")
    bench.always("soft_reset_right", registers.soft_reset
                 == (writes & (at == _SOFT_RESET) & one),
                 "a soft reset is begun by a one in SOFT_RESET, and by nothing else")
    ended = Signal()
    told_now = reading & (age == 0) & (read_at == _CTRL)
    m.d.sync += ended.eq((ended & ~told_now) | registers.done)
    shows_ended = bench.past(ended, "ended")
    bench.always("end_told_once", ~(r_shown & (read_at == _CTRL)) | (bus.rdata[1] == shows_ended),
                 "ap_done reads one after a run has ended, until it has been read")

    # Why
    bench.always("writes_seen", (inside["have_address"] == has_address)
                 & (inside["have_data"] == has_word), "what waits to be written", lemma=True)
    bench.always("write_known", (~has_address | (inside["write_at"] == at))
                 & (~has_word | ((inside["write_data"] == word) & (inside["strobe"] == strobe))),
                 "and where", lemma=True)
    waits = inside["waits"]
    bench.always("read_seen", (inside["read"] == (pending & (age == 0)))
                 & (waits == (pending & (age != 0))) & (~waits | from_core)
                 & ~(pending & bus.rvalid)
                 & (~waits | (inside["timer"] + age == registers.READBACK_CYCLES)),
                 "what waits to be read", lemma=True)
    bench.always("read_known", ~pending | (inside["read_at"] == read_at), "and where", lemma=True)
    bench.always("end_seen", inside["finished"] == ended.replicate(2), "the end", lemma=True)

    waited = bench.past(given & ~addressed, "word_waited")
    bench.cover("word_first", bench.past(waited, "word_first") & b_shown, "data before address")
    bench.cover("both_wait", bus.bvalid & has_address & has_word, "a write behind another")
    bench.cover("argument", written & (strobe == 0xf) & (word == 0x12345678), "a write")
    bench.cover("core", r_shown & from_core & (bus.rdata == 0x12345678), "a read of the core")
    bench.cover("end", r_shown & (read_at == _CTRL) & bus.rdata[1], "a run that has ended")
    bench.cover("interrupt", registers.interrupt, "an interrupt")


def _has(value: Value, words: range) -> Value:
    """Return whether ``value`` is in ``words``."""
    return (value >= words.start) & (value < words.stop)


def _any(conditions: Iterable[Value]) -> Value:
    return Cat(*conditions).any()


PROOF = Proof("control_port", build,
              depths={"prove": 2, STRUCTURE: 1, "cover": 14},
              quick={"prove": 2},
              apart=(Apart(("bus__bvalid", "bus__rvalid"), ("bready", "rready")),
                     Apart(("bus__awready", "bus__wready", "bus__arready"),
                           ("awvalid", "wvalid", "arvalid"))))
