# SPDX-License-Identifier: BSD-2-Clause
"""Figures of what blocks take: recorded, compared, and held to their limits."""

import copy

import pytest

from platforms.figures import ALL, FIGURES, LIMITS, delta, figures, grown, load, record
from platforms.synthesis import Cells

OLD = {ALL: figures(Cells(lut=100_000, ff=100_000, dsp=2_000, ramb36=400), 6),
       "core.issue": figures(Cells(lut=1_000, ff=1_000), 4),
       "core.lists": figures(Cells(ramb18=1), 0)}


def _with(block: str, **changed: float) -> dict[str, dict[str, float]]:
    new = copy.deepcopy(OLD)
    new[block] |= changed
    return new


def test_figures_have_the_counts_of_cells() -> None:
    assert OLD["core.lists"] == dict.fromkeys(FIGURES, 0) | {"bram": 0.5}
    assert list(OLD[ALL]) == list(FIGURES)


def test_delta_has_what_differs() -> None:
    assert delta(OLD, OLD) == "No figure differs from the record."
    assert delta(OLD, _with("core.issue", luts=1_100, dsp=2, ff=900)).splitlines()[2:] == [
        "| `core.issue` | LUT | 1,000 | 1,100 | +10.0% |",
        "| `core.issue` | FF | 1,000 | 900 | -10.0% |",
        "| `core.issue` | DSP | 0 | 2 | new |"]
    gone = {name: block for name, block in OLD.items() if name != "core.lists"}
    assert "| `core.lists` | BRAM | 0.5 | 0 | -100.0% |" in delta(OLD, gone)


@pytest.mark.parametrize(("new", "said"), [
    (_with(ALL, luts=102_000, dsp=2_040, bram=408), []),
    (_with(ALL, luts=90_000, ff=50_000), []),
    (_with(ALL, luts=102_001), ["LUT of all: 102,001, recorded are 100,000"]),
    # A tenth of a block, and less than a thousandth of all.
    (_with("core.issue", luts=1_100), []),
    (_with("core.issue", luts=1_101), ["LUT of core.issue: 1,101, recorded are 1,000"]),
    # Shift registers are among the LUTs.
    (_with("core.issue", srl=1_000), []),
    (_with("core.issue", levels=6), []),
    (_with("core.issue", levels=7), ["LUT levels of core.issue: 7, recorded are 4"]),
])
def test_growth_needs_a_new_record(new: dict[str, dict[str, float]], said: list[str]) -> None:
    assert grown("tiny", OLD, new) == said


def test_limits_hold_whatever_is_recorded() -> None:
    new = _with(ALL, **{key: limit + 1 for key, limit in LIMITS["zcu102"].items()})
    assert grown("zcu102", new, new) == [
        "LUT: 160,001, the limit is 160,000", "FF: 300,001, the limit is 300,000",
        "DSP: 2,401, the limit is 2,400", "BRAM: 851, the limit is 850",
        "LUT levels: 7, the limit is 6"]
    assert grown("tiny", new, new) == []


def test_a_record_keeps_other_designs(tmp_path) -> None:
    path = tmp_path / "record.json"
    record("tiny", OLD, path)
    record("small", _with(ALL, dsp=1), path)
    assert load("tiny", path) == OLD
    assert load("small", path)[ALL]["dsp"] == 1
    with pytest.raises(ValueError, match="has no figures of kv260, has those of small, tiny"):
        load("kv260", path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"record\.json is not a record of figures"):
        load("tiny", path)
