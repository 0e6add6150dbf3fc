# SPDX-License-Identifier: BSD-2-Clause
"""AXI4 and AXI4-Lite signatures, and masters that read and write memory in bursts."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.fifo import Fifo

__all__ = ["AXI4ReadSignature", "AXI4Signature", "AXI4WriteSignature", "AXILiteSignature",
           "BEATS_BITS", "MAX_BEATS", "READS_OUTSTANDING", "ReadMaster", "Splitter",
           "WRITES_OUTSTANDING", "WriteMaster", "connect_flat", "flat_ports", "request_layout",
           "write_layout"]

#: Bits of the number of beats of one request.
BEATS_BITS = 24

#: Longest burst of the masters, and bursts that they have under way, unless told otherwise.
MAX_BEATS = 16
READS_OUTSTANDING = 8
WRITES_OUTSTANDING = 4

INCR = 0b01
#: Normal memory, non-cacheable, bufferable: interconnects may merge and resize bursts.
CACHE = 0b0011

_Members = dict[str, wiring.Member]


def _address_channel(prefix: str, addr_bits: int, id_bits: int) -> _Members:
    return {f"{prefix}valid": Out(1), f"{prefix}ready": In(1), f"{prefix}id": Out(id_bits),
            f"{prefix}addr": Out(addr_bits), f"{prefix}len": Out(8), f"{prefix}size": Out(3),
            f"{prefix}burst": Out(2), f"{prefix}cache": Out(4), f"{prefix}prot": Out(3)}


def _read_members(addr_bits: int, data_bits: int, id_bits: int) -> _Members:
    return {**_address_channel("ar", addr_bits, id_bits), "rvalid": In(1), "rready": Out(1),
            "rid": In(id_bits), "rdata": In(data_bits), "rresp": In(2), "rlast": In(1)}


def _write_members(addr_bits: int, data_bits: int, id_bits: int) -> _Members:
    return {**_address_channel("aw", addr_bits, id_bits), "wvalid": Out(1), "wready": In(1),
            "wdata": Out(data_bits), "wstrb": Out(data_bits // 8), "wlast": Out(1),
            "bvalid": In(1), "bready": Out(1), "bid": In(id_bits), "bresp": In(2)}


class AXI4ReadSignature(wiring.Signature):
    """Channels AR and R of AXI4, seen from the master. LOCK, QOS and REGION are left out."""

    def __init__(self, *, addr_bits: int, data_bits: int, id_bits: int = 1) -> None:
        super().__init__(_read_members(addr_bits, data_bits, id_bits))


class AXI4WriteSignature(wiring.Signature):
    """Channels AW, W and B of AXI4, seen from the master. LOCK, QOS and REGION are left out."""

    def __init__(self, *, addr_bits: int, data_bits: int, id_bits: int = 1) -> None:
        super().__init__(_write_members(addr_bits, data_bits, id_bits))


class AXI4Signature(wiring.Signature):
    """All five channels of AXI4, seen from the master. LOCK, QOS and REGION are left out."""

    def __init__(self, *, addr_bits: int, data_bits: int, id_bits: int = 1) -> None:
        super().__init__(_read_members(addr_bits, data_bits, id_bits)
                         | _write_members(addr_bits, data_bits, id_bits))


class AXILiteSignature(wiring.Signature):
    """AXI4-Lite of 32 data bits, seen from the master. PROT is left out."""

    def __init__(self, *, addr_bits: int) -> None:
        super().__init__({
            "awvalid": Out(1), "awready": In(1), "awaddr": Out(addr_bits),
            "wvalid": Out(1), "wready": In(1), "wdata": Out(32), "wstrb": Out(4),
            "bvalid": In(1), "bready": Out(1), "bresp": In(2),
            "arvalid": Out(1), "arready": In(1), "araddr": Out(addr_bits),
            "rvalid": In(1), "rready": Out(1), "rdata": In(32), "rresp": In(2),
        })


def flat_ports(prefix: str, signature: wiring.Signature) -> _Members:
    """Return the members of ``signature`` as ports ``<prefix>_<member>`` of a top component.

    For a slave port pass ``signature.flip()``.
    """
    return {f"{prefix}_{name}": member for name, member in signature.members.items()}


def connect_flat(m: Module, top: wiring.Component, prefix: str,
                 interface: wiring.PureInterface) -> None:
    """Connect ``interface``, a member of an inner component, to the ports of ``flat_ports``.

    Channels that ``interface`` lacks but ``top`` has are left to the caller.
    """
    for name, member in interface.signature.members.items():
        port, inner = getattr(top, f"{prefix}_{name}"), getattr(interface, name)
        m.d.comb += port.eq(inner) if member.flow is wiring.Out else inner.eq(port)


def request_layout(addr_bits: int) -> data.StructLayout:
    """Request of ``beats`` beats from the byte ``address``, a multiple of the beat size, on."""
    return data.StructLayout({"address": addr_bits, "beats": BEATS_BITS})


def write_layout(data_bits: int) -> data.StructLayout:
    """One beat to be written; bytes whose bit of ``strobe`` is clear keep their value."""
    return data.StructLayout({"data": data_bits, "strobe": data_bits // 8})


def _check(data_bits: int, max_beats: int, outstanding: int) -> None:
    if data_bits not in (32, 64, 128, 256, 512):
        raise ValueError(f"data_bits is {data_bits}, must be 32, 64, 128, 256 or 512")
    limit = min(256, 4096 * 8 // data_bits)
    if not 2 <= max_beats <= limit or max_beats & (max_beats - 1):
        raise ValueError(f"max_beats is {max_beats}, must be a power of two from 2 to {limit}")
    if outstanding < 1:
        raise ValueError(f"outstanding is {outstanding}, must be at least 1")


class Splitter(wiring.Component):
    """Splits requests into bursts.

    ``length = min(remaining, max_beats - address % max_beats)``, all in beats: every burst but the
    first starts on a multiple of ``max_beats``, so none crosses 4 KiB.

    Contract: a request of 0 beats gives no burst. The low address bits inside a beat are ignored.

    Latency: ``LATENCY`` cycles from a request to its first burst; then one burst per cycle.

    Resources: an incrementer of the address, a subtractor of 24 bits.

    Parameters
    ----------
    addr_bits, data_bits
        Widths of the bus.
    max_beats
        Longest burst, a power of two.

    Members
    -------
    i
        Stream of ``request_layout(addr_bits)``.
    o
        Stream of bursts: byte ``address``, ``last``: beats less one.
    busy
        A request is not yet split and taken.
    """

    LATENCY = 2

    def __init__(self, *, addr_bits: int, data_bits: int, max_beats: int) -> None:
        self.offset_bits = ceil_log2(data_bits // 8)
        self.max_beats = max_beats
        self.shape = data.StructLayout({"address": addr_bits, "last": ceil_log2(max_beats)})
        super().__init__({"i": In(stream.Signature(request_layout(addr_bits))),
                          "o": Out(stream.Signature(self.shape)), "busy": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low = ceil_log2(self.max_beats)
        address = Signal(len(self.i.p.address) - self.offset_bits, reset_less=True)  # in beats
        active = Signal()  # something remains
        remaining = Signal(BEATS_BITS, reset_less=True)  # beats less one
        take = Signal()
        room = Signal(low)  # beats less one up to the next multiple of max_beats
        ends = Signal()
        m.d.comb += [
            self.busy.eq(active | self.o.valid),
            self.i.ready.eq(~active),
            take.eq(active & (~self.o.valid | self.o.ready)),
            room.eq(~address[:low]),
            ends.eq(remaining <= room),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [address.eq(self.i.p.address >> self.offset_bits),
                         remaining.eq(self.i.p.beats - 1), active.eq(self.i.p.beats != 0)]
        with m.If(take):
            m.d.sync += [
                self.o.valid.eq(1),
                self.o.p.address.eq(Cat(Const(0, self.offset_bits), address)),
                self.o.p.last.eq(Mux(ends, remaining, room)),
                address.eq(Cat(Const(0, low), address[low:] + 1)),
                remaining.eq(remaining - room - 1),
                active.eq(~ends),
            ]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m


class ReadMaster(wiring.Component):
    """Reads memory for several clients, each with its own requests and its own queue of data.

    Contract: clients are served in turn, burst by burst. A burst is asked for only when its client
    has room for all of it, so that read data is always accepted: no client can block another. Data
    of one client arrive in the order of its requests. After ``stop`` nothing new is asked for; what
    was asked for still arrives. ``error`` stays until reset. Reset only while ``idle``.

    Latency: ``LATENCY`` cycles from a request to ``arvalid``. One beat per cycle, without a gap
    between bursts, as long as the memory answers within the room of the client and within
    ``outstanding`` bursts.

    Resources: a ``Splitter`` and a ``Fifo`` of ``depths[i]`` beats per client.

    Parameters
    ----------
    data_bits, addr_bits
        Widths of the bus.
    depths
        Room of every client in beats, at least ``max_beats``.
    outstanding
        Bursts asked for and not yet arrived.
    max_beats
        Longest burst, a power of two; AXI3 ports allow 16.

    Members
    -------
    request
        Per client, stream of ``request_layout(addr_bits)``.
    data
        Per client, stream of beats.
    axi
        Memory.
    hold
        Per client: ask for nothing more for it, for now.
    stop
        Ask for nothing more.
    idle
        Nothing is under way; without ``stop``, also no request waits.
    error
        A beat came with SLVERR or DECERR.
    beat
        Pulse for every beat that has arrived.
    """

    LATENCY = 4

    def __init__(self, *, data_bits: int, depths: Sequence[int],
                 outstanding: int = READS_OUTSTANDING, max_beats: int = MAX_BEATS,
                 addr_bits: int = 64) -> None:
        _check(data_bits, max_beats, outstanding)
        if not depths:
            raise ValueError("depths has 0 clients, must have at least 1")
        for i, depth in enumerate(depths):
            if depth < max_beats:
                raise ValueError(f"depth of client {i} is {depth}, must be at least {max_beats}")
        self.data_bits = data_bits
        self.addr_bits = addr_bits
        self.depths = tuple(depths)
        self.outstanding = outstanding
        self.max_beats = max_beats
        n = len(self.depths)
        super().__init__({
            "request": In(stream.Signature(request_layout(addr_bits))).array(n),
            "data": Out(stream.Signature(data_bits)).array(n),
            "axi": Out(AXI4ReadSignature(addr_bits=addr_bits, data_bits=data_bits)),
            "hold": In(n), "stop": In(1), "idle": Out(1), "error": Out(1), "beat": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        n = len(self.depths)
        grant = Signal(n)

        # Per client: next burst, and whether there is room for it. The answer is registered; a
        # stale one is safe, as room only shrinks when this client is granted.
        bursts = []
        enough = Signal(n)
        busy = Signal(n)
        for i in range(n):
            m.submodules[f"splitter_{i}"] = splitter = Splitter(
                addr_bits=self.addr_bits, data_bits=self.data_bits, max_beats=self.max_beats)
            wiring.connect(m, wiring.flipped(self.request[i]), splitter.i)
            burst = splitter.o
            bursts.append(burst)
            room = Signal(range(self.depths[i] + 1), init=self.depths[i], name=f"room_{i}")
            m.d.comb += [burst.ready.eq(grant[i]), busy[i].eq(splitter.busy)]
            m.d.sync += [
                enough[i].eq(burst.valid & ~grant[i] & ~self.hold[i] & (room > burst.p.last)),
                room.eq(room + (self.data[i].valid & self.data[i].ready)
                        - Mux(grant[i], burst.p.last + 1, 0)),
            ]

        # Round robin: the first client after the one that was served last
        served = Signal(range(max(2, n)))
        chosen = Signal.like(served)
        with m.Switch(served):
            for last in range(n):
                with m.Case(last):
                    for i in reversed(range(1, n + 1)):
                        client = (last + i) % n
                        with m.If(enough[client]):
                            m.d.comb += chosen.eq(client)

        # Address channel
        axi = self.axi
        count = Signal(range(self.outstanding + 1))
        issue = Signal()
        m.d.comb += [
            issue.eq(enough.any() & (~axi.arvalid | axi.arready) & (count != self.outstanding)
                     & ~self.stop),
            grant.eq(issue << chosen),
            axi.arsize.eq(ceil_log2(self.data_bits // 8)),
            axi.arburst.eq(INCR),
            axi.arcache.eq(CACHE),
        ]
        with m.If(issue):
            m.d.sync += [axi.arvalid.eq(1), served.eq(chosen)]
            with m.Switch(chosen):
                for i, burst in enumerate(bursts):
                    with m.Case(i):
                        m.d.sync += [axi.araddr.eq(burst.p.address), axi.arlen.eq(burst.p.last)]
        with m.Elif(axi.arready):
            m.d.sync += axi.arvalid.eq(0)

        # Data channel: registered, then routed to the owner of the burst
        arrived = Signal()
        last = Signal(reset_less=True)
        beat = Signal(self.data_bits, reset_less=True)
        m.d.comb += [axi.rready.eq(1), self.beat.eq(arrived)]
        m.d.sync += [arrived.eq(axi.rvalid), last.eq(axi.rlast), beat.eq(axi.rdata)]
        with m.If(axi.rvalid & axi.rresp[1]):
            m.d.sync += self.error.eq(1)

        complete = Signal()
        m.d.comb += complete.eq(arrived & last)
        m.d.sync += count.eq(count + issue - complete)
        m.submodules.owners = owners = SyncFIFO(width=len(chosen), depth=self.outstanding)
        m.d.comb += [owners.w_data.eq(chosen), owners.w_en.eq(issue), owners.r_en.eq(complete)]
        for i, depth in enumerate(self.depths):
            m.submodules[f"fifo_{i}"] = fifo = Fifo(self.data_bits, depth=depth)
            m.d.comb += [fifo.i.valid.eq(arrived & (owners.r_data == i)), fifo.i.payload.eq(beat)]
            wiring.connect(m, fifo.o, wiring.flipped(self.data[i]))

        m.d.comb += self.idle.eq((count == 0) & (self.stop | ~busy.any()))
        return m


class WriteMaster(wiring.Component):
    """Writes a stream of beats to memory.

    Contract: beats go to the addresses of the requests in order. A burst that has begun when
    ``stop`` rises is completed with beats that write nothing. ``error`` stays until reset.
    Reset only while ``idle``.

    Latency: ``LATENCY`` cycles from a request to ``awvalid``; one cycle between bursts.

    Resources: a ``Splitter``, registers on AW and W.

    Parameters
    ----------
    data_bits, addr_bits
        Widths of the bus.
    outstanding
        Bursts begun and not yet acknowledged.
    max_beats
        Longest burst, a power of two; AXI3 ports allow 16.

    Members
    -------
    request
        Stream of ``request_layout(addr_bits)``.
    data
        Stream of ``write_layout(data_bits)``, as many beats as are requested.
    axi
        Memory.
    stop
        Begin no burst, and take no data.
    idle
        Every burst begun is acknowledged; without ``stop``, also no request waits.
    error
        A burst was acknowledged with SLVERR or DECERR.
    beat
        Pulse for every beat that has been sent.
    """

    LATENCY = 3

    def __init__(self, *, data_bits: int, outstanding: int = WRITES_OUTSTANDING,
                 max_beats: int = MAX_BEATS, addr_bits: int = 64) -> None:
        _check(data_bits, max_beats, outstanding)
        self.data_bits = data_bits
        self.addr_bits = addr_bits
        self.outstanding = outstanding
        self.max_beats = max_beats
        super().__init__({
            "request": In(stream.Signature(request_layout(addr_bits))),
            "data": In(stream.Signature(write_layout(data_bits))),
            "axi": Out(AXI4WriteSignature(addr_bits=addr_bits, data_bits=data_bits)),
            "stop": In(1), "idle": Out(1), "error": Out(1), "beat": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        m.submodules.splitter = splitter = Splitter(
            addr_bits=self.addr_bits, data_bits=self.data_bits, max_beats=self.max_beats)
        wiring.connect(m, wiring.flipped(self.request), splitter.i)
        burst = splitter.o

        # Address channel; a burst begins when all beats of the one before are on their way
        count = Signal(range(self.outstanding + 1))
        left = Signal(range(self.max_beats + 1))
        sending = Signal()  # some are left
        begin = Signal()
        m.d.comb += [
            begin.eq(burst.valid & ~sending & (~axi.awvalid | axi.awready)
                     & (count != self.outstanding) & ~self.stop),
            burst.ready.eq(begin),
            axi.awsize.eq(ceil_log2(self.data_bits // 8)),
            axi.awburst.eq(INCR),
            axi.awcache.eq(CACHE),
        ]
        with m.If(begin):
            m.d.sync += [axi.awvalid.eq(1), axi.awaddr.eq(burst.p.address),
                         axi.awlen.eq(burst.p.last)]
        with m.Elif(axi.awready):
            m.d.sync += axi.awvalid.eq(0)

        # Data channel
        free = Signal()
        send = Signal()
        m.d.comb += [
            free.eq(sending & (~axi.wvalid | axi.wready)),
            send.eq(free & (self.data.valid | self.stop)),
            self.data.ready.eq(free & ~self.stop),
        ]
        with m.If(send):
            m.d.sync += [
                axi.wvalid.eq(1),
                axi.wdata.eq(self.data.p.data),
                axi.wstrb.eq(Mux(self.stop, 0, self.data.p.strobe)),
                axi.wlast.eq(left == 1),
                left.eq(left - 1),
                sending.eq(left != 1),
            ]
        with m.Elif(axi.wready):
            m.d.sync += axi.wvalid.eq(0)
        with m.If(begin):
            m.d.sync += [left.eq(burst.p.last + 1), sending.eq(1)]
        m.d.sync += self.beat.eq(axi.wvalid & axi.wready)

        # Acknowledgements
        m.d.comb += [axi.bready.eq(1),
                     self.idle.eq((count == 0) & (self.stop | ~splitter.busy))]
        m.d.sync += count.eq(count + begin - axi.bvalid)
        with m.If(axi.bvalid & axi.bresp[1]):
            m.d.sync += self.error.eq(1)
        return m
