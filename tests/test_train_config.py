# SPDX-License-Identifier: BSD-2-Clause
"""Settings of trainings: the file that is shipped, defaults, and every way to be wrong."""

from dataclasses import replace
from pathlib import Path

import pytest

from golden.latency_aware import SearchSettings
from golden.model import MODELS, ModelError
from golden.pruning import PruningConfig
from golden.train_config import Stage, TrainConfig, TrainError, load_config, parse_config

SHIPPED = Path(__file__).parent.parent / "models" / "scenes" / "train.yaml"
STAGE = "{name: dense, size: 120, steps: 10, batch: 4, rate: 1e-3}"

SELECT = ("{name: pruned, kind: threshold, size: 120, steps: 10, batch: 4, rate: 1, blocks: [2, 3],"
          " keep: [0.5, 3e-1]}")


SEARCH = ("{name: found, kind: topk, size: 120, steps: 10, batch: 4, rate: 1, search: {table:"
          " t.json, latency: 0.5, drop: [1e-2], rates: [0.7, 0.5], first: 2}}")

#: The search of that stage.
BOUNDS = SearchSettings(table="t.json", latency=0.5, drop=(0.01,), rates=(0.7, 0.5), first=2)

#: A stage whose selectors are those that another one says.
BARE = "{name: bare, kind: threshold, size: 120, steps: 10, batch: 4, rate: 1}"


def parse(stages=f"[{STAGE}]", **values):
    lines = {"model": "scenes", "stages": stages, **values}
    return parse_config("\n".join(f"{k}: {v}" for k, v in lines.items()), "x.yaml")


def stage(**values):
    return Stage(**{"name": "dense", "size": 120, "steps": 10, "batch": 4, "rate": 1e-3, **values})


def test_shipped_settings():
    config = load_config(SHIPPED)
    assert config.model == MODELS["scenes"]
    assert [stage.size for stage in config.stages[:2]] == [48, 120]
    names = [stage.name for stage in config.stages]
    for kind in ("topk", "threshold"):
        integers = names.index(f"{kind}_int8")
        assert config.source(integers) == kind and config.stages[integers].quantise
        assert {config.stages[i].kind for i in (names.index(kind), integers)} == {kind}
        assert config.teacher(integers) == "dense"


def test_defaults():
    assert parse() == TrainConfig(model=MODELS["scenes"], stages=(stage(),))
    assert parse(seed=3, threads=2).seed == 3


def test_stages_with_selectors():
    last = SELECT.replace("pruned", "k").replace("threshold", "topk")
    found = parse(f"[{STAGE}, {SELECT}, {last}]")
    dense, pruned, top = found.stages
    assert dense.pruning is None and not dense.distils and pruned.distils
    assert pruned.pruning == PruningConfig(selector="threshold", blocks=(2, 3))
    assert top.pruning == PruningConfig(selector="topk", blocks=(2, 3), rates=(0.5, 0.3))
    assert [replace(top, kind=kind).pruning == top.pruning for kind in ("random", "oracle")
            ] == [True, True]
    assert [found.source(i) for i in range(3)] == [None, "dense", "pruned"]
    assert [found.teacher(i) for i in range(3)] == [None, "dense", "dense"]
    assert parse(f"[{SELECT}]", weights="a.pth").weights == "a.pth"
    assert parse(f"[{SELECT[:-1]}, loss_distil: 0, loss_tokens: 0}}]").teacher(0) is None


def test_stages_with_a_search():
    again = BARE.replace("bare", "again").replace("threshold", "topk")
    config = parse(f"[{STAGE}, {SEARCH}, {BARE}, {again}, {SELECT[:-1]}, start: found}}]")
    _, found, bare, last, own = config.stages
    assert found.search == BOUNDS and found.pruning is None and found.distils
    assert bare.search is None and bare.blocks == ()
    assert [config.selected_by(i) for i in range(1, 5)] == [found, found, found, own]
    assert config.source(2) == "found" and config.teacher(2) == "dense"
    # A search may begin with weights, and selectors may be those of any stage that says them.
    assert parse(f"[{SEARCH}]", weights="a.pth").source(0) is None
    stages = parse(f"[{STAGE}, {SELECT}, {BARE}]")
    assert stages.selected_by(2) is stages.stages[1]


