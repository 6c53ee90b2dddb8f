"""What tests of the segmenter on the GPU share: a network whose labels differ, its engines, pictures of any format."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from runtime.cuda_segmenter import CudaSegmenter
from runtime.frame import Frame, Segmentation
from runtime.ort import OrtRunner
from runtime.passport import Passport
from runtime.pattern import packed_from_bgr
from runtime.segmenter import CpuSegmenter
from runtime.tensorrt_runner import TensorRTRunner
from tests.engines import save_engine, write_engine
from tests.nets import CAMVID

BATCH = 3
FORMATS = ("bgr", "rgb", "grey", "nv12", "yuyv", "uyvy")
LEAST_AGREEMENT = 0.99
"""The network's input may differ by a grey level from OpenCV's, which moves a border here and there."""

_plans: dict[str, tuple[bytes, Passport]] = {}


def engine_of(model: Path, path: Path, trt: ModuleType) -> Path:
    """A float32 engine of `model` for 1 to BATCH pictures, built once for each version of TensorRT's double."""
    version = trt.__version__
    if version not in _plans:
        passport = save_engine(path, model, "weak" if version < "11" else "strong", batch=BATCH)
        _plans[version] = path.read_bytes(), passport
    write_engine(path, *_plans[version])
    return path


@functools.cache
def photos(size: tuple[int, int] | None = None) -> tuple[np.ndarray, ...]:
    """Three pictures (H, W, 3) uint8 BGR, 360x480 or of that (height, width); nobody may change them."""
    found = [cv2.imread(str(path)) for path in sorted((CAMVID / "val" / "images").iterdir())]
    if size is not None:
        found = [cv2.resize(each, size[::-1], interpolation=cv2.INTER_AREA) for each in found]
    for each in found:
        each.flags.writeable = False
    return tuple(found)


def frame_of(bgr: np.ndarray, layout: str = "bgr", source: str = "front", sequence: int = 0) -> Frame:
    """A frame of that format."""
    if layout in ("nv12", "yuyv", "uyvy"):
        image = packed_from_bgr(bgr, layout, "709", False)
    else:
        image = {"bgr": bgr, "rgb": bgr[..., ::-1], "grey": bgr[..., 1]}[layout].copy()
    return Frame(image, layout, source, sequence, 0, 0, matrix="709")


@contextmanager
def on_gpu(engine: Path, **options: object) -> Iterator[CudaSegmenter]:
    """The segmenter of an engine; options: as of `CudaSegmenter`."""
    with TensorRTRunner(engine) as runner, CudaSegmenter(runner.network(), **options) as segmenter:  # type: ignore[arg-type]
        yield segmenter


def by_cpu(model: Path, frames: list[Frame], **options: object) -> list[Segmentation]:
    """What the CPU's path makes of the frames."""
    return CpuSegmenter(_reference(model), batch=BATCH, **options).segment(frames)  # type: ignore[arg-type]


@functools.cache
def _reference(model: Path) -> OrtRunner:
    return OrtRunner(model, 1)


def agreement(got: Segmentation, wanted: Segmentation) -> float:
    """Share of equal labels; where the network did not look, all must be."""
    assert got.labels.shape == wanted.labels.shape and got.labels.dtype == np.uint8
    assert np.array_equal(got.labels == 255, wanted.labels == 255)
    return float((got.labels == wanted.labels).mean())
