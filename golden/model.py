# SPDX-License-Identifier: BSD-2-Clause
"""Vision transformers: their sizes, their canonical parameters, and the float twin."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from golden.nonlinear import functions_named

__all__ = ["LAST_BLOCKS", "MODELS", "FloatViT", "ModelConfig", "ModelError", "Record", "State",
           "check_state", "model_named", "parameter_shapes"]

#: Parameters under their canonical names, see :func:`parameter_shapes`.
State = Mapping[str, Tensor]

#: Takes the name of a stage and its value.
Record = Callable[[str, Tensor], None]

#: Rows of the last block that are computed, see :meth:`ModelConfig.last_rows`.
LAST_BLOCKS = ("all", "cls")


class ModelError(ValueError):
    """A model that does not exist, or that the accelerator could never run."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of one vision transformer (DeiT or ViT).

    Parameters
    ----------
    name
        Name under which the model is listed.
    image_size, patch, channels
        Square images of ``image_size`` pixels, in square patches of ``patch`` pixels.
    width, depth, heads, hidden
        Residual channels, blocks, attention heads, and hidden channels of the MLP.
    classes
        Logits.
    distilled
        Two special tokens, CLS and distillation, each with a head; the logits are their mean.
    eps
        Added to the variance in LayerNorm.
    """

    name: str
    image_size: int
    patch: int
    channels: int = 3
    width: int
    depth: int
    heads: int
    hidden: int
    classes: int
    distilled: bool = False
    eps: float = 1e-6

    def __post_init__(self) -> None:
        for size, low in (("image_size", 1), ("patch", 1), ("channels", 1), ("width", 16),
                          ("depth", 1), ("heads", 1), ("hidden", 16), ("classes", 2)):
            value = getattr(self, size)
            if value < low:
                raise ModelError(f"{size} is {value}, must be at least {low}")
        if self.image_size % self.patch:
            raise ModelError(
                f"image_size is {self.image_size}, must be a multiple of the patch, {self.patch}")
        for size in ("width", "hidden"):
            value = getattr(self, size)
            if value % 16:
                raise ModelError(f"{size} is {value}, must be a multiple of 16")
        if self.width % self.heads or self.head_size not in (16, 32, 48, 64):
            raise ModelError(f"width {self.width} over {self.heads} heads is a head size of"
                             f" {self.width / self.heads:g}, must be 16, 32, 48 or 64")
        if not self.eps > 0:
            raise ModelError(f"eps is {self.eps}, must be positive")

    @property
    def head_size(self) -> int:
        """Channels of one head."""
        return self.width // self.heads

    @property
    def special_tokens(self) -> int:
        """CLS and, if distilled, the distillation token: the first rows of every tensor."""
        return 2 if self.distilled else 1

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch

    @property
    def tokens(self) -> int:
        """Rows of every tensor: special tokens, then patches."""
        return self.grid ** 2 + self.special_tokens

    @property
    def patch_channels(self) -> int:
        """Numbers in one patch."""
        return self.channels * self.patch ** 2

    def last_rows(self, last_block: str, tokens: int) -> int:
        """Return how many of ``tokens`` the last block computes, but for keys and values.

        These are of all tokens. With ``cls`` the others are of the special tokens alone: the heads
        read no other row.
        """
        if last_block not in LAST_BLOCKS:
            raise ModelError(f"the last block is {last_block!r}, must be one of"
                             f" {', '.join(LAST_BLOCKS)}")
        return self.special_tokens if last_block == "cls" else tokens

    def macs(self) -> int:
        """Multiplications of the dense network: every product of matrices, heads included."""
        n, d = self.tokens, self.width
        block = 4 * n * d * d + 2 * n * n * d + 2 * n * d * self.hidden
        return (self.grid ** 2 * self.patch_channels * d + self.depth * block
                + self.special_tokens * d * self.classes)


def _deit(size: str, width: int, heads: int) -> list[ModelConfig]:
    return [ModelConfig(name=f"deit_{size}{suffix}", image_size=224, patch=16, width=width,
                        depth=12, heads=heads, hidden=4 * width, classes=1000, distilled=distilled)
            for suffix, distilled in (("", False), ("_distilled", True))]


#: The models by name: DeiT, two networks for tests that fit configurations of these names, and
#: the network that is trained on ``golden.scenes``.
MODELS: dict[str, ModelConfig] = {m.name: m for m in (
    *_deit("tiny", 192, 3),
    *_deit("small", 384, 6),
    *_deit("base", 768, 12),
    ModelConfig(name="tiny_test", image_size=48, patch=16, width=64, depth=2, heads=2, hidden=256,
                classes=16),
    ModelConfig(name="small_test", image_size=96, patch=16, width=96, depth=2, heads=2, hidden=384,
                classes=20, distilled=True),
    ModelConfig(name="scenes", image_size=120, patch=12, width=64, depth=6, heads=2, hidden=192,
                classes=10),
)}


def model_named(name: str) -> ModelConfig:
    """Return the model called ``name``."""
    if name not in MODELS:
        raise ModelError(f"no model is called {name!r}, there are {', '.join(MODELS)}")
    return MODELS[name]


def parameter_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the canonical name and shape of every parameter of ``model``.

    The names are those of timm. Weights are [outputs, inputs]; ``attn.qkv`` holds the outputs of
    Q, then K, then V, each head after head; ``pos_embed`` is in token order: CLS, distillation,
    then patches line by line. Only distilled models have ``dist_token`` and ``head_dist``.
    Any row of a weight may be zero: a distilled model used without its second head has zeros
    for ``head_dist`` and twice the weights in ``head``.
    """
    d = model.width
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, d)}
    if model.distilled:
        shapes["dist_token"] = (1, 1, d)
    shapes["pos_embed"] = (1, model.tokens, d)

    def layer(name: str, outputs: int, *inputs: int) -> None:
        shapes[f"{name}.weight"] = (outputs, *inputs)
        shapes[f"{name}.bias"] = (outputs,)

    layer("patch_embed.proj", d, model.channels, model.patch, model.patch)
    for i in range(model.depth):
        layer(f"blocks.{i}.norm1", d)
        layer(f"blocks.{i}.attn.qkv", 3 * d, d)
        layer(f"blocks.{i}.attn.proj", d, d)
        layer(f"blocks.{i}.norm2", d)
        layer(f"blocks.{i}.mlp.fc1", model.hidden, d)
        layer(f"blocks.{i}.mlp.fc2", d, model.hidden)
    layer("norm", d)
    layer("head", model.classes, d)
    if model.distilled:
        layer("head_dist", model.classes, d)
    return shapes


