"""INT8 without Q/DQ, as TensorRT 10 has it: scales from a calibrator's cache, and the network that they make.

That network is written as an ONNX with Q/DQ, so that what runs it and what lists its layers need no other way. Weights
are quantised per output channel by their largest magnitude, as TensorRT does; what has no scale stays in float.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .build_checks import Refused
from .onnx_graph import Graph

LARGEST = 127


def scales_from_cache(trt: Any, calibrator: Any) -> dict[str, float]:
    """Tensor -> scale; Refused where the cache is not this version's, and the calibrator has no pictures either."""
    major, minor, patch = (int(part) for part in trt.__version__.split(".")[:3])
    wanted = f"TRT-{major * 10000 + minor * 100 + patch}-EntropyCalibration2"
    cache = calibrator.read_calibration_cache()
    lines = [] if cache is None else bytes(memoryview(cache)).decode("ascii").splitlines()
    if not lines or lines[0] != wanted:
        if not calibrator.get_batch(["image"]):
            raise Refused(
                "Error Code 4: Internal Error (Calibration failure occurred with no scaling factors detected. This "
                "could be due to no int8 calibrator or insufficient custom scales for network layers.)"
            )
        raise Refused("the double calibrates on no pictures")
    scales = {}
    for line in lines[1:]:
        name, _, bits = line.rpartition(": ")
        scales[name] = struct.unpack("!f", int(bits, 16).to_bytes(4, "big"))[0]
    calibrator.write_calibration_cache(cache)
    return scales


def quantised_graph(graph: Graph, scales: dict[str, float], in_half: set[int], on_dla: set[int]) -> Graph:
    """The network with Q/DQ where TensorRT computes in INT8. in_half: ids of the nodes that were constrained to it.

    Ids of nodes mean nothing to the result: what is on a DLA is told by names.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    added: dict[str, list[onnx.NodeProto]] = {}
    made: dict[str, str] = {}

    def quantised(name: str, scale: np.ndarray, axis: int | None = None) -> str:
        if name not in made:
            zero, along = np.zeros(scale.shape, np.int8), {} if axis is None else {"axis": axis}
            constants = [f"{name}.calib_scale", f"{name}.calib_zero"]
            model.graph.initializer.append(numpy_helper.from_array(scale, constants[0]))
            model.graph.initializer.append(numpy_helper.from_array(zero, constants[1]))
            added[name] = [
                helper.make_node("QuantizeLinear", [name, *constants], [f"{name}.calib_q"], f"{name}.calib.Q", **along),
                helper.make_node(
                    "DequantizeLinear", [f"{name}.calib_q", *constants], [f"{name}.calib_dq"], f"{name}.calib.DQ",
                    **along,
                ),
            ]  # fmt: skip
            made[name] = f"{name}.calib_dq"
        return made[name]

    for source, node in zip(graph.nodes, model.graph.node, strict=True):
        data = [name for name in source.input if name and name not in graph.constants]
        if source.op_type not in ("Conv", "Add") or id(source) in in_half or source.output[0] not in scales:
            continue
        if any(name not in scales for name in data):
            continue
        for index, name in enumerate(source.input):
            alone_on_dla = source.op_type == "Add" and id(source) in on_dla and scales.get(name) == 1.0
            if name in data and not alone_on_dla:  # 1.0 on a DLA: the sum is made before anything is rounded
                node.input[index] = quantised(name, np.asarray(scales[name], np.float32))
        if source.op_type == "Conv":
            weights = graph.constants[source.input[1]].astype(np.float64)
            largest = np.abs(weights).reshape(len(weights), -1).max(1)
            node.input[1] = quantised(source.input[1], np.maximum(largest / LARGEST, 1e-30).astype(np.float32), 0)
    given = [*graph.constants, *(value.name for value in graph.inputs)]
    ordered = [each for name in given for each in added.get(name, [])]
    for node in model.graph.node:
        ordered.append(node)
        ordered += [each for name in node.output for each in added.get(name, [])]
    copies = [onnx.NodeProto.FromString(each.SerializeToString()) for each in ordered]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return Graph(model)
