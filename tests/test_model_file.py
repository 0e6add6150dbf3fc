# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.model_file: which file it is, what stands beside it, and its selectors."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from checkpoints import SMALL, TINY, VIT, hugging_face, timm_state, write

from golden.checkpoint import CheckpointError
from golden.model_file import (
    Description,
    find_model,
    load_model,
    read_model,
    save_weights,
    stored_pruning,
)
from golden.pruning import PruningConfig


def test_the_one_model_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("")
    path = write(tmp_path / "model.safetensors", timm_state(TINY))
    assert find_model(tmp_path) == find_model(path) == path
    write(tmp_path / "other.pth", timm_state(TINY))
    with pytest.raises(CheckpointError, match="has 2 files of models"):
        find_model(tmp_path)


def test_nothing_beside_the_file(tmp_path: Path) -> None:
    file = read_model(write(tmp_path / "model.pth", timm_state(TINY)))
    assert file.description == Description()
    assert (file.extras, file.selectors) == ((), ())
    assert file.tensors.keys() == timm_state(TINY).keys()


def test_config_of_hugging_face(tmp_path: Path) -> None:
    config = {"hidden_act": "gelu", "num_attention_heads": 3, "layer_norm_eps": 1e-5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = write(tmp_path / "model.pth", timm_state(replace(SMALL, heads=3, depth=1)))
    assert read_model(path).description == Description(
        source=str(tmp_path / "config.json"), heads=3, eps=1e-5, activation="gelu")
    model, _, _ = load_model(path)
    assert (model.name, model.heads, model.eps) == ("custom", 3, 1e-5)


def test_config_of_timm(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(
        {"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": 4}}))
    path = write(tmp_path / "model.pth", timm_state(TINY))
    assert read_model(path).description.heads == 4
    assert load_model(path).model.heads == 4


def test_what_transformers_writes(tmp_path: Path) -> None:
    hugging_face(VIT, replace(SMALL, distilled=False)).save_pretrained(tmp_path)
    model, state, _ = load_model(tmp_path)
    assert model == replace(SMALL, name="custom", distilled=False, eps=1e-12)
    assert state["blocks.1.attn.qkv.weight"].shape == (288, 96)


def test_selectors(tmp_path: Path) -> None:
    state = timm_state(TINY)
    extra = {f"selectors.{i}.norm.bias": torch.full((32,), float(i)) for i in (1, 0)}
    path = write(tmp_path / "model.safetensors", state | extra)
    file = read_model(path)
    assert file.tensors.keys() == state.keys()
    assert [float(selector["norm.bias"][0]) for selector in file.selectors] == [0.0, 1.0]
    assert load_model(path, TINY).selectors[1].keys() == {"norm.bias"}


@pytest.mark.parametrize("pruning", [
    PruningConfig(blocks=(1, 2), package="merged"),
    PruningConfig(selector="topk", blocks=(1,), rates=(0.7,)),
    PruningConfig(selector="topk", blocks=(1,), counts=(3,))], ids=str)
def test_weights_say_which_selectors_they_are_with(tmp_path: Path, pruning: PruningConfig) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, timm_state(TINY), asdict(pruning))
    assert stored_pruning(path) == stored_pruning(tmp_path) == pruning
    assert read_model(path).tensors.keys() == timm_state(TINY).keys()
    first = path.read_bytes()
    save_weights(path, timm_state(TINY), asdict(pruning))
    assert path.read_bytes() == first


def test_weights_that_do_not_say_it(tmp_path: Path) -> None:
    save_weights(tmp_path / "model.safetensors", timm_state(TINY))
    assert stored_pruning(tmp_path / "model.safetensors") is None
    assert stored_pruning(write(tmp_path / "model.pth", timm_state(TINY))) is None


@pytest.mark.parametrize(("fields", "message"), [
    ({"selector": "oracle"}, "model.safetensors: selector is 'oracle', must be one of threshold"),
    ({"selector": "topk", "layers": [1]}, "must be the settings of selectors"),
    ({"blocks": 3}, "must be the settings of selectors")])
def test_weights_that_say_nonsense(tmp_path: Path, fields: dict, message: str) -> None:
    save_weights(tmp_path / "model.safetensors", timm_state(TINY), fields)
    with pytest.raises(CheckpointError, match=message):
        stored_pruning(tmp_path / "model.safetensors")


def test_what_is_not_supported(tmp_path: Path) -> None:
    path = write(tmp_path / "model.pth", timm_state(TINY))
    (tmp_path / "config.json").write_text('{"hidden_act": "relu"}')
    with pytest.raises(CheckpointError, match=r"config\.json is relu, must be gelu"):
        load_model(path)
