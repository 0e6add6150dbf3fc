# SPDX-License-Identifier: BSD-2-Clause
"""The drivers that are shipped, on the simulated core: ``python -m sim.drive``.

What goes to a board is written to a folder, the driver in C is compiled there with sanitizers, and
both drivers run the self-test, then frames one by one and all of them in one run. Their answers,
the patches that were kept and the counters are compared with the integer twin and each other.
"""

import argparse
import importlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from golden import integer
from golden.cli import add_config_option
from golden.model import MODELS
from golden.network import LoweredNetwork
from golden.program import tokens_of
from platforms.deploy import MODEL_FILE, deployment_of, write_deploy
from rtl.config import named
from sim.cache import BUILD
from sim.command import command, prepare, step
from sim.frames import different
from sim.live import LiveCore
from sim.verilator import BuildError

__all__ = ["FLAGS", "Answer", "Drive", "compared", "compile_c", "expected", "main", "run_c",
           "run_python", "shipped"]

_SHIM = Path(__file__).parent / "drivers"

#: How the driver in C is compiled: whatever a sanitizer finds ends the program.
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-g", "-O1",
         "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

#: Simulated seconds that a run takes at most.
_TIMEOUT = 60


@dataclass(frozen=True)
class Answer:
    """What a driver reads about an image; ``kept`` are the patches that each selector left.

    Of images that are not of the last round of a run ``kept`` is empty.
    """

    logits: tuple[int, ...]
    top_class: int
    tokens: int
    kept: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Drive:
    """What a driver reads: each image run alone, then all in one run; counters of all runs."""

    alone: tuple[Answer, ...]
    together: tuple[Answer, ...]
    counters: tuple[dict[str, int], ...]


def compile_c(deployed: Path, program: str, output: Path) -> Path:
    """Compile the driver in a deployed folder with a program of ``sim/drivers``; return it."""
    sources = [deployed / "c" / "heatvit.c", deployed / "c" / "heatvit_linux.c",
               _SHIM / "heatvit_sim.c", _SHIM / program]
    result = subprocess.run(["gcc", *FLAGS, f"-I{deployed / 'c'}", f"-I{_SHIM}", "-o", output,
                             *sources], capture_output=True, text=True)
    if result.returncode:
        faults = [line for line in result.stderr.splitlines() if "error:" in line]
        raise BuildError(f"gcc failed on the driver: {(faults or [result.stderr])[0]}")
    return output


def run_c(deployed: Path, simulator: Path, frames: Sequence[bytes], mode: str) -> Drive:
    """Run the driver in C over frames; ``mode`` is "poll" or "interrupt".

    An error of the driver raises ValueError with its sentence.
    """
    deployed = deployed.resolve()
    program = compile_c(deployed, "run_images.c", deployed / "run_images")
    paths = [deployed / f"frame{i}.rgb" for i in range(len(frames))]
    for path, frame in zip(paths, frames, strict=True):
        path.write_bytes(frame)
    result = subprocess.run([program, simulator.resolve(), deployed / MODEL_FILE, mode, *paths],
                            cwd=deployed, capture_output=True, text=True)
    lines = [line.split() for line in result.stdout.splitlines()]
    if result.returncode:
        said = [line for line in result.stdout.splitlines() if line.startswith("error")]
        raise ValueError(f"the driver in C has ended with {result.returncode}:"
                         f" {''.join(said) or result.stderr}")
    return _parsed(lines)


def _parsed(lines: Sequence[Sequence[str]]) -> Drive:
    """Return what the lines that ``run_images`` prints mean."""
    answers: dict[str, list[Answer]] = {"alone": [], "together": []}
    counters = []
    for run, *words in lines:
        if run not in answers:
            continue
        values = dict(zip(words[1::2], words[2::2], strict=False))
        if words[0] == "counters":
            counters.append({name: int(value) for name, value in values.items()})
        elif words[1] == "top_class":
            logits = words[words.index("logits") + 1:]
            answers[run].append(Answer(tuple(map(int, logits)), int(values["top_class"]),
                                       int(values["tokens"]), ()))
        else:
            last = answers[run][-1]
            kept = tuple(i for i, bit in enumerate(values["kept"]) if bit == "1")
            if len(kept) != int(values["patches"]):
                raise ValueError(f"a selector kept {values['patches']} patches, its list has"
                                 f" {len(kept)}")
            answers[run][-1] = Answer(last.logits, last.top_class, last.tokens, (*last.kept, kept))
    return Drive(tuple(answers["alone"]), tuple(answers["together"]), tuple(counters))


