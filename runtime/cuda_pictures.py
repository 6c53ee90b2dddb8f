"""What kernels are told about pictures and logits: the structures of kernels/picture.cuh and kernels/logits.cuh."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from runtime import yuv
from runtime.frame import FORMATS, Frame

COLOUR_BITS = 10
BYTES_PER_PIXEL = {"bgr": 3, "rgb": 3, "grey": 1, "nv12": 1, "yuyv": 2, "uyvy": 2}
NO_COLOUR = (0, (0, 0, 0), (0, 0, 0))
LOGIT_TYPES = ("float16", "float32")
MOST_CLASSES = 255


class PictureView(ctypes.Structure):
    """`Picture` of picture.cuh."""

    _fields_ = [
        ("plane", ctypes.c_uint64), ("chroma", ctypes.c_uint64), ("pitch", ctypes.c_int),
        ("chroma_pitch", ctypes.c_int), ("luma", ctypes.c_int), ("weights", ctypes.c_int * 3),
        ("offset", ctypes.c_int * 3),
    ]  # fmt: skip


class LogitsView(ctypes.Structure):
    """`Logits` of logits.cuh."""

    _fields_ = [("data", ctypes.c_uint64)] + [
        (name, ctypes.c_int)
        for name in ("classes", "height", "width", "class_stride", "row_stride", "column_stride")
    ]  # fmt: skip


@dataclass(frozen=True)
class DevicePicture:
    """A camera's picture in memory that the GPU reads, in the camera's own format, as `Frame.image`.

    address: of its first byte. size: (height, width) in pixels. pitch_bytes: from one row to the next, 0 where nothing
    lies between. chroma_address, chroma_pitch_bytes: of NV12's U and V, 0 where they follow Y at its pitch. matrix,
    full_range: of a YUV format. Kernels read whole words, so up to 3 bytes behind its last one, in the same word.
    """

    address: int
    format: str
    size: tuple[int, int]
    pitch_bytes: int = 0
    chroma_address: int = 0
    chroma_pitch_bytes: int = 0
    matrix: str = "601"
    full_range: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format {self.format!r} is none of {', '.join(FORMATS)}")
        if self.format in yuv.FORMATS and (self.size[1] % 2 or (self.format == "nv12" and self.size[0] % 2)):
            raise ValueError(f"a {self.format} picture of {self.size}: its sides must be even")
        if self.pitch < self.size[1] * BYTES_PER_PIXEL[self.format]:
            raise ValueError(f"a pitch of {self.pitch} bytes is too short for {self.size[1]} pixels of {self.format}")
        if self.format in ("yuyv", "uyvy") and (self.address | self.pitch) % 4:
            raise ValueError(f"address and pitch of a {self.format} picture must be multiples of 4 bytes")
        if self.format == "nv12" and (self.view.chroma | self.view.chroma_pitch) % 2:
            raise ValueError("address and pitch of the chroma of an nv12 picture must be multiples of 2 bytes")

    @classmethod
    def of(cls, frame: Frame, address: int) -> DevicePicture:
        """The frame's picture, copied to or mapped at `address`."""
        return cls(address, frame.format, frame.size, 0, 0, 0, frame.matrix, frame.full_range)

    @property
    def pitch(self) -> int:
        """Bytes from one row to the next."""
        return self.pitch_bytes or self.size[1] * BYTES_PER_PIXEL[self.format]

    @cached_property
    def view(self) -> PictureView:
        """What kernels get."""
        luma, weights, offset = _colour(self.matrix, self.full_range) if self.format in yuv.FORMATS else NO_COLOUR
        chroma = self.chroma_address or self.address + self.size[0] * self.pitch
        return PictureView(
            self.address, chroma, self.pitch, self.chroma_pitch_bytes or self.pitch,
            luma, (ctypes.c_int * 3)(*weights), (ctypes.c_int * 3)(*offset),
        )  # fmt: skip


@dataclass(frozen=True)
class DeviceLogits:
    """A network's logits of one picture on the GPU.

    shape: (C, h, w), C at most 255. dtype: float16 or float32. strides: elements from one class, row and column to the
    next, None for (C, h, w) without gaps; (1, w * C, C) is channels last.
    """

    address: int
    shape: tuple[int, int, int]
    dtype: str = "float32"
    strides: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in LOGIT_TYPES:
            raise ValueError(f"logits of {self.dtype}: needed is float16 or float32")
        if min(self.shape) < 1 or self.shape[0] > MOST_CLASSES:
            raise ValueError(f"logits of shape {self.shape}: needed are 1 to {MOST_CLASSES} classes of at least 1x1")

    @cached_property
    def view(self) -> LogitsView:
        """What kernels get."""
        _, height, width = self.shape
        return LogitsView(self.address, *self.shape, *(self.strides or (height * width, width, 1)))


@lru_cache
def _colour(matrix: str, full_range: bool) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """`Colour` of picture.cuh: luma, then chroma and offset of red, green and blue; rounded as OpenCV does."""
    exact = yuv.bgr_matrix(matrix, full_range)[::-1] + np.array([0, 0, 0, 0.5])  # + 0.5: the shift rounds to nearest
    scaled = np.rint(exact * (1 << COLOUR_BITS)).astype(int).tolist()
    chroma = [(v << 16) + (u & 0xFFFF) for _, u, v, _ in scaled]
    offset = [constant + 128 * (u + v) for _, u, v, constant in scaled]
    return scaled[0][0], tuple(chroma), tuple(offset)
