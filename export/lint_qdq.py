"""Rules on explicit quantisation: what Q and DQ nodes may hold, and how engines other than TensorRT read them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from export.lint_graph import QDQ, Finding, Graph, at_node, attribute
from export.lint_targets import OPENVINO, ORT, QUANTISED_TYPES, TENSORRT, Target

HALF_TYPED_OPSET = 19  # the first whose Q and DQ take float16
SMALLEST_NORMAL_HALF = 2.0**-14
PLACE = "place Q/DQ as `pspnet calibrate` does"


def zero_points(graph: Graph, target: Target) -> Iterator[Finding]:
    """TensorRT quantises to symmetric int8 only."""
    for node in graph.by_op(*QDQ):
        kind, zero, scale = _quantised_type(graph, node), graph.value(node, 2), graph.value(node, 1)
        if kind == TensorProto.INT32:
            text = "a quantised int32 bias: TensorRT wants the bias in float, without Q/DQ"
            yield at_node("refused", "int32-bias", node, text)
        elif kind == TensorProto.UINT8:
            text = (
                f"uint8 values: TensorRT refuses them or, newer, clamps them as int8 at 127. Quantise to int8: {PLACE}"
            )
            yield at_node("refused", "zero-point", node, text)
        elif kind and kind not in QUANTISED_TYPES:
            text = f"{TensorProto.DataType.Name(kind).lower()} values: TensorRT quantises to int8"
            yield at_node("refused", "zero-point", node, text)
        elif zero is not None and zero.any():
            yield at_node("refused", "zero-point", node, f"a zero point that is not 0: quantise symmetrically; {PLACE}")
        elif zero is not None and scale is not None and zero.size != scale.size:
            yield at_node("refused", "zero-point", node, "zero point and scale differ in size: give one zero per scale")


def scales(graph: Graph, target: Target) -> Iterator[Finding]:
    """Scales are positive constants, one per tensor or, of weights, one per channel."""
    for node in graph.by_op(*QDQ):
        scale = graph.value(node, 1)
        if not graph.is_constant(node.input[1]):
            yield at_node("refused", "scale", node, "the scale is computed at run time: make it a constant")
            continue
        if scale is not None and not (scale > 0).all():
            text = "a scale that is not above 0, as dead channels give: set a floor, for example 2^-24 (2^-14 in fp16)"
            yield at_node("refused", "scale", node, text)
        elif scale is not None and scale.dtype == np.float16 and scale.min() < SMALLEST_NORMAL_HALF:
            text = "a subnormal fp16 scale, which is coarse: keep scales at or above 2^-14"
            yield at_node("note", "scale", node, text)
        if graph.size(node.input[1]) > 1:
            yield from _per_channel(graph, target, node)


def _per_channel(graph: Graph, target: Target, node: NodeProto) -> Iterator[Finding]:
    if graph.activation(node):
        text = "an activation with one scale per channel: TensorRT takes one per tensor"
        yield at_node("refused", "per-channel", node, text)
    elif attribute(node, "axis") is None:
        text = (
            "one scale per channel without `axis`: ONNX means 1, TensorRT's parser up to 10.x takes 0. Write the axis"
        )
        yield at_node("note" if target.strongly_typed else "refused", "axis", node, text)


def half_scales(graph: Graph, target: Target) -> Iterator[Finding]:
    """Types of data and scale, in ONNX itself and where a target is stricter or laxer."""
    half = TensorProto.FLOAT16
    for node in graph.by_op(*QDQ):
        data = graph.types.get(node.input[0] if node.op_type == QDQ[0] else node.output[0], 0)
        scale = graph.types.get(node.input[1], 0)
        if half in (data, scale) and graph.opset < HALF_TYPED_OPSET:
            text = f"fp16 Q/DQ needs opset {HALF_TYPED_OPSET} or later, this is {graph.opset}: export again"
            yield at_node("refused", "fp16-qdq", node, text)
        elif node.op_type == QDQ[0] and {data, scale} == {half, TensorProto.FLOAT}:
            if target.strongly_typed and data == half:
                continue
            text = "scale and data differ in type: give fp16 data fp16 scales, and fp32 data fp32 scales"
            yield at_node("refused", "scale-type", node, text)


def openvino_concat(graph: Graph, target: Target) -> Iterator[Finding]:
    """OpenVINO 2024.6 to 2026.4 loses a scale where it reads the file itself."""
    for node in graph.by_op("Concat"):
        for q in graph.read_by(node.output[0], QDQ[0]):
            if any(graph.read_by(dq.output[0], "Conv") for dq in graph.read_by(q.output[0], QDQ[1])):
                text = "OpenVINO loses the scale of Q/DQ between Concat and Conv; `--engine openvino` works around it"
                yield at_node("note", "concat-qdq", q, text)


def ort_relu(graph: Graph, target: Target) -> Iterator[Finding]:
    """ONNX Runtime makes QLinearConv of DQ, Conv, Relu, Q only where the zero point stands for the Relu."""
    for node in graph.by_op("Relu", "Clip"):
        conv = graph.made_by(node.input[0], "Conv")
        after = graph.read_by(node.output[0], QDQ[0])
        if conv is None or not after or not graph.dequantised(conv.input[0]):
            continue
        if _quantised_type(graph, after[0]) == TensorProto.INT8:
            text = "symmetric int8 around Relu is simulated in float: for speed on a CPU use --engine openvino"
            yield at_node("slow", "relu-qdq", node, text)


def _quantised_type(graph: Graph, node: NodeProto) -> int:
    """The integer type of a Q or DQ node, 0 where unknown; ONNX's default for Q is uint8."""
    if len(node.input) > 2 and node.input[2]:
        return graph.types.get(node.input[2], 0)
    if node.op_type == QDQ[1]:
        return graph.types.get(node.input[0], 0)
    return attribute(node, "output_dtype", 0) or TensorProto.UINT8


RULES = (
    (zero_points, (TENSORRT,)), (scales, (TENSORRT,)), (half_scales, (TENSORRT, ORT)),
    (openvino_concat, (OPENVINO,)), (ort_relu, (ORT,)),
)  # fmt: skip
"""Each rule, and the families of targets that it is about."""
