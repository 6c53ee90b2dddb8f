"""Frame and Segmentation: what goes into the hot path and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

_BGR_FROM = {
    "rgb": cv2.COLOR_RGB2BGR,
    "grey": cv2.COLOR_GRAY2BGR,
}


@dataclass(frozen=True)
class Frame:
    """One picture of a camera, clip or folder, in the format in which it came.

    image: (H, W, 3) uint8 for format bgr and rgb, (H, W) for grey. sequence counts from 0 in each source.
    captured_ns: monotonic clock after the read returned; wall_ns: system clock at the same moment. name: file name of
    a picture; of a video frame, the stem of clip or camera and the sequence number. path: a picture's file on disk.
    """

    image: np.ndarray
    format: str
    source: str
    sequence: int
    captured_ns: int
    wall_ns: int
    name: str = ""
    path: Path | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]

    def bgr(self) -> np.ndarray:
        """(H, W, 3) uint8 BGR; the frame's own memory where it is BGR already."""
        return self.image if self.format == "bgr" else cv2.cvtColor(self.image, _BGR_FROM[self.format])


@dataclass
class Segmentation:
    """Labels of one frame.

    labels: (H, W) uint8 at the camera's size, 255 where the network did not look. times_ms: milliseconds per stage
    (pre, infer, labels; the pipeline adds capture and sink).
    """

    frame: Frame
    labels: np.ndarray
    times_ms: dict[str, float] = field(default_factory=dict)
