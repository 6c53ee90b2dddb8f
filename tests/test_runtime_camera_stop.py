"""The end of a camera: in time whatever its process does, with nothing left, and even when we die ourselves."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import camera_state
from runtime.camera import Camera, stop_cameras
from runtime.camera_settings import CameraSettings
from runtime.camera_state import CameraState
from tests.cameras import PATIENCE_S, Watched, alive, take_until

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


@pytest.fixture(autouse=True, scope="module")
def short_delays() -> Iterator[None]:
    """Cameras that are tried again after hundredths of a second, but for those that were refused a password."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(camera_state, "FIRST_DELAY_S", 0.01)
        yield


SCRIPTS = {
    "running": ("ok", "RUNNING"), "stalled": ("ok 300ms; stall 1h", "STALLED"),
    "frozen": ("ok 300ms; freeze 1h", "FROZEN"), "waiting": ("ok 100ms; refuse 1h auth", "BACKOFF"),
    "failed": ("crash; crash; crash; crash; crash", "FAILED"), "hanging": ("ok 300ms; hang", "STALLED"),
    "opening": ("refuse 1 timeout", "CONNECTING"), "stopped": ("ok", "RUNNING"),
    "deaf": ("ok 300ms; deaf", "STALLED"), "deaf too": ("ok 300ms; deaf", "STALLED"),
}  # fmt: skip
"""Name -> script, and the state in which the camera is to stop."""
SILENT = ("hanging", "opening", "stopped", "deaf", "deaf too")
"""Those whose process does not answer, so that it has to be ended after a while."""


def is_there(name: str, watched: Watched) -> bool:
    """Whether a camera of SCRIPTS has come to where it is to stop."""
    if name.startswith("deaf") and not watched.is_deaf:
        return False
    if name == "opening" and not watched.is_at_step(0):  # it sleeps in its open
        return False
    if name == "failed" and watched.camera.status().pid is not None:
        return False
    return watched.camera.state.name == SCRIPTS[name][1]


@pytest.fixture(scope="module")
def cameras(short_delays: None) -> Iterator[dict[str, Watched]]:
    """The cameras of SCRIPTS, all of them where they are to stop; they began at the same time."""
    before = children()
    made = {
        name: Watched(script, name.replace(" ", "-"), restart_after_s=60, open_deadline_s=60)
        for name, (script, _) in SCRIPTS.items()
    }
    for watched in made.values():
        watched.camera.start()
    try:
        everyone = list(made.values())
        take_until(everyone, lambda: all(is_there(*named) for named in made.items()), 3 * PATIENCE_S)
        yield made
    finally:
        stop_cameras([watched.camera for watched in made.values()])
    assert children() <= before


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in SILENT])
def test_it_stops_in_time_in_every_state_and_leaves_nothing(name: str, cameras: dict[str, Watched]) -> None:
    watched = cameras[name]
    watched.until(lambda: is_there(name, watched))
    pid = watched.camera.status().pid
    assert (pid is None) == (name == "failed")
    start = time.monotonic()
    watched.camera.stop()
    assert time.monotonic() - start < STOP_S
    assert watched.camera.state is (CameraState.FAILED if name == "failed" else CameraState.STOPPED)
    assert pid is None or (pid not in children() and not alive(pid))
    watched.camera.stop()
    assert watched.camera.take() is None


def test_it_stops_before_its_process_has_come_up() -> None:
    with Watched("ok") as watched:
        assert watched.camera.state is CameraState.CONNECTING
        start = time.monotonic()
        watched.camera.stop()
        assert time.monotonic() - start < STOP_S and watched.camera.status().pid is None


def test_many_cameras_that_do_not_answer_stop_at_the_same_time(cameras: dict[str, Watched]) -> None:
    silent = [cameras[name].camera for name in SILENT]
    take_until(list(cameras.values()), lambda: all(is_there(name, cameras[name]) for name in SILENT))
    pids = {camera.status().pid for camera in silent}
    assert len(pids) == len(SILENT) and None not in pids
    os.kill(cameras["stopped"].camera.status().pid or 0, signal.SIGSTOP)
    start = time.monotonic()
    stop_cameras(silent)
    assert time.monotonic() - start < STOP_S
    assert {camera.state for camera in silent} == {CameraState.STOPPED}
    assert not pids & children() and not any(alive(pid) for pid in pids if pid)


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
        with Watched("ok 50ms; resize 240x320; ok 50ms; crash; ok 50ms; cut; ok") as watched:
            watched.until(lambda: watched.camera._memory.gauges.script[0] >= 6 and watched.camera.status().crashes == 1)
            watched.until(lambda: watched.camera.state is CameraState.RUNNING)

    one_life()
    before = resources()
    one_life()
    assert resources() == before
