"""Geometry: where a camera pixel lies in the network's picture, and back.

Coordinates are continuous with pixel edges at integers, so the centre of pixel i is i + 0.5 (the half-pixel convention
of OpenCV's resize and of PyTorch's align_corners=False). On each axis  network = camera * scale + shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from pspnet.errors import PspnetError
from pspnet.spec import FITS, NetworkSpec

REGION_FORM = "write HEIGHTxWIDTH+TOP+LEFT in camera pixels, for example 540x960+180+160"


@dataclass(frozen=True)
class Geometry:
    """The affine map between a camera of `camera_size` and a network input of `network_size`, both (height, width).

    fit: stretch (fill, aspect not kept), letterbox (all of the picture, borders padded) or crop (fill, aspect kept,
    the longer sides cut). region: (top, left, height, width) in camera pixels that the network looks at; None for all.
    """

    camera_size: tuple[int, int]
    network_size: tuple[int, int]
    fit: str = "stretch"
    region: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise PspnetError(f"fit is {self.fit!r}: choose one of {', '.join(FITS)} with --fit")
        top, left, height, width = self.view
        if (
            min(top, left) < 0
            or min(height, width) < 1
            or (top + height > self.camera_size[0] or left + width > self.camera_size[1])
        ):
            raise PspnetError(
                f"region {height}x{width}+{top}+{left} is not inside the picture of "
                f"{self.camera_size[0]}x{self.camera_size[1]}: give HEIGHTxWIDTH+TOP+LEFT in camera pixels"
            )

    @property
    def view(self) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the camera picture that is resized."""
        return self.region or (0, 0, *self.camera_size)

    @cached_property
    def resized(self) -> tuple[int, int]:
        """(height, width) of the view after the resize, before padding or cutting to the network's size."""
        if self.fit == "stretch":
            return self.network_size
        ratios = [n / v for n, v in zip(self.network_size, self.view[2:], strict=True)]
        ratio = min(ratios) if self.fit == "letterbox" else max(ratios)
        height, width = (max(round(v * ratio), 1) for v in self.view[2:])
        return height, width

    @cached_property
    def offset(self) -> tuple[int, int]:
        """(top, left) of the resized view in the network's picture; negative where the view is cut."""
        (height, width), (rows, columns) = self.network_size, self.resized
        return (height - rows) // 2, (width - columns) // 2

    @property
    def axis_maps(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """((scale, shift) of the rows, (scale, shift) of the columns)."""
        maps = [
            (size / length, offset - start * size / length)
            for size, length, offset, start in zip(self.resized, self.view[2:], self.offset, self.view[:2], strict=True)
        ]
        return maps[0], maps[1]

    def network_from_camera(self, y: float, x: float) -> tuple[float, float]:
        """(y, x) in the network's picture of a point (y, x) in the camera's picture."""
        (sy, ty), (sx, tx) = self.axis_maps
        return y * sy + ty, x * sx + tx

    def camera_from_network(self, y: float, x: float) -> tuple[float, float]:
        """(y, x) in the camera's picture of a point (y, x) in the network's picture."""
        (sy, ty), (sx, tx) = self.axis_maps
        return (y - ty) / sy, (x - tx) / sx

    def logit_positions(
        self, cells: tuple[int, int], align_corners: bool = False
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For the rows, then the columns of the camera: (position, seen) of every pixel, both (pixels,).

        cells: (height, width) of the logits. position: float64 index of the pixel's centre among the logits, as
        PyTorch's interpolate defines it, clipped to them. seen: whether the network looked at the pixel.
        """
        positions = []
        for axis, (scale, shift) in enumerate(self.axis_maps):
            network, start, length = self.network_size[axis], self.view[axis], self.view[axis + 2]
            to_cells, offset = direct_map(network, cells[axis], align_corners)
            index = np.arange(self.camera_size[axis])
            centre = (index + 0.5) * scale + shift  # in the network's picture
            position = np.clip((centre - 0.5) * to_cells + offset, 0, cells[axis] - 1)
            seen = (index >= start) & (index < start + length) & (centre >= 0) & (centre <= network)
            positions.append((position, seen))
        return positions

    def network_image(
        self,
        image: np.ndarray,
        pad: tuple[int, int, int],
        out: np.ndarray | None = None,
        resized: np.ndarray | None = None,
    ) -> np.ndarray:
        """The network's picture (h, w, 3) uint8 of a camera picture (H, W, 3) uint8, bilinear, bands as they come.

        pad: value of the letterbox border, one per band. out: written and returned where given, else a new array.
        resized: (*self.resized, 3) uint8, memory for the picture before it is padded or cut; unused where it is not.
        """
        if image.shape[:2] != self.camera_size:
            raise PspnetError(f"picture is {image.shape[0]}x{image.shape[1]}, the geometry is for {self.camera_size}")
        out = np.empty((*self.network_size, 3), np.uint8) if out is None else out
        top, left, height, width = self.view
        seen = image[top : top + height, left : left + width]
        rows, columns = self.resized
        if self.resized == self.network_size:
            cv2.resize(seen, (columns, rows), dst=out, interpolation=cv2.INTER_LINEAR)
            return out
        resized = cv2.resize(seen, (columns, rows), dst=resized, interpolation=cv2.INTER_LINEAR)
        (into_y, from_y), (into_x, from_x) = (
            _overlap(o, r, n) for o, r, n in zip(self.offset, self.resized, self.network_size, strict=True)
        )
        if self.fit == "letterbox":
            out[:] = pad
        out[into_y, into_x] = resized[from_y, from_x]
        return out


def direct_map(pixels: int, cells: int, align_corners: bool) -> tuple[float, float]:
    """(scale, shift) from pixel index to logit index on an axis, as PyTorch's interpolate defines it."""
    if align_corners:
        return ((cells - 1) / (pixels - 1) if pixels > 1 else 0.0), 0.0
    return cells / pixels, 0.5 * cells / pixels - 0.5


def network_input(
    bgr: np.ndarray,
    geometry: Geometry,
    spec: NetworkSpec,
    out: np.ndarray | None = None,
    resized: np.ndarray | None = None,
) -> np.ndarray:
    """The network's input (h, w, 3) uint8 RGB of a picture (H, W, 3) uint8 BGR; letterbox borders are the mean.

    out, resized: memory, as for `Geometry.network_image`.
    """
    red, green, blue = (round(value) for value in spec.mean)
    picture = geometry.network_image(bgr, (blue, green, red), out, resized)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=picture)


def region_from_text(text: str) -> tuple[int, int, int, int]:
    """(top, left, height, width) from "HEIGHTxWIDTH+TOP+LEFT"."""
    try:
        size, top, left = text.split("+")
        height, width = size.lower().split("x")
        region = int(top), int(left), int(height), int(width)
        if min(region) < 0:
            raise ValueError("an area begins inside the picture")
    except ValueError:
        raise PspnetError(f"region is {text!r}: {REGION_FORM}") from None
    if 0 in region[2:]:
        raise PspnetError(f"region is {text!r}: height and width must be 1 or more; {REGION_FORM}")
    return region


def _overlap(offset: int, length: int, space: int) -> tuple[slice, slice]:
    """Slices into a space and from a strip of `length` that begins at `offset` in it."""
    start, stop = max(offset, 0), min(offset + length, space)
    return slice(start, stop), slice(start - offset, stop - offset)
