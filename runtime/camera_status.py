"""What a camera says about itself, and the clocks that it reads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from runtime.camera_state import CameraState

DROPS = ("busy", "held", "corrupt", "storm", "stale", "restart")
"""Why pictures were dropped: a newer one came before they were taken; all slots were lent out; damaged; over the rate
limit; too old when they were to be taken; not yet taken when the camera's process ended."""


@dataclass(frozen=True)
class CameraStatus:
    """A camera at one moment. Times are of the monotonic clock; nothing here holds credentials.

    since_ns: when this state began. cause, message: why it is not running; cause is a key of `capture_errors.CAUSES`,
    or stalled, frozen, storm, crashed, memory or stuck, and while it connects that of the last failure. frames:
    pictures that came, taken or dropped. drops: by cause, keys of DROPS. reconnects: how often pictures came again
    after they had been lost. crashes: how often its process died by itself. size: (height, width) in pixels.
    messages: the last lines that its process wrote to stderr.
    """

    name: str
    uri: str
    state: CameraState
    since_ns: int
    cause: str
    message: str
    fps: float
    frames: int
    drops: Mapping[str, int]
    reconnects: int
    crashes: int
    decoder: str
    size: tuple[int, int] | None
    last_frame_age_ms: float | None
    stamps_invalid: int
    clock_steps: int
    pid: int | None
    messages: tuple[str, ...]


@dataclass(frozen=True)
class CameraEvent:
    """Something that happened to a camera.

    kind: state (a new state, with its cause), drops (values: new ones of the last second, by cause), stamps_invalid,
    size (values: height, width), memory (the pictures' memory is another one; see `Camera.buffers`), clock_step
    (values: step_ms, by which the system's clock was set), or trouble (its pictures cannot be used, as message says).
    """

    camera: str
    kind: str
    at_ns: int
    state: CameraState
    cause: str = ""
    message: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


class Clock(Protocol):
    """Both clocks of the system, in nanoseconds."""

    def monotonic_ns(self) -> int: ...

    def wall_ns(self) -> int: ...


class SystemClock:
    """The system's own clocks. Pictures are stamped by its monotonic clock, so a substitute must keep to that."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()
