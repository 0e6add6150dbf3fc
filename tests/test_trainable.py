# SPDX-License-Identifier: BSD-2-Clause
"""The network that is trained is the float twin, and learns in all its parameters."""

from dataclasses import replace

import pytest
import torch

from golden.model import MODELS, FloatViT, ModelConfig, parameter_shapes
from golden.synthetic import synthetic
from golden.trainable import TrainableViT

NAMES = ("scenes", "tiny_test", "small_test")


def network(model: ModelConfig, functions: str = "exact") -> TrainableViT:
    made = TrainableViT(model, functions)
    made.initialise(torch.Generator().manual_seed(0))
    return made


def images(model: ModelConfig, count: int = 3) -> torch.Tensor:
    shape = (count, model.channels, model.image_size, model.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_state_is_that_of_the_float_twin(name: str) -> None:
    made = network(MODELS[name])
    shapes = {key: tuple(value.shape) for key, value in made.state_dict().items()}
    assert shapes == parameter_shapes(MODELS[name])
    assert list(made.state()) == list(parameter_shapes(MODELS[name]))


@pytest.mark.parametrize("functions", ["exact", "heatvit"])
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_float_twin(name: str, functions: str) -> None:
    model = MODELS[name]
    made = network(model, functions)
    made.load_state_dict(synthetic(model, 0))
    batch = images(model)
    twin = FloatViT(model, {k: v.double() for k, v in made.state().items()}, functions)
    expected = twin(batch.double())
    found = made.double()(batch.double())
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 1e-12, f"{name}, {functions}: {error}"


def test_equals_the_float_twin_in_single_precision() -> None:
    made = network(MODELS["scenes"])
    expected = FloatViT(made.model, made.state())(images(made.model))
    assert (made(images(made.model)) - expected).abs().max() < 1e-5


def test_window_has_the_positions_of_its_place() -> None:
    made = network(MODELS["scenes"]).double()
    batch = images(made.model).double()
    everything = torch.arange(100).expand(3, -1)
    assert torch.equal(made(batch, everything), made(batch))

    small = replace(made.model, name="window", image_size=24)
    places = torch.tensor([[0, 1, 10, 11], [33, 34, 43, 44], [88, 89, 98, 99]])
    windows = batch[..., :24, :24]
    found = made(windows, places)
    for i, place in enumerate(places):
        state = made.state()
        state["pos_embed"] = state["pos_embed"][:, [0, *(1 + place).tolist()]]
        expected = FloatViT(small, state)(windows[i:i + 1])
        assert (found[i] - expected[0]).abs().max() < 1e-12, i


@pytest.mark.parametrize("name", NAMES)
def test_attention_of_the_class_token(name: str) -> None:
    made = network(MODELS[name])
    features, found = made.explained(images(made.model))
    assert torch.equal(features, made.features(images(made.model)))
    stages = FloatViT(made.model, made.state()).forward_stages(images(made.model)[:1])
    blocks = range(made.model.depth // 3, made.model.depth)
    expected = sum(stages[f"block{i}.scores"][..., 0, :].softmax(-1).flatten(0, -2).mean(0)
                   for i in blocks)
    assert (found[0] - expected[made.model.special_tokens:]).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_gradient(name: str) -> None:
    made = network(MODELS[name])
    torch.nn.functional.cross_entropy(made(images(made.model)), torch.tensor([0, 1, 2])).backward()
    for key, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, key


def test_start_hangs_on_the_generator() -> None:
    first, again = network(MODELS["scenes"]).state(), network(MODELS["scenes"]).state()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = TrainableViT(MODELS["scenes"])
    other.initialise(torch.Generator().manual_seed(1))
    assert not torch.equal(other.state()["head.weight"], first["head.weight"])
    for name, value in first.items():
        assert value.isfinite().all() and value.abs().max() <= 1, name
    assert first["norm.weight"].eq(1).all() and first["norm.bias"].eq(0).all()


def test_state_is_a_copy() -> None:
    made = network(MODELS["scenes"])
    state = made.state()
    with torch.no_grad():
        made.head.bias.add_(1)
    assert state["head.bias"].eq(0).all()
