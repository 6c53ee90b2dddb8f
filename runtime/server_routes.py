"""What the live page answers: a fixed table of routes that only read."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import cv2

from pspnet.report_style import STYLE
from runtime import server_status
from runtime.board import LOADING, Board
from runtime.metrics import CONTENT_TYPE, metrics_text
from runtime.security import HEADERS, Access, Refusal
from runtime.server_stream import Pictures, Streams
from runtime.telemetry import Telemetry

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/cards.js": ("cards.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
PUBLIC = frozenset({*FILES, "/api/session", "/healthz", "/readyz"})
"""What needs no token: the page without any data, whether a token is needed, and whether the run is well."""

FRESH_WAIT_S, POLL_S = 1.0, 0.01
STATUS_KEPT_S, HISTORY_KEPT_S = 0.25, 1.0


class Pages:
    """The ASGI application. pool: where figures are worked out and label maps encoded, beside the event loop."""

    def __init__(
        self,
        telemetry: Telemetry,
        board: Board,
        access: Access,
        pictures: Pictures | None,
        pool: ThreadPoolExecutor,
        streams: int,
    ) -> None:
        from starlette.routing import Route, Router

        self._telemetry, self._board, self._access, self._pool = telemetry, board, access, pool
        self._streams = Streams(pictures, streams)
        folder = resources.files("runtime") / "web"
        self._files = {path: (folder / name).read_bytes() for path, (name, _) in FILES.items()}
        self._files["/style.css"] = STYLE.encode() + self._files["/style.css"]
        self._status = _Kept(STATUS_KEPT_S, lambda: server_status.status_json(board, telemetry, self._streams.count))
        self._history = _Kept(HISTORY_KEPT_S, lambda: server_status.history_json(board, telemetry))
        table: dict[str, Callable[..., Any]] = {
            **dict.fromkeys(FILES, self._file),
            "/api/session": self._session,
            "/api/status": self._json(self._status),
            "/api/history": self._json(self._history),
            "/api/events": self._json(lambda: server_status.events_json(board)),
            "/stream/{camera}.mjpg": self._stream,
            "/snapshot/{camera}.jpg": self._snapshot,
            "/snapshot/{camera}.png": self._labels,
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }
        routes = [Route(path, answer, methods=["GET"]) for path, answer in table.items()]
        self._router = Router(routes, redirect_slashes=False)

    def show(self, pictures: Pictures) -> None:
        """Pictures come from here from now on; from any thread."""
        self._streams.show(pictures)

    def close(self) -> None:
        """Let the streams end; called in the event loop."""
        self._streams.close()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        started = False

        async def send_with_headers(message: dict[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in HEADERS if pair[0] not in own)]
            await send(message)

        try:
            refusal = self._access.refusal(
                scope["method"], scope["raw_path"] + scope["query_string"], scope["headers"], scope["path"] in PUBLIC
            )
            answer: Any = self._router if refusal is None else self._refusal(refusal)
            await answer(scope, receive, send_with_headers)
        except Exception:
            logging.getLogger(__name__).exception("a request to the live page failed")
            if not started:
                await _text(500, "an error of ours; the log says more")(scope, receive, send_with_headers)

    def _refusal(self, refusal: Refusal) -> Any:
        self._telemetry.refuse(refusal.cause)
        headers = {name.decode(): value.decode() for name, value in refusal.headers}
        return _text(refusal.status, refusal.text, headers)

    async def _file(self, request: Any) -> Any:
        path = request.url.path
        return _response(200, self._files[path], FILES[path][1], {"cache-control": "no-cache"})

    async def _session(self, request: Any) -> Any:
        """Whether the visitor is admitted; and the cookie that stands for the token, where a browser shows it."""
        cookie, given = {}, request.headers.get("authorization", "").encode("latin-1")
        if self._access.has_token(given):
            cookie = {"set-cookie": self._access.session_cookie()}
        elif given:
            self._telemetry.refuse("token")
        admitted = self._access.admits(request.scope["headers"])
        return _response(200, json.dumps({"admitted": admitted}).encode(), "application/json", cookie)

    def _json(self, value: Callable[[], Any]) -> Callable[..., Any]:
        async def answer(request: Any) -> Any:
            text = await self._beside(lambda: json.dumps(value(), separators=(",", ":"), allow_nan=False))
            return _response(200, text.encode(), "application/json")

        return answer

    async def _metrics(self, request: Any) -> Any:
        text = await self._beside(lambda: metrics_text(self._telemetry, self._board, self._streams.count))
        return _response(200, text, CONTENT_TYPE)

    async def _healthz(self, request: Any) -> Any:
        return _text(200, "ok")

    async def _readyz(self, request: Any) -> Any:
        """Its reason names cameras, so only who may see those is told, but for the engine's load."""
        if not (reason := self._board.unready()):
            return _text(200, "ready")
        told = reason == LOADING or self._access.admits(request.scope["headers"])
        return _text(503, f"not ready: {reason}" if told else "not ready")

    async def _stream(self, request: Any) -> Any:
        if missing := self._known(request):
            return missing
        if self._is_loading:
            return _text(503, LOADING, {"retry-after": "1"})
        return self._streams.response(request.path_params["camera"], self._refuse_stream)

    @property
    def _is_loading(self) -> bool:
        return self._board.engine is None and not self._streams.has_pictures

    def _refuse_stream(self, text: str) -> Any:
        self._telemetry.refuse("streams")
        return _text(503, text, {"retry-after": "5"})

    async def _snapshot(self, request: Any) -> Any:
        """The newest overlay; one that is stale says so in its headers and in the picture."""
        if missing := self._known(request):
            return missing
        camera = request.path_params["camera"]
        limit_ms = self._board.max_age_ms(camera)
        jpeg = await self._streams.newest(camera, limit_ms, FRESH_WAIT_S)
        if jpeg is None:
            reason = LOADING if self._is_loading else "no picture"
            return _text(503, f"{camera}: {reason}", self._stale_headers(camera, None, reason))
        age_ms = None if jpeg.born_ns is None else (time.monotonic_ns() - jpeg.born_ns) / 1e6
        reason = "" if jpeg.valid else jpeg.reason or "invalid"
        if age_ms is None or age_ms > limit_ms:
            reason = reason or f"older than {limit_ms:g} ms"
        return _response(200, jpeg.data, "image/jpeg", self._stale_headers(camera, age_ms, reason))

    async def _labels(self, request: Any) -> Any:
        """The newest label map, lossless; never one that must not be used."""
        if missing := self._known(request):
            return missing
        camera = request.path_params["camera"]
        end_s = time.monotonic() + FRESH_WAIT_S
        while True:
            record = self._board.record(camera)
            if record is not None and record.labels is not None and not record.expired(time.monotonic_ns()):
                break
            if time.monotonic() > end_s:
                fresh = self._board.freshness(camera)
                reason = fresh.reason or "the newest labels are too old"
                return _text(503, f"{camera}: {reason}", self._stale_headers(camera, fresh.age_ms, reason))
            await asyncio.sleep(POLL_S)
        labels, age_ms = record.labels, record.age_at_ms(time.monotonic_ns())
        data = await self._beside(lambda: cv2.imencode(".png", labels)[1].tobytes())
        sequence = {"x-pspnet-sequence": str(record.sequence)}
        return _response(200, data, "image/png", self._stale_headers(camera, age_ms, "") | sequence)

    def _known(self, request: Any) -> Any:
        known = request.path_params["camera"] in self._board.cameras
        return None if known else _text(404, "there is no camera of that name")

    def _stale_headers(self, camera: str, age_ms: float | None, reason: str) -> dict[str, str]:
        printable = "".join(letter if " " <= letter <= "~" else "?" for letter in server_status.shown(reason))
        age = {} if age_ms is None else {"x-pspnet-age-ms": f"{age_ms:.0f}"}
        return {"x-pspnet-camera": camera, "x-pspnet-stale": str(int(bool(reason))), "x-pspnet-reason": printable} | age

    async def _beside(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)


class _Kept:
    """What a function gives, worked out again when it is asked for after `seconds`; clients share it."""

    def __init__(self, seconds: float, function: Callable[[], Any]) -> None:
        self._seconds, self._function = seconds, function
        self._value: tuple[float, Any] | None = None

    def __call__(self) -> Any:
        now_s, kept = time.monotonic(), self._value
        if kept is None or now_s - kept[0] > self._seconds:
            kept = self._value = (now_s, self._function())
        return kept[1]


def _text(status: int, text: str, headers: dict[str, str] | None = None) -> Any:
    return _response(status, f"{text}\n".encode(), "text/plain; charset=utf-8", headers)


def _response(status: int, data: bytes, kind: str, headers: dict[str, str] | None = None) -> Any:
    from starlette.responses import Response

    return Response(data, status, {"content-type": kind, **(headers or {})})
