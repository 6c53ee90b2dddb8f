"""The picture of a test:// camera: something like a road that moves, with a sensor's noise and what may befall it."""

from __future__ import annotations

import cv2
import numpy as np

from runtime import frame_code, yuv

NOISE_LEVELS, NOISE_PLAY = 4, 64
SHIFT_PIXELS = 4  # of the scene from one picture to the next
DARK_SHARE = 0.06


class Pattern:
    """Pictures of one size, drawn into the same memory again and again.

    look: still, dark, black, white or cover, else as usual. Equal size, seed, sequence and look give equal pictures.
    """

    def __init__(self, size: tuple[int, int], seed: int = 0, code: bool = True) -> None:
        height, width = size
        self.code = code
        self._scene = _scene(height, width)
        generator = np.random.default_rng(seed)
        play = (height + NOISE_PLAY, width + NOISE_PLAY, 3)
        self._noise = generator.integers(0, NOISE_LEVELS + 1, play, np.uint8)
        self._bgr = np.empty((height, width, 3), np.uint8)

    def draw(self, sequence: int, look: str = "", scene: np.ndarray | None = None) -> np.ndarray:
        """(H, W, 3) uint8 BGR, valid until the next call. scene: a picture in place of the road, of any size."""
        height, width = self._bgr.shape[:2]
        if look in ("black", "white"):
            self._bgr[:] = 0 if look == "black" else 255
            return self._bgr
        if look == "cover":
            self._bgr[:] = (30, 40, 60)
        elif scene is not None:
            cv2.resize(scene, (width, height), dst=self._bgr, interpolation=cv2.INTER_AREA)
        else:
            start = 0 if look == "still" else SHIFT_PIXELS * sequence % width
            np.copyto(self._bgr, self._scene[:, start : start + width])
        if self.code and look != "cover":
            frame_code.draw(self._bgr, sequence)
        top, left = sequence * 37 % NOISE_PLAY, sequence * 23 % NOISE_PLAY
        noise = self._noise[top : top + height, left : left + width]
        if look == "dark":
            cv2.convertScaleAbs(self._bgr, dst=self._bgr, alpha=DARK_SHARE)
        return cv2.add(self._bgr, noise, dst=self._bgr)


def packed_from_bgr(bgr: np.ndarray, layout: str, matrix: str, full_range: bool) -> np.ndarray:
    """A picture (H, W, 3) uint8 with even sides in one of `yuv.FORMATS`; chroma is the mean of its pixels."""
    height, width = bgr.shape[:2]
    inverse = np.linalg.inv(np.vstack([yuv.bgr_matrix(matrix, full_range), [0, 0, 0, 1]]))[:3]
    planes = cv2.transform(bgr, inverse)
    luma, chroma = planes[:, :, 0], np.ascontiguousarray(planes[:, :, 1:])
    if layout == "nv12":
        halved = cv2.resize(chroma, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        return np.concatenate([luma, halved.reshape(height // 2, width)])
    halved = cv2.resize(chroma, (width // 2, height), interpolation=cv2.INTER_AREA).reshape(height, width)
    return np.stack([luma, halved] if layout == "yuyv" else [halved, luma], axis=2)


def _scene(height: int, width: int) -> np.ndarray:
    """(H, 2 W, 3) uint8: sky, houses and a road with marks; its right half repeats the left."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    sky = np.stack([230 - 60 * rows / height, 190 - 40 * rows / height, np.full_like(rows, 150)], axis=2)
    houses = 90 + 60 * np.sin(columns * 16 * np.pi / width)[..., None] * np.array([1, 0.5, -0.5], np.float32)
    road = np.where((columns * 8 // width % 2 == 0)[..., None], 90.0, 105.0) + np.zeros(3, np.float32)
    horizon, kerb = (rows / height)[..., None], 0.6
    scene = np.where(horizon < 0.35, sky, np.where(horizon < kerb, houses, road))
    scene[(np.abs(rows / height - 0.8) < 0.02) & (columns * 8 // width % 2 == 0)] = 220
    scene = np.clip(scene, 0, 255).astype(np.uint8)
    return np.concatenate([scene, scene], axis=1)
