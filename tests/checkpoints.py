# SPDX-License-Identifier: BSD-2-Clause
"""Checkpoints with random weights for tests, as timm and Hugging Face name them."""

import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

os.environ["HF_HUB_OFFLINE"] = "1"

import transformers

from golden.model import MODELS, ModelConfig, parameter_shapes

__all__ = ["DEIT", "SMALL", "TEACHER", "TINY", "VIT", "Tensors", "hugging_face", "published",
           "timm_state", "write"]

Tensors = dict[str, Tensor]

TINY = MODELS["tiny_test"]
SMALL = MODELS["small_test"]
DEIT = "DeiTForImageClassification"
TEACHER = "DeiTForImageClassificationWithTeacher"
VIT = "ViTForImageClassification"


def timm_state(model: ModelConfig) -> Tensors:
    """Return random parameters under the names of timm."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator)
            for name, shape in parameter_shapes(model).items()}


def hugging_face(kind: str, model: ModelConfig) -> transformers.PreTrainedModel:
    """Return a random model of the library."""
    config_class = transformers.ViTConfig if kind.startswith("ViT") else transformers.DeiTConfig
    torch.manual_seed(0)
    return getattr(transformers, kind)(config_class(
        image_size=model.image_size, patch_size=model.patch, hidden_size=model.width,
        num_hidden_layers=model.depth, num_attention_heads=model.heads,
        intermediate_size=model.hidden, num_labels=model.classes)).eval()


def published(tensors: Tensors) -> Tensors:
    """Return ``tensors`` under the names of published Hugging Face files."""
    renamed = {}
    for key, value in tensors.items():
        for new, old in ((".layers.", ".encoder.layer."),
                         (".attention.q_proj.", ".attention.attention.query."),
                         (".attention.k_proj.", ".attention.attention.key."),
                         (".attention.v_proj.", ".attention.attention.value."),
                         (".attention.o_proj.", ".attention.output.dense."),
                         (".mlp.fc1.", ".intermediate.dense."), (".mlp.fc2.", ".output.dense.")):
            key = key.replace(new, old)
        renamed[key] = value
    return renamed


def write(path: Path, tensors: Tensors) -> Path:
    """Write parameters to a file of the format that its name says."""
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path
