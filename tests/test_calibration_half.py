"""The two graphs of one table: float32-typed and float16-typed, with the same integers inside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.quantize import quantized, scale_from_amax
from calibration.table import CalibrationTable
from pspnet.cli import main
from pspnet.errors import PspnetError
from pspnet.metadata import extra, read_model, read_spec
from runtime.fp16_simulation import simulated
from runtime.ort import OrtRunner, session_from_model
from tests.nets import CAMVID

LOGIT_TOLERANCE = 0.015  # of the largest logit: float16 moves values across a step of INT8 now and then, 0.006 measured
MOST_STEPS, FEWEST_EQUAL = 4, 0.6  # such moves add up over 52 layers: 3 steps and 0.73 of a tensor equal were measured
HALVES = np.arange(65536, dtype=np.uint16).view(np.float16)
HALVES = HALVES[np.isfinite(HALVES)]


@pytest.fixture(scope="module")
def twins(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The int8 and the int8.fp16 file of one calibration."""
    path = tmp_path_factory.mktemp("twins") / "small.int8.onnx"
    arguments = ["--data", str(CAMVID), "--images", "4", "--method", "minmax", "--no-check", "--fp16"]
    assert main(["calibrate", str(small_onnx), "-o", str(path), *arguments]) == 0
    return path, path.with_suffix(".fp16.onnx")


def constants_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def quantisers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in model.graph.node if node.op_type == "QuantizeLinear"}


def codes(model: onnx.ModelProto, names: list[str], values: np.ndarray) -> list[np.ndarray]:
    """What quantisers of a graph make of `values` in their own type."""
    stored = constants_of(model)
    nodes, tensors = [], []
    for name in names:
        node = onnx.NodeProto()
        node.CopyFrom(quantisers(model)[name])
        tensors += [numpy_helper.from_array(stored[constant], constant) for constant in node.input[1:]]
        node.input[0] = "x"
        nodes.append(node)
    outputs = [helper.make_tensor_value_info(node.output[0], TensorProto.INT8, [None]) for node in nodes]
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    graph = helper.make_graph(nodes, "q", [helper.make_tensor_value_info("x", kind, [None])], outputs, tensors)
    single = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return session_from_model(single, 1).run(None, {"x": values})


OLD_ORT = pytest.mark.skipif(
    tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 31),
    reason="older ONNX Runtimes (1.23 was tried) do not divide in float32 where they quantise float16",
)


@OLD_ORT
def test_every_activation_gets_the_same_integers_in_both(twins: tuple[Path, Path]) -> None:
    plain, half = map(read_model, twins)
    stored = constants_of(plain)
    names = [name for name, node in quantisers(plain).items() if node.input[0] not in stored]
    assert len(names) > 40 and quantisers(plain).keys() == quantisers(half).keys()
    expected = codes(plain, names, HALVES.astype(np.float32))
    for name, one, other in zip(names, expected, codes(half, names, HALVES), strict=True):
        assert one.min() == -128 and one.max() == 127, name
        np.testing.assert_array_equal(one, other, name)


@OLD_ORT
def test_every_weight_has_the_same_integers_in_both(twins: tuple[Path, Path], small_onnx: Path) -> None:
    found = []
    exact = constants_of(read_model(small_onnx))
    for path in twins:
        model = read_model(path)
        stored = constants_of(model)
        outputs = {node.input[0]: node.output[0] for node in quantisers(model).values() if node.input[0] in stored}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs.values())
        image = np.zeros((1, *read_spec(path).input_size, 3), np.uint8)
        values = session_from_model(model, 1).run(list(outputs.values()), {"image": image})
        found.append(dict(zip(outputs, values, strict=True)))
    plain, half = found
    assert len(plain) == 54 and plain.keys() == half.keys()
    scales = constants_of(read_model(twins[0]))
    for name, integers in plain.items():
        np.testing.assert_array_equal(integers, half[name], name)
        steps = scales[f"{name}_scale"].astype(np.float64).reshape(-1, 1, 1, 1)
        np.testing.assert_array_equal(integers, np.rint(exact[name] / steps), name)  # of the exported weights
        assert np.abs(integers).max() <= 127


