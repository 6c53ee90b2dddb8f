"""The simulation of float16: bit by bit against numpy's, overflow included, and what the runners make of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pspnet.cli import main
from pspnet.errors import PspnetError
from pspnet.metadata import read_model, read_spec
from runtime.fp16_simulation import FP16_LARGEST, largest_magnitudes, simulated
from runtime.fp16_typing import fp16_from_fp32
from runtime.openvino_runner import OpenVinoRunner
from runtime.ort import OrtRunner, session_from_model
from runtime.runner import open_runner
from tests.nets import CAMVID
from tests.test_runtime_fp16_typing import model_of, start

MIOU_TOLERANCE = 0.3  # percent: float16 has 11 bits, so the pixels that change class are those within 1e-3 of a tie
DIFFERENCE_LIMIT = 5e-3  # of the largest logit: a few dozen roundings of 2^-11 each, none of which adds up
MAGNITUDE_TOLERANCE = 1e-6  # relative: the maxima of equal float32 numbers; kernels may sum in another order

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")


def run(model: onnx.ModelProto, image: np.ndarray, *names: str) -> list[np.ndarray]:
    """Named tensors of a graph at the optimisation level that the runners use."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "logits")
    return session_from_model(watched).run(list(names), {"image": image})


def half(values: np.ndarray) -> np.ndarray:
    """float64 values as float16 stores them."""
    return values.astype(np.float16).astype(np.float64)


