# SPDX-License-Identifier: BSD-2-Clause
"""Tests of golden.integer: every stage follows from those before it by docs/arithmetic.md.

The formulas are those of tests/plain.py, in plain Python integers, element by element.
"""

import time
from dataclasses import replace

import numpy as np
import pytest
from networks import NETWORKS, Network, network, noise
from plain import Row, exponent, gelu, inverse, linear, norm_row, normal, rounded, sat, scaled

from golden.images import load_image, normalise
from golden.integer import matmul, patches, requantise, run
from golden.model import FloatViT, model_named
from golden.quantize import Linear, Norm, quantize, sqnr
from golden.synthetic import synthetic


class Reference:
    """Elements of the stages of one network, each made of the stages before it."""

    def __init__(self, net: Network) -> None:
        self.net, self.qvit, self.model = net, net.qvit, net.qvit.model
        self.stages = {name: value.tolist() for name, value in net.stages.items()}
        self.rsqrt = self.qvit.rsqrt.tolist()
        self.slices = [slice(h * self.model.head_size, (h + 1) * self.model.head_size)
                       for h in range(self.model.heads)]

    def normalised(self, residual: str, stage: str, row: int) -> list[int]:
        mean, m, s = (self.stages[f"{stage}.{name}"][row] for name in ("mean", "m", "s"))
        return normal(self.stages[residual][row], mean, m, s)

    def check(self, stage: str, at: tuple[int, ...], expected: int) -> None:
        got = self.stages[stage]
        for index in at:
            got = got[index]
        assert got == expected, f"{stage}{list(at)}: expected {expected}, got {got}"

    def residual(self, stage: str, old: int, layer: Linear, x: Row, row: int, j: int) -> None:
        self.check(stage, (row, j), sat(old + sat(linear(layer, x, j), 18), 16))

    def norm(self, residual: str, stage: str, norm: Norm, row: int) -> None:
        values = norm_row(self.stages[residual][row], norm, self.rsqrt)
        for name, value in zip(("sum", "sumsq", "mean", "m", "s"), values, strict=True):
            self.check(f"{stage}.{name}", (row,), value)

    def patch(self, row: int, j: int) -> None:
        m = self.model
        x = [0] * self.qvit.patch.weight.shape[1]
        if row >= m.special_tokens:
            line, column = divmod(row - m.special_tokens, m.grid)
            pitch = len(x) // m.patch
            for y in range(m.patch):
                for i in range(m.patch):
                    pixel = self.net.frame[line * m.patch + y, column * m.patch + i]
                    x[y * pitch + 3 * i:y * pitch + 3 * i + 3] = pixel.tolist()
        self.residual("embed.residual", int(self.qvit.initial[row, j]), self.qvit.patch, x, row, j)

    def attention(self, i: int, h: int, row: int, c: int) -> None:
        """Check scores, softmax and attention output of one row of one head."""
        block, stage = self.qvit.blocks[i], f"block{i}"
        q, k, v = (self.stages[f"{stage}.{name}"] for name in "qkv")
        part = self.slices[h]
        scores = []
        for key in k:
            acc = sum(a * b for a, b in zip(q[row][part], key[part], strict=True))
            scores.append(sat(rounded(acc * block.score.m, block.score.s), 16))
        for token, score in enumerate(scores):
            self.check(f"{stage}.scores", (h, row, token), score)
        top = max(scores)
        self.check(f"{stage}.rowmax", (h, row), top)
        e = []
        for x in scores:
            e16, z = exponent(self.qvit.exp.tolist(), x, top, block.exp)
            e.append(0 if z > 8 else rounded(e16, 8 + z))
        total = sum(e)
        self.check(f"{stage}.rowsum", (h, row), total)
        r, n = inverse(self.qvit.reciprocal.tolist(), total)
        m = scaled(r, block.value)
        self.check(f"{stage}.rowscale.m", (h, row), m)
        self.check(f"{stage}.rowscale.s", (h, row), block.value.s - n)
        channel = part.start + c
        acc = sum(weight * value[channel] for weight, value in zip(e, v, strict=True))
        out = sat(sat(rounded(acc * m, block.value.s - n), 27), 8)
        self.check(f"{stage}.attention", (row, channel), out)

    def block(self, i: int, row: int, j: int, hidden: int) -> None:
        block, stage = self.qvit.blocks[i], f"block{i}"
        before = f"block{i - 1}.residual2" if i else "embed.residual"
        self.norm(before, f"{stage}.norm1", block.norm1, row)
        y = self.normalised(before, f"{stage}.norm1", row)
        for name, layer in (("q", block.q), ("k", block.k), ("v", block.v)):
            self.check(f"{stage}.{name}", (row, j), sat(linear(layer, y, j), 8, name != "q"))
        self.residual(f"{stage}.residual1", self.stages[before][row][j], block.projection,
                      self.stages[f"{stage}.attention"][row], row, j)
        self.norm(f"{stage}.residual1", f"{stage}.norm2", block.norm2, row)
        y = self.normalised(f"{stage}.residual1", f"{stage}.norm2", row)
        self.check(f"{stage}.hidden", (row, hidden),
                   gelu(block.gelu.tolist(), linear(block.mlp1, y, hidden)))
        self.residual(f"{stage}.residual2", self.stages[f"{stage}.residual1"][row][j], block.mlp2,
                      self.stages[f"{stage}.hidden"][row], row, j)

    def logits(self, j: int) -> None:
        last = f"block{self.model.depth - 1}.residual2"
        total = 0
        names = ("logits.cls", "logits")[-len(self.qvit.heads):]
        for row, (name, head) in enumerate(zip(names, self.qvit.heads, strict=True)):
            self.norm(last, "head.norm", self.qvit.head_norm, row)
            y = self.normalised(last, "head.norm", row)
            total = sat(total + linear(head, y, j), 27)
            self.check(name, (j,), total)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_stage_by_plain_arithmetic(name: str) -> None:
    net = network(name)
    reference, model = Reference(net), net.qvit.model
    random = np.random.default_rng(0)
    # All special tokens, and some patches.
    rows = [*range(model.special_tokens), *random.integers(0, model.tokens, 4).tolist()]
    for row in rows:
        for j in random.integers(0, model.width, 8).tolist():
            reference.patch(row, j)
            for i in range(model.depth):
                reference.block(i, row, j, int(random.integers(0, model.hidden)))
        for i in range(model.depth):
            for h in range(model.heads):
                reference.attention(i, h, row, int(random.integers(0, model.head_size)))
    for j in range(model.classes):
        reference.logits(j)


