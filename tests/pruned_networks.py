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
from golden.quantize import quantize
from golden.selector import selector_shapes
from golden.synthetic import synthetic

__all__ = ["pruned_network", "random_selector"]


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
