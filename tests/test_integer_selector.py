# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.integer_selector: its functions at their edges, and whole runs by plain loops."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import exponent, gelu, inverse, linear, norm_row, normal, rounded, sat, scaled
from pruned import PRUNED, Pruned, frames, model_of, pruned

from golden import fit
from golden.images import normalise
from golden.integer import run
from golden.integer_selector import (
    ONE,
    Tokens,
    class_attention,
    keep_largest,
    keep_threshold,
    kth_largest,
    package,
    shares,
    threshold_score,
)
from golden.layers import Linear, Scale
from golden.model import FloatViT
from golden.nonlinear import FUNCTIONS
from golden.pruning import PruningConfig
from golden.quantize import quantize
from golden.selector import selector_shapes
from golden.synthetic import synthetic
from golden.synthetic_selector import synthetic_selectors

RECIPROCAL = fit.reciprocal_table()
SCORES = st.one_of(st.integers(0, 65535), st.sampled_from([0, 1, 65534, 65535]))


# The decision

@given(st.lists(st.one_of(SCORES, st.just(7)), min_size=0, max_size=40), st.integers(0, 45))
def test_keep_largest_is_a_stable_sort(score: list[int], count: int) -> None:
    order = sorted(range(len(score)), key=lambda i: (-score[i], i))
    keep = keep_largest(np.array(score, np.int64), count)
    assert keep.tolist() == [i in order[:count] for i in range(len(score))]


@given(st.lists(SCORES, min_size=1, max_size=40), st.integers(1, 45))
def test_threshold_is_the_kth_largest(score: list[int], count: int) -> None:
    expected = 0 if count > len(score) else sorted(score, reverse=True)[count - 1]
    assert kth_largest(np.array(score), count) == expected


@pytest.mark.parametrize("value", [0, 1, 32768, 65535])
@pytest.mark.parametrize("count", [0, 1, 3, 5, 6])
def test_equal_scores_keep_the_first(value: int, count: int) -> None:
    keep = keep_largest(np.full(5, value), count)
    assert keep.tolist() == [i < count for i in range(5)]
    assert kth_largest(np.full(5, value), 0) == 65535


def test_keep_threshold_on_the_edge() -> None:
    importance = np.array([0, 1, 1, 1, 100, 100, 100, 1524])
    weighted = np.array([0, 63, 64, 65, 6399, 6400, 6401, 1524 * 64])
    assert keep_threshold(weighted, importance).tolist() == [
        True, False, True, True, False, True, True, True]


def test_threshold_score_is_the_quotient() -> None:
    importance = np.concatenate([np.arange(1, 1525), [0]])
    for part in (0, 1, 31, 63, 64, 127):
        weighted = importance * part
        got = threshold_score(RECIPROCAL, weighted, importance)
        exact = np.where(importance > 0, part / 128 * 65536, 0)
        error = got - exact
        # The mantissa of the reciprocal is good to 3.5e-5; what is left is cut off.
        assert (error > -1 - 3.5e-5 * exact).all() and (error <= 3.5e-5 * exact).all(), part
        assert got.min() >= 0 and got.max() < 65536
        if part < 64:
            assert got.max() < 32768, "a patch that is dropped has a score below one half"


# Scores of topk

@pytest.mark.parametrize("functions", FUNCTIONS)
def test_class_attention_is_the_definition(functions: str) -> None:
    generator = np.random.default_rng(0)
    exp = FUNCTIONS[functions].exp_table()
    scores = generator.integers(-3000, 3000, (5, 30))
    scores[1] = -7  # uniform
    scores[2] = [32767, *[-32768] * 29]  # one-hot
    scores[3, :3] = 32767
    top, scale = scores.max(axis=1), Scale(m=1 << 16, s=17)
    e = [[0 if z > 8 else rounded(e16, 8 + z) for e16, z in (
        exponent(exp.tolist(), x, int(t), scale) for x in row)]
        for row, t in zip(scores.tolist(), top, strict=True)]
    total = np.array([sum(row) for row in e])
    for frac in (12, 16, 24):
        got = class_attention(exp, RECIPROCAL, scores, top, total, scale.m, scale.s, frac)
        expected = [0] * 30
        for h in range(5):
            r, n = inverse(RECIPROCAL.tolist(), int(total[h]))
            for j, x in enumerate(scores[h].tolist()):
                e16, z = exponent(exp.tolist(), x, int(top[h]), scale)
                t = min(e16 * r >> (42 - frac + z - n), 65535)
                expected[j] = min(expected[j] + t, 65535)
            assert got[h].tolist() == expected, (frac, h)
        if frac == 24:
            assert (got == 65535).any(), "nothing saturates"
        elif frac == 12:
            real = np.exp2(-(top[:, None] - scores) * 256 / 2 / 8192)
            real = (real / real.sum(1, keepdims=True)).sum(0) * 4096
            assert np.abs(got[-1] - real).max() < (25 if functions == "exact" else 60)


