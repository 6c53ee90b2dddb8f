"""The two interfaces of the hot path, and the choice of an engine for an artefact."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from pspnet.errors import PspnetError
from pspnet.metadata import carries_spec, extra, tensors_of
from pspnet.spec import NetworkSpec
from runtime.fp16_simulation import SIMULATED
from runtime.frame import Frame, Segmentation

MOST_THREADS = 1024
ORT_PROVIDERS = {"ort-cuda": "CUDAExecutionProvider", "ort-tensorrt": "TensorrtExecutionProvider"}
"""Plain ONNX Runtime on a GPU, for comparison, and where a provider is all that is installed."""

ENGINES = ("auto", "openvino", "ort", "torch", "tensorrt", *ORT_PROVIDERS)
ENGINES_OF = {".pt": ("torch",), ".onnx": ("openvino", "ort"), ".engine": ("tensorrt",)}
"""The engines that run an artefact, by its suffix."""

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}


class Runner(Protocol):
    """A network on an engine. engine and precision name what every figure must state.

    name: what errors call it, the path of its file where it has one.
    gives: "logits", or "labels" for a guest whose graph ends in the arg max.
    """

    name: str
    engine: str
    precision: str
    gives: str

    @property
    def spec(self) -> NetworkSpec: ...

    @property
    def provenance(self) -> dict[str, Any]:
        """What figures state beside engine and precision: what an engine was built of, by what and for which GPU."""
        ...

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB at the spec's input size -> what it `gives`, on the host.

        logits (N, C, h, w) float32, or labels (N, h, w) uint8 with 255 where a pixel has no class.
        """
        ...

    def at_size(self, size: tuple[int, int]) -> Runner:
        """The network for pictures of another (height, width); PspnetError where the engine has one size only."""
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

    @property
    def spec(self) -> NetworkSpec: ...

    def segment(self, frames: list[Frame]) -> list[Segmentation]:
        """One result per frame, in order."""
        ...


class ClosingRunner:
    """What runners have in common: leaving the `with` block closes the engine, and the input has one size."""

    name = "the network"
    gives = "logits"

    @property
    def provenance(self) -> dict[str, Any]:
        """Nothing beside engine and precision."""
        return {}

    def at_size(self, size: tuple[int, int]):  # type: ignore[no-untyped-def]
        """The runner itself where `size` is its own, else PspnetError."""
        height, width = self.spec.input_size  # type: ignore[attr-defined]
        if size != (height, width):
            raise PspnetError(
                f"this artefact takes {height}x{width} only, not {size[0]}x{size[1]}: leave out --crop, use --mode "
                "slide for scales, or evaluate the checkpoint"
            )
        return self

    def close(self) -> None:
        """Free the engine."""

    def __enter__(self):  # type: ignore[no-untyped-def]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_runner(
    path: str | Path, engine: str = "auto", threads: int | None = None, pinned_sha256: str | None = None
) -> Runner:
    """The runner of an artefact: a checkpoint (.pt) on PyTorch, an ONNX file on OpenVINO or ONNX Runtime, an .engine
    on TensorRT.

    An ONNX file without a spec of ours is a guest, described by the JSON file beside it.
    engine "auto" takes OpenVINO for ONNX, or ONNX Runtime where OpenVINO is absent or the file is typed float16;
    ort-cuda and ort-tensorrt are ONNX Runtime's providers for GPUs.
    threads: of the CPU; None takes every core. pinned_sha256: what the hash of an .engine must be.
    """
    path = Path(path)
    threads = os.cpu_count() or 1 if threads is None else threads
    if not 1 <= threads <= MOST_THREADS:
        raise PspnetError(f"threads is {threads}: give --threads 1 to {MOST_THREADS}")
    if engine not in ENGINES:
        raise PspnetError(f"unknown engine {engine!r}: choose one of {', '.join(ENGINES)} with --engine")
    check_artefact(path, engine)
    if pinned_sha256 is not None and path.suffix != ".engine":
        raise PspnetError(f"{path} is no TensorRT engine, whose hash --pin fixes: leave out --pin")
    if path.suffix == ".pt":
        from runtime.torch_runner import TorchRunner

        return TorchRunner.from_checkpoint(path, threads)
    if path.suffix == ".engine":
        from runtime.tensorrt_runner import TensorRTRunner

        return TensorRTRunner(path, pinned_sha256=pinned_sha256)
    if engine == "auto":
        half = str(extra(path, "precision")) in SIMULATED
        engine = "openvino" if _installed("openvino") and not half else "ort"
    if not carries_spec(path):
        if engine in ORT_PROVIDERS:
            raise PspnetError(f"{path} is a guest, which runs on openvino or ort: leave out --engine {engine}")
        from runtime.foreign import ForeignRunner

        return ForeignRunner(path, engine, threads)
    if engine == "openvino":
        from runtime.openvino_runner import OpenVinoRunner

        return OpenVinoRunner(path, threads)
    if engine in ORT_PROVIDERS:
        from runtime.ort_gpu import OrtGpuRunner

        return OrtGpuRunner(path, engine)
    from runtime.ort import OrtRunner

    return OrtRunner(path, threads)


