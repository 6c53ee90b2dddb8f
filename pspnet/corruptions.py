"""Pictures as bad weather, bad light and bad links make them, to see what a network's score loses.

Strengths of noise, blur and JPEG are those of severity 1, 3 and 5 of ImageNet-C (Hendrycks and Dietterich,
"Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019, make_imagenet_c.py), in
pixels of the picture as it is; fog has the attenuation of Foggy Cityscapes (Sakaridis et al., IJCV 2018) on an assumed
road; dark is ours. A picture's noise follows from its file name, the corruption and the severity alone.
"""

from __future__ import annotations

import dataclasses
import zlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pspnet.dataset import Dataset
from pspnet.errors import PspnetError

SEVERITIES = (1, 2, 3)
NOISE_SIGMA = (0.08, 0.18, 0.38)  # of the range 0..1
BLUR_SIGMA = (1.0, 3.0, 6.0)  # pixels
JPEG_QUALITY = (25, 15, 7)
DARK_STOPS = (2, 3, 4)  # halvings of the light
DISPLAY_GAMMA = 2.2  # approximates sRGB
FOG_ATTENUATION = (0.005, 0.01, 0.02)  # per metre: visibility 600, 300 and 150 m
FOG_LIGHT = 230.0  # grey level of fog at infinite depth
FOG_NEAREST_M, FOG_FARTHEST_M = 5.0, 100.0  # at the lower border; from the horizon, the middle row, upwards


def noise(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """Gaussian noise of the sensor, independent for every pixel and band: clip(x + sigma * N(0, 1)), x in 0..1."""
    normal = np.random.default_rng([seed, severity]).standard_normal(image.shape, np.float32)
    return _as_uint8(image + 255 * NOISE_SIGMA[severity - 1] * normal)


def blur(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """A lens out of focus: convolution with a Gaussian, the border mirrored."""
    sigma = BLUR_SIGMA[severity - 1]
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def dark(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """An under-exposed picture: light, (x / 255) ^ 2.2, divided by 4, 8 or 16, and back; eight bits round what is left.

    A real camera at night adds noise and raises its gain; this has neither.
    """
    levels = np.arange(256) * 2.0 ** (-DARK_STOPS[severity - 1] / DISPLAY_GAMMA)  # the power of a product
    return cv2.LUT(image, _as_uint8(levels))


def fog(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """Koschmieder's law, x * t + A * (1 - t) with t = exp(-beta * depth), for the depth of an empty flat road.

    Rows at and above the middle are 100 m away; below it depth falls as 1 / (distance from the middle row), to 5 m at
    the lower border. Cars and houses that stand nearer than the road behind them get too much fog.
    """
    height = image.shape[0]
    below = np.maximum((np.arange(height) + 0.5) / height * 2 - 1, FOG_NEAREST_M / FOG_FARTHEST_M)
    transmission = np.exp(-FOG_ATTENUATION[severity - 1] * FOG_NEAREST_M / below)[:, None, None]
    return _as_uint8(image * transmission + FOG_LIGHT * (1 - transmission))


def jpeg(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """The picture after a round trip through JPEG of low quality."""
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY[severity - 1]])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded


CORRUPTIONS = {"noise": noise, "blur": blur, "dark": dark, "fog": fog, "jpeg": jpeg}
"""Name -> function of picture (H, W, 3) uint8 BGR, severity 1 to 3 and seed; the result is like the picture."""

STRENGTHS: dict[str, dict[str, Any]] = {
    "noise": {"sigma": NOISE_SIGMA}, "blur": {"sigma_px": BLUR_SIGMA}, "dark": {"stops": DARK_STOPS},
    "fog": {"attenuation_per_m": FOG_ATTENUATION}, "jpeg": {"quality": JPEG_QUALITY},
}  # fmt: skip
"""What figures must state: the strengths behind the severities."""


@dataclass(frozen=True)
class CorruptedDataset(Dataset):
    """A data set whose pictures are corrupted when they are read; the labels are the true ones."""

    corruption: str = "noise"
    severity: int = 1

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture (H, W, 3) uint8 BGR, corrupted, and labels (H, W) uint8."""
        image, labels = super().read(index)
        seed = zlib.crc32(self.images[index].name.encode())
        return CORRUPTIONS[self.corruption](image, self.severity, seed), labels


def corrupted(dataset: Dataset, corruption: str, severity: int) -> CorruptedDataset:
    """The same pairs with corrupted pictures."""
    same = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}
    return CorruptedDataset(**same, corruption=corruption, severity=severity)


def names_from_text(text: str) -> tuple[str, ...]:
    """Names of corruptions from text with commas, in its order."""
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in CORRUPTIONS]:
        raise PspnetError(f"unknown corruption {unknown[0]!r}: choose from {','.join(CORRUPTIONS)} with --corruptions")
    if len(set(names)) != len(names):
        raise PspnetError(f"corruptions are {text}: each may be there once. Correct --corruptions")
    return names


def _as_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
