"""The processes of cameras: those that must not be killed, those whose parent dies, and what they print."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from runtime import camera_link, camera_watch, frame_ring
from runtime.camera_state import CameraState
from runtime.camera_uri import camera_uri
from runtime.camera_worker import check_sound
from runtime.capture import Picture
from runtime.capture_errors import CaptureError
from tests.cameras import PATIENCE_S, Watched, alive, wait_for

ROOT = Path(__file__).parents[1]
STOP_S = 2.0


def test_a_process_that_must_not_be_killed_is_left_behind_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_watch, "is_gentle", lambda uri: True)
    watched = Watched("ok 300ms; deaf", restart_after_s=20)
    watched.camera.start()
    watched.until(lambda: watched.camera.state is CameraState.STALLED)
    pid = watched.camera.status().pid
    assert pid is not None
    try:
        start = time.monotonic()
        watched.camera.stop()
        assert time.monotonic() - start < STOP_S
        status = watched.camera.status()
        assert (status.state, status.cause) == (CameraState.FAILED, "stuck")
        assert str(pid) in status.message and status.message.endswith("sudo systemctl restart nvargus-daemon")
        assert alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid))


def test_a_gentle_process_that_hangs_fails_its_camera_without_a_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_watch, "is_gentle", lambda uri: True)
    monkeypatch.setattr(camera_watch, "GENTLE_WAITS_S", (0.3, 0.3, 0.0))
    signals: list[str] = []
    monkeypatch.setattr(camera_link.WorkerLink, "kill", lambda self: signals.append("kill"))
    watched = Watched("ok 300ms; hang", restart_after_s=0.5)
    watched.camera.start()
    watched.until(lambda: watched.camera.status().pid)
    pid = watched.camera.status().pid or 0
    watched.until(lambda: watched.camera.state is CameraState.FAILED)
    assert alive(pid) and not signals and watched.camera.status().cause == "stuck"
    watched.camera.stop()
    os.kill(pid, signal.SIGKILL)


def test_a_process_that_a_driver_holds_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_link.WorkerLink, "kill", lambda self: None)  # SIGKILL waits for the driver, too
    watched = Watched("ok 300ms; deaf", restart_after_s=20)
    watched.camera.start()
    watched.until(lambda: watched.camera.state is CameraState.STALLED)
    pid = watched.camera.status().pid or 0
    start = time.monotonic()
    watched.camera.stop()
    assert time.monotonic() - start < STOP_S and watched.camera.state is CameraState.FAILED
    assert f"its process {pid} does not end even when it is killed" in watched.camera.status().message
    os.kill(pid, signal.SIGKILL)


def test_a_gentle_process_leaves_in_order_on_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_watch, "is_gentle", lambda uri: True)
    with Watched("ok") as watched:
        watched.until(lambda: watched.codes)
        os.kill(watched.camera.status().pid or 0, signal.SIGTERM)
        watched.until(lambda: watched.entered(CameraState.BACKOFF, "crashed"))
        assert "exit status 0" in watched.entered(CameraState.BACKOFF)[0].message


@pytest.mark.parametrize(
    ("uri", "gentle"),
    [
        ("csi://0", True), ("gst://nvarguscamerasrc ! appsink", True), ("gst://videotestsrc ! appsink", False),
        ("rtsp://host/a", False), ("v4l2:///dev/video0", False),
    ],
)  # fmt: skip
def test_clients_of_the_argus_daemon_are_known(uri: str, gentle: bool) -> None:
    assert camera_link.is_gentle(camera_uri(uri, allow_gstreamer=True)) == gentle


PARENT = """
import os, signal, sys, time
from runtime.camera import Camera
from runtime.camera_settings import CameraSettings
cameras = [Camera(CameraSettings(name, "test://pattern?size=96x128&script=" + script)) for name, script in
           (("ok", "ok"), ("deaf", "ok 200ms; deaf"))]
for camera in cameras:
    camera.start()
