# SPDX-License-Identifier: BSD-2-Clause
"""From the timed recording of a run to its timeline."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from golden.fixed import Int
from golden.program import PassInfo, Program
from rtl.isa import LoadKind, Opcode
from rtl.loader import LoaderActivity
from rtl.selector import SelectorPhase
from sim.streams import CYCLE, trace_streams
from sim.timeline import Levels, PassSpan, Span, TileLoad, Timeline, names_of

__all__ = ["read_timeline", "timeline"]

#: Counters of passes are modulo this.
_COUNTER = 256

#: From the cycle in which the core says that it is done to the end of the run: the controller hears
#: of it a cycle later, and that cycle is the last one that it counts.
_TO_END = 2


def read_timeline(folder: Path, program: Program,
                  images: Sequence[tuple[str, Sequence[PassInfo]]]) -> Timeline:
    """Return the timeline of the recording in ``folder``, see :func:`timeline`."""
    return timeline({stream.name: stream.read(folder) for stream in trace_streams(program.config)},
                    program, images)


def timeline(recording: Mapping[str, Mapping[str, Int]], program: Program,
             images: Sequence[tuple[str, Sequence[PassInfo]]]) -> Timeline:
    """Return the timeline of a recording of the streams of ``sim.streams.trace_streams``.

    Parameters
    ----------
    recording
        For each stream the values of its signals; there is one run in it.
    program
        The program.
    images
        Name of each image, or of all of a round, in order, and the passes that it took.
    """
    def levels(stream: str, signal: str) -> Levels:
        return Levels(recording[stream][CYCLE], recording[stream][signal])

    issue = recording["issue"]
    begin = int(issue[CYCLE][np.argmax(issue["tap_run_start"])])
    end = int(issue[CYCLE][(issue[CYCLE] > begin) & (issue["tap_run_end"] == 1)][0]) + _TO_END

    infos = [(image, info) for image, (_, passes) in enumerate(images) for info in passes]
    opcodes = [Opcode(fields.opcode).name for fields in program.instructions]
    stages = {info.instruction: _name(info) for _, info in infos}
    selectors: tuple[tuple[Span, ...], ...] = ()
    if "selector" in recording:
        selectors = tuple(_groups(levels("selector", "tap_selector").spans(
            begin, end, names_of(SelectorPhase, "idle"))))
    ports = range(program.config.ports)

    def beats(port: int, channel: str) -> Levels:
        valid, ready = (recording["bus"][f"m_axi_gmem{port}_{channel}{pin}"]
                        for pin in ("valid", "ready"))
        return Levels(recording["bus"][CYCLE], valid & ready)

    return Timeline(
        program=program, images=tuple(name for name, _ in images), begin=begin, end=end,
        causes=levels("issue", "tap_stall"),
        passes=_passes(recording, infos, begin, end),
        instructions=tuple(levels("instruction", "tap_instruction").spans(
            begin, end, {i: f"{opcode} {stages[i]}" if i in stages else opcode
                         for i, opcode in enumerate(opcodes)})),
        loads=_loads(recording["load"], begin, end), selectors=selectors,
        weights=levels("weights", "tap_weight_level"),
        read=tuple(beats(port, "r") for port in ports), written=(beats(0, "w"),))


def _name(info: PassInfo) -> str:
    return info.stage if info.head is None else f"{info.stage} head {info.head}"


def _groups(spans: Iterator[Span]) -> Iterator[tuple[Span, ...]]:
    """Put together what follows without a gap."""
    group: list[Span] = []
    for span in spans:
        if group and span.begin != group[-1].end:
            yield tuple(group)
            group = []
        group.append(span)
    if group:
        yield tuple(group)


def _loads(load: Mapping[str, Int], begin: int, end: int) -> tuple[Span, ...]:
    """Return what the load unit did; it is busy from the cycle after a start on."""
    starts = (load[CYCLE] >= begin) & (load[CYCLE] < end) & (load["tap_load_start"] == 1)
    kinds = names_of(LoadKind)
    names = [f"{kinds[kind]}, ahead" if ahead else kinds[kind] for kind, ahead in zip(
        load["tap_load_kind"][starts].tolist(), load["tap_load_ahead"][starts].tolist(),
        strict=True)]
    busy = Levels(load[CYCLE], load["tap_load_busy"]).spans(begin, end, {1: "busy"})
    return tuple(replace(span, name=name) for span, name in zip(busy, names, strict=True))


def _counted(counter: Levels, begin: int, end: int) -> list[int]:
    """Return the cycles in which a counter has become one more."""
    inside = (counter.cycles > begin) & (counter.cycles < end)
    before = counter.at(np.array([begin]))
    steps = np.diff(counter.values[inside], prepend=before) % _COUNTER
    return np.repeat(counter.cycles[inside], steps).tolist()


def _passes(recording: Mapping[str, Mapping[str, Int]], infos: Sequence[tuple[int, PassInfo]],
            begin: int, end: int) -> tuple[PassSpan, ...]:
    tile = recording["tile"]
    inside = (tile[CYCLE] >= begin) & (tile[CYCLE] < end)
    first_k, first = (tile[name][inside] == 1 for name in ("tap_tile_first_k",
                                                          "tap_tile_first_column"))
    starts = np.flatnonzero(first_k & first)
    passes = {name: _counted(Levels(recording["passes"][CYCLE], recording["passes"][f"tap_{name}"]),
                             begin, end) for name in ("queued", "retired")}
    written = _written(recording["epilogue"], begin, end)
    for what, count in (("at the issue stage", len(starts)), ("written", len(written)),
                        *((name, len(cycles)) for name, cycles in passes.items())):
        if count != len(infos):
            raise ValueError(f"the trace has {count} passes {what}, must have {len(infos)}")

    # A tile is there from the cycle after it is accepted to the next one, or to a pause.
    begins = tile[CYCLE][inside] + 1
    issue = recording["issue"]
    pauses = issue[CYCLE][issue["tap_tile_active"] == 0]
    pauses = np.append(pauses[pauses > begin], end)
    ends = np.minimum(np.append(begins[1:], end), pauses[np.searchsorted(pauses, begins)])
    order = np.arange(len(begins))
    # Column tiles since the first of the pass, K tiles since the first of the column tile.
    column = np.cumsum(first_k)
    column -= column[starts[np.searchsorted(starts, order, side="right") - 1]]
    k = order - np.maximum.accumulate(np.where(first_k, order, 0))
    names = [f"column {c} K {j}" for c, j in zip(column.tolist(), k.tolist(), strict=True)]
    tiles = [Span(name=name, begin=b, end=e) for name, b, e in
             zip(names, begins.tolist(), ends.tolist(), strict=True)]
    loads = list(_tile_loads(recording["loader"], names, begin, end))

    spans = []
    for number, ((image, info), at, after) in enumerate(
            zip(infos, starts.tolist(), [*starts[1:].tolist(), len(tiles)], strict=True)):
        spans.append(PassSpan(
            name=_name(info), begin=tiles[at].begin, end=tiles[after - 1].end, info=info,
            image=image, tiles=tuple(tiles[at:after]), loads=tuple(loads[at:after]),
            written=Span(name=_name(info), begin=written[number][0], end=written[number][1]),
            queued=passes["queued"][number], retired=passes["retired"][number]))
    return tuple(spans)


def _written(epilogue: Mapping[str, Int], begin: int, end: int) -> list[tuple[int, int]]:
    """Return for each pass the cycles of its first row and after its last one.

    Passes are written in order, and two that follow are in different slots.
    """
    spans: list[tuple[int, int]] = []
    last = -1
    slots = Levels(epilogue[CYCLE], np.where(epilogue["tap_written"] == 1,
                                             epilogue["tap_written_slot"], -1))
    slot_names = {slot: str(slot) for slot in set(slots.values.tolist()) - {-1}}
    for span in slots.spans(begin, end, slot_names):
        if int(span.name) == last:
            spans[-1] = (spans[-1][0], span.end)
        else:
            spans.append((span.begin, span.end))
        last = int(span.name)
    return spans


def _tile_loads(loader: Mapping[str, Int], names: Sequence[str], begin: int,
                end: int) -> Iterator[TileLoad]:
    """Give how each tile was loaded, from what the loader did."""
    cycles, activity = loader[CYCLE], loader["tap_loader"]
    inside = (cycles >= begin) & (cycles < end) & (loader["tap_loader_begins"] == 1)
    begins = cycles[inside] + 1
    # A tile ends where the next one begins, or where none is loaded.
    working = names_of(LoaderActivity, "idle", "scales", "tile")
    pauses = np.append(cycles[~np.isin(activity, list(working))], end)
    ends = np.minimum(np.append(begins[1:], end), pauses[np.searchsorted(pauses, begins)])
    levels = Levels(cycles, activity)
    for name, first, last in zip(names, begins.tolist(), ends.tolist(), strict=True):
        yield _tile_load(name, list(levels.spans(first, last, working)))


def _tile_load(name: str, spans: Sequence[Span]) -> TileLoad:
    rows = [i for i, span in enumerate(spans) if span.name == "load"]
    first, last = rows[0], rows[-1]
    load = Span(name="load", begin=spans[first].begin, end=spans[last].end)
    return TileLoad(name=name, begin=spans[0].begin, end=spans[-1].end,
                    parts=(*spans[:first], load, *spans[last + 1:]),
                    waited=load.cycles - sum(spans[i].cycles for i in rows))
