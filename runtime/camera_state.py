"""How a camera is, and what is to be done about it: pure decisions, told the time in nanoseconds of one clock.

CONNECTING --picture--> RUNNING <--> STALLED (no picture for three periods, at least 300 ms)
                           ^ '-----> FROZEN  (pictures come, and are all the same)
any of these --error, or without pictures for too long--> BACKOFF --0.2 to 5 s--> CONNECTING, without end
any --five crashes in 60 s, a missing library, a process that cannot be ended--> FAILED
"""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from runtime.capture_errors import PERMANENT

SECOND_NS = 10**9
FIRST_DELAY_S, LONGEST_DELAY_S, JITTER = 0.2, 5.0, 0.2
SLOW = frozenset({"auth", "permission", "codec", "memory"})
"""Causes that a moment does not cure; asking often for a refused password locks accounts."""

AGAIN = "it is tried again"
HEALTHY_NS = 5 * SECOND_NS  # after so long the delays begin anew
CRASHES, CRASH_WINDOW_NS = 5, 60 * SECOND_NS
FROZEN_RESTART_NS = 3 * SECOND_NS


class CameraState(enum.Enum):
    """How a camera is."""

    CONNECTING = "connecting"
    RUNNING = "running"
    STALLED = "stalled"
    FROZEN = "frozen"
    BACKOFF = "backoff"
    FAILED = "failed"
    STOPPED = "stopped"


OPEN = frozenset({CameraState.RUNNING, CameraState.STALLED, CameraState.FROZEN})
FINAL = frozenset({CameraState.FAILED, CameraState.STOPPED})


@dataclass(frozen=True)
class Sample:
    """What is known of the pictures at one moment.

    last_frame_ns: when the last one came. stall_ns, restart_ns: how long none may come, and after how long the source
    is opened again. frozen: they have been the same for long. repeated: even their sensor's stamps are, so that the
    same picture is delivered again and again, and no scene at rest explains it.
    """

    last_frame_ns: int
    stall_ns: int
    restart_ns: int
    frozen: bool = False
    repeated: bool = False


class Standing(NamedTuple):
    """How a camera is, since when, and why; replaced as one, so that every thread reads what belongs together."""

    state: CameraState
    since_ns: int
    cause: str = ""
    message: str = ""


class Backoff:
    """Delays between tries: 0.2 s, doubled up to 5 s, each up to 20 % shorter by chance so that cameras spread."""

    def __init__(self, chance: random.Random) -> None:
        self._chance, self._tries = chance, 0

    def delay_ns(self, cause: str) -> int:
        """How long to wait after one more failure."""
        delay_s = LONGEST_DELAY_S if cause in SLOW else min(FIRST_DELAY_S * 2**self._tries, LONGEST_DELAY_S)
        self._tries = min(self._tries + 1, 16)
        return int(delay_s * self._chance.uniform(1 - JITTER, 1) * SECOND_NS)

    def reset(self) -> None:
        """The camera is well again."""
        self._tries = 0


