# SPDX-License-Identifier: BSD-2-Clause
"""The memory of the cycle model: when weights, loads and instructions come that share its ports."""

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import gcd

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

#: Bursts of weights that a port asks for between two urgent loads, one every second cycle while
#: none is under way.
_BETWEEN = 2

#: Beats that are none: sums of parts of beats are not exact.
_LITTLE = 1e-6

#: Turns of all ports after which what each gets is known.
_ROTATIONS = 64


def _rotation(beats: float, ports: int) -> float:
    """Return the most that one of several ports gets of so many beats a cycle that all ask for.

    The first port to be served is another one in every cycle: those that it is in cycles with a
    beat more get more. Which ones these are changes when a beat was not asked for.
    """
    taken, credit = [0] * ports, 0.0
    cycles = _ROTATIONS * ports
    for cycle in range(cycles):
        credit = min(credit + beats, beats + 1)
        for port in range(ports):
            if credit >= 1:
                taken[(cycle + port) % ports] += 1
                credit -= 1
    return max(taken) / cycles


class Memory:
    """Rates at which the ports of a configuration bring what is asked for.

    Every port carries its part of each row of weights; port 0 brings loads and the program, too,
    burst by burst in turn. Meanwhile the other ports get ahead of it with weights, until their
    queues are full.

    Members
    -------
    read_delay, busy_delay
        Cycles from a request to its data in the queue of its client, and where the bursts of
        weights that are under way come first.
    burst, instruction_beats
        Beats of a burst, and of an instruction.
    beat_cycles
        Cycles of a beat of port 0 where nothing else is read.
    extra_cycles
        Cycles that a beat of port 0 beside weights takes, until the others are ahead.
    fifo, queues, capacity
        Rows of weights that the FIFO holds, the queues of the masters in front of it, and both.
    hold, on_their_way
        Rows in the FIFO with which an urgent load holds weights back, and those that come beside
        it then: half of the bursts under way are of weights, of the first a half is there.
    between
        Rows that are asked for between two urgent loads.
    join
        Cycles in which the beats of a row are taken from the queues.
    row_interval
        Cycles from a row of weights to the next, where nothing else is read.
    lead
        Beats by which the other ports are ahead when their queues are full, but for what is on its
        way.
    catch_up, caught_up
        Where ports get more than their part in turn, what was read ahead is used up behind a load:
        cycles from a row to the next meanwhile, and beats a cycle that the lead loses.
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
        # Beats of a row on each port, and a cycle: of the memory, and of a port, which has so many
        # bursts under way and no more.
        self.join = config.columns // config.bus_bytes
        self._beats = bytes_per_cycle * 8 / config.port_bits
        self._port = min(1, reader.outstanding * reader.max_beats
                         / (latency + _BURST + reader.max_beats))
        # Ports are served first in turn, those with a number of beats in their cycle that is not
        # always the same get more than others: so many are as port 0 is, the others are ahead.
        period = Fraction(self._beats).limit_denominator(_ROTATIONS).denominator
        self._alike = self._ports // gcd(self._ports, period)
        self.hold = 2 * config.rows
        self.on_their_way = (reader.outstanding - 1) * self.burst // (2 * self.join)
        self.between = _BETWEEN * self.burst // self.join
        self.row_interval = self._rows(0)
        self._outstanding = reader.outstanding
        self.busy_delay = self.behind(self.row_interval / self.join)
        self.beat_cycles = max(1, 1 / self._beats, 1 / self._port)
        self.extra_cycles = max(self.beat_cycles, self._alike / self._beats)
        self.lead = max(0, WEIGHT_BEATS - self.read_delay * self.join / self.shared(1)[1])
        self.caught_up = 0.0
        if 1 < self._alike < self._ports:
            first = min(self._port, _rotation(self._beats, self._ports))
            self.caught_up = max(0, first - (self._beats - first) / (self._ports - 1))
        self.catch_up = max(1, self._ports * self.join / (
            self._beats + (self._alike - 1) * self.caught_up))

    def _rows(self, taken: float, alike: int = 1) -> float:
        """Return the cycles of a row where a load takes so many beats a cycle of port 0, and so
        many ports get as much as it does."""
        rate = min(self._port - taken, (self._beats - alike * taken) / self._ports)
        return max(1, self.join / rate)

    def shared(self, most: float, ahead: bool = True) -> tuple[float, float]:
        """Return the beats a cycle of a load that takes at most ``most``, while weights are read,
        too, and the cycles of a row meanwhile.

        Ports that are as port 0 get as much as it does, until their queues are full and they ask
        for as much as it has of weights, as all others do: then all are ``ahead``.
        """
        alike = 1 if ahead else self._alike
        beats = min(most, self._port / 2, self._beats / (self._ports + alike))
        return beats, self._rows(beats, alike)

    def behind(self, cycles: float, bursts: int | None = None) -> int:
        """Return the cycles from a request to its data where bursts of so many cycles a beat come
        first: as many as may be under way, or ``bursts`` if these are less."""
        most = self._outstanding if bursts is None else min(bursts, self._outstanding)
        return max(self.read_delay + self.burst, round(most * self.burst * cycles))

    def alone(self, most: float) -> float:
        """Return the beats a cycle of a load that takes at most ``most``."""
        return min(most, 1 / self.beat_cycles)


@dataclass
class _Load:
    """A load: when its first data come, how many beats are left, how many it takes a cycle, from
    when on weights are held back, and with how many rows in the FIFO and on their way."""

    start: float
    beats: float
    most: float
    holds: float
    rows: int


@dataclass
class Weights:
    """Rows of weights on their way from memory, through queues and FIFO, to the loader.

    Rows come at a constant rate, unless the queues are full: then each is asked for when there is
    the place of another one that has gone to the FIFO, where it waits for a place, too. Loads and
    the program slow them down, and loads take what they leave; urgent ones hold them back where
    there are some.

    Parameters
    ----------
    memory
        The rates.
    start
        Cycle before the first row.
    checked
        Cycle in which the whole program has been read for its checksum: nothing is asked for
        before of weights.
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
    #: Bursts of the program that are to come: when they were asked for, and beats.
    _program: list[tuple[float, int]] = field(default_factory=list)
    _loaded: float = 0
    #: Beats by which the other ports are ahead of port 0.
    _ahead: float = 0
    _hungry: bool = False

    def __post_init__(self) -> None:
        self.arrived = self._came = float(self.start)
        self._full = self.start + self.memory.row_interval * self.memory.capacity

    def delay(self, now: int) -> int:
        """Return the cycles from a request of something else to its data.

        While weights fill all there is at the start, their bursts under way come first, one more
        every second cycle from the checksum on, whose own come first until then; later one of
        them, while there is room for more than what is read.
        """
        memory = self.memory
        if now >= self._full:
            return memory.read_delay + (memory.burst if self._hungry else 0)
        if now < self.checked:
            return memory.behind(memory.beat_cycles)
        return memory.behind(memory.row_interval / memory.join, (now - self.checked) // 2)

    def instructions(self, now: int, beats: int) -> float:
        """Ask for so many beats of the program; return the cycles from one to the next."""
        if not self._hungry and now >= self._full:
            return self.memory.beat_cycles
        if now < self.checked:
            cycles = beats * self.memory.beat_cycles
            self.checked += round(cycles)
            self._came += cycles
            self._full += cycles
            return self.memory.beat_cycles
        cycles = self._beside(beats)
        self._program.append((now, beats))
        self._full += cycles
        return cycles / beats

    def _beside(self, beats: float) -> float:
        """Return the cycles in which so many beats of port 0 pass and no weights."""
        memory = self.memory
        behind = min(beats, max(0, memory.lead - self._ahead))
        return behind * memory.extra_cycles + (beats - behind) * memory.beat_cycles

    def load(self, now: int, beats: float, units: int, urgent: bool = False) -> None:
        """Ask for a load of so many beats, written as so many units, one a cycle."""
        memory = self.memory
        start, rows = now + self.delay(now), memory.hold + memory.on_their_way
        # Weights that were asked for before come first.
        holds = start if urgent else float("inf")
        if self._loads and self._loads[-1].holds < now:
            # Nothing is under way but what was asked for since the load before.
            start = now + memory.read_delay + round(memory.between * memory.row_interval)
            holds, rows = min(now, holds), self._loads[-1].rows + memory.between
        self._loads.append(_Load(start, beats, min(1, beats / units), holds, rows))

    def loaded(self) -> float:
        """Return when all loads have ended, if no row of weights is read until then."""
        memory, rows = self.memory, 0.0
        flow = replace(self, _loads=[replace(load) for load in self._loads],
                       _program=list(self._program))
        flow._came, flow._ahead, flow._loaded = self._came, self._ahead, self._loaded
        while flow._loads:
            load = flow._loads[0]
            room = (load.rows if load.holds <= flow._came else memory.capacity) - rows
            if room > _LITTLE:
                rows += flow._flow(room)
            else:
                flow._wait(flow._end_alone)
            self._full = max(self._full, flow._came + (memory.capacity - rows)
                             * memory.row_interval)
        return flow._loaded
    @property
    def _end_alone(self) -> float:
        """Return when the first load ends if no weights come any more."""
        load = self._loads[0]
        return max(self._came, load.start) + load.beats / self.memory.alone(load.most)

    def _arrive(self, rows: float) -> None:
        """Let rows come one after another, with loads between them."""
        while rows > _LITTLE:
            load = self._loads[0] if self._loads else None
            if load is not None and load.holds <= self._came:
                # The next one is asked for when fewer rows are left, or the load has ended.
                held = self._row - int(rows) + 1 - load.rows
                read = min(self._when_read(held), self._end_alone) if held > 0 else 0
                if read + self.memory.read_delay > self._came:
                    self._wait(read + self.memory.read_delay)
                    continue
            rows -= self._flow(rows)

    def _flow(self, rows: float) -> float:
        """Let rows come, as many as do at the same rate; return how many."""
        memory = self.memory
        while self._program and self._program[0][0] <= self._came:
            beats = self._program.pop(0)[1]
            self._came += self._beside(beats)
            self._ahead = min(max(self._ahead, memory.lead), self._ahead + beats)
        load = self._loads[0] if self._loads else None
        until = self._program[0][0] if self._program else float("inf")
        if load is not None and load.start <= self._came:
            left = memory.lead - self._ahead
            rate, interval = memory.shared(load.most, left < _LITTLE)
            cycles = min(rows * interval, load.beats / rate, until - self._came)
            if left >= _LITTLE:
                cycles = min(cycles, left / rate)
                self._ahead += cycles * rate
            self._came += cycles
            self._progress(cycles * rate)
            return cycles / interval
        if load is not None:
            until = min(until, load.holds if load.holds > self._came else load.start, load.start)
        interval = memory.row_interval
        catches_up = memory.caught_up > 0 and self._ahead > _LITTLE
        if catches_up:
            interval, until = memory.catch_up, min(
                until, self._came + self._ahead / memory.caught_up)
        cycles = min(rows * interval, until - self._came)
        if catches_up:
            self._ahead -= cycles * memory.caught_up
        self._came += cycles
        return cycles / interval

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
        """Let time pass in which there is no room: loads go on, and what is read of the program
        takes no time of weights."""
        while self._program and self._program[0][0] < until:
            del self._program[0]
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
                self._ahead = self.memory.lead
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
        #: By burst, when its first beat arrives, and cycles from one to the next.
        self.arrives: list[float] = []
        self.beats: list[float] = []
        for first in (self.at, 0):
            # A burst of the checksum comes before each.
            beats = weights.instructions(start, memory.burst - first)
            before = self.arrives[-1] + memory.burst * self.beats[-1] if self.arrives else (
                start + memory.read_delay)
            self.arrives.append(before + (memory.burst - first) * beats)
            self.beats.append(beats)

    def next(self, after: int) -> int:
        """Return when the next instruction is there, if its first beat is taken from ``after``."""
        for _ in range(self.memory.instruction_beats):
            burst, beat = divmod(self.at, self.memory.burst)
            after = max(after, int(self.arrives[burst] + beat * self.beats[burst])) + 1
            self.at += 1
            if self.at % self.memory.burst == 0:
                self._following(after)
        return after

    def again(self, instruction: int) -> None:
        """Go on with this instruction: it begins a burst, as the last one has ended one."""
        memory = self.memory
        if self.at % memory.burst:
            burst, beat = divmod(self.at, memory.burst)
            self._following(int(self.arrives[burst] + beat * self.beats[burst]))
        burst, beat = -(-self.at // memory.burst), instruction * memory.instruction_beats
        self.at = burst * memory.burst + beat % memory.burst
        self.arrives[burst] -= beat % memory.burst * self.beats[burst]

    def _following(self, now: int) -> None:
        """Ask for a burst, as the beats of one have been taken."""
        burst = self.memory.burst
        before = self.arrives[-1] + burst * self.beats[-1]
        self.arrives.append(max(now + self.weights.delay(now), before))
        self.beats.append(self.weights.instructions(now, burst))
