"""Histograms of activations: exact counts, exact sums of parts, and a refusal that names layer and picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from calibration.collect import measured, total
from calibration.histogram import BINS, Histogram, added, histogram_of
from calibration.placement import place
from calibration.ranges import METHODS, amax_from_histogram
from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from pspnet.geometry import Geometry, network_input
from pspnet.metadata import read_model, spec_from_model
from tests.nets import CAMVID

BATCH_RTOL = 1e-6  # an engine may add in another order for another batch


def relu_graph() -> onnx.ModelProto:
    """image (N, 4, 4, 3) uint8 -> float -> subtract 100 -> "shifted" -> ReLU -> "logits"."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels", "hundred"], ["shifted"], "shift"),
        helper.make_node("Relu", ["shifted"], ["logits"], "relu"),
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


def names(inputs: list[np.ndarray]) -> list[str]:
    return [f"{index}.png" for index in range(len(inputs))]


def all_of(model: onnx.ModelProto, tensors: list[str], inputs: list[np.ndarray]) -> dict[str, Histogram]:
    return total(measured(model, tensors, inputs, names(inputs), quiet=True), [[1] * len(inputs)])[0]


def same(a: Histogram, b: Histogram) -> bool:
    return (a.largest, a.exponent) == (b.largest, b.exponent) and np.array_equal(a.counts, b.counts)


def test_histograms_count_every_magnitude() -> None:
    images = pictures(9)
    found = all_of(relu_graph(), ["shifted", "logits"], images)
    raw = np.abs(np.concatenate(images).astype(np.float64) - 100)
    shifted = found["shifted"]
    assert shifted.largest == raw.max() and set(found) == {"shifted", "logits"}
    edges = shifted.width * np.arange(len(shifted.counts) + 1)
    assert np.array_equal(shifted.counts, np.histogram(raw, bins=edges)[0]) and shifted.counts.sum() == raw.size


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1.0, 6.0, 4097.0, 1e30])
def test_bins_are_a_power_of_two_and_at_least_half_are_used(scale: float) -> None:
    values = np.float32(scale) * np.random.default_rng(1).random(1000, np.float32)
    histogram = histogram_of(-values)
    assert BINS / 2 <= len(histogram.counts) <= BINS and np.log2(histogram.width) == histogram.exponent
    assert len(histogram.counts) == int(histogram.largest / histogram.width) + 1
    assert histogram.counts.sum() == 1000 and histogram.largest == values.max()


def test_sums_of_parts_are_the_histogram_of_all_values() -> None:
    random = np.random.default_rng(2)
    parts = [np.float32(10.0**power) * random.normal(size=500).astype(np.float32) for power in (-3, 2, 0, -40, 1)]
    whole = histogram_of(np.concatenate(parts))
    for order in (parts, parts[::-1], [*parts[2:], *parts[:2]]):
        assert same(added((1, histogram_of(part)) for part in order), whole)
    assert same(added([(2, histogram_of(parts[0])), (0, histogram_of(parts[1]))]), histogram_of(np.tile(parts[0], 2)))
    assert same(added([]), Histogram())


@pytest.fixture(scope="module")
def network(small_onnx: Path) -> tuple[onnx.ModelProto, list[str], list[np.ndarray]]:
    """The small network, the tensors that it quantises, and the repository's eight training pictures as inputs."""
    model, data = read_model(small_onnx), open_dataset("camvid11", CAMVID, "train")
    spec = spec_from_model(model)
    read = (data.read(index)[0] for index in range(len(data)))
    inputs = [network_input(picture, Geometry(picture.shape[:2], spec.input_size), spec)[None] for picture in read]
    return model, list(place(model).activations), inputs


def ranges(histograms: dict[str, Histogram]) -> dict[tuple[str, str], float]:
    return {(name, m): amax_from_histogram(h, m, 99.9) for name, h in histograms.items() for m in METHODS}


def test_ranges_are_bit_identical_for_any_number_of_shards_and_any_order(network: tuple) -> None:
    model, tensors, inputs = network
    inputs = inputs[:5]
    whole = ranges(all_of(model, tensors, inputs))
    assert len(whole) > 100 and all(value > 0 for value in whole.values())
    for shards in (1, 2, 5):
        parts = [all_of(model, tensors, inputs[first::shards]) for first in range(shards)]
        assert ranges(total(parts, [[1] * shards])[0]) == whole
    assert ranges(all_of(model, tensors, inputs[::-1])) == whole
    assert ranges(all_of(model, tensors, inputs[:3])) != whole


def test_ranges_do_not_depend_on_the_batch(network: tuple) -> None:
    model, tensors, inputs = network
    single = ranges(all_of(model, tensors, inputs))
    batched = ranges(all_of(model, tensors, [np.concatenate(inputs[:4]), np.concatenate(inputs[4:])]))
    for key, amax in single.items():
        assert batched[key] == pytest.approx(amax, rel=BATCH_RTOL), key


def test_resamples_weigh_pictures(network: tuple) -> None:
    model, tensors, inputs = network
    parts = list(measured(model, tensors[:2], inputs[:3], names(inputs[:3]), quiet=True))
    once, twice = total(parts, [[1, 1, 1], [0, 2, 1]])
    repeated = all_of(model, tensors[:2], [inputs[1], inputs[1], inputs[2]])
    for name in tensors[:2]:
        assert same(twice[name], repeated[name]) and not same(once[name], twice[name])


@pytest.mark.parametrize(("constant", "word"), [(float("inf"), "infinity"), (float("nan"), "NaN")])
def test_a_broken_activation_names_layer_tensor_and_picture(constant: float, word: str) -> None:
    model = relu_graph()
    model.graph.initializer[0].CopyFrom(helper.make_tensor("hundred", TensorProto.FLOAT, [], [constant]))
    with pytest.raises(PspnetError, match=rf"layer shift gives {word} \(tensor shifted\) on calibration picture 0.png"):
        all_of(model, ["logits"], pictures(2))


def test_the_picture_that_breaks_is_found_among_sound_ones() -> None:
    """log(250 - pixel) is NaN where a pixel is above 250, and no other picture has one."""
    model = relu_graph()
    model.graph.initializer[0].CopyFrom(helper.make_tensor("hundred", TensorProto.FLOAT, [], [250.0]))
    nodes = [helper.make_node("Neg", ["shifted"], ["free"], "free"), helper.make_node("Log", ["free"], ["logs"], "log")]
    model.graph.node[2].input[0] = "logs"
    relu = model.graph.node.pop()
    model.graph.node.extend([*nodes, relu])
    images = [np.minimum(image, 200) for image in pictures(3)]
    all_of(model, ["logs"], images)
    images[1][0, 2, 2, 0] = 255
    with pytest.raises(PspnetError, match=r"layer log gives NaN \(tensor logs\) on calibration picture 1.png"):
        all_of(model, ["logs"], images)
