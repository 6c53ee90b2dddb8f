"""The stages of a frame that run on our kernels, for kernel_floor.py: what each launches, moves and computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from pspnet.geometry import Geometry
from runtime.cuda import Device, Stream
from runtime.cuda_kernels import Kernels
from runtime.cuda_pictures import BYTES_PER_PIXEL, DeviceLogits, DevicePicture
from runtime.cuda_tables import CameraTables, ClassCounts, Colours, InputTables, uploaded

STRIDE = 8
LIMITS = {"preprocess": 1.5, "labels": 3.0}
"""Times the floor that we allow ourselves, at 1024x2048 with 19 classes."""
CAMERA = (1080, 1920)
MEAN = (123.675, 116.28, 103.53)
YUV_OPERATIONS, ROW_OPERATIONS, COLUMN_OPERATIONS = 21, 3, 9
"""Per pixel, with every row of the picture converted once: of two pixels and three bands a dot product, a product and a
shift, and three limits of two; a dot product for each band along the row; two products and a shift for each downwards.
"""
BLEND_OPERATIONS = 3
"""A difference, a product and a sum."""

Launch = Callable[[], None]


@dataclass(frozen=True)
class Stage:
    """One stage of a frame: its launches, what it moves at least, and its arithmetic instructions at least."""

    name: str
    launch: Launch
    read_bytes: int
    written_bytes: int
    operations: int

    @property
    def limit(self) -> float | None:
        """The ratio to the floor that it may have."""
        return LIMITS.get(self.name.split()[0])


def frame_stages(device: Device, stream: Stream, size: tuple[int, int], classes: int) -> tuple[list[Stage], float]:
    """The stages of a frame of `size`, camera as network, each in memory of its own; the share of uniform cells."""
    kernels = Kernels(device)
    after, share = after_network(device, kernels, stream, size, classes)
    return [*before_network(device, kernels, stream, size), *after], share


def before_network(device: Device, kernels: Kernels, stream: Stream, size: tuple[int, int]) -> Iterator[Stage]:
    """Preprocess, of pictures of the network's size and of a full HD camera."""
    pixels = size[0] * size[1]
    network = device.allocate(pixels * 3)
    for layout, camera in (("bgr", size), ("nv12", size), ("yuyv", size), ("bgr", CAMERA), ("nv12", CAMERA)):
        picture, nbytes = camera_picture(device, layout, camera)
        tables = InputTables(device, Geometry(camera, size), MEAN)

        def launch(picture: DevicePicture = picture, tables: InputTables = tables) -> None:
            kernels.preprocess(stream, picture, tables, network)

        name = f"preprocess {layout}" + ("" if camera == size else f" of {camera[0]}x{camera[1]}")
        operations = ROW_OPERATIONS + COLUMN_OPERATIONS + (YUV_OPERATIONS if layout != "bgr" else 0)
        yield Stage(name, launch, nbytes, pixels * 3, pixels * operations)


def after_network(
    device: Device, kernels: Kernels, stream: Stream, size: tuple[int, int], classes: int
) -> tuple[list[Stage], float]:
    """Labels and what may follow, and the share of uniform cells."""
    pixels, cells = size[0] * size[1], (-(-size[0] // STRIDE), -(-size[1] // STRIDE))
    found, sure, shown = (device.allocate(nbytes) for nbytes in (pixels, pixels, pixels * 3))
    values = smooth_logits((classes, *cells))
    logits = DeviceLogits(uploaded(device, values).address, (classes, *cells), "float16")
    tables = CameraTables(device, Geometry(size, size), cells, with_confidence=True)
    picture, nbytes = camera_picture(device, "bgr", size)
    colours, counts = Colours(device, [(20 * i % 256, 90, 200) for i in range(classes)]), ClassCounts(device)
    kernels.labels(stream, logits, tables, found)
    stream.synchronize()
    share = tables.uniform_share()
    at_head = classes * cells[0] * cells[1]
    ends = (1 - share) * size[0] * cells[1] * classes * 2  # of the lines of pixels across the other cells
    return [
        Stage(
            "labels", lambda: kernels.labels(stream, logits, tables, found), values.nbytes, pixels,
            3 * at_head + int(ends * (BLEND_OPERATIONS + 1)),
        ),
        Stage(
            "confidence", lambda: kernels.confidence(stream, logits, tables, sure), values.nbytes, pixels,
            3 * at_head + pixels * (BLEND_OPERATIONS + 1),
        ),
        Stage(
            "overlay", lambda: kernels.overlay(stream, picture, found, colours, 0.5, shown), nbytes + pixels,
            pixels * 3, pixels * 3 * BLEND_OPERATIONS,
        ),
        Stage("class counts", lambda: kernels.class_counts(stream, found, size, counts), pixels, 1024, pixels // 4),
    ], share  # fmt: skip


def camera_picture(device: Device, layout: str, size: tuple[int, int]) -> tuple[DevicePicture, int]:
    """Noise in a camera's format on the GPU, and its bytes."""
    nbytes = size[0] * size[1] * BYTES_PER_PIXEL[layout] * (3 if layout == "nv12" else 2) // 2
    image = np.random.default_rng(0).integers(0, 256, nbytes, dtype=np.uint8)
    return DevicePicture(uploaded(device, image).address, layout, size), nbytes


def smooth_logits(shape: tuple[int, int, int]) -> np.ndarray:
    """(C, h, w) float16: seeded noise smoothed over four cells."""
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return (100 * np.stack([cv2.GaussianBlur(plane, (0, 0), 4) for plane in noise])).astype(np.float16)
