"""A live run in which something goes wrong on purpose, and what was seen of it: states, records, scripts' steps.

Times are nanoseconds of the monotonic clock, which a camera's process and ours share.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.live_overhead import FixedRunner
from runtime.board import Board
from runtime.camera import Camera
from runtime.camera_settings import CameraSettings
from runtime.camera_state import CameraState
from runtime.camera_status import CameraEvent, Clock
from runtime.live import LiveSettings, run_live
from runtime.outlet import Outlet, Sink
from runtime.record import Record
from runtime.segmenter import CpuSegmenter
from runtime.telemetry import Telemetry

SIZE, FPS, ENGINE_MS = (96, 128), 20, 2.0
HEALTHY = "healthy"
LOOK_S = 0.005
PATIENCE_S = 30.0
SETTLED_NS = 50_000_000
"""How long after a camera's change of state a record may still come that was on its way."""


@dataclass(frozen=True)
class Row:
    """What an outlet was given: a record without its pixels. born_ns: the sensor's time, or else the capture's."""

    camera: str
    valid: bool
    reason: str
    sequence: int
    published_ns: int
    captured_ns: int | None
    born_ns: int | None
    max_age_ms: float | None
    shape: tuple[int, ...] | None

    @property
    def age_ms(self) -> float | None:
        """At the publication, from the sensor's time where it is known."""
        return None if self.born_ns is None else (self.published_ns - self.born_ns) / 1e6


