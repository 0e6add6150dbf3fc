# SPDX-License-Identifier: BSD-2-Clause
"""The memory of the cycle model: when weights, loads and instructions come that share its ports."""

from bisect import bisect_left
from dataclasses import dataclass, field

from rtl.axi import ReadMaster
from rtl.config import Config
from rtl.fifo import Fifo
from rtl.isa import INSTRUCTION_BYTES
from rtl.top import WEIGHT_BEATS

__all__ = ["Fetch", "Memory", "Weights"]

#: Cycles of a read beside latency, master and FIFO: the address is taken, the data registered.
_BUS = 2

#: Cycles of a burst beside latency and beats, from its request until another may take its place.
_BURST = 3

#: Beats that are none: sums of parts of beats are not exact.
_LITTLE = 1e-6


class Memory:
    """Rates at which the ports of a configuration bring what is asked for.

    Every port carries its part of each row of weights; port 0 brings loads and the program, too,
    burst by burst in turn.

    Members
    -------
    read_delay, busy_delay
        Cycles from a request to its data in the queue of its client, and where the bursts of
        weights that are under way come first.
    burst, instruction_beats
        Beats of a burst, and of an instruction.
    beat_cycles
        Cycles of a beat of port 0.
    fifo, queues, capacity
        Rows of weights that the FIFO holds, the queues of the masters in front of it, and both.
    join
        Cycles in which the beats of a row are taken from the queues.
    row_interval
        Cycles from a row of weights to the next, where nothing else is read.
    """

    def __init__(self, config: Config, bytes_per_cycle: float, latency: int) -> None:
        reader = ReadMaster(data_bits=config.port_bits, depths=[WEIGHT_BEATS])
        self.burst = reader.max_beats
        self.latency = latency
        self.read_delay = ReadMaster.LATENCY + latency + _BUS + Fifo.LATENCY
        self.instruction_beats = 8 * INSTRUCTION_BYTES // config.port_bits
        self.fifo = config.weight_depth
        self.queues = WEIGHT_BEATS * config.bus_bytes // config.columns
        self.capacity = self.fifo + self.queues
        self._ports = config.ports
        #: Rows in the FIFO with which an urgent load holds weights back, and those on their way.
        self.hold = 2 * config.rows
        self.on_their_way = reader.outstanding * reader.max_beats * config.bus_bytes // (
            config.columns)
        # Beats of a row on each port, and a cycle: of the memory, and of a port, which has so many
        # bursts under way and no more.
        self.join = config.columns // config.bus_bytes
        self._beats = bytes_per_cycle * 8 / config.port_bits
        self._port = min(1, reader.outstanding * reader.max_beats
                         / (latency + _BURST + reader.max_beats))
        self.row_interval = self._rows(0)
        self.busy_delay = max(self.read_delay + self.burst, round(
            reader.outstanding * self.burst * self.row_interval / self.join))
        self.beat_cycles = max(1, 1 / self._beats, 1 / self._port)

    def _rows(self, taken: float) -> float:
        """Return the cycles of a row where a load takes so many beats a cycle of port 0."""
        rate = min(self._port - taken, (self._beats - taken) / self._ports)
        return max(1, self.join / rate)

    def shared(self, most: float, ahead: bool = True) -> tuple[float, float]:
        """Return the beats a cycle of a load that takes at most ``most``, while weights are read,
        too, and the cycles of a row meanwhile.

        Each port has its part of the memory, until the queues of the others are full and they ask
        for as much as port 0 has of weights: then they are ``ahead``.
        """
        if ahead:
            beats = min(most, self._port / 2, self._beats / (self._ports + 1))
            return beats, self._rows(beats)
        part = min(self._port, self._beats / self._ports)
        beats = min(most, part / 2)
        return beats, max(1, self.join / (part - beats))

    def alone(self, most: float) -> float:
        """Return the beats a cycle of a load that takes at most ``most``."""
        return min(most, 1 / self.beat_cycles)


@dataclass
class _Load:
    """A load: when its first data come, how many beats are left, how many it takes a cycle,
    whether weights are held back meanwhile, and how many rows of them are there or on their way
    all the same."""

    start: float
    beats: float
    most: float
    urgent: bool
    ahead: float


