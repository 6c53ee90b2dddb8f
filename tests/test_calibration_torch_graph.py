"""The interpreter against ONNX Runtime, rounding and its gradients against their formulas."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from calibration.channels import channel_ranges
from calibration.placement import place
from calibration.quantize import quantized, scale_from_amax
from calibration.table import CalibrationTable
from calibration.torch_graph import OPERATORS, TorchGraph, fake_quantised, stored_scale
from export.exporter import onnx_from_model
from pspnet.errors import PspnetError
from pspnet.metadata import read_model
from runtime.ort import session_from_model
from tests.nets import random_model

SAME = 1e-5  # of a tensor's largest magnitude: float32 sums in another order
GRADIENT = 1e-5  # relative: float32 sums of a few hundred terms against float64
SIZE = (81, 97)
NETWORKS = ["mobilenet_v2 folded", "mobilenet_v3_large folded", "resnet18 fixed", "resnet50 folded"]


@functools.cache
def exported(name: str) -> onnx.ModelProto:
    backbone, head = name.split()
    spec, network = random_model(backbone, 16, SIZE)
    return onnx_from_model(network, spec, head)


def pictures(model: onnx.ModelProto, count: int = 2) -> np.ndarray:
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim][1:]
    return np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)


def int8_of(model: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    largest = channel_ranges(model, list(place(model).activations), [image[None] for image in images])
    amax = {name: float(values.max()) for name, values in largest.items()}
    return quantized(model, CalibrationTable("", "", "", {}, amax))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_float_graph_is_that_of_onnx_runtime(name: str) -> None:
    model = exported(name)
    images = pictures(model)
    expected = session_from_model(model).run(["logits"], {"image": images})[0]
    with torch.inference_mode():
        got = TorchGraph(model)(torch.from_numpy(images)).numpy()
    assert np.abs(got - expected).max() <= SAME * np.abs(expected).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_node_of_the_int8_graph_computes_what_onnx_runtime_does(name: str) -> None:
    """Node by node on ONNX Runtime's own values: through a whole random network a tie that flips grows to anything."""
    model = exported(name)
    images = pictures(model)
    int8 = int8_of(model, images)
    graph, constants = TorchGraph(int8), {tensor.name for tensor in int8.graph.initializer}
    watched = onnx.ModelProto()
    watched.CopyFrom(int8)
    watched.graph.ClearField("output")
    names = [n.output[0] for n in int8.graph.node if n.op_type != "QuantizeLinear"]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    values: dict[str, Any] = dict(zip(names, session_from_model(watched).run(names, {"image": images}), strict=True))
    values["image"] = images
    rounded = 0
    for node in int8.graph.node:
        known = {n: torch.tensor(values[n]) for n in node.input if n in values and n not in constants}
        with torch.inference_mode():
            if node.op_type == "QuantizeLinear":
                inputs = [graph._value(n, known) for n in node.input]
                attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
                got = OPERATORS["QuantizeLinear"](inputs, attributes).numpy()
                assert np.array_equal(got, values[f"{node.input[0]}_dq"]), node.name
                rounded += 1
            elif node.op_type != "DequantizeLinear":
                inputs = [graph._value(n, known) for n in node.input]
                attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
                if node.op_type == "Conv" and node.input[1] not in constants:
                    inputs[1] = torch.tensor(values[node.input[1]])
                got, expected = OPERATORS[node.op_type](inputs, attributes).numpy(), values[node.output[0]]
                assert np.abs(got - expected).max() <= SAME * max(np.abs(expected).max(), 1e-6), node.name
    assert rounded > 20


def test_a_whole_int8_network_gives_onnx_runtimes_labels(small_onnx: Path) -> None:
    model = read_model(small_onnx)
    images = pictures(model)
    int8 = int8_of(model, images)
    expected = session_from_model(int8).run(["logits"], {"image": images})[0]
    with torch.inference_mode():
        got = TorchGraph(int8)(torch.from_numpy(images)).numpy()
    assert (got.argmax(1) == expected.argmax(1)).mean() >= 0.999
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()  # flipped ties; without rounding twice that