@pytest.mark.parametrize("name", ["tiny_test", "small_test"])
def test_names_and_shapes_of_the_stages(name: str) -> None:
    net = network(name)
    m = net.qvit.model
    n, rows, heads = m.tokens, (m.tokens,), (m.heads, m.tokens)
    expected = {"embed.residual": (n, m.width), "logits": (m.classes,)}
    if m.distilled:
        expected["logits.cls"] = (m.classes,)
    norms = ["head.norm"]
    for i in range(m.depth):
        expected |= {f"block{i}.{s}": (n, m.width)
                     for s in ("q", "k", "v", "attention", "residual1", "residual2")}
        expected |= {f"block{i}.scores": (m.heads, n, n), f"block{i}.hidden": (n, m.hidden)}
        expected |= {f"block{i}.{s}": heads
                     for s in ("rowmax", "rowsum", "rowscale.m", "rowscale.s")}
        norms += [f"block{i}.norm1", f"block{i}.norm2"]
    expected |= {f"{norm}.{s}": rows for norm in norms for s in ("sum", "sumsq", "mean", "m", "s")}
    assert {stage: value.shape for stage, value in net.stages.items()} == expected
    for stage, value in net.stages.items():
        assert value.dtype == (np.int64 if stage.endswith("sumsq") else np.int32), stage


def test_the_networks_reach_the_corners_of_the_arithmetic() -> None:
    """Else the comparisons prove little."""
    net = network("small_test")
    stages = {name: value.astype(np.int64) for name, value in net.stages.items()}
    # Rows from one-hot to flat; exponents of their sums.
    assert stages["block0.rowsum"].min() < 2 * 255
    assert stages["block0.rowsum"].max() > 0.8 * 255 * net.qvit.model.tokens
    assert len(np.unique(stages["block0.rowscale.s"])) >= 4
    # The largest codes.
    assert max(np.abs(stages[f"block{i}.{s}"]).max() for i in (0, 1) for s in "qkv") >= 127
    # Outliers in the residual, and sums that are not zero.
    residual = np.abs(stages["block0.residual2"])
    assert residual.max() > 8 * np.median(residual)
    assert np.abs(stages["head.norm.mean"]).max() > 1 << 8
    # The first segments, the middle and the upper tail of GELU.
    hidden = stages["block0.hidden"] * net.qvit.steps["block0.hidden"]
    assert hidden.max() > 4 and hidden.min() < -0.15 and (hidden == 0).any()


