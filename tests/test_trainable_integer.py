# SPDX-License-Identifier: BSD-2-Clause
"""What is trained in integers is what runs, and learns as the network in floating point does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import noise
from torch.nn.functional import cross_entropy

from golden import integer
from golden.images import normalise
from golden.model import MODELS, FloatViT, ModelConfig, parameter_shapes
from golden.pruning import PruningConfig
from golden.quantize import QuantizedViT, quantize
from golden.selector import selector_shapes
from golden.synthetic import synthetic
from golden.synthetic_selector import composed, synthetic_selectors
from golden.trainable_integer import TrainableIntegerViT, calibrated
from golden.trainable_pruning import TrainablePrunedViT

pytestmark = pytest.mark.usefixtures("one_thread")

SCENES = replace(MODELS["scenes"], depth=4)
TINY = replace(MODELS["tiny_test"], name="tiny", depth=4)
DISTILLED = replace(MODELS["small_test"], name="small", depth=4)
BLOCKS = (1, 2, 3)
KINDS = {"dense": {"selector": "none"},
         "topk": {"selector": "topk", "rates": (0.7, 0.49, 0.3)},
         "topk merged": {"selector": "topk", "rates": (0.7, 0.7, 0.3), "package": "merged"},
         "threshold": {"selector": "threshold"},
         "threshold merged": {"selector": "threshold", "package": "merged"}}


def frames(model: ModelConfig, count: int = 5) -> list[np.ndarray]:
    return [composed(model.image_size, i / (count - 1), 20 + i) for i in range(count)]


def both(model: ModelConfig, kind: str, functions: str = "exact",
         **arguments: object) -> tuple[TrainablePrunedViT, TrainableIntegerViT]:
    """Return a network in floating point, and in integers with the same parameters."""
    pruning = PruningConfig(**{"blocks": BLOCKS, **KINDS[kind]})
    state = synthetic(model, 0)
    network = TrainablePrunedViT(model, pruning, functions)
    if len(network.selectors):
        for i, selector in enumerate(synthetic_selectors(FloatViT(model, state), BLOCKS, 0)):
            state |= {f"selectors.{i}.{name}": value for name, value in selector.items()}
    network.load_state_dict(state)
    steps = calibrated(network, images(frames(model, 3)), functions)
    made = TrainableIntegerViT(model, pruning, steps, functions, **arguments)
    made.load_state_dict(state)
    return network, made


def packed(made: TrainableIntegerViT, functions: str) -> QuantizedViT:
    """Return what is made of its weights and steps."""
    state = made.state()
    twin = FloatViT(made.model, {name: state[name] for name in parameter_shapes(made.model)},
                    functions)
    return quantize(twin, [], weights="trained", steps=made.steps, pruning=made.pruning, selectors=[
        {name: state[f"selectors.{i}.{name}"] for name in selector_shapes(made.model)}
        for i in range(len(made.selectors))])


def images(pictures: list[np.ndarray]) -> torch.Tensor:
    return torch.stack([normalise(frame) for frame in pictures])


def assert_what_runs(made: TrainableIntegerViT, pictures: list[np.ndarray],
                     functions: str = "exact") -> None:
    """Compare the logits and the kept patches with those of the integer twin."""
    qvit, found = packed(made, functions), made(images(pictures))
    for i, frame in enumerate(pictures):
        logits, _, stages = integer.run(qvit, frame)
        assert (found.logits[i] / made.steps["logits"]).tolist() == logits.tolist(), f"image {i}"
        for s, keep in enumerate(found.keeps):
            kept = keep[i].nonzero().flatten().tolist()
            assert kept == stages[f"selector{s}.kept"].tolist(), f"image {i}, selector {s}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [TINY, SCENES, DISTILLED], ids=lambda model: model.name)
def test_what_is_trained_is_what_runs(model: ModelConfig, kind: str) -> None:
    """Also after a step, when the weights are no longer those of the calibration."""
    _, made = both(model, kind)
    pictures = [*frames(model), noise(model, 0)]
    assert_what_runs(made, pictures)
    optimiser = torch.optim.SGD(made.parameters(), lr=1e-3)
    cross_entropy(made(images(pictures)).logits, torch.arange(6)).backward()
    optimiser.step()
    assert_what_runs(made, pictures)


@pytest.mark.parametrize("kind", ["dense", "threshold"])
def test_other_functions(kind: str) -> None:
    _, made = both(TINY, kind, "heatvit")
    assert_what_runs(made, frames(TINY), "heatvit")


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_float_network(kind: str, precision: torch.dtype) -> None:
    network, made = both(SCENES, kind, precision=precision)
    batch, labels = images(frames(SCENES, 8)), torch.arange(8)
    noise = torch.full((3, 8, 100), 0.3) if kind.startswith("threshold") else None
    gradients: list[dict[str, torch.Tensor | None]] = []
    for each in (network, made):
        output = each(batch, noise)
        loss = cross_entropy(output.logits, labels) + 1e-2 * output.features.square().mean()
        (loss + sum(keep.mean() for keep in output.keeps)).backward()
        gradients.append({name: p.grad for name, p in each.named_parameters()})
    for name, expected in gradients[0].items():
        found = gradients[1][name]
        if expected is None:
            assert found is None or not found.any(), name
            continue
        assert found is not None and found.isfinite().all(), name
    # Noise of quantisation is on both ways: these are far from equal. test_integer_functions.py
    # compares the gradients of each function with those of the one that it stands for.
    first, second = (torch.cat([each[name].flatten() for name in each
                                if gradients[0][name] is not None]) for each in gradients)
    cosine = float(torch.nn.functional.cosine_similarity(first, second, 0))
    assert cosine > 0.3, cosine