# Package tokens

@given(st.lists(SCORES, min_size=1, max_size=250))
def test_shares_sum_to_one(weights: list[int]) -> None:
    weight = np.maximum(np.array(weights), 1)
    share = shares(RECIPROCAL, weight)
    assert share.sum() == ONE and share.min() >= 0 and share.max() <= ONE
    exact = weight / weight.sum() * ONE
    # Of 2^16 the margin and the error of the reciprocal leave 2^-13 and less, the cut 1.
    error = share[1:] - exact[1:]
    assert (error <= 0).all() and (error > -1 - exact[1:] * 2 ** -12).all()
    assert abs(share[0] - exact[0]) <= len(weights) + 17


@pytest.mark.parametrize("count", [1, 2, 3, 5, 100, 195, 196, 255, 1022])
def test_weights_that_underflow_give_the_plain_mean(count: int) -> None:
    share = shares(RECIPROCAL, np.ones(count, np.int64))
    assert share.sum() == ONE and len(set(share[1:].tolist())) <= 1
    rows = np.random.default_rng(count).integers(-32768, 32768, (count, 8))
    error = package(share, rows) - rows.mean(axis=0)
    # What the cuts leave, at most one part in 2^16 of each row, is the first row's.
    assert np.abs(error).max() <= (count + 17) * 65535 / ONE + 0.5


@pytest.mark.parametrize("weight", [1, 2, 3, 32767, 65535, (1 << 18) - 1, 1 << 18, (1 << 24) - 1])
def test_one_token_is_its_own_package(weight: int) -> None:
    share = shares(RECIPROCAL, np.array([weight]))
    assert share.tolist() == [ONE]
    rows = np.array([[-32768, -1, 0, 1, 32767]])
    assert package(share, rows).tolist() == rows[0].tolist()


def test_no_sum_of_weights_exceeds_one() -> None:
    """All values that the normalised sum can have, in steps, and the largest weights."""
    for total in [*range(1, 2000), *range(2000, 1 << 24, 9973), (1 << 24) - 1]:
        share = shares(RECIPROCAL, np.array([1, total - 1] if total > 1 else [1]))
        assert share.sum() == ONE and share.min() >= 0, total
        assert 1 << 16 >= share[-1] >= (1 << 16) * (total - 1) // total - 18, total


@given(st.lists(st.tuples(SCORES, st.integers(-32768, 32767)), min_size=1, max_size=60))
def test_package_is_between_its_tokens(tokens: list[tuple[int, int]]) -> None:
    weight = np.array([max(1, w) for w, _ in tokens])
    rows = np.array([[x] for _, x in tokens])
    got = package(shares(RECIPROCAL, weight), rows)[0]
    assert rows.min() <= got <= rows.max()
    exact = (weight @ rows)[0] / weight.sum()
    assert abs(got - exact) <= (len(tokens) + 17) * 65535 / ONE + 0.5


@pytest.mark.parametrize("weights", [[0, 5], [1 << 23, 1 << 23]])
def test_weights_out_of_range(weights: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"^weights of {min(weights)} or more sum to "
                                         rf"{sum(weights)}, must be 1 or more and sum to less"):
        shares(RECIPROCAL, np.array(weights))


# The list of tokens

LIST = Tokens(special=2, patches=3, rows=(0, 1, 5, 6, 9, 4, 3), weights=(10, 20))


