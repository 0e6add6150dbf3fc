# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.packed: nothing is lost, the same bytes each time, every fault one sentence."""

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import NETWORKS, network
from pruned_networks import pruned_network
from safetensors import safe_open
from safetensors.numpy import save_file

from golden import packed
from golden.integer import run
from golden.lower import lower
from golden.packed import PackedError, load, save
from golden.quantize import QuantizedViT
from rtl.config import CONFIGS

#: Dense, and with both kinds of selectors.
CASES: dict[str, Callable[[], QuantizedViT]] = {
    **{name: lambda name=name: network(name).qvit for name in NETWORKS},
    "topk": lambda: pruned_network("tiny_test", "topk", "each", (1, 2), (5, 3)).qvit,
    "threshold": lambda: pruned_network("head16", "threshold", "merged", (1,), (0.0,)).qvit,
    "heatvit": lambda: pruned_network("head16", "threshold", "each", (1, 3), (0.5, 0.0),
                                      "heatvit").qvit,
}


def assert_same(found: Any, expected: Any, name: str = "network") -> int:
    """Compare field by field, types included; return the number of arrays."""
    assert type(found) is type(expected), name
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype, name
        np.testing.assert_array_equal(found, expected, name, strict=True)
        return 1
    if is_dataclass(expected):
        return sum(assert_same(getattr(found, field.name), getattr(expected, field.name),
                               f"{name}.{field.name}") for field in fields(expected))
    if isinstance(expected, tuple):
        assert len(found) == len(expected), name
        return sum(assert_same(*pair, f"{name}.{i}")
                   for i, pair in enumerate(zip(found, expected, strict=True)))
    assert found == expected, name
    return 0


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_lost(tmp_path: Path, case: str) -> None:
    qvit = CASES[case]()
    save(tmp_path / "model.hv", qvit)
    found = load(tmp_path / "model.hv")
    assert assert_same(found, qvit) >= 8 + 25 * qvit.model.depth
    for config in ("small", "zcu102"):
        assert lower(found, CONFIGS[config]).image == lower(qvit, CONFIGS[config]).image


def test_loaded_network_computes_the_same(tmp_path: Path) -> None:
    for made in (network("head48"),
                 pruned_network("head16", "threshold", "merged", (1,), (0.0,))):
        save(tmp_path / "model.hv", made.qvit)
        logits, top1, _ = run(load(tmp_path / "model.hv"), made.frame)
        np.testing.assert_array_equal(logits, made.logits)
        assert top1 == made.top1


def test_same_bytes_each_time(tmp_path: Path) -> None:
    for case in ("tiny_test", "threshold"):
        for name in ("a.hv", "b.hv"):
            save(tmp_path / name, CASES[case]())
        again = load(tmp_path / "a.hv")
        save(tmp_path / "c.hv", again)
        first = (tmp_path / "a.hv").read_bytes()
        assert first == (tmp_path / "b.hv").read_bytes() == (tmp_path / "c.hv").read_bytes()


def test_arrays_are_narrow(tmp_path: Path) -> None:
    qvit = CASES["small_test"]()
    save(tmp_path / "model.hv", qvit)
    parameters = sum(block.mlp1.weight.size for block in qvit.blocks) * 3
    assert (tmp_path / "model.hv").stat().st_size < 1.6 * parameters
    with safe_open(tmp_path / "model.hv", framework="numpy") as file:
        assert file.get_tensor("blocks.1.mlp2.weight").dtype == np.int8
        assert file.get_tensor("blocks.1.mlp2.s").dtype == np.int8
        assert file.get_tensor("blocks.1.mlp2.m").dtype == np.int32


# Faults


def fault(path: Path) -> str:
    with pytest.raises(PackedError) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value).replace(str(path), "FILE")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save(tmp_path / "model.hv", CASES["threshold"]())
    return tmp_path / "model.hv"


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None], *,
            sign: bool = True) -> None:
    """Change the description and the arrays of a file, and its checksum."""
    with safe_open(path, framework="numpy") as opened:
        about = json.loads(opened.metadata()["heatvit"])
        arrays = {name: opened.get_tensor(name) for name in opened.keys()}
    change(about, arrays)
    if sign and "network" in about:
        about["sha256"] = packed._digest(packed._json(about["network"]), arrays)
    save_file(arrays, path, metadata={"heatvit": json.dumps(about)})


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert fault(tmp_path / "none.hv") == (
        "packed model FILE cannot be read: No such file or directory")
    assert fault(tmp_path) == "packed model FILE cannot be read: Is a directory"


