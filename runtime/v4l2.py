"""USB cameras through OpenCV's V4L2 backend (Linux)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import cv2
import numpy as np

from pspnet.errors import PspnetError
from runtime.capture_errors import CaptureRefused

FORMATS = {"mjpg": "MJPG", "yuyv": "YUYV", "uyvy": "UYVY", "nv12": "NV12"}
NUMBERS = {"width": cv2.CAP_PROP_FRAME_WIDTH, "height": cv2.CAP_PROP_FRAME_HEIGHT, "fps": cv2.CAP_PROP_FPS}
FPS_TOLERANCE = 0.5  # cameras state 29.97 for 30


@dataclass
class Camera:
    """An open camera. size: (height, width) delivered; fps: None where the driver does not say; count: frames read."""

    device: Path
    capture: cv2.VideoCapture
    size: tuple[int, int]
    fps: float | None
    count: int = 0

    def read(self) -> np.ndarray:
        """The next frame, (H, W, 3) uint8 BGR; PspnetError where the camera gives none for ten seconds or is gone."""
        arrived, image = self.capture.read()
        if not arrived:
            raise PspnetError(
                f"camera {self.device} stopped after {self.count} frames: check its cable and power, or ask for "
                f"a smaller picture or rate; its modes: v4l2-ctl -d {self.device} --list-formats-ext"
            )
        self.count += 1
        return image


def open_camera(uri: str, rest: str) -> Camera:
    """The camera of a v4l2:// address; `rest` is what follows the scheme, as /dev/video0?width=1280&height=720.

    PspnetError where the device is absent or closed to us, and where it does not deliver exactly what was asked.
    """
    place, _, query = rest.partition("?")
    device, wanted = Path(place), _wanted(uri, query)
    capture, got = open_device(uri, device, wanted)
    return Camera(device, capture, (int(got["height"]), int(got["width"])), float(got["fps"]) or None)


def open_device(
    uri: str, device: Path, wanted: Mapping[str, str], buffers: int = 1
) -> tuple[cv2.VideoCapture, dict[str, str | float]]:
    """The open device set to the `wanted` width, height, fps and format, and those that it delivers.

    buffers: pictures that the driver may hold; 1 gives a slow reader the newest, 2 let a quick one miss none.
    CaptureRefused where it is absent or closed to us, and where it does not deliver exactly what was asked.
    """
    if not sys.platform.startswith("linux"):
        raise CaptureRefused(
            f"{uri}: v4l2 cameras need Linux, this is {sys.platform}. Give a clip, a folder or a photo",
            "missing_backend",
        )
    _check_device(uri, device)
    capture = cv2.VideoCapture(str(device), cv2.CAP_V4L2)
    try:
        if not capture.isOpened():
            raise CaptureRefused(
                f"camera {device} cannot be opened: it is in use or no camera. Find its user with: fuser {device}"
            )
        # The pixel format comes first: which sizes and rates there are depends on it.
        for name in sorted(wanted, key=lambda name: name != "format"):
            _set(capture, name, wanted[name])
        capture.set(cv2.CAP_PROP_BUFFERSIZE, buffers)
        got = _delivered(capture)
        _check_delivered(device, wanted, got)
    except BaseException:
        capture.release()
        raise
    return capture, got


def _wanted(uri: str, query: str) -> dict[str, str]:
    wanted = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in wanted.items():
        if name == "format" and value in FORMATS:
            continue
        if name not in NUMBERS or not value.isdecimal() or int(value) < 1:
            raise PspnetError(
                f"{uri}: {name}={value} is not understood: give width, height and fps as whole numbers and format as "
                f"{', '.join(FORMATS)}, for example v4l2:///dev/video0?width=1280&height=720&fps=30&format=mjpg"
            )
    return wanted


def _check_device(uri: str, device: Path) -> None:
    if not device.exists():
        present = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*"))) or "none"
        raise CaptureRefused(
            f"{uri}: {device} does not exist; video devices here: {present}. Plug the camera in", "no_device"
        )
    if not os.access(device, os.R_OK | os.W_OK):
        raise CaptureRefused(
            f"{uri}: no permission for {device}. Run: sudo usermod -aG video $USER, then log in again", "permission"
        )


def _set(capture: cv2.VideoCapture, name: str, value: str) -> None:
    if name == "format":
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*FORMATS[value]))  # type: ignore[attr-defined]
    else:
        capture.set(NUMBERS[name], int(value))


def _delivered(capture: cv2.VideoCapture) -> dict[str, str | float]:
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    letters = "".join(chr(code >> shift & 0xFF) for shift in (0, 8, 16, 24))
    return {"format": letters.lower(), **{name: capture.get(key) for name, key in NUMBERS.items()}}


def _check_delivered(device: Path, wanted: Mapping[str, str], got: dict[str, str | float]) -> None:
    for name, value in wanted.items():
        same = got[name] == value if name == "format" else abs(float(got[name]) - int(value)) < FPS_TOLERANCE
        unknown_rate = name == "fps" and not got["fps"]
        if not same and not unknown_rate:
            shown = got[name] if name == "format" else f"{got[name]:g}"
            raise CaptureRefused(
                f"camera {device} delivers {name} {shown} where {value} was asked. See its modes with: "
                f"v4l2-ctl -d {device} --list-formats-ext",
                "codec",
            )
