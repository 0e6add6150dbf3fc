# SPDX-License-Identifier: BSD-2-Clause
"""The memory of the cycle model: rates, the FIFO of weights, and loads beside them."""

from dataclasses import replace

import pytest

from golden.cycles_memory import Memory, Weights
from rtl.config import named
from rtl.fifo import Fifo


def _weights(bytes_per_cycle: float, tiles: int = 8) -> Weights:
    config = replace(named("zcu102"), weight_tiles=tiles)
    return Weights(Memory(config, bytes_per_cycle, 100), 1000)


@pytest.mark.parametrize(("bytes_per_cycle", "interval"), [(64, 1), (100, 1), (32, 2), (16, 4)])
def test_rows_come_as_fast_as_the_memory(bytes_per_cycle: float, interval: int) -> None:
    weights = _weights(bytes_per_cycle)
    assert [weights.take(64, 0) for _ in range(3)] == [1000 + 64 * n * interval for n in (1, 2, 3)]
    # Those that are there are read one a cycle, or two.
    assert weights.take(64, 5000) == 5063
    assert weights.take(64, 6000, at_once=2) == 6031


def test_full_queues_wait_for_what_is_read() -> None:
    weights = _weights(64)
    memory = weights.memory
    for at in range(100_000, 100_000 + 64 * memory.capacity, 64):
        assert weights.take(1, at) == at
    # It was asked for when the first row was read and another one went on from the queues: so it
    # is there when there is a place in the FIFO.
    weights.take(1, 0)
    assert memory.read_delay < 64 * memory.queues
    assert weights.arrived == 100_000 + 64 * memory.queues + Fifo.LATENCY


def test_the_fifo_is_filled_from_the_queues() -> None:
    """Two beats make a row: read faster, they wait, though the memory is ahead."""
    config = replace(named("tiny"), weight_tiles=8)
    weights = Weights(Memory(config, 64, 100), 0)
    for at in range(10_000, 10_000 + weights.memory.fifo):
        assert weights.take(1, at) == at
    after = [weights.take(16, 0) for _ in range(4)]
    assert [b - a for a, b in zip(after, after[1:], strict=False)] == [32, 32, 32]


@pytest.mark.parametrize(("bytes_per_cycle", "load", "row"), [
    (64, 0.5, 2.0), (48, 0.5, 2.0), (32, 0.4, 2.5), (16, 0.2, 5.0)])
def test_loads_share_a_port_with_weights(bytes_per_cycle: float, load: float, row: float) -> None:
    memory = _weights(bytes_per_cycle).memory
    assert memory.shared(1.0) == (pytest.approx(load), pytest.approx(row))


def test_a_load_takes_twice_as_long_beside_weights() -> None:
    weights = _weights(64, tiles=192)
    weights.load(1000 - weights.memory.busy_delay, 2000, 2000)
    assert weights.loaded() == 5000
    assert weights.take(64, 0) == 1000 + 2 * 64
    assert weights.take(1936 + 64, 0) == 5000 + 64
    assert weights.loaded() == 5000


def test_a_load_has_what_a_full_fifo_leaves() -> None:
    weights = _weights(64)
    full = 1000 + weights.memory.capacity
    weights.load(full + 10, 2000, 2000)
    loaded = full + 10 + weights.memory.read_delay + 2000
    assert weights.loaded() == loaded
    # All rows but the first come when it has ended.
    for at in range(10_000, 10_000 + weights.memory.capacity):
        weights.take(1, at)
    assert weights.take(1, 0) == 10_000 + weights.memory.queues + Fifo.LATENCY
    assert weights.loaded() == loaded


def test_loads_follow_each_other() -> None:
    weights = _weights(64)
    weights.load(1000 - weights.memory.busy_delay, 100, 100)
    weights.load(1300 - weights.memory.busy_delay, 100, 200)
    assert weights.loaded() == 1500
    assert weights.take(256, 0) == 1000 + 100 + 100 + 100 + 56 / 0.5


def test_urgent_loads_hold_weights_back() -> None:
    weights = _weights(64)
    memory = weights.memory
    weights.load(1000 - memory.busy_delay, 2000, 2000, urgent=True)
    # Until there are some, and those on their way have come, they take turns.
    shared = memory.hold + memory.on_their_way
    assert weights.loaded() == 1000 + 2000 + shared
    assert weights.take(shared, 10_000) == 10_000 + shared - 1
    assert weights.arrived == 1000 + 2 * shared
    weights.take(64, 0)
    assert weights.arrived == 1000 + 2000 + shared + memory.read_delay + 64


def test_weights_that_are_read_make_room_for_others_beside_an_urgent_load() -> None:
    weights = _weights(64)
    memory = weights.memory
    weights.load(1000 - memory.busy_delay, 2000, 2000, urgent=True)
    there = memory.hold + memory.on_their_way
    read = weights.take(there, 0)
    # Row by row: what is asked for now is there before what is there has been read.
    assert weights.take(64, 0) == read + 2 * 64
    assert weights.loaded() > read + 2 * 64


