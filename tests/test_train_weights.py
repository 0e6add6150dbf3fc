# SPDX-License-Identifier: BSD-2-Clause
"""What a network in training begins with: selectors of other networks by their blocks."""

from dataclasses import asdict, replace

import pytest
import torch

from golden.model import MODELS
from golden.model_file import save_weights
from golden.pruning import PruningConfig
from golden.train_config import TrainError
from golden.train_weights import copy_weights, load_weights
from golden.trainable import TrainableViT
from golden.trainable_pruning import TrainablePrunedViT

MODEL = replace(MODELS["scenes"], depth=4)


def network(seed, **pruning):
    """Return a network with random parameters; without settings one without selectors."""
    generator = torch.Generator().manual_seed(seed)
    found = (TrainablePrunedViT(MODEL, PruningConfig(**pruning)) if pruning
             else TrainableViT(MODEL))
    found.initialise(generator)
    if isinstance(found, TrainablePrunedViT):
        found.initialise_selectors(generator)
    return found


def copied(one, other, tmp_path):
    copy_weights(one, other)


def loaded(one, other, tmp_path):
    pruning = asdict(other.pruning) if isinstance(other, TrainablePrunedViT) else None
    save_weights(tmp_path / "a.safetensors", other.state(), pruning)
    load_weights(one, tmp_path / "a.safetensors")


def selectors(one):
    """Return one parameter of each selector."""
    return [selector.score1.weight.detach().clone() for selector in one.selectors]


def assert_same_network(one, other):
    for name, value in TrainableViT.state(one).items():
        assert torch.equal(value, TrainableViT.state(other)[name]), name


@pytest.mark.parametrize("take", [copied, loaded])
def test_selectors_by_their_blocks(take, tmp_path):
    one, other = network(1, blocks=(1, 2, 3)), network(2, blocks=(2, 3))
    own = selectors(one)
    take(one, other, tmp_path)
    assert_same_network(one, other)
    found, theirs = selectors(one), selectors(other)
    assert torch.equal(found[0], own[0])
    assert torch.equal(found[1], theirs[0]) and torch.equal(found[2], theirs[1])
    # Fewer are a part of them.
    few = network(3, blocks=(3,))
    take(few, other, tmp_path)
    assert torch.equal(selectors(few)[0], theirs[1])


@pytest.mark.parametrize("take", [copied, loaded])
@pytest.mark.parametrize("other", [{}, {"selector": "topk", "blocks": (1,), "rates": (0.5,)}])
def test_networks_without_parameters_of_selectors(other, take, tmp_path):
    one = network(1, blocks=(1,))
    (own,) = selectors(one)
    other = network(2, **other)
    take(one, other, tmp_path)
    assert_same_network(one, other)
    assert torch.equal(selectors(one)[0], own)
    # And the other way round.
    take(other, network(3, blocks=(1,)), tmp_path)
    assert_same_network(other, network(3, blocks=(1,)))


def test_file_must_say_the_blocks(tmp_path):
    save_weights(tmp_path / "a.safetensors", network(1, blocks=(1,)).state())
    with pytest.raises(TrainError, match="has the parameters of 1 selectors, must say which"):
        load_weights(network(2, blocks=(1,)), tmp_path / "a.safetensors")
