"""Graphs for a DLA: of one batch size, and for a TensorRT whose DLA takes no Q/DQ, the INT8 file without them.

What Q and DQ said then goes to TensorRT as scales of tensors. The INT8 file and not its float file is the source,
because only it has the weights that the ranges belong to: repaired, clipped, and rounded to what INT8 represents, by
which TensorRT, which takes the largest weight of a channel as its range, finds the very same integers. (Where the file
has coarser steps, because float16 holds no finer scale, TensorRT's are finer.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx
from onnx import numpy_helper

from calibration.build_sources import Source
from calibration.builder import WEAK
from pspnet.metadata import INPUT

QDQ = ("QuantizeLinear", "DequantizeLinear")
ENDS_A_KERNEL = ("Relu", "Clip", "MaxPool")
"""What goes into these may have the range of what comes out: rounding and clamping commute with them."""


@dataclass(frozen=True)
class Ranges:
    """What a DLA that takes no Q/DQ is told of INT8.

    scales: tensor -> step of its INT8 values. sums: output of an INT8 convolution that goes straight into a residual
    Add -> output of that Add; such a tensor has no range, as Add and convolution are one kernel. in_float: outputs of
    the convolutions that stay in float.
    """

    scales: dict[str, float] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)
    in_float: frozenset[str] = frozenset()


def dla_graph(source: Source, route: str, precision: str, batch: int) -> tuple[bytes, str, Ranges]:
    """The graph to build for a DLA, where it comes from, in words, and the ranges that go with it.

    Strong typing takes the same graph as for the GPU. batch: pictures of every run; a DLA has no dynamic sizes.
    """
    if route != WEAK or precision != "int8":
        content, words = source.graph(route, precision)
        return _of_batch(onnx.load_model_from_string(content), batch), words, Ranges()
    model, ranges = without_qdq(source.model)
    return _of_batch(model, batch), f"{source.path.name} without its Q/DQ, as a calibration cache", ranges


def without_qdq(int8: onnx.ModelProto) -> tuple[onnx.ModelProto, Ranges]:
    """A copy of an INT8 file of ours without Q/DQ, float32 throughout, and what they said."""
    result = onnx.ModelProto()
    result.CopyFrom(int8)
    graph = result.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    quantiser = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    plain: dict[str, str] = {}  # what DQ makes -> what went into its Q
    scales: dict[str, float] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            tensor = plain[node.output[0]] = quantiser[node.input[0]].input[0]
            if tensor not in stored:
                scales[tensor] = float(numpy_helper.to_array(stored[node.input[1]]))
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    in_float = frozenset(node.output[0] for node in convolutions if node.input[1] not in plain)
    kept = [node for node in graph.node if node.op_type not in QDQ]
    for node in kept:
        node.input[:] = [plain.get(name, name) for name in node.input]
    read = {name for node in kept for name in node.input}
    for field_name, content in (("node", kept), ("initializer", [t for t in graph.initializer if t.name in read])):
        copies = [type(each).FromString(each.SerializeToString()) for each in content]
        graph.ClearField(field_name)  # type: ignore[arg-type]
        getattr(graph, field_name).extend(copies)
    return result, _completed(graph, scales, in_float)


def _completed(graph: onnx.GraphProto, scales: dict[str, float], in_float: frozenset[str]) -> Ranges:
    """The ranges with those of the tensors inside of INT8 kernels: TensorRT takes a layer for INT8 only where all its
    tensors have one."""
    found, readers = dict(scales), _readers(graph)
    for node in graph.node:
        if node.op_type == "MaxPool" and node.input[0] in found:
            found.setdefault(node.output[0], found[node.input[0]])
    for node in reversed(graph.node):
        if node.op_type in ENDS_A_KERNEL and node.output[0] in found and len(readers[node.input[0]]) == 1:
            found.setdefault(node.input[0], found[node.output[0]])
    quantised = {
        node.output[0]
        for node in graph.node
        if node.op_type == "Conv" and node.output[0] not in in_float | found.keys()
    }
    sums = {
        name: node.output[0]
        for node in graph.node
        if node.op_type == "Add" and node.output[0] in found
        for name in node.input
        if name in quantised and len(readers[name]) == 1
    }
    return Ranges(found, sums, in_float)


def _readers(graph: onnx.GraphProto) -> dict[str, list[str]]:
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    return readers


def _of_batch(model: onnx.ModelProto, batch: int) -> bytes:
    """The graph for exactly `batch` pictures; `model` is changed."""
    for value in model.graph.input:
        if value.name == INPUT:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    model.graph.ClearField("value_info")  # noted for any N; TensorRT infers its own
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return model.SerializeToString()
