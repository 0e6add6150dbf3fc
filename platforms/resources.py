# SPDX-License-Identifier: BSD-2-Clause
"""What a configuration takes of an FPGA: tables of the blocks and of the modules in them."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from golden.files import check_output
from golden.pages import table
from platforms.boards import Board
from platforms.boards_data import BOARDS
from platforms.figures import (
    ALL,
    FIGURES,
    LIMITS,
    delta,
    figures,
    grown,
    load,
    record,
)
from platforms.levels import Levels, levels
from platforms.synthesis import (
    Block,
    Cells,
    blocks,
    counted,
    map_blocks,
    synthesise,
    synthesise_blocks,
    totals,
)
from platforms.tables import print_or_update
from rtl.config import CONFIGS, MULTIPLIERS, Config, ConfigError, named
from rtl.top import emit_verilog

__all__ = ["Result", "main", "selector_cost", "synthesised", "tables"]

#: What Yosys builds around a portable multiplier and a DSP48E2 has inside, rounded down:
#: registers A1 and A2 (16 bits, the rest are copies of a sign), M (36) and P (38), and the adder,
#: which is short in the first of 8 rows, where it adds a constant.
INSIDE = Cells(lut=33, ff=16 + 16 + 36 + 38, carry=9)

_HEAD = [title for key, title in FIGURES.items() if key != "levels"]
_TOP, _CORE = "heatvit", "heatvit_core"


@dataclass(frozen=True)
class Result:
    """What a synthesis has found.

    Parameters
    ----------
    config
        Configuration, for its name and the size of its array.
    found, own
        Modules of its Verilog, and what each takes by itself.
    deep
        LUT levels between registers.
    flat
        What the design takes as one piece, if that is known.
    """

    config: Config
    found: Mapping[str, Block]
    own: Mapping[str, Cells]
    deep: Levels
    flat: Cells | None = None

    @property
    def name(self) -> str:
        """Name in the record of figures."""
        config = self.config
        return config.name if config.multiplier == MULTIPLIERS[0] else (
            f"{config.name} {config.multiplier}")

    def blocks(self) -> dict[str, tuple[Cells, int]]:
        """Return what all takes and its LUT levels, and then each block of core and top.

        The blocks add up to all; ``core`` and ``top`` are what is beside blocks.
        """
        cells = totals(self.found, self.own)
        core, top = self.found[_CORE].parts, self.found[_TOP].parts
        parts = {f"core.{name}": kind for name, kind in core.items()} | {
            name: kind for name, kind in top.items() if kind != _CORE}
        return {ALL: (cells[_TOP], self.deep.inside(""))} | {
            _label(name): (cells[kind], self.deep.inside(name)) for name, kind in parts.items()} | {
            "core": (self.own[_CORE], self.deep.own["core"]),
            "top": (self.own[_TOP], self.deep.own[""])}

    def figures(self) -> dict[str, dict[str, float]]:
        """Return the figures of all and of each block."""
        return {name: figures(*block) for name, block in self.blocks().items()}


def synthesised(config: Config, *, whole: bool = False) -> Result:
    """Synthesise ``config``, every module by itself; with ``whole`` also as one piece."""
    verilog = emit_verilog(config)
    flat = synthesise(verilog, top=_TOP) if whole else None
    netlists = map_blocks(verilog)
    return Result(config, blocks(verilog), counted(netlists), levels(netlists, top=_TOP), flat)


def tables(result: Result) -> str:
    """Return the tables as Markdown."""
    config, found = result.config, result.found
    parts = result.blocks()
    cells = totals(found, result.own)
    inside = _inside(config)
    rows = [_row("**all**", *parts[ALL])]
    if config.name in LIMITS:
        limit = LIMITS[config.name]
        rows.append(["at most", *(f"{limit[key]:,}" if key in limit else "" for key in FIGURES)])
    if result.flat:
        rows.append(_row("all, synthesised as one piece", result.flat, ""))
    if inside != Cells():
        rows.append(_row("all, less what the DSPs of the array have inside",
                         cells[_TOP] - inside, ""))
    if config.name in BOARDS:  # as configurations are called that are made for the device of one
        rows.append(_shares(BOARDS[config.name], cells[_TOP] - inside))
    rows += [_row(f"`{name}`" + ", itself" * (name in ("core", "top")), *block)
             for name, block in parts.items() if name != ALL]

    count = _instances(found)
    repeated = [(kind, times) for kind, times in sorted(count.items())
                if times > 1 and not kind.startswith(f"{_TOP}_ram_")]
    return "\n\n".join([
        table(["block", *FIGURES.values()], rows, left=1),
        table(["module", "instances", *_HEAD],
              ([f"`{kind.removeprefix(f'{_TOP}_')}`", times, *_counts(cells[kind])]
               for kind, times in repeated), left=1),
        table(["LUT levels", "carry chains", "from", "to", "through"],
              ([path.luts, path.carries, f"`{path.start}`", f"`{path.end}` {path.pin}".strip(),
                ", ".join(path.cells)] for path in result.deep.deepest))])


def selector_cost(config: Config) -> str:
    """Synthesise ``config`` with and without its token selector; return what that costs."""
    if not config.pruning:
        raise ConfigError(f"configuration {config.name} has no token selector, must have one")
    without, with_it = (_total(replace(config, pruning=pruning)) for pruning in (False, True))
    rows = [_row("without selector", without), _row("with selector", with_it)]
    more = [getattr(with_it, name) / getattr(without, name) - 1
            for name in ("luts", "lutram", "srl", "ff", "carry", "dsp", "bram")]
    rows.append(["more", *(f"{part:+.2%}" for part in more)])
    inside = _inside(config)
    if inside != Cells():
        luts, rest = with_it.luts - without.luts, (without - inside).luts
        rows.append([f"more, of {rest:,} LUTs less what the DSPs of the array have inside",
                     f"{luts / rest:+.2%}", *[""] * (len(_HEAD) - 1)])
    return table(["configuration", *_HEAD], rows, left=1)


def _inside(config: Config) -> Cells:
    """Return what the counts have too much: what the DSPs of a portable array have inside."""
    times = config.macs_per_cycle // 2 if config.multiplier == "portable" else 0
    return INSIDE * times


def _total(config: Config) -> Cells:
    verilog = emit_verilog(config)
    return totals(blocks(verilog), synthesise_blocks(verilog))[_TOP]


def _instances(found: Mapping[str, Block]) -> Counter[str]:
    """Return how often each module is in the design."""
    count: Counter[str] = Counter()
    pending = [_TOP]
    while pending:
        for kind in found[pending.pop()].parts.values():
            count[kind] += 1
            pending.append(kind)
    return count


def _label(name: str) -> str:
    """Return the name of an instance without the number that keeps it apart from a signal."""
    return name.split("$")[0]


def _counts(cells: Cells) -> list[str]:
    counts = [getattr(cells, key) for key in FIGURES if key != "levels"]
    return [f"{n:,}" if isinstance(n, int) else f"{n:g}" for n in counts]


def _row(label: str, cells: Cells, *more: object) -> list[object]:
    return [label, *_counts(cells), *more]


def _shares(board: Board, cells: Cells) -> list[object]:
    """Return the row that says which parts of a device are taken."""
    limits = board.limits
    lut, ff, dsp, bram = (f"{used / size:.0%}" for used, size in (
        (cells.luts, limits.luts), (cells.ff, limits.ff), (cells.dsp, limits.dsp),
        (cells.bram, limits.bram)))
    return [f"of {board.part.split('-')[0].upper()}", lut, "", "", ff, "", dsp, bram, ""]


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m platforms.resources``."""
    parser = argparse.ArgumentParser(prog="python -m platforms.resources", description=__doc__)
    parser.add_argument("--config", default="tiny",
                        help=f"configuration: {', '.join(CONFIGS)} (default: %(default)s)")
    parser.add_argument("--multiplier", choices=MULTIPLIERS, default=MULTIPLIERS[0],
                        help="form of the multipliers of the array (default: %(default)s)")
    parser.add_argument("--whole", action="store_true",
                        help="synthesise the design as one piece as well; minutes, for small ones")
    parser.add_argument("--selector-cost", action="store_true",
                        help="what the token selector takes: with it and without it")
    parser.add_argument("--update", type=Path, metavar="FILE",
                        help="put the tables into this file instead of printing them")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="write the figures of all blocks and the deepest paths as JSON")
    record_options = parser.add_mutually_exclusive_group()
    record_options.add_argument(
        "--delta", action="store_true", help="print what differs from the recorded figures instead;"
        " status 1 if something is above its limit or has grown by more than 2 %%")
    record_options.add_argument("--record", action="store_true",
                                help="record the figures, for --delta and the tests")
    options = parser.parse_args(arguments)
    if options.selector_cost and (options.json or options.delta or options.record):
        parser.error("--selector-cost has no figures of blocks: without --json, --delta, --record")
    more: list[str] = []

    def report(config: Config) -> str:
        result = synthesised(config, whole=options.whole)
        found = result.figures()
        if options.json:
            options.json.write_text(json.dumps(
                {"name": result.name, "figures": found,
                 "deepest": [asdict(path) for path in result.deep.deepest]}, indent=1) + "\n")
        if options.record:
            record(result.name, found)
        if options.delta:
            old = load(result.name)
            more.extend(grown(config.name, old, found))
            return delta(old, found)
        return tables(result)

    def prepare() -> tuple[str, Callable[[], str]]:
        config = replace(named(options.config), multiplier=options.multiplier)
        if options.json:
            check_output(options.json)
        return config.name, lambda: (selector_cost(config) if options.selector_cost
                                     else report(config))

    status = print_or_update(options.update, prepare)
    for sentence in more:
        print(sentence, file=sys.stderr)
    return status or int(bool(more))


if __name__ == "__main__":
    sys.exit(main())
