"""The two interfaces of the hot path, and the choice of an engine for an artefact."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from pspnet.errors import PspnetError
from pspnet.spec import ModelSpec
from runtime.frame import Frame, Segmentation

MOST_THREADS = 1024
ENGINES = ("auto", "openvino", "ort", "torch")


class Runner(Protocol):
    """A network on an engine. engine and precision name what every figure must state."""

    spec: ModelSpec
    engine: str
    precision: str

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB at the spec's input size -> logits (N, C, h, w) float32 on the host."""
        ...

    def close(self) -> None:
        """Free the engine; infer must not be called afterwards."""
        ...

    def __enter__(self) -> Runner: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Segmenter(Protocol):
    """Frames in, labels at the camera's size out: all that the pipeline knows."""

    spec: ModelSpec

    def segment(self, frames: list[Frame]) -> list[Segmentation]:
        """One result per frame, in order."""
        ...


class ClosingRunner:
    """Context management for runners: leaving the block closes the engine."""

    def close(self) -> None:
        """Free the engine."""

    def __enter__(self):  # type: ignore[no-untyped-def]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_runner(path: str | Path, engine: str = "auto", threads: int | None = None) -> Runner:
    """The runner of an artefact: a checkpoint (.pt) on PyTorch, an ONNX file on OpenVINO or ONNX Runtime.

    engine "auto" takes OpenVINO for ONNX, or ONNX Runtime where OpenVINO is absent. threads: None takes every core.
    """
    path = Path(path)
    threads = os.cpu_count() or 1 if threads is None else threads
    if not 1 <= threads <= MOST_THREADS:
        raise PspnetError(f"threads is {threads}: give --threads 1 to {MOST_THREADS}")
    if engine not in ENGINES:
        raise PspnetError(f"unknown engine {engine!r}: choose one of {', '.join(ENGINES)} with --engine")
    if not path.is_file():
        raise PspnetError(f"{path} is no file: give a checkpoint (.pt) or an ONNX file of `pspnet export`")
    if path.suffix == ".pt":
        if engine not in ("auto", "torch"):
            raise PspnetError(
                f"{path} is a checkpoint, which runs on torch, not {engine}: `pspnet export {path}` first"
            )
        from runtime.torch_runner import TorchRunner

        return TorchRunner.from_checkpoint(path, threads)
    if path.suffix != ".onnx":
        raise PspnetError(f"{path} is no artefact that can be run here: give a .pt checkpoint or an .onnx file")
    if engine == "torch":
        raise PspnetError(f"{path} is an ONNX file, which runs on openvino or ort: leave out --engine torch")
    if engine == "openvino" or (engine == "auto" and _installed("openvino")):
        from runtime.openvino_runner import OpenVinoRunner

        return OpenVinoRunner(path, threads)
    from runtime.ort import OrtRunner

    return OrtRunner(path, threads)


def check_images(images: np.ndarray, spec: ModelSpec) -> None:
    """PspnetError where `images` are not what a network of `spec` takes."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (*spec.input_size, 3):
        raise PspnetError(
            f"images are {images.dtype} {images.shape}: the network needs uint8 (N, {spec.input_size[0]}, "
            f"{spec.input_size[1]}, 3). Export for another size with `pspnet export CHECKPOINT --size HxW`"
        )


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
