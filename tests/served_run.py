"""A run that never was, for tests of the live page: records, states and pictures by hand."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from runtime.board import Board, Engine
from runtime.camera_state import CameraState
from runtime.camera_status import CameraStatus
from runtime.frame import Frame
from runtime.record import Record
from runtime.server import Server
from runtime.sink_mjpeg import Jpeg
from runtime.telemetry import Telemetry

SPEC: Any = SimpleNamespace(
    class_names=("road", "sky"), palette=((128, 64, 128), (70, 130, 180)), classes=2, drivable=(0,)
)
ENGINE = Engine("openvino", "int8", "model.int8.onnx", SPEC.class_names, SPEC.palette, (0,), (96, 128))
TOKEN = "a-token-of-more-than-sixteen"
PASSWORD = "s3cret-p@ss"


def record(camera: str = "front", sequence: int = 0, age_ms: float = 0.0, **fields: Any) -> Record:
    """A valid record with the labels 0 and 1, captured `age_ms` ago."""
    now_ns = time.monotonic_ns()
    labels = np.zeros((60, 80), np.uint8)
    labels[:20] = 1
    captured_ns = now_ns - int(age_ms * 1e6)
    frame = Frame(np.zeros((60, 80, 3), np.uint8), "bgr", camera, sequence, captured_ns, time.time_ns())
    found: dict[str, Any] = {
        "captured_ns": captured_ns, "published_ns": now_ns, "valid": True, "max_age_ms": 250.0, "frame": frame,
        "labels": labels, "class_shares": (2 / 3, 1 / 3), "times_ms": {"pre": 1.0, "infer": 20.0},
    }  # fmt: skip
    return Record(camera, SPEC, sequence, **{**found, **fields})


def status(camera: str = "front", state: CameraState = CameraState.RUNNING, **fields: Any) -> CameraStatus:
    """A camera that runs at 30 fps."""
    found: dict[str, Any] = {
        "uri": f"rtsp://admin:{PASSWORD}@10.0.0.5/1", "since_ns": time.monotonic_ns(), "cause": "", "message": "",
        "fps": 30.0, "frames": 100, "drops": {"busy": 3}, "reconnects": 1, "crashes": 0, "decoder": "none (raw)",
        "size": (60, 80), "last_frame_age_ms": 5.0, "stamps_invalid": 0, "clock_steps": 0, "pid": 1, "messages": (),
    }  # fmt: skip
    return CameraStatus(name=camera, state=state, **{**found, **fields})


def picture(level: int, size: tuple[int, int] = (60, 80)) -> bytes:
    """A JPEG of one grey."""
    return cv2.imencode(".jpg", np.full((*size, 3), level, np.uint8))[1].tobytes()


class FakePictures:
    """Pictures of `runtime.sink_mjpeg.MjpegSink`'s kind that come when a test shows them."""

    def __init__(self) -> None:
        self._newest: dict[str, Jpeg] = {}
        self._listeners: list[tuple[str, Callable[[], None]]] = []

    def show(self, data: bytes, camera: str = "front", valid: bool = True, age_ms: float = 0.0) -> int:
        """One more picture; its number."""
        number = self._newest[camera].number + 1 if camera in self._newest else 1
        now_ns = time.monotonic_ns()
        reason = "" if valid else "the camera is stalled"
        captured_ns = now_ns - int(age_ms * 1e6)
        self._newest[camera] = Jpeg(camera, data, number, number + 100, valid, reason, captured_ns, now_ns)
        for watched, listener in tuple(self._listeners):
            if watched == camera:
                listener()
        return number

    def latest_jpeg(self, camera: str, after: int = 0, wait_s: float = 0.0) -> Jpeg | None:
        """As the sink's, without waiting."""
        newest = self._newest.get(camera)
        return newest if newest is not None and newest.number > after else None

    def watch(self, camera: str, listener: Callable[[], None]) -> Callable[[], None]:
        """As the sink's."""
        self._listeners.append((camera, listener))
        return lambda: self._listeners.remove((camera, listener))

    @property
    def listeners(self) -> int:
        """How many watch now."""
        return len(self._listeners)


class Run:
    """A board with two cameras, telemetry and pictures, served on a free port of this machine."""

    def __init__(self, **options: Any) -> None:
        self.board, self.telemetry, self.pictures = Board({"front": 250.0, "rear": 250.0}), Telemetry(), FakePictures()
        self.server = Server(self.telemetry, self.board, port=0, pictures=self.pictures, **options)

    def __enter__(self) -> Run:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.server.stop(10.0)

    @property
    def address(self) -> tuple[str, int]:
        """Where it is served."""
        host, _, port = self.server.url.removeprefix("http://").rstrip("/").rpartition(":")
        return host, int(port)

    def ask(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers with lower-case names, and body of one answer."""
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        """The parsed body of one answer."""
        return json.loads(self.ask(path)[2])

    def go(self) -> None:
        """Engine loaded, front running with a fresh record; rear stalled."""
        self.board.set_engine(ENGINE)
        self.board.set_status(status("front"))
        self.board.set_status(status("rear", CameraState.STALLED, cause="stalled", message="no picture for 400 ms"))
        self.fresh()

    def fresh(self, sequence: int = 7) -> None:
        """One more valid record of front."""
        newest = record("front", sequence, age_ms=5.0)
        self.board.publish(newest)
        self.telemetry.add("front", newest.times_ms, newest.age_ms)


class Repeating:
    """Calls a function again and again in a thread while its block runs."""

    def __init__(self, function: Callable[[], Any], period_s: float) -> None:
        self._function, self._period_s, self._end = function, period_s, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._end.wait(self._period_s):
            self._function()

    def __enter__(self) -> Repeating:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def until(condition: Callable[[], Any], seconds: float = 20.0) -> bool:
    """Whether a condition becomes true within so long."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
