"""An ONNX graph as the lint reads it: who makes and who reads each tensor, its type, shape and constant value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

NUMERIC = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
PASSIVE = ("Identity", "Cast", "QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Squeeze", "Unsqueeze")
"""Operators behind which a constant is still a constant of the same weights."""
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
QDQ = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Finding:
    """One thing that a target will not like.

    severity: "refused" (not built or not read, or read with other results: documented or tried), "slow" (documented or
    reported as slow) or "note" (advice that depends on the case: measure). name: of the node or tensor, "" for the
    whole file. op: of the node, "" for a tensor. text: one line, what it is and what to do.
    """

    severity: str
    rule: str
    name: str
    op: str
    text: str


class Graph:
    """A model with local functions inlined and types inferred as far as ONNX can.

    source: the model as it was given. nodes: of the graph and of every nested one, without the `malformed`, which lack
    inputs or outputs. opset: of the default domain. types: tensor -> TensorProto type.
    shapes: tensor -> axes, None where an axis is symbolic. External data may be absent: such tensors have no value.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.source = model
        if model.functions:
            from onnx import inliner

            model = inliner.inline_local_functions(model)
        self.opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        self.ir_version = model.ir_version
        graph = _inferred(model).graph
        every = list(_nodes(graph))
        self.nodes = [node for node in every if _is_complete(node)]
        self.malformed = [node for node in every if not _is_complete(node)]
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.constants |= dict(_constant_nodes(self.nodes))
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.inputs = [value for value in graph.input if value.name not in self.constants]
        self.outputs = list(graph.output)
        values = [*graph.input, *graph.value_info, *graph.output]
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.types |= {name: tensor.data_type for name, tensor in self.constants.items()}
        self.shapes = {v.name: _axes(v) for v in values if v.type.tensor_type.HasField("shape")}
        self.shapes |= {name: tuple(tensor.dims) for name, tensor in self.constants.items()}
        self.array = lru_cache(maxsize=None)(self._array)

    def by_op(self, *ops: str) -> list[NodeProto]:
        """The nodes of these operators, in the graph's order."""
        return [node for node in self.nodes if node.op_type in ops]

    def read_by(self, name: str, *ops: str) -> list[NodeProto]:
        """The readers of a tensor that are of these operators."""
        return [node for node in self.readers.get(name, []) if node.op_type in ops]

    def made_by(self, name: str, *ops: str) -> NodeProto | None:
        """The producer of a tensor, where it is of these operators."""
        node = self.producers.get(name)
        return node if node is not None and node.op_type in ops else None

    def root(self, name: str) -> str:
        """The tensor behind Q/DQ, casts and changes of layout."""
        for _ in self.nodes:  # a damaged file may lead in a circle
            if (node := self.made_by(name, *PASSIVE)) is None:
                break
            name = node.input[0]
        return name

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is fixed at build time."""
        return self.root(name) in self.constants

    def size(self, name: str) -> int:
        """Elements of a tensor, counting symbolic axes and unknown shapes as 1."""
        return math.prod(axis or 1 for axis in self.shapes.get(name, ()))

    def activation(self, node: NodeProto) -> bool:
        """Whether a Q or DQ node stands on an activation and not on a weight."""
        return not self.is_constant(node.input[0])

    def value(self, node: NodeProto, index: int) -> np.ndarray | None:
        """The value of a node's input, where it has that input and it is a constant."""
        return self.array(node.input[index]) if len(node.input) > index else None

    def dequantised(self, name: str) -> NodeProto | None:
        """The DQ node that makes an activation, straight or through a MaxPool, which commutes with it."""
        pool = self.made_by(name, "MaxPool")
        node = self.made_by(pool.input[0] if pool is not None else name, QDQ[1])
        return node if node is not None and self.activation(node) else None

    def depths(self) -> dict[str, int]:
        """Longest path in nodes to each tensor that depends on an input, in a graph whose nodes are sorted."""
        depth = {value.name: 0 for value in self.inputs}
        for node in self.nodes:
            reached = [depth[name] for name in node.input if name in depth]
            depth.update(dict.fromkeys(node.output, 1 + max(reached)) if reached else {})
        return depth

    def has_qdq(self) -> bool:
        """Whether any tensor is quantised explicitly."""
        return any(node.op_type == "DequantizeLinear" for node in self.nodes)

    def weighted_types(self) -> set[int]:
        """Types in which convolutions and matrix products compute, as far as known."""
        found = {self.types.get(name, 0) for node in self.by_op(*WEIGHTED) for name in [node.input[0], *node.output]}
        return found - {0}

    def _array(self, name: str) -> np.ndarray | None:
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        try:
            return numpy_helper.to_array(tensor)
        except (ValueError, TypeError):  # damaged, or of a type that numpy lacks
            return None


def at_node(severity: str, rule: str, node: NodeProto, text: str) -> Finding:
    """A finding at a node; nodes without a name are called by their first output."""
    return Finding(severity, rule, str(node.name or next(iter(node.output), "")), str(node.op_type), text)


def at_tensor(severity: str, rule: str, name: str, text: str) -> Finding:
    """A finding at a tensor, or at the whole file where `name` is empty."""
    return Finding(severity, rule, str(name), "", text)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """A node's attribute, strings as str, or `default`."""
    value = next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
    return value.decode() if isinstance(value, bytes) else value


def nested_graphs(node: NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes: bodies of loops, branches of conditions."""
    for item in node.attribute:
        yield from (*item.graphs, *([item.g] if item.HasField("g") else []))


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:  # custom operators, more than 2 GB, or shapes that contradict: the declared types have to do
        return model


def _nodes(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for nested in nested_graphs(node):
            yield from _nodes(nested)


def _is_complete(node: NodeProto) -> bool:
    if not isinstance(node.op_type, str):  # protobuf hands over what is no UTF-8 as bytes
        return False
    if node.domain or not onnx.defs.has(node.op_type):
        return bool(node.output)
    schema = onnx.defs.get_schema(node.op_type)
    return len(node.input) >= schema.min_input and len(node.output) >= max(schema.min_output, 1)


def _constant_nodes(nodes: list[NodeProto]) -> Iterator[tuple[str, TensorProto]]:
    for node in nodes:
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if isinstance(value, TensorProto):
            yield node.output[0], value


def _axes(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)
