# SPDX-License-Identifier: BSD-2-Clause
"""What blocks take of an FPGA as numbers: recorded, limited, and compared with a record."""

import json
from collections.abc import Mapping
from pathlib import Path

from golden.pages import table
from platforms.synthesis import Cells

__all__ = ["ALL", "FIGURES", "LIMITS", "RECORD", "Figures", "delta", "figures", "grown", "load",
           "record"]

#: Figures of each block; ``ALL`` is all of them together.
Figures = Mapping[str, Mapping[str, float]]
ALL = "all"

#: Figures by the names they have in tables.
FIGURES = {"luts": "LUT", "lutram": "as memory", "srl": "as shift register", "ff": "FF",
           "carry": "CARRY4", "dsp": "DSP", "bram": "BRAM", "levels": "LUT levels"}

#: LUT levels that are none too many, of any configuration.
_LEVELS = 6

#: What configurations may take at most; the form of the array is that of DSP48E2.
LIMITS = {"zcu102": {"luts": 160_000, "ff": 300_000, "dsp": 2_400, "bram": 850, "levels": _LEVELS}}

#: The figures of configurations as they were when somebody last looked at what has changed.
RECORD = Path(__file__).with_name("resources.json")

#: Growth that needs a new record, of the figures that it is asked of.
_GROWTH, _ASKED = 0.02, ("luts", "ff", "dsp", "bram")
#: Growth of a block that is less than this part of all is none.
_NOISE = 0.001


def figures(cells: Cells, deep: int) -> dict[str, float]:
    """Return the figures of a block, given what it takes and its LUT levels."""
    return {key: getattr(cells, key) for key in FIGURES if key != "levels"} | {"levels": deep}


def load(name: str, path: Path | None = None) -> Figures:
    """Return the figures of a design in ``RECORD``, or in ``path``; ValueError if it has none."""
    path = path or RECORD
    try:
        recorded = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a record of figures: {error}") from None
    if name not in recorded:
        raise ValueError(f"{path} has no figures of {name}, has those of {', '.join(recorded)}")
    return recorded[name]


def record(name: str, found: Figures, path: Path | None = None) -> None:
    """Put the figures of a design into ``RECORD``, or into ``path``; those of others stay."""
    path = path or RECORD
    recorded = json.loads(path.read_text()) if path.exists() else {}
    recorded[name] = found
    path.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


def delta(old: Figures, new: Figures) -> str:
    """Return a table of all that differs, or a sentence where nothing does."""
    rows = []
    for block in dict.fromkeys([*new, *old]):
        before, now = old.get(block, {}), new.get(block, {})
        for key, title in FIGURES.items():
            a, b = before.get(key, 0), now.get(key, 0)
            if a != b:
                change = f"{b / a - 1:+.1%}" if a else "new"
                rows.append([f"`{block}`", title, f"{a:,g}", f"{b:,g}", change])
    if not rows:
        return "No figure differs from the record."
    return table(["block", "", "recorded", "now", "change"], rows, left=2)


def grown(name: str, old: Figures, new: Figures) -> list[str]:
    """Return a sentence for each figure that is above its limit, or has grown by more than 2 %.

    Parameters
    ----------
    name
        Name of the configuration, for its limits.
    old, new
        Recorded figures, and those of now.
    """
    said = [f"{FIGURES[key]}: {new[ALL][key]:,g}, the limit is {limit:,}"
            for key, limit in LIMITS.get(name, {}).items() if new[ALL][key] > limit]
    for block, now in new.items():
        for key in _ASKED:
            before = old.get(block, {}).get(key, 0)
            more = now[key] - before
            if more > _GROWTH * before and more > _NOISE * new[ALL][key]:
                said.append(f"{FIGURES[key]} of {block}: {now[key]:,g}, recorded are {before:,g}")
        before = old.get(block, {}).get("levels", 0)
        if now["levels"] > max(before, _LEVELS):
            said.append(f"LUT levels of {block}: {now['levels']}, recorded are {before}")
    return said
