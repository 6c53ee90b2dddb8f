"""The end of a camera: in time whatever its process does, with nothing left, and even when we die ourselves."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from runtime.camera import Camera, stop_cameras
from runtime.camera_settings import CameraSettings
from runtime.camera_state import CameraState
from tests.cameras import Watched, alive, wait_for

ROOT = Path(__file__).parents[1]
STOP_S = 2.0


def children() -> set[int]:
    """Processes whose parent we are, zombies too."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(path.parent.name))
    return found


@pytest.mark.parametrize(
    ("script", "state"),
    [
        ("ok", "CONNECTING"), ("ok", "RUNNING"), ("ok 300ms; stall 60s", "STALLED"), ("ok 300ms; freeze 60s", "FROZEN"),
        ("ok 300ms; refuse 60s", "BACKOFF"), ("crash; crash; crash; crash; crash", "FAILED"),
        ("ok 300ms; hang", "STALLED"), ("ok 300ms; deaf", "STALLED"),
    ],
)  # fmt: skip
def test_it_stops_in_time_in_every_state_and_leaves_nothing(script: str, state: str) -> None:
    before = children()
    watched = Watched(script, restart_after_s=20)
    watched.camera.start()
    watched.until(lambda: watched.camera.state.name == state)
    pid = watched.camera.status().pid
    start = time.monotonic()
    watched.camera.stop()
    assert time.monotonic() - start < STOP_S
    assert watched.camera.state is (CameraState.FAILED if state == "FAILED" else CameraState.STOPPED)
    assert children() <= before and (pid is None or not alive(pid))
    watched.camera.stop()
    assert watched.camera.take() is None


def test_it_stops_while_it_is_being_opened_and_while_its_process_is_stopped() -> None:
    with Watched("refuse 1 timeout", open_deadline_s=60) as watched:
        wait_for(lambda: watched.camera.status().pid)
        time.sleep(0.5)  # it sleeps in its open by now, or else it has not even begun to
        start = time.monotonic()
        watched.camera.stop()
        assert time.monotonic() - start < STOP_S
    with Watched("ok") as watched:
        watched.until(lambda: watched.codes)
        os.kill(watched.camera.status().pid or 0, signal.SIGSTOP)
        start = time.monotonic()
        watched.camera.stop()
        assert time.monotonic() - start < STOP_S


def test_many_cameras_stop_at_the_same_time() -> None:
    cameras = [Camera(CameraSettings(f"c{index}", "test://pattern?size=96x128&script=deaf")) for index in range(4)]
    for camera in cameras:
        camera.start()
    wait_for(lambda: all(camera.status().pid for camera in cameras))
    time.sleep(1.0)
    start = time.monotonic()
    stop_cameras(cameras)
    assert time.monotonic() - start < STOP_S


def test_a_camera_that_was_never_started_can_be_stopped() -> None:
    camera = Camera(CameraSettings("a", "test://pattern"))
    camera.stop()
    assert camera.state is CameraState.STOPPED


def resources() -> tuple[list[str], int, int, int]:
    """Open descriptors by what they are, threads, mappings of our memory, children."""
    gc.collect()
    links = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(path).split(":")[0])
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    mapped = Path("/proc/self/maps").read_text().count("memfd:pspnet")
    return sorted(links), threading.active_count(), mapped, len(children())


def test_descriptors_threads_memory_and_processes_are_given_back() -> None:
    def one_life() -> None:
        with Watched("ok 200ms; resize 240x320; ok 200ms; crash; ok 200ms; cut; ok") as watched:
            watched.until(lambda: watched.camera.status().reconnects >= 2)

    one_life()
    before = resources()
    one_life()
    assert resources() == before
