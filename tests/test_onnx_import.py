# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.onnx_import: exports of both exporters, what is not supported, what is broken."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from checkpoints import DEIT, SMALL, TEACHER, TINY, VIT, hugging_face
from torch import Tensor, nn
from torch.nn import functional

from golden.check import check_file, main
from golden.checkpoint import CheckpointError
from golden.model import MODELS, FloatViT, ModelConfig
from golden.model_file import load_model, read_model
from golden.packed import load
from golden.quantize_command import main as quantize_main
from rtl.config import CONFIGS


class Attention(nn.Module):
    """Attention as timm has it, by products if that is asked for, or by PyTorch's function."""

    def __init__(self, model: ModelConfig, variant: str) -> None:
        super().__init__()
        d, self.heads, self.variant = model.width, model.heads, variant
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.table = nn.Parameter(torch.randn(1, self.heads, model.tokens, model.tokens))
        self.norm = nn.LayerNorm(model.head_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention output."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(
            2, 0, 3, 1, 4).unbind(0)
        if self.variant == "query norm":
            q = self.norm(q)
        if self.variant in ("manual", "bias"):
            scores = q * (d // self.heads) ** -0.5 @ k.transpose(-2, -1)
            x = (scores + self.table if self.variant == "bias" else scores).softmax(-1) @ v
        else:
            scale = 0.5 if self.variant == "wide step" else None
            x = functional.scaled_dot_product_attention(q, k, v, scale=scale)
        return self.proj(x.transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    """A transformer block."""

    def __init__(self, model: ModelConfig, variant: str) -> None:
        super().__init__()
        d, self.variant = model.width, variant
        self.norm1, self.norm2 = nn.LayerNorm(d, 1e-6), nn.LayerNorm(d, 1e-6)
        self.attn = Attention(model, variant)
        self.fc1, self.fc2 = nn.Linear(d, model.hidden), nn.Linear(model.hidden, d)
        self.gamma = nn.Parameter(torch.rand(d))
        self.act = {"tanh": nn.GELU("tanh"), "relu": nn.ReLU()}.get(variant, nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual after the block."""
        if self.variant == "norm last":
            x = self.norm1(x + self.attn(x))
            return self.norm2(x + self.fc2(self.act(self.fc1(x))))
        y = self.attn(self.norm1(x))
        x = x + (y * self.gamma if self.variant == "layer scale" else y)
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class Network(nn.Module):
    """A vision transformer, or nearly one: ``variant`` says how it differs."""

    def __init__(self, model: ModelConfig, variant: str) -> None:
        super().__init__()
        d, p, self.variant = model.width, model.patch, variant
        self.stem = nn.Conv2d(3, 3, 3, padding=1)
        self.patches = nn.Conv2d(3, d, p, p)
        count = 4 if variant == "registers" else model.special_tokens
        self.special = nn.ParameterList(nn.Parameter(torch.randn(1, 1, d)) for _ in range(count))
        self.positions = nn.Parameter(
            torch.randn(1, model.grid ** 2 + count, d))
        self.first, self.norm = nn.LayerNorm(d), nn.LayerNorm(d, 1e-6)
        self.blocks = nn.Sequential(*(Block(model, variant) for _ in range(model.depth)))
        self.heads = nn.ModuleList(nn.Linear(d, model.classes)
                                   for _ in range(model.special_tokens))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.patches(self.stem(x) if self.variant == "stem" else x).flatten(2).transpose(1, 2)
        special = [token.expand(len(x), -1, -1) for token in self.special]
        x = torch.cat([*special, x], 1) + self.positions
        x = self.norm(self.blocks(self.first(x) if self.variant == "norm first" else x))
        if self.variant == "pooled":
            return self.heads[0](x.mean(1))
        logits = [head(x[:, i]) for i, head in enumerate(self.heads)]
        return logits[0] if len(logits) == 1 else (logits[0] + logits[1]) / 2


class Logits(nn.Module):
    """The logits alone of a model of transformers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.model(x).logits


def network(model: ModelConfig, variant: str = "fused") -> nn.Module:
    torch.manual_seed(0)
    return Network(model, variant).eval()


def export(module: nn.Module, path: Path, model: ModelConfig, *, dynamo: bool = False,
           **options: object) -> Path:
    image = torch.randn(1, 3, model.image_size, model.image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter without dynamo is deprecated
        torch.onnx.export(module, (image,), path, dynamo=dynamo, verbose=False, **options)
    return path


def randomised(module: nn.Module) -> nn.Module:
    """Give parameters that start as zeros and ones values of their own, as after training."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape)
    return module


def assert_logits(module: nn.Module, path: Path, model: ModelConfig) -> None:
    images = torch.randn(2, 3, model.image_size, model.image_size)
    found, state, selectors = load_model(path)
    assert not selectors
    assert replace(found, name=model.name, eps=model.eps) == model
    with torch.no_grad():
        expected = module(images)
    torch.testing.assert_close(FloatViT(found, state)(images), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(params=[False, True], ids=["script", "dynamo"])
def dynamo(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.mark.parametrize("variant", ["fused", "manual"])
@pytest.mark.parametrize("model", [TINY, SMALL], ids=lambda model: model.name)
def test_timm(tmp_path: Path, model: ModelConfig, variant: str, dynamo: bool) -> None:
    module = randomised(network(model, variant))
    assert_logits(module, export(module, tmp_path / "model.onnx", model, dynamo=dynamo), model)


@pytest.mark.parametrize("change", [
    pytest.param(lambda module: module, marks=pytest.mark.slow, id="start"),
    pytest.param(randomised, id="trained")])
@pytest.mark.parametrize("kind", [VIT, DEIT, TEACHER])
def test_hugging_face(tmp_path: Path, kind: str, dynamo: bool,
                      change: Callable[[nn.Module], nn.Module]) -> None:
    """Also at the start of a training, where exporters merge parameters that are equal."""
    model = replace(SMALL, distilled=kind != VIT)
    module = Logits(change(hugging_face(kind, model)))
    path = export(module, tmp_path / "model.onnx", model, dynamo=dynamo)
    assert_logits(module, path, model)
    assert load_model(path).model.eps == pytest.approx(1e-12)


@pytest.mark.parametrize("opset", [11, 14, 17, 18])
def test_older_operators(tmp_path: Path, opset: int) -> None:
    """LayerNorm and GELU in several operators."""
    module = randomised(network(TINY, "manual"))
    path = export(module, tmp_path / "model.onnx", TINY, opset_version=opset)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert ("LayerNormalization" in kinds) == (opset >= 17)
    assert "Erf" in kinds
    assert_logits(module, path, TINY)


def test_batch_of_any_size(tmp_path: Path) -> None:
    module = randomised(network(TINY))
    path = export(module, tmp_path / "model.onnx", TINY, input_names=["image"],
                  dynamic_axes={"image": {0: "batch"}})
    assert_logits(module, path, TINY)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_deit(tmp_path: Path, size: str) -> None:
    model = MODELS[f"deit_{size}"]
    path = export(network(model), tmp_path / "model.onnx", model)
    verdict = check_file(path, CONFIGS["zcu102"])
    assert verdict.fits
    assert (verdict.sizes["name"], verdict.sizes["heads"]) == (model.name, model.heads)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = export(randomised(network(SMALL)), tmp_path / "model.onnx", SMALL)
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.endswith("Fits: all 10 operators\n")
    assert main([str(path), "--config", "tiny"]) == 1
    assert quantize_main([str(path), "-o", str(tmp_path / "model.hv")]) == 0
    assert load(tmp_path / "model.hv").model.heads == SMALL.heads


@pytest.mark.parametrize(("variant", "operator"), [
    ("tanh", "GELU by tanh"), ("relu", "operator Relu"), ("layer scale", "layer scale"),
    ("registers", "another structure"), ("norm first", "another structure"),
    ("stem", "a convolutional stem"), ("bias", "an addition of a constant"),
    ("query norm", "another structure"), ("pooled", "another computation"),
    ("norm last", "another computation"), ("wide step", "another computation")])
def test_other_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str], variant: str,
                        operator: str) -> None:
    path = export(randomised(network(TINY, variant)), tmp_path / "model.onnx", TINY)
    assert main([str(path), "--json", str(tmp_path / "verdict.json")]) == 1
    rows = json.loads((tmp_path / "verdict.json").read_text())["operators"]
    assert operator in [row["operator"] for row in rows if not row["fits"]]
    assert capsys.readouterr().err == ""
    with pytest.raises(CheckpointError) as error:
        load_model(path)
    assert operator in str(error.value)


def fault(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_model(path)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"checkpoint {path} ")


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert fault(path) == "cannot be read: No such file or directory"
    content = export(network(TINY), path, TINY).read_bytes()
    for part in (0.001, 0.5, 0.99):
        path.write_bytes(content[:int(part * len(content))])
        assert fault(path) == "is truncated or corrupt"
    for other in (b"", b"no graph here, only text" * 20, bytes(range(256)) * 8):
        path.write_bytes(other)
        assert fault(path) in ("is truncated or corrupt",
                               "has no operators, must have those of a network")


def test_other_inputs(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(network(TINY), path, TINY, input_names=["image"],
           dynamic_axes={"image": {2: "height", 3: "width"}})
    assert "must be an image of fixed size [batch, channels, size, size]" in fault(path)
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    mask = onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    node = onnx.helper.make_node("Add", ["image", "mask"], ["out"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "sum", [image, mask], [out])),
              path)
    assert fault(path) == "has 2 inputs, must have 1, the image"


def test_networks_of_other_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 46 * 46, 4))
    path = export(module, tmp_path / "model.onnx", TINY)
    assert main([str(path)]) == 1
    assert "operator Relu" in capsys.readouterr().out
