"""Inputs for the kernels: pictures in every format, geometries of every fit, logits that are close to ties."""

from __future__ import annotations

import cv2
import numpy as np

from pspnet.geometry import Geometry
from runtime.frame import Frame

NETWORK = (24, 40)
GEOMETRIES = {
    "down": Geometry((38, 54), (16, 32)),
    "half": Geometry((48, 80), NETWORK),
    "up": Geometry((10, 14), (33, 47)),
    "same": Geometry(NETWORK, NETWORK),
    "letterbox rows": Geometry((38, 54), (24, 80), "letterbox"),
    "letterbox columns": Geometry((38, 54), (64, 20), "letterbox"),
    "crop": Geometry((38, 54), (24, 20), "crop"),
    "region": Geometry((38, 54), NETWORK, "stretch", (3, 5, 20, 31)),
    "region crop": Geometry((38, 54), (20, 50), "crop", (7, 0, 30, 47)),
    "region letterbox": Geometry((38, 54), (50, 21), "letterbox", (0, 11, 17, 43)),
    "one pixel": Geometry((38, 54), (5, 7), "stretch", (20, 31, 1, 1)),
    "one row": Geometry((38, 54), (5, 30), "stretch", (37, 0, 1, 54)),
    "smallest": Geometry((2, 2), (3, 5)),
    "to one": Geometry((38, 54), (1, 1)),
}
"""Even camera sizes, which every format has."""
ODD_GEOMETRIES = {
    "odd": Geometry((37, 53), (23, 31)),
    "odd letterbox": Geometry((53, 37), (40, 41), "letterbox"),
    "odd crop": Geometry((41, 67), (33, 21), "crop", (1, 2, 35, 61)),
    "one": Geometry((1, 1), (4, 3)),
    "column": Geometry((19, 1), (7, 6)),
}
"""Those of bgr, rgb and grey only."""
WIDE = Geometry((97, 213), (48, 104))
YUV_KINDS = [(matrix, full_range) for matrix in ("601", "709") for full_range in (False, True)]
MAPS = [
    (1, 3, 4), (2, 1, 1), (2, 5, 6), (3, 1, 7), (4, 6, 1), (11, 6, 10), (19, 12, 26), (32, 5, 9), (33, 4, 5),
    (150, 3, 4),
]  # fmt: skip
"""(C, h, w) of logits."""


def picture(layout: str, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Noise in which half of the values are 0 or 255, in a frame's layout."""
    shapes = {
        "grey": size, "nv12": (size[0] * 3 // 2, size[1]), "yuyv": (*size, 2), "uyvy": (*size, 2),
    }  # fmt: skip
    random = np.random.default_rng(seed)
    shape = shapes.get(layout, (*size, 3))
    ends = np.where(random.random(shape) < 0.5, 0, 255)
    return np.where(random.random(shape) < 0.5, ends, random.integers(0, 256, shape)).astype(np.uint8)


def frame(
    layout: str, size: tuple[int, int], matrix: str = "601", full_range: bool = False, seed: int = 0
) -> Frame:  # fmt: skip
    """A frame of `picture`."""
    return Frame(picture(layout, size, seed), layout, "test", 0, 0, 0, matrix=matrix, full_range=full_range)


def smooth(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """(C, h, w) float32 noise smoothed over two cells: regions with one class, as a network's logits have."""
    noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 10
    return np.stack([cv2.GaussianBlur(plane, (0, 0), 2) for plane in noise])


def rough(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """(C, h, w) float32 noise."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ties(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """(C, h, w) float32 of 0, 1 and 2: several classes are equal nearly everywhere."""
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.float32)


def near_ties(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """(C, h, w) float32: classes that are a few units in the last place apart, so that rounding decides."""
    random = np.random.default_rng(seed)
    base = random.uniform(-20, 20, (1, *shape[1:])).astype(np.float32)
    steps = random.integers(-3, 4, shape).astype(np.float32)
    return base + steps * np.spacing(np.abs(base))


def extreme(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """(C, h, w) float32 with infinities, NaN, the largest of float16, and numbers that are not normal."""
    random = np.random.default_rng(seed)
    rare = np.array([np.inf, -np.inf, np.nan, 65504, -65504, 6e-8, 1e-38, -1e-44, 0, -0.0], np.float32)
    return np.where(random.random(shape) < 0.1, random.choice(rare, shape), rough(shape, seed))


def tiny(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """(C, h, w) float32, a few of the smallest steps that there are: errors of rounding are no longer relative."""
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float32) * np.float32(1.4e-45)


LOGITS = {"smooth": smooth, "rough": rough, "ties": ties, "near ties": near_ties, "extreme": extreme, "tiny": tiny}
