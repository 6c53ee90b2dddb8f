"""The float16-typed graph: which tensors are float16, what stays float32, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.placement import place
from calibration.quantize import quantized
from calibration.table import CalibrationTable
from pspnet.errors import PspnetError
from pspnet.metadata import attach_spec, extra, read_model, read_spec, spec_from_model
from pspnet.spec import ModelSpec
from runtime import fp16_typing
from runtime.fp16_typing import OPSET, SMALLEST_SCALE, fp16_from_fp32
from runtime.ort import session_from_model

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def model_of(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], opset: int = 18, **entries: Any
) -> onnx.ModelProto:
    """A graph from image (N, 16, 16, 3) uint8 to logits (N, 3, 2, 2) that carries a spec."""
    graph = helper.make_graph(
        nodes, "test",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 16, 16, 3])],
        [helper.make_tensor_value_info("logits", FLOAT, ["N", 3, 2, 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    colours = ((0, 0, 0), (1, 1, 1), (2, 2, 2))
    spec = ModelSpec("resnet18", 8, (1, 2), 4, 4, 4, ("a", "b", "c"), colours, (16, 16))
    attach_spec(model, spec, **{"precision": "fp32"} | entries)
    return model


def start() -> list[onnx.NodeProto]:
    """image -> "x" (N, 3, 16, 16) in float."""
    return [
        helper.make_node("Cast", ["image"], ["pixels"], to=FLOAT),
        helper.make_node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2]),
    ]


def convolution() -> dict[str, np.ndarray]:
    return {"w": np.full((3, 3, 8, 8), 0.001, np.float32), "b": np.zeros(3, np.float32)}


def conv(source: str, target: str = "logits") -> onnx.NodeProto:
    return helper.make_node("Conv", [source, "w", "b"], [target], strides=[8, 8])


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Element types that ONNX infers from nodes and constants alone, with nothing stated in between."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    bare.graph.ClearField("value_info")
    inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True).graph
    known = (*inferred.input, *inferred.value_info, *inferred.output)
    return {value.name: value.type.tensor_type.elem_type for value in known}


def constants_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_everything_is_half_but_the_averages_and_the_interface(small_onnx: Path) -> None:
    model = read_model(small_onnx)
    typed = fp16_from_fp32(model)
    types, nodes = types_of(typed), typed.graph.node
    assert types["image"] == TensorProto.UINT8 and types["logits"] == FLOAT and types["features"] == HALF
    assert nodes[0].op_type == "Cast" and nodes[0].input[0] == "image" and nodes[0].attribute[0].i == HALF
    in_float = [node for node in nodes if FLOAT in (types[name] for name in node.output)]
    assert {node.op_type for node in in_float} <= {"Cast", "MatMul", "Reshape"}
    products = [node for node in nodes if node.op_type == "MatMul" and any("pool_" in name for name in node.input)]
    assert len(products) >= 2 and all(node in in_float for node in products)
    half_ops = {node.op_type for node in nodes if HALF in (types[name] for name in node.output)}
    assert {"Conv", "Clip", "Add", "MatMul"} <= half_ops
    stated = {value.name: value.type.tensor_type.elem_type for value in typed.graph.value_info}
    assert stated and all(types[name] == kind for name, kind in stated.items())
    assert set(extra(typed, "fp16")["fp32_nodes"]) == {n.name for n in in_float if n.op_type != "Cast"}
    onnx.checker.check_model(typed, full_check=True)


def test_constants_are_rounded_to_nearest_and_the_metadata_is_kept(small_onnx: Path) -> None:
    model = read_model(small_onnx)
    before = model.SerializeToString()
    typed = fp16_from_fp32(model)
    assert model.SerializeToString() == before
    old, new = constants_of(model), constants_of(typed)
    assert old.keys() == new.keys()
    for name, values in old.items():
        wanted = values if values.dtype == np.int64 or new[name].dtype == np.float32 else values.astype(np.float16)
        np.testing.assert_array_equal(new[name], wanted)
    assert sum(values.dtype == np.float16 for values in new.values()) > 100
    assert [entry.version for entry in typed.opset_import] == [OPSET] and typed.ir_version == model.ir_version <= 10
    assert spec_from_model(typed) == read_spec(small_onnx)
    assert extra(typed, "precision") == "fp16" and extra(typed, "proof") == extra(small_onnx, "proof")


def test_the_engine_takes_the_typed_graph(small_onnx: Path) -> None:
    typed, spec = fp16_from_fp32(read_model(small_onnx)), read_spec(small_onnx)
    image = np.random.default_rng(1).integers(0, 256, (2, *spec.input_size, 3), np.uint8)
    logits = session_from_model(typed).run(None, {"image": image})[0]
    assert logits.dtype == np.float32 and logits.shape == (2, spec.classes, *spec.map_size)


def test_an_average_is_found_under_any_name() -> None:
    """Windows of unequal length and a row of padding; a product that spreads, and a trained one, are no averages."""
    pool = np.zeros((16, 4), np.float32)
    pool[:6, 0], pool[5:11, 1], pool[10:, 2] = 1 / 6, 1 / 6, 1 / 6
    spread = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 1, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.2, 0.8]], np.float32)
    trained = np.random.default_rng(0).random((5, 2), np.float32)
    constants = {"m1": pool, "m2": np.ascontiguousarray(pool.T), "m3": spread, "m4": trained.T.copy()}
    nodes = [
        *start(),
        helper.make_node("MatMul", ["x", "m1"], ["wide"], "wide"),  # (N, 3, 16, 4)
        helper.make_node("MatMul", ["m2", "wide"], ["cells"], "cells"),  # (N, 3, 4, 4)
        helper.make_node("MatMul", ["m3", "cells"], ["tall"], "spread"),  # (N, 3, 5, 4)
        helper.make_node("MatMul", ["m4", "tall"], ["flat"], "trained"),  # (N, 3, 2, 4)
        helper.make_node("Transpose", ["flat"], ["turned"], perm=[0, 1, 3, 2]),  # (N, 3, 4, 2)
        helper.make_node("MatMul", ["m3", "turned"], ["grown"], "spread again"),  # (N, 3, 5, 2)
        helper.make_node("MatMul", ["m4", "grown"], ["logits"], "trained again"),  # (N, 3, 2, 2)
    ]
    typed = fp16_from_fp32(model_of(nodes, constants))
    assert extra(typed, "fp16")["fp32_nodes"] == ["wide", "cells"]


def test_a_constant_read_in_both_types_is_stored_in_both() -> None:
    pool = np.eye(16, dtype=np.float32)
    nodes = [
        *start(), helper.make_node("MatMul", ["x", "head.pool_w"], ["same"], "same"),
        helper.make_node("Mul", ["same", "head.pool_w"], ["diagonal"]), conv("diagonal"),
    ]  # fmt: skip
    typed = fp16_from_fp32(model_of(nodes, {"head.pool_w": pool, **convolution()}))
    stored = constants_of(typed)
    assert stored["head.pool_w"].dtype == np.float32 and stored["head.pool_w_fp16"].dtype == np.float16
    assert extra(typed, "fp16")["fp32_nodes"] == ["same"]


def test_resize_keeps_its_scales_and_an_average_pool_its_sums() -> None:
    nodes = [
        *start(), helper.make_node("AveragePool", ["x"], ["small"], "pool", kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Resize", ["small", "", "scales"], ["large"], mode="linear"),
        helper.make_node("Clip", ["large", "low", ""], ["clipped"]), conv("clipped"),
    ]  # fmt: skip
    scales = np.array([1, 1, 4, 4], np.float32)
    typed = fp16_from_fp32(model_of(nodes, {"scales": scales, "low": np.float32(0.1) * 1, **convolution()}))
    types, stored = types_of(typed), constants_of(typed)
    assert types["small"] == FLOAT and types["large"] == types["clipped"] == HALF
    assert stored["scales"].dtype == np.float32 and stored["low"].dtype == stored["b"].dtype == np.float16


@pytest.fixture(scope="module")
def int8(small_onnx: Path) -> onnx.ModelProto:
    """The INT8 graph, made by an earlier writer with one scale too small for float16."""
    model = read_model(small_onnx)
    amax = dict.fromkeys(place(model).activations, 6.0)
    result = quantized(model, CalibrationTable("", "minmax", "", {}, amax))
    scale = next(tensor for tensor in result.graph.initializer if tensor.name == f"{next(iter(amax))}_scale")
    scale.CopyFrom(numpy_helper.from_array(np.asarray(1e-6, np.float32), scale.name))
    attach_spec(result, read_spec(small_onnx), precision="int8")
    return result


@pytest.fixture(scope="module")
def int8_typed(int8: onnx.ModelProto) -> onnx.ModelProto:
    """The same, typed."""
    return fp16_from_fp32(int8)


def test_quantisers_have_half_scales_and_int8_zero_points(int8_typed: onnx.ModelProto) -> None:
    types, stored = types_of(int8_typed), constants_of(int8_typed)
    pairs = [node for node in int8_typed.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) > 100
    for node in pairs:
        assert stored[node.input[1]].dtype == np.float16 and stored[node.input[1]].min() >= SMALLEST_SCALE
        assert stored[node.input[2]].dtype == np.int8 and not stored[node.input[2]].any()
        assert types[node.output[0]] == (TensorProto.INT8 if node.op_type == "QuantizeLinear" else HALF)
    assert extra(int8_typed, "precision") == "int8.fp16"
    assert extra(int8_typed, "fp16")["raised_scales"] == 1
    onnx.checker.check_model(int8_typed, full_check=True)


@pytest.mark.parametrize("wrong", [-0.25, 0.0, float("nan")])
def test_a_scale_that_is_not_above_0_is_refused_with_its_node(int8: onnx.ModelProto, wrong: float) -> None:
    damaged = onnx.ModelProto()
    damaged.CopyFrom(int8)
    node = next(node for node in damaged.graph.node if node.op_type == "DequantizeLinear" and node.name)
    scale = next(tensor for tensor in damaged.graph.initializer if tensor.name == node.input[1])
    values = numpy_helper.to_array(scale).copy()
    values.reshape(-1)[-1] = wrong
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))
    readers = [each.name for each in damaged.graph.node if len(each.input) > 1 and each.input[1] == scale.name]
    with pytest.raises(PspnetError, match=rf"node ({'|'.join(readers)}) .* has the scale {wrong:g}, and a scale must"):
        fp16_from_fp32(damaged)


def test_later_versions_of_every_operator_only_add() -> None:
    """Opset 18 may be relabelled as 19: same inputs, and every old attribute with its old default."""
    for op in fp16_typing.IN_HALF | fp16_typing.IN_FLOAT | fp16_typing.MOVING:
        old, new = (onnx.defs.get_schema(op, version) for version in (fp16_typing.OLDEST_OPSET, OPSET))
        assert [i.name for i in old.inputs] == [i.name for i in new.inputs], op
        for name, attribute in old.attributes.items():
            later = new.attributes[name]
            assert attribute.default_value == later.default_value and attribute.type == later.type, (op, name)


def test_a_later_opset_is_kept() -> None:
    typed = fp16_from_fp32(model_of([*start(), conv("x")], convolution(), opset=21))
    assert typed.opset_import[0].version == 21


@pytest.mark.parametrize(
    ("nodes", "changes", "words"),
    [
        ([helper.make_node("Sigmoid", ["x"], ["y"], "gate"), conv("y")], {}, "gate is Sigmoid"),
        ([conv("x")], {"w": np.full((3, 3, 8, 8), 65505, np.float32)}, "constant w reaches 65505"),
        ([conv("x")], {"b": np.array([0, np.nan, 0], np.float32)}, "constant b reaches nan"),
    ],
)
def test_what_half_cannot_say_is_refused(nodes: list[onnx.NodeProto], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PspnetError, match=words) as error:
        fp16_from_fp32(model_of([*start(), *nodes], convolution() | changes))
    assert "\n" not in str(error.value)


def test_a_file_of_another_kind_is_refused() -> None:
    model = model_of([*start(), conv("x")], convolution())
    with pytest.raises(PspnetError, match="precision is fp16"):
        fp16_from_fp32(fp16_from_fp32(model))
    with pytest.raises(PspnetError, match="opset 17"):
        fp16_from_fp32(model_of([*start(), conv("x")], convolution(), opset=17))
    del model.metadata_props[:]
    with pytest.raises(PspnetError, match="no spec"):
        fp16_from_fp32(model)
