# SPDX-License-Identifier: BSD-2-Clause
"""Folders of photographs in the layout of ImageNet, as DeiT is evaluated on them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from golden.images import ImageError, read_image

__all__ = ["ImageFolder", "evaluation_crop"]

#: The shorter side after resizing, for a crop of so many pixels.
_RESIZED, _CROP = 256, 224


def evaluation_crop(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Return what DeiT evaluates, bytes [size, size, 3].

    The image is resized with a bicubic filter so that its shorter side is 256/224 of ``size``,
    and the other in proportion, both rounded down; of that it is the square in the middle.
    """
    width, height = image.size
    short = size * _RESIZED // _CROP
    resized = (short if width <= height else short * width // height,
               short if height <= width else short * height // width)
    image = image.resize(resized, Image.Resampling.BICUBIC)
    # As torchvision rounds: to the even one of two that are equally near.
    left, top = (round((length - size) / 2) for length in resized)
    return np.asarray(image.crop((left, top, left + size, top + size)).convert("RGB")).copy()


class ImageFolder:
    """Photographs in one folder for each class: ``ROOT/CLASS/NAME.JPEG``.

    Classes have the numbers of their folders in the order of the names, from 0, as the synsets of
    ImageNet have. Of one class the images are in the order of their names.

    Parameters
    ----------
    root
        The folder with the folders of the classes.
    classes
        Classes that the network has; the folder may have fewer.

    Members
    -------
    names
        Folders of the classes.
    paths, labels
        The images, class by class, and the class of each.
    """

    def __init__(self, root: str | Path, classes: int | None = None) -> None:
        root = Path(root)
        if not root.is_dir():
            raise ImageError(f"{root} is no folder, must be one with a folder for each class")
        suffixes = Image.registered_extensions()
        self.names = sorted(path.name for path in root.iterdir()
                            if path.is_dir() and not path.name.startswith("."))
        if not self.names:
            raise ImageError(f"the folder {root} has 0 folders, must have one for each class")
        if classes is not None and len(self.names) > classes:
            raise ImageError(f"the folder {root} has {len(self.names)} classes, must have at most"
                             f" {classes}")
        found = [(path, label) for label, name in enumerate(self.names)
                 for path in sorted((root / name).iterdir())
                 if path.suffix.lower() in suffixes and not path.name.startswith(".")]
        if not found:
            raise ImageError(f"the folders in {root} have 0 images, must have at least 1")
        self.paths = [path for path, _ in found]
        self.labels = [label for _, label in found]

    def __len__(self) -> int:
        return len(self.paths)

    def frame(self, index: int, size: int) -> NDArray[np.uint8]:
        """Return an image as the accelerator takes it, see :func:`evaluation_crop`."""
        return evaluation_crop(read_image(self.paths[index]), size)

    def spread(self, count: int) -> Iterator[int]:
        """Yield ``count`` indices, or all if there are fewer, evenly over the folder."""
        count = min(count, len(self))
        yield from (i * len(self) // count for i in range(count))