def test_scales_are_equal_and_half_everywhere(twins: tuple[Path, Path]) -> None:
    plain, half = (constants_of(read_model(path)) for path in twins)
    scales = [name for name in plain if name.endswith("_scale")]
    assert scales
    for name in scales:
        assert plain[name].dtype == np.float32 and half[name].dtype == np.float16
        np.testing.assert_array_equal(plain[name], half[name].astype(np.float32), name)
    assert extra(twins[1], "fp16")["raised_scales"] == 0


def test_both_compute_nearly_the_same_logits(twins: tuple[Path, Path]) -> None:
    image = np.random.default_rng(9).integers(0, 256, (1, *read_spec(twins[0]).input_size, 3), np.uint8)
    with OrtRunner(twins[0], 2) as plain, OrtRunner(twins[1], 2) as half:
        assert half.precision == "int8+fp16 (simulated)"
        expected, got = plain.infer(image), half.infer(image)
    assert 0 < np.abs(got - expected).max() <= LOGIT_TOLERANCE * np.abs(expected).max()


def test_the_integers_of_a_picture_stay_together_through_the_network(twins: tuple[Path, Path]) -> None:
    plain, half = read_model(twins[0]), simulated(read_model(twins[1]))
    stored = constants_of(plain)
    names = [node.output[0] for node in quantisers(plain).values() if node.input[0] not in stored]
    image = np.random.default_rng(9).integers(0, 256, (1, *read_spec(twins[0]).input_size, 3), np.uint8)
    found = []
    for model in (plain, half):
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        found.append(session_from_model(model).run(names, {"image": image}))
    for name, one, other in zip(names, *found, strict=True):
        steps = np.abs(one.astype(int) - other.astype(int))
        assert steps.max() <= MOST_STEPS and (steps == 0).mean() >= FEWEST_EQUAL, name


def test_tensorrt_11_takes_the_half_file(twins: tuple[Path, Path], tmp_path: Path) -> None:
    model = read_model(twins[1])
    assert model.opset_import[0].version == 19
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    arguments = ["inspect", str(twins[1]), "--target", "tensorrt-11", "--json", str(tmp_path / "i.json")]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "i.json").read_text())["lint"]["findings"]
    assert {finding["severity"] for finding in found} <= {"note"}
    assert not [finding for finding in found if "qdq" in finding["rule"]]


