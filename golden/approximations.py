# SPDX-License-Identifier: BSD-2-Clause
"""What approximations of GELU and exp do to the accuracy: ``python -m golden.approximations``."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from golden.cli import exit_status
from golden.files import check_output
from golden.integer_batch import BatchViT, Tables, answers
from golden.model import FloatViT, ModelConfig, State, model_named
from golden.model_file import load_model
from golden.pages import check_section, write_section
from golden.quantize import quantize
from golden.scenes import SceneSettings, fixed_set
from golden.train_config import Stage, TrainConfig
from golden.train_data import SceneData
from golden.train_measure import measure
from golden.trainable import TrainableViT
from golden.trainer import Progress, Trainer

__all__ = ["Result", "main", "measured", "retrained", "table"]

_OUTPUT = Path("build") / "train" / "approximations"
_SECTION = "accuracy"

#: What the functions are called in the table, in its order.
_NAMES = {"exact": "exact; in int8 ours", "ibert": "I-BERT", "heatvit": "HeatViT, delta 1/2"}
#: Calibration is that of the shipped network.
_CALIBRATION = 32
#: Validation scenes of a retraining, and the steps between two measurements.
_VALIDATION, _VALIDATE_EVERY = 2000, 250
#: Test scenes of one batch of the integer twin.
_CHUNK = 100


@dataclass(frozen=True, kw_only=True)
class Result:
    """How well a network does with some functions.

    Parameters
    ----------
    functions
        Name of the functions, see :mod:`golden.nonlinear`.
    steps
        For how many steps it was retrained with them.
    images
        Test scenes.
    float_right, int8_right
        How many of them the float network and the integer twin name rightly.
    """

    functions: str
    steps: int
    images: int
    float_right: int
    int8_right: int


def _config(model: ModelConfig, functions: str, weights: Path, steps: int,
            threads: int) -> TrainConfig:
    stage = Stage(name="dense", size=model.image_size, steps=steps, batch=64, rate=5e-4,
                  warmup=min(100, steps // 10), precision="bfloat16")
    return TrainConfig(model=model, functions=functions, weights=str(weights), threads=threads,
                       validation=_VALIDATION, validate_every=_VALIDATE_EVERY, stages=(stage,))


def retrained(config: TrainConfig, folder: Path, console: Console) -> State:
    """Return the parameters after a training in ``folder``, which is resumed or done."""
    def report(now: Progress) -> None:
        if now.accuracy is not None:
            console.print(f"{config.functions} {now.step}/{now.stage.steps}: validation"
                          f" {now.accuracy:.2%}", highlight=False)

    Trainer(config, folder, device=torch.device("cpu")).run(report)
    return load_model(folder / f"{config.stages[-1].name}.safetensors", config.model).state


def measured(model: ModelConfig, state: State, functions: str, *, steps: int,
             count: int) -> Result:
    """Return how many of the first ``count`` test scenes a network names rightly.

    Parameters
    ----------
    model, state
        The network.
    functions
        Its functions, in floating point and in the tables of int8.
    steps
        For how many it was retrained.
    count
        Scenes.
    """
    network = TrainableViT(model, functions).eval()
    network.load_state_dict(dict(state))
    floats = measure(network, SceneData(model).fixed("test", model.image_size, count))
    settings = SceneSettings(size=model.image_size)
    calibration = fixed_set("train", _CALIBRATION, settings)
    qvit = quantize(FloatViT(model, state, functions),
                    [calibration.rgb(i) for i in range(_CALIBRATION)], weights="")
    integers = BatchViT(qvit, Tables(qvit, torch.device("cpu")))
    scenes = fixed_set("test", count, settings)
    right = 0
    for start in range(0, count, _CHUNK):
        labels = scenes.labels[start:start + _CHUNK]
        frames = np.stack([scenes.rgb(start + i) for i in range(len(labels))])
        right += int((answers(integers, frames).top == labels).sum())
    return Result(functions=functions, steps=steps, images=count,
                  float_right=int(floats.right.sum()), int8_right=right)


def table(results: Sequence[Result]) -> str:
    """Return the results as a table of Markdown."""
    return "\n".join([
        "| GELU and exp | retrained | float | right | int8 | right |",
        "|---|---:|---:|---:|---:|---:|",
        *(f"| {_NAMES[r.functions]} | {f'{r.steps:,} steps' if r.steps else 'no'} |"
          f" {r.float_right / r.images:.2%} | {r.float_right:,} | {r.int8_right / r.images:.2%} |"
          f" {r.int8_right:,} |" for r in results)])


def _results(options: argparse.Namespace, console: Console) -> Iterator[Result]:
    model = model_named(options.model)
    state = load_model(options.weights, model).state
    # Settings and folders are checked before the first of them takes its minutes.
    configs = {functions: _config(model, functions, options.weights, options.steps,
                                  options.threads) for functions in _NAMES}
    for functions, config in configs.items():
        Trainer(config, options.output / functions, device=torch.device("cpu"))
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    for functions, config in configs.items():
        for steps in (0, options.steps):
            mine = retrained(config, options.output / functions, console) if steps else state
            result = measured(model, mine, functions, steps=steps, count=options.count)
            console.print(f"{functions}, {steps} steps: float {result.float_right:,}, int8"
                          f" {result.int8_right:,} of {result.images:,}", highlight=False)
            yield result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m golden.approximations", description="Measure a dense network on test scenes"
        " with exact functions, those of I-BERT and those of HeatViT: as it is, and retrained with"
        " each of them. Retraining that was interrupted is resumed.")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE",
                        help="parameters of the dense network")
    parser.add_argument("--model", default="scenes",
                        help="what they are of (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1000,
                        help="of a retraining (default: %(default)s)")
    parser.add_argument("--count", type=int, default=4000, metavar="N",
                        help="test scenes (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=_OUTPUT, metavar="DIR",
                        help="folder of the retrained weights (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, metavar="N",
                        help="of a training (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here, too")
    parser.add_argument("--update", type=Path, metavar="FILE",
                        help="put the table into this page, too")
    return parser


def _run(options: argparse.Namespace, console: Console) -> None:
    for name in ("steps", "count"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name} is {getattr(options, name)}, must be at least 1")
    if options.json is not None:
        check_output(options.json)
    if options.update is not None:
        check_section(options.update, _SECTION)
    results = list(_results(options, console))
    text = f"Right of {options.count:,} test scenes:\n\n{table(results)}"
    console.print(text, highlight=False, markup=False)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    if options.update is not None:
        write_section(options.update, _SECTION, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status(
        "golden.approximations", lambda: _run(options, Console(soft_wrap=True)), interrupted=
        "interrupted; the same command resumes a training from its last measurement")


if __name__ == "__main__":
    sys.exit(main())
