"""Publisher: hands records to outlets, board and telemetry, and says at once where a camera has nothing to show.

Everything of one camera is published in order, from two threads: the live loop with its results, and a thread of the
publisher's own that looks at the cameras' states, so that a camera's failure is known while the engine is at work.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from pspnet.spec import NetworkSpec
from runtime.array_pool import ArrayPool
from runtime.board import Board
from runtime.camera_state import CameraState
from runtime.camera_status import CameraEvent
from runtime.frame import Segmentation
from runtime.outlet import Outlet
from runtime.record import Record, no_signal, record_from
from runtime.scheduler import LiveCamera, born_ns, trusted
from runtime.telemetry import Telemetry

LOOK_S = 0.05
REPEAT_NS = 10**9
REPORT_NS = 500_000_000


class Publisher:
    """Used from the live loop inside of its `with` block, in which its thread runs.

    spec: the classes of the labels that are published. clock_ns: monotonic time.
    """

    def __init__(
        self,
        cameras: Sequence[LiveCamera],
        outlets: Sequence[Outlet],
        spec: NetworkSpec,
        telemetry: Telemetry | None = None,
        board: Board | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._lanes = {camera.name: _Lane(camera, clock_ns()) for camera in cameras}
        self._outlets, self._spec, self._telemetry, self._board = outlets, spec, telemetry, board
        self._clock_ns, self._reported_ns = clock_ns, 0
        self._closed = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._watch, name="publisher", daemon=True)

    def __enter__(self) -> Publisher:
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Camera -> how many records were published as valid and as invalid."""
        return {name: {"valid": lane.valid, "invalid": lane.invalid} for name, lane in self._lanes.items()}

    def result(self, camera: LiveCamera, result: Segmentation, health: tuple[str, ...] = ()) -> Record:
        """Publish a result, as INVALID where its picture is too old by now or its camera does not run any more.

        The camera's picture is copied where somebody wants it, and may be released afterwards.
        """
        lane, started_ns = self._lanes[camera.name], self._clock_ns()
        frame, max_age_ms = result.frame, camera.settings.max_age_ms
        wants_picture = any("picture" in outlet.wants for outlet in self._outlets)
        if wants_picture:
            result.frame = dataclasses.replace(frame, image=lane.pictures.copy(frame.image))
        with lane.lock:
            lane.trouble = ""
            if result.valid and not trusted(camera, frame):
                result.valid, result.reason = False, _state_reason(camera)
            record = record_from(result, self._spec, max_age_ms, health, started_ns)
            now_ns = self._clock_ns()
            if record.valid and (age_ms := (now_ns - born_ns(frame)) / 1e6) > max_age_ms:
                reason = f"the picture is {age_ms:.0f} ms old, at most {max_age_ms:g} ms are allowed"
                record = record.invalidated(reason, now_ns)
            shown = record.frame if wants_picture else None
            record = dataclasses.replace(record, frame=shown, published_ns=now_ns)
            record.times_ms["publish"] = (now_ns - started_ns) / 1e6
            self._hand_over(lane, record)
        return record

    def trouble(self, camera: LiveCamera, reason: str) -> None:
        """Publish that the camera's pictures cannot be used, and repeat it until there is a result again."""
        lane = self._lanes[camera.name]
        with lane.lock:
            if reason != lane.trouble:
                lane.trouble = reason
                if self._board is not None:
                    now_ns = self._clock_ns()
                    self._board.add_event(CameraEvent(camera.name, "trouble", now_ns, camera.state, message=reason))
                self._no_signal(lane, reason)

    def fail(self, reason: str) -> None:
        """Publish for every camera that there will be nothing more."""
        if self._board is not None:
            self._board.set_trouble(reason)
        for lane in self._lanes.values():
            with lane.lock:
                self._no_signal(lane, reason)

    def check(self) -> None:
        """Raise what ended the publisher's thread, if anything did: by a mistake of ours no camera may go mute."""
        if self._error is not None:
            raise self._error

    def _watch(self) -> None:
        try:
            while not self._closed.wait(LOOK_S):
                self.look()
        except Exception as error:
            self._error = error

    def look(self) -> None:
        """Publish what the cameras' states ask for."""
        now_ns = self._clock_ns()
        for lane in self._lanes.values():
            with lane.lock:
                if reason := self._reason_to_speak(lane, now_ns):
                    self._no_signal(lane, reason)
        if self._board is not None and now_ns - self._reported_ns >= REPORT_NS:
            self._reported_ns = now_ns
            for lane in self._lanes.values():
                self._board.set_status(lane.camera.status())
            self._board.set_outlets([_json_from_status(outlet) for outlet in self._outlets])

    def _reason_to_speak(self, lane: _Lane, now_ns: int) -> str:
        """Why an INVALID record is due: the camera's state is a new one, or nothing was published for a second."""
        state, silent_ns = lane.camera.state, now_ns - lane.published_ns
        changed, lane.state = state is not lane.state, state
        if changed and self._board is not None:
            self._board.set_status(lane.camera.status())
        if state is not CameraState.RUNNING:
            return _state_reason(lane.camera) if changed or silent_ns >= REPEAT_NS else ""
        if silent_ns < REPEAT_NS:
            return ""
        return lane.trouble or f"no result for {(now_ns - lane.result_ns) / 1e9:.1f} s"

    def _no_signal(self, lane: _Lane, reason: str) -> None:
        now_ns = self._clock_ns()
        self._hand_over(lane, no_signal(lane.camera.name, self._spec, reason, lane.last, published_ns=now_ns))

    def _hand_over(self, lane: _Lane, record: Record) -> None:
        lane.published_ns = record.published_ns
        if record.valid:
            lane.valid += 1
            lane.result_ns = record.published_ns
        else:
            lane.invalid += 1
        lane.last = record
        for outlet in self._outlets:
            outlet.offer(record)
        if self._board is not None:
            self._board.publish(record)
        if self._telemetry is not None:
            age_ms = record.age_ms if record.times_ms else None
            self._telemetry.add(record.camera, record.times_ms, age_ms, record.valid)


class _Lane:
    """What the publisher keeps of one camera. published_ns, result_ns: when anything, and a valid result, was last."""

    def __init__(self, camera: LiveCamera, now_ns: int) -> None:
        self.camera, self.lock = camera, threading.Lock()
        self.pictures = ArrayPool()
        self.state: CameraState | None = None
        self.last: Record | None = None
        self.trouble = ""
        self.published_ns = self.result_ns = now_ns
        self.valid = self.invalid = 0


def _state_reason(camera: LiveCamera) -> str:
    status = camera.status()
    if status.state is CameraState.RUNNING:  # it recovered in between
        return "the camera was not running"
    details = f": {status.message}" if status.message else ""
    return f"the camera is {status.state.value}{details}"


def _json_from_status(outlet: Outlet) -> dict[str, Any]:
    status = outlet.status()
    return {**dataclasses.asdict(status), "state": status.state.value, "drops": dict(status.drops)}
