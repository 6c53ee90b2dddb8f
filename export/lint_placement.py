"""Rules on explicit quantisation: where Q and DQ nodes keep TensorRT from fusing, and where they cost accuracy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto

from export.lint_graph import QDQ, WEIGHTED, Finding, Graph, at_node, attribute
from export.lint_targets import TENSORRT, Target

ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Sigmoid", "BatchNormalization")
LAYOUT = ("Reshape", "Transpose", "Slice", "Flatten", "Split", "Squeeze", "Unsqueeze")
AVERAGES = ("AveragePool", "GlobalAveragePool")
THROUGH = ("MaxPool", "Concat", "Resize", "Upsample", *LAYOUT)
"""Operators that hand INT8 values on."""
TO_LABELS = ("ArgMax", "Softmax", "LogSoftmax", "Sigmoid", "Resize", "Cast", "Identity")
CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1}
NARROW = 16  # channels, K and N below which INT8 kernels pad more than they save
PLACE = "place Q/DQ as `pspnet calibrate` does"


def fusion(graph: Graph, target: Target) -> Iterator[Finding]:
    """Q/DQ inside what would be one kernel, and several where one would do."""
    for node in graph.by_op(QDQ[0]):
        after = [r for dq in graph.read_by(node.output[0], QDQ[1]) for r in graph.readers.get(dq.output[0], [])]
        if graph.made_by(node.input[0], *WEIGHTED) and any(r.op_type in ACTIVATIONS for r in after):
            text = f"Q between a convolution and its activation keeps them from fusing: move it behind; {PLACE}"
            yield at_node("slow", "q-before-activation", node, text)
        rivals = graph.read_by(node.input[0], QDQ[0])
        if len(rivals) == 1 or node is not rivals[0]:
            continue
        if _differ([graph.value(other, 1) for other in rivals]):
            text = "one tensor is quantised with several scales: share one Q among its readers"
            yield at_node("slow", "two-scales", node, text)
        elif graph.activation(node):
            text = f"one tensor is quantised {len(rivals)} times with the same scale: share one Q among its readers"
            yield at_node("note", "two-quantisers", node, text)


def concat(graph: Graph, target: Target) -> Iterator[Finding]:
    """Inputs and output of a Concat in INT8 have one scale."""
    for node in graph.by_op("Concat"):
        quantised = [q for q in (graph.dequantised(name) for name in node.input) if q is not None]
        quantised += graph.read_by(node.output[0], QDQ[0]) if quantised else []
        if _differ([graph.value(q, 1) for q in quantised]):
            text = (
                "inputs and output of a Concat have unequal scales, each of which is converted: use the largest for all"
            )
            yield at_node("slow", "concat-scales", node, text)


def residual(graph: Graph, target: Target) -> Iterator[Finding]:
    """Of a residual Add, the shortcut is quantised and the other branch is not."""
    depth = graph.depths()
    for node in graph.by_op("Add"):
        inputs = [graph.dequantised(name) for name in node.input]
        text = ""
        if all(inputs):
            text = "Q/DQ on both inputs of a residual Add makes it a kernel of its own: quantise the shortcut only"
        elif not any(inputs) and _joins_int8(graph, node, depth):
            text = "no Q/DQ on the shortcut of a residual Add: the INT8 convolution then writes float. Quantise it"
        elif any(inputs) and not any(graph.is_constant(name) for name in node.input):
            pairs = zip(node.input, inputs, strict=True)
            plain, quantised = sorted((q is not None, name if q is None else graph.root(name)) for name, q in pairs)
            if graph.made_by(quantised[1], *WEIGHTED) and depth.get(quantised[1], 0) > depth.get(plain[1], 0):
                text = (
                    "of a residual Add the main branch is quantised, so its convolution and the Add do not fuse: "
                    "quantise the shortcut instead"
                )
        if text:
            yield at_node("slow", "residual-add", node, text)


def _joins_int8(graph: Graph, add: NodeProto, depth: dict[str, int]) -> bool:
    """Whether an INT8 convolution ends the main branch of a sum whose result, maybe activated, is quantised again."""
    main = graph.made_by(max(add.input, key=lambda name: depth.get(name, 0)), "Conv")
    results = [add.output[0], *(node.output[0] for node in graph.read_by(add.output[0], *ACTIVATIONS))]
    again = any(graph.read_by(name, QDQ[0]) for name in results)
    fed = main is not None and graph.dequantised(main.input[0]) is not None
    return fed and again and not any(graph.is_constant(name) for name in add.input)


def neighbours(graph: Graph, target: Target) -> Iterator[Finding]:
    """Q/DQ on operators that have no INT8 kernel, or where TensorRT is known to fail."""
    for node in graph.by_op("Resize", "Upsample"):
        if graph.dequantised(node.input[0]):
            text = "TensorRT resizes INT8 at best by way of float: put Q/DQ behind the Resize or its Concat"
            yield at_node("slow", "resize-qdq", node, text)
    for node in graph.by_op(*LAYOUT):
        if graph.dequantised(node.input[0]) or (
            not graph.is_constant(node.input[0]) and any(graph.read_by(name, QDQ[0]) for name in node.output)
        ):
            text = "Q/DQ beside a change of layout: TensorRT 10.16 fails on some (issue 4832). Keep it at convolutions"
            yield at_node("note", "layout-qdq", node, text)
    for node in graph.by_op(*AVERAGES):
        if graph.dequantised(node.input[0]) and not graph.read_by(node.output[0], QDQ[0]):
            text = "an average pool with INT8 input needs Q on its output too: add it or drop the input's"
            yield at_node("slow", "average-pool-qdq", node, text)


def idle(graph: Graph, target: Target) -> Iterator[Finding]:
    """Q/DQ that rounds values which no INT8 kernel reads."""
    for node in graph.by_op(QDQ[1]):
        if graph.activation(node) and not _feeds_int8(graph, node.output[0]):
            text = "no INT8 layer reads these values, so Q/DQ costs a pass and accuracy for nothing: leave it out"
            yield at_node("slow", "idle-qdq", node, text)


def _feeds_int8(graph: Graph, name: str) -> bool:
    for _ in graph.nodes:  # a damaged file may lead in a circle
        readers = graph.readers.get(name, [])
        if any(reader.op_type in (*WEIGHTED, *AVERAGES, "Add", QDQ[0]) for reader in readers):
            return True
        if not (on := [reader for reader in readers if reader.op_type in THROUGH]):
            return False
        name = on[0].output[0]
    return False


def layers(graph: Graph, target: Target) -> Iterator[Finding]:
    """Quantised layers that are half quantised, too narrow, or whose bias is rounded too."""
    for node in graph.by_op(*WEIGHTED):
        data = graph.made_by(node.input[0], QDQ[1]) or graph.dequantised(node.input[0])
        weight = graph.made_by(node.input[1], QDQ[1])
        if (data is None) != (weight is None) and graph.is_constant(node.input[1]):
            text = "only data or only weights are quantised, so the layer runs in float: quantise both or neither"
            yield at_node("slow", "half-quantised", node, text)
        if len(node.input) > 2 and graph.made_by(node.input[2], QDQ[1]):
            text = "the bias goes through Q/DQ, which keeps it out of the INT8 kernel: leave it in float"
            yield at_node("slow", "bias-qdq", node, text)
        tensor = graph.constants.get(graph.root(node.input[1]))
        if data is None or weight is None or tensor is None or len(tensor.dims) < 2:
            continue
        shape = tuple(tensor.dims)
        if node.op_type in CHANNEL_AXIS:
            yield from _weight_scales(graph, node, weight, shape)
        if node.op_type == "Conv" and not _wide_enough(node, shape):
            text = f"INT8 kernels want {NARROW} channels or more: likely faster in float (measure)"
            yield at_node("note", "int8-channels", node, text)
        elif node.op_type in ("MatMul", "Gemm") and any(axis % NARROW for axis in shape[-2:]):
            text = f"K or N is no multiple of {NARROW}: INT8 kernels pad it, likely faster in float (measure)"
            yield at_node("note", "int8-product", node, text)


def _weight_scales(graph: Graph, conv: NodeProto, weight: NodeProto, shape: tuple[int, ...]) -> Iterator[Finding]:
    """Weights have one scale per output channel."""
    wanted, axis = CHANNEL_AXIS[conv.op_type], attribute(weight, "axis")
    if graph.size(weight.input[1]) > 1:
        if axis is not None and axis % len(shape) != wanted:
            text = (
                f"the weights' scales run along axis {axis}: INT8 kernels take them per output channel, axis {wanted}"
            )
            yield at_node("slow", "weight-axis", conv, text)
    elif shape[wanted] > 1:
        text = "one scale for the weights of all output channels costs accuracy: give one per channel"
        yield at_node("note", "per-tensor-weights", conv, text)


def _wide_enough(conv: NodeProto, shape: tuple[int, ...]) -> bool:
    """The rule by which NVIDIA's Model-Optimizer leaves convolutions out."""
    outputs, inputs, *kernel = shape
    if attribute(conv, "group", 1) > 1:
        return outputs % 8 == 0 and min(kernel) >= 3
    square = len(set(kernel)) == 1
    return min(inputs, outputs) >= NARROW or (square and max(inputs, outputs) >= NARROW and not outputs * inputs % 8)


def classifier(graph: Graph, target: Target) -> Iterator[Finding]:
    """The last layer decides between classes that are nearly equal."""
    for value in graph.outputs:
        name = value.name
        for _ in graph.nodes:
            if (node := graph.made_by(name, *TO_LABELS, *QDQ)) is None:
                break
            name = node.input[0]
        last = graph.made_by(name, *WEIGHTED)
        if last is not None and graph.dequantised(last.input[0]):
            text = "the layer that makes the logits is quantised: it is small and decides near-ties, keep it in float"
            yield at_node("note", "int8-classifier", last, text)


def _differ(values: list[np.ndarray | None]) -> bool:
    known = [value for value in values if value is not None]
    return any(not np.array_equal(known[0], value) for value in known[1:])


RULES = tuple((rule, (TENSORRT,)) for rule in (fusion, concat, residual, neighbours, idle, layers, classifier))
"""Each rule, and the families of targets that it is about."""
