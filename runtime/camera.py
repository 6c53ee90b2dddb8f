"""Camera: the newest picture of one live camera, read in a process of its own that can be ended.

with Camera(CameraSettings("front", "rtsp://…")) as camera:
    select.select([camera], [], [], 0.1)
    frame = camera.take()          # the newest picture, once, or None
    …
    camera.release(frame)          # its memory may be written again
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from runtime.camera_memory import CameraMemory
from runtime.camera_settings import CameraSettings
from runtime.camera_state import CameraState
from runtime.camera_status import CameraEvent, CameraStatus, Clock, SystemClock
from runtime.camera_uri import camera_uri
from runtime.camera_watch import CameraWatch
from runtime.frame import Frame

STOP_DEADLINE_S = 2.0
JOIN_S = 1.0
DELIVERING = (CameraState.RUNNING, CameraState.FROZEN)


_log = logging.getLogger(__name__)


class Camera:
    """One live camera. `start` returns at once, `take` and `release` never wait for the camera or its process.

    settings: PspnetError where the address is not understood. on_event: called from the camera's thread for each
    CameraEvent; it must return soon. clock: the system's, unless a test sets another time of day. seed: of the chance
    in the delays between tries.
    """

    def __init__(
        self,
        settings: CameraSettings,
        on_event: Callable[[CameraEvent], None] | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        self.settings, self.name = settings, settings.name
        self.uri = camera_uri(settings.uri, allow_gstreamer=settings.allow_gstreamer)
        self._clock = clock or SystemClock()
        self._memory = CameraMemory(settings.name, settings.slots)
        self._watch = CameraWatch(settings, self.uri, self._memory, self._clock, on_event, seed)
        self._closed = False

    def start(self) -> None:
        """Begin to connect."""
        self._watch.start()

    def __enter__(self) -> Camera:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def wakeup(self) -> int:
        """A descriptor, the same until `stop`, that is readable while a picture waits: for select, poll and epoll."""
        return self._memory.wakeup

    def fileno(self) -> int:
        """`wakeup`, so that a camera can be given to select itself."""
        return self.wakeup

    @property
    def state(self) -> CameraState:
        """How the camera is."""
        return self._watch.machine.now.state

    def take(self) -> Frame | None:
        """The newest picture, once; None where none has come since the last one, or it is older than `max_age_ms`.

        The picture is a read-only view of shared memory, and nobody writes there until it is given to `release`.
        """
        found = self._memory.take(self._clock.monotonic_ns(), int(self.settings.max_age_ms * 1e6))
        if found is None:
            return None
        image, token = found
        return Frame(
            image, token.format, self.name, token.sequence, token.captured_ns,
            self._watch.wall.wall_ns(token.captured_ns), f"{self.name}_{token.sequence:06d}", None, token.matrix,
            token.full_range, token.sensor_ns,
        )  # fmt: skip

    def release(self, frame: Frame) -> None:
        """Lend a picture of this camera no longer; from any thread, and once more does no harm."""
        self._memory.release(frame.sequence)

    def buffers(self) -> list[np.ndarray]:
        """The memory in which pictures may lie, (bytes,) uint8, page-aligned, for registering it with CUDA.

        It changes only when pictures become larger, which is the event `memory`. It stays mapped while the array lives.
        """
        return self._memory.buffers()

    def status(self) -> CameraStatus:
        """How the camera is, in full."""
        watch, gauges = self._watch, self._memory.gauges
        machine, now, link = watch.machine, watch.machine.now, watch.link
        last_ns, height = gauges["last_frame_ns"], gauges["height"]
        return CameraStatus(
            name=self.name,
            uri=str(self.uri),
            state=now.state,
            since_ns=now.since_ns,
            cause=now.cause,
            message=now.message,
            fps=gauges["fps_milli"] / 1000 if now.state in DELIVERING else 0.0,
            frames=gauges["frames"],
            drops=self._memory.drops(),
            reconnects=machine.reconnects,
            crashes=machine.crashes,
            decoder=watch.decoder,
            size=(height, gauges["width"]) if height else None,
            last_frame_age_ms=(self._clock.monotonic_ns() - last_ns) / 1e6 if last_ns else None,
            stamps_invalid=gauges["stamps_invalid"],
            clock_steps=watch.clock_steps,
            pid=link.process.pid if link is not None else None,
            messages=(tuple(link.lines) if link is not None else ()) or watch.lines,
        )

    def request_stop(self, deadline_s: float = STOP_DEADLINE_S) -> None:
        """Begin to stop, and do not wait for it as `stop` does."""
        if not self._closed:
            self._watch.request_stop(deadline_s)

    def stop(self, deadline_s: float = STOP_DEADLINE_S) -> None:
        """End the process within the deadline, whatever it does, and give everything back.

        A process that must not be killed and does not answer is left behind; the state is FAILED then and names it.
        Pictures that are still lent stay readable as long as anybody holds them.
        """
        if self._closed:
            return
        self.request_stop(deadline_s)
        if self._watch.ident is not None:
            self._watch.join(deadline_s + JOIN_S)
            if self._watch.is_alive():
                _log.error("camera %s: a listener of its events does not return, so it cannot be stopped", self.name)
                return
        self._closed = True
        self._watch.machine.stop(self._clock.monotonic_ns())
        self._memory.close()
        self._watch.close()


def stop_cameras(cameras: Sequence[Camera], deadline_s: float = STOP_DEADLINE_S) -> None:
    """Stop all cameras at the same time."""
    end = time.monotonic() + deadline_s
    for camera in cameras:
        camera.request_stop(deadline_s)
    for camera in cameras:
        camera.stop(max(end - time.monotonic(), 0.0))
