"""Where pixels lie, worked out once for a Geometry and kept on the GPU: kernels look it up.

The numbers are those of the CPU's path, worked out by the same functions, so both paths agree.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pspnet.geometry import Geometry
from runtime.cuda import Device, DeviceBuffer
from runtime.labels import OUTSIDE, camera_axes
from runtime.overlay import Palette, colour_table

WEIGHT_BITS = 11  # of OpenCV's resize
SEGMENT_PIXELS = 16
"""Most pixels of a row that one thread fills."""
TAP = np.dtype([("first", np.int32), ("weights", np.uint32)])
ROW = np.dtype([("top", np.int32), ("bottom", np.int32), ("weight", np.float32), ("unused", np.int32)])
SEGMENT = np.dtype([(name, np.int32) for name in ("start", "stop", "left", "right")])
COUNT_COPIES, LABELS = 64, 256
KNOWN_COLOUR = 1 << 24


class DeviceTables:
    """Arrays on the GPU, one buffer each. Free them when no stream uses them any more."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffers: list[DeviceBuffer] = []

    def free(self) -> None:
        """Give the memory back."""
        while self._buffers:
            self._buffers.pop().free()

    def _kept(self, buffer: DeviceBuffer) -> DeviceBuffer:
        self._buffers.append(buffer)
        return buffer

    def _uploaded(self, array: np.ndarray) -> DeviceBuffer:
        return self._kept(uploaded(self._device, array))


class InputTables(DeviceTables):
    """For `Kernels.preprocess`: which pixels of the camera make each pixel of the network's input.

    mean: (red, green, blue) of the letterbox border, 0..255, as in a spec.
    """

    def __init__(self, device: Device, geometry: Geometry, mean: tuple[float, float, float]) -> None:
        super().__init__(device)
        self.geometry = geometry
        rows, columns = (_taps(geometry, axis) for axis in (0, 1))
        self.rows, self.columns = self._uploaded(rows), self._uploaded(columns)
        self.row_step, self.column_step = (int(length > 1) for length in geometry.view[2:])
        red, green, blue = (round(value) for value in mean)
        self.border = red | green << 8 | blue << 16


class CameraTables(DeviceTables):
    """For `Kernels.labels` and `Kernels.confidence`: between which logits each pixel of the camera lies.

    cells: (h, w) of the logits. It holds what a kernel leaves for the next one, too, so calls that use one of these
    belong into one stream. with_confidence: memory for `Kernels.confidence`.
    """

    def __init__(
        self, device: Device, geometry: Geometry, cells: tuple[int, int], align_corners: bool = False,
        with_confidence: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(device)
        self.geometry, self.cells, self.align_corners = geometry, cells, align_corners
        y_cell, y_weight, x_cell, x_weight, runs = camera_axes(geometry, cells, align_corners)
        rows = np.zeros(len(y_cell), ROW)
        rows["top"], rows["weight"] = y_cell, y_weight
        rows["bottom"] = np.minimum(y_cell + 1, cells[0] - 1)
        ends = np.union1d(runs, np.arange(0, len(x_cell), SEGMENT_PIXELS)).astype(np.int32)
        segments = np.zeros(len(ends) - 1, SEGMENT)
        segments["start"], segments["stop"], segments["left"] = ends[:-1], ends[1:], x_cell[ends[:-1]]
        segments["right"] = np.minimum(segments["left"] + 1, cells[1] - 1)
        self.rows, self.segments, self.column_weights = map(self._uploaded, (rows, segments, x_weight))
        self.segment_count = len(segments)
        self.winner_rows, self.winner_columns = (max(side - 1, 1) for side in cells)
        self.winners = self._kept(device.allocate(self.winner_rows * self.winner_columns))
        self.peaks = self._kept(device.allocate(4 * cells[0] * cells[1])) if with_confidence else None

    def uniform_share(self) -> float:
        """Share of the cells between four logits that the latest labels took whole, 0..1. It waits for the GPU."""
        winners = downloaded(self._device, self.winners, (self.winners.nbytes,), np.uint8)
        return float((winners != 255).mean())


class ClassCounts(DeviceTables):
    """For `Kernels.class_counts`: `counts` has the pixels of each of the 256 labels, uint32, on the GPU."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.copies = self._uploaded(np.zeros((COUNT_COPIES, LABELS), np.uint32))
        self.counts = self._uploaded(np.zeros(LABELS, np.uint32))


class Colours(DeviceTables):
    """A palette for `Kernels.overlay`."""

    def __init__(self, device: Device, palette: Palette) -> None:
        super().__init__(device)
        self.words = self._uploaded(colour_words(palette))


def colour_words(palette: Palette) -> np.ndarray:
    """(256,) uint32: blue, green and red of every label from bit 0 on, and a mark where it has a class."""
    table = colour_table(palette).astype(np.uint32)
    words = table[:, 0] | table[:, 1] << 8 | table[:, 2] << 16
    words[: len(palette)] |= KNOWN_COLOUR
    return words


def uploaded(device: Device, array: np.ndarray) -> DeviceBuffer:
    """A new buffer with the array's bytes; it waits for the copy."""
    array = np.ascontiguousarray(array)
    buffer, stream = device.allocate(array.nbytes), device.stream()
    device.copy_to_device(buffer, array.reshape(-1).view(np.uint8), stream)
    stream.synchronize()
    stream.free()
    return buffer


def downloaded(device: Device, source: DeviceBuffer | int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new array of what is at a place on the GPU now; it waits for the copy, and not for other streams."""
    array, stream = np.empty(shape, dtype), device.stream()
    device.copy_to_host(array, source, stream)
    stream.synchronize()
    stream.free()
    return array


def _taps(geometry: Geometry, axis: int) -> np.ndarray:
    """(network rows or columns,) TAP: the two camera pixels that OpenCV's bilinear resize takes, and their weights."""
    length, start = geometry.view[axis + 2], geometry.view[axis]
    resized, offset = geometry.resized[axis], geometry.offset[axis]
    index = np.arange(geometry.network_size[axis]) - offset
    position = ((index + 0.5) * (length / resized) - 0.5).astype(np.float32)
    # The last pixel is the second of its pair, so that both always exist where there are two.
    first = np.floor(position).clip(0, max(length - 2, 0)).astype(np.int32)
    second_weight = np.rint((position - first).clip(0, 1) * (1 << WEIGHT_BITS)).astype(np.uint32)
    taps = np.zeros(len(index), TAP)
    taps["first"] = np.where((index >= 0) & (index < resized), first + start, OUTSIDE)
    taps["weights"] = ((1 << WEIGHT_BITS) - second_weight) | second_weight << 16
    return taps
