# SPDX-License-Identifier: BSD-2-Clause
"""The latency-aware search: every rule of it, and what it finds for networks that are formulae."""

from dataclasses import replace
from itertools import pairwise

import pytest

from golden.latency import LatencyTable
from golden.latency_aware import (
    ACCEPTED,
    INACCURATE,
    SLOWER,
    SearchError,
    SearchSettings,
    insert,
    merge,
    part_of_dense,
    search,
)
from golden.model import MODELS

#: Of 64 patches, of which most parts are whole numbers.
MODEL = replace(MODELS["scenes"], name="scenes64", image_size=96)

#: A block takes 100 cycles and 10 for each token, all else of the dense network 500.
TABLE = LatencyTable(model=MODEL.name, config="tiny", clock_mhz=100, dense=500 + 6 * 750,
                     selectors={"topk": 10, "threshold": 60}, blocks=((5, 150), (65, 750)))

SETTINGS = SearchSettings(table="t.json", latency=0.5, drop=(0.01,), rates=(0.8, 0.6, 0.4))

DENSE = 0.98


@pytest.fixture(autouse=True)
def known():
    """Tables are of networks that have a name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, MODEL.name, MODEL)
        yield


def run(settings=SETTINGS, *, loss=lambda keep: 0.0, kept=lambda keep: keep, kind="topk",
        model=MODEL, table=TABLE):
    """Search where a network loses ``loss`` of its accuracy; return what is found, and tries."""
    tries, tuned = [], []

    def tune(blocks, keep):
        tuned.append((blocks, keep))
        return DENSE - loss(dict(zip(blocks, keep, strict=True))), tuple(kept(keep))

    found = search(settings, table, model, kind=kind, package="merged", accuracy=DENSE, tune=tune,
                   report=tries.append)
    assert tuned == [(one.blocks, one.keep) for one in tries if one.accuracy is not None]
    return found, tries


def steps(tries):
    return [(one.block, one.rate, one.verdict) for one in tries]


def one_percent(keep):
    """Lose 1 % of the images for all patches that are missing in the whole of block 5, 2 % for
    those in blocks 4 and 5, and so on.
    """
    parts = [1.0, *keep.values()]
    return sum((before - after) * 0.01 * (MODEL.depth - block)
               for block, (before, after) in zip(keep, pairwise(parts), strict=True))


def test_selectors_behind_keep_no_more():
    assert insert({}, 3, 0.5) == {3: 0.5}
    assert insert({4: 0.6, 5: 0.3}, 3, 0.5) == {3: 0.5, 4: 0.5, 5: 0.3}
    assert list(insert({4: 0.6, 5: 0.3}, 3, 0.8)) == [3, 4, 5]
    assert insert({3: 0.8, 5: 0.6}, 5, 0.4) == {3: 0.8, 5: 0.4}
    assert insert({3: 0.8, 5: 0.6}, 4, 0.7) == {3: 0.8, 4: 0.7, 5: 0.6}


def test_only_the_first_of_a_stage_stays():
    assert merge({}, 0.085) == {}
    assert merge({2: 0.7, 3: 0.65, 4: 0.5, 5: 0.5}, 0.085) == {2: 0.7, 4: 0.5}
    assert merge({2: 0.7, 3: 0.5}, 0.0) == {2: 0.7, 3: 0.5}
    # By the difference to the first: a slow slide is not one stage.
    assert merge({1: 0.70, 2: 0.65, 3: 0.60, 4: 0.55}, 0.085) == {1: 0.70, 3: 0.60}
    # 8.5 % is not less than 8.5 %, also where floats say it is.
    assert merge({1: 0.585, 2: 0.5}, 0.085) == {1: 0.585, 2: 0.5}


def test_latency_is_that_of_the_table():
    assert part_of_dense(TABLE, MODEL, "topk", "merged", {}) == 1
    # 34 tokens in three blocks, 18 in one.
    assert part_of_dense(TABLE, MODEL, "topk", "merged", {2: 0.5, 5: 0.25}) == pytest.approx(
        (5000 + 2 * 10 - 3 * 310 - 470) / 5000)
    assert part_of_dense(TABLE, MODEL, "threshold", "each", {2: 0.5, 5: 0.25}) == pytest.approx(
        (5000 + 2 * 60 - 3 * 310 - 460) / 5000)


def test_from_the_last_block_to_the_first_until_it_is_fast_enough():
    found, tries = run(replace(SETTINGS, latency=0.8))
    assert steps(tries) == [(block, rate, ACCEPTED) for block in (5, 4, 3)
                            for rate in (0.8, 0.6, 0.4)]
    assert (tries[3].blocks, tries[3].keep) == ((4, 5), (0.8, 0.4))
    assert (tries[8].blocks, tries[8].keep) == ((3, 4, 5), (0.4, 0.4, 0.4))
    latencies = [one.latency for one in tries]
    assert latencies == sorted(latencies, reverse=True) and latencies[-2] > 0.8
    # Three selectors that keep as much are one stage: 27.6 tokens in three blocks.
    assert (found.blocks, found.keep, found.met) == ((3,), (0.4,), True)
    assert found.latency == latencies[-1] == pytest.approx((5010 - 3 * 374) / 5000)


def test_latency_of_a_stage_is_that_of_its_first_selector():
    settings = replace(SETTINGS, rates=(0.8, 0.75), latency=0.01, first=4)
    found, tries = run(settings)
    assert [(one.keep, one.verdict) for one in tries] == [
        ((0.8,), ACCEPTED), ((0.75,), ACCEPTED), ((0.8, 0.75), ACCEPTED), ((0.75, 0.75), ACCEPTED)]
    assert tries[2].latency == part_of_dense(TABLE, MODEL, "topk", "merged", {4: 0.8})
    assert (found.blocks, found.keep, found.met) == ((4,), (0.75,), False)
    # Where stages may not be merged both selectors stay.
    assert run(replace(settings, merge=0.0))[1][2].latency == part_of_dense(
        TABLE, MODEL, "topk", "merged", {4: 0.8, 5: 0.75})


def test_first_blocks_are_never_pruned():
    found, tries = run(replace(SETTINGS, first=4))
    assert {one.block for one in tries} == {4, 5}
    assert (found.blocks, found.met) == ((4,), False)


def test_rate_falls_while_the_accuracy_is_within_the_bound():
    found, tries = run(loss=one_percent)
    assert steps(tries) == [
        (5, 0.8, ACCEPTED), (5, 0.6, ACCEPTED), (5, 0.4, ACCEPTED),
        (4, 0.8, ACCEPTED), (4, 0.6, ACCEPTED), (4, 0.4, INACCURATE),
        # 0.4 was too low for block 4, and is not tried before block 3.
        (3, 0.8, INACCURATE)]
    # Without 0.8 before block 3 nothing is left to be tried before it.
    assert tries[-1].keep == (0.8, 0.6, 0.4)
    assert [round(one.accuracy, 4) for one in tries] == [
        0.978, 0.976, 0.974, 0.972, 0.97, 0.968, 0.968]
    assert (found.blocks, found.keep, found.met) == ((4, 5), (0.6, 0.4), False)


def test_next_bound_goes_on_from_what_was_found():
    found, tries = run(replace(SETTINGS, drop=(0.01, 0.016), latency=0.8), loss=one_percent)
    first = [one for one in tries if one.bound == 0.01]
    assert tries[:len(first)] == first == run(loss=one_percent)[1]
    assert steps(tries[len(first):]) == [(4, 0.4, ACCEPTED), (3, 0.8, ACCEPTED),
                                         (3, 0.6, ACCEPTED), (3, 0.4, INACCURATE),
                                         (2, 0.8, INACCURATE)]
    assert (found.blocks, found.keep, found.met) == ((3, 4), (0.6, 0.4), False)
    # It is not needed where the latency is met with the first.
    assert run(replace(SETTINGS, drop=(0.01, 0.016), latency=0.88),
               loss=one_percent)[1] == first[:5]


def test_next_bound_inserts_no_selector_that_keeps_what_comes():
    """Behind a selector that keeps 0.6 there is none that keeps 0.8 or 0.6."""
    settings = replace(SETTINGS, drop=(0.01, 0.02), first=4)
    # One block does not save what a selector costs.
    found, tries = run(settings, loss=lambda keep: 0.015 if keep[4] < 0.6 else 0,
                       table=replace(TABLE, selectors={"topk": 400}))
    assert steps(tries) == [(5, 0.8, SLOWER), (5, 0.6, SLOWER), (5, 0.4, SLOWER),
                            (4, 0.8, SLOWER), (4, 0.6, ACCEPTED), (4, 0.4, INACCURATE),
                            (5, 0.4, SLOWER), (4, 0.4, ACCEPTED)]
    assert tries[6].keep == (0.6, 0.4)
    assert found.blocks == (4,) and found.keep == (0.4,)


def test_nothing_found():
    found, tries = run(loss=lambda keep: 0.5)
    assert steps(tries) == [(5, 0.8, INACCURATE)]
    assert (found.blocks, found.keep, found.latency, found.met) == ((), (), 1.0, False)


def test_what_cannot_be_faster_is_not_trained():
    """A selector that costs 200 cycles is not worth it for what it saves in one block."""
    table = replace(TABLE, selectors={"topk": 200})
    found, tries = run(replace(SETTINGS, first=4), table=table)
    assert [(one.block, one.rate, one.verdict, one.accuracy) for one in tries] == [
        (5, 0.8, SLOWER, None), (5, 0.6, ACCEPTED, DENSE), (5, 0.4, ACCEPTED, DENSE),
        # Two selectors cost 400, and save 118 + 374.
        (4, 0.8, SLOWER, None), (4, 0.6, ACCEPTED, DENSE), (4, 0.4, ACCEPTED, DENSE)]
    assert tries[3].latency > tries[2].latency == pytest.approx((5200 - 374) / 5000)
    assert found.blocks == (4,)


def test_latency_counts_what_was_kept():
    """A selector that does not come down to its rate is as slow as it is, and is left where it
    was.
    """
    found, tries = run(replace(SETTINGS, first=4, drop=(0.01,)),
                       kept=lambda keep: [max(0.7, part) for part in keep])
    assert steps(tries) == [(5, 0.8, ACCEPTED), (5, 0.6, ACCEPTED), (5, 0.4, SLOWER),
                            (4, 0.8, ACCEPTED), (4, 0.6, ACCEPTED), (4, 0.4, SLOWER)]
    assert tries[2].accuracy == DENSE and tries[2].kept == (0.7,)
    assert (found.blocks, found.keep) == ((4,), (0.6,))
    assert found.latency == part_of_dense(TABLE, MODEL, "topk", "merged", {4: 0.7})
    # One that keeps less is not faster than it is to be.
    few = run(replace(SETTINGS, first=4), kept=lambda keep: [0.1 for _ in keep])[0]
    assert few.latency == part_of_dense(TABLE, MODEL, "topk", "merged", {4: 0.4})


def test_selector_that_drops_nothing_is_not_accepted():
    """Not even if it is faster than before, as another selector keeps less than it did."""
    measured = {(0.8,): (0.9,), (0.6,): (0.8,), (0.8, 0.6): (1.0, 0.6), (0.6, 0.6): (1.0, 0.6)}
    found, tries = run(replace(SETTINGS, rates=(0.8, 0.6), first=4, merge=0.0), kept=measured.get)
    assert steps(tries) == [(5, 0.8, ACCEPTED), (5, 0.6, ACCEPTED), (4, 0.8, SLOWER),
                            (4, 0.6, SLOWER)]
    assert tries[2].latency < tries[1].latency
    assert (found.blocks, found.keep) == ((5,), (0.6,))


def test_bound_is_allowed():
    """A loss of just what is allowed is accepted, also where floats say it is more."""
    assert DENSE - (DENSE - 0.01) > 0.01
    assert run(replace(SETTINGS, first=5), loss=lambda keep: 0.01)[1][0].verdict == ACCEPTED


@pytest.mark.parametrize(("values", "message"), [
    ({"latency": 1.0}, "latency is 1, must be above 0 and below 1"),
    ({"latency": 0.0}, "latency is 0, must be above 0 and below 1"),
    ({"first": 0}, "first is 0, must be at least 1"),
    ({"merge": 8.5}, "merge is 8.5, must be from 0 to 1"),
    ({"drop": ()}, "drop has 0 values, must have at least 1"),
    ({"drop": (0.02, 0.01)}, "drop has 0.01, must be from 0 to 1, each above the one before"),
    ({"drop": (2.0,)}, "drop has 2, must be from 0 to 1"),
    ({"rates": ()}, "rates has 0 values, must have at least 1"),
    ({"rates": (0.5, 0.7)}, "rates has 0.7, must be above 0 and below 1, each below the one"),
    ({"rates": (1.0, 0.7)}, "rates has 1, must be above 0 and below 1"),
    ({"rates": (0.5, 0.0)}, "rates has 0, must be above 0 and below 1")])
def test_bad_settings(values, message):
    with pytest.raises(SearchError, match=message):
        replace(SETTINGS, **values)


@pytest.mark.parametrize(("model", "kind", "values", "message"), [
    (MODEL, "topk", {"first": 6}, "first is 6, must be at most 5, the last block of scenes"),
    (MODELS["deit_tiny"], "topk", {}, "latency table t.json is of scenes64, must be of deit_tiny"),
    (MODEL, "none", {}, "latency table t.json has no selector none, must have it")])
def test_what_does_not_fit(model, kind, values, message):
    with pytest.raises(SearchError, match=message):
        replace(SETTINGS, **values).check(model, kind, TABLE)


def test_what_fits():
    replace(SETTINGS, first=5).check(MODEL, "threshold", TABLE)
