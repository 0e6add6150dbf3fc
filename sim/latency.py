# SPDX-License-Identifier: BSD-2-Clause
"""The latency-sparsity table, measured by simulation: ``python -m sim.latency``."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from golden.cli import add_config_option, numbers
from golden.files import check_output
from golden.images import load_image
from golden.latency import LatencyTable
from golden.lower import check_sizes
from golden.model import MODELS, ModelConfig, model_named
from golden.pruning import PruningConfig
from golden.quantize import QuantizedViT
from rtl.config import Config, named
from sim.command import add_bus_options, bus_of, command, prepare, progress_bar
from sim.report import Report
from sim.simulate import Bus, simulate
from sim.workload import Workload, quantized

__all__ = ["counts_of", "main", "measure", "of_depth"]

#: Parts into which the default counts divide the patches.
_PARTS = 8

#: Blocks of the shorter of two networks that differ by one block.
_SHORT = 2

Run = Callable[[str, QuantizedViT], Report]


def counts_of(model: ModelConfig) -> tuple[int, ...]:
    """Return the numbers of patches that are measured unless told otherwise: from all to one."""
    patches = model.grid ** 2
    return tuple(sorted({1, *(patches * i // _PARTS for i in range(1, _PARTS + 1))} - {0},
                        reverse=True))


def of_depth(qvit: QuantizedViT, depth: int) -> QuantizedViT:
    """Return a network of ``depth`` blocks, those of ``qvit`` one after the other, repeatedly."""
    blocks = (qvit.blocks * depth)[:depth]
    return replace(qvit, model=replace(qvit.model, depth=depth), blocks=blocks)


def _keeping(qvit: QuantizedViT, count: int) -> QuantizedViT:
    """Return the network with another number of patches kept by its selector ``topk``."""
    assert qvit.pruning is not None
    return replace(qvit, pruning=replace(qvit.pruning, counts=(count,)))


def measure(model: ModelConfig, config: Config, counts: Sequence[int],
            run: Run) -> LatencyTable:
    """Return the latency table of ``model``.

    The cycles of a block are those that three blocks take longer than two, with a selector
    ``topk`` before the second. What ``topk`` costs is what it adds where it keeps everything; what
    ``threshold`` costs is that and what it takes longer than ``topk`` that keeps as many: the
    passes of its classifier.

    Parameters
    ----------
    model, config
        The network, with synthetic weights, and the configuration.
    counts
        Numbers of patches that ``topk`` keeps.
    run
        Simulates a network that is called so.
    """
    patches = model.grid ** 2
    everything = PruningConfig(selector="topk", blocks=(1,), counts=(patches,))
    network = quantized(model, None, everything)
    dense = run("dense", network.without_selectors())

    short, long = (of_depth(network, depth) for depth in (_SHORT, _SHORT + 1))
    blocks, cycles = {}, {}
    for count in sorted({patches, *counts}, reverse=True):
        shorter = run(f"{_SHORT} blocks, {count} patches", _keeping(short, count))
        longer = run(f"{_SHORT + 1} blocks, {count} patches", _keeping(long, count))
        blocks[shorter.steps[0].tokens_out] = longer.cycles - shorter.cycles
        cycles[count] = shorter.cycles

    topk = cycles[patches] - run(f"{_SHORT} blocks", short.without_selectors()).cycles
    threshold = run(f"{_SHORT} blocks, threshold",
                    of_depth(quantized(model, None, PruningConfig(blocks=(1,))), _SHORT))
    kept = len(threshold.steps[0].kept)
    same = run(f"{_SHORT} blocks, {kept} patches", _keeping(short, kept))
    return LatencyTable(
        model=model.name, config=config.name, clock_mhz=config.clock_mhz, dense=dense.cycles,
        selectors={"topk": topk, "threshold": topk + threshold.cycles - same.cycles},
        blocks=tuple(sorted(blocks.items())))


class NotExactError(ValueError):
    """A run in which the accelerator and the golden model differ: its cycles mean nothing."""


def _runner(config: Config, bus: Bus, model: ModelConfig, console: Console) -> Run:
    program = prepare(config, console)
    frame = load_image(None, model.image_size)

    def run(name: str, qvit: QuantizedViT) -> Report:
        workload = Workload(qvit, config, frame)
        with console.status(f"Golden model: {name}"):
            cycles = bus.cycles(workload)
        with progress_bar(console, name, cycles) as progress:
            report = simulate(workload, program, bus, progress=progress)
        if not report.comparison.exact:
            raise NotExactError(f"{name}: the accelerator and the golden model differ, at"
                                f" {report.comparison.first_mismatch}, must be equal")
        console.print(f"{name}: {report.cycles:,} cycles, bit exact", highlight=False)
        return report

    return run


def _shown(table: LatencyTable) -> Table:
    shown = Table("tokens", "cycles of a block", "of all tokens")
    for tokens, cycles in reversed(table.blocks):
        shown.add_row(str(tokens), f"{cycles:,}", f"{cycles / table.blocks[-1][1]:.1%}")
    return shown


def _execute(options: argparse.Namespace, console: Console) -> bool:
    check_output(options.output)
    config, model, bus = named(options.config), model_named(options.model), bus_of(options)
    # Threshold takes the most room.
    check_sizes(model, config, PruningConfig(blocks=(1,)))
    counts, patches = options.counts or counts_of(model), model.grid ** 2
    for count in counts:
        if not 1 <= count <= patches:
            raise ValueError(f"a count of kept patches is {count}, must be between 1 and {patches}")
    table = measure(model, config, counts, _runner(config, bus, model, console))
    console.print(_shown(table))
    console.print(f"dense network {table.dense:,} cycles, {table.milliseconds:.3f} ms at"
                  f" {config.clock_mhz} MHz; a selector adds "
                  + ", ".join(f"{cycles:,} ({kind})" for kind, cycles in table.selectors.items()),
                  highlight=False)
    options.output.write_text(json.dumps(
        {**table.to_dict(), "bytes_per_cycle": bus.bytes_per_cycle, "latency": bus.latency,
         "stalls": bus.stalls}, indent=2) + "\n")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.latency", description="Measure the cycles of one block for different"
        " numbers of tokens, by simulation, as latency-aware training takes them.")
    parser.add_argument("--model", default="scenes", help=f"one of {', '.join(MODELS)}")
    add_config_option(parser, "tiny")
    parser.add_argument("--counts", type=numbers(int, "whole numbers"), metavar="COUNTS",
                        help="patches that are kept, beside all of them, as in 48,32,16; without"
                        " it eighths of all, and one")
    add_bus_options(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE",
                        help="JSON file of the table")
    options = parser.parse_args(arguments)
    return command("sim.latency", lambda: _execute(options, Console()))


if __name__ == "__main__":
    sys.exit(main())