def test_number_without_a_point():
    """YAML 1.1, which PyYAML reads, takes 1e-3 for text."""
    assert parse().stages[0].rate == 1e-3
    config = parse("[{name: a, size: 120, steps: 1e3, batch: 4, rate: 1}]")
    assert config.stages[0].steps == 1000 and type(config.stages[0].steps) is int


@pytest.mark.parametrize(("values", "message"), [
    ({"kind": "sparse"},
     "kind of stage dense is 'sparse', must be one of dense, threshold, topk, random, oracle"),
    ({"blocks": (2,)}, r"blocks of stage dense is \[2\], must not be there in a dense stage"),
    ({"keep": (0.5,)}, r"keep of stage dense is \[0.5\], must not be there in a dense stage"),
    ({"kind": "topk", "blocks": (2, 3), "keep": (0.5,)},
     "keep of stage dense has 1 values, must have one for each of its 2 blocks"),
    ({"kind": "threshold", "keep": (0.5,)},
     "keep of stage dense has 1 values, must have one for each of its 0 blocks"),
    ({"search": BOUNDS}, "stage dense of kind dense has a search, must be of kind threshold or"),
    ({"search": BOUNDS, "kind": "oracle"}, "stage dense of kind oracle has a search"),
    ({"search": BOUNDS, "kind": "topk", "blocks": (2,), "keep": (0.5,)},
     r"blocks of stage dense is \[2\], must not be there in a stage with a search"),
    ({"kind": "threshold", "blocks": (2, 3), "keep": (0.5, 0.6)},
     "stage dense: keep rate 0.6 follows 0.5, must be at most that"),
    ({"kind": "topk", "blocks": (2,), "keep": (0.5,), "package": "none"},
     "stage dense: package is 'none', must be one of each, merged"),
    ({"loss_ratio": -1.0}, "loss_ratio of stage dense is -1.0, must be at least 0"),
    ({"quiet": 1.5}, "quiet of stage dense is 1.5, must be from 0 to 1"),
    ({"name": "../up"}, "name of a stage is '../up', must be letters"),
    ({"precision": "int8"}, "precision of stage dense is 'int8', must be one of float32, bfloat16"),
    ({"steps": 0}, "steps of stage dense is 0, must be at least 1"),
    ({"batch": 0}, "batch of stage dense is 0, must be at least 1"),
    ({"warmup": 10}, "warmup of stage dense is 10, must be from 0 to 9"),
    ({"rate": -1.0}, "rate of stage dense is -1.0, must be at least 0"),
    ({"last": 1.5}, "last of stage dense is 1.5, must be from 0 to 1"),
    ({"smoothing": 2.0}, "smoothing of stage dense is 2.0, must be from 0 to 1")])
def test_bad_stages(values, message):
    with pytest.raises(TrainError, match=message):
        stage(**values)


