"""The share of multiply-adds in INT8: of hand-made graphs by hand, of ours against the engine's own report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.artefacts import write_artefacts
from calibration.placement import place
from calibration.share import int8_share, text_of
from calibration.table import CalibrationTable
from pspnet.errors import PspnetError
from pspnet.metadata import attach_spec, extra, read_model
from pspnet.spec import ModelSpec

SIZE, STRIDE, NARROW, WIDE, CLASSES = 64, 8, 16, 64, 3
CELLS = (SIZE // STRIDE) ** 2
FIRST = CELLS * NARROW * 3 * 9
SECOND = CELLS * WIDE * NARROW * 9
DEPTHWISE = CELLS * WIDE * 9
LAST = CELLS * CLASSES * WIDE
"""Multiply-adds of the convolutions of `network`, written out."""


def network() -> onnx.ModelProto:
    """Four convolutions: first, second, depthwise, classifier; ReLU behind all but the second and the last."""
    generator = np.random.default_rng(0)
    shapes = {
        "first": (NARROW, 3, 3, 3), "second": (WIDE, NARROW, 3, 3), "depthwise": (WIDE, 1, 3, 3),
        "classifier": (CLASSES, WIDE, 1, 1),
    }  # fmt: skip
    weights = {f"{name}.w": generator.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["x"], "turn", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "first.w"], ["a"], "first", strides=[STRIDE, STRIDE], **same),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "second.w"], ["c"], "second", **same),
        helper.make_node("Conv", ["c", "depthwise.w"], ["d"], "depthwise", group=WIDE, **same),
        helper.make_node("Relu", ["d"], ["e"], "relu_2"),
        helper.make_node("Conv", ["e", "classifier.w"], ["logits"], "classifier", kernel_shape=[1, 1]),
    ]
    graph = helper.make_graph(
        nodes, "four",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES, SIZE // STRIDE, SIZE // STRIDE])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    colours = ((0, 0, 0), (1, 1, 1), (2, 2, 2))
    spec = ModelSpec("resnet18", STRIDE, (1,), 4, 4, 4, ("a", "b", "c"), colours, (SIZE, SIZE))
    attach_spec(model, spec, precision="fp32")
    return model


def write(output: Path, *float_layers: str) -> dict:
    model = network()
    amax = {"x": 255.0, "b": 100.0, "c": 100.0, "e": 100.0}
    table = CalibrationTable("", "minmax", "", {}, amax, float_layers=list(float_layers))
    assert set(place(model, float_layers).convolutions) == {"first", "second", "depthwise"} - set(float_layers)
    return write_artefacts(model, table, output, {"method": "minmax"})


def test_openvino_counts_what_runs_in_integers(tmp_path: Path) -> None:
    path = tmp_path / "m.int8.onnx"
    summary = write(path)
    share = int8_share(path, "openvino")
    assert share.total == FIRST + SECOND + DEPTHWISE + LAST
    assert share.int8 == FIRST + SECOND + DEPTHWISE and share.in_float == {"classifier": LAST}
    assert share.fraction == share.int8 / share.total
    stored = extra(path, "calibration")
    assert stored == json.loads(json.dumps(summary)) and stored["method"] == "minmax"
    assert stored["int8_share"]["openvino"] == share.facts()


def test_a_layer_in_float_is_not_counted(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx", "second")
    share = int8_share(tmp_path / "m.onnx", "openvino")
    assert list(share.in_float.items()) == [("second", SECOND), ("classifier", LAST)]


def test_a_float_graph_has_no_share(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    for engine in ("openvino", "ort"):
        share = int8_share(tmp_path / "m.onnx", engine)
        assert share.int8 == 0 and len(share.in_float) == 4


def test_onnx_runtime_left_alone_takes_convolutions_without_activation(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx")
    share = int8_share(tmp_path / "m.onnx", "ort")
    assert share.int8 == SECOND, "Relu between a convolution and symmetric int8 keeps it in float there"


def test_of_a_network_of_ours_openvino_runs_all_that_is_placed(small_onnx: Path, tmp_path: Path) -> None:
    model = read_model(small_onnx)
    placement = place(model)
    amax = dict.fromkeys(placement.activations, 6.0)
    summary = write_artefacts(model, CalibrationTable("", "", "", {}, amax), tmp_path / "m.onnx", {})
    facts = summary["int8_share"]["openvino"]
    layers = {node.name for node in model.graph.node if node.op_type in ("Conv", "MatMul")}
    assert facts["in_float"].keys() == layers - set(placement.convolutions)
    assert facts["fraction"] == pytest.approx(1 - sum(facts["in_float"].values()) / facts["multiply_adds"])
    line = text_of("openvino", facts)
    largest = next(iter(facts["in_float"]))
    assert f"{100 * facts['fraction']:.1f} % of the multiply-adds in INT8; in float: {largest} " in line


def test_other_engines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PspnetError, match="openvino and ort, not 'torch'"):
        int8_share(tmp_path / "m.onnx", "torch")