@pytest.mark.parametrize(("keep", "merged", "stay", "dropped"), [
    ([1, 1, 1], False, [0, 1, 2, 3, 4, 5, 6], []), ([1, 1, 1], True, [0, 1, 2, 3, 4, 5, 6], []),
    ([0, 1, 0], False, [0, 1, 3, 5, 6], [2, 4]), ([0, 1, 0], True, [0, 1, 3], [2, 4, 5, 6]),
    ([0, 0, 0], False, [0, 1, 5, 6], [2, 3, 4]), ([0, 0, 0], True, [0, 1], [2, 3, 4, 5, 6])])
def test_lists(keep: list[int], merged: bool, stay: list[int], dropped: list[int]) -> None:
    assert LIST.split(list(map(bool, keep)), merged) == (stay, dropped)
    assert LIST.places == [3, 4, 7]
    if dropped:
        after = LIST.after(stay, dropped, 99)
        assert after.rows == (*(LIST.rows[i] for i in stay), LIST.rows[dropped[0]])
        assert after.weights == ((99,) if merged else (10, 20, 99))
        assert after.patches == sum(keep) and after.special == 2


# Whole runs

def _patches_of(run_: Pruned, index: int, block: int, patches: int) -> tuple[list[int], list[bool]]:
    """Return score and keep of the patches, from the stages before."""
    qvit, stages = run_.qvit, run_.stages
    first, stage = qvit.model.special_tokens, f"selector{index}"
    reciprocal = qvit.reciprocal.tolist()
    if qvit.pruning.selector == "threshold":
        score, keep = [], []
        for a, b in zip(stages[f"{stage}.weighted"].tolist(),
                        stages[f"{stage}.importance"].tolist(), strict=True):
            keep.append(a >= 64 * b)
            r, n = inverse(reciprocal, max(b, 1))
            score.append(a * scaled(r, Scale(m=1 << 16, s=24)) >> (24 - n) if b else 0)
        return score[first:first + patches], keep[first:first + patches]
    before = qvit.blocks[block - 1]
    totals = stages[f"block{block - 1}.rowsum"][:, 0].tolist()
    scores = [0] * (first + patches)
    for h, row in enumerate(stages[f"block{block - 1}.scores"][:, 0].tolist()):
        r, n = inverse(reciprocal, totals[h])
        for j in range(first + patches):
            e16, z = exponent(qvit.exp.tolist(), row[j], max(row), before.exp)
            t = e16 * r >> (42 - qvit.score_frac + z - n)
            scores[j] = min(scores[j] + min(t, 65535), 65535)
            assert stages[f"{stage}.attention"][h, j] == scores[j], (stage, h, j)
    score = scores[first:]
    order = sorted(range(patches), key=lambda i: (-score[i], i))
    count = qvit.pruning.keep_counts(qvit.model.grid ** 2)[index]
    return score, [i in order[:count] for i in range(patches)]


