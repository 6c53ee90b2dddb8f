"""What a float16 graph computes on a device, in float32 on a CPU: every value that the device stores is rounded.

ONNX Runtime's CPU provider computes float16 graphs in float32, so running the file itself says nothing about them.
Sums inside one operator stay float32, as tensor cores accumulate them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

FP16_LARGEST = 65504.0
"""The largest finite float16; from 65520 on, rounding gives infinity."""

SIMULATED = {"fp16": "fp16 (simulated)", "int8.fp16": "int8+fp16 (simulated)"}
"""Stored precision of a float16-typed file -> the precision that figures of its simulation state."""

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16

UNROUNDED = "_unrounded"

# These hand on values that they read, so a second rounding would change nothing.
SELECTING = {"Clip", "Concat", "MaxPool", "Relu", "Reshape", "Transpose"}


def simulated(model_fp16: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 graph that holds, after every node, the values that the float16-typed graph holds there.

    A Cast to float16 and back rounds each tensor that the typed graph stores as float16: to nearest even, to infinity
    beyond 65504. Tensors typed float32 stay as they are; names of tensors are kept. Q/DQ divide in float32 by the
    float16 scale, round half to even and clamp, as TensorRT does.
    """
    typed = onnx.shape_inference.infer_shapes(model_fp16, check_type=True, strict_mode=True)
    values = (*typed.graph.input, *typed.graph.value_info, *typed.graph.output)
    halves = {value.name for value in values if value.type.tensor_type.elem_type == HALF}
    result = onnx.ModelProto()
    result.CopyFrom(typed)
    graph = result.graph
    for tensor in graph.initializer:
        if tensor.data_type == HALF:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.name in halves:
            value.type.tensor_type.elem_type = FLOAT
    graph.ClearField("node")
    for node in typed.graph.node:
        graph.node.extend(_rounded(node, halves))
    return result


def largest_magnitudes(model_fp32: onnx.ModelProto, inputs: np.ndarray) -> dict[str, float]:
    """The largest |value| of every float32 tensor, initializers and node outputs in the graph's order.

    inputs: (N, H, W, 3) uint8, run one picture at a time in ONNX Runtime. A tensor with a NaN is NaN, one with an
    infinity is infinite. The maxima are taken inside the graph, so no more tensors are alive than in a plain run.
    """
    from runtime.ort import session_from_model  # which imports this module

    found = {
        tensor.name: _largest(np.abs(numpy_helper.to_array(tensor)))
        for tensor in model_fp32.graph.initializer
        if tensor.data_type == FLOAT
    }
    watched, tensors = _with_maxima(model_fp32)
    outputs = [f"{name}_{kind}" for name in tensors for kind in ("max", "sum")]
    session = session_from_model(watched, in_order=True)
    rows = [session.run(outputs, {"image": image[None]}) for image in inputs]
    table = np.array(rows, np.float64).reshape(len(rows), len(tensors), 2)
    # A sum of magnitudes is NaN where one of them is; a maximum need not be.
    magnitudes = np.where(np.isnan(table[..., 1]), np.nan, table[..., 0])
    return found | {name: _largest(magnitudes[:, index]) for index, name in enumerate(tensors)}


def first_overflow(simulation: onnx.ModelProto, inputs: np.ndarray) -> str | None:
    """Which tensor of a simulated graph is the first that is not finite, and what it would have reached.

    None where all are finite. The logits alone do not tell: a Clip behind an overflow makes its infinity finite again.
    """
    magnitudes = largest_magnitudes(simulation, inputs)
    name = next((name for name, value in magnitudes.items() if not np.isfinite(value)), None)
    if name is None:
        return None
    reached = magnitudes.get(f"{name}{UNROUNDED}", magnitudes[name])
    return f"{name.removesuffix(UNROUNDED)} reaches {reached:.6g}, float16 ends at {FP16_LARGEST:g}"


def _rounded(node: onnx.NodeProto, halves: set[str]) -> Iterator[onnx.NodeProto]:
    """The node in float32, and the Casts that round what it puts out."""
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    if node.op_type == "Cast" and (to := next(a for a in plain.attribute if a.name == "to")).i == HALF:
        to.i = FLOAT
    rounded = [] if node.op_type in SELECTING else [name for name in node.output if name in halves]
    for index, name in enumerate(node.output):
        if name in rounded:
            plain.output[index] = f"{name}{UNROUNDED}"
    yield plain
    for name in rounded:
        yield helper.make_node("Cast", [f"{name}{UNROUNDED}"], [f"{name}_half"], f"{name}_to_half", to=HALF)
        yield helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_from_half", to=FLOAT)


def _with_maxima(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The graph with two scalars per float32 node output as its outputs, and the names of those tensors."""
    watched = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    graph = watched.graph
    known = (*graph.value_info, *graph.output)
    floats = {value.name for value in known if value.type.tensor_type.elem_type == FLOAT}
    nodes, tensors = list(graph.node), []
    graph.ClearField("node")
    graph.ClearField("output")
    for node in nodes:
        graph.node.append(node)
        for name in (name for name in node.output if name in floats):
            tensors.append(name)
            graph.node.append(helper.make_node("Abs", [name], [f"{name}_abs"]))
            for op, kind in (("ReduceMax", "max"), ("ReduceSum", "sum")):
                graph.node.append(helper.make_node(op, [f"{name}_abs"], [f"{name}_{kind}"], keepdims=0))
                graph.output.append(helper.make_tensor_value_info(f"{name}_{kind}", FLOAT, []))
    return watched, tensors


def _largest(values: np.ndarray) -> float:
    """The largest value, 0 of none; NaN where one is."""
    return float(values.max(initial=0.0))
