"""Live pictures over HTTP: a part per JPEG (multipart/x-mixed-replace), which an <img> plays.

A viewer is sent the newest picture when it has taken the one before, so it sees fewer of them when it is slow, and
never old ones. Pictures that are not to be believed say so themselves (see `runtime.live_view`); where none of either
kind comes any more, the stream ends, so that no last picture stays.

A browser shows a picture only when the head of the next part is there. So browsers, which say that they take image/…,
are sent that head along with the picture before; it can say nothing about its picture then. Programs get the length,
the sequence number and whether it is stale with each picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Protocol

from runtime.sink_mjpeg import Jpeg

BOUNDARY = "pspnet-picture"
LOOK_S = 0.5
SILENT_S = 3.0
FIRST_S = 2.0
"""Within so long a picture comes of whatever is watched: a silent camera's says that it is silent, once a second."""


class Pictures(Protocol):
    """Where JPEGs come from; `runtime.sink_mjpeg.MjpegSink` is one. Both may be called from any thread."""

    def latest_jpeg(self, camera: str, after: int = 0, wait_s: float = 0.0) -> Jpeg | None: ...

    def watch(self, camera: str, listener: Callable[[], None]) -> Callable[[], None]: ...


class Streams:
    """The viewers of a server; everything here happens in its event loop. most: viewers at a time."""

    def __init__(self, pictures: Pictures | None, most: int) -> None:
        self._pictures, self._most = pictures, most
        self._changed: set[asyncio.Event] = set()
        self._closed = False
        self.count = 0

    @property
    def has_pictures(self) -> bool:
        """Whether there is anything to stream."""
        return self._pictures is not None

    def show(self, pictures: Pictures) -> None:
        """Pictures come from here from now on; from any thread."""
        self._pictures = pictures

    def close(self) -> None:
        """Every stream ends soon."""
        self._closed = True
        for changed in self._changed:
            changed.set()

    def response(self, camera: str, refuse: Callable[[str], Any]) -> Any:
        """An ASGI application that streams a camera; `refuse(why)` where it cannot be."""
        if self._pictures is None:
            return refuse("there are no pictures in this run")
        if self.count >= self._most:
            return refuse(f"{self._most} streams are being watched, and no more are served: try again later")
        return _Response(self, camera)

    async def newest(self, camera: str, limit_ms: float, wait_s: float) -> Jpeg | None:
        """The newest picture, one at most `limit_ms` old if there is one within `wait_s`; None where none comes."""
        if self._pictures is None:
            return None
        began_s = time.monotonic()
        with self._watching(camera) as changed:
            jpeg = self._pictures.latest_jpeg(camera)
            while jpeg is None or not jpeg.valid or _age_ms(jpeg) > limit_ms:
                end_s = began_s + (wait_s if jpeg else max(wait_s, FIRST_S))
                if (left_s := end_s - time.monotonic()) <= 0 or self._closed:
                    break
                changed.clear()
                after = jpeg.number if jpeg else 0
                if (found := self._pictures.latest_jpeg(camera, after)) is None:
                    await _wait(changed, left_s)
                else:
                    jpeg = found
        return jpeg

    async def send_all(
        self, camera: str, send: Callable[[dict[str, Any]], Any], gone: asyncio.Future[Any], browser: bool
    ) -> None:
        """Send pictures until the viewer is `gone`, the server ends or no picture comes."""
        assert self._pictures is not None
        number, came_s = 0, time.monotonic()
        with self._watching(camera) as changed:
            gone.add_done_callback(lambda _: changed.set())
            while not (self._closed or gone.done()):
                # Empty, so it only returns when the part before is on its way: what is sent next is the newest then.
                await send({"type": "http.response.body", "body": b"", "more_body": True})
                changed.clear()
                jpeg = self._pictures.latest_jpeg(camera, number)
                if jpeg is not None:
                    number, came_s = jpeg.number, time.monotonic()
                    await send({"type": "http.response.body", "body": _part(jpeg, browser), "more_body": True})
                elif time.monotonic() - came_s > SILENT_S:
                    break
                else:
                    await _wait(changed, LOOK_S)

    @contextlib.contextmanager
    def _watching(self, camera: str) -> Any:
        """An event that is set after each new picture of a camera, which are drawn inside of the block."""
        assert self._pictures is not None
        changed, loop = asyncio.Event(), asyncio.get_running_loop()

        def listener() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended in between
                loop.call_soon_threadsafe(changed.set)

        end = self._pictures.watch(camera, listener)
        self._changed.add(changed)
        try:
            yield changed
        finally:
            self._changed.discard(changed)
            end()


class _Response:
    """One viewer's stream."""

    def __init__(self, streams: Streams, camera: str) -> None:
        self._streams, self._camera = streams, camera

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        kind = f"multipart/x-mixed-replace; boundary={BOUNDARY}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        if scope["method"] != "HEAD":
            self._streams.count += 1
            browser = any(name == b"accept" and b"image/" in value for name, value in scope["headers"])
            gone = asyncio.ensure_future(_disconnected(receive))
            try:
                await send({"type": "http.response.body", "body": _begin(browser).lstrip(), "more_body": True})
                await self._streams.send_all(self._camera, send, gone, browser)
            finally:
                self._streams.count -= 1
                gone.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(changed.wait(), seconds)


def _begin(browser: bool) -> bytes:
    """The boundary before a picture, and its head where it is for a browser."""
    head = "Content-Type: image/jpeg\r\n\r\n" if browser else ""
    return f"\r\n--{BOUNDARY}\r\n{head}".encode()


def _part(jpeg: Jpeg, browser: bool) -> bytes:
    """A picture behind the boundary that has been sent, and the next boundary."""
    if browser:
        return jpeg.data + _begin(browser)
    head = (
        f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg.data)}\r\nX-Pspnet-Sequence: {jpeg.sequence}\r\n"
        f"X-Pspnet-Stale: {int(not jpeg.valid)}\r\n\r\n"
    )
    return head.encode() + jpeg.data + _begin(browser)


def _age_ms(jpeg: Jpeg) -> float:
    return float("inf") if jpeg.born_ns is None else (time.monotonic_ns() - jpeg.born_ns) / 1e6
