"""The Q/DQ graph: where nodes stand, what they compute, and that both engines run it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.calibrate import calibrate
from calibration.placement import place
from calibration.quantize import quantized
from calibration.table import CalibrationTable
from pspnet.cli import main
from pspnet.errors import PspnetError
from pspnet.metadata import extra, read_model, read_spec
from runtime.openvino_runner import OpenVinoRunner
from runtime.ort import OrtRunner, session_from_model
from tests.nets import CAMVID, CLIP

SIMULATION_LIMIT = 1e-5  # of the largest value: both sides round the same numbers in float32
ENGINE_SQNR_DB = 25.0  # OpenVINO's INT8 sums against the simulation of the same file; an engine that ignores Q/DQ or a
# wrong scale is below 15


@pytest.fixture(scope="module")
def int8(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "small.int8.onnx"
    calibrate(small_onnx, path, CAMVID, count=4, method="minmax")
    return path


def above_in_half(values: np.ndarray) -> np.ndarray:
    """The smallest float16 that is not below each value, searched among all of them."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    return halves[np.searchsorted(halves, values)]


def nodes_by_output(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


def test_each_int8_convolution_reads_dequantised_input_and_weights(int8: Path) -> None:
    model = read_model(int8)
    producers, shapes = nodes_by_output(model), {t.name: t for t in model.graph.initializer}
    quantised = 0
    for conv in (node for node in model.graph.node if node.op_type == "Conv"):
        kinds = [producers[name].op_type if name in producers else "constant" for name in conv.input]
        assert kinds[2:] in (["constant"], []), "the bias stays float"
        if kinds[0] != "DequantizeLinear":
            assert "DequantizeLinear" not in kinds
            continue
        quantised += 1
        weight = producers[producers[conv.input[1]].input[0]]
        assert weight.op_type == "QuantizeLinear" and weight.attribute[0].name == "axis" and weight.attribute[0].i == 0
        assert shapes[weight.input[1]].dims[0] == shapes[weight.input[0]].dims[0]
        scale, zero = (numpy_helper.to_array(shapes[name]) for name in weight.input[1:])
        assert scale.min() > 0 and zero.dtype == np.int8 and not zero.any()
    assert quantised == extra(int8, "calibration")["int8_convolutions"] == 54


def test_classifier_cells_and_the_inside_of_fused_layers_stay_float(int8: Path) -> None:
    model = read_model(int8)
    producers = nodes_by_output(model)
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    assert producers[producers["logits"].input[0]].op_type != "DequantizeLinear"
    for node in model.graph.node:
        if node.op_type == "MatMul":
            assert all(producers[n].op_type != "DequantizeLinear" for n in node.input if n in producers)
        if node.op_type == "Conv":
            after = readers.get(node.output[0], [])
            assert not ("QuantizeLinear" in after and ("Clip" in after or "Relu" in after))
        if node.op_type == "Concat":
            assert readers[node.output[0]] == ["QuantizeLinear"]


def test_one_quantiser_serves_all_readers_of_a_tensor(int8: Path) -> None:
    model = read_model(int8)
    sources = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(sources) == len(set(sources))


def test_quantised_values_equal_a_numpy_simulation() -> None:
    """A graph of one convolution: Q/DQ in ONNX Runtime against rounding and clamping written out."""
    from tests.test_calibration_collect import relu_graph  # its Cast is the input the sessions expect

    model = relu_graph()
    weight = np.random.default_rng(7).normal(size=(16, 4, 1, 1)).astype(np.float32)
    weight[3] = 0  # a dead channel
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(16, np.float32), "b"))
    model.graph.node.append(onnx.helper.make_node("Conv", ["logits", "w", "b"], ["y"], "conv"))
    model.graph.output[0].name = "y"
    model.graph.output[0].type.tensor_type.ClearField("shape")
    result = quantized(model, CalibrationTable("", "minmax", "", {}, {"logits": 90.0}))
    image = np.random.default_rng(8).integers(0, 256, (1, 4, 4, 3), np.uint8)
    got = session_from_model(result).run(["y"], {"image": image})[0]
    activation = np.maximum(image.astype(np.float32) - 100, 0)
    scale = np.float32(0.70898438)  # the float16 above 90 / 127
    activation = np.clip(np.rint(activation / scale), -128, 127) * scale  # values above 90 saturate
    weight_scale = above_in_half(np.maximum(np.abs(weight).max((1, 2, 3), keepdims=True) / 127, 2.0**-14))
    rounded = np.rint(weight / weight_scale) * weight_scale
    expected = np.einsum("nchw,oc->nohw", activation, rounded[:, :, 0, 0])
    assert np.abs(got - expected).max() <= SIMULATION_LIMIT * np.abs(expected).max()