def eighths(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Weights with which float32 sums are exact in any order: only the rounding of stored values can differ."""
    return (generator.integers(-16, 17, shape) / 8).astype(np.float32)


def small_network() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Every kind of node: normalisation, convolution, residual, quantisers, an average in float32, and logits."""
    generator = np.random.default_rng(3)
    constants = {
        "shift": np.array([-100.3, -90.7, 3.1], np.float32).reshape(3, 1, 1), "w1": eighths(generator, (4, 3, 3, 3)),
        "b1": np.array([0.3, -7.7, 1000.1, 0.0], np.float32), "low": np.float32(256.3) * np.ones(()),
        "high": np.float32(4001.3) * np.ones(()), "gain": np.float32(0.7) * np.ones((1, 4, 1, 1)),
        "scale": np.asarray(np.float32(3001.7 / 127)), "zero": np.zeros((), np.int8),
        "head.pool_w": np.repeat(np.eye(2), 8, 0) / 8, "head.pool_h": np.repeat(np.eye(2), 8, 1) / 8,
        "w2": eighths(generator, (3, 4, 1, 1)),
    }  # fmt: skip
    constants = {name: np.asarray(c, np.int8 if c.dtype == np.int8 else np.float32) for name, c in constants.items()}
    nodes = [
        *start(),
        helper.make_node("Add", ["x", "shift"], ["shifted"]),
        helper.make_node("Conv", ["shifted", "w1", "b1"], ["conv1"], pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["conv1", "low", "high"], ["clipped"]),
        helper.make_node("Mul", ["clipped", "gain"], ["scaled"]),
        helper.make_node("QuantizeLinear", ["scaled", "scale", "zero"], ["scaled_q"]),
        helper.make_node("DequantizeLinear", ["scaled_q", "scale", "zero"], ["scaled_dq"]),
        helper.make_node("Add", ["clipped", "scaled_dq"], ["joined"]),
        helper.make_node("MatMul", ["joined", "head.pool_w"], ["wide"]),
        helper.make_node("MatMul", ["head.pool_h", "wide"], ["cells"]),
        helper.make_node("Conv", ["cells", "w2"], ["logits"]),
    ]
    return model_of(nodes, constants), constants


def emulated(image: np.ndarray, c: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same in numpy: sums in float64, every stored value in float16, the averages in full.

    Values are 256 or more behind the Clip, so that float32 averages of them are exact too.
    """
    k = {name: half(np.float64(value)) for name, value in c.items()}
    pixels = half(image.transpose(0, 3, 1, 2).astype(np.float64))
    shifted = half(pixels + k["shift"])
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(shifted, [(0, 0)] * 2 + [(1, 1)] * 2), (3, 3), (2, 3))
    conv1 = half(np.einsum("nchwij,ocij->nohw", windows, k["w1"]) + k["b1"].reshape(-1, 1, 1))
    clipped = np.clip(conv1, k["low"], k["high"])
    scaled = half(clipped * k["gain"])
    quotient = (scaled.astype(np.float32) / np.float32(k["scale"])).astype(np.float64)
    restored = half(np.clip(np.rint(quotient), -128, 127) * k["scale"])
    joined = half(clipped + restored)
    cells = joined.reshape(len(image), 4, 2, 8, 2, 8).mean((3, 5))
    logits = half(np.einsum("nchw,oc->nohw", half(cells), k["w2"][:, :, 0, 0]))
    return {"shifted": shifted, "conv1": conv1, "scaled": scaled, "joined": joined, "cells": cells, "logits": logits}


def test_every_value_equals_numpy_bit_by_bit() -> None:
    model, constants = small_network()
    image = np.random.default_rng(4).integers(0, 256, (3, 16, 16, 3), np.uint8)
    expected = emulated(image, constants)
    got = dict(zip(expected, run(simulated(fp16_from_fp32(model)), image, *expected), strict=True))
    exact = dict(zip(expected, run(model, image, *expected), strict=True))
    for name, values in expected.items():
        assert got[name].dtype == np.float32
        np.testing.assert_array_equal(got[name].astype(np.float64), values, err_msg=name)
        assert (got[name] != exact[name]).any(), f"{name} needs no rounding: the comparison says nothing"
    assert (half(expected["cells"]) != expected["cells"]).any(), "averages keep what float16 would lose"
    # A plain run, with nothing watched in between, leaves the optimiser more to join.
    np.testing.assert_array_equal(run(simulated(fp16_from_fp32(model)), image, "logits")[0], expected["logits"])


def gain_of(gain: float, then: float) -> onnx.ModelProto:
    """logits = every eighth pixel * gain * then."""
    nodes = [
        *start(), helper.make_node("Mul", ["x", "gain"], ["large"]),
        helper.make_node("Mul", ["large", "then"], ["small"]),
        helper.make_node("Conv", ["small", "w"], ["logits"], strides=[8, 8], group=3),
    ]  # fmt: skip
    return model_of(nodes, {"gain": np.float32(gain) * np.ones(1, np.float32), "w": np.ones((3, 1, 1, 1), np.float32),
                            "then": np.float32(then) * np.ones(1, np.float32)})  # fmt: skip


@pytest.mark.parametrize(
    ("pixel", "gain", "stored"),
    [
        (250, 512, np.inf), (250, -512, -np.inf), (234, 280, np.inf), (251, 261, FP16_LARGEST), (1, 65504, 65504),
        (3, 683, 2048), (3, 2.0**-24, 3 * 2.0**-24), (1, 1.5 * 2.0**-24, 2.0**-23),
    ],
)  # fmt: skip
def test_a_graph_that_must_overflow_is_seen_to_overflow(pixel: int, gain: float, stored: float) -> None:
    """128,000 passes through the typed file itself in ONNX Runtime; rounding, subnormals and infinity are float16's."""
    typed = fp16_from_fp32(gain_of(gain, 0.5))
    image = np.full((1, 16, 16, 3), pixel, np.uint8)
    large, logits = run(simulated(typed), image, "large", "logits")
    assert large.flat[0] == stored == np.float16(np.float16(gain) * np.float32(pixel))
    assert logits.flat[0] == np.float16(stored * 0.5)
    if np.isinf(stored):
        assert np.isfinite(session_from_model(typed).run(None, {"image": image})[0]).all(), "no simulation is needed?"


def test_largest_magnitudes_are_those_of_every_tensor_over_all_images(small_onnx: Path) -> None:
    model, spec = read_model(small_onnx), read_spec(small_onnx)
    images = np.random.default_rng(5).integers(0, 256, (3, *spec.input_size, 3), np.uint8)
    found = largest_magnitudes(model, images)
    outputs = [name for node in model.graph.node for name in node.output]
    constants = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    assert list(found) == [*(t.name for t in constants), *outputs]
    for tensor in constants:
        assert found[tensor.name] == np.abs(numpy_helper.to_array(tensor)).max()
    for name, values in zip(outputs, run(model, images, *outputs), strict=True):
        assert found[name] == pytest.approx(np.abs(values).max(), rel=MAGNITUDE_TOLERANCE), name


def test_largest_magnitudes_report_infinity_and_nan() -> None:
    model = gain_of(1e38, 0.0)
    images = np.zeros((2, 16, 16, 3), np.uint8)
    images[1, 5, 7, 1] = 9  # 9e38 is beyond float32, and infinity times 0 is NaN
    found = largest_magnitudes(model, images)
    assert found["gain"] == np.float32(1e38) and found["x"] == 9 and np.isinf(found["large"])
    assert np.isnan(found["small"]) and largest_magnitudes(model, images[:1])["small"] == 0


@pytest.fixture(scope="module")
def fp16(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fp16") / "small.fp16.onnx"
    onnx.save(fp16_from_fp32(read_model(small_onnx)), path)
    return path


def scores_of(path: Path, folder: Path, *arguments: str) -> dict:
    figures = folder / "scores.json"
    command = ["evaluate", str(path), "--data", str(CAMVID), "--split", "test", "--json", str(figures), *arguments]
    assert main(command) == 0
    return json.loads(figures.read_text())


def test_evaluate_says_that_it_simulates_and_scores_as_float32_does(
    fp16: Path, small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    scores = scores_of(fp16, tmp_path)
    assert "(ort, fp16 (simulated); " in capsys.readouterr().out
    assert (scores["protocol"]["engine"], scores["protocol"]["precision"]) == ("ort", "fp16 (simulated)")
    reference = scores_of(small_onnx, tmp_path, "--engine", "ort")
    assert abs(scores["miou"] - reference["miou"]) <= MIOU_TOLERANCE


def test_the_runner_rounds_and_stays_close(fp16: Path, small_onnx: Path) -> None:
    spec = read_spec(fp16)
    image = np.random.default_rng(6).integers(0, 256, (2, *spec.input_size, 3), np.uint8)
    with open_runner(fp16, threads=2) as typed, OrtRunner(small_onnx, 2) as plain:
        assert isinstance(typed, OrtRunner)
        got, exact = typed.infer(image), plain.infer(image)
    np.testing.assert_array_equal(got, got.astype(np.float16).astype(np.float32))
    assert 0 < np.abs(got - exact).max() <= DIFFERENCE_LIMIT * np.abs(exact).max()


def test_an_int8_file_names_both_types(small_onnx: Path, tmp_path: Path) -> None:
    from calibration.calibrate import calibrate

    int8, path = tmp_path / "small.int8.onnx", tmp_path / "small.int8.fp16.onnx"
    calibrate(small_onnx, int8, CAMVID, count=4, method="minmax")
    onnx.save(fp16_from_fp32(read_model(int8)), path)
    image = np.random.default_rng(7).integers(0, 256, (1, *read_spec(path).input_size, 3), np.uint8)
    with OrtRunner(path, 2) as typed, OrtRunner(int8, 2) as plain, OrtRunner(small_onnx, 2) as real:
        assert typed.precision == "int8+fp16 (simulated)" and plain.precision == "int8"
        got, quantised, exact = typed.infer(image), plain.infer(image), real.infer(image)
    assert np.abs(got - quantised).max() < np.abs(exact - quantised).max(), "float16 adds less than INT8 does"


def test_openvino_refuses_a_half_file(fp16: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(PspnetError, match="--engine ort simulates it"):
        OpenVinoRunner(fp16, 2)
    assert main(["evaluate", str(fp16), "--data", str(CAMVID), "--engine", "openvino"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_evaluate_refuses_labels_from_an_overflow(
    small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Each weight fits float16, the values that they make do not; float32 runs the same weights without a word."""
    model = read_model(small_onnx)
    weight = next(
        t for t in model.graph.initializer if t.name == "head.bottleneck.weight" or ".bottleneck.0.w" in t.name
    )
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(values * np.float32(6e4 / np.abs(values).max()), weight.name))
    plain, path = tmp_path / "large.onnx", tmp_path / "large.fp16.onnx"
    onnx.save(model, plain)
    onnx.save(fp16_from_fp32(model), path)
    scores_of(plain, tmp_path, "--engine", "ort")
    capsys.readouterr()
    assert main(["evaluate", str(path), "--data", str(CAMVID), "--split", "test"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "large.fp16.onnx overflows: head.bottleneck reaches" in message and "float16 ends at 65504" in message
