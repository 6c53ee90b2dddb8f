"""Whether a camera delivers the same picture again and again, which a parked car does not.

A sensor's noise never repeats a whole picture, so only exact identity of all pixels counts, and only for so long. Most
pictures differ already in the checksum of a few rows; only those that do not are compared in full. A picture without
any contrast (black or white throughout) may repeat: the camera shows nothing, but it may still look. What codes such a
picture as "no change" may repeat too, which is why the limit depends on the kind of camera.
"""

from __future__ import annotations

import zlib

import cv2
import numpy as np

ROWS = 16
FEWEST = 5  # equal pictures, however slow the camera is
REPEATED_NS = 500_000_000
FLAT_LEVELS = 0.5  # standard deviation below which a picture shows nothing


class FrozenWatch:
    """Told each picture, knows since when they are the same.

    frozen: the same for `limit_s` (0: never), or for half a second where even the sensor's stamps stand still, which is
    `repeated`: the backend delivers one picture again and again.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_ns = int(limit_s * 1e9)
        self.frozen = self.repeated = False
        self._checksum: tuple[object, ...] = ()
        self._rows = np.empty(0, np.uint8)
        self._reference = np.empty(0, np.uint8)
        self._since_ns, self._same, self._stands, self._flat = 0, 0, False, False
        self._stamp_ns: int | None = None

    def see(self, image: np.ndarray, layout: str, now_ns: int, sensor_ns: int | None) -> None:
        """One more picture, in any of `Frame`'s formats. sensor_ns: as the backend gave it."""
        if not self._limit_ns:
            return
        stands = sensor_ns is not None and sensor_ns == self._stamp_ns
        self._stamp_ns = sensor_ns
        checksum = (layout, image.shape, self._sample(image))
        if checksum != self._checksum or not self._equals_reference(image, layout):
            self._checksum, self._since_ns, self._same, self._stands = checksum, now_ns, 0, True
        else:
            self._same += 1
            self._stands &= stands
        lasted_ns = now_ns - self._since_ns
        enough = self._same >= FEWEST and not self._flat
        self.repeated = enough and self._stands and lasted_ns >= min(REPEATED_NS, self._limit_ns)
        self.frozen = self.repeated or (enough and lasted_ns >= self._limit_ns)

    def _sample(self, image: np.ndarray) -> int:
        rows = image[:: max(image.shape[0] // ROWS, 1)]
        if self._rows.shape != rows.shape:
            self._rows = np.empty(rows.shape, np.uint8)
        np.copyto(self._rows, rows)
        return zlib.crc32(self._rows.data)

    def _equals_reference(self, image: np.ndarray, layout: str) -> bool:
        """Whether all pixels are those of the second of these pictures, which is kept when it comes."""
        if self._same:
            return cv2.norm(self._reference, image, cv2.NORM_INF) == 0
        if self._reference.shape != image.shape:
            self._reference = np.empty(image.shape, np.uint8)
        np.copyto(self._reference, image)
        luma = {"nv12": image[: image.shape[0] * 2 // 3], "yuyv": image[..., :1], "uyvy": image[..., -1:]}
        self._flat = bool((cv2.meanStdDev(luma.get(layout, image))[1] < FLAT_LEVELS).all())
        return True
