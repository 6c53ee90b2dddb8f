"""A camera's JPEG pictures as BGR. OpenCV alone would fill what is missing with grey and say nothing."""

from __future__ import annotations

import cv2
import numpy as np

from runtime.capture_errors import CaptureBroken

START, END = b"\xff\xd8", b"\xff\xd9"
MOST_PIXELS = 64_000_000
"""More than any camera has; a header that promises more is damaged, and would cost gigabytes."""

DECODER = "OpenCV JPEG (software)"


def bgr_from_jpeg(data: bytes | bytearray | memoryview) -> np.ndarray:
    """(H, W, 3) uint8 BGR of a whole JPEG; CaptureBroken with cause corrupt where it is damaged or cut short."""
    data = bytes(data)
    size = size_of_jpeg(data)
    if size is None or data.rfind(END) < len(data) // 2:  # cameras pad with zeros behind the end
        raise _corrupt("cut short or no JPEG", len(data))
    if size[0] * size[1] > MOST_PIXELS:
        raise _corrupt(f"of {size[0]}x{size[1]} pixels", len(data))
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise _corrupt("not decodable", len(data))
    return image


def size_of_jpeg(data: bytes) -> tuple[int, int] | None:
    """(height, width) from a JPEG's frame header; None where there is none."""
    if not data.startswith(START):
        return None
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xFF:  # fill byte
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(data[place + at : place + at + 2], "big") for at in (5, 7))
            return (height, width) if height and width else None
        elif length < 2:
            return None
        else:
            place += 2 + length
    return None


def _corrupt(what: str, size_bytes: int) -> CaptureBroken:
    return CaptureBroken(f"a picture of {size_bytes} bytes arrived damaged: {what}", "corrupt")
