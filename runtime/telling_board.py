"""The board of a run with an operator: what changes for the worse, and back again, is a line on stderr as well."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from runtime.board import Board
from runtime.camera_status import CameraEvent, CameraStatus
from runtime.camera_story import CameraStory, ResultStory
from runtime.outlet import OutletState
from runtime.record import Record

AGAIN_S = 60.0
"""How long an output that fails, recovers and fails alike is not told of again."""

ILL = frozenset({OutletState.DEGRADED.value, OutletState.STUCK.value})


class TellingBoard(Board):
    """A Board that tells of outages of cameras and their ends, of pictures and results that cannot be used, and of
    outputs that fail and recover.

    A camera or output that comes and goes is told of about once a minute, and an outage of 10 s in any case: the last
    word on a camera is true.
    """

    def __init__(self, cameras: Mapping[str, float], clock: Callable[[], int] = time.monotonic_ns) -> None:
        super().__init__(cameras, clock)
        self._stories = {name: CameraStory(name) for name in cameras}
        self._results = {name: ResultStory(name) for name in cameras}
        self._telling = {name: threading.Lock() for name in cameras}  # so that lines come in the order of the states
        self._troubles: dict[str, set[str]] = {}
        self._failures_s: dict[tuple[str, str], float] = {}
        self._failing: set[str] = set()

    def add_event(self, event: CameraEvent) -> None:
        """Keep an event for the page, and tell of it."""
        super().add_event(event)
        if event.kind == "trouble":
            troubles = self._troubles.setdefault(event.camera, set())
            if event.message not in troubles:
                troubles.add(event.message)
                message = event.message.removeprefix(f"camera {event.camera}: ")
                _tell(f"{event.camera}: its pictures cannot be used: {message}")
        if event.kind == "state":
            with self._telling[event.camera]:
                _tell(self._stories[event.camera].enter(event, self._clock()))

    def set_status(self, status: CameraStatus) -> None:
        """How a camera is; tell of an outage that lasts."""
        super().set_status(status)
        if status.drops.get("stale"):
            self._results[status.name].note_stale()
        lock = self._telling[status.name]
        if lock.acquire(blocking=False):  # whoever holds it may wait for a full pipe behind stderr
            try:
                _tell(self._stories[status.name].look(self._clock()))
            finally:
                lock.release()

    def publish(self, record: Record) -> None:
        """A camera's newest record; tell of a running camera that has no valid one for long."""
        super().publish(record)
        known = record.reason in self._troubles.get(record.camera, ())  # which was told of
        runs = self._stories[record.camera].runs and not known
        _tell(self._results[record.camera].see(record, runs, self._clock()))

    def last_failure(self, camera: str) -> tuple[str, str]:
        """(cause, message) of why a camera does not run, or did not when it was stopped; both "" where it ran."""
        story = self._stories[camera]
        return story.cause, story.message

    def why_invalid(self, camera: str) -> str:
        """The most frequent reason of a camera's invalid records, with what helps; "" where there was none."""
        return self._results[camera].why_invalid()

    def set_outlets(self, outlets: Iterable[Mapping[str, object]]) -> None:
        """Keep how the outlets are, and tell of those that fail or work again."""
        outlets = tuple(outlets)
        super().set_outlets(outlets)
        for outlet in outlets:
            name, state = str(outlet["name"]), str(outlet.get("state", ""))
            if state in ILL:
                self._tell_failure(name, state, str(outlet.get("message", "")))
            elif state == OutletState.RUNNING.value and name in self._failing:
                self._failing.discard(name)
                _tell(f"output {name} works again")

    def _tell_failure(self, name: str, state: str, message: str) -> None:
        reason = state if state == OutletState.STUCK.value else message  # the message of a stuck one counts seconds
        last_s, now_s = self._failures_s.get((name, reason)), self.uptime_s
        if name in self._failing or (last_s is not None and now_s - last_s < AGAIN_S):
            return
        self._failing.add(name)
        self._failures_s[name, reason] = now_s
        _tell(f"output {name} is {state}: {message}")


def _tell(line: str) -> None:
    if line:
        print(f"pspnet: {line}", file=sys.stderr)
