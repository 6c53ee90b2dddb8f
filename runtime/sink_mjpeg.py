"""MJPEG for viewers: each picture is drawn and encoded once, for all of them, and only while somebody looks."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pspnet.errors import PspnetError
from pspnet.spec import NetworkSpec
from runtime.live_view import WIDEST, LiveView
from runtime.record import Record
from runtime.view_sink import ViewSink

QUALITY = 80


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

    alpha: 0 shows the picture, 1 the colours. quality: of the JPEG, 1..100. widest: pixels. `latest_jpeg` and `watch`
    may be called from any thread. Nothing is drawn of a camera that nobody watches, and while nobody watches any, no
    pictures are asked for.
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
        self._watchers: Counter[str] = Counter()
        self._watching = 0  # of any camera
        self._listeners: dict[str, list[Callable[[], None]]] = {}

    @property
    def wants(self) -> frozenset[str]:  # type: ignore[override]
        """Pictures, while somebody watches."""
        return frozenset({"picture"} if self._watching else ())

    def latest_jpeg(self, camera: str, after: int = 0, wait_s: float = 0.0) -> Jpeg | None:
        """The newest picture of a camera, where its number is above `after`; waits for one up to `wait_s`, else None.

        There are none unless somebody watches; whoever waits does.
        """
        end = time.monotonic() + wait_s
        with self._changed, self._watched(camera):
            while True:
                newest = self._newest.get(camera)
                if newest is not None and newest.number > after:
                    return newest
                if (left_s := end - time.monotonic()) <= 0:
                    return None
                self._changed.wait(left_s)

    def watch(self, camera: str, listener: Callable[[], None]) -> Callable[[], None]:
        """Draw a camera's pictures, and call `listener` after each, from the sink's thread, until the function that
        this returns is called; it must return at once."""
        with self._changed:
            self._count(camera, 1)
            self._listeners.setdefault(camera, []).append(listener)

        def end() -> None:
            with self._changed:
                self._count(camera, -1)
                self._listeners[camera].remove(listener)

        return end

    def close(self) -> None:
        """Wake up whoever waits for a picture."""
        with self._changed:
            self._newest.clear()
            self._changed.notify_all()

    def _show(self, record: Record, now_ns: int) -> None:
        camera = record.camera
        with self._changed:
            if not self._watchers[camera]:
                self._newest.pop(camera, None)  # whoever asks next must not get an old one
                return
        if record.labels is not None and record.frame is None:  # published before anybody watched
            return
        valid = record.labels is not None and not record.expired(now_ns)
        data = self._encoded(self._view.draw(record, now_ns))
        with self._changed:
            number = self._numbers[camera] = self._numbers.get(camera, 0) + 1
            self._newest[camera] = Jpeg(
                camera, data, number, record.sequence, valid, record.reason, record.born_ns, record.published_ns
            )
            listeners = tuple(self._listeners.get(camera, ()))
            self._changed.notify_all()
        for listener in listeners:
            listener()

    @contextlib.contextmanager
    def _watched(self, camera: str) -> Iterator[None]:
        """With the lock: the caller is one who watches."""
        self._count(camera, 1)
        try:
            yield
        finally:
            self._count(camera, -1)

    def _count(self, camera: str, more: int) -> None:
        self._watchers[camera] += more
        self._watching += more

    def _encoded(self, picture: np.ndarray) -> bytes:
        done, data = cv2.imencode(".jpg", picture, self._options)
        if not done:
            raise PspnetError("OpenCV cannot encode JPEG: install an OpenCV that can, as pip install opencv-python")
        return data.tobytes()
