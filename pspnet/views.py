"""What a picture's views say about its pixels: the whole picture at one size, or overlapping windows at one scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np

from pspnet.errors import PspnetError
from pspnet.geometry import Geometry, direct_map, network_input
from pspnet.spec import NetworkSpec


class Network(Protocol):
    """What is asked of a runner; units and shapes are those of `runtime.runner.Runner`."""

    @property
    def spec(self) -> NetworkSpec: ...

    @property
    def gives(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def engine(self) -> str: ...

    @property
    def precision(self) -> str: ...

    def infer(self, images: np.ndarray) -> np.ndarray: ...

    def at_size(self, size: tuple[int, int]) -> Network: ...


def check_finite(output: np.ndarray, network: Network) -> None:
    """PspnetError where the logits or probabilities of `network` hold NaN or infinity: labels of them mean nothing.

    NaN wins every minimum and maximum, and unlike a sum neither overflows: two passes tell, and allocate nothing.
    """
    if not (math.isfinite(output.min()) and math.isfinite(output.max())):
        kind = getattr(network.spec, "output_kind", "logits")
        raise PspnetError(
            f"{network.name} gives {kind} that are NaN or infinite ({network.engine}, {network.precision}), so its "
            "labels mean nothing. Use a sound checkpoint, or export again from one"
        )


def window_starts(length: int, window: int, stride: float) -> list[int]:
    """First pixels of the windows on an axis of `length` >= `window`: every pixel is covered, the last is flush."""
    step = math.ceil(window * stride)
    count = math.ceil((length - window) / step) + 1
    return [min(index * step, length - window) for index in range(count)]


class Whole:
    """Logits of one picture at one size of the network, and the probabilities of its pixels, row by row.

    row_values: float32 values that one row of the picture takes.
    """

    def __init__(self, network: Network, image: np.ndarray, fit: str, flip: bool) -> None:
        spec = network.spec
        geometry = Geometry((image.shape[0], image.shape[1]), spec.input_size, fit)
        self._logits = logits_of(network, network_input(image, geometry, spec), flip)
        self._normalise = _normaliser(spec)
        rows, columns = geometry.logit_positions(self._logits[0].shape[1:], spec.align_corners)
        self._up_rows, self._up_columns = _bilinear(rows[0], columns[0], self._logits[0].shape[1:])
        self._seen = rows[1], columns[1]
        self.row_values = len(self._logits[0]) * image.shape[1]

    def probabilities(self, start: int, stop: int) -> np.ndarray:
        """(C, stop - start, W) float32 of the picture's rows from start to stop."""
        return _mean(self._logits, self._up_rows[start:stop], self._up_columns, self._normalise)

    def seen(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, W) bool: where the network looked."""
        return self._seen[0][start:stop, None] & self._seen[1]


class Windows:
    """Logits of all windows of one picture at one scale, and the probabilities of its pixels, row by row.

    row_values: float32 values that one row of the picture takes.
    """

    def __init__(self, network: Network, image: np.ndarray, scale: float, stride: float, flip: bool) -> None:
        spec, (height, width) = network.spec, image.shape[:2]
        self._crop, self._camera_width = spec.input_size, width
        self._size = rows, columns = scaled_size((height, width), scale)
        scaled = image if scale == 1 else cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
        missing = [max(crop - side, 0) for crop, side in zip(self._crop, self._size, strict=True)]
        self._top, self._left = (side // 2 for side in missing)
        red, green, blue = (round(value) for value in spec.mean)
        padded = cv2.copyMakeBorder(
            scaled, self._top, missing[0] - self._top, self._left, missing[1] - self._left, cv2.BORDER_CONSTANT,
            value=(blue, green, red),
        )  # fmt: skip
        rgb = cv2.cvtColor(padded, cv2.COLOR_BGR2RGB)
        starts = [window_starts(rgb.shape[axis], self._crop[axis], stride) for axis in (0, 1)]
        self._windows = [
            (y, x, logits_of(network, rgb[y : y + self._crop[0], x : x + self._crop[1]], flip))
            for y in starts[0]
            for x in starts[1]
        ]
        cells = self._windows[0][2][0].shape
        maps = [direct_map(self._crop[axis], cells[axis + 1], spec.align_corners) for axis in (0, 1)]
        positions = [np.arange(self._crop[axis]) * maps[axis][0] + maps[axis][1] for axis in (0, 1)]
        self._up_rows, self._up_columns = _bilinear(positions[0], positions[1], cells[1:])
        self._normalise, self._classes = _normaliser(spec), cells[0]
        self._shares = [_shares(starts[axis], self._crop[axis], rgb.shape[axis]) for axis in (0, 1)]
        self._low, self._high, self._weight = _row_pairs(height, rows)
        self.row_values = cells[0] * max(rgb.shape[1], width) * max(1, math.ceil(rows / height))

    def probabilities(self, start: int, stop: int) -> np.ndarray:
        """(C, stop - start, W) float32 of the picture's rows from start to stop."""
        first, last = self._low[start], self._high[stop - 1] + 1
        scaled = self._scaled_rows(self._top + first, self._top + last)[..., self._left : self._left + self._size[1]]
        low, high = (each[start:stop] - first for each in (self._low, self._high))
        rows = scaled
        if self._weight[start:stop].any() or len(low) != scaled.shape[1]:
            rows = scaled[:, low]
            rows += self._weight[start:stop, None] * (scaled[:, high] - rows)
        if self._size[1] == self._camera_width:
            return np.ascontiguousarray(rows)
        target = self._camera_width, stop - start  # as many rows as there are: OpenCV leaves them alone
        return np.stack([cv2.resize(plane, target, interpolation=cv2.INTER_LINEAR) for plane in rows])

    def seen(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, W) bool: windows cover every pixel."""
        return np.ones((stop - start, self._camera_width), bool)

    def _scaled_rows(self, start: int, stop: int) -> np.ndarray:
        """(C, stop - start, width) float32: means over the windows, of rows of the scaled and padded picture."""
        total = np.zeros((self._classes, stop - start, len(self._shares[1])), np.float32)
        height, width = self._crop
        for y, x, logits in self._windows:
            top, bottom = max(start, y), min(stop, y + height)
            if top < bottom:
                part = _mean(logits, self._up_rows[top - y : bottom - y], self._up_columns, self._normalise)
                total[:, top - start : bottom - start, x : x + width] += part
        total *= self._shares[0][start:stop, None] * self._shares[1]
        return total


def logits_of(network: Network, rgb: np.ndarray, flip: bool) -> list[np.ndarray]:
    """[(C, h, w) float32] of an input (h, w, 3) uint8 RGB and, with flip, of its mirror image, mirrored back.

    PspnetError where they are not finite.
    """
    found = [np.array(network.infer(np.ascontiguousarray(rgb)[None])[0], np.float32)]
    if flip:
        mirrored = network.infer(np.ascontiguousarray(rgb[:, ::-1])[None])[0]
        found.append(np.ascontiguousarray(mirrored[..., ::-1], np.float32))
    for logits in found:
        check_finite(logits, network)
    return found


def _mean(logits: Sequence[np.ndarray], up_rows: np.ndarray, up_columns: np.ndarray, normalise: bool) -> np.ndarray:
    """(C, rows, columns) float32: mean probabilities of maps (C, h, w) at the pixels of the two matrices."""
    total: np.ndarray | None = None
    for each in logits:
        values = np.matmul(np.matmul(up_rows, each), up_columns)
        if normalise:
            values -= values.max(0)
            np.exp(values, out=values)
            values /= values.sum(0)
        total = values if total is None else np.add(total, values, out=total)
    assert total is not None
    return total if len(logits) == 1 else np.multiply(total, 1 / len(logits), out=total)


def _normaliser(spec: NetworkSpec) -> bool:
    """Whether the softmax is still to come: a guest may give probabilities."""
    return getattr(spec, "output_kind", "logits") != "probabilities"


def _bilinear(rows: np.ndarray, columns: np.ndarray, cells: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Matrices U (H, h) and V (w, W) float32 such that U @ logits @ V is the map (h, w) at the given positions."""
    matrices = []
    for position, count in zip((rows, columns), cells, strict=True):
        position = np.clip(position, 0, count - 1)
        low = np.minimum(position.astype(np.int64), max(count - 2, 0))
        matrix, index = np.zeros((len(position), count), np.float32), np.arange(len(position))
        matrix[index, np.minimum(low + 1, count - 1)] = position - low
        matrix[index, low] += 1 - (position - low)
        matrices.append(matrix)
    return matrices[0], np.ascontiguousarray(matrices[1].T)


def _shares(starts: Sequence[int], window: int, length: int) -> np.ndarray:
    """(length,) float32: one over the number of windows that cover each pixel of an axis."""
    counts = np.zeros(length, np.float32)
    for start in starts:
        counts[start : start + window] += 1
    return 1 / counts


def _row_pairs(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every row of `pixels`: the two rows among `cells` it lies between and the share of the second, float32."""
    scale, shift = direct_map(pixels, cells, False)
    position = np.clip(np.arange(pixels) * scale + shift, 0, cells - 1)
    low = position.astype(np.int64)
    return low, np.minimum(low + 1, cells - 1), (position - low).astype(np.float32)


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(height, width) whose longer side is `scale` times that of `size`; the other keeps the aspect of whole pixels."""
    longer = max(round(max(size) * scale), 1)
    height, width = (max(round(longer / max(size) * side), 1) for side in size)
    return height, width
