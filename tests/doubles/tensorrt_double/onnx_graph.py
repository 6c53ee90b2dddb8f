"""An ONNX model as the parser's rules see it: constants, types, shapes, who makes a tensor and who reads it."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, shape_inference

FLOATS = {TensorProto.FLOAT: "Float", TensorProto.FLOAT16: "Half", TensorProto.BFLOAT16: "BFloat16"}
# What a tensor of TensorRT can be; DOUBLE constants become FLOAT with a warning, other types are refused.
DATA_TYPES = FLOATS | {
    TensorProto.INT8: "Int8",
    TensorProto.INT32: "Int32",
    TensorProto.INT64: "Int64",
    TensorProto.BOOL: "Bool",
    TensorProto.UINT8: "UInt8",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.INT4: "Int4",
}
MEMBERS = {
    "Float": "FLOAT", "Half": "HALF", "BFloat16": "BF16", "Int8": "INT8", "Int32": "INT32", "Int64": "INT64",
    "Bool": "BOOL", "UInt8": "UINT8", "FP8": "FP8", "Int4": "INT4",
}  # fmt: skip

LARGEST_SHAPE_CONSTANT = 64  # elements; shapes, sizes and axes have at most eight


def model_from_bytes(data: bytes, folder: str | None = None) -> onnx.ModelProto:
    """The model with its outside weights, which lie in `folder`, inside it."""
    model = onnx.load_model_from_string(data)
    if folder is not None:
        onnx.load_external_data_for_model(model, folder)
    return model


def model_from_file(path: str) -> onnx.ModelProto:
    return model_from_bytes(Path(path).read_bytes(), str(Path(path).resolve().parent))


class Graph:
    """Look-ups on one model. Shapes are tuples with -1 for an unknown or symbolic size; types are ONNX numbers."""

    def __init__(self, model: onnx.ModelProto) -> None:
        if not model.graph.node or not model.opset_import:
            raise ValueError("the file has no graph with nodes and an opset")
        self.model = model
        self.nodes = list(model.graph.node)
        self.opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
        inferred = shape_inference.infer_shapes(without_large_constants(model), data_prop=True)
        self.types: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...] | None] = {}
        for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
            self.types[value.name] = value.type.tensor_type.elem_type
            self.shapes[value.name] = shape_from_value(value)
        self.constants: dict[str, np.ndarray] = {}
        for tensor in model.graph.initializer:
            self._add_constant(tensor.name, tensor)
        for node in self.nodes:
            if node.op_type == "Constant":
                self._add_constant(node.output[0], next((a.t for a in node.attribute if a.name == "value"), None))
        self.inputs = [value for value in model.graph.input if value.name not in self.constants]
        self.outputs = list(model.graph.output)
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                if name:
                    self.consumers[name].append(node)
        self._index = {id(node): index for index, node in enumerate(self.nodes)}

    def _add_constant(self, name: str, tensor: TensorProto | None) -> None:
        if tensor is not None and tensor.data_type:
            self.constants[name] = numpy_helper.to_array(tensor)
            self.types[name] = tensor.data_type
            self.shapes[name] = tuple(tensor.dims)

    def index(self, node: onnx.NodeProto) -> int:
        return self._index[id(node)]

    def is_output(self, name: str) -> bool:
        return any(value.name == name for value in self.outputs)

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is known when the engine is built: a constant, or only constants went into it."""
        if name in self.constants:
            return True
        node = self.producer.get(name)
        return node is not None and bool(node.input) and all(self.is_constant(i) for i in node.input if i)

    def constant_behind(self, name: str) -> np.ndarray | None:
        """The value of a constant, also behind Cast nodes, which keep it up to rounding; None where it is none."""
        while name not in self.constants:
            node = self.producer.get(name)
            if node is None or node.op_type not in ("Cast", "Identity"):
                return None
            name = node.input[0]
        return self.constants[name]

    def member(self, name: str) -> str:
        """Member of DataType for a tensor; FLOAT where the type is not known."""
        return MEMBERS.get(self.type_name(name), "FLOAT")

    def dimension_names(self, name: str) -> list[str]:
        """Names of the symbolic sizes of an input or output, "" for the others."""
        for value in (*self.inputs, *self.outputs):
            if value.name == name:
                return [d.dim_param for d in value.type.tensor_type.shape.dim]
        return [""] * len(self.shapes.get(name) or ())

    def type_name(self, name: str) -> str:
        return DATA_TYPES.get(self.types.get(name, 0), f"ONNX type {self.types.get(name, 0)}")


def without_large_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large constants as inputs: shape inference copies what it is given, and needs no weights."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    del light.graph.initializer[:]
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= LARGEST_SHAPE_CONSTANT:
            light.graph.initializer.append(tensor)
        else:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def shape_from_value(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """Sizes, -1 for what is not a number; None where even the rank is unknown."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim)


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """The value of a node's attribute, text as str; `default` where the node has none."""
    for entry in node.attribute:
        if entry.name == name:
            value = onnx.helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default
