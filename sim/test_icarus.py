# SPDX-License-Identifier: BSD-2-Clause
"""Icarus Verilog, where it is installed, accepts the emitted Verilog of every configuration."""

import shutil
import subprocess
from pathlib import Path

import pytest

from rtl.config import CONFIGS, named
from sim.build import emitted


@pytest.mark.skipif(shutil.which("iverilog") is None,
                    reason="iverilog is not on PATH; Debian and others have it as a package")
@pytest.mark.parametrize("config", CONFIGS)
def test_icarus(config: str, tmp_path: Path) -> None:
    """Elaborated and compiled for simulation, as Verilog of 2005, without one warning."""
    command = ["iverilog", "-g2005", "-Wall", "-s", "heatvit", "-o", str(tmp_path / "heatvit.vvp"),
               str(emitted(named(config)))]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stderr + run.stdout) == (0, "")
