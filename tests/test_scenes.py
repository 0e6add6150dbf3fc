# SPDX-License-Identifier: BSD-2-Clause
"""Scenes of digits: what is in them, where they come from, and that they are always the same."""

import hashlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from golden.lower import check_sizes
from golden.model import MODELS
from golden.scenes import (
    CLASSES,
    SPLITS,
    SceneError,
    SceneSettings,
    SceneSource,
    fixed_set,
    main,
)
from rtl.config import named

#: One digit that fills the scene, every pixel of it five wide, and nothing else.
ALONE = SceneSettings(size=40, digit=(40, 40), instances=(1, 1), strokes=(0, 0))


def make(count=64, seed=0, split="train", **settings):
    return SceneSource(split, SceneSettings(**settings)).make(count, np.random.default_rng(seed))


def sources(split):
    """Return indices, in the data set, of the digits of a split, found by their pixels."""
    images = load_digits().data
    found = {image.astype(np.uint8).tobytes(): i for i, image in enumerate(images)}
    digits = SceneSource(split)._digits
    return [found[digit.astype(np.uint8).tobytes()] for digit in digits]


def test_no_digit_is_in_two_splits():
    indices = [sources(split) for split in SPLITS]
    assert [len(part) for part in indices] == [1253, 269, 275]
    assert sorted(sum(indices, [])) == list(range(1797))


@pytest.mark.parametrize("split", SPLITS)
def test_label_is_the_class_of_the_digit(split):
    scenes = SceneSource(split, ALONE).make(100, np.random.default_rng(1))
    blocks = scenes.frames.reshape(100, 8, 5, 8, 5).mean((2, 4)).reshape(100, 64)
    digits = load_digits()
    references = digits.data - digits.data.mean(1, keepdims=True)
    references /= np.linalg.norm(references, axis=1, keepdims=True)
    nearest = ((blocks - blocks.mean(1, keepdims=True)) @ references.T).argmax(1)
    assert np.array_equal(digits.target[nearest], scenes.labels)
    assert set(nearest) <= set(sources(split))
    assert set(scenes.labels) == set(range(CLASSES))


def test_number_of_digits():
    scenes = make(400)
    assert set(scenes.counts) == {1, 2, 3, 4}
    covered = [scenes.digits[scenes.counts == count].mean() for count in (1, 2, 3, 4)]
    assert covered == sorted(covered)
    assert covered[3] > 3 * covered[0]
    assert scenes.digits.any((1, 2)).all(), "every scene has a digit"


def test_strokes_are_no_digits():
    without, with_strokes = make(strokes=(0, 0)), make(strokes=(4, 10))
    assert without.digits.mean() == pytest.approx(with_strokes.digits.mean(), rel=0.1)
    bright = 120
    on_digits = [(scenes.frames[scenes.digits] > bright).mean()
                 for scenes in (without, with_strokes)]
    elsewhere = [(scenes.frames[~scenes.digits] > bright).mean()
                 for scenes in (without, with_strokes)]
    assert on_digits[0] > 0.4
    assert elsewhere[0] < 0.02 < 0.04 < elsewhere[1]


def test_patches_hold_digits():
    scenes = make(8)
    expected = [[scenes.digits[i, y:y + 12, x:x + 12].sum() >= 6
                 for y in range(0, 120, 12) for x in range(0, 120, 12)] for i in range(8)]
    assert scenes.patches(12).tolist() == expected
    with pytest.raises(SceneError, match=r"scenes are 120 pixels wide.*multiple of the patch, 16"):
        scenes.patches(16)


def test_part_of_the_patches_that_hold_digits():
    scenes = fixed_set("test", 4000)
    held = scenes.patches(12)
    assert held.mean() == pytest.approx(0.1565, abs=1e-4)
    assert [held[scenes.counts == count].mean() for count in (1, 2, 3, 4)] == pytest.approx(
        [0.0630, 0.1247, 0.1862, 0.2470], abs=1e-4)


def test_frames_are_grey():
    scenes = make(2)
    frame = scenes.rgb(1)
    assert frame.shape == (120, 120, 3) and frame.dtype == np.uint8
    assert all(np.array_equal(frame[..., i], scenes.frames[1]) for i in range(3))


