# SPDX-License-Identifier: BSD-2-Clause
"""Photographs as the accelerator takes them, and as the float twin takes them."""

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

__all__ = ["MEAN", "SAMPLE", "STD", "ImageError", "calibration_frames", "load_image", "normalise",
           "read_image"]

#: Mean and standard deviation of the channels of ImageNet, of pixels between 0 and 1.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

#: The photograph that is taken where none is given, from scikit-learn (427 x 640 pixels).
SAMPLE = "china.jpg"

#: Part of the shorter side that is kept: DeiT resizes it to 256 pixels and crops 224.
_CROP = 224 / 256


class ImageError(ValueError):
    """An image that cannot be read."""


def read_image(path: Path) -> Image.Image:
    """Return an image as it is in a file, in RGB."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of what does not matter here, such as transparency in a palette, and
            # of what must not pass, images so large that they may be an attack.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"image {path} is too large: more than {Image.MAX_IMAGE_PIXELS}"
                         " pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"image {path} is in no format that Pillow reads") from error
    # Pillow's decoders raise errors of many kinds on broken files.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImageError(f"image {path} cannot be read: {reason}") from error


def _sample() -> Image.Image:
    from sklearn.datasets import load_sample_image  # takes longer to import than all the rest
    return Image.fromarray(load_sample_image(SAMPLE))


def load_image(path: str | Path | None, size: int) -> NDArray[np.uint8]:
    """Return the centre of an image as RGB bytes [size, size, 3].

    The crop is a square of 224/256 of the shorter side, resized with a bicubic filter: what DeiT
    is evaluated on. Without ``path`` the image is the sample photograph.
    """
    image = _sample() if path is None else read_image(Path(path))
    side = _CROP * min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    image = image.resize((size, size), Image.Resampling.BICUBIC,
                         box=(left, top, left + side, top + side))
    return np.asarray(image).copy()


def calibration_frames(size: int) -> list[NDArray[np.uint8]]:
    """Return the sample photograph, mirrored both ways, and as a negative."""
    frame = load_image(None, size)
    return [np.ascontiguousarray(view) for view in (frame, frame[:, ::-1], frame[::-1],
                                                    255 - frame)]


def normalise(image: NDArray[np.uint8]) -> torch.Tensor:
    """Return bytes [height, width, 3] as the float twin takes them, [3, height, width]."""
    pixels = torch.from_numpy(image).permute(2, 0, 1).to(torch.float32) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std
