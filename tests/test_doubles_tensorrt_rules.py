"""One failing graph for each rule of TensorRT's parser, and the builder's and the runtime's refusals."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.doubles import tensorrt_double
from tests.tensorrt_graphs import model, one_node, quantised_conv, with_computed_scale, with_int32_bias

HALF, FLOAT, UINT8 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.UINT8
RELU = [helper.make_node("Relu", ["middle"], ["y"], "relu")]
SIZES = {"roi": np.zeros(0, np.float32), "scales": np.zeros(0, np.float32), "sizes": np.array([1, 4, 16, 16])}


def qlinear_conv() -> onnx.ModelProto:
    zero, scale = np.int8(0), np.float32(0.1)
    names = {"s": scale, "z": zero, "w": np.ones((4, 4, 1, 1), np.int8)}
    node = helper.make_node("QLinearConv", ["x", "s", "z", "w", "s", "z", "s", "z"], ["y"], "qconv")
    kinds = {"x": (TensorProto.INT8, [1, 4, 8, 8])}, {"y": (TensorProto.INT8, [1, 4, 8, 8])}
    return model([node], {key: np.asarray(value) for key, value in names.items()}, *kinds)


# name: (graph, operator, reason, versions, modes). "both" where TensorRT refuses strongly and weakly typed networks.
BOTH, EVERY = (True, False), ("10.3.0", "11.4.0")
RULES: dict[str, tuple[onnx.ModelProto, str, str, tuple[str, ...], tuple[bool, ...]]] = {
    "uint8 Q/DQ": (quantised_conv(quantised=np.uint8), "QuantizeLinear", "got UINT8", EVERY, BOTH),
    "zero point not zero": (quantised_conv(zero=3), "QuantizeLinear", "zeroPt all zeros", EVERY, BOTH),
    "scale zero": (quantised_conv(scale=0.0), "QuantizeLinear", "must all be positive", EVERY, BOTH),
    "scale below zero": (quantised_conv(scale=-0.1), "QuantizeLinear", "must all be positive", EVERY, BOTH),
    "scale infinite": (quantised_conv(scale=np.inf), "QuantizeLinear", "must all be positive", EVERY, BOTH),
    "scale computed": (with_computed_scale(), "QuantizeLinear", "not an initializer", EVERY, BOTH),
    "int32 bias": (with_int32_bias(), "DequantizeLinear", "can only run in kINT8", EVERY, BOTH),
    "half below opset 19": (quantised_conv(HALF, opset=17), "QuantizeLinear", "needs opset 19", EVERY, BOTH),
    "scale of another type": (quantised_conv(HALF, FLOAT), "QuantizeLinear", "both must match", EVERY, (True,)),
    "mixed types": (quantised_conv(HALF, weights_kind=FLOAT), "Conv", "inputs of one type", EVERY, BOTH),
    "missing axis": (quantised_conv(axis=None), "QuantizeLinear", "needs the attribute axis", EVERY, BOTH),
    "axis of another size": (quantised_conv(channel_scales=3), "QuantizeLinear", "one value per channel", EVERY, BOTH),
    "zero points of another number": (quantised_conv(zero_count=1), "QuantizeLinear", "same volume", EVERY, BOTH),
    "activation per channel": (
        quantised_conv(activation_scales=4), "QuantizeLinear", "cannot be quantized per-channel", EVERY, BOTH,
    ),
    "QOperator": (qlinear_conv(), "QLinearConv", "quantized operator format", EVERY, BOTH),
    "uint8 outside a cast": (one_node("Transpose", None, UINT8), "Transpose", "is UInt8", EVERY, BOTH),
    "uint8 to int32": (one_node("Cast", None, UINT8, TensorProto.INT32, to=TensorProto.INT32), "Cast",
                       "only supported for {kFLOAT, kHALF}", ("10.3.0",), BOTH),
    "uint8 inside": (
        one_node("Cast", made=FLOAT, to=UINT8, after=[helper.make_node("Cast", ["middle"], ["y"], "back", to=FLOAT)]),
        "Cast", "inside the network", EVERY, BOTH,
    ),
    "double": (one_node("Cast", made=FLOAT, to=TensorProto.DOUBLE,
                        after=[helper.make_node("Cast", ["middle"], ["y"], "back", to=FLOAT)]),
               "Cast", "has type DOUBLE", EVERY, BOTH),
    "unknown operator": (one_node("Det"), "Det", "No importer registered for op: Det", EVERY, BOTH),
    "foreign domain": (one_node("Relu", domain="com.example"), "Relu", "of domain com.example", EVERY, BOTH),
    "resize coordinates": (one_node("Resize", SIZES, coordinate_transformation_mode="half_pixel_symmetric"), "Resize",
                           "does not support coordinate_transformation_mode", EVERY, BOTH),
    "resize antialias": (one_node("Resize", SIZES, mode="linear", antialias=1), "Resize", "antialias", EVERY, BOTH),
    "resize cubic": (one_node("Resize", SIZES, mode="cubic"), "Resize", "unsupported resize mode cubic", EVERY, BOTH),
    "deformable convolution": (one_node("DeformConv"), "DeformConv", "No importer registered", ("10.3.0",), BOTH),
    "computed axes": (
        model([helper.make_node("ReduceSum", ["x", "axes"], ["y"], "node")], {},
              {"x": (FLOAT, [1, 4, 8, 8]), "axes": (TensorProto.INT64, [1])}, {"y": (FLOAT, None)}),  # type: ignore
        "ReduceSum", "axes of ReduceSum must be an initializer", EVERY, BOTH,
    ),
    "pool in one dimension": (
        model([helper.make_node("MaxPool", ["x"], ["y"], "node", kernel_shape=[2])], {}, {"x": (FLOAT, [1, 4, 8])},
              {"y": (FLOAT, [1, 4, 7])}),
        "MaxPool", "2D or 3D pooling only", EVERY, BOTH,
    ),
    "places of the maximum": (
        model([helper.make_node("MaxPool", ["x"], ["y", "at"], "node", kernel_shape=[2, 2])], {},
              {"x": (FLOAT, [1, 4, 8, 8])}, {"y": (FLOAT, [1, 4, 7, 7])}),
        "MaxPool", "no output of indices", EVERY, BOTH,
    ),
    "dilated pool": (one_node("MaxPool", kernel_shape=[2, 2], dilations=[2, 2], after=RELU), "MaxPool",
                     "takes no dilations", EVERY, BOTH),
}  # fmt: skip


class Log:
    """Collects what the library logs."""

    def __init__(self, trt: ModuleType) -> None:
        self.lines = lines = []  # type: list[tuple[str, str]]

        class Collector(trt.ILogger):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                lines.append((severity.name, msg))

        self.logger = Collector()

    @property
    def errors(self) -> str:
        return "\n".join(msg for severity, msg in self.lines if severity == "ERROR")


def parsed(trt: ModuleType, built: onnx.ModelProto, strong: bool) -> tuple[Any, Any, Any, Log]:
    """(builder, network, parser, log) after a try to parse."""
    log = Log(trt)
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if strong else 0)
    parser = trt.OnnxParser(network, log.logger)
    parser.parse(built.SerializeToString())
    return builder, network, parser, log


@pytest.mark.parametrize("version", EVERY)
@pytest.mark.parametrize("name", RULES)
def test_the_parser_refuses(name: str, version: str) -> None:
    built, operator, reason, versions, modes = RULES[name]
    trt = tensorrt_double.module(version)
    for strong in modes if version in versions else ():
        _, network, parser, log = parsed(trt, built, strong)
        assert parser.num_errors > 0 and network.num_layers == 0
        error = parser.get_error(0)
        assert error.node_operator() == operator and reason in error.desc()
        assert built.graph.node[error.node()].name == error.node_name()
        assert error.node_name() in log.errors and reason in log.errors


@pytest.mark.parametrize("version", EVERY)
@pytest.mark.parametrize("kind", [FLOAT, HALF])
@pytest.mark.parametrize("strong", BOTH)
def test_the_parser_takes_the_graph_that_the_rules_spoil(version: str, kind: int, strong: bool) -> None:
    trt = tensorrt_double.module(version)
    _, network, parser, _ = parsed(trt, quantised_conv(kind), strong)
    assert parser.num_errors == 0 and network.num_layers == 6
    assert network.get_input(0).name == "x" and tuple(network.get_input(0).shape) == (-1, 4, 8, 8)
    assert network.get_output(0).dtype == (trt.float16 if kind == HALF else trt.float32)


@pytest.mark.parametrize("version", EVERY)
def test_the_parser_takes_uint8_into_and_out_of_casts(version: str) -> None:
    for built in (one_node("Cast", None, UINT8, HALF, to=HALF), one_node("Cast", None, FLOAT, UINT8, to=UINT8)):
        assert parsed(tensorrt_double.module(version), built, True)[2].num_errors == 0


def test_11_casts_uint8_to_every_type() -> None:
    built = RULES["uint8 to int32"][0]
    assert parsed(tensorrt_double.module("11.4.0"), built, True)[2].num_errors == 0


def test_scales_of_another_type_are_taken_where_types_are_free() -> None:
    """11.x knows a float32 scale with half data; ONNX can say so from opset 23 on."""
    mixed = quantised_conv(HALF, FLOAT, opset=21)
    mixed.opset_import[0].version = 23
    for node in mixed.graph.node[1:4:2]:
        node.attribute.append(helper.make_attribute("output_dtype", HALF))
    found = {v: parsed(tensorrt_double.module(v), mixed, True)[2] for v in EVERY}
    assert "both must match" in found["10.3.0"].get_error(0).desc()
    assert found["11.4.0"].num_errors == 0


def test_every_refusal_of_a_graph_is_told_in_the_order_of_its_nodes() -> None:
    built = quantised_conv(zero=3, axis=None)
    parser = parsed(tensorrt_double.module("10.3.0"), built, True)[2]
    found = [(parser.get_error(i).node(), parser.get_error(i).node_operator()) for i in range(parser.num_errors)]
    assert found == [(0, "QuantizeLinear"), (1, "DequantizeLinear"), (2, "QuantizeLinear"), (3, "DequantizeLinear")]
    assert "In node 0 with name: x.q and operator: QuantizeLinear" in str(parser.get_error(0))
    parser.clear_errors()
    assert parser.num_errors == 0


@pytest.mark.parametrize("version", EVERY)
@pytest.mark.parametrize("content", [b"", b"no ONNX at all", b"\x08\x0a"])
def test_a_file_that_is_no_onnx_is_refused(version: str, content: bytes) -> None:
    trt = tensorrt_double.module(version)
    log = Log(trt)
    parser = trt.OnnxParser(trt.Builder(log.logger).create_network(), log.logger)
    assert not parser.parse(content)
    assert parser.get_error(0).code() == trt.ErrorCode.MODEL_DESERIALIZE_FAILED and log.errors
