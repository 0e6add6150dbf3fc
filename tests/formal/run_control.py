# SPDX-License-Identifier: BSD-2-Clause
"""The controller of a run: resets only what is idle, and ends every run, once."""

from amaranth.hdl import Cat, Mux, Signal, Value

from rtl.config import CONFIGS
from rtl.registers import RunState
from tests.formal.bench import Bench
from tests.formal.runner import Design, Proof

__all__ = ["PROOF"]

CONFIG = CONFIGS["nano"]

#: Registers from ``stop`` and ``core_reset`` to the masters, and from them to ``masters_idle``.
THERE, BACK = 2, 2
#: Longest timeout that is looked at, and cycles beside it: registers, settling and resets.
LONGEST, BESIDE = 2, 20


def build(bench: Bench, design: Design) -> None:
    """The controller, any core, and masters that begin nothing after ``stop``."""
    run = design("rtl.control").RunControl(CONFIG)
    inside = bench.add("run", run)
    m = bench.m
    for name in ("start", "soft_reset", "core_done", "core_error", "core_error_index",
                 "core_moves", "core_hang", "core_hang_index", "read_error", "write_error",
                 "read_beat", "write_beat"):
        bench.drive(getattr(run, name), name)
    timeout = bench.constant(range(LONGEST + 1), "timeout_is")
    bench.assume((timeout != 0) & (timeout <= LONGEST))
    m.d.comb += run.timeout.eq(timeout)
    bench.assume(~run.start | (run.idle & ~run.soft_reset))
    bench.assume(Value.cast(run.core_hang).any())
    bench.reset_only(0)

    # Masters are busy as long as they like, but become it only without stop
    going = bench.free(1, "going")
    stop, reset, quiet = run.stop, run.core_reset, Signal()
    delays = []
    for i in range(THERE):
        later_stop, later_reset = Signal(init=1, name=f"stop{i}"), Signal(name=f"reset{i}")
        m.d.sync += [later_stop.eq(stop), later_reset.eq(reset)]
        stop, reset = later_stop, later_reset
        delays.append(stop)
    was_busy, busy = Signal(), Signal()
    m.d.comb += [busy.eq(going & (was_busy | ~_stopped(bench, stop))), quiet.eq(~busy)]
    m.d.sync += was_busy.eq(busy)
    for i in range(BACK):
        later = Signal(init=1, name=f"quiet{i}")
        m.d.sync += later.eq(quiet)
        quiet = later
        delays.append(quiet)
    m.d.comb += run.masters_idle.eq(quiet)
    bench.always("reset_while_idle", ~(reset | run.core_reset) | ~busy,
                 "the masters are reset only while they are idle, as far away as they may be")
    state = run.status[:2]
    bench.always("idle_while_idle", ~run.idle | ~busy, "no transfer is under way outside of a run")

    # A run begins with a core that has been reset, and ends once
    clean = Signal()
    m.d.sync += clean.eq((clean | run.core_reset) & ~run.core_start)
    bench.always("fresh_core", ~run.core_start | clean, "the core is reset before every run")
    owed = Signal()
    m.d.sync += owed.eq((owed | run.start) & ~run.done & ~run.soft_reset)
    bench.always("end_invented", ~run.done | owed, "no run ends that was not begun, and none twice")
    bench.always("end_lost", ~run.idle | ~owed, "every run has ended before the next can begin")
    failed, begun = bench.past(run.error, "error"), bench.past(run.start, "start")
    bench.always("first_error_wins", (failed == 0) | begun | (run.error == failed),
                 "the first error of a run is that which is told, until the next run")

    # It ends in bounded time, whatever the core and the memory do
    moves = run.core_moves | run.read_beat.any() | run.write_beat.any() | run.start
    still = Signal(range(2 * LONGEST + BESIDE + 2))
    limit = 2 * timeout + BESIDE
    m.d.sync += still.eq(Mux(moves, 0, Mux(still > limit, still, still + 1)))
    bench.always("run_ends", (still <= limit) | ~owed,
                 f"a run in which nothing has moved for 2 * timeout + {BESIDE} cycles has ended,"
                 f" for timeouts up to {LONGEST}", bounded=True)
    resetting = Signal(range(BESIDE + 2))
    m.d.sync += resetting.eq(Mux(run.aborting & ~busy & (resetting <= BESIDE), resetting + 1,
                                 Mux(run.aborting & ~busy, resetting, 0)))
    bench.always("soft_reset_ends", resetting <= BESIDE,
                 f"a soft reset ends {BESIDE} cycles after the masters are idle", bounded=True)

    # Why
    timer, told = inside["timer"], inside["told"]
    resting = (state == RunState.IDLE) | (state == RunState.RESET)
    draining = state == RunState.DRAIN
    bench.always("rests", ~resting | (Cat(*delays).all() & ~busy), "outside of runs all is idle",
                 lemma=True)
    for i, delayed in enumerate(delays[:THERE]):
        bench.always(f"stop{i}", ~draining | (timer < i + 1) | delayed, "stop has arrived",
                     lemma=True)
    bench.always("timer", (timer < run.RESET_CYCLES + run.SETTLE_CYCLES)
                 & (~draining | (timer < run.SETTLE_CYCLES)) & ((state != RunState.RUN)
                                                                | (timer == 0)), "the timer",
                 lemma=True)
    bench.always("reset_seen", (state != RunState.RESET) | (timer == 0) | clean, "reset was there",
                 lemma=True)
    bench.always("start_seen", ~run.core_start | (state == RunState.RUN), "the run begins",
                 lemma=True)
    bench.always("no_error_yet", (run.error == 0) | ~((state == RunState.RUN) | (
        (state == RunState.RESET) & owed)), "a run begins without an error", lemma=True)
    bench.always("owed_right", owed == ((state != RunState.IDLE) & ~told & ~run.aborting),
                 "whether an end is owed", lemma=True)
    bench.always("told_right", ~told | draining | (state == RunState.IDLE)
                 | run.aborting, "it has been told", lemma=True)
    bench.always("told_late", ~(told & draining) | run.status[2], "because it was late",
                 lemma=True)

    ends = run.done & (run.error == 0)
    bench.cover("runs", ends & bench.past(was_busy, "busy_before"), "a run without an error")
    bench.cover("hangs", run.status[2] & draining,
                "masters that do not become idle")
    bench.cover("aborted", bench.past(run.aborting, "aborting") & run.idle, "a soft reset")


def _stopped(bench: Bench, stop: Signal) -> Signal:
    """Return whether the masters were stopped in the cycle before; they are at first."""
    before = Signal(init=1, name="stopped_before")
    bench.m.d.sync += before.eq(stop)
    return before


PROOF = Proof("run_control", build, depths={"prove": 8, "bmc": 30, "cover": 32}, quick={})
