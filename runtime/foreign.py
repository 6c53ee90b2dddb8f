"""Segmentation networks of other tools as guests, so that users can compare what they have on one code path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx

from pspnet.errors import PspnetError
from pspnet.guest import GuestSpec, guest_spec
from pspnet.metadata import read_model, tensors_of
from pspnet.spec import IGNORE
from runtime.runner import ClosingRunner, check_constants, check_images

Infer = Callable[[np.ndarray], np.ndarray]
SINGLE_PLANE = {"logits": 0.0, "probabilities": 0.5}
"""Value of class 0 where the network gives a plane for class 1 only: it wins where that plane is above this."""


class ForeignRunner(ClosingRunner):
    """An ONNX file of another tool in OpenVINO or ONNX Runtime, in float32, picture by picture.

    Normalisation, the order of bands and the layout are part of `infer`, so they count as its time. One black picture
    goes through when it is opened: what the engine or the spec gets wrong is refused then.
    """

    def __init__(self, path: str | Path, engine: str, threads: int) -> None:
        model = read_model(path)
        self.spec: GuestSpec = guest_spec(model, path)
        check_constants(model, path)
        self.engine, self.precision = engine, _precision(model)
        self.gives = "labels" if self.spec.output_kind == "labels" else "logits"
        self.name = str(path)
        (height, width), kind = self.spec.input_size, self.spec.input_type
        shape = (1, 3, height, width) if self.spec.layout == "NCHW" else (1, height, width, 3)
        self._input = np.zeros(shape, {"float": np.float32, "float16": np.float16, "uint8": np.uint8}[kind])
        self._table = _table(self.spec)
        self._infer = _opened(path, engine, threads, self.spec, shape)
        self._result(self._first_run())

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB -> logits (N, C, h, w) float32, or labels (N, h, w) uint8 where `gives` is "labels".

        Labels that are no class become 255.
        """
        check_images(images, self.spec)
        if len(images) == 1:
            return self._one(images[0])
        return np.concatenate([self._one(image).copy() for image in images])  # the next one may overwrite it

    def _one(self, image: np.ndarray) -> np.ndarray:
        pixels = image if self.spec.channel_order == "rgb" else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if self.spec.input_type != "uint8":
            pixels = cv2.LUT(pixels, self._table)
        target = self._input[0].transpose(1, 2, 0) if self.spec.layout == "NCHW" else self._input[0]
        np.copyto(target, pixels, casting="same_kind")
        return self._result(self._infer(self._input))

    def _first_run(self) -> np.ndarray:
        try:
            return self._infer(self._input)
        except Exception as error:  # the engines raise several types without a common base
            height, width = self.spec.input_size
            raise PspnetError(
                f"{self.engine} cannot run {self.name} at {height}x{width}: {str(error).strip().splitlines()[-1]}. "
                "Try another input_size, such as a multiple of 32"
            ) from error

    def _result(self, output: np.ndarray) -> np.ndarray:
        return self._labels(output) if self.gives == "labels" else self._logits(output)

    def _labels(self, output: np.ndarray) -> np.ndarray:
        if output.ndim == 4 and output.shape[1] == 1:
            output = output[:, 0]
        if output.ndim != 3 or len(output) != 1:
            self._refuse(output, "(1, h, w) or (1, 1, h, w)")
        known = (output >= 0) & (output < self.spec.classes)
        return np.where(known, output, IGNORE).astype(np.uint8)

    def _logits(self, output: np.ndarray) -> np.ndarray:
        classes = self.spec.classes
        if output.ndim != 4 or len(output) != 1 or output.shape[1] not in ((1, 2) if classes == 2 else (classes,)):
            self._refuse(output, f"(1, {classes}, h, w)")
        if output.shape[1] == classes:
            return output.astype(np.float32, copy=False)
        both = np.empty((1, 2, *output.shape[2:]), np.float32)
        both[:, 0], both[:, 1:] = SINGLE_PLANE[self.spec.output_kind], output
        return both

    def _refuse(self, output: np.ndarray, needed: str) -> None:
        raise PspnetError(
            f"{self.name} gives {self.spec.output_kind} of shape {output.shape}, {needed} is needed for "
            f"{self.spec.classes} classes: correct class_names, output or output_kind in the JSON file beside it"
        )


def _opened(path: str | Path, engine: str, threads: int, spec: GuestSpec, shape: tuple[int, ...]) -> Infer:
    """The network as a function of its input; the result may be the engine's memory, valid until the next call."""
    if engine == "openvino":
        from runtime import openvino_runner

        return openvino_runner.infer_from_file(path, threads, spec.input, shape, spec.output)
    from runtime import ort

    return ort.infer_from_file(path, threads, spec.input, spec.output)


def _table(spec: GuestSpec) -> np.ndarray:
    """(1, 256, 3) float32: the network's input for every grey level and band, in the network's order of bands."""
    levels = np.arange(256, dtype=np.float64)[:, None]
    table = ((levels - spec.mean) / spec.std)[None].astype(np.float32)
    return np.ascontiguousarray(table if spec.channel_order == "rgb" else table[..., ::-1])


def _precision(model: onnx.ModelProto) -> str:
    """What figures state: CPU engines compute in float32 whatever the type of the weights, but for quantised graphs."""
    operators = {node.op_type for node in model.graph.node}
    if any("QuantizeLinear" in name or name.startswith("QLinear") or name.endswith("Integer") for name in operators):
        return "int8"
    types = {tensor.data_type for tensor in tensors_of(model)}
    halves = types & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    return "fp16 file, computed in fp32" if halves else "fp32"