@pytest.mark.parametrize("name", PRUNED)
def test_lists_and_packages_by_plain_arithmetic(name: str) -> None:
    net = pruned(name)
    qvit, model = net.qvit, net.qvit.model
    stages = {stage: value.tolist() for stage, value in net.stages.items()}
    first, merged = model.special_tokens, qvit.pruning.package == "merged"
    rows, places, weights = list(range(model.tokens)), list(range(model.grid ** 2)), []
    for index, block in enumerate(qvit.pruning.active):
        stage = f"selector{index}"
        residual, patches = stages[f"block{block - 1}.residual2"], len(places)
        assert len(residual) == len(rows) and stages[f"{stage}.rows"] == rows
        score, keep = _patches_of(net, index, block, patches)
        assert stages[f"{stage}.score"] == score
        assert stages[f"{stage}.keep"] == keep
        patch = range(first, first + patches)
        packages = list(range(first + patches, len(rows)))
        dropped = [i for i, k in zip(patch, keep, strict=True) if not k]
        weight = [max(1, w) for w, k in zip(score, keep, strict=True) if not k]
        old = list(weights)
        if dropped and merged and packages:
            dropped, weight, packages, old = [*dropped, *packages], [*weight, *old], [], []
        assert stages[f"{stage}.weight"] == weight
        stay = [*range(first), *(i for i, k in zip(patch, keep, strict=True) if k), *packages]
        share, take = [65536], [len(rows) - 1]
        if dropped:
            total = sum(weight)
            c = next(c for c in range(7) if total >> c < 2 ** 18)
            r, n = inverse(qvit.reciprocal.tolist(), total >> c)
            m = scaled(r, Scale(m=2 ** 16 - 8, s=18))
            share, take = [2 * w * m >> (18 - n + c) for w in weight], dropped
            share[0] += 2 ** 16 - sum(share)
            order, weights = [*stay, dropped[0]], [*old, total]
        else:
            order = stay
        assert stages[f"{stage}.share"] == share
        assert stages[f"{stage}.dropped"] == [residual[i] for i in take]
        new = [(2 ** 15 + sum(u * residual[i][c] for u, i in zip(share, take, strict=True))) >> 16
               for c in range(model.width)]
        assert stages[f"{stage}.package"] == new
        places = [place for place, k in zip(places, keep, strict=True) if k]
        rows = [rows[i] for i in order]
        assert stages[f"{stage}.kept"] == places and stages[f"{stage}.tokens"] == [len(rows)]
        assert [row - first for row in rows[first:first + len(places)]] == places
        # Then the block, with the statistics of all rows, the new one included.
        after = [*(residual[i] for i in order[:-1]), new]
        norm = qvit.blocks[block].norm1
        for i, x in enumerate(after):
            values = norm_row(x, norm, qvit.rsqrt.tolist())
            if i == len(after) - 1:
                assert [stages[f"{stage}.package.norm.{f}"][0]
                        for f in ("sum", "sumsq", "mean", "m", "s")] == list(values)
            y = normal(x, *values[2:])
            for j in (0, model.width - 1):
                assert stages[f"block{block}.q"][i][j] == sat(
                    linear(qvit.blocks[block].q, y, j), 8)
            j = i % model.width
            add = linear(qvit.blocks[block].projection, stages[f"block{block}.attention"][i], j)
            assert stages[f"block{block}.residual1"][i][j] == sat(x[j] + sat(add, 18), 16)
    assert len(stages["head.norm.sum"]) == len(rows)


THRESHOLD = [name for name in PRUNED if name.startswith("threshold")]


