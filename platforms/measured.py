# SPDX-License-Identifier: BSD-2-Clause
"""Measured cycles, read from tables of a page, and the estimates beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from golden.model import model_named
from golden.pages import table
from golden.pruning import PruningConfig

__all__ = ["Measured", "compared", "measured"]

#: What a table must have to be one of single images, with any selectors, or of the steady state.
_SINGLE = ("model", "selectors", "tokens", "cycles")
_STEADY = ("model", "configuration", "tokens", "batch", "frames", "last block", "bytes per cycle",
           "cycles an image", "first image, cycles")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One line of a table.

    Parameters
    ----------
    model, config
        Names.
    selectors
        What the page calls them, by their kind first; empty where only tokens are said.
    tokens
        At the start and after each selector.
    batch, last_block, bytes_per_cycle
        As the options of these names; the bandwidth may not be said.
    rounds
        Of the run.
    cycles
        Of a run of one image, from its start to its interrupt.
    first, steady
        Of the first round, from the start to its logits, and of an image in the middle of a run.
    """

    model: str
    config: str
    selectors: str = ""
    tokens: tuple[int, ...]
    batch: int = 1
    rounds: int = 1
    last_block: str = "all"
    bytes_per_cycle: float | None = None
    cycles: int | None = None
    first: int | None = None
    steady: int | None = None

    def pruning(self, blocks: tuple[int, ...]) -> PruningConfig:
        """Return selectors before ``blocks`` that leave these tokens."""
        kind = self.selectors.partition(" ")[0]
        if self.cycles is not None:
            # What a topk is to keep does not matter: the tokens are given.
            return PruningConfig(selector=kind, blocks=blocks,
                                 rates=(1.0,) * len(blocks) if kind == "topk" else None)
        if len(self.tokens) == 1:
            return PruningConfig(selector="none")
        others = model_named(self.model).special_tokens + 1
        return PruningConfig(selector="topk", blocks=blocks, package="merged",
                             counts=tuple(tokens - others for tokens in self.tokens[1:]))


def _number(text: str, what: str) -> int:
    """Return a positive whole number of a table, where commas are between thousands."""
    digits = text.strip().replace(",", "")
    if not digits.isdecimal() or not int(digits):
        raise ValueError(f"{what} is {text!r}, must be a positive whole number")
    return int(digits)


def _bandwidth(text: str) -> float:
    """Return the bytes per cycle of a table."""
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"a number of bytes per cycle is {text!r}, must be a number") from error


def _tokens(text: str, between: str) -> tuple[int, ...]:
    return tuple(_number(part, "a number of tokens") for part in text.split(between))


def _line(row: dict[str, str], config: str) -> Measured:
    if set(_SINGLE) <= set(row):
        return Measured(model=row["model"], config=config, selectors=row["selectors"],
                        tokens=_tokens(row["tokens"], ","),
                        cycles=_number(row["cycles"], "a number of cycles"))
    batch = _number(row["batch"], "a batch")
    return Measured(
        model=row["model"], config=row["configuration"], tokens=_tokens(row["tokens"], "/"),
        batch=batch, rounds=_number(row["frames"], "a number of frames") // batch,
        last_block=row["last block"], bytes_per_cycle=_bandwidth(row["bytes per cycle"]),
        first=_number(row["first image, cycles"], "a number of cycles"),
        steady=_number(row["cycles an image"], "a number of cycles"))


def measured(page: Path, config: str) -> list[Measured]:
    """Return what the tables on ``page`` say; ``config`` is that of tables which do not."""
    if not page.is_file():
        raise ValueError(f"{page} is no file, must be a page with a table of measured cycles")
    found: list[Measured] = []
    header: list[str] = []
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif not cells[0].startswith("-") and any(
                set(columns) <= set(header) for columns in (_SINGLE, _STEADY)):
            if len(cells) != len(header):
                raise ValueError(f"a line of the table on {page} has {len(cells)} cells, must have"
                                 f" {len(header)}")
            found.append(_line(dict(zip(header, cells, strict=True)), config))
    if not found:
        raise ValueError(f"{page} has no table of {', '.join(_SINGLE)} and none of"
                         f" {', '.join(_STEADY)}")
    return found


def _beside(cycles: int, estimated: float) -> tuple[str, str, str]:
    return f"{cycles:,}", f"{estimated:,.0f}", f"{estimated / cycles - 1:+.3%}"


def compared(rows: Sequence[Measured], estimate: Callable[[Measured], Sequence[float]]) -> str:
    """Return tables of what was measured and what is estimated.

    ``estimate`` gives the cycles of a single image, or of the first round and an image in the
    middle of a run.
    """
    single: list[Sequence[str]] = []
    steady: list[Sequence[str]] = []
    for row in rows:
        estimated = estimate(row)
        tokens = [row.model, row.config]
        if row.cycles is not None:
            single.append([*tokens, row.selectors, ", ".join(map(str, row.tokens)),
                           *_beside(row.cycles, estimated[0])])
        if row.first is not None and row.steady is not None:
            steady.append([*tokens, "/".join(map(str, row.tokens)), str(row.batch),
                           row.last_block, f"{row.bytes_per_cycle:g}",
                           *_beside(row.first, estimated[0]), *_beside(row.steady, estimated[1])])
    differences = ["measured", "estimated", "difference"]
    tables = []
    if single:
        tables.append(table(["model", "configuration", "selectors", "tokens", *differences],
                            single))
    if steady:
        tables.append(table(
            ["model", "configuration", "tokens", "batch", "last block", "bytes per cycle",
             "first round", "estimated", "difference", "an image", "estimated", "difference"],
            steady))
    return "\n\n".join(tables)
