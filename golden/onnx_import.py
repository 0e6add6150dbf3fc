# SPDX-License-Identifier: BSD-2-Clause
"""Vision transformers as ONNX graphs: the parameters, found by what the graph does with them.

Exporters rename, merge, transpose and fold parameters, so names say nothing. The graph is computed
once on a random image by the reference evaluator of ``onnx``: what does not depend on the image is
a constant, and the roles of constants follow from the operators that they meet. At last the float
twin must have the logits of the graph.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.reference
import torch
from numpy.typing import NDArray

from golden.checkpoint import CheckpointError, convert
from golden.model import FloatViT
from golden.model_file import Description, ModelFile

__all__ = ["read_onnx"]

Real = NDArray[np.floating]

#: Operators that a vision transformer may be made of, as exporters write it.
_KNOWN = frozenset(
    "Add Cast Concat Constant ConstantOfShape Conv Div Dropout Equal Erf Expand Flatten Gather Gelu"
    " Gemm Identity IsNaN LayerNormalization MatMul Mul Pow ReduceMean Reshape Shape Slice Softmax"
    " Split Sqrt Squeeze Sub Transpose Unsqueeze Where".split())
#: Of these, operators that do not move values only.
_SOURCES = ("Conv", "Gemm", "MatMul", "LayerNormalization", "Softmax")
#: Constants with fewer values are shapes and scalars.
_SMALL = 16
#: What the logits may differ by, of the largest.
_TOLERANCE = 1e-3


@dataclass
class _Linear:
    """A layer: ``weight`` [outputs, inputs]."""

    output: str
    weight: Real
    bias: Real | None = None


@dataclass
class _Norm:
    """A LayerNorm; of one in several operators ``output`` is the last so far."""

    output: str
    eps: float
    gamma: Real | None = None
    beta: Real | None = None


@dataclass
class _Parts:
    """The parts of the graph in their order."""

    patches: list[tuple[Real, Real]] = field(default_factory=list)
    special: list[Real] = field(default_factory=list)
    positions: list[Real] = field(default_factory=list)
    norms: list[_Norm] = field(default_factory=list)
    linears: list[_Linear] = field(default_factory=list)
    softmaxes: list[str] = field(default_factory=list)
    extras: list[tuple[str, str]] = field(default_factory=list)


def _load(path: Path, source: str) -> Any:
    try:
        path.open("rb").close()
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except OSError as error:
        raise CheckpointError(f"{source} cannot be read: {error.strerror or error}") from error
    # Decoders of protobuf, external data and the checker raise errors of many kinds.
    except Exception as error:
        raise CheckpointError(f"{source} is truncated or corrupt") from error
    if not model.graph.node:
        raise CheckpointError(f"{source} has no operators, must have those of a network")
    return model


def _image(model: Any, source: str) -> tuple[str, Real]:
    """Return the name of the input, and a random image for it."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise CheckpointError(f"{source} has {len(inputs)} inputs, must have 1, the image")
    shape = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]
    if len(shape) != 4 or not all(shape[1:]):
        raise CheckpointError(f"the input of {source} has the shape {shape}, must be an image of"
                              " fixed size [batch, channels, size, size]")
    shape[0] = shape[0] or 1
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return inputs[0].name, image


