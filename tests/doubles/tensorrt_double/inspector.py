"""The engine inspector's text in the schema of each major version."""

from __future__ import annotations

import json
import zlib
from typing import Any

from .layers import Layer
from .onnx_graph import Graph

DYNAMIC = "N/A due to dynamic shapes"
FORMATS = {
    "Float": "Row major linear FP32",
    "Half": "Channel major FP16 format where channel % 8 == 0",
    "Int8": "Thirty-two wide channel vectorized row major Int8 format",
    "UInt8": "Row major linear UInt8 format",
    "Int32": "Row major linear INT32",
    "Int64": "Row major linear INT64",
    "Bool": "Row major linear BOOL",
}
PARAMETERS = {
    "CaskConvolution": "Convolution", "CaskDeconvolutionV2": "Convolution", "CaskPooling": "Pooling",
    "MatrixMultiply": "MatrixMultiply", "Reformat": "Reformat", "Resize": "Resize", "Shuffle": "Shuffle",
    "Concat": "Concatenation", "PointWiseV2": "PointWise", "Cast": "Cast",
}  # fmt: skip


def stored_layer(layer: Layer, graph: Graph, half: bool) -> dict[str, Any]:
    """A layer as a plan keeps it: JSON in version 10's schema, types under "_type", sizes with -1.

    half: float32 tensors inside the network are half, because the weak mode's FP16 flag lets them.
    """

    inputs = {value.name for value in graph.inputs}

    def tensor(name: str) -> dict[str, Any]:
        source = name if name in graph.shapes else layer.nodes[0].input[0]
        kind = graph.type_name(source)
        at_border = name in inputs or graph.is_output(name)
        kind = "Half" if kind == "Float" and half and not at_border else kind
        return {"Name": name, "Location": "Device", "Dimensions": list(graph.shapes.get(source) or ()), "_type": kind}

    stored: dict[str, Any] = {
        "Name": layer.extra.get("Name", layer.name),
        "LayerType": layer.kind,
        "Inputs": [tensor(name) for name in layer.inputs],
        "Outputs": [tensor(name) for name in layer.outputs],
        "ParameterType": PARAMETERS.get(layer.kind, layer.kind),
    }
    if layer.origin:
        stored["Origin"] = layer.origin
    if layer.weights:
        stored["Weights"] = {"Type": layer.precision, "Count": layer.weights}
        stored["Activation"] = "RELU" if layer.has_relu else "NONE"
        stored["HasReLU"] = int(layer.has_relu)
    stored["TacticName"] = tactic_name(layer)
    stored["TacticValue"] = f"0x{zlib.crc32(layer.kind.encode()):016x}"
    stored["StreamId"] = 0
    stored["Metadata"] = "\x1e".join(f"[ONNX Layer: {node.name}]" for node in layer.nodes)
    return stored


def tactic_name(layer: Layer) -> str:
    """A kernel's name that tells its types, as the true ones do."""
    kinds = {"Int8": "i8i8_i8i32_f32", "Half": "f16f16_f16f16_f16", "Float": "f32f32_f32f32_f32"}
    if layer.kind not in ("CaskConvolution", "CaskDeconvolutionV2", "MatrixMultiply"):
        return ""
    return f"sm80_xmma_fprop_implicit_gemm_{kinds.get(layer.precision, 'f32f32_f32f32_f32')}_nhwckrsc_nhwc"


def engine_information(engine: Any, context: Any, as_json: bool) -> str:
    """Every layer, and the I/O tensors where JSON is asked for."""
    header = engine._state.header
    layers = shown_layers(engine, context)
    if not as_json:
        return "\n".join(one_line(layer) for layer in layers)
    information: dict[str, Any] = {"Layers": layers}
    if int(engine._trt.__version__.split(".")[0]) == 10:
        information["Bindings"] = list(engine._state.io)
    else:
        information["I/O Tensors"] = [io_tensor(engine, name) for name in engine._state.io]
    return json.dumps(information if header["verbosity"] != "NONE" else {})


def layer_information(engine: Any, context: Any, index: int, as_json: bool) -> str:
    layer = shown_layers(engine, context)[index]
    return json.dumps(layer) if as_json else one_line(layer)


def one_line(layer: Any) -> str:
    return layer if isinstance(layer, str) else f"{layer['Name']}, LayerType: {layer['LayerType']}"


def shown_layers(engine: Any, context: Any) -> list[Any]:
    """Layers as far as the profiling verbosity of the build lets them be seen."""
    header = engine._state.header
    if header["verbosity"] == "NONE":
        return []
    if header["verbosity"] == "LAYER_NAMES_ONLY":
        return [layer["Name"] for layer in header["layers"]]
    generation = int(engine._trt.__version__.split(".")[0])
    batch = next((shape[0] for shape in context._state.shapes.values()), -1) if context is not None else -1
    return [shown_layer(layer, generation, batch) for layer in header["layers"]]


def shown_layer(layer: dict[str, Any], generation: int, batch: int) -> dict[str, Any]:
    shown = dict(layer)
    for side in ("Inputs", "Outputs"):
        shown[side] = [shown_tensor(tensor, generation, batch) for tensor in layer[side]]
    return shown


def shown_tensor(tensor: dict[str, Any], generation: int, batch: int) -> dict[str, Any]:
    """Formats are known once no size is open: for a dynamic batch an execution context must say it."""
    shown = {key: value for key, value in tensor.items() if key != "_type"}
    shown["Dimensions"] = [batch if size == -1 else size for size in tensor["Dimensions"]]
    known = -1 not in shown["Dimensions"]
    text = FORMATS.get(tensor["_type"], tensor["_type"])
    if generation == 10:
        shown["Format/Datatype"] = text if known else DYNAMIC
    else:
        shown["Format"] = text if known else DYNAMIC
        shown["DataType"] = tensor["_type"] if known else DYNAMIC
    return shown


def io_tensor(engine: Any, name: str) -> dict[str, Any]:
    """Version 11's description of an input or output."""
    graph, is_input = engine._state.graph, name in engine._state.inputs
    profiles = []
    for index in range(engine.num_optimization_profiles):
        entry: dict[str, Any] = {"Format": engine.get_tensor_format_desc(name)}
        if is_input:
            shapes = [list(shape) for shape in engine.get_tensor_profile_shape(name, index)]
            entry = dict(zip(("MinShape", "OptShape", "MaxShape"), shapes, strict=True)) | entry
        profiles.append(entry)
    return {
        "Name": name,
        "IOMode": "Input" if is_input else "Output",
        "DataType": graph.type_name(name),
        "Dimensions": list(graph.shapes[name]),
        "Location": "Device",
        "IsShapeInferenceIO": False,
        "ProfileInfo": profiles,
    }
