"""What TensorRT's parser refuses about types: uint8 outside casts, operands of two types, types that it lacks."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from .onnx_graph import DATA_TYPES, FLOATS, Graph
from .refusal import Mode, Refusal

# Inputs that are sizes, indices or flags beside the data: their type is their own.
OWN_TYPE_INPUTS = {"Resize": (1, 2, 3), "Clip": (), "Reshape": (1,), "Pad": (1, 3), "Where": (0,), "TopK": (1,)}
CONSTANT_TYPES = (TensorProto.DOUBLE, TensorProto.INT16, TensorProto.UINT16)  # converted while constants are read
QDQ = ("QuantizeLinear", "DequantizeLinear")


def type_refusals(graph: Graph, mode: Mode) -> Iterator[Refusal]:
    """Every refusal about the types of tensors, in the order of the nodes."""
    for node in graph.nodes:
        yield from unknown_types(graph, node)
        if node.op_type not in QDQ:
            yield from uint8_outside_cast(graph, node, mode)
            yield from mixed_operands(graph, node)


def unknown_types(graph: Graph, node: onnx.NodeProto) -> Iterator[Refusal]:
    for name in (*node.input, *node.output):
        kind = graph.types.get(name, 0)
        if not name or kind == 0 or kind in DATA_TYPES or (name in graph.constants and kind in CONSTANT_TYPES):
            continue
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        text = f"tensor {name} has type {TensorProto.DataType.Name(kind)}, which TensorRT lacks"
        yield Refusal(node, "UNSUPPORTED_NODE_DATATYPE", text)
        return


def uint8_outside_cast(graph: Graph, node: onnx.NodeProto, mode: Mode) -> Iterator[Refusal]:
    """uint8 is a type of the network's inputs and outputs: only Cast reads it, and only Cast makes it."""
    reads = [name for name in node.input if graph.types.get(name) == TensorProto.UINT8]
    makes = [name for name in node.output if graph.types.get(name) == TensorProto.UINT8]
    if not reads and not makes:
        return
    if node.op_type != "Cast":
        text = f"{(reads + makes)[0]} is UInt8: kUINT8 is only supported as a network input or output and by Cast"
        yield Refusal(node, "UNSUPPORTED_NODE_DATATYPE", text)
        return
    other = graph.types.get(node.output[0] if reads else node.input[0], 0)
    if mode.generation == 10 and other not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        text = f"kUINT8 conversions are only supported for {{kFLOAT, kHALF}}, got {DATA_TYPES.get(other, other)}"
        yield Refusal(node, "UNSUPPORTED_NODE_DATATYPE", text)
    if makes and not graph.is_output(node.output[0]):
        text = f"{node.output[0]} is UInt8 inside the network; kUINT8 is only supported as its input or output"
        yield Refusal(node, "UNSUPPORTED_NODE_DATATYPE", text)


def mixed_operands(graph: Graph, node: onnx.NodeProto) -> Iterator[Refusal]:
    """The floating operands of one layer have one type; TensorRT inserts no casts."""
    own = OWN_TYPE_INPUTS.get(node.op_type, ())
    kinds = {
        graph.types[name]: name
        for index, name in enumerate(node.input)
        if name and index not in own and graph.types.get(name) in FLOATS
    }
    if len(kinds) > 1 and node.op_type != "Cast":
        text = " and ".join(f"{FLOATS[kind]} ({name})" for kind, name in sorted(kinds.items()))
        yield Refusal(node, "INVALID_NODE", f"{node.op_type} must have inputs of one type, but they are {text}")
