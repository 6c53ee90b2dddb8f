"""CpuSegmenter: geometry, resize, network and labels on the CPU."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pspnet.errors import PspnetError
from pspnet.geometry import Geometry, network_input
from pspnet.views import check_finite
from runtime import confidence, labels, yuv
from runtime.array_pool import ArrayPool
from runtime.frame import Frame, Segmentation
from runtime.runner import Runner

AT_CAMERA = {"logits": labels.from_logits_at_camera, "labels": labels.from_labels_at_camera}
"""Labels at the camera's pixels of what a runner gives."""

MOST_CAMERAS = 32
"""Cameras, or recordings of a list, whose memory is kept for their next frame."""

Region = tuple[int, int, int, int]


@dataclass(frozen=True)
class View:
    """How the network looks at one camera. fit: None for the spec's; region: (top, left, height, width), None for all.

    Both as in `Geometry`.
    """

    fit: str | None = None
    region: Region | None = None


class CpuSegmenter:
    """Frames of any size to labels of the same size, through one Runner.

    fit: overrides the spec's; region: (top, left, height, width) of the camera picture to look at. views: the same for
    cameras by name (`Frame.source`), in place of fit and region. with_confidence: results have `confidence`. batch:
    most pictures of one call to the runner, whose time they then share; None for what its engine was built for, and 1
    on a CPU, where several at once are hardly faster and each is later. PspnetError where the network gives NaN or
    infinity.

    Results keep their memory for as long as anybody refers to it; after that the next frames use it again.
    without_kernels: why it is not a CudaSegmenter though the network is on a GPU, "" where nothing is amiss.
    """

    without_kernels = ""

    def __init__(
        self,
        runner: Runner,
        fit: str | None = None,
        region: Region | None = None,
        views: Mapping[str, View] | None = None,
        with_confidence: bool = False,
        batch: int | None = None,
    ) -> None:
        batch = engine_batch(runner) if batch is None else batch
        if batch < 1:
            raise PspnetError(f"batch is {batch}: give 1 or more pictures")
        if with_confidence and runner.gives != "logits":
            raise PspnetError(
                f"{runner.name} gives labels without logits, so nothing says how sure they are: leave out "
                "--min-confidence and --select"
            )
        self.runner, self.spec = runner, runner.spec
        self.batch, self.with_confidence = batch, with_confidence
        self._labels_at_camera = AT_CAMERA[runner.gives]
        self._probabilities = getattr(runner.spec, "output_kind", "logits") == "probabilities"
        self.fit = fit or self.spec.fit
        self._view = View(self.fit, region)
        self._views = dict(views or {})
        self._memories: OrderedDict[str, _Memory] = OrderedDict()
        self._input = np.empty((batch, *self.spec.input_size, 3), np.uint8)

    def geometry(self, camera_size: tuple[int, int], source: str = "") -> Geometry:
        """The map between a camera of (height, width) pixels and the network's input."""
        view = self._views.get(source, self._view)
        return Geometry(camera_size, self.spec.input_size, view.fit or self.spec.fit, view.region)

    def segment(self, frames: list[Frame]) -> list[Segmentation]:
        """One result per frame, in order; frames may differ in size."""
        results: list[Segmentation] = []
        for start in range(0, len(frames), self.batch):
            results += self._segment(frames[start : start + self.batch])
        return results

    def labels(self, image: np.ndarray) -> np.ndarray:
        """Labels (H, W) uint8 of one picture (H, W, 3) uint8 BGR."""
        return self._segment([Frame(image, "bgr", "", 0, 0, 0)])[0].labels

    def _segment(self, frames: list[Frame]) -> list[Segmentation]:
        stamps = [time.perf_counter_ns()]
        geometries = []
        while len(self._memories) > MOST_CAMERAS:
            self._memories.popitem(last=False)
        for place, frame in enumerate(frames):
            geometries.append(self._prepare(frame, self._input[place]))
            stamps.append(time.perf_counter_ns())
        output = self.runner.infer(self._input[: len(frames)])
        inferred = time.perf_counter_ns()
        if self.runner.gives == "logits":
            check_finite(output, self.runner)
        infer_ms = (inferred - stamps[-1]) / 1e6
        results = []
        for place, (frame, geometry) in enumerate(zip(frames, geometries, strict=True)):
            pre_ms = (stamps[place + 1] - stamps[place]) / 1e6
            result = self._result(frame, geometry, output[place])
            labelled, inferred = inferred, time.perf_counter_ns()
            result.times_ms = {"pre": pre_ms, "infer": infer_ms, "labels": (inferred - labelled) / 1e6}
            results.append(result)
        return results

    def _prepare(self, frame: Frame, network: np.ndarray) -> Geometry:
        """Fill `network` (h, w, 3) with what the network sees of the frame; returns where it saw it."""
        memory = self._memories.setdefault(frame.source, _Memory())
        self._memories.move_to_end(frame.source)
        geometry = memory.geometry
        if geometry is None or geometry.camera_size != frame.size:
            geometry = self.geometry(frame.size, frame.source)
            memory.use(geometry)
        bgr = frame.bgr(memory.bgr_for(frame), memory.scratch)
        network_input(bgr, geometry, self.spec, network, memory.resized)
        return geometry

    def _result(self, frame: Frame, geometry: Geometry, output: np.ndarray) -> Segmentation:
        memory, align_corners = self._memories[frame.source], self.spec.align_corners
        found = self._labels_at_camera(output, geometry, align_corners, memory.labels.take(geometry.camera_size))
        result = Segmentation(frame, found, {}, geometry)
        if self.with_confidence:
            sure = memory.confidence.take(geometry.camera_size)
            result.confidence = confidence.at_camera(output, geometry, align_corners, self._probabilities, sure)
        return result


def engine_batch(runner: Runner) -> int:
    """The most pictures that an engine was built to take at once; 1 where it takes any number."""
    return int((runner.provenance.get("batch") or {"max": 1})["max"])


class _Memory:
    """What is kept for one camera, made anew when its pictures change their size."""

    def __init__(self) -> None:
        self.geometry: Geometry | None = None
        self.scratch = yuv.Scratch()
        self.labels, self.confidence = ArrayPool(), ArrayPool()
        self.resized: np.ndarray | None = None
        self._bgr: np.ndarray | None = None

    def use(self, geometry: Geometry) -> None:
        """From now on pictures come in this geometry."""
        self.geometry, self._bgr = geometry, None
        cut = geometry.resized != geometry.network_size
        self.resized = np.empty((*geometry.resized, 3), np.uint8) if cut else None

    def bgr_for(self, frame: Frame) -> np.ndarray | None:
        """Memory for a picture that has to be converted; None where it is BGR already."""
        if frame.format != "bgr" and self._bgr is None:
            self._bgr = np.empty((*frame.size, 3), np.uint8)
        return self._bgr