@pytest.mark.parametrize(("axis", "low"), [(None, -128), (0, -127)])
def test_rounding_and_its_gradients_follow_lsq(axis: int | None, low: int) -> None:
    random = np.random.default_rng(2)
    values = random.normal(size=(3, 5, 7, 2)).astype(np.float32)
    scale = np.array(0.011 if axis is None else [0.011, 0.02, 0.005], np.float32)
    upstream = random.normal(size=values.shape)
    x, s = (torch.tensor(array, requires_grad=True) for array in (values, scale))
    result = fake_quantised(x, s, axis, low)
    (result * torch.from_numpy(upstream.astype(np.float32))).sum().backward()
    wide = scale.astype(np.float64).reshape([-1, 1, 1, 1] if axis == 0 else [])
    steps = values / wide.astype(np.float32)
    expected = (np.clip(np.rint(steps), low, 127) * wide).astype(np.float32)
    assert np.array_equal(result.detach().numpy(), expected)
    inside = (steps > low) & (steps < 127)
    assert inside.any() and not inside.all()
    assert x.grad is not None and s.grad is not None
    assert np.allclose(x.grad.numpy(), upstream * inside, rtol=GRADIENT)
    slope = np.where(inside, np.rint(steps) - steps, np.clip(steps, low, 127)) * upstream
    total = slope.sum((1, 2, 3)) if axis == 0 else slope.sum()
    count = 5 * 7 * 2  # of one picture, or of one output channel
    assert s.grad.numpy() == pytest.approx(total / np.sqrt(count * 127), rel=GRADIENT * 100, abs=1e-6)


def test_a_scale_in_training_is_the_one_that_the_file_gets() -> None:
    scale = np.exp2(np.random.default_rng(3).uniform(-18, 4, 5000)).astype(np.float32)
    scale[:100] = scale[:100].astype(np.float16)
    leaf = torch.tensor(scale, requires_grad=True)
    stored = stored_scale(leaf)
    assert np.array_equal(stored.detach().numpy(), scale_from_amax(scale.astype(np.float64) * 127))
    stored.sum().backward()
    assert leaf.grad is not None and bool((leaf.grad == 1).all())


def test_values_of_parameters_are_those_of_the_file(small_onnx: Path) -> None:
    model = read_model(small_onnx)
    graph, arrays = TorchGraph(model), {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name in (*graph.weights.values(), *graph.biases.values()):
        assert np.array_equal(graph.value(name).detach().numpy(), arrays[name])
        graph.set_value(name, arrays[name] / 3)
        assert np.array_equal(graph.value(name).detach().numpy(), arrays[name] / np.float32(3))
    assert all(0.4 < p.abs().max() <= 1 or not p.any() for p in TorchGraph(model).relative)


@pytest.mark.parametrize("change", ["operator", "auto_pad", "pads", "dynamic weight", "zero point"])
def test_what_the_exporter_never_writes_is_refused(change: str, small_onnx: Path) -> None:
    model = read_model(small_onnx)
    if change == "zero point":
        model = int8_of(model, pictures(model, 1))
        node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
        zero = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[2])
        zero.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(zero) + np.int8(1), zero.name))
    else:
        node = next(node for node in model.graph.node if node.op_type == "Conv")
    if change == "operator":
        node.op_type = "ConvTranspose"
    elif change == "dynamic weight":
        node.input[1] = node.input[0]
    elif change in ("auto_pad", "pads"):
        attribute = next(a for a in node.attribute if a.name == change)
        attribute.CopyFrom(helper.make_attribute(change, "SAME_UPPER" if change == "auto_pad" else [0, 0, 1, 1]))
    with pytest.raises(PspnetError, match=rf"{node.op_type} of node {node.name} cannot be fine-tuned"):
        TorchGraph(model)
