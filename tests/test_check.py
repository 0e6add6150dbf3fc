# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.check: the verdict on every operator, and no traceback whatever the file is."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import DEIT, SMALL, TEACHER, TINY, VIT, hugging_face, published, timm_state, write
from networks import network
from pruned_networks import pruned_network

from golden.check import check_file, check_model, main
from golden.lower import check_sizes
from golden.model import MODELS, ModelConfig, parameter_shapes
from golden.packed import save
from golden.pruning import PruningConfig
from rtl.config import CONFIGS, ConfigError

BASIC = ["patch embedding", "special tokens", "position embedding", "LayerNorm", "Q, K, V",
         "attention", "projection", "MLP", "GELU", "head"]


def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: object
        ) -> tuple[int, dict[str, list[str]]]:
    """Return the exit status, and of each operator why it does not fit."""
    file = tmp_path / "verdict.json"
    status = main([*map(str, arguments), "--json", str(file)])
    assert capsys.readouterr().err == ""
    verdict = json.loads(file.read_text())
    assert verdict["fits"] == (status == 0)
    assert all(row["fits"] == (not row["why"]) for row in verdict["operators"])
    return status, {row["operator"]: row["why"] for row in verdict["operators"]}


def faults(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: object
           ) -> dict[str, list[str]]:
    """Return why a network does not fit."""
    status, why = run(capsys, tmp_path, *arguments)
    assert status == 1
    return {operator: reasons for operator, reasons in why.items() if reasons}


