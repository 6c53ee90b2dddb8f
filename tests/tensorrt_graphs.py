"""Small ONNX graphs for the TensorRT double: a quantised convolution that it takes, and each way of spoiling it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, SIDE = 4, 8
NUMPY = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
    opset: int = 21,
) -> onnx.ModelProto:
    """A model of these nodes; inputs and outputs: name -> (ONNX type, shape)."""
    values = [[helper.make_tensor_value_info(n, *kind) for n, kind in side.items()] for side in (inputs, outputs)]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "small", values[0], values[1], initializers)
    # An IR version that every ONNX Runtime at hand reads.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def quantised_conv(
    kind: int = TensorProto.FLOAT,
    scale_kind: int | None = None,
    quantised: type = np.int8,
    zero: int = 0,
    zero_count: int | None = None,
    scale: float = 0.1,
    axis: int | None = 0,
    channel_scales: int = CHANNELS,
    activation_scales: int = 1,
    opset: int = 21,
    weights_kind: int | None = None,
) -> onnx.ModelProto:
    """x -> Q -> DQ -> Conv(weights with Q, DQ) -> Relu -> y, (N, 4, 8, 8); each argument can spoil one thing."""
    float_type = NUMPY[kind]
    scale_type = NUMPY[scale_kind or kind]
    weights_type = NUMPY[weights_kind or kind]
    weights = np.random.default_rng(0).normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(weights_type)
    constants = {
        "x_scale": np.full(activation_scales, scale, scale_type) if activation_scales > 1 else scale_type(scale),
        "x_zero": np.full(activation_scales, zero, quantised) if activation_scales > 1 else quantised(zero),
        "w": weights,
        "w_scale": np.full(channel_scales, 0.02, weights_type),
        "w_zero": np.zeros(channel_scales if zero_count is None else zero_count, np.int8),
        "bias": np.ones(CHANNELS, float_type),
    }
    constants = {name: np.asarray(value) for name, value in constants.items()}
    along = {} if axis is None else {"axis": axis}
    per_channel = {"axis": 1} if activation_scales > 1 else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_q"], "x.q", **per_channel),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x_dq"], "x.dq", **per_channel),
        helper.make_node("QuantizeLinear", ["w", "w_scale", "w_zero"], ["w_q"], "w.q", **along),
        helper.make_node("DequantizeLinear", ["w_q", "w_scale", "w_zero"], ["w_dq"], "w.dq", **along),
        helper.make_node("Conv", ["x_dq", "w_dq", "bias"], ["sum"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["sum"], ["y"], "relu"),
    ]
    shape = ["N", CHANNELS, SIDE, SIDE]
    return model(nodes, constants, {"x": (kind, shape)}, {"y": (kind, shape)}, opset)


def one_node(
    operator: str,
    constants: dict[str, np.ndarray] | None = None,
    kind: int = TensorProto.FLOAT,
    made: int | None = None,
    domain: str = "",
    after: list[onnx.NodeProto] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """x -> operator(x, constants) -> y, (1, 4, 8, 8); `after` are nodes that read `middle` in its place and make y."""
    names = list(constants or {})
    output = "y" if after is None else "middle"
    nodes = [helper.make_node(operator, ["x", *names], [output], "node", domain=domain, **attributes), *(after or [])]
    shape = [1, CHANNELS, SIDE, SIDE]
    built = model(nodes, constants or {}, {"x": (kind, shape)}, {"y": (made or kind, None)})  # type: ignore
    if domain:
        built.opset_import.append(helper.make_opsetid(domain, 1))
    return built


def with_int32_bias() -> onnx.ModelProto:
    """`quantised_conv` whose bias comes from int32 through a DequantizeLinear."""
    built = quantised_conv()
    scales = np.full(CHANNELS, 0.002, np.float32)
    bias = [("b_q", np.ones(CHANNELS, np.int32)), ("b_scale", scales)]
    built.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in bias)
    node = helper.make_node("DequantizeLinear", ["b_q", "b_scale"], ["b_dq"], "bias.dq", axis=0)
    built.graph.node.insert(4, node)
    built.graph.node[5].input[2] = "b_dq"
    return built


def with_computed_scale() -> onnx.ModelProto:
    """`quantised_conv` whose input's scale is computed from the input."""
    built = quantised_conv()
    built.graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["x_most"], "x.most", keepdims=0))
    for node in built.graph.node[1:3]:
        node.input[1] = "x_most"
    return built
