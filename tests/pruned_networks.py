# SPDX-License-Identifier: BSD-2-Clause
"""Quantised networks with token selectors of any settings, on noise, for what works on a network.

Their classifiers are random, of a level that says how much stays. Named cases for the twins, with
the float network beside, are in ``pruned``.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from networks import NETWORKS, Network, noise

from golden.integer import run
from golden.model import FloatViT, ModelConfig
from golden.pruning import PruningConfig
from golden.quantize import (
    Linear,
    Norm,
    QuantizedBlock,
    QuantizedViT,
    Scale,
    patch_bytes,
    quantize,
)
from golden.quantize_selector import QuantizedClassifier
from golden.selector import selector_shapes
from golden.synthetic import synthetic

__all__ = ["empty_network", "pruned_network", "random_selector"]


def random_selector(model: ModelConfig, seed: int, level: float) -> dict[str, torch.Tensor]:
    """Return parameters of a classifier; the higher the ``level`` the more patches stay."""
    generator = np.random.default_rng(seed)
    state = {name: torch.from_numpy(generator.standard_normal(shape)
                                    * (shape[1] ** -0.5 if len(shape) == 2 else 0.1))
             for name, shape in selector_shapes(model).items()}
    state["norm.weight"] += 1
    state["score3.weight"] *= 4
    state["score3.bias"] = torch.tensor([level, -level])
    return {name: value.to(torch.float32) for name, value in state.items()}


@lru_cache
def pruned_network(name: str, selector: str, package: str, blocks: tuple[int, ...],
                   what: tuple[float, ...], functions: str | None = None) -> Network:
    """Return a network with selectors, calibrated on two frames and run on a third.

    ``what`` is, for each selector, the keep count or the level of the classifier;
    ``functions`` are those of golden.quantize.
    """
    model = replace(NETWORKS[name], depth=blocks[-1] + 1)
    counts = tuple(map(int, what)) if selector == "topk" else None
    pruning = PruningConfig(selector=selector, blocks=blocks, package=package, counts=counts)
    selectors = [] if counts else [random_selector(model, i, level)
                                   for i, level in enumerate(what)]
    twin = FloatViT(model, synthetic(model, 0))
    # Several threads only get in the way of tensors as small as these.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    qvit = quantize(twin, [noise(model, 1), noise(model, 2)], weights="synthetic",
                    pruning=pruning, selectors=selectors, functions=functions)
    torch.set_num_threads(threads)
    frame = noise(model, 3)
    return Network(twin, qvit, frame, *run(qvit, frame))


def empty_network(model: ModelConfig, pruning: PruningConfig) -> QuantizedViT:
    """Return a network whose weights are all zero: only its sizes matter."""
    scale = Scale(m=1 << 16, s=30)
    lanes, d, size = np.zeros((34, 3), np.int64), model.width, model.head_size

    def layer(outputs: int, inputs: int) -> Linear:
        one = np.ones(outputs, np.int64)
        return Linear(weight=np.zeros((outputs, inputs), np.int8), bias=0 * one, m=one << 16, s=one)

    def norm(channels: int) -> Norm:
        return Norm(channels=channels, mean=scale, scale=scale, epsilon=1)

    block = QuantizedBlock(
        norm1=norm(d), q=layer(d, d), k=layer(d, d), v=layer(d, d), score=scale, exp=scale,
        value=scale, projection=layer(d, d), norm2=norm(d), mlp1=layer(model.hidden, d),
        gelu=lanes, mlp2=layer(d, model.hidden))
    middle = max(1, model.heads // 2)
    classifier = QuantizedClassifier(
        norm=norm(size), local=layer(size // 2, size), global_=layer(size // 2, size),
        importance_scale=scale, importance1=layer(middle, d), mean=scale,
        score1=layer(size // 2, size), score2=layer(size // 4, size // 2),
        importance2=layer(model.heads, middle), score3=layer(1, size // 4), gelu=lanes,
        sigmoid=lanes)
    count = len(pruning.blocks) if pruning.selector == "threshold" else 0
    return QuantizedViT(
        model=model, weights="none", initial=np.zeros((model.tokens, d), np.int16),
        patch=layer(d, patch_bytes(model)), blocks=(block,) * model.depth, head_norm=norm(d),
        heads=(layer(model.classes, d),) * model.special_tokens, exp=np.zeros((8, 3), np.int64),
        reciprocal=np.zeros((16, 3), np.int64), rsqrt=np.zeros((32, 3), np.int64),
        steps={"logits": 1.0}, pruning=pruning, classifiers=(classifier,) * count, score_frac=16)
