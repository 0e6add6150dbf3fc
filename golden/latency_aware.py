# SPDX-License-Identifier: BSD-2-Clause
"""Latency-aware search of selectors: before which blocks they stand, and what they keep."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from golden.latency import LatencyTable
from golden.model import ModelConfig
from golden.pruning import PruningConfig, segment_tokens

__all__ = ["ACCEPTED", "INACCURATE", "SLOWER", "Found", "SearchError", "SearchSettings", "Try",
           "Tune", "insert", "merge", "part_of_dense", "search"]

#: What becomes of a try.
ACCEPTED, INACCURATE, SLOWER = "accepted", "too inaccurate", "not faster"

#: Trains a network with selectors before these blocks that keep these parts of all patches for some
#: steps, from the network of the last try that was accepted; returns the accuracy, and the part
#: that each selector keeps indeed.
Tune = Callable[[tuple[int, ...], tuple[float, ...]], tuple[float, tuple[float, ...]]]

#: Numbers that differ by no more are equal: it is far less than one patch, or one image, makes.
_EPS = 1e-9


class SearchError(ValueError):
    """A search that cannot be."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """The bounds of a search.

    Parameters
    ----------
    table
        File of the latency table, see :mod:`golden.latency`.
    latency
        Where the search ends: latency as a part of that of the network without selectors.
    drop
        How much less accurate than the network without selectors a try may be, as a part of all
        images. There may be more bounds, each above the one before: the search goes through all
        blocks with the first, and once more with the next while the latency is not reached.
    rates
        What is tried at each block, as parts of all patches, from the largest.
    first
        The first block that may have a selector before it: HeatViT never prunes the first three.
    merge
        Neighbouring selectors whose rates differ by less are one stage.
    """

    table: str
    latency: float
    drop: tuple[float, ...]
    rates: tuple[float, ...]
    first: int = 1
    merge: float = 0.085

    def __post_init__(self) -> None:
        if not 0 < self.latency < 1:
            raise SearchError(f"latency is {self.latency:g}, must be above 0 and below 1, a part of"
                              " that of the dense network")
        if self.first < 1:
            raise SearchError(f"first is {self.first}, must be at least 1: block 0 has no block"
                              " before it")
        if not 0 <= self.merge <= 1:
            raise SearchError(f"merge is {self.merge:g}, must be from 0 to 1")
        _check_list("drop", self.drop, "from 0 to 1, each above the one before",
                    lambda before, value: 0 <= value <= 1 and value > before, before=-1)
        _check_list("rates", self.rates, "above 0 and below 1, each below the one before",
                    lambda before, value: 0 < value < before, before=1)

    def check(self, model: ModelConfig, kind: str, table: LatencyTable) -> None:
        """Raise an error unless ``model`` has the blocks and ``table`` says what they cost."""
        if self.first >= model.depth:
            raise SearchError(f"first is {self.first}, must be at most {model.depth - 1}, the last"
                              f" block of {model.name}")
        if table.model != model.name:
            raise SearchError(f"latency table {self.table} is of {table.model}, must be of"
                              f" {model.name}")
        if kind not in table.selectors:
            raise SearchError(f"latency table {self.table} has no selector {kind}, must have it")


def _check_list(name: str, values: Sequence[float], must: str,
                follows: Callable[[float, float], bool], before: float) -> None:
    if not values:
        raise SearchError(f"{name} has 0 values, must have at least 1")
    for value in values:
        if not follows(before, value):
            raise SearchError(f"{name} has {value:g}, must be {must}")
        before = value


@dataclass(frozen=True, kw_only=True)
class Try:
    """One try of a search.

    Parameters
    ----------
    block, rate
        What is new in it: a selector before ``block`` that keeps ``rate``.
    bound
        How much less accurate it may be.
    blocks, keep
        All selectors of it.
    latency
        As a part of that of the dense network, of the selectors that would stay.
    accuracy, kept
        What was measured; None and empty if it was not trained, as ``keep`` says already that it
        is not faster.
    verdict
        ``accepted``, ``too inaccurate``, or ``not faster`` than what was accepted before, or than
        without its new selector.
    """

    block: int
    rate: float
    bound: float
    blocks: tuple[int, ...]
    keep: tuple[float, ...]
    latency: float
    accuracy: float | None = None
    kept: tuple[float, ...] = ()
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found.

    Parameters
    ----------
    blocks, keep
        The selectors, merged; there is none if no try was accepted.
    latency
        As a part of that of the dense network.
    met
        Whether that is the latency that was wanted, or less.
    """

    blocks: tuple[int, ...]
    keep: tuple[float, ...]
    latency: float
    met: bool


def insert(keep: Mapping[int, float], block: int, rate: float) -> dict[int, float]:
    """Return selectors, by block what they keep, with one before ``block`` that keeps ``rate``.

    Rates are parts of all patches of the image, so the selectors behind it keep no more than that.
    """
    return {at: min(part, rate) if at > block else part
            for at, part in sorted({**keep, block: rate}.items())}


