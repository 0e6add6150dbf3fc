# SPDX-License-Identifier: BSD-2-Clause
"""What is kept from one run to the next: that it is the right thing, and never a part of it."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from golden.model import model_named
from golden.synthetic import synthetic
from sim import workload
from sim.cache import digest, replacing

MODEL = model_named("tiny_test")


def test_digest_is_of_the_contents(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path, text in zip(paths, ("one", "one", "two"), strict=True):
        path.write_text(text)
    same, also, other = (digest(path) for path in paths)
    assert same == also == digest("one") and other != same
    assert digest("on", "e") != digest("one") != digest("o", "ne")


def test_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(KeyboardInterrupt), replacing(path) as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt
    assert not path.exists()
    with replacing(path) as unfinished:
        unfinished.write_text("whole")
    assert path.read_text() == "whole"


def test_golden_sources_are_in_the_key() -> None:
    """What golden/ imports from elsewhere in the repository changes its results, too."""
    used = set()
    for path in workload._SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and path.parent.name == "golden":
                used.add(node.module)
    # Two commands estimate cycles, and make no network.
    used = {name for name in used if name.startswith(("golden.", "rtl.", "sim."))
            and not name.startswith("golden.cycles")}
    assert "rtl.isa" in used
    assert used <= {f"{path.parent.name}.{path.stem}" for path in workload._SOURCES}


def test_checkpoints_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "BUILD", tmp_path)
    networks = {}
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = tmp_path / folder / "weights.pth"
        path.parent.mkdir()
        torch.save(synthetic(MODEL, seed), path)
        networks[folder] = workload.quantized(MODEL, path)
        assert networks[folder].weights == str(path)
    kept = list((tmp_path / "golden").glob("*.pickle"))
    assert len(kept) == 2, "equal checkpoints in two places are quantised once"
    first, moved, other = (networks[folder].patch.weight for folder in "abc")
    assert np.array_equal(first, moved) and not np.array_equal(first, other)
