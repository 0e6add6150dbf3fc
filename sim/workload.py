# SPDX-License-Identifier: BSD-2-Clause
"""What is simulated: a quantised network, one frame, and what the integer twin makes of them."""

import pickle
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from golden import integer
from golden.checkpoint import load_checkpoint
from golden.fixed import Int
from golden.images import calibration_frames, load_image
from golden.lower import check_sizes, lower
from golden.model import FloatViT, ModelConfig, model_named
from golden.program import Program
from golden.quantize import QuantizedViT, quantize
from golden.synthetic import SEED, synthetic
from rtl.config import Config
from sim.cache import BUILD, digest, replacing, versions

__all__ = ["Workload", "quantized"]

_ROOT = Path(__file__).parent.parent
#: What a quantised network depends on beside the model and its parameters.
_SOURCES = (*sorted((_ROOT / "golden").glob("*.py")), _ROOT / "rtl" / "config.py",
            _ROOT / "rtl" / "isa.py", Path(__file__))
_PACKAGES = ("numpy", "pillow", "scikit-learn", "torch")


def quantized(model: ModelConfig, checkpoint: Path | None) -> QuantizedViT:
    """Return the network in integers, from a checkpoint or with synthetic weights.

    It is kept until the sources of the golden model, its packages or the checkpoint change.
    """
    content: str | Path
    if checkpoint is None:
        weights, content = "synthetic", f"seed {SEED}"
    else:
        # Faults of the checkpoint are found before its digest is taken.
        model, state = load_checkpoint(checkpoint, model)
        weights, content = str(checkpoint), checkpoint
    key = digest(*_SOURCES, versions(*_PACKAGES), repr(model), content)
    path = BUILD / "golden" / f"{key}.pickle"
    if path.exists():
        # The same checkpoint may have been in another place.
        return replace(pickle.loads(path.read_bytes()), weights=weights)
    if checkpoint is None:
        state = synthetic(model, SEED)
    result = quantize(FloatViT(model, state), calibration_frames(model.image_size),
                      weights=weights)
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
        """Return the named model with the frame cut from ``image``, or from the sample.

        Bad input raises ValueError: ModelError, ConfigError, ImageError or CheckpointError.
        """
        network = model_named(model)
        # Quantisation takes long: first see that all is well with the rest.
        check_sizes(network, config)
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
