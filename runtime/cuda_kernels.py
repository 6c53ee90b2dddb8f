"""Launches of our kernels: picture to network input, logits to labels and confidence, labels to pictures and counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.cuda import Device, DeviceBuffer, Function, Module, PinnedArray, Stream
from runtime.cuda_pictures import LOGIT_TYPES, DeviceLogits, DevicePicture
from runtime.cuda_tables import LABELS, CameraTables, ClassCounts, Colours, InputTables
from runtime.frame import FORMATS
from runtime.kernel_cache import cubin

FUNCTIONS: dict[str, tuple[str, ...]] = {
    "preprocess": tuple(f"preprocess_{layout}" for layout in FORMATS),
    "labels": tuple(f"{name}_{dtype}" for name in ("cell_winners", "labels") for dtype in LOGIT_TYPES),
    "confidence": (*(f"confidence_peaks_{dtype}" for dtype in LOGIT_TYPES), "confidence"),
    "finite": tuple(f"find_infinite_{dtype}" for dtype in LOGIT_TYPES),
    "overlay": tuple(f"overlay_{layout}" for layout in FORMATS),
    "class_counts": ("class_counts", "sum_class_counts"),
}
"""Source -> the kernels in it."""
BLOCK = (32, 8)
FINDERS = (512, 32)  # threads along x and y that look for values that are no numbers
INPUT_ROWS = 4  # of the network's input that one thread writes, as in preprocess.cu
STRIP = (4, 32)  # columns and rows of labels that one thread counts, as in class_counts.cu

Place = DeviceBuffer | PinnedArray | int
"""A buffer, pinned memory that is mapped, or an address."""


class Kernels:
    """All kernels, compiled for a GPU and loaded. Nothing here allocates or waits; each call is work in a stream.

    PspnetError where they cannot be compiled. Calls whose sizes do not fit are a ValueError.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._functions: dict[str, Function] = {}
        self._modules: list[Module] = []
        for source, names in FUNCTIONS.items():
            module = device.load_module(cubin(source, device.compute_capability, device.driver_version))
            self._modules.append(module)
            self._functions.update((name, module.function(name)) for name in names)

    def free(self) -> None:
        """Unload them, when no stream runs any."""
        self._functions.clear()
        while self._modules:
            self._modules.pop().free()

    def preprocess(
        self, stream: Stream, picture: DevicePicture, tables: InputTables, network: Place, index: int = 0
    ) -> None:
        """Write the network's input (N, h, w, 3) uint8 RGB of picture number `index`, as `geometry.network_input`.

        Within one grey level of it.
        """
        _same_size(picture.size, tables.geometry.camera_size)
        height, width = tables.geometry.network_size
        self._launch(
            stream, f"preprocess_{picture.format}", (width, -(-height // INPUT_ROWS)), picture.view, tables.rows,
            tables.columns, np.int32(tables.row_step), np.int32(tables.column_step), np.uint32(tables.border),
            address_of(network) + index * height * width * 3, np.int32(height), np.int32(width),
        )  # fmt: skip

    def labels(
        self, stream: Stream, logits: DeviceLogits, tables: CameraTables, labels: Place, pitch_bytes: int = 0
    ) -> None:
        """Write labels (H, W) uint8 at the camera's pixels, those of `labels.from_logits_at_camera`.

        pitch_bytes: from one row to the next, 0 for none between.
        """
        _same_size(logits.shape[1:], tables.cells)
        winners = tables.winner_rows, tables.winner_columns
        self._launch(
            stream, f"cell_winners_{logits.dtype}", winners[::-1], logits.view, tables.winners,
            *(np.int32(side) for side in winners),
        )  # fmt: skip
        self._at_camera(stream, f"labels_{logits.dtype}", tables, (logits.view, tables.winners), labels, pitch_bytes)

    def confidence(
        self, stream: Stream, logits: DeviceLogits, tables: CameraTables, levels: Place, probabilities: bool = False,
        pitch_bytes: int = 0,
    ) -> None:  # fmt: skip
        """Write the winner's probability (H, W) uint8 at the camera's pixels, as `confidence.at_camera`.

        Within one level of it: exponentials differ in their last bit.
        """
        _same_size(logits.shape[1:], tables.cells)
        if tables.peaks is None:
            raise ValueError("these tables have no memory for confidence: make them with_confidence")
        height, width = tables.cells
        self._launch(
            stream, f"confidence_peaks_{logits.dtype}", (width, height), logits.view, np.int32(probabilities),
            tables.peaks,
        )  # fmt: skip
        self._at_camera(stream, "confidence", tables, (tables.peaks, np.int32(width)), levels, pitch_bytes)

    def find_infinite(self, stream: Stream, address: int, count: int, dtype: str, found: Place) -> None:
        """Write 1 to the byte `found` where one of `count` values from `address` on is NaN or infinite.

        dtype: float16 or float32.
        """
        self._launch(stream, f"find_infinite_{dtype}", FINDERS, address, np.uint64(count), address_of(found))

    def overlay(
        self, stream: Stream, picture: DevicePicture, labels: Place, colours: Colours, alpha: float, bgr: Place,
        labels_pitch_bytes: int = 0,
    ) -> None:  # fmt: skip
        """Write the picture (H, W, 3) uint8 BGR with the class colours over it, as `overlay.blend`; may be in place.

        Within one grey level of it.
        """
        height, width = picture.size
        self._launch(
            stream, f"overlay_{picture.format}", (width, height), picture.view, address_of(labels),
            np.int32(labels_pitch_bytes or width), colours.words, np.float32(alpha), address_of(bgr),
            np.int32(height), np.int32(width),
        )  # fmt: skip

    def class_counts(
        self, stream: Stream, labels: Place, size: tuple[int, int], counts: ClassCounts, pitch_bytes: int = 0
    ) -> None:
        """Count the pixels of each label of (H, W) uint8 into `counts.counts`."""
        height, width = size
        strips = -(-width // STRIP[0]), -(-height // STRIP[1])
        self._launch(
            stream, "class_counts", strips, address_of(labels), np.int32(pitch_bytes or width), np.int32(height),
            np.int32(width), counts.copies,
        )  # fmt: skip
        self.device.launch(self._functions["sum_class_counts"], (1,), (LABELS,), (counts.copies, counts.counts), stream)

    def _at_camera(
        self, stream: Stream, name: str, tables: CameraTables, given: Sequence[Any], target: Place, pitch_bytes: int
    ) -> None:
        """A kernel with one thread for each segment of each row of the camera."""
        height, width = tables.geometry.camera_size
        self._launch(
            stream, name, (tables.segment_count, height), *given, tables.rows, tables.segments, tables.column_weights,
            np.int32(tables.segment_count), np.int32(height), address_of(target), np.int32(pitch_bytes or width),
        )  # fmt: skip

    def _launch(self, stream: Stream, name: str, threads: tuple[int, int], *arguments: Any) -> None:
        """threads: along x and y, at least."""
        grid = [-(-count // side) for count, side in zip(threads, BLOCK, strict=True)]
        self.device.launch(self._functions[name], grid, BLOCK, arguments, stream)


def address_of(place: Place) -> int:
    """Where a buffer begins, or the address itself."""
    return place if isinstance(place, int) else place.device_address


def _same_size(got: tuple[int, ...], needed: tuple[int, ...]) -> None:
    if tuple(got) != tuple(needed):
        raise ValueError(f"the picture or map is {got}, the tables are for {needed}")
