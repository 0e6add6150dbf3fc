# SPDX-License-Identifier: BSD-2-Clause
"""The float twin taken apart: every named stage as a function of the stages before it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from golden.model import FloatViT

__all__ = ["Operator", "operators", "split_heads"]


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One stage: ``compute`` takes the values of ``inputs`` and returns that of ``stage``."""

    stage: str
    inputs: tuple[str, ...]
    compute: Callable[..., Tensor]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return [heads, tokens, head size] of [tokens, width]."""
    return x.unflatten(-1, (heads, -1)).transpose(0, 1)


def operators(twin: FloatViT, embedded: Tensor) -> list[Operator]:
    """Return the stages of ``twin.forward_stages`` in order.

    ``embedded`` is the value of the first, ``embed.residual``, which has no inputs.
    """
    model, state, functions = twin.model, twin.state, twin.functions
    result = [Operator(stage="embed.residual", inputs=(), compute=lambda: embedded)]

    def add(stage: str, compute: Callable[..., Tensor], *inputs: str) -> str:
        result.append(Operator(stage=stage, inputs=inputs, compute=compute))
        return stage

    def layer(name: str, x: Tensor, norm: str = "") -> Tensor:
        """Apply a layer, after gamma and beta of the LayerNorm before it."""
        if norm:
            x = x * state[f"{norm}.weight"] + state[f"{norm}.bias"]
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def normalised(x: Tensor) -> Tensor:
        return functional.layer_norm(x, (model.width,), eps=model.eps)

    def scores(q: Tensor, k: Tensor) -> Tensor:
        q, k = (split_heads(x, model.heads) for x in (q, k))
        return q @ k.transpose(-2, -1) * model.head_size ** -0.5

    def attention(scores: Tensor, v: Tensor) -> Tensor:
        weights = functions.softmax(scores) * functions.attention
        return (weights @ split_heads(v, model.heads)).transpose(0, 1).flatten(1)

    def block(i: int, x: str) -> str:
        name, stage = f"blocks.{i}", f"block{i}"

        def qkv(part: int) -> Callable[[Tensor], Tensor]:
            return lambda y: layer(f"{name}.attn.qkv", y, f"{name}.norm1").chunk(3, -1)[part]

        y = add(f"{stage}.norm1", normalised, x)
        q, k, v = (add(f"{stage}.{tensor}", qkv(part), y) for part, tensor in enumerate("qkv"))
        y = add(f"{stage}.attention", attention, add(f"{stage}.scores", scores, q, k), v)
        x = add(f"{stage}.residual1", lambda x, y: x + layer(f"{name}.attn.proj", y), x, y)
        y = add(f"{stage}.norm2", normalised, x)
        y = add(f"{stage}.hidden", lambda y: functions.gelu(
            layer(f"{name}.mlp.fc1", y, f"{name}.norm2")), y)
        return add(f"{stage}.residual2", lambda x, y: x + layer(f"{name}.mlp.fc2", y), x, y)

    def logits(y: Tensor) -> Tensor:
        heads = ("head", "head_dist")[:model.special_tokens]
        return torch.stack([layer(h, y[row], "norm") for row, h in enumerate(heads)]).mean(0)

    x = "embed.residual"
    for i in range(model.depth):
        x = block(i, x)
    add("logits", logits, add("head.norm", normalised, x))
    return result