def test_evaluate_simulates_the_half_file(twins: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ["evaluate", str(twins[1]), "--data", str(CAMVID), "--split", "val", "--engine", "ort"]
    assert main([*arguments, "--json", str(tmp_path / "e.json")]) == 0
    assert json.loads((tmp_path / "e.json").read_text())["protocol"]["precision"] == "int8+fp16 (simulated)"


def test_an_overflow_leaves_no_file(small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = read_model(small_onnx)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "head.classifier.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(bias.dims, 6e4, np.float32), bias.name))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "head.classifier.weight")
    weight.CopyFrom(numpy_helper.from_array(np.full(weight.dims, 1e3, np.float32), weight.name))
    onnx.save(model, tmp_path / "loud.onnx")
    arguments = ["--data", str(CAMVID), "--images", "4", "--no-check", "--fp16", "-o", str(tmp_path / "out" / "m.onnx")]
    assert main(["calibrate", str(tmp_path / "loud.onnx"), *arguments]) == 2
    message = capsys.readouterr().err
    assert "overflows in fp16: logits_fp16 reaches" in message and "Leave out --fp16" in message
    assert list((tmp_path / "out").iterdir()) == []


def test_a_table_writes_its_graph_again(twins: tuple[Path, Path], small_onnx: Path, tmp_path: Path) -> None:
    table, output = twins[0].with_suffix(".json"), tmp_path / "again.onnx"
    assert main(["calibrate", str(small_onnx), "--table", str(table), "-o", str(output), "--fp16"]) == 0
    for old, new in zip(twins, (output, output.with_suffix(".fp16.onnx")), strict=True):
        assert read_model(old).graph == read_model(new).graph
    assert CalibrationTable.load(output.with_suffix(".json")) == CalibrationTable.load(table)
    before = table.read_bytes()
    assert main(["calibrate", str(small_onnx), "--table", str(table), "-o", str(twins[0])]) == 0
    assert table.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"amax": {"image.add": "abc"}}, "a range is no number"),
        ({"weights": {"conv": ["1"]}}, "a range is no number"),
        ({"float_layers": "conv"}, "a list no list"),
        ({"amax": [1.0]}, "is damaged"),
        ({"onnx_sha256": "0" * 64}, "belongs to the ONNX file with SHA-256 000000000000"),
        ({"repairs": ["bias correction"]}, "weights that were changed (bias correction)"),
        ({"amax": {}}, "no range for"),
        ({"images": []}, "a list no list"),
        ({"onnx_sha256": 7}, "a name no text"),
        ({"float_layers": [["head.bottleneck"]]}, "a name no text"),
        ({"more": {"no.such": 1.0}}, "has a range for no.such, a tensor that this network does not have"),
        ({"weights": {"no.such": [1.0]}}, "1 weight range for no.such, the graph has no such convolution"),
        ({"float_layers": ["no.such"]}, "no.such is no convolution"),
        ({"weights": {"head.bottleneck": [1.0]}}, "1 weight range for head.bottleneck"),
        ({"kind": "bench"}, "no calibration table"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    change: dict, words: str, twins: tuple[Path, Path], small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "t.json"
    table = json.loads(twins[0].with_suffix(".json").read_text())
    table["amax"] |= change.pop("more", {})
    path.write_text(json.dumps(table | change))
    assert main(["calibrate", str(small_onnx), "--table", str(path), "-o", str(tmp_path / "m.onnx")]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "flags",
    [
        ["--data", str(CAMVID)], ["--images", "8"], ["--method", "mse"], ["--percentile", "99.9"], ["--no-check"],
        ["--check"], ["--held-out", "8"], ["--split", "val"], ["--force"], ["--equalise"], ["--class-floor", "Sky=1"],
        ["--finetune-lr", "0.001"], ["--finetune-batch", "2"], ["--resamples", "2"], ["--device", "cpu"],
    ],
    ids=lambda flags: flags[0],
)  # fmt: skip
@pytest.mark.parametrize("instead", ["--table", "--rerank"])
def test_a_table_and_what_is_measured_on_pictures_exclude_each_other(
    flags: list[str], instead: str, small_onnx: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["calibrate", str(small_onnx), instead, "t.json", *flags]) == 2
    assert f"leave out {flags[0]}\n" in capsys.readouterr().err


def test_scales_are_the_next_half_above() -> None:
    ranges = np.concatenate(
        [[0.0, 1e-9, 127 * 2.0**-14, 127.0, 6.0], 10 ** np.random.default_rng(0).uniform(-4, 6, 300)]
    )
    halves = np.sort(HALVES[HALVES >= 2.0**-14]).astype(np.float64)
    expected = halves[np.searchsorted(halves, ranges / 127)]
    got = scale_from_amax(ranges)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)
    assert scale_from_amax(127.0) == 1.0


@pytest.mark.parametrize("amax", [float("nan"), float("inf"), -1.0, 1e7])
def test_ranges_that_no_scale_holds_are_refused(amax: float) -> None:
    with pytest.raises(PspnetError, match=r"the range of head\.x, .* cannot be quantised"):
        scale_from_amax([1.0, amax], "head.x")


def test_learned_ranges_of_weights_saturate_them(small_onnx: Path, twins: tuple[Path, Path]) -> None:
    model, table = read_model(small_onnx), CalibrationTable.load(twins[0].with_suffix(".json"))
    exact = constants_of(model)["head.bottleneck.weight"].astype(np.float64)
    amax = np.abs(exact).reshape(len(exact), -1).max(1) / 2
    table.weights["head.bottleneck"] = amax.tolist()
    stored = constants_of(quantized(model, table))
    steps = stored["head.bottleneck.weight_scale"].astype(np.float64).reshape(-1, 1, 1, 1)
    assert (steps.ravel() >= amax / 127).all()
    expected = np.clip(np.rint(exact / steps), -127, 127) * steps
    np.testing.assert_array_equal(stored["head.bottleneck.weight"], expected)
    assert np.abs(stored["head.bottleneck.weight"]).max() < 0.51 * np.abs(exact).max()
