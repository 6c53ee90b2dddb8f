"""HTTP cameras for tests: what they send, and what comes of opening them."""

from __future__ import annotations

import socket
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from runtime import frame_code
from runtime.camera_uri import CameraUri, camera_uri
from runtime.capture import open_capture
from runtime.capture_errors import CaptureRefused, CaptureTimeout
from tests.network_doubles import request_of

LOADED_S = 30.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"


def jpeg(number: int, size: tuple[int, int] = (120, 160)) -> bytes:
    image = np.full((*size, 3), 100, np.uint8)
    frame_code.draw(image, number)
    return cv2.imencode(".jpg", image)[1].tobytes()


def part(data: bytes, length: int | None = -1, boundary: bytes = b"--frame") -> bytes:
    header = b"" if length is None else b"Content-Length: %d\r\n" % (len(data) if length == -1 else length)
    return boundary + b"\r\nContent-Type: image/jpeg\r\n" + header + b"\r\n" + data + b"\r\n"


def uri_of(port: int, path: str = "/v.mjpg", who: str = "") -> CameraUri:
    return camera_uri(f"http://{who}127.0.0.1:{port}{path}")


def sender(*blocks: bytes, then_wait_s: float = 0.0, head: bytes = HEAD) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        request_of(connection)
        for block in (head, *blocks):
            connection.sendall(block)
        if then_wait_s:
            connection.settimeout(then_wait_s)
            connection.recv(1)

    return handle


def cause_of_opening(uri: CameraUri, deadline_s: float = LOADED_S) -> tuple[str, str]:
    with pytest.raises((CaptureRefused, CaptureTimeout)) as caught:
        open_capture(uri, deadline_s)
    return caught.value.cause, str(caught.value)
