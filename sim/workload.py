# SPDX-License-Identifier: BSD-2-Clause
"""What is simulated: a quantised network, one frame, and what the integer twin makes of them."""

import pickle
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from golden.checkpoint import load_checkpoint
from golden.images import load_image
from golden.lower import check_sizes
from golden.lower_batch import check_batch
from golden.model import ModelConfig, model_named
from golden.network import LoweredNetwork, packed_for, quantized_on_samples
from golden.packed import SUFFIX, PackedError
from golden.program import PassInfo
from golden.pruning import PruningConfig, segment_macs
from golden.quantize import QuantizedViT
from golden.synthetic import SEED, synthetic
from rtl.config import MIN_TILE_CYCLES, Config
from rtl.isa import Stationary
from sim.cache import BUILD, digest, replacing, versions

__all__ = ["Workload", "quantized"]

_ROOT = Path(__file__).parent.parent
#: What a quantised network depends on beside the model and its parameters.
_SOURCES = (*sorted(path for path in (_ROOT / "golden").glob("*.py")
                    # The cycle model changes nothing of a network.
                    if not path.name.startswith("cycles")), _ROOT / "rtl" / "config.py",
            _ROOT / "rtl" / "isa.py", _ROOT / "rtl" / "checksum.py", Path(__file__))
_PACKAGES = ("numpy", "pillow", "scikit-learn", "torch")


def _packed(path: Path, model: ModelConfig, pruning: PruningConfig | None) -> QuantizedViT:
    """Return a packed model; without ``pruning`` its own selectors, if it has any."""
    qvit = packed_for(path, model)
    if pruning is not None and pruning != qvit.pruning:
        raise PackedError(f"packed model {path} is for {qvit.pruning or 'no selectors'}, what is"
                          f" asked for is {pruning}")
    return qvit


def quantized(model: ModelConfig, checkpoint: Path | None,
              pruning: PruningConfig | None = None) -> QuantizedViT:
    """Return the network in integers, from a checkpoint, packed or not, or with synthetic weights.

    The classifiers of ``threshold`` selectors are synthetic. The network is kept until the sources
    of the golden model, its packages or the checkpoint change.
    """
    if checkpoint is not None and checkpoint.suffix == SUFFIX:
        return _packed(checkpoint, model, pruning)
    content: str | Path
    if checkpoint is None:
        weights, content = "synthetic", f"seed {SEED}"
    else:
        # Faults of the checkpoint are found before its digest is taken.
        model, state = load_checkpoint(checkpoint, model)
        weights, content = str(checkpoint), checkpoint
    key = digest(*_SOURCES, versions(*_PACKAGES), repr(model), repr(pruning), content)
    path = BUILD / "golden" / f"{key}.pickle"
    if path.exists():
        # The same checkpoint may have been in another place.
        return replace(pickle.loads(path.read_bytes()), weights=weights)
    if checkpoint is None:
        state = synthetic(model, SEED)
    result = quantized_on_samples(model, state, weights, pruning)
    with replacing(path) as unfinished:
        unfinished.write_bytes(pickle.dumps(result))
    return result


@dataclass(frozen=True, eq=False)
class Workload(LoweredNetwork):
    """One frame through one network on one configuration.

    Parameters
    ----------
    qvit, config, frame, last_block, batch
        As of :class:`LoweredNetwork`.
    label
        Class of the frame; None if nobody knows.
    selectors_synthetic
        Whether the classifiers of ``threshold`` selectors are.
    """

    label: int | None = None
    selectors_synthetic: bool = True

    @classmethod
    def named(cls, model: str, config: Config, *, image: Path | None = None,
              checkpoint: Path | None = None,
              pruning: PruningConfig | None = None, last_block: str = "all",
              batch: int = 1) -> "Workload":
        """Return the named model with the frame cut from ``image``, or from the sample.

        Bad input raises ValueError: ModelError, PruningError, ConfigError, ImageError,
        CheckpointError or PackedError.
        """
        network = model_named(model)
        # Quantisation takes long: first see that all is well with the rest.
        check_sizes(network, config)
        if pruning is not None:
            pruning.check(network)
        # Only packed models bring selectors of their own.
        brought = checkpoint is not None and checkpoint.suffix == SUFFIX
        if pruning is not None or not brought:
            check_batch(network, pruning, config, batch)
        frame = load_image(image, network.image_size)
        qvit = quantized(network, checkpoint, pruning)
        return cls(qvit, config, frame,
                   selectors_synthetic=not brought or qvit.weights == "synthetic",
                   last_block=last_block, batch=batch)

    def with_frame(self, frame: NDArray[np.uint8], label: int | None = None) -> "Workload":
        """Return the same program with another frame, of class ``label``."""
        other = replace(self, frame=frame, label=label)
        other.__dict__["program"] = self.program
        return other

    def forget(self) -> None:
        """Drop ``expected``, which is large; it is computed again if it is asked for."""
        self.__dict__.pop("expected", None)

    @cached_property
    def passes(self) -> tuple[PassInfo, ...]:
        """The passes of a round, with the rows and tiles that they have for such frames."""
        return self.program.passes_for(self.tokens)

    @property
    def selector(self) -> str:
        """Kind of the selectors, "none" if there are none."""
        return "none" if self.qvit.pruning is None else self.qvit.pruning.selector

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks before which there is a selector."""
        return () if self.qvit.pruning is None else self.qvit.pruning.blocks

    @property
    def macs(self) -> int:
        """Multiplications that the network takes for the tokens of this frame."""
        pruning = self.qvit.pruning or PruningConfig(selector="none")
        return sum(segment_macs(self.qvit.model, pruning, self.tokens, self.last_block))

    @property
    def array_cycles(self) -> int:
        """Rows that enter the array: what a round takes if the array never waits."""
        return sum(info.rows * info.column_tiles * info.k_tiles for info in self.passes)

    def ideal_cycles(self, bytes_per_cycle: float) -> int:
        """Return what the passes of a round take one after another, each at its own limit.

        A tile takes as many cycles as it has rows, or as its weights take to arrive, or as rows
        must be apart that meet in an accumulator.
        """
        config = self.config
        load = config.macs_per_cycle / min(bytes_per_cycle, config.bus_bytes)
        total = 0.0
        for info in self.passes:
            weights = self.program.instructions[info.instruction].stationary == Stationary.WEIGHT
            total += info.column_tiles * info.k_tiles * max(info.rows, load if weights else 0,
                                                            MIN_TILE_CYCLES)
        return round(total)
