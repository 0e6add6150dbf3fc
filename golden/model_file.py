# SPDX-License-Identifier: BSD-2-Clause
"""Models in files: parameters, and what a ``config.json`` beside them says of the network."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from golden.checkpoint import CheckpointError, convert, load_tensors
from golden.model import ModelConfig
from golden.pruning import PruningConfig, PruningError

__all__ = ["Description", "LoadedModel", "ModelFile", "find_model", "load_model", "read_model",
           "save_weights", "stored_pruning", "stored_steps"]

#: Name of the metadata of a file of safetensors that say which selectors the weights are with.
_PRUNING = "pruning"

#: What stands before the names of the steps of integers that the weights were trained with.
_STEP = "steps."

_SUFFIXES = (".safetensors", ".pth", ".pt", ".onnx")
_SELECTOR = re.compile(r"selectors\.(\d+)\.(.+)")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the shapes of parameters do not tell; None where nothing says it.

    Parameters
    ----------
    source
        What says so, for messages.
    heads
        Attention heads.
    eps
        What LayerNorm adds to the variance.
    activation
        The function of the MLP; the only one that is supported is "gelu", by the error function.
    """

    source: str = ""
    heads: int | None = None
    eps: float | None = None
    activation: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """The contents of a file of a model.

    Parameters
    ----------
    source
        What messages call it.
    tensors
        Parameters, named as in the file; those of an ONNX graph as timm names them.
    description
        What they do not tell.
    selectors
        Parameters of token selectors, which are ``selectors.0.`` and so on in the file.
    extras
        Of an ONNX graph, what is no part of a vision transformer: operator and where it is.
    """

    source: str
    tensors: Mapping[str, Tensor]
    description: Description
    selectors: tuple[Mapping[str, Tensor], ...] = ()
    extras: tuple[tuple[str, str], ...] = ()


def find_model(path: str | Path) -> Path:
    """Return ``path``; if it is a folder the one model in it."""
    path = Path(path)
    if not path.is_dir() or path.suffix in _SUFFIXES:
        return path
    found = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    if len(found) != 1:
        raise CheckpointError(f"the folder {path} has {len(found)} files of models"
                              f" ({', '.join(_SUFFIXES)}), must have 1")
    return found[0]


def _number(fields: Mapping[str, Any], name: str, kind: Callable[[float], Any],
            source: str) -> Any:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not value > 0 or kind(value) != value:
        raise CheckpointError(f"{name} in {source} is {value!r}, must be a positive number")
    return kind(value)


def _describe(path: Path) -> Description:
    """Return what ``config.json`` beside a file says, as Hugging Face and timm write it."""
    file = path.parent / "config.json"
    if not file.is_file():
        return Description()
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is no JSON that can be read") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{file} is a {type(fields).__name__}, must be an object")
    arguments = fields.get("model_args")
    heads = _number(fields, "num_attention_heads", int, str(file))
    if heads is None and isinstance(arguments, dict):
        heads = _number(arguments, "num_heads", int, str(file))
    activation = fields.get("hidden_act")
    return Description(
        source=str(file), heads=heads, eps=_number(fields, "layer_norm_eps", float, str(file)),
        activation=None if activation is None else str(activation))


def read_model(path: str | Path) -> ModelFile:
    """Return the contents of a checkpoint or an ONNX graph, whatever network it is of."""
    path = find_model(path)
    if path.suffix == ".onnx":
        # That file needs what this one has.
        from golden.onnx_import import read_onnx
        return read_onnx(path)
    tensors, selectors = _split(load_tensors(path))
    return ModelFile(source=f"checkpoint {path}", tensors=tensors, selectors=selectors,
                     description=_describe(path))


def _split(tensors: Mapping[str, Tensor]
           ) -> tuple[dict[str, Tensor], tuple[dict[str, Tensor], ...]]:
    """Return the parameters of the network, and those of each selector; no steps."""
    network: dict[str, Tensor] = {}
    selectors: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if match := _SELECTOR.fullmatch(key):
            selectors.setdefault(int(match[1]), {})[match[2]] = value
        elif not key.startswith(_STEP):
            network[key] = value
    return network, tuple(selectors[i] for i in sorted(selectors))


class LoadedModel(NamedTuple):
    """A model that is supported: its sizes, its parameters, and those of its selectors."""

    model: ModelConfig
    state: dict[str, Tensor]
    selectors: tuple[Mapping[str, Tensor], ...]


def load_model(path: str | Path, model: ModelConfig | None = None) -> LoadedModel:
    """Return the model and the canonical parameters in a file, or raise CheckpointError.

    The model is that which is given, or is inferred.
    """
    file = read_model(path)
    about = file.description
    for operator, where in file.extras:
        raise CheckpointError(f"{file.source} has {operator} ({where}), which is not supported")
    if about.activation not in (None, "gelu"):
        raise CheckpointError(f"the activation in {about.source} is {about.activation}, must be"
                              " gelu")
    found, state = convert(file.tensors, model, heads=about.heads, source=file.source)
    if about.eps is not None:
        found = replace(found, eps=about.eps)
    return LoadedModel(found, state, file.selectors)


def save_weights(path: Path, state: Mapping[str, Tensor],
                 pruning: Mapping[str, Any] | None = None,
                 steps: Mapping[str, float] | None = None) -> None:
    """Write parameters as a file of safetensors.

    ``pruning`` are the fields of the :class:`golden.pruning.PruningConfig` that they are for, which
    :func:`stored_pruning` reads; ``steps`` those of integers that they were trained with, which
    :func:`stored_steps` reads.
    """
    tensors = {f"{_STEP}{stage}": torch.tensor(step, dtype=torch.float64)
               for stage, step in (steps or {}).items()}
    # A single entry: several would be written in an order that is not always the same.
    save_file({**state, **tensors}, path,
              None if pruning is None else {_PRUNING: json.dumps(dict(pruning))})


def stored_steps(path: str | Path) -> dict[str, float] | None:
    """Return the steps of integers that the weights in a file were trained with, if there are any.
    """
    path = find_model(path)
    if path.suffix != ".safetensors":
        return None
    tensors = {name.removeprefix(_STEP): value for name, value in load_tensors(path).items()
               if name.startswith(_STEP)}
    for stage, value in tensors.items():
        if value.shape != () or not value.is_floating_point():
            raise CheckpointError(f"the step of {stage} in checkpoint {path} is {value.dtype}"
                                  f" {tuple(value.shape)}, must be one number")
    return {stage: float(value) for stage, value in tensors.items()} or None


def stored_pruning(path: str | Path) -> PruningConfig | None:
    """Return which selectors the weights in a file are with; None where the file does not say."""
    path = find_model(path)
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(_PRUNING)
    if text is None:
        return None
    try:
        fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                                  for name, value in json.loads(text).items()}
        return PruningConfig(**fields)
    except PruningError as error:
        raise CheckpointError(f"the selectors of checkpoint {path}: {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{_PRUNING} in the metadata of checkpoint {path} is {text!r}, must"
                              " be the settings of selectors") from error
