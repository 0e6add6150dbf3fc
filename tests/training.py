# SPDX-License-Identifier: BSD-2-Clause
"""Trainings that are interrupted and compared, for tests of the trainer."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from golden.train_config import TrainConfig
from golden.trainer import Progress, Trainer, World

__all__ = ["Stopped", "assert_equal", "train"]


class Stopped(Exception):
    """Raised where a training is interrupted."""


def train(folder: Path, config: TrainConfig, stop: int | None = None,
          world: World | None = None) -> list[Progress]:
    """Train and return the reports; with ``stop`` raise an error after so many of them."""
    reports: list[Progress] = []

    def report(progress: Progress) -> None:
        reports.append(progress)
        if len(reports) == stop:
            raise Stopped

    Trainer(config, folder, device=torch.device("cpu"), world=world or World()).run(report)
    return reports


def assert_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Compare parameters by their names, to the last bit."""
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
