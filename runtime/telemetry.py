"""Telemetry: how long each stage took, how old results were and what was dropped, per camera, since the start.

The last 4096 values of each series are kept exactly, for percentiles; all of them are counted in buckets, for
Prometheus. Written by the live loop at every result, so it holds no library and does no arithmetic until it is read.
"""

from __future__ import annotations

import math
import re
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

KEPT = 4096
BUCKETS_MS = (1, 2, 4, 6, 8, 10, 12, 16, 20, 25, 33, 40, 50, 66, 100, 200)
PERCENTILES = (50, 90, 99)
AGE = "age"
"""Name of the series of frame ages: from the sensor's own time of the picture, or else the read that brought it, to the
moment its result is published."""

OTHER = "other"
SECOND_NS = 10**9
_CAUSE = re.compile(r"[a-z][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class Counted:
    """A series since the start: how many values per bucket of BUCKETS_MS and above the last, and their sum in ms."""

    buckets: tuple[int, ...]
    sum_ms: float


class Series:
    """Durations of one stage of one camera. Not locked: `Telemetry` does that."""

    def __init__(self) -> None:
        self.count, self.sum_ms = 0, 0.0
        self.buckets = [0] * (len(BUCKETS_MS) + 1)
        self._values, self._at_ns = array("d", bytes(8 * KEPT)), array("q", bytes(8 * KEPT))

    def add(self, value_ms: float, at_ns: int) -> None:
        """One more; times never go back."""
        place = self.count % KEPT
        self._values[place], self._at_ns[place] = value_ms, at_ns
        self.buckets[bisect_left(BUCKETS_MS, value_ms)] += 1
        self.sum_ms += value_ms
        self.count += 1

    def kept(self) -> tuple[np.ndarray, np.ndarray]:
        """The last values (n,) float64 in ms and when they came (n,) int64 in ns, oldest first, n up to KEPT."""
        start = self.count % KEPT if self.count > KEPT else 0
        values, at_ns = np.frombuffer(self._values, np.float64), np.frombuffer(self._at_ns, np.int64)
        kept = min(self.count, KEPT)
        return np.roll(values, -start)[:kept], np.roll(at_ns, -start)[:kept]


class Telemetry:
    """Figures of a run, written by the live loop and read by the server from another thread.

    clock: monotonic time in ns.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._series: dict[str, dict[str, Series]] = {}
        self._drops: dict[str, dict[str, int]] = {}
        self._results: dict[str, list[int]] = {}
        self._throttle: dict[str, tuple[int, bool]] = {}
        self._refusals: dict[str, int] = {}

    def add(self, camera: str, times_ms: Mapping[str, float], age_ms: float | None, valid: bool = True) -> None:
        """One published result: its times in ms by stage, and the age of its picture at that moment.

        age_ms: None where there is no picture. valid: whether the result may be used.
        """
        now_ns = self._clock()
        with self._lock:
            series = self._series.setdefault(camera, {})
            for stage, value_ms in times_ms.items():
                _add(series, stage, value_ms, now_ns)
            if age_ms is not None:
                _add(series, AGE, age_ms, now_ns)
            self._results.setdefault(camera, [0, 0])[valid] += 1

    def drop(self, camera: str, cause: str, count: int = 1) -> None:
        """Pictures that came out of the camera and went no further. cause: one lower-case word."""
        with self._lock:
            drops = self._drops.setdefault(camera, {})
            drops[word(cause)] = drops.get(word(cause), 0) + count

    def throttle(self, cause: str, active: bool) -> None:
        """Whether the board slows itself down at present; counts how often it began. cause: as thermal or power."""
        with self._lock:
            times, was = self._throttle.get(word(cause), (0, False))
            self._throttle[word(cause)] = times + (active and not was), active

    def refuse(self, cause: str) -> None:
        """A request of a client that was refused. cause: one lower-case word."""
        with self._lock:
            self._refusals[word(cause)] = self._refusals.get(word(cause), 0) + 1

    def percentiles(self, camera: str) -> dict[str, dict[str, float]]:
        """Per stage and AGE: p50, p90 and p99 in ms of the last 4096 values, and samples, their number."""
        found = {}
        for stage, (values, _) in self._kept(camera).items():
            marks = np.percentile(values, PERCENTILES)
            found[stage] = {f"p{mark}": float(at) for mark, at in zip(PERCENTILES, marks, strict=True)}
            found[stage]["samples"] = len(values)
        return found

    def history(self, camera: str, seconds: int = 120) -> dict[str, list[list[float]]]:
        """Per stage and AGE: [seconds ago, p50 in ms, p99 in ms] for each of the last whole seconds that had results.

        Oldest first; seconds ago is from the second's end. It reaches back as far as the last 4096 values do.
        """
        now_ns = self._clock()
        return {stage: _by_second(*kept, now_ns, seconds) for stage, kept in self._kept(camera).items()}

    def counted(self) -> dict[str, dict[str, Counted]]:
        """Camera -> stage or AGE -> all values since the start."""
        with self._lock:
            return {
                camera: {stage: Counted(tuple(one.buckets), one.sum_ms) for stage, one in series.items()}
                for camera, series in self._series.items()
            }

    def drops(self) -> dict[str, dict[str, int]]:
        """Camera -> cause -> pictures dropped behind the camera."""
        with self._lock:
            return {camera: dict(causes) for camera, causes in self._drops.items()}

    def results(self) -> dict[str, dict[str, int]]:
        """Camera -> how many results were published as valid and as invalid."""
        with self._lock:
            return {camera: {"valid": n[True], "invalid": n[False]} for camera, n in self._results.items()}

    def throttles(self) -> dict[str, tuple[int, bool]]:
        """Cause -> how often it began, whether it lasts."""
        with self._lock:
            return dict(self._throttle)

    def refusals(self) -> dict[str, int]:
        """Cause -> requests refused."""
        with self._lock:
            return dict(self._refusals)

    def _kept(self, camera: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        with self._lock:
            return {stage: one.kept() for stage, one in self._series.get(camera, {}).items()}


def word(cause: str) -> str:
    """A cause that can be a metric's label; `other` for a text, which could hold anything, an address included."""
    return cause if _CAUSE.fullmatch(cause) else OTHER


def _add(series: dict[str, Series], stage: str, value_ms: float, at_ns: int) -> None:
    if not math.isfinite(value_ms):
        return
    try:
        one = series[stage]
    except KeyError:
        one = series[stage] = Series()
    one.add(value_ms, at_ns)


def _by_second(values: np.ndarray, at_ns: np.ndarray, now_ns: int, seconds: int) -> list[list[float]]:
    """One sort for all seconds: a call of np.percentile for each would take a hundred times as long."""
    ago = (now_ns - at_ns) // SECOND_NS
    chosen = ago < seconds
    ago, values = ago[chosen], values[chosen]
    order = np.lexsort((values, -ago))
    ago, values = ago[order], values[order]
    starts = np.flatnonzero(np.diff(ago, prepend=-1))
    counts = np.diff(starts, append=len(ago))
    p50, p99 = (_at_share(values, starts, counts, share) for share in (0.5, 0.99))
    return np.column_stack((ago[starts], p50, p99)).tolist() if len(ago) else []


def _at_share(values: np.ndarray, starts: np.ndarray, counts: np.ndarray, share: float) -> np.ndarray:
    """Percentiles, interpolated as np.percentile does, of runs of sorted values."""
    place = share * (counts - 1)
    below = place.astype(np.int64)
    above = np.minimum(below + 1, counts - 1)
    low, high = values[starts + below], values[starts + above]
    return low + (place - below) * (high - low)