def runs_on(path: str | Path, engine: str) -> bool:
    """Whether an artefact of this name can run on `engine`; "auto" always can."""
    suffix = Path(path).suffix
    return engine == "auto" or engine in ENGINES_OF.get(suffix, ()) or (suffix == ".onnx" and engine in ORT_PROVIDERS)


def check_artefact(path: Path, engine: str) -> None:
    """PspnetError where there is no file, or none that the engine runs."""
    if not path.is_file():
        raise PspnetError(f"{path} is no file: give a checkpoint (.pt), an ONNX file or a TensorRT engine (.engine)")
    if path.suffix not in ENGINES_OF:
        raise PspnetError(
            f"{path} is no artefact that can be run here: give a .pt checkpoint, an .onnx file or an .engine"
        )
    if runs_on(path, engine):
        return
    if path.suffix == ".pt":
        raise PspnetError(f"{path} is a checkpoint, which runs on torch, not {engine}: `pspnet export {path}` first")
    if path.suffix == ".engine":
        raise PspnetError(f"{path} is a TensorRT engine, which runs on tensorrt: leave out --engine {engine}")
    if engine == "tensorrt":
        raise PspnetError(f"{path} is an ONNX file: build an engine of it with `pspnet build {path}`, and give that")
    raise PspnetError(f"{path} is an ONNX file, which runs on openvino or ort: leave out --engine {engine}")


def check_constants(model: onnx.ModelProto, path: str | Path) -> None:
    """PspnetError where a constant of the graph holds NaN, or a weight infinity.

    The logits do not always tell: in OpenVINO the Relu or Clip behind a NaN makes a number of it. Infinity elsewhere
    may be meant, as the bound of a Clip that has none.
    """
    weights = {name for node in model.graph.node if node.op_type in WEIGHTED for name in node.input}
    for tensor in tensors_of(model):
        if tensor.data_type not in FLOATS or not (values := numpy_helper.to_array(tensor)).size:
            continue
        extremes = float(values.min()), float(values.max())  # both are NaN where one value is
        if math.isnan(extremes[0]) or (tensor.name in weights and not all(map(math.isfinite, extremes))):
            raise PspnetError(
                f"{path}: constant {tensor.name} holds NaN or infinity, so its labels mean nothing. Use a sound "
                "checkpoint, or export again from one"
            )


def check_images(images: np.ndarray, spec: NetworkSpec) -> None:
    """PspnetError where `images` are not what a network of `spec` takes."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (*spec.input_size, 3):
        raise PspnetError(
            f"images are {images.dtype} {images.shape}: the network needs uint8 (N, {spec.input_size[0]}, "
            f"{spec.input_size[1]}, 3). Export for another size with `pspnet export CHECKPOINT --size HxW`"
        )


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
