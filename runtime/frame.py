"""Frame and Segmentation: what goes into the hot path and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from pspnet.geometry import Geometry
from runtime import yuv

_BGR_FROM = {
    "rgb": cv2.COLOR_RGB2BGR,
    "grey": cv2.COLOR_GRAY2BGR,
}
FORMATS = ("bgr", *_BGR_FROM, *yuv.FORMATS)


@dataclass(frozen=True)
class Frame:
    """One picture of a camera, clip or folder, in the format in which it came.

    image: uint8, (H, W, 3) for format bgr and rgb, (H, W) for grey, as in `yuv.size_of` for nv12, yuyv and uyvy.
    sequence counts from 0 in each source. captured_ns: monotonic clock after the read returned; wall_ns: system clock
    at the same moment. name: file name of a picture; of a video frame, the stem of clip or camera and the sequence
    number. path: a picture's file on disk. matrix: 601 or 709, of a YUV format; full_range: whether its Y is 0..255.
    sensor_ns: the sensor's own time on the monotonic clock, None where the backend does not give it.
    """

    image: np.ndarray
    format: str
    source: str
    sequence: int
    captured_ns: int
    wall_ns: int
    name: str = ""
    path: Path | None = None
    matrix: str = "601"
    full_range: bool = False
    sensor_ns: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        if self.format in yuv.FORMATS:
            return yuv.size_of(self.image, self.format)
        return self.image.shape[0], self.image.shape[1]

    def bgr(self, out: np.ndarray | None = None, scratch: yuv.Scratch | None = None) -> np.ndarray:
        """(H, W, 3) uint8 BGR; the frame's own memory where it is BGR already, else in `out` where given.

        scratch: for the steps of a conversion; kept from frame to frame it saves their memory.
        """
        if self.format == "bgr":
            return self.image
        if self.format in yuv.FORMATS:
            return yuv.bgr_from_yuv(self.image, self.format, self.matrix, self.full_range, out, scratch)
        return cv2.cvtColor(self.image, _BGR_FROM[self.format], dst=out)


@dataclass
class Segmentation:
    """Labels of one frame.

    labels: (H, W) uint8 at the camera's size, 255 where the network did not look. times_ms: milliseconds per stage
    (pre, infer, labels; the pipeline adds capture and sink). geometry: where a pixel lay in the network's picture.
    confidence: (H, W) uint8 at the camera's size, the winner's softmax from 0 to 255, where it was asked for.
    valid: false where the labels must not be used; reason says why.
    """

    frame: Frame
    labels: np.ndarray
    times_ms: dict[str, float] = field(default_factory=dict)
    geometry: Geometry | None = None
    confidence: np.ndarray | None = None
    valid: bool = True
    reason: str = ""
