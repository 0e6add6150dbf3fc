# SPDX-License-Identifier: BSD-2-Clause
"""A run in the trace-event format, for ui.perfetto.dev and chrome://tracing."""

import json
from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import groupby
from pathlib import Path

import numpy as np

from sim.timeline import PassSpan, Span, Timeline

__all__ = ["Track", "events", "write_trace"]

Event = dict[str, object]

_PROCESS = 1

#: Values of a counter over a run.
_SAMPLES = 1000


class Track(IntEnum):
    """Tracks of slices, in the order in which they are shown."""

    NETWORK = 1
    INSTRUCTIONS = 2
    ARRAY = 3
    STALLS = 4
    LOADER = 5
    EPILOGUE = 6
    LOADS = 7
    SELECTOR = 8


#: What the tracks are called.
_TRACKS = {Track.NETWORK: "network", Track.INSTRUCTIONS: "instruction",
           Track.ARRAY: "issue stage: passes and tiles", Track.STALLS: "issue stage waits for",
           Track.LOADER: "tile loader", Track.EPILOGUE: "epilogue, passes retired",
           Track.LOADS: "load unit", Track.SELECTOR: "token selector"}

#: What the parts of a tile load are called.
_PARTS = {"swap": "waits for the swap", "weight": "waits for weights",
          "operand": "waits for keys or values", "load": "loads", "filled": "waits to be taken"}


def events(timelines: Sequence[Timeline]) -> list[Event]:
    """Return the events of runs that follow each other; the first begins at time 0.

    One cycle is one unit of time. Slices of a track nest or follow each other.
    """
    start = timelines[0].begin
    program = timelines[0].program
    result = [_metadata("process_name", 0, name=f"{program.model.name} on {program.config.name}")]
    for track in Track:
        if track != Track.SELECTOR or any(run.selectors for run in timelines):
            result += [_metadata("thread_name", track, name=_TRACKS[track]),
                       _metadata("thread_sort_index", track, sort_index=track.value)]
    for run in timelines:
        result += _run(run, start)
    return result


def write_trace(path: Path, timelines: Sequence[Timeline]) -> None:
    """Write the events of runs to a JSON file, one a line."""
    program = timelines[0].program
    other = {"unit": "1 us of the time axis is 1 clock cycle",
             "clock_mhz": program.config.clock_mhz, "model": program.model.name,
             "config": program.config.name,
             "cycles": sum(run.cycles for run in timelines),
             "images": [name for run in timelines for name in run.images]}
    lines = ",\n".join(json.dumps(event, separators=(",", ":")) for event in events(timelines))
    path.write_text(f'{{"otherData":{json.dumps(other)},"traceEvents":[\n{lines}\n]}}\n')


def _metadata(kind: str, track: int, **args: object) -> Event:
    return {"name": kind, "ph": "M", "pid": _PROCESS, "tid": int(track), "args": args}


def _slice(track: Track, span: Span, start: int, name: str = "",
           args: Event | None = None) -> Event:
    event: Event = {"name": name or span.name, "ph": "X", "ts": span.begin - start,
                    "dur": span.cycles, "pid": _PROCESS, "tid": int(track)}
    return event | {"args": args} if args else event


def _counter(name: str, at: int, **values: float) -> Event:
    return {"name": name, "ph": "C", "ts": at, "pid": _PROCESS, "args": values}


def _run(run: Timeline, start: int) -> Iterator[Event]:
    yield from _network(run, start)
    for span in run.instructions:
        yield _slice(Track.INSTRUCTIONS, span, start)
    for one in run.passes:
        yield from _pass(one, start)
    for span in run.stalls():
        yield _slice(Track.STALLS, span, start)
    for span in run.loads:
        yield _slice(Track.LOADS, span, start)
    for i, phases in enumerate(run.selectors):
        name = f"selector{i % run.program.selectors}"
        whole = Span(name=name, begin=phases[0].begin, end=phases[-1].end)
        yield _slice(Track.SELECTOR, whole, start)
        for span in phases:
            yield _slice(Track.SELECTOR, span, start)
    yield from _counters(run, start)


def _over(name: str, passes: Sequence[PassSpan]) -> Span:
    return Span(name=name, begin=passes[0].begin, end=passes[-1].end)


def _network(run: Timeline, start: int) -> Iterator[Event]:
    """Give slices of the images and, in them, of their blocks and selectors."""
    for image, group in groupby(run.passes, key=lambda one: one.image):
        passes = list(group)
        yield _slice(Track.NETWORK, _over(run.images[image], passes), start)
        for name, block in groupby(passes, key=lambda one: one.block):
            yield _slice(Track.NETWORK, _over(name, list(block)), start)


def _pass(one: PassSpan, start: int) -> Iterator[Event]:
    info = one.info
    args: Event = {"pass": info.index, "instruction": info.instruction, "tokens": info.tokens,
                   "rows": info.rows, "column tiles": info.column_tiles, "K tiles": info.k_tiles,
                   "queued": one.queued - start, "retired": one.retired - start}
    yield _slice(Track.ARRAY, one, start, args=args)
    for tile in one.tiles:
        yield _slice(Track.ARRAY, tile, start)
    for load in one.loads:
        yield _slice(Track.LOADER, load, start, f"{one.name} {load.name}")
        for part in load.parts:
            args = {"cycles without a row": load.waited}
            yield _slice(Track.LOADER, part, start, _PARTS[part.name],
                         args if part.name == "load" and load.waited else None)
    yield _slice(Track.EPILOGUE, one.written, start)
    yield {"name": f"{one.name} retired", "ph": "i", "s": "t", "ts": one.retired - start,
           "pid": _PROCESS, "tid": int(Track.EPILOGUE)}


def _counters(run: Timeline, start: int) -> Iterator[Event]:
    """Give what is counted, in windows of the same length."""
    edges = run.windows(_SAMPLES)
    width = run.config.port_bits // 8 / np.diff(edges)
    busy = run.shares(edges)["busy"]
    levels = run.weights.at(edges[:-1])
    read, written = ([levels.sums(edges) * width for levels in ports]
                     for ports in (run.read, run.written))
    for i, at in enumerate((edges[:-1] - start).tolist()):
        yield _counter("busy, % of the cycles", at, busy=round(100 * float(busy[i]), 1))
        yield _counter("weight FIFO, rows", at, rows=int(levels[i]))
        for name, ports in (("read", read), ("written", written)):
            yield _counter(f"bytes {name} per cycle", at, **{
                f"port {p}": round(float(rate[i]), 2) for p, rate in enumerate(ports)})
