# SPDX-License-Identifier: BSD-2-Clause
"""The vision transformer as it is trained: the function and the parameters of the float twin."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from golden.model import ModelConfig, parameter_shapes
from golden.nonlinear import Functions, functions_named

__all__ = ["TrainableViT", "masked_softmax"]

#: Standard deviation of weights at the start, and where they are cut off.
_STD, _CUT = 0.02, 2.0


class _Patches(nn.Module):
    """The patch embedding. Its weights are those of a convolution; the product is one of matrices,
    which is faster.
    """

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.patch = model.patch
        self.proj = nn.Conv2d(model.channels, model.width, model.patch, stride=model.patch)

    def forward(self, images: Tensor) -> Tensor:
        """Return the patches [batch, patches, channels] of images."""
        tiles = images.unflatten(2, (-1, self.patch)).unflatten(4, (-1, self.patch))
        tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return functional.linear(tiles, self.proj.weight.flatten(1), self.proj.bias)


class _Attention(nn.Module):
    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.qkv = nn.Linear(model.width, 3 * model.width)
        self.proj = nn.Linear(model.width, model.width)


class _Mlp(nn.Module):
    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(model.width, model.hidden)
        self.fc2 = nn.Linear(model.hidden, model.width)


def masked_softmax(scores: Tensor, present: Tensor, functions: Functions) -> Tensor:
    """Return the softmax of ``scores`` [batch, heads, tokens, tokens] over the tokens that are
    ``present`` [batch, tokens], 1 or 0; the diagonal always counts.

    exp(x - max) mask / sum(exp(x - max) mask), the maximum taken where the mask is 1: it has a
    gradient by the mask, and the sum is at least 1.
    """
    diagonal = torch.eye(scores.shape[-1], dtype=present.dtype, device=present.device)
    mask = (present[:, None] * (1 - diagonal) + diagonal)[:, None]
    top = scores.detach().masked_fill(mask == 0, -torch.inf).amax(-1, keepdim=True)
    # What is absent may be above the maximum: exp is 1 there, not infinite.
    weights = functions.softmax((scores - top).clamp(max=0)) * mask
    return weights / weights.sum(-1, keepdim=True)


class _Block(nn.Module):
    def __init__(self, model: ModelConfig, functions: str) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(model.width, model.eps)
        self.attn = _Attention(model)
        self.norm2 = nn.LayerNorm(model.width, model.eps)
        self.mlp = _Mlp(model)
        self.heads, self.head_size = model.heads, model.head_size
        self.functions = functions_named(functions)

    def forward(self, x: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the residual [batch, tokens, channels] after the block, and the attention of the
        class token, the mean of the heads [batch, tokens].

        With ``present`` [batch, tokens] tokens attend to those where it is 1, and to themselves.
        """
        qkv = self.attn.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, self.head_size))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_size)
        weights = self.functions.softmax(scores) if present is None else masked_softmax(
            scores, present, self.functions)
        attention = (weights * self.functions.attention @ v).transpose(1, 2).flatten(2)
        x = x + self.attn.proj(attention)
        x = x + self.mlp.fc2(self.functions.gelu(self.mlp.fc1(self.norm2(x))))
        return x, weights[:, :, 0].mean(1)


class TrainableViT(nn.Module):
    """A vision transformer with gradients.

    On whole images it is :class:`golden.model.FloatViT`; its ``state_dict`` is the state of that,
    under the same names. It also takes windows of images: the patches at some places, with the
    positions of these. So a network can learn on small windows first.

    Parameters
    ----------
    model
        Sizes.
    functions
        GELU and softmax: ``exact``, ``ibert`` or ``heatvit``, see :mod:`golden.nonlinear`.
    """

    def __init__(self, model: ModelConfig, functions: str = "exact") -> None:
        super().__init__()
        self.model = model
        self.cls_token = nn.Parameter(torch.empty(1, 1, model.width))
        if model.distilled:
            self.dist_token = nn.Parameter(torch.empty(1, 1, model.width))
        self.pos_embed = nn.Parameter(torch.empty(1, model.tokens, model.width))
        self.patch_embed = _Patches(model)
        self.blocks = nn.ModuleList(_Block(model, functions) for _ in range(model.depth))
        self.norm = nn.LayerNorm(model.width, model.eps)
        self.head = nn.Linear(model.width, model.classes)
        if model.distilled:
            self.head_dist = nn.Linear(model.width, model.classes)

    def initialise(self, generator: torch.Generator) -> None:
        """Set all parameters to what training starts from."""
        for name, parameter in self.named_parameters():
            with torch.no_grad():
                if "norm" in name:
                    parameter.fill_(float(name.endswith("weight")))
                elif name.endswith("bias"):
                    parameter.zero_()
                elif name == "patch_embed.proj.weight":
                    bound = self.model.patch_channels ** -0.5
                    parameter.uniform_(-bound, bound, generator=generator)
                elif name.endswith("weight"):
                    nn.init.xavier_uniform_(parameter, generator=generator)
                else:
                    nn.init.trunc_normal_(parameter, std=_STD, a=-_CUT, b=_CUT,
                                          generator=generator)

    def forward(self, images: Tensor, places: Tensor | None = None) -> Tensor:
        """Return the logits [batch, classes] of ``images`` [batch, channels, side, side].

        With ``places`` [batch, patches] the images are windows: the patch that is at index i,
        line by line, is the one of the image at that place.
        """
        return self.logits(self.features(images, places))

    def features(self, images: Tensor, places: Tensor | None = None) -> Tensor:
        """Return all tokens after the last LayerNorm [batch, tokens, channels]."""
        return self.explained(images, places)[0]

    def explained(self, images: Tensor, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return all tokens after the last LayerNorm [batch, tokens, channels], and the attention
        of the class token to the patches, the sum of the blocks but the first third: [batch,
        patches].

        The first blocks attend to edges of any kind, later ones to what tells the class.
        """
        x = self.embed(images, places)
        attentions: list[Tensor] = []
        for block in self.blocks:
            x, attention = block(x)
            attentions.append(attention)
        total = torch.stack(attentions[self.model.depth // 3:]).sum(0)
        return self.norm(x), total[:, self.model.special_tokens:]

    def embed(self, images: Tensor, places: Tensor | None = None) -> Tensor:
        """Return the residual [batch, tokens, channels] of images, the positions added."""
        m = self.model
        patches = self.patch_embed(images)
        special = torch.cat([self.cls_token, self.dist_token] if m.distilled
                            else [self.cls_token], 1)
        positions = self.pos_embed[0, m.special_tokens:]
        patches = patches + (positions if places is None else positions[places])
        special = special + self.pos_embed[:, :m.special_tokens]
        return torch.cat([special.expand(len(images), -1, -1), patches], 1)

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits of tokens after the last LayerNorm."""
        logits = self.head(features[:, 0])
        if self.model.distilled:
            logits = (logits + self.head_dist(features[:, 1])) / 2
        return logits

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the parameters, as :class:`golden.model.FloatViT` takes them."""
        own = self.state_dict()
        return {name: own[name].detach().cpu().clone() for name in parameter_shapes(self.model)}
