"""Which ONNX operators TensorRT's parser takes, and the limits on those that segmentation networks use.

Source: operators.md of onnx-tensorrt, up to 10.15, and its importers.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from .onnx_graph import Graph, attribute
from .refusal import Mode, Refusal

SUPPORTED_TEXT = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BlackmanWindow Cast
CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace
DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND
Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization
HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf IsNaN LRN LSTM
LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean
MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad ParametricSoftplus
Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1
ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
Resize ReverseSequence RoiAlign Round STFT ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid
Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu
Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
QOPERATOR_TEXT = """
QLinearConv QLinearMatMul ConvInteger MatMulInteger DynamicQuantizeLinear QLinearAdd QLinearMul QLinearConcat
QLinearAveragePool QLinearGlobalAveragePool QLinearSigmoid QLinearLeakyRelu QGemm
"""
SUPPORTED, QOPERATOR = frozenset(SUPPORTED_TEXT.split()), frozenset(QOPERATOR_TEXT.split())
NEWER = frozenset({"Attention", "DeformConv", "RMSNormalization", "RotaryEmbedding"})  # after 10.3
RESIZE_MODES = ("nearest", "linear")
RESIZE_COORDINATES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "align_corners", "asymmetric")
POOLS = ("AveragePool", "MaxPool", "LpPool")
MOST_TOPK = 3840


def operator_refusals(graph: Graph, mode: Mode) -> Iterator[Refusal]:
    """Every operator that TensorRT lacks, or lacks in this form."""
    supported = SUPPORTED if mode.generation == 10 else SUPPORTED | NEWER
    functions = {(entry.domain, entry.name) for entry in graph.model.functions}
    for node in graph.nodes:
        if (node.domain, node.op_type) in functions:
            continue
        if node.op_type in QOPERATOR:
            text = (
                f"{node.op_type}: the quantized operator format is not supported, only QuantizeLinear/DequantizeLinear"
            )
            yield Refusal(node, "UNSUPPORTED_NODE", text)
        elif node.op_type not in supported or node.domain not in ("", "ai.onnx"):
            where = f" of domain {node.domain}" if node.domain else ""
            text = f"No importer registered for op: {node.op_type}{where}, and no plugin of this name was found"
            yield Refusal(node, "UNSUPPORTED_NODE", text)
        else:
            yield from limits(graph, node)


def limits(graph: Graph, node: onnx.NodeProto) -> Iterator[Refusal]:
    """Operators that are taken, but not with every attribute."""
    if node.op_type == "Resize":
        yield from resize_limits(node)
    elif node.op_type in POOLS:
        yield from pooling_limits(graph, node)
    elif node.op_type == "TopK":
        count = graph.constant_behind(node.input[1])
        if count is not None and count.size == 1 and int(count.reshape(())) > MOST_TOPK:
            yield Refusal(node, "UNSUPPORTED_NODE_ATTR", f"K must be at most {MOST_TOPK}")
    elif node.op_type.startswith("Reduce") and len(node.input) > 1 and node.input[1]:
        if graph.constant_behind(node.input[1]) is None:
            yield Refusal(node, "UNSUPPORTED_NODE_INPUT", f"axes of {node.op_type} must be an initializer")
    elif node.op_type in ("Conv", "ConvTranspose"):
        rank = len(graph.shapes.get(node.input[0]) or (0, 0, 0, 0))
        if rank not in (3, 4, 5):
            yield Refusal(node, "UNSUPPORTED_NODE_SHAPE", f"{node.op_type} works on 1D, 2D or 3D data, got rank {rank}")


def resize_limits(node: onnx.NodeProto) -> Iterator[Refusal]:
    coordinates = attribute(node, "coordinate_transformation_mode", "half_pixel")
    if coordinates not in RESIZE_COORDINATES:
        text = f"TensorRT does not support coordinate_transformation_mode {coordinates}"
        yield Refusal(node, "UNSUPPORTED_NODE_ATTR", text)
    if attribute(node, "mode", "nearest") not in RESIZE_MODES:
        yield Refusal(node, "UNSUPPORTED_NODE_ATTR", f"unsupported resize mode {attribute(node, 'mode')}")
    if attribute(node, "antialias", 0):
        yield Refusal(node, "UNSUPPORTED_NODE_ATTR", "TensorRT does not support Resize with antialias")
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        yield Refusal(node, "UNSUPPORTED_NODE_ATTR", "only the keep_aspect_ratio_policy stretch is supported")


def pooling_limits(graph: Graph, node: onnx.NodeProto) -> Iterator[Refusal]:
    rank = len(graph.shapes.get(node.input[0]) or (0, 0, 0, 0))
    if rank not in (4, 5):
        yield Refusal(node, "UNSUPPORTED_NODE_SHAPE", f"2D or 3D pooling only, got rank {rank}")
    dilations = attribute(node, "dilations", [])
    if any(step != 1 for step in dilations):  # type: ignore[attr-defined]
        yield Refusal(node, "UNSUPPORTED_NODE_ATTR", f"pooling takes no dilations, got {dilations}")
    if len(node.output) > 1 and node.output[1]:
        yield Refusal(node, "UNSUPPORTED_NODE", "MaxPool has no output of indices in TensorRT")
