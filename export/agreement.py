"""How far two label maps agree: overall, near the edges of areas, and class by class. Without torch."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from pspnet.spec import IGNORE

BAND = 2  # pixels on each side of an edge: where near-ties and misplaced upsampling show first


class Agreement:
    """Accumulates label maps of a reference and of another network; pixels that the reference leaves at 255 are out."""

    def __init__(self, class_names: tuple[str, ...], band: int = BAND) -> None:
        self.class_names, self.band = class_names, band
        self.pixels = np.zeros(len(class_names), np.int64)  # by the reference's class
        self.agreed = np.zeros(len(class_names), np.int64)
        self.band_pixels = self.band_agreed = 0

    def add(self, reference: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Count one pair of maps (H, W) uint8; returns where they differ, (H, W) bool."""
        seen = reference != IGNORE
        same = reference == other
        near = boundary_band(reference, self.band) & seen
        classes = len(self.class_names)
        self.pixels += np.bincount(reference[seen], minlength=classes)
        self.agreed += np.bincount(reference[seen & same], minlength=classes)
        self.band_pixels += int(near.sum())
        self.band_agreed += int((near & same).sum())
        return seen & ~same

    @property
    def share(self) -> float:
        """Share of the pixels that agree, 0..1; NaN where the reference has no pixel."""
        share = _share(int(self.agreed.sum()), int(self.pixels.sum()))
        return float("nan") if share is None else share

    def figures(self) -> dict[str, Any]:
        """Shares 0..1 of pixels that agree: overall, in the band along edges, and for each class of the reference.

        None for the band or a class without a pixel.
        """
        return {
            "pixels": int(self.pixels.sum()), "flips": int(self.pixels.sum() - self.agreed.sum()),
            "overall": self.share,
            "boundary_band": _share(self.band_agreed, self.band_pixels), "band_px": self.band,
            "per_class": {
                name: _share(int(agreed), int(pixels))
                for name, agreed, pixels in zip(self.class_names, self.agreed, self.pixels, strict=True)
            },
        }  # fmt: skip


def boundary_band(labels: np.ndarray, band: int) -> np.ndarray:
    """(H, W) bool: pixels with two classes or more in the square of `band` pixels around them; 255 is no class."""
    window = np.ones((2 * band + 1, 2 * band + 1), np.uint8)
    largest = cv2.dilate(np.where(labels == IGNORE, 0, labels).astype(np.uint8), window)
    return largest > cv2.erode(labels, window)


def percent(share: float | None, digits: int = 4) -> str:
    """A share 0..1 in per cent, or a dash for None. Only a share of 1 reads as 100: rounding must not hide a flip."""
    if share is None:
        return "-"
    return f"{100 * share if share == 1 else min(100 * share, 100 - 10**-digits):.{digits}f}"


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