def shipped(deployed: Path) -> Any:
    """Return the driver in Python as it is in a deployed folder."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "heatvit"]:
        del sys.modules[name]
    sys.path.insert(0, str(deployed / "python"))
    try:
        importlib.invalidate_caches()
        return importlib.import_module("heatvit")
    finally:
        sys.path.pop(0)


def run_python(deployed: Path, simulator: Path, frames: Sequence[bytes], mode: str) -> Drive:
    """Run the driver in Python over frames, as :func:`run_c` does that in C."""
    heatvit = shipped(deployed)
    alone: list[Answer] = []
    counters = []
    with LiveCore(simulator) as live, heatvit.HeatViT(
            live, live.allocate, **live.port(polled=mode == "poll")) as core:
        model = core.load(deployed / MODEL_FILE, len(frames))
        core.self_test(_TIMEOUT)
        in_round = model.fields["images"]

        def run(chosen: Sequence[bytes]) -> list[Answer]:
            results = core.run(chosen, _TIMEOUT)
            read = core.counters()
            counters.append({"cycles": read.cycles, "bytes_read": read.bytes_read,
                             "bytes_written": read.bytes_written,
                             "images_done": read.images_done, **read.stalls})
            first = len(chosen) - in_round
            return [Answer(tuple(result.logits.tolist()), result.top_class, result.tokens,
                           _kept(core, i) if i >= first else ())
                    for i, result in enumerate(results)]

        for i in range(0, len(frames), in_round):
            alone += run(frames[i:i + in_round])
        together = run(frames) if len(frames) > in_round else []
    return Drive(tuple(alone), tuple(together), tuple(counters))


def _kept(core: Any, image: int) -> tuple[tuple[int, ...], ...]:
    selectors = range(core.model.fields["selectors"])
    return tuple(core.selection(selector, image).kept for selector in selectors)


def expected(network: LoweredNetwork, frames: Sequence[NDArray[np.uint8]]) -> list[Answer]:
    """Return what the integer twin says of frames."""
    program, answers = network.program, []
    for frame in frames:
        logits, top_class, stages = integer.run(network.qvit, frame,
                                                last_block=network.last_block)
        kept = tuple(tuple(stages[f"selector{i}.kept"].tolist()) for i in range(program.selectors))
        answers.append(Answer(tuple(int(logit) for logit in logits), int(top_class),
                              tokens_of(program, stages)[-1], kept))
    return answers


def compared(drive: Drive, right: Sequence[Answer], in_round: int) -> str:
    """Return what is wrong with what a driver has read, empty if nothing is."""
    if list(drive.alone) != list(right):
        return "an image that is run alone has another answer than the integer twin"
    last = len(right) - in_round
    if drive.together and list(drive.together) != [
            answer if i >= last else Answer(answer.logits, answer.top_class, answer.tokens, ())
            for i, answer in enumerate(right)]:
        return "an image of one run over all has another answer than the integer twin"
    for counters in drive.counters:
        stalls = sum(value for name, value in counters.items() if name.isupper())
        if stalls != counters["cycles"]:
            return f"the stall counters sum to {stalls}, must be {counters['cycles']}"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 only if both drivers are right."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.drive", description="Run the drivers that are shipped on the simulated"
        " core, and compare what they read with the golden model.")
    parser.add_argument("--model", default="scenes", help=f"one of {', '.join(MODELS)}")
    add_config_option(parser, "tiny")
    parser.add_argument("--depth", type=int, metavar="N", help="the first N blocks only")
    parser.add_argument("--frames", type=int, default=2, metavar="N",
                        help="the sample, and variations of it (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=BUILD / "drive", metavar="DIR",
                        help="the deployed folder (default: build/drive)")
    options = parser.parse_args(arguments)
    console = Console()

    def run() -> bool:
        if not 1 <= options.frames <= 16:
            raise ValueError(f"the number of frames is {options.frames}, must be between 1 and 16")
        network = deployment_of(options.model, named(options.config), depth=options.depth)
        with step(console, f"{options.output}: {network.qvit.model.name} for {options.config}"):
            write_deploy(options.output, network)
            named_frames = different([("sample", network.frame, None)], options.frames)
            frames = [frame for _, frame, _ in named_frames]
            right = expected(network, frames)
        program = prepare(network.config, console)
        wrong = False
        for language, drive in (("C", run_c), ("Python", run_python)):
            for mode in ("poll", "interrupt"):
                name = f"driver in {language}, {mode}"
                with console.status(name):
                    read = drive(options.output, program, [f.tobytes() for f in frames], mode)
                fault = compared(read, right, network.batch)
                wrong |= bool(fault)
                console.print(f"{name}: {fault or 'every number is right'};"
                              f" {read.counters[0]['cycles']:,} cycles an image", highlight=False)
        return not wrong

    return command("sim.drive", run)


if __name__ == "__main__":
    sys.exit(main())
