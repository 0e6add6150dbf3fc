# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.checkpoint: every naming, every file format, every fault."""

import os
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"

import transformers
from checkpoints import (
    DEIT,
    SMALL,
    TEACHER,
    TINY,
    VIT,
    Tensors,
    hugging_face,
    published,
    timm_state,
    write,
)

from golden.checkpoint import CheckpointError, convert, load_checkpoint
from golden.model import MODELS, FloatViT, ModelConfig, parameter_shapes


def assert_equal(found: Tensors, expected: Tensors) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0,
                                   msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("model", [TINY, SMALL], ids=lambda model: model.name)
def test_timm_files(tmp_path: Path, model: ModelConfig, suffix: str) -> None:
    state = timm_state(model)
    path = write(tmp_path / f"model{suffix}", state)
    for requested in (model, None):
        found, tensors = load_checkpoint(path, requested)
        assert found == model
        assert_equal(tensors, state)


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_torch_file_with_wrapping(tmp_path: Path, key: str) -> None:
    path = tmp_path / "model.pth"
    torch.save({key: timm_state(TINY), "epoch": 3}, path)
    assert_equal(load_checkpoint(path)[1], timm_state(TINY))


def test_old_torch_format(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(timm_state(TINY), path, _use_new_zipfile_serialization=False)
    assert_equal(load_checkpoint(str(path))[1], timm_state(TINY))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("naming", [published, dict])
@pytest.mark.parametrize(("kind", "distilled"), [(VIT, False), (DEIT, True), (TEACHER, True)])
def test_hugging_face_files(tmp_path: Path, kind: str, distilled: bool,
                            naming: Callable[[Tensors], Tensors], suffix: str) -> None:
    model = replace(TINY, distilled=distilled)
    reference = hugging_face(kind, model)
    tensors = naming(reference.state_dict())
    path = write(tmp_path / f"model{suffix}", tensors)
    found, state = load_checkpoint(path, model)
    assert found == replace(model, eps=1e-12)
    images = torch.randn(2, 3, model.image_size, model.image_size)
    with torch.no_grad():
        expected = reference(images).logits
    torch.testing.assert_close(FloatViT(found, state)(images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [VIT, DEIT, TEACHER])
def test_file_that_transformers_writes(tmp_path: Path, kind: str) -> None:
    reference = hugging_face(kind, SMALL)
    reference.save_pretrained(tmp_path)
    written = load_checkpoint(tmp_path / "model.safetensors",
                              replace(SMALL, distilled=kind != VIT))
    in_memory = convert(reference.state_dict(), replace(SMALL, distilled=kind != VIT))
    assert written[0] == in_memory[0]
    assert_equal(written[1], in_memory[1])


def test_published_names_are_those_that_transformers_writes(tmp_path: Path) -> None:
    reference = hugging_face(TEACHER, SMALL)
    reference.save_pretrained(tmp_path)
    assert published(reference.state_dict()).keys() == set(
        transformers.modeling_utils.load_state_dict(tmp_path / "model.safetensors"))


def test_one_head_on_two_special_tokens_has_a_zero_second_head() -> None:
    reference = hugging_face(DEIT, SMALL)
    state = convert(reference.state_dict())[1]
    assert not state["head_dist.weight"].any()
    assert not state["head_dist.bias"].any()
    torch.testing.assert_close(state["head.weight"], 2 * reference.classifier.weight)


def test_parameters_without_a_part_in_the_logits_are_left_out() -> None:
    tensors = hugging_face(VIT, TINY).state_dict()
    extra = {"vit.pooler.dense.weight": torch.zeros(64, 64),
             "vit.pooler.dense.bias": torch.zeros(64),
             "vit.embeddings.mask_token": torch.zeros(1, 1, 64)}
    assert_equal(convert(tensors | extra)[1], convert(tensors)[1])


def test_half_precision_becomes_single() -> None:
    state = {name: value.to(torch.float16) for name, value in timm_state(TINY).items()}
    found = convert(state)[1]
    assert {value.dtype for value in found.values()} == {torch.float32}
    torch.testing.assert_close(found["norm.bias"], state["norm.bias"].to(torch.float32))


@pytest.mark.parametrize("name", ["deit_tiny", "deit_small_distilled"])
def test_deit_is_recognised(name: str) -> None:
    zeros = {key: torch.zeros(1).expand(shape)
             for key, shape in parameter_shapes(MODELS[name]).items()}
    assert convert(zeros)[0] == MODELS[name]


def test_unnamed_model_is_inferred() -> None:
    model = ModelConfig(name="custom", image_size=24, patch=8, width=128, depth=3, heads=2,
                        hidden=256, classes=11, distilled=True)
    assert convert(timm_state(model))[0] == model
    for heads in (2, 4, 8):
        assert convert(timm_state(model), heads=heads)[0] == replace(model, heads=heads)
    assert convert(timm_state(TINY), heads=4)[0] == replace(TINY, name="custom", heads=4)


# Faults: each is one sentence that names what is wrong


def fault(tensors: Tensors, model: ModelConfig | None = None) -> str:
    with pytest.raises(CheckpointError) as error:
        convert(tensors, model, source="x.pth")
    return str(error.value)


@pytest.mark.parametrize("requested", [TINY, None])
def test_every_missing_parameter(requested: ModelConfig | None) -> None:
    for tensors in (timm_state(TINY), hugging_face(VIT, TINY).state_dict(),
                    published(hugging_face(VIT, TINY).state_dict())):
        for key in tensors:
            left = {name: value for name, value in tensors.items() if name != key}
            assert fault(left, requested) == f"x.pth lacks parameter {key}"


def test_every_missing_parameter_of_two_heads() -> None:
    tensors = hugging_face(TEACHER, SMALL).state_dict()
    for key in tensors:
        left = {name: value for name, value in tensors.items() if name != key}
        assert fault(left, SMALL) == f"x.pth lacks parameter {key}"


def test_every_wrong_shape() -> None:
    for tensors in (timm_state(TINY), hugging_face(VIT, TINY).state_dict()):
        for key, value in tensors.items():
            wrong = tensors | {key: torch.zeros(*value.shape, 2)}
            assert fault(wrong, TINY) == (
                f"the shape of {key} in x.pth is {(*value.shape, 2)}, must be"
                f" {tuple(value.shape)} in tiny_test")
            assert fault(wrong).startswith(f"the shape of {key} in x.pth is {(*value.shape, 2)},")


def test_other_networks_with_blocks() -> None:
    assert fault({"blocks.norm.weight": torch.zeros(4)}, TINY).startswith(
        "x.pth has parameter blocks.norm.weight, must have the parameters of a DeiT or ViT")


def test_unexpected_parameter() -> None:
    assert fault(timm_state(TINY) | {"blocks.0.attn.extra": torch.zeros(1)}) == (
        "x.pth has an unexpected parameter blocks.0.attn.extra, which tiny_test has not")
    assert fault(timm_state(replace(TINY, distilled=True)), TINY).startswith(
        "the shape of pos_embed in x.pth is (1, 11, 64), must be (1, 10, 64)")


def test_other_model_than_requested() -> None:
    assert fault(timm_state(replace(TINY, depth=3)), TINY) == (
        "x.pth has 3 blocks, must be 2 in tiny_test")
    assert fault(timm_state(replace(TINY, classes=10)), TINY) == (
        "the shape of head.weight in x.pth is (10, 64), must be (16, 64) in tiny_test")


@pytest.mark.parametrize(("key", "operator"), [
    ("blocks.0.ls1.gamma", "layer scale"),
    ("blocks.1.gamma_2", "layer scale"),
    ("vit.encoder.layer.0.layer_scale1.lambda1", "layer scale"),
    ("blocks.0.attn.q_norm.weight", "normalisation of Q and K"),
    ("blocks.0.attn.relative_position_bias_table", "relative position bias"),
    ("blocks.0.attn.rel_pos_h", "relative position bias"),
    ("patch_embed.proj.0.c.weight", "a convolutional stem"),
    ("patch_embed.backbone.stem.conv.weight", "a convolutional stem"),
    ("vit.embeddings.patch_embeddings.backbone.bit.embedder.weight", "a convolutional stem"),
    ("patch_embed.norm.weight", "normalisation of patches"),
    ("norm_pre.weight", "normalisation before the blocks"),
    ("blocks.0.mlp.norm.weight", "normalisation inside attention or MLP"),
    ("blocks.0.mlp.w12.weight", "a gated MLP"),
    ("reg_token", "register tokens"),
    ("fc_norm.weight", "a head on pooled tokens"),
    ("pre_logits.fc.weight", "a representation layer before the head"),
    ("blocks_token_only.0.attn.q.weight", "class-attention layers"),
    ("blocks.0.attn.proj_l.weight", "talking heads"),
    ("layers.1.downsample.reduction.weight", "merging of patches"),
    ("rope_embed.periods", "rotary positions")])
def test_unsupported_operator(key: str, operator: str) -> None:
    assert fault(timm_state(TINY) | {key: torch.zeros(1)}) == (
        f"x.pth has {operator} ({key}), which is not supported")


def test_no_operator_is_seen_in_supported_models() -> None:
    for tensors in (timm_state(SMALL), hugging_face(TEACHER, SMALL).state_dict(),
                    published(hugging_face(TEACHER, SMALL).state_dict())):
        assert convert(tensors)[0].distilled


def test_unknown_names() -> None:
    end = (", must have the parameters of a DeiT or ViT, as timm or Hugging Face names them")
    assert fault({"conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}) == (
        "x.pth has parameter conv1.weight" + end)
    assert fault({}) == "x.pth has no parameters" + end


def test_model_that_cannot_be_inferred() -> None:
    assert fault(timm_state(replace(TINY, width=96, hidden=384))) == (
        "x.pth has width 96, must be a multiple of 64 for the number of heads to be known,"
        " unless the model is named")
    assert fault(timm_state(TINY) | {"pos_embed": torch.zeros(1, 12, 64)}) == (
        "x.pth has positions for 12 tokens, must be 1 more than a square")
    narrow = timm_state(TINY) | {f"blocks.{i}.mlp.fc{j}.{kind}": torch.zeros(shape)
                                 for i in range(2) for j, kind, shape in (
                                     (1, "weight", (100, 64)), (1, "bias", (100,)),
                                     (2, "weight", (64, 100)))}
    assert fault(narrow) == (
        "the model in x.pth is not supported: hidden is 100, must be a multiple of 16")


def test_numbers_that_are_odd() -> None:
    state = timm_state(TINY)
    assert fault(state | {"blocks.99999999999.x": torch.zeros(1)}, TINY) == (
        "x.pth has 3 blocks, must be 2 in tiny_test")
    assert fault(state | {"patch_embed.proj.weight": torch.zeros(64, 3, 0, 0)}) == (
        "the shape of patch_embed.proj.weight in x.pth is (64, 3, 0, 0), must be without 0")


def test_values_that_are_no_parameters() -> None:
    state = timm_state(TINY)
    assert fault(state | {"norm.bias": torch.zeros(64, dtype=torch.int8)}) == (
        "norm.bias in x.pth is of type torch.int8, must be floating point")
    for value in (float("nan"), float("inf")):
        broken = state["norm.bias"].clone()
        broken[7] = value
        assert fault(state | {"norm.bias": broken}) == (
            "norm.bias in x.pth has values that are not finite numbers")


def file_fault(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"checkpoint {path} ")
    return str(error.value).removeprefix(f"checkpoint {path} ")


def test_missing_file_and_unknown_extension(tmp_path: Path) -> None:
    for name in ("none.pth", "none.safetensors"):
        assert file_fault(tmp_path / name) == "cannot be read: No such file or directory"
    assert file_fault(tmp_path / "model.onnx") == (
        "has the extension '.onnx', must be .safetensors, .pth or .pt")
    (tmp_path / "folder.pth").mkdir()
    assert file_fault(tmp_path / "folder.pth") == "cannot be read: Is a directory"


@pytest.mark.parametrize("part", [0, 0.001, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", "old.pth"])
def test_truncated_file(tmp_path: Path, suffix: str, part: float) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == "old.pth":
        torch.save(timm_state(TINY), path, _use_new_zipfile_serialization=False)
    else:
        write(path, timm_state(TINY))
    content = path.read_bytes()
    path.write_bytes(content[:int(part * len(content))])
    assert file_fault(path).startswith("is truncated or corrupt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_file_of_other_contents(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    for content in (b"no tensors here, only text" * 20, bytes(range(256)) * 8):
        path.write_bytes(content)
        assert "corrupt" in file_fault(path)


def test_python_objects(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": timm_state(TINY), "args": Namespace(epochs=300)}, path)
    assert file_fault(path) == "is corrupt, or holds Python objects other than tensors"
    torch.save(timm_state(TINY) | {"epoch": 3}, path)
    assert file_fault(path) == "holds more than named tensors, must hold only parameters"
    torch.save([torch.zeros(1)], path)
    assert file_fault(path) == "holds more than named tensors, must hold only parameters"