while not all(camera.status().frames for camera in cameras):
    time.sleep(0.02)
time.sleep(0.5)
pids = [camera.status().pid for camera in cameras]
{end}
"""


SAY = "print(*pids, flush=True); "
STOP = "[os.kill(pid, signal.SIGSTOP) for pid in pids]; "  # a stopped process sees no closed connection


@pytest.mark.parametrize(
    "end",
    [SAY + "time.sleep(60)", STOP + SAY + "time.sleep(60)", SAY + "os._exit(3)", SAY + "sys.exit(3)"],
    ids=["killed", "killed, processes stopped", "_exit", "exit"],
)
def test_the_processes_die_with_their_parent(end: str) -> None:
    """However it ends, and without a stop. Its main module has no guard, since workers do not import it again."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(end=end)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    if "sleep" in end:
        parent.kill()
    parent.wait(PATIENCE_S)
    wait_for(lambda: not any(alive(pid) for pid in pids), 5)
    parent.stdout.close()


def test_what_the_process_prints_is_kept_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = camera_link.START.replace(
        "main()", "print('decoder: lost sync at http://me:geheim7@host/a', file=sys.stderr, flush=True); main()"
    )
    assert noisy.count("geheim7") == 1
    monkeypatch.setattr(camera_link, "START", noisy)
    with Watched("ok 300ms; crash", uri="test://pattern?size=96x128&script=ok 300ms; crash") as watched:
        watched.until(lambda: watched.entered(CameraState.BACKOFF, "crashed"))
        told = watched.entered(CameraState.BACKOFF)[0].message
        assert "lost sync" in told and "geheim7" not in told
        assert any("lost sync" in line for line in watched.camera.status().messages)


def test_a_chatty_process_is_not_blocked_and_a_wakeup_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "[sys.stderr.write('x' * 999 + chr(10)) for _ in range(9999)]"
    chatter = f"import threading; threading.Thread(target=lambda: {lines}, daemon=True).start(); main()"
    monkeypatch.setattr(camera_link, "START", camera_link.START.replace("main()", chatter))
    with Watched("ok 500ms; cut; ok") as watched:
        wakeup = watched.camera.wakeup
        watched.until(lambda: watched.states.count("RUNNING") > 1)
        assert watched.camera.wakeup == wakeup and select.select([wakeup], [], [], PATIENCE_S)[0]
        assert all(len(line) <= 300 for line in watched.camera.status().messages)


def test_memory_that_is_not_to_be_had_is_a_cause_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_ring, "LARGEST_PICTURE_BYTES", 30_000)
    with Watched("ok") as watched:  # 96 * 128 * 3 bytes are 36,864
        watched.until(lambda: watched.entered(CameraState.BACKOFF))
        [lost] = watched.entered(CameraState.BACKOFF)
        assert lost.cause == "memory" and "are taken: ask the camera for a smaller one" in lost.message
        assert watched.camera.status().crashes == 0


@pytest.mark.parametrize(
    ("shape", "layout", "sound"),
    [
        ((4, 6, 3), "bgr", True), ((4, 6), "grey", True), ((6, 6), "nv12", True), ((4, 6, 2), "uyvy", True),
        ((4, 6), "bgr", False), ((4, 6, 4), "bgr", False), ((4, 6, 3), "grey", False), ((7, 6), "nv12", False),
        ((4, 5, 2), "yuyv", False), ((0, 6, 3), "bgr", False), ((1, 16385, 3), "rgb", False), ((4, 6, 3), "hsv", False),
    ],
)  # fmt: skip
def test_pictures_that_are_none_are_damaged(shape: tuple[int, ...], layout: str, sound: bool) -> None:
    def cause(dtype: type = np.uint8) -> str:
        try:
            check_sound(Picture(np.zeros(shape, dtype), layout))
        except CaptureError as error:
            return error.cause
        return ""

    assert cause() == ("" if sound else "corrupt")
    assert cause(np.float32) == "corrupt"
