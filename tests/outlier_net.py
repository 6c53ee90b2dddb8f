"""A small network of which one chosen convolution cannot be quantised, with pictures and ranges for it."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calibration.held_out import HeldOut
from calibration.score import Judge
from calibration.table import CalibrationTable
from pspnet.dataset import open_dataset
from pspnet.geometry import Geometry
from pspnet.metadata import attach_spec
from pspnet.spec import ModelSpec
from runtime.ort import session_from_model
from tests.nets import CAMVID

SIZE, CHANNELS, PICTURES = (96, 96), 16, 6
LAYERS = ("first", "second", "third", "fourth")  # the classifier behind them stays in float by the rules
OUTLIER = 3000.0


def spec() -> ModelSpec:
    classes = open_dataset("camvid11", CAMVID, "train").classes
    return ModelSpec("resnet18", 8, (1, 2), 8, 8, 8, classes.names, classes.palette, SIZE)


def inputs(count: int = PICTURES) -> list[np.ndarray]:
    """Blobs of colour, (1, H, W, 3) uint8."""
    generator = np.random.default_rng(3)
    small = generator.integers(0, 256, (count, 12, 12, 3)).astype(np.uint8)
    return [cv2.resize(picture, SIZE[::-1], interpolation=cv2.INTER_CUBIC)[None] for picture in small]


def network(sensitive: str | None) -> onnx.ModelProto:
    """Four convolutions with ReLU and a classifier; one input channel of `sensitive` is OUTLIER times larger.

    Its weights on that channel are as much smaller, so that the float network computes the same without the outlier.
    """
    generator = np.random.default_rng(4)
    weights = {
        name: generator.normal(0, np.sqrt(2 / (9 * inputs)), (CHANNELS, inputs, 3, 3)).astype(np.float32)
        for name, inputs in zip(LAYERS, (3, CHANNELS, CHANNELS, CHANNELS), strict=True)
    }
    if sensitive:
        before = LAYERS[LAYERS.index(sensitive) - 1]
        weights[before][0] *= OUTLIER
        weights[sensitive][:, 0] /= OUTLIER
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["planes"], "planes", perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["planes", "range"], ["input"], "scale"),
    ]
    constants = [helper.make_tensor("range", TensorProto.FLOAT, [], [128.0])]
    tensor = "input"
    for name, stride in zip(LAYERS, (2, 2, 2, 1), strict=True):
        constants.append(numpy_helper.from_array(weights[name], f"{name}.weight"))
        nodes.append(
            helper.make_node("Conv", [tensor, f"{name}.weight"], [name], name, strides=[stride] * 2, pads=[1] * 4)
        )
        nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"], f"{name}.relu"))
        tensor = f"{name}.relu"
    classifier = generator.normal(size=(11, CHANNELS, 1, 1)).astype(np.float32)
    nodes.append(helper.make_node("Conv", [tensor, "classifier.weight", "bias"], ["logits"], "classifier"))
    plain = {"classifier.weight": classifier, "bias": np.zeros(11, np.float32)}
    logits = _logits(_model(nodes, [*constants, *_tensors(plain)]))
    mean, spread = logits.mean((0, 2, 3)), logits.std((0, 2, 3))  # with these, every class wins somewhere
    fair = {"classifier.weight": classifier / spread.reshape(-1, 1, 1, 1), "bias": -mean / spread}
    return _model(nodes, [*constants, *_tensors(fair)])


def ranges(model: onnx.ModelProto) -> CalibrationTable:
    """A table with the largest magnitude of every convolution's input over the pictures."""
    tensors = ["input", *(f"{name}.relu" for name in LAYERS[:-1])]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    values = session_from_model(watched, 1).run(tensors, {"image": np.concatenate(inputs())})
    return CalibrationTable(
        "", "minmax", "blobs", {}, {n: float(np.abs(v).max()) for n, v in zip(tensors, values, strict=True)}
    )


def labels(model: onnx.ModelProto, count: int = PICTURES) -> list[np.ndarray]:
    """The network's own arg max, as labels that it scores 100 % on, at the logits' size."""
    return [logits.argmax(0).astype(np.uint8) for logits in _logits(model, count)]


def held_out(targets: list[np.ndarray] | None, count: int = PICTURES) -> HeldOut:
    """The pictures as seen by a camera of the logits' size, so that no interpolation stands between."""
    cells = (SIZE[0] // 8, SIZE[1] // 8)
    geometries = [Geometry(cells, SIZE)] * count
    return HeldOut("blobs", inputs(count), geometries, targets, {str(i): str(i) for i in range(count)})


def judge_of(model: onnx.ModelProto, labelled: bool = True, engine: str = "ort") -> Judge:
    """A judge of `model` on the pictures, with its own labels, on one thread."""
    return Judge(model, held_out(labels(model) if labelled else None), engine, 1, quiet=True)


def _logits(model: onnx.ModelProto, count: int = PICTURES) -> np.ndarray:
    return session_from_model(model, 1).run(["logits"], {"image": np.concatenate(inputs(count))})[0]


def _tensors(values: dict[str, np.ndarray]) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]


def _model(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "outlier",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *SIZE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 11, SIZE[0] // 8, SIZE[1] // 8])],
        constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    attach_spec(model, spec(), precision="fp32")
    return model