def merge(keep: Mapping[int, float], difference: float) -> dict[int, float]:
    """Return the selectors that stay where neighbours are one stage: the first of each.

    A selector belongs to a stage if it keeps less than ``difference`` less than the first of it.
    The stage keeps what its first selector does, so no block has fewer patches than before.
    """
    stages: dict[int, float] = {}
    for block, part in sorted(keep.items()):
        if not stages or [*stages.values()][-1] - part >= difference - _EPS:
            stages[block] = part
    return stages


def part_of_dense(table: LatencyTable, model: ModelConfig, kind: str, package: str,
                  keep: Mapping[int, float]) -> float:
    """Return the latency of selectors as a part of that of the network without them.

    ``keep`` has by block the part of all patches that is kept, the mean over images: it is the
    latency of an image that keeps as many.
    """
    if not keep:
        return 1.0
    pruning = PruningConfig(selector=kind, blocks=tuple(keep), package=package,
                            rates=tuple(keep.values()) if kind == "topk" else None)
    tokens = segment_tokens(model, package, [part * model.grid ** 2 for part in keep.values()])
    return table.network(tokens.tolist(), pruning) / table.dense


def _verdict(one: Try, accuracy: float, limit: float) -> str:
    """Return that of a measured try; accuracy of the dense network, limit of the latency."""
    assert one.accuracy is not None
    if accuracy - one.accuracy > one.bound + _EPS:
        return INACCURATE
    return ACCEPTED if one.latency < limit - _EPS else SLOWER


def search(settings: SearchSettings, table: LatencyTable, model: ModelConfig, *, kind: str,
           package: str, accuracy: float, tune: Tune, report: Callable[[Try], None]) -> Found:
    """Find selectors with which the network is as fast as wanted, and accurate enough.

    From the last block to the first a selector is inserted, and its rate lowered while the loss of
    accuracy is within the bound. A patch that is dropped before a block is missing in that block
    and all behind it, so the last block needs the fewest, and costs the least accuracy. Therefore
    a rate that was too low for a block is not tried before earlier ones: since rates are parts of
    all patches, that network would keep no more in any block than the one that was rejected.

    Latency is that of the selectors that would stay after :func:`merge`. Of each the larger of two
    parts counts, what it is to keep and what it kept when it was measured: longer training brings
    it to what it is to keep. A try that would not be faster is not trained, and one that turns out
    not to be is not accepted.

    Parameters
    ----------
    settings
        Bounds.
    table, model
        Latency of the blocks of the network.
    kind, package
        Of the selectors, as in :class:`golden.pruning.PruningConfig`.
    accuracy
        That of the network without selectors.
    tune
        Trains and measures a try.
    report
        Called with each try when its verdict is there.
    """
    keep: dict[int, float] = {}
    counted: dict[int, float] = {}  # of each the part that its latency is read at
    now = 1.0

    def latency(keep: Mapping[int, float], counted: Mapping[int, float]) -> float:
        stay = merge(keep, settings.merge)
        return part_of_dense(table, model, kind, package, {at: counted[at] for at in stay})

    def limit(keep: Mapping[int, float], counted: Mapping[int, float], block: int) -> float:
        """Return what a try must be faster than: what was accepted, and itself without its new
        selector, for the others may have become faster while that keeps all.
        """
        others = {at: part for at, part in keep.items() if at != block}
        return min(now, latency(others, counted))

    def found(met: bool) -> Found:
        stay = merge(keep, settings.merge)
        return Found(blocks=tuple(stay), keep=tuple(stay.values()), latency=now, met=met)

    for bound in settings.drop:
        too_low = 0.0
        for block in reversed(range(settings.first, model.depth)):
            for rate in settings.rates:
                # One that keeps what comes to it does nothing.
                comes = min((part for at, part in keep.items() if at <= block), default=1.0)
                if rate >= comes or rate <= too_low:
                    continue
                wanted = insert(keep, block, rate)
                counts = insert(counted, block, rate)
                one = Try(block=block, rate=rate, bound=bound, blocks=tuple(wanted),
                          keep=tuple(wanted.values()), latency=latency(wanted, counts),
                          verdict=SLOWER)
                if one.latency < limit(wanted, counts, block) - _EPS:
                    reached, kept = tune(one.blocks, one.keep)
                    counts = {at: max(wanted[at], part)
                              for at, part in zip(wanted, kept, strict=True)}
                    one = replace(one, latency=latency(wanted, counts), accuracy=reached, kept=kept)
                    one = replace(one, verdict=_verdict(one, accuracy,
                                                        limit(wanted, counts, block)))
                report(one)
                if one.verdict == INACCURATE:
                    too_low = rate
                    break
                if one.verdict == ACCEPTED:
                    keep, counted, now = wanted, counts, one.latency
                    if now <= settings.latency + _EPS:
                        return found(met=True)
    return found(met=False)
