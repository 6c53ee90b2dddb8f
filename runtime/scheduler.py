"""Which pictures of several live cameras go into the network next.

Without sync: the newest picture of each camera that has one, the camera that was served longest ago first, as many as
one call of the engine takes. A camera that delivers nothing costs nothing, and none waits for more than one turn of all
the others. With sync: sets of one picture of every running camera, taken within so many milliseconds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait as wait_for_any
from typing import NamedTuple, Protocol

from runtime.camera_settings import CameraSettings
from runtime.camera_state import CameraState
from runtime.camera_status import CameraStatus
from runtime.frame import Frame

DROPS = ("stale", "state", "superseded", "unsynchronised", "missing")
"""Why a taken picture went into no network: older than the camera's `max_age_ms`; its camera was not running any more;
a newer one came while its set was waited for; its set went without it. missing: a set went without that camera."""

IDLE_S = 0.001


class LiveCamera(Protocol):
    """What is asked of a camera; `runtime.camera.Camera` is one."""

    name: str
    settings: CameraSettings

    @property
    def state(self) -> CameraState: ...

    @property
    def wakeup(self) -> int: ...

    def start(self) -> None: ...

    def take(self) -> Frame | None: ...

    def release(self, frame: Frame) -> None: ...

    def status(self) -> CameraStatus: ...

    def request_stop(self, deadline_s: float) -> None: ...

    def stop(self, deadline_s: float) -> None: ...


class Taken(NamedTuple):
    """A picture that goes into the network. taken_ns: when it was taken for it, on the monotonic clock."""

    camera: LiveCamera
    frame: Frame
    taken_ns: int


class Scheduler:
    """Takes pictures from cameras; whoever gets one from `next` releases it.

    batch: most pictures at once, without sync. sync_ms: how far apart pictures of one set may be; a set holds every
    camera, whatever the batch. on_drop: told (camera, cause) of every picture that is dropped here. drops: the same,
    counted by (camera name, cause).
    """

    def __init__(
        self,
        cameras: Sequence[LiveCamera],
        batch: int = 1,
        sync_ms: float | None = None,
        on_drop: Callable[[LiveCamera, str], None] | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.cameras, self.drops = tuple(cameras), Counter[tuple[str, str]]()
        self._batch, self._on_drop, self._clock_ns = batch, on_drop, clock_ns
        self._sync_ns = None if sync_ms is None else int(sync_ms * 1e6)
        self._turns = 0
        self._served = {camera.name: 0 for camera in cameras}
        self._held: dict[str, Taken] = {}
        self._waiting_since_ns: int | None = None

    def next(self) -> list[Taken]:
        """The pictures of the next call of the engine; empty where there are none yet."""
        return self._unsynchronised() if self._sync_ns is None else self._set(self._sync_ns)

    def wait(self, timeout_s: float) -> None:
        """Return as soon as a camera may have a picture, or a set is due, or after `timeout_s`."""
        if self._sync_ns is not None and self._waiting_since_ns is not None:
            due_s = (self._waiting_since_ns + self._sync_ns - self._clock_ns()) / 1e9
            timeout_s = min(timeout_s, max(due_s, 0.0))
        descriptors = [camera.wakeup for camera in self.cameras if camera.state is not CameraState.STOPPED]
        try:
            found = wait_for_any(descriptors, timeout_s) if descriptors else []
        except OSError:  # a camera was stopped in between, and its descriptor with it
            found = []
        if not found and (not descriptors or timeout_s < IDLE_S):
            time.sleep(min(timeout_s, IDLE_S) or IDLE_S)

    def close(self) -> None:
        """Give back what is held."""
        for taken in self._held.values():
            taken.camera.release(taken.frame)
        self._held.clear()

    def _unsynchronised(self) -> list[Taken]:
        found: list[Taken] = []
        for camera in sorted(self.cameras, key=lambda camera: self._served[camera.name]):
            if len(found) == self._batch:
                break
            if taken := self._newest(camera):
                found.append(taken)
                self._serve(camera)
        return found

    def _set(self, sync_ns: int) -> list[Taken]:
        for camera in self.cameras:
            if taken := self._newest(camera):
                if before := self._held.pop(camera.name, None):
                    self._drop(before, "superseded")
                self._held[camera.name] = taken
        for taken in list(self._held.values()):
            if self._unfit(taken.camera, taken.frame):
                self._drop(self._held.pop(taken.camera.name), self._unfit(taken.camera, taken.frame))
        if not self._held:
            self._waiting_since_ns = None
            return []
        now_ns = self._clock_ns()
        if self._waiting_since_ns is None:
            self._waiting_since_ns = now_ns
        newest_ns = max(born_ns(taken.frame) for taken in self._held.values())
        members = [taken for taken in self._held.values() if newest_ns - born_ns(taken.frame) <= sync_ns]
        awaited = [camera for camera in self.cameras if camera.state is CameraState.RUNNING]
        missing = {camera.name for camera in awaited} - {taken.camera.name for taken in members}
        if missing and now_ns - self._waiting_since_ns < sync_ns:
            return []
        self._waiting_since_ns = None
        for camera in awaited:
            if camera.name in missing:
                self._count(camera, "missing")
        for taken in self._held.values():
            if taken not in members:
                self._drop(taken, "unsynchronised")
        self._held.clear()
        for taken in members:
            self._serve(taken.camera)
        return [taken._replace(taken_ns=now_ns) for taken in members]

    def _newest(self, camera: LiveCamera) -> Taken | None:
        """The newest picture of a camera, fit to be used."""
        frame = camera.take()
        if frame is None:
            return None
        taken = Taken(camera, frame, self._clock_ns())
        if cause := self._unfit(camera, frame):
            self._drop(taken, cause)
            return None
        return taken

    def _unfit(self, camera: LiveCamera, frame: Frame) -> str:
        if not trusted(camera, frame):
            return "state"
        return "stale" if self._clock_ns() - born_ns(frame) > camera.settings.max_age_ms * 1e6 else ""

    def _drop(self, taken: Taken, cause: str) -> None:
        taken.camera.release(taken.frame)
        self._count(taken.camera, cause)

    def _count(self, camera: LiveCamera, cause: str) -> None:
        self.drops[camera.name, cause] += 1
        if self._on_drop is not None:
            self._on_drop(camera, cause)

    def _serve(self, camera: LiveCamera) -> None:
        self._turns += 1
        self._served[camera.name] = self._turns


def trusted(camera: LiveCamera, frame: Frame) -> bool:
    """Whether the camera's state allows its picture to be used.

    While a camera connects or stalls, a picture that came after that began is the first of its recovery, which the
    state follows a moment later.
    """
    state = camera.state
    recovering = state in (CameraState.CONNECTING, CameraState.STALLED)
    return state is CameraState.RUNNING or (recovering and frame.captured_ns > camera.status().since_ns)


def born_ns(frame: Frame) -> int:
    """When the picture was taken: the sensor's own time where it is known, else when it had arrived."""
    return frame.captured_ns if frame.sensor_ns is None else frame.sensor_ns