def unreadable(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the one sentence about what cannot be read."""
    assert main([*map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error.removeprefix("golden.check: ").rstrip()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=lambda config: config.name)
@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_verdict_on_a_model_is_that_of_the_lowering(model: ModelConfig, config: object) -> None:
    try:
        check_sizes(model, config)
        fits = True
    except ConfigError:
        fits = False
    rows = check_model(model, config)
    assert [row.operator for row in rows] == BASIC
    assert all(row.fits for row in rows) == fits


def test_every_limit_is_told_with_both_numbers() -> None:
    rows = check_model(MODELS["deit_base_distilled"], CONFIGS["tiny"])
    assert {row.operator: row.why for row in rows if row.why} == {
        "position embedding": ["198 tokens, 86 more than max_tokens of configuration tiny, 112"],
        "LayerNorm": ["768 residual channels, 704 more than max_width of configuration tiny, 64"],
        "attention": [("768 channels for 12 heads of 64, 704 more than max_width of configuration"
                      " tiny, 64")],
        "MLP": ["3072 hidden channels, 2816 more than max_hidden of configuration tiny, 256"],
        "head": ["1000 classes, 984 more than max_classes of configuration tiny, 16"]}
    large = replace(MODELS["deit_tiny"], patch=32)
    assert check_model(large, CONFIGS["zcu102"])[0].why == [
        "3072 bytes of a patch, 2304 more than max_patch of configuration zcu102, 768"]


def test_named_models(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, why = run(capsys, tmp_path, "deit_small", "--config", "kv260")
    assert (status, list(why)) == (0, BASIC)
    assert list(faults(capsys, tmp_path, "deit_base", "--config", "kv260")) == [
        "LayerNorm", "attention", "MLP"]


def test_selectors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, tmp_path, "deit_tiny", "--selector", "threshold")[1]["selectors"] == []
    assert faults(capsys, tmp_path, "tiny_test", "--selector", "topk", "--blocks", "2") == {
        "selectors": ["a selector is at block 2, must be at block 1 or earlier in tiny_test"]}
    none = replace(CONFIGS["small"], pruning=False)
    pruning = PruningConfig(selector="topk", blocks=(1,), rates=(0.5,))
    assert check_model(TINY, none, pruning)[-1].why == [
        "tiny_test needs 1 selectors, configuration small has 0: it is without pruning"]


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deit_tiny", "--config", "tiny"]) == 1
    text = capsys.readouterr().out
    assert "197 / 112" in text
    assert "position embedding: 197 tokens, 85 more than max_tokens" in text
    assert "Does not fit: 5 of 10 operators (position embedding, LayerNorm, attention, MLP," in text
    assert main(["tiny_test", "--config", "tiny"]) == 0
    assert capsys.readouterr().out.endswith("Fits: all 10 operators\n")


# Checkpoints


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("model", [TINY, SMALL], ids=lambda model: model.name)
def test_timm_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: ModelConfig,
                    suffix: str) -> None:
    path = write(tmp_path / f"model{suffix}", timm_state(model))
    for arguments in ((), ("--model", model.name)):
        status, why = run(capsys, tmp_path, path, *arguments)
        assert (status, list(why)) == (0, BASIC)
    assert dict(check_file(path, CONFIGS["zcu102"]).sizes)["heads"] == model.heads


@pytest.mark.parametrize("kind", [VIT, DEIT, TEACHER])
def test_hugging_face_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str) -> None:
    reference = hugging_face(kind, SMALL)
    model = replace(SMALL, distilled=kind != VIT)
    for tensors in (reference.state_dict(), published(reference.state_dict())):
        path = write(tmp_path / "model.pth", tensors)
        verdict = check_file(path, CONFIGS["zcu102"], model=model)
        assert verdict.fits
        assert [row.operator for row in verdict.rows] == BASIC
    folder = tmp_path / "hub"
    reference.save_pretrained(folder)
    capsys.readouterr()  # its progress bar
    status, why = run(capsys, tmp_path, folder)
    assert (status, list(why)) == (0, BASIC)
    sizes = check_file(folder, CONFIGS["zcu102"]).sizes
    assert (sizes["heads"], sizes["eps"]) == (SMALL.heads, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("distilled", ["", "_distilled"])
@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_deit_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, size: str,
                    distilled: str) -> None:
    model = MODELS[f"deit_{size}{distilled}"]
    path = write(tmp_path / "model.safetensors", timm_state(model))
    assert run(capsys, tmp_path, path)[0] == 0
    assert run(capsys, tmp_path, path, "--config", "zcu104")[0] == (1 if size == "base" else 0)
    assert dict(check_file(path, CONFIGS["zcu102"]).sizes)["name"] == model.name
    reference = hugging_face(TEACHER if distilled else VIT, model)
    path = write(tmp_path / "model.pth", published(reference.state_dict()))
    assert run(capsys, tmp_path, path)[0] == 0


def test_missing_parameter(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    whole = timm_state(TINY)
    for key, operator in (("blocks.1.mlp.fc2.bias", "MLP"), ("cls_token", "special tokens"),
                          ("blocks.0.attn.qkv.weight", "Q, K, V"), ("norm.weight", "LayerNorm")):
        path = write(tmp_path / "model.pth", {k: v for k, v in whole.items() if k != key})
        assert faults(capsys, tmp_path, path) == {operator: [f"parameter {key} is missing"]}
    path = write(tmp_path / "model.pth", {k: v for k, v in whole.items() if k != "pos_embed"})
    assert faults(capsys, tmp_path, path) == {
        "network": [f"checkpoint {path} lacks parameter pos_embed"]}
    assert faults(capsys, tmp_path, path, "--model", "tiny_test") == {
        "position embedding": ["parameter pos_embed is missing"]}


def test_wrong_shape(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors",
                 timm_state(TINY) | {"blocks.1.attn.proj.weight": torch.zeros(64, 48)})
    assert faults(capsys, tmp_path, path) == {"projection": [
        "the shape of blocks.1.attn.proj.weight is (64, 48), must be (64, 64)"]}
    path = write(tmp_path / "model.safetensors", timm_state(replace(TINY, hidden=128)))
    assert faults(capsys, tmp_path, path, "--model", "tiny_test") == {"MLP": [
        "the shape of blocks.0.mlp.fc1.weight is (128, 64), must be (256, 64)",
        "the shape of blocks.0.mlp.fc1.bias is (128,), must be (256,)",
        "the shape of blocks.0.mlp.fc2.weight is (64, 128), must be (64, 256)",
        "so have 3 more parameters"]}


def test_values_that_are_no_parameters(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    state = timm_state(TINY)
    state["norm.bias"] = torch.zeros(64, dtype=torch.int8)
    state["head.bias"][3] = float("nan")
    path = write(tmp_path / "model.pth", state)
    assert faults(capsys, tmp_path, path) == {
        "LayerNorm": ["norm.bias is of type torch.int8, must be floating point"],
        "head": ["head.bias has values that are not finite numbers"]}


def test_operators_that_the_accelerator_has_not(capsys: pytest.CaptureFixture[str],
                                                tmp_path: Path) -> None:
    extras = {"layer scale": ["blocks.0.ls1.gamma", "blocks.1.ls1.gamma"],
              "relative position bias": ["blocks.0.attn.relative_position_bias_table"],
              "class-attention layers": ["blocks_token_only.0.attn.q.weight"],
              "register tokens": ["reg_token"],
              "normalisation before the blocks": ["norm_pre.weight", "norm_pre.bias"],
              "normalisation of patches": ["patch_embed.norm.weight"],
              "unknown parameters": ["blocks.0.adapter.weight", "extra.bias"]}
    state = timm_state(TINY) | {key: torch.ones(2) for keys in extras.values() for key in keys}
    path = write(tmp_path / "model.safetensors", state)
    found = faults(capsys, tmp_path, path)
    assert found.keys() == extras.keys()
    assert found.pop("unknown parameters") == ["2 more than a vision transformer has, must be 0"]
    assert set(map(tuple, found.values())) == {("the accelerator does not have it",)}
    rows = {row.operator: row.model for row in check_file(path, CONFIGS["zcu102"]).rows}
    assert rows["layer scale"] == "blocks.0.ls1.gamma and 1 more"
    assert rows["register tokens"] == "reg_token"


def test_sizes_that_no_configuration_has(capsys: pytest.CaptureFixture[str],
                                         tmp_path: Path) -> None:
    shapes = {name: torch.zeros(1).expand([100 if size == 64 else size for size in shape])
              for name, shape in parameter_shapes(replace(TINY, hidden=256)).items()}
    shapes = {name: torch.zeros([300 if size == 192 else size for size in value.shape])
              for name, value in shapes.items()}
    path = write(tmp_path / "model.pth", shapes)
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 5}))
    assert faults(capsys, tmp_path, path) == {
        "LayerNorm": ["width is 100, must be a multiple of 16"],
        "attention": ["heads have 20 channels, must have 16, 32, 48 or 64"]}
    narrow = timm_state(TINY) | {f"blocks.{i}.mlp.fc{j}.{kind}": torch.zeros(shape)
                                 for i in range(2) for j, kind, shape in (
                                     (1, "weight", (100, 64)), (1, "bias", (100,)),
                                     (2, "weight", (64, 100)))}
    (tmp_path / "config.json").unlink()
    assert faults(capsys, tmp_path, write(path, narrow)) == {
        "MLP": ["hidden is 100, must be a multiple of 16"]}


def test_heads_that_are_not_known(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = replace(TINY, width=96, heads=2, depth=1)
    path = write(tmp_path / "model.pth", timm_state(model))
    assert faults(capsys, tmp_path, path) == {"attention": [
        ("the number of heads is not known, must be said by --model or by num_attention_heads in a"
        " config.json beside the file, as width 96 is no multiple of 64")]}
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 2}))
    assert run(capsys, tmp_path, path)[0] == 0
    assert dict(check_file(path, CONFIGS["small"]).sizes)["heads"] == 2


@pytest.mark.parametrize("activation", ["gelu_new", "relu", "quick_gelu"])
def test_other_activation(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                          activation: str) -> None:
    path = write(tmp_path / "model.pth", hugging_face(VIT, TINY).state_dict())
    (tmp_path / "config.json").write_text(json.dumps(
        {"hidden_act": activation, "num_attention_heads": 2, "layer_norm_eps": 1e-12}))
    assert faults(capsys, tmp_path, path) == {"GELU": [
        f"{activation} in {tmp_path / 'config.json'}, must be gelu, by the error function"]}


def test_other_networks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path / "model.pth", {"conv1.weight": torch.zeros(1)})
    assert faults(capsys, tmp_path, path) == {"network": [
        (f"checkpoint {path} has parameter conv1.weight, must have the parameters of a DeiT or ViT,"
        " as timm or Hugging Face names them")]}
    write(path, {"layers.0.downsample.weight": torch.zeros(1), "norm.bias": torch.zeros(4)})
    assert faults(capsys, tmp_path, path).keys() == {"merging of patches", "network"}


# Packed models


def test_packed_models(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save(tmp_path / "model.hv", network("tiny_test").qvit)
    status, why = run(capsys, tmp_path, tmp_path / "model.hv")
    assert (status, list(why)) == (0, [*BASIC, "program"])
    save(tmp_path / "model.hv", pruned_network("tiny_test", "topk", "each", (1, 2), (5, 3)).qvit)
    status, why = run(capsys, tmp_path, tmp_path / "model.hv", "--config", "small")
    assert (status, list(why)) == (0, [*BASIC, "selectors", "program"])
    save(tmp_path / "model.hv", network("small_test").qvit)
    assert "LayerNorm" in faults(capsys, tmp_path, tmp_path / "model.hv", "--config", "tiny")


# What cannot be read


def test_truncated_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for suffix in (".safetensors", ".pth"):
        path = write(tmp_path / f"model{suffix}", timm_state(TINY))
        path.write_bytes(path.read_bytes()[:20000])
        assert unreadable(capsys, path).startswith(f"checkpoint {path} is truncated or corrupt")
    path = tmp_path / "model.hv"
    save(path, network("tiny_test").qvit)
    path.write_bytes(path.read_bytes()[:20000])
    assert unreadable(capsys, path).startswith(f"packed model {path} is truncated or corrupt")


def test_nothing_to_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert unreadable(capsys, tmp_path / "none.pth") == (
        f"checkpoint {tmp_path / 'none.pth'} cannot be read: No such file or directory")
    assert unreadable(capsys, "deit_huge").startswith(
        "deit_huge is no file, and no model is called so: there are deit_tiny, ")
    assert unreadable(capsys, tmp_path) == (
        f"the folder {tmp_path} has 0 files of models (.safetensors, .pth, .pt, .onnx), must have"
        " 1")
    assert unreadable(capsys, "deit_tiny", "--config", "zcu900").startswith(
        "no configuration is called 'zcu900'")
    assert unreadable(capsys, "deit_tiny", "--model", "deit_tiny") == (
        "--model is given for deit_tiny, must be for checkpoints")
    assert unreadable(capsys, "deit_tiny", "--json", tmp_path).endswith("must be a file")


@pytest.mark.parametrize(("text", "sentence"), [
    ("{", "is no JSON that can be read"),
    ("[]", "is a list, must be an object"),
    ('{"num_attention_heads": "two"}', "is 'two', must be a positive number"),
    ('{"num_attention_heads": 1.5}', "is 1.5, must be a positive number"),
    ('{"num_attention_heads": true}', "is True, must be a positive number"),
    ('{"layer_norm_eps": -1}', "is -1, must be a positive number")])
def test_config_that_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str,
                              sentence: str) -> None:
    path = write(tmp_path / "model.pth", timm_state(TINY))
    (tmp_path / "config.json").write_text(text)
    assert unreadable(capsys, path).endswith(sentence)
