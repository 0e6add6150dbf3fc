# SPDX-License-Identifier: BSD-2-Clause
"""Training: the stages of a configuration one after another, from where it was interrupted."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from golden.train_config import Stage, TrainConfig, TrainError
from golden.train_data import Batch, SceneData
from golden.trainable import TrainableViT

__all__ = ["Progress", "Trainer", "World", "learning_rate", "parameter_groups"]

#: File that a training is resumed from, and the one with a line of JSON for each measurement.
_STATE = "state.pt"
_LOG = "log.jsonl"

#: Running means of gradients and of their squares in AdamW.
_BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class World:
    """The processes of a training, as ``torchrun`` starts them: how many, and which this is."""

    size: int = 1
    rank: int = 0
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> "World":
        """Return what ``torchrun`` says, or the world of one process."""
        return cls(*(int(os.environ.get(name, default)) for name, default in (
            ("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0))))


@dataclass(frozen=True)
class Progress:
    """Where a training is: after which step of which stage, the loss there, and the accuracy on
    the validation images if it was measured there.
    """

    stage: Stage
    step: int
    loss: float
    accuracy: float | None = None


def learning_rate(stage: Stage, step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    if step < stage.warmup:
        return stage.rate * (step + 1) / stage.warmup
    part = (step - stage.warmup) / (stage.steps - stage.warmup)
    return stage.rate * (stage.last + (1 - stage.last) * (1 + math.cos(math.pi * part)) / 2)


def parameter_groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Return the parameters for an optimiser: weights of layers decay, nothing else does."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in network.named_parameters():
        groups[name.endswith(".weight") and parameter.dim() > 1].append(parameter)
    return [{"params": groups[True], "weight_decay": decay},
            {"params": groups[False], "weight_decay": 0.0}]


class Trainer:
    """Trains a network through all stages of a configuration.

    What is random in a step hangs on the seed, the stage, the step and the process, not on the
    steps before: so a training that was interrupted goes on as if it had not been, and the same
    configuration gives the same weights on the same machine.

    Into the folder it writes ``state.pt``, to resume from; ``log.jsonl``, with a line for each
    measurement; and for each stage that ended ``NAME.safetensors``, its weights, which
    ``golden.checkpoint`` reads.

    Parameters
    ----------
    config
        Settings.
    folder
        Where everything is written to. What an earlier run with the same settings left there is
        resumed.
    device
        ``cpu`` or ``cuda``.
    world
        Processes that share the batches; their process group is there already.
    """

    def __init__(self, config: TrainConfig, folder: Path, *, device: torch.device,
                 world: World = World()) -> None:
        for stage in config.stages:
            if stage.batch % world.size:
                raise TrainError(f"batch of stage {stage.name} is {stage.batch}, must be a multiple"
                                 f" of the {world.size} processes")
        self.config, self.folder, self.device, self.world = config, folder, device, world
        self.data = SceneData(config.model)
        for stage in config.stages:
            self.data.settings(stage.size)  # raises an error now, not when the stage begins
        self.network = TrainableViT(config.model, config.functions)
        self.network.initialise(torch.Generator().manual_seed(config.seed))
        self.network.to(device)
        self.stage, self.step = 0, 0
        self._seconds = self._cpu_seconds = 0.0
        self._optimiser: torch.optim.Optimizer | None = None
        self._optimiser_state: dict[str, Any] | None = None
        self._validation: dict[int, list[Batch]] = {}
        self._resume()

    def run(self, report: Callable[[Progress], None]) -> None:
        """Train to the end; ``report`` is called after every step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter() - self._seconds
        cpu_start = time.process_time() - self._cpu_seconds
        while self.stage < len(self.config.stages):
            stage = self.config.stages[self.stage]
            self._optimiser = torch.optim.AdamW(parameter_groups(self.network, stage.decay),
                                                lr=stage.rate, betas=_BETAS, fused=True)
            if self._optimiser_state is not None:
                self._optimiser.load_state_dict(self._optimiser_state)
                self._optimiser_state = None
            network = self._distributed()
            while self.step < stage.steps:
                loss = self._update(network, stage)
                self.step += 1
                accuracy = None
                if self.step % self.config.validate_every == 0 or self.step == stage.steps:
                    self._seconds = time.perf_counter() - start
                    self._cpu_seconds = time.process_time() - cpu_start
                    accuracy = self._measure(stage, loss)
                report(Progress(stage, self.step, loss, accuracy))
            self._end(stage)

    def accuracy(self, size: int) -> float:
        """Return the part of the validation images of ``size`` pixels that is classified right."""
        if size not in self._validation:
            self._validation[size] = [batch.to(self.device) for batch in self.data.validation(
                size, self.config.validation)]
        self.network.eval()
        with torch.no_grad():
            right = sum(int((self.network(batch.images, batch.places).argmax(-1)
                             == batch.labels).sum()) for batch in self._validation[size])
        self.network.train()
        return right / self.config.validation

    def _distributed(self) -> nn.Module:
        if self.world.size == 1:
            return self.network
        return DistributedDataParallel(
            self.network, device_ids=[self.device] if self.device.type == "cuda" else None)

    def _update(self, network: nn.Module, stage: Stage) -> float:
        """Make one step, and return its loss."""
        assert self._optimiser is not None
        generator = np.random.default_rng([self.config.seed, self.stage, self.step,
                                           self.world.rank])
        batch = self.data.batch(stage.size, stage.batch // self.world.size, generator)
        with torch.autocast(self.device.type, torch.bfloat16,
                            enabled=stage.precision == "bfloat16"):
            loss = self._loss(network, stage, batch.to(self.device))
        self._optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), stage.clip)
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(stage, self.step)
        self._optimiser.step()
        return float(loss.detach())

    def _loss(self, network: nn.Module, stage: Stage, batch: Batch) -> Tensor:
        """Return what a stage minimises: of ``dense``, the cross entropy."""
        return functional.cross_entropy(network(batch.images, batch.places), batch.labels,
                                        label_smoothing=stage.smoothing)

    def _measure(self, stage: Stage, loss: float) -> float | None:
        """Measure the accuracy, log it and save everything; only the first process does."""
        if self.world.rank:
            return None
        accuracy = self.accuracy(stage.size)
        line = {"stage": stage.name, "step": self.step, "loss": loss, "accuracy": accuracy,
                "seconds": round(self._seconds, 1), "cpu_seconds": round(self._cpu_seconds, 1)}
        with (self.folder / _LOG).open("a", encoding="utf-8") as log:
            print(json.dumps(line), file=log)
        self._save()
        return accuracy

    def _end(self, stage: Stage) -> None:
        self.stage, self.step = self.stage + 1, 0
        self._optimiser = None
        if self.world.rank == 0:
            save_file(self.network.state(), self.folder / f"{stage.name}.safetensors")
            self._save()

    def _save(self) -> None:
        state = {"config": asdict(self.config), "processes": self.world.size, "stage": self.stage,
                 "step": self.step, "seconds": self._seconds, "cpu_seconds": self._cpu_seconds,
                 "network": self.network.state(),
                 "optimiser": None if self._optimiser is None else self._optimiser.state_dict()}
        # Under another name first: what is there is never half of a file.
        partial = self.folder / f"{_STATE}.partial"
        torch.save(state, partial)
        partial.replace(self.folder / _STATE)

    def _resume(self) -> None:
        path = self.folder / _STATE
        if not path.exists():
            return
        # Errors of many kinds, with messages of many lines, are raised on broken files.
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            left = {**state["config"]}
        except Exception as error:
            raise TrainError(f"{path} is truncated or corrupt: delete it to start anew") from error
        now = asdict(self.config)
        for name, value in now.items():
            if left.get(name) != value:
                raise TrainError(f"{self.folder} holds a training with another {name}, must be"
                                 " another folder, or one with the same settings")
        if state["processes"] != self.world.size:
            raise TrainError(f"{self.folder} holds a training of {state['processes']} processes,"
                             f" must be resumed with as many, not {self.world.size}")
        self.network.load_state_dict(state["network"])
        self.stage, self.step = state["stage"], state["step"]
        self._seconds, self._cpu_seconds = state["seconds"], state["cpu_seconds"]
        self._optimiser_state = state["optimiser"]