def test_weights_slip_in_between_two_urgent_loads() -> None:
    weights = _weights(16)
    memory = weights.memory
    weights.load(1000, 2000, 2000, urgent=True)
    ended = round(weights.loaded())
    weights.load(ended, 400, 400, urgent=True)
    # Two bursts on each of four ports, a beat a cycle.
    assert weights.loaded() == ended + memory.read_delay + 2 * memory.burst * 4 + 400
    assert memory.between == 2 * memory.burst


@pytest.mark.parametrize(("bytes_per_cycle", "ports", "load"), [
    (16, 4, 1 / 8),     # all as port 0
    (24, 2, 1.5 / 6),   # cycles of one and of two beats in turn: every second port
    (12, 1, 0.75 / 5)])  # three beats in four cycles: none
def test_other_ports_are_ahead_where_they_are_served_first(bytes_per_cycle: float, ports: int,
                                                           load: float) -> None:
    """The rest of the ports wait for port 0, and leave it what they do not take."""
    memory = _weights(bytes_per_cycle).memory
    beats, row = memory.shared(1.0, ahead=False)
    assert beats == pytest.approx(load)
    taken = ports * (beats + 1 / row) + (4 - ports) / row
    assert taken == pytest.approx(bytes_per_cycle / 16)


def test_a_load_is_faster_when_the_other_ports_are_ahead() -> None:
    weights = _weights(16, tiles=192)
    memory = weights.memory
    start = 1000 + 4 * 64
    assert weights.take(64, 0) == start
    weights.load(start - memory.busy_delay, 2000, 2000)
    # Their queues take what port 0 has of the load, but for what is on its way then.
    assert memory.lead == pytest.approx(256 - memory.read_delay / 5)
    slow = memory.lead / (1 / 8)
    assert weights.loaded() == pytest.approx(start + slow + (2000 - memory.lead) / 0.2)
    weights.take(int(slow / 8 + 2000 - memory.lead), 0)
    assert weights.loaded() == pytest.approx(weights.arrived, abs=10)
    # They still are.
    begin = round(weights.loaded())
    weights.load(begin, 2000, 2000)
    assert weights.loaded() - begin - memory.busy_delay == pytest.approx(2000 / 0.2, abs=1)


def test_what_was_read_ahead_is_used_up_where_ports_take_turns() -> None:
    weights = _weights(24, tiles=192)
    memory = weights.memory
    weights.load(1000 - memory.busy_delay, 1000, 1000)
    ended = weights.loaded()
    while weights.arrived < ended:
        weights.take(1, 0)
    arrived = weights.arrived
    weights.take(1000, 0)
    # One port has as many beats more as it was ahead: rows are four beats.
    assert weights.arrived - arrived == pytest.approx(
        (1000 - memory.lead / 4) * memory.row_interval, abs=2)
    assert memory.catch_up < memory.row_interval


def test_the_program_takes_the_place_of_weights() -> None:
    slow, fast = _weights(16, tiles=192), _weights(64, tiles=192)
    # While the others are not ahead they have as much, and then none.
    assert slow.instructions(2000, 16) == 4
    assert fast.instructions(2000, 16) == 1
    for weights, interval in ((slow, 4), (fast, 1)):
        before = 1000 // interval
        assert weights.take(before, 0) == 2000
        assert weights.take(100, 0) == 2000 + 16 * interval + 100 * interval


def test_what_is_read_beside_the_checksum_delays_it() -> None:
    memory = _weights(64).memory
    weights = Weights(memory, 1000, 500)
    assert weights.instructions(400, 16) == 1
    assert weights.checked == 516
    assert weights.take(64, 0) == 1000 + 16 + 64
    weights.instructions(600, 16)
    assert weights.checked == 516


def test_few_bursts_are_under_way_behind_the_checksum() -> None:
    memory = _weights(16).memory
    weights = Weights(memory, 1000, 500)
    # Those of the checksum, a cycle a beat; one of weights every second cycle, four cycles a beat.
    assert weights.delay(499) == 8 * memory.burst
    assert weights.delay(506) == 3 * memory.burst * 4
    assert weights.delay(600) == memory.busy_delay


def test_the_program_takes_no_time_of_full_queues() -> None:
    weights = _weights(64)
    full = 1000 + weights.memory.capacity
    assert weights.instructions(full + 10, 16) == 1
    for at in range(10_000, 10_000 + weights.memory.capacity):
        assert weights.take(1, at) == at


def test_bursts_wait_for_those_under_way() -> None:
    slow, fast = (_weights(rate).memory for rate in (16, 64))
    assert fast.busy_delay < fast.read_delay + 2 * fast.burst
    # Eight bursts of weights come first, four cycles a beat.
    assert slow.busy_delay == 8 * slow.burst * 4
