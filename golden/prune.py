# SPDX-License-Identifier: BSD-2-Clause
"""Which patches of a photograph the selectors keep: ``python -m golden.prune``."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from golden import integer
from golden.checkpoint import load_checkpoint
from golden.cli import (
    add_selector_options,
    exit_status,
    frames,
    picture_name,
    pruning_config,
)
from golden.files import check_output, make_folder
from golden.images import calibration_frames, normalise
from golden.model import MODELS, FloatViT, ModelConfig, model_named
from golden.panels import panels
from golden.pruning import PrunedViT, Step, segment_macs
from golden.quantize import QuantizedViT, quantize
from golden.synthetic import SEED, synthetic
from golden.synthetic_selector import synthetic_selectors

__all__ = ["main"]

#: Folder of the pictures, unless told otherwise.
_OUTPUT = Path("build") / "prune"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m golden.prune", description="Run photographs through the float twin with"
        " token selectors, and show which patches each selector keeps.")
    parser.add_argument("--model", default="deit_tiny", help=f"one of {', '.join(MODELS)}")
    add_selector_options(parser, "threshold")
    parser.add_argument("--images", type=Path, nargs="+", metavar="FILE",
                        help="photographs, or folders of them; without them a sample photograph of"
                        " scikit-learn")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help="weights of the network (.safetensors, .pth); without it they are"
                        " synthetic; those of selectors always are")
    parser.add_argument("--integers", action="store_true",
                        help="run the integer twin, too, and compare what it keeps")
    parser.add_argument("--output", type=Path, default=_OUTPUT, metavar="DIR",
                        help=f"folder for one picture of each photograph; without it {_OUTPUT}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    return parser


def _step(step: Step) -> dict[str, object]:
    return {"block": step.block, "tokens_in": step.tokens_in, "tokens_out": step.tokens_out,
            "patches": len(step.candidates), "kept": len(step.kept), "package": step.package}


def _sqnr(exact: Sequence[float], value: Sequence[float]) -> float | None:
    """Return the signal to noise ratio in dB; None without a signal or without noise."""
    signal = sum(x * x for x in exact)
    noise = sum((x - y) ** 2 for x, y in zip(exact, value, strict=True))
    return 10 * math.log10(signal / noise) if signal and noise else None


def _integers(qvit: QuantizedViT, frame: NDArray[np.uint8], steps: Sequence[Step],
              stages: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what the integer twin makes of a frame, beside the float twin's steps and stages.

    Of the patches that both twins had left before a selector: how many these are, about how many
    the twins decided alike, and the SQNR of their scores; also that of the package tokens.
    """
    _, top1, codes = integer.run(qvit, frame)
    special = qvit.model.special_tokens
    found = []
    for i, step in enumerate(steps):
        stage = f"selector{i}"
        rows, score = codes[f"{stage}.rows"], codes[f"{stage}.score"] * qvit.steps[f"{stage}.score"]
        scores = dict(zip((rows[special:special + len(score)] - special).tolist(), score.tolist(),
                          strict=True))
        exact = dict(zip(step.candidates, stages[f"{stage}.score"].tolist(), strict=True))
        both = sorted(scores.keys() & exact.keys())
        kept = codes[f"{stage}.kept"].tolist()
        package = None
        if step.package and len(codes[f"{stage}.weight"]):
            package = _sqnr(stages[f"{stage}.package"].tolist(),
                            (codes[f"{stage}.package"] * qvit.steps[f"{stage}.package"]).tolist())
        found.append({"kept": kept, "both": len(both),
                      "same": len(set(both) - (set(kept) ^ set(step.kept))),
                      "score": _sqnr([exact[i] for i in both], [scores[i] for i in both]),
                      "package": package})
    return {"top1": top1, "selectors": found}


def _show_integers(console: Console, integers: Mapping[str, Any], top: str) -> None:
    for i, found in enumerate(integers["selectors"]):
        values = "".join(f"; {name} {found[name]:.1f} dB" for name in ("score", "package")
                         if found[name] is not None)
        console.print(f"integers, selector {i}: kept {len(found['kept'])}, decided alike"
                      f" {found['same']} of {found['both']}{values}", highlight=False,
                      soft_wrap=True)
    console.print(f"integers: top class {top}", highlight=False)


