"""Rules on explicit quantisation: what Q and DQ nodes may hold, and where they cost instead of gain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from export.lint_graph import WEIGHTED, Finding, Graph, at_node, attribute
from export.lint_targets import OPENVINO, ORT, QUANTISED_TYPES, TENSORRT, Target

QDQ = ("QuantizeLinear", "DequantizeLinear")
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Sigmoid", "BatchNormalization")
LAYOUT = ("Reshape", "Transpose", "Slice", "Flatten", "Split", "Squeeze", "Unsqueeze")
HALF_TYPED_OPSET = 19  # the first whose Q and DQ take float16
SMALLEST_NORMAL_HALF = 2.0**-14
NARROW = 16  # channels, K and N below which INT8 kernels pad more than they save
PLACE = "place Q/DQ as `pspnet calibrate` does"


def zero_points(graph: Graph, target: Target) -> Iterator[Finding]:
    """TensorRT quantises to symmetric int8 only."""
    for node in graph.by_op(*QDQ):
        kind, zero, scale = _quantised_type(graph, node), _value(graph, node, 2), _value(graph, node, 1)
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
        scale = _value(graph, node, 1)
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


def fusion(graph: Graph, target: Target) -> Iterator[Finding]:
    """Q/DQ inside what would be one kernel."""
    for node in graph.by_op(QDQ[0]):
        after = [r for dq in graph.read_by(node.output[0], QDQ[1]) for r in graph.readers.get(dq.output[0], [])]
        if graph.made_by(node.input[0], *WEIGHTED) and any(r.op_type in ACTIVATIONS for r in after):
            text = f"Q between a convolution and its activation keeps them from fusing: move it behind; {PLACE}"
            yield at_node("slow", "q-before-activation", node, text)
        rivals = [_value(graph, other, 1) for other in graph.read_by(node.input[0], QDQ[0])]
        if node is graph.read_by(node.input[0], QDQ[0])[0] and _differ(rivals):
            text = "one tensor is quantised with several scales: share one Q among its readers"
            yield at_node("slow", "two-scales", node, text)
    for node in graph.by_op("Add"):
        inputs = [_dequantised(graph, name) for name in node.input]
        if all(inputs):
            text = "Q/DQ on both inputs of a residual Add makes it a kernel of its own: quantise the shortcut only"
            yield at_node("slow", "residual-add", node, text)
        elif not any(inputs) and _joins_int8(graph, node):
            text = "no Q/DQ on the shortcut of a residual Add: the INT8 convolution then writes float. Quantise it"
            yield at_node("slow", "residual-add", node, text)
    for node in graph.by_op("Concat"):
        quantised = [q for q in (_dequantised(graph, name) for name in node.input) if q is not None]
        quantised += graph.read_by(node.output[0], QDQ[0]) if quantised else []
        if _differ([_value(graph, q, 1) for q in quantised]):
            text = (
                "inputs and output of a Concat have unequal scales, each of which is converted: use the largest for all"
            )
            yield at_node("slow", "concat-scales", node, text)


def _joins_int8(graph: Graph, add: NodeProto) -> bool:
    """Whether an INT8 convolution goes into the sum and its result, maybe activated, is quantised again."""
    convolutions = [graph.made_by(name, "Conv") for name in add.input]
    fed = any(conv is not None and _dequantised(graph, conv.input[0]) for conv in convolutions)
    results = [add.output[0], *(node.output[0] for node in graph.read_by(add.output[0], *ACTIVATIONS))]
    again = any(graph.read_by(name, QDQ[0]) for name in results)
    return fed and again and not any(graph.is_constant(name) for name in add.input)


def neighbours(graph: Graph, target: Target) -> Iterator[Finding]:
    """Q/DQ on operators that have no INT8 kernel, or where TensorRT is known to fail."""
    for node in graph.by_op("Resize", "Upsample"):
        if _dequantised(graph, node.input[0]):
            text = "TensorRT resizes INT8 at best by way of float: put Q/DQ behind the Resize or its Concat"
            yield at_node("slow", "resize-qdq", node, text)
    for node in graph.by_op(*LAYOUT):
        if _dequantised(graph, node.input[0]) or (
            not graph.is_constant(node.input[0]) and any(graph.read_by(name, QDQ[0]) for name in node.output)
        ):
            text = "Q/DQ beside a change of layout: TensorRT 10.16 fails on some (issue 4832). Keep it at convolutions"
            yield at_node("note", "layout-qdq", node, text)
    for node in graph.by_op("AveragePool", "GlobalAveragePool"):
        if _dequantised(graph, node.input[0]) and not graph.read_by(node.output[0], QDQ[0]):
            text = "an average pool with INT8 input needs Q on its output too: add it or drop the input's"
            yield at_node("slow", "average-pool-qdq", node, text)


def layers(graph: Graph, target: Target) -> Iterator[Finding]:
    """Quantised layers that are half quantised or too narrow."""
    for node in graph.by_op(*WEIGHTED):
        data, weight = (graph.made_by(name, QDQ[1]) is not None for name in node.input[:2])
        if data != weight and graph.is_constant(node.input[1]):
            text = "only data or only weights are quantised, so the layer runs in float: quantise both or neither"
            yield at_node("slow", "half-quantised", node, text)
        tensor = graph.constants.get(graph.root(node.input[1]))
        if not (data and weight) or tensor is None or len(tensor.dims) < 2:
            continue
        shape = tuple(tensor.dims)
        if node.op_type == "Conv" and not _wide_enough(node, shape):
            text = f"INT8 kernels want {NARROW} channels or more: likely faster in float (measure)"
            yield at_node("note", "int8-channels", node, text)
        elif node.op_type in ("MatMul", "Gemm") and any(axis % NARROW for axis in shape[-2:]):
            text = f"K or N is no multiple of {NARROW}: INT8 kernels pad it, likely faster in float (measure)"
            yield at_node("note", "int8-product", node, text)


def _wide_enough(conv: NodeProto, shape: tuple[int, ...]) -> bool:
    """The rule by which NVIDIA's Model-Optimizer leaves convolutions out."""
    outputs, inputs, *kernel = shape
    if attribute(conv, "group", 1) > 1:
        return outputs % 8 == 0 and min(kernel) >= 3
    square = len(set(kernel)) == 1
    return min(inputs, outputs) >= NARROW or (square and max(inputs, outputs) >= NARROW and not outputs * inputs % 8)


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
        if conv is None or not after or not _dequantised(graph, conv.input[0]):
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


def _value(graph: Graph, node: NodeProto, index: int) -> np.ndarray | None:
    return graph.array(node.input[index]) if len(node.input) > index else None


def _dequantised(graph: Graph, name: str) -> NodeProto | None:
    """The DQ node that makes an activation."""
    node = graph.made_by(name, QDQ[1])
    return node if node is not None and graph.activation(node) else None


def _differ(values: list[np.ndarray | None]) -> bool:
    known = [value for value in values if value is not None]
    return any(not np.array_equal(known[0], value) for value in known[1:])


RULES = (
    (zero_points, (TENSORRT,)), (scales, (TENSORRT,)), (half_scales, (TENSORRT, ORT)), (fusion, (TENSORRT,)),
    (neighbours, (TENSORRT,)), (layers, (TENSORRT,)), (openvino_concat, (OPENVINO,)), (ort_relu, (ORT,)),
)  # fmt: skip
"""Each rule, and the families of targets that it is about."""
