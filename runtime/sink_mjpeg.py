"""MJPEG for viewers: each picture is drawn and encoded once, for all of them, and only while somebody looks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pspnet.errors import PspnetError
from pspnet.spec import NetworkSpec
from runtime.live_view import WIDEST, LiveView
from runtime.record import Record
from runtime.view_sink import ViewSink

QUALITY = 80
INTEREST_NS = 3_000_000_000
"""How long pictures of a camera are drawn after somebody asked for one."""


@dataclass(frozen=True)
class Jpeg:
    """One encoded picture. number: counts from 1 for each camera. Else as in `Record`.

    valid: false where the picture says STALE or NO SIGNAL.
    """

    camera: str
    data: bytes
    number: int
    sequence: int
    valid: bool
    reason: str
    born_ns: int | None
    published_ns: int


class MjpegSink(ViewSink):
    """The newest overlay of each camera as JPEG. cameras: those that are shown before their first record.

    alpha: 0 shows the picture, 1 the colours. quality: of the JPEG, 1..100. widest: pixels. `latest_jpeg` and `listen`
    may be called from any thread.
    """

    idle_s: float | None = 0.5

    def __init__(
        self,
        spec: NetworkSpec,
        cameras: Sequence[str] = (),
        alpha: float = 0.5,
        quality: int = QUALITY,
        widest: int = WIDEST,
    ) -> None:
        if not 1 <= quality <= 100:
            raise PspnetError(f"JPEG quality is {quality}: give 1 to 100")
        super().__init__(LiveView(spec, cameras, alpha, widest))
        self._options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        self._changed = threading.Condition()
        self._newest: dict[str, Jpeg] = {}
        self._numbers: dict[str, int] = {}
        self._asked_ns: dict[str, int] = {}
        self._listeners: list[Callable[[str], None]] = []

    def latest_jpeg(self, camera: str, after: int = 0, wait_s: float = 0.0) -> Jpeg | None:
        """The newest picture of a camera, where its number is above `after`; waits for one up to `wait_s`, else None.

        Whoever has not asked for three seconds finds none at first: pictures are made only while somebody asks.
        """
        end = time.monotonic() + wait_s
        with self._changed:
            while True:
                self._asked_ns[camera] = time.monotonic_ns()
                newest = self._newest.get(camera)
                if newest is not None and newest.number > after:
                    return newest
                if (left_s := end - time.monotonic()) <= 0:
                    return None
                self._changed.wait(left_s)

    def listen(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call `listener` with the camera's name after each new picture, from the sink's thread, until the function
        that this returns is called; it must return at once."""
        with self._changed:
            self._listeners.append(listener)

        def end() -> None:
            with self._changed:
                self._listeners.remove(listener)

        return end

    def close(self) -> None:
        """Wake up whoever waits for a picture."""
        with self._changed:
            self._newest.clear()
            self._changed.notify_all()

    def _show(self, record: Record, now_ns: int) -> None:
        camera = record.camera
        with self._changed:
            if now_ns - self._asked_ns.get(camera, -INTEREST_NS) >= INTEREST_NS:
                self._newest.pop(camera, None)  # whoever asks next must not get an old one
                return
        valid = record.labels is not None and not record.expired(now_ns)
        data = self._encoded(self._view.draw(record, now_ns))
        with self._changed:
            number = self._numbers[camera] = self._numbers.get(camera, 0) + 1
            self._newest[camera] = Jpeg(
                camera, data, number, record.sequence, valid, record.reason, record.born_ns, record.published_ns
            )
            listeners = tuple(self._listeners)
            self._changed.notify_all()
        for listener in listeners:
            listener(camera)

    def _encoded(self, picture: np.ndarray) -> bytes:
        done, data = cv2.imencode(".jpg", picture, self._options)
        if not done:
            raise PspnetError("OpenCV cannot encode JPEG: install an OpenCV that can, as pip install opencv-python")
        return data.tobytes()
