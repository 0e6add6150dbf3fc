# SPDX-License-Identifier: BSD-2-Clause
"""The units of other approximations equal their integer models, and these the functions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from amaranth.lib.wiring import Component

from golden.nonlinear import FUNCTIONS, heatvit_sigmoid
from platforms import function_units
from platforms.function_units import PlanSigmoid, PolynomialExp, PolynomialGelu, main
from platforms.synthesis import Cells
from tests.pipeline import assert_equal, run

#: Every argument below 8, as wide as 16 bits, and of the others every 61st.
X = np.unique(np.concatenate([np.arange(-1 << 15, 1 << 15), np.arange(-1 << 17, 1 << 17, 61),
                              [(1 << 17) - 1]]))
FUNCTION = {1.0: "ibert", 0.5: "heatvit"}


@pytest.mark.parametrize("delta", FUNCTION)
def test_gelu_unit(delta):
    unit = PolynomialGelu(delta)
    scale = unit.scale_of(0.0317)
    got = run(unit, {"x": X, "scale": np.full(len(X), scale)}, {"y": unit.LATENCY})["y"]
    assert_equal("y", unit.value(X, scale), got)


@pytest.mark.parametrize("delta", FUNCTION)
@pytest.mark.parametrize("step", [0.002, 1 / 32, 0.5])
def test_gelu_value(delta, step):
    unit = PolynomialGelu(delta)
    real = FUNCTIONS[FUNCTION[delta]].gelu(torch.from_numpy(X / 4096)).numpy()
    error = np.abs(unit.value(X, unit.scale_of(step)) * step / 1024 - real)
    # The largest error is of the largest values, which int8 does not reach.
    assert error[np.abs(X) < 4 * 4096].max() < 3e-4 + step / 1024
    assert error.max() < 3e-3


def test_gelu_limits():
    """The largest scale that there is, at the largest arguments."""
    for delta in FUNCTION:
        unit = PolynomialGelu(delta)
        ends, scale = np.array([-1 << 17, (1 << 17) - 1]), (1 << unit.SCALE_BITS) - 1
        got = run(unit, {"x": ends, "scale": [scale, scale]}, {"y": unit.LATENCY})["y"]
        assert_equal("y", unit.value(ends, scale), got)
        for step in (1e-4, 1e9):
            with pytest.raises(ValueError, match=f"^step of the output is {step}, its scale"):
                unit.scale_of(step)


def test_exp_unit():
    unit, f = PolynomialExp(), np.arange(1 << 13)
    got = run(unit, {"f": f}, {"y": unit.LATENCY})["y"]
    assert_equal("y", unit.value(f), got)
    real = 0.3585 * (1.353 - f * np.log(2) / 8192) ** 2 + 0.344
    assert np.abs(got / 256 - 255 * real).max() < 0.02


def test_sigmoid_unit():
    unit = PlanSigmoid()
    got = run(unit, {"x": X}, {"y": unit.LATENCY})["y"]
    assert_equal("y", unit.value(X), got)
    assert_equal("y", heatvit_sigmoid(torch.from_numpy(X / 2048)).numpy() * (1 << 17), got)


def _fake(component: Component) -> Cells:
    return Cells(lut=1000 * len(type(component).__name__), lutram=7, ff=2, dsp=1)


def test_tables(monkeypatch, tmp_path, capsys):
    """Every unit has its row, and the rows go where they belong."""
    monkeypatch.setattr(function_units, "cells", _fake)
    assert main([]) == 0
    printed = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines()]
    errors = {(row[0], row[1]): [float(n) for n in row[-2:]] for row in rows[2:9]}
    assert errors["GELU", "I-BERT"] == pytest.approx([0.0183, 0.0065], abs=1e-4)
    assert errors["GELU", "HeatViT, delta 1/2"][0] == pytest.approx(1, abs=0.01)
    assert errors["exp", "I-BERT and HeatViT"][0] == pytest.approx(2.1e-3, abs=1e-4)
    assert errors["sigmoid", "HeatViT (PLAN)"] == pytest.approx([0.0189, 0.0059], abs=1e-4)
    for function, unit in (("GELU", "lane, this project"), ("exp", "the same lane"),
                           ("sigmoid", "the same lane")):
        assert errors[function, unit][0] < 1e-4
    assert rows[2][2:8] == ["7", "8,007", "7", "2", "1", "3,968"]
    assert rows[-1] == ["HeatViT: GELU, exp and sigmoid", "38,021", "21", "6", "3"]

    page = tmp_path / "page.md"
    page.write_text("<!-- hardware: begin -->\n<!-- hardware: end -->\n")
    assert main(["--update", str(page)]) == 0
    assert page.read_text() == ("<!-- hardware: begin -->\n\n" + printed
                                + "\n<!-- hardware: end -->\n")
    page.write_text("")
    assert main(["--update", str(page)]) == 2
    assert f"{page} lacks the lines" in capsys.readouterr().err
    assert main(["--update", str(tmp_path / "none.md")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_page(monkeypatch):
    """The units, latencies and errors in docs/approximations.md are those of the design."""
    monkeypatch.setattr(function_units, "cells", _fake)
    page = (Path(__file__).parent.parent / "docs" / "approximations.md").read_text()
    for line in function_units.report().splitlines()[2:9]:
        name, unit, latency, *_, largest, mean = line.strip("| ").split(" | ")
        assert f"| {name} | {unit} | {latency} | " in page
        assert f" | {largest} | {mean} |" in page
