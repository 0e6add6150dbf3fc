# SPDX-License-Identifier: BSD-2-Clause
"""What nextpnr reports of a design on ECP5: parts used, frequency, and the critical path."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["PARTS", "Result", "Step"]

#: Parts that are counted: their name in tables and the one of nextpnr.
PARTS = {"LUT4": "TRELLIS_COMB", "FF": "TRELLIS_FF", "RAMW": "TRELLIS_RAMW",
         "MULT18X18D": "MULT18X18D", "DP16KD": "DP16KD"}

#: Where the name that Yosys makes up for a cell begins, behind the name of what it drives.
_MADE_UP = re.compile(r"(\$|_(TRELLIS_FF|LUT4|CCU2C|PFUMX|L6MUX21|MULT18X18D|TRELLIS_DPR16X4"
                      r"|DP16KD|PDPW16KD)_|\[\d+\]$).*")

#: What a step goes through, by the cell's name and port.
_KINDS = (("multiplier", re.compile(r"MULT18X18D\S* P\d+$")), ("carry", re.compile(r" FCO$")),
          ("carry", re.compile(r"CCU2\S* F$")), ("RAM", re.compile(r"(DP16KD|DPR16X4)\S* ")))


@dataclass(frozen=True)
class Step:
    """A part of a path: its delay in ns, what it goes through, and the name of what it drives."""

    ns: float
    kind: str
    name: str


@dataclass(frozen=True)
class Result:
    """A design that was placed and routed.

    Parameters
    ----------
    mhz
        Frequency that is reached, between registers of the one clock.
    used, available
        Parts, by their names in ``PARTS``.
    path
        The critical path: from the register that it leaves to the one that it ends in.
    """

    mhz: float
    used: Mapping[str, int]
    available: Mapping[str, int]
    path: tuple[Step, ...]

    @classmethod
    def parse(cls, report: Mapping[str, Any]) -> "Result":
        """Return what a report of ``nextpnr-ecp5 --report`` says."""
        (clock, frequency), = report["fmax"].items()
        path, = (path["path"] for path in report["critical_paths"]
                 if path["from"] == path["to"] == f"posedge {clock}")
        counts = {name: report["utilization"].get(cell, {"used": 0, "available": 0})
                  for name, cell in PARTS.items()}
        return cls(mhz=round(frequency["achieved"], 2),
                   used={name: count["used"] for name, count in counts.items()},
                   available={name: count["available"] for name, count in counts.items()},
                   path=_joined(path))

    @property
    def ends(self) -> tuple[str, str]:
        """Registers at the two ends of the critical path."""
        return self.path[0].name, self.path[-1].name

    def to_dict(self) -> dict[str, Any]:
        """Value as plain data."""
        return asdict(self)


def _joined(path: list[Mapping[str, Any]]) -> tuple[Step, ...]:
    """Return the steps of a path, with those of the same kind and name as one."""
    steps: list[Step] = []
    for part in path:
        step = Step(part["delay"], _kind(part), _name(part["to"]["cell"]))
        if steps and steps[-1].kind == step.kind and (
                steps[-1].name == step.name or step.kind == "carry"):
            step = Step(steps.pop().ns + step.ns, step.kind, step.name)
        # Inside a chain of carries the routing is a wire of the slice, and has no delay.
        if step.ns or step.kind not in ("routing", "carry"):
            steps.append(step)
    return tuple(Step(round(step.ns, 2), step.kind, step.name) for step in steps)


def _kind(part: Mapping[str, Any]) -> str:
    """Return what a part of a path is: of what kind the logic is depends on its output."""
    if part["type"] != "logic":
        return {"clk-to-q": "register", "source": "register"}.get(part["type"], part["type"])
    end = f"{part['to']['cell']} {part['to']['port']}"
    return next((kind for kind, pattern in _KINDS if pattern.search(end)), "LUT")


def _name(cell: str) -> str:
    """Return the name in the design that is nearest to a cell of the netlist."""
    return _MADE_UP.sub("", cell)
