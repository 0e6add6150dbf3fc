# SPDX-License-Identifier: BSD-2-Clause
"""Which patches of a photograph the selectors keep: ``python -m golden.prune``."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from golden.checkpoint import load_checkpoint
from golden.cli import add_selector_options, frames, picture_name, pruning_config
from golden.images import normalise
from golden.model import MODELS, FloatViT, ModelConfig, model_named
from golden.panels import panels
from golden.pruning import PrunedViT, Step, segment_macs
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
    parser.add_argument("--output", type=Path, default=_OUTPUT, metavar="DIR",
                        help=f"folder for one picture of each photograph; without it {_OUTPUT}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    return parser


def _step(step: Step) -> dict[str, object]:
    return {"block": step.block, "tokens_in": step.tokens_in, "tokens_out": step.tokens_out,
            "patches": len(step.candidates), "kept": len(step.kept), "package": step.package}


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
    console.print(f"picture {escape(str(result['picture']))}\n", highlight=False, soft_wrap=True)


def _run(options: argparse.Namespace, console: Console) -> None:
    if options.json is not None and not options.json.parent.is_dir():
        raise ValueError(f"the folder of {options.json} does not exist")
    model = model_named(options.model)
    pruning = pruning_config(options)
    pruning.check(model)
    images = frames(options.images, model.image_size)
    if options.checkpoint is None:
        state, weights, seed = synthetic(model, SEED), "synthetic", SEED
        label = f"SYNTHETIC (seeded random numbers, seed {SEED})"
    else:
        model, state = load_checkpoint(options.checkpoint, model)
        weights = label = str(options.checkpoint)
        seed = None
    options.output.mkdir(parents=True, exist_ok=True)
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
    results = []
    for number, (name, frame) in enumerate(images, 1):
        image = vit.run(normalise(frame))
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
        top = f"{top1}, of synthetic weights" if seed is not None else str(top1)
        _show(console, model, result, top, image.steps, macs)
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
    try:
        _run(options, Console())
    # Faults of settings, model, checkpoint and images are ValueErrors.
    except (ValueError, OSError) as error:
        print(f"golden.prune: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("golden.prune: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
