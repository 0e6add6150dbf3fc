# SPDX-License-Identifier: BSD-2-Clause
"""Comparison of recordings with stages: complete, exact, and it says where they differ."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from golden.images import calibration_frames
from golden.model import FloatViT, model_named
from golden.program import PassKind, Program, expected_rows, expected_words
from golden.quantize import quantize
from golden.synthetic import synthetic
from rtl.config import named
from sim.compare import Comparison, Mismatch, compare, compare_output
from sim.device import Result
from sim.workload import Workload

CASES = [("tiny_test", "tiny"), ("small_test", "small")]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[0])
def workload(request: pytest.FixtureRequest) -> Workload:
    model = model_named(request.param[0])
    frames = calibration_frames(model.image_size)
    qvit = quantize(FloatViT(model, synthetic(model, 0)), frames, weights="synthetic")
    return Workload(qvit, named(request.param[1]), frames[0])


def recorded(program: Program, stages: dict) -> dict:
    """What a correct accelerator would show."""
    words, maxima, sums, norms = [], [], [], []
    for index, info in enumerate(program.passes):
        tiles, mask = expected_words(program, stages, index)
        # Lanes that are not written hold anything.
        words.append(np.where(mask[:, None], tiles, 12345).reshape(-1, mask.shape[1]))
        rows = [np.asarray(v, np.int64) for v in expected_rows(program, stages, index).values()]
        if info.kind == PassKind.SCORE:
            tile_max = np.where(mask[:, None], tiles, -32768).max(2)
            maxima.append(np.maximum.accumulate(tile_max, axis=0).reshape(-1))
        elif info.kind == PassKind.ATTENTION:
            sums.append(np.stack([rows[0], rows[1] | rows[2] << 17]))
        elif info.norm is not None:
            norms.append(np.stack([*rows[:3], rows[3] | rows[4] << 17]))
    totals, statistics = np.concatenate(sums, 1), np.concatenate(norms, 1)
    names = ("sum", "sumsq", "mean", "scale")
    return {"write": {"tap_data": np.concatenate(words)},
            "max": {"tap_max": np.concatenate(maxima)},
            "sum": {"tap_sum": totals[0], "tap_rowscale": totals[1]},
            "norm": {f"tap_norm_{name}": row for name, row in zip(names, statistics, strict=True)}}


def test_equal(workload: Workload) -> None:
    _, _, stages = workload.expected
    result = compare(workload.program, stages, recorded(workload.program, stages))
    assert result.exact and result.first_mismatch is None
    assert {stage.stage: stage.elements for stage in result.stages} == {
        name: value.size for name, value in stages.items()}


@pytest.mark.parametrize("stage", [
    "embed.residual", "block0.q", "block0.scores", "block1.rowmax", "block1.rowsum",
    "block0.rowscale.m", "block0.rowscale.s", "block1.attention", "block0.norm2.sum",
    "block1.norm1.mean", "head.norm.s", "block0.hidden", "block1.residual2", "logits"])
def test_any_element_counts(workload: Workload, stage: str) -> None:
    _, _, stages = workload.expected
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
        for change in (-1, 1):
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
    _, _, stages = workload.expected
    recording = recorded(workload.program, stages)
    at = 0
    numbers = {name: np.arange(1, v.size + 1).reshape(v.shape) for name, v in stages.items()}
    for index, info in enumerate(workload.program.passes):  # noqa: B007, the first with padding
        words, mask = expected_words(workload.program, numbers, index)
        padding = np.argwhere((words == 0) & mask[:, None])
        if len(padding):
            break
        at += words.shape[0] * words.shape[1]
    else:
        assert workload.qvit.model.name == "tiny_test", "heads of 48 channels leave padding"
        return
    tile, row, lane = padding[0]
    recording["write"]["tap_data"][at + tile * info.rows + row, lane] = 7
    result = compare(workload.program, stages, recording)
    position = (int(row), int(tile * mask.shape[1] + lane))
    assert result.first_mismatch == Mismatch(f"{info.stage} padding", position, 0, 7)


def test_output() -> None:
    logits = np.array([3, 9, -4])
    good = Result(logits.astype(np.int32), 1, 9)
    assert compare_output(logits, 1, good, 1).exact

    def first(result: Result, register: int = 1) -> Mismatch | None:
        comparison: Comparison = compare_output(logits, 1, result, register)
        assert not comparison.exact
        return comparison.first_mismatch

    assert first(replace(good, logits=np.array([3, 8, -4], np.int32))) == Mismatch(
        "output.logits", (1,), 9, 8)
    assert first(replace(good, top_class=2)) == Mismatch("output.top_class", (0,), 1, 2)
    assert first(replace(good, top_logit=-4)) == Mismatch("output.top_logit", (0,), 9, -4)
    assert first(good, register=0) == Mismatch("register.top_class", (0,), 1, 0)


def test_nothing_is_not_equal() -> None:
    assert not Comparison((), ()).exact
