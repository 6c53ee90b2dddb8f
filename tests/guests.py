"""A network of another tool in every form that guests have, and what it computes, in float64 by torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

SIZE = (64, 96)
CLASSES = 11
MEAN, STD = (110.0, 100.0, 90.0), (60.0, 50.0, 70.0)
TYPES = {"float": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


def weights(classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Seeded weight (C, 3, 3, 3) and bias (C,) float32 of one convolution that tells the bands apart."""
    random = np.random.default_rng(3)
    weight = random.normal(0, 1, (classes, 3, 1, 1)) / 9 + random.normal(0, 0.05, (classes, 3, 3, 3))
    return weight.astype(np.float32), random.normal(0, 0.2, classes).astype(np.float32)


def reference(
    image: np.ndarray, stride: int = 4, classes: int = CLASSES, bgr: bool = False, mean: Any = MEAN, std: Any = STD
) -> np.ndarray:
    """Logits (C, h, w) float64 of a picture (H, W, 3) uint8 RGB, normalised and convolved."""
    weight, bias = (torch.from_numpy(value).double() for value in weights(classes))
    pixels = (torch.from_numpy(image.copy()).double() - torch.tensor(mean).double()) / torch.tensor(std).double()
    planes = (pixels.flip(2) if bgr else pixels).permute(2, 0, 1)[None]
    return torch.nn.functional.conv2d(planes, weight, bias, stride=stride, padding=1)[0].numpy()


def graph(
    kind: str = "float",
    layout: str = "NCHW",
    ends: str = "logits",
    stride: int = 4,
    classes: int = CLASSES,
    size: tuple[Any, Any] = SIZE,
    batch: Any = 1,
    channels: Any = 3,
    rank4: bool = False,
    label: str = "int64",
    half: bool = False,
    open_output: bool = False,
) -> onnx.ModelProto:
    """The network as an ONNX graph with input `pixels` and output `scores`; a uint8 input is normalised inside.

    ends: logits, sigmoid or labels, the last as (N, h, w), or (N, 1, h, w) with `rank4`, of type `label`. size, batch
    and channels: names leave an axis open. half: float16 weights.
    """
    float_type = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    constants, nodes = {"w": weights(classes)[0], "b": weights(classes)[1]}, []
    last = "pixels"

    def node(operator: str, *more: str, **attributes: Any) -> None:
        nonlocal last
        nodes.append(helper.make_node(operator, [last, *more], [f"t{len(nodes)}"], **attributes))
        last = nodes[-1].output[0]

    if kind != ("float16" if half else "float"):
        node("Cast", to=float_type)
    if layout == "NHWC":
        node("Transpose", perm=[0, 3, 1, 2])
    if kind == "uint8":
        constants |= {"mean": np.float32(MEAN).reshape(1, 3, 1, 1), "std": np.float32(STD).reshape(1, 3, 1, 1)}
        node("Sub", "mean")
        node("Div", "std")
    node("Conv", "w", "b", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[stride, stride])
    output_type = float_type
    if ends == "sigmoid":
        node("Sigmoid")
    elif ends == "labels":
        node("ArgMax", axis=1, keepdims=int(rank4))
        output_type = getattr(TensorProto, label.upper())
        node("Cast", to=output_type)
    nodes[-1].output[0] = "scores"
    height, width = (-(-side // stride) if isinstance(side, int) else f"{side}_out" for side in size)
    planes = [] if ends == "labels" and not rank4 else [1 if ends == "labels" else "C" if open_output else classes]
    shape = [batch, channels, *size] if layout == "NCHW" else [batch, *size, channels]
    numpy_type = np.float16 if half else np.float32
    made = helper.make_graph(
        nodes, "guest",
        [helper.make_tensor_value_info("pixels", TYPES[kind], shape)],
        [helper.make_tensor_value_info("scores", output_type, [batch, *planes, height, width])],
        [numpy_helper.from_array(value.astype(numpy_type), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def save(folder: Path, model: onnx.ModelProto, name: str = "other.onnx", **fields: Any) -> Path:
    """Write the graph and its JSON file; class_names are numbered unless given."""
    onnx.checker.check_model(model)
    onnx.save(model, folder / name)
    spec = {"class_names": [f"class {index}" for index in range(CLASSES)], **fields}
    (folder / name).with_suffix(".json").write_text(json.dumps(spec))
    return folder / name
