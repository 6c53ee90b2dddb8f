"""Bias correction against its definition: after it, every convolution has the float network's channel means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration.bias_correction import bias_corrected
from calibration.channels import channel_means, channel_ranges
from calibration.placement import place
from calibration.quantize import quantized
from calibration.table import CalibrationTable
from calibration.weights import ConvolutionWeights
from pspnet.metadata import read_model
from runtime.ort import session_from_model

MEAN_LIMIT = 1e-3  # of a tensor's largest magnitude: what float32 and flipped ties leave; without correction up to 0.1
MEAN_ATOL = 1e-5  # of the largest: float32 sums over the pixels of a map


@pytest.fixture(scope="module")
def model(small_onnx: Path) -> onnx.ModelProto:
    return read_model(small_onnx)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Six smooth pictures, so that maps have means away from 0."""
    random = np.random.default_rng(4)
    cells = random.integers(0, 256, (6, 1, 12, 16, 3), np.uint8)
    return [np.kron(image, np.ones((1, 8, 8, 1), np.uint8)) for image in cells]


@pytest.fixture(scope="module")
def table(model: onnx.ModelProto, images: list[np.ndarray]) -> CalibrationTable:
    """Ranges so narrow that many values saturate, which shifts means far."""
    largest = channel_ranges(model, list(place(model).activations), images)
    return CalibrationTable("", "", "", {}, {name: float(values.max()) / 2 for name, values in largest.items()})


def means(model: onnx.ModelProto, tensors: list[str], images: list[np.ndarray]) -> dict[str, np.ndarray]:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.ClearField("output")
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    session = session_from_model(watched)
    rows = [session.run(tensors, {"image": image}) for image in images]
    columns = zip(*rows, strict=True)
    return {n: np.concatenate(c).mean((0, 2, 3), dtype=np.float64) for n, c in zip(tensors, columns, strict=True)}


def test_every_corrected_convolution_has_the_float_means(
    model: onnx.ModelProto, table: CalibrationTable, images: list[np.ndarray]
) -> None:
    result, count = bias_corrected(model, table, images, quiet=True)
    placed = set(place(model).convolutions)
    nodes = [n for n in model.graph.node if n.op_type == "Conv" and (n.name in placed or "logits" in n.output)]
    outputs = [node.output[0] for node in nodes]
    assert count == len(outputs)
    exact = means(model, outputs, images)
    before = means(quantized(model, table), outputs, images)
    after = means(quantized(result, table), outputs, images)
    size = {name: np.abs(exact[name]).max() for name in outputs}
    error = {name: np.abs(after[name] - exact[name]).max() / size[name] for name in outputs}
    assert max(error.values()) < MEAN_LIMIT
    assert max(np.abs(before[name] - exact[name]).max() / size[name] for name in outputs) > 30 * MEAN_LIMIT


def test_only_biases_change_and_the_graph_stays(
    model: onnx.ModelProto, table: CalibrationTable, images: list[np.ndarray]
) -> None:
    before = model.SerializeToString()
    result, _ = bias_corrected(model, table, images[:2], quiet=True)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    old, new = ConvolutionWeights(model), ConvolutionWeights(result)
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert all(np.array_equal(old.weight(name), new.weight(name)) for name in names)
    changed = {name for name in names if not np.array_equal(old.bias(name), new.bias(name))}
    logits = next(node.name for node in model.graph.node if "logits" in node.output)
    assert changed == {*place(model).convolutions, logits}


def test_layers_left_in_float_keep_their_bias(
    model: onnx.ModelProto, table: CalibrationTable, images: list[np.ndarray]
) -> None:
    import dataclasses

    left = list(place(model).convolutions)[:3]
    partly = dataclasses.replace(table, float_layers=left)
    result, _ = bias_corrected(model, partly, images[:2], quiet=True)
    old, new = ConvolutionWeights(model), ConvolutionWeights(result)
    assert all(np.array_equal(old.bias(name), new.bias(name)) for name in left)


def test_channel_means_and_ranges_are_numpy_s(model: onnx.ModelProto, images: list[np.ndarray]) -> None:
    tensor = next(node.output[0] for node in model.graph.node if node.op_type == "Conv")
    exact = means(model, [tensor], images)[tensor]
    assert channel_means(model, [tensor], images)[tensor] == pytest.approx(exact, abs=MEAN_ATOL * np.abs(exact).max())
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.append(onnx.ValueInfoProto(name=tensor))
    session = session_from_model(watched)
    largest = np.max([np.abs(session.run([tensor], {"image": i})[0]).max((0, 2, 3)) for i in images], 0)
    assert np.array_equal(channel_ranges(model, [tensor], images)[tensor], largest)