def test_logits_and_top_class() -> None:
    net = network("tiny_test")
    assert np.array_equal(net.logits, net.stages["logits"]) and net.logits.dtype == np.int64
    assert net.top1 == int(np.argmax(net.logits))
    again = run(net.qvit, net.frame)
    assert np.array_equal(again[0], net.logits)
    # Of equal logits the first is the top class.
    head = net.qvit.heads[0]
    equal = replace(net.qvit, heads=(replace(head, weight=0 * head.weight, bias=0 * head.bias),))
    logits, top1, _ = run(equal, net.frame)
    assert not logits.any() and top1 == 0


@pytest.mark.parametrize("name", ["tiny_test", "small_test"])
def test_rows_of_the_class_token_in_the_last_block(name: str) -> None:
    """They are those of all rows, and so are the logits."""
    net = network(name)
    logits, top1, stages = run(net.qvit, net.frame, last_block="cls")
    assert np.array_equal(logits, net.logits) and top1 == net.top1
    assert list(stages) == list(net.stages)
    rows, tokens = net.qvit.model.special_tokens, net.qvit.model.tokens
    for stage, whole in net.stages.items():
        few = stage.startswith(("block1.", "head.norm")) and stage not in (
            "block1.k", "block1.v") and not stage.startswith("block1.norm1")
        if few:
            axis = whole.shape.index(tokens)
            assert np.array_equal(stages[stage], whole.take(range(rows), axis)), stage
        else:
            assert np.array_equal(stages[stage], whole), stage


def test_saturation() -> None:
    net = network("tiny_test")
    loud = replace(net.qvit.patch, s=net.qvit.patch.s - 8)
    _, _, stages = run(replace(net.qvit, patch=loud), net.frame)
    assert stages["embed.residual"].max() == 32767 and stages["embed.residual"].min() == -32768
    loud = replace(net.qvit.blocks[0].k, s=net.qvit.blocks[0].k.s - 4)
    block = replace(net.qvit.blocks[0], k=loud, q=replace(net.qvit.blocks[0].q, s=loud.s))
    _, _, stages = run(replace(net.qvit, blocks=(block, net.qvit.blocks[1])), net.frame)
    assert stages["block0.q"].min() == -128 and stages["block0.k"].min() == -127
    assert stages["block0.q"].max() == stages["block0.k"].max() == 127


def test_requantise_rounds_half_up_and_saturates() -> None:
    value = np.array([3, -3, 1, -1, 1 << 26, -(1 << 26)])
    assert requantise(value, 1 << 16, 17).tolist() == [2, -1, 1, 0, 1 << 25, -(1 << 25)]
    assert requantise(value[4:], 1 << 16, 14).tolist() == [(1 << 26) - 1, -(1 << 26)]


def test_matmul_is_exact() -> None:
    a, b = np.full((1, 4096), 32767), np.full((4096, 1), 32767)
    a[0, 0] -= 1
    assert matmul(a, b).item() == 4096 * 32767 ** 2 - 32767


def test_patches_are_padded_rows() -> None:
    net = network("head32")  # patches of 14 pixels: rows of 42 bytes in 48
    got = patches(net.qvit, net.frame)
    assert got.shape == (16, 14 * 48)
    expected = net.frame[14:28, 42:56].reshape(14, 42)
    row = got[1 * 4 + 3].reshape(14, 48)
    assert np.array_equal(row[:, :42], expected) and not row[:, 42:].any()


def test_bad_frames() -> None:
    qvit = network("tiny_test").qvit
    with pytest.raises(ValueError, match=r"the frame is uint8 \(48, 47, 3\), must be uint8 \(48, "):
        run(qvit, np.zeros((48, 47, 3), np.uint8))
    with pytest.raises(ValueError, match=r"the frame is float32 \(48, 48, 3\), must be uint8"):
        run(qvit, np.zeros((48, 48, 3), np.float32))


@pytest.mark.slow
def test_deit_tiny() -> None:
    model = model_named("deit_tiny")
    twin = FloatViT(model, synthetic(model, 0))
    frame = load_image(None, model.image_size)
    qvit = quantize(twin, [frame, noise(model, 0)], weights="synthetic")
    start = time.monotonic()
    _, _, stages = run(qvit, frame)
    assert time.monotonic() - start < 60
    report = sqnr(qvit, twin.forward_stages(normalise(frame)), stages)
    assert report["embed.residual"] > 40 and report["block11.residual2"] > 25
    assert report["logits"] > 15, report
