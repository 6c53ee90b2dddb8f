"""For each rule on where Q/DQ stands: a graph that breaks it and a neighbour that does not."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from tests.lint_graphs import (
    AFTER_Q,
    BEFORE_Q,
    GROUPED,
    POOL_Q,
    RESIZED,
    RESIZED_FLOAT,
    TRANSPOSED,
    TRANSPOSED_Q,
    WEIGHT,
    S,
    behind,
    concat,
    graph,
    int8_conv,
    int8_product,
    node,
    qdq,
    residual,
    two_quantisers,
)

T103, T11 = "tensorrt-10.3", "tensorrt-11"


def block(quantised: str, shortcut: str = "x") -> onnx.ModelProto:
    """A residual block of two convolutions; `quantised` is the input of its Add that goes through Q/DQ."""
    names = [f"{name}_dq" if name == quantised else name for name in (shortcut, "d")]
    pairs = [] if quantised == "x" else qdq(quantised)
    second = [node("Relu", "c", "r"), *qdq("r"), node("Conv", "r_dq w_dq", "d")]
    down = [node("Conv", "x_dq w_dq", "k")] if shortcut == "k" else []
    return int8_conv(*second, *down, *pairs, node("Add", " ".join(names), "e"), *qdq("e"), node("Relu", "e_dq", "y"))


def with_bias(name: str) -> onnx.ModelProto:
    pair = [node("QuantizeLinear", "b s z", "b_q"), node("DequantizeLinear", "b_q s z", "b_dq")]
    model = int8_conv(before=pair, b=np.ones(32, np.float32))
    next(n for n in model.graph.node if n.op_type == "Conv").input.append(name)
    return model


def pooled() -> onnx.ModelProto:
    """Q/DQ before a MaxPool serves the convolution behind it."""
    model = int8_conv(before=[node("MaxPool", "x_dq", "m", kernel_shape=[3, 3], pads=[1, 1, 1, 1])])
    body = next(n for n in model.graph.node if n.op_type == "Conv")
    body.input[0] = "m"
    nodes = sorted(model.graph.node, key=lambda n: n.op_type == "MaxPool" or n.name in ("c", "y"))
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    return model


PLACEMENTS: list[tuple[str, str, str, onnx.ModelProto, onnx.ModelProto]] = [
    ("q-before-activation", T103, "slow", int8_conv(*AFTER_Q), int8_conv(*BEFORE_Q)),
    ("two-scales", T11, "slow", two_quantisers(0.2), two_quantisers(0.1)),
    ("two-quantisers", T11, "note", two_quantisers(0.1), residual("d")),
    ("residual-add", T103, "slow", residual(), residual(again=False)),
    ("residual-add", T103, "slow", residual("c", "d"), residual("d")),
    ("residual-add", T11, "slow", residual(), residual("c")),
    ("residual-add", T103, "slow", block("d"), block("x")),
    ("residual-add", T11, "slow", block("d", "k"), block("k", "k")),
    ("concat-scales", T103, "slow", concat(0.2), concat(0.1)),
    ("resize-qdq", T11, "slow", RESIZED, RESIZED_FLOAT),
    ("layout-qdq", T11, "note", TRANSPOSED, behind(node("Relu", "x_dq", "y"))),
    ("layout-qdq", T11, "note", TRANSPOSED_Q, RESIZED_FLOAT),
    ("average-pool-qdq", T103, "slow", behind(node("GlobalAveragePool", "x_dq", "y")), behind(*POOL_Q)),
    ("idle-qdq", T103, "slow", behind(node("Relu", "x_dq", "y")), int8_conv()),
    ("idle-qdq", T11, "slow", behind(node("MaxPool", "x_dq", "y", kernel_shape=[2, 2])), pooled()),
    ("half-quantised", T103, "slow", int8_conv(both=False), int8_conv()),
    ("half-quantised", T11, "slow", int8_conv(both=False), pooled()),
    ("bias-qdq", T103, "slow", with_bias("b_dq"), with_bias("b")),
    ("weight-axis", T11, "slow", int8_conv(axis=1), int8_conv(axis=0)),
    ("per-tensor-weights", T11, "note", int8_conv(channels=False), int8_conv()),
    ("int8-channels", T11, "note", int8_conv(weight=WEIGHT[:8, :8]), int8_conv(weight=WEIGHT[:, :3])),
    ("int8-channels", T11, "note", int8_conv(weight=WEIGHT[:, :1], group=32), int8_conv(weight=GROUPED, group=32)),
    ("int8-product", T11, "note", int8_product(24, 32), int8_product(32, 32)),
    (
        "int8-classifier", T103, "note",
        int8_conv(node("ArgMax", "c", "y", axis=1), out=TensorProto.INT64),
        graph([*qdq("x"), node("Relu", "x_dq", "r"), node("Conv", "r w", "y")], w=WEIGHT, **S),
    ),
]  # fmt: skip
"""Rule, target, severity, the graph that breaks it, the neighbour."""
