"""rtsp:// cameras through OpenCV's FFmpeg, with what keeps a picture's age low, and errors that OpenCV hides.

Measured with a picture every 40 ms and a key picture every 2 s, against OpenCV's own settings: fpsprobesize=0 opens in
0.3 s instead of 1.1 s, because FFmpeg does not wait for 20 pictures to count their rate; one decoder thread takes a
picture's time (40 ms) off the age, because each further thread keeps one picture back. fflags=nobuffer is left out: it
loses the pictures read while opening, and with them up to 2 s until the next key picture; flags=low_delay never reaches
the decoder through OpenCV.

The sensor's time is the camera's stamp on our clock, as in runtime/sender_clock.py: not when light fell on the sensor,
but how much later than the quickest picture of the last seconds it came.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np

from runtime import rtsp_probe
from runtime.camera_uri import CameraUri
from runtime.capture import Picture
from runtime.capture_errors import CaptureBroken, CaptureError, CaptureRefused, CaptureTimeout
from runtime.sender_clock import SenderClock
from runtime.source import native_messages_hidden

OPTIONS_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
TIMEOUT_MS = 2000
RENAMED_TIMEOUT = 59
"""From this libavformat on, timeout is the socket's deadline; before, that was stimeout, and timeout meant a server."""

LATE_SHARE = 0.9  # a read that lasted this share of the deadline ended by it, and what it gives had been kept back
CODECS = {"avc1": "h264", "hev1": "hevc", "hvc1": "hevc", "MJPG": "mjpeg", "mjpe": "mjpeg"}
_environment = threading.Lock()


class FfmpegCapture:
    """An open stream whose first picture has come."""

    def __init__(self, uri: CameraUri, capture: cv2.VideoCapture, first: np.ndarray) -> None:
        self._uri, self._capture = uri, capture
        self._timeout_s = uri.number("timeout_ms", TIMEOUT_MS) / 1e3
        self._clock = SenderClock()
        self._over = False  # after a failed read the decoder takes nothing more
        self._first: Picture | None = self._stamped(first)
        self.decoder = f"FFmpeg {_codec_name(capture)} ({_acceleration(capture)})"

    def read(self, deadline_s: float) -> Picture:
        """As in `Capture`; without any data it ends after the address's timeout_ms, whatever the deadline."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._over:
            raise CaptureBroken(f"{self._uri}: the read was interrupted, or the stream had ended before")
        start = time.monotonic()
        arrived, image = self._capture.read()
        late = time.monotonic() - start >= LATE_SHARE * self._timeout_s
        self._over = self._over or late or not arrived
        if late:
            raise CaptureTimeout(f"{self._uri}: no data for {self._timeout_s:g} s. Check network and camera")
        if not arrived or image is None:
            raise CaptureBroken(f"{self._uri}: the connection broke, or nothing of the stream could be decoded")
        return self._stamped(image)

    def interrupt(self) -> None:
        """FFmpeg cannot be interrupted: a read that is blocked ends by timeout_ms, and the next one at once."""
        self._over = True

    def close(self) -> None:
        self._over = True
        self._capture.release()

    def _stamped(self, image: np.ndarray) -> Picture:
        captured_ns = time.monotonic_ns()
        position_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        stamp = self._clock.local_ns(round(position_ms * 1e6), captured_ns) if position_ms > 0 else None
        return Picture(image, sensor_ns=stamp)


def open_ffmpeg(uri: CameraUri, deadline_s: float) -> FfmpegCapture:
    """The stream of an rtsp:// or rtsps:// address."""
    end_s = time.monotonic() + deadline_s
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: its messages hold the URL with the password
    limit_ms = max(int(deadline_s * 1e3), 1)
    settings = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit_ms]
    if hasattr(cv2, "CAP_PROP_N_THREADS"):
        settings += [cv2.CAP_PROP_N_THREADS, uri.number("threads", 1)]
    with native_messages_hidden(), _options(uri):
        capture = cv2.VideoCapture(uri.url, cv2.CAP_FFMPEG, settings)
        opened = capture.isOpened()
        arrived, image = capture.read() if opened else (False, None)
    if arrived and image is not None:
        return FfmpegCapture(uri, capture, image)
    capture.release()
    raise _failure(uri, opened, end_s)


def _failure(uri: CameraUri, opened: bool, end_s: float) -> CaptureError:
    """Why FFmpeg gave no picture, asked of the server where there is time left."""
    codec = rtsp_probe.video_codec(uri, end_s)
    if codec == rtsp_probe.BASIC:
        return CaptureRefused(f"{uri}: user or password are wrong, or there is no such stream", "auth")
    if opened:
        return CaptureRefused(f"{uri}: no picture of its {codec} stream came that could be decoded", "codec")
    transport = "tcp" if uri.options.get("transport") == "udp" else "udp"
    return CaptureRefused(
        f"{uri}: the server describes a {codec} stream, which FFmpeg cannot open: try #transport={transport}, or see "
        "what ffprobe says of it"
    )


def capture_options(uri: CameraUri) -> str:
    """What OpenCV passes to FFmpeg, as name;value|name;value."""
    timeout_us = 1000 * uri.number("timeout_ms", TIMEOUT_MS)
    options = {
        "rtsp_transport": uri.options.get("transport", "tcp"),
        "timeout" if libavformat() >= RENAMED_TIMEOUT else "stimeout": str(timeout_us),
        "fpsprobesize": "0",
        "max_delay": "100000",  # microseconds that a UDP packet out of order is waited for
    }
    if uri.scheme == "rtsps" and uri.options.get("tls") != "unverified":
        import ssl

        options["tls_verify"] = "1"
        options["ca_file"] = uri.options.get("ca") or ssl.get_default_verify_paths().cafile or ""
    return "|".join(f"{name};{value}" for name, value in options.items() if value)


def libavformat() -> int:
    """The major version of the library in this OpenCV; 0 where it has no FFmpeg."""
    found = re.search(r"avformat:\s*YES \((\d+)", cv2.getBuildInformation())
    return int(found[1]) if found else 0


@contextlib.contextmanager
def _options(uri: CameraUri) -> Iterator[None]:
    """OpenCV reads the variable at each open; what the user has put there himself goes first."""
    with _environment:
        before = os.environ.get(OPTIONS_VARIABLE)
        os.environ[OPTIONS_VARIABLE] = before or capture_options(uri)
        try:
            yield
        finally:
            if before is None:
                del os.environ[OPTIONS_VARIABLE]


def _codec_name(capture: cv2.VideoCapture) -> str:
    code = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    letters = code.to_bytes(4, "little").decode("ascii", "replace").strip("\0 ")
    return CODECS.get(letters, letters) if letters.isalnum() else "of unknown codec"


def _acceleration(capture: cv2.VideoCapture) -> str:
    kind = int(capture.get(cv2.CAP_PROP_HW_ACCELERATION))
    names = {0: "software", 2: "D3D11", 3: "VAAPI", 4: "MFX", 5: "DRM"}
    return names.get(kind, f"hardware {kind}") if kind > 0 else "software"
