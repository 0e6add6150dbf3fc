# SPDX-License-Identifier: BSD-2-Clause
"""Scenes of handwritten digits among clutter: ``python -m golden.scenes`` draws a sheet of them.

Of a scene the label is the one class of digit in it. One to four digits of that class, of random
sizes and places, stand among strokes cut from digits of any class, before a cloudy background. So
scenes differ in how much of them matters, and which patches matter is known.

The digits are those of scikit-learn, 8 x 8 pixels. They are split into training, validation and
test by class, before any scene is made: no digit, not even a stroke of it, is in two of the three.
All arithmetic is on small integers, which float32 holds exactly: the same bytes on every machine.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from golden.cli import exit_status
from golden.files import check_output, make_new_folder

__all__ = ["CLASSES", "SPLITS", "SceneError", "SceneSettings", "SceneSource", "Scenes", "fixed_set",
           "main"]

#: Classes of digits.
CLASSES = 10

#: The parts that the digits are split into, and of twenty digits of a class how many go to each.
SPLITS = {"train": 14, "validation": 3, "test": 3}

#: Seed of the split, and of the sets that are always the same.
_SEED = 2022

#: Scenes that are made at a time for :func:`fixed_set`: a part of its definition.
_CHUNK = 250

#: Pixels of a digit as scikit-learn has it, and their largest value.
_CELLS = 8
_INK = 16

#: Fraction bits of the weights of the interpolation.
_FRAC = 5

#: Values that the ink of digits and strokes is multiplied by, and that of the background: at most.
_CONTRAST = (8, 15)
_CLOUDS = 4

#: Grey levels of the noise, from 0, of a pixel.
_NOISE = 24

#: Sides of the window that cuts a stroke from a digit, in its pixels, and windows tried for ink.
_WINDOW = (3, 4)
_TRIES = 4

#: Places tried for an object: it takes the one where it overlaps the least with digits.
_PLACES = 8

#: Ink from which a pixel is a digit's, and pixels of a digit from which a patch is.
_DIGIT_LEVEL = 60
_DIGIT_PIXELS = 6

#: Pixels [scenes, objects, 8, 8], sides and places [scenes, objects, 2] of objects.
_Objects = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]


class SceneError(ValueError):
    """Settings of scenes that contradict themselves."""


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """What is in a scene; of each pair the least and the most.

    Parameters
    ----------
    size
        Pixels of its side.
    instances
        Digits.
    strokes
        Strokes cut from other digits.
    digit
        Sides of a digit, in pixels; strokes are cut from digits of these sizes.
    """

    size: int = 120
    instances: tuple[int, int] = (1, 4)
    strokes: tuple[int, int] = (4, 10)
    digit: tuple[int, int] = (16, 40)

    def __post_init__(self) -> None:
        for name, low in (("instances", 1), ("strokes", 0), ("digit", _CELLS)):
            least, most = getattr(self, name)
            if least < low:
                raise SceneError(f"the least of {name} is {least}, must be at least {low}")
            if most < least:
                raise SceneError(f"the most of {name} is {most}, must be at least {least}")
        if self.size < self.digit[1]:
            raise SceneError(f"size is {self.size}, must be at least {self.digit[1]}, the side of"
                             " the largest digit")


@dataclass(frozen=True, eq=False)
class Scenes:
    """Scenes, and what is in them.

    Members
    -------
    frames
        Grey levels [scenes, size, size].
    labels
        Class of each scene.
    counts
        Digits in each scene.
    digits
        Which pixels are a digit's [scenes, size, size].
    """

    frames: NDArray[np.uint8]
    labels: NDArray[np.int64]
    counts: NDArray[np.int64]
    digits: NDArray[np.bool_]

    def rgb(self, index: int) -> NDArray[np.uint8]:
        """Return one scene as the accelerator takes it, [size, size, 3]: three equal colours."""
        return np.repeat(self.frames[index][..., None], 3, -1)

    def patches(self, patch: int) -> NDArray[np.bool_]:
        """Return which patches hold a part of a digit [scenes, patches], line by line."""
        return self.patch_pixels(patch) >= _DIGIT_PIXELS

    def patch_pixels(self, patch: int) -> NDArray[np.int64]:
        """Return the pixels of digits in each patch [scenes, patches], line by line."""
        count, size, _ = self.digits.shape
        if size % patch:
            raise SceneError(f"scenes are {size} pixels wide, must be a multiple of the patch,"
                             f" {patch}")
        grid = size // patch
        tiles = self.digits.reshape(count, grid, patch, grid, patch)
        return tiles.sum((2, 4)).reshape(count, -1)


@cache
def _split(split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the digits of a split [digits, 8, 8], by class, and where each class begins."""
    from sklearn.datasets import load_digits  # takes longer to import than all the rest
    images, labels = load_digits(return_X_y=True)
    names, parts = list(SPLITS), np.cumsum([0, *SPLITS.values()])
    index = names.index(split)
    chosen = []
    for label in range(CLASSES):
        order = np.random.default_rng([_SEED, label]).permutation(np.flatnonzero(labels == label))
        start, stop = len(order) * parts[index:index + 2] // parts[-1]
        chosen.append(order[start:stop])
    starts = np.cumsum([0, *map(len, chosen)])
    digits = images[np.concatenate(chosen)].reshape(-1, _CELLS, _CELLS)
    return digits.astype(np.float32), starts.astype(np.int64)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of cubic convolution (Keys, a = -1/2) at a distance of x."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


