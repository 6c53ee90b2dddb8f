"""A float graph and its table to the explicit Q/DQ graph that TensorRT builds and OpenVINO runs in INT8."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from calibration.placement import place
from calibration.table import CalibrationTable
from pspnet.errors import PspnetError

LARGEST = 127  # symmetric int8: -128 is left unused by weights, zero points are 0
SCALE_FLOOR = 2.0**-24  # TensorRT refuses a scale of 0, which a dead channel would get


def quantized(model: onnx.ModelProto, table: CalibrationTable) -> onnx.ModelProto:
    """A copy of `model` with Q/DQ around the inputs and weights of its convolutions; types outside stay float32.

    Weights stay float32 in the file behind a Q and a DQ per output channel, the form that every TensorRT from 8 to 11
    takes. PspnetError where the table lacks a tensor.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, placement = result.graph, place(model)
    if missing := [name for name in placement.activations if name not in table.amax]:
        raise PspnetError(f"the calibration table has no range for {missing[0]}: calibrate this very ONNX file")
    nodes = {node.name: node for node in graph.node}
    added: dict[str, list[onnx.NodeProto]] = {}
    for tensor, readers in placement.activations.items():
        scale = np.float32(max(table.amax[tensor] / LARGEST, SCALE_FLOOR))
        added[tensor] = _qdq(graph, tensor, scale, None)
        for reader in readers:
            _redirect(nodes[reader], tensor, f"{tensor}_dq")
    before: list[onnx.NodeProto] = []
    for name in placement.convolutions:
        weight = nodes[name].input[1]
        before += _qdq(graph, weight, _channel_scales(graph, weight), 0)
        _redirect(nodes[name], weight, f"{weight}_dq")
    _insert(graph, before, added)
    return result


def _channel_scales(graph: onnx.GraphProto, weight: str) -> np.ndarray:
    values = numpy_helper.to_array(next(tensor for tensor in graph.initializer if tensor.name == weight))
    amax = np.abs(values).reshape(len(values), -1).max(1)
    return np.maximum(amax / LARGEST, SCALE_FLOOR).astype(np.float32)


def _qdq(graph: onnx.GraphProto, tensor: str, scale: np.ndarray, axis: int | None) -> list[onnx.NodeProto]:
    zero = np.zeros(scale.shape, np.int8)
    graph.initializer.append(numpy_helper.from_array(np.asarray(scale), f"{tensor}_scale"))
    graph.initializer.append(numpy_helper.from_array(zero, f"{tensor}_zero"))
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}  # written out: parsers differ in their default
    constants = [f"{tensor}_scale", f"{tensor}_zero"]
    return [
        helper.make_node("QuantizeLinear", [tensor, *constants], [f"{tensor}_q"], f"{tensor}_Q", **attributes),
        helper.make_node(
            "DequantizeLinear", [f"{tensor}_q", *constants], [f"{tensor}_dq"], f"{tensor}_DQ", **attributes
        ),
    ]


def _redirect(node: onnx.NodeProto, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new


def _insert(graph: onnx.GraphProto, before: list[onnx.NodeProto], after: dict[str, list[onnx.NodeProto]]) -> None:
    """Put `before` first and each entry of `after` behind the node that makes its tensor: ONNX wants that order."""
    ordered = list(before)
    for node in graph.node:
        ordered.append(node)
        for output in node.output:
            ordered += after.get(output, [])
    graph.ClearField("node")
    graph.node.extend(ordered)
