# SPDX-License-Identifier: BSD-2-Clause
"""Comparison of recordings with stages: complete, exact, and it says where they differ."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from golden.images import calibration_frames
from golden.model import FloatViT, model_named
from golden.program import PassKind, Program, expected_rows, expected_words, tokens_of
from golden.pruning import PruningConfig
from golden.quantize import quantize
from golden.synthetic import synthetic
from golden.synthetic_selector import synthetic_selectors
from rtl.config import named
from sim.compare import (
    Comparison,
    Mismatch,
    compare,
    compare_output,
    compare_register,
    compare_run,
    compare_selections,
)
from sim.device import Result, Selections
from sim.workload import Workload

TOPK = PruningConfig(selector="topk", blocks=(1,), counts=(4,))
KEEP_ALL = PruningConfig(selector="topk", blocks=(1,), counts=(9,))
THRESHOLD = PruningConfig(selector="threshold", blocks=(1,), package="merged")
CASES = {"tiny": ("tiny_test", "tiny", None), "small": ("small_test", "small", None),
         "topk": ("tiny_test", "tiny", TOPK), "all": ("tiny_test", "tiny", KEEP_ALL),
         "threshold": ("tiny_test", "tiny", THRESHOLD), "cls": ("small_test", "small", None)}


@pytest.fixture(scope="module", params=CASES)
def workload(request: pytest.FixtureRequest) -> Workload:
    name, config, pruning = CASES[request.param]
    model = model_named(name)
    frames = calibration_frames(model.image_size)
    twin = FloatViT(model, synthetic(model, 0))
    selectors = (synthetic_selectors(twin, pruning.blocks, 0)
                 if pruning is not None and pruning.selector == "threshold" else [])
    qvit = quantize(twin, frames, weights="synthetic", pruning=pruning, selectors=selectors)
    return Workload(qvit, named(config), frames[0],
                    last_block="cls" if request.param == "cls" else "all")


def selections(workload: Workload) -> Selections:
    """What the registers of a correct accelerator would show."""
    model, stages = workload.qvit.model, workload.expected[2]
    dropped = np.full(model.tokens, 15)
    kept = stages["selector0.kept"]
    dropped[model.special_tokens:] = 0
    dropped[model.special_tokens + kept] = 15
    return Selections((int(stages["selector0.tokens"][0]),), (len(kept),), dropped)


def selected(stages: dict) -> dict:
    """What a correct accelerator would show of its selector."""
    rows, keep = stages["selector0.rows"], stages["selector0.keep"]
    # Before and after the patches stay special and package tokens.
    stays = np.ones(len(rows), np.int64)
    stays[1:1 + len(keep)] = keep
    share = stages["selector0.share"]
    # The first share comes last.
    order = np.roll(np.arange(len(share)), -1)
    streams = {"scan": {"tap_scan_row": rows, "tap_scan_keep": stays},
               "weight": {"tap_weight": stages["selector0.weight"]},
               "share": {"tap_share_index": order, "tap_share": share[order]},
               "score": {"tap_score_row": np.zeros(0, int), "tap_score": np.zeros(0, int)},
               "pair": {"tap_pair_weighted": np.zeros(0, int),
                        "tap_pair_importance": np.zeros(0, int)}}
    if "selector0.attention" in stages:
        heads, tokens = stages["selector0.attention"].shape
        streams["score"] = {"tap_score_row": np.tile(np.arange(tokens), heads),
                            "tap_score": stages["selector0.attention"].reshape(-1)}
    else:
        streams["pair"] = {f"tap_pair_{name}": stages[f"selector0.{name}"]
                           for name in ("weighted", "importance")}
    return streams


def recorded(program: Program, stages: dict) -> dict:
    """What a correct accelerator would show."""
    words, maxima, sums, norms = [], [], [], []
    for info in program.passes_for(tokens_of(program, stages)):
        tiles, mask = expected_words(program, stages, info)
        # Lanes that are not written hold anything.
        words.append(np.where(mask[:, None], tiles, 12345).reshape(-1, mask.shape[1]))
        rows = [np.asarray(v, np.int64) for v in expected_rows(program, stages, info).values()]
        if info.kind == PassKind.SCORE:
            tile_max = np.where(mask[:, None], tiles, -32768).max(2)
            maxima.append(np.maximum.accumulate(tile_max, axis=0).reshape(-1))
        elif info.kind in (PassKind.ATTENTION, PassKind.MEAN):
            sums.append(np.stack([rows[0], rows[1] | rows[2] << 17]))
        elif rows:
            norms.append(np.stack([*rows[:3], rows[3] | rows[4] << 17]))
    totals, statistics = np.concatenate(sums, 1), np.concatenate(norms, 1)
    names = ("sum", "sumsq", "mean", "scale")
    return {"write": {"tap_data": np.concatenate(words)},
            "max": {"tap_max": np.concatenate(maxima)},
            "sum": {"tap_sum": totals[0], "tap_rowscale": totals[1]},
            "norm": {f"tap_norm_{name}": row for name, row in zip(names, statistics, strict=True)},
            **(selected(stages) if program.selectors else {})}


def test_equal(workload: Workload) -> None:
    _, _, stages = workload.expected
    result = compare(workload.program, stages, recorded(workload.program, stages))
    assert result.exact and result.first_mismatch is None
    # The registers show these; scores are in the attention, or in the weights.
    elsewhere = [f"selector0.{name}" for name in ("tokens", "kept", "score")]
    assert {stage.stage: stage.elements for stage in result.stages} == {
        name: value.size for name, value in stages.items() if name not in elsewhere}


@pytest.mark.parametrize("stage", [
    "embed.residual", "block0.q", "block0.scores", "block1.rowmax", "block1.rowsum",
    "block0.rowscale.m", "block0.rowscale.s", "block1.attention", "block0.norm2.sum",
    "block1.norm1.mean", "head.norm.s", "block0.hidden", "block1.residual2", "logits",
    *(f"selector0.{name}" for name in (
        "attention", "importance1", "head_norm1.sumsq", "local", "global", "mean",
        "mean.rowscale.m", "score1", "score2", "classes", "weighted", "importance", "rows", "keep",
        "weight", "share", "dropped", "package", "package.norm.m"))])
def test_any_element_counts(workload: Workload, stage: str) -> None:
    _, _, stages = workload.expected
    if stage not in stages or not stages[stage].size:
        assert stage.startswith("selector0.")
        return
    recording = recorded(workload.program, stages)
    value = stages[stage]
    for flat in {0, value.size // 2, value.size - 1}:
        position = tuple(int(i) for i in np.unravel_index(flat, value.shape))
        changed = stages | {stage: value.copy()}
        changed[stage][position] += 1
        result = compare(workload.program, changed, recording)
        assert [s.stage for s in result.stages if not s.equal] == [stage]
        assert result.first_mismatch == Mismatch(
            stage, position, int(value[position]) + 1, int(value[position]))
        assert not result.exact


def test_missing_and_surplus_events(workload: Workload) -> None:
    _, _, stages = workload.expected
    complete = recorded(workload.program, stages)
    for stream, signals in complete.items():
        count = len(next(iter(signals.values())))
        for change in (-1, 1) if count else ():
            recording = copy.deepcopy(complete)
            recording[stream] = {name: np.resize(value, (count + change, *value.shape[1:]))
                                 for name, value in signals.items()}
            result = compare(workload.program, stages, recording)
            assert not result.exact
            assert result.problems == (
                f"the stream {stream} has {count + change} events, must have {count}",)
            first = result.first_mismatch
            assert (first is not None and first.got is None) if change < 0 else first is None


def test_stage_that_no_pass_writes(workload: Workload) -> None:
    _, _, stages = workload.expected
    recording = recorded(workload.program, stages)
    result = compare(workload.program, stages | {"extra": np.array([1, 2])}, recording)
    assert result.first_mismatch == Mismatch("extra", (0,), 1, None)
    assert str(result.first_mismatch) == "extra[0]: expected 1, got nothing"


def test_padding_must_be_zero(workload: Workload) -> None:
    program, (_, _, stages) = workload.program, workload.expected
    recording = recorded(program, stages)
    at = 0
    numbers = {name: np.arange(1, v.size + 1).reshape(v.shape) for name, v in stages.items()}
    for info in program.passes_for(tokens_of(program, stages)):
        words, mask = expected_words(program, numbers, info)
        padding = np.argwhere((words == 0) & mask[:, None])
        if len(padding):
            break
        at += words.shape[0] * words.shape[1]
    else:
        assert workload.qvit.model.name == "tiny_test", "heads of 48 channels leave padding"
        return
    tile, row, lane = padding[0]
    recording["write"]["tap_data"][at + tile * info.rows + row, lane] = 7
    result = compare(program, stages, recording)
    position = (int(row), int(tile * mask.shape[1] + lane))
    assert result.first_mismatch == Mismatch(f"{info.stage} padding", position, 0, 7)


def test_events_of_a_selector_in_the_wrong_place(workload: Workload) -> None:
    program, (_, _, stages) = workload.program, workload.expected
    if not program.selectors:
        assert "selector0.rows" not in stages
        return
    recording = recorded(program, stages)
    recording["share"]["tap_share_index"] = recording["share"]["tap_share_index"] + 1
    result = compare(program, stages, recording)
    count = stages["selector0.share"].size
    assert f"selector0: share {count} is written, must be below {count}" in result.problems
    if "selector0.attention" in stages:
        recording = recorded(program, stages)
        recording["score"]["tap_score_row"][5] = 4
        result = compare(program, stages, recording)
        assert result.problems == ("selector0: score 5 is of position 4, must be of 5",)


def test_selections(workload: Workload) -> None:
    model, (_, _, stages) = workload.qvit.model, workload.expected
    if not workload.blocks:
        assert "selector0.rows" not in stages
        return
    seen = selections(workload)
    tokens = seen.tokens[0]
    assert seen.kept(0, model.special_tokens) == tuple(stages["selector0.kept"])

    def first(seen: Selections, register: int = tokens) -> Mismatch | None:
        return compare_selections(stages, seen, model.special_tokens, register).first_mismatch

    assert compare_selections(stages, seen, model.special_tokens, tokens).exact
    assert first(replace(seen, tokens=(tokens + 1,))) == Mismatch(
        "register.selector0.tokens", (0,), tokens, tokens + 1)
    assert first(replace(seen, patches=(0,))) == Mismatch(
        "register.selector0.patches", (0,), seen.patches[0], 0)
    assert first(seen, 1) == Mismatch("register.tokens", (0,), tokens, 1)
    for row in (0, 1, len(seen.dropped) - 1):
        changed = seen.dropped.copy()
        changed[row] ^= 1
        assert first(replace(seen, dropped=changed)) == Mismatch(
            "register.dropped", (row,), int(seen.dropped[row]), int(changed[row]))


def test_output() -> None:
    logits = np.array([3, 9, -4])
    good = Result(logits.astype(np.int32), 1, 9, 7, 1000)
    assert compare_output(logits, 1, 7, good, 1).exact and compare_output(logits, 1, 7, good).exact

    def first(result: Result, register: int = 1) -> Mismatch | None:
        comparison: Comparison = compare_output(logits, 1, 7, result, register)
        assert not comparison.exact
        return comparison.first_mismatch

    assert first(replace(good, logits=np.array([3, 8, -4], np.int32))) == Mismatch(
        "output.logits", (1,), 9, 8)
    assert first(replace(good, top_class=2)) == Mismatch("output.top_class", (0,), 1, 2)
    assert first(replace(good, top_logit=-4)) == Mismatch("output.top_logit", (0,), 9, -4)
    assert first(replace(good, tokens=6)) == Mismatch("output.tokens", (0,), 7, 6)
    assert first(good, register=0) == Mismatch("register.top_class", (0,), 1, 0)


def test_register() -> None:
    assert compare_register("images_done", 3, 3).exact
    assert compare_register("images_done", 3, 2).first_mismatch == Mismatch(
        "register.images_done", (0,), 3, 2)


def test_images_of_a_run_follow_each_other(workload: Workload) -> None:
    """Rows of odd ones are further on; what is left over or missing is said of the last one."""
    program = workload.program
    twisted = workload.with_frame(np.ascontiguousarray(workload.frame[::-1, ::-1]))
    images = [work.expected[2] for work in (workload, twisted, workload)]
    recordings = [recorded(program, stages) for stages in images]
    step = program.instructions[0].row_step
    assert step == program.tokens
    if program.selectors:
        recordings[1]["scan"]["tap_scan_row"] = recordings[1]["scan"]["tap_scan_row"] + step
    recording = {stream: {name: np.concatenate([r[stream][name] for r in recordings])
                          for name in signals} for stream, signals in recordings[0].items()}
    assert all(result.exact for result in compare_run(program, images, recording))
    assert [result.exact for result in compare_run(program, [images[0]] * 3, recording)] == [
        True, False, True]
    first, second = compare_run(program, images[:2], recording)
    assert first.exact and not second.exact and second.first_mismatch is None
    count, used = (sum(len(r["write"]["tap_data"]) for r in part)
                   for part in (recordings, recordings[:2]))
    assert second.problems[0] == f"the stream write has {count} events, must have {used}"


def test_nothing_is_not_equal() -> None:
    assert not Comparison((), ()).exact
