"""The board of a run with an operator: what changes for the worse, and back again, is a line on stderr as well."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from runtime.board import Board
from runtime.camera_state import CameraState
from runtime.camera_status import CameraEvent
from runtime.outlet import OutletState

AGAIN_S = 60.0
"""How long an output that fails, recovers and fails alike is not told of again."""

ILL = frozenset({OutletState.DEGRADED.value, OutletState.STUCK.value})


class TellingBoard(Board):
    """A Board that tells of new camera states and of pictures that cannot be used, each once until the camera runs
    again, and of outputs that fail and recover."""

    def __init__(self, cameras: Mapping[str, float]) -> None:
        super().__init__(cameras)
        self._told: dict[str, set[tuple[CameraState, str]]] = {}
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
        if event.kind != "state" or (event.state is CameraState.STOPPED and not event.message):
            return
        told, news = self._told.setdefault(event.camera, set()), (event.state, event.message)
        if news in told:
            return
        if event.state is CameraState.RUNNING:
            told.clear()
        told.add(news)
        _tell(f"{event.camera} is {event.state.value}" + (f": {event.message}" if event.message else ""))

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
    print(f"pspnet: {line}", file=sys.stderr)
