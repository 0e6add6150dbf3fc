# SPDX-License-Identifier: BSD-2-Clause
"""What a configuration takes of an FPGA: tables of the blocks and of the modules in them."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from platforms.synthesis import (
    Block,
    Cells,
    blocks,
    synthesise,
    synthesise_blocks,
    totals,
)
from platforms.tables import print_or_update
from rtl.config import CONFIGS, MULTIPLIERS, Config, ConfigError, named
from rtl.top import emit_verilog

__all__ = ["DEVICES", "main", "report", "selector_cost", "tables"]

#: The devices of the boards: name, LUTs, flip-flops, DSPs and block RAMs of 36 kbit.
DEVICES = {
    "kv260": ("XCK26", 117_120, 234_240, 1_248, 144),
    "zcu104": ("XCZU7EV", 230_400, 460_800, 1_728, 312),
    "zcu102": ("XCZU9EG", 274_080, 548_160, 2_520, 912),
}

#: What Yosys builds around a portable multiplier and a DSP48E2 has inside, rounded down:
#: registers A1 and A2 (16 bits, the rest are copies of a sign), M (36) and P (38), and the adder,
#: which is short in the first of 8 rows, where it adds a constant.
INSIDE = Cells(lut=33, ff=16 + 16 + 36 + 38, carry=9)

_HEAD = ("LUT", "as memory", "as shift register", "FF", "CARRY4", "DSP", "BRAM")
_TOP, _CORE = "heatvit", "heatvit_core"


def report(config: Config, *, whole: bool = False) -> str:
    """Synthesise ``config`` and return its tables; with ``whole`` also the design as one piece."""
    verilog = emit_verilog(config)
    flat = synthesise(verilog, top=_TOP) if whole else None
    return tables(config, blocks(verilog), synthesise_blocks(verilog), flat)


def tables(config: Config, found: Mapping[str, Block], own: Mapping[str, Cells],
           flat: Cells | None = None) -> str:
    """Return the tables as Markdown.

    Parameters
    ----------
    config
        Configuration, for its name and the size of its array.
    found, own
        Modules of its Verilog, and what each takes by itself.
    flat
        What the design takes as one piece, if that is known.
    """
    cells = totals(found, own)
    inside = _inside(config)
    rows = [_row("**all**", cells[_TOP])]
    if flat:
        rows.append(_row("all, synthesised as one piece", flat))
    if inside != Cells():
        rows.append(_row("all, less what the DSPs of the array have inside",
                         cells[_TOP] - inside))
    if config.name in DEVICES:
        rows.append(_shares(DEVICES[config.name], cells[_TOP] - inside))
    rows += [_row(f"`{_label(name)}`", cells[kind])
             for name, kind in found[_CORE].parts.items()]
    rows.append(_row("`core`, itself", own[_CORE]))
    rows += [_row(f"`{_label(name)}`", cells[kind])
             for name, kind in found[_TOP].parts.items() if kind != _CORE]

    count = _instances(found)
    repeated = [(kind, times) for kind, times in sorted(count.items())
                if times > 1 and not kind.startswith(f"{_TOP}_ram_")]
    return "\n".join([
        *_table(["block", *_HEAD], rows), "",
        *_table(["module", "instances", *_HEAD],
                [_row(f"`{kind.removeprefix(f'{_TOP}_')}` | {times}", cells[kind])
                 for kind, times in repeated])])


def selector_cost(config: Config) -> str:
    """Synthesise ``config`` with and without its token selector; return what that costs."""
    if not config.pruning:
        raise ConfigError(f"configuration {config.name} has no token selector, must have one")
    without, with_it = (_total(replace(config, pruning=pruning)) for pruning in (False, True))
    rows = [_row("without selector", without), _row("with selector", with_it)]
    more = [getattr(with_it, name) / getattr(without, name) - 1
            for name in ("luts", "lutram", "srl", "ff", "carry", "dsp", "bram")]
    rows.append("| more | " + " | ".join(f"{part:+.2%}" for part in more) + " |")
    inside = _inside(config)
    if inside != Cells():
        luts, rest = with_it.luts - without.luts, (without - inside).luts
        rows.append(f"| more, of {rest:,} LUTs less what the DSPs of the array have inside |"
                    f" {luts / rest:+.2%} | | | | | | |")
    return "\n".join(_table(["configuration", *_HEAD], rows))


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


def _row(label: str, cells: Cells) -> str:
    numbers = [cells.luts, cells.lutram, cells.srl, cells.ff, cells.carry, cells.dsp]
    return f"| {label} | " + " | ".join([*(f"{n:,}" for n in numbers), f"{cells.bram:g}"]) + " |"


def _shares(device: tuple[str, int, int, int, int], cells: Cells) -> str:
    name, *sizes = device
    lut, ff, dsp, bram = (f"{used / size:.0%}" for used, size in zip(
        (cells.luts, cells.ff, cells.dsp, cells.bram), sizes, strict=True))
    return f"| of {name} | {lut} | | | {ff} | | {dsp} | {bram} |"


def _table(head: Sequence[str], rows: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}", *rows]


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
    options = parser.parse_args(arguments)

    def prepare() -> tuple[str, Callable[[], str]]:
        config = replace(named(options.config), multiplier=options.multiplier)
        return config.name, lambda: (selector_cost(config) if options.selector_cost
                                     else report(config, whole=options.whole))

    return print_or_update(options.update, prepare)


if __name__ == "__main__":
    sys.exit(main())
