# SPDX-License-Identifier: BSD-2-Clause
"""The tables of what a configuration takes: which corrections they make."""

from dataclasses import replace

import pytest

from platforms.resources import DEVICES, INSIDE, main, tables
from platforms.synthesis import Cells, blocks
from rtl.config import named

_VERILOG = """\
module heatvit(clk);
  heatvit_core core (
    .clk(clk)
  );
endmodule
module heatvit_core(clk);
endmodule
"""


def _tables(multiplier: str) -> str:
    return tables(replace(named("kv260"), multiplier=multiplier), blocks(_VERILOG),
                  {"heatvit": Cells(lut=10_000), "heatvit_core": Cells(lut=90_000, dsp=1024)})


def test_what_dsps_have_inside_is_taken_off_portable_arrays_only() -> None:
    assert DEVICES["kv260"][1] == 117_120
    assert INSIDE.lut * 1024 == 33_792
    portable, vendor = _tables("portable"), _tables("dsp48e2")
    assert "| **all** | 100,000 |" in portable and "| **all** | 100,000 |" in vendor
    assert "| all, less what the DSPs of the array have inside | 66,208 |" in portable
    assert "| of XCK26 | 57% |" in portable
    assert "less what" not in vendor
    assert "| of XCK26 | 85% |" in vendor


def test_unknown_multiplier(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--config", "tiny", "--multiplier", "dsp58"])
    assert stop.value.code == 2
    assert "invalid choice: 'dsp58'" in capsys.readouterr().err
