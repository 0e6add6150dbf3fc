# SPDX-License-Identifier: BSD-2-Clause
"""Starts tests under cocotb, with the case that they run in a file.

The tests themselves import nothing of the golden model: it takes seconds to load.
"""

import pickle
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from cocotb_tools.runner import get_results, get_runner

from golden.images import calibration_frames
from golden.model import FloatViT, ModelConfig
from golden.quantize import quantize
from golden.synthetic import synthetic
from sim.build import cocotb_bench, emitted
from sim.cocotb_bench import CASE, CONFIG, Case
from sim.device import Result
from sim.workload import Workload

__all__ = ["launch"]

#: A network that is over soon: every access of the bus takes Python some time.
_MODEL = ModelConfig(name="bus_test", image_size=24, patch=8, width=32, depth=1, heads=2, hidden=48,
                     classes=10, distilled=True)


@cache
def _case() -> Case:
    frames = calibration_frames(_MODEL.image_size)[:2]
    qvit = quantize(FloatViT(_MODEL, synthetic(_MODEL, 1)), frames, weights="synthetic")
    works = [Workload(qvit, CONFIG, frame) for frame in frames]
    return Case(works[0].program.image, _MODEL.classes, _MODEL.tokens,
                tuple(frame.tobytes() for frame in frames),
                tuple(Result(work.expected[0].astype(np.int32), work.expected[1],
                             int(work.expected[0].max()), _MODEL.tokens) for work in works),
                works[0].array_cycles)


def launch(module: str, test: str) -> None:
    """Run one cocotb test of ``module`` on the emitted Verilog; fails if the test fails."""
    program = cocotb_bench(emitted(CONFIG), top="heatvit")
    with tempfile.TemporaryDirectory(prefix="heatvit-") as name:
        folder = Path(name)
        (folder / "case").write_bytes(pickle.dumps(_case()))
        results = get_runner("verilator").test(
            hdl_toplevel="heatvit", hdl_toplevel_lang="verilog", test_module=module,
            test_filter=rf"\.{test}$", build_dir=program.parent, test_dir=folder,
            results_xml=str(folder / "results.xml"), extra_env={CASE: str(folder / "case")},
            log_file=folder / "log")
        ran, failed = get_results(results)
        text = (folder / "log").read_text()
    assert ran == 1, f"{ran} tests are called {test}"
    assert failed == 0, text[-4000:]
