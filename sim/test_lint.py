# SPDX-License-Identifier: BSD-2-Clause
"""The emitted Verilog of every configuration passes Verilator's lint, but for the waivers."""

import pytest

from rtl.config import CONFIGS, named
from sim.build import emitted
from sim.verilator import lint


@pytest.mark.parametrize("config", CONFIGS)
def test_lint(config: str) -> None:
    assert lint(emitted(named(config)), top="heatvit") == ""
