# SPDX-License-Identifier: BSD-2-Clause
"""Train a network: ``python -m golden.train CONFIG.yaml``, or ``torchrun -m golden.train ...``."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from golden.cli import exit_status
from golden.train_config import Stage, TrainError, load_config
from golden.trainer import Progress, Trainer, World

__all__ = ["main"]

#: Folder of the results, unless told otherwise; the folder of the configuration is put below it.
_OUTPUT = Path("build") / "train"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m golden.train", description="Train a network through the stages of a"
        " configuration. A training that was interrupted is resumed. With torchrun, processes"
        " share the batches.")
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="the configuration")
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help="folder of state, log and weights; without it"
                        f" {_OUTPUT / 'NAME'}, by the folder of the configuration")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N",
                        help="threads of a process, instead of what the configuration says")
    return parser


class _Display:
    """A bar where there is a terminal, and a line for each measurement."""

    def __init__(self, console: Console, bar: Bar) -> None:
        self._console, self._bar = console, bar
        self._stage: Stage | None = None
        # The columns ask for the loss from the first time that the bar is drawn.
        self._task = bar.add_task("", visible=False, loss="")
        self._loss = 0.0

    def __call__(self, now: Progress) -> None:
        if now.outcome:
            self._console.print(f"{now.stage.name}: {now.outcome}")
            return
        if now.stage != self._stage:
            self._stage, self._loss = now.stage, now.loss
            self._bar.reset(self._task, total=now.stage.steps, completed=now.step, visible=True,
                            description=now.stage.name, loss="")
        # The mean of about fifty steps: one is too noisy to be read.
        self._loss += (now.loss - self._loss) / 50
        self._bar.update(self._task, completed=now.step, description=now.stage.name,
                         loss=f"{self._loss:.3f}")
        if now.accuracy is not None:
            kept = "".join(f"{', ' if i else '; kept '}{share:.1%}"
                           for i, share in enumerate(now.kept))
            self._console.print(f"{now.stage.name} {now.step}/{now.stage.steps}: loss"
                                f" {self._loss:.3f}, validation {now.accuracy:.2%}{kept}")


def _device(name: str, world: World) -> torch.device:
    if name not in ("cpu", "cuda"):
        raise TrainError(f"device is {name!r}, must be cpu or cuda")
    if name == "cuda":
        if world.local_rank >= torch.cuda.device_count():
            raise TrainError(f"there are {torch.cuda.device_count()} GPUs, must be at least"
                             f" {world.local_rank + 1}")
        torch.cuda.set_device(world.local_rank)
        return torch.device("cuda", world.local_rank)
    return torch.device("cpu")


def _run(options: argparse.Namespace, world: World) -> None:
    config = load_config(options.config)
    if options.threads is not None:
        config = replace(config, threads=options.threads)
    output = options.output or _OUTPUT / options.config.resolve().parent.name
    if output.exists() and not output.is_dir():
        raise TrainError(f"{output} is a file, must be a folder")
    device = _device(options.device, world)
    torch.set_num_threads(config.threads)
    # Without this cuBLAS may sum in another order every time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    trainer = Trainer(config, output, device=device, world=world)
    console = Console(quiet=world.rank > 0, highlight=False, soft_wrap=True)
    if trainer.stage or trainer.step:
        console.print(f"resumed from {output}: {trainer.stage} stages and {trainer.step} steps")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TextColumn("loss {task.fields[loss]}"), TimeRemainingColumn())
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        trainer.run(_Display(console, bar))
    console.print(f"the weights are {output / config.stages[-1].name}.safetensors")


def _run_in_world(options: argparse.Namespace) -> None:
    """Run alone, or as one of the processes that ``torchrun`` started."""
    world = World.from_environment()
    if world.size == 1:
        _run(options, world)
        return
    torch.distributed.init_process_group("nccl" if options.device == "cuda" else "gloo")
    try:
        _run(options, world)
    finally:
        torch.distributed.destroy_process_group()


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status(
        "golden.train", lambda: _run_in_world(options),
        interrupted="interrupted; the same command resumes from the last measurement, if there was"
        " one")


if __name__ == "__main__":
    sys.exit(main())