def check_state(state: State, shapes: Mapping[str, tuple[int, ...]], model: ModelConfig,
                part: str = "") -> None:
    """Raise ModelError unless ``state`` has the parameters ``shapes`` and no other.

    ``part`` says what the state is of if not of the whole ``model``, as in " of a selector".
    """
    if state.keys() != shapes.keys():
        name = min(state.keys() ^ shapes.keys())
        problem = "lacks" if name in shapes else "has an unexpected"
        raise ModelError(f"the state{part} for {model.name} {problem} parameter {name}")
    for name, shape in shapes.items():
        if tuple(state[name].shape) != shape:
            raise ModelError(f"the shape of {name}{part} is {tuple(state[name].shape)}, must be"
                             f" {shape} in {model.name}")


class FloatViT:
    """The float twin: a vision transformer in evaluation mode.

    x = patches(image) + position; in each block x += proj(attention(norm1(x))), then
    x += fc2(gelu(fc1(norm2(x)))); logits = head(norm(x)[CLS]).

    It computes in the data type of its parameters, on images [batch, channels, size, size] that
    are normalised as ``golden.images.normalise`` does.

    Parameters
    ----------
    model
        Sizes.
    state
        Parameters, see :func:`parameter_shapes`.
    functions
        GELU and softmax: ``exact`` (GELU by the error function), or the polynomials of
        ``ibert`` or ``heatvit``, see :mod:`golden.nonlinear`.
    """

    def __init__(self, model: ModelConfig, state: State, functions: str = "exact") -> None:
        check_state(state, parameter_shapes(model), model)
        self.model = model
        self.state = dict(state)
        self.functions = functions_named(functions)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [batch, classes] of ``images`` [batch, channels, size, size]."""
        return self._forward(images, lambda stage, value: None)

    __call__ = forward

    @torch.no_grad()
    def forward_stages(self, image: Tensor) -> dict[str, Tensor]:
        """Return the named stages of one image [channels, size, size].

        ``embed.residual``; of each block i ``block{i}.norm1`` and ``.norm2`` (normalised, before
        gamma and beta), ``.q``, ``.k``, ``.v`` (bias included), ``.scores`` (q k / sqrt(head
        size), [heads, tokens, tokens]), ``.attention`` (softmax(scores) v), ``.residual1``,
        ``.hidden`` (after GELU), ``.residual2``; ``head.norm``, as ``norm1``; and ``logits``
        [classes]. All others are [tokens, channels].
        """
        stages: dict[str, Tensor] = {}
        self._forward(image, stages.__setitem__)
        return stages

    def _forward(self, images: Tensor, record: Record) -> Tensor:
        x = self.embed(images, record)
        for i in range(self.model.depth):
            x, _ = self.block(i, x, record)
        return self.head(x, record)

    def _layer(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _norm(self, name: str, stage: str, x: Tensor, record: Record) -> Tensor:
        x = functional.layer_norm(x, (self.model.width,), eps=self.model.eps)
        record(stage, x)
        return x * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    # The parts of the network: of one image, or of a batch as the first axis of all tensors.

    def embed(self, images: Tensor, record: Record) -> Tensor:
        """Return the residual [tokens, channels] of images, the positions added."""
        m, state = self.model, self.state
        shape = (m.channels, m.image_size, m.image_size)
        if tuple(images.shape[-3:]) != shape:
            raise ModelError(
                f"the shape of an image is {tuple(images.shape[-3:])}, must be {shape}")
        x = functional.conv2d(images.to(state["cls_token"].dtype), state["patch_embed.proj.weight"],
                              state["patch_embed.proj.bias"], stride=m.patch)
        x = x.flatten(-2).transpose(-2, -1)
        special = [state[name][0].expand(*x.shape[:-2], -1, -1)
                   for name in ("cls_token", "dist_token")[:m.special_tokens]]
        x = torch.cat([*special, x], -2) + state["pos_embed"][0]
        record("embed.residual", x)
        return x

    def block(self, index: int, x: Tensor, record: Record) -> tuple[Tensor, Tensor]:
        """Return the residual after a block, and its attention scores [heads, tokens, tokens]."""
        m, block, stage = self.model, f"blocks.{index}", f"block{index}"

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (m.heads, m.head_size)).transpose(-3, -2)

        y = self._norm(f"{block}.norm1", f"{stage}.norm1", x, record)
        q, k, v = self._layer(f"{block}.attn.qkv", y).chunk(3, -1)
        scores = split(q) @ split(k).transpose(-2, -1) * m.head_size ** -0.5
        weights = self.functions.softmax(scores) * self.functions.attention
        attention = (weights @ split(v)).transpose(-3, -2).flatten(-2)
        residual1 = x + self._layer(f"{block}.attn.proj", attention)
        for name, value in (("q", q), ("k", k), ("v", v), ("scores", scores),
                            ("attention", attention), ("residual1", residual1)):
            record(f"{stage}.{name}", value)
        y = self._norm(f"{block}.norm2", f"{stage}.norm2", residual1, record)
        hidden = self.functions.gelu(self._layer(f"{block}.mlp.fc1", y))
        residual2 = residual1 + self._layer(f"{block}.mlp.fc2", hidden)
        record(f"{stage}.hidden", hidden)
        record(f"{stage}.residual2", residual2)
        return residual2, scores

    def head(self, x: Tensor, record: Record) -> Tensor:
        """Return the logits [classes] of the residual after the last block."""
        y = self._norm("norm", "head.norm", x, record)
        logits = self._layer("head", y[..., 0, :])
        if self.model.distilled:
            logits = (logits + self._layer("head_dist", y[..., 1, :])) / 2
        record("logits", logits)
        return logits
