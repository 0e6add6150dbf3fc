# SPDX-License-Identifier: BSD-2-Clause
"""Checkpoints of DeiT and ViT, as timm and Hugging Face name them, as canonical parameters."""

import math
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from golden.model import MODELS, ModelConfig, ModelError, parameter_shapes

__all__ = ["CheckpointError", "Scheme", "convert", "depth_of", "is_unused", "load_checkpoint",
           "load_tensors", "scheme_of", "sizes_of", "unsupported"]

#: Parameters of operators that the accelerator does not have.
_UNSUPPORTED = {re.compile(pattern): operator for pattern, operator in {
    r"\.ls\d\.gamma$|\.gamma_\d$|\.lambda_?\d$|layer_?scale": "layer scale",
    r"(^|\.)(q|k|qk|query|key)_(layer)?norm\.": "normalisation of Q and K",
    r"relative_position|rel_pos": "relative position bias",
    r"patch_embed(dings)?\.(backbone|conv|stem|proj\.\d)|(^|[._])stem[._]": "a convolutional stem",
    r"patch_embed\.norm\.": "normalisation of patches",
    r"(^|\.)(norm_pre|pre_layernorm|pre_layrnorm)\.": "normalisation before the blocks",
    r"\.(attn|mlp)\.norm\.|\.(inner_attn_ln|ffn_ln)\.": "normalisation inside attention or MLP",
    r"\.mlp\.(w12|w1|w2|w3|fc1_g|fc1_x|gate_proj|weights_in)\.": "a gated MLP",
    r"(^|\.)(reg_token|register_tokens)$": "register tokens",
    r"^(fc_norm|attn_pool)\.": "a head on pooled tokens",
    r"^pre_logits\.": "a representation layer before the head",
    r"(^|\.)blocks_token_only\.": "class-attention layers",
    r"\.attn\.proj_[lw]\.": "talking heads",
    r"(^|\.)downsample\.": "merging of patches",
    r"(^|\.)rope(_embed(dings)?)?\.": "rotary positions",
}.items()}

