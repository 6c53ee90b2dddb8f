"""Small graphs, and how to build them, on which the lint's rules are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

F, H, D, U8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT8
WEIGHT = np.ones((32, 32, 1, 1), np.float32)
PICTURE = (1, 32, 8, 8)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """A node called by its first output; "-" stands for an input that is left out."""
    names = [name.replace("-", "") for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), outputs.split()[0], **attributes)


def graph(
    nodes: Sequence[NodeProto], opset: int = 19, kind: int = F, shape: Sequence[Any] = PICTURE, out: int = F,
    ir_version: int = 9, out_shape: Any = None, **constants: np.ndarray,
) -> onnx.ModelProto:  # fmt: skip
    """A model from x to y."""
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    outputs = [helper.make_tensor_value_info("y", out, out_shape)]
    return helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, values),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("custom", 1)], ir_version=ir_version,
    )  # fmt: skip


def qdq(name: str, scale: str = "s", zero: str = "z", **attributes: Any) -> list[NodeProto]:
    """Q and DQ from `name` to `name`_dq."""
    return [
        node("QuantizeLinear", f"{name} {scale} {zero}", f"{name}_q", **attributes),
        node("DequantizeLinear", f"{name}_q {scale} {zero}", f"{name}_dq", **attributes),
    ]


ZERO = np.int8(0)
S = {"s": np.float32(0.1), "z": ZERO}
RELU = node("Relu", "x", "y")


def relu(**changes: Any) -> onnx.ModelProto:
    return graph([RELU], **changes)


def op(name: str, **changes: Any) -> onnx.ModelProto:
    known = onnx.defs.has(name)
    inputs, outputs = (onnx.defs.get_schema(name).min_input, onnx.defs.get_schema(name).min_output) if known else (1, 1)
    return graph([node(name, "x " * inputs, " ".join(["y", "p", "q"][:outputs]))], **changes)


def conv(weight: np.ndarray = WEIGHT, **changes: Any) -> onnx.ModelProto:
    return graph([node("Conv", "x w", "y")], w=weight, **changes)


def quantised(scale: Any = 0.1, zero: Any = ZERO, kind: int = F, opset: int = 19) -> onnx.ModelProto:
    """Q and DQ on the input."""
    scale = np.float32(scale) if isinstance(scale, float) else scale
    nodes = [*qdq("x"), node("Cast", "x_dq", "y", to=F)]
    return graph(nodes, opset=opset, kind=kind, s=scale, z=zero)


def int8_conv(
    *after: NodeProto, weight: np.ndarray = WEIGHT, both: bool = True, axis: int | None = 0, channels: bool = True,
    before: Sequence[NodeProto] = (), **more: Any,
) -> onnx.ModelProto:  # fmt: skip
    """x -> Q/DQ -> Conv -> c, followed by `after`, which makes y."""
    count = len(weight) if channels else 1
    scale = np.full(count, 0.1, np.float32) if channels else np.float32(0.1)
    attributes = {} if axis is None or not channels else {"axis": axis}
    pairs = qdq("w", "ws", "wz", **attributes) if both else []
    body = node("Conv", f"x_dq {'w_dq' if both else 'w'}", "c", group=more.pop("group", 1))
    last = after or [node("Relu", "c", "y")]
    more = {"shape": (1, weight.shape[1] * body.attribute[0].i, 8, 8), **more}
    nodes = [*before, *qdq("x"), *pairs, body, *last]
    return graph(nodes, w=weight, ws=scale, wz=np.zeros(scale.shape, np.int8), **S, **more)


def resize(opset: int = 19, sizes: bool = False, dynamic: bool = False, **attributes: Any) -> onnx.ModelProto:
    attributes = {"mode": "linear", **attributes}
    inputs = "x - - n" if sizes or dynamic else "x - f"
    before = [node("Shape", "x", "n")] if dynamic else []
    constants = {} if dynamic else {"n": np.array([1, 32, 16, 16]), "f": np.array([1, 1, 2, 2], np.float32)}
    return graph([*before, node("Resize", inputs, "y", **attributes)], opset=opset, **constants)


def residual(*quantise: str, again: bool = True) -> onnx.ModelProto:
    a, b = (f"{name}_dq" if name in quantise else name for name in ("c", "d"))
    second = [node("Conv", "x_dq w_dq", "d")]
    pairs = [pair for name in quantise for pair in qdq(name)]
    last = [*qdq("e"), node("Relu", "e_dq", "y")] if again else [node("Relu", "e", "y")]
    return int8_conv(*second, *pairs, node("Add", f"{a} {b}", "e"), *last)


def concat(other: float) -> onnx.ModelProto:
    nodes = [*qdq("x"), node("Relu", "x", "r"), *qdq("r", "t"), node("Concat", "x_dq r_dq", "k", axis=1), *qdq("k")]
    return graph([*nodes, node("Relu", "k_dq", "y")], t=np.float32(other), **S)


def concat_then_conv(behind: str) -> onnx.ModelProto:
    nodes = [node("Concat", "x x", "k", axis=1), *qdq("k"), node(behind, "k_dq w" if behind == "Conv" else "k_dq", "y")]
    return graph(nodes, w=np.ones((32, 64, 1, 1), np.float32), **S)


def logits(side: int) -> onnx.ModelProto:
    nodes = [node("Conv", "x w", "c", strides=[2, 2]), node("Resize", "c - - n", "r", mode="linear")]
    nodes.append(node("Softmax", "r", "y", axis=1))
    return graph(nodes, w=WEIGHT, n=np.array([1, 32, side, side]))


def half_scaled(data: int, scale: Any) -> onnx.ModelProto:
    return quantised(scale(0.1), kind=data)


def product(k: int, n: int) -> onnx.ModelProto:
    return graph([node("MatMul", "x w", "y")], shape=(1, 4, k), w=np.ones((k, n), np.float32))


def int8_product(k: int, n: int) -> onnx.ModelProto:
    nodes = [*qdq("x"), *qdq("w"), node("MatMul", "x_dq w_dq", "y")]
    return graph(nodes, shape=(1, 4, k), w=np.ones((k, n), np.float32), **S)


def gathers(count: int) -> onnx.ModelProto:
    nodes = [node("Gather", "x i", f"g{i}", axis=2) for i in range(count)]
    return graph([*nodes, node("Sum", " ".join(f"g{i}" for i in range(count)), "y")], i=np.array([0]))


def pool(kernel: list[int], **attributes: Any) -> onnx.ModelProto:
    nodes = [node("AveragePool", "x", "y", kernel_shape=kernel, **attributes)]
    return graph(nodes, shape=(1, 8, *[64 for _ in kernel]))


def branch(name: str) -> onnx.ModelProto:
    inner = helper.make_graph([node("Relu", "x", "i")], "b", [], [helper.make_tensor_value_info("i", F, PICTURE)])
    taken = {"then_branch": inner, "else_branch": inner} if name == "If" else {}
    return graph([node(name, "b" if name == "If" else "x", "y", **taken)], b=np.array(True))


def two_quantisers(scale: float) -> onnx.ModelProto:
    nodes = [*qdq("x"), node("QuantizeLinear", "x t z", "p"), node("DequantizeLinear", "p t z", "p_dq")]
    return graph([*nodes, node("Add", "x_dq p_dq", "y")], t=np.float32(scale), **S)


def behind(*nodes: NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    """Nodes that read the dequantised input."""
    return graph([*qdq("x"), *nodes], **S, **constants)


def cast_weight(value: float) -> onnx.ModelProto:
    nodes = [node("Cast", "w", "v", to=H), node("Conv", "x v", "y")]
    return graph(nodes, kind=H, out=H, w=WEIGHT * np.float32(value))


def bias(kind: type) -> onnx.ModelProto:
    nodes = [node("DequantizeLinear", "b s", "b_dq"), node("Add", "x b_dq", "y")]
    return graph(nodes, b=np.ones(1, kind), s=np.float32(0.1))


def axis_less(channels: bool) -> onnx.ModelProto:
    return int8_conv(axis=None, channels=channels)


SIDE, CHANNELS = np.array([1, 32, 4, 4]), np.full(32, 0.1, np.float32)
AFTER_Q = [*qdq("c"), node("Relu", "c_dq", "y")]
BEFORE_Q = [node("Relu", "c", "r"), *qdq("r"), node("Sigmoid", "r_dq", "y")]
ARGMAX = graph([node("ArgMax", "x", "y", axis=1)], out=TensorProto.INT64)
ARGMAX_32 = graph([node("ArgMax", "x", "i", axis=1), node("Cast", "i", "y", to=6)], out=TensorProto.INT32)
UINT8_MUL = graph([node("Mul", "x x", "m"), node("Cast", "m", "y", to=F)], kind=U8)
UINT8_CAST = graph([node("Cast", "x", "m", to=F), node("Mul", "m m", "y")], kind=U8)
MASKED = graph([node("Cast", "x", "u", to=U8), node("Cast", "u", "y", to=F)])
UINT8_OUT = graph([node("Cast", "x", "y", to=U8)], out=U8)
NORM = {name: np.ones(32, np.float32) for name in "abcd"}
BATCH_NORM = graph([node("Conv", "x w", "v"), node("BatchNormalization", "v a b c d", "y")], w=WEIGHT, **NORM)
NORM_FIRST = graph([node("BatchNormalization", "x a b c d", "y")], **NORM)
NAN = WEIGHT * np.float32("nan")
BOUNDED = graph([node("Clip", "x - m", "y")], m=np.float32("inf"))
POOL_Q = [node("GlobalAveragePool", "x_dq", "p"), *qdq("p"), node("Relu", "p_dq", "y")]
RESIZED = behind(node("Resize", "x_dq - - n", "y", mode="linear"), n=SIDE)
RESIZED_FLOAT = graph(
    [node("Resize", "x - - n", "r", mode="linear"), *qdq("r"), node("Relu", "r_dq", "y")], n=SIDE, **S
)
TRANSPOSED = behind(node("Transpose", "x_dq", "y", perm=[0, 2, 3, 1]))
TRANSPOSED_Q = graph([node("Transpose", "x", "t", perm=[0, 2, 3, 1]), *qdq("t"), node("Relu", "t_dq", "y")], **S)
LARGE = graph([node("Add", "x w", "y")], shape=(1, 1, 2048, 2048), w=np.zeros((2048, 2048), np.float32))
LARGE_WEIGHT = conv(np.zeros((512, 512, 3, 3), np.float32), shape=(1, 512, 8, 8))
CUSTOM = graph([helper.make_node("Fancy", ["x"], ["y"], "y", domain="custom")])
SCATTER = {"i": np.zeros((1, 1), np.int64), "u": np.zeros((1, 32, 8, 8), np.float32)}
SCATTERED = graph([node("ScatterND", "x i u", "y", reduction="add")], **SCATTER)
SCATTERED_PLAIN = graph([node("ScatterND", "x i u", "y")], **SCATTER)
INDICES = graph([node("MaxPool", "x", "y i", kernel_shape=[2, 2])])
MAXPOOL = graph([node("MaxPool", "x", "y", kernel_shape=[2, 2])])
DILATED = graph([node("MaxPool", "x", "y", kernel_shape=[2, 2], dilations=[2, 2])])
QLINEAR = graph(
    [*qdq("x")[:1], node("QLinearConv", "x_q s z w s z s z", "o"), node("DequantizeLinear", "o s z", "y")],
    w=WEIGHT.astype(np.int8), **S,
)  # fmt: skip
TRAINING = graph([node("Dropout", "x r t", "y")], r=np.float32(0.5), t=np.array(True))
RUN_TIME_SCALE = graph([node("ReduceMax", "x", "s", keepdims=0), *qdq("x"), node("Relu", "x_dq", "y")], z=np.int8(0))
FP16_TINY = quantised(np.float16(2e-5), kind=H)
GROUPED = np.ones((32, 1, 3, 3), np.float32)
