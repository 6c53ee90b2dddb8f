"""Board: what a run knows at this moment, written by the live loop and its outlets, read by the server.

Nothing is drawn or encoded here, so that a run that nobody watches pays for a few assignments per picture only.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from runtime.camera_state import CameraState
from runtime.camera_status import CameraEvent, CameraStatus
from runtime.record import Record

EVENTS = 200
ORDINARY_DROPS = frozenset({"busy"})
LEAST_FRESH_MS = 1000.0
PERIODS = 3
LOADING = "the engine is loading"


@dataclass(frozen=True)
class Engine:
    """The network at work, for people to see. palette: RGB, one triple per class, 0..255. artefact: its file's name."""

    name: str
    precision: str
    artefact: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    drivable: tuple[int, ...] = ()
    input_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Freshness:
    """Whether a camera's newest result may be believed now. age_ms: of the last picture with valid labels, None where
    there was none yet. reason: why it is stale, "" where it is fresh."""

    age_ms: float | None
    reason: str

    @property
    def stale(self) -> bool:
        """Whether it must not be believed."""
        return bool(self.reason)


@dataclass(frozen=True)
class Noted:
    """An event and the system's clock when it was noted. number counts from 1 and never repeats."""

    number: int
    wall_ns: int
    event: CameraEvent


@dataclass
class _Place:
    """What is known of one camera."""

    max_age_ms: float
    record: Record | None = None
    status: CameraStatus | None = None
    valid_born_ns: int | None = None


class Board:
    """The newest record and state of each camera, the last 200 events, the outlets, the engine.

    cameras: name -> max_age_ms, in the order in which they are shown. clock: monotonic time in ns.
    """

    def __init__(self, cameras: Mapping[str, float], clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.cameras = tuple(cameras)
        self._clock, self._started_ns, self._lock = clock, clock(), threading.Lock()
        self._places = {name: _Place(max_age_ms) for name, max_age_ms in cameras.items()}
        self._events: deque[Noted] = deque(maxlen=EVENTS)
        self._noted = 0
        self._outlets: tuple[Mapping[str, object], ...] = ()
        self._engine: Engine | None = None
        self._trouble = ""

    def publish(self, record: Record) -> None:
        """A camera's newest record takes the place of the one before."""
        with self._lock:
            place = self._places[record.camera]
            place.record = record
            if record.valid:
                place.valid_born_ns = record.born_ns

    def set_status(self, status: CameraStatus) -> None:
        """How a camera is."""
        with self._lock:
            self._places[status.name].status = status

    def set_outlets(self, outlets: Iterable[Mapping[str, object]]) -> None:
        """How the outlets are, each as a mapping of JSON values with at least its name."""
        with self._lock:
            self._outlets = tuple(outlets)

    def set_engine(self, engine: Engine) -> None:
        """The engine is loaded."""
        with self._lock:
            self._engine = engine

    def set_trouble(self, message: str) -> None:
        """One line on what keeps the whole run from working, without credentials; "" where it works again."""
        with self._lock:
            self._trouble = message

    def add_event(self, event: CameraEvent) -> None:
        """Something happened to a camera; may be called from any thread, as `Camera`'s on_event.

        That pictures were dropped because newer ones came is counted, and no event: it would push all others out.
        """
        if event.kind == "drops" and ORDINARY_DROPS.issuperset(event.values):
            return
        with self._lock:
            self._noted += 1
            self._events.append(Noted(self._noted, time.time_ns(), event))

    @property
    def uptime_s(self) -> float:
        """Seconds since the run began."""
        return self.seconds_since(self._started_ns)

    def seconds_since(self, then_ns: int) -> float:
        """Seconds that have passed since a moment of the board's clock."""
        return (self._clock() - then_ns) / 1e9

    def max_age_ms(self, camera: str) -> float:
        """How old a camera's picture may be when its labels are used."""
        return self._places[camera].max_age_ms

    def record(self, camera: str) -> Record | None:
        """The newest record, valid or not; None before the first."""
        return self._places[camera].record

    def status(self, camera: str) -> CameraStatus | None:
        """The last word on a camera's state; None before the first."""
        return self._places[camera].status

    def freshness(self, camera: str, tolerant: bool = False) -> Freshness:
        """Whether a camera's newest result may be believed now.

        It is stale where it is invalid, where the camera does not run, and where its picture is older than max_age_ms:
        so it turns stale by itself when a loop hangs. tolerant: invalid results do not count as long as a valid one is
        not older than 1 s, twice max_age_ms or three periods of the camera, whichever is longest.
        """
        now_ns = self._clock()
        with self._lock:
            place = self._places[camera]
            record, status, born_ns, limit_ms = place.record, place.status, place.valid_born_ns, place.max_age_ms
        age_ms = None if born_ns is None else (now_ns - born_ns) / 1e6
        if tolerant:
            limit_ms = max(LEAST_FRESH_MS, 2 * limit_ms)
            if status and status.fps > 0:
                limit_ms = max(limit_ms, PERIODS * 1000 / status.fps)
        if status and status.state is not CameraState.RUNNING:
            before = ", last failure" if status.state is CameraState.CONNECTING else ""
            reason = f"camera is {status.state.value}" + (f"{before}: {status.cause}" if status.cause else "")
        elif record is None:
            reason = "no picture yet" if self._engine else LOADING
        elif not record.valid and not (tolerant and age_ms is not None and age_ms <= limit_ms):
            reason = record.reason or "invalid"
        elif age_ms is not None and age_ms > limit_ms:
            reason = "no result for too long"
        else:
            reason = ""
        return Freshness(age_ms, reason)

    def events(self) -> list[Noted]:
        """The last 200 events, oldest first."""
        with self._lock:
            return list(self._events)

    @property
    def outlets(self) -> Sequence[Mapping[str, object]]:
        """How the outlets are."""
        return self._outlets

    @property
    def engine(self) -> Engine | None:
        """The engine; None while it is loading."""
        return self._engine

    @property
    def trouble(self) -> str:
        """What keeps the whole run from working; "" where nothing does."""
        return self._trouble

    def unready(self) -> str:
        """Why the run is of no use at this moment, in one line; "" where it is: engine loaded, a camera fresh.

        A late result now and then does not make a run unready, or whoever asks would restart it for one.
        """
        if self._trouble:
            return self._trouble
        if self._engine is None:
            return LOADING
        reasons = {camera: self.freshness(camera, tolerant=True).reason for camera in self.cameras}
        if not all(reasons.values()):
            return ""
        return "no camera is fresh: " + ", ".join(f"{camera} ({reason})" for camera, reason in reasons.items())