class Recorder(Sink):
    """Keeps a Row of every record."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def __call__(self, record: Record) -> None:
        """One more."""
        born_ns = record.captured_ns if record.sensor_ns is None else record.sensor_ns
        shape = None if record.labels is None else record.labels.shape
        self.rows.append(
            Row(
                record.camera, record.valid, record.reason, record.sequence, record.published_ns, record.captured_ns,
                born_ns, record.max_age_ms, shape,
            )
        )  # fmt: skip


@dataclass
class Seen:
    """What was seen of one camera while it ran. Each list holds (what, when) in order.

    steps: places in its script; pids: of its process, None while there is none; drops: cause -> when first. retries_ns:
    until when it wanted to wait before a try, each time.
    """

    events: list[CameraEvent] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)
    pids: list[tuple[int | None, int]] = field(default_factory=list)
    drops: dict[str, int] = field(default_factory=dict)
    retries_ns: list[int] = field(default_factory=list)

    def states(self) -> list[CameraEvent]:
        """The changes of its state."""
        return [event for event in list(self.events) if event.kind == "state"]

    def first(self, kind: str, after_ns: int = 0) -> int | None:
        """When the first event of a kind came after a moment."""
        return next((each.at_ns for each in list(self.events) if each.kind == kind and each.at_ns >= after_ns), None)

    def entered(self, state: CameraState, after_ns: int = 0, cause: str | None = None) -> int | None:
        """When it first entered a state after a moment."""
        return next(
            (
                event.at_ns for event in self.states()
                if event.state is state and event.at_ns >= after_ns and cause in (None, event.cause)
            ),
            None,
        )  # fmt: skip

    def backoff_ns(self, start_ns: int, end_ns: int) -> int:
        """How much of a span it wanted to wait before a try; what it waited longer is not in this."""
        total, states = 0, self.states()
        for event, later in zip(states, [*states[1:], None], strict=True):
            if event.state is CameraState.BACKOFF:
                until_ns = end_ns if later is None else later.at_ns
                wanted_ns = min((each for each in self.retries_ns if each >= event.at_ns), default=until_ns)
                total += max(min(wanted_ns, until_ns, end_ns) - max(event.at_ns, start_ns), 0)
        return total


class Scene:
    """A live run over some cameras, beside one that nothing befalls. Used in a `with` block, in which it runs.

    clocks: camera -> its clock. outlets: beside the one that keeps rows. engine_ms: how long a picture takes.
    """

    def __init__(
        self,
        settings: Sequence[CameraSettings],
        engine_ms: float = ENGINE_MS,
        outlets: Sequence[Outlet] = (),
        clocks: Mapping[str, Clock] | None = None,
        fps: float = FPS,
        telemetry: Telemetry | None = None,
        board: Board | None = None,
    ) -> None:
        healthy = CameraSettings(HEALTHY, f"test://pattern?size={SIZE[0]}x{SIZE[1]}&fps={fps:g}")
        self.seen = {each.name: Seen() for each in (*settings, healthy)}
        self.cameras = {
            each.name: Camera(each, self.seen[each.name].events.append, (clocks or {}).get(each.name), seed=0)
            for each in (*settings, healthy)
        }
        self.runner, self._recorder = FixedRunner(SIZE, engine_ms), Recorder()
        self._outlets = [Outlet(self._recorder, "rows"), *outlets]
        self._telemetry, self._board = telemetry, board
        self._stop, self._looked = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._run), threading.Thread(target=self._look)]
        self.error: BaseException | None = None
        self.result: dict[str, Any] = {}

    def add(self, outlet: Outlet) -> None:
        """One more outlet, before the block."""
        self._outlets.append(outlet)

    def __enter__(self) -> Scene:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def rows(self, camera: str, valid: bool | None = None, after_ns: int = 0) -> list[Row]:
        """Records of a camera in order, published at or after a moment."""
        return [
            row for row in list(self._recorder.rows)
            if row.camera == camera and valid in (None, row.valid) and row.published_ns >= after_ns
        ]  # fmt: skip

    def until(self, condition: Callable[[], object], deadline_s: float = PATIENCE_S) -> bool:
        """Whether a condition comes true in time while the run goes on."""
        end_s = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > end_s or not self._threads[0].is_alive():
                return False
            time.sleep(LOOK_S)
        return True

    def stale(self, camera: str) -> int:
        """Records that were published as valid and must not have been: too old, or of a camera that did not run."""
        states = self.seen[camera].states()
        count = 0
        for row in self.rows(camera, valid=True):
            too_old = row.age_ms is None or (row.max_age_ms is not None and row.age_ms > row.max_age_ms)
            before = [event for event in states if event.at_ns + SETTLED_NS < row.published_ns]
            down = bool(before) and before[-1].state is not CameraState.RUNNING
            count += too_old or (down and (row.captured_ns or 0) < before[-1].at_ns)
        return count

    def healthy(self) -> dict[str, float]:
        """How the camera fared that nothing befell: INVALID records after its first valid one, the longest gap between
        valid ones, the 99th percentile of their age."""
        valid = self.rows(HEALTHY, valid=True)
        if len(valid) < 2:
            return {"valid": len(valid), "invalid": 0, "stale": 0, "longest_gap_ms": float("inf"), "p99_age_ms": 0.0}
        stamps = np.array([row.published_ns for row in valid])
        invalid = self.rows(HEALTHY, valid=False, after_ns=valid[0].published_ns)
        return {
            "valid": len(valid),
            "invalid": len([row for row in invalid if not row.reason.startswith("the camera is stopped")]),
            "stale": self.stale(HEALTHY),
            "longest_gap_ms": float(np.diff(stamps).max() / 1e6),
            "p99_age_ms": float(np.percentile([row.age_ms or 0.0 for row in valid], 99)),
        }

    def _run(self) -> None:
        arguments = (CpuSegmenter(self.runner), self._outlets, LiveSettings(), self._stop, None)
        try:
            self.result = run_live(list(self.cameras.values()), *arguments, self._telemetry, self._board)
        except BaseException as error:  # for whoever looks at the scene
            self.error = error
        finally:
            self._looked.set()

    def _look(self) -> None:
        """Cameras and their scripts every 5 ms. A script keeps its place in memory that the camera's process shares."""
        while not self._looked.wait(LOOK_S):
            for name, camera in self.cameras.items():
                seen, now_ns, status = self.seen[name], time.monotonic_ns(), camera.status()
                if camera.uri.scheme == "test":
                    place, began_ns = (int(value) for value in camera._memory.gauges.script[:2])
                    if began_ns > (seen.steps[-1][1] if seen.steps else 0):
                        seen.steps.append((place, began_ns))
                if (retry_ns := camera._watch.machine.retry_ns) not in seen.retries_ns[-1:]:
                    seen.retries_ns.append(retry_ns)
                if not seen.pids or seen.pids[-1][0] != status.pid:
                    seen.pids.append((status.pid, now_ns))
                for cause, count in status.drops.items():
                    if count and cause not in seen.drops:
                        seen.drops[cause] = now_ns
