"""The faults of outputs and of the engine's pace, of a camera that must not be killed, and what a soak loses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.fault_scene import FPS, HEALTHY, SIZE, Scene
from benchmarks.fault_story import DETECTION_MS, Measured
from runtime import camera_watch
from runtime.board import Board
from runtime.camera_settings import CameraSettings
from runtime.camera_state import CameraState
from runtime.outlet import Outlet, OutletState, Sink
from runtime.record import Record
from runtime.server import Server
from runtime.service import Progress
from runtime.sink_mjpeg import MjpegSink
from runtime.sink_recording import JsonlRecording
from runtime.soak import SoakSettings, soak
from runtime.telemetry import Telemetry

SIP_S = 1.0
SLOW_CLIENT_S = 25.0
PAGE_SIZE = "360x480"
ENGINE_SLOW_MS, CAMERA_FPS = 80.0, 30.0
OVERHEAD_MS = 15.0
"""Of everything but the engine, beside a period and the engine's time, in what bounds the age of a frame."""


class Hanging(Sink):
    """Takes some records and then never returns."""

    def __init__(self, records: int) -> None:
        self._left, self.hung_ns, self.never = records, 0, threading.Event()

    def __call__(self, record: Record) -> None:
        """One more, or none ever again."""
        self._left -= 1
        if self._left <= 0:
            self.hung_ns = self.hung_ns or time.monotonic_ns()
            self.never.wait()


def slow_client() -> Measured:
    """A viewer of the page who takes one byte per second, beside the run."""
    found = Measured(10, "a viewer of the page reads 1 byte per second", detect_limit_ms=None, recover_limit_ms=None)
    with viewed() as (scene, server):
        with sipping(server):
            began_ns = time.monotonic_ns()
            watched = scene.until(lambda: viewers(server) == 1)
            if watched and scene.until(lambda: viewers(server) == 0, SLOW_CLIENT_S):
                found.found.append(f"dropped after {(time.monotonic_ns() - began_ns) / 1e9:.1f} s")
            else:
                found.missed.append("it was not dropped")
        found.healthy, found.stale = scene.healthy(), scene.stale(HEALTHY)
    return found.judge()


@contextlib.contextmanager
def viewed() -> Iterator[tuple[Scene, Server]]:
    """A run with its page, which shows the healthy camera and another, whose pictures are larger."""
    large = CameraSettings("large", f"test://pattern?size={PAGE_SIZE}&fps={FPS}")
    telemetry, board = Telemetry(), Board({"large": 250.0, HEALTHY: 250.0})
    scene = Scene([large], telemetry=telemetry, board=board)
    pictures = MjpegSink(scene.runner.spec, ["large", HEALTHY])
    scene.add(Outlet(pictures, "page"))
    with Server(telemetry, board, port=0, pictures=pictures) as server, scene:
        scene.until(lambda: scene.rows("large", valid=True) and scene.rows(HEALTHY, valid=True))
        yield scene, server


