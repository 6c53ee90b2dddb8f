"""CpuSegmenter: geometry, resize, network and labels on the CPU."""

from __future__ import annotations

import time

import numpy as np

from pspnet.geometry import Geometry, network_input
from pspnet.views import check_finite
from runtime import labels
from runtime.frame import Frame, Segmentation
from runtime.runner import Runner

AT_CAMERA = {"logits": labels.from_logits_at_camera, "labels": labels.from_labels_at_camera}
"""Labels at the camera's pixels of what a runner gives."""


class CpuSegmenter:
    """Frames of any size to labels of the same size, through one Runner.

    fit: overrides the spec's; region: (top, left, height, width) of the camera picture to look at. PspnetError where
    the network gives NaN or infinity.
    """

    def __init__(self, runner: Runner, fit: str | None = None, region: tuple[int, int, int, int] | None = None) -> None:
        self.runner, self.spec = runner, runner.spec
        self._labels_at_camera = AT_CAMERA[runner.gives]
        self.fit, self._region = fit or self.spec.fit, region
        self._input = np.empty((1, *self.spec.input_size, 3), np.uint8)

    def geometry(self, camera_size: tuple[int, int]) -> Geometry:
        """The map between a camera of (height, width) pixels and the network's input."""
        return Geometry(camera_size, self.spec.input_size, self.fit, self._region)

    def segment(self, frames: list[Frame]) -> list[Segmentation]:
        """One result per frame, in order; frames may differ in size."""
        return [self._segment(frame) for frame in frames]

    def labels(self, image: np.ndarray) -> np.ndarray:
        """Labels (H, W) uint8 of one picture (H, W, 3) uint8 BGR."""
        return self._segment(Frame(image, "bgr", "", 0, 0, 0)).labels

    def _segment(self, frame: Frame) -> Segmentation:
        start = time.perf_counter_ns()
        geometry = self.geometry(frame.size)
        network_input(frame.bgr(), geometry, self.spec, self._input[0])
        ready = time.perf_counter_ns()
        output = self.runner.infer(self._input)
        inferred = time.perf_counter_ns()
        if self.runner.gives == "logits":
            check_finite(output, self.runner)
        result = self._labels_at_camera(output[0], geometry, self.spec.align_corners)
        done = time.perf_counter_ns()
        times = {"pre": (ready - start) / 1e6, "infer": (inferred - ready) / 1e6, "labels": (done - inferred) / 1e6}
        return Segmentation(frame, result, times, geometry)
