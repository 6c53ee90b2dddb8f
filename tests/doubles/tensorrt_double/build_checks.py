"""What TensorRT's builder refuses before it tries a kernel."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto

from .dla import placed_nodes
from .onnx_graph import Graph


class Refused(Exception):
    """The build fails, with this message in the log."""


def check_build(trt: Any, network: Any, config: Any) -> None:
    """Raise Refused where TensorRT fails before it tries a kernel."""
    graph: Graph | None = network._state.graph
    if graph is None or not network._state.outputs:
        raise Refused("Error Code 4: Internal Error (Network must have at least one output)")
    has = {name for name in ("FP16", "INT8", "BF16", "FP8", "INT4") if flag_set(trt, config, name)}
    kinds = set(graph.types.values())
    quantised = any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.nodes)
    if network._state.strong and has:
        flags = ", ".join(sorted(f"k{name}" for name in has))
        raise Refused(f"Error Code 4: API Usage Error ({flags}: precision flags are not allowed with kSTRONGLY_TYPED)")
    if not network._state.strong and quantised and "INT8" not in has:
        raise Refused(
            "Error Code 4: Internal Error (Int8 precision has been set for a layer or layer output, "
            "but int8 is not configured in the builder)"
        )
    if not network._state.strong and TensorProto.FLOAT16 in kinds and "FP16" not in has:
        raise Refused(
            "Error Code 4: Internal Error (fp16 precision has been set for a layer or layer output, "
            "but fp16 is not configured in the builder)"
        )
    placed_nodes(trt, network, config, Refused)
    for tensor in (*network._state.inputs, *network._state.outputs):
        if not tensor.allowed_formats & 1 << int(trt.TensorFormat.LINEAR):  # TensorRT has more, this double has not
            raise Refused(f"Error Code 10: Internal Error (no implementation of {tensor.name} in the allowed formats)")
    check_profiles(graph, config)


def flag_set(trt: Any, config: Any, name: str) -> bool:
    return name in trt.BuilderFlag.__members__ and config.get_flag(trt.BuilderFlag.__members__[name])


def check_profiles(graph: Graph, config: Any) -> None:
    """A dynamic input needs its shapes in every profile, and they must fit the network."""
    dynamic = {value.name: graph.shapes[value.name] for value in graph.inputs if -1 in (graph.shapes[value.name] or ())}
    profiles = config._state.profiles
    if dynamic and not profiles:
        raise Refused(
            "Error Code 4: Internal Error (Network has dynamic or shape inputs, but no optimization profile "
            "has been defined.)"
        )
    for index, profile in enumerate(profiles):
        for name, declared in dynamic.items():
            if name not in profile:
                raise Refused(
                    f"Error Code 4: Internal Error ({name}: optimization profile is missing values for shape input "
                    f"(profile {index}))"
                )
            for shape in profile[name]:
                if len(shape) != len(declared) or any(d not in (-1, s) for s, d in zip(shape, declared, strict=True)):
                    raise Refused(
                        f"Error Code 4: API Usage Error ({name}: for dimension sizes {declared} the optimization "
                        f"profile {index} has {shape})"
                    )
