# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from golden.images import MEAN, STD, ImageError, load_image, normalise


def _photograph() -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg"))


@pytest.mark.parametrize("size", [48, 96, 224])
def test_sample_photograph(size: int) -> None:
    image = load_image(None, size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert image.std() > 40, "the sample photograph has contrast"


def test_centre_crop_of_the_resized_image() -> None:
    photograph = _photograph()
    short = min(photograph.size)
    resized = photograph.resize(
        tuple(round(256 * length / short) for length in photograph.size), Image.Resampling.BICUBIC)
    left, top = ((length - 224) // 2 for length in resized.size)
    expected = np.asarray(resized)[top:top + 224, left:left + 224].astype(int)
    difference = np.abs(load_image(None, 224).astype(int) - expected)
    # The crop is taken between pixels, so it may be half a pixel away.
    assert difference.mean() < 5, difference.mean()


def test_even_scale_is_the_resized_image_exactly(tmp_path: Path) -> None:
    path = tmp_path / "square.png"
    photograph = _photograph().crop((0, 0, 256, 256))
    photograph.save(path)
    expected = np.asarray(photograph)[16:240, 16:240]
    np.testing.assert_array_equal(load_image(path, 224), expected)


@pytest.mark.parametrize(("mode", "suffix"), [
    ("RGB", "png"), ("RGB", "jpg"), ("RGB", "bmp"), ("RGB", "webp"), ("RGB", "tiff"),
    ("L", "png"), ("P", "gif"), ("RGBA", "png"), ("CMYK", "jpg"), ("1", "png")])
def test_every_kind_of_image(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    _photograph().convert(mode).save(path)
    image = load_image(path, 48)
    assert image.shape == (48, 48, 3)
    # Gray and black-and-white images keep the brightness.
    difference = image.mean() - load_image(None, 48).mean()
    assert abs(difference) < 12, difference


def test_palette_with_transparency(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    _photograph().convert("P").save(path, transparency=bytes(range(256)))
    assert load_image(str(path), 48).shape == (48, 48, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 2)])
def test_extreme_shapes(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", shape, (10, 200, 30)).save(path)
    np.testing.assert_array_equal(load_image(path, 48),
                                  np.broadcast_to(np.uint8([10, 200, 30]), (48, 48, 3)))


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.png"
    with pytest.raises(ImageError) as error:
        load_image(path, 48)
    assert str(error.value) == f"image {path} cannot be read: No such file or directory"


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as error:
        load_image(tmp_path, 48)
    assert str(error.value) == f"image {tmp_path} cannot be read: Is a directory"


def test_not_an_image(tmp_path: Path) -> None:
    path = tmp_path / "text.jpg"
    path.write_text("no image")
    with pytest.raises(ImageError) as error:
        load_image(path, 48)
    assert str(error.value) == f"image {path} is in no format that Pillow reads"


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tiff", "ppm"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_truncated_image(tmp_path: Path, suffix: str, part: float) -> None:
    path = tmp_path / f"image.{suffix}"
    _photograph().save(path)
    content = path.read_bytes()
    path.write_bytes(content[:int(part * len(content))])
    sentence = f"^image {path} (cannot be read|is in no format)"
    with pytest.raises(ImageError, match=sentence) as error:
        load_image(path, 48)
    assert "\n" not in str(error.value)


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.png"
    _photograph().save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200000)
    with pytest.raises(ImageError) as error:
        load_image(path, 48)
    assert str(error.value) == f"image {path} is too large: more than 200000 pixels"


def test_normalise() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[1, 2] = 255, 51, 0
    pixels = normalise(image)
    assert pixels.shape == (3, 2, 3)
    assert pixels.dtype == torch.float32
    expected = [(value - mean) / std
                for value, mean, std in zip((1, 0.2, 0), MEAN, STD, strict=True)]
    torch.testing.assert_close(pixels[:, 1, 2], torch.tensor(expected))
    torch.testing.assert_close(pixels[0, 0, 0], torch.tensor(-MEAN[0] / STD[0]))
