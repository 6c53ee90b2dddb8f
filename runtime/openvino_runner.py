"""OpenVINO on the CPU: the default engine, with real INT8 kernels for the very file that TensorRT builds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
from openvino import opset13

from pspnet.errors import PspnetError
from pspnet.metadata import extra, read_model, spec_from_model
from runtime.fp16_simulation import SIMULATED
from runtime.runner import ClosingRunner, check_constants, check_images


@functools.cache
def core() -> openvino.Core:
    """The one Core of the process.

    The CPU plugin of a Core puts a signal stack of its own in place and, when that Core goes, the one from before. Two
    Cores that go in another order leave a stack that is freed, and the next signal ends the process (seen in 2026.4).
    """
    return openvino.Core()


class OpenVinoRunner(ClosingRunner):
    """An ONNX file of ours in OpenVINO, compiled for a fixed batch so that every shape is static.

    Floating point is float32 unless `bf16` is set: left alone, OpenVINO takes bfloat16 on CPUs that have it.
    """

    engine = "openvino"

    def __init__(self, path: str | Path, threads: int, bf16: bool = False, batch: int = 1) -> None:
        stored_model = read_model(path)
        check_constants(stored_model, path)
        self.spec, stored = spec_from_model(stored_model, path), str(extra(stored_model, "precision") or "fp32")
        if stored in SIMULATED:
            raise PspnetError(
                f"{path} is {stored}, which OpenVINO computes in float32 on a CPU: --engine ort simulates it, TensorRT "
                "runs it"
            )
        self.precision = stored if not bf16 else {"fp32": "bf16", "int8": "int8+bf16"}.get(stored, stored)
        self.name, self._batch = str(path), batch
        self.compiled = _compiled(path, "image", (batch, *self.spec.input_size, 3), threads, bf16)
        self._request = self.compiled.create_infer_request()

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB -> logits (N, C, h, w) float32; N is cut into the compiled batch."""
        check_images(images, self.spec)
        if len(images) % self._batch:
            raise PspnetError(f"{len(images)} images do not fill batches of {self._batch}: pass a multiple of it")
        parts = []
        for start in range(0, len(images), self._batch):
            self._request.infer({"image": images[start : start + self._batch]}, share_inputs=True)
            parts.append(self._request.get_output_tensor().data)
            if len(images) > self._batch:
                parts[-1] = parts[-1].copy()  # the request's own memory is overwritten by the next part
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def infer_from_file(
    path: str | Path, threads: int, input_name: str, shape: tuple[int, ...], output_name: str, bf16: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """The network of any ONNX file as a function of its input, of `shape`; PspnetError where it cannot be loaded.

    The result is the engine's own memory, valid until the next call.
    """
    request = _compiled(path, input_name, shape, threads, bf16).create_infer_request()

    def infer(images: np.ndarray) -> np.ndarray:
        request.infer({input_name: images}, share_inputs=True)
        return request.get_tensor(output_name).data

    return infer


def _compiled(
    path: str | Path, input_name: str, shape: tuple[int, ...], threads: int, bf16: bool = False
) -> openvino.CompiledModel:
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    try:
        model = core().read_model(str(path))
        model.reshape({input_name: list(shape)})
        join_quantizers(model)
        return core().compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise PspnetError(f"OpenVINO cannot load {path}: {str(error).strip().splitlines()[-1]}") from error


def join_quantizers(model: openvino.Model) -> int:
    """Replace every Q/DQ pair on an activation by the one FakeQuantize that it equals; returns how many there were.

    OpenVINO reads Q/DQ as FakeQuantize, two converts and a multiplication by the scale. Where such a chain follows a
    Concat, its low-precision passes move it in front and lose the scale: values are then rounded to whole numbers
    (seen in 2024.6, 2025.4 and 2026.4). The joined form is what they were made for.
    """
    joined = 0
    for multiply in model.get_ordered_ops():
        if multiply.get_type_name() != "Multiply" or (scale := _constant(multiply.input_value(1))) is None:
            continue
        quantize = multiply.input_value(0).get_node()
        while quantize.get_type_name() in ("Convert", "Subtract"):
            if quantize.get_type_name() == "Subtract" and np.any(_constant(quantize.input_value(1))):
                break  # not a symmetric range, so not one of our files
            quantize = quantize.input_value(0).get_node()
        if quantize.get_type_name() != "FakeQuantize" or _constant(quantize.input_value(0)) is not None:
            continue
        low, high = (_constant(quantize.input_value(index)) * scale for index in (3, 4))
        one = opset13.fake_quantize(
            quantize.input_value(0), quantize.input_value(1), quantize.input_value(2),
            opset13.constant(low.astype(np.float32)), opset13.constant(high.astype(np.float32)),
            quantize.get_attributes()["levels"],
        )  # fmt: skip
        one.set_friendly_name(multiply.get_friendly_name())
        multiply.output(0).replace(one.output(0))
        joined += 1
    model.validate_nodes_and_infer_types()
    return joined


def _constant(value: openvino.Output) -> np.ndarray | None:
    """The value of a constant, or None where it depends on the input."""
    node = value.get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.data if node.get_type_name() == "Constant" else None
