# SPDX-License-Identifier: BSD-2-Clause
"""The tables of what a configuration takes: which corrections they make."""

import json
from dataclasses import replace

import pytest

from platforms import figures as figures_module
from platforms import resources
from platforms.boards_data import BOARDS
from platforms.figures import ALL, figures
from platforms.levels import Levels, Path
from platforms.resources import INSIDE, Result, main, tables
from platforms.synthesis import Cells, blocks
from rtl.config import named

_VERILOG = """\
module heatvit(clk);
  heatvit_core core (
    .clk(clk)
  );
  heatvit_writer writer (
    .clk(clk)
  );
endmodule
module heatvit_core(clk);
  heatvit_array \\array$5  (
    .clk(clk)
  );
endmodule
module heatvit_array(clk);
endmodule
module heatvit_writer(clk);
endmodule
"""

_PATH = Path(start="core.array.row_*.a", end="core.array.sum", pin="CE",
             cells=("LUT3", "CARRY4 x2", "LUT6 core.array.most"), luts=2, carries=1)


def _result(multiplier: str) -> Result:
    return Result(replace(named("kv260"), multiplier=multiplier), blocks(_VERILOG),
                  {"heatvit": Cells(lut=10_000), "heatvit_core": Cells(lut=60_000, dsp=1000),
                   "heatvit_array": Cells(lut=20_000, dsp=24, ramb18=1),
                   "heatvit_writer": Cells(lut=10_000)},
                  Levels((_PATH,), {"": 3, "core": 1, "core.array$5": 2, "core.array$5.x": 5,
                                    "writer": 4}))


def _tables(multiplier: str) -> str:
    return tables(_result(multiplier))


def test_blocks_add_up_to_all() -> None:
    result = _result("dsp48e2")
    assert result.name == "kv260 dsp48e2"
    found = result.figures()
    assert list(found) == [ALL, "core.array", "writer", "core", "top"]
    assert [block["luts"] for block in found.values()] == [100_000, 20_000, 10_000, 60_000, 10_000]
    assert [block["levels"] for block in found.values()] == [5, 5, 4, 1, 3]
    assert found["core.array"] == figures(Cells(lut=20_000, dsp=24, ramb18=1), 5)


def test_tables_have_levels_and_the_deepest_paths() -> None:
    lines = _tables("dsp48e2").splitlines()
    assert lines[0].endswith("| BRAM | LUT levels |")
    assert "| `core.array` | 20,000 | 0 | 0 | 0 | 0 | 24 | 0.5 | 5 |" in lines
    assert lines[-1] == ("| 2 | 1 | `core.array.row_*.a` | `core.array.sum` CE |"
                         " LUT3, CARRY4 x2, LUT6 core.array.most |")
    # No row has cells that its head lacks.
    for table in "\n".join(lines).split("\n\n"):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_limits_stand_under_the_figures_of_all() -> None:
    result = replace(_result("dsp48e2"), config=named("zcu102"))
    assert ("| at most | 160,000 |  |  | 300,000 |  | 2,400 | 850 | 6 |"
            == tables(result).splitlines()[3])


def test_what_dsps_have_inside_is_taken_off_portable_arrays_only() -> None:
    assert BOARDS["kv260"].limits.luts == 117_120
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


def test_figures_are_written_recorded_and_compared(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(resources, "synthesised", lambda config, whole: _result("dsp48e2"))
    monkeypatch.setattr(figures_module, "RECORD", tmp_path / "record.json")
    written = tmp_path / "figures.json"
    assert main(["--config", "kv260", "--delta"]) == 2
    assert "is not a record of figures" in capsys.readouterr().err
    assert main(["--config", "kv260", "--record", "--json", str(written)]) == 0
    assert "| `core.array` |" in capsys.readouterr().out
    found = json.loads(written.read_text())
    assert found["figures"] == _result("dsp48e2").figures()
    assert found["deepest"][0]["luts"] == 2

    assert main(["--config", "kv260", "--delta"]) == 0
    assert capsys.readouterr().out == "No figure differs from the record.\n"
    more = replace(_result("dsp48e2"), own=_result("dsp48e2").own | {
        "heatvit_writer": Cells(lut=11_000)})
    monkeypatch.setattr(resources, "synthesised", lambda config, whole: more)
    assert main(["--config", "kv260", "--delta"]) == 1
    said = capsys.readouterr()
    assert "| `writer` | LUT | 10,000 | 11,000 | +10.0% |" in said.out
    assert said.err == "LUT of writer: 11,000, recorded are 10,000\n"


def test_the_selector_cost_has_no_figures_of_blocks(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--selector-cost", "--delta"])
    assert "without --json, --delta, --record" in capsys.readouterr().err
