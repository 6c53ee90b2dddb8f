"""The cost of graphs against sums written out, and multiply-adds against those that PyTorch's modules have."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.cost import LayerCost, layer_costs, multiply_adds, rates_of, total_ms
from calibration.placement import place
from calibration.quantize import quantized
from calibration.rates import RATES, Rates, rates_of_cpu
from calibration.sensitivity import mixed
from calibration.table import CalibrationTable
from export.exporter import onnx_from_model
from pspnet.errors import PspnetError
from pspnet.prune import layer_costs as pytorch_costs
from pspnet.spec import ModelSpec
from tests import outlier_net
from tests.nets import random_model

RATIONAL = 1e-12  # the same few products and sums in float64
SLOW_MEMORY = Rates(1e12, 1e12, 4, 1e6, "memory alone counts")
SLOW_ARITHMETIC = Rates(4e6, 1e6, 4, 1e12, "arithmetic alone counts")

# Of tests/outlier_net.py at 96x96: pixels of each convolution's input and output, input channels.
LAYERS = {"first": (96 * 96, 48 * 48, 3), "second": (48 * 48, 24 * 24, 16), "third": (24 * 24, 12 * 12, 16),
          "fourth": (12 * 12, 12 * 12, 16)}  # fmt: skip
CELLS, CLASSES, WIDTH = 12 * 12, 11, 16


def macs(name: str) -> int:
    return LAYERS[name][1] * WIDTH * LAYERS[name][2] * 9


def float_bytes(name: str) -> int:
    before, after, channels = LAYERS[name]
    return 4 * (before * channels + WIDTH * channels * 9 + after * WIDTH)


def test_a_float_layer_reads_and_writes_four_bytes_a_value() -> None:
    costs = layer_costs(outlier_net.network(None), SLOW_MEMORY)
    for name in LAYERS:
        seconds = pytest.approx(float_bytes(name) / 1e6, rel=RATIONAL)
        assert costs[name] == LayerCost(macs(name), float_bytes(name), False, seconds)
    classifier = 4 * (CELLS * WIDTH + CLASSES * WIDTH + CELLS * CLASSES)
    assert costs["classifier"].traffic_bytes == classifier
    total = classifier + sum(map(float_bytes, LAYERS))
    assert total_ms(outlier_net.network(None), SLOW_MEMORY) == pytest.approx(total / 1e3, rel=RATIONAL)


def test_int8_layers_move_one_byte_and_a_quantiser_behind_float_is_a_pass_of_its_own() -> None:
    model = outlier_net.network(None)
    costs = layer_costs(mixed(model, outlier_net.ranges(model), ["third"]), SLOW_MEMORY)
    (before, after, channels), last = LAYERS["second"], LAYERS["fourth"]
    weights = WIDTH * channels * 9
    assert costs["first"].traffic_bytes == 96 * 96 * 3 + 3 * WIDTH * 9 + 48 * 48 * WIDTH, "its reader takes INT8"
    assert costs["second"].traffic_bytes == before * channels + weights + 4 * after * WIDTH, "its reader takes float"
    assert costs["third"].traffic_bytes == float_bytes("third") and not costs["third"].int8
    assert costs["fourth"].traffic_bytes == last[0] * WIDTH + weights + 4 * last[1] * WIDTH
    passes = {name: cost.traffic_bytes for name, cost in costs.items() if not cost.multiply_adds}
    assert sorted(passes.values()) == sorted([96 * 96 * 3 * 5, 12 * 12 * WIDTH * 5]), "the picture, behind third"
    assert [name for name, cost in costs.items() if cost.int8] == ["first", "second", "fourth"]


def test_arithmetic_counts_where_it_takes_longer() -> None:
    model = outlier_net.network(None)
    plain, int8 = (
        layer_costs(model, SLOW_ARITHMETIC),
        layer_costs(quantized(model, outlier_net.ranges(model)), SLOW_ARITHMETIC),
    )
    for name in LAYERS:
        assert plain[name].seconds == pytest.approx(macs(name) / 1e6, rel=RATIONAL)
        assert int8[name].seconds == pytest.approx(macs(name) / 4e6, rel=RATIONAL)


def test_a_residual_sum_is_part_of_the_layer_and_reads_the_shortcut() -> None:
    """ "b" adds the quantised input of "a" to its output; the sum is quantised for "c"."""
    weight = numpy_helper.from_array(np.ones((16, 16, 1, 1), np.float32), "w")
    nodes = [helper.make_node("Cast", ["image"], ["x"], "cast", to=TensorProto.FLOAT)]
    for name, source in (("a", "x"), ("b", "a.relu"), ("c", "sum")):
        nodes.append(helper.make_node("Conv", [source, "w"], [name], name))
        nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"], f"{name}.relu"))
    nodes[4] = helper.make_node("Add", ["b", "x"], ["sum"], "b.add")
    graph = helper.make_graph(
        nodes, "residual",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 16, 8, 8])],
        [helper.make_tensor_value_info("c.relu", TensorProto.FLOAT, [1, 16, 8, 8])], [weight],
    )  # fmt: skip
    costs = layer_costs(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), SLOW_MEMORY)
    size, filters = 16 * 8 * 8, 16 * 16
    assert costs["a"].traffic_bytes == costs["c"].traffic_bytes == 4 * (2 * size + filters)
    assert costs["b"].traffic_bytes == 4 * (3 * size + filters)


@pytest.fixture(scope="module")
def residual() -> tuple[ModelSpec, onnx.ModelProto]:
    spec, network = random_model("resnet18", 32, (193, 193))
    return spec, onnx_from_model(network, spec)


def test_multiply_adds_are_those_of_the_modules(residual: tuple[ModelSpec, onnx.ModelProto]) -> None:
    counted = multiply_adds(residual[1])
    reference = {name: cost for name, (cost, *_) in pytorch_costs(residual[0]).items() if name.startswith("backbone.")}
    assert len(reference) >= 20 and {name: counted[name] for name in reference} == reference


def test_a_depthwise_filter_counts_its_own_channel() -> None:
    weight = numpy_helper.from_array(np.ones((16, 1, 3, 3), np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], "depthwise", group=16, pads=[1] * 4)
    shape = [1, 16, 8, 8]
    graph = helper.make_graph(
        [node], "depthwise", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)], [weight],
    )  # fmt: skip
    assert multiply_adds(helper.make_model(graph)) == {"depthwise": 16 * 64 * 9}


def test_int8_is_estimated_faster(residual: tuple[ModelSpec, onnx.ModelProto]) -> None:
    model = residual[1]
    int8 = quantized(model, CalibrationTable("", "", "", {}, dict.fromkeys(place(model).activations, 1.0)))
    for device in ("jetson-orin-nano", "cpu"):
        assert total_ms(int8, rates_of(device)) < total_ms(model, rates_of(device)), device
    costs = layer_costs(int8, rates_of("jetson-orin-nano"))
    assert costs["backbone.early.4.0.conv1"].int8, "a convolution behind the stem's pooling"


def test_orin_rates_are_the_data_sheets() -> None:
    """NVIDIA states sparse INT8 operations: two per multiply-add, and twice as many as dense ones."""
    assert RATES["jetson-orin-nano"].int8_per_s * 4 / 1e12 == pytest.approx(40, rel=0.05)
    assert RATES["jetson-agx-orin"].int8_per_s * 4 / 1e12 == pytest.approx(170, rel=0.02)
    assert all(rates.int8_per_s > rates.float_per_s for rates in RATES.values())


def test_devices_by_name_and_by_flags() -> None:
    assert rates_of_cpu(["avx2", "avx512_vnni", "amx_int8"]) == "cpu-amx"
    assert rates_of_cpu(["avx512_vnni"]) == "cpu-vnni" and rates_of_cpu(["avx2"]) == "cpu"
    with pytest.raises(PspnetError, match="jetson-orin-nano"):
        rates_of("toaster")
