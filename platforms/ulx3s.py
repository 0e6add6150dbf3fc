# SPDX-License-Identifier: BSD-2-Clause
"""The bitstream of a network on the ULX3S-85F, by open tools from PyPI alone."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from golden.cli import add_config_option, exit_status
from golden.files import make_folder
from golden.lower import lower
from golden.packed import SUFFIX, load
from golden.program import Program
from golden.quantize import QuantizedViT
from platforms import figures
from platforms.boards_data import BOARDS
from platforms.ecp5 import record, tables
from platforms.ecp5_flow import core, route, run_tool
from platforms.ecp5_timing import Result
from platforms.serial_board import SerialSettings
from platforms.synthesis import SynthesisError
from platforms.ulx3s_top import CLOCK_HZ, sources
from rtl.config import named

__all__ = ["BAUD", "CONFIG", "MODEL", "MODEL_BASE", "Ulx3sBuild", "build", "finish", "main",
           "packed", "prepare", "taken"]

#: Where the model is in the flash: behind the bitstream, which takes up to 1.9 MB.
MODEL_BASE = 0x20_0000

#: Whole cycles a bit at 50 MHz, and a rate that the serial adapter of the board has.
BAUD = 2_000_000

#: Bytes of the flash that the core may read: any model of a size of frame and number of classes can
#: take the place of another one, without another bitstream.
_MODEL_ROOM = 1 << 20

#: Network and configuration that are built, unless others are named: those of the board.
MODEL = BOARDS["ulx3s"].model
CONFIG = BOARDS["ulx3s"].config
_MODELS = Path(__file__).parent.parent / "models" / "scenes"


@dataclass(frozen=True)
class Ulx3sBuild:
    """What is built: the network, its program, and the board for them."""

    qvit: QuantizedViT
    program: Program
    settings: SerialSettings


def packed(model: str) -> Path:
    """Return the packed model of the project that is called ``model``, or the file of that name."""
    path = Path(model)
    if path.suffix == SUFFIX:
        return path
    names = sorted(file.stem for file in _MODELS.glob(f"*{SUFFIX}"))
    if model not in names:
        raise ValueError(f"no packed model is called {model!r}, there are {', '.join(names)}, and"
                         f" files *{SUFFIX}")
    return _MODELS / f"{model}{SUFFIX}"


def prepare(model: str = MODEL, *, config: str = CONFIG, baud: int = BAUD) -> Ulx3sBuild:
    """Return what is built for a packed model; a model that does not fit raises ValueError.

    Parameters
    ----------
    model
        Name of a packed model of the project, or a file with one.
    config
        Configuration of the accelerator.
    baud
        Rate of the serial line.
    """
    qvit = load(packed(model))
    program = lower(qvit, named(config))
    if len(program.image) > _MODEL_ROOM:
        raise ValueError(f"the model image of {model} has {len(program.image)} bytes, must have at"
                         f" most {_MODEL_ROOM}")
    return Ulx3sBuild(qvit, program, SerialSettings(
        config=program.config, model_base=MODEL_BASE, model_bytes=_MODEL_ROOM,
        frame_bytes=program.frame_bytes, classes=qvit.model.classes, clock_hz=CLOCK_HZ, baud=baud))


def build(what: Ulx3sBuild, folder: Path, *, seed: int = 1,
          progress: Callable[[str], None] = lambda stage: None) -> Result:
    """Write bitstream, model and reports to ``folder``; return what the router says.

    That takes an hour or so. ``ulx3s.bit`` is the bitstream, ``model.bin`` what belongs into the
    flash at ``MODEL_BASE``, ``report.json`` parts, frequency and critical path, ``board.json`` the
    settings; ``work`` holds what the tools read and wrote.
    """
    work = folder / "work"
    make_folder(folder)
    make_folder(work)
    (folder / "model.bin").write_bytes(what.program.image)
    settings = {**asdict(what.settings), "config": what.settings.config.name,
                "model": what.qvit.model.name, "weights": what.qvit.weights}
    (folder / "board.json").write_text(json.dumps(settings, indent=2) + "\n")
    progress("emission")
    verilog, preferences = sources(what.settings)
    report = route(verilog + core(what.settings.config), top="ulx3s", folder=work, seed=seed,
                   preferences=preferences, progress=progress)
    return finish(what, folder, report, seed)


def finish(what: Ulx3sBuild, folder: Path, report: dict[str, Any], seed: int) -> Result:
    """Make the bitstream of what was placed and routed in ``folder``; return what it says."""
    result = Result.parse(report)
    (folder / "report.json").write_text(
        json.dumps(record(what.settings.config, seed, result), indent=2) + "\n")
    run_tool("ecppack", ["--compress", "--input", "design.config", "--bit", "../ulx3s.bit"],
             folder / "work", lambda stage: None)
    return result


def taken(result: Result) -> dict[str, dict[str, float]]:
    """Return what a board takes as figures, block RAMs as those of 36 kbit."""
    used = result.used
    return {figures.ALL: {"luts": used["LUT4"], "ff": used["FF"], "dsp": used["MULT18X18D"],
                          "bram": used["DP16KD"] / 2}}


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m platforms.ulx3s``."""
    parser = argparse.ArgumentParser(prog="python -m platforms.ulx3s", description=__doc__)
    parser.add_argument("--model", default=MODEL,
                        help="scenes_threshold, scenes_topk, scenes, or a packed model"
                        f" (FILE{SUFFIX}) (default: %(default)s)")
    add_config_option(parser, CONFIG)
    parser.add_argument("--baud", type=int, default=BAUD,
                        help="rate of the serial line (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1,
                        help="where the placer begins (default: %(default)s)")
    parser.add_argument("--record", action="store_true",
                        help="record what it takes, for the check of boards")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR",
                        help="folder to write to")
    options = parser.parse_args(arguments)

    def run() -> bool:
        what = prepare(options.model, config=options.config, baud=options.baud)
        with Console(stderr=True).status("") as status:
            result = build(what, options.output, seed=options.seed, progress=lambda stage:
                           status.update(f"{what.settings.config.name}: {stage}"))
        print(tables(result))
        if options.record:
            figures.record(f"{what.settings.config.name} ecp5", taken(result))
        needed = CLOCK_HZ / 1e6
        met = result.mhz >= needed
        print(f"\n{options.output / 'ulx3s.bit'}: {result.mhz:.1f} MHz,"
              f" {'as much as' if met else 'less than'} the {needed:.0f} MHz of its clock"
              f"{'' if met else ': another --seed may do'}")
        return met

    return exit_status("ulx3s", run, SynthesisError)


if __name__ == "__main__":
    sys.exit(main())
