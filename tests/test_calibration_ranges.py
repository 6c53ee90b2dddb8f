"""Ranges and histograms against numpy on the raw values."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from calibration.collect import BINS, histograms
from calibration.ranges import amax_from_histogram
from pspnet.errors import PspnetError


def relu_graph() -> onnx.ModelProto:
    """image (N, 4, 4, 3) uint8 -> float -> subtract 100 -> "shifted" -> ReLU -> "logits"."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels", "hundred"], ["shifted"]),
        helper.make_node("Relu", ["shifted"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "relu",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4, 4, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, 4, 3])],
        [helper.make_tensor("hundred", TensorProto.FLOAT, [], [100.0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(5).integers(0, 256, (count, 1, 4, 4, 3), np.uint8))


def test_histograms_count_every_magnitude() -> None:
    images = pictures(9)
    found = histograms(relu_graph(), ["shifted", "logits"], images, quiet=True)
    raw = np.abs(np.concatenate(images).astype(np.float64) - 100)
    assert found["shifted"].largest == raw.max()
    assert (found["shifted"].counts == np.histogram(raw, bins=BINS, range=(0, raw.max()))[0]).all()
    assert found["logits"].counts.sum() == raw.size


def test_histograms_do_not_depend_on_the_order_of_images() -> None:
    images = pictures(6)
    forward = histograms(relu_graph(), ["shifted"], images, quiet=True)["shifted"]
    backward = histograms(relu_graph(), ["shifted"], images[::-1], quiet=True)["shifted"]
    assert forward.largest == backward.largest and (forward.counts == backward.counts).all()


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.99])
def test_percentile_is_that_of_the_values_within_one_bin(percentile: float) -> None:
    values = np.abs(np.random.default_rng(6).standard_t(3, 200_000))
    counts = np.histogram(values, bins=BINS, range=(0, values.max()))[0]
    amax = amax_from_histogram(counts, values.max(), "percentile", percentile)
    exact = np.percentile(values, percentile)
    assert exact <= amax <= exact + 2 * values.max() / BINS  # the edge above the value, at the histogram's resolution


def test_minmax_keeps_everything() -> None:
    assert amax_from_histogram(np.array([5, 0, 1]), 7.5, "minmax", 99.0) == 7.5


def test_dead_tensor_has_range_zero() -> None:
    assert amax_from_histogram(np.zeros(BINS, np.int64), 0.0, "percentile", 99.99) == 0.0


def test_unknown_method_is_named() -> None:
    with pytest.raises(PspnetError, match="minmax, percentile"):
        amax_from_histogram(np.array([1]), 1.0, "magic", 99.0)


def test_infinite_activation_names_the_tensor() -> None:
    model = relu_graph()
    model.graph.initializer[0].CopyFrom(helper.make_tensor("hundred", TensorProto.FLOAT, [], [float("inf")]))
    with pytest.raises(PspnetError, match="shifted"):
        histograms(model, ["shifted"], pictures(2), quiet=True)
