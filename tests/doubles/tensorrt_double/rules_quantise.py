"""What TensorRT's parser refuses about QuantizeLinear and DequantizeLinear, on a GPU.

Sources: IQuantizeLayer and IDequantizeLayer in NvInfer.h of 10.3 and 11.1, the ONNX parser of 10.1 and later, and
NVIDIA's pages on explicit quantisation.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto

from .onnx_graph import FLOATS, Graph, attribute
from .refusal import Mode, Refusal

HALF_OPSET = 19  # the first with QuantizeLinear and DequantizeLinear on float16
OUTPUT_TYPE_OPSET = 23  # the first whose DequantizeLinear says its output's type by itself
QUANTISED = (TensorProto.INT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4)
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def quantise_refusals(graph: Graph, mode: Mode) -> Iterator[Refusal]:
    """Every refusal of the graph's Q and DQ nodes, in the order of the nodes."""
    for node in graph.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        yield from quantised_type(graph, node)
        yield from scale_and_zero_point(graph, node)
        yield from axis(graph, node)
        yield from float_types(graph, node, mode)


def quantised_type(graph: Graph, node: onnx.NodeProto) -> Iterator[Refusal]:
    """Only int8 (and FP8, INT4) is a quantised type; uint8 would run on an accelerator that is not the GPU."""
    quantised = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
    kind = graph.types.get(quantised, 0)
    if kind == TensorProto.UINT8:
        # Parsers from 10.11 on warn, take INT8 instead and clamp at 127: a wrong engine, so it is refused in both.
        text = "Unsupported quantization type: TensorRT supports only symmetric INT8, got UINT8"
        yield Refusal(node, "UNSUPPORTED_NODE_DATATYPE", f"{text} (zero point of {quantised})")
    elif kind not in QUANTISED and node.op_type == "DequantizeLinear":
        text = "DequantizeLayer can only run in kINT8/kFP8/kFP4/kINT4 precision"
        yield Refusal(node, "INVALID_NODE", f"{text}, got {graph.type_name(quantised)} ({quantised})")
    elif kind not in QUANTISED:
        yield Refusal(node, "UNSUPPORTED_NODE_DATATYPE", f"quantises to {graph.type_name(quantised)}, needs Int8")


def scale_and_zero_point(graph: Graph, node: onnx.NodeProto) -> Iterator[Refusal]:
    """Scales are constants above zero; zero points are constants of zero, as many as scales."""
    scale = graph.constant_behind(node.input[1])
    if scale is None:
        yield Refusal(node, "UNSUPPORTED_NODE_INPUT", f"scale {node.input[1]} is not an initializer")
        return
    if not (np.isfinite(scale.astype(np.float32)).all() and (scale > 0).all()):
        smallest = float(scale.astype(np.float32).min())
        text = "Assertion failed: std::all_of(scale > 0) && Scale coefficients must all be positive"
        yield Refusal(node, "INVALID_NODE", f"{text}, smallest {smallest:g}")
    if len(node.input) < 3 or not node.input[2]:
        return
    zero_point = graph.constant_behind(node.input[2])
    if zero_point is None:
        yield Refusal(node, "UNSUPPORTED_NODE_INPUT", f"zero point {node.input[2]} is not an initializer")
        return
    if zero_point.astype(np.float32).any():
        text = "Assertion failed: shiftIsAllZeros(zeroPoint) && TRT only supports symmetric quantization"
        yield Refusal(node, "UNSUPPORTED_NODE", f"{text} - zeroPt all zeros")
    if zero_point.size != scale.size:
        text = "Assertion failed: scale and zero-point must have the same volume"
        yield Refusal(node, "INVALID_NODE", f"{text}, got {scale.size} and {zero_point.size}")


def axis(graph: Graph, node: onnx.NodeProto) -> Iterator[Refusal]:
    """One scale per channel needs an axis of that size, on weights only."""
    scale = graph.constant_behind(node.input[1])
    if scale is None or scale.size == 1:
        return
    data, along = node.input[0], attribute(node, "axis")
    if attribute(node, "block_size", 0):
        yield Refusal(node, "UNSUPPORTED_NODE_ATTR", "blocked quantisation is for INT4 and FP4, not for INT8")
        return
    if along is None:
        # 10.1 takes 0, later parsers take ONNX's 1: the same file would mean two things.
        text = "a scale per channel needs the attribute axis: without it one parser takes 0 and the next takes 1"
        yield Refusal(node, "UNSUPPORTED_NODE_ATTR", text)
        return
    if not graph.is_constant(data):
        yield Refusal(node, "UNSUPPORTED_NODE", f"Activations cannot be quantized per-channel ({data})")
        return
    shape = graph.shapes.get(data)
    assert isinstance(along, int)
    if shape is not None and (not -len(shape) <= along < len(shape) or shape[along] != scale.size):
        text = f"{scale.size} scales along axis {along} of a tensor of shape {shape}"
        yield Refusal(node, "UNSUPPORTED_NODE_SHAPE", f"Assertion failed: scale has one value per channel: {text}")


def float_types(graph: Graph, node: onnx.NodeProto, mode: Mode) -> Iterator[Refusal]:
    """float16 needs opset 19, and a scale of the data's type."""
    scale = graph.types.get(node.input[1], 0)
    data = graph.types.get(node.input[0] if node.op_type == "QuantizeLinear" else node.output[0], 0)
    if TensorProto.FLOAT16 in (scale, data) and graph.opset < HALF_OPSET:
        text = f"{node.op_type} on Half needs opset {HALF_OPSET} or later, the model has opset {graph.opset}"
        yield Refusal(node, "UNSUPPORTED_NODE_DATATYPE", text)
    elif scale != data and mode.strong and data in FLOATS:
        free = mode.generation >= 11 and graph.opset >= OUTPUT_TYPE_OPSET and scale == TensorProto.FLOAT
        if not free:
            kind = "input" if node.op_type == "QuantizeLinear" else "output"
            text = f"{kind} of type {FLOATS[data]} and a scale of type {FLOATS.get(scale, scale)}"
            yield Refusal(node, "UNSUPPORTED_NODE_DATATYPE", f"In strongly typed networks both must match: {text}")