@contextlib.contextmanager
def sipping(server: Server, camera: str = "large") -> Iterator[None]:
    """A viewer of a camera's stream who takes a byte per second, while the block runs."""
    address = server.url.removeprefix("http://").rstrip("/")
    end = threading.Event()
    with socket.socket() as viewer:
        viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        host, _, port = address.rpartition(":")
        viewer.connect((host, int(port)))
        viewer.sendall(f"GET /stream/{camera}.mjpg HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())

        def sip() -> None:
            with contextlib.suppress(OSError):
                while not end.wait(SIP_S) and viewer.recv(1):
                    pass

        thread = threading.Thread(target=sip, daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            with contextlib.suppress(OSError):
                viewer.shutdown(socket.SHUT_RDWR)
            thread.join()


def viewers(server: Server) -> int:
    """How many streams the page says that it serves. A client cannot tell: what was sent before is still to be read."""
    with urllib.request.urlopen(f"{server.url}api/status", timeout=5) as answer:
        return int(json.load(answer)["streams"])


def hanging_sink() -> Measured:
    """A sink that never returns: told as STUCK, and left behind at the end."""
    found = Measured(10, "an output never returns", recover_limit_ms=None, detect_limit_ms=2000.0 + DETECTION_MS)
    sink = Hanging(2 * FPS)
    outlet = Outlet(sink, "hanging")
    scene = Scene([], outlets=[outlet])
    with scene:
        scene.until(lambda: outlet.status().state is OutletState.STUCK)
        found.detected_ms = (time.monotonic_ns() - sink.hung_ns) / 1e6 if sink.hung_ns else None
        time.sleep(1.0)
        found.healthy, found.stale = scene.healthy(), scene.stale(HEALTHY)
        began_ns = time.monotonic_ns()
    found.exit_ms = (time.monotonic_ns() - began_ns) / 1e6
    sink.never.set()
    return found.judge()


def slow_engine() -> Measured:
    """An engine that takes longer than the camera's period: newest picture, counted drops, bounded age."""
    made = f"the engine takes {ENGINE_SLOW_MS:g} ms at {CAMERA_FPS:g} pictures a second"
    found = Measured(11, made, detect_limit_ms=None, recover_limit_ms=None)
    with Scene([], engine_ms=ENGINE_SLOW_MS, fps=CAMERA_FPS) as scene:
        scene.until(lambda: len(scene.rows(HEALTHY, valid=True)) > 60)
        found.healthy, found.stale = scene.healthy(), scene.stale(HEALTHY)
        busy = scene.cameras[HEALTHY].status().drops["busy"]
    bound_ms = 1000 / CAMERA_FPS + ENGINE_SLOW_MS + OVERHEAD_MS
    age_ms = found.healthy["p99_age_ms"]
    found.found.append(f"{busy} dropped as busy, frame age p99 {age_ms:.0f} ms of at most {bound_ms:.0f}")
    found.judge()
    if not busy or age_ms > bound_ms:
        found.missed.append(f"frame age p99 is {age_ms:.0f} ms, {busy} dropped as busy")
    return found


def full_disk() -> Measured:
    """A disk that is full for two seconds, under the recording of records."""
    found = Measured(20, "the disk of --jsonl is full for 2 s")
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder)) as made:
        if not made:
            found.detect_limit_ms = found.recover_limit_ms = None
            found.found.append("not run: mounting a small disk needs root")
            return found
        outlet = Outlet(JsonlRecording(Path(folder) / "r.jsonl", 0), "jsonl")
        with Scene([], outlets=[outlet]) as scene:
            scene.until(lambda: outlet.status().delivered > FPS)
            filled_ns = fill(Path(folder) / "ballast")
            if scene.until(lambda: outlet.status().state is OutletState.DEGRADED, 10.0):
                found.detected_ms = (time.monotonic_ns() - filled_ns) / 1e6
            time.sleep(2.0)
            (Path(folder) / "ballast").unlink()
            freed_ns, retry_ns = time.monotonic_ns(), outlet._retry_ns or 0
            if scene.until(lambda: outlet.status().state is OutletState.RUNNING, 10.0):
                found.backoff_ms = max(retry_ns - freed_ns, 0) / 1e6
                found.recovered_ms = (time.monotonic_ns() - freed_ns) / 1e6 - found.backoff_ms
            found.healthy, found.stale = scene.healthy(), scene.stale(HEALTHY)
    return found.judge()


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "256k") -> Iterator[bool]:
    """A file system of its own in memory, mounted at a folder; False where that is not possible."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(ballast: Path) -> int:
    """Take all that is left of a disk; when that was done."""
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    return time.monotonic_ns()


def gentle_camera() -> Measured:
    """A camera's process that hangs and must not be killed, as a client of NVIDIA's Argus daemon."""
    made = "a csi:// process hangs (test:// in its place): FAILED with advice, no SIGKILL"
    found = Measured(22, made, recover_limit_ms=None)
    settings = CameraSettings("gentle", f"test://pattern?size={SIZE[0]}x{SIZE[1]}&fps={FPS}&script=ok 2s; deaf")
    before, camera_watch.is_gentle = camera_watch.is_gentle, lambda uri: True
    pid = None
    try:
        with Scene([settings]) as scene:
            camera, seen = scene.cameras["gentle"], scene.seen["gentle"]
            scene.until(lambda: camera.state is CameraState.STALLED)
            pid = camera.status().pid
            stalled_ns = seen.entered(CameraState.STALLED)
            hung_ns = next((at_ns for place, at_ns in seen.steps if place == 1), None)
            if stalled_ns is not None and hung_ns is not None:
                found.detected_ms = (stalled_ns - hung_ns) / 1e6
            scene.until(lambda: camera.state is CameraState.FAILED, 15.0)
            status = camera.status()
            found.healthy, found.stale = scene.healthy(), scene.stale("gentle")
            began_ns = time.monotonic_ns()
        found.exit_ms = (time.monotonic_ns() - began_ns) / 1e6
        found.judge()
        if status.cause != "stuck" or "nvargus-daemon" not in status.message:
            found.missed.append(f"it is {status.state.value}: {status.message}")
        if pid is None or not os.path.exists(f"/proc/{pid}"):
            found.missed.append("its process was killed")
    finally:
        camera_watch.is_gentle = before
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return found


def soaked(minutes: float) -> Measured:
    """`pspnet soak`: random faults, and what has grown."""
    found = Measured(23, f"{minutes:g} minutes of random faults (pspnet soak)", detect_limit_ms=None)
    found.recover_limit_ms = None
    report = soak(SoakSettings(minutes, cameras=3), threading.Event(), Progress())
    recovered = sum(each["recovered"] for each in report["cameras"].values())
    grown = ", ".join(f"{name.replace('_', ' ')} {value:+.1f}" for name, value in report["growth"].items())
    found.found.append(f"{recovered} recoveries; {grown or 'too short to tell growth'}")
    found.stale = report["published_stale"]
    found.missed += report["exceeded"]
    return found


def outputs() -> list[Measured]:
    """All but the soak."""
    return [slow_client(), hanging_sink(), slow_engine(), full_disk(), gentle_camera()]
