# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.model: sizes, stages, and logits against Hugging Face transformers."""

import os
import re
from dataclasses import asdict, replace

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"

import transformers

from golden.checkpoint import convert
from golden.model import MODELS, FloatViT, ModelConfig, ModelError, model_named, parameter_shapes
from golden.nonlinear import heatvit_gelu, ibert_softmax

ODD = ModelConfig(name="odd", image_size=40, patch=8, channels=1, width=48, depth=3, heads=3,
                  hidden=80, classes=7)


def random_state(model: ModelConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return parameters large enough for every operator to matter."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in parameter_shapes(model).items():
        scale = shape[1] ** -0.5 if len(shape) == 2 else 0.3
        state[name] = scale * torch.randn(shape, generator=generator)
    return state


def random_images(model: ModelConfig, count: int = 2) -> torch.Tensor:
    shape = (count, model.channels, model.image_size, model.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_useful_macs() -> None:
    macs = {name: model.macs() for name, model in MODELS.items()}
    assert round(macs["deit_tiny"] / 1e9, 3) == 1.254
    # Token by token: patches, then in each block Q K V and projection, scores and their use, MLP.
    n, d = 197, 192
    block = n * d * 3 * d + 3 * n * n * 64 + 3 * n * n * 64 + n * d * d + 2 * n * d * 4 * d
    assert macs["deit_tiny"] == 196 * 768 * d + 12 * block + d * 1000
    assert round(macs["deit_small"] / 1e9, 2) == 4.60
    assert round(macs["deit_base"] / 1e9, 2) == 17.56
    n, d = 38, 96
    block = 4 * n * d * d + 2 * n * n * d + 2 * n * d * 384
    assert macs["small_test"] == 36 * 768 * d + 2 * block + 2 * d * 20


@pytest.mark.parametrize(("name", "tokens", "head_size", "special"), [
    ("deit_tiny", 197, 64, 1), ("deit_tiny_distilled", 198, 64, 2), ("deit_small", 197, 64, 1),
    ("deit_base_distilled", 198, 64, 2), ("tiny_test", 10, 32, 1), ("small_test", 38, 48, 2)])
def test_derived_sizes(name: str, tokens: int, head_size: int, special: int) -> None:
    model = model_named(name)
    assert (model.tokens, model.head_size, model.special_tokens) == (tokens, head_size, special)
    assert model.name == name


def test_parameters_of_deit_tiny() -> None:
    def count(name: str) -> int:
        return sum(torch.Size(shape).numel() for shape in parameter_shapes(MODELS[name]).values())

    # The published numbers of parameters.
    assert count("deit_tiny") == 5717416
    assert count("deit_small") == 22050664
    assert count("deit_base") == 86567656
    assert count("deit_tiny_distilled") == 5910800


@pytest.mark.parametrize(("change", "message"), [
    ({"patch": 15}, "image_size is 48, must be a multiple of the patch, 15"),
    ({"width": 72}, "width is 72, must be a multiple of 16"),
    ({"hidden": 100}, "hidden is 100, must be a multiple of 16"),
    ({"heads": 3}, "width 64 over 3 heads is a head size of 21.3333, must be 16, 32, 48 or 64"),
    ({"heads": 8}, "width 64 over 8 heads is a head size of 8, must be 16, 32, 48 or 64"),
    ({"width": 256}, "width 256 over 2 heads is a head size of 128, must be 16, 32, 48 or 64"),
    ({"depth": 0}, "depth is 0, must be at least 1"),
    ({"classes": 1}, "classes is 1, must be at least 2"),
    ({"eps": 0.0}, "eps is 0.0, must be positive")])
def test_bad_sizes(change: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        replace(MODELS["tiny_test"], **change)


def test_unknown_name() -> None:
    with pytest.raises(ModelError, match="^no model is called 'deit', there are deit_tiny, "):
        model_named("deit")


def test_bad_state_and_image() -> None:
    model = MODELS["tiny_test"]
    state = random_state(model)
    with pytest.raises(ModelError, match=r"^the state for tiny_test lacks parameter norm\.bias$"):
        FloatViT(model, {name: value for name, value in state.items() if name != "norm.bias"})
    with pytest.raises(ModelError, match="^the state for tiny_test has an unexpected parameter x$"):
        FloatViT(model, state | {"x": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"^the shape of head.bias is \(17,\), must be \(16,\) in"):
        FloatViT(model, state | {"head.bias": torch.zeros(17)})
    with pytest.raises(ModelError, match=r"^the shape of an image is \(3, 32, 32\), must be \(3, "):
        FloatViT(model, state).forward_stages(torch.zeros(3, 32, 32))


@pytest.mark.parametrize("model", [MODELS["tiny_test"], MODELS["small_test"], ODD],
                         ids=lambda model: model.name)
def test_stages_follow_from_each_other(model: ModelConfig) -> None:
    state = {name: value.double() for name, value in random_state(model).items()}
    twin = FloatViT(model, state)
    image = random_images(model)[1]
    stages = twin.forward_stages(image)
    close = torch.testing.assert_close

    n, d, h, s = model.tokens, model.width, model.heads, model.head_size
    shapes = {"norm1": (n, d), "q": (n, d), "k": (n, d), "v": (n, d), "scores": (h, n, n),
              "attention": (n, d), "residual1": (n, d), "norm2": (n, d),
              "hidden": (n, model.hidden), "residual2": (n, d)}
    expected = {f"block{i}.{name}": shape for i in range(model.depth)
                for name, shape in shapes.items()}
    expected |= {"embed.residual": (n, d), "head.norm": (n, d), "logits": (model.classes,)}
    assert {name: tuple(value.shape) for name, value in stages.items()} == expected
    assert all(value.dtype == torch.float64 for value in stages.values())

    def affine(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    # Patches by hand: the last token is the last patch of the last line.
    patch = image[:, -model.patch:, -model.patch:].double()
    weight = state["patch_embed.proj.weight"]
    close(stages["embed.residual"][-1], (weight * patch).sum((1, 2, 3))
          + state["patch_embed.proj.bias"] + state["pos_embed"][0, -1])
    close(stages["embed.residual"][0], (state["cls_token"] + state["pos_embed"])[0, 0])

    x = stages["embed.residual"]
    for i in range(model.depth):
        at = {name: stages[f"block{i}.{name}"] for name in shapes}
        for norm, residual in ("norm1", x), ("norm2", at["residual1"]):
            centred = residual - residual.mean(1, keepdim=True)
            close(at[norm], centred / (centred.square().mean(1, keepdim=True) + model.eps).sqrt())
        y = at["norm1"] * state[f"blocks.{i}.norm1.weight"] + state[f"blocks.{i}.norm1.bias"]
        close(torch.cat([at["q"], at["k"], at["v"]], 1), affine(f"blocks.{i}.attn.qkv", y))
        for head in range(h):
            channels = slice(head * s, (head + 1) * s)
            scores = at["q"][:, channels] @ at["k"][:, channels].T / s ** 0.5
            close(at["scores"][head], scores)
            weights = scores.exp() / scores.exp().sum(1, keepdim=True)
            close(at["attention"][:, channels], weights @ at["v"][:, channels])
        close(at["residual1"], x + affine(f"blocks.{i}.attn.proj", at["attention"]))
        y = at["norm2"] * state[f"blocks.{i}.norm2.weight"] + state[f"blocks.{i}.norm2.bias"]
        z = affine(f"blocks.{i}.mlp.fc1", y)
        close(at["hidden"], z * (1 + torch.erf(z / 2 ** 0.5)) / 2)
        x = at["residual2"]
        close(x, at["residual1"] + affine(f"blocks.{i}.mlp.fc2", at["hidden"]))

    y = stages["head.norm"] * state["norm.weight"] + state["norm.bias"]
    logits = affine("head", y)[0]
    if model.distilled:
        logits = (logits + affine("head_dist", y)[1]) / 2
    close(stages["logits"], logits)
    close(twin(random_images(model))[1], logits)


def test_functions_of_heatvit() -> None:
    """GELU and softmax are its polynomials, and attention is multiplied by one half."""
    model = MODELS["tiny_test"]
    state = random_state(model)
    stages = FloatViT(model, state, "heatvit").forward_stages(random_images(model)[0])
    y = stages["block1.norm2"] * state["blocks.1.norm2.weight"] + state["blocks.1.norm2.bias"]
    hidden = y @ state["blocks.1.mlp.fc1.weight"].T + state["blocks.1.mlp.fc1.bias"]
    torch.testing.assert_close(stages["block1.hidden"], heatvit_gelu(hidden))
    v = stages["block1.v"].unflatten(1, (model.heads, -1)).transpose(0, 1)
    attention = ibert_softmax(stages["block1.scores"]) @ v / 2
    torch.testing.assert_close(stages["block1.attention"], attention.transpose(0, 1).flatten(1))
    with pytest.raises(ValueError,
                       match="^functions are 'fast', must be one of exact, heatvit, ibert$"):
        FloatViT(model, state, "fast")


def _reference(kind: str, model: ModelConfig) -> torch.nn.Module:
    """Return a model of transformers with random parameters, none near its initial value."""
    config_class = transformers.ViTConfig if kind.startswith("ViT") else transformers.DeiTConfig
    reference = getattr(transformers, kind)(config_class(
        image_size=model.image_size, patch_size=model.patch, num_channels=model.channels,
        hidden_size=model.width, num_hidden_layers=model.depth, num_attention_heads=model.heads,
        intermediate_size=model.hidden, num_labels=model.classes)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in reference.parameters():
            scale = parameter.shape[1] ** -0.5 if parameter.ndim == 2 else 0.3
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return reference


@pytest.mark.parametrize("model", [ODD, MODELS["small_test"], MODELS["deit_tiny"]],
                         ids=lambda model: model.name)
@pytest.mark.parametrize("kind", ["ViTForImageClassification", "DeiTForImageClassification",
                                  "DeiTForImageClassificationWithTeacher"])
def test_logits_equal_transformers(kind: str, model: ModelConfig) -> None:
    model = replace(model, distilled=kind.startswith("DeiT"))
    reference = _reference(kind, model)
    images = random_images(model)
    with torch.no_grad():
        expected = reference(images).logits
    converted, state = convert(reference.state_dict(), model)
    assert asdict(converted) == asdict(model) | {"eps": reference.config.layer_norm_eps}
    logits = FloatViT(converted, state)(images)
    error = (logits - expected).abs().max().item()
    assert error < 1e-4, f"logits: index {(logits - expected).abs().argmax()}, error {error}"
    assert expected.std() > 0.1, "the logits say something"
    assert (expected[0] - expected[1]).std() > 0.01, "the logits depend on the image"
