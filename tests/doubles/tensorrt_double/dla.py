"""The DLA of the double: how many cores there are, what a layer must be to run there, and what a build makes of it.

The limits are those of NVIDIA's page "DLA Supported Layers and Restrictions" and of IBuilderConfig in NvInfer.h.
"""

from __future__ import annotations

import os
from typing import Any

from onnx import NodeProto, TensorProto

from .marks import report
from .onnx_graph import Graph, attribute

CORES_VARIABLE = "TENSORRT_DOUBLE_DLA_CORES"
LARGEST_BATCH, LARGEST_SIDE = 4096, 8192
SIMPLE = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Add", "Sub", "Mul", "Max", "Min")
QDQ = ("QuantizeLinear", "DequantizeLinear")
KERNEL, STRIDE, DILATION, PADDING, CHANNELS = range(1, 33), range(1, 9), range(1, 33), range(32), range(1, 8193)
WINDOW, POOL_STRIDE, POOL_PADDING = range(1, 9), range(1, 17), range(8)
LINEAR_SCALES, NEAREST_SCALES = range(1, 5), range(1, 33)


def core_count() -> int:
    """DLA cores of the machine; none unless the environment says so."""
    return int(os.environ.get(CORES_VARIABLE, "0"))


def runs_on_dla(trt: Any, layer: Any, config: Any) -> bool:
    """What IBuilderConfig.can_run_on_DLA says of a layer, with the flags that are set."""
    graph, node, strong = layer._state.graph, layer._state.node, layer._state.strong
    if not core_count():
        return False
    generation = int(trt.__version__.split(".")[0])
    if node.op_type in QDQ:
        return generation >= 11  # up to 10.7 "DLA does not support explicit quantization"
    lowered = any(
        name in trt.BuilderFlag.__members__ and config.get_flag(trt.BuilderFlag.__members__[name])
        for name in ("FP16", "INT8")
    )
    data = [name for name in (*node.input, *node.output) if name and name not in graph.constants]
    kinds = {graph.types.get(name, 0) for name in data}
    allowed = {TensorProto.FLOAT16, TensorProto.INT8} | (set() if strong or not lowered else {TensorProto.FLOAT})
    return kinds <= allowed and all(fits(graph.shapes.get(name)) for name in data) and within_limits(graph, node)


def fits(shape: tuple[int, ...] | None) -> bool:
    """Four sizes of which none is too large; an open batch is for the profile to fix."""
    return shape is not None and len(shape) == 4 and shape[0] <= LARGEST_BATCH and max(shape[1:]) <= LARGEST_SIDE


def within_limits(graph: Graph, node: NodeProto) -> bool:
    """Whether the operator is one of the DLA's, and its parameters are."""
    if node.op_type in SIMPLE:
        return True
    if node.op_type == "Clip":
        low = graph.constant_behind(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        return low is not None and float(low) == 0
    if node.op_type == "Conv":
        weight = graph.shapes[node.input[1]]
        assert weight is not None
        rules = (("strides", STRIDE), ("dilations", DILATION), ("pads", PADDING))
        return all(side in KERNEL for side in weight[2:]) and weight[0] in CHANNELS and listed(node, rules)
    if node.op_type in ("MaxPool", "AveragePool"):
        return listed(node, (("kernel_shape", WINDOW), ("strides", POOL_STRIDE), ("pads", POOL_PADDING)))
    if node.op_type == "Concat":
        return attribute(node, "axis") == 1
    return node.op_type == "Resize" and resizes(graph, node)


def listed(node: NodeProto, rules: tuple[tuple[str, range], ...]) -> bool:
    return all(value in allowed for name, allowed in rules for value in attribute(node, name, []))  # type: ignore


def resizes(graph: Graph, node: NodeProto) -> bool:
    """Whole factors, no sizes, half pixels for bilinear: no align_corners."""
    scales = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
    if scales is None or scales.size != 4 or tuple(scales[:2]) != (1, 1):
        return False
    linear = attribute(node, "mode", "nearest") == "linear"
    if linear and attribute(node, "coordinate_transformation_mode", "half_pixel") != "half_pixel":
        return False
    return all(float(scale) in (LINEAR_SCALES if linear else NEAREST_SCALES) for scale in scales[2:])


def placed_nodes(trt: Any, network: Any, config: Any, refuse: type[Exception]) -> set[int]:
    """The ids of the nodes that run on the DLA; raises `refuse` where TensorRT fails in place of falling back."""
    asked = [each for each in network._state.layers if config.get_device_type(each) == trt.DeviceType.DLA]
    if not asked:
        return set()
    fallback = config.get_flag(trt.BuilderFlag.GPU_FALLBACK)
    logger = network._state.builder.logger
    if any(node.op_type in QDQ for node in network._state.graph.nodes) and trt.__version__.startswith("10."):
        raise refuse("Error Code 9: Internal Error (DLA does not support explicit quantization: Q/DQ in the network)")
    if core_count() and not 0 <= config.DLA_core < core_count():
        raise refuse(f"Error Code 3: API Usage Error (DLA core {config.DLA_core} is not set, or does not exist)")
    if any(len({tuple(shape) for shape in shapes}) > 1 for p in config._state.profiles for shapes in p.values()):
        text = "DLA requests all profiles have same min, max, and opt value."
        if not fallback:
            raise refuse(f"Error Code 4: Internal Error ({text})")
        report(logger, "WARNING", f"{text} All dla layers are falling back to GPU")
        return set()
    on_dla = set()
    for layer in asked:
        if runs_on_dla(trt, layer, config):
            on_dla.add(id(layer._state.node))
            continue
        if not fallback:
            text = f"Layer {layer.name} is not supported on DLA, and GPU fallback is not enabled"
            raise refuse(f"Error Code 4: Internal Error ({text})")
        report(logger, "WARNING", f"layer {layer.name} is not supported on DLA, falling back to GPU.")
    return on_dla
