"""What each deployment target reads: opsets, operators, types and Resize modes.

Sources: the TensorRT 11 ONNX opset guide; onnx-tensorrt's operators.md of 10.15 and its changelog; OpenVINO 2026.4 and
ONNX Runtime 1.31.1, tried operator by operator on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

TENSORRT, OPENVINO, ORT = EVERYWHERE = ("tensorrt", "openvino", "ort")
"""Families of targets, for which rules are written."""


@dataclass(frozen=True)
class Target:
    """What a target reads.

    opsets: first and last that it reads. operators: all that it reads, or None where only `missing` is known.
    domains: of custom operators that it brings. resize: coordinate modes, None for every one.
    """

    name: str
    title: str
    family: str
    opsets: tuple[int, int]
    operators: frozenset[str] | None
    missing: frozenset[str]
    domains: frozenset[str]
    resize: frozenset[str] | None
    strongly_typed: bool = False


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TENSORRT_OPERATORS = _names(
    """Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil Celu
    Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace DequantizeLinear Div
    Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm
    GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid
    HardSwish Hardmax Identity If ImageScaler InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu
    Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min
    Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad ParametricSoftplus Pow QuantizeLinear RNN
    RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence RoiAlign Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin
    Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK
    Transpose Trilu Unsqueeze Upsample Where Xor"""
)
_TENSORRT_AFTER_10_3 = _names(
    "Attention BlackmanWindow HammingWindow HannWindow RMSNormalization RotaryEmbedding STFT TensorScatter"
)
_OPENVINO_MISSING = _names(
    """BitCast CausalConvWithState ConcatFromSequence CumProd DeformConv Det ImageDecoder LinearAttention MaxUnpool
    MelWeightMatrix Optional OptionalGetElement OptionalHasElement RegexFullMatch SequenceConstruct SequenceEmpty
    SequenceErase SequenceInsert SequenceLength SequenceMap SplitToSequence StringConcat StringNormalizer StringSplit
    SwiGLU TensorScatter TfIdfVectorizer"""
)
_RESIZE = _names("half_pixel pytorch_half_pixel tf_half_pixel_for_nn asymmetric align_corners")
_NONE: frozenset[str] = frozenset()

TARGETS = {
    target.name: target
    for target in (
        Target("tensorrt-10.3", "TensorRT 10.3", TENSORRT, (9, 20), _TENSORRT_OPERATORS, _NONE, _NONE, _RESIZE),
        Target(
            "tensorrt-11", "TensorRT 11", TENSORRT, (9, 25), _TENSORRT_OPERATORS | _TENSORRT_AFTER_10_3, _NONE, _NONE,
            _RESIZE, strongly_typed=True,
        ),
        Target(
            "openvino", "OpenVINO 2026.4", OPENVINO, (1, 26), None, _OPENVINO_MISSING,
            frozenset({"com.microsoft", "org.openvinotoolkit"}), _RESIZE,
        ),
        Target(
            "ort", "ONNX Runtime 1.31", ORT, (7, 26), None, frozenset({"ImageDecoder"}),
            frozenset({"com.microsoft", "com.microsoft.nchwc", "ai.onnx.ml"}), None,
        ),
    )
}  # fmt: skip

LARGEST_IR = 13  # ONNX Runtime 1.31.1 refuses 14

TENSORRT_TYPES = {
    getattr(TensorProto, name)
    for name in (
        "FLOAT", "FLOAT16", "BFLOAT16", "INT8", "INT32", "INT64", "UINT8", "BOOL", "DOUBLE", "FLOAT8E4M3FN", "INT4",
        "FLOAT4E2M1",
    )
    if hasattr(TensorProto, name)
}  # fmt: skip
"""DOUBLE is narrowed to float32, UINT8 is for inputs and outputs of the network only: both have rules of their own."""
QUANTISED_TYPES = TENSORRT_TYPES - {
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT32,
    TensorProto.INT64, TensorProto.UINT8, TensorProto.BOOL,
}  # fmt: skip
