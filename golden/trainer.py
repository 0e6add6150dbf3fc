# SPDX-License-Identifier: BSD-2-Clause
"""Training: the stages of a configuration one after another, from where it was interrupted."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from golden.latency_aware import ACCEPTED, Try
from golden.model_file import save_weights
from golden.pruning import PruningConfig
from golden.train_config import Stage, TrainConfig, TrainError
from golden.train_data import Batch, SceneData
from golden.train_losses import attention_loss, distillation_loss, ratio_loss, token_loss
from golden.train_measure import measure
from golden.train_schedule import kept_counts, learning_rate, noise_level
from golden.train_search import (
    SearchState,
    describe,
    describe_found,
    go_on,
    search_table,
    write_search,
)
from golden.train_state import read_state, write_state
from golden.train_weights import copy_weights, load_weights
from golden.trainable import TrainableViT
from golden.trainable_integer import TrainableIntegerViT, calibrated
from golden.trainable_pruning import TrainablePrunedViT

__all__ = ["Progress", "Trainer", "World", "parameter_groups"]

#: File that a training is resumed from, and the one with a line of JSON for each measurement.
_STATE = "state.pt"
_LOG = "log.jsonl"

#: Images that the steps of integers are calibrated on.
_CALIBRATION = 32

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
    """Where a training is: after which step of which stage, and the loss there; where they were
    measured, the accuracy on the validation images and the part of the patches that each selector
    keeps. Of a search also a line that says what became of a try, or what was found.
    """

    stage: Stage
    step: int
    loss: float
    accuracy: float | None = None
    kept: tuple[float, ...] = ()
    outcome: str = ""


def parameter_groups(network: nn.Module, decay: float,
                     factor: float = 1.0) -> list[dict[str, Any]]:
    """Return the parameters for an optimiser: weights of layers decay, nothing else does.

    The ``factor`` of a group is for its learning rate: 1 for selectors, and what is given for the
    rest of the network.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        decays = name.endswith(".weight") and parameter.dim() > 1
        groups.setdefault((name.startswith("selectors."), decays), []).append(parameter)
    return [{"params": groups[selectors, decays], "weight_decay": decay if decays else 0.0,
             "factor": 1.0 if selectors else factor}
            for selectors, decays in sorted(groups, key=lambda key: (key[0], not key[1]))]


