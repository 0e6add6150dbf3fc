# SPDX-License-Identifier: BSD-2-Clause
"""The folder that goes to a board: model, self-test, drivers: ``python -m platforms.deploy``."""

import argparse
import json
import math
import shutil
import struct
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from golden.cli import (
    add_config_option,
    add_last_block_option,
    add_selector_options,
    exit_status,
    pruning_config,
)
from golden.files import make_folder
from golden.images import load_image
from golden.lower import check_sizes
from golden.model import MODELS, ModelConfig, ModelError, model_named
from golden.network import LoweredNetwork, packed_for, quantized_on_samples
from golden.packed import SUFFIX, PackedError
from golden.program import Program, head_slot
from golden.pruning import PruningConfig
from golden.quantize import QuantizedViT, patch_bytes
from golden.scene_set import scene_set
from golden.synthetic import SEED, synthetic
from platforms.driver_interface import (
    ALIGN,
    FIELDS,
    FORMAT,
    HEADER_BYTES,
    MAGIC,
    NAME_BYTES,
    identity,
    interface,
    interface_header,
)
from rtl.config import Config, named
from rtl.export import register_header
from rtl.isa import SEGMENTS, Opcode
from rtl.logits import output_bytes

__all__ = ["DRIVERS", "MODEL_FILE", "deployment_of", "main", "pack", "write_deploy"]

#: The drivers as they are in the repository.
DRIVERS = Path(__file__).parent / "drivers"
#: Name of the model file in the folder.
MODEL_FILE = "model.hvd"

#: Trained networks that come with the repository, by model.
_TRAINED = {"scenes": Path(__file__).parent.parent / "models" / "scenes" / "scenes_threshold.hv"}


