"""Training augmentation on (picture, label map) pairs, from the functions of torchvision and OpenCV.

The order is hszhao/semseg's: scale, rotate, blur, flip, crop. Only what the crop needs is computed: where it lies is
drawn first, and blur, flip and colour come after it. That changes only the crop's two outermost pixels (blur) and the
mean grey level to which the contrast refers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from pspnet.geometry import Geometry
from pspnet.recipe import TrainConfig
from pspnet.spec import IGNORE, ModelSpec

CROP_TRIES = 10
"""Positions that are tried for cat_max_ratio (mmsegmentation RandomCrop)."""

BLUR_KERNEL = (5, 5)
"""hszhao/semseg util/transform.py: cv2.GaussianBlur(image, (5, 5), 0)."""

PHOTOMETRIC = {"brightness": (0.875, 1.125), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-0.05, 0.05)}
"""Ranges of torchvision's RandomPhotometricDistort, strength 1; hue in turns of the colour circle."""


class PhotometricDistort:
    """Changes brightness, contrast, saturation and hue of a picture (3, H, W) uint8, each with a chance of one half.

    Liu et al., SSD, as mmsegmentation and torchvision's RandomPhotometricDistort have it, with the ranges times
    `strength`. Unlike torchvision's it never swaps bands: no camera takes such a picture.
    """

    def __init__(self, strength: float) -> None:
        self.ranges = {}
        for name, (low, high) in PHOTOMETRIC.items():
            middle, half = (low + high) / 2, (high - low) / 2 * strength
            self.ranges[name] = (middle - half, middle + half)

    def __call__(self, picture: Tensor) -> Tensor:
        steps = [("brightness", F.adjust_brightness), ("saturation", F.adjust_saturation), ("hue", shift_hue)]
        steps.insert(1 if torch.rand(()) < 0.5 else 3, ("contrast", F.adjust_contrast))
        for name, adjust in steps:
            if torch.rand(()) < 0.5:
                picture = adjust(picture, _uniform(*self.ranges[name]))
        return picture


def shift_hue(picture: Tensor, turns: float) -> Tensor:
    """The picture (3, H, W) uint8 with its hues moved along the colour circle, in steps of 1/256 turn.

    OpenCV does in 8 bits what takes torchvision's adjust_hue fifty times as long in float32.
    """
    hsv = cv2.cvtColor(_array(picture), cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turns * 256) % 256)  # a byte is one turn, so that it wraps around as hues do
    return _tensor(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL))


@dataclass(frozen=True)
class View:
    """Which part of a pair the network sees: `size` pixels from (top, left) of the pair scaled to `scaled` and rotated.

    The rotation, in degrees counter-clockwise, is about the middle of the scaled pair. All sizes are (height, width).
    """

    scaled: tuple[int, int]
    angle: float
    top: int
    left: int
    size: tuple[int, int]

    def of(self, picture: Tensor, mode: v2.InterpolationMode, fill: list[int]) -> Tensor:
        """The view (C, *size) of a picture (C, H, W); `fill`, a value per band, where there is none."""
        if not self.angle:
            return _scaled_part(picture, self.scaled, (self.top, self.left), self.size, mode, fill)
        radians = math.radians(self.angle)
        cosine, sine = math.cos(radians), math.sin(radians)
        (height, width), (rows, columns) = self.size, self.scaled
        # The middle of the view, from the middle of the picture, before the rotation.
        y, x = self.top + height / 2 - rows / 2, self.left + width / 2 - columns / 2
        y, x = x * sine + y * cosine, x * cosine - y * sine
        # An upright part about it that holds the view whole, with two pixels to spare and the view in its middle.
        tall = height + 2 * math.ceil((height * abs(cosine) + width * abs(sine) - height) / 2 + 2)
        wide = width + 2 * math.ceil((width * abs(cosine) + height * abs(sine) - width) / 2 + 2)
        corner = round(y + rows / 2 - tall / 2), round(x + columns / 2 - wide / 2)
        part = _scaled_part(picture, self.scaled, corner, (tall, wide), mode, fill)
        turn: np.ndarray = cv2.getRotationMatrix2D(((wide - 1) / 2, (tall - 1) / 2), self.angle, 1)
        turn[:, 2] -= np.array([wide - width, tall - height]) / 2
        flags = cv2.INTER_LINEAR if mode == v2.InterpolationMode.BILINEAR else cv2.INTER_NEAREST
        rotated = cv2.warpAffine(_array(part), turn, (width, height), flags=flags, borderValue=fill)
        return _tensor(rotated.reshape(height, width, -1))


