# SPDX-License-Identifier: BSD-2-Clause
"""The programs that are fuzzed: the smallest networks that have every kind of instruction."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from golden import integer
from golden.fixed import Int
from golden.lower import lower
from golden.model import FloatViT, ModelConfig
from golden.program import Program, tokens_of
from golden.pruning import PruningConfig
from golden.quantize import quantize
from golden.synthetic import synthetic
from golden.synthetic_selector import synthetic_selectors
from rtl.config import Config
from rtl.logits import output_bytes
from sim.device import Result

__all__ = ["Subject", "result_of", "subjects"]

_SEED = 2

#: Image of 3 x 3 patches: more tokens than a tile of 8, fewer than two of them.
_IMAGE, _PATCH = 12, 4

_SETTINGS: dict[str, tuple[int, int, PruningConfig | None]] = {
    # depth, batch, selectors
    "dense": (1, 1, None),
    "topk": (2, 1, PruningConfig(selector="topk", blocks=(1,), counts=(5,))),
    "threshold": (2, 1, PruningConfig(selector="threshold", blocks=(1,))),
    "batch": (2, 2, PruningConfig(selector="topk", blocks=(1,), counts=(5,))),
}


@dataclass(frozen=True, eq=False)
class Subject:
    """A program that is right, its frames, and what it must leave in memory.

    Members
    -------
    name
        Of the subject.
    program
        The program.
    frames
        One for each image of a round.
    results
        What it makes of each.
    """

    name: str
    program: Program
    frames: tuple[NDArray[np.uint8], ...]
    results: tuple[Result, ...]

    @property
    def classes(self) -> int:
        return self.program.model.classes

    def problem(self, top_class: int, memory: bytes, stride: int, poison: int) -> str:
        """Return what is wrong with the result of a run, empty if nothing is.

        Parameters
        ----------
        top_class
            Register of that name.
        memory, stride
            From the first output on; bytes from one to the next.
        poison
            What all bytes of it were before the run.
        """
        size = output_bytes(self.classes)
        for i, expected in enumerate(self.results):
            output, behind = memory[i * stride:][:size], memory[i * stride + size:][:stride - size]
            got = Result.decode(output, self.classes)
            what = f"image {i} of {self.name}"
            if not np.array_equal(got.logits, expected.logits):
                return f"{what}: the logits are {got.logits}, must be {expected.logits}"
            for name in ("top_class", "top_logit", "tokens"):
                if getattr(got, name) != getattr(expected, name):
                    return (f"{what}: {name} is {getattr(got, name)}, must be"
                            f" {getattr(expected, name)}")
            if behind.strip(bytes([poison])):
                return f"{what}: memory behind the output was written"
        if top_class != self.results[-1].top_class:
            return f"TOP_CLASS is {top_class}, must be {self.results[-1].top_class}"
        return ""


def result_of(logits: Int, top: int, tokens: int) -> Result:
    """Return what an image of these logits leaves in memory."""
    return Result(np.asarray(logits, np.int32), top, int(logits[top]), tokens)


def _subject(name: str, config: Config) -> Subject:
    depth, batch, pruning = _SETTINGS[name]
    model = ModelConfig(name=f"fuzz_{name}", image_size=_IMAGE, patch=_PATCH, width=16, depth=depth,
                        heads=1, hidden=16, classes=5)
    random = np.random.default_rng(_SEED)
    shape = (model.image_size, model.image_size, model.channels)
    frames = tuple(random.integers(0, 256, shape, np.uint8) for _ in range(2 + batch))
    twin = FloatViT(model, synthetic(model, _SEED))
    selectors = (synthetic_selectors(twin, pruning.blocks, _SEED)
                 if pruning is not None and pruning.selector == "threshold" else [])
    qvit = quantize(twin, list(frames[:2]), weights="synthetic", pruning=pruning,
                    selectors=selectors)
    program = lower(qvit, config, batch=batch)
    results = []
    for frame in frames[2:]:
        logits, top, stages = integer.run(qvit, frame)
        results.append(result_of(logits, top, tokens_of(program, stages)[-1]))
    return Subject(name, program, frames[2:], tuple(results))


def subjects(config: Config) -> tuple[Subject, ...]:
    """Return the subjects that a configuration can run, always the same ones."""
    return tuple(_subject(name, config) for name, (_, batch, pruning) in _SETTINGS.items()
                 if config.pruning or pruning is None
                 if batch <= config.images)
