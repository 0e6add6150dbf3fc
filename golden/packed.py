# SPDX-License-Identifier: BSD-2-Clause
"""Packed models, ``.hv``: a quantised network in one file.

The file is one of safetensors. Every array of :class:`golden.quantize.QuantizedViT` is a tensor,
under the names of the fields that lead to it (``blocks.0.q.weight``), in the narrowest signed type
that holds its values. The metadata have one entry, ``heatvit``: JSON with ``format``, ``sha256``
and ``network``, which is everything that is no array. The same network gives the same bytes.
"""

import hashlib
import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from golden.model import ModelConfig
from golden.quantize import Linear, Norm, QuantizedClassifier, QuantizedViT, patch_bytes

__all__ = ["FORMAT_VERSION", "SUFFIX", "PackedError", "load", "save"]

FORMAT_VERSION = 1
SUFFIX = ".hv"

_KEY = "heatvit"
_TYPES = (np.int8, np.int16, np.int32, np.int64)

Arrays = dict[str, NDArray[Any]]


class PackedError(ValueError):
    """A packed model that cannot be read."""


def _narrow(array: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return ``array`` in the narrowest signed type that holds it."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for kind in _TYPES:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.ascontiguousarray(array, kind)
    raise AssertionError("integers beyond 64 bits")


def _encode(value: Any, name: str, arrays: Arrays) -> Any:
    """Return ``value`` as JSON has it; its arrays go to ``arrays``."""
    if isinstance(value, np.ndarray):
        arrays[name] = _narrow(value)
        return None
    if is_dataclass(value):
        result = {}
        for field in fields(value):
            child = getattr(value, field.name)
            encoded = _encode(child, f"{name}.{field.name}" if name else field.name, arrays)
            if not isinstance(child, np.ndarray):
                result[field.name] = encoded
        return result
    if isinstance(value, tuple):
        return [_encode(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]
    return value


def _array(kind: Any, name: str, arrays: Arrays) -> NDArray[Any]:
    wanted = np.dtype(get_args(get_args(kind)[1])[0])
    array = arrays.pop(name)
    if array.dtype.kind != "i" or not np.can_cast(array.dtype, wanted):
        raise TypeError(f"{name} is of type {array.dtype}, must be {wanted} or narrower")
    return array.astype(wanted)


def _decode(kind: Any, value: Any, name: str, arrays: Arrays) -> Any:
    """Return what :func:`_encode` was given, a value of the type ``kind``."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        values = {}
        for field in fields(kind):
            child = f"{name}.{field.name}" if name else field.name
            if get_origin(hints[field.name]) is np.ndarray:
                values[field.name] = _array(hints[field.name], child, arrays)
            # A field with a default may be newer than the file.
            elif field.name in value:
                values[field.name] = _decode(hints[field.name], value[field.name], child, arrays)
        if unknown := value.keys() - values.keys():
            raise TypeError(f"{name or 'the network'} has an unknown field {min(unknown)}")
        made: Any = kind
        return made(**values)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _decode(arguments[0], value, name, arrays)
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError(f"{name} is {value!r}, must be a list")
        return tuple(_decode(arguments[0], item, f"{name}.{i}", arrays)
                     for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError(f"{name} is {value!r}, must be an object")
        return {key: _decode(arguments[1], item, f"{name}.{key}", arrays)
                for key, item in value.items()}
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise TypeError(f"{name} is {value!r}, must be of type {kind.__name__}")
    return value


def _digest(network: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    total = hashlib.sha256(network.encode())
    for name in sorted(arrays):
        array = arrays[name]
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)


def save(path: str | Path, qvit: QuantizedViT) -> None:
    """Write ``qvit`` to a file."""
    arrays: Arrays = {}
    network = _encode(qvit, "", arrays)
    about = {"format": FORMAT_VERSION, "network": network,
             "sha256": _digest(_json(network), arrays)}
    # One entry only: safetensors writes several in any order.
    Path(path).write_bytes(to_bytes(arrays, metadata={_KEY: _json(about)}))


def _layer_shapes(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs),
            **{f"{name}.{part}": (outputs,) for part in ("bias", "m", "s")}}


def _shapes(qvit: QuantizedViT) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the arrays must have, for the sizes of the model."""
    m = qvit.model
    d, size, middle = m.width, m.head_size, max(1, m.heads // 2)
    shapes: dict[str, tuple[int, ...]] = {
        "initial": (m.tokens, d), "exp": (8, 3), "reciprocal": (16, 3), "rsqrt": (32, 3)}
    shapes |= _layer_shapes("patch", d, patch_bytes(m))
    for i in range(m.depth):
        shapes[f"blocks.{i}.gelu"] = (34, 3)
        for layer, outputs, inputs in (("q", d, d), ("k", d, d), ("v", d, d), ("projection", d, d),
                                       ("mlp1", m.hidden, d), ("mlp2", d, m.hidden)):
            shapes |= _layer_shapes(f"blocks.{i}.{layer}", outputs, inputs)
    for i in range(m.special_tokens):
        shapes |= _layer_shapes(f"heads.{i}", m.classes, d)
    for i in range(_classifiers(qvit)):
        shapes |= {f"classifiers.{i}.{table}": (34, 3) for table in ("gelu", "sigmoid")}
        for layer, outputs, inputs in (
            ("local", size // 2, size), ("global_", size // 2, size), ("importance1", middle, d),
            ("score1", size // 2, size), ("score2", size // 4, size // 2),
            ("importance2", m.heads, middle), ("score3", 1, size // 4),
        ):
            shapes |= _layer_shapes(f"classifiers.{i}.{layer}", outputs, inputs)
    return shapes


def _classifiers(qvit: QuantizedViT) -> int:
    pruning = qvit.pruning
    return len(pruning.active) if pruning is not None and pruning.selector == "threshold" else 0


def _norms(value: Any, model: ModelConfig, name: str = "") -> list[tuple[str, int, int]]:
    """Return name, channels and what these must be of each LayerNorm."""
    if isinstance(value, tuple):
        return [norm for i, item in enumerate(value)
                for norm in _norms(item, model, f"{name}.{i}")]
    if not is_dataclass(value) or isinstance(value, Linear):
        return []
    size = model.head_size if isinstance(value, QuantizedClassifier) else model.width
    result = []
    for field in fields(value):
        child, path = getattr(value, field.name), f"{name}.{field.name}" if name else field.name
        if isinstance(child, Norm):
            result.append((path, child.channels, size))
        else:
            result += _norms(child, model, path)
    return result


def _check(qvit: QuantizedViT, arrays: Arrays) -> None:
    """Raise ValueError unless all parts have the sizes of the model; ``arrays`` are as stored."""
    for what, count, right in (("blocks", len(qvit.blocks), qvit.model.depth),
                               ("heads", len(qvit.heads), qvit.model.special_tokens),
                               ("classifiers", len(qvit.classifiers), _classifiers(qvit))):
        if count != right:
            raise ValueError(f"it has {count} {what}, must have {right}")
    for name, shape in _shapes(qvit).items():
        if arrays[name].shape != shape:
            raise ValueError(f"the shape of {name} is {arrays[name].shape}, must be {shape}")
    for name, channels, right in _norms(qvit, qvit.model):
        if channels != right:
            raise ValueError(f"{name} is over {channels} channels, must be over {right}")
    if qvit.pruning is not None:
        qvit.pruning.check(qvit.model)


def _open(path: Path) -> tuple[str, Arrays]:
    """Return the description and the arrays in a file."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise PackedError(f"packed model {path} cannot be read: {error.strerror}") from error
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(_KEY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    # Types of numbers that numpy lacks are TypeErrors or others.
    except (SafetensorError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise PackedError(
            f"packed model {path} is truncated or corrupt: {str(error).splitlines()[0]}"
        ) from error
    if text is None:
        raise PackedError(f"{path} is no packed model: its metadata have no entry {_KEY}")
    return text, arrays


def load(path: str | Path) -> QuantizedViT:
    """Read a network that :func:`save` wrote; a file that is broken raises PackedError."""
    path = Path(path)
    text, arrays = _open(path)
    try:
        about = json.loads(text)
        version, network, digest = (about[key] for key in ("format", "network", "sha256"))
    except (ValueError, KeyError, TypeError) as error:
        raise PackedError(f"packed model {path} is corrupt: its description is incomplete"
                          ) from error
    if version != FORMAT_VERSION:
        raise PackedError(f"packed model {path} is of format {version}, must be of format"
                          f" {FORMAT_VERSION}")
    if _digest(_json(network), arrays) != digest:
        raise PackedError(f"packed model {path} is corrupt: its checksum does not match")
    try:
        left = dict(arrays)
        qvit: QuantizedViT = _decode(QuantizedViT, network, "", left)
        if left:
            raise ValueError(f"it has an unknown array {min(left)}")
        _check(qvit, arrays)
    except KeyError as error:
        raise PackedError(f"packed model {path} is wrong: it lacks {error.args[0]}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise PackedError(f"packed model {path} is wrong: {error}") from error
    return qvit
