# SPDX-License-Identifier: BSD-2-Clause
"""Cycles of a network before it is simulated: ``python -m platforms.estimate``."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from golden.cli import (
    add_config_option,
    add_last_block_option,
    add_selector_options,
    exit_status,
    numbers,
    pruning_config,
)
from golden.cycles import BYTES_PER_CYCLE, LATENCY, CycleModel
from golden.files import check_output
from golden.lower import check_sizes, lower
from golden.model import MODELS, ModelConfig, model_named
from golden.pages import check_section, write_section
from golden.pruning import BLOCKS, PruningConfig, segment_macs, tokens_left
from platforms.hollow import hollow
from platforms.measured import Measured, compared, measured
from rtl.config import Config, named

__all__ = ["check_tokens", "cycle_model", "main"]

#: The page that ``--update`` writes to, and what the table is called in it.
_PAGE = Path(__file__).parent.parent / "docs" / "estimate.md"
_SECTION = "check"


def check_tokens(model: ModelConfig, pruning: PruningConfig, tokens: Sequence[int]) -> None:
    """Raise ValueError unless selectors could leave these ``tokens``, at the start and then."""
    if len(tokens) != len(pruning.active) + 1:
        raise ValueError(f"tokens are given after {len(tokens) - 1} selectors, must be after"
                         f" {len(pruning.active)}")
    for before, left in pairwise(tokens):
        if not model.special_tokens < left <= before:
            raise ValueError(f"a selector leaves {left} tokens of {before}, must leave between"
                             f" {model.special_tokens + 1} and {before}")


def cycle_model(model: ModelConfig, config: Config, pruning: PruningConfig, *,
                bytes_per_cycle: float, latency: int, last_block: str = "all",
                batch: int = 1) -> CycleModel:
    """Return the cycle model of a network; ConfigError says what does not fit."""
    selectors = pruning if pruning.active else None
    check_sizes(model, config, selectors, batch)
    program = lower(hollow(model, selectors), config, last_block=last_block, batch=batch)
    return CycleModel(program, bytes_per_cycle, latency)


def _tokens(options: argparse.Namespace, model: ModelConfig,
            pruning: PruningConfig) -> tuple[int, ...]:
    if pruning.selector != "threshold":
        if options.tokens is not None:
            raise ValueError(f"tokens are given for selector {pruning.selector}, must be for"
                             " threshold only: that of topk follows from what it keeps")
        return tokens_left(model, pruning)
    if options.tokens is None:
        raise ValueError("selector threshold decides for each image: --tokens must say how many"
                         " tokens it leaves")
    return model.tokens, *options.tokens


def _estimate(options: argparse.Namespace, console: Console) -> None:
    if options.update:
        raise ValueError("--update is given without --check, must be with it")
    if options.json is not None:
        check_output(options.json)
    config, model = named(options.config), model_named(options.model)
    pruning = pruning_config(options)
    pruning.check(model)
    tokens = _tokens(options, model, pruning)
    check_tokens(model, pruning, tokens)
    cycles_of = cycle_model(model, config, pruning, bytes_per_cycle=options.bytes_per_cycle,
                            latency=options.latency, last_block=options.last_block,
                            batch=options.batch)
    cycles, steady = cycles_of.cycles(tokens), cycles_of.steady(tokens)
    least = sum(segment_macs(model, pruning, tokens, options.last_block)) / config.macs_per_cycle
    utilisation = least * options.batch / cycles
    result = {
        "model": model.name, "config": config.name, "clock_mhz": config.clock_mhz,
        "bytes_per_cycle": options.bytes_per_cycle, "latency": options.latency,
        "selector": pruning.selector, "blocks": list(pruning.active), "tokens": list(tokens),
        "last_block": options.last_block, "batch": options.batch, "cycles": cycles,
        "milliseconds": cycles / config.clock_mhz / 1e3, "mac_utilization": utilisation,
        "steady_cycles": steady, "steady_mac_utilization": least / steady,
        "images_per_second": config.clock_mhz * 1e6 / steady}
    last = "" if options.last_block == "all" else f", last block: {options.last_block}"
    batch = "" if options.batch == 1 else f", batch {options.batch}"
    console.print(f"{model.name} on {config.name}, {pruning}{last}{batch}\n"
                  f"tokens {', '.join(map(str, tokens))}\n"
                  f"cycles {cycles:,} (estimated; memory of {options.bytes_per_cycle:g} bytes per"
                  f" cycle, latency {options.latency}), {result['milliseconds']:.3f} ms at"
                  f" {config.clock_mhz} MHz, utilisation {utilisation:.2%}\n"
                  f"in the middle of a run {steady:,.0f} an image,"
                  f" {result['images_per_second']:,.1f} images/s, utilisation {least / steady:.2%}",
                  highlight=False, soft_wrap=True)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def _check(options: argparse.Namespace, console: Console) -> None:
    """Compare estimates with what was measured."""
    if options.json is not None:
        raise ValueError("--json is given with --check, must be without it")
    if options.update:
        check_section(_PAGE, _SECTION)
    blocks = options.blocks or BLOCKS
    models: dict[tuple[object, ...], CycleModel] = {}

    def estimate(row: Measured) -> tuple[float, ...]:
        model, pruning = model_named(row.model), row.pruning(blocks)
        check_tokens(model, pruning, row.tokens)
        key = replace(row, tokens=(), cycles=None, first=None, steady=None), pruning
        if key not in models:
            models[key] = cycle_model(
                model, named(row.config), pruning, latency=options.latency, batch=row.batch,
                bytes_per_cycle=row.bytes_per_cycle or options.bytes_per_cycle,
                last_block=row.last_block)
        if row.cycles is not None:
            return (models[key].cycles(row.tokens),)
        return (models[key].ends(row.tokens, 1)[0], models[key].steady(row.tokens, row.rounds))

    text = compared(measured(options.check, options.config), estimate)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if options.update:
        write_section(_PAGE, _SECTION, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m platforms.estimate", description="Estimate the cycles of an image from the"
        " program and its numbers of tokens, without weights and without a simulation.")
    parser.add_argument("--model", default="deit_tiny", help=f"one of {', '.join(MODELS)}")
    add_config_option(parser, "zcu102")
    add_selector_options(parser, "none")
    add_last_block_option(parser)
    parser.add_argument("--tokens", type=numbers(int, "whole numbers"), metavar="COUNTS",
                        help="for threshold: tokens that each selector leaves, as in 110,103,78")
    parser.add_argument("--batch", type=int, default=1, metavar="B",
                        help="images that share the weights of all blocks behind the first"
                        " selector (default: %(default)s)")
    parser.add_argument("--bytes-per-cycle", type=float, default=BYTES_PER_CYCLE, metavar="BYTES",
                        help="memory bandwidth (default: %(default)s)")
    parser.add_argument("--latency", type=int, default=LATENCY, metavar="CYCLES",
                        help="cycles from an address to its data (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    parser.add_argument("--check", type=Path, metavar="PAGE", help="compare estimates with the"
                        " tables of measured cycles on this page, which python -m sim.benchmark"
                        " writes; of the options above, what a table says is not taken")
    parser.add_argument("--update", action="store_true",
                        help=f"with --check: write the comparison into {_PAGE.name}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    run = _estimate if options.check is None else _check
    return exit_status("platforms.estimate", lambda: run(options, Console()))


if __name__ == "__main__":
    sys.exit(main())
