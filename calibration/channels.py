"""Statistics of each channel of a float graph's maps over images, reduced inside ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from runtime.ort import session_from_model


def channel_ranges(model: onnx.ModelProto, tensors: list[str], inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Largest magnitude of each channel (C,) of maps (N, C, h, w) over all inputs (1, H, W, 3) uint8."""
    return {name: values.max(0) for name, values in _reduced(model, tensors, inputs, "ReduceMax").items()}


def channel_means(model: onnx.ModelProto, tensors: list[str], inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Mean of each channel (C,) float64 of maps (N, C, h, w) over all inputs (1, H, W, 3) uint8."""
    found = _reduced(model, tensors, inputs, "ReduceMean")
    return {name: values.mean(0, dtype=np.float64) for name, values in found.items()}


def _reduced(model: onnx.ModelProto, tensors: list[str], inputs: list[np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """One value per picture and channel (pictures, C) of each map; kind: ReduceMean, or ReduceMax of the magnitudes."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    graph = watched.graph
    graph.ClearField("output")
    graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), "reduced_axes"))
    names = [f"{name}_reduced" for name in tensors]
    for name, result in zip(tensors, names, strict=True):
        source = name
        if kind == "ReduceMax":
            source = f"{name}_magnitude"
            graph.node.append(helper.make_node("Abs", [name], [source]))
        graph.node.append(helper.make_node(kind, [source, "reduced_axes"], [result], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, None))
    session = session_from_model(watched)
    rows = [session.run(names, {"image": image}) for image in inputs]
    return {name: np.concatenate(column) for name, column in zip(tensors, zip(*rows, strict=True), strict=True)}
