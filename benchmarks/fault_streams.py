"""The faults of network cameras: motion JPEG from here, and a real RTSP server where Debian has gst-rtsp-server."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable

import cv2

from benchmarks.fault_scene import FPS, Scene
from benchmarks.fault_story import Measured, Story, drop, measure, state
from runtime.camera_state import CameraState
from runtime.pattern import Pattern
from tests.network_doubles import free_port, request_of, serving
from tests.rtsp_streams import hiccuping, rtsp_server

AWAY_S, DAMAGED_S = 2.0, 1.0
KEY_PICTURE_MS = 1000.0
"""Of the test server's H.264: whoever connects to a stream that runs waits for the next key picture."""


def reachable() -> list[Measured]:
    """What needs no RTSP server: motion JPEG, a port at which nobody listens, a server that says nothing."""

    def silent(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(4096):
                pass

    damaged = threading.Event()

    def jpegs(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n")
        pattern = Pattern((96, 128))
        for number in range(10_000):
            data = cv2.imencode(".jpg", pattern.draw(number))[1].tobytes()
            data = data[: len(data) // 2] if damaged.is_set() else data
            connection.sendall(b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            connection.sendall(b"\r\n")
            time.sleep(1 / FPS)

    def damage(scene: Scene, name: str) -> tuple[int, int]:
        at_ns = time.monotonic_ns()
        damaged.set()
        time.sleep(DAMAGED_S)
        damaged.clear()
        return at_ns, time.monotonic_ns()

    with serving(silent) as port, serving(jpegs) as jpeg_port:
        return measure(
            [
                Story(
                    7, "truncated", "motion JPEG cut short for 1 s", back="told", act=damage, detect=drop("corrupt"),
                    settings={"uri": f"http://127.0.0.1:{jpeg_port}/"},
                ),
                _refusal(4, "closed", "nobody listens at the port", free_port(), "/", "refused"),
                _refusal(
                    5, "silent", "an RTSP server accepts and never answers; its open has 1 s", port, "/", "timeout",
                    limit_ms=2000.0, open_deadline_s=1.0,
                ),
            ]
        )  # fmt: skip


def streams() -> list[Measured]:
    """Everything that needs one."""
    with contextlib.ExitStack() as stack:
        dying, stalling, behind, guarded = (free_port() for _ in range(4))
        servers = {port: stack.enter_context(rtsp_server(port)) for port in (dying, stalling, behind)}
        stack.enter_context(rtsp_server(guarded, "joe", "secret", "digest"))
        proxy, _, cut = stack.enter_context(hiccuping(behind))

        def restart(scene: Scene, name: str) -> tuple[int, int]:
            servers[dying].kill()
            at_ns = time.monotonic_ns()
            time.sleep(AWAY_S)
            stack.enter_context(rtsp_server(dying))
            return at_ns, time.monotonic_ns()

        def pause(seconds: float) -> Callable[[Scene, str], tuple[int, int]]:
            def act(scene: Scene, name: str) -> tuple[int, int]:
                servers[stalling].send_signal(signal.SIGSTOP)
                at_ns = time.monotonic_ns()
                time.sleep(seconds)
                servers[stalling].send_signal(signal.SIGCONT)
                return at_ns, time.monotonic_ns()

            return act

        def cut_off(scene: Scene, name: str) -> tuple[int, None]:
            at_ns = time.monotonic_ns()
            cut()
            return at_ns, None

        key = {"recover_limit_ms": 1000.0 + KEY_PICTURE_MS}
        first = measure(
            [
                _stream(4, "reset", f"RTSP server killed, and started {AWAY_S:g} s later", dying, restart, "told"),
                _stream(3, "paused", "RTSP server stopped (SIGSTOP) for 1.5 s", stalling, pause(1.5), "told"),
                _stream(4, "cut", "TCP connection cut", proxy, cut_off, "at once", **key),
            ]
        )
        rest = measure(
            [
                _stream(3, "paused", "the same for 4 s; opened again after 2 s", stalling, pause(4.0), "told", **key),
                _refusal(4, "password", "401: a wrong password", guarded, "/pattern", "auth", "joe:wrong@"),
                _refusal(4, "path", "404: no such stream", guarded, "/none", "not_found", "joe:secret@"),
                _refusal(4, "codec", "a stream without video", guarded, "/sound", "codec", "joe:secret@"),
            ]
        )
        return first + rest


def _stream(
    number: int,
    name: str,
    made: str,
    port: int,
    act: Callable[[Scene, str], tuple[int, int | None]],
    back: str,
    **limits: float,
) -> Story:
    uri = f"rtsp://127.0.0.1:{port}/pattern#decoder=ffmpeg"
    return Story(number, name, made, back=back, act=act, settings={"uri": uri}, **limits)


def _refusal(
    number: int,
    name: str,
    made: str,
    port: int,
    path: str,
    cause: str,
    who: str = "",
    limit_ms: float = 1000.0,
    **settings: float,
) -> Story:
    return Story(
        number, name, made, back="", runs=False, detect=state(CameraState.BACKOFF, cause), detect_limit_ms=limit_ms,
        settings={"uri": f"rtsp://{who}127.0.0.1:{port}{path}#decoder=ffmpeg", **settings},
        tell=lambda scene, _: f"told apart as {cause}",
    )  # fmt: skip
