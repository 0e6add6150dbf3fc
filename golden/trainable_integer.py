# SPDX-License-Identifier: BSD-2-Clause
"""The vision transformer in integers as it is trained: quantisation-aware training."""

from collections.abc import Mapping

import torch
from torch import Tensor

from golden.calibrate import calibrate
from golden.images import MEAN, STD
from golden.integer_batch import BatchViT, Tables
from golden.model import FloatViT, ModelConfig, State, parameter_shapes
from golden.nonlinear import functions_named
from golden.pruning import PrunedViT, PruningConfig
from golden.quantize import QuantizedViT, Quantizer, Reals
from golden.selector import selector_shapes
from golden.trainable_pruning import PrunedOutput, TrainablePrunedViT

__all__ = ["TrainableIntegerViT", "calibrated"]


def _split(model: ModelConfig, state: State, selectors: int) -> tuple[State, list[State]]:
    """Return the parameters of the network, and those of each selector."""
    return ({name: state[name] for name in parameter_shapes(model)},
            [{name: state[f"selectors.{i}.{name}"] for name in selector_shapes(model)}
             for i in range(selectors)])


def _frames(images: Tensor) -> Tensor:
    """Return the bytes of normalised images [batch, size, size, 3], as floating point."""
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return ((images * std + mean) * 255).round().permute(0, 2, 3, 1)


class TrainableIntegerViT(TrainablePrunedViT):
    """A network that computes in integers, with the gradients of the one in floating point.

    In every call its parameters are quantised, and the images go through
    :class:`golden.integer_batch.BatchViT`: the logits are those of :func:`golden.integer.run` on
    the network that :func:`golden.quantize.quantize` makes of the same parameters and steps. Only
    with noise is the decision of ``threshold`` another one.

    Parameters
    ----------
    model
        Sizes.
    pruning
        Where and how patches are dropped; ``none`` for the dense network.
    steps
        Real value of one unit, by stage, as :func:`golden.calibrate.calibrate` returns them.
    functions
        The functions that are not linear, see :mod:`golden.nonlinear`.
    precision
        Of the products of matrices for gradients; all others are exact.
    """

    def __init__(self, model: ModelConfig, pruning: PruningConfig, steps: Mapping[str, float],
                 functions: str = "exact", precision: torch.dtype = torch.float32) -> None:
        super().__init__(model, pruning, functions)
        self.steps = dict(steps)
        self.precision = precision
        self._quantizer = Quantizer(model, functions_named(functions), steps,
                                    pruning if pruning.active else None)
        self._tables: Tables | None = None

    def quantized(self, weights: str, real: Reals | None = None) -> QuantizedViT:
        """Return the network in integers, see :class:`golden.quantize.Quantizer`."""
        state, selectors = _split(self.model, dict(self.named_parameters()), len(self.selectors))
        return self._quantizer(state, selectors, weights=weights, real=real)

    def forward(self, images: Tensor,  # type: ignore[override]
                noise: Tensor | None = None, scores: Tensor | None = None) -> PrunedOutput:
        """Return what the network says of ``images``, as that in floating point does.

        The images are bytes, normalised as :func:`golden.images.normalise` does.
        """
        real: Reals | None = {} if torch.is_grad_enabled() else None
        with torch.autocast(images.device.type, enabled=False):
            qvit = self.quantized("training", real)
            if self._tables is None or self._tables.device != images.device:
                self._tables = Tables(qvit, images.device)
            network = BatchViT(qvit, self._tables, real, self.precision)
            output = network(_frames(images), noise, scores)
            features = output.features[:, self.model.special_tokens:self.model.tokens]
            features = features * self.steps["head.norm"] * self.norm.weight + self.norm.bias
            # In double precision: single precision does not have all of them.
            return PrunedOutput(output.logits * self.steps["logits"], features, output.keeps)


def calibrated(network: TrainablePrunedViT, images: Tensor,
               functions: str = "exact") -> dict[str, float]:
    """Return the steps of a network in floating point on some images, normalised."""
    state, selectors = _split(network.model, network.state(), len(network.selectors))
    twin = FloatViT(network.model, state, functions)
    return calibrate(PrunedViT(twin, network.pruning, selectors),
                     list(_frames(images).to(torch.uint8).cpu().numpy()))
