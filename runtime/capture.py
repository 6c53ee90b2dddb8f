"""One way to read one camera, whatever its kind.

A capture belongs to one thread, only `interrupt` may come from another. Opening is over when the first picture is
there. How well each backend keeps its deadlines by itself:

    kind            open                       read                        interrupt
    v4l2            1 s steps, and the         exactly; OpenCV before its  none, a read ends by its deadline
                    driver's own calls         waitAny in 1 s steps
    rtsp (FFmpeg)   exactly, and timeout_ms    timeout_ms without data     none, a blocked read ends by timeout_ms
                    without data
    clip            local file                 local file                  during the wait for a picture's time
    csi, gst, rtsp  exactly                    exactly                     at once: the pipeline is set to NULL
    (GStreamer)
    http            exactly                    exactly                     at once: the socket is shut down
    test            exactly, unless scripted   exactly, unless scripted    at once, unless scripted

A driver or daemon that hangs in a system call holds any of them, so cameras run in processes that can be ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runtime.camera_uri import CameraUri


@dataclass(frozen=True)
class Picture:
    """One picture as the camera gave it; fields as in `Frame`. The next read or close may overwrite the image."""

    image: np.ndarray
    format: str = "bgr"
    matrix: str = "601"
    full_range: bool = False
    sensor_ns: int | None = None


class Capture(Protocol):
    """An open camera. decoder: what decodes its pictures, for status and records."""

    decoder: str

    def read(self, deadline_s: float) -> Picture:
        """The next picture; CaptureTimeout, CaptureEnded or CaptureBroken where there is none within the deadline.

        After a timeout and after a corrupt picture it may be called again; after any other error the capture must be
        closed, and says so again.
        """
        ...

    def interrupt(self) -> None:
        """From any thread: makes a blocked read raise CaptureBroken soon, where the backend can."""
        ...

    def close(self) -> None:
        """Gives the camera back; may be called twice."""
        ...


def open_capture(uri: CameraUri, deadline_s: float, on_damaged: Callable[[], object] = lambda: None) -> Capture:
    """The camera of `uri`, with its first picture waiting; CaptureRefused or CaptureTimeout where there is none.

    on_damaged: called for each damaged picture that was passed over before the first sound one.
    """
    if uri.scheme == "test":
        from runtime.capture_test import open_test

        return open_test(uri, deadline_s)
    if uri.scheme == "v4l2":
        from runtime.capture_v4l2 import open_v4l2

        return open_v4l2(uri, deadline_s)
    if uri.scheme in ("http", "https"):
        from runtime.capture_mjpeg import open_mjpeg

        return open_mjpeg(uri, deadline_s, on_damaged)
    if uri.scheme in ("csi", "gst"):
        from runtime.capture_gstreamer import open_gstreamer

        return open_gstreamer(uri, deadline_s)
    if uri.scheme == "clip":
        from runtime.capture_clip import open_clip

        return open_clip(uri)
    if uri.options.get("decoder", "auto") != "ffmpeg":
        from runtime.capture_gstreamer import open_rtsp_on_jetson

        if (capture := open_rtsp_on_jetson(uri, deadline_s)) is not None:
            return capture
    from runtime.capture_ffmpeg import open_ffmpeg

    return open_ffmpeg(uri, deadline_s)