@pytest.mark.parametrize("name", THRESHOLD)
def test_classifier_by_plain_arithmetic(name: str) -> None:
    net = pruned(name)
    qvit, model = net.qvit, net.qvit.model
    d, heads, first = model.head_size, model.heads, model.special_tokens
    stages = {stage: value.tolist() for stage, value in net.stages.items()}
    random = np.random.default_rng(1)
    for index, block in enumerate(qvit.pruning.active):
        residual, c = stages[f"block{block - 1}.residual2"], qvit.classifiers[index]
        table, sigmoid = c.gelu.tolist(), c.sigmoid.tolist()

        def stage(name: str, index: int = index) -> list:
            return stages[f"selector{index}.{name}"]

        def by_head(name: str, row: list[int], h: int) -> list[int]:
            return row[h * len(row) // heads:(h + 1) * len(row) // heads]

        total = 255 * (len(residual) - first)
        r, n = inverse(qvit.reciprocal.tolist(), total)
        m, s = scaled(r, Scale(m=1 << 16, s=33)), 33 - n
        assert [stage("mean.rowsum"), stage("mean.rowscale.m"), stage("mean.rowscale.s")] == [
            [total], [m], [s]]
        for j in range(heads * d // 2):
            acc = 255 * sum(row[j] for row in stage("global")[first:])
            assert stage("mean")[j] == sat(rounded(acc * m, s), 8)
        for t in {0, len(residual) - 1, *random.integers(0, len(residual), 4).tolist()}:
            x = [sat(rounded((v << 8) * c.importance_scale.m, c.importance_scale.s), 8)
                 for v in residual[t]]
            for j, value in enumerate(stage("importance1")[t]):
                assert value == gelu(table, linear(c.importance1, x, j))
            classes = [gelu(sigmoid, linear(c.importance2, stage("importance1")[t], j))
                       for j in range(heads)]
            for h in range(heads):
                values = norm_row(residual[t][h * d:(h + 1) * d], c.norm, qvit.rsqrt.tolist())
                assert [stage(f"head_norm{h}.{f}")[t]
                        for f in ("sum", "sumsq", "mean", "m", "s")] == list(values)
                y = normal(residual[t][h * d:(h + 1) * d], *values[2:])
                local, score1, score2 = (by_head(name, stage(name)[t], h)
                                         for name in ("local", "score1", "score2"))
                joined = [*local, *by_head("mean", stage("mean"), h)]
                for j in range(d // 2):
                    assert local[j] == gelu(table, linear(c.local, y, j))
                    assert by_head("global", stage("global")[t], h)[j] == max(
                        -127, gelu(table, linear(c.global_, y, j)))
                    assert score1[j] == gelu(table, linear(c.score1, joined, j))
                for j in range(d // 4):
                    assert score2[j] == gelu(table, linear(c.score2, score1, j))
                classes.append(gelu(sigmoid, linear(c.score3, score2, 0)))
            assert stage("classes")[t] == classes
            assert 0 <= min(classes) and max(classes) <= 127
            a, b = classes[:heads], classes[heads:]
            assert stage("weighted")[t] == sum(x * y for x, y in zip(a, b, strict=True))
            assert stage("importance")[t] == sum(a)


@pytest.mark.parametrize("name", ["topk merged", "threshold merged"])
def test_names_of_the_stages(name: str) -> None:
    net = pruned(name)
    of_both = {"rows", "tokens", "score", "keep", "kept", "weight", "share", "dropped", "package",
               *(f"package.norm.{f}" for f in ("sum", "sumsq", "mean", "m", "s"))}
    of_one = {"attention"}
    if name.startswith("threshold"):
        of_one = {"importance1", "local", "global", "mean", "mean.rowsum", "mean.rowscale.m",
                  "mean.rowscale.s", "score1", "score2", "classes", "weighted", "importance",
                  *(f"head_norm{h}.{f}" for h in range(net.qvit.model.heads)
                    for f in ("sum", "sumsq", "mean", "m", "s"))}
    found = {stage for stage in net.stages if stage.startswith("selector")}
    assert found == {f"selector{i}.{stage}" for i in range(3) for stage in of_both | of_one}
    for stage, value in net.stages.items():
        wide = stage.endswith(("sumsq", "weight"))
        assert value.dtype == (np.int64 if wide else np.int32), stage


def test_the_networks_reach_the_corners() -> None:
    """Else the loops above prove little."""
    dropped = {name: [len(net.stages[f"selector{i}.weight"])
                      for i in range(len(net.qvit.pruning.active))]
               for name, net in ((name, pruned(name)) for name in PRUNED)}
    assert dropped["topk all"] == [0, 0, 0] and dropped["topk none"] == [9, 0, 0]
    assert dropped["topk merged gap"] == [4, 0, 5], "four patches and the old package"
    assert dropped["topk one patch"] == [0, 0, 1]
    assert sum(dropped["threshold merged"]) > 0 and dropped["threshold"][0] > 0
    assert all(0 < count for count in dropped["threshold head64"])


def test_package_carries_its_weight() -> None:
    stages = pruned("topk merged").stages
    assert stages["selector1.weight"][-1] == stages["selector0.weight"].sum()
    assert stages["selector2.weight"][-1] == stages["selector1.weight"].sum()


# Edges of whole networks

def _of_one_score(bias: float, package: str) -> list[int]:
    """Return the tokens after each selector, whose scores are all those of ``bias``."""
    model = model_of("small_test")
    twin = FloatViT(model, synthetic(model, 0))
    pruning = PruningConfig(blocks=(1, 2, 3), package=package)
    selectors = synthetic_selectors(twin, pruning.blocks, 0)
    for state in selectors:
        state["score3.weight"].zero_()
        state["score3.bias"][0], state["score3.bias"][1] = bias, 0
    assert selectors[0].keys() == selector_shapes(model).keys()
    qvit = quantize(twin, frames(model), weights="synthetic", pruning=pruning, selectors=selectors)
    _, _, stages = run(qvit, frames(model)[1])
    assert len(np.unique(stages["selector0.classes"][:, model.heads:])) == 1
    scores = stages["selector0.score"]
    assert np.ptp(scores) <= 2, "equal scores, up to the reciprocals of the importances"
    if bias < -20:
        assert not scores.any() and (stages["selector0.weight"] == 1).all()
    return [int(stages[f"selector{i}.tokens"][0]) for i in range(3)]


@pytest.mark.parametrize("package", ["each", "merged"])
@pytest.mark.parametrize(("bias", "tokens"), [
    (40.0, [38, 38, 38]), (0.0, [38, 38, 38]), (-0.04, [3, 3, 3]), (-40.0, [3, 3, 3])])
def test_equal_scores_at_the_ends(bias: float, tokens: list[int], package: str) -> None:
    """All stay from one half on; below it the special tokens and a package do."""
    assert _of_one_score(bias, package) == tokens


def test_all_kept_is_the_dense_network() -> None:
    net = pruned("topk all")
    dense = run(replace(net.qvit, pruning=None), net.frame)
    assert np.array_equal(net.logits, dense[0]) and net.top1 == dense[1]
    for stage, value in dense[2].items():
        assert np.array_equal(net.stages[stage], value), stage


def test_ties_keep_the_earlier_patches() -> None:
    """Without Q all tokens have the same attention."""
    net = pruned("topk gap")

    def mute(layer: Linear) -> Linear:
        return replace(layer, weight=0 * layer.weight, bias=0 * layer.bias)

    blocks = tuple(replace(block, q=mute(block.q)) for block in net.qvit.blocks)
    stages = run(replace(net.qvit, blocks=blocks), net.frame)[2]
    assert len(set(stages["selector0.score"].tolist())) == 1
    assert stages["selector0.kept"].tolist() == [0, 1, 2, 3, 4]
    assert len(set(stages["selector0.share"][1:].tolist())) == 1


# Against the float twin

@pytest.mark.parametrize("functions", FUNCTIONS)
@pytest.mark.parametrize("name", ["topk", "threshold", "threshold merged", "threshold head64"])
def test_decisions_are_nearly_those_of_the_float_twin(name: str, functions: str) -> None:
    net = pruned(name, functions)
    exact = net.vit.forward_stages(normalise(net.frame))
    first = net.stages["selector0.keep"], exact["selector0.keep"].numpy()
    assert (first[0] == first[1]).mean() >= 0.85
    score = net.stages["selector0.score"] * net.qvit.steps["selector0.score"]
    error = score - exact["selector0.score"].numpy()
    if name == "topk":
        # Where attention peaks, int8 Q and K move much of it: docs/accuracy.md.
        assert np.square(score).sum() > 4 * np.square(error).sum()
    else:
        assert np.abs(error).max() < 0.08
        unsure = first[0] != first[1]
        assert (np.abs(score[unsure] - 0.5) < 0.08).all(), "decided differently, but not close"


def test_attention_is_that_of_the_softmax() -> None:
    """On the scores that the integer twin has, the real softmax is next to its own."""
    net = pruned("topk")
    for index, block in enumerate(net.qvit.pruning.active):
        scores = torch.from_numpy(net.stages[f"block{block - 1}.scores"][:, 0]
                                  * net.qvit.steps[f"block{block - 1}.scores"])
        exact = scores.softmax(-1).sum(0).numpy() * 2 ** net.qvit.score_frac
        got = net.stages[f"selector{index}.attention"][-1]
        assert np.abs(got - np.minimum(exact, 65535)).max() < 3 + 0.01 * exact.max()


def test_weight_of_a_quotient_is_exact_in_fractions() -> None:
    for weighted, importance in ((0, 5), (37, 9), (1000, 1524), (96000, 1524)):
        got = int(threshold_score(RECIPROCAL, np.array([weighted]), np.array([importance]))[0])
        exact = Fraction(weighted * 512, importance)
        assert exact * Fraction(9999, 10000) - 1 <= got <= exact * Fraction(10001, 10000)