@pytest.mark.parametrize(("values", "message"), [
    ({"stages": "[]"}, "there are 0 stages, must be at least 1"),
    ({"stages": f"[{STAGE}, {STAGE}]"}, "2 stages are called dense, must be 1"),
    ({"stages": STAGE}, r"stages of x.yaml is .*, must be a list"),
    ({"stages": "[3]"}, "stage 1 of x.yaml is 3, must be names with values"),
    ({"stages": "[{name: a, size: 120, steps: 1, batch: 4}]"}, "stage 1 of x.yaml lacks rate"),
    ({"stages": "[{name: a, size: 120, steps: ten, batch: 4, rate: 1}]"},
     "steps of stage 1 of x.yaml is 'ten', must be a whole number"),
    ({"stages": "[{name: a, size: 120, steps: 1.5, batch: 4, rate: 1}]"},
     "steps of stage 1 of x.yaml is 1.5, must be a whole number"),
    ({"stages": "[{name: a, size: 120, steps: 10, batch: 4, rate: true}]"},
     "rate of stage 1 of x.yaml is True, must be a number"),
    ({"stages": "[{name: a, size: 120, steps: 10, batch: 4, rate: .nan}]"},
     "rate of stage 1 of x.yaml is nan, must be a number"),
    ({"stages": "[{name: 3, size: 120, steps: 10, batch: 4, rate: 1}]"},
     "name of stage 1 of x.yaml is 3, must be text"),
    ({"stages": "[{name: a, size: 50, steps: 10, batch: 4, rate: 1}]"},
     "size of stage a is 50, must be a multiple of the patch, 12, up to 120"),
    ({"stages": "[{name: a, size: 132, steps: 10, batch: 4, rate: 1}]"}, "size of stage a is 132"),
    ({"lr": 1}, "x.yaml has 'lr', must be one of model, seed"),
    ({"data": "cats"}, "data is 'cats', must be scenes"),
    ({"functions": "relu"}, "functions is 'relu', must be one of exact, heatvit, ibert"),
    ({"model": 7}, "model of x.yaml is 7, must be text"),
    ({"threads": 0}, "threads is 0, must be at least 1"),
    ({"seed": -1}, "seed is -1, must be at least 0"),
    ({"seed": 1 << 63}, "seed is 9223372036854775808, must be less than 9223372036854775808"),
    ({"stages": f"[{SELECT}]"},
     "there are 0 dense stages before pruned, must be 1 for it to learn from, or weights"),
    ({"stages": "[{name: a, size: 120, steps: 1, batch: 4, rate: 1, quantise: true,"
      " shrink: 0.5}]"},
     "shrink of stage a is 0.5, must be 0 in a stage that quantises"),
    ({"stages": f"[{STAGE}, {SELECT.replace('120', '48')}]"},
     "size of stage pruned is 48, must be 120 in a stage with selectors"),
    ({"stages": f"[{STAGE}, {SELECT.replace('2, 3', '2, 6')}]"},
     "stage pruned: a selector is at block 6, must be at block 5 or earlier"),
    ({"stages": f"[{STAGE}, {BARE}]"},
     "there are 0 blocks with a selector in stage bare, must be at least 1, or in the stage that"),
    ({"stages": f"[{STAGE}, {SELECT}, {SEARCH}]"},
     "stage found with a search begins with pruned, must begin with a dense stage"),
    ({"stages": f"[{STAGE}, {SEARCH.replace('120', '48')}]"},
     "size of stage found is 48, must be 120 in a stage with selectors"),
    ({"stages": f"[{SEARCH}]"}, "there are 0 dense stages before found, must be 1"),
    ({"stages": f"[{STAGE}, {SEARCH.replace('0.7, 0.5', '0.5, 0.7')}]"},
     "search of stage 2 of x.yaml: rates has 0.7, must be above 0"),
    ({"stages": f"[{STAGE}, {SEARCH.replace('latency: 0.5, ', '')}]"},
     "search of stage 2 of x.yaml lacks latency"),
    ({"stages": f"[{STAGE}, {SELECT.replace('[2, 3]', '2')}]"},
     "blocks of stage 2 of x.yaml is 2, must be a list"),
    ({"stages": f"[{STAGE}, {SELECT.replace('2, 3', '2, x')}]"},
     "blocks of stage 2 of x.yaml is 'x', must be a whole number"),
    ({"stages": f"[{STAGE}, {SELECT[:-1]}, start: later}}]"},
     "start of stage pruned is 'later', must be a stage before it: dense"),
    ({"stages": f"[{STAGE[:-1]}, start: dense}}]"},
     "start of stage dense is 'dense', must be a stage before it: there is none")])
def test_bad_settings(values, message):
    with pytest.raises(TrainError, match=message):
        parse(**values)


def test_unknown_model():
    with pytest.raises(ModelError, match="no model is called 'vit'"):
        parse(model="vit")


@pytest.mark.parametrize(("text", "message"), [
    ("", "x.yaml is None, must be names with values"),
    ("- 1", r"x.yaml is \[1\], must be names with values"),
    ("model: scenes", "x.yaml lacks stages"),
    ("model: {", "x.yaml is no YAML at line 1"),
    ("a: !!python/name:os.system", "x.yaml is no YAML at line 1"),
    ("a: \x01", r"^x.yaml is no YAML: special characters are not allowed$"),
    ("a: 2020-13-45", "^x.yaml is no YAML: month must be in"),
    (f"model: scenes\nseed: {'9' * 400}\nstages: []", "seed of x.yaml is 9+, must be a whole")])
def test_bad_text(text, message):
    with pytest.raises(TrainError, match=message):
        parse_config(text, "x.yaml")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(TrainError, match="missing.yaml cannot be read: No such file"):
        load_config(tmp_path / "missing.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TrainError, match="bytes.yaml cannot be read"):
        load_config(tmp_path / "bytes.yaml")
