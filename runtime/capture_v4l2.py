"""V4L2 cameras, by an id that outlives unplugging, in the format in which they deliver.

YUYV, UYVY and NV12 are handed over as they are, MJPG is decoded here, so that a damaged picture is found, and any other
format becomes BGR in OpenCV. Matrix and range are what the driver states (VIDIOC_G_FMT), unless the address does.

The sensor's time is the time of the driver's buffer. The kernel asks drivers for the monotonic clock, and uvcvideo
gives the arrival of the picture's first byte: exposure and read-out lie before it. OpenCV does not hand on which clock
a driver used, so a time that does not lie within the last seconds of our monotonic clock is taken for none. Nor does it
hand on a raw picture's length: one that a driver cut short keeps what the buffer held before, and cannot be told.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import struct
import time
from pathlib import Path

import cv2
import numpy as np

from runtime import jpeg, v4l2, yuv
from runtime.camera_uri import CameraUri
from runtime.capture import Picture
from runtime.capture_errors import CaptureBroken, CaptureRefused, CaptureTimeout
from runtime.source import native_messages_hidden

BY_ID, BY_PATH = Path("/dev/v4l/by-id"), Path("/dev/v4l/by-path")
CLASS = Path("/sys/class/video4linux")
SELECT_TIMEOUT_S = 1  # OpenCV's own is 10 s, and it takes whole seconds
BUFFERS = 2
WAIT_ANY = getattr(cv2, "VideoCapture_waitAny", None)  # absent in the Python of older versions, such as 4.6
OLDEST_STAMP_NS = 5 * 10**9
ASKED = ("width", "height", "fps", "format")

GET_FORMAT, CAPTURE_TYPE = 0xC0D05604, 1  # VIDIOC_G_FMT and V4L2_BUF_TYPE_VIDEO_CAPTURE of linux/videodev2.h
FORMAT_BYTES, PIXEL_OFFSET = 208, 8
REC709_SPACES, JPEG_SPACE = (3,), 7  # V4L2_COLORSPACE_REC709, V4L2_COLORSPACE_JPEG
ENCODING_601, ENCODING_709, FULL_RANGE, LIMITED_RANGE = 1, 2, 1, 2

_stable: dict[str, CameraUri] = {}


class V4l2Capture:
    """An open device that streams, its first picture waiting."""

    def __init__(self, uri: CameraUri, device: Path, capture: cv2.VideoCapture, got: dict[str, str | float]) -> None:
        self._device, self._capture = device, capture
        self._size = int(got["height"]), int(got["width"])
        self._format = str(got["format"])
        self._raw = self._format in (*yuv.FORMATS, "mjpg") and bool(capture.set(cv2.CAP_PROP_CONVERT_RGB, 0))
        self._matrix, self._full_range = colour_of(uri, device)
        self._waiting = False  # a picture is grabbed and not yet given
        self.decoder = "none (raw)" if self._raw else "OpenCV (software)"
        if self._raw and self._format == "mjpg":
            self.decoder = jpeg.DECODER

    def start(self, deadline_s: float) -> None:
        """Begin to stream and wait for the first picture; the driver is asked in steps of SELECT_TIMEOUT_S."""
        start = time.monotonic()
        while not self._capture.grab():
            elapsed = time.monotonic() - start
            if elapsed < SELECT_TIMEOUT_S / 2:  # the driver failed at once, and did not wait in vain
                raise CaptureRefused(
                    f"camera {self._device} does not stream: another program may use it, or its bus have no room for "
                    f"this mode. Find its user with: fuser {self._device}"
                )
            if elapsed >= deadline_s:
                raise CaptureTimeout(f"camera {self._device} gave no picture within {elapsed:.1f} s of its start")
        self._waiting = True

    def read(self, deadline_s: float) -> Picture:
        if not self._waiting:
            start = time.monotonic()
            if not self._ready(deadline_s) or not self._capture.grab():
                waited_s = time.monotonic() - start
                if self._device.exists() and waited_s >= min(deadline_s, SELECT_TIMEOUT_S / 2):
                    raise CaptureTimeout(f"camera {self._device} gave no picture within {waited_s:.1f} s")
                raise CaptureBroken(f"camera {self._device} is gone: check its cable and power")
        captured_ns = time.monotonic_ns()
        self._waiting = False
        retrieved, image = self._capture.retrieve()
        if not retrieved or image is None:
            raise CaptureBroken(f"camera {self._device}: a picture arrived damaged", "corrupt")
        return self._picture(image, sensor_time(self._capture.get(cv2.CAP_PROP_POS_MSEC), captured_ns))

    def interrupt(self) -> None:
        """Without effect: OpenCV's V4L2 cannot be interrupted, and a read ends by its deadline."""

    def close(self) -> None:
        self._capture.release()

    def _ready(self, deadline_s: float) -> bool:
        """Whether a picture waits; without WAIT_ANY the next grab finds out, within SELECT_TIMEOUT_S."""
        if WAIT_ANY is None:
            return True
        try:
            return bool(WAIT_ANY([self._capture], max(int(deadline_s * 1e9), 1))[0])
        except cv2.error:  # the device reports an error
            return False

    def _picture(self, image: np.ndarray, sensor_ns: int | None) -> Picture:
        if not self._raw:
            return Picture(image, sensor_ns=sensor_ns)
        if self._format == "mjpg":
            return Picture(jpeg.bgr_from_jpeg(image.tobytes()), sensor_ns=sensor_ns)
        height, width = self._size
        shape = (height * 3 // 2, width) if self._format == "nv12" else (height, width, 2)
        if image.size != height * width * (3 if self._format == "nv12" else 4) // 2:
            raise CaptureBroken(f"camera {self._device}: a picture of {image.size} bytes is no {shape}", "corrupt")
        return Picture(image.reshape(shape), self._format, self._matrix, self._full_range, sensor_ns)


def open_v4l2(uri: CameraUri, deadline_s: float) -> V4l2Capture:
    """The device of a v4l2:// address, streaming in the mode that was asked for.

    A device that was found once is looked for by its stable id from then on, in this process.
    """
    found = stable_uri(_stable.get(uri.address, uri))
    _stable[uri.address] = found
    device = Path(found.address)
    wanted = {name: uri.options[name] for name in ASKED if name in uri.options}
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(SELECT_TIMEOUT_S))
    with native_messages_hidden():
        device_capture, got = v4l2.open_device(str(uri), device, wanted, BUFFERS)
        capture = V4l2Capture(uri, device, device_capture, got)
        try:
            capture.start(deadline_s)
        except BaseException:
            capture.close()
            raise
    return capture


