# SPDX-License-Identifier: BSD-2-Clause
"""Points of the curve: the file that is shipped, what it makes, and every way to be wrong."""

from pathlib import Path

import pytest

from golden.tradeoff_points import load_points, parse_points
from golden.train_config import Stage, TrainError

SHIPPED = Path(__file__).parent.parent / "models" / "scenes" / "tradeoff.yaml"


def parse(**values):
    lines = {"model": "scenes", "weights": "a.pth", "kinds": "[topk, random]",
             "keep": "[[0.5, 0.25], [1, 5e-2]]",
             "stage": "{size: 120, steps: 10, batch: 4, rate: 1, blocks: [2, 3]}", **values}
    return parse_points("\n".join(f"{k}: {v}" for k, v in lines.items() if v), "x.yaml")


def test_shipped_points():
    points = load_points(SHIPPED)
    kinds = [point.stages[0].kind for point in points]
    for kind in ("threshold", "topk", "random"):
        assert kinds.count(kind) >= 5
    assert len({(p.stages[0].steps, p.stages[0].rate, p.stages[0].blocks) for p in points}) == 1


def test_a_point_for_each_kind_and_rates():
    points = parse(seed=3)
    assert [point.stages for point in points] == [
        (Stage(name=name, kind=kind, size=120, steps=10, batch=4, rate=1, blocks=(2, 3),
               keep=keep),)
        for name, kind, keep in (
            ("topk_05_025", "topk", (0.5, 0.25)), ("topk_1_005", "topk", (1, 0.05)),
            ("random_05_025", "random", (0.5, 0.25)), ("random_1_005", "random", (1, 0.05)))]
    assert {(point.seed, point.weights) for point in points} == {(3, "a.pth")}


@pytest.mark.parametrize(("values", "message"), [
    ({"kinds": None}, "x.yaml lacks kinds"),
    ({"weights": None}, "x.yaml lacks weights"),
    ({"stages": "[]"}, "x.yaml has 'stages', must have kinds, keep and stage"),
    ({"stage": "3"}, "stage of x.yaml is 3, must be names with values"),
    ({"stage": "{kind: topk}"}, "stage of x.yaml has 'kind', which every point has of its own"),
    ({"stage": "{size: 120}"}, "stage 1 of x.yaml lacks steps"),
    ({"kinds": "topk"}, "kinds of x.yaml is 'topk', must be a list of threshold, topk, random"),
    ({"kinds": "[]"}, r"kinds of x.yaml is \[\], must be a list of threshold"),
    ({"kinds": "[dense]"}, "kinds of x.yaml has 'dense', must have some of threshold, topk"),
    ({"kinds": "[topk, topk]"}, "kinds of x.yaml has 'topk', must have some of .*, each once"),
    ({"keep": "[0.5, 0.3]"}, r"keep of x.yaml is \[0.5, 0.3\], must be a list of lists"),
    ({"keep": "[]"}, r"keep of x.yaml is \[\], must be a list of lists"),
    ({"keep": "[[0.5, 0.3], [0.5, 0.3]]"}, r"keep of x.yaml has \[0.5, 0.3\] 2 times, must have"),
    ({"keep": "[[0.5]]"}, "has 1 values, must have one for each of its 2 blocks"),
    ({"keep": "[[0.5, 0.7]]"}, "keep rate 0.7 follows 0.5"),
    ({"keep": "[[0.5, [1]]]"}, r"keep of x.yaml is \[1\], must be a number"),
    ({"lr": 3}, "x.yaml has 'lr', must be one of model, seed")])
def test_bad_settings(values, message):
    with pytest.raises(TrainError, match=message):
        parse(**values)


def test_files_that_are_no_settings(tmp_path):
    with pytest.raises(TrainError, match="missing.yaml cannot be read: No such file"):
        load_points(tmp_path / "missing.yaml")
    with pytest.raises(TrainError, match="x.yaml is None, must be names with values"):
        parse_points("", "x.yaml")
