"""Where Q and DQ stand: every network of ours against the lint's rules, and layers left in float."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.nn.functional import max_pool2d

from calibration.placement import is_wide_enough, place
from calibration.quantize import quantized
from calibration.table import CalibrationTable
from export.exporter import onnx_from_model
from export.lint import lint
from pspnet.errors import PspnetError
from pspnet.metadata import attach_spec
from tests.nets import random_model

NETWORKS = [("mobilenet_v2", "folded"), ("resnet18", "fixed"), ("resnet50", "folded")]
TYPING = {"typing", "matmul-step"}
"""Notes on the whole file and on the pyramid's products, which Q/DQ does not change."""


@functools.cache
def exported(backbone: str, head: str) -> onnx.ModelProto:
    """A graph of the backbone's form; the resnets have a quarter of their channels, so that lints take no seconds."""
    channels = {}
    if backbone != "mobilenet_v2":
        layers = random_model(backbone, 16, (97, 129))[1].backbone.named_modules(prefix="backbone")
        channels = {name: layer.out_channels // 4 for name, layer in layers if isinstance(layer, torch.nn.Conv2d)}
    spec, network = random_model(backbone, 16, (97, 129), channels=channels)
    model = onnx_from_model(network, spec, head)
    attach_spec(model, spec, precision="fp32")
    return model


def int8_of(model: onnx.ModelProto, *float_layers: str) -> onnx.ModelProto:
    amax = dict.fromkeys(place(model, float_layers).activations, 6.0)
    return quantized(model, CalibrationTable("", "minmax", "", {}, amax, float_layers=list(float_layers)))


def producers_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


def int8_convolutions(model: onnx.ModelProto) -> set[str]:
    """Convolutions whose weights are dequantised."""
    made = {output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    return {node.name for node in model.graph.node if node.op_type == "Conv" and node.input[1] in made}


@pytest.mark.parametrize("target", ["tensorrt-10.3", "tensorrt-11"])
@pytest.mark.parametrize(("backbone", "head"), NETWORKS)
def test_no_rule_of_tensorrt_is_broken_by_ours(backbone: str, head: str, target: str) -> None:
    result = int8_of(exported(backbone, head))
    assert int8_convolutions(result)
    assert {finding.rule for finding in lint(result, target)} <= TYPING


@pytest.mark.parametrize(("backbone", "head"), NETWORKS)
def test_no_rule_is_broken_whatever_stays_in_float(backbone: str, head: str) -> None:
    model = exported(backbone, head)
    names, generator = place(model).convolutions, np.random.default_rng(0)
    for share in (0.05, 0.3, 0.7, 1.0):
        chosen = [name for name in names if generator.random() < share]
        result = int8_of(model, *chosen)
        assert int8_convolutions(result) == set(names) - set(chosen)
        assert {finding.rule for finding in lint(result, "tensorrt-10.3")} <= TYPING
    assert not [node for node in result.graph.node if node.op_type == "QuantizeLinear"]


@pytest.mark.parametrize(("backbone", "head"), NETWORKS)
def test_of_a_residual_add_the_shortcut_alone_is_quantised(backbone: str, head: str) -> None:
    model = exported(backbone, head)
    producers, placement = producers_of(model), place(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    sums = [n for n in model.graph.node if n.op_type == "Add" and not constants & set(n.input)]
    blocks = {"resnet18": 8, "resnet50": 16, "mobilenet_v2": 10}[backbone]
    pooled = {node.output[0] for node in model.graph.node if node.op_type == "MaxPool"}
    through = [
        [name for name in add.input if name in pooled or add.name in placement.activations.get(name, ())]
        for add in sums
    ]
    assert [len(shortcuts) for shortcuts in through] == [1] * blocks + [0] * (head == "folded")
    for add, (shortcut,) in zip(sums[:blocks], through, strict=False):  # a folded head's adds the context, in float
        main_branch = next(name for name in add.input if name != shortcut)
        # From the block's input the main branch passes two or three convolutions, the shortcut one or none.
        assert convolutions_to(producers, main_branch, shortcut) >= 2


def convolutions_to(producers: dict[str, onnx.NodeProto], tensor: str, shortcut: str) -> int:
    start = producers[shortcut].input[0] if producers[shortcut].op_type == "Conv" else shortcut
    count = 0
    while tensor not in (start, shortcut) and tensor in producers:
        count += producers[tensor].op_type == "Conv"
        tensor = producers[tensor].input[0]
    return count


@pytest.mark.parametrize(
    ("backbone", "head", "in_float"),
    [
        ("mobilenet_v2", "folded", {"head.classifier"}),
        ("resnet18", "fixed", {"head.classifier", "head.ppm.branches.0.0"}),  # the branch of one cell
    ],
)
def test_the_classifier_a_single_cell_and_products_stay_in_float(backbone: str, head: str, in_float: set[str]) -> None:
    model = exported(backbone, head)
    layers = {node.name for node in model.graph.node if node.op_type == "Conv"}
    assert layers - set(place(model).convolutions) == in_float
    result = int8_of(model)
    made = producers_of(result)
    inputs = [name for node in result.graph.node if node.op_type == "MatMul" for name in node.input]
    assert inputs and all(made[name].op_type != "DequantizeLinear" for name in inputs if name in made)


def test_the_fixed_head_has_one_scale_over_its_concat() -> None:
    result = int8_of(exported("resnet18", "fixed"))
    made = producers_of(result)
    concat = next(node for node in result.graph.node if node.op_type == "Concat")
    assert all(made[name].op_type != "DequantizeLinear" for name in concat.input)
    readers = [node.op_type for node in result.graph.node if concat.output[0] in node.input]
    assert readers == ["QuantizeLinear"]


def test_the_pool_of_the_stem_works_on_int8_values() -> None:
    result = int8_of(exported("resnet18", "fixed"))
    made = producers_of(result)
    pool = next(node for node in result.graph.node if node.op_type == "MaxPool")
    assert made[pool.input[0]].op_type == "DequantizeLinear"
    readers = {node.op_type for node in result.graph.node if pool.output[0] in node.input}
    assert readers == {"Conv", "Add"}, "the pooled values are the shortcut of the first block too"


def test_rounding_commutes_with_the_pool() -> None:
    values = torch.from_numpy(np.random.default_rng(1).normal(0, 3, (2, 4, 17, 17)).astype(np.float32))
    rounded = torch.fake_quantize_per_tensor_affine(values, 6 / 127, 0, -128, 127)
    before = max_pool2d(rounded, 3, 2, 1)
    after = torch.fake_quantize_per_tensor_affine(max_pool2d(values, 3, 2, 1), 6 / 127, 0, -128, 127)
    assert torch.equal(before, after) and not torch.equal(before, max_pool2d(values, 3, 2, 1))


def test_a_pool_with_a_float_reader_is_quantised_behind() -> None:
    model = exported("resnet18", "fixed")
    pool = next(node for node in model.graph.node if node.op_type == "MaxPool")
    first = next(node for node in model.graph.node if node.op_type == "Conv" and pool.output[0] in node.input)
    activations = place(model, [first.name]).activations
    assert pool.input[0] not in activations and first.name not in activations.get(pool.output[0], ())


def test_float_layers_of_another_network_are_refused() -> None:
    with pytest.raises(PspnetError, match=r"no\.such is no convolution of this network.*backbone"):
        place(exported("resnet18", "fixed"), ["no.such"])


@pytest.mark.parametrize(
    ("weight", "groups", "wide"),
    [
        ((32, 3, 3, 3), 1, True),  # the first convolution
        ((64, 3, 7, 7), 1, True),
        ((96, 1, 3, 3), 96, True),  # depthwise
        ((20, 1, 3, 3), 20, False),  # depthwise, no multiple of 8
        ((96, 1, 1, 1), 96, False),
        ((16, 16, 1, 1), 1, True),
        ((8, 8, 3, 3), 1, False),
        ((8, 48, 1, 1), 1, True),
        ((15, 33, 1, 1), 1, False),
    ],
)
def test_which_convolutions_are_wide_enough(weight: tuple[int, ...], groups: int, wide: bool) -> None:
    assert is_wide_enough(weight, groups) is wide


def test_narrow_convolutions_stay_in_float() -> None:
    shapes = {"a": (16, 3, 3, 3), "b": (4, 16, 1, 1), "c": (12, 4, 1, 1), "d": (4, 12, 1, 1)}
    chain = [("image", "a"), ("a", "b"), ("b", "c"), ("c", "logits")]
    nodes = [onnx.helper.make_node("Cast", ["image"], ["pixels"], to=1)]
    nodes += [onnx.helper.make_node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2])]
    for (source, target), weight in zip(chain, shapes, strict=True):
        inputs = ["x" if source == "image" else source, f"{weight}.weight"]
        nodes.append(onnx.helper.make_node("Conv", inputs, [target], weight, kernel_shape=shapes[weight][2:]))
    graph = onnx.helper.make_graph(
        nodes, "narrow",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, [1, 16, 16, 3])],
        [onnx.helper.make_tensor_value_info("logits", 1, [1, 4, 14, 14])],
        [numpy_helper.from_array(np.ones(shape, np.float32), f"{name}.weight") for name, shape in shapes.items()],
    )  # fmt: skip
    assert place(onnx.helper.make_model(graph)).convolutions == ("a", "b")
