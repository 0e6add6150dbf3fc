# SPDX-License-Identifier: BSD-2-Clause
"""Eight pictures from empty to crowded through one program: ``python -m sim.adaptive``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from golden.files import make_folder
from golden.model import model_named
from golden.synthetic_selector import SKY, composed
from sim.command import command
from sim.report import Summary
from sim.run import add_options, execute

__all__ = ["compose", "distinct", "main"]

#: Pictures, and the seed of the first.
_PICTURES = 8
_SEED = 500

#: Different numbers of kept patches that there must be.
_DISTINCT = 4

#: Folder of the pictures that are composed.
_COMPOSED = Path("build") / "adaptive"


def compose(size: int, folder: Path) -> list[Path]:
    """Write the pictures, from empty to crowded, and return their files.

    Each is framed with sky, of which ``golden.images.load_image`` leaves nothing: the frame of
    the network is then the composed picture.
    """
    make_folder(folder)
    border = -(-size // 14)
    files = []
    for i in range(_PICTURES):
        picture = np.empty((size + 2 * border, size + 2 * border, 3), np.uint8)
        picture[:] = SKY
        picture[border:-border, border:-border] = composed(size, i / (_PICTURES - 1), _SEED + i)
        files.append(folder / f"cover{i}of{_PICTURES - 1}.png")
        Image.fromarray(picture).save(files[-1])
    return files


def distinct(summary: Summary) -> set[tuple[int, ...]]:
    """Return the different numbers of patches that the images of a run keep."""
    return {tuple(len(step.kept) for step in report.steps) for report in summary.reports}


def _run(options: argparse.Namespace, console: Console) -> bool:
    files = compose(model_named(options.model).image_size, _COMPOSED)
    summary = execute(options, files, console)
    counts, accesses = distinct(summary), sum(r.host_accesses for r in summary.reports)
    console.print(f"{len(counts)} different numbers of patches kept, with one program and"
                  f" {accesses} accesses of the host between start and interrupt", highlight=False)
    return summary.exact and len(counts) >= _DISTINCT and accesses == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    It is 0 only if every stage is equal, at least four different numbers of patches are kept, and
    the host leaves the accelerator alone.
    """
    parser = argparse.ArgumentParser(
        prog="python -m sim.adaptive", description=f"Compose {_PICTURES} pictures, from empty to"
        " crowded, and simulate them with one program.")
    add_options(parser, "threshold")
    options = parser.parse_args(arguments)
    return command("sim.adaptive", lambda: _run(options, Console()))


if __name__ == "__main__":
    sys.exit(main())