@pytest.mark.parametrize(("amax", "idle"), [(3.0, True), (6.0, True), (6.1, False), (12.0, False)])
def test_a_clip_that_the_quantiser_makes_idle_becomes_a_relu(small_onnx: Path, amax: float, idle: bool) -> None:
    model = read_model(small_onnx)
    ranges = dict.fromkeys(place(model).activations, amax)
    table = CalibrationTable("", "minmax", "", {}, ranges)
    with_clips, without = (quantized(model, table, keep_clips=keep) for keep in (True, False))
    counts = [Counter(node.op_type for node in graph.graph.node) for graph in (with_clips, without)]
    assert counts[0]["Clip"] > 20 and counts[1]["Clip"] == (0 if idle else counts[0]["Clip"])
    assert counts[0]["Clip"] + counts[0]["Relu"] == counts[1]["Clip"] + counts[1]["Relu"]
    used = {name for node in without.graph.node for name in node.input}
    assert {tensor.name for tensor in without.graph.initializer} <= used
    image = np.random.default_rng(11).integers(0, 256, (1, *read_spec(small_onnx).input_size, 3), np.uint8)
    before, after = (session_from_model(m).run(["logits"], {"image": image})[0] for m in (with_clips, without))
    np.testing.assert_array_equal(after, before)


def test_a_clip_that_something_else_reads_stays(small_onnx: Path) -> None:
    model = read_model(small_onnx)
    clip = next(node for node in model.graph.node if node.op_type == "Clip")
    model.graph.node.append(onnx.helper.make_node("Identity", [clip.output[0]], ["watched"], "watch"))
    table = CalibrationTable("", "minmax", "", {}, dict.fromkeys(place(model).activations, 6.0))
    left = [node.output[0] for node in quantized(model, table).graph.node if node.op_type == "Clip"]
    assert left == [clip.output[0]]


def test_openvino_agrees_with_the_simulation_and_both_differ_from_float(int8: Path, small_onnx: Path) -> None:
    spec = read_spec(int8)
    image = np.random.default_rng(9).integers(0, 256, (1, *spec.input_size, 3), np.uint8)
    with OrtRunner(int8, 2) as ort, OpenVinoRunner(int8, 2) as openvino, OrtRunner(small_onnx, 2) as real:
        simulated, run, exact = (r.infer(image).copy() for r in (ort, openvino, real))
        assert ort.precision == openvino.precision == "int8"
    noise = 10 * np.log10((simulated**2).sum() / ((run - simulated) ** 2).sum())
    assert noise > ENGINE_SQNR_DB
    assert np.abs(simulated - exact).max() > 1e-3 * np.abs(exact).max()


def test_openvino_runs_convolutions_in_int8(int8: Path) -> None:
    with OpenVinoRunner(int8, 2) as runner:
        nodes = [node.get_rt_info() for node in runner.compiled.get_runtime_model().get_ops()]
    kinds = [
        str(info["runtimePrecision"].astype(str))
        for info in nodes
        if "Convolution" in str(info["layerType"].astype(str))
    ]
    assert kinds.count("i8") + kinds.count("u8") >= 40, kinds


def test_table_round_trip_and_foreign_table(int8: Path, small_onnx: Path, tmp_path: Path) -> None:
    table = CalibrationTable.load(int8.with_suffix(".json"))
    assert len(table.images) == 4 and min(table.amax.values()) >= 0
    table.save(tmp_path / "t.json")
    assert CalibrationTable.load(tmp_path / "t.json") == table
    (tmp_path / "other.json").write_text('{"kind": "bench"}')
    with pytest.raises(PspnetError, match="no calibration table"):
        CalibrationTable.load(tmp_path / "other.json")
    with pytest.raises(PspnetError, match="no range for"):
        quantized(read_model(small_onnx), CalibrationTable("", "", "", {}, {}))


def test_unlabelled_pictures_and_clips_do_as_well(small_onnx: Path, tmp_path: Path) -> None:
    for index, data in enumerate((CAMVID / "train" / "images", CLIP)):
        output = tmp_path / f"{index}.onnx"
        assert main(["calibrate", str(small_onnx), "--data", str(data), "--images", "5", "-o", str(output)]) == 0
        assert extra(output, "calibration")["images"] == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", str(CAMVID), "--split", "test"], "flatter the score"),
        (["--data", str(CAMVID / "test" / "images")], "flatter the score"),
        (["--data", str(CAMVID / "test")], "neither pictures nor a data set"),
        (["--data", str(CAMVID), "--images", "1"], "too few"),
        (["--data", str(CAMVID), "--split", "val"], "4 or more are needed"),
        (["--data", "nowhere"], "does not exist"),
        (["--data", str(CAMVID / "train" / "images"), "--split", "train"], "has no splits: leave out --split train"),
        (["--data", str(CAMVID / "train" / "images"), "--dataset", "camvid11"], "leave out --dataset camvid11"),
        (["--data", str(CLIP), "--split", "val"], "has no splits: leave out --split val"),
        (["--data", str(CAMVID), "--method", "guess"], "minmax, percentile"),
        (["--data", str(CAMVID), "--percentile", "101"], "at most 100"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], words: str, small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["calibrate", str(small_onnx), "-o", str(tmp_path / "m.onnx"), *arguments]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_int8_is_not_calibrated_twice(int8: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["calibrate", str(int8), "-o", str(tmp_path / "m.onnx"), "--data", str(CAMVID)]) == 2
    assert "int8 already" in capsys.readouterr().err
