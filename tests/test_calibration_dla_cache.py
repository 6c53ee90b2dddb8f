"""The calibration cache and the graph that TensorRT up to 10.7 gets for a DLA, read in other ways than made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from calibration.build_sources import source_at
from calibration.dla_cache import cache_text
from calibration.dla_graph import dla_graph, without_qdq
from runtime.ort import session_from_model
from tests.doubles.tensorrt_double.implicit import quantised_graph
from tests.doubles.tensorrt_double.onnx_graph import Graph
from tests.engine_files import write_files
from tests.tensorrt_graphs import model as small_model

HALF_STEP = 2.0**-10  # scales are amax / 127 rounded up to float16, whose steps are 2^-10 of the value
SAME_SCALE = 1e-6  # float32: a 127th of 127 steps
SAME_INTEGERS_DB = 70.0  # of the same integers in another order of sums, a few of which fall to the other side
OTHER_DB = 55.0
SMALLEST_SCALE = 2.0**-14  # of the INT8 file, so that float16 holds it


@pytest.fixture(scope="module")
def files(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx, net.int8.onnx and its table."""
    return write_files(tmp_path_factory.mktemp("cache"), small_onnx)


def read_cache(text: str) -> tuple[str, dict[str, float]]:
    """First line and scales, by the format's description: the bits of a float32, the most significant byte first."""
    first, *lines = text.rstrip("\n").split("\n")
    pairs = [line.rsplit(": ", 1) for line in lines]
    return first, {name: float(np.frombuffer(bytes.fromhex(bits), ">f4")[0]) for name, bits in pairs}


def test_known_bits() -> None:
    text = cache_text("10.3.0", {"image": 1.0, "backbone.0 x": 1 / 127, "y": 0.5})
    assert text == "TRT-100300-EntropyCalibration2\nimage: 3f800000\nbackbone.0 x: 3c010204\ny: 3f000000\n"


@pytest.mark.parametrize(("version", "number"), [("10.3.0", "100300"), ("10.4.0.26", "100400"), ("10.7.1.3", "100701")])
def test_the_first_line_names_the_version_as_tensorrts_headers_count_it(version: str, number: str) -> None:
    assert cache_text(version, {}) == f"TRT-{number}-EntropyCalibration2\n"


def test_every_range_of_the_table_is_in_the_cache(files: Path) -> None:
    table = json.loads(files.with_name("net.int8.json").read_text())
    _, _, ranges = dla_graph(source_at(files.with_name("net.int8.onnx")), "weak", "int8", 1)
    _, scales = read_cache(cache_text("10.3.0", ranges.scales))
    quantised = {
        node.input[0]
        for node in onnx.load(files.with_name("net.int8.onnx")).graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] in table["amax"]
    }
    assert len(quantised) > 40 and quantised <= set(scales)
    for name in quantised:
        exact = table["amax"][name] / 127
        assert exact <= scales[name] * (1 + 1e-6) and scales[name] <= exact * (1 + HALF_STEP), name
    # What is added has the range of the kernel's end: a convolution's output that of the Relu behind it.
    made = {node.output[0]: node for node in onnx.load(files).graph.node}
    for name in set(scales) - quantised:
        readers = [node for node in made.values() if name in node.input]
        same = [scales.get(node.output[0]) for node in readers] + [scales.get(n) for n in made[name].input]
        assert scales[name] in same, name


def test_the_graph_is_the_float_file_with_the_weights_that_int8_has(files: Path) -> None:
    int8 = onnx.load(files.with_name("net.int8.onnx"))
    plain, ranges = without_qdq(int8)
    onnx.checker.check_model(plain, full_check=True)
    wanted = onnx.load(files).graph.node
    assert [(node.name, list(node.output)) for node in plain.graph.node] == [(n.name, list(n.output)) for n in wanted]
    for node, other in zip(plain.graph.node, wanted, strict=True):
        idle = other.op_type == "Clip" and node.op_type == "Relu"  # its bound is beyond where INT8 saturates
        assert idle or (node.op_type == other.op_type and list(node.input) == list(other.input))
    before, after = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in each.graph.initializer}
        for each in (onnx.load(files), plain)
    )
    convolutions = [node for node in wanted if node.op_type == "Conv"]
    assert {node.output[0] for node in convolutions if node.output[0] in ranges.in_float} == ranges.in_float != set()
    for node in convolutions:
        weights, rounded = before[node.input[1]], after[node.input[1]]
        largest = np.abs(rounded).reshape(len(rounded), -1).max(1).reshape(-1, 1, 1, 1)
        steps = rounded / np.maximum(largest / 127, SMALLEST_SCALE)
        if node.output[0] in ranges.in_float:
            assert np.array_equal(weights, rounded)
        else:  # whole steps of a 127th of its largest weight, by which TensorRT quantises a channel, or coarser ones
            assert np.abs(steps - np.rint(steps)).max() < 1e-3, node.name
            assert not np.array_equal(weights, rounded)


