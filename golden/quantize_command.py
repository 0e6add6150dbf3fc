# SPDX-License-Identifier: BSD-2-Clause
"""From a checkpoint to a packed model: ``python -m golden.quantize``."""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from golden.cli import add_selector_options, exit_status, pruning_config
from golden.files import check_output
from golden.images import ImageError, calibration_frames, load_image, read_image
from golden.model import MODELS, FloatViT, model_named
from golden.model_file import (
    LoadedModel,
    find_model,
    load_model,
    stored_pruning,
    stored_steps,
)
from golden.nonlinear import FUNCTIONS
from golden.packed import SUFFIX, save
from golden.pruning import PruningConfig, PruningError
from golden.quantize import QuantizedViT, quantize
from golden.quantize_report import Layer, layer_report
from golden.scenes import SceneSettings, fixed_set
from golden.synthetic import SEED, synthetic
from golden.synthetic_selector import synthetic_selectors

__all__ = ["calibration_images", "main"]

#: In place of a folder, the scenes of digits.
_SCENES = Path("scenes")
#: Images that are taken of a folder, unless told otherwise; those of them that the report is on.
_IMAGES = 32
_REPORTED = 2
#: Layers that are named as the worst.
_WORST = 5


def calibration_images(folder: Path | None, size: int,
                       most: int = _IMAGES) -> list[NDArray[np.uint8]]:
    """Return up to ``most`` images of a folder, evenly from all in the order of their names.

    They lie in the folder or in its folders; one of exactly ``size`` pixels each way is taken as it
    is. Without a folder these are the sample photograph, mirrored and negative; ``scenes``, where
    no folder has that name, are those of :mod:`golden.scenes`, of digits for training.
    """
    if folder is None:
        return calibration_frames(size)
    if most < 1:
        raise ImageError(f"the number of images is {most}, must be at least 1")
    if folder == _SCENES and not folder.is_dir():
        scenes = fixed_set("train", most, SceneSettings(size=size))
        return [scenes.rgb(i) for i in range(most)]
    if not folder.is_dir():
        raise ImageError(f"{folder} is no folder, must be one with images for calibration")
    suffixes = Image.registered_extensions()
    files = [file for pattern in ("*", "*/*") for file in sorted(folder.glob(pattern))
             if file.is_file() and file.suffix.lower() in suffixes]
    if not files:
        raise ImageError(f"the folder {folder} has 0 images, must have at least 1")
    count = min(most, len(files))
    frames = []
    for file in (files[i * len(files) // count] for i in range(count)):
        image = read_image(file)
        frames.append(np.asarray(image).copy() if image.size == (size, size)
                      else load_image(file, size))
    return frames


def _decibel(value: float) -> str:
    return "-" if value == math.inf else f"{value:.1f}"


def _show(console: Console, layers: Sequence[Layer]) -> None:
    table = Table(title="Layers: signal to quantisation noise in dB, values at their limits, and"
                  " the part of the noise of the logits", title_justify="left")
    for header in ("layer", "SQNR", "alone", "saturated", "harm"):
        table.add_column(header, justify="left" if header == "layer" else "right")
    for layer in layers:
        table.add_row(layer.stage, _decibel(layer.sqnr), _decibel(layer.local),
                      f"{layer.saturated:.3%}", f"{layer.harm:.1%}")
    console.print(table)
    worst = sorted(layers, key=lambda layer: -layer.harm)[:_WORST]
    console.print("These hurt most: " + ", ".join(
        f"{layer.stage} ({layer.harm:.0%})" for layer in worst), highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m golden.quantize", description="Quantise a checkpoint to int8, write the"
        " packed model, and report what this does to each layer.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT",
                        help="a file (.safetensors, .pth, .onnx), or the folder of one; the name of"
                        f" a model ({', '.join(MODELS)}) is that with synthetic weights")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar=f"MODEL{SUFFIX}")
    parser.add_argument("--model", help="what the checkpoint must be of; without it that is"
                        " inferred from its shapes and from a config.json beside it")
    parser.add_argument("--calibrate", type=Path, metavar="FOLDER|scenes",
                        help="images, also in folders of classes, or scenes of digits for training;"
                        " without it the steps that the checkpoint was trained with, if it was,"
                        " or a sample photograph")
    parser.add_argument("--images", type=int, default=_IMAGES, metavar="COUNT",
                        help="images that are taken of the folder (default: %(default)s)")
    parser.add_argument("--percentile", type=float, default=100.0,
                        help="part of the values, in percent, that is not clipped on these images"
                        " (default: %(default)s)")
    parser.add_argument("--functions", default="exact",
                        help=f"GELU, softmax and sigmoid, one of {', '.join(FUNCTIONS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here, too")
    add_selector_options(parser, None)
    return parser


def _load(options: argparse.Namespace) -> tuple[LoadedModel, str, PruningConfig | None]:
    """Return the network in floating point, where it is from, and which selectors that says."""
    path = Path(options.checkpoint)
    model = None if options.model is None else model_named(options.model)
    if options.checkpoint in MODELS and not path.exists():
        if model is not None:
            raise ValueError(f"--model is given for {options.checkpoint}, must be for checkpoints")
        model = model_named(options.checkpoint)
        return LoadedModel(model, synthetic(model, SEED), ()), "synthetic", None
    # A packed model says what it was made of, but not in which folder of which machine.
    return load_model(path, model), find_model(path).name, stored_pruning(path)


def _quantize(options: argparse.Namespace, console: Console
              ) -> tuple[FloatViT, QuantizedViT, list[NDArray[np.uint8]], bool]:
    """Return the network in floating point and in integers, frames, and whether these are what it
    is calibrated on: else it has the steps of its training.
    """
    (model, state, selectors), weights, stored = _load(options)
    pruning = pruning_config(options, stored)
    pruning.check(model)
    twin = FloatViT(model, state, options.functions)
    needed = len(pruning.active) if pruning.selector == "threshold" else 0
    if weights == "synthetic" and needed:
        selectors = tuple(synthetic_selectors(twin, pruning.blocks, SEED))
    elif needed != len(selectors):
        raise PruningError(f"{weights} has the parameters of {len(selectors)} selectors, must have"
                           f" those of {needed} for selector {pruning.selector}")
    frames = calibration_images(options.calibrate, model.image_size, options.images)
    steps = None
    if options.calibrate is None and weights != "synthetic":
        steps = stored_steps(options.checkpoint)
    with console.status(f"{model.name}: quantisation, {len(frames)} images"):
        qvit = quantize(twin, frames, weights=weights, percentile=options.percentile, steps=steps,
                        pruning=pruning if pruning.active else None, selectors=selectors)
    return twin, qvit, frames, steps is None


def _run(options: argparse.Namespace, console: Console) -> None:
    if options.output.suffix != SUFFIX:
        raise ValueError(f"the name of the packed model is {options.output}, must end with"
                         f" {SUFFIX}")
    for path in (options.output, options.json):
        if path is not None:
            check_output(path)
    twin, qvit, frames, calibrated = _quantize(options, console)
    save(options.output, qvit)
    with console.status(f"{qvit.model.name}: what it does to each layer"):
        layers = layer_report(twin, qvit, frames[:_REPORTED])
    _show(console, layers)
    size = options.output.stat().st_size
    weights = ("SYNTHETIC (seeded random numbers)" if qvit.weights == "synthetic"
               else qvit.weights)
    steps = f"calibrated on {len(frames)} images" if calibrated else "the steps of its training"
    console.print(f"{escape(str(options.output))}: {qvit.model.name}, weights {escape(weights)},"
                  f" {steps}, {size:,} bytes", highlight=False)
    if options.json is not None:
        result = {"model": asdict(qvit.model), "weights": qvit.weights,
                  "images": len(frames) if calibrated else 0, "percentile": options.percentile,
                  "functions": options.functions, "bytes": size,
                  "pruning": None if qvit.pruning is None else asdict(qvit.pruning),
                  "layers": [{name: None if value == math.inf else value
                              for name, value in asdict(layer).items()} for layer in layers]}
        options.json.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status("golden.quantize", lambda: _run(options, Console()))