@dataclass
class Weights:
    """Rows of weights on their way from memory, through queues and FIFO, to the loader.

    Rows come at a constant rate, unless the queues are full: then each is asked for when there is
    the place of another one that has gone to the FIFO, where it waits for a place, too. Loads slow
    them down, and take what they leave; urgent ones hold them back where there are some.

    Parameters
    ----------
    memory
        The rates.
    start
        Cycle before the first row.
    checked
        Cycle in which the whole program has been read for its checksum.
    """

    memory: Memory
    start: float
    checked: int = 0
    #: Cycle in which the last row that was taken had come to the FIFO.
    arrived: float = field(init=False)
    _row: int = 0
    #: Rows that were taken, and cycles in which the last of them came to the FIFO, and was read.
    _rows: list[int] = field(default_factory=lambda: [0])
    _entered: list[float] = field(default_factory=lambda: [0.0])
    _read: list[int] = field(default_factory=lambda: [0])
    _loads: list[_Load] = field(default_factory=list)
    _loaded: float = 0
    #: Beats by which the other ports are ahead of port 0.
    _ahead: float = 0
    _hungry: bool = False

    def __post_init__(self) -> None:
        self.arrived = self._came = float(self.start)
        self._full = self.start + self.memory.row_interval * self.memory.capacity

    def delay(self, now: int) -> int:
        """Return the cycles from a request of something else to its data.

        While weights fill all there is at the start, their bursts under way come first; later one
        of them, while there is room for more than what is read.
        """
        if now < self._full:
            return self.memory.busy_delay
        return self.memory.read_delay + (self.memory.burst if self._hungry else 0)

    def hold(self, now: int, cycles: float) -> None:
        """Let something else pass, for so many cycles."""
        if now < self.checked:
            self.checked += round(cycles)
        self._came += cycles
        if self._hungry or now < self._full:
            self._full += cycles

    def load(self, now: int, beats: float, units: int, urgent: bool = False) -> None:
        """Ask for a load of so many beats, written as so many units, one a cycle."""
        held = bool(self._loads) and self._loads[-1].urgent
        start = now + (self.memory.read_delay if held else self.delay(now))
        memory = self.memory
        under_way = min(memory.on_their_way, max(0, now - self.checked) / memory.row_interval)
        self._loads.append(_Load(start, beats, min(1, beats / units), urgent,
                                 memory.hold + under_way))

    def loaded(self) -> float:
        """Return when all loads have ended, if no row of weights is read until then."""
        memory = self.memory
        now, rows, ahead = self._came, 0.0, self._ahead
        for load in self._loads:
            if now < load.start:
                rows += min(memory.capacity - rows, (load.start - now) / memory.row_interval)
                now = load.start
            most = load.ahead if load.urgent else memory.capacity
            left = load.beats
            for limit in (WEIGHT_BEATS - ahead, float("inf")):
                beats, interval = memory.shared(load.most, limit == float("inf"))
                shared = min(min(left, limit) / beats, max(0, most - rows) * interval)
                rows, now, left = rows + shared / interval, now + shared, left - shared * beats
                ahead = min(WEIGHT_BEATS, ahead + shared * beats)
            now += left / memory.alone(load.most)
            self._full = max(self._full, now + (memory.capacity - rows) * memory.row_interval)
        return max(self._loaded, now) if self._loads else self._loaded

    def _arrive(self, rows: float) -> None:
        """Let rows come one after another, with loads between them."""
        while self._loads:
            load = self._loads[0]
            before = (load.start - self._came) / self.memory.row_interval
            if before >= rows:
                break
            if before > 0:
                rows -= before
                self._came = load.start
            if load.urgent:
                # Until fewer rows are left: those that were on their way had come before.
                held = self._row - int(rows) + 1 - int(load.ahead)
                if held > 0 and self._when_read(held) > self._came:
                    self._wait(min(self._when_read(held),
                                   self._came + load.beats / self.memory.alone(load.most)))
                    if not self._loads:
                        # Nothing was asked for meanwhile.
                        self._came += self.memory.read_delay
                    continue
            ahead = self._ahead >= WEIGHT_BEATS - _LITTLE
            beats, interval = self.memory.shared(load.most, ahead)
            most = load.beats if ahead else min(load.beats, WEIGHT_BEATS - self._ahead)
            with_it = min(rows, most / beats / interval)
            self._came += with_it * interval
            self._ahead = min(WEIGHT_BEATS, self._ahead + with_it * interval * beats)
            rows -= with_it
            self._progress(with_it * interval * beats)
            if rows <= 0:
                return
        self._came += rows * self.memory.row_interval

    def _when_read(self, row: int, at_once: int = 1) -> float:
        """Return when so many rows have been read, if that is known."""
        at = bisect_left(self._rows, row)
        # Within what was taken at once, one after another.
        return (self._read[at] - (self._rows[at] - row) // at_once if at < len(self._rows)
                else float("inf"))

    def _progress(self, beats: float) -> None:
        """Take beats from the first load."""
        load = self._loads[0]
        load.beats -= beats
        if load.beats < _LITTLE:
            self._loaded = self._came
            del self._loads[0]

    def _wait(self, until: float) -> None:
        """Let time pass in which there is no room: loads go on."""
        while self._loads and self._loads[0].start < until:
            load = self._loads[0]
            self._came = max(self._came, load.start)
            rate = self.memory.alone(load.most)
            cycles = min(until - self._came, load.beats / rate)
            self._came += cycles
            self._progress(cycles * rate)
            if self._came >= until:
                return
        self._came = until

    def take(self, rows: int, earliest: int, at_once: int = 1) -> int:
        """Return when the last of the next rows is read, of which the first is at ``earliest``.

        ``at_once`` are the rows that are read in a cycle.
        """
        memory = self.memory
        self._row += rows
        self._arrive(rows)
        left = self._row - memory.queues
        if left > 0:
            at = bisect_left(self._rows, left)
            free = (self._entered[at] - (self._rows[at] - left) * memory.join + memory.read_delay
                    if at < len(self._rows) else 0)
            self._hungry = free <= self._came
            if not self._hungry:
                self._wait(free)
        self.arrived = max(self._came, self.arrived + rows * memory.join,
                           self._when_read(self._row - memory.fifo, at_once) + Fifo.LATENCY)
        end = max(earliest + -(-rows // at_once) - 1, int(self.arrived))
        self._rows.append(self._row)
        self._entered.append(self.arrived)
        self._read.append(end)
        return end


class Fetch:
    """The program on its way from memory: two bursts at a time, as there is room for them."""

    def __init__(self, memory: Memory, weights: Weights, start: int) -> None:
        self.memory = memory
        # Its beats take the place of weights.
        self.weights = weights
        # Bursts end at multiples of their size, the first one is what BEGIN leaves of it.
        self.at = memory.instruction_beats % memory.burst
        arrives = start + memory.read_delay - self.at
        self.arrives = [arrives, arrives + memory.burst]

    def next(self, after: int) -> int:
        """Return when the next instruction is there, if its first beat is taken from ``after``."""
        for _ in range(self.memory.instruction_beats):
            burst, beat = divmod(self.at, self.memory.burst)
            after = max(after, self.arrives[burst] + beat) + 1
            self.at += 1
            if self.at % self.memory.burst == 0:
                self._following(after)
        return after

    def again(self, instruction: int) -> None:
        """Go on with this instruction: it begins a burst, as the last one has ended one."""
        memory = self.memory
        if self.at % memory.burst:
            self._following(self.arrives[self.at // memory.burst] + self.at % memory.burst)
        burst, beat = -(-self.at // memory.burst), instruction * memory.instruction_beats
        self.at = burst * memory.burst + beat % memory.burst
        self.arrives[burst] -= beat % memory.burst

    def _following(self, now: int) -> None:
        """Ask for a burst, as the beats of one have been taken."""
        memory = self.memory
        self.arrives.append(max(now + self.weights.delay(now), self.arrives[-1] + memory.burst))
        self.weights.hold(now, memory.burst * memory.beat_cycles)
