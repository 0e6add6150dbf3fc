# SPDX-License-Identifier: BSD-2-Clause
"""Parameters that a network in training begins with: of a file, or of another network."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from golden.model import State
from golden.model_file import load_model, stored_pruning
from golden.train_config import TrainError
from golden.trainable import TrainableViT
from golden.trainable_pruning import TrainablePrunedViT

__all__ = ["copy_weights", "load_weights"]


def load_weights(network: TrainableViT, file: Path) -> None:
    """Set the parameters of a network; of its selectors those that the file has before the same
    blocks.
    """
    _, state, selectors = load_model(file, network.model)
    blocks: tuple[int, ...] = ()
    if selectors and isinstance(network, TrainablePrunedViT) and len(network.selectors):
        stored = stored_pruning(file)
        if stored is None or len(stored.active) != len(selectors):
            raise TrainError(f"{file} has the parameters of {len(selectors)} selectors, must say"
                             " which blocks they are before")
        blocks = stored.active
    _set(network, state, dict(zip(blocks, selectors, strict=False)))


def copy_weights(network: TrainableViT, other: TrainableViT) -> None:
    """Set the parameters of a network to those of another one; of its selectors those that stand
    before the same blocks there.
    """
    state = other.state()
    selectors: dict[int, State] = {}
    if isinstance(other, TrainablePrunedViT):
        # Of topk there are none.
        for i, block in enumerate(other.pruning.active[:len(other.selectors)]):
            names = [name for name in state if name.startswith(f"selectors.{i}.")]
            selectors[block] = {name.split(".", 2)[2]: state.pop(name) for name in names}
    _set(network, state, selectors)


def _set(network: TrainableViT, state: State, selectors: Mapping[int, State]) -> None:
    """Set the parameters of a network; those of ``selectors`` are by their blocks."""
    own: dict[str, Tensor] = {}
    if isinstance(network, TrainablePrunedViT) and len(network.selectors):
        for i, block in enumerate(network.pruning.active):
            own |= {f"selectors.{i}.{name}": value
                    for name, value in selectors.get(block, {}).items()}
    network.load_state_dict({**network.state(), **state, **own})
