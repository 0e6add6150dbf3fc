# SPDX-License-Identifier: BSD-2-Clause
"""The file that a training is resumed from, and whether it can be."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from golden.train_config import TrainConfig, TrainError

__all__ = ["read_state", "write_state"]

#: What is in it.
_ENTRIES = frozenset(("config", "processes", "stage", "step", "seconds", "cpu_seconds", "network",
                      "steps", "searches", "optimiser"))


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write the file; what is there is never half of one."""
    partial = path.with_name(f"{path.name}.partial")
    torch.save(dict(state), partial)
    partial.replace(path)


def read_state(path: Path, config: TrainConfig, processes: int) -> dict[str, Any] | None:
    """Return what :func:`write_state` wrote, None where there is nothing.

    Raises TrainError unless ``processes`` processes can go on with it under the settings
    ``config``: stages that have begun must be the same, others may be others, and more.
    """
    if not path.exists():
        return None
    # Errors of many kinds, with messages of many lines, are raised on broken files.
    try:
        state = {**torch.load(path, map_location="cpu", weights_only=True)}
        left = {**state["config"]}
        left["stages"] = tuple({**stage} for stage in left["stages"])
    except Exception as error:
        raise TrainError(f"{path} is truncated or corrupt: delete it to start anew") from error
    if state.keys() != _ENTRIES:
        raise TrainError(f"{path} has {', '.join(map(str, state))}, must have"
                         f" {', '.join(sorted(_ENTRIES))}: delete it to start anew")
    folder, now = path.parent, asdict(config)
    # Stages that ended have nothing of settings that they did not know.
    for old, new in zip(left["stages"][:state["stage"]], now["stages"], strict=False):
        old.update({name: value for name, value in new.items() if name not in old})
    begun = state["stage"] + (state["step"] > 0)
    if begun > len(config.stages):
        raise TrainError(f"{folder} holds a training of {begun} stages, must have as many or more,"
                         f" not {len(config.stages)}")
    for settings in (left, now):
        settings["stages"] = settings["stages"][:begun]
    for name, value in now.items():
        if left.get(name) != value:
            raise TrainError(f"{folder} holds a training with another {name}, must be another"
                             " folder, or one with the same settings")
    if state["processes"] != processes:
        raise TrainError(f"{folder} holds a training of {state['processes']} processes, must be"
                         f" resumed with as many, not {processes}")
    return state
