"""One kernel on arrays of the host: sent to a device, run, fetched, freed. For the driver double as for a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from pspnet.geometry import Geometry
from runtime.cuda import Device, DeviceBuffer, Stream
from runtime.cuda_kernels import Kernels
from runtime.cuda_pictures import BYTES_PER_PIXEL, DeviceLogits, DevicePicture
from runtime.cuda_tables import CameraTables, ClassCounts, Colours, InputTables, downloaded, uploaded
from runtime.frame import Frame

JUNK = 0xA7
"""What lies between rows, around pictures, and in outputs beforehand."""


class Bench:
    """An open device with its kernels and a stream."""

    def __init__(self, device: Device) -> None:
        self.device, self.kernels = device, Kernels(device)
        self.stream: Stream = device.stream()

    def preprocessed(
        self, frame: Frame, geometry: Geometry, mean: tuple[float, float, float], gap: int = 0, shift: int = 0
    ) -> np.ndarray:
        """The network's input of a frame whose rows are `gap` bytes apart, and that begins `shift` bytes late."""
        network = (3, *geometry.network_size, 3)
        tables = InputTables(self.device, geometry, mean)
        with self.buffers(with_junk(frame.image, gap, shift), np.full(network, JUNK, np.uint8)) as (source, target):
            picture = device_picture(frame, source.address + shift, gap)
            self.kernels.preprocess(self.stream, picture, tables, target, index=1)
            result = self.fetched(target, network)
        tables.free()
        assert (result[::2] == JUNK).all(), "other pictures of the batch were written to"
        return result[1]

    def labelled(
        self, logits: np.ndarray, geometry: Geometry, align_corners: bool = False, gap: int = 0,
        channels_last: bool = False,
    ) -> tuple[np.ndarray, float]:  # fmt: skip
        """Labels of logits (C, h, w) float16 or float32, rows `gap` bytes apart, and the share of uniform cells."""
        tables = CameraTables(self.device, geometry, logits.shape[1:], align_corners)
        with self.buffers(stored(logits, channels_last), outputs(geometry, gap)) as (source, target):
            given = device_logits(source, logits, channels_last)
            self.kernels.labels(self.stream, given, tables, target, pitch_bytes=gap and geometry.camera_size[1] + gap)
            result, share = self.fetched_rows(target, geometry, gap), tables.uniform_share()
        tables.free()
        return result, share

    def confidence(
        self, logits: np.ndarray, geometry: Geometry, align_corners: bool = False, probabilities: bool = False,
        gap: int = 0,
    ) -> np.ndarray:  # fmt: skip
        """Confidence levels at the camera's pixels."""
        tables = CameraTables(self.device, geometry, logits.shape[1:], align_corners, with_confidence=True)
        with self.buffers(logits, outputs(geometry, gap)) as (source, target):
            pitch_bytes = gap and geometry.camera_size[1] + gap
            given = device_logits(source, logits, False)
            self.kernels.confidence(self.stream, given, tables, target, probabilities, pitch_bytes)
            result = self.fetched_rows(target, geometry, gap)
        tables.free()
        return result

    def overlaid(
        self, frame: Frame, labels: np.ndarray, palette: Sequence[tuple[int, int, int]], alpha: float
    ) -> np.ndarray:
        """The class colours over a frame, in BGR; a BGR frame is changed in place."""
        colours = Colours(self.device, palette)
        with self.buffers(frame.image, labels, np.zeros((*frame.size, 3), np.uint8)) as (source, shown, target):
            bgr = source if frame.format == "bgr" else target
            picture = DevicePicture.of(frame, source.address)
            self.kernels.overlay(self.stream, picture, shown, colours, alpha, bgr)
            result = self.fetched(bgr, (*frame.size, 3))
        colours.free()
        return result

    def counted(self, labels: np.ndarray, gap: int = 0, times: int = 2) -> np.ndarray:
        """(256,) pixels of each label, counted `times` times with the same memory."""
        counts = ClassCounts(self.device)
        pitch_bytes = gap and labels.shape[1] + gap
        with self.buffers(with_junk(labels, gap, 0)) as (source,):
            for _ in range(times):
                self.kernels.class_counts(self.stream, source, labels.shape, counts, pitch_bytes)
            result = self.fetched(counts.counts, (256,), np.uint32)
        counts.free()
        return result

    @contextmanager
    def buffers(self, *arrays: np.ndarray) -> Iterator[list[DeviceBuffer]]:
        """The arrays on the device, for the `with` block."""
        kept = [uploaded(self.device, array) for array in arrays]
        try:
            yield kept
        finally:
            for buffer in kept:
                buffer.free()

    def fetched(self, buffer: DeviceBuffer, shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
        """What is in a buffer once the stream is done."""
        self.stream.synchronize()
        return downloaded(self.device, buffer, shape, dtype)

    def fetched_rows(self, buffer: DeviceBuffer, geometry: Geometry, gap: int) -> np.ndarray:
        """Rows that lie `gap` bytes apart, between which nothing was written."""
        height, width = geometry.camera_size
        result = self.fetched(buffer, (height, width + gap))
        assert (result[:, width:] == JUNK).all(), "bytes between the rows were written to"
        return result[:, :width]


def with_junk(image: np.ndarray, gap: int, shift: int) -> np.ndarray:
    """The image's bytes, `shift` bytes before it and `gap` bytes behind each row."""
    rows = np.full((len(image), image[0].size + gap), JUNK, np.uint8)
    rows[:, : image[0].size] = image.reshape(len(image), -1)
    return np.concatenate([np.full(shift, JUNK, np.uint8), rows.ravel()])


def outputs(geometry: Geometry, gap: int) -> np.ndarray:
    """Memory for one byte per pixel of the camera, full of junk."""
    return np.full((geometry.camera_size[0], geometry.camera_size[1] + gap), JUNK, np.uint8)


def device_picture(frame: Frame, address: int, gap: int) -> DevicePicture:
    """A frame that was sent with `with_junk`; NV12's chroma is named where it lies, at a pitch of its own name."""
    pitch = frame.size[1] * BYTES_PER_PIXEL[frame.format] + gap
    chroma = (address + frame.size[0] * pitch, pitch) if frame.format == "nv12" and gap else (0, 0)
    return DevicePicture(address, frame.format, frame.size, pitch, *chroma, frame.matrix, frame.full_range)


def stored(logits: np.ndarray, channels_last: bool) -> np.ndarray:
    """The logits in the order in which they lie in memory."""
    return np.ascontiguousarray(logits.transpose(1, 2, 0)) if channels_last else logits


def device_logits(buffer: DeviceBuffer, logits: np.ndarray, channels_last: bool) -> DeviceLogits:
    """Logits that were sent as `stored`."""
    classes, height, width = logits.shape
    strides = (1, width * classes, classes) if channels_last else None
    return DeviceLogits(buffer.address, (classes, height, width), logits.dtype.name, strides)
