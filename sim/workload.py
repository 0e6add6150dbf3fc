# SPDX-License-Identifier: BSD-2-Clause
"""What is simulated: a quantised network, one frame, and what the integer twin makes of them."""

import pickle
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from golden import integer
from golden.checkpoint import load_checkpoint
from golden.fixed import Int
from golden.images import calibration_frames, load_image
from golden.lower import lower
from golden.model import FloatViT, ModelConfig, model_named
from golden.program import Program
from golden.quantize import QuantizedViT, quantize
from golden.synthetic import SEED, synthetic
from rtl.config import Config
from sim.build import BUILD
from sim.verilator import digest, replacing

__all__ = ["Workload", "calibration_frames", "quantized"]

_GOLDEN = Path(integer.__file__).parent


def quantized(model: ModelConfig, checkpoint: Path | None) -> QuantizedViT:
    """Return the network in integers, from a checkpoint or with synthetic weights.

    It is kept until the sources of the golden model or the checkpoint change.
    """
    sources = [*sorted(_GOLDEN.glob("*.py")), *sorted((_GOLDEN.parent / "rtl").glob("isa.py"))]
    content = f"seed {SEED}" if checkpoint is None else checkpoint
    if checkpoint is not None:
        # Faults of the checkpoint are found before its digest is taken.
        model, state = load_checkpoint(checkpoint, model)
    path = BUILD / "golden" / f"{digest(*sources, Path(__file__), repr(model), content)}.pickle"
    if path.exists():
        return pickle.loads(path.read_bytes())
    if checkpoint is None:
        state = synthetic(model, SEED)
    result = quantize(FloatViT(model, state), calibration_frames(model.image_size),
                      weights="synthetic" if checkpoint is None else str(checkpoint))
    with replacing(path) as unfinished:
        unfinished.write_bytes(pickle.dumps(result))
    return result


@dataclass(frozen=True, eq=False)
class Workload:
    """One frame through one network on one configuration.

    Parameters
    ----------
    qvit
        The network.
    config
        The configuration; a network that does not fit raises ConfigError.
    frame
        Bytes [size, size, 3].
    """

    qvit: QuantizedViT
    config: Config
    frame: NDArray[np.uint8]

    @classmethod
    def named(cls, model: str, config: Config, *, image: Path | None = None,
              checkpoint: Path | None = None) -> "Workload":
        """Return the named model with the frame cut from ``image``, or from the sample."""
        network = model_named(model)
        frame = load_image(image, network.image_size)
        return cls(quantized(network, checkpoint), config, frame)

    @cached_property
    def program(self) -> Program:
        return lower(self.qvit, self.config)

    @cached_property
    def expected(self) -> tuple[Int, int, dict[str, NDArray[np.integer]]]:
        """Logits, top class and named stages of the integer twin."""
        return integer.run(self.qvit, self.frame)

    @property
    def array_cycles(self) -> int:
        """Rows that enter the array: what the image takes if the array never waits."""
        return sum(info.rows * info.column_tiles * info.k_tiles for info in self.program.passes)
