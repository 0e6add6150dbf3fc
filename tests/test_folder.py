# SPDX-License-Identifier: BSD-2-Clause
"""Image folders: classes and order, the crop that DeiT is evaluated on, and broken folders."""

import numpy as np
import pytest
from PIL import Image

from golden.folder import ImageFolder, evaluation_crop
from golden.images import ImageError


def picture(width, height, seed=0):
    """Return smooth colours: where a crop is, and how it is scaled, can be seen in them."""
    y, x = np.mgrid[:height, :width]
    levels = np.stack([255 * x / width, 255 * y / height, np.full(x.shape, 40.0 * seed)], -1)
    return Image.fromarray(levels.astype(np.uint8))


@pytest.fixture
def root(tmp_path):
    for i, name in enumerate(("n02", "n01", "n10")):
        (tmp_path / name).mkdir()
        for j in range(i + 1):
            picture(40 + 10 * j, 30, i).save(tmp_path / name / f"{9 - j}.JPEG")
    (tmp_path / "n01" / "notes.txt").write_text("no image")
    (tmp_path / "n01" / ".hidden.JPEG").write_text("no image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "labels.txt").write_text("no folder")
    return tmp_path


def test_classes_and_images_by_name(root):
    folder = ImageFolder(root)
    assert folder.names == ["n01", "n02", "n10"]
    assert [f"{path.parent.name}/{path.name}" for path in folder.paths] == [
        "n01/8.JPEG", "n01/9.JPEG", "n02/9.JPEG", "n10/7.JPEG", "n10/8.JPEG", "n10/9.JPEG"]
    assert folder.labels == [0, 0, 1, 2, 2, 2]
    assert len(folder) == 6
    frame = folder.frame(2, 24)
    assert frame.shape == (24, 24, 3) and frame.dtype == np.uint8


def test_spread_over_the_folder(root):
    folder = ImageFolder(root)
    assert list(folder.spread(3)) == [0, 2, 4]
    assert list(folder.spread(100)) == list(range(6))


@pytest.mark.parametrize(("width", "height", "resized"), [
    (500, 375, (341, 256)), (375, 500, (256, 341)), (256, 256, (256, 256)), (100, 64, (400, 256)),
    (300, 257, (298, 256))])
def test_crop_of_224_is_of_256(width, height, resized):
    """Resize to 256 on the shorter side and crop the middle, as DeiT's evaluation does."""
    image = picture(width, height)
    expected = np.asarray(image.resize(resized, Image.Resampling.BICUBIC))
    top, left = round((resized[1] - 224) / 2), round((resized[0] - 224) / 2)
    found = evaluation_crop(image, 224)
    assert np.array_equal(found, expected[top:top + 224, left:left + 224])
    # The middle of the picture is the middle of the crop.
    assert np.allclose(found[112, 112, :2], 127.5, atol=2)


def test_crop_of_other_sizes():
    assert evaluation_crop(picture(120, 90), 96).shape == (96, 96, 3)
    # 96 of 109, as 224 of 256: the colours at the borders say how much is seen.
    found = evaluation_crop(picture(1000, 1000), 96)
    assert found[0, 0, 0] == pytest.approx(255 * 6.5 / 109, abs=2)
    assert found[-1, -1, 1] == pytest.approx(255 * 101.5 / 109, abs=2)


def test_crop_is_writable_bytes_of_its_own():
    found = evaluation_crop(picture(50, 50), 24)
    found[:] = 0
    assert found.flags.c_contiguous


def test_grey_and_palette_become_rgb(tmp_path):
    (tmp_path / "a").mkdir()
    picture(50, 50).convert("L").save(tmp_path / "a" / "grey.png")
    picture(50, 50).convert("P").save(tmp_path / "a" / "palette.png")
    folder = ImageFolder(tmp_path)
    for i in range(2):
        assert folder.frame(i, 24).shape == (24, 24, 3)


def test_broken_image(root):
    (root / "n01" / "0.JPEG").write_bytes(b"\xff\xd8\xff no image")
    with pytest.raises(ImageError, match="0.JPEG"):
        ImageFolder(root).frame(0, 24)


def test_bad_folders(tmp_path, root):
    with pytest.raises(ImageError, match="missing is no folder, must be one with a folder"):
        ImageFolder(tmp_path / "missing")
    with pytest.raises(ImageError, match="has 3 classes, must have at most 2"):
        ImageFolder(root, classes=2)
    assert len(ImageFolder(root, classes=3)) == 6
    empty = tmp_path / "n01" / "deeper"
    empty.mkdir()
    with pytest.raises(ImageError, match="has 0 folders, must have one for each class"):
        ImageFolder(empty)
    (empty / "a").mkdir()
    with pytest.raises(ImageError, match="have 0 images, must have at least 1"):
        ImageFolder(empty)