class TrainTransform:
    """Random scale, rotation, crop, blur, flip and photometric change, then normalisation.

    Takes a picture (3, H, W) uint8 RGB and labels (H, W) uint8; returns the picture (3, crop, crop) float32, normalised
    with the model's mean and std, and labels (crop, crop) int64. The scale is that of the model's `fit` times a random
    factor, so that training sees objects as large as inference does. Outside of the picture there is the mean, and 255
    in the labels (hszhao/semseg). All randomness is torch's.
    """

    def __init__(self, spec: ModelSpec, config: TrainConfig) -> None:
        self.spec, self.config = spec, config
        self.grey = [round(value) for value in spec.mean]
        self.photometric = PhotometricDistort(config.photometric)
        self.mean = torch.tensor(spec.mean).view(3, 1, 1)
        self.std = torch.tensor(spec.std).view(3, 1, 1)

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        view, truth = self._draw_view(labels)
        picture = view.of(image, v2.InterpolationMode.BILINEAR, self.grey)
        if torch.rand(()) < self.config.blur:
            picture = _tensor(cv2.GaussianBlur(_array(picture), BLUR_KERNEL, 0))
        if torch.rand(()) < self.config.flip:
            picture, truth = picture.flip(-1), truth.flip(-1)
        if self.config.photometric:
            picture = self.photometric(picture)
        return picture.contiguous().float().sub_(self.mean).div_(self.std), truth.long()

    def _draw_view(self, labels: Tensor) -> tuple[View, Tensor]:
        """A view and its labels: the first of some tries in which no class takes more than cat_max_ratio."""
        base = Geometry((labels.shape[0], labels.shape[1]), self.spec.input_size, self.spec.fit).resized
        factor = _uniform(self.config.smallest_scale, self.config.largest_scale)
        rows, columns = (max(round(side * factor), 1) for side in base)
        angle = _uniform(-self.config.rotate, self.config.rotate)
        crop = self.config.crop
        for _ in range(CROP_TRIES):
            view = View((rows, columns), angle, _position(rows, crop), _position(columns, crop), (crop, crop))
            truth = view.of(labels[None], v2.InterpolationMode.NEAREST_EXACT, [IGNORE])[0]
            if self.config.cat_max_ratio == 1 or _is_mixed(truth, self.config.cat_max_ratio):
                break
        return view, truth


def _scaled_part(
    picture: Tensor, scaled: tuple[int, int], corner: tuple[int, int], size: tuple[int, int],
    mode: v2.InterpolationMode, fill: list[int],
) -> Tensor:  # fmt: skip
    """`size` pixels from `corner` (top, left) of the picture (C, H, W) as if all of it were resized to `scaled`.

    The part is cut out at whole pixels of the original before it is resized, so it can lie half an original pixel off.
    """
    spans = [_span(*axis) for axis in zip(picture.shape[-2:], scaled, corner, size, strict=True)]
    out = torch.tensor(fill, dtype=picture.dtype).repeat(*size, 1).permute(2, 0, 1)
    if None not in spans:
        (from_y, into_y), (from_x, into_x) = spans  # type: ignore[misc]
        length = [into_y.stop - into_y.start, into_x.stop - into_x.start]
        out[:, into_y, into_x] = F.resize(picture[:, from_y, from_x], length, interpolation=mode, antialias=True)
    return out


def _span(length: int, scaled: int, start: int, size: int) -> tuple[slice, slice] | None:
    """Along one axis: what is cut from the original, and where it goes in the part. None where they do not meet."""
    first, last = max(start, 0), min(start + size, scaled)
    if first >= last:
        return None
    begin = min(round(first * length / scaled), length - 1)
    end = max(round(last * length / scaled), begin + 1)
    return slice(begin, end), slice(first - start, last - start)


def _position(length: int, size: int) -> int:
    """Where a crop of `size` begins on an axis: inside, or around a picture that is smaller."""
    low, high = sorted((0, length - size))
    return int(torch.randint(low, high + 1, ()))


def _is_mixed(labels: Tensor, ratio: float) -> bool:
    """Whether there are two classes or more and none has more than `ratio` of the labelled pixels."""
    counts = torch.bincount(labels.flatten(), minlength=IGNORE + 1)[:IGNORE]
    return bool(counts.max() < ratio * counts.sum()) and bool((counts > 0).sum() > 1)


def _array(picture: Tensor) -> np.ndarray:
    """(C, H, W) -> (H, W, C) for OpenCV, without a copy where the memory has this order already."""
    return picture.permute(1, 2, 0).contiguous().numpy()


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))
