"""A float graph and its table to the explicit Q/DQ graph that TensorRT builds and OpenVINO runs in INT8."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from calibration.placement import Placement, place
from calibration.table import CalibrationTable
from pspnet.errors import PspnetError
from pspnet.wording import counted
from runtime.fp16_simulation import FP16_LARGEST
from runtime.fp16_typing import SMALLEST_SCALE

LARGEST = 127  # symmetric int8: -128 is left unused by weights, zero points are 0


def scale_from_amax(amax: float | Sequence[float] | np.ndarray, name: str = "a tensor") -> np.ndarray:
    """The scales of ranges, float32: amax / 127 rounded up to the next float16, at least `SMALLEST_SCALE`.

    Rounded so, a scale is the same number in the float32-typed and in the float16-typed graph, which therefore compute
    the same integers; rounded up, no value inside the range saturates. PspnetError, with the tensor's name, where a
    range is negative, NaN or beyond what float16 scales reach.
    """
    exact = np.asarray(amax, np.float64) / LARGEST
    if not np.all((exact >= 0) & (exact <= FP16_LARGEST)):
        raise PspnetError(
            f"the range of {name}, {np.max(amax):g}, cannot be quantised: ranges lie between 0 and "
            f"{FP16_LARGEST * LARGEST:g}. Calibrate again, with a network whose values are of ordinary size"
        )
    nearest = exact.astype(np.float16)
    above = np.where(nearest.astype(np.float64) < exact, np.nextafter(nearest, np.float16(np.inf)), nearest)
    return np.maximum(above.astype(np.float32), np.float32(SMALLEST_SCALE))


def quantized(model: onnx.ModelProto, table: CalibrationTable, keep_clips: bool = False) -> onnx.ModelProto:
    """A copy of `model` with Q/DQ around the inputs and weights of its convolutions; types outside stay float32.

    A Clip (ReLU6) whose bound is at or above where its quantiser saturates becomes a Relu, which gives the same
    integers and which engines fuse into the convolution at less cost. keep_clips leaves them, for scales that are
    still to change.

    Weights stay float32 in the file behind a Q and a DQ per output channel, the form that every TensorRT from 8 to 11
    takes, but already as the values that INT8 represents: Q then finds the same integers however it divides, in
    float16 too. PspnetError where the table lacks a tensor, or names one or a convolution that the graph does not have.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, placement = result.graph, place(model, table.float_layers)
    _check_belongs(graph, placement, table)
    nodes = {node.name: node for node in graph.node}
    added: dict[str, list[onnx.NodeProto]] = {}
    for tensor, readers in placement.activations.items():
        added[tensor] = _qdq(graph, tensor, scale_from_amax(table.amax[tensor], tensor), None)
        for reader in readers:
            _redirect(nodes[reader], tensor, f"{tensor}_dq")
    before: list[onnx.NodeProto] = []
    for name in placement.convolutions:
        weight = nodes[name].input[1]
        before += _qdq(graph, weight, _round_weights(graph, weight, table.weights.get(name)), 0)
        _redirect(nodes[name], weight, f"{weight}_dq")
    _insert(graph, before, added)
    if not keep_clips:
        _relu_for_idle_clips(graph, {tensor: float(scale_from_amax(table.amax[tensor])) for tensor in added})
    return result


def _check_belongs(graph: onnx.GraphProto, placement: Placement, table: CalibrationTable) -> None:
    if missing := [name for name in placement.activations if name not in table.amax]:
        raise PspnetError(f"the calibration table has no range for {missing[0]}: calibrate this very ONNX file")
    tensors = {name for node in graph.node for name in (*node.input, *node.output)}
    if unknown := sorted(table.amax.keys() - tensors):
        raise PspnetError(
            f"the calibration table has a range for {unknown[0]}, a tensor that this network does not have: calibrate "
            "this very ONNX file"
        )
    sizes = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    channels = {node.name: sizes[node.input[1]] for node in graph.node if node.op_type == "Conv"}
    for name, amax in table.weights.items():
        if len(amax) != channels.get(name):
            raise PspnetError(
                f"the calibration table has {counted(len(amax), 'weight range')} for {name}, the graph has "
                f"{channels.get(name, 'no such convolution')}: calibrate this very ONNX file"
            )


def _relu_for_idle_clips(graph: onnx.GraphProto, scales: dict[str, float]) -> None:
    """Values above 126.5 steps all become 127, so a bound above that, by more than float32 divides, changes nothing."""
    readers = Counter(name for node in graph.node for name in node.input)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        tensor = node.output[0]
        if node.op_type != "Clip" or tensor not in scales or readers[tensor] > 1:
            continue
        low, high = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
        if low == 0 and high >= (LARGEST - 0.25) * scales[tensor]:
            node.op_type = "Relu"
            readers.subtract(node.input[1:])
            del node.input[1:]
    for name in [name for name, count in readers.items() if not count and name in constants]:
        graph.initializer.remove(constants[name])


def _round_weights(graph: onnx.GraphProto, weight: str, amax: list[float] | None) -> np.ndarray:
    """Replace a weight by the values that INT8 represents; returns its scales, one per output channel.

    amax: of each output channel, None for the largest magnitude.
    """
    tensor = next(tensor for tensor in graph.initializer if tensor.name == weight)
    values = numpy_helper.to_array(tensor).astype(np.float64)
    scales = scale_from_amax(np.abs(values).reshape(len(values), -1).max(1) if amax is None else amax, weight)
    steps = scales.astype(np.float64).reshape(-1, *[1] * (values.ndim - 1))
    rounded = np.clip(np.rint(values / steps), -LARGEST, LARGEST) * steps
    tensor.CopyFrom(numpy_helper.from_array(rounded.astype(np.float32), weight))
    return scales


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