@cache
def _interpolation(size: int, largest: int) -> NDArray[np.float32]:
    """Return the weights that enlarge 8 pixels to s, integers: [s, size + row, 8].

    Row 0 is where the enlarged pixels begin; rows go from -size to size - 1.
    """
    sides = np.arange(1, largest + 1)[:, None, None]
    rows = np.arange(-size, size)[:, None]
    position = (2 * rows + 1) * _CELLS / (2 * sides) - 0.5
    weights = _cubic(position - np.arange(_CELLS))
    table = np.rint(weights * 2 ** _FRAC).astype(np.float32)
    return np.concatenate([np.zeros_like(table[:1]), table])


class SceneSource:
    """Makes scenes from the digits of one split.

    Parameters
    ----------
    split
        One of ``SPLITS``.
    settings
        What is in a scene.
    """

    def __init__(self, split: str, settings: SceneSettings = SceneSettings()) -> None:
        if split not in SPLITS:
            raise SceneError(f"the split is {split!r}, must be one of {', '.join(SPLITS)}")
        self.settings = settings
        self._digits, self._starts = _split(split)
        # The clouds are 8 x 8 pixels, too, a quarter wider than the scene on both sides.
        self._cloud_side = settings.size * 3 // 2
        self._table = _interpolation(2 * settings.size, self._cloud_side)

    def make(self, count: int, generator: np.random.Generator) -> Scenes:
        """Return ``count`` scenes; ``generator`` decides on everything in them."""
        settings = self.settings
        labels = generator.integers(0, CLASSES, count)
        counts = generator.integers(settings.instances[0], settings.instances[1] + 1, count)
        digits = self._instances(generator, labels, counts)
        objects = [digits, self._strokes(generator, *digits[1:])]
        clouds = generator.integers(0, _INK + 1, (count, 1, _CELLS, _CELLS)).astype(np.float32)
        clouds *= generator.integers(0, _CLOUDS + 1, (count, 1, 1, 1)).astype(np.float32)
        shift = np.full((count, 1, 2), -(self._cloud_side - settings.size) // 2)
        objects.append((clouds, np.full((count, 1), self._cloud_side), shift))

        layers = [self._draw(*part) for part in objects]
        noise = generator.integers(0, _NOISE, layers[0].shape, np.uint8)
        levels = np.floor((layers[0] + layers[1] + layers[2]).clip(0) * 4.0 ** -_FRAC) + noise
        ink = layers[0] >= _DIGIT_LEVEL * 4.0 ** _FRAC
        return Scenes(levels.clip(max=255).astype(np.uint8), labels, counts, ink)

    def _instances(self, generator: np.random.Generator, labels: NDArray[np.int64],
                   counts: NDArray[np.int64]) -> _Objects:
        """Return pixels [scenes, digits, 8, 8], sides and places of digits; the absent are 0."""
        most, shape = self.settings.instances[1], (len(labels), self.settings.instances[1])
        low, high = self._starts[labels, None], self._starts[labels + 1, None]
        pixels = self._digits[generator.integers(low, high, shape)]
        contrast = generator.integers(_CONTRAST[0], _CONTRAST[1] + 1, shape)
        there = np.arange(most) < counts[:, None]
        pixels = pixels * (contrast * there).astype(np.float32)[..., None, None]
        sides = generator.integers(self.settings.digit[0], self.settings.digit[1] + 1, shape)
        # Larger digits first: the smaller ones find room between them.
        sides = -np.sort(-np.where(there, sides, 0))
        places = np.zeros((*shape, 2), np.int64)
        for i in range(most):
            places[:, i:i + 1] = self._place(generator, sides[:, i:i + 1, None], sides[:, :i],
                                             places[:, :i])
        return pixels, sides, places

    def _place(self, generator: np.random.Generator, sides: NDArray[np.int64],
               other_sides: NDArray[np.int64],
               others: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return places for boxes with ``sides`` [scenes, boxes, 1 or 2] with little overlap.

        Each is the one of some random places where it overlaps the least with the ``others``
        [scenes, others, 2], squares of ``other_sides``; not with one another.
        """
        sides = sides[:, :, None]
        tried = generator.integers(0, self.settings.size - sides + 1,
                                   (*sides.shape[:2], _PLACES, 2))
        low, high = (x[:, None, None] for x in (others, others + other_sides[..., None]))
        overlap = (np.minimum((tried + sides)[..., None, :], high)
                   - np.maximum(tried[..., None, :], low)).clip(0)
        best = overlap.prod(-1).sum(-1).argmin(-1)
        return np.take_along_axis(tried, best[..., None, None], 2)[:, :, 0]

    def _strokes(self, generator: np.random.Generator, digit_sides: NDArray[np.int64],
                 digit_places: NDArray[np.int64]) -> _Objects:
        """Return pixels [scenes, strokes, 8, 8], sides and places of strokes; the absent are 0."""
        least, most = self.settings.strokes
        shape = (len(digit_sides), most)
        pixels = self._digits[generator.integers(0, len(self._digits), shape)]
        sides = generator.integers(_WINDOW[0], _WINDOW[1] + 1, (*shape, _TRIES, 2))
        corners = generator.integers(0, _CELLS - sides + 1)
        cells = np.arange(_CELLS)
        inside = ((cells >= corners[..., None]) & (cells < (corners + sides)[..., None])
                  ).astype(np.float32)
        ink = np.einsum("...y,...yx,...x->...", inside[..., 0, :], pixels[:, :, None],
                        inside[..., 1, :])
        best = ink.argmax(-1)[..., None, None]
        corner, window = (np.take_along_axis(x, best, 2)[:, :, 0] for x in (corners, sides))
        rows, columns = np.moveaxis(np.take_along_axis(inside, best[..., None], 2)[:, :, 0], 2, 0)
        contrast = generator.integers(_CONTRAST[0], _CONTRAST[1] + 1, shape)
        there = np.arange(most) < generator.integers(least, most + 1, shape[0])[:, None]
        pixels = (pixels * rows[..., None] * columns[..., None, :]
                  * (contrast * there).astype(np.float32)[..., None, None])
        scale = generator.integers(self.settings.digit[0], self.settings.digit[1] + 1, shape)
        # The window is somewhere in the scene, the digit that it is cut from may reach out.
        place = self._place(generator, window * scale[..., None] // _CELLS, digit_sides,
                            digit_places)
        return pixels, scale, place - corner * scale[..., None] // _CELLS

    def _draw(self, pixels: NDArray[np.float32], sides: NDArray[np.int64],
              places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the sum of objects, [scenes, size, size], with 2 ``_FRAC`` fraction bits."""
        size = self.settings.size
        rows, columns = (torch.from_numpy(
            self._table[sides[..., None], 2 * size - places[..., axis, None] + np.arange(size)])
            for axis in (0, 1))
        wide = torch.from_numpy(pixels) @ columns.transpose(-1, -2)
        # One product sums over the objects of a scene and their rows.
        drawn = rows.transpose(1, 2).flatten(2) @ wide.flatten(1, 2)
        return drawn.numpy()


def fixed_set(split: str, count: int, settings: SceneSettings = SceneSettings()) -> Scenes:
    """Return the first ``count`` scenes of a split, the same ones on every call."""
    source = SceneSource(split, settings)
    made = [source.make(_CHUNK, np.random.default_rng([_SEED, list(SPLITS).index(split), chunk]))
            for chunk in range(-(-count // _CHUNK))]
    return Scenes(*(np.concatenate([getattr(scenes, name) for scenes in made])[:count]
                    for name in ("frames", "labels", "counts", "digits")))


def _sheet(scenes: Scenes, columns: int, patch: int | None) -> NDArray[np.uint8]:
    """Return scenes side by side; with a patch, those patches dimmed that hold no digit."""
    gap, (count, size, _) = 4, scenes.frames.shape
    sheet = np.full((-(-count // columns) * (size + gap) + gap, columns * (size + gap) + gap), 255,
                    np.uint8)
    for i, frame in enumerate(scenes.frames):
        if patch is not None:
            grid = size // patch
            held = scenes.patches(patch)[i].reshape(grid, grid).repeat(patch, 0).repeat(patch, 1)
            frame = np.where(held, frame, frame // 3)
        top, left = (gap + j * (size + gap) for j in divmod(i, columns))
        sheet[top:top + size, left:left + size] = frame
    return sheet


def _write_frames(scenes: Scenes, folder: Path) -> None:
    """Write every scene as a picture and as bytes [size, size, 3], named by number and label."""
    for i, label in enumerate(scenes.labels):
        frame = scenes.rgb(i)
        Image.fromarray(frame).save(folder / f"{i}_is_{label}.png")
        (folder / f"{i}_is_{label}.rgb").write_bytes(frame.tobytes())


def main(arguments: list[str] | None = None) -> int:
    """Write a picture of scenes and print their labels."""
    parser = argparse.ArgumentParser(prog="python -m golden.scenes",
                                     description="Draw scenes side by side.")
    parser.add_argument("output", type=Path, metavar="FILE", help="the picture")
    parser.add_argument("--split", default="train", help=f"one of {', '.join(SPLITS)}")
    parser.add_argument("--count", type=int, default=24, help="scenes (default: %(default)s)")
    parser.add_argument("--columns", type=int, default=8,
                        help="scenes side by side (default: %(default)s)")
    parser.add_argument("--patch", type=int, metavar="PIXELS",
                        help="dim the patches of this size that hold no part of a digit")
    parser.add_argument("--frames", type=Path, metavar="DIR",
                        help="write each by itself as well, as a picture and as the core reads it,"
                        " into a new or an empty folder")
    options = parser.parse_args(arguments)

    def run() -> None:
        for name in ("count", "columns"):
            if getattr(options, name) < 1:
                raise SceneError(f"{name} is {getattr(options, name)}, must be at least 1")
        check_output(options.output)
        if options.frames is not None:
            make_new_folder(options.frames)
        scenes = fixed_set(options.split, options.count)
        Image.fromarray(_sheet(scenes, options.columns, options.patch)).save(options.output)
        if options.frames is not None:
            _write_frames(scenes, options.frames)
        for start in range(0, options.count, options.columns):
            print(*scenes.labels[start:start + options.columns])

    return exit_status("golden.scenes", run)


if __name__ == "__main__":
    sys.exit(main())