def _attribute(node: Any, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default


class _Graph:
    """A graph and the values of one run; ``data`` names the values that depend on the image."""

    def __init__(self, model: Any, name: str, image: Real) -> None:
        self.nodes = list(model.graph.node)
        self.data = {name}
        for node in self.nodes:
            # Sizes do not depend on what is in the image.
            if node.op_type != "Shape" and self.data & set(node.input):
                self.data |= set(node.output)
        self.unknown = Counter(node.op_type for node in self.nodes
                               if self.data & set(node.output) and node.op_type not in _KNOWN)
        self.producer = {output: node for node in self.nodes for output in node.output}
        self.values: dict[str, NDArray[Any]] = {}
        if not self.unknown:
            evaluator = onnx.reference.ReferenceEvaluator(model)
            self.values |= dict(evaluator.run(None, {name: image}, intermediate=True))
        for tensor in model.graph.initializer:
            self.values[tensor.name] = onnx.numpy_helper.to_array(tensor)
        self.logits = model.graph.output[0].name

    def data_nodes(self) -> Iterator[Any]:
        """Give the operators that the image goes through."""
        return (node for node in self.nodes if self.data & set(node.input) and
                node.op_type != "Shape")

    def split(self, node: Any) -> tuple[list[str], list[Real]]:
        """Return the inputs that depend on the image, and the values of those that do not."""
        data = [name for name in node.input if name in self.data]
        return data, [self.values[name] for name in node.input if name and name not in self.data]

    def origin(self, name: str) -> str:
        """Return the value that ``name`` is a rearrangement of."""
        while (node := self.producer.get(name)) is not None and node.op_type not in _SOURCES:
            # The bias of a layer belongs to it: a value and a constant.
            name = self.split(node)[0][0]
        return name


def _vector(value: Real, size: int) -> bool:
    return value.ndim >= 1 and value.size == size == value.shape[-1]


def _add(graph: _Graph, parts: _Parts, node: Any, name: str, value: Real) -> bool:
    """Take an addition of a constant; return whether its role is known."""
    size = graph.values[node.output[0]].shape[-1]
    for linear in parts.linears:
        if linear.output == name and linear.bias is None and _vector(value, size):
            linear.output, linear.bias = node.output[0], value.reshape(-1)
            return True
    for norm in parts.norms:
        if norm.output == name and norm.gamma is not None and norm.beta is None and _vector(
                value, size):
            norm.output, norm.beta = node.output[0], value.reshape(-1)
            return True
    if not parts.norms and value.ndim in (2, 3) and graph.values[name].shape[-2:] == (
            value.shape[-2:]):
        parts.positions.append(value.reshape(1, *value.shape[-2:]))
        return True
    return value.size < _SMALL or not value.any()


def _multiply(graph: _Graph, parts: _Parts, node: Any, name: str, value: Real) -> bool:
    size = graph.values[node.output[0]].shape[-1]
    for norm in parts.norms:
        if norm.output == name and norm.gamma is None and _vector(value, size):
            norm.output, norm.gamma = node.output[0], value.reshape(-1)
            return True
    if value.size >= _SMALL:
        parts.extras.append(("layer scale" if _vector(value, size) else "a product with a constant",
                             f"{node.op_type} by a constant {value.shape}"))
    return True


def _divide(graph: _Graph, parts: _Parts, node: Any) -> None:
    """Take a division of values: x - mean by the root of the variance, or nothing known."""
    root = graph.producer.get(node.input[1])
    add = None if root is None else graph.producer.get(root.input[0])
    if root is not None and root.op_type == "Sqrt" and add is not None and add.op_type == "Add":
        parts.norms.append(_Norm(node.output[0], float(graph.split(add)[1][0])))
    else:
        parts.extras.append(("a division of values", node.name or node.output[0]))


def _layer(graph: _Graph, parts: _Parts, node: Any, constants: list[Real]) -> None:
    if node.op_type == "Conv":
        weight = constants[0]
        kernel, strides = weight.shape[2:], _attribute(node, "strides", [1, 1])
        plain = (weight.ndim == 4 and list(strides) == list(kernel) and not any(
            _attribute(node, "pads", [0])) and _attribute(node, "group", 1) == 1)
        if plain and not parts.patches:
            bias = constants[1] if len(constants) > 1 else np.zeros(len(weight), weight.dtype)
            parts.patches.append((weight, bias))
        else:
            parts.extras.append(("a convolutional stem", f"Conv {weight.shape}, strides {strides}"))
        return
    if not constants:
        return  # scores, or attention times V
    weight = constants[0]
    if node.input[1] in graph.data or weight.ndim != 2:
        parts.extras.append(("a product with a constant", node.name or node.output[0]))
        return
    if not (node.op_type == "Gemm" and _attribute(node, "transB", 0)):
        weight = weight.T
    parts.linears.append(_Linear(node.output[0], weight, constants[1].reshape(-1) if (
        len(constants) > 1) else None))


def _collect(graph: _Graph, parts: _Parts) -> None:
    """Take in the parts of the graph."""
    for node in graph.data_nodes():
        data, constants = graph.split(node)
        kind = node.op_type
        if kind in ("Conv", "MatMul", "Gemm"):
            _layer(graph, parts, node, constants)
        elif kind == "Softmax":
            parts.softmaxes.append(node.output[0])
        elif kind == "LayerNormalization":
            size = len(constants[0])
            parts.norms.append(_Norm(
                node.output[0], float(_attribute(node, "epsilon", 1e-5)), constants[0],
                constants[1] if len(constants) > 1 else np.zeros(size, constants[0].dtype)))
        elif kind == "Concat" and graph.values[node.output[0]].ndim == 3:
            parts.special += constants
        elif kind == "Gelu" and _attribute(node, "approximate", b"none") != b"none":
            parts.extras.append(("GELU by tanh", node.name or node.output[0]))
        elif kind == "Div" and len(data) == 2:
            _divide(graph, parts, node)
        elif kind in ("Mul", "Div") and constants:
            _multiply(graph, parts, node, data[0], constants[0])
        elif kind == "Add" and constants and not _add(graph, parts, node, data[0], constants[0]):
            parts.extras.append(("an addition of a constant", f"Add {constants[0].shape}"))


def _attention(graph: _Graph, parts: _Parts, softmax: str) -> list[_Linear]:
    """Return the layers of Q, K and V of one block, or the one layer of all."""
    by_output = {graph.origin(linear.output): linear for linear in parts.linears}
    scores = graph.producer[graph.origin(graph.producer[softmax].input[0])]
    value = next((node for node in graph.nodes if node.op_type == "MatMul"
                  and graph.origin(node.input[0]) == softmax), None)
    names = [*scores.input[:2], *([] if value is None else value.input[1:2])]
    found = [by_output.get(graph.origin(name)) for name in names]
    layers = [linear for linear in found if linear is not None]
    if len(layers) != 3:
        raise CheckpointError(f"{len(layers)} layers of Q, K and V")
    return layers[:1] if all(linear is layers[0] for linear in layers) else layers


def _state(graph: _Graph, parts: _Parts) -> dict[str, Real]:
    """Return the parameters as timm names them; CheckpointError says what there is too many of."""
    state: dict[str, Real] = {}

    def layer(name: str, *linears: _Linear) -> None:
        weight = np.concatenate([linear.weight for linear in linears])
        state[f"{name}.weight"] = weight
        state[f"{name}.bias"] = np.concatenate([
            np.zeros(len(linear.weight), weight.dtype) if linear.bias is None else linear.bias
            for linear in linears])

    def norm(name: str, norm: _Norm) -> None:
        size = graph.values[norm.output].shape[-1]
        state[f"{name}.weight"] = np.ones(size) if norm.gamma is None else norm.gamma
        state[f"{name}.bias"] = np.zeros(size) if norm.beta is None else norm.beta

    depth = len(parts.softmaxes)
    qkv = [_attention(graph, parts, softmax) for softmax in parts.softmaxes]
    used = {id(linear) for layers in qkv for linear in layers}
    rest = [linear for linear in parts.linears if id(linear) not in used]
    for what, count, right in (
        ("patch embeddings", len(parts.patches), (1,)), ("special tokens", len(parts.special),
                                                         (1, 2)),
        ("position embeddings", len(parts.positions), (1,)),
        ("LayerNorms", len(parts.norms), (2 * depth + 1,)),
        ("layers beside Q, K and V", len(rest), (3 * depth + 1, 3 * depth + 2)),
    ):
        if count not in right:
            raise CheckpointError(f"{count} {what}, must be {' or '.join(map(str, right))} with"
                                  f" {depth} blocks")
    state["patch_embed.proj.weight"], state["patch_embed.proj.bias"] = parts.patches[0]
    for name, token in zip(("cls_token", "dist_token"), parts.special, strict=False):
        state[name] = token[:1]
    state["pos_embed"] = parts.positions[0]
    for i in range(depth):
        norm(f"blocks.{i}.norm1", parts.norms[2 * i])
        layer(f"blocks.{i}.attn.qkv", *qkv[i])
        norm(f"blocks.{i}.norm2", parts.norms[2 * i + 1])
        for j, name in enumerate(("attn.proj", "mlp.fc1", "mlp.fc2")):
            layer(f"blocks.{i}.{name}", rest[3 * i + j])
    norm("norm", parts.norms[-1])
    for name, linear in zip(("head", "head_dist"), rest[3 * depth:], strict=False):
        layer(name, linear)
    if len(parts.special) == 2 and "head_dist.weight" not in state:
        # The logits are a mean of two: one head counts twice, the other is zero.
        for kind in ("weight", "bias"):
            state[f"head_dist.{kind}"] = np.zeros_like(state[f"head.{kind}"])
            state[f"head.{kind}"] = 2 * state[f"head.{kind}"]
    return state


def _compare(file: ModelFile, image: Real, logits: Real) -> tuple[tuple[str, str], ...]:
    """Return what is wrong if the float twin has other logits than the graph."""
    try:
        model, state = convert(file.tensors, heads=file.description.heads, source=file.source)
    except CheckpointError:
        return ()  # the caller finds the same, and says it
    if file.description.eps is not None:
        model = replace(model, eps=file.description.eps)
    found = FloatViT(model, state)(torch.from_numpy(image)).numpy()
    error, largest = float(np.abs(found - logits).max()), float(np.abs(logits).max())
    if error <= _TOLERANCE * largest:
        return ()
    where = (f"its logits differ by {error:.3g}, of {largest:.3g}, from those of a vision"
             " transformer with its parameters")
    return (("another computation", where),)


def read_onnx(path: Path) -> ModelFile:
    """Return the parameters of a graph, named as timm does, and what else there is in it.

    A file that cannot be read raises CheckpointError.
    """
    source = f"checkpoint {path}"
    model = _load(path, source)
    name, image = _image(model, source)
    try:
        graph = _Graph(model, name, image)
    # The reference evaluator raises errors of many kinds on graphs that are wrong.
    except Exception as error:
        raise CheckpointError(f"{source} cannot be computed: {str(error).splitlines()[0]}"
                              ) from error
    unknown = tuple((f"operator {kind}", f"{count} times") for kind, count in sorted(
        graph.unknown.items()))
    if unknown:
        return ModelFile(source=source, tensors={}, description=Description(), extras=unknown)
    parts, state = _Parts(), {}
    try:
        _collect(graph, parts)
        state = _state(graph, parts)
    # In a graph of another network inputs, constants and axes may be missing.
    except (LookupError, ValueError, TypeError) as error:
        parts.extras.append(("another structure", str(error).splitlines()[0]))
    tensors = {key: torch.from_numpy(np.array(value, np.float32))
               for key, value in state.items()}
    heads = {graph.values[softmax].shape[1] for softmax in parts.softmaxes
             if graph.values[softmax].ndim > 1}
    eps = {norm.eps for norm in parts.norms}
    for what, values in (("numbers of heads", heads), ("values of eps in LayerNorm", eps)):
        if len(values) > 1:
            parts.extras.append((f"several {what}", ", ".join(f"{v:g}" for v in sorted(values))))
    file = ModelFile(
        source=source, tensors=tensors, extras=tuple(dict.fromkeys(parts.extras)),
        description=Description(source=str(path), heads=max(heads, default=None),
                                eps=max(eps, default=None), activation="gelu"))
    if file.extras or not tensors:
        return file
    return replace(file, extras=_compare(file, image, graph.values[graph.logits]))