def _aligned(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN


def _rows(program: Program) -> dict[str, int]:
    """Return where images of a round, and of odd rounds, begin in the residual."""
    images = [f for f in program.instructions if f.opcode == Opcode.IMAGE]
    first = [fields.first_row for fields in images] + [0] * (SEGMENTS - len(images))
    return {"row_step": program.instructions[0].row_step if images[0].alternate else 0,
            **{f"first_row{i}": row for i, row in enumerate(first)}}


def pack(network: LoweredNetwork) -> bytes:
    """Return the model file: header, memory image, frame and answer of the self-test."""
    program, model = network.program, network.qvit.model
    logits, top_class, _ = network.expected
    answer = struct.pack(f"<{model.classes}i2I", *(int(logit) for logit in logits), top_class,
                         network.tokens[-1])
    places, body = [], b""
    for part in (program.image, network.frame.tobytes(), answer):
        body = body.ljust(_aligned(len(body)), b"\0")
        places.append(HEADER_BYTES + len(body))
        body += part
    # A power of two: half of two to the exponent.
    shift = 1 - math.frexp(program.logit_step)[1]
    values = {
        "magic": MAGIC, "format": FORMAT, "body_crc": zlib.crc32(body),
        "file_bytes": HEADER_BYTES + len(body), **identity(program.config),
        "tokens": program.tokens, "width": max(model.width, model.heads * head_slot(model)),
        "hidden": model.hidden, "patch": patch_bytes(model), "classes": model.classes,
        "special": model.special_tokens, "patches": model.grid ** 2,
        "selectors": program.selectors, "images": program.batch, **_rows(program),
        "image_size": model.image_size, "frame_bytes": program.frame_bytes,
        "output_bytes": output_bytes(model.classes), "logit_shift": shift & 0xFFFFFFFF,
        "model_offset": places[0], "model_bytes": len(program.image), "sample_offset": places[1],
        "expected_offset": places[2],
    }
    name = model.name.encode()[:NAME_BYTES - 1].ljust(NAME_BYTES, b"\0")
    behind = b"".join(values[field].to_bytes(4, "little") for field in list(FIELDS)[3:]) + name
    behind = behind.ljust(HEADER_BYTES - 12, b"\0")
    return struct.pack("<3I", MAGIC, FORMAT, zlib.crc32(behind)) + behind + body


_README = """\
# {model} for {config}

Everything a board needs beside the bitstream, for the instruction set of version {version}.

| file | content |
|---|---|
| `{file}` | program and weights, and the sample with its expected answer |
| `sample.png`, `sample.rgb` | that sample as a picture, and as the core reads it |
| `expected.json` | its answer: logits, top class, tokens and patches that the selectors keep |
| `c/` | driver for Linux and for bare metal: `make -C c`, then `c/classify {file}` |
| `python/heatvit/` | driver for PYNQ: `PYTHONPATH=python python3 -m heatvit BITSTREAM {file}` |

Weights: {weights}. Both commands run the self-test first.
"""


def write_deploy(folder: Path, network: LoweredNetwork) -> None:
    """Write the folder that goes to a board; what is not of it stays as it is.

    Parameters
    ----------
    folder
        Made where there is none; one that cannot be made raises ValueError.
    network
        The network, the configuration and the sample, see :func:`deployment_of`.
    """
    model = network.qvit.model
    for path in (folder, folder / "c", folder / "python" / "heatvit"):
        make_folder(path)
    (folder / MODEL_FILE).write_bytes(pack(network))
    logits, top_class, stages = network.expected
    (folder / "sample.rgb").write_bytes(network.frame.tobytes())
    Image.fromarray(network.frame).save(folder / "sample.png")
    _text(folder / "expected.json", json.dumps({
        "logits": [int(logit) for logit in logits], "top_class": int(top_class),
        "tokens": list(network.tokens),
        "kept": [stages[f"selector{i}.kept"].tolist() for i in range(network.program.selectors)],
    }, indent=1) + "\n")
    for source in sorted(DRIVERS.glob("c/*")) + sorted(DRIVERS.glob("python/heatvit/*.py")):
        shutil.copyfile(source, folder / source.relative_to(DRIVERS))
    _text(folder / "c" / "heatvit_regs.h", register_header())
    _text(folder / "c" / "heatvit_interface.h", interface_header())
    _text(folder / "python" / "heatvit" / "interface.json", json.dumps(interface(), indent=1)
          + "\n")
    _text(folder / "README.md", _README.format(
        model=model.name, config=network.config.name, file=MODEL_FILE,
        version=interface()["numbers"]["ISA_VERSION"], weights=network.qvit.weights))


def _text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _network(model: ModelConfig, weights: Path | None,
             pruning: PruningConfig | None) -> QuantizedViT:
    """Return a packed network, or one with synthetic weights."""
    if weights is None:
        return quantized_on_samples(model, synthetic(model, SEED), "synthetic", pruning)
    if weights.suffix != SUFFIX:
        raise PackedError(f"the weights are {weights}, must be a packed model, {SUFFIX}, as"
                          " python -m golden.quantize makes of a checkpoint")
    if pruning is not None:
        raise PackedError("selectors are asked for with a packed model, must be those in it")
    return packed_for(weights, model)


def deployment_of(model: str, config: Config, *, depth: int | None = None,
                  image: Path | None = None, weights: Path | None = None,
                  pruning: PruningConfig | None = None, last_block: str = "all",
                  batch: int = 1) -> LoweredNetwork:
    """Return what :func:`write_deploy` writes; bad input raises ValueError.

    Parameters
    ----------
    model
        Name of the network.
    config
        The configuration.
    depth
        Its first so many blocks only, to try a board without waiting; None for all.
    image
        The sample; without it a photograph of scikit-learn, or for scenes a scene.
    weights
        A packed model; without it the one that comes with the repository, or synthetic weights.
    pruning
        Selectors of a network with synthetic weights.
    last_block, batch
        As of :class:`golden.network.LoweredNetwork`.
    """
    network = model_named(model)
    if depth is not None and not 1 <= depth <= network.depth:
        raise ModelError(f"the depth is {depth}, must be between 1 and {network.depth}")
    if depth is not None and weights is not None:
        raise ModelError(f"the depth is {depth} with weights, must be without them")
    if depth is not None:
        network = replace(network, name=f"{model}, depth {depth}", depth=depth)
    elif weights is None and pruning is None:
        weights = _TRAINED.get(model)
    check_sizes(network, config, pruning, batch)
    if pruning is not None:
        pruning.check(network)
    frame = (scene_set(network, "test", 1).frame(0, network.image_size)
             if model in _TRAINED and image is None else load_image(image, network.image_size))
    return LoweredNetwork(_network(network, weights, pruning), config, frame,
                          last_block=last_block, batch=batch)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m platforms.deploy", description=__doc__)
    parser.add_argument("--model", default="scenes", help=f"one of {', '.join(MODELS)}")
    add_config_option(parser, "tiny")
    parser.add_argument("--depth", type=int, metavar="N",
                        help="the first N blocks only, to try a board without waiting")
    parser.add_argument("--weights", type=Path, metavar=f"MODEL{SUFFIX}",
                        help="packed model, of python -m golden.quantize; without it the one that"
                        " comes with the repository, or synthetic weights")
    parser.add_argument("--image", type=Path, metavar="FILE", help="photograph of the self-test")
    parser.add_argument("--batch", type=int, default=1, metavar="B",
                        help="images that share weights behind the first selector")
    add_selector_options(parser, "none")
    add_last_block_option(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(arguments)

    def run() -> bool:
        pruning = pruning_config(options)
        network = deployment_of(
            options.model, named(options.config), depth=options.depth, image=options.image,
            weights=options.weights, pruning=pruning if pruning.active else None,
            last_block=options.last_block, batch=options.batch)
        write_deploy(options.output, network)
        qvit = network.qvit
        print(f"{options.output}: {qvit.model.name} for {network.config.name}, weights:"
              f" {qvit.weights}")
        return True

    return exit_status("platforms.deploy", run)


if __name__ == "__main__":
    sys.exit(main())
