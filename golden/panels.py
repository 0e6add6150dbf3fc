# SPDX-License-Identifier: BSD-2-Clause
"""Pictures of what token selectors keep: the photograph with its pruned patches dimmed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from golden.model import ModelConfig
from golden.pruning import Step

__all__ = ["dim", "panels"]

#: Part of its brightness that a pruned patch keeps: one in so many.
_DIM = 5

#: Pixels of a panel's side, about, of the gaps between panels, and of the font.
_SIDE = 336
_GAP = 8
_FONT = 15


def dim(model: ModelConfig, frame: NDArray[np.uint8], kept: Sequence[int]) -> NDArray[np.uint8]:
    """Return ``frame`` [size, size, 3] with all patches dimmed but those at the places ``kept``."""
    mask = np.zeros(model.grid ** 2, np.bool_)
    mask[list(kept)] = True
    pixels = mask.reshape(model.grid, model.grid).repeat(model.patch, 0).repeat(model.patch, 1)
    return np.where(pixels[..., None], frame, frame // _DIM)


def panels(model: ModelConfig, frame: NDArray[np.uint8], steps: Sequence[Step]) -> Image.Image:
    """Return one panel for each selector, side by side; without selectors the photograph."""
    views = [(dim(model, frame, step.kept),
              f"before block {step.block}: {len(step.kept)} of {model.grid ** 2}")
             for step in steps] or [(frame, "no selector")]
    side = model.image_size * max(1, round(_SIDE / model.image_size))
    line = _FONT + _GAP
    picture = Image.new("RGB", (len(views) * (side + _GAP) + _GAP, side + line + 2 * _GAP), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_FONT)
    for i, (view, caption) in enumerate(views):
        left = _GAP + i * (side + _GAP)
        draw.text((left, _GAP), caption, "black", font)
        picture.paste(Image.fromarray(view).resize((side, side), Image.Resampling.NEAREST),
                      (left, _GAP + line))
    return picture
