# SPDX-License-Identifier: BSD-2-Clause
"""How far the integer twin is from the float twin, and why: ``python -m golden.accuracy``."""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from golden.checkpoint import load_checkpoint
from golden.cli import exit_status
from golden.files import check_output
from golden.images import SAMPLE, calibration_frames, load_image
from golden.model import MODELS, FloatViT, model_named
from golden.noise import THRESHOLD, Attention, Noise, Outliers, Stage
from golden.quantize import quantize
from golden.synthetic import SEED, synthetic

__all__ = ["main"]

#: Sources with a smaller share are not printed.
_SMALL_SHARE = 0.05


def _table(title: str, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for header in headers:
        table.add_column(header, justify="left" if header in ("stage", "why") else "right",
                         no_wrap=header == "stage")
    for row in rows:
        table.add_row(*row)
    return table


def _why(stage: Stage) -> str:
    sources = ", ".join(f"{source} {share:.0%}" for source, share in stage.sources.items()
                        if share >= _SMALL_SHARE)
    return f"{'itself' if stage.origin == stage.stage else stage.origin}: {sources}"


def _show(console: Console, noise: Noise, about: dict[str, str]) -> None:
    grid = Table.grid(padding=(0, 2))
    for name, text in about.items():
        grid.add_row(name, text)
    console.print(grid)
    console.print(_table(
        "Signal to quantisation noise, dB", ("stage", "SQNR", "local", "why"),
        ((s.stage, f"{s.sqnr:.1f}", f"{s.local:.1f}", _why(s) if s.origin else "")
         for s in noise.stages)))
    low = sum(bool(stage.origin) for stage in noise.stages)
    console.print(f"{low} of {len(noise.stages)} stages are below {THRESHOLD:.0f} dB; why:"
                  " origin of the noise, its sources\n")
    if noise.outliers:
        console.print(_table(
            "Origins: outlier channels, their signal and noise; the other channels",
            ("stage", "peak", "count", "signal", "noise", "steps", "SQNR", "local", "CLS"),
            ((o.stage, f"{o.range:.1f}", str(o.outliers), f"{o.signal:.0%}", f"{o.noise:.0%}",
              f"{o.rms_steps:.1f}", f"{o.others_sqnr:.1f}", f"{o.others_local:.1f}",
              f"{o.others_special:.1f}")
             for o in noise.outliers)))
    if noise.attention:
        console.print(_table(
            f"Attention below {THRESHOLD:.0f} dB: its noisiest head; rows whose maximum moved",
            ("stage", "scores", "head", "noise", "entropy", "error", "moved", "noise"),
            ((a.stage, f"{a.by_scores:.0%}", str(a.head), f"{a.noise:.0%}", f"{a.entropy:.2f}",
              f"{a.score_error:.2f}", f"{a.moved_rows:.0%}", f"{a.moved_noise:.0%}")
             for a in noise.attention)))


def _to_dict(noise: Noise, about: dict[str, object]) -> dict[str, object]:
    """Return the report as plain data; an SQNR that is infinite is None."""
    def plain(row: Stage | Outliers | Attention) -> dict[str, object]:
        return {name: None if value == math.inf else value for name, value in asdict(row).items()}

    return {**about, "threshold": THRESHOLD, "stages": [plain(s) for s in noise.stages],
            "outliers": [plain(o) for o in noise.outliers],
            "attention": [plain(a) for a in noise.attention]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m golden.accuracy", description="Compare the integer twin with the float"
        " twin, stage by stage, and say where the noise is from.")
    parser.add_argument("--model", default="deit_tiny", help=f"one of {', '.join(MODELS)}")
    parser.add_argument("--image", type=Path, metavar="FILE",
                        help="photograph; without it a sample photograph of scikit-learn")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help="weights (.safetensors, .pth); without it they are synthetic")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    return parser


def _run(options: argparse.Namespace, console: Console) -> None:
    if options.json is not None:
        check_output(options.json)
    model = model_named(options.model)
    frame = load_image(options.image, model.image_size)
    image = str(options.image or f"{SAMPLE} (scikit-learn)")
    if options.checkpoint is None:
        state, weights, seed = synthetic(model, SEED), "synthetic", SEED
        label = f"SYNTHETIC (seeded random numbers, seed {SEED})"
    else:
        _, state = load_checkpoint(options.checkpoint, model)
        weights = label = str(options.checkpoint)
        seed = None
    twin = FloatViT(model, state)
    with console.status(f"{model.name}: quantisation"):
        qvit = quantize(twin, calibration_frames(model.image_size), weights=weights)
    with console.status(f"{model.name}: noise of every stage"):
        noise = Noise(twin, qvit, frame)
    top_class, float_top_class = (int(values["logits"].argmax()) for values in (
        noise.value, noise.exact))
    _show(console, noise, {
        "model": model.name, "weights": label, "image": image,
        "top class": f"{top_class} (float twin: {float_top_class})"})
    if options.json is not None:
        result = _to_dict(noise, {"model": model.name, "weights": weights, "seed": seed,
                                  "image": image, "top1": top_class,
                                  "float_top1": float_top_class})
        options.json.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status("golden.accuracy", lambda: _run(options, Console()))


if __name__ == "__main__":
    sys.exit(main())
