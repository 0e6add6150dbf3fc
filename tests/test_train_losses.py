# SPDX-License-Identifier: BSD-2-Clause
"""Losses of networks with selectors against loops."""

import math

import pytest
import torch

from golden.train_losses import attention_loss, distillation_loss, ratio_loss, token_loss


def test_ratio() -> None:
    first = torch.tensor([[1.0, 1, 1, 1], [1.0, 1, 0, 0]], requires_grad=True)
    second = torch.tensor([[1.0, 0, 0, 0], [0.0, 0, 0, 0]], requires_grad=True)
    found = ratio_loss([first, second], [0.5, 0.25])
    assert found.item() == pytest.approx(((0.75 - 0.5) ** 2 + (0.125 - 0.25) ** 2) / 2)
    found.backward()
    assert (first.grad > 0).all() and (second.grad < 0).all()


def test_distillation() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, generator=generator)
    expected = 0.0
    for s, t in zip(student.softmax(-1).tolist(), teacher.softmax(-1).tolist(), strict=True):
        expected += sum(b * math.log(b / a) for a, b in zip(s, t, strict=True)) / 3
    assert distillation_loss(student, teacher).item() == pytest.approx(expected)
    assert distillation_loss(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


def test_tokens() -> None:
    features = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]],
                            requires_grad=True)
    keep = torch.tensor([[1.0, 0.0], [1.0, 1.0]], requires_grad=True)
    found = token_loss(features, torch.zeros(2, 2, 2), keep)
    assert found.item() == pytest.approx((5 + 61 + 113) / 2 / 3)
    found.backward()
    assert keep.grad is None and features.grad[0, 1].eq(0).all()
    assert token_loss(features, torch.zeros(2, 2, 2), torch.zeros(2, 2)).item() == 0


def test_attention() -> None:
    teacher = torch.tensor([[0.4, 0.2, 0.2, 0.2]])
    first = torch.tensor([[0.1, 0.1, 0.1, 0.1]], requires_grad=True)
    second = torch.tensor([[0.2, 0.9, 0.1, 0.9]], requires_grad=True)
    keeps = [torch.tensor([[1.0, 0, 1, 0]], requires_grad=True), torch.tensor([[1.0, 0, 0, 0]])]
    # Of the second block two patches are left, in the ratio that the teacher has them in.
    found = attention_loss([first, second], teacher, keeps)
    expected = 0.4 * math.log(1.6) + 3 * 0.2 * math.log(0.8)
    assert found.item() == pytest.approx(expected / 2, abs=1e-5)
    found.backward()
    assert first.grad[0, 0] < 0 < first.grad[0, 1] and keeps[0].grad is None
    assert second.grad[0, [1, 3]].eq(0).all()
    # Where nothing is left there is nothing to learn.
    nothing = attention_loss([first, second], teacher, [torch.zeros(1, 4), keeps[1]])
    assert nothing.item() == pytest.approx(expected / 2, abs=1e-5)