class Trainer:
    """Trains a network through all stages of a configuration.

    What is random in a step hangs on the seed, the stage, the step and the process, not on the
    steps before: so a training that was interrupted goes on as if it had not been, and the same
    configuration gives the same weights on the same machine.

    Into the folder it writes ``state.pt``, to resume from; ``log.jsonl``, with a line for each
    measurement; and for each stage that ended ``NAME.safetensors``, the weights of the network and
    of its selectors, which ``golden.model_file`` reads, with ``config.json`` beside it. Of a stage
    with a search it writes ``NAME.search.json``, too, after each try, after which it can be
    resumed.

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
        self._tables = {stage.name: search_table(stage, config.model)
                        for stage in config.stages if stage.search is not None}
        self._searches: dict[str, SearchState] = {}
        self.stage, self.step = 0, 0
        self._tried = 0  # steps of a stage before the try that is under way
        self._seconds = self._cpu_seconds = 0.0
        self._optimiser: torch.optim.Optimizer | None = None
        self._optimiser_state: dict[str, Any] | None = None
        self._validation: dict[tuple[int, str], list[Batch]] = {}
        self.network: TrainableViT
        self._teacher: TrainableViT | None = None
        self._quantised: dict[str, float] | None = None  # steps of a stage that is resumed
        state = self._resume()
        self._begin(min(self.stage, len(config.stages) - 1))
        if state is not None:
            self.network.load_state_dict(state)

    def run(self, report: Callable[[Progress], None]) -> None:
        """Train to the end; ``report`` is called after every step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._start = (time.perf_counter() - self._seconds,
                       time.process_time() - self._cpu_seconds)
        while self.stage < len(self.config.stages):
            stage = self.config.stages[self.stage]
            if stage.search is None:
                stage = self._stage(self.stage)
                self._train(stage, report)
            else:
                stage = self._search(stage, report)
            self._end(stage)

    def _train(self, stage: Stage, report: Callable[[Progress], None]) -> None:
        """Make the steps of a stage that are left, and measure now and then."""
        for loss in self._steps(stage):
            accuracy: float | None = None
            kept: tuple[float, ...] = ()
            if self.step % self.config.validate_every == 0 or self.step == stage.steps:
                accuracy, kept = self._measure(stage, loss)
            report(Progress(stage, self.step, loss, accuracy, kept))

    def _search(self, stage: Stage, report: Callable[[Progress], None]) -> Stage:
        """Find the selectors of a stage, and return it with them."""
        if (state := self._searches.get(stage.name)) is None:
            state = self._searches[stage.name] = SearchState(accuracy=self._together(stage)[0])
        if state.found is None:
            self._find(stage, state, report)
        return self._stage(self.stage)

    def _find(self, stage: Stage, state: SearchState, report: Callable[[Progress], None]) -> None:
        """Make the tries of a search that are left.

        The network is that of the last try that was accepted, and in the end that with the
        selectors that stay.
        """
        assert stage.search is not None
        accepted, loss = self.network, math.nan

        def attempt(trial: Stage) -> tuple[float, tuple[float, ...]]:
            nonlocal loss
            self.network = self._make(trial)
            copy_weights(self.network, accepted)
            self._tried = self.step
            for loss in self._steps(trial):
                report(Progress(trial, self.step - self._tried, loss))
            self._optimiser = None
            return self._together(trial)

        def decided(one: Try) -> None:
            nonlocal accepted
            if one.verdict == ACCEPTED:
                accepted = self.network
            self.network = accepted
            if one.accuracy is not None and self.world.rank == 0:
                self._log(stage, loss, one.accuracy, one.kept, block=one.block, keep=one.rate,
                          latency=round(one.latency, 4), verdict=one.verdict)
                write_search(self._search_file(stage), stage, self._tables[stage.name], state)
                self._save()
            report(Progress(stage, self.step, loss, one.accuracy, one.kept, describe(one)))

        found = go_on(stage, self._tables[stage.name], self.config.model, state, attempt=attempt,
                      decided=decided)
        chosen = replace(stage, search=None, blocks=found.blocks, keep=found.keep)
        self.network = self._make(chosen)
        copy_weights(self.network, accepted)
        accuracy, kept = self._together(chosen)
        state.found, state.found_accuracy = found, accuracy
        if self.world.rank == 0:
            self._log(stage, None, accuracy, kept, blocks=found.blocks,
                      latency=round(found.latency, 4))
            write_search(self._search_file(stage), stage, self._tables[stage.name], state)
            self._save()
        report(Progress(chosen, self.step, math.nan, accuracy, kept,
                        describe_found(found, accuracy, stage.search.latency)))

    def _search_file(self, stage: Stage) -> Path:
        return self.folder / f"{stage.name}.search.json"

    def _steps(self, stage: Stage) -> Iterator[float]:
        """Make the steps of a stage, or of a try, that are left; yield the loss of each."""
        self._optimiser = torch.optim.AdamW(parameter_groups(
            self.network, stage.decay, stage.network), lr=stage.rate, betas=_BETAS, fused=True)
        if self._optimiser_state is not None:
            self._optimiser.load_state_dict(self._optimiser_state)
            self._optimiser_state = None
        network = self._distributed()
        while self.step - self._tried < stage.steps:
            loss = self._update(network, stage)
            self.step += 1
            yield loss

    def measure(self, stage: Stage) -> tuple[float, tuple[float, ...]]:
        """Return the part of the validation images of a stage that the network classifies right,
        and the part of their patches that each selector keeps.
        """
        # Only these kinds are given scores: to all others the images are the same.
        key = stage.size, stage.kind if stage.kind in ("random", "oracle") else "dense"
        if key not in self._validation:
            self._validation[key] = [batch.to(self.device) for batch in self.data.fixed(
                "validation", stage.size, self.config.validation, stage.kind)]
        answers = measure(self.network, self._validation[key])
        return float(answers.right.mean()), tuple(answers.keeps.mean((0, 2)).tolist())

    def _together(self, stage: Stage) -> tuple[float, tuple[float, ...]]:
        """Return what the first process measures, in all of them."""
        measured = [self.measure(stage) if self.world.rank == 0 else None]
        if self.world.size > 1:
            torch.distributed.broadcast_object_list(measured)
        assert measured[0] is not None
        return measured[0]

    def _stage(self, index: int) -> Stage:
        """Return a stage with the selectors that another stage says, or that a search found.

        While the search goes on they are those of the last try that was accepted.
        """
        stage = self.config.stages[index]
        if stage.kind == "dense":
            return stage
        origin = self.config.selected_by(index)
        blocks, keep = origin.blocks, origin.keep
        if origin.name in self._searches:
            blocks, keep = self._searches[origin.name].selectors
        return replace(stage, search=None, blocks=blocks, keep=keep)

    def _make(self, stage: Stage) -> TrainableViT:
        """Make the network of a stage with random parameters."""
        model, functions, pruning = self.config.model, self.config.functions, stage.pruning
        network = (TrainableViT(model, functions) if pruning is None
                   else TrainablePrunedViT(model, pruning, functions))
        network.initialise(torch.Generator().manual_seed(self.config.seed))
        if isinstance(network, TrainablePrunedViT):
            index = [stage.name for stage in self.config.stages].index(stage.name)
            seed = int(np.random.SeedSequence([self.config.seed, index]).generate_state(1)[0])
            network.initialise_selectors(torch.Generator().manual_seed(seed))
        return network.to(self.device)

    def _begin(self, index: int) -> None:
        """Make the network of a stage, with the weights that it begins with, and its teacher."""
        config, stage = self.config, self._stage(index)
        model, functions = config.model, config.functions
        self.network = self._make(stage)
        if (file := self._file(config.source(index))) is not None:
            load_weights(self.network, file)
        if stage.quantise:
            self.network = self._integers(stage, self.network)
        self._teacher = None
        if stage.distils:
            file = self._file(config.teacher(index))
            assert file is not None
            self._teacher = TrainableViT(model, functions).requires_grad_(False).eval()
            load_weights(self._teacher, file)
            self._teacher.to(self.device)

    def _integers(self, stage: Stage, network: TrainableViT) -> TrainableViT:
        """Return a network with the same parameters that computes in integers."""
        config = self.config
        pruning = stage.pruning or PruningConfig(selector="none")
        steps, self._quantised = self._quantised, None
        if steps is None:
            generator = np.random.default_rng([config.seed, self.stage])
            batch = self.data.batch(stage.size, _CALIBRATION, generator, "dense")
            twin = TrainablePrunedViT(config.model, pruning, config.functions)
            twin.load_state_dict(network.state())
            steps = calibrated(twin, batch.images, config.functions)
        made = TrainableIntegerViT(config.model, pruning, steps, config.functions,
                                   getattr(torch, stage.precision))
        made.load_state_dict(network.state())
        return made.to(self.device)

    def _file(self, stage: str | None) -> Path | None:
        """Return the file of the weights of a stage, or of those that training begins with."""
        if stage is not None:
            return self.folder / f"{stage}.safetensors"
        return Path(self.config.weights) if self.config.weights else None

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
        batch = self.data.batch(stage.size, stage.batch // self.world.size, generator, stage.kind)
        noise = None
        step = self.step - self._tried
        level = noise_level(stage, step)
        if stage.kind == "threshold" and level > 0:
            shape = (len(stage.blocks), len(batch.labels), self.config.model.grid ** 2)
            noise = torch.from_numpy(level * generator.logistic(size=shape)).float()
            noise = noise.to(self.device)
        counts = kept_counts(stage, self.config.model.grid ** 2, step)
        with torch.autocast(self.device.type, torch.bfloat16,
                            enabled=stage.precision == "bfloat16"):
            loss = self._loss(network, stage, batch.to(self.device), noise, counts)
        if not torch.isfinite(loss):
            raise TrainError(f"the loss of step {step + 1} of stage {stage.name} is"
                             f" {float(loss.detach())}, must be finite: a rate below {stage.rate:g}"
                             " may help")
        self._optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), stage.clip)
        for group in self._optimiser.param_groups:
            group["lr"] = group["factor"] * learning_rate(stage, step)
        self._optimiser.step()
        return float(loss.detach())

    def _loss(self, network: nn.Module, stage: Stage, batch: Batch, noise: Tensor | None,
              counts: tuple[int, ...] | None) -> Tensor:
        """Return what a stage minimises: of ``dense``, the cross entropy."""
        if stage.kind == "dense":
            logits = (network(batch.images).logits if stage.quantise
                      else network(batch.images, batch.places))
            return functional.cross_entropy(logits, batch.labels,
                                            label_smoothing=stage.smoothing)
        # No counts are given to a network in integers, which takes none.
        output = network(batch.images, noise, batch.scores, *(() if counts is None else (counts,)))
        loss = stage.loss_class * functional.cross_entropy(output.logits, batch.labels,
                                                           label_smoothing=stage.smoothing)
        if stage.kind == "threshold":
            loss = loss + stage.loss_ratio * ratio_loss(output.keeps, stage.keep)
        if self._teacher is not None:
            with torch.no_grad():
                features, attention = self._teacher.explained(batch.images)
                logits = self._teacher.logits(features)
            patches = features[:, self.config.model.special_tokens:]
            loss = (loss + stage.loss_distil * distillation_loss(output.logits, logits)
                    + stage.loss_tokens * token_loss(output.features, patches, output.keeps[-1]))
            if output.attentions:
                loss = loss + stage.loss_attention * attention_loss(
                    output.attentions, attention, output.keeps)
        return loss

    def _measure(self, stage: Stage, loss: float) -> tuple[float | None, tuple[float, ...]]:
        """Measure the accuracy, log it and save everything; only the first process does."""
        if self.world.rank:
            return None, ()
        accuracy, kept = self.measure(stage)
        self._log(stage, loss, accuracy, kept)
        self._save()
        return accuracy, kept

    def _log(self, stage: Stage, loss: float | None, accuracy: float, kept: tuple[float, ...],
             **more: Any) -> None:
        """Write a line of what was measured; with no loss of what was not trained."""
        self._seconds = time.perf_counter() - self._start[0]
        self._cpu_seconds = time.process_time() - self._start[1]
        line: dict[str, Any] = {
            "stage": stage.name, "step": self.step, **({} if loss is None else {"loss": loss}),
            "accuracy": accuracy, "seconds": round(self._seconds, 1),
            "cpu_seconds": round(self._cpu_seconds, 1)}
        if kept:
            line["kept"] = [round(share, 4) for share in kept]
        with (self.folder / _LOG).open("a", encoding="utf-8") as log:
            print(json.dumps(line | more), file=log)

    def _end(self, stage: Stage) -> None:
        self.stage, self.step, self._tried = self.stage + 1, 0, 0
        self._optimiser = None
        if self.world.rank == 0:
            # Of a kind that is only there to compare with, no one takes the file for topk.
            save_weights(self.folder / f"{stage.name}.safetensors", self.network.state(),
                         None if stage.pruning is None
                         else {**asdict(stage.pruning), "selector": stage.kind},
                         self._network_steps())
            # What the names and shapes of the parameters do not say.
            model = self.config.model
            (self.folder / "config.json").write_text(json.dumps(
                {"num_attention_heads": model.heads, "layer_norm_eps": model.eps}, indent=2) + "\n")
            self._save()
        if self.world.size > 1:
            torch.distributed.barrier()  # the others read that file
        if self.stage < len(self.config.stages):
            self._begin(self.stage)

    def _network_steps(self) -> dict[str, float] | None:
        return self.network.steps if isinstance(self.network, TrainableIntegerViT) else None

    def _save(self) -> None:
        state = {"config": asdict(self.config), "processes": self.world.size, "stage": self.stage,
                 "step": self.step, "seconds": self._seconds, "cpu_seconds": self._cpu_seconds,
                 "network": self.network.state(), "steps": self._network_steps(),
                 "searches": {name: asdict(search) for name, search in self._searches.items()},
                 "optimiser": None if self._optimiser is None else self._optimiser.state_dict()}
        write_state(self.folder / _STATE, state)

    def _resume(self) -> dict[str, Tensor] | None:
        """Read where an earlier run was; return the parameters of the network there.

        There are none where a stage begins.
        """
        state = read_state(self.folder / _STATE, self.config, self.world.size)
        if state is None:
            return None
        self.stage, self.step = state["stage"], state["step"]
        self._seconds, self._cpu_seconds = state["seconds"], state["cpu_seconds"]
        self._optimiser_state = state["optimiser"]
        self._searches = {name: SearchState.from_dict(search)
                          for name, search in state["searches"].items()}
        if not self.step and self.stage < len(self.config.stages):
            return None
        self._quantised = state["steps"]
        network: dict[str, Tensor] = state["network"]
        return network