def test_what_tensorrt_makes_of_graph_and_cache_is_the_int8_network(files: Path) -> None:
    int8 = onnx.load(files.with_name("net.int8.onnx"))
    content, words, ranges = dla_graph(source_at(files.with_name("net.int8.onnx")), "weak", "int8", 2)
    assert words == "net.int8.onnx without its Q/DQ, as a calibration cache"
    graph = Graph(onnx.load_model_from_string(content))
    assert graph.shapes["image"] == (2, 96, 128, 3)
    assert all(-1 not in (graph.shapes[name] or ()) for node in graph.nodes for name in node.output)
    _, scales = read_cache(cache_text("10.3.0", ranges.scales | dict.fromkeys(ranges.sums, 1.0)))
    everything = {id(node) for node in graph.nodes}
    in_half = {id(node) for node in graph.nodes if node.output[0] in ranges.in_float}
    rebuilt = quantised_graph(graph, scales, in_half, everything)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    for tensor in rebuilt.model.graph.initializer:
        weight = tensor.name.removesuffix(".calib_scale")
        if tensor.name.endswith(".weight.calib_scale") and f"{weight}_scale" in stored:
            wanted, found = stored[f"{weight}_scale"], numpy_helper.to_array(tensor)
            raised = wanted == np.float32(SMALLEST_SCALE)  # there TensorRT's steps are finer
            assert np.allclose(found[~raised], wanted[~raised], rtol=SAME_SCALE, atol=0), weight
            tensor.CopyFrom(numpy_helper.from_array(wanted, tensor.name))
    pictures = np.random.default_rng(5).integers(0, 256, (2, 96, 128, 3), np.uint8)
    wanted, found = (features(each, pictures) for each in (int8, rebuilt.model))
    assert signal_to_noise_db(wanted, found) > SAME_INTEGERS_DB
    # Without INT8, or with the sums rounded to whole numbers as on a GPU, it is another network.
    assert signal_to_noise_db(wanted, features(graph.model, pictures)) < OTHER_DB
    literally = quantised_graph(graph, scales, in_half, set())
    assert signal_to_noise_db(wanted, features(literally.model, pictures)) < OTHER_DB


def features(model: onnx.ModelProto, pictures: np.ndarray) -> np.ndarray:
    """What the backbone gives the head."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    cut.graph.output.append(helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, None))
    return session_from_model(cut, 1).run(["features"], {"image": pictures})[0].astype(np.float64)


def signal_to_noise_db(wanted: np.ndarray, found: np.ndarray) -> float:
    return 10 * float(np.log10(np.square(wanted).sum() / max(np.square(found - wanted).sum(), 1e-30)))


def test_only_a_convolution_that_is_summed_at_once_has_no_range() -> None:
    """conv -> Add <- Relu <- conv2, as in a residual block; conv3, whose sum nothing quantises, is none of these."""
    channels = 4
    nodes = [
        helper.make_node("Conv", ["x_dq", "w1_dq"], ["a"], "conv1"), helper.make_node("Relu", ["a"], ["b"], "relu1"),
        helper.make_node("Conv", ["b_dq", "w2_dq"], ["c"], "conv2"),
        helper.make_node("Add", ["c", "b_dq"], ["d"], "add"), helper.make_node("Relu", ["d"], ["e"], "relu2"),
        helper.make_node("MaxPool", ["e_dq"], ["p"], "pool", kernel_shape=[1, 1]),
        helper.make_node("Conv", ["p", "w3_dq"], ["f"], "conv3"), helper.make_node("Add", ["f", "p"], ["g"], "last"),
        helper.make_node("Conv", ["g", "w4"], ["y"], "classifier"),
    ]  # fmt: skip
    constants, before = {}, []
    weights = np.ones((channels, channels, 1, 1), np.float32)
    for name in ("w1", "w2", "w3", "w4"):
        constants[name] = weights
    scales = {"x": 0.5, "b": 0.25, "e": 0.125}
    for name in (*scales, "w1", "w2", "w3"):
        constants[f"{name}_scale"] = np.asarray(scales.get(name, 1 / 127), np.float32)
        constants[f"{name}_zero"] = np.asarray(0, np.int8)
        pair = [name, f"{name}_scale", f"{name}_zero"]
        before.append(helper.make_node("QuantizeLinear", pair, [f"{name}_q"], f"{name}_Q"))
        before.append(helper.make_node("DequantizeLinear", [f"{name}_q", *pair[1:]], [f"{name}_dq"], f"{name}_DQ"))
    after_of = {node.output[0]: node for node in nodes}
    ordered = [node for node in before if node.name.split("_")[0] in ("x", "w1", "w2", "w3")]
    for node in nodes:
        ordered.append(node)
        ordered += [each for each in before if each.name.split("_")[0] == node.output[0]]
    assert set(after_of) >= {"b", "e"}
    shape = (onnx.TensorProto.FLOAT, [1, channels, 8, 8])
    plain, ranges = without_qdq(small_model(ordered, constants, {"x": shape}, {"y": shape}))
    assert [node.name for node in plain.graph.node] == [node.name for node in nodes]
    assert ranges.scales == {"x": 0.5, "a": 0.25, "b": 0.25, "d": 0.125, "e": 0.125, "p": 0.125}
    assert ranges.sums == {"c": "d"} and ranges.in_float == {"y"}
    assert {tensor.name for tensor in plain.graph.initializer} == {"w1", "w2", "w3", "w4"}


def test_fp16_and_strong_typing_take_the_graph_of_the_gpu_with_one_batch_size(files: Path) -> None:
    float_source, int8_source = source_at(files), source_at(files.with_name("net.int8.onnx"))
    for source, route, precision in ((float_source, "weak", "fp16"), (int8_source, "strong", "int8")):
        content, words, ranges = dla_graph(source, route, precision, 3)
        usual, usual_words = source.graph(route, precision)
        assert words == usual_words and not ranges.scales and not ranges.in_float
        built, other = onnx.load_model_from_string(content), onnx.load_model_from_string(usual)
        assert [node.SerializeToString() for node in built.graph.node] == [
            node.SerializeToString() for node in other.graph.node
        ]
        assert built.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
        assert Graph(built).shapes["logits"][0] == 3  # type: ignore[index]
