"""The processes of cameras: those that must not be killed, those whose parent dies, and what they print."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime import camera_link, camera_watch, frame_ring
from runtime.camera import stop_cameras
from runtime.camera_state import CameraState
from runtime.camera_uri import camera_uri
from runtime.camera_worker import check_sound
from runtime.capture import Picture
from runtime.capture_errors import CaptureError
from tests.cameras import PATIENCE_S, Watched, alive, take_until, wait_for

ROOT = Path(__file__).parents[1]
STOP_S = 2.0


PARENT = """
import os, signal, sys, time
from runtime.camera import Camera
from runtime.camera_settings import CameraSettings
from tests.cameras import blocks_sigterm
cameras = [Camera(CameraSettings(name, "test://pattern?size=96x128&script=" + script)) for name, script in
           (("ok", "ok"), ("deaf", "ok 200ms; deaf"))]
for camera in cameras:
    camera.start()
while not all(camera.status().frames for camera in cameras):
    time.sleep(0.02)
pids = [camera.status().pid for camera in cameras]
while not blocks_sigterm(pids[1]):
    time.sleep(0.02)
{end}
"""


SAY = "print(*pids, flush=True); "
STOP = "[os.kill(pid, signal.SIGSTOP) for pid in pids]; "  # a stopped process sees no closed connection


ENDS = {
    "killed": SAY + "time.sleep(600)", "killed, processes stopped": STOP + SAY + "time.sleep(600)",
    "_exit": SAY + "os._exit(3)", "exit": SAY + "sys.exit(3)",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def parents() -> Iterator[dict[str, subprocess.Popen]]:
    """A process with two cameras for each way to end, which come up beside the first tests. Their main module has no
    guard, since workers do not import it again."""
    started = {
        name: subprocess.Popen(
            [sys.executable, "-c", PARENT.format(end=end)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for name, end in ENDS.items()
    }
    yield started
    for parent in started.values():
        parent.kill()
        parent.communicate()


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


def test_a_chatty_process_is_not_blocked_and_a_wakeup_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "[sys.stderr.write('x' * 999 + chr(10)) for _ in range(9999)]"
    chatter = f"import threading; threading.Thread(target=lambda: {lines}, daemon=True).start(); main()"
    monkeypatch.setattr(camera_link, "START", camera_link.START.replace("main()", chatter))
    with Watched("ok 500ms; cut; ok") as watched:
        wakeup = watched.camera.wakeup
        watched.until(lambda: watched.states.count("RUNNING") > 1)
        assert watched.camera.wakeup == wakeup and select.select([wakeup], [], [], PATIENCE_S)[0]
        assert all(len(line) <= 300 for line in watched.camera.status().messages)


@pytest.mark.parametrize("end", ENDS)
def test_the_processes_die_with_their_parent(end: str, parents: dict[str, subprocess.Popen]) -> None:
    """However it ends, and without a stop."""
    parent = parents[end]
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    if "killed" in end:
        assert all(alive(pid) for pid in pids)
        parent.kill()
    parent.wait(PATIENCE_S)
    wait_for(lambda: not any(alive(pid) for pid in pids), 5)


def test_a_process_that_must_not_be_killed_is_left_behind_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """And beside it one that does not end even when it is killed: a driver holds it."""
    monkeypatch.setattr(camera_watch, "is_gentle", lambda uri: uri.options["seed"] == "1")
    killed: list[int] = []
    monkeypatch.setattr(camera_link.WorkerLink, "kill", lambda self: killed.append(self.process.pid))
    address = "test://pattern?size=96x128&fps=20&seed={}&script=ok 300ms; deaf"
    gentle, held = cameras = [Watched("", f"c{seed}", uri=address.format(seed), restart_after_s=20) for seed in (1, 2)]
    for watched in cameras:
        watched.camera.start()
    take_until(cameras, lambda: all(each.camera.state is CameraState.STALLED and each.is_deaf for each in cameras))
    pids = [watched.camera.status().pid or 0 for watched in cameras]
    try:
        start = time.monotonic()
        stop_cameras([gentle.camera, held.camera])
        assert time.monotonic() - start < STOP_S
        left, stuck = gentle.camera.status(), held.camera.status()
        assert {(each.state, each.cause) for each in (left, stuck)} == {(CameraState.FAILED, "stuck")}
        assert str(pids[0]) in left.message and left.message.endswith("sudo systemctl restart nvargus-daemon")
        assert f"its process {pids[1]} does not end even when it is killed" in stuck.message
        assert killed == [pids[1]] and alive(pids[0])
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in pids))


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


def test_a_process_yields_to_the_other_cameras_until_its_imports_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    with Watched("ok 60s") as watched:
        watched.until(lambda: watched.camera.state is CameraState.RUNNING)
        assert os.sched_getscheduler(watched.camera.status().pid or -1) == os.SCHED_OTHER
    monkeypatch.setattr(camera_link, "START", "import time; time.sleep(9)")
    with Watched("ok 60s") as watched:
        watched.until(lambda: watched.camera.status().pid)
        assert os.sched_getscheduler(watched.camera.status().pid or -1) == os.SCHED_BATCH
