# SPDX-License-Identifier: BSD-2-Clause
"""From a picture to a frame: ``python3 -m heatvit.picture PICTURE SIZE FRAME``, with Pillow."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["frame_of"]

#: Part of the shorter side that is kept: DeiT resizes it to 256 pixels and crops 224.
_CROP = 224 / 256


def frame_of(picture: str | Path, size: int) -> Any:
    """Return the centre of a picture as the core reads it, bytes [size, size, 3].

    A file ``.rgb`` holds these bytes already.
    """
    if Path(picture).suffix == ".rgb":
        frame = np.fromfile(picture, np.uint8)
        if len(frame) != 3 * size * size:
            raise ValueError(f"{picture} has {len(frame)} bytes, must have {3 * size * size}")
        return frame.reshape(size, size, 3)
    try:
        from PIL import Image  # only who has pictures needs Pillow
    except ImportError:
        raise ImportError(f"{picture} cannot be read without Pillow, which is not installed: must"
                          " be a frame (.rgb)") from None
    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    side = _CROP * min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    image = image.resize((size, size), Image.Resampling.BICUBIC,
                         box=(left, top, left + side, top + side))
    return np.asarray(image).copy()


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m heatvit.picture",
                                     description="Makes a frame of a picture.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("size", type=int, help="pixels of a side, image_size of the model")
    parser.add_argument("frame", type=Path, help="what is written: lines of RGB pixels")
    options = parser.parse_args()
    try:
        options.frame.write_bytes(frame_of(options.picture, options.size).tobytes())
    except (ImportError, OSError, ValueError) as error:
        print(f"heatvit.picture: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main())
