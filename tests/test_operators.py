# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.operators: put together, they are the float twin."""

import pytest
import torch
from networks import NETWORKS, network

from golden.images import normalise
from golden.model import FloatViT
from golden.nonlinear import FUNCTIONS
from golden.operators import operators


@pytest.mark.parametrize("functions", FUNCTIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_operators_are_the_float_twin(name: str, functions: str) -> None:
    net = network(name)
    twin = FloatViT(net.twin.model, net.twin.state, functions)
    exact = twin.forward_stages(normalise(net.frame))
    stages = operators(twin, exact["embed.residual"])
    assert {op.stage for op in stages} == exact.keys() and len(stages) == len(exact)
    values: dict[str, torch.Tensor] = {}
    for op in stages:
        # Inputs come before what is made of them.
        values[op.stage] = op.compute(*(values[name] for name in op.inputs))
        error = (values[op.stage] - exact[op.stage]).abs().max()
        assert error <= 1e-4 * exact[op.stage].abs().max(), f"{op.stage}: off by {error}"