@pytest.mark.parametrize("part", [0, 1e-4, 0.01, 0.5, 0.9999])
def test_truncated_file(file: Path, part: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:int(part * len(content))])
    assert fault(file).startswith("packed model FILE is truncated or corrupt: ")


def test_other_contents(file: Path) -> None:
    for content in (b"no tensors here, only text" * 20, bytes(range(256)) * 8):
        file.write_bytes(content)
        assert fault(file).startswith("packed model FILE is truncated or corrupt: ")
    save_file({"a": np.zeros(3)}, file)
    assert fault(file) == "FILE is no packed model: its metadata have no entry heatvit"
    save_file({"a": np.zeros(3)}, file, metadata={"heatvit": "{"})
    assert fault(file) == "packed model FILE is corrupt: its description is incomplete"


def test_every_changed_byte_is_noticed(file: Path) -> None:
    content = file.read_bytes()
    start = int.from_bytes(content[:8], "little") + 8
    random = np.random.default_rng(0)
    for place in (start, len(content) - 1, *random.integers(0, len(content), 60).tolist()):
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        file.write_bytes(changed)
        assert fault(file)


def test_other_version(file: Path) -> None:
    rewrite(file, lambda about, arrays: about.update(format=2))
    assert fault(file) == "packed model FILE is of format 2, must be of format 1"


def test_wrong_checksum(file: Path) -> None:
    rewrite(file, lambda about, arrays: about["network"].update(score_frac=3), sign=False)
    assert fault(file) == "packed model FILE is corrupt: its checksum does not match"


def change_model(**sizes: int) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda about, arrays: about["network"]["model"].update(sizes)


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda about, arrays: arrays.update({"blocks.0.q.weight": np.zeros((48, 32), np.int8)}),
     "the shape of blocks.0.q.weight is (48, 32), must be (48, 48)"),
    (lambda about, arrays: arrays.update({"classifiers.0.gelu": np.zeros((34, 2), np.int8)}),
     "the shape of classifiers.0.gelu is (34, 2), must be (34, 3)"),
    (lambda about, arrays: arrays.pop("heads.1.bias"), "it lacks heads.1.bias"),
    (lambda about, arrays: arrays.update(more=np.zeros(3, np.int8)),
     "it has an unknown array more"),
    (lambda about, arrays: arrays.update(initial=np.zeros((18, 48), np.int32)),
     "initial is of type int32, must be int16 or narrower"),
    (lambda about, arrays: arrays.update(initial=np.zeros((18, 48), np.float16)),
     "initial is of type float16, must be int16 or narrower"),
    (change_model(width=50), "width is 50, must be a multiple of 16"),
    (change_model(depth=3), "it has 2 blocks, must have 3"),
    (change_model(classes=8), "the shape of heads.0.weight is (7, 48), must be (8, 48)"),
    (change_model(colour=8), "model has an unknown field colour"),
    (lambda about, arrays: about["network"]["head_norm"].update(channels=47),
     "head_norm is over 47 channels, must be over 48"),
    (lambda about, arrays: about["network"]["pruning"].update(blocks=[2]),
     "a selector is at block 2, must be at block 1 or earlier in head16"),
    (lambda about, arrays: about["network"].update(pruning=None),
     "it has 1 classifiers, must have 0"),
    (lambda about, arrays: about["network"].update(steps=[]), "steps is [], must be an object"),
    (lambda about, arrays: about["network"].update(blocks={}), "blocks is {}, must be a list"),
    (lambda about, arrays: about["network"].update(weights=3), "weights is 3, must be of type str"),
])
def test_wrong_network(file: Path, sentence: str,
                       change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    rewrite(file, change)
    assert fault(file) == f"packed model FILE is wrong: {sentence}"


def test_file_without_what_is_newer(file: Path) -> None:
    """What has a default in this version may be missing in a file."""
    def older(about: dict[str, Any], arrays: dict[str, Any]) -> None:
        network = about["network"]
        del network["pruning"], network["classifiers"], network["score_frac"]
        for name in [name for name in arrays if name.startswith("classifiers.")]:
            del arrays[name]

    qvit = load(file)
    rewrite(file, older)
    assert_same(load(file), replace(qvit, pruning=None, classifiers=(), score_frac=0))