def _show(console: Console, model: ModelConfig, result: dict[str, object], top: str,
          steps: Sequence[Step], macs: Sequence[int]) -> None:
    table = Table(title=escape(str(result["image"])), title_justify="left", title_style="bold")
    for header in ("from block", "tokens in", "patches in", "kept", "package", "tokens out",
                   "GMAC"):
        table.add_column(header, justify="right")
    table.add_row("0", "", "", "", "", str(model.tokens), f"{macs[0] / 1e9:.3f}")
    for step, value in zip(steps, macs[1:], strict=True):
        table.add_row(str(step.block), str(step.tokens_in), str(len(step.candidates)),
                      str(len(step.kept)), "yes" if step.package else "no", str(step.tokens_out),
                      f"{value / 1e9:.3f}")
    console.print(table)
    total, dense = sum(macs), model.macs()
    console.print(f"{total / 1e9:.3f} GMAC of {dense / 1e9:.3f}, {total / dense:.1%};"
                  f" top class {top}", highlight=False)
    console.print(f"picture {escape(str(result['picture']))}", highlight=False, soft_wrap=True)


def _run(options: argparse.Namespace, console: Console) -> None:
    if options.json is not None:
        check_output(options.json)
    model = model_named(options.model)
    pruning = pruning_config(options)
    pruning.check(model)
    make_folder(options.output)
    images = frames(options.images, model.image_size)
    if options.checkpoint is None:
        state, weights, seed = synthetic(model, SEED), "synthetic", SEED
        label = f"SYNTHETIC (seeded random numbers, seed {SEED})"
    else:
        model, state = load_checkpoint(options.checkpoint, model)
        weights = label = str(options.checkpoint)
        seed = None
    twin = FloatViT(model, state)
    about = [("model", model.name), ("weights", label),
             ("selector", f"{pruning.selector}, before blocks"
              f" {', '.join(map(str, pruning.active))}" if pruning.active else "none")]
    selectors: list[dict] = []
    if pruning.selector == "threshold":
        about.append(("its weights", f"SYNTHETIC (fitted to keep dark patches, seed {SEED})"))
        with console.status(f"{model.name}: synthetic selectors"):
            selectors = synthetic_selectors(twin, pruning.blocks, SEED)
    elif pruning.active:
        about.append(("keep", ", ".join(map(str, pruning.keep_counts(model.grid ** 2)))))
    if pruning.active:
        about.append(("package", pruning.package))
    grid = Table.grid(padding=(0, 2))
    for name, text in about:
        grid.add_row(name, escape(text))
    console.print(grid)

    vit = PrunedViT(twin, pruning, selectors)
    qvit = None
    if options.integers:
        with console.status(f"{model.name}: quantisation"):
            qvit = quantize(twin, calibration_frames(model.image_size), weights=weights,
                            pruning=pruning, selectors=selectors)
    results = []
    for number, (name, frame) in enumerate(images, 1):
        stages: dict[str, Tensor] = {}
        image = vit.run(normalise(frame), stages.__setitem__)
        tokens = [model.tokens, *(step.tokens_out for step in image.steps)]
        macs = segment_macs(model, pruning, tokens)
        top1 = int(image.logits.argmax())
        picture = options.output / picture_name(number, name)
        panels(model, frame, image.steps).save(picture)
        result: dict[str, object] = {
            "image": name, "top1": top1, "tokens": tokens, "macs": sum(macs),
            "selectors": [_step(step) for step in image.steps],
            "kept": [list(step.kept) for step in image.steps], "picture": str(picture)}
        results.append(result)
        synthetic_top = ", of synthetic weights" if seed is not None else ""
        _show(console, model, result, f"{top1}{synthetic_top}", image.steps, macs)
        if qvit is not None:
            result["integers"] = integers = _integers(qvit, frame, image.steps, stages)
            _show_integers(console, integers, f"{integers['top1']}{synthetic_top}")
        console.print()
    if options.json is not None:
        options.json.write_text(json.dumps({
            "model": model.name, "weights": weights, "seed": seed, "selector": pruning.selector,
            "selector_weights": "synthetic" if selectors else None,
            "blocks": list(pruning.active),
            "package": pruning.package if pruning.active else None,
            "dense_macs": model.macs(), "images": results}, indent=2, allow_nan=False) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status("golden.prune", lambda: _run(options, Console()))


if __name__ == "__main__":
    sys.exit(main())
