"""Rules on types and on the values of constants."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from export.lint_graph import NUMERIC, WEIGHTED, Finding, Graph, at_node, at_tensor, attribute
from export.lint_targets import EVERYWHERE, OPENVINO, ORT, TENSORRT, TENSORRT_TYPES, Target

LARGE_BYTES = 8 * 2**20
LARGEST_HALF = 65504.0
# STRONGLY_TYPED is in NvInfer.h and the Python module of 10.3; "fully available from 10.12" is what NVIDIA's
# trt-strong-typing-migration guide says. Without it a graph with float16 tensors fails unless the flag FP16 is set
# (TensorRT issue 3277), with it that flag is refused (issue 4253).
HALF_IN_WEAK = (
    "float16 types are kept only in a network made with STRONGLY_TYPED and without the flag FP16. 10.3 has it, but "
    "NVIDIA calls it fully available from 10.12 on: compare with the fp32 file built with the flag FP16"
)


def types(graph: Graph, target: Target) -> Iterator[Finding]:
    """Types that TensorRT lacks, narrows or hands over at a cost."""
    for name, kind in graph.types.items():
        if kind == TensorProto.DOUBLE:
            yield at_tensor("note", "float64", name, "TensorRT narrows float64 to float32: export in float32")
        elif kind and kind not in TENSORRT_TYPES and not _is_quantised(graph, name):
            text = f"TensorRT has no {TensorProto.DataType.Name(kind).lower()} tensors: use another type"
            yield at_tensor("refused", "type", name, text)
    for value in graph.outputs:
        if graph.types.get(value.name) == TensorProto.INT64:
            text = "an int64 output copies 8 bytes per element: Cast to int32, or give the logits out instead"
            yield at_tensor("slow", "int64-output", value.name, text)


def _is_quantised(graph: Graph, name: str) -> bool:
    """Whether Q/DQ nodes hold the tensor, which have rules of their own."""
    kinds = ("QuantizeLinear", "DequantizeLinear")
    return bool(graph.read_by(name, *kinds) or graph.made_by(name, "QuantizeLinear"))


def uint8(graph: Graph, target: Target) -> Iterator[Finding]:
    """TensorRT takes uint8 at the network's border only: input into Cast, Cast into output."""
    outputs = {value.name for value in graph.outputs}
    for node in graph.nodes:
        into, out_of = (
            any(graph.types.get(n) == TensorProto.UINT8 for n in names) for names in (node.input, node.output)
        )
        if node.op_type in ("Constant", "QuantizeLinear", "DequantizeLinear") or not (into or out_of):
            continue
        if node.op_type != "Cast":
            text = "TensorRT takes uint8 as the network's input or output only: Cast to float first, to uint8 last"
            yield at_node("refused", "uint8", node, text)
        elif out_of and (node.output[0] not in outputs or node.output[0] in graph.readers):
            text = "TensorRT casts to uint8 for an output of the network only: leave the Cast out"
            yield at_node("refused", "uint8", node, text)
        elif into and attribute(node, "to") not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            text = "uint8 into another type than float32 or float16 is not documented before TensorRT 10.6: use those"
            yield at_node("note", "uint8", node, text)


def float64(graph: Graph, target: Target) -> Iterator[Finding]:
    """ONNX Runtime's CPU provider has no float64 convolution."""
    for node in graph.by_op("Conv", "ConvTranspose"):
        if graph.types.get(node.input[0]) == TensorProto.DOUBLE:
            yield at_node("refused", "float64", node, "ONNX Runtime has no float64 convolution: export in float32")


def constants(graph: Graph, target: Target) -> Iterator[Finding]:
    """Constants that are large, not finite, or beyond float16."""
    for name, tensor in graph.constants.items():
        readers = [node.op_type for node in graph.readers.get(name, [])]
        weight = any(op in ("Conv", "ConvTranspose", "QuantizeLinear", "DequantizeLinear") for op in readers)
        if not weight and _count_bytes(tensor) > LARGE_BYTES:
            text = (
                f"a constant of {_count_bytes(tensor) / 2**20:.0f} MB is read for every frame: compute it from factors"
            )
            yield at_tensor("note", "large-constant", name, text)
        if tensor.data_type not in NUMERIC or (value := graph.array(name)) is None or not value.size:
            continue
        if np.isnan(value).any() or (np.isinf(value).any() and not _is_bound(graph, name)):
            yield at_tensor("refused", "not-finite", name, "the constant holds NaN or infinity: train or export again")
        elif tensor.data_type != TensorProto.FLOAT16 and np.abs(value).max() > LARGEST_HALF:
            yield from _beyond_half(graph, target, name)


def _count_bytes(tensor: TensorProto) -> float:
    wide = (TensorProto.DOUBLE, TensorProto.INT64)
    size = 8 if tensor.data_type in wide else 4 if tensor.data_type in (TensorProto.FLOAT, TensorProto.INT32) else 2
    return float(np.prod(list(tensor.dims) or [1])) * size


def _is_bound(graph: Graph, name: str) -> bool:
    return bool(graph.read_by(name, "Clip", "Where", "Pad", "Min", "Max"))  # where infinity means no limit


def _beyond_half(graph: Graph, target: Target, name: str) -> Iterator[Finding]:
    if any(attribute(node, "to") == TensorProto.FLOAT16 for node in graph.read_by(name, "Cast")):
        yield at_tensor(
            "refused", "fp16-range", name, "the constant overflows float16, into which it is cast: keep fp32"
        )
    elif target.family == TENSORRT and not target.strongly_typed and graph.read_by(name, *WEIGHTED):
        yield at_tensor("note", "fp16-range", name, "the weight overflows float16: build this layer in fp32")


def external(graph: Graph, target: Target) -> Iterator[Finding]:
    """Values that could not be looked at."""
    count = sum(tensor.data_location == TensorProto.EXTERNAL for tensor in graph.constants.values())
    if count:
        text = f"{count} constants lie outside the file: neither their values nor the file as a whole were checked"
        yield at_tensor("note", "external-data", "", text)


def typing(graph: Graph, target: Target) -> Iterator[Finding]:
    """The type that the target will compute in, where the file's own types decide or mislead."""
    kinds, half = graph.weighted_types(), TensorProto.FLOAT16
    if target.strongly_typed and kinds and half not in kinds and TensorProto.BFLOAT16 not in kinds:
        what = "all but the INT8 layers run in fp32" if graph.has_qdq() else "every layer runs in fp32"
        verb = "calibrate" if graph.has_qdq() else "export"
        text = f"TensorRT 11 keeps the file's types: {what}. Build a typed fp16 file (ours: `pspnet {verb} --fp16`)"
        yield at_tensor("note", "typing", "", text)
    if half in kinds and target.family == TENSORRT and not target.strongly_typed:
        yield at_tensor("note", "typing", "", HALF_IN_WEAK)
    if half in kinds and target.family == OPENVINO:
        text = "OpenVINO computes fp16 files in fp32 or bf16 on a CPU: accuracy of fp16 is not seen there"
        yield at_tensor("note", "typing", "", text)
    if half in kinds and target.family == ORT:
        text = "ONNX Runtime computes fp16 files in fp32 with casts on a CPU: use the fp32 file there"
        yield at_tensor("note", "typing", "", text)


RULES = (
    (types, (TENSORRT,)), (uint8, (TENSORRT,)), (float64, (ORT,)), (constants, EVERYWHERE), (external, EVERYWHERE),
    (typing, EVERYWHERE),
)  # fmt: skip
"""Each rule, and the families of targets that it is about."""