def stable_uri(uri: CameraUri) -> CameraUri:
    """The same camera by /dev/v4l/by-id, or by-path where a twin has the same id; `uri` itself where it has neither.

    A camera that is plugged in again may get another number, but keeps its id and, in the same socket, its path.
    """
    device = Path(uri.address)
    if uri.scheme != "v4l2" or device.parent in (BY_ID, BY_PATH) or not device.exists():
        return uri
    real = device.resolve()
    for folder in (BY_PATH,) if has_twin(real) else (BY_ID, BY_PATH):
        links = sorted(folder.iterdir()) if folder.is_dir() else []
        for link in links:
            if link.resolve() == real:
                return dataclasses.replace(uri, address=str(link))
    return uri


def has_twin(device: Path) -> bool:
    """Whether another device has the same name and part, so that one id may stand for both."""

    def identity(name: str) -> tuple[str, ...]:
        return tuple(_text(CLASS / name / part) for part in ("name", "index"))

    mine = identity(device.name)
    names = [path.name for path in CLASS.iterdir()] if CLASS.is_dir() else []
    return mine != ("", "") and any(name != device.name and identity(name) == mine for name in names)


def colour_of(uri: CameraUri, device: Path) -> tuple[str, bool]:
    """(matrix, full_range) of the device's YUV, from the address, else from the driver, else BT.601 limited."""
    matrix, full_range = "601", False
    with contextlib.suppress(OSError):
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK)
        try:
            block = bytearray(struct.pack("I", CAPTURE_TYPE).ljust(FORMAT_BYTES, b"\0"))
            fcntl.ioctl(descriptor, GET_FORMAT, block)
            matrix, full_range = colour_from_format(block)
        finally:
            os.close(descriptor)
    stated = uri.options.get("range")
    return uri.options.get("matrix", matrix), stated == "full" if stated else full_range


def colour_from_format(block: bytes | bytearray) -> tuple[str, bool]:
    """(matrix, full_range) of a v4l2_format, with the defaults of the kernel's V4L2_MAP_… for what it leaves open."""
    fields = struct.unpack_from("12I", block, PIXEL_OFFSET)
    space, encoding, quantisation = fields[6], fields[9], fields[10]
    default = ENCODING_709 if space in REC709_SPACES else ENCODING_601
    full = quantisation == FULL_RANGE or (quantisation != LIMITED_RANGE and space == JPEG_SPACE)
    return ("709" if (encoding or default) == ENCODING_709 else "601"), full


def sensor_time(position_ms: float, captured_ns: int) -> int | None:
    """Nanoseconds of the monotonic clock from OpenCV's position; None where it cannot be of that clock."""
    stamp_ns = round(position_ms * 1e6)
    return stamp_ns if 0 < captured_ns - stamp_ns <= OLDEST_STAMP_NS else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
