"""Guests for `pspnet verify`: networks that differ a little, or in a known place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from pspnet.dataset import CAMVID11
from tests.guests import graph, save
from tests.nets import CAMVID

SIZE = (48, 64)
NAMES = list(CAMVID11)


def guest(folder: Path, name: str, noise: float = 0.0, **form: Any) -> Path:
    """A network that tells CamVid's classes by colour; `noise` is added to its weights."""
    fields = {key: form.pop(key) for key in ("class_names", "fit", "output_kind") if key in form}
    model = graph(**{"kind": "uint8", "layout": "NHWC", "size": SIZE} | form)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    values = numpy_helper.to_array(weight)
    values = values + np.random.default_rng(5).normal(0, noise, values.shape).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(values, "w"))
    return save(folder, model, name, **{"class_names": NAMES} | fields)


def painted(folder: Path, name: str, labels: np.ndarray, **fields: Any) -> Path:
    """A network that gives every picture the labels (h, w); 255 in them is no class."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.INT32),
        helper.make_node("ReduceMax", ["pixels"], ["largest"], axes=[3], keepdims=0),
        helper.make_node("Mul", ["largest", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "map"], ["labels"]),
    ]
    constants = {"zero": np.zeros(1, np.int32), "map": labels[None].astype(np.int32)}
    made = helper.make_graph(
        nodes, "painted",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *labels.shape, 3])],
        [helper.make_tensor_value_info("labels", TensorProto.INT32, [1, *labels.shape])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return save(folder, model, name, **{"class_names": NAMES} | fields)


def strict(path: Path) -> dict[str, Any]:
    """The JSON of a report; NaN and infinity in it fail."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def two_guests_in(folder: Path) -> Path:
    """The folder, with two similar guests a.onnx and b.onnx in it."""
    guest(folder, "a.onnx")
    guest(folder, "b.onnx", noise=0.02)
    return folder


def photos_in(folder: Path) -> Path:
    """The new folder, with three pictures of different sizes and no labels."""
    folder.mkdir()
    for index, size in enumerate([(96, 128), (48, 64), (70, 55)]):
        picture = cv2.imread(str(sorted((CAMVID / "val" / "images").iterdir())[index]))
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(picture, size[::-1]))
    return folder
