"""Equalisation: the same function, even channels, and what it must leave alone."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.equalise import LARGEST_FACTOR, MARGIN, divisors, equalised, pairs_of
from calibration.weights import ConvolutionWeights
from pspnet.errors import PspnetError
from runtime.ort import session_from_model

SAME = 1e-5  # of the largest logit: float32 sums of rescaled terms
EVEN = 1e-4  # of a range: float32 division and multiplication by the same factor
CHANNELS = 16


def three_layers(activation: str, bound: float = 6.0, spread: float = 0.0) -> onnx.ModelProto:
    """image (N, 16, 16, 3) -> 1x1 "a" -> activation -> depthwise 3x3 "b" -> activation -> 1x1 "c" -> 3x3 "logits".

    spread: octaves between the largest and the smallest channel of the maps behind "a" and "b".
    """
    random = np.random.default_rng(3)
    scale = np.exp2(-np.linspace(0, spread, CHANNELS)).reshape(-1, 1, 1, 1)
    weights = {
        "a": random.normal(size=(CHANNELS, 3, 1, 1)) / 64 * scale,
        "b": random.normal(size=(CHANNELS, 1, 3, 3)) / 2,
        "c": random.normal(size=(CHANNELS, CHANNELS, 1, 1)) / 4,
        "d": random.normal(size=(4, CHANNELS, 3, 3)) / 12,
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["map"], "transpose", perm=[0, 3, 1, 2]),
    ]
    tensor = "map"
    for name, weight in weights.items():
        group, pad = (CHANNELS if name == "b" else 1), weight.shape[2] // 2
        output = "logits" if name == "d" else name
        inputs = [tensor, f"{name}.weight", *([f"{name}.bias"] if name != "c" else [])]
        nodes.append(helper.make_node("Conv", inputs, [output], name, group=group, pads=[pad] * 4))
        tensor = output
        if name in "ab" and activation:
            extra = ["low", "high"] if activation == "Clip" else []
            nodes.append(helper.make_node(activation, [name, *extra], [f"{name}.act"], f"{name}.act"))
            tensor = f"{name}.act"
    constants = [numpy_helper.from_array(w.astype(np.float32), f"{name}.weight") for name, w in weights.items()]
    constants += [
        numpy_helper.from_array(random.normal(size=len(weights[name])).astype(np.float32) / 4, f"{name}.bias")
        for name in "abd"
    ]
    constants += [numpy_helper.from_array(np.float32(value), name) for name, value in (("low", 0), ("high", bound))]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 16, 16, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, 16, 16])
    graph = helper.make_graph(nodes, "three", [image], [logits], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def pictures(count: int = 4) -> list[np.ndarray]:
    return list(np.random.default_rng(5).integers(0, 256, (count, 1, 16, 16, 3), np.uint8))


def values(model: onnx.ModelProto, tensor: str, images: list[np.ndarray]) -> np.ndarray:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.ClearField("output")
    watched.graph.output.append(onnx.ValueInfoProto(name=tensor))
    session = session_from_model(watched)
    return np.concatenate([session.run([tensor], {"image": image})[0] for image in images])


def ranges(model: onnx.ModelProto, tensor: str, images: list[np.ndarray]) -> np.ndarray:
    return np.abs(values(model, tensor, images)).max((0, 2, 3))


@pytest.mark.parametrize(("activation", "bound"), [("Relu", 0), ("Clip", 1e4), ("Clip", 3.0), ("", 0)])
@pytest.mark.parametrize("spread", [0.0, 6.0])
def test_the_float_network_stays_the_same_function(activation: str, bound: float, spread: float) -> None:
    model, images = three_layers(activation, bound, spread), pictures()
    result, pairs = equalised(model, images)
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("b", "c")]
    before, after = (values(each, "logits", images) for each in (model, result))
    assert np.abs(before - after).max() <= SAME * np.abs(before).max()
    assert not np.array_equal(ConvolutionWeights(model).weight("a"), ConvolutionWeights(result).weight("a"))


def test_channels_that_a_depthwise_convolution_reads_get_one_range() -> None:
    model, images = three_layers("Relu", spread=4.0), pictures()
    before = ranges(model, "a.act", images)
    after = ranges(equalised(model, images)[0], "a.act", images)
    alive = before * 32 > before.max()  # further down the limits on a factor hold
    assert alive.sum() >= CHANNELS / 2 and before[alive].min() * 8 < before.max(), "too even to show anything"
    assert after[alive] == pytest.approx(np.full(alive.sum(), before.max()), rel=EVEN)


def test_a_channel_near_the_clip_stays_and_others_keep_the_margin() -> None:
    bound = 3.0
    model, images = three_layers("Clip", bound, spread=6.0), pictures()
    before = ranges(model, "a.act", images)
    near = before * MARGIN >= bound
    assert near.any() and not near.all()
    result = equalised(model, images)[0]
    after = ranges(result, "a.act", images)
    assert after[near] == pytest.approx(before[near], rel=EVEN)
    assert after[~near].max() <= bound / MARGIN * (1 + EVEN) and (after[~near] > before[~near]).any()
    old, new = (ConvolutionWeights(each).weight("a") for each in (model, result))
    assert np.array_equal(old[near], new[near])


def test_divisors_follow_the_formula() -> None:
    random = np.random.default_rng(8)
    x, first, second = random.uniform(1, 9, 6), random.uniform(1, 2, (6, 4, 1, 1)), random.normal(size=(5, 6, 3, 3))
    magnitude = np.abs(second).max((2, 3))
    reach = (magnitude / magnitude.max(1)[:, None]).max(0)
    plain = np.sqrt(x) / np.sqrt(reach)  # alpha = 1/2
    expected = plain * (x / plain).max() / x.max()
    assert divisors(x, first, second, 1, math.inf) == pytest.approx(expected, rel=1e-12)
    assert divisors(x, first, second[:, :1].repeat(6, 0)[:6], 6, math.inf) == pytest.approx(x / x.max(), rel=1e-12)


def test_dead_unread_and_tiny_channels_are_left_finite() -> None:
    x = np.array([0.0, 1.0, 1e-9, 2.0])
    second = np.ones((3, 4, 1, 1))
    second[:, 1] = 0
    found = divisors(x, np.ones((4, 1, 1, 1)), second, 1, math.inf)
    assert found[0] == found[1] == 1 and found[2] >= 1 / LARGEST_FACTOR and np.isfinite(found).all()


def test_no_weight_falls_below_what_a_step_can_follow() -> None:
    x, second = np.array([1e-3, 4.0]), np.full((2, 1, 3, 3), 0.02)
    found = divisors(x, np.ones((2, 3, 1, 1)), second, 2, math.inf)
    assert found[0] * 0.02 >= 127 * 2.0**-14 * (1 - 1e-9) and found[1] == 1


@pytest.mark.parametrize("change", ["second reader", "output", "not from 0", "another activation"])
def test_maps_that_cannot_be_rescaled_are_no_pair(change: str) -> None:
    model = three_layers("Clip")
    assert [pair.first for pair in pairs_of(model)] == ["a", "b", "c"]
    if change == "second reader":
        model.graph.node.append(helper.make_node("Neg", ["a.act"], ["elsewhere"], "neg"))
    elif change == "output":
        model.graph.output.append(helper.make_empty_tensor_value_info("a.act"))
    elif change == "not from 0":
        low = next(tensor for tensor in model.graph.initializer if tensor.name == "low")
        low.CopyFrom(numpy_helper.from_array(np.float32(-1), "low"))
    else:
        node = next(node for node in model.graph.node if node.name == "a.act")
        node.op_type = "HardSwish"
        del node.input[1:]
    assert "a" not in [pair.first for pair in pairs_of(model)]


def test_a_changed_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calibration.equalise.divisors", lambda ranges, *_: np.full(len(ranges), -1.0))
    with pytest.raises(PspnetError, match="leave out --equalise"):
        equalised(three_layers("Relu"), pictures())


def test_a_constant_that_two_convolutions_share_changes_for_one_alone() -> None:
    model = three_layers("Relu")
    next(node for node in model.graph.node if node.name == "b").input[2] = "a.bias"
    weights = ConvolutionWeights(model)
    old = weights.bias("b").copy()
    weights.set_bias("a", old + 1)
    weights.set_bias("c", np.full(CHANNELS, 2.0))
    assert np.array_equal(weights.bias("b"), old) and np.array_equal(weights.bias("a"), old + 1)
    assert (weights.bias("c") == 2).all() and not (ConvolutionWeights(model).bias("c")).any()
    onnx.checker.check_model(weights.model)


def test_a_dead_channel_does_not_set_the_steps_of_others() -> None:
    x, second = np.array([4.0, 4.0, 0.0]), np.array([[1.0, 0.5, 40.0], [0.5, 1.0, 10.0]])
    found = divisors(x, np.ones((3, 2, 1, 1)), second[..., None, None], 1, math.inf)
    assert found[:2] == pytest.approx([1, 1]) and found[2] == pytest.approx(1 / 40)
    second[:, 2] /= 80
    assert divisors(x, np.ones((3, 2, 1, 1)), second[..., None, None], 1, math.inf)[2] == 1