#: Canonical names as Hugging Face names them: published files, and transformers 5 in memory.
_PUBLISHED = {"attn.q": "attention.attention.query", "attn.k": "attention.attention.key",
              "attn.v": "attention.attention.value", "attn.proj": "attention.output.dense",
              "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
_IN_MEMORY = {"attn.q": "attention.q_proj", "attn.k": "attention.k_proj",
              "attn.v": "attention.v_proj", "attn.proj": "attention.o_proj",
              "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_BOTH = {"cls_token": "embeddings.cls_token", "dist_token": "embeddings.distillation_token",
         "pos_embed": "embeddings.position_embeddings",
         "patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm",
         "norm1": "layernorm_before", "norm2": "layernorm_after"}

#: Parameters that have no part in the logits.
_UNUSED = re.compile(r"(^|\.)(pooler\.dense\.(weight|bias)|embeddings\.mask_token)$")


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that holds no supported model."""


@dataclass(frozen=True)
class Scheme:
    """One way of naming parameters.

    Parameters
    ----------
    names
        Names in the file of the tensors that, one below the other, are a canonical parameter.
    layers
        Start of the name of a block, its number left out.
    single_head
        The logits of a model with two special tokens are those of CLS, not a mean.
    eps
        What is added to the variance in LayerNorm.
    """

    names: Callable[[str], list[str]]
    layers: str
    single_head: bool
    eps: float


def _timm() -> Scheme:
    return Scheme(lambda name: [name], "blocks.", False, 1e-6)


def _hugging_face(prefix: str, layers: str, tensors: Mapping[str, Tensor]) -> Scheme:
    table = _BOTH | (_PUBLISHED if layers == "encoder.layer." else _IN_MEMORY)
    teacher = any(key.startswith(("cls_classifier.", "distillation_classifier."))
                  for key in tensors)
    heads = {"head": "cls_classifier" if teacher else "classifier",
             "head_dist": "distillation_classifier"}

    def names(canonical: str) -> list[str]:
        if canonical in table:
            return [prefix + table[canonical]]
        layer, kind = canonical.rsplit(".", 1)
        if layer in heads:
            return [f"{heads[layer]}.{kind}"]
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", layer)
        if block is None:
            return [f"{prefix}{table[layer]}.{kind}"]
        parts = ["attn.q", "attn.k", "attn.v"] if block[2] == "attn.qkv" else [block[2]]
        return [f"{prefix}{layers}{block[1]}.{table[part]}.{kind}" for part in parts]

    return Scheme(names, prefix + layers, not teacher, 1e-12)


def scheme_of(tensors: Mapping[str, Tensor], source: str) -> Scheme:
    """Return the way in which ``tensors`` are named."""
    for key in tensors:
        if re.match(r"blocks\.\d+\.", key):
            return _timm()
        if match := re.match(r"(deit\.|vit\.|)(encoder\.layer\.|layers\.)\d+\.", key):
            return _hugging_face(match[1], match[2], tensors)
    example = f"parameter {min(tensors)}" if tensors else "no parameters"
    raise CheckpointError(f"{source} has {example}, must have the parameters of a DeiT or ViT, as"
                          " timm or Hugging Face names them")


def unsupported(keys: Iterable[str]) -> dict[str, list[str]]:
    """Return the operators that the accelerator does not have, and which of ``keys`` are theirs."""
    found: dict[str, list[str]] = {}
    for key in keys:
        for pattern, operator in _UNSUPPORTED.items():
            if pattern.search(key):
                found.setdefault(operator, []).append(key)
                break
    return found


def is_unused(key: str) -> bool:
    """Whether the parameter has no part in the logits."""
    return _UNUSED.search(key) is not None


def _get(tensors: Mapping[str, Tensor], key: str, source: str) -> Tensor:
    if key not in tensors:
        raise CheckpointError(f"{source} lacks parameter {key}")
    return tensors[key]


def depth_of(tensors: Mapping[str, Tensor], scheme: Scheme) -> int:
    """Return the number of blocks, however they are numbered."""
    block = re.compile(re.escape(scheme.layers) + r"(\d+)\.")
    return len({match[1] for key in tensors if (match := block.match(key))})


def sizes_of(tensors: Mapping[str, Tensor], scheme: Scheme, source: str) -> dict[str, Any]:
    """Return the sizes that the shapes of ``tensors`` tell: all of a model but its heads."""

    def shape(canonical: str, dimensions: int) -> tuple[int, ...]:
        key = scheme.names(canonical)[0]
        found = tuple(_get(tensors, key, source).shape)
        if len(found) != dimensions:
            raise CheckpointError(f"the shape of {key} in {source} is {found}, must have"
                                  f" {dimensions} dimensions")
        if 0 in found:
            raise CheckpointError(f"the shape of {key} in {source} is {found}, must be without 0")
        return found

    width, channels, patch, _ = shape("patch_embed.proj.weight", 4)
    tokens = shape("pos_embed", 3)[1]
    distilled = scheme.names("dist_token")[0] in tensors
    special = 2 if distilled else 1
    grid = math.isqrt(max(tokens - special, 0))
    if grid ** 2 != tokens - special:
        raise CheckpointError(
            f"{source} has positions for {tokens} tokens, must be {special} more than a square")
    return {"image_size": grid * patch, "patch": patch, "channels": channels, "width": width,
            "depth": depth_of(tensors, scheme), "hidden": shape("blocks.0.mlp.fc1.weight", 2)[0],
            "classes": shape("head.weight", 2)[0], "distilled": distilled}


def _infer(tensors: Mapping[str, Tensor], scheme: Scheme, heads: int | None,
           source: str) -> ModelConfig:
    """Return the model that ``tensors`` are of, heads of 64 channels unless it is a named one."""
    sizes = sizes_of(tensors, scheme, source)
    for model in MODELS.values():
        if heads in (None, model.heads) and all(
                getattr(model, size) == value for size, value in sizes.items()):
            return model
    if heads is None and sizes["width"] % 64:
        raise CheckpointError(f"{source} has width {sizes['width']}, must be a multiple of 64 for"
                              " the number of heads to be known, unless the model is named")
    sizes["heads"] = sizes["width"] // 64 if heads is None else heads
    try:
        return ModelConfig(name="custom", **sizes)
    except ModelError as error:
        raise CheckpointError(f"the model in {source} is not supported: {error}") from error


def convert(tensors: Mapping[str, Tensor], model: ModelConfig | None = None, *,
            heads: int | None = None,
            source: str = "the state") -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the model and the canonical float parameters that named ``tensors`` hold.

    The names may be timm's, those of published Hugging Face files, or those of transformers 5 in
    memory. ``model`` says what the tensors must be of; without it, it is inferred from the
    shapes, which do not tell the ``heads``. The returned model has the ``eps`` of the library that
    the names are from. A DeiT with two special tokens but without a second head becomes one whose
    second head is zero.
    ``source`` is what error messages call the tensors.
    """
    for operator, keys in unsupported(tensors).items():
        raise CheckpointError(f"{source} has {operator} ({keys[0]}), which is not supported")
    scheme = scheme_of(tensors, source)
    if model is None:
        model = _infer(tensors, scheme, heads, source)
    elif (depth := depth_of(tensors, scheme)) != model.depth:
        raise CheckpointError(f"{source} has {depth} blocks, must be {model.depth} in {model.name}")

    left = {key for key in tensors if not is_unused(key)}
    state: dict[str, Tensor] = {}
    for name, shape in parameter_shapes(model).items():
        keys = scheme.names(name)
        if name.startswith("head_dist.") and scheme.single_head:
            head = name.replace("head_dist", "head")
            state[name] = torch.zeros_like(state[head])
            state[head] = 2 * state[head]
            continue
        part = (shape[0] // len(keys), *shape[1:])
        for key in keys:
            tensor = _get(tensors, key, source)
            if tuple(tensor.shape) != part:
                raise CheckpointError(f"the shape of {key} in {source} is {tuple(tensor.shape)},"
                                      f" must be {part} in {model.name}")
            if not tensor.is_floating_point():
                raise CheckpointError(
                    f"{key} in {source} is of type {tensor.dtype}, must be floating point")
            if not tensor.isfinite().all():
                raise CheckpointError(f"{key} in {source} has values that are not finite numbers")
        state[name] = torch.cat([tensors[key].to(torch.float32) for key in keys])
        left -= set(keys)
    if left:
        raise CheckpointError(
            f"{source} has an unexpected parameter {min(left)}, which {model.name} has not")
    return replace(model, eps=scheme.eps), state


def _read(path: Path, source: str) -> object:
    try:
        path.open("rb").close()
    except OSError as error:
        raise CheckpointError(f"{source} cannot be read: {error.strerror or error}") from error
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise CheckpointError(f"{source} is truncated or corrupt: {error}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{source} is corrupt, or holds Python objects other than tensors") from error
    # torch.load raises errors of many kinds on broken files, with messages of many lines.
    except Exception as error:
        raise CheckpointError(f"{source} is truncated or corrupt") from error


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the parameters in a file of safetensors or torch, as they are named there.

    In a file of torch (``.pth``, ``.pt``) the parameters may be under ``model`` or ``state_dict``.
    """
    path = Path(path)
    source = f"checkpoint {path}"
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise CheckpointError(
            f"{source} has the extension {path.suffix!r}, must be .safetensors, .pth or .pt")
    tensors = _read(path, source)
    for key in ("model", "state_dict"):
        if isinstance(tensors, dict) and isinstance(tensors.get(key), dict):
            tensors = tensors[key]
    if not isinstance(tensors, dict) or not all(
            isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in tensors.items()):
        raise CheckpointError(f"{source} holds more than named tensors, must hold only parameters")
    return tensors


def load_checkpoint(path: str | Path,
                    model: ModelConfig | None = None) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the model and the canonical parameters in a file, see :func:`load_tensors`.

    See :func:`convert` for ``model`` and for what is returned.
    """
    return convert(load_tensors(path), model, source=f"checkpoint {path}")
