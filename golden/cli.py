# SPDX-License-Identifier: BSD-2-Clause
"""What commands share: how they end, and options that several have."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from golden.images import SAMPLE, ImageError, load_image
from golden.model import LAST_BLOCKS
from golden.pruning import (
    BLOCKS,
    PACKAGES,
    SELECTORS,
    PruningConfig,
    PruningError,
    cumulative_rates,
)
from rtl.config import CONFIGS

__all__ = ["add_config_option", "add_last_block_option", "add_selector_options", "exit_status",
           "frames", "numbers", "picture_name", "pruning_config"]

#: What each selector of ``topk`` keeps of the patches it is given, unless told otherwise.
_KEEP = 0.7

#: Kind of package tokens, unless told otherwise.
_PACKAGE = "each"

_Number = TypeVar("_Number", int, float)


def exit_status(name: str, run: Callable[[], bool | None], *faults: type[Exception],
                interrupted: str = "interrupted") -> int:
    """Run the command ``name`` and return its exit status: 1 if ``run`` returns False, else 0.

    ValueErrors (all faults of models, settings and files that are read), OSErrors and ``faults``
    are printed as one sentence: 2. An interrupt is 130, and says what ``interrupted`` does.
    """
    told: tuple[type[Exception], ...] = (ValueError, OSError, *faults)
    try:
        return 1 if run() is False else 0
    except told as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: {interrupted}", file=sys.stderr)
        return 130


def numbers(kind: Callable[[str], _Number], what: str) -> Callable[[str], tuple[_Number, ...]]:
    """Return a parser of numbers with commas between them; ``what`` they are called."""
    def parse(text: str) -> tuple[_Number, ...]:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            example = "0.7,0.5" if kind is float else "3,6"
            raise argparse.ArgumentTypeError(
                f"{text!r} is no list of {what} as in {example}") from None
    return parse


def add_selector_options(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add the options that :func:`pruning_config` reads.

    ``default`` is the selector; None where weights may say it, and all else of selectors.
    """
    parser.add_argument("--selector", default=default,
                        help=f"one of {', '.join(SELECTORS)} (default: "
                        f"{default or 'what the weights say of selectors, or none'})")
    keep = parser.add_mutually_exclusive_group()
    keep.add_argument("--keep", type=numbers(float, "numbers"), metavar="RATES",
                      help="for topk: what every selector keeps of its patches, or for each"
                      f" selector what it keeps of all patches; without it {_KEEP}")
    keep.add_argument("--keep-counts", type=numbers(int, "whole numbers"), metavar="COUNTS",
                      help="for topk: patches that each selector keeps, as in 137,96,67")
    parser.add_argument("--package", help=f"one of {', '.join(PACKAGES)} (default: {_PACKAGE})")
    parser.add_argument("--blocks", type=numbers(int, "whole numbers"),
                        help="blocks before which there is a selector, counted from 0; without it"
                        f" {','.join(map(str, BLOCKS))}")


def add_config_option(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--config``, a name for :func:`rtl.config.named`."""
    parser.add_argument("--config", default=default,
                        help=f"one of {', '.join(CONFIGS)}, or of them with another array, as in"
                        " zcu102-32x64 (default: %(default)s)")


def add_last_block_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--last-block``."""
    parser.add_argument("--last-block", choices=LAST_BLOCKS, default=LAST_BLOCKS[0],
                        help="rows of the last block that are computed, beside keys and values:"
                        " all, or those of the class token (and of the distillation token), which"
                        " give the same logits (default: %(default)s)")


def pruning_config(options: argparse.Namespace,
                   stored: PruningConfig | None = None) -> PruningConfig:
    """Return what the options of :func:`add_selector_options` say.

    ``stored`` is what the weights say; only what is kept may be another.
    """
    given: dict[str, Any] = {name: getattr(options, name)
                             for name in ("selector", "blocks", "package")}
    if stored is None:
        usual: dict[str, Any] = {"selector": "none", "blocks": BLOCKS, "package": _PACKAGE}
    else:
        usual = {name: getattr(stored, name) for name in given}
        for name, value in given.items():
            if value not in (None, usual[name]):
                raise PruningError(f"--{name} is {_text(value)}, must be {_text(usual[name])} as in"
                                   " the weights, or left out")
    values = {name: usual[name] if value is None else value for name, value in given.items()}
    rates, counts = options.keep, options.keep_counts
    if values["selector"] == "topk" and rates is None and counts is None:
        rates, counts = ((_KEEP,), None) if stored is None else (stored.rates, stored.counts)
    if rates is not None and len(rates) == 1:
        rates = cumulative_rates(rates[0], len(values["blocks"]))
    return PruningConfig(**values, rates=rates, counts=counts)


def _text(value: str | tuple[int, ...]) -> str:
    return value if isinstance(value, str) else ",".join(map(str, value))


def _files(path: Path) -> list[Path]:
    """Return the images of a folder by name, or the path of a file as it is."""
    if not path.is_dir():
        return [path]
    suffixes = Image.registered_extensions()
    found = sorted(file for file in path.iterdir()
                   if file.is_file() and file.suffix.lower() in suffixes)
    if not found:
        raise ImageError(f"the folder {path} has 0 images, must have at least 1")
    return found


def frames(paths: Sequence[Path] | None, size: int) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return name and pixels [size, size, 3] of all images in ``paths``, files and folders.

    Without paths it is the sample photograph.
    """
    if paths is None:
        return [(f"{SAMPLE} (scikit-learn)", load_image(None, size))]
    return [(str(file), load_image(file, size)) for path in paths for file in _files(path)]


def picture_name(number: int, image: str) -> str:
    """Return the file name of the picture made of image ``number``, as :func:`frames` names it."""
    stem = Path(image.removesuffix(" (scikit-learn)")).stem
    return f"{number}-{stem}.png".replace(" ", "-")
