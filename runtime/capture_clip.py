"""clip:// and --realtime: a clip whose pictures come at their own time, and are lost to who is late."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pspnet.errors import PspnetError
from runtime.camera_uri import CameraUri
from runtime.capture import Picture
from runtime.capture_errors import CaptureBroken, CaptureEnded, CaptureRefused, CaptureTimeout
from runtime.frame import Frame
from runtime.source import Source, open_source


class ClipCapture:
    """A clip in real time. Its end is CaptureEnded, unless it is played again and again."""

    decoder = "FFmpeg (software)"

    def __init__(self, source: Source, fps: float, loop: bool) -> None:
        self._source, self._fps, self._loop = source, fps, loop
        self._frames: Iterator[Frame] = iter(source)
        self._interrupted = threading.Event()
        self._given, self._start_ns = 0, 0

    def read(self, deadline_s: float) -> Picture:
        self._start_ns = self._start_ns or time.monotonic_ns()
        due_ns = self._start_ns + int(self._given * 1e9 / self._fps)
        wait_s = (due_ns - time.monotonic_ns()) / 1e9
        if self._interrupted.wait(min(max(wait_s, 0), deadline_s)):
            raise CaptureBroken("the read was interrupted")
        if wait_s > deadline_s:
            raise CaptureTimeout(f"{self._source.name}: its next picture is due later than the deadline")
        late = int((time.monotonic_ns() - due_ns) / 1e9 * self._fps)
        for _ in range(late):
            self._next()
        return Picture(self._next().image)

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        self._interrupted.set()
        self._source.close()

    def _next(self) -> Frame:
        try:
            frame = next(self._frames, None)
            if frame is None and self._loop:
                self._frames = iter(self._source)
                frame = next(self._frames, None)
        except PspnetError as error:
            raise CaptureBroken(str(error)) from error
        if frame is None:
            raise CaptureEnded(f"clip {self._source.name} is at its end")
        self._given += 1
        return frame


def open_clip(uri: CameraUri) -> ClipCapture:
    """The clip of a clip:// address; CaptureRefused where it is none."""
    if not Path(uri.address).is_file():
        raise CaptureRefused(f"{uri}: there is no file {uri.address}. Give the path of a clip", "not_found")
    try:
        source = open_source(uri.address)
    except PspnetError as error:
        raise CaptureRefused(f"{uri}: {error}", "codec") from error
    fps = float(uri.options.get("fps", source.fps or 0))
    if source.size is None or not fps:
        raise CaptureRefused(f"{uri}: {uri.address} does not say its frame rate: give it as ?fps=30", "codec")
    return ClipCapture(source, fps, uri.options.get("loop") == "1")