class CameraMachine:
    """The state of one camera. on_change is called after each change, with the machine as it is then.

    open_limit_ns: how long opening may take until the first picture.
    """

    def __init__(self, now_ns: int, open_limit_ns: int, chance: random.Random, on_change: Callable[[], None]) -> None:
        self.now = Standing(CameraState.CONNECTING, now_ns)
        self.reconnects, self.crashes = 0, 0
        self.retry_ns = now_ns
        self._open_limit_ns, self._on_change = open_limit_ns, on_change
        self._asked_ns: int | None = None
        self._backoff = Backoff(chance)
        self._crash_times: deque[int] = deque(maxlen=CRASHES)
        self._ran = False

    @property
    def wants_open(self) -> bool:
        """Whether the source is to be opened as soon as `retry_ns` is reached."""
        return self._asked_ns is None and self.now.state in (CameraState.CONNECTING, CameraState.BACKOFF)

    def asked(self, now_ns: int) -> None:
        """The source is being opened from now on."""
        self._asked_ns = now_ns
        if self.now.state is not CameraState.CONNECTING:
            self._change(now_ns, CameraState.CONNECTING, self.now.cause, AGAIN)

    def observe(self, now_ns: int, sample: Sample) -> str:
        """Take in how pictures come; returns why the source must be given up and opened again, "" where it need not."""
        if self.now.state is CameraState.CONNECTING and self._asked_ns is not None:
            if sample.last_frame_ns >= self._asked_ns:
                self._running(now_ns)
            elif now_ns - self._asked_ns > self._open_limit_ns:
                return "no picture came while it was opened"
        if self.now.state not in OPEN:
            return ""
        silent_ns = now_ns - sample.last_frame_ns
        if silent_ns > sample.stall_ns:
            if self.now.state is not CameraState.STALLED:
                self._change(now_ns, CameraState.STALLED, "stalled", f"no picture for {silent_ns / 1e6:.0f} ms")
            return f"no picture for {silent_ns / 1e9:.1f} s" if silent_ns > sample.restart_ns else ""
        if sample.frozen:
            if self.now.state is not CameraState.FROZEN:
                how = "and so are their sensor's stamps" if sample.repeated else "though a sensor's noise never repeats"
                self._change(now_ns, CameraState.FROZEN, "frozen", f"all pictures are the same, {how}")
            stuck = sample.repeated and now_ns - self.now.since_ns > FROZEN_RESTART_NS
            return "the same picture is delivered again and again" if stuck else ""
        if self.now.state is not CameraState.RUNNING:
            self._running(now_ns)
        elif now_ns - self.now.since_ns > HEALTHY_NS:
            self._backoff.reset()
        return ""

    def lost(self, now_ns: int, cause: str, message: str) -> None:
        """The source could not be opened, or broke off; it is tried again, unless no try can help."""
        if self.now.state in FINAL:
            return
        self._asked_ns = None
        if cause in PERMANENT:
            self.fail(now_ns, cause, message)
            return
        self.retry_ns = now_ns + self._backoff.delay_ns(cause)
        self._change(now_ns, CameraState.BACKOFF, cause, message)

    def crashed(self, now_ns: int, message: str) -> None:
        """The camera's process died by itself."""
        self.crashes += 1
        self._crash_times.append(now_ns)
        if len(self._crash_times) == CRASHES and now_ns - self._crash_times[0] <= CRASH_WINDOW_NS:
            self.fail(now_ns, "crashed", f"its process died {CRASHES} times within a minute; the last time: {message}")
        else:
            self.lost(now_ns, "crashed", message)

    def fail(self, now_ns: int, cause: str, message: str) -> None:
        """Nothing more is tried."""
        if self.now.state not in FINAL:
            self._asked_ns = None
            self._change(now_ns, CameraState.FAILED, cause, message)

    def stop(self, now_ns: int, cause: str = "", message: str = "") -> None:
        """The camera is to do no more: it was asked to stop, or its clip is at its end. A failure stays visible."""
        if self.now.state not in FINAL:
            self._asked_ns = None
            self._change(now_ns, CameraState.STOPPED, cause, message)

    def _running(self, now_ns: int) -> None:
        if self.now.state is CameraState.CONNECTING:
            self.reconnects += self._ran
            self._ran = True
        self._change(now_ns, CameraState.RUNNING, "", "")

    def _change(self, now_ns: int, state: CameraState, cause: str, message: str) -> None:
        self.now = Standing(state, now_ns, cause, message)
        self._on_change()


class Ending:
    """How a process that was asked to give its camera back, or to leave, is brought to do so.

    waits_s: seconds until it gets SIGTERM, from there until SIGKILL, and from there until it is left behind, since a
    driver may hold even a killed process. gentle: no SIGKILL; killed clients of NVIDIA's Argus daemon leave the daemon
    stuck until it is restarted.
    """

    def __init__(self, now_ns: int, waits_s: tuple[float, float, float], gentle: bool) -> None:
        steps = zip(("terminate", "kill", "abandon"), waits_s, strict=True)
        if gentle:
            steps = zip(("terminate", "abandon"), waits_s, strict=False)
        self._steps = deque(steps)
        self._since_ns = now_ns

    def due(self, now_ns: int) -> str:
        """terminate, kill or abandon, each once when its time has come; else "". A late one delays the next."""
        if not self._steps or now_ns < self._since_ns + int(self._steps[0][1] * SECOND_NS):
            return ""
        self._since_ns = now_ns
        return self._steps.popleft()[0]