def test_same_seed_same_scenes():
    first, again, other = make(4, seed=3), make(4, seed=3), make(4, seed=4)
    for name in ("frames", "labels", "counts", "digits"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    assert not np.array_equal(first.frames, other.frames)


def test_fixed_set_is_always_the_same():
    scenes = fixed_set("test", 300)
    digest = hashlib.sha256(scenes.frames.tobytes() + scenes.labels.tobytes()).hexdigest()
    assert digest[:16] == "4c110ce49d12f871"
    fewer = fixed_set("test", 10)
    assert np.array_equal(fewer.frames, scenes.frames[:10])
    assert np.array_equal(fewer.patches(12), scenes.patches(12)[:10])
    assert not np.array_equal(fixed_set("validation", 10).labels, fewer.labels)


@pytest.mark.parametrize(("settings", "message"), [
    ({"instances": (0, 4)}, "least of instances is 0, must be at least 1"),
    ({"strokes": (5, 4)}, "most of strokes is 4, must be at least 5"),
    ({"digit": (7, 40)}, "least of digit is 7, must be at least 8"),
    ({"size": 36}, "size is 36, must be at least 40")])
def test_settings_that_contradict(settings, message):
    with pytest.raises(SceneError, match=message):
        SceneSettings(**settings)


def test_unknown_split():
    with pytest.raises(SceneError, match="the split is 'all', must be one of train, validation"):
        SceneSource("all")


def test_sheet(tmp_path, capsys):
    path = tmp_path / "sheet.png"
    assert main([str(path), "--count", "5", "--columns", "3", "--patch", "12"]) == 0
    with Image.open(path) as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * 124 + 4, 3 * 124 + 4)
    labels = fixed_set("train", 5).labels
    assert capsys.readouterr().out.split() == [str(label) for label in labels]
    assert (sheet[128:, 252:] == 255).all(), "there is no sixth scene"
    scenes = fixed_set("train", 5)
    dimmed = sheet[4:124, 4:124]
    kept = scenes.patches(12)[0].reshape(10, 10).repeat(12, 0).repeat(12, 1)
    assert np.array_equal(dimmed[kept], scenes.frames[0][kept])
    assert np.array_equal(dimmed[~kept], scenes.frames[0][~kept] // 3)


def test_frames_by_themselves(tmp_path):
    folder = tmp_path / "frames"
    assert main([str(tmp_path / "sheet.png"), "--split", "test", "--count", "2",
                 "--frames", str(folder)]) == 0
    scenes = fixed_set("test", 2)
    names = [f"{i}_is_{label}" for i, label in enumerate(scenes.labels)]
    assert {path.name for path in folder.iterdir()} == {
        f"{name}{suffix}" for name in names for suffix in (".png", ".rgb")}
    for i, name in enumerate(names):
        assert (folder / f"{name}.rgb").read_bytes() == scenes.rgb(i).tobytes()
        with Image.open(folder / f"{name}.png") as image:
            assert np.array_equal(np.asarray(image), scenes.rgb(i))


@pytest.mark.parametrize(("arguments", "message"), [
    (["--count", "0"], "count is 0, must be at least 1"),
    (["--split", "all"], "the split is 'all'"),
    (["--patch", "16"], "must be a multiple of the patch, 16")])
def test_bad_arguments_of_the_sheet(arguments, message, tmp_path, capsys):
    assert main([str(tmp_path / "sheet.png"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_sheet_needs_a_folder(tmp_path, capsys):
    assert main([str(tmp_path / "missing" / "sheet.png")]) == 2
    assert "does not exist" in capsys.readouterr().err


def _refused(capsys, *arguments):
    """Return the one sentence that the command ends with."""
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("golden.scenes: ") and said.count("\n") == 1
    return said


def test_frames_of_two_runs_are_not_mixed(tmp_path, capsys):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "0_is_4.rgb").write_bytes(b"mine")
    sheet = tmp_path / "sheet.png"
    said = _refused(capsys, sheet, "--count", "2", "--frames", tmp_path / "frames")
    assert "is not empty, must be a new or an empty one" in said
    assert not sheet.exists() and [file.read_bytes() for file in
                                   (tmp_path / "frames").iterdir()] == [b"mine"]


def test_files_that_cannot_be_written(tmp_path, capsys):
    assert "is a folder, must be a file" in _refused(capsys, tmp_path)
    (tmp_path / "file").write_bytes(b"")
    said = _refused(capsys, tmp_path / "sheet.png", "--frames", tmp_path / "file")
    assert "is a file, must be a folder" in said
    long = tmp_path / f"{'a' * 300}.png"  # longer than names of files may be
    assert "File name too long" in _refused(capsys, long, "--count", "1")


def test_network_fits_tiny():
    model = MODELS["scenes"]
    check_sizes(model, named("tiny"))
    assert (model.classes, model.image_size) == (CLASSES, SceneSettings().size)
    assert (model.grid ** 2, model.heads) == (100, 2)
