"""The faults of cameras that a script can make, and those that are done to their processes from outside."""

from __future__ import annotations

import os
import signal
import time

from benchmarks.fault_scene import Scene
from benchmarks.fault_story import Story, drop, event, state
from runtime.camera_state import CameraState
from runtime.camera_status import SystemClock

FROZEN_LIMIT_MS = 2000.0
"""Pictures of a raw camera are frozen after 1 s of them; a second for telling it."""


STAMPS_LIMIT_MS = 2000.0
"""Stamps are told once a second, and the records that carry none are right all the while."""


class SteppedClock(SystemClock):
    """The system's clocks, of which the wall clock can be set."""

    shift_ns = 0

    def wall_ns(self) -> int:
        """With the steps so far."""
        return time.time_ns() + self.shift_ns


def stories() -> list[list[Story]]:
    """Four lists; the cameras of a list run at the same time."""
    clock = SteppedClock()

    def step_clock(scene: Scene, name: str) -> tuple[int, None]:
        clock.shift_ns -= 3600 * 10**9
        return time.monotonic_ns(), None

    return [
        [
            Story(1, "unplugged", "camera away for 2 s (no_device)", "ok 2s; refuse 2s no_device"),
            Story(3, "stalled", "open connection, nothing for 1.5 s", "ok 2s; stall 1500ms"),
            Story(3, "silent", "nothing for 4 s; opened again after 2 s", "ok 2s; stall 4s"),
            Story(
                8, "frozen", "the same picture for 3 s", "ok 2s; freeze 3s", detect_limit_ms=FROZEN_LIMIT_MS,
                check=_states("FROZEN"),
            ),
        ],
        [
            Story(6, "hangs", "a read never returns", "ok 2s; hang", back="ended", check=_states("STALLED", "BACKOFF")),
            Story(6, "deaf", "the same, and SIGTERM is ignored", "ok 2s; deaf", back="ended"),
            Story(19, "crashes", "the camera's process dies", "ok 2s; crash", back="at once", check=_states("BACKOFF")),
            Story(19, "killed", "kill -9 from outside", "ok 60s", back="at once", act=_kill),
        ],
        [
            Story(
                5, "mute", "accepts and never answers; its open has 1 s", "ok 2s; refuse 1 timeout", back="given up",
                cause="timeout", settings={"open_deadline_s": 1.0}, tell=_opening_given_up,
            ),
            Story(
                9, "storm", "12 times as many pictures for 4 s", "ok 4s; storm 12x 4s", back="given up", cause="storm",
                detect=drop("storm"), tell=lambda scene, name: _drops(scene, name, "storm"),
            ),
            Story(
                17, "stamps", "sensor's times backward, zero, in the future",
                "ok 2s; stamps backward 1s; stamps zero 1s; stamps future 1s; ok 60s", back="",
                detect=event("stamps_invalid"), detect_limit_ms=STAMPS_LIMIT_MS, check=_in_order,
            ),
            Story(
                2, "resized", "cut, and back in another size", "ok 2s; cut; resize 160x224", back="at once",
                check=_both_sizes,
            ),
        ],
        [
            Story(
                7, "damaged", "20 damaged pictures in a row", "ok 2s; corrupt 20; ok 60s", detect=drop("corrupt"),
                tell=lambda scene, name: _drops(scene, name, "corrupt"),
            ),
            Story(24, "late", "pictures arrive 400 ms late for 3 s", "ok 2s; slow 400ms 3s"),
            Story(
                16, "clock", "the system's clock is set back by an hour", "ok 60s", back="", act=step_clock,
                detect=event("clock_step"), clock=clock, check=_only_running,
            ),
            Story(
                8, "parked", "a scene at rest for 4 s, which is no fault", "ok 2s; still 4s; ok 60s", step=2, back="",
                detect=lambda scene, name, fault_ns: fault_ns, detect_limit_ms=None, check=_only_running,
            ),
        ],
    ]  # fmt: skip


def _kill(scene: Scene, name: str) -> tuple[int, None]:
    pid = scene.cameras[name].status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return time.monotonic_ns(), None


def _states(*wanted: str):  # type: ignore[no-untyped-def]
    def check(scene: Scene, name: str) -> str:
        took = {event.state.name for event in scene.seen[name].states()}
        return "" if took >= set(wanted) else f"it was never {', '.join(sorted(set(wanted) - took))}"

    return check


def _only_running(scene: Scene, name: str) -> str:
    took = [event.state for event in scene.seen[name].states()]
    before_stop = [each for each in took if each not in (CameraState.STOPPED, CameraState.CONNECTING)]
    return "" if set(before_stop) == {CameraState.RUNNING} else "its state changed"


def _in_order(scene: Scene, name: str) -> str:
    numbers = [row.sequence for row in scene.rows(name, valid=True)]
    return "" if numbers == sorted(set(numbers)) else "records are out of order"


def _both_sizes(scene: Scene, name: str) -> str:
    shapes = {row.shape for row in scene.rows(name, valid=True)}
    return "" if len(shapes) == 2 else f"label maps have the sizes {shapes}"


def _drops(scene: Scene, name: str, cause: str) -> str:
    return f"{scene.cameras[name].status().drops[cause]} pictures dropped as {cause}"


def _opening_given_up(scene: Scene, name: str) -> str:
    given_up_ns = state(CameraState.BACKOFF, "timeout")(scene, name, 0) or 0
    asked_ns = max(each.at_ns for each in scene.seen[name].states()
                   if each.state is CameraState.CONNECTING and each.at_ns < given_up_ns)  # fmt: skip
    return f"given up after {(given_up_ns - asked_ns) / 1e9:.2f} s"
